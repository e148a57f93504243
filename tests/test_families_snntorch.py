"""snnTorch: what is recorded of its networks is what a plain loop of theirs gives, whatever their style."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import snntorch
import torch
from matplotlib.figure import Figure
from snntorch import surrogate, utils
from torch import Tensor, nn
from torch.nn import functional

import probe
from probe.data import DataSet, open_data
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits
from probe.families import snntorch as family
from probe.plots import draw
from probe.session import plan

Leaky = snntorch.Leaky
pytestmark = pytest.mark.usefixtures("one_thread")


def digits(samples: int = 10, seed: int = 0) -> Tensor:
    """The images that a recording of so many samples holds."""
    from probe.data import choose_samples

    data = open_data("digits")
    return torch.from_numpy(data.load(choose_samples(data.labels, samples, seed)))


def record(model: Any, path: Path, **options: Any) -> Path:
    """Ten digits in two batches, T = 6; a broken oracle or law raises."""
    usual = {"data": "digits", "samples": 10, "batch_size": 5, "timesteps": 6, "strict": True}
    return probe.capture(model, output=path, **{**usual, **options})


def sequential(hidden: nn.Module | None = None, seed: int = 0, **last: Any) -> nn.Sequential:
    """64-20-10 with hidden state; weights large enough for every layer to fire."""
    torch.manual_seed(seed)
    hidden = Leaky(beta=0.9, init_hidden=True) if hidden is None else hidden
    output = Leaky(**{"beta": 0.8, "init_hidden": True, "output": True, **last})
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), hidden, nn.Linear(20, 10), output)
    with torch.no_grad():
        network[1].weight.mul_(2.5)
        network[3].weight.mul_(2.5)
    return network


def by_hand(x: np.ndarray, beta: float, mechanism: str, delay: bool, theta: float = 1.0) -> tuple[Any, Any, Any]:
    """Spikes, `mem` as Leaky shows it and v after the reset, from x (sample, timestep, *neuron), all of its shape.

    With delay: mem(t) = β·mem(t-1) + x(t), less θ (or with 0 for mem(t-1)) where mem(t-1) > θ; s(t) = 1 where
    mem(t) > θ; the reset of this step follows in the next. Without: that reset at once, and where what is left of
    mem(t-1) is above θ all the same, the next spike takes 2θ.
    """
    beta, theta = np.float32(beta), np.float32(theta)
    mem = np.zeros_like(x[:, 0])
    spikes, shown, after = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for t in range(x.shape[1]):
        above = (mem > theta).astype(np.float32)
        if mechanism == "zero":
            mem = beta * (mem * (1 - above)) + x[:, t]
        else:
            mem = beta * mem + x[:, t] - (above * theta if mechanism == "subtract" else 0)
        s = spikes[:, t] = mem > theta
        mem = mem if delay or mechanism != "subtract" else mem + above * theta
        after[:, t] = {"subtract": mem - theta * s, "zero": mem * (1 - s), "none": mem}[mechanism]
        mem = shown[:, t] = mem if delay else after[:, t]
    return spikes, shown, after


def plain_loop(network: nn.Module, x: Tensor, timesteps: int) -> tuple[Tensor, list[list[Tensor]], list[list[Tensor]]]:
    """As users run it: reset, call it once a timestep. Its outputs, and spikes and `mem` of each neuron layer."""
    neurons = [module for module in network.modules() if hasattr(module, "init_hidden")]
    for module in neurons:
        module.reset_mem()
    spikes: list[list[Tensor]] = [[] for _ in neurons]
    mems: list[list[Tensor]] = [[] for _ in neurons]

    def note(i: int, module: Any, _args: Any, out: Any) -> None:
        spikes[i].append((out[0] if isinstance(out, tuple) else out).clone())
        mems[i].append(module.mem.clone())

    handles = [module.register_forward_hook(partial(note, i)) for i, module in enumerate(neurons)]
    with torch.no_grad():
        outputs = [network(x) for _ in range(timesteps)]
    for handle in handles:
        handle.remove()
    for module in neurons:
        module.reset_mem()
    return torch.stack([out[0] if isinstance(out, tuple) else out for out in outputs], 1), spikes, mems


RESETS = [(mechanism, delay) for mechanism in ("subtract", "zero", "none") for delay in (True, False)]


@pytest.mark.parametrize(("mechanism", "delay"), RESETS)
@pytest.mark.parametrize("beta", [0.5, 0.9, 1.0])
def test_spikes_and_potentials_are_those_of_a_plain_loop(
    mechanism: str, delay: bool, beta: float, tmp_path: Path
) -> None:
    made = {"beta": beta, "reset_mechanism": mechanism, "reset_delay": delay}
    network = sequential(Leaky(init_hidden=True, **made), **made)
    out, spikes, mems = plain_loop(network, digits(), 6)
    lawful = beta == 1 and mechanism == "subtract"
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        np.testing.assert_array_equal(recording.snn_logits, out.numpy())
        assert [layer.name for layer in recording.layers] == ["2", "4"]
        for i, layer in enumerate(recording.layers):
            assert 0.02 < layer.snn_spikes.mean() < 0.98
            np.testing.assert_array_equal(layer.snn_spikes, torch.stack(spikes[i], 1).numpy())
            s, shown, after = by_hand(layer.read("snn_input"), beta, mechanism, delay)
            np.testing.assert_array_equal(layer.snn_spikes, s)
            np.testing.assert_allclose(shown, torch.stack(mems[i], 1), atol=1e-5)
            # A potential is v(t) after its reset, also where snnTorch resets one step later.
            assert layer.has("membrane_potential") == (not lawful)
            if not lawful:
                np.testing.assert_allclose(layer.read("membrane_potential"), after, atol=1e-5)
            sample, neuron = (int(place[0]) for place in np.nonzero(layer.spike_count))
            traced = probe.trace(recording, i, sample, [neuron])
            np.testing.assert_allclose(traced.potential, after[sample, :, neuron], atol=1e-5)
            law = recording.facts["law"][str(i)]
            assert (law["largest_difference"] is not None) == lawful
            assert not law["broken"]


def test_rates_dead_neurons_accuracy_and_pictures_without_an_ann(tmp_path: Path) -> None:
    network = sequential()
    with torch.no_grad():
        network[1].weight[:3] = 0
        network[1].bias[:3] = -1.0  # three neurons that never fire
        network[1].weight[3] = 0
        network[1].bias[3] = 5.0  # one that always does
    out, spikes, _ = plain_loop(network, digits(), 6)
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        assert not recording.has_ann
        rows = probe.layer_table(recording)["layers"]
        fired = torch.stack(spikes[0], 1).bool()
        assert rows[0]["firing_rate"] == pytest.approx(float(fired.float().mean()))
        assert rows[0]["silent"] == float((fired.sum((0, 1)) == 0).double().mean()) >= 3 / 20
        assert rows[0]["saturated"] == float((fired.sum((0, 1)) == 60).double().mean()) >= 1 / 20
        found = probe.accuracy(recording)
        labels = torch.from_numpy(recording.labels)
        right = (out.double().cumsum(1).argmax(2) == labels[:, None]).double().mean(0)
        assert found["ann"] is None
        assert list(found["snn"].values()) == right.tolist()
        for kind in ("raster", "rates", "accuracy"):
            assert isinstance(draw(recording, kind), Figure)
        assert isinstance(draw(recording, "trace", layers=1, samples=2, neurons=[(4,)]), Figure)
        drawn = draw(recording, "raster", layers=0, samples=1, neurons=[0, 3]).axes[0]
        assert drawn.has_data()
        with pytest.raises(ProbeError, match="no ANN partner"):
            probe.unevenness(recording)
        with pytest.raises(ProbeError, match="no ANN partner"):
            recording.layers[0].read("ann_output")


# ------------------------------------------------------------------------------------------- styles of forward


def linears() -> tuple[nn.Module, nn.Module]:
    network = sequential()
    return network[1], network[3]


class Explicit(nn.Module):
    """One step a call; `mem` is handed to the neurons and kept by the network."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.out = linears()
        self.one, self.two = Leaky(beta=0.9), Leaky(beta=0.8)
        self.mem_one: Tensor | None = None
        self.mems: dict[str, Tensor | None] = {"two": None}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem_one = self.one.init_leaky() if self.mem_one is None else self.mem_one
        spk, self.mem_one = self.one(self.linear(x.flatten(1)), mem_one)
        mem_two = torch.zeros(len(x), 10) if self.mems["two"] is None else self.mems["two"]
        spk, self.mems["two"] = self.two(self.out(spk), mem_two)
        assert self.mems["two"] is not None
        return spk, self.mems["two"]


STEPS = 6


class Tutorial(nn.Module):
    """The tutorials' style: the forward runs through time and returns all spikes and potentials."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.out = linears()
        self.one, self.two = Leaky(beta=0.9), Leaky(beta=0.8)

    def steps(self) -> int:
        """A global number, as in the tutorials."""
        return STEPS

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.through(x, self.steps())

    def through(self, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        mem_one, mem_two = self.one.init_leaky(), self.two.init_leaky()
        spk_rec, mem_rec = [], []
        for _ in range(steps):
            spk, mem_one = self.one(self.linear(x.flatten(1)), mem_one)
            spk, mem_two = self.two(self.out(spk), mem_two)
            spk_rec.append(spk)
            mem_rec.append(mem_two)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class Attribute(Tutorial):
    """The number of steps is the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.num_steps = 3

    def steps(self) -> int:
        return self.num_steps


class Parameter(Tutorial):
    """The number of steps is an argument."""

    def forward(self, x: Tensor, num_steps: int = 25) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.through(x, num_steps)


@pytest.mark.parametrize("kind", [Explicit, Tutorial, Attribute, Parameter])
def test_every_style_of_forward_gives_the_recording_of_the_plain_network(kind: type, tmp_path: Path) -> None:
    """The same weights in nn.Sequential with hidden state, in a class that hands `mem` on, and in loops over time."""
    network = kind()
    with (
        probe.open(record(sequential(), tmp_path / "one.h5")) as one,
        probe.open(record(network, tmp_path / "two.h5")) as two,
    ):
        assert [layer.name for layer in two.layers] == ["one", "two"]
        np.testing.assert_array_equal(one.snn_logits, two.snn_logits)
        for left, right in zip(one.layers, two.layers, strict=True):
            assert left.spike_count.sum() > 0
            for name in ("snn_spikes", "snn_input", "membrane_potential"):
                np.testing.assert_array_equal(left.read(name), right.read(name))
    if kind is Attribute:
        assert network.num_steps == 3
    if kind is Explicit:
        assert network.mem_one is None
        assert network.mems == {"two": None}


def test_the_networks_own_number_of_steps_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"own loop runs 6 timesteps, and T is 8.*pass -T 6"):
        record(Tutorial(), tmp_path / "r.h5", timesteps=None)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- state


def deep() -> nn.Module:
    """Neurons three levels down, where `utils.reset`, which looks at the children alone, finds none."""
    return nn.Sequential(nn.Sequential(nn.Sequential(*sequential())))


@pytest.mark.parametrize("make", [sequential, deep, Explicit, Tutorial])
def test_no_state_passes_from_one_batch_to_the_next(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    network = make()
    counts = {}
    for size in (10, 5, 1):
        path = record(network, tmp_path / f"{size}.h5", batch_size=size)
        with probe.open(path) as recording:
            counts[size] = [layer.snn_spikes for layer in recording.layers]
    assert all(spikes.sum() > 0 for spikes in counts[10])
    for size in (5, 1):
        for one, other in zip(counts[10], counts[size], strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_package_itself_forgets_the_deep_ones(tmp_path: Path) -> None:
    """Why the reset is not left to `utils.reset`: after it a deep neuron still holds its potential."""
    network, images = deep(), digits()
    with torch.no_grad():
        network(images)
        utils.reset(network)
    neuron = network[0][0][2]
    assert float(neuron.mem.abs().max()) > 0
    record(network, tmp_path / "r.h5")
    assert neuron.mem.numel() == 0


def test_what_a_run_before_left_is_not_recorded(tmp_path: Path) -> None:
    """Neurons that hold the potential of a training batch start at 0 all the same."""
    network = sequential()
    fresh = record(network, tmp_path / "fresh.h5")
    with torch.no_grad():
        for _ in range(4):
            network(digits(5, seed=3))
    assert network[2].mem.shape == (5, 20)
    used = record(network, tmp_path / "used.h5")
    with probe.open(fresh) as one, probe.open(used) as two:
        for left, right in zip(one.layers, two.layers, strict=True):
            np.testing.assert_array_equal(left.snn_spikes, right.snn_spikes)


def test_a_potential_that_the_network_hands_on_from_before_is_refused(tmp_path: Path) -> None:
    """The network's own attribute, left by the training loop, is not ours to clear: v(0) would not be 0."""
    network = Explicit()
    with torch.no_grad():
        network(digits(1, seed=3))
    kept = network.mem_one
    with pytest.raises(ProbeError, match=r"layer one .* at t = 1.*not 0.*clear it"):
        record(network, tmp_path / "r.h5")
    assert network.mem_one is kept
    assert list(tmp_path.iterdir()) == []
    network.mem_one, network.mems["two"] = None, None
    record(network, tmp_path / "r.h5")


def test_hooks_modes_and_weights_of_the_user_stay(tmp_path: Path) -> None:
    network = sequential()
    network.train()
    network[1].eval()
    seen: list[tuple[int, ...]] = []
    handle = network[2].register_forward_hook(lambda _module, _args, out: seen.append(tuple(out.shape)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    record(network, tmp_path / "r.h5")
    assert [module.training for module in network] == [True, False, True, True, True]
    assert (len(network[2]._forward_hooks), len(network[2]._forward_pre_hooks)) == (1, 0)
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()) == 1
    assert seen.count((5, 20)) == 12  # two batches of six timesteps
    handle.remove()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# ----------------------------------------------------------------------------------------------- neurons


class Convolutional(nn.Module):
    """A threshold for each channel, one for each column, spikes of height 2.5, max-pooling before the neurons."""

    def __init__(self, threshold: Tensor, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.first = Leaky(beta=0.9, threshold=threshold, init_hidden=True, **options)
        self.deeper = nn.Conv2d(4, 4, 3, padding=1)
        self.second = Leaky(beta=0.9, init_hidden=True)
        self.out = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.pool(3 * self.conv(x)))
        x = self.second(self.pool(3 * self.deeper(x)))
        out: Tensor = self.out(x.flatten(1))
        return out


@pytest.mark.parametrize(
    "threshold",
    [torch.tensor(0.4), torch.tensor([[[0.2]], [[0.4]], [[0.8]], [[1.6]]]), torch.tensor([0.2, 0.4, 0.8, 1.6])],
    ids=["one", "channels", "columns"],
)
def test_thresholds_are_read_as_torch_broadcasts_them(threshold: Tensor, tmp_path: Path) -> None:
    """Four channels and four columns: a row of four thresholds belongs to the columns, as `mem - threshold` does."""
    network = Convolutional(threshold, learn_threshold=True, graded_spikes_factor=2.5, learn_graded_spikes_factor=True)
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        layer = recording.layers[0]
        assert layer.shape == (4, 4, 4)
        full = np.broadcast_to(layer.threshold, (1, *layer.shape))[0]
        np.testing.assert_array_equal(full, np.broadcast_to(threshold.numpy(), layer.shape))
        assert float(layer.info.height) == 2.5
        s, _, after = by_hand(layer.read("snn_input"), 0.9, "subtract", True, theta=full[None])
        assert 0.05 < s.mean() < 0.95
        np.testing.assert_array_equal(layer.snn_spikes, s)
        np.testing.assert_allclose(layer.read("membrane_potential"), after, atol=1e-5)
        # The first pool is fed the same at every t; the second pools what spikes became.
        assert recording.facts["on_spikes"] == [{"module": "pool", "operation": "max-pooling"}]


def test_a_leak_of_each_neuron_and_a_threshold_of_each_neuron(tmp_path: Path) -> None:
    torch.manual_seed(1)
    beta, theta = torch.rand(20), 0.3 + torch.rand(20)
    hidden = Leaky(beta=beta, threshold=theta, init_hidden=True, learn_beta=True, learn_threshold=True)
    with probe.open(record(sequential(hidden), tmp_path / "r.h5")) as recording:
        layer = recording.layers[0]
        assert probe.layer_table(recording)["layers"][0]["threshold"]["max"] == pytest.approx(float(theta.max()))
        mem = np.zeros((10, 20), np.float32)
        for t in range(6):
            mem = beta.numpy() * mem + layer.read("snn_input")[:, t] - theta.numpy() * (mem > theta.numpy())
            np.testing.assert_array_equal(layer.snn_spikes[:, t], mem > theta.numpy())


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "synaptic": lambda: snntorch.Synaptic(alpha=0.5, beta=1.0, init_hidden=True),
    "alpha": lambda: snntorch.Alpha(alpha=0.9, beta=0.5, threshold=0.05, init_hidden=True, reset_mechanism="zero"),
    "lapicque": lambda: snntorch.Lapicque(beta=0.9, threshold=0.3, init_hidden=True),
    "rleaky": lambda: snntorch.RLeaky(beta=1.0, linear_features=20, init_hidden=True),
    "rleaky one to one": lambda: snntorch.RLeaky(beta=1.0, all_to_all=False, V=0.5, init_hidden=True),
    "rsynaptic": lambda: snntorch.RSynaptic(alpha=0.5, beta=1.0, linear_features=20, init_hidden=True),
    "leaky": lambda: Leaky(beta=1.0, inhibition=True, init_hidden=True),
    "slstm": lambda: snntorch.SLSTM(20, 20, threshold=0.2, init_hidden=True),
}


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize("name", OTHERS)
def test_other_neurons_keep_potentials_and_claim_no_law(name: str, tmp_path: Path) -> None:
    """With β = 1 too: a synapse, its own spikes or its neighbours' drive these, beside the input that is recorded."""
    torch.manual_seed(2)
    hidden = OTHERS[name]()
    network = sequential(hidden)
    _, spikes, mems = plain_loop(network, digits(), 6)
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        layer = recording.layers[0]
        assert layer.neuron == name.split()[0]
        assert 0 < layer.spike_count.sum() < layer.spike_count.size * 6
        np.testing.assert_array_equal(layer.snn_spikes, torch.stack(spikes[0], 1).numpy())
        mem = torch.stack(mems[0], 1)
        crossed = (mem > hidden.threshold).float()
        after = {"subtract": mem - crossed * hidden.threshold, "zero": mem * (1 - crossed), "none": mem}
        np.testing.assert_allclose(layer.read("membrane_potential"), after[hidden.reset_mechanism], atol=1e-5)
        assert recording.facts["law"]["0"] == {"largest_difference": None, "broken": False}
    again = record(network, tmp_path / "again.h5", batch_size=10)
    with probe.open(again) as recording:
        np.testing.assert_array_equal(recording.layers[0].snn_spikes, torch.stack(spikes[0], 1).numpy())


def test_a_layer_whose_input_is_not_its_neurons_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), snntorch.SLSTM(64, 10, init_hidden=True))
    with pytest.raises(ProbeError, match="layer 1 takes 64 numbers and has 10 neurons"):
        record(network, tmp_path / "r.h5")


# ------------------------------------------------------------------------------------------- an ANN partner


def converted(beta: float = 1.0) -> tuple[nn.Sequential, nn.Sequential]:
    """A ReLU network and the same weights with Leaky neurons."""
    snn = sequential(Leaky(beta=beta, init_hidden=True), beta=beta)
    return nn.Sequential(snn[0], snn[1], nn.ReLU(), snn[3], nn.ReLU()), snn


def by_subject() -> Subject:
    ann, snn = converted()
    layers = [
        LayerPair(
            name, snn=snn[i], ann=ann[i], threshold=1.0, height=1.0, initial_fraction=0.0, neuron="leaky",
            traits=Traits(fires_at=">"),
        )
        for i, name in ((2, "hidden"), (4, "output"))
    ]  # fmt: skip
    return Subject(
        snn, layers, ann=ann, forward_snn=lambda x, T: (snn(x)[0] for _ in range(T)), reset=lambda: utils.reset(snn)
    )


@pytest.mark.parametrize("make", [converted, by_subject])
def test_with_a_partner_there_are_cases_but_no_attribution(make: Callable[[], Any], tmp_path: Path) -> None:
    """Its neurons fire strictly above θ, and n_even = ⌊·⌋ is true of those that fire at θ."""
    with probe.open(record(make(), tmp_path / "r.h5", timesteps=8)) as recording:
        assert recording.has_ann
        for layer, found in zip(recording.layers, probe.unevenness(recording)["layers"], strict=True):
            assert found["reason"] == "the neuron fires strictly above its threshold"
            assert (found["attribution"], found["local_cases"], found["residual"]) == (None, None, None)
            n, a = layer.spike_count.astype(np.float64), layer.ann_output.astype(np.float64)
            assert found["cases"]["zero_over"] == ((a == 0) & (n >= 1)).sum()
            assert found["cases"]["positive_under"] == ((a > 0) & (n / 8 - a < -1 / 16)).sum() > 0
            assert sum(found["cases"].values()) == found["count"] == n.size
            assert not found["oracle"]["applies"]


def test_a_leak_is_the_reason_where_there_is_one(tmp_path: Path) -> None:
    with probe.open(record(converted(beta=0.9), tmp_path / "r.h5")) as recording:
        assert "leaks" in probe.unevenness(recording)["layers"][0]["reason"]


def test_a_spike_exactly_at_the_threshold_does_not_fire(tmp_path: Path) -> None:
    """x = 0.5 and θ = 1, β = 1: mem is 0.5, 1.0 (no spike), 1.5 (spike), then 1.0, 1.5 (spike), ..."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Leaky(beta=1.0, init_hidden=True))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.fill_(0.5)
    with probe.open(record(network, tmp_path / "r.h5", timesteps=7)) as recording:
        assert recording.layers[0].snn_spikes[0, :, 0].tolist() == [0, 0, 1, 0, 1, 0, 1]
        traced = probe.trace(recording, 0, 0, [0])
        assert traced.potential.tolist() == [0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5]


# ------------------------------------------------------------------------------- the tutorial's network, trained


class TutorialNet(nn.Module):
    """12C5-MP2-64C5-MP2-1024FC10, potentials explicit."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        grad = surrogate.fast_sigmoid(slope=25)
        self.num_steps = num_steps
        self.conv1, self.lif1 = nn.Conv2d(1, 12, 5), Leaky(beta=0.5, spike_grad=grad)
        self.conv2, self.lif2 = nn.Conv2d(12, 64, 5), Leaky(beta=0.5, spike_grad=grad)
        self.fc1, self.lif3 = nn.Linear(64 * 4 * 4, 10), Leaky(beta=0.5, spike_grad=grad)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        spk3_rec, mem3_rec = [], []
        for _ in range(self.num_steps):
            spk1, mem1 = self.lif1(functional.max_pool2d(self.conv1(x), 2), mem1)
            spk2, mem2 = self.lif2(functional.max_pool2d(self.conv2(spk1), 2), mem2)
            spk3, mem3 = self.lif3(self.fc1(spk2.flatten(1)), mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)

    def as_sequential(self) -> nn.Sequential:
        """The same weights with hidden state."""
        grad = surrogate.fast_sigmoid(slope=25)
        hidden = {"beta": 0.5, "spike_grad": grad, "init_hidden": True}
        return nn.Sequential(
            self.conv1, nn.MaxPool2d(2), Leaky(**hidden), self.conv2, nn.MaxPool2d(2), Leaky(**hidden), nn.Flatten(),
            self.fc1, Leaky(**hidden, output=True),
        )  # fmt: skip


def count_loss(spikes: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy on spike counts."""
    return functional.cross_entropy(spikes.sum(0), labels)


@pytest.mark.slow
def test_the_tutorial_network_trained_on_mnist(shared_data: Path, tmp_path: Path) -> None:
    """Field notes, part B: an untrained loss of about ln 10, and a trained network in both of its styles."""
    mnist = open_data("mnist", root=shared_data)
    order = np.random.default_rng(0).permutation(len(mnist))
    train, test = order[:9000], order[9000:]
    torch.manual_seed(0)
    network = TutorialNet(num_steps=6)
    images, labels = torch.from_numpy(mnist.load(train)), torch.from_numpy(mnist.labels[train])
    with torch.no_grad():
        untrained = float(count_loss(network(images[:256])[0], labels[:256]))
    assert abs(untrained - np.log(10)) < 0.1
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for chosen in torch.randperm(len(images)).split(128):
        optimizer.zero_grad()
        count_loss(network(images[chosen])[0], labels[chosen]).backward()
        optimizer.step()
    held_out = DataSet("mnist held out", mnist.labels[test], mnist.classes, lambda index: mnist.load(test[index]))
    options = {"data": held_out, "samples": 100, "batch_size": 50, "timesteps": 6}
    one = record(network, tmp_path / "class.h5", **options)
    two = record(network.as_sequential(), tmp_path / "sequential.h5", **options)
    with torch.no_grad():
        every = torch.from_numpy(mnist.load(test))
        spikes = torch.cat([network(part)[0] for part in every.split(250)], 1)
    accuracy = float((spikes.sum(0).argmax(1) == torch.from_numpy(mnist.labels[test])).float().mean())
    with probe.open(one) as first, probe.open(two) as second:
        np.testing.assert_array_equal(first.labels, mnist.labels[test[first.indices]])
        found = probe.accuracy(first)
        assert found["ann"] is None
        assert accuracy > 0.9
        assert found["snn"]["6"] > 0.85  # of 100 of them
        counts = spikes[:, first.indices].transpose(0, 1)
        np.testing.assert_array_equal(first.snn_logits, counts.numpy())
        rows = probe.layer_table(first)["layers"]
        assert [tuple(row["shape"]) for row in rows] == [(12, 12, 12), (64, 4, 4), (10,)]
        assert all(0.001 < row["firing_rate"] < 0.5 for row in rows)
        for kind in ("raster", "rates", "accuracy"):
            assert isinstance(draw(first, kind), Figure)
        for left, right in zip(first.layers, second.layers, strict=True):
            same = left.snn_spikes == right.snn_spikes
            assert same.mean() > 0.9999
            v = left.read("membrane_potential")
            assert v.shape == (100, 6, *left.shape)
            s, _, after = by_hand(left.read("snn_input"), 0.5, "subtract", True)
            np.testing.assert_array_equal(left.snn_spikes, s)
            np.testing.assert_allclose(v, after, atol=1e-4)
        # The first pool works on currents that no spike has reached; the second on what the first layer's became.
        assert first.facts["on_spikes"] == [{"module": "", "operation": "max-pooling"}]
        assert second.facts["on_spikes"] == [{"module": "4", "operation": "max-pooling"}]
        with pytest.raises(ProbeError, match="no ANN partner"):
            probe.unevenness(first)


def test_recognised_by_what_the_neurons_have() -> None:
    assert family.match(sequential())
    assert not family.match(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert plan(sequential(), data="digits", samples=10).info.family == "snntorch"
