"""SpikingJelly: its conversions paired with their ANN, and networks built from its neurons, in both step modes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from spikingjelly.activation_based import ann2snn, functional, layer, monitor, neuron
from torch import Tensor, nn

import probe
from probe.data import choose_samples, open_data
from probe.errors import ProbeError
from probe.families import convert
from probe.families import spikingjelly as family
from probe.neurons import NeuronSpec
from probe.plots import draw
from probe.prepare import Source, pairing_table, prepare
from probe.recording import Recording
from tests.relu_models import (
    architecture,
    by_spikingjelly,
    by_threshold_balancing,
    calibration_batches,
    relu_digits,
    residual,
    tailored,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["0.2", "1.2", "3.2", "7"]
"""The ReLUs of `relu_digits`."""


def record(model: Any, path: Path, **options: Any) -> Path:
    """Twenty digits in two batches, T = 8; a broken oracle or law raises."""
    usual = {"data": "digits", "samples": 20, "batch_size": 10, "timesteps": 8, "strict": True}
    return probe.capture(model, output=path, **{**usual, **options})


def digits(samples: int) -> Tensor:
    """The images that a recording of so many samples holds."""
    data = open_data("digits")
    return torch.from_numpy(data.load(choose_samples(data.labels, samples, 0)))


def disagreement(one: Recording, other: Recording) -> tuple[int, int]:
    """Neurons whose spike trains differ in two recordings: ties, and others.

    Where they first part, the charged potential of a tie lies within 1e-4 θ of θ. A sample in which an earlier layer
    parted feeds on other spikes, and is left out.
    """
    ties = others = 0
    same = np.ones(one.samples, bool)
    for left, right in zip(one.layers, other.layers, strict=True):
        s, r = left.snn_spikes.astype(np.int64), right.snn_spikes
        parted = (s != r).reshape(len(s), 8, -1)
        theta = np.broadcast_to(left.threshold, (1, *left.shape))[:, None]
        charged = np.cumsum(left.read("snn_input"), axis=1) / theta + left.initial_fraction
        charged = (charged - np.cumsum(s, axis=1) + s).reshape(parted.shape)
        for sample, place in zip(*np.nonzero(parted.any(1)), strict=True):
            if not same[sample]:
                continue
            t = int(parted[sample, :, place].argmax())
            near = abs(charged[sample, t, place] - 1) <= 1e-4
            ties, others = ties + near, others + (not near)
        same &= ~parted.any((1, 2))
    return int(ties), int(others)


# ------------------------------------------------------------------------------------------------- conversions

RECIPES: dict[str, tuple[Callable[..., nn.Module], dict[str, Any], str, float]] = {
    "percentile": (by_spikingjelly, {"mode": "99.9%"}, "spiking", 0.0),
    "maximum": (by_spikingjelly, {"mode": "Max"}, "spiking", 0.0),
    "fraction": (by_spikingjelly, {"mode": 0.5}, "spiking", 0.0),
    "unfused": (by_spikingjelly, {"mode": "Max", "fuse_flag": False}, "spiking", 0.0),
    "half, of the layer": (by_spikingjelly, {"half_threshold": True}, "spiking", 0.0),
    "channels": (by_spikingjelly, {"mode": "Max", "channel_wise": True}, "channel_spiking", 0.0),
    "channels, half": (by_spikingjelly, {"channel_wise": True, "half_threshold": True}, "channel_spiking", 0.5),
    "balanced": (by_threshold_balancing, {}, "ltb_spiking", 0.5),
    "own threshold": (
        by_spikingjelly, {"neuron_factory": lambda _scale: neuron.IFNode(v_threshold=2.0, v_reset=None)}, "spiking", 0.0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_conversion_is_paired_with_its_ann(name: str, tmp_path: Path) -> None:
    """θ is the outer scaler's, oracle and law hold, and both step modes give the same recording."""
    convert_by, recipe, leaf, start = RECIPES[name]
    ann = relu_digits()
    snn = convert_by(ann, **recipe)
    paths = {}
    for mode in ("s", "m"):
        functional.set_step_mode(snn, mode)
        paths[mode] = record((ann, snn), tmp_path / f"{mode}.h5")
        assert {module.step_mode for module in snn.modules() if hasattr(module, "step_mode")} == {mode}
    with probe.open(paths["s"]) as single, probe.open(paths["m"]) as multi:
        for recording, layout in ((single, "step"), (multi, "T,B")):
            assert [one.name for one in recording.layers] == NAMES
            assert [one.info.snn_name for one in recording.layers] == [
                f"0.{leaf}_0", f"1.{leaf}_0", f"3.{leaf}_0", f"{leaf}_0"
            ]  # fmt: skip
            assert recording.facts["unpaired"] == []
            for one in recording.layers:
                scaler = snn.get_submodule(one.info.snn_name).scaler1
                expected = np.broadcast_to(scaler.scale.numpy().reshape(-1, *[1] * (len(one.shape) - 1)), one.shape)
                np.testing.assert_array_equal(np.broadcast_to(one.threshold, (1, *one.shape))[0], expected)
                assert (one.initial_fraction, one.neuron, one.info.layout) == (start, "if", layout)
                law = recording.facts["law"][str(one.index)]
                assert law["largest_difference"] is not None
                assert not law["broken"]
            oracle = recording.facts["oracles"]["0"]
            assert (oracle["applies"], oracle["violations"]) == (True, 0)
            found = probe.unevenness(recording, recompute=True)["layers"]
            assert all(one["attribution"] is not None for one in found)
            assert (found[0]["attribution"]["unevenness"]["mean_square"] == 0) == (oracle["ties"] == 0)
            # The largest activation of a channel is its θ: a neuron fed just that is a tie at every t.
            assert oracle["ties"] <= 20 * 768 // 500
            assert found[0]["attribution"]["total"]["mean_square"] > 0
            assert probe.accuracy(recording)["ann"] > 0.8
        ties, others = disagreement(single, multi)
        assert others == 0
        assert ties <= 2
        np.testing.assert_array_equal(single.ann_logits, multi.ann_logits)


def test_disagreement_is_seen(tmp_path: Path) -> None:
    """What the equality of step modes rests on: another v(0) parts the spike trains, and not at ties."""
    ann = relu_digits()
    one = record((ann, by_spikingjelly(ann, channel_wise=True)), tmp_path / "one.h5")
    two = record((ann, by_spikingjelly(ann, channel_wise=True, half_threshold=True)), tmp_path / "two.h5")
    with probe.open(one) as first, probe.open(two) as second:
        ties, others = disagreement(first, second)
        assert others > 100 > ties


def test_theta_as_the_package_defines_it(tmp_path: Path) -> None:
    """`Max` over one batch is the largest activation of each ReLU, layer by layer."""
    ann = relu_digits()
    images = calibration_batches()[0]
    seen: list[float] = []
    handles = [ann.get_submodule(name).register_forward_hook(lambda *args: seen.append(float(args[2].max())))
               for name in NAMES]  # fmt: skip
    with torch.no_grad():
        ann(images[0].clone())
    for handle in handles:
        handle.remove()
    recipe = ann2snn.RateCodingRecipe([images], mode="Max", fuse_flag=False)
    with probe.open(record((ann, ann2snn.Converter(recipe).convert(ann)), tmp_path / "r.h5")) as recording:
        assert [float(one.threshold) for one in recording.layers] == seen


@pytest.mark.parametrize("mode", ["s", "m"])
def test_the_same_weights_converted_by_probe_spike_alike(mode: str, tmp_path: Path) -> None:
    """SpikingJelly divides x by θ and fires at 1, probe fires at θ: the same but for rounding at ties."""
    ann = relu_digits()
    snn = by_spikingjelly(ann, mode="Max", fuse_flag=False)
    functional.set_step_mode(snn, mode)
    with probe.open(record((ann, snn), tmp_path / "theirs.h5")) as theirs:
        thresholds = {one.name: one.threshold for one in theirs.layers}
        spec = NeuronSpec(initial_potential=0.0)
        subject = convert.adapt(ann, "if", spec, thresholds=thresholds)
        with probe.open(record(subject, tmp_path / "ours.h5")) as ours:
            assert [one.name for one in ours.layers] == NAMES
            ties, others = disagreement(theirs, ours)
            assert others == 0
            assert ties <= 5
            right = [probe.accuracy(one)["snn"]["8"] for one in (theirs, ours)]
            assert right[0] == right[1] > 0.5


def test_the_layout_of_older_versions(tmp_path: Path) -> None:
    """`snn tailor.<k>.{0,1,2}`; whether a node has the attribute `backend` makes no difference."""
    ann = relu_digits()
    new = by_spikingjelly(ann, mode="Max", fuse_flag=False)
    thetas = {
        name: float(new.get_submodule(f"{path}spiking_0.scaler1").scale)
        for name, path in zip(NAMES, ("0.", "1.", "3.", ""), strict=True)
    }
    old = tailored(ann, thetas)
    nodes = [module for module in old.modules() if isinstance(module, neuron.IFNode)]
    assert len(nodes) == 4
    paths = [record((ann, new), tmp_path / "new.h5"), record((ann, old), tmp_path / "old.h5")]
    for node in nodes:
        # Newer versions have it for neurons with a CUDA kernel alone.
        assert "backend" not in vars(node)
        node.backend = "torch"
    paths.append(record((ann, old), tmp_path / "with.h5"))
    with probe.open(paths[0]) as recording, probe.open(paths[1]) as one, probe.open(paths[2]) as two:
        assert [found.info.snn_name for found in one.layers] == [f"snn tailor.{k}" for k in range(4)]
        for left, middle, right in zip(recording.layers, one.layers, two.layers, strict=True):
            assert left.name == middle.name
            for name in ("snn_spikes", "snn_input", "ann_output"):
                np.testing.assert_array_equal(left.read(name), middle.read(name))
                np.testing.assert_array_equal(left.read(name), right.read(name))


def test_a_relu_that_is_called_twice(tmp_path: Path) -> None:
    """SpikingJelly gives each call its layer, probe gives each call its activation."""
    ann = residual()
    snn = by_spikingjelly(ann, mode="Max")
    with probe.open(record((ann, snn), tmp_path / "r.h5")) as recording:
        assert [(one.name, one.info.snn_name) for one in recording.layers] == [
            ("relu", "spiking_0"), ("relu_1", "spiking_1")
        ]  # fmt: skip
        # Nothing spikes before the second layer's input but the first layer: x of stem + convolution of spikes.
        assert recording.facts["on_spikes"] == []
        images = digits(20)
        with torch.no_grad():
            x = ann.stem(images)
            first = ann.first(x).relu()
            second = (x + ann.second(first)).relu()
        np.testing.assert_allclose(recording.layers[0].ann_output, first, atol=1e-5)
        np.testing.assert_allclose(recording.layers[1].ann_output, second, atol=1e-5)
    # One call twice, not two modules: the user's network is as it was.
    assert [name for name, module in ann.named_modules() if isinstance(module, nn.ReLU)] == ["relu"]


def test_functional_relu_is_what_convert_refuses_and_probe_pairs(tmp_path: Path) -> None:
    ann, twin = residual(by_function=True), residual()
    with pytest.raises(ValueError, match="relu"):
        by_spikingjelly(ann)
    snn = by_spikingjelly(twin, mode="Max")
    with (
        probe.open(record((ann, snn), tmp_path / "one.h5")) as one,
        probe.open(record((twin, snn), tmp_path / "two.h5")) as two,
    ):
        assert one.facts["unpaired"] == []
        for left, right in zip(one.layers, two.layers, strict=True):
            np.testing.assert_array_equal(left.ann_output, right.ann_output)
            np.testing.assert_array_equal(left.snn_spikes, right.snn_spikes)


def test_a_scaler_that_does_not_fit_its_neuron_is_refused(tmp_path: Path) -> None:
    ann = relu_digits()
    snn = by_spikingjelly(ann)
    snn.get_submodule("spiking_0.scaler0").scale.mul_(2.0)
    with pytest.raises(ProbeError, match=r"layer spiking_0 is scaled by .* whose product is that threshold"):
        record((ann, snn), tmp_path / "r.h5")


def test_mixed_step_modes_are_refused(tmp_path: Path) -> None:
    ann = relu_digits()
    snn = by_spikingjelly(ann)
    snn.get_submodule("spiking_0.if_node").step_mode = "m"
    with pytest.raises(ProbeError, match=r"mixes step modes.*set_step_mode"):
        record((ann, snn), tmp_path / "r.h5")


def test_what_probe_layers_shows(tmp_path: Path) -> None:
    ann = relu_digits()
    prepared = prepare(Source((ann, by_threshold_balancing(ann)), data="digits"))
    table = pairing_table(prepared)
    prepared.release()
    assert (table["family"], table["unpaired"], table["on_spikes"]) == ("spikingjelly", [], [])
    assert [(row["ann"], row["snn"]) for row in table["layers"]] == [
        ("0.2", "0.ltb_spiking_0"), ("1.2", "1.ltb_spiking_0"), ("3.2", "3.ltb_spiking_0"), ("7", "ltb_spiking_0")
    ]  # fmt: skip
    assert all(row["reason"] is None and row["initial_fraction"] == 0.5 for row in table["layers"])
    assert table["layers"][0]["threshold"]["per"] == "channel"


# ------------------------------------------------------------------------------------------------ max-pooling


def pooled(early: bool) -> nn.Sequential:
    """Max-pooling on the image, or on the first layer's spikes."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 6, 3, padding=1)
    first = [nn.MaxPool2d(2), conv, nn.ReLU()] if early else [conv, nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10)).eval()


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("mode", ["s", "m"])
def test_max_pooling_on_spikes_is_named(early: bool, mode: str, tmp_path: Path) -> None:
    """Of spikes the maximum over a window is 1 where any fires; of the image, the same at every t, it is a number."""
    ann = pooled(early)
    snn = by_spikingjelly(ann, mode="Max")
    functional.set_step_mode(snn, mode)
    prepared = prepare(Source((ann, snn), data="digits"))
    notes = prepared.notes
    prepared.release()
    with probe.open(record((ann, snn), tmp_path / "r.h5")) as recording:
        facts = recording.facts
        assert [one.name for one in recording.layers] == (["2", "4"] if early else ["1", "4"])
    if early:
        assert (facts["on_spikes"], notes) == ([], ())
    else:
        assert facts["on_spikes"] == [{"module": "2", "operation": "max-pooling"}]
        assert len(notes) == 1
        assert "max-pooling in 2" in notes[0]


def test_pooling_that_the_conversion_moved_before_the_neurons(tmp_path: Path) -> None:
    """Balancing pools the currents instead: that layer has fewer neurons than the ReLU, and stays without partner."""
    ann = pooled(early=False)
    snn = by_threshold_balancing(ann)
    with pytest.raises(ProbeError, match=r"2 ways to pair .*--pair"):
        record((ann, snn), tmp_path / "r.h5")
    with probe.open(record((ann, snn), tmp_path / "r.h5", pairs={"4": "ltb_spiking_1"})) as recording:
        assert recording.facts["on_spikes"] == []
        assert [one.paired for one in recording.layers] == [False, True]
        assert recording.facts["unpaired"] == ["ANN 1", "SNN ltb_spiking_0"]


# ------------------------------------------------------------------------------------- networks without an ANN


def built(make: Callable[[], nn.Module], mode: str = "s", *, pool: type[nn.Module] = layer.AvgPool2d) -> nn.Sequential:
    """Convolution, neurons, pooling, linear, neurons; weights large enough for both layers to fire."""
    torch.manual_seed(0)
    network = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1), layer.BatchNorm2d(4), make(), pool(2), layer.Flatten(), layer.Linear(64, 10),
        make(),
    )  # fmt: skip
    with torch.no_grad():
        network[1].weight.mul_(2)
        network[5].weight.mul_(12)
    functional.set_step_mode(network, mode)
    return network.eval()


def plain_loop(network: nn.Sequential, x: Tensor, timesteps: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """As users run it in step mode 's': outputs, and spikes and potentials of both layers, (sample, timestep, ...)."""
    functional.reset_net(network)
    spikes: list[list[Tensor]] = [[], []]
    potentials: list[list[Tensor]] = [[], []]
    outputs = []
    with torch.no_grad():
        for _ in range(timesteps):
            out = x
            for place, module in enumerate(network):
                out = module(out)
                if place in (2, 6):
                    spikes[place == 6].append(out.clone())
                    potentials[place == 6].append(module.v.clone())
            outputs.append(out)
    functional.reset_net(network)
    return torch.stack(outputs, 1), [torch.stack(s, 1) for s in spikes], [torch.stack(v, 1) for v in potentials]


NODES: dict[str, Callable[..., nn.Module]] = {
    "if": neuron.IFNode,
    "lif": lambda **o: neuron.LIFNode(tau=2.0, **o),
    "parametriclif": lambda **o: neuron.ParametricLIFNode(init_tau=2.0, **o),
}


KINDS = [
    (kind, reset, mode, store)
    for kind, reset, mode, store in itertools.product(NODES, (None, 0.0, -0.25), "sm", (False, True))
    if mode == "m" or not store
]


@pytest.mark.parametrize(("kind", "v_reset", "mode", "store"), KINDS)
def test_spikes_and_potentials_are_those_of_a_plain_loop(
    kind: str, v_reset: float | None, mode: str, store: bool, tmp_path: Path
) -> None:
    def make() -> nn.Module:
        return NODES[kind](v_reset=v_reset, store_v_seq=store)

    out, spikes, potentials = plain_loop(built(make), digits(20), 6)
    lawful = kind == "if" and v_reset is None
    with probe.open(record(built(make, mode), tmp_path / "r.h5", timesteps=6)) as recording:
        assert not recording.has_ann
        np.testing.assert_array_equal(recording.snn_logits, out)
        for place, one in enumerate(recording.layers):
            assert one.neuron == kind
            assert 0.02 < one.snn_spikes.mean() < 0.98
            np.testing.assert_array_equal(one.snn_spikes, spikes[place])
            kept = not lawful and (mode == "s" or store)
            assert one.has("membrane_potential") == kept
            if kept:
                np.testing.assert_allclose(one.read("membrane_potential"), potentials[place], atol=1e-5)
            sample, *where = (int(i[0]) for i in np.nonzero(one.spike_count))
            traced = probe.trace(recording, place, sample, where)
            expected = potentials[place][(sample, slice(None), *where)].numpy()
            if kept or lawful:
                np.testing.assert_allclose(traced.potential, expected, atol=1e-5)
            else:
                assert np.isnan(traced.potential).all()
            law = recording.facts["law"][str(place)]
            assert (law["largest_difference"] is not None) == lawful
            assert not law["broken"]


def test_a_leak_by_hand(tmp_path: Path) -> None:
    """LIF, τ = 2, hard reset to 0: charged(t) = v(t-1) + (x(t) - v(t-1))/2, spike where that is at least 1."""
    with probe.open(record(built(NODES["lif"]), tmp_path / "r.h5", timesteps=6)) as recording:
        one = recording.layers[1]
        x, v = one.read("snn_input"), np.zeros((20, 10), np.float32)
        for t in range(6):
            v = v + (x[:, t] - v) / 2
            s = v >= 1
            np.testing.assert_array_equal(one.snn_spikes[:, t], s)
            v = np.where(s, np.float32(0), v)
            np.testing.assert_allclose(one.read("membrane_potential")[:, t], v, atol=1e-6)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_rates_dead_neurons_accuracy_and_pictures(mode: str, tmp_path: Path) -> None:
    network = built(NODES["lif"], mode, pool=layer.MaxPool2d)
    with torch.no_grad():
        network[1].weight[0] = 0
        network[1].bias[0] = -1.0  # a channel that never fires
    out, spikes, _ = plain_loop(copied(network, "s"), digits(20), 6)
    with probe.open(record(network, tmp_path / "r.h5", timesteps=6)) as recording:
        rows = probe.layer_table(recording)["layers"]
        assert [row["name"] for row in rows] == ["2", "6"]
        assert rows[0]["firing_rate"] == pytest.approx(float(spikes[0].mean()))
        assert rows[0]["silent"] == float((spikes[0].sum((0, 1)) == 0).double().mean()) >= 0.25
        labels = torch.from_numpy(recording.labels)
        right = (out.double().cumsum(1).argmax(2) == labels[:, None]).double().mean(0)
        found = probe.accuracy(recording)
        assert (found["ann"], list(found["snn"].values())) == (None, right.tolist())
        for kind in ("raster", "rates", "accuracy"):
            assert isinstance(draw(recording, kind), Figure)
        assert recording.facts["on_spikes"] == [{"module": "3", "operation": "max-pooling"}]
        with pytest.raises(ProbeError, match="has no ANN partner, so there is no error to speak of"):
            probe.unevenness(recording)


def copied(network: nn.Sequential, mode: str) -> nn.Sequential:
    made = copy.deepcopy(network)
    functional.set_step_mode(made, mode)
    return made


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: neuron.TernaryIFNode(v_threshold=0.5, v_reset=None), {-1, 0, 1}),
        (lambda: neuron.ILIFNode(v_threshold=0.5), {0, 1, 2, 3, 4}),
    ],
)
@pytest.mark.parametrize("mode", ["s", "m"])
def test_negative_and_several_spikes(
    make: Callable[[], nn.Module], values: set[int], mode: str, tmp_path: Path
) -> None:
    _, spikes, _ = plain_loop(built(make), digits(20), 6)
    with probe.open(record(built(make, mode), tmp_path / "r.h5", timesteps=6)) as recording:
        for place, one in enumerate(recording.layers):
            np.testing.assert_array_equal(one.snn_spikes, spikes[place])
            assert set(np.unique(one.snn_spikes).tolist()) == values


# ------------------------------------------------------------------------------------------ left as it was found


@pytest.mark.parametrize("mode", ["s", "m"])
def test_state_modes_and_monitors_of_the_user(mode: str, tmp_path: Path) -> None:
    """Each batch starts afresh, also after a run of the user's; modes and hooks stay; the state is forgotten."""
    fresh = record(built(NODES["lif"], mode), tmp_path / "fresh.h5", timesteps=6)
    network = built(NODES["lif"], mode)
    x = digits(10) if mode == "s" else digits(10)[None].repeat(3, 1, 1, 1, 1)
    with torch.no_grad():
        network(x)
    assert isinstance(network[2].v, Tensor)
    network.train()
    network[1].eval()
    running = network[1].running_mean.clone()
    watching = monitor.OutputMonitor(network, neuron.LIFNode)
    before = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]
    used = record(network, tmp_path / "used.h5", timesteps=6, batch_size=10)
    assert [module.training for module in network] == [True, False, True, True, True, True, True]
    assert {module.step_mode for module in network} == {mode}
    assert before == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]
    assert network[2].v == network[6].v == 0.0
    torch.testing.assert_close(network[1].running_mean, running, rtol=0, atol=0)
    watching.clear_recorded_data()
    with torch.no_grad():
        network(x)
    assert len(watching.records) == 2
    watching.remove_hooks()
    other = record(built(NODES["lif"], mode), tmp_path / "other.h5", timesteps=6, batch_size=3)
    with probe.open(fresh) as one, probe.open(used) as two, probe.open(other) as three:
        for left, middle, right in zip(one.layers, two.layers, three.layers, strict=True):
            assert left.spike_count.sum() > 0
            np.testing.assert_array_equal(left.snn_spikes, middle.snn_spikes)
            np.testing.assert_array_equal(left.snn_spikes, right.snn_spikes)


# --------------------------------------------------------------------------------- forwards that make time themselves


class OwnTime(nn.Module):
    """The tutorials' network: its forward repeats the image over time, and averages."""

    def __init__(self, average: bool) -> None:
        super().__init__()
        self.T, self.average, self.body = 4, average, built(NODES["if"], "m")

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1))
        return out.mean(0) if self.average else out


class Averages(nn.Module):
    """Takes [T, B, ...] and gives the mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.body = built(NODES["if"], "m")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x).mean(0)
        return out


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (OwnTime(average=True), r"cannot take .* 8x1x1x8x8.*repeats the sample over time.*pass the module inside"),
        (OwnTime(average=False), r"cannot take .* 8x1x1x8x8.*repeats the sample over time.*pass the module inside"),
        (Averages(), r"gives shape \(1, 10\) for 8 timesteps.*do not average"),
    ],
)
def test_what_cannot_be_followed_step_by_step_says_what_to_do(network: nn.Module, told: str, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=told):
        record(network, tmp_path / "r.h5")
    path = record(network.body, tmp_path / "r.h5")
    with probe.open(path) as recording:
        assert [one.name for one in recording.layers] == ["2", "6"]


def test_recognised_by_what_the_modules_have() -> None:
    assert family.match(built(neuron.IFNode))
    assert not family.match(architecture())
    pairs = family.spiking_layers(by_spikingjelly(relu_digits(), channel_wise=True, half_threshold=True))
    assert [(pair.name, pair.initial_fraction) for pair in pairs] == [
        ("0.channel_spiking_0", 0.5), ("1.channel_spiking_0", 0.5), ("3.channel_spiking_0", 0.5),
        ("channel_spiking_0", 0.5),
    ]  # fmt: skip
