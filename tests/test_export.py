"""What leaves a recording: tables as CSV, Parquet and JSON files, arrays as .npz, and all of it as xarray."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import xarray
from click.testing import Result

import probe
from probe.errors import ProbeError
from probe.exporting import blocks_of, parse_samples
from probe.recording.schema import FIELDS, OVER_TIME
from probe.tables import arrow_table, csv_text, flatten, json_text, write_table
from tests.conftest import ROOT
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_cli import ok, refused

Run = Callable[..., Result]
KEPT = ("spike_count", "ann_output", "input_sum", "snn_spikes", "ann_input", "snn_input")
"""Arrays of a layer of the bundled network in a recording made with --record full."""

# ------------------------------------------------------------------------------------------------------- rows


def test_nested_rows_become_dotted_columns() -> None:
    row = {
        "shape": [16, 8, 8],
        "threshold": {"per": "channel", "min": 0.5},
        "problems": ["a", "b"],
        "norms": [0.5, None],
    }
    assert flatten(row) == {
        "shape": "16x8x8", "threshold.per": "channel", "threshold.min": 0.5, "problems": "a; b", "norms": "[0.5, null]",
    }  # fmt: skip


def test_a_column_has_one_type() -> None:
    rows = [
        {"whole": 1, "mixed": 1, "either": 0.5, "words": 1, "flag": True, "none": None, "large": 1 << 70},
        {"whole": None, "mixed": 0.5, "either": {"min": 0.25}, "words": "all", "flag": None, "none": None, "large": 1},
    ]
    table = arrow_table(rows)
    assert {field.name: str(field.type) for field in table.schema} == {
        "whole": "int64", "mixed": "double", "either": "double", "words": "string", "flag": "bool", "none": "null",
        "large": "string", "either.min": "double",
    }  # fmt: skip
    assert table.to_pylist() == [
        {"whole": 1, "mixed": 1.0, "either": 0.5, "words": "1", "flag": True, "none": None, "large": str(1 << 70),
         "either.min": None},
        {"whole": None, "mixed": 0.5, "either": None, "words": "all", "flag": None, "none": None, "large": "1",
         "either.min": 0.25},
    ]  # fmt: skip


def test_whole_numbers_beside_others_are_not_rounded() -> None:
    assert arrow_table([{"n": (1 << 53) + 1}, {"n": 0.5}]).column("n").to_pylist() == [str((1 << 53) + 1), "0.5"]
    assert arrow_table([{"n": (1 << 62) + 1}]).column("n").to_pylist() == [(1 << 62) + 1]


@pytest.mark.parametrize("name", ["=cmd|'/C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "=1", "-x"])
def test_a_text_cannot_be_a_formula_of_a_spreadsheet(name: str) -> None:
    text = csv_text([{"name": name, name: 1}])
    header, (cell, _) = list(csv.reader(text.splitlines()))
    assert (cell, header[1]) == (f"'{name}", f"'{name}")
    assert arrow_table([{"name": name}]).column("name").to_pylist() == [name]


def test_what_is_no_formula_stays_as_it_is() -> None:
    row = {"a": -0.5, "b": "-0.5", "c": "+1e-3", "d": "block1.act", "e": None, "f": True, "g": "a=b", "h": "1, 2"}
    ((*cells,),) = list(csv.reader(csv_text([row]).splitlines()[1:]))
    assert cells == ["-0.5", "-0.5", "+1e-3", "block1.act", "", "True", "a=b", "1, 2"]


def test_line_breaks_and_escapes_of_a_name_stay_in_their_cell() -> None:
    assert csv_text([{"name": "a\r\n\t=1\x1b[31m", "n": 1}]) == "name,n\na\\r\\n\\t=1\\x1b[31m,1\n"


def test_columns_are_there_without_rows() -> None:
    assert csv_text([], ["layer", "value"]) == "layer,value\n"
    assert arrow_table([], ["layer", "value"]).column_names == ["layer", "value"]
    assert json.loads(json_text([], ["layer"])) == []


def test_json_has_no_nan() -> None:
    assert json.loads(json_text([{"a": math.nan, "b": math.inf, "c": 0.5}])) == [{"a": None, "b": None, "c": 0.5}]


# ------------------------------------------------------------------------------------------------- --table FILE

TABLES = [
    ["accuracy"], ["layers"], ["unevenness"], ["unevenness", "--layer", "1", "-t", "4"],
    ["trace", "--neuron", "0,1,2"], ["what-if", "--layer", "1"], ["check", "--fail-if", "layers.*.count > 1"],
    ["check", "--fail-if", "snn.8 < 0"], ["diagnose"], ["diff", "recording.h5"], ["verify"],
]  # fmt: skip
"""Every command that reads a recording and prints a table, as it is typed."""


@pytest.fixture
def there(full: Path, tmp_path: Path) -> Path:
    """The recording, in the folder in which commands run."""
    (tmp_path / "recording.h5").symlink_to(full)
    return tmp_path


def typed(words: list[str], *more: object) -> list[object]:
    """With the recording, and further options."""
    return [words[0], "recording.h5", *words[1:], *more]


@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_three_files_hold_what_csv_prints(words: list[str], run: Run, there: Path) -> None:
    printed = run(*typed(words, "--csv"))
    code = printed.exit_code
    assert code in (0, 1)
    text = run(*typed(words)).stdout
    for suffix in ("csv", "parquet", "json"):
        result = run(*typed(words, "--table", f"t.{suffix}"))
        assert (result.exit_code, result.stdout) == (code, text), result.output
        assert f"t.{suffix} is written" in result.stderr
    assert (there / "t.csv").read_text() == printed.stdout
    rows = list(csv.DictReader(printed.stdout.splitlines()))
    table = pyarrow.parquet.read_table(there / "t.parquet")
    plain = json.loads((there / "t.json").read_text())
    assert table.num_rows == len(rows) == len(plain)
    assert table.to_pylist() == plain
    for row, line in zip(plain, rows, strict=True):
        assert list(row) == list(line) == table.column_names
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value))
    assert sorted(path.name for path in there.iterdir()) == ["recording.h5", "t.csv", "t.json", "t.parquet"]


def test_numbers_of_the_table_are_those_of_json(run: Run, there: Path) -> None:
    found = json.loads(ok(run("unevenness", "--json", "--table", "t.parquet")))["layers"]
    table = pyarrow.parquet.read_table(there / "t.parquet")
    for name, path in {"cases.zero_over": ("cases", "zero_over"), "figures.rmse": ("figures", "rmse")}.items():
        assert table.column(name).to_pylist() == [row[path[0]][path[1]] for row in found]
    assert str(table.schema.field("cases.zero_over").type) == "int64"
    # 0 / 0 in a layer without any error is null, not 0 and not text.
    assert table.column("attribution.unevenness.share").to_pylist()[0] is None


def test_commands_that_run_a_network_write_tables_too(run: Run, tmp_path: Path) -> None:
    small = ("zoo:digits", "--samples", 10, "-T", 2)
    ok(run("sweep", *small, "--methods", "if,snm", "--table", "sweep.csv", "-o", "sweep.png"))
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["ann", "if", "if", "snm", "snm"]
    assert (tmp_path / "sweep.png").exists()
    ok(run("surrogate", "torch.sigmoid", "--table", "s.json"))
    assert json.loads((tmp_path / "s.json").read_text())[0]["name"] == "torch.sigmoid"
    ok(run("layers", "--model", "zoo:digits", "--table", "pairs.parquet"))
    assert pyarrow.parquet.read_table(tmp_path / "pairs.parquet").num_rows == 6
    # One --overwrite is for the picture and the table.
    refused(run("sweep", *small, "-o", "new.png", "--table", "sweep.csv"), "sweep.csv exists", "--overwrite")
    assert not (tmp_path / "new.png").exists()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("t.xlsx", ["t.xlsx has the suffix '.xlsx'", "expected .csv or .parquet or .json", "t.csv"]),
        ("t", ["t has no suffix", ".parquet"]),
        ("-", ["- has no suffix"]),
        ("none/t.csv", ["no folder none"]),
        ("recording.h5", ["recording.h5 has the suffix '.h5'"]),
        ("old.csv", ["old.csv exists", "--overwrite", "--table FILE"]),
        ("dangling.csv", ["dangling.csv exists"]),
        ("folder.csv", ["folder.csv is a folder"]),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_first(name: str, parts: list[str], run: Run, there: Path) -> None:
    (there / "old.csv").write_text("mine")
    (there / "folder.csv").mkdir()
    (there / "dangling.csv").symlink_to("nowhere")
    before = sorted(there.iterdir())
    refused(run("unevenness", "--table", name), *parts)
    assert sorted(there.iterdir()) == before
    assert (there / "old.csv").read_text() == "mine"


def test_overwrite_replaces_a_table(run: Run, there: Path) -> None:
    (there / "old.csv").write_text("mine")
    ok(run("accuracy", "--table", "old.csv", "--overwrite"))
    assert (there / "old.csv").read_text().startswith("network,t,accuracy\nann,,")


def test_without_pyarrow_it_is_said_how_to_get_it(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.tables.find_spec", lambda name: None)
    refused(run("accuracy", "--table", "t.parquet"), "pyarrow", "pip install 'snn-probe[parquet]'")
    ok(run("accuracy", "--table", "t.csv"))


def test_a_full_disk_leaves_the_old_table(there: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("old")
    many = [{"name": "x" * 1000} for _ in range(1000)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = (
        "import sys, json\nfrom probe.tables import write_table\nfrom probe.errors import ProbeError\n"
        "rows = [{'name': 'x' * 1000}] * 1000\n"
        "for name in ('t.csv', 't.json', 't.parquet'):\n"
        "    if name == 't.parquet': rows = [{'name': i, 'other': i * 0.1} for i in range(100000)]\n"
        "    try: write_table(name, rows, overwrite=True)\n"
        "    except ProbeError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, preexec_fn=small_files, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.count("cannot be written (") == 3, done
    assert (tmp_path / "t.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording.h5", "t.csv"]
    assert write_table(tmp_path / "t.csv", many, overwrite=True).stat().st_size > 1_000_000


def test_hostile_names_in_written_tables(run: Run, full: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "recording.h5"
    hostile.write_bytes(full.read_bytes())
    with editing(hostile) as file:
        file["layers/0"].attrs["name"] = "=HYPERLINK(1)\x1b[31m\nb"
    for suffix in ("csv", "json", "parquet"):
        ok(run("layers", "--table", f"t.{suffix}"))
    written = (tmp_path / "t.csv").read_text()
    assert "'=HYPERLINK(1)\\x1b[31m\\nb" in written
    assert "\x1b" not in written + (tmp_path / "t.json").read_text()
    assert len(written.splitlines()) == 7


def shell(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, contained as it is installed."""
    return subprocess.run(
        [sys.executable, "-m", "probe", *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def test_the_contained_command_writes_parquet_into_the_folder(there: Path) -> None:
    done = shell(there, "unevenness", "--table", "t.parquet", "--csv", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "probe: t.parquet is written, 6 rows\n")
    assert pyarrow.parquet.read_table(there / "t.parquet").num_rows == 6


def test_reading_commands_load_none_of_the_extras(there: Path) -> None:
    code = (
        "import sys; from probe.cli import main\n"
        "try: main(['unevenness', '--table', 't.csv'])\n"
        "finally: print({'torch', 'pandas', 'xarray', 'pyarrow'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stderr.splitlines()[-1] == "set()"


# -------------------------------------------------------------------------------------------------------- arrays


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def test_arrays_are_those_of_the_recording(run: Run, there: Path) -> None:
    printed = ok(run("export", "-o", "a.npz"))
    assert printed.startswith("a.npz: 65 arrays, ")
    arrays = loaded(there / "a.npz")
    assert len(arrays) == 65
    with probe.open("recording.h5") as recording:
        for key, value in {"output/snn": recording.snn_logits, "output/ann": recording.ann_logits,
                           "samples/label": recording.labels, "samples/index": recording.indices}.items():  # fmt: skip
            np.testing.assert_array_equal(arrays[key], value)
        assert arrays["timesteps"] == 8
        for layer in recording.layers:
            head = f"layers/{layer.index}"
            assert (arrays[f"{head}/name"], arrays[f"{head}/levels"]) == (layer.name, 8)
            np.testing.assert_array_equal(arrays[f"{head}/threshold"], layer.threshold)
            for name in KEPT:
                value, expected = arrays[f"{head}/{name}"], getattr(layer, name)
                assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
                np.testing.assert_array_equal(value, expected)
    # The arrays of one law, by numpy alone: n is the sum of s(t).
    np.testing.assert_array_equal(arrays["layers/1/snn_spikes"].sum(1), arrays["layers/1/spike_count"])


def test_some_layers_arrays_and_samples(run: Run, there: Path) -> None:
    result = run("export", "--layer", "block2.*", "--array", "snn_spikes", "--array", "ann_output", "--sample", "10:25")
    ok(result)
    assert "11 arrays, " in result.stderr
    arrays = loaded(there / "arrays.npz")
    assert [key for key in arrays if key.startswith("layers/")] == [
        f"layers/1/{name}" for name in ("name", "levels", "threshold", "initial_potential", "snn_spikes", "ann_output")
    ]
    with probe.open("recording.h5") as recording:
        np.testing.assert_array_equal(arrays["layers/1/snn_spikes"], recording.layers[1].snn_spikes[10:25])
        np.testing.assert_array_equal(arrays["samples/label"], recording.labels[10:25])
        np.testing.assert_array_equal(arrays["output/snn"], recording.snn_logits[10:25])


@pytest.mark.parametrize(
    ("said", "places"),
    [("0:3", [0, 1, 2]), ("3", [3]), ("-1", [9]), ("8:", [8, 9]), (":2", [0, 1]), ("-2:", [8, 9]), (":", range(10)),
     (None, range(10)), (slice(2, 4), [2, 3]), ("8:99", [8, 9])],
)  # fmt: skip
def test_samples_by_place(said: Any, places: Any) -> None:
    assert list(parse_samples(said, 10)) == list(places)


@pytest.mark.parametrize("said", ["", "a", "1:2:3", "5:5", "10", "20:30", "1,2", slice(0, 4, 2), slice(4, 2)])
def test_samples_that_are_not_there(said: Any) -> None:
    with pytest.raises(ProbeError, match=r"samples .*expected"):
        parse_samples(said, 10)


def test_the_same_recording_gives_the_same_file(run: Run, there: Path) -> None:
    ok(run("export", "-o", "a.npz"))
    ok(run("export", "-o", "b.npz"))
    assert (there / "a.npz").read_bytes() == (there / "b.npz").read_bytes()
    with zipfile.ZipFile(there / "a.npz") as archive:
        assert archive.testzip() is None
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o644}


def test_compressed_it_holds_the_same(run: Run, there: Path) -> None:
    ok(run("export", "--array", "snn_spikes", "-o", "a.npz"))
    ok(run("export", "--array", "snn_spikes", "-o", "b.npz", "--compress"))
    plain, small = loaded(there / "a.npz"), loaded(there / "b.npz")
    assert list(plain) == list(small)
    for key, value in plain.items():
        np.testing.assert_array_equal(small[key], value)
    assert (there / "b.npz").stat().st_size < (there / "a.npz").stat().st_size / 2


def test_what_cannot_be_exported_is_refused(run: Run, there: Path, recordings: Callable[..., Path]) -> None:
    refused(run("export", "-o", "a.npy"), "'.npy'", ".npz")
    refused(run("export", "--layer", "9"), "no layer 9")
    refused(run("export", "--sample", "40:50"), "samples 40:50", "0 to 39")
    refused(run("export", "--array", "silenced"), "no silenced neurons")
    refused(run("export", recordings(record="counts"), "--array", "snn_spikes"), "--record counts", "--record spikes")
    assert run("export", "--array", "potential").exit_code == 2
    with pytest.raises(ProbeError, match="no array potential; expected one of spike_count"):
        probe.export("recording.h5", "a.npz", arrays="potential")
    assert [path.name for path in there.iterdir()] == ["recording.h5"]
    (there / "arrays.npz").write_text("mine")
    refused(run("export"), "arrays.npz exists", "--overwrite")
    assert (there / "arrays.npz").read_text() == "mine"
    ok(run("export", "--overwrite", "--layer", 0))
    assert len(loaded(there / "arrays.npz")) == 15


def test_a_recording_of_statistics_has_labels_and_logits(
    run: Run, recordings: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("export", recordings(record="stats"))
    ok(result)
    assert "--record stats, which keeps no arrays of layers" in result.stderr
    arrays = loaded(tmp_path / "arrays.npz")
    assert arrays["output/snn"].shape == (40, 8, 10)
    assert "layers/0/spike_count" not in arrays


def test_no_room_is_told_before(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.exporting.free_bytes", lambda _path: 1000)
    result = run("export")
    assert "65 arrays, 7.0 MB" in result.stderr
    refused(result, "0.01 GB to write and 0.00 GB free", "--array")
    assert [path.name for path in there.iterdir()] == ["recording.h5"]


@pytest.mark.parametrize("most", [1, 100, 5000, 10**9])
def test_blocks_are_bounded_and_add_up(most: int, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "r.h5", ["a"], shape=(3, 4, 4), timesteps=6, samples=5, levels=None)
    with probe.open(path) as recording:
        layer = recording.layers[0]
        for name in (name for name in FIELDS if layer.has(name)):
            whole = layer.read(name)
            blocks = list(blocks_of(layer, name, range(1, 5), whole.dtype, most))
            step = 48 * whole.dtype.itemsize
            assert max(block.nbytes for block in blocks) <= max(most, step)
            joined = np.concatenate([block.reshape(-1) for block in blocks])
            np.testing.assert_array_equal(joined, whole[1:5].reshape(-1))
            if most == 1:
                assert len(blocks) == 4 * (6 if name in OVER_TIME else 1)


def test_neurons_with_negative_spikes_and_parts_in_a_folder(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "r.h5", ["a", "b"], shape=(7,), unguarded=True)
    done = probe.export(path, tmp_path / "a.npz", layers="b")
    arrays = loaded(done.path)
    assert tuple(arrays) == done.keys
    assert done.bytes == done.path.stat().st_size
    with probe.open(path) as recording:
        np.testing.assert_array_equal(arrays["layers/1/snn_spikes"], recording.layers[1].snn_spikes)
    assert arrays["layers/1/snn_spikes"].min() == -1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_arrays(tmp_path: Path) -> None:
    """300 MB of decoded arrays, one of them of 210 MB, also through the installed command and its limits."""
    path = write_recording(tmp_path / "r.h5", ["a"], shape=(64, 32, 32), timesteps=16, samples=50)
    code = (
        "import resource, sys\nfrom probe.exporting import export\n"
        "export(sys.argv[1], 'small.npz', samples=slice(0, 2))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "done = export(sys.argv[1], 'a.npz')\n"
        "print(done.bytes, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=tmp_path, capture_output=True, text=True,
                          check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    written, grown = map(int, done.stdout.split())
    assert written > 280e6
    assert grown < 100e6
    (tmp_path / "a.npz").unlink()
    contained = shell(tmp_path, "export", path, "-o", "b.npz")
    assert contained.returncode == 0, contained.stderr
    assert (tmp_path / "b.npz").stat().st_size == written


def test_a_full_disk_leaves_no_half_file(there: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    (there / "arrays.npz").write_text("old")
    done = shell(there, "export", "--overwrite", preexec_fn=small_files)
    assert done.returncode == 2
    assert "arrays.npz cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert (there / "arrays.npz").read_text() == "old"
    assert len(list(there.iterdir())) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_leaves_no_half_file(number: signal.Signals, code: int, there: Path) -> None:
    program = (
        "import os, signal, sys\nfrom probe import exporting\nfrom probe.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "blocks = exporting.blocks_of\n"
        f"def stopped(*given):\n    os.kill(os.getpid(), {int(number)})\n    yield from blocks(*given)\n"
        "exporting.blocks_of = stopped\nmain(['export'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=there, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in there.iterdir()] == ["recording.h5"]


def test_damaged_arrays_are_not_exported(run: Run, full: Path, tmp_path: Path) -> None:
    with h5py.File(full) as file:
        chunk = file["layers/1/ann_input"].id.get_chunk_info(0)
    harmed = bytearray(full.read_bytes())
    harmed[chunk.byte_offset + 100] ^= 0xFF
    (tmp_path / "recording.h5").write_bytes(harmed)
    refused(run("export"), "ann_input of layer 1 cannot be read")
    assert [path.name for path in tmp_path.iterdir()] == ["recording.h5"]


# -------------------------------------------------------------------------------------------------------- xarray


def test_xarray_holds_the_same_values_by_name(full: Path) -> None:
    with probe.open(full) as recording:
        tree = recording.to_xarray()
        assert list(tree["layers"].children) == [str(i) for i in range(6)]
        np.testing.assert_array_equal(tree["snn_logits"], recording.snn_logits)
        np.testing.assert_array_equal(tree["ann_logits"], recording.ann_logits)
        for layer in recording.layers:
            data = tree[f"/layers/{layer.index}"]
            axes = ("channel", "row", "column") if len(layer.shape) == 3 else ("neuron",)
            for name in KEPT:
                value = data[name]
                expected = getattr(layer, name)
                time = ("timestep",) if name in OVER_TIME else ()
                assert value.dims == ("sample", *time, *axes)
                assert value.dtype == expected.dtype
                np.testing.assert_array_equal(value.values, expected)
            np.testing.assert_array_equal(data["label"], recording.labels)
            np.testing.assert_array_equal(data["index"], recording.indices)
            assert data["timestep"].values.tolist() == list(range(1, 9))
            assert data.attrs["name"] == layer.name
            assert data.attrs["threshold"] == pytest.approx(float(layer.threshold.reshape(())))
            assert data.attrs["levels"] == 8
            assert data["snn_spikes"].attrs["units"] == "spikes"


def test_xarray_reads_what_is_asked_for_and_no_more(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.recording.reader import Layer

    read, asked = Layer.read, []

    def noted(self: Any, name: str, samples: Any = slice(None), timesteps: slice = slice(None)) -> Any:
        values = read(self, name, samples, timesteps)
        asked.append((name, values.size))
        return values

    monkeypatch.setattr(Layer, "read", noted)
    with probe.open(full) as recording:
        data = recording.layers[1].to_xarray()
        assert sum(size for _, size in asked) == 0
        asked.clear()
        whole = read(recording.layers[1], "snn_input")
        one = data["snn_input"].isel(sample=3).sel(timestep=5)
        np.testing.assert_array_equal(one, whole[3, 4])
        assert asked == [("snn_input", 1024)]
        several = data["snn_input"].isel(sample=[7, 2], timestep=slice(None, None, -2), channel=4, row=[1, 0])
        np.testing.assert_array_equal(several, whole[[7, 2], ::-2, 4][:, :, [1, 0]])
        np.testing.assert_array_equal(data["snn_input"][-1, -1, 0, 0, 0], whole[-1, -1, 0, 0, 0])


def test_xarray_computes_by_name(full: Path) -> None:
    with probe.open(full) as recording:
        layer, data = recording.layers[1], recording.layers[1].to_xarray().load()
    # What was loaded stays when the recording is closed.
    phi = data.spike_count.astype(np.float32) * data.threshold / np.float32(data.attrs["timesteps"])
    with probe.open(full) as again:
        np.testing.assert_array_equal(phi, again.layers[1].snn_output)
    rate = data.snn_spikes.groupby("label").mean()
    assert rate.sizes["label"] == 10
    assert layer.name == data.attrs["name"]


def test_xarray_of_thresholds_per_channel_and_of_other_shapes(tmp_path: Path) -> None:
    theta = np.array([0.5, 0.25, 1.0], np.float32).reshape(1, 3, 1, 1)
    path = write_recording(tmp_path / "r.h5", ["a"], threshold=theta)
    with probe.open(path) as recording:
        data = recording.layers[0].to_xarray()
        assert data["threshold"].dims == ("channel",)
        np.testing.assert_array_equal(
            (data.spike_count * data.threshold).values, recording.layers[0].spike_count * theta
        )
        assert "threshold" not in data.attrs
    path = write_recording(tmp_path / "two.h5", ["a/b", "c"], shape=(3, 5))
    with probe.open(path) as recording:
        tree = recording.to_xarray(["c", 0])
        assert tree["/layers/0"]["spike_count"].dims == ("sample", "neuron_0", "neuron_1")
        assert tree["/layers/0"].attrs["name"] == "a/b"
        with pytest.raises(ProbeError, match="no layer 7"):
            recording.to_xarray(7)


def test_without_xarray_it_is_said_how_to_get_it(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with probe.open(full) as recording:
        monkeypatch.setattr(xarray, "DataTree", None)
        monkeypatch.delattr(xarray, "DataTree")
        with pytest.raises(ProbeError, match=r"has no DataTree; expected xarray 2024\.10 or newer"):
            recording.to_xarray()
        monkeypatch.setitem(sys.modules, "xarray", None)
        for call in (recording.to_xarray, recording.layers[0].to_xarray):
            with pytest.raises(ProbeError, match=r"pip install 'snn-probe\[xarray\]'"):
                call()


def test_a_closed_recording_is_told(full: Path) -> None:
    with probe.open(full) as recording:
        data = recording.layers[0].to_xarray()
    with pytest.raises(ProbeError, match="is closed; expected an open recording"):
        data["spike_count"].load()


# ----------------------------------------------------------------------------------------------------- the page


def test_the_page_runs(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re
    import shlex

    page = (ROOT / "docs" / "export.md").read_text()
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    ran = 0
    for line in commands:
        program, *arguments = shlex.split(line.split("  #")[0])
        if program == "probe" and "|" not in arguments:
            ok(run(*arguments))
            ran += 1
    assert ran >= 4
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    for code in blocks:
        exec(code, {})


def test_a_table_is_written_though_the_reader_of_stdout_is_gone(there: Path) -> None:
    command = f"{sys.executable} -m probe unevenness --csv --table t.csv | true"
    done = subprocess.run(["bash", "-c", command], cwd=there, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    until = time.monotonic() + 10
    while not (there / "t.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert len((there / "t.csv").read_text().splitlines()) == 7
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
