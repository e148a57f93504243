"""A sweep against captures of each method at each T, its table, its picture and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from torch import nn

import probe
from probe.errors import ProbeError
from probe.intervals import wilson
from probe.methods import METHODS, Parameters
from probe.methods.cos import NEVER, CosNeurons, shifted_start
from probe.study import parse_method, table_grid
from tests import paper_models
from tests.test_cli import ok, refused

Run = Callable[..., Result]
PEAK = "1024 * int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
"""Bytes. What `getrusage` gives begins at the parent's own peak, so that a large parent hides the child."""
LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell a process's peak")
FEW: dict[str, Any] = {"samples": 60, "timesteps": 8, "batch_size": 25}


@pytest.fixture(scope="module")
def swept() -> dict[str, Any]:
    return probe.sweep("zoo:digits", methods=["if", "if@0", "negspike", "srp", "cos"], **FEW)


@pytest.mark.parametrize("text", ["if", "if@0", "negspike", "srp", "cos"])
@pytest.mark.parametrize("t", [1, 2, 4, 8])
def test_every_cell_is_that_of_a_run_of_its_own(swept: dict[str, Any], text: str, t: int, tmp_path: Path) -> None:
    """One run gives every t: accuracy, cases and attribution equal those of a capture made for just that T."""
    row = next(row for row in swept["methods"] if row["method"] == text)
    asked = parse_method(text)
    path = probe.capture(
        neuron=asked.name, initial_potential=0.5 if asked.initial_potential is None else asked.initial_potential,
        samples=60, timesteps=t, batch_size=25, record="stats", output=tmp_path / "r.h5",
    )  # fmt: skip
    with probe.open(path) as recording:
        alone = probe.accuracy(recording)
        assert row["accuracy"][str(t)]["accuracy"] == alone["snn"][str(t)]
        assert swept["ann"]["accuracy"] == alone["ann"]
        table = probe.unevenness(recording)["layers"]
        assert len(table) == len(row["layers"]) == 6
        for layer, expected in zip(row["layers"], table, strict=True):
            here = layer["at"][str(t)]
            for key in ("cases", "local_cases", "offset_spikes", "residual", "count", "firing_rate"):
                assert here[key] == expected[key], key
            if expected["attribution"] is not None:
                assert here["attribution"] == expected["attribution"]
            else:
                assert set(here["attribution"]) == {"total"}


def test_the_shape_of_the_result(swept: dict[str, Any]) -> None:
    assert (swept["schema"], swept["table"], swept["samples"]) == ("probe-sweep/1", [1, 2, 4, 8], 60)
    assert [row["causal"] for row in swept["methods"]] == [True, True, True, True, False]
    # Causal methods have every t, the others those that were run.
    assert list(swept["methods"][0]["accuracy"]) == [str(t) for t in range(1, 9)]
    assert list(swept["methods"][4]["accuracy"]) == ["1", "2", "4", "8"]
    json.dumps(swept, allow_nan=False)
    ann = swept["ann"]
    low, high = wilson(np.array([ann["accuracy"]]), 60)
    assert (ann["low"], ann["high"]) == (low[0], high[0])
    assert ann["low"] < ann["accuracy"] < ann["high"]
    assert all(row["broken"] == [] for row in swept["methods"])
    # v(0) = 0 costs accuracy at small T, as the lab notes say.
    at_one = {row["method"]: row["accuracy"]["1"]["accuracy"] for row in swept["methods"]}
    assert at_one["if@0"] < at_one["if"] <= at_one["srp"]


def test_other_grids_and_layers() -> None:
    assert table_grid(64) == (1, 2, 4, 8, 16, 32, 64)
    assert table_grid(10, (3, 99)) == (1, 2, 3, 4, 8, 10)
    found = probe.sweep(methods=["if"], layers=[0, "hidden.act"], at=[3], **{**FEW, "timesteps": 5})
    assert found["table"] == [1, 2, 3, 4, 5]
    assert [layer["name"] for layer in found["methods"][0]["layers"]] == ["block1.act", "hidden.act"]


def test_a_merged_networks_ann_and_a_relu_network(tmp_path: Path) -> None:
    merged = paper_models.merged()
    found = probe.sweep(merged, data="digits", methods=["if"], **FEW)
    own = probe.sweep(methods=["if"], **FEW)
    assert [one["at"] for one in found["methods"][0]["layers"]] == [one["at"] for one in own["methods"][0]["layers"]]
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    found = probe.sweep(relu, data="digits", methods=["if", "cos"], **FEW)
    assert found["methods"][0]["layers"][0]["levels"] is None
    with pytest.raises(ProbeError, match="unknown option sample; expected samples"):
        probe.sweep(sample=3)
    with pytest.raises(ProbeError, match="--neuron if with neurons of the family qcfs-stepwise"):
        probe.sweep(paper_models.stepwise(), data="digits", methods=["if"], **FEW)


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        (["ifs"], "unknown method 'ifs'; expected one of if, snm, negspike, srp, srp+negspike, cos"),
        (["if@half"], "method 'if@half'; expected NAME@F"),
        ([], "methods none; expected at least one"),
        (["if", "if"], "at least one, each once"),
        (["if@1.5"], "v(0) = 1.5 θ"),
    ],
)
def test_methods_that_are_none(methods: list[str], told: str) -> None:
    with pytest.raises(ProbeError) as raised:
        probe.sweep(methods=methods, **FEW)
    assert told in str(raised.value)


def test_on_the_command_line(run: Run, tmp_path: Path) -> None:
    options = ("-T", 4, "--samples", 30, "--methods", "if,cos")
    result = run("sweep", *options, "--layer", 1, "-t", 2, "-o", "s.png")
    lines = ok(result).splitlines()
    assert lines[1].split() == ["accuracy", "(%)", "T=0", "1", "2", "4"]
    assert [len(line.split()) for line in lines[2:4]] == [5, 4]
    assert "cos: 3 runs of 1, 2, 4 timesteps" in result.stderr
    assert result.stderr.count("time is merged into the batch: T = 4 with 30 samples at once needs up to about") == 1
    assert any(line.split()[:3] == ["1", "block2.act", "cos"] for line in lines)
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(ok(run("sweep", *options, "--json")))["schema"] == "probe-sweep/1"
    assert ok(run("sweep", *options, "--csv")).splitlines()[0] == "method,t,accuracy,low,high"
    of_layers = ok(run("sweep", *options, "--layer", "0:2", "--csv")).splitlines()
    assert of_layers[0].startswith("method,layer,name,t,")
    assert len(of_layers) == 1 + 2 * 2 * 3
    refused(run("sweep", *options, "-t", 3), "t = 3", "one of 1, 2, 4")
    refused(run("sweep", *options, "-o", "s.png"), "s.png exists")
    assert run("sweep", "--neuron", "if").exit_code == 2


@LINUX
@pytest.mark.slow
def test_memory_does_not_grow_with_the_timesteps() -> None:
    """Peak memory of a process at T = 256 is within 1.2 times that at T = 1: what is kept of a neuron is Σx and n."""

    def peak(timesteps: int) -> int:
        code = f"import probe\nprobe.sweep(methods=['if'], samples=50, timesteps={timesteps})\nprint({PEAK})"
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    assert peak(256) <= 1.2 * peak(1)


@LINUX
@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples() -> None:
    """Of the ResNet-20, whose batches are large: 250 more samples than 50 take less than a twenty-fifth more."""
    code = (
        "import numpy as np, probe\n"
        "from probe.data import DataSet\n"
        "noise = np.random.default_rng(0).standard_normal((10, 3, 32, 32), dtype=np.float32)\n"
        "data = DataSet('noise', np.arange(300) % 10, tuple('0123456789'), lambda index: noise[index % 10])\n"
        "peaks = []\n"
        "def note(method, done, of):\n"
        f"    peaks.append({PEAK})\n"
        "probe.sweep('zoo:resnet20-cifar10', methods=['if'], data=data, samples=None, timesteps=4, batch_size=10,\n"
        "    progress=note)\n"
        "print(peaks[4], peaks[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    early, late = map(int, done.stdout.split())
    assert late - early <= 0.04 * early


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["merged", "cos"])
def test_the_memory_that_merged_time_is_said_to_take(kind: str) -> None:
    """From T = 2 to T = 32 a process grows by at most what it says, and by a good part of it."""

    def run(timesteps: int) -> tuple[int, int]:
        code = (
            "import numpy as np\n"
            "from probe import zoo\n"
            "from probe.data import DataSet\n"
            "from probe.session import plan\n"
            "from tests import paper_models as papers\n"
            "body = zoo.load('resnet20-cifar10')\n"
            f"if {kind == 'merged'}:\n"
            "    make = lambda q: papers.MergedIF(q.levels, q.threshold.item())\n"
            "    model, neuron = papers.MergedNetwork(papers.swapped(make, body)).eval(), None\n"
            "else:\n"
            "    model, neuron = body, 'cos'\n"
            "noise = np.random.default_rng(0).standard_normal((10, 3, 32, 32), dtype=np.float32)\n"
            "data = DataSet('noise', np.arange(10), tuple('0123456789'), lambda index: noise[index])\n"
            f"planned = plan(model, data=data, samples=10, timesteps={timesteps}, neuron=neuron, record='stats',\n"
            "    output='x.h5', overwrite=True)\n"
            "planned.run()\n"
            f"print(planned.prepared.merged_bytes(50), {PEAK})"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=folder, env=environment
            )
        said, peak = map(int, done.stdout.split())
        return said, peak

    (said, peak), (said_more, peak_more) = run(2), run(32)
    assert 0.4 * (said_more - said) <= peak_more - peak <= 1.25 * (said_more - said)


def test_what_cos_shifts() -> None:
    """Four neurons by hand, in units of θ: below 0 after a spike, below without one, above θ, inside."""
    v = torch.tensor([-0.2, -0.2, 1.3, 0.4])
    count = torch.tensor([2.0, 0.0, 1.0, 1.0])
    weakest = torch.tensor([2.5, NEVER, 1.1, 1.2])
    strongest = torch.tensor([0.3, 0.1, -0.7, 0.9])
    start = shifted_start(v, count, weakest, strongest, 0.5)
    # 0.5 - (2.5 - 0.999); nothing; 0.5 + (1.001 + 0.7); nothing.
    torch.testing.assert_close(start, torch.tensor([-1.001, 0.5, 2.201, 0.5]))


def test_cos_gives_the_count_of_even_input_where_it_is_one_spike_away() -> None:
    """Spikes came early and inhibition late: 4 · x̄ = 1 asks for one spike, IF gives two, COS one."""
    x = torch.tensor([1.0, 1.0, -0.5, -0.5]).view(4, 1)
    plain = METHODS["if"].neurons(Parameters(4)).make(torch.tensor(1.0))
    assert sum(float(plain(step.view(1, 1))) for step in x) == 2
    neurons = METHODS["cos"].neurons(Parameters(4)).make(torch.tensor(1.0))
    assert isinstance(neurons, CosNeurons)
    assert float(neurons(x).sum()) == 1
    # v(T) = v(0) + Σx - n with v(0) = 0.5 - max(1, 1.5 - 0.999).
    assert neurons.potential is not None
    assert float(neurons.potential) == pytest.approx(0.5 - 1 + 1 - 1)
