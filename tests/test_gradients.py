"""`probe gradients`: each fault is put into one layer of a small network as users write it, and must be named there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import snntorch
import torch
from click.testing import Result
from torch import Tensor, nn
from torch.nn import functional

import probe
from probe.errors import ProbeError
from probe.training import CHECKS
from probe.training.tracing import rewritten, spike_height
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _own_path() -> Iterator[None]:
    """What a user's file puts on the path is taken off again."""
    path = list(sys.path)
    yield
    sys.path[:] = path


SOURCE = """
import torch
from torch import nn
from torch.nn import functional as F


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v, threshold):
        ctx.save_for_backward(v)
        ctx.threshold = threshold
        return (v >= threshold).float()

    @staticmethod
    def backward(ctx, grad_output):
        (v,) = ctx.saved_tensors
        s = torch.sigmoid(5 * (v - ctx.threshold))
        return grad_output * 5 * s * (1 - s), None


class Neuron(nn.Module):
    def __init__(self, threshold=0.5):
        super().__init__()
        self.threshold = threshold

    def forward(self, x, v):
        v = 0.9 * v + x
        spikes = Spike.apply(v, self.threshold)
        return spikes, v - self.threshold * spikes


FAULT


class Net(nn.Module):
    def __init__(self, fault=0, steps=5):
        super().__init__()
        torch.manual_seed(1)
        sizes = (64, 24, 20, 10)
        self.steps = steps
        self.fc = nn.ModuleList(nn.Linear(*pair) for pair in zip(sizes, sizes[1:]))
        for layer in self.fc:
            nn.init.normal_(layer.weight, 0.0, 1 / layer.in_features**0.5)
            nn.init.constant_(layer.bias, 0.3)
        self.n = nn.ModuleList(Bad() if i + 1 == fault else Neuron() for i in range(3))

    def forward(self, x):
        states, out = [0.0, 0.0, 0.0], []
        for _ in range(self.steps):
            s = x.flatten(1)
            for i in range(3):
                s, states[i] = self.n[i](self.fc[i](s), states[i])
            out.append(s)
        return torch.stack(out)
"""


def neuron(lines: str) -> str:
    """A class Bad whose forward makes its spikes otherwise."""
    body = "\n".join(f"        {line}" for line in lines.strip().splitlines())
    return f"class Bad(Neuron):\n    def forward(self, x, v):\n        v = 0.9 * v + x\n{body}\n" + (
        "        return spikes, v - self.threshold * spikes\n"
    )


def function(backward: str, forward: str = "return (v >= threshold).float()") -> str:
    """A class Bad whose neurons use a Function BadSpike with this backward."""
    lines = "\n".join(f"        {line}" for line in backward.strip().splitlines())
    return (
        "class BadSpike(Spike):\n    @staticmethod\n    def forward(ctx, v, threshold):\n"
        "        ctx.save_for_backward(v)\n        ctx.threshold = threshold\n"
        f"        {forward}\n\n    @staticmethod\n    def backward(ctx, grad_output):\n"
        f"        (v,) = ctx.saved_tensors\n{lines}\n\n\n" + neuron("spikes = BadSpike.apply(v, self.threshold)")
    )


def write(folder: Path, fault: str = "Bad = Neuron", name: str = "net.py") -> str:
    (folder / name).write_text(SOURCE.replace("FAULT", fault))
    return f"{name}:Net"


def told(run: Run, *arguments: Any) -> dict[str, Any]:
    result = run("gradients", *arguments, "--json")
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == any(one["severity"] == "error" for one in found["findings"])
    return found


def of(found: dict[str, Any], *checks: str) -> list[dict[str, Any]]:
    return [one for one in found["findings"] if one["check"] in checks]


def serious(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in found["findings"] if one["severity"] != "note"]


def only(found: dict[str, Any], *checks: str) -> dict[str, Any]:
    """The one finding that is worse than a note."""
    assert [one["check"] for one in serious(found)] == list(checks), serious(found)
    return serious(found)[0]


# ------------------------------------------------------------------------------------------------ healthy networks


def test_a_healthy_network_of_ones_own(run: Run, tmp_path: Path) -> None:
    found = told(run, write(tmp_path), "--data", "digits")
    assert serious(found) == []
    assert found["schema"] == "probe-gradients/1"
    assert [row["name"] for row in found["layers"]] == ["n.0", "n.1", "n.2"]
    for row in found["layers"]:
        assert row["calls"] == 5 == len(row["gradient_norms"])
        assert 0.05 < row["firing_rate"] < 0.95
        assert row["gradient_norm"] == pytest.approx(sum(norm**2 for norm in row["gradient_norms"]) ** 0.5)
        assert row["surrogate"]["switch"] == pytest.approx(0.5, abs=0.01)
        assert row["surrogate"]["peak_at"] == pytest.approx(0.5, abs=0.05)
        assert row["surrogate"]["peak"] == pytest.approx(1.25, rel=0.01)
    assert "summed over axis 0, (time = 5, sample, 10 classes)" in found["loss_is"]
    assert all(one["gradient_norm"] > 0 for one in found["parameters"])


SNNTORCH = '''
import torch
import snntorch as snn
from snntorch import surrogate, utils
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """12C5-MP2-64C5-MP2-1024FC10 with explicit potentials."""

    def __init__(self, num_steps=5):
        super().__init__()
        torch.manual_seed(0)
        grad = surrogate.fast_sigmoid(slope=25)
        self.num_steps = num_steps
        self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), snn.Leaky(beta=0.5, spike_grad=grad)
        self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), snn.Leaky(beta=0.5, spike_grad=grad)
        self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), snn.Leaky(beta=0.5, spike_grad=grad)

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        for step in range(self.num_steps):
            spk1, mem1 = self.lif1(F.max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(F.max_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


def sequential():
    torch.manual_seed(0)
    hidden = dict(beta=0.5, spike_grad=surrogate.fast_sigmoid(slope=25), init_hidden=True)
    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), snn.Leaky(**hidden), nn.Conv2d(12, 64, 5), nn.MaxPool2d(2),
        snn.Leaky(**hidden), nn.Flatten(), nn.Linear(64 * 4 * 4, 10), snn.Leaky(**hidden, output=True),
    )


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), snn.Leaky(beta=0.9, init_hidden=True), nn.Linear(32, 10),
            snn.Leaky(beta=0.9, init_hidden=True),
        )

    def forward(self, x):
        return torch.stack([self.net(x) for _ in range(4)])


def mem_loss(outputs, labels):
    spikes, mem = outputs
    return sum(F.cross_entropy(one, labels) for one in mem)
'''


def test_the_tutorial_network_in_both_of_its_styles(run: Run, tmp_path: Path, shared_data: Path) -> None:
    """Field notes, part B: an untrained loss of about 2.303, and nothing to complain of."""
    (tmp_path / "tutorial.py").write_text(SNNTORCH)
    data = ("--data", "mnist", "--data-root", shared_data, "--samples", 16)
    for name, more in (("Net", ()), ("sequential", ("-T", 5)), ("Net", ("--loss", "tutorial.py:mem_loss"))):
        found = told(run, f"tutorial.py:{name}", *data, *more)
        assert serious(found) == []
        assert found["loss"] / (5 if more[:1] == ("--loss",) else 1) == pytest.approx(2.303, abs=0.05)
        assert found["family"] == "snntorch"
        assert [row["calls"] for row in found["layers"]] == [5, 5, 5]
        assert [row["neurons"] for row in found["layers"]] == [1728, 1024, 10]
    result = run("gradients", "tutorial.py:Net", *data)
    assert "no error and no warning" in result.stdout


JELLY = """
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn


def net(mode="s", surrogate_function=surrogate.ATan(), kind=neuron.LIFNode):
    torch.manual_seed(0)
    made = lambda: kind(surrogate_function=surrogate_function, step_mode=mode)
    linear = (layer.Linear(64, 40, step_mode=mode), layer.Linear(40, 10, step_mode=mode))
    with torch.no_grad():
        for one in linear:
            one.bias.fill_(1.0)
    return nn.Sequential(layer.Flatten(step_mode=mode), linear[0], made(), linear[1], made())


class Repeats(nn.Module):
    def __init__(self, mode="m"):
        super().__init__()
        self.mode, self.net = mode, net(mode)

    def forward(self, x):
        if self.mode == "m":
            return self.net(x.unsqueeze(0).repeat(5, 1, 1, 1, 1)).mean(0)
        return sum(self.net(x) for _ in range(5)) / 5


def soft():
    made = net()
    for one in made.modules():
        if hasattr(one, "spiking"):
            one.set_spiking_mode(False)
    return made


def narrow():
    made = net()
    made[4].surrogate_function = surrogate.Sigmoid(alpha=3000.0)
    return made
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("net", ("-T", 5)), ("net", ("-T", 5, "--model-arg", "mode=m")), ("Repeats", ()),
     ("Repeats", ("--model-arg", "mode=s"))],
)  # fmt: skip
def test_a_healthy_network_of_spikingjelly(name: str, arguments: tuple[Any, ...], run: Run, tmp_path: Path) -> None:
    (tmp_path / "jelly.py").write_text(JELLY)
    found = told(run, f"jelly.py:{name}", "--data", "digits", *arguments)
    assert serious(found) == []
    assert [row["calls"] for row in found["layers"]] == [5, 5]
    assert [row["neurons"] for row in found["layers"]] == [40, 10]
    assert all(row["firing_rate"] > 0.02 for row in found["layers"])
    # The state is kept until the user's loop resets it, and how is said.
    said = json.dumps([found["notes"], of(found, "state-kept")])
    assert "functional.reset_net(net)" in said


@pytest.mark.parametrize("name", ["Sigmoid", "SoftSign", "LeakyKReLU", "PiecewiseQuadratic", "NonzeroSignLogAbs"])
def test_the_surrogates_of_spikingjelly_are_centred(name: str, tmp_path: Path) -> None:
    from spikingjelly.activation_based import surrogate

    made: dict[str, Any] = {}
    exec(JELLY, made)
    network = made["net"](surrogate_function=getattr(surrogate, name)())
    found = probe.gradients(network, data="digits", timesteps=4)
    assert of(found, "surrogate-centre") == []


@pytest.mark.parametrize(
    "name",
    ["atan", "fast_sigmoid", "sigmoid", "triangular", "straight_through_estimator"],
)
def test_the_surrogates_of_snntorch_are_centred(name: str) -> None:
    torch.manual_seed(0)
    made = getattr(snntorch.surrogate, name)()
    leaky = {"beta": 0.9, "threshold": 0.3, "spike_grad": made, "init_hidden": True}
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), snntorch.Leaky(**leaky), nn.Linear(30, 10), snntorch.Leaky(**leaky)
    )
    found = probe.gradients(network, data="digits", timesteps=5)
    assert of(found, "surrogate-centre", "gradient-shape", "graph-cut") == []
    assert all(row["calls"] == 5 for row in found["layers"])


@pytest.mark.parametrize("name", ["spike_rate_escape", "SFS"])
def test_two_surrogates_of_snntorch_are_centred_1_above_the_threshold(name: str) -> None:
    """Their backward says |U - 1| and U > 1, and is given U - θ: what autograd gives is told, whoever wrote it."""
    made = getattr(snntorch.surrogate, name)()
    leaky = {"beta": 0.9, "threshold": 0.3, "spike_grad": made, "init_hidden": True}
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snntorch.Leaky(**leaky))
    (one,) = of(probe.gradients(network, data="digits", timesteps=5), "surrogate-centre")
    assert one["evidence"]["largest derivative at"] == pytest.approx(1, abs=0.05)
    assert one["evidence"]["spikes set in at"] == pytest.approx(0, abs=0.01)


def test_a_healthy_network_of_sinabs() -> None:
    from sinabs import layers

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 30), layers.IAF(), nn.Linear(30, 10), layers.IAF()
    )  # fmt: skip
    with torch.no_grad():
        for one in (network[1], network[3]):
            one.weight.uniform_(-0.1, 0.3)
    found = probe.gradients(network, data="digits", timesteps=5)
    assert serious(found) == []
    assert found["family"] == "sinabs"


# ---------------------------------------------------------------------------------------------- the graph is cut


CUTS = {
    "comparison": ("spikes = (v >= self.threshold).float()", "comparison", "spike(v - self.threshold)"),
    "strict, to": ("spikes = (v > self.threshold).to(v.dtype)", "comparison", "spike(v - self.threshold)"),
    "where": ("spikes = torch.where(v < self.threshold, 0.0, 1.0)", "comparison", "spike("),
    "torch.ge": ("spikes = torch.ge(v, self.threshold).type(torch.float32)", "comparison", "spike(v - self.threshold)"),
    "times one": ("spikes = (v >= self.threshold) * 1.0", "comparison", "spike("),
    "sign": ("spikes = (torch.sign(v - self.threshold) + 1) / 2", "flat", "surrogate"),
    "detach": ("spikes = Spike.apply(v, self.threshold).detach()", "detach", "Spike.apply(v, self.threshold)`"),
    "data": ("spikes = Spike.apply(v, self.threshold).data", "data", "Spike.apply(v, self.threshold)`"),
    "no_grad": ("with torch.no_grad():\n    spikes = Spike.apply(v, self.threshold)", "no_grad", "torch.no_grad()"),
    "int": ("spikes = Spike.apply(v, self.threshold).int().float()", "whole numbers", "floating-point"),
    "tolist": ("spikes = torch.tensor(Spike.apply(v, self.threshold).tolist())", "leaves torch", "a tensor until"),
}


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("name", CUTS)
def test_a_cut_is_named_with_its_layer_line_and_fix(name: str, layer: int, run: Run, tmp_path: Path) -> None:
    lines, kind, fix = CUTS[name]
    model = write(tmp_path, neuron(lines))
    found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
    (one,) = of(found, "graph-cut")
    assert one["severity"] == "error"
    assert (one["layer"], one["evidence"]["kind"]) == (f"n.{layer - 1}", kind)
    line = lines.splitlines()[0]
    assert one["evidence"]["source"] == line
    assert one["evidence"]["line"] == f"net.py:{line_of(tmp_path, line)}"
    assert f"`{line}`" in one["what"]
    assert fix in one["advice"]
    # Everything up to the layer, and nothing behind it.
    expected = [f"fc.{i}.{what}" for i in range(layer) for what in ("weight", "bias")]
    assert sorted(one["evidence"]["without gradient"]) == sorted(expected)
    assert ("error" in one["evidence"]) == (layer == 3 and kind != "flat")


def line_of(folder: Path, text: str) -> int:
    lines = (folder / "net.py").read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip() == text)


def test_a_cut_that_leaves_another_way_is_none(run: Run, tmp_path: Path) -> None:
    """The reset and the state are detached on purpose, an accuracy is logged; all parameters get their gradient."""
    lines = "spikes = Spike.apply(v, self.threshold)\nself.rate = (v >= self.threshold).float().mean().item()\n"
    fault = neuron(lines).replace("self.threshold * spikes\n", "self.threshold * spikes.detach()\n")
    for fault_text in (fault, neuron("spikes = Spike.apply(v, self.threshold)\nv = v.detach()")):
        found = told(run, write(tmp_path, fault_text), "--data", "digits", "--model-arg", "fault=2")
        assert serious(found) == []


def test_a_straight_through_detour_is_no_cut(run: Run, tmp_path: Path) -> None:
    """s + (spikes − s).detach() spikes and has the sigmoid's derivative; its surrogate is measured too."""
    lines = "soft = torch.sigmoid(5 * (v - {}))\nhard = (v >= self.threshold).float()\n"
    lines += "spikes = soft + (hard - soft).detach()"
    for centre, serious_ones in (("self.threshold", []), ("self.threshold - 1.5", ["surrogate-centre"])):
        fault = neuron(lines.format(centre))
        (tmp_path / "net.py").unlink(missing_ok=True)
        name = f"ste{len(serious_ones)}.py"
        found = told(run, write(tmp_path, fault, name), "--data", "digits", "--model-arg", "fault=2")
        assert [one["check"] for one in serious(found)] == serious_ones
        row = found["layers"][1]
        assert row["name"] == "n.1"
        assert row["gradient_norm"] > 0


NETS_OWN = '''
import torch
from torch import nn


class Atan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return (x > 0).float()

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output / (1 + (3 * x) ** 2)


fire = Atan.apply


class Net(nn.Module):
    """Neurons in the forward itself."""

    def __init__(self, fault=0):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(64, 32), nn.Linear(32, 10)
        self.fault = fault

    def forward(self, x):
        v1 = v2 = 0
        out = []
        for _ in range(4):
            v1 = v1 + 3 * self.fc1(x.flatten(1))
            s1 = (v1 > 1.0).float() if self.fault == 1 else fire(v1 - 1.0)
            v1 = v1 - s1
            v2 = v2 + 3 * self.fc2(s1)
            s2 = (v2 > 1.0).float() if self.fault == 2 else fire(v2 - 1.0)
            v2 = v2 - s2
            out.append(s2)
        return torch.stack(out, 1)
'''


@pytest.mark.parametrize("fault", [0, 1, 2])
def test_neurons_in_the_networks_own_forward(fault: int, run: Run, tmp_path: Path) -> None:
    """Layers are named after the weights before them; a Function that was bound at import is followed too."""
    (tmp_path / "own.py").write_text(NETS_OWN)
    found = told(run, "own.py:Net", "--data", "digits", "--model-arg", f"fault={fault}")
    assert [row["name"] for row in found["layers"]] == ["fc1", "fc2"]
    assert "summed over axis 1, (sample, time = 4, 10 classes)" in found["loss_is"]
    if not fault:
        assert serious(found) == []
        return
    (one,) = of(found, "graph-cut")
    assert one["layer"] == f"fc{fault}"
    assert f"after fc{fault}" in one["what"]
    assert f"s{fault} = (v{fault} > 1.0).float()" in one["what"]


def test_frozen_parameters(run: Run, tmp_path: Path) -> None:
    text = SOURCE.replace("FAULT", "Bad = Neuron")
    (tmp_path / "frozen.py").write_text(
        text + "\n\ndef all_frozen():\n    return Net().requires_grad_(False)\n\n\n"
        "def first_frozen():\n    net = Net()\n    net.fc[0].requires_grad_(False)\n    return net\n"
    )
    one = only(told(run, "frozen.py:all_frozen", "--data", "digits"), "frozen")
    assert one["severity"] == "error"
    assert "requires_grad_(True)" in one["advice"]
    found = told(run, "frozen.py:first_frozen", "--data", "digits")
    assert serious(found) == []
    (note,) = of(found, "frozen")
    assert (note["severity"], note["layer"]) == ("note", "fc.0")
    assert note["evidence"]["frozen"] == ["fc.0.weight", "fc.0.bias"]


def test_a_loss_that_cuts(run: Run, tmp_path: Path) -> None:
    model = write(tmp_path)
    (tmp_path / "loss.py").write_text(
        "from torch.nn import functional as F\n\n\n"
        "def argmax(outputs, labels):\n    return (outputs.sum(0).argmax(1) != labels).float().mean()\n\n\n"
        "def detached(outputs, labels):\n    counts = outputs.sum(0).detach()\n"
        "    return F.cross_entropy(counts, labels)\n\n\n"
        "def number(outputs, labels):\n    return 1.0\n"
    )
    for name, line in (("argmax", "outputs.sum(0).argmax(1)"), ("detached", "outputs.sum(0).detach()")):
        found = told(run, model, "--data", "digits", "--loss", f"loss.py:{name}")
        (one,) = of(found, "graph-cut")
        assert one["layer"] is None
        assert one["what"].startswith("the loss cuts")
        assert line in one["evidence"]["source"]
    result = run("gradients", model, "--data", "digits", "--loss", "loss.py:number")
    assert result.exit_code == 2
    assert "loss.py:number returned 1.0; expected a function of (outputs, labels)" in result.stderr


# ------------------------------------------------------------------------------------------- the stories of the notes


STORY = """
import torch
from torch import nn
from torch.nn import functional as F


class IntegrateAndFireNeuron(nn.Module):
    def __init__(self, threshold=1.0):
        super(IntegrateAndFireNeuron, self).__init__()
        self.threshold = threshold
        self.membrane_potential = None

    def reset(self):
        self.membrane_potential = None

    def forward(self, x):
        if self.membrane_potential is None:
            self.membrane_potential = torch.zeros_like(x)
        membrane_potential = self.membrane_potential + x
        spike = FIRE
        self.membrane_potential = membrane_potential - spike * self.threshold
        return spike


class SpikeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, membrane_potential, threshold):
        ctx.save_for_backward(membrane_potential)
        return (membrane_potential >= threshold).float()

    @staticmethod
    def backward(ctx, grad_output):
        (membrane_potential,) = ctx.saved_tensors
        sigmoid = torch.sigmoid(10 * (membrane_potential - 1))
        return grad_output * 10 * sigmoid * (1 - sigmoid), None


class Net(nn.Module):
    def __init__(self, threshold=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.neuron1 = nn.Linear(64, 40), IntegrateAndFireNeuron(threshold)
        self.fc2, self.neuron2 = nn.Linear(40, 10), IntegrateAndFireNeuron(threshold)
        with torch.no_grad():
            self.fc1.bias.fill_(0.2)
            self.fc2.weight.uniform_(-0.1, 0.3)

    def forward(self, x):
        RESET
        out = []
        for t in range(6):
            out.append(self.neuron2(self.fc2(self.neuron1(self.fc1(x.flatten(1))))))
        return torch.stack(out, dim=1)


class Wrong(nn.Module):
    def __init__(self):
        super(IntegrateAndFireNeuron, self).__init__()
        self.fc = nn.Linear(64, 10)


class Unknown(nn.Module):
    def __init__(self):
        super(SpikingNet, self).__init__()


class Missing(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(64, 10)


def spike_loss(outputs, labels):
    return F.cross_entropy(outputs.sum(dim=1), labels)
"""
BARE = "(membrane_potential >= self.threshold).float()"


WHOLE = """
import snntorch
import torch
from torch import nn


class IntegrateAndFireNeuron(nn.Module):
    def __init__(self, threshold=1.0, bare=False):
        super().__init__()
        self.threshold, self.bare, self.spike = threshold, bare, snntorch.surrogate.atan()

    def forward(self, x):
        membrane_potential = torch.zeros_like(x[:, 0])
        spikes = []
        for t in range(x.shape[1]):
            membrane_potential = membrane_potential + x[:, t]
            if self.bare:
                spike = (membrane_potential >= self.threshold).float()
            else:
                spike = self.spike(membrane_potential - self.threshold)
            membrane_potential = membrane_potential - spike.detach() * self.threshold
            spikes.append(spike)
        return torch.stack(spikes, dim=1)


class Net(nn.Module):
    def __init__(self, bare=False):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.neuron1 = nn.Linear(64, 40), IntegrateAndFireNeuron()
        self.fc2, self.neuron2 = nn.Linear(40, 10), IntegrateAndFireNeuron(bare=bare)

    def forward(self, x):
        x = x.flatten(1).unsqueeze(1).repeat(1, 6, 1)
        return self.neuron2(self.fc2(self.neuron1(self.fc1(x))))
"""


def story(folder: Path, fire: str, name: str, reset: str = "self.neuron1.reset(), self.neuron2.reset()") -> str:
    (folder / name).write_text(STORY.replace("FIRE", fire).replace("RESET", reset))
    return name


def test_the_error_that_everybody_meets(run: Run, tmp_path: Path) -> None:
    file = story(tmp_path, BARE, "story.py")
    namespace: dict[str, Any] = {}
    exec((tmp_path / file).read_text(), namespace)
    with pytest.raises(RuntimeError) as met:
        namespace["spike_loss"](namespace["Net"]()(torch.rand(3, 1, 8, 8)), torch.zeros(3).long()).backward()
    result = run("gradients", f"{file}:Net", "--data", "digits", "--loss", f"{file}:spike_loss")
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert str(met.value) in text
    assert "layer neuron1 cuts the gradient off (and in neuron2)" in text
    assert f"`spike = {BARE}` (story.py:20)" in text
    assert "`spike = surrogate(membrane_potential - self.threshold)`" in text
    found = told(run, f"{file}:Net", "--data", "digits")
    one = only(found, "graph-cut")
    assert one["evidence"]["layers"] == ["neuron1", "neuron2"]
    assert (one["layer"], one["index"]) == ("neuron1", 0)


def test_the_advice_works(run: Run, tmp_path: Path) -> None:
    """What is advised is written, and nothing is left to complain of."""
    fixed = rewritten(f"spike = {BARE}", "surrogate")
    file = story(tmp_path, fixed.removeprefix("spike = "), "fixed.py")
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text("import snntorch\n" + text + "\n\nsurrogate = snntorch.surrogate.atan()\n")
    assert serious(told(run, f"{file}:Net", "--data", "digits")) == []


def test_the_sigmoid_that_returns_a_rate(run: Run, tmp_path: Path) -> None:
    file = story(tmp_path, "torch.sigmoid(10 * (membrane_potential - self.threshold))", "rate.py")
    found = told(run, f"{file}:Net", "--data", "digits")
    assert {one["check"] for one in serious(found)} == {"smooth-forward"}
    assert [one["layer"] for one in serious(found)] == ["neuron1", "neuron2"]
    for one in serious(found):
        assert one["evidence"]["share not 0 or θ"] > 0.5
        assert "% of its outputs are neither 0 nor θ" in one["what"]
        assert "(rate.py:20)" in one["what"]


@pytest.mark.parametrize(("threshold", "severity"), [(1.0, None), (0.5, "error"), (0.7, "warning"), (2.0, "error")])
def test_the_function_centred_at_1_whatever_the_threshold_is(
    threshold: float, severity: str | None, run: Run, tmp_path: Path
) -> None:
    """σ' of slope 10 at distance d from its centre is 4·σ(10d)·(1 − σ(10d)) of its peak: 0.027 at 0.5, 0.18 at 0.3."""
    file = story(tmp_path, "SpikeFunction.apply(membrane_potential, self.threshold)", "custom.py")
    found = told(run, f"{file}:Net", "--data", "digits", "--model-arg", f"threshold={threshold}")
    told_of = of(found, "surrogate-centre")
    assert [one["layer"] for one in told_of] == (["neuron1", "neuron2"] if severity else [])
    for one in told_of:
        assert one["severity"] == severity
        assert one["evidence"]["spikes set in at"] == pytest.approx(threshold, abs=0.01)
        assert one["evidence"]["largest derivative at"] == pytest.approx(1, abs=0.02)
        sigma = 1 / (1 + 2.718281828 ** (-10 * (threshold - 1)))
        share = one["evidence"]["share of it where spikes set in"]
        assert share == pytest.approx(4 * sigma * (1 - sigma), rel=0.1)
        assert "v - threshold" in one["advice"]
        assert f"({one['evidence']['line']})" in one["what"]
        assert one["evidence"]["line"].startswith("custom.py:")


@pytest.mark.parametrize("fire", ["SpikeFunction.apply(membrane_potential, self.threshold)"])
def test_a_state_that_is_never_reset(fire: str, run: Run, tmp_path: Path) -> None:
    """The second batch goes back into the first; with a reset that ends it, which the loop may call, it is milder."""
    file = story(tmp_path, fire, "kept.py", reset="pass")
    found = told(run, f"{file}:Net", "--data", "digits")
    (one,) = of(found, "state-kept")
    assert (one["severity"], one["layer"]) == ("warning", "neuron1")
    assert "neuron1.reset() and the others" in one["advice"]
    assert "Trying to backward through the graph a second time" in one["evidence"]["error"]
    without = (tmp_path / file).read_text().replace("def reset(self)", "def forget(self)")
    (tmp_path / "never.py").write_text(without)
    (one,) = of(told(run, "never.py:Net", "--data", "digits"), "state-kept")
    assert one["severity"] == "error"
    assert one["evidence"]["kept"] == ["neuron1.membrane_potential", "neuron2.membrane_potential"]


def test_a_state_that_begins_anew_in_each_call(run: Run, tmp_path: Path) -> None:
    fire = "SpikeFunction.apply(membrane_potential, self.threshold)"
    file = story(tmp_path, fire, "anew.py")
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace("if self.membrane_potential is None:", "if True:"))
    found = told(run, f"{file}:Net", "--data", "digits")
    assert [(one["layer"], one["severity"]) for one in of(found, "state-lost")] == [
        ("neuron1", "warning"), ("neuron2", "warning"),
    ]  # fmt: skip
    twin = story(tmp_path, fire, "twin.py")
    assert serious(told(run, f"{twin}:Net", "--data", "digits")) == []


def test_a_layer_with_the_whole_loop_in_its_forward_may_begin_anew(run: Run, tmp_path: Path) -> None:
    """One call has all timesteps in it, and the potential starts from zeros in each."""
    (tmp_path / "whole.py").write_text(WHOLE)
    found = told(run, "whole.py:Net", "--data", "digits")
    assert serious(found) == []
    assert [(row["name"], row["calls"]) for row in found["layers"]] == [("neuron1", 6), ("neuron2", 6)]
    found = told(run, "whole.py:Net", "--data", "digits", "--model-arg", "bare=True")
    (one,) = of(found, "graph-cut")
    assert one["evidence"]["layers"] == ["neuron2"]


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [("Wrong", "TypeError", "super(IntegrateAndFireNeuron, self).__init__()"),
     ("Unknown", "NameError", "super(SpikingNet, self).__init__()"),
     ("Missing", "AttributeError", "self.fc = nn.Linear(64, 10)")],
)  # fmt: skip
def test_a_super_that_names_another_class(name: str, error: str, line: str, run: Run, tmp_path: Path) -> None:
    file = story(tmp_path, BARE, "classes.py")
    result = run("gradients", f"{file}:{name}", "--data", "digits")
    assert result.exit_code == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("probe: ")
    assert f"{tmp_path / file}, line " in last
    assert line in last
    assert error in last
    assert "write super().__init__()" in last


# --------------------------------------------------------------------------------------------- surrogates used wrongly


def centred(at: str) -> str:
    return f"s = torch.sigmoid(5 * (v - {at}))\nreturn grad_output * 5 * s * (1 - s), None"


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_surrogate_off_the_threshold(layer: int, run: Run, tmp_path: Path) -> None:
    found = told(run, write(tmp_path, function(centred("1.5"))), "--data", "digits", "--model-arg", f"fault={layer}")
    (one,) = of(found, "surrogate-centre")
    assert (one["layer"], one["index"]) == (f"n.{layer - 1}", layer - 1)
    assert one["evidence"]["spikes set in at"] == pytest.approx(0.5, abs=0.01)
    assert one["evidence"]["largest derivative at"] == pytest.approx(1.5, abs=0.02)
    assert of(told(run, write(tmp_path, function(centred("ctx.threshold")), "twin.py"), "--data", "digits",
                   "--model-arg", f"fault={layer}"), "surrogate-centre") == []  # fmt: skip


NARROW = {
    "window": "return grad_output * ((v - ctx.threshold).abs() < 1e-6), None",
    "slope": "return grad_output / (1 + 1e5 * (v - ctx.threshold).abs()) ** 2, None",
    "wide": "return grad_output * ((v - ctx.threshold).abs() < 1.0), None",
}


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("name", NARROW)
def test_a_surrogate_that_is_too_narrow(name: str, layer: int, run: Run, tmp_path: Path) -> None:
    model = write(tmp_path, function(NARROW[name]))
    found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
    told_of = of(found, "surrogate-window")
    if name == "wide":
        assert serious(found) == []
        return
    assert [one["layer"] for one in told_of] == [f"n.{layer - 1}"]
    assert told_of[0]["severity"] in ("warning", "error")
    assert told_of[0]["evidence"]["active share"] < 0.005


def test_a_narrow_surrogate_of_a_package(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jelly.py").write_text(JELLY)
    found = told(run, "jelly.py:narrow", "--data", "digits", "-T", 4)
    (one,) = of(found, "surrogate-window")
    assert (one["layer"], one["look"]) == ("4", "probe surrogate 'spikingjelly:Sigmoid(alpha=3000.0)'")
    torch.manual_seed(0)
    steep = snntorch.surrogate.fast_sigmoid(slope=1e5)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), snntorch.Leaky(beta=0.9, spike_grad=steep, init_hidden=True),
        nn.Linear(30, 10), snntorch.Leaky(beta=0.9, init_hidden=True),
    )  # fmt: skip
    (one,) = of(probe.gradients(network, data="digits", timesteps=4), "surrogate-window")
    assert (one["layer"], one["severity"]) == ("2", "warning")
    assert one["look"] == "probe surrogate 'snntorch:FastSigmoid(100000.0)'"
    assert run(*shlex.split(one["look"])[1:]).exit_code == 0


SMOOTH = {
    "sigmoid": neuron("spikes = torch.sigmoid(10 * (v - self.threshold))"),
    "function": function(centred("ctx.threshold"), "return torch.sigmoid(5 * (v - threshold))"),
    "by hand": neuron("spikes = 1 / (1 + torch.exp(-5 * (v - self.threshold)))"),
}


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_function_in_the_forward(name: str, layer: int, run: Run, tmp_path: Path) -> None:
    model = write(tmp_path, SMOOTH[name])
    found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
    one = only(found, "smooth-forward")
    assert one["layer"] == f"n.{layer - 1}"
    assert one["evidence"]["share not 0 or θ"] > 0.3


def test_a_package_that_was_told_not_to_spike(run: Run, tmp_path: Path) -> None:
    (tmp_path / "jelly.py").write_text(JELLY)
    found = told(run, "jelly.py:soft", "--data", "digits", "-T", 4)
    assert {one["check"] for one in serious(found)} == {"smooth-forward"}
    assert [one["layer"] for one in serious(found)] == ["2", "4"]


BACKWARDS = {
    "raises": ("return grad_output * slope(v), None", "NameError: name 'slope' is not defined"),
    "shape": ("return (grad_output * 2)[:, :1], None", "of shape (32, 1), and its input has (32, {})"),
    "device": ("return grad_output.to('meta'), None", "on meta, and its input is on cpu"),
    "count": ("return grad_output", "gives 1 gradients for 2 inputs"),
    "array": ("return grad_output.numpy(), None", "returns a ndarray as gradient 0"),
}


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("name", BACKWARDS)
def test_a_backward_that_fails(name: str, layer: int, run: Run, tmp_path: Path) -> None:
    """What autograd says of it names neither layer nor line."""
    backward, expected = BACKWARDS[name]
    model = write(tmp_path, function(backward))
    found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
    one = only(found, "backward-fails")
    assert one["layer"] == f"n.{layer - 1}"
    assert one["evidence"]["function"] == "BadSpike"
    assert expected.format((24, 20, 10)[layer - 1]) in one["what"]
    assert re.search(r"net\.py:\d+", one["evidence"]["line"])
    if name == "raises":
        assert f"`{backward}` ({one['evidence']['line']})" in one["what"]
    assert found["backward"] != "done"


SILENT = {
    "summed": ("return grad_output.expand(2, *v.shape), None", "autograd sums up without a word", "warning"),
    "none": ("return None, None", "returns None for the potential", "error"),
    "ignored": ("return torch.ones_like(v), None", "the same for every grad_output", "error"),
}


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", SILENT)
def test_a_backward_that_autograd_takes_though_it_is_wrong(name: str, layer: int, run: Run, tmp_path: Path) -> None:
    backward, expected, severity = SILENT[name]
    model = write(tmp_path, function(backward))
    found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
    (one,) = of(found, "gradient-shape", "gradient-ignored")
    assert (one["layer"], one["severity"]) == (f"n.{layer - 1}", severity)
    assert expected in one["what"]


def test_heaviside_has_no_derivative(run: Run, tmp_path: Path) -> None:
    line = "spikes = torch.heaviside(v - self.threshold, torch.ones(()))"
    for layer in (1, 3):
        model = write(tmp_path, neuron(line))
        found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
        one = only(found, "graph-cut")
        assert one["layer"] == f"n.{layer - 1}"
        assert line in one["what"]


def test_a_potential_that_is_changed_in_place(run: Run, tmp_path: Path) -> None:
    """Spike keeps v for its backward, and v loses its threshold afterwards; a copy that is changed does no harm."""
    for layer in (1, 3):
        line = "v -= self.threshold * spikes"
        fault = neuron(f"spikes = Spike.apply(v, self.threshold)\n{line}\nreturn spikes, v")
        found = told(run, write(tmp_path, fault), "--data", "digits", "--model-arg", f"fault={layer}")
        one = only(found, "backward-fails")
        assert one["layer"] == f"n.{layer - 1}"
        assert f"`{line}` (net.py:{line_of(tmp_path, line)})" in one["what"]
        twin = write(tmp_path, fault.replace("v, self.threshold)", "v.clone(), self.threshold)"), "twin.py")
        assert serious(told(run, twin, "--data", "digits", "--model-arg", f"fault={layer}")) == []


def test_a_package_without_its_surrogate() -> None:
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "init_hidden": True}
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), snntorch.Leaky(**leaky, surrogate_disable=True), nn.Linear(30, 10),
        snntorch.Leaky(**leaky),
    )  # fmt: skip
    found = probe.gradients(network, data="digits", timesteps=4)
    one = only(found, "graph-cut")
    assert one["layer"] == "2"
    assert "spike_grad" in one["advice"]
    assert [row["calls"] for row in found["layers"]] == [4, 4]


# ------------------------------------------------------------------------------------------------ flow of gradients


SCALED = "class Bad(Neuron):\n    def forward(self, x, v):\n        return super().forward({}, v)\n"


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_dead_neurons(layer: int, run: Run, tmp_path: Path) -> None:
    """Half of the layer is held far below the threshold, then all of it."""
    for share, severity in ((0.5, "warning"), (1.0, "error")):
        fed = f"x - 100.0 * (torch.arange(x.shape[1]) < {share} * x.shape[1])"
        model = write(tmp_path, SCALED.format(fed), f"dead{severity}.py")
        found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
        (one,) = [one for one in of(found, "dead-neurons") if one["layer"] == f"n.{layer - 1}"]
        # Of the last layer of a network that is not trained half is not much.
        assert one["severity"] == ("note" if layer == 3 and share < 1 else severity)
        assert one["evidence"]["dead share"] == pytest.approx(share)


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize(("factor", "check"), [("1e-9", "vanishing-gradient"), ("1e9", "exploding-gradient")])
def test_gradients_that_vanish_or_explode_over_layers(
    factor: str, check: str, layer: int, run: Run, tmp_path: Path
) -> None:
    backward = f"s = torch.sigmoid(5 * (v - ctx.threshold))\nreturn grad_output * {factor} * s * (1 - s), None"
    fault = function(backward).replace("self.threshold * spikes\n", "self.threshold * spikes.detach()\n")
    found = told(run, write(tmp_path, fault), "--data", "digits", "--model-arg", f"fault={layer}")
    one = only(found, check)
    assert (one["layer"], one["evidence"]["over"]) == (f"n.{layer - 1}", "layers")
    norms = one["evidence"]["norms"]
    ratio = norms[f"n.{layer - 2}"] / norms[f"n.{layer - 1}"]
    assert one["evidence"]["in this layer"] == pytest.approx(ratio)


def test_gradients_that_are_infinite(run: Run, tmp_path: Path) -> None:
    for layer in (2, 3):
        model = write(tmp_path, function("return grad_output / (v - v), None"))
        found = told(run, model, "--data", "digits", "--model-arg", f"fault={layer}")
        assert [one["layer"] for one in of(found, "surrogate-not-finite")] == [f"n.{layer - 1}"]
        (one,) = of(found, "exploding-gradient")
        assert (one["layer"], one["severity"]) == (f"n.{layer - 1}", "error")


RECURRENT = """
import torch, snntorch
from torch import nn


class Net(nn.Module):
    def __init__(self, beta=1.0, steps=30, last=False, layers=1):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(64, 20), nn.Linear(20, 10)
        self.beta, self.steps, self.last = beta, steps, last
        self.fire = snntorch.surrogate.atan()

    def forward(self, x):
        v1, v2, out = 0.0, 0.0, []
        for _ in range(self.steps):
            v1 = self.beta * v1 + self.fc1(x.flatten(1))
            s1 = self.fire(v1 - 1)
            v2 = self.beta * v2 + self.fc2(s1)
            out.append(v2)
        return out[-1] if self.last else torch.stack(out)
"""


def test_gradients_that_vanish_or_explode_over_time(run: Run, tmp_path: Path) -> None:
    """With only the last of 30 steps in the loss, the first has β^29 of the gradient of the last."""
    (tmp_path / "time.py").write_text(RECURRENT)
    for beta, check in ((0.5, "vanishing-gradient"), (2.0, "exploding-gradient")):
        found = told(run, "time.py:Net", "--data", "digits", "--model-arg", f"beta={beta}", "--model-arg", "last=True")
        (one,) = [one for one in of(found, check) if one["evidence"]["over"] == "timesteps"]
        norms = one["evidence"]["norms"]
        assert one["layer"] == "fc1"
        assert norms[0] / norms[29] == pytest.approx(beta**29, rel=1e-3)
    assert serious(told(run, "time.py:Net", "--data", "digits", "--model-arg", "beta=0.9")) == []


LEARNED = "class Bad(Neuron):\n    def __init__(self):\n        super().__init__()\n" + (
    "        self.threshold = nn.Parameter(torch.tensor(0.5))\n"
)


@pytest.mark.parametrize("layer", [1, 3])
def test_a_threshold_that_gets_no_gradient(layer: int, run: Run, tmp_path: Path) -> None:
    apply = (
        "\n    def forward(self, x, v):\n        v = 0.9 * v + x\n        spikes = {}\n        return spikes, 0.5 * v\n"
    )
    lost = LEARNED + apply.format("Spike.apply(v, self.threshold)")
    found = told(run, write(tmp_path, lost), "--data", "digits", "--model-arg", f"fault={layer}")
    one = only(found, "threshold-without-gradient")
    assert one["layer"] == f"n.{layer - 1}"
    assert one["evidence"]["parameter"] == f"n.{layer - 1}.threshold"
    kept = LEARNED + apply.format("Spike.apply(v - self.threshold, 0.0)")
    assert (
        serious(told(run, write(tmp_path, kept, "kept.py"), "--data", "digits", "--model-arg", f"fault={layer}")) == []
    )


def test_a_learned_threshold_of_snntorch_gets_one() -> None:
    torch.manual_seed(0)
    leaky = {"beta": 0.9, "learn_threshold": True, "init_hidden": True}
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), snntorch.Leaky(**leaky), nn.Linear(30, 10), snntorch.Leaky(**leaky)
    )
    found = probe.gradients(network, data="digits", timesteps=4)
    assert serious(found) == []
    assert all(one["gradient_norm"] for one in found["parameters"] if "threshold" in one["name"])


# ------------------------------------------------------------------------------------------------- from batch to batch


def test_state_kept_by_neurons_of_snntorch_in_a_loop_of_ones_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tutorial.py").write_text(SNNTORCH)
    (one,) = of(told(run, "tutorial.py:Forgetful", "--data", "digits"), "state-kept")
    assert one["severity"] == "warning"
    assert "snntorch.utils.reset(net)" in one["advice"]
    assert one["layer"] == "net.2"
    text = SNNTORCH.replace(
        "        return torch.stack([self.net(x)",
        "        utils.reset(self.net)\n        return torch.stack([self.net(x)",
    )
    (tmp_path / "resets.py").write_text(text)
    assert of(told(run, "resets.py:Forgetful", "--data", "digits"), "state-kept") == []


KEEPS = """

class Logs(Net):
    def __init__(self):
        super().__init__()
        self.log = []

    def forward(self, x):
        out = super().forward(x)
        self.log.append(out.mean() WHAT)
        return out


class Carries(Net):
    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, x):
        out = super().forward(x)
        out = out if self.last is None else out + 0.1 * self.last
        self.last = out WHAT
        return out
"""


@pytest.mark.parametrize("name", ["Logs", "Carries"])
def test_what_is_kept_from_batch_to_batch(name: str, run: Run, tmp_path: Path) -> None:
    for what, file in (("", "grows.py"), (".detach()", "detaches.py")):
        text = SOURCE.replace("FAULT", "Bad = Neuron") + KEEPS.replace(" WHAT", what)
        (tmp_path / file).write_text(text)
        found = told(run, f"{file}:{name}", "--data", "digits")
        if what:
            assert serious(found) == []
            continue
        one = only(found, "graph-grows" if name == "Logs" else "state-kept")
        if name == "Logs":
            assert one["evidence"] == {"attribute": "log", "after one batch": 1, "after two": 2}
        else:
            assert (one["severity"], one["evidence"]["kept"]) == ("error", ["last"])


# ------------------------------------------------------------------------------------------------------ the contract


def test_the_network_is_left_as_it_was_found() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 30), nn.BatchNorm1d(30), nn.Dropout(0.1),
        snntorch.Leaky(beta=0.9, init_hidden=True), nn.Linear(30, 10), snntorch.Leaky(beta=0.9, init_hidden=True),
    )  # fmt: skip
    network(torch.rand(7, 64))
    network[2].eval()
    network[1].bias.requires_grad_(False)
    network[5].weight.grad = torch.ones(10, 30)
    before = {name: value.clone() for name, value in network.state_dict(keep_vars=False).items()}
    mem, gradient, random = network[4].mem, network[5].weight.grad, torch.get_rng_state()
    probe.gradients(network, data="digits", timesteps=3, samples=8)
    assert network[4].mem is mem
    assert network[5].weight.grad is gradient
    assert bool((gradient == 1).all())
    assert network[1].weight.grad is None
    assert not network[1].bias.requires_grad
    assert network.training
    assert not network[2].training
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_exit_codes_and_options(run: Run, tmp_path: Path) -> None:
    model = write(tmp_path, function("return grad_output.expand(2, *v.shape), None"))
    arguments = (model, "--data", "digits", "--model-arg", "fault=2")
    assert run("gradients", *arguments).exit_code == 0
    assert run("gradients", *arguments, "--fail-on", "warning").exit_code == 1
    assert run("gradients", model, "--data", "digits", "--fail-on", "warning").exit_code == 0
    for wrong in (("--loss", "nothing.py:loss"), ("--samples", 1), ("--data", "nothing")):
        result = run("gradients", model, *(() if "--data" in wrong else ("--data", "digits")), *wrong)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
    result = run("gradients", model)
    assert result.exit_code == 2
    assert "--data" in result.stderr


def test_a_network_without_spikes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ann.py").write_text(
        "from torch import nn\n\n\ndef net():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 10), nn.Sigmoid())\n"
    )
    one = only(told(run, "ann.py:net", "--data", "digits"), "no-spikes")
    assert one["severity"] == "warning"
    found = told(run, write(tmp_path), "--data", "digits")
    assert of(found, "no-spikes", "unused", "silent-layer") == []


def test_notes_on_what_takes_no_part(run: Run, tmp_path: Path) -> None:
    """A layer that only a log looks at, and one that never fires."""
    text = SOURCE.replace("FAULT", "Bad = Neuron")
    (tmp_path / "notes.py").write_text(
        text + "\n\nclass Probed(Net):\n    def __init__(self):\n        super().__init__()\n"
        "        self.probe = nn.Linear(10, 2)\n        with torch.no_grad():\n"
        "            self.fc[2].bias.fill_(-0.5)\n"
        "            self.fc[2].weight.mul_(0.1)\n\n"
        "    def forward(self, x):\n        out = super().forward(x)\n        self.seen = self.probe(out[-1])\n"
        "        return out\n"
    )
    found = told(run, "notes.py:Probed", "--data", "digits")
    assert serious(found) == []
    (unused,) = of(found, "unused")
    assert unused["evidence"]["without gradient"] == ["probe.weight", "probe.bias"]
    (silent,) = of(found, "silent-layer")
    assert (silent["layer"], silent["severity"]) == ("n.2", "note")


def test_a_network_that_is_called_once_a_timestep() -> None:
    """With a state of its own and a reset, of no package."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.fire, self.v = nn.Linear(64, 10), snntorch.surrogate.atan(), None

        def reset(self) -> None:
            self.v = None

        def forward(self, x: Tensor) -> Tensor:
            fed = 2 * self.fc(x.flatten(1))
            v = fed if self.v is None else 0.9 * self.v + fed
            spikes = self.fire(v - 1)
            self.v = v - spikes
            return spikes

    found = probe.gradients(Cell(), data="digits", timesteps=6)
    assert serious(found) == []
    assert found["run"] == "called once a timestep, T = 6"
    assert found["layers"][0]["calls"] == 6
    assert "net.reset()" in found["notes"][0]


def test_time_is_told_from_samples_by_another_batch_size(run: Run, tmp_path: Path) -> None:
    """T equal to the batch, and to the number of classes."""
    for steps, samples in ((10, 10), (16, 16)):
        found = told(run, write(tmp_path), "--data", "digits", "--samples", samples, "--model-arg", f"steps={steps}")
        assert f"summed over axis 0, (time = {steps}, sample, 10 classes)" in found["loss_is"]
    text = SOURCE.replace("FAULT", "Bad = Neuron").replace("return torch.stack(out)", "return out")
    (tmp_path / "listed.py").write_text(text)
    again = told(run, "listed.py:Net", "--data", "digits", "--samples", samples, "--model-arg", f"steps={steps}")
    assert again["loss"] == found["loss"]
    with pytest.raises(ProbeError, match="none of whose axes has the data's 10 classes"):
        probe.gradients(_Wide(), data="digits")


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([functional.relu(self.fc(x.flatten(1)))] * 3)


def test_lines_are_rewritten() -> None:
    pairs = {
        "return (v >= self.threshold).float()": "return spike(v - self.threshold)",
        "s = (mem > 0).to(mem)": "s = spike(mem)",
        "out = torch.where(v >= th, 1.0, 0.0)": "out = spike(v - th)",
        "spk = torch.gt(mem, thr).float()": "spk = spike(mem - thr)",
        "s = torch.heaviside(x, zero)": "s = spike(x)",
        "s = f(x)": "",
        "for i in range(3):": "",
        "s = torch.where(v < th, 0.0, 1.0)": "s = spike(v - th)",
        "s = torch.where(v > th, torch.ones_like(v), torch.zeros_like(v))": "s = spike(v - th)",
        "s = 1.0 * (th < v)": "s = spike(v - th)",
        # Those that would break, or do something else.
        "s[v > th] = 1.0": "",
        "return (v > th).int().to(v.dtype)": "",
        "fired = v > th": "",
        "return torch.clamp(torch.floor(v / th), 0, 1)": "",
        "return torch.where(v > th, th * torch.ones_like(v), torch.zeros_like(v))": "",
        "v, s = torch.where(v >= th, 0.0, v), (v >= th).float()": "",
        "return torch.bernoulli(torch.sigmoid(v))": "",
        "return 0.5 * (torch.sign(v - th) + 1)": "",
        "return torch.tensor(v >= th, dtype=torch.float32)": "",
        "def forward(self, x): return torch.round(x)": "",
        "s = (v > th).to(device)": "",
    }
    for line, expected in pairs.items():
        assert rewritten(line) == expected


def test_what_counts_as_spikes() -> None:
    assert spike_height(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == 1
    assert spike_height(torch.tensor([[0.0, 0.3], [0.6, 0.0]])) == pytest.approx(0.3)
    assert spike_height(torch.tensor([[0.2, 0.5], [0.0, 0.5]])) == pytest.approx(0.2)  # heights by channel
    assert spike_height(torch.zeros(2, 2)) == 0
    assert spike_height(torch.rand(20, 20)) is None
    assert spike_height(torch.tensor([[0.0, float("nan")]])) is None


# --------------------------------------------------------------------------------------- what users write otherwise


def test_autograd_that_is_switched_off_around_the_forward(run: Run, tmp_path: Path) -> None:
    """As a decorator, of the network's own forward too, and by inference_mode, which torch shows to nobody."""
    text = SOURCE.replace("FAULT", "Bad = Neuron").replace(
        "    def forward(self, x):\n        states", "    SWITCH\n    def forward(self, x):\n        states"
    )
    for name, switch in (("off", "torch.no_grad()"), ("inference", "torch.inference_mode()")):
        (tmp_path / f"{name}.py").write_text(text.replace("SWITCH", f"@{switch}"))
        one = only(told(run, f"{name}.py:Net", "--data", "digits"), "graph-cut")
        assert one["evidence"]["source"] == f"@{switch}"
        assert f"take the {switch} away" in one["advice"]
    (tmp_path / "one.py").write_text(
        SOURCE.replace("FAULT", neuron("spikes = Spike.apply(v, self.threshold)").replace(
            "    def forward", "    @torch.no_grad()\n    def forward"))
    )  # fmt: skip
    one = only(told(run, "one.py:Net", "--data", "digits", "--model-arg", "fault=2"), "graph-cut")
    assert (one["layer"], one["evidence"]["source"]) == ("n.1", "@torch.no_grad()")


def test_outputs_with_time_last(run: Run, tmp_path: Path) -> None:
    """(sample, class, time) has the loss of (time, sample, class), whether T is larger than the classes or not."""
    for steps in (4, 12):
        expected = told(run, write(tmp_path), "--data", "digits", "--model-arg", f"steps={steps}")["loss"]
        for order in ((1, 2, 0), (2, 0, 1), (2, 1, 0), (0, 2, 1)):
            text = SOURCE.replace("FAULT", "Bad = Neuron").replace("(out)", f"(out).permute{order}")
            name = "order" + "".join(map(str, order))
            (tmp_path / f"{name}.py").write_text(text)
            found = told(run, f"{name}.py:Net", "--data", "digits", "--model-arg", f"steps={steps}")
            assert found["loss"] == pytest.approx(expected, rel=1e-5), order


@pytest.mark.parametrize(
    ("line", "kind"),
    [("spikes = torch.from_numpy((v.detach().numpy() >= self.threshold).astype('float32'))", "leaves torch"),
     ("spikes = torch.autograd.Variable(v.data.ge(self.threshold).float())", "data")],
)  # fmt: skip
def test_a_cut_through_numpy_is_blamed_on_its_own_layer(line: str, kind: str, run: Run, tmp_path: Path) -> None:
    fault = neuron(line).replace("threshold * spikes\n", "threshold * spikes.detach()\n")
    text = SOURCE.replace("FAULT", fault).replace(
        "v - self.threshold * spikes\n", "v - self.threshold * spikes.detach()\n"
    )
    (tmp_path / "net.py").write_text(text)
    one = only(told(run, "net.py:Net", "--data", "digits", "--model-arg", "fault=2"), "graph-cut")
    assert (one["layer"], one["evidence"]["kind"], one["evidence"]["source"]) == ("n.1", kind, line)
    assert "write `" not in one["advice"]


def test_a_backward_that_returns_none(run: Run, tmp_path: Path) -> None:
    """Autograd takes it, and calls hooks without a gradient; the detached resets behind it are not to blame."""
    text = SOURCE.replace("FAULT", function("return None, None"))
    (tmp_path / "net.py").write_text(text.replace("self.threshold * spikes\n", "self.threshold * spikes.detach()\n"))
    found = told(run, "net.py:Net", "--data", "digits", "--model-arg", "fault=2")
    assert found["backward"] == "done"
    one = only(found, "gradient-shape")
    assert one["layer"] == "n.1"
    lines = (tmp_path / "net.py").read_text().splitlines()
    assert one["evidence"]["line"] == f"net.py:{max(i for i, line in enumerate(lines, 1) if 'def backward' in line)}"


def test_timesteps_are_set_back(tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    exec(SOURCE.replace("FAULT", "Bad = Neuron").replace("steps", "num_steps"), made)
    network = made["Net"]()
    found = probe.gradients(network, data="digits", timesteps=3)
    assert found["layers"][0]["calls"] == 3
    assert network.num_steps == 5


@pytest.mark.parametrize(
    "line",
    ["spikes = torch.ceil(torch.clamp(v - self.threshold, 0, 1))",
     "spikes = torch.bernoulli(torch.sigmoid(v - self.threshold))",
     "spikes = torch.relu(torch.sign(v - self.threshold))"],
)  # fmt: skip
def test_a_flat_function_is_told_once(line: str, run: Run, tmp_path: Path) -> None:
    one = only(told(run, write(tmp_path, neuron(line)), "--data", "digits", "--model-arg", "fault=2"), "graph-cut")
    assert one["layer"] == "n.1"
    assert "write `" not in one["advice"]


@pytest.mark.parametrize(
    "lines",
    ["soft = torch.sigmoid(5 * (v - 0.5))\nspikes = soft + ((v >= 0.5).float() - soft).detach()",
     "soft = torch.sigmoid(5 * (v - 0.5))\nwith torch.no_grad():\n    hard = (v >= 0.5).float()\n"
     "    diff = hard - soft\nspikes = soft + diff",
     "spikes = (v >= 0.5).float() + v - v.detach()"],
)  # fmt: skip
@pytest.mark.parametrize("inside", [True, False])
def test_straight_through_neurons_are_measured(lines: str, inside: bool, run: Run, tmp_path: Path) -> None:
    """In modules, and in a function that is none."""
    fault = neuron(lines)
    if not inside:
        fault = "def step(x, v):\n" + "\n".join(f"    {line}" for line in ["v = 0.9 * v + x", *lines.splitlines()])
        fault += "\n    return spikes, v - 0.5 * spikes\n\n\nBad = Neuron"
    text = SOURCE.replace("FAULT", fault)
    (tmp_path / "net.py").write_text(text if inside else text.replace("self.n[i](self", "step(self"))
    found = told(run, "net.py:Net", "--data", "digits", *(("--model-arg", "fault=2") if inside else ()))
    assert serious(found) == []
    assert [row["name"] for row in found["layers"]] == [f"{'n' if inside else 'fc'}.{i}" for i in range(3)]
    assert found["layers"][1]["surrogate"]["peak"] > 0.9
    assert found["layers"][1]["gradient_norm"] > 0


def test_a_rate_in_the_networks_own_forward(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NETS_OWN.replace("fire(v1 - 1.0)", "torch.sigmoid(10 * (v1 - 1.0))"))
    one = only(told(run, "own.py:Net", "--data", "digits"), "smooth-forward")
    assert one["layer"] == "fc1"
    assert "torch.sigmoid(10 * (v1 - 1.0))" in one["what"]


class _PlainNeuron:
    """No module: what it keeps is in an object of Python."""

    def __init__(self) -> None:
        self.v: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        self.v = x if self.v is None else 0.9 * self.v + x
        spikes: Tensor = snntorch.surrogate.atan()(self.v - 1)
        self.v = self.v - spikes.detach()
        return spikes


class _PlainNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.neurons = nn.Linear(64, 30), nn.Linear(30, 10), [_PlainNeuron(), _PlainNeuron()]

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.neurons
        return torch.stack([two(self.b(one(3 * self.a(x.flatten(1))))) for _ in range(4)])


class _PlainReset(_PlainNet):
    def reset(self) -> None:
        for one in self.neurons:
            one.v = None


def test_state_in_plain_objects() -> None:
    network = _PlainNet()
    (one,) = of(probe.gradients(network, data="digits"), "state-kept")
    assert one["severity"] == "error"
    assert one["evidence"]["kept"] == ["neurons.0.v", "neurons.1.v"]
    assert all(neuron.v is None for neuron in network.neurons)
    # State of another batch: with a reset it is run, else it is said.
    for made in (_PlainReset(), network):
        made(torch.rand(7, 64))
    (one,) = of(probe.gradients(network := _PlainReset(), data="digits"), "state-kept")
    assert one["severity"] == "warning"
    kept = _PlainNet()
    kept(torch.rand(7, 64))
    with pytest.raises(ProbeError, match=r"state of another batch is kept in neurons\.0\.v \(7, 30\)") as raised:
        probe.gradients(kept, data="digits")
    assert "--data" not in str(raised.value)


class _Sinabs(nn.Module):
    def __init__(self) -> None:
        from sinabs import layers

        super().__init__()
        self.a, self.l, self.b, self.m = nn.Linear(64, 30), layers.IAF(), nn.Linear(30, 10), layers.IAF()

    def forward(self, x: Tensor) -> Any:
        return self.m(self.b(self.l(self.a(x.flatten(1).unsqueeze(1).repeat(1, 6, 1)))))


def test_a_network_of_sinabs_with_time_of_its_own() -> None:
    found = probe.gradients(_Sinabs(), data="digits")
    assert "summed over axis 1, (sample, time = 6, 10 classes)" in found["loss_is"]
    assert found["layers"][0]["calls"] == 6


class _OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.fire = nn.Linear(64, 10), snntorch.surrogate.atan()

    def forward(self, x: Tensor) -> Tensor:
        v = total = torch.zeros(8, 10)
        for _ in range(4):
            v = 0.9 * v + 3 * self.fc(x.view(8, 64))
            total = total + self.fire(v - 1)
        return total


def test_a_network_that_takes_batches_of_one_size() -> None:
    assert probe.gradients(_OneSize(), data="digits", samples=8)["layers"][0]["calls"] == 4


class _Shared(nn.Module):
    """One neuron without state behind two weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.lif = nn.Linear(64, 30), nn.Linear(30, 10), _Fires()

    def forward(self, x: Tensor, state: Any = None) -> Any:
        v, w = (0.0, 0.0) if state is None else state
        s, v = self.lif(3 * self.a(x.flatten(1)), v)
        s, w = self.lif(3 * self.b(s), w)
        return s, (v, w)


class _Fires(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fire = snntorch.surrogate.atan()

    def forward(self, x: Tensor, v: Any) -> Any:
        v = 0.9 * v + x
        spikes = self.fire(v - 1)
        return spikes, v - spikes.detach()


def test_a_neuron_that_is_used_twice_and_a_state_that_is_passed_on() -> None:
    found = probe.gradients(_Shared(), data="digits", timesteps=5)
    assert [row["name"] for row in found["layers"]] == ["lif after a", "lif after b"]
    assert [row["calls"] for row in found["layers"]] == [5, 5]
    assert of(found, "state-lost", "state-kept") == []


def test_what_is_not_finite_is_told_first(run: Run, tmp_path: Path) -> None:
    text = SOURCE.replace("FAULT", "Bad = Neuron")
    last = "            nn.init.constant_(layer.bias, 0.3)\n"
    (tmp_path / "weights.py").write_text(
        text.replace(last, f"{last}        self.fc[1].weight.data[0, 0] = torch.nan\n")
    )
    one = only(told(run, "weights.py:Net", "--data", "digits"), "not-finite")
    assert (one["layer"], one["evidence"]["parameter"]) == ("fc.1", "fc.1.weight")
    (tmp_path / "loss.py").write_text(text.replace("torch.stack(out)", "torch.stack(out) / 0.0"))
    assert "the loss is nan" in only(told(run, "loss.py:Net", "--data", "digits"), "not-finite")["what"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_what_cannot_be_followed_is_refused(run: Run) -> None:
    script = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(ProbeError, match="TorchScript"):
        probe.gradients(script, data="digits")
    with pytest.raises(ProbeError, match="is an ANN"):
        probe.gradients(nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)), data="digits")
    result = run("gradients")
    assert result.exit_code == 2
    assert "nothing in it spikes, its activations are QCFS" in result.stderr


class _Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.missing(self.fc(x.flatten(1)))  # type: ignore[operator,no-any-return]


def test_an_error_of_the_forward_does_not_speak_of_the_data() -> None:
    with pytest.raises(ProbeError, match="missing") as raised:
        probe.gradients(_Broken(), data="digits")
    assert "--data" not in str(raised.value)


def test_every_check_has_a_test() -> None:
    tests, _, _ = Path(__file__).read_text().partition("def test_every_check")
    for name, check in CHECKS.items():
        assert f'"{name}"' in tests
        assert check.summary


def test_the_page_runs(run: Run, tmp_path: Path, shared_data: Path) -> None:
    page = (ROOT / "docs" / "gradients.md").read_text()
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", code)
        assert name
        (tmp_path / name[1]).write_text(code)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 2
    for command in commands:
        result = run(*shlex.split(command)[1:], "--data-root", shared_data, "--samples", 8)
        assert result.exit_code == 1, result.output
        assert " ".join(shown.split()) in " ".join(result.stdout.split())
    for name in CHECKS:
        assert f"`{name}`" in page
