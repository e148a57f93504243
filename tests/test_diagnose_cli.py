"""`probe diagnose` and `probe.diagnose`: what is said, of what, in which form, and with which exit code."""

from __future__ import annotations

import json
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn

import probe
from probe.diagnosing import is_recording
from probe.diagnosis import CHECKS
from probe.diagnosis.findings import SEVERITIES, Finding
from probe.diagnosis.networks import FAULTS, LIVE
from probe.errors import Interrupted, ProbeError
from tests import paper_models
from tests.conftest import ROOT
from tests.faults import models

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., Result]
SMALL = ("--data", "digits", "--samples", 16, "-T", 4)
NETWORKS = {
    "healthy": "paper_models.merged()",
    "threshold": "models.not_positive(paper_models.merged, 'body.block3.act', 'thresh', -0.5)",
    "dropout": "models.dropping(paper_models.merged(), 'body.block2.norm', models.Dropping(0.2))",
    "skipped": "models.idle('block5')",
}
KEYS = ["schema", "file", "complete", "samples", "timesteps", "model", "layers", "checks", "notes", "findings"]
OF_A_FINDING = ["check", "severity", "layer", "what", "evidence", "advice", "look", "index"]


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """nets.py with a function for each of `NETWORKS`."""
    lines = ["from tests import paper_models", "from tests.faults import models"]
    lines += [f"def {name}():\n    return {made}" for name, made in NETWORKS.items()]
    (tmp_path / "nets.py").write_text("\n".join(lines) + "\n")
    return tmp_path


def refused(result: Result, *parts: str) -> None:
    """Exit 2, nothing on stdout, one line that says so."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line]
    for part in parts:
        assert part in line


def loud(found: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Check and layer of what is more than a note."""
    return [(one["check"], one["layer"]) for one in found["findings"] if one["severity"] != "note"]


# ---------------------------------------------------------------------------------------------- the command line


def test_a_healthy_recording_and_a_healthy_model(run: Run, nets: Path) -> None:
    assert run("capture", "--samples", 16).exit_code == 0
    for target in ((), ("recording.h5",), ("nets.py:healthy", *SMALL[:4], "-T", 8)):
        result = run("diagnose", *target)
        assert result.exit_code == 0, result.output
        line = result.stdout.splitlines()[0]
        number = len(CHECKS) + (len(LIVE) if len(target) > 1 else 0)
        assert re.fullmatch(r"(recording\.h5|nets\.py:healthy): nothing wrong(, \d notes?)?  \(.*\)", line)
        assert f"{number} checks, 16 samples, 6 layers, T = 8)" in line
    assert sorted(path.name for path in nets.iterdir() if path.suffix == ".h5") == ["recording.h5"]


def test_a_fault_that_stops_the_capture(run: Run, nets: Path) -> None:
    result = run("diagnose", "nets.py:threshold", *SMALL)
    assert result.exit_code == 1, result.output
    first, _, second, *rest = result.stdout.splitlines()
    assert first == "nets.py:threshold: 1 error  (not captured, T = 4)"
    assert second == "ERROR  layer body.block3.act  threshold-not-positive"
    assert "threshold -0.5" in rest[0]
    assert any(line.startswith("  change    expected a threshold above 0; train that layer again") for line in rest)
    assert "a fault stopped the capture" in result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 100
    found = json.loads(run("diagnose", "nets.py:threshold", *SMALL, "--json").stdout)
    assert (found["complete"], found["samples"], found["file"]) == (False, 0, None)


def test_the_object_that_json_prints(run: Run, nets: Path) -> None:
    result = run("diagnose", "nets.py:dropout", *SMALL, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert sorted(found) == sorted(KEYS)
    assert found["schema"] == "probe-diagnose/1"
    assert (found["model"], found["samples"], found["timesteps"], found["layers"]) == ("nets.py:dropout", 16, 4, 6)
    assert found["complete"]
    assert found["checks"] == [*CHECKS, *(name for name, check in LIVE.items() if not check.repeatable)]
    ranks = [SEVERITIES.index(one["severity"]) for one in found["findings"]]
    assert ranks == sorted(ranks)
    for one in found["findings"]:
        assert list(one) == OF_A_FINDING
        Finding(**one)
    (random_numbers,) = [one for one in found["findings"] if one["check"] == "random"]
    assert (random_numbers["layer"], random_numbers["index"]) == ("body.block2.act", 1)
    assert "dropout in body.block2.norm.1 stays active" in random_numbers["what"]
    assert random_numbers["evidence"]["differing_samples"] == random_numbers["evidence"]["of_samples"] == 8
    of_recording = json.loads(run("diagnose", captured(run), "--json").stdout)
    assert sorted(of_recording) == sorted(KEYS)


def captured(run: Run) -> str:
    assert run("capture", "--samples", 16, "-o", "r.h5").exit_code == 0
    return "r.h5"


def test_a_full_disk_behind_stdout() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "probe", "diagnose", "zoo:digits", "--samples", "10", "-T", "4"], stdout=full,
            stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "%" not in line and line] == [
        "probe: the output cannot be written: no space left on device"
    ]


def test_what_is_said_when_it_is_stopped(tmp_path: Path) -> None:
    def stop(done: int, _of: int) -> None:
        if done == 8:
            signal.raise_signal(signal.SIGINT)

    options = {"data": "digits", "samples": 16, "timesteps": 4, "batch_size": 8, "progress": stop}
    with pytest.raises(Interrupted, match="nothing is kept of 8 of 16 samples") as stopped:
        probe.diagnose("zoo:digits", **options)
    assert "/" not in str(stopped.value)
    with pytest.raises(Interrupted, match=r"kept\.h5 holds 8 of 16 samples"):
        probe.diagnose("zoo:digits", **options, keep=tmp_path / "kept.h5")


def test_fail_on(run: Run, nets: Path) -> None:
    found = json.loads(run("diagnose", "nets.py:skipped", *SMALL, "--json").stdout)
    severities = {one["severity"] for one in found["findings"]}
    assert ("skipped", None) in loud(found)
    assert "error" not in severities
    assert run("diagnose", "nets.py:skipped", *SMALL).exit_code == 0
    assert run("diagnose", "nets.py:skipped", *SMALL, "--fail-on", "warning").exit_code == 1
    assert run("diagnose", "nets.py:skipped", *SMALL, "--fail-on", "note", "--json").exit_code == 1
    assert run("diagnose", "nets.py:skipped", *SMALL, "--fail-on", "nothing").exit_code == 2


def test_a_recording_that_is_kept_says_the_same(run: Run, nets: Path) -> None:
    """But for what only live networks tell; and every line to paste works."""
    result = run("diagnose", "nets.py:dropout", *SMALL, "--keep", "my run.h5", "--json")
    found = json.loads(result.stdout)
    assert found["file"] == "my run.h5"
    again = json.loads(run("diagnose", "my run.h5", "--json").stdout)
    live = {*LIVE, *FAULTS} - {*CHECKS}
    assert again["findings"] == [one for one in found["findings"] if one["check"] not in live]
    assert again["findings"]
    assert (again["samples"], again["model"], again["file"]) == (16, "nets.py:dropout", "my run.h5")
    lines = [one["look"] for one in found["findings"] if one["look"]]
    assert lines
    for line in dict.fromkeys(lines):
        assert "'my run.h5'" in line
        program, *arguments = shlex.split(line)
        assert program == "probe"
        assert run(*arguments).exit_code == 0, line
        for picture in nets.glob("*.png"):
            picture.unlink()
    refused(run("diagnose", "nets.py:dropout", *SMALL, "--keep", "my run.h5"), "my run.h5", "--overwrite")


def test_lines_to_paste_make_the_recording_first(run: Run, nets: Path) -> None:
    found = json.loads(run("diagnose", "nets.py:dropout", *SMALL, "--json").stdout)
    (line,) = {one["look"] for one in found["findings"] if one["check"] == "random"}
    assert line == (
        "probe capture nets.py:dropout --data digits --samples 16 -T 4 -o diagnosed.h5 --overwrite && "
        "probe plot phi diagnosed.h5 --layer 1"
    )
    for command in line.split(" && "):
        assert run(*shlex.split(command)[1:]).exit_code == 0
    # A module has no name that a shell could call, and is drawn once its recording is kept.
    of_module = probe.diagnose(models.dropping(paper_models.merged(), "body.block2.norm", models.Dropping(0.2)),
                               data="digits", samples=16, timesteps=4)  # fmt: skip
    assert {one["look"] for one in of_module["findings"]} == {""}


def test_bad_input_is_told_in_one_line(run: Run, nets: Path) -> None:
    refused(run("diagnose"), "no file recording.h5", "probe capture")
    refused(run("diagnose", "nowhere.h5"), "no file nowhere.h5")
    refused(run("diagnose", "nonsense"), "unknown model 'nonsense'")
    refused(run("diagnose", "nets.py:nothing"), "nothing")
    refused(run("diagnose", "nets.py:healthy", "--data", "folder:nowhere"), "nowhere")
    refused(run("diagnose", "nets.py:healthy"), "comes without images")
    (nets / "r.h5").write_text("no recording")
    refused(run("diagnose", "r.h5"), "no HDF5 file")
    refused(run("diagnose", "r.h5", "-T", 4), "--timesteps with the recording r.h5")
    with pytest.raises(ProbeError, match="samples with a recording"):
        probe.diagnose("r.h5", samples=3)
    with pytest.raises(ProbeError, match="unknown option sample; expected samples"):
        probe.diagnose("zoo:digits", sample=3)


def test_hostile_names_are_printed_harmlessly(run: Run, nets: Path) -> None:
    hostile = "act\x1b[31m\nERROR"
    (nets / "hostile.py").write_text(
        "from torch import nn\nfrom tests import paper_models\n"
        "def make():\n    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        f"    ann.add_module({hostile!r}, paper_models.MyFloor(-1.0, 4))\n"
        "    ann.add_module('last', nn.Linear(10, 10))\n    return ann\n"
    )
    result = run("diagnose", "hostile.py:make", *SMALL)
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "layer act\\x1b[31m\\nERROR" in result.stdout
    assert sum(line.startswith("ERROR") for line in result.stdout.splitlines()) == 1
    found = json.loads(run("diagnose", "hostile.py:make", *SMALL, "--json").stdout)
    assert found["findings"][0]["layer"] == hostile


def test_reading_a_recording_needs_no_torch(full: Path) -> None:
    code = (
        "import sys\nfrom probe.cli import main\n"
        "try:\n    main(['diagnose', sys.argv[1], '--json'])\nexcept SystemExit as end:\n    code = end.code\n"
        "assert code in (0, 1), code\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(full)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 40


# ------------------------------------------------------------------------------------------------- from Python


def test_what_is_a_recording(tmp_path: Path, full: Path) -> None:
    file = tmp_path / "run.hdf"
    file.write_text("")
    (tmp_path / "nets.py").write_text("")
    for target in ("recording.h5", "x.hdf5", Path("anything"), str(file)):
        assert is_recording(target)
    for model in (
        "zoo:digits",
        "nets.py:make",
        str(tmp_path / "nets.py"),
        "no-file",
        nn.ReLU(),
        (nn.ReLU(), nn.ReLU()),
    ):
        assert not is_recording(model)
    with probe.open(full) as recording:
        assert probe.diagnose(recording) == probe.diagnose(full) == probe.diagnose(str(full))


def test_a_network_is_left_as_it_was_found() -> None:
    network = models.dropping(paper_models.merged(), "body.block2.norm", nn.Dropout(0.5)).train()
    network.set_T(3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    states = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
    found = probe.diagnose(network, data="digits", samples=16, timesteps=4)
    assert "random" not in {one["check"] for one in found["findings"]}
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert network.T == 3
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_fault_is_told_beside_what_live_networks_still_show() -> None:
    """Dropout, and a layer with another number of levels than it says: the capture stops, the live checks do not."""
    model = models.other_levels("block4")
    models.dropping(model, "block2.conv", models.Dropping(0.2))
    found = probe.diagnose(model, data="digits", samples=16, timesteps=4)
    assert {("levels-differ", "block4.act"), ("random", "block2.act")} <= set(loud(found))
    assert not found["complete"]
    twice = models.shared(paper_models.stepwise(), ("block3", "block4"))
    models.dropping(twice, "block2.conv", models.Dropping(0.2))
    found = probe.diagnose(twice, data="digits", samples=16, timesteps=4)
    assert {("called-twice", "block3.act"), ("random", "block2.act")} <= set(loud(found))


def test_the_ratio_of_spikes_that_are_not_scaled() -> None:
    found = probe.diagnose(models.scaled_stepwise("block2", 0.7), data="digits", samples=16, timesteps=4)
    (one,) = [one for one in found["findings"] if one["check"] == "not-spikes"]
    assert "every spike has 0.7 times that height" in one["advice"]


def test_spikes_that_only_other_samples_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The survey sees one sample: a spike that is too high only in a batch of several is found by the live check."""
    ann, snn = paper_models.stepwise()
    act: Any = snn.get_submodule("block4.act")
    plain = act.forward
    act.forward = lambda x: plain(x) * (1.3 if len(x) > 1 else 1)
    found = probe.diagnose((ann, snn), data="digits", samples=16, timesteps=4)
    assert ("not-spikes", "block4.act") in loud(found)


def test_a_random_encoding_is_a_warning() -> None:
    class Poisson(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (torch.rand_like(x) < x / x.max()).float()

    network = models.snntorch_network()
    network[0] = nn.Sequential(nn.Flatten(), Poisson())
    found = probe.diagnose(network, data="digits", samples=16, timesteps=4)
    (one,) = [one for one in found["findings"] if one["check"] == "random"]
    assert (one["severity"], one["layer"]) == ("warning", "2")
    assert "rand_like in 0.1" in one["what"]


def test_modules_that_no_forward_runs_are_a_note() -> None:
    network = paper_models.merged()
    network.auxiliary = nn.Linear(3, 4)
    found = probe.diagnose(network, data="digits", samples=16, timesteps=4)
    (one,) = [one for one in found["findings"] if one["check"] == "unused"]
    assert (one["severity"], one["evidence"]) == ("note", {"modules": ["auxiliary"]})


def test_every_fault_is_in_the_table() -> None:
    """The names at the raise sites are those that `FAULTS` explains."""
    named: set[str] = set()
    for file in (ROOT / "probe").rglob("*.py"):
        for line in file.read_text().splitlines():
            if re.search(r'\bfault="', line):
                named |= set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', line))
    assert named == set(FAULTS)
