"""What leaves a recording where something is in the way: files that appear meanwhile, closed recordings, odd values."""

from __future__ import annotations

import copy
import csv
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from click.testing import Result

import probe
from probe import exporting
from probe.errors import ProbeError
from probe.exporting import BLOCK_BYTES, parse_samples
from probe.plots.saving import save
from probe.session import plan
from probe.tables import csv_text, flat_rows
from probe.writing import replacing
from tests.conftest import ROOT
from tests.test_cli import ok

Run = Callable[..., Result]
PAGE = " ".join((ROOT / "docs" / "export.md").read_text().split())


@pytest.fixture
def there(full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recording, in the folder in which everything runs."""
    (tmp_path / "recording.h5").symlink_to(full)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ------------------------------------------------------------------------------ what cannot be written at the end

SMALL = ("zoo:digits", "--samples", 10, "-T", 2)
LONG = {
    "sweep": ("probe.study.sweep", [*SMALL, "--methods", "if"]),
    "sensitivity": ("probe.ablation.sensitivity", [*SMALL, "--layer", 0]),
    "surrogate": ("probe.surrogates.measure_surrogate", ["torch.sigmoid"]),
}
"""Command -> what does its work, and what is typed."""


def without_seconds(text: str) -> str:
    return re.sub(r'"seconds": [0-9.e-]+', "", text)


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]], ids=["text", "json", "csv"])
@pytest.mark.parametrize(("option", "name"), [("--table", "t.csv"), ("-o", "p.png")])
@pytest.mark.parametrize("word", LONG)
def test_numbers_are_printed_where_a_file_cannot_be_written(
    word: str, option: str, name: str, form: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, options = LONG[word]
    expected = without_seconds(ok(run(word, *options, *form)))
    module, function = place.rsplit(".", 1)
    work = getattr(sys.modules[module], function)

    def worked(*given: Any, **more: Any) -> Any:
        (tmp_path / name).write_text("mine")
        return work(*given, **more)

    monkeypatch.setattr(place, worked)
    result = run(word, *options, *form, option, name)
    assert (result.exit_code, without_seconds(result.stdout)) == (2, expected), result.output
    assert f"probe: {name} exists; expected a new file" in result.stderr.splitlines()[-1]
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_picture_that_fails_loses_no_table(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.plots import draw_trace

    def drawn(*given: Any) -> Any:
        (there / "p.png").write_text("mine")
        return draw_trace(*given)

    monkeypatch.setattr("probe.plots.draw_trace", drawn)
    result = run("trace", "--neuron", "0,1,2", "-o", "p.png", "--table", "t.csv")
    assert result.exit_code == 2
    assert "p.png exists" in result.stderr.splitlines()[-1]
    assert len((there / "t.csv").read_text().splitlines()) == 9
    assert "0,1,2" in result.stdout.replace(" ", "")


def test_both_files_that_fail_are_told(run: Run, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.plots import draw_trace

    def drawn(*given: Any) -> Any:
        (there / "p.png").write_text("mine")
        (there / "t.csv").write_text("mine")
        return draw_trace(*given)

    monkeypatch.setattr("probe.plots.draw_trace", drawn)
    result = run("trace", "--neuron", "0,1,2", "-o", "p.png", "--table", "t.csv")
    assert result.exit_code == 2
    assert [line.split(";")[0] for line in result.stderr.splitlines()[-2:]] == [
        "probe: p.png exists", "probe: t.csv exists",
    ]  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_prints_the_numbers_and_a_closed_pipe_hides_no_failure(there: Path) -> None:
    program = (
        "import errno\nfrom probe import tables\nfrom probe.cli import main\n"
        "def full(*given):\n    raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "tables.csv_text = full\nmain(['accuracy', '--table', 't.csv'])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "t.csv cannot be written (No space left on device)" in done.stderr
    assert "ann" in done.stdout.lower()
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run([sys.executable, "-c", program], stdout=write, stderr=subprocess.PIPE, text=True,
                            check=False, env=environment)  # fmt: skip
    os.close(write)
    assert (closed.returncode, closed.stderr) == (2, done.stderr)


# ------------------------------------------------------------------------------------- files that appear meanwhile


def test_a_file_that_appears_meanwhile_is_kept(there: Path) -> None:
    def appears(_done: int, _to_do: int) -> None:
        (there / "a.npz").write_text("mine")

    with pytest.raises(ProbeError, match=r"a\.npz exists; expected a new file; pass --overwrite"):
        probe.export("recording.h5", "a.npz", layers=0, progress=appears)
    assert (there / "a.npz").read_text() == "mine"
    assert len(list(there.iterdir())) == 2
    probe.export("recording.h5", "a.npz", layers=0, progress=appears, overwrite=True)
    assert "output/snn" in np.load(there / "a.npz")


def test_without_links_a_file_is_put_in_place_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with replacing(tmp_path / "a.txt", overwrite=False) as unfinished:
        unfinished.write_text("new")
    with (
        pytest.raises(ProbeError, match=r"a\.txt exists"),
        replacing(tmp_path / "a.txt", overwrite=False) as unfinished,
    ):
        unfinished.write_text("newer")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "new")]


def test_a_picture_does_not_replace_what_appeared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    class Slow(Figure):
        def savefig(self, *given: Any, **more: Any) -> None:
            (tmp_path / "p.svg").write_text("mine")
            super().savefig(*given, **more)

    with pytest.raises(ProbeError, match=r"p\.svg exists"):
        save(Slow(), tmp_path / "p.svg", overwrite=False)
    assert (tmp_path / "p.svg").read_text() == "mine"
    save(Slow(), tmp_path / "p.svg", overwrite=True)
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_threads_that_write_to_one_path_do_not_meet(tmp_path: Path) -> None:
    together, names, failed = threading.Barrier(4), set(), []

    def write(number: int) -> None:
        try:
            with replacing(tmp_path / "a.txt") as unfinished:
                together.wait(10)
                names.add(unfinished)
                unfinished.write_text(str(number) * 1000)
                together.wait(10)
                assert unfinished.read_text() == str(number) * 1000
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(names) == 4
    assert all(name.parent == tmp_path and name.name.startswith("a.txt.") and name.suffix == ".tmp" for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_rights_that_the_mask_leaves(mask: int, there: Path) -> None:
    before = os.umask(mask)
    try:
        probe.export("recording.h5", "a.npz", layers=0, arrays="spike_count")
    finally:
        os.umask(before)
    assert stat.S_IMODE((there / "a.npz").stat().st_mode) == 0o666 & ~mask


# ---------------------------------------------------------------------------------------------------- xarray


def test_attributes_are_of_types_that_netcdf_knows(there: Path) -> None:
    with probe.open("recording.h5") as recording:
        tree = recording.to_xarray().load()
    assert (tree.attrs["complete"], tree.attrs["has_ann"]) == (1, 1)
    groups = list(tree.subtree)
    for group in groups:
        for value in (*group.attrs.values(), *(v for one in group.variables.values() for v in one.attrs.values())):
            assert type(value) in (str, int, float, np.ndarray)
    if find_spec("h5netcdf"):
        tree.to_netcdf("t.nc", engine="h5netcdf")
        with xarray.open_datatree("t.nc", engine="h5netcdf") as again:
            xarray.testing.assert_identical(again.load(), tree)
    if find_spec("scipy"):
        for i, group in enumerate(groups):
            group.to_dataset().to_netcdf(f"{i}.nc", engine="scipy")
        with xarray.open_dataset("0.nc", engine="scipy") as root:
            assert root.attrs["complete"] == 1
            np.testing.assert_array_equal(root["snn_logits"], tree["snn_logits"])


CLOSED = {
    "labels": lambda r, tree: r.labels,
    "snn_logits": lambda r, tree: r.snn_logits,
    "facts": lambda r, tree: r.facts,
    "to_xarray": lambda r, tree: r.to_xarray(),
    "layer.to_xarray": lambda r, tree: r.layers[0].to_xarray(),
    "tree.snn_logits": lambda r, tree: tree["snn_logits"].values,
    "tree.spike_count": lambda r, tree: tree["/layers/0/spike_count"].values,
    "export": lambda r, tree: probe.export(r, "a.npz"),
    "has": lambda r, tree: r.layers[0].has("spike_count"),
    "spike_count": lambda r, tree: r.layers[0].spike_count,
    "statistics": lambda r, tree: r.layers[0].statistics,
    "grid": lambda r, tree: r.layers[1].grid,
    "spikes_at": lambda r, tree: r.layers[1].spikes_at,
    "offsets_at": lambda r, tree: r.layers[1].offsets_at(8),
}


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("lazily", [True, False])
def test_a_closed_recording_is_told_everywhere(name: str, lazily: bool, there: Path) -> None:
    with probe.open("recording.h5") as recording:
        tree = recording.to_xarray()
        vars(recording).pop("labels", None)
        if not lazily:
            _ = recording.layers[1]._statistics
    with pytest.raises(ProbeError, match=r"recording\.h5 is closed; expected an open recording"):
        CLOSED[name](recording, tree)
    assert [path.name for path in there.iterdir()] == ["recording.h5"]


def test_what_was_read_stays_when_a_recording_is_closed(there: Path) -> None:
    with probe.open("recording.h5") as recording:
        labels, statistics = recording.labels, recording.layers[0].statistics
    assert recording.labels is labels
    assert recording.layers[0].statistics is statistics


def test_lazy_arrays_say_that_they_cannot_be_pickled(there: Path) -> None:
    with probe.open("recording.h5") as recording:
        data, tree = recording.layers[1].to_xarray(), recording.to_xarray(1)
        for one in (data, data.isel(sample=[3, 1]), tree):
            with pytest.raises(ProbeError, match=r"cannot be pickled; expected .*; call \.load\(\) first$"):
                pickle.dumps(one)
        for again in (copy.copy(data), copy.deepcopy(data), data.copy(deep=True)):
            np.testing.assert_array_equal(again["snn_spikes"], data["snn_spikes"])
        part = data.isel(sample=[3, 1]).load()
        xarray.testing.assert_identical(pickle.loads(pickle.dumps(part)), part)


# ------------------------------------------------------------------------------------------------------ tables


def test_null_beside_nested_values_is_no_column() -> None:
    rows = [{"name": "a", "cases": None, "none": None}, {"name": "b", "cases": {"over": 1, "more": {"x": 2}}}]
    names, flat = flat_rows(rows)
    assert names == ["name", "none", "cases.over", "cases.more.x"]
    assert flat[0] == {"name": "a", "none": None, "cases.over": None, "cases.more.x": None}
    # A value there is no null, and a column that was asked for is there.
    assert flat_rows([{"t": 0.5}, {"t": {"min": 1}}, {"t": None}])[0] == ["t", "t.min"]
    assert flat_rows(rows, ["cases"])[0][0] == "cases"
    assert flat_rows([{"cases": {"more": None}}, {"cases": {"more": {"x": 1}}}])[0] == ["cases.more.x"]


def test_no_table_has_a_null_beside_its_nested_columns(run: Run, recordings: Callable[..., Path]) -> None:
    for words in (["unevenness"], ["layers"], ["what-if"], ["diff", recordings()]):
        header = next(csv.reader(ok(run(words[0], recordings(), *words[1:], "--csv")).splitlines()))
        rows = list(csv.DictReader(ok(run(words[0], recordings(), *words[1:], "--csv")).splitlines()))
        for name in header:
            if any(other.startswith(f"{name}.") for other in header):
                assert any(row[name] for row in rows), name


def test_numbered_columns_are_in_order() -> None:
    rows = [{"a": 1, "offset": {"0": 5, "1": 2}, "z": 1}, {"offset": {"-1": 1, "10": 1, "2": 1, "0": 3}}, {"y.x": 1}]
    names, _ = flat_rows(rows)
    assert names == ["a", "offset.-1", "offset.0", "offset.1", "offset.2", "offset.10", "z", "y.x"]
    assert flat_rows([{f"n.{'9' * 5000}": 1, "n.3": 2}])[0] == [f"n.{'9' * 5000}", "n.3"]


@pytest.mark.parametrize(
    "text", ["＝1+1", "＋1", "－x", "＠SUM(A1)", "-inf", "+inf", "-nan", "+Infinity", "-1_0", "-１"]
)
def test_other_beginnings_of_formulas_are_guarded(text: str) -> None:
    ((cell,),) = list(csv.reader(csv_text([{"a": text}]).splitlines()[1:]))
    assert cell == f"'{text}"


@pytest.mark.parametrize("text", ["-1", "+1.5", "-.5", "+1e-3", "-1.E+5", "nan", "inf", "a;=1"])
def test_numbers_and_others_are_not_guarded(text: str) -> None:
    ((cell,),) = list(csv.reader(csv_text([{"a": text}]).splitlines()[1:]))
    assert cell == text


# ---------------------------------------------------------------------------------------------- what is asked for


def test_a_number_is_a_sample_and_a_layer(there: Path) -> None:
    for samples in (3, np.int64(3), "3", slice(3, 4), slice(np.int64(3), np.int64(4))):
        done = probe.export("recording.h5", "a.npz", layers=np.int64(1), samples=samples, overwrite=True)
        with np.load(done.path) as arrays, probe.open("recording.h5") as recording:
            assert [key for key in arrays if key.endswith("/name")] == ["layers/1/name"]
            np.testing.assert_array_equal(arrays["samples/index"], recording.indices[3:4])
    assert parse_samples(-1, 10) == range(9, 10)
    with probe.open("recording.h5") as recording:
        assert list(recording.to_xarray(np.int64(1))["layers"].children) == ["1"]


@pytest.mark.parametrize(
    "asked",
    [{"samples": [1, 2]}, {"samples": np.array([1])}, {"samples": 1.5}, {"samples": True}, {"samples": 40},
     {"samples": -41}, {"samples": slice("a")}, {"samples": slice(0, 1.5)}, {"samples": "9" * 5000},
     {"samples": "0:" + "9" * 5000}, {"samples": "٣"}, {"layers": 1.5}, {"layers": True}, {"layers": {}.keys},
     {"layers": "9" * 5000}, {"layers": "0:" + "9" * 5000}, {"layers": [None]}, {"arrays": 3}, {"arrays": [3]},
     {"arrays": [["snn_spikes"]]}],
    ids=lambda asked: str(asked)[:30],
)  # fmt: skip
def test_what_is_no_choice_is_refused_in_one_line(asked: dict[str, Any], there: Path) -> None:
    with pytest.raises(ProbeError) as refusal:
        probe.export("recording.h5", "a.npz", **asked)
    text = str(refusal.value)
    assert "; expected " in text
    assert len(text) < 1000
    assert "\n" not in text
    assert [path.name for path in there.iterdir()] == ["recording.h5"]


@pytest.mark.parametrize("option", ["--sample", "--layer"])
def test_an_endless_number_is_refused(option: str, run: Run, there: Path) -> None:
    result = run("export", option, "9" * 5000)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1500


# ----------------------------------------------------------------------------------------------------- the page


def test_the_size_of_a_block_is_as_the_page_says() -> None:
    assert f"blocks of {BLOCK_BYTES / 1e6:.0f} MB" in PAGE
    assert exporting.SUFFIXES == (".npz",)


ROWS = [
    ("`accuracy` has one for the ANN and one a timestep", ["accuracy"], 1 + 8),
    ("`unevenness`, `layers`, `diff` and `gradients` one a layer", ["unevenness"], 6),
    ("`unevenness`, `layers`, `diff` and `gradients` one a layer", ["layers"], 6),
    ("`unevenness`, `layers`, `diff` and `gradients` one a layer", ["diff", "recording.h5"], 6),
    ("`trace` one a timestep", ["trace", "--neuron", "0,1,2"], 8),
    ("`what-if` one a layer and option", ["what-if", "--layer", "1"], None),
    ("`check` one a number beyond its limit", ["check", "--fail-if", "layers.*.count > 1"], 6),
    ("`diagnose` one a finding", ["diagnose"], None),
    ("`verify` one a recording", ["verify"], 1),
]
"""What the page says, what is typed, and how many rows that makes; None where --json has to say."""


@pytest.mark.parametrize(("said", "words", "count"), ROWS, ids=[" ".join(words) for _, words, _ in ROWS])
def test_a_table_has_the_rows_that_the_page_says(
    said: str, words: list[str], count: int | None, run: Run, there: Path
) -> None:
    assert said in PAGE
    if count is None:
        found = json.loads(run(words[0], "recording.h5", *words[1:], "--json").stdout)
        count = len(found["findings"]) if "findings" in found else sum(len(one["options"]) for one in found["layers"])
    printed = run(words[0], "recording.h5", *words[1:], "--csv").stdout
    assert len(list(csv.DictReader(printed.splitlines()))) == count


def test_rows_of_commands_that_run_a_network(run: Run) -> None:
    from probe.ablation import MODES

    def rows(*words: object) -> list[dict[str, str]]:
        return list(csv.DictReader(ok(run(*words, "--csv")).splitlines()))

    assert "`sweep` one for the ANN, with t = 0, and one a method and timestep" in PAGE
    found = rows("sweep", *SMALL, "--methods", "if,snm")
    assert [(row["method"], row["t"]) for row in found] == [("ann", "0")] + [
        (method, t) for method in ("if", "snm") for t in ("1", "2")
    ]
    assert "with `--layer` one a method, layer and timestep, and none for the ANN" in PAGE
    assert len(rows("sweep", *SMALL, "--methods", "if,snm", "--layer", "0:2")) == 2 * 2 * 2
    assert "`sensitivity` one for the ANN and one for the SNN (mode `ann` and `snn`), and one a layer and mode" in PAGE
    found = rows("sensitivity", *SMALL, "--layer", "0:2")
    assert [row["mode"] for row in found] == ["ann", "snn", *MODES, *MODES]
    assert "`surrogate` one a surrogate" in PAGE
    assert len(rows("surrogate", "torch.sigmoid", "torch.tanh")) == 2


@pytest.mark.slow
def test_a_hundred_parts_are_exported_and_counted(tmp_path: Path) -> None:
    """HDF5 fails where nothing is to be read of so many parts."""
    options: dict[str, Any] = {"samples": 100, "batch_size": 1, "timesteps": 2, "record": "counts"}
    planned = plan("zoo:digits", output=tmp_path / "r.h5", layers=["0"], **options)
    planned.run(part_bytes=1)
    with probe.open(tmp_path / "r.h5") as recording:
        assert len(recording.parts) == 100
        probe.export(recording, tmp_path / "r.npz")
        with np.load(tmp_path / "r.npz", allow_pickle=False) as arrays:
            np.testing.assert_array_equal(arrays["layers/0/spike_count"], recording.layers[0].spike_count)
        np.testing.assert_array_equal(
            recording.layers[0].to_xarray()["spike_count"].values, recording.layers[0].spike_count
        )
        assert probe.accuracy(recording)["snn"]["2"] > 0.5
