"""The commands as a user types them: what they print, what they refuse, and with which exit code."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result

import probe
from probe.cli import COMMANDS, READING
from probe.containment import can_contain
from tests.editing import editing

Run = Callable[..., Result]


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, *parts: str) -> str:
    """One line on stderr that has all the parts, exit 2, nothing on stdout."""
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("probe: ")]
    assert lines[-1:] == result.stderr.splitlines()[-1:], result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[-1]
    return lines[-1]


def test_capture_and_unevenness_work_as_typed(run: Run, tmp_path: Path) -> None:
    printed = ok(run("capture"))
    assert printed.startswith("recording.h5: 200 samples, 6 layers, T = 8")
    assert [path.name for path in tmp_path.iterdir()] == ["recording.h5"]
    text = ok(run("unevenness", "--layer", 0))
    assert "neurons counted" in text
    assert "oracle holds" in text
    assert "0.0000        0" in next(line for line in text.splitlines() if "(case 1)" in line)
    ok(run("layers"))
    ok(run("accuracy"))
    assert "cases.png" in ok(run("plot", "cases"))
    assert (tmp_path / "cases.png").read_bytes().startswith(b"\x89PNG")


def test_the_plan_is_told_before_the_run(run: Run) -> None:
    result = run("capture", "--samples", 10, "-T", 2, "--record", "full")
    # block2: ann_input, input_sum and 2 x snn_input in float32, k and n in a byte each, 2 x 128 bytes of spikes
    each = 1024 * (4 * 4 + 2) + 2 * 128
    assert f"layer 1   block2.act                     16x8x8   {10 * each / 1000:.1f} kB" in result.stderr


def test_json_keeps_the_contract(run: Run, full: Path) -> None:
    found = json.loads(ok(run("unevenness", full, "--layer", 1, "--json", "-t", 4)))
    assert list(found) == ["schema", "file", "timesteps", "timestep", "samples", "complete", "layers"]
    assert (found["schema"], found["timesteps"], found["timestep"], found["samples"]) == (
        "probe-unevenness/1",
        8,
        4,
        40,
    )
    layer = found["layers"][0]
    cases = ["zero_equal", "zero_over", "zero_under", "positive_equal", "positive_over", "positive_under"]
    assert list(layer["cases"]) == list(layer["local_cases"]) == cases
    assert layer["count"] == 40 * 1024 == sum(layer["cases"].values()) == sum(layer["local_cases"].values())
    assert sum(layer["offset_spikes"].values()) == sum(layer["residual"].values()) == layer["count"]
    assert list(layer["residual"]) == ["below", "inside", "above"]
    assert layer["offset_spikes"]["0"] == layer["cases"]["zero_equal"] + layer["cases"]["positive_equal"]
    pieces = layer["attribution"]
    names = ["unevenness", "silencing", "initial_potential", "grid", "clipping", "inherited"]
    assert list(pieces) == ["total", *names]
    assert sum(pieces[name]["mean"] for name in names) == pytest.approx(pieces["total"]["mean"])
    assert sum(pieces[name]["share"] for name in names) == pytest.approx(1)
    accuracy = json.loads(ok(run("accuracy", full, "--json")))
    assert 0.9 < accuracy["ann"] <= 1
    assert list(accuracy["snn"]) == [str(t) for t in range(1, 9)]
    assert json.loads(ok(run("layers", full, "--json")))["layers"][5]["shape"] == [64]


def test_text_shows_the_counts_of_the_json(run: Run, full: Path) -> None:
    found = json.loads(ok(run("unevenness", full, "--layer", 3, "--json")))["layers"][0]
    text = ok(run("unevenness", full, "--layer", 3))
    count = found["count"]
    for label, name in (("(case 1)", "zero_over"), ("(case 2)", "positive_over"), ("(case 3)", "positive_under")):
        line = next(line for line in text.splitlines() if label in line).split()
        assert line[-4:] == [
            f"{found['cases'][name] / count:.4f}",
            f"{found['cases'][name]:,}",
            f"{found['local_cases'][name] / count:.4f}",
            f"{found['local_cases'][name]:,}",
        ]


def test_csv_has_a_row_a_layer(run: Run, full: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ok(run("unevenness", full, "--csv")))))
    assert [row["name"] for row in rows] == [f"block{i}.act" for i in range(1, 6)] + ["hidden.act"]
    assert int(rows[1]["cases.zero_over"]) > 0
    assert len(list(csv.DictReader(io.StringIO(ok(run("layers", full, "--csv")))))) == 6
    assert len(list(csv.DictReader(io.StringIO(ok(run("accuracy", full, "--csv")))))) == 9


def test_accuracy_is_the_argmax_of_summed_logits(run: Run, full: Path) -> None:
    found = json.loads(ok(run("accuracy", full, "--json")))
    with h5py.File(full) as file:
        logits, labels = file["output/snn"][()], file["samples/label"][()]
    for t in (1, 3, 8):
        right = [int(np.argmax(logits[i, :t].sum(0)) == labels[i]) for i in range(40)]
        assert found["snn"][str(t)] == pytest.approx(sum(right) / 40)


def test_trace_walks_one_neuron(run: Run, full: Path, tmp_path: Path) -> None:
    found = json.loads(ok(run("trace", full, "--layer", 1, "--sample", 3, "--neuron", "4,2,2", "--json")))
    v, theta = found["initial_potential"], found["threshold"]
    assert v == pytest.approx(theta / 2)
    for step in found["steps"]:
        v += step["x"]
        assert step["s"] == (v >= theta)
        v -= theta * step["s"]
        assert step["v"] == pytest.approx(v, abs=1e-5)
    text = ok(run("trace", full, "--layer", "block2.act", "--neuron", "4,2,2", "-o", "n.svg"))
    assert "ANN: x = " in text
    assert (tmp_path / "n.svg").read_text().startswith("<?xml")
    refused(run("trace", full, "--layer", 1, "--neuron", "4,2"), "4,2", "3 numbers below 16,8,8")
    refused(run("trace", full, "--layer", 1, "--neuron", "4,2,8"), "3 numbers below 16,8,8")
    refused(run("trace", full, "--layer", 1, "--sample", 40, "--neuron", "4,2,2"), "sample 40", "0 to 39")


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "command",
    [
        ["unevenness"], ["layers"], ["accuracy"], ["plot", "cases"], ["trace", "--neuron", "0,0,0"],
        ["check", "--fail-if", "layers.*.count < 0"],
    ],
)  # fmt: skip
def test_reading_commands_refuse_what_is_no_recording(command: list[str], run: Run, full: Path, tmp_path: Path) -> None:
    at = 2 if command[0] == "plot" else 1

    def read(file: Path) -> Result:
        return run(*command[:at], file, *command[at:])

    refused(read(tmp_path / "none.h5"), "no file", "none.h5", "probe capture")
    (tmp_path / "text.h5").write_text("not HDF5 at all\n" * 100)
    refused(read(tmp_path / "text.h5"), "is no HDF5 file")
    (tmp_path / "cut.h5").write_bytes(full.read_bytes()[: full.stat().st_size // 2])
    refused(read(tmp_path / "cut.h5"), "cut short")
    (tmp_path / "empty.h5").touch()
    refused(read(tmp_path / "empty.h5"), "empty.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["weights"] = np.zeros(3)
    refused(read(tmp_path / "foreign.h5"), "no recording")
    newer = tmp_path / "newer.h5"
    newer.write_bytes(full.read_bytes())
    with editing(newer) as file:
        file.attrs["format_version"] = 2
    refused(read(newer), "format 2", "at most 1", "update")
    with editing(newer) as file:
        file.attrs["format_version"] = 1
        del file["layers/2"].attrs["shape"]
    refused(read(newer), "damaged")
    refused(read(tmp_path), "is a folder")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["-T", 0], ["0 timesteps", "1 to"]),
        (["-T", 10_001], ["10001 timesteps", "1 to 10000"]),
        (["--samples", 0], ["0 samples"]),
        (["--samples", 600], ["600 samples of digits", "1 to 599"]),
        (["--levels", 0], ["0 levels", "1 to 255"]),
        (["--levels", 300], ["300 levels"]),
        (["--at", 9], ["t = 9", "1 to T = 8"]),
        (["--batch-size", 0], ["a batch of 0"]),
        (["--srp-steps", 0, "--neuron", "srp"], ["0 pre-simulation steps"]),
        (["--layer", 6], ["no layer 6", "0 (block1.act)"]),
        (["--layer", "blok3.act"], ["no layer blok3.act", "block3.act"]),
        (["--layer", "re:("], ["no regular expression"]),
        (["--split", "validation"], ["validation", "train or test"]),
        (["--data", "imagenet"], ["imagenet", "digits"]),
        (["--data", "cifar10-jpeg:none.npz"], ["no file none.npz"]),
        (["--data", "cifar10-jpeg"], ["names no file", "cifar10-jpeg:PATH"]),
        (["--device", "abacus"], ["abacus", "cpu, cuda, mps or auto"]),
        (["-o", "nowhere/r.h5"], ["no folder nowhere"]),
        (["-o", "."], ["is a folder"]),
        (["zoo:vgg"], ["unknown model zoo:vgg", "zoo:digits"]),
        (["vgg.py:net"], ["no file vgg.py"]),
        (["zoo:resnet20-cifar10"], ["without images", "--data cifar10-jpeg:PATH"]),
    ],
)
def test_capture_refuses_what_is_out_of_range(options: list[Any], parts: list[str], run: Run, tmp_path: Path) -> None:
    refused(run("capture", *options), *parts)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_unasked(run: Run, tmp_path: Path) -> None:
    ok(run("capture", "--samples", 10))
    before = (tmp_path / "recording.h5").read_bytes()
    refused(run("capture", "--samples", 10), "recording.h5 exists", "--overwrite")
    assert (tmp_path / "recording.h5").read_bytes() == before
    ok(run("plot", "cases"))
    refused(run("plot", "cases"), "cases.png exists", "--overwrite")
    ok(run("plot", "cases", "--overwrite"))
    # A run that fails after --overwrite was given has not touched the old file either.
    refused(run("capture", "--overwrite", "--data", "imagenet"))
    assert (tmp_path / "recording.h5").read_bytes() == before
    ok(run("capture", "--samples", 20, "--overwrite"))
    with probe.open("recording.h5") as recording:
        assert recording.samples == 20


def test_a_folder_that_cannot_be_written(run: Run) -> None:
    refused(run("capture", "-o", "/proc/r.h5"), "/proc cannot be written")


def test_more_than_ten_gigabytes_needs_a_yes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.session.free_bytes", lambda _path: 1 << 50)
    refused(run("capture", "-T", 2000, "--samples", "all"), "GB", "--yes")
    monkeypatch.setattr("probe.session.free_bytes", lambda _path: 1000)
    refused(run("capture"), "free", "record less")
    assert list(tmp_path.iterdir()) == []


def test_a_command_says_which_preset_has_what_it_needs(run: Run, recordings: Callable[..., Path]) -> None:
    stats = recordings(record="stats")
    ok(run("unevenness", stats, "--layer", 0, "-t", 3))
    refused(run("trace", stats, "--neuron", "0,0,0"), "--record stats", "--record full")
    refused(run("plot", "raster", stats, "--layer", 0), "--record spikes")
    refused(run("plot", "features", stats, "--layer", 0), "--record counts")
    refused(run("unevenness", stats, "--recompute"), "--record counts")
    refused(run("unevenness", recordings(record="counts"), "--recompute", "-t", 3), "--record")


def test_t_and_layers_that_are_not_there(run: Run, full: Path) -> None:
    refused(run("unevenness", full, "-t", 9), "t = 9", "1 to T = 8")
    refused(run("unevenness", full, "-t", 0), "t = 0")
    refused(run("unevenness", full, "--layer", 6), "no layer 6", "5 (hidden.act)")
    refused(run("plot", "phi", full, "--layer", "block9.act"), "block9.act", "perhaps")


def test_statistics_that_were_edited_are_found_out(run: Run, full: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.h5"
    edited.write_bytes(full.read_bytes())
    with editing(edited) as file:
        file["layers/1/statistics/cases"][7, 0, 1, 0] += 1
    refused(run("unevenness", edited), "layer 1", "cases do not add up to all 40,960 neurons")
    moved = tmp_path / "moved.h5"
    moved.write_bytes(edited.read_bytes())
    with editing(moved) as file:
        cases = file["layers/1/statistics/cases"][7]
        cases[tuple(np.argwhere(cases > 1)[0])] -= 1
        file["layers/1/statistics/cases"][7] = cases
    ok(run("unevenness", moved))
    refused(run("unevenness", moved, "--recompute"), "layer 1", "differ")
    ok(run("unevenness", full, "--recompute"))


def test_damaged_bytes_are_found_by_their_checksum(run: Run, full: Path, tmp_path: Path) -> None:
    with h5py.File(full) as file:
        chunk = file["layers/1/ann_input"].id.get_chunk_info(0)
    harmed = bytearray(full.read_bytes())
    harmed[chunk.byte_offset + 100] ^= 0xFF
    (tmp_path / "harmed.h5").write_bytes(harmed)
    refused(run("trace", tmp_path / "harmed.h5", "--layer", 1, "--neuron", "0,0,0"), "cannot be read")


def test_names_from_a_file_cannot_steer_the_terminal(run: Run, full: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(full.read_bytes())
    with editing(hostile) as file:
        file["layers/1"].attrs["name"] = "a\x1b[31m\nb [bold]c"
    for arguments in (["layers"], ["unevenness"], ["unevenness", "--layer", "1"]):
        text = ok(run(arguments[0], hostile, *arguments[1:]))
        assert "\x1b" not in text
        assert "\\x1b[31m\\nb [bold]c" in text


def test_strict_fails_where_an_oracle_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.neurons import IF

    step = IF._step
    monkeypatch.setattr(IF, "_step", lambda self, x: step(self, x * (1 + 0.5 * self.calls)))
    result = run("capture", "--samples", 10, "--strict")
    assert result.exit_code == 1
    assert "ORACLE BROKEN" in result.stderr
    assert "ORACLE BROKEN" in ok(run("unevenness", "--layer", 0))
    assert run("capture", "--samples", 10, "--overwrite").exit_code == 0


def test_an_incomplete_recording_says_so(run: Run, full: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped.h5"
    stopped.write_bytes(full.read_bytes())
    with editing(stopped) as file:
        file.attrs["complete"] = False
    result = run("unevenness", stopped)
    ok(result)
    assert "warning" in result.stderr
    assert "40 samples" in result.stderr


# ------------------------------------------------------------------------------------- start-up, signals, pipes


def shell(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "probe", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["unevenness", "--layer", "0"],
        ["layers"],
        ["accuracy"],
        ["trace", "--neuron", "0,0,0"],
        ["plot", "phi"],
        ["check", "--fail-if", "ann < 0"],
        ["diff", "recording.h5", "recording.h5"],
    ],
)
def test_reading_commands_do_not_import_torch(arguments: list[str], full: Path, tmp_path: Path) -> None:
    (tmp_path / "recording.h5").symlink_to(full)
    code = (
        "import sys; from probe.cli import main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Of the process that reads, and of the one that waits for it.
    told = [line for line in done.stderr.splitlines() if line in ("True", "False")]
    assert told == ["False"] * (2 if can_contain() and arguments[0] in READING else 1)


def test_every_command_explains_itself_with_an_example(run: Run) -> None:
    assert set(COMMANDS) <= set(ok(run("--help")).split())
    for command in COMMANDS:
        text = ok(run(command, "--help"))
        assert f"Example:  probe {command}" in text


def test_ctrl_c_in_the_shell(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "probe",
        "capture",
        "-T",
        "1000",
        "--samples",
        "all",
        "--record",
        "stats",
        "--batch-size",
        "20",
    ]
    # A shell that runs the tests in the background has them ignore SIGINT, and children inherit that.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=listening)
    part = tmp_path / "recording.h5.parts"
    while not list(part.glob("*.tmp")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 130, stderr
    assert "stopped: recording.h5 holds" in stderr
    assert "Traceback" not in stderr
    with pytest.warns(UserWarning, match="incomplete"), probe.open(tmp_path / "recording.h5") as recording:
        assert recording.samples % 20 == 0


def test_a_closed_pipe_is_no_error(full: Path) -> None:
    command = f"{sys.executable} -m probe unevenness {full} --json | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == '{\n  "schem'
    assert done.stderr == ""


def test_module_and_console_script_are_the_same() -> None:
    assert shell("--version").stdout == f"probe, version {probe.__version__}\n"
    script = Path(sys.executable).with_name("probe")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith("probe,")


def test_public_names_load_lazily_and_all_exist() -> None:
    code = "import sys, probe; print(sorted({'torch', 'h5py', 'numpy'} & set(sys.modules))); print(len(dir(probe)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"
    for name in probe.__all__:
        assert getattr(probe, name) is not None


def test_a_closed_pipe_is_no_error_for_tables_either(full: Path) -> None:
    command = f"{sys.executable} -m probe unevenness {full} | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("t = 8 of T = 8")
    assert (done.stderr, done.returncode) == ("", 0)


def test_an_output_without_greek_letters_is_whole(full: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "probe", "unevenness", str(full), "--layer", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "oracle holds" in done.stdout


def test_a_terminated_capture_keeps_its_samples(tmp_path: Path) -> None:
    """As a scheduler or a closed terminal ends it."""
    script = (
        "import os, signal; from probe.session import plan; from probe.errors import Interrupted\n"
        "p = plan(samples=40, batch_size=10, output='r.h5')\n"
        "try: p.run(lambda done, samples: os.kill(os.getpid(), signal.SIGTERM) if done == 20 else None)\n"
        "except Interrupted as stopped: print(stopped)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "stopped: r.h5 holds 20 of 40 samples; the same command with --resume goes on\n", done.stderr
    assert "finishing the batch" in done.stderr


def test_more_bad_input(run: Run, full: Path) -> None:
    refused(run("capture", "--seed", -1), "seed -1")
    refused(run("capture", "-o", "a" * 300), "300 characters")
    refused(run("layers", "a" * 300), "cannot be read")
    assert run("layers", full, "--json", "--csv").exit_code == 2
    assert "neuron 1,0,3" in ok(run("trace", full, "--layer", 1, "--neuron", 67))
