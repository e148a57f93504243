"""sinabs: networks of `from_model` and of its layers, read samples first; what may be claimed of them and what not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sinabs.layers as sl
import torch
from sinabs.activation import MaxSpike, MembraneReset, MembraneSubtract, MultiSpike, SingleSpike
from sinabs.from_torch import from_model
from torch import Tensor, nn

import probe
from probe.errors import ProbeError
from probe.families import Subject, convert
from probe.families import sinabs as family
from probe.models import adapt
from probe.neurons import NeuronSpec
from probe.plots import draw
from probe.session import plan
from tests.relu_models import by_sinabs, relu_digits
from tests.test_families_spikingjelly import NAMES, digits, disagreement

pytestmark = pytest.mark.usefixtures("one_thread")
T = 8
BOUNDED = "the potential is clipped from below, so the conservation law does not hold"
SINGLE = {"spike_fn": SingleSpike, "min_v_mem": None}
"""One spike a step at most and no lower bound: the plain integrate-and-fire neuron."""


def record(model: Any, path: Path, **options: Any) -> Path:
    """Twenty digits in two batches, T = 8; a broken oracle or law raises."""
    usual = {"data": "digits", "samples": 20, "batch_size": 10, "timesteps": T, "strict": True}
    return probe.capture(model, output=path, **{**usual, **options})


def plain_run(network: nn.Module, images: Tensor, timesteps: int = T) -> tuple[Tensor, dict[str, Tensor]]:
    """As users run it, an image at a time: logits and each layer's spikes, (sample, timestep, ...)."""
    layers = {name: module for name, module in network.named_modules() if isinstance(module, sl.IAFSqueeze)}
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = [
        module.register_forward_hook(lambda _module, _args, out, name=name: seen[name].append(out.clone()))
        for name, module in layers.items()
    ]
    logits = []
    with torch.no_grad():
        for image in images:
            for module in layers.values():
                module.reset_states()
                module.batch_size, module.num_timesteps = 1, -1
            logits.append(network(image[None].repeat(timesteps, 1, 1, 1)))
    for handle in handles:
        handle.remove()
    return torch.stack(logits), {name: torch.stack(spikes) for name, spikes in seen.items()}


# --------------------------------------------------------------------------------------------------- from_model


def test_a_network_of_from_model_is_both_models(tmp_path: Path) -> None:
    """Given alone, as the pair inside, or beside its ANN: one and the same recording, that of a plain run."""
    ann = relu_digits()
    network = by_sinabs(ann)
    logits, spikes = plain_run(by_sinabs(ann).spiking_model, digits(20))
    given = {"alone": network, "pair": (network.analog_model, network.spiking_model), "beside": (ann, network)}
    for kind, model in given.items():
        with probe.open(record(model, tmp_path / f"{kind}.h5")) as recording:
            assert recording.attributes["family"] == "sinabs"
            assert [layer.name for layer in recording.layers] == NAMES
            inside = "spiking_model." if kind == "beside" else ""
            assert [layer.info.snn_name for layer in recording.layers] == [inside + name for name in NAMES]
            np.testing.assert_allclose(recording.snn_logits, logits, atol=1e-4)
            with torch.no_grad():
                np.testing.assert_allclose(recording.ann_logits, ann(digits(20)), atol=1e-4)
            for layer in recording.layers:
                assert layer.info.layout == "BT"
                np.testing.assert_array_equal(layer.snn_spikes, spikes[layer.name])


def test_several_spikes_a_step_and_a_bound_from_below(tmp_path: Path) -> None:
    """The defaults: spikes as whole numbers, cases as the field counts them; what rests on the law is null."""
    ann = relu_digits()
    network = by_sinabs(ann)
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        most = [int(layer.snn_spikes.max()) for layer in recording.layers]
        assert max(most) > 1
        for layer, found in zip(recording.layers, probe.unevenness(recording)["layers"], strict=True):
            assert (layer.neuron, layer.snn_spikes.dtype, layer.initial_fraction) == ("iaf", np.int8, 0.0)
            assert (layer.traits["graded"], layer.traits["bounded"]) == (True, True)
            np.testing.assert_array_equal(layer.spike_count, layer.snn_spikes.sum(1, dtype=np.int64))
            assert found["reason"] == BOUNDED
            assert (found["attribution"], found["local_cases"], found["residual"]) == (None, None, None)
            assert not found["oracle"]["applies"]
            # θ = 1, so φ = n/T; equal is within half a spike of a.
            a, phi = layer.ann_output.astype(np.float64), layer.spike_count / T
            off = np.abs(phi - a) > 1 / (2 * T)
            expected = {
                "zero_equal": (a == 0) & ~off, "zero_over": (a == 0) & off, "zero_under": np.zeros_like(off),
                "positive_equal": (a > 0) & ~off, "positive_over": (a > 0) & off & (phi > a),
                "positive_under": (a > 0) & off & (phi < a),
            }  # fmt: skip
            assert found["cases"] == {case: int(where.sum()) for case, where in expected.items()}
            assert found["cases"]["positive_equal"] > 0
            assert recording.facts["law"][str(layer.index)] == {"largest_difference": None, "broken": False}
        assert probe.accuracy(recording)["snn"]["8"] > 0.7
        for kind in ("raster", "rates", "accuracy", "cases"):
            draw(recording, kind)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (SINGLE, None),
        ({"spike_fn": MaxSpike(3), "min_v_mem": None}, "the neuron may fire more than one spike a timestep"),
        ({"spike_fn": MultiSpike, "min_v_mem": None}, "the neuron may fire more than one spike a timestep"),
        ({"spike_fn": SingleSpike, "min_v_mem": -1.0}, BOUNDED),
        ({**SINGLE, "reset_fn": MembraneReset()}, "reset to zero: the conservation law needs a reset by subtraction"),
        (
            {**SINGLE, "reset_fn": MembraneSubtract(0.5)},
            "reset to a value of its own: the conservation law needs a reset by subtraction",
        ),
        ({**SINGLE, "reset_fn": MembraneSubtract(1.0)}, None),
    ],
)
def test_what_is_claimed_follows_from_the_layer(options: dict[str, Any], reason: str | None, tmp_path: Path) -> None:
    with probe.open(record(by_sinabs(relu_digits(), **options), tmp_path / "r.h5")) as recording:
        for layer, found in zip(recording.layers, probe.unevenness(recording)["layers"], strict=True):
            assert found.get("reason") == reason
            assert (found["attribution"] is None) == (reason is not None)
            assert layer.spike_count.any()
            lawful = reason is None or "more than one" in reason
            assert (recording.facts["law"][str(layer.index)]["largest_difference"] is not None) == lawful


def test_everything_is_claimed_of_the_plain_neuron(tmp_path: Path) -> None:
    """θ = 1, v(0) = 0: oracle and law hold, the pieces add up, and probe's own conversion spikes alike."""
    ann = relu_digits()
    with probe.open(record(by_sinabs(ann, **SINGLE), tmp_path / "r.h5")) as recording:
        found = probe.unevenness(recording, recompute=True)["layers"]
        assert recording.facts["oracles"]["0"]["applies"]
        assert found[0]["oracle"]["violations"] == 0
        assert found[0]["attribution"]["unevenness"]["mean_square"] == 0
        assert found[1]["attribution"]["unevenness"]["mean_square"] > 0
        for layer, one in zip(recording.layers, found, strict=True):
            assert (float(layer.threshold), layer.initial_fraction) == (1.0, 0.0)
            assert set(np.unique(layer.snn_spikes).tolist()) == {0, 1}
            pieces = {name: piece for name, piece in one["attribution"].items() if name != "total"}
            assert sum(piece["share"] for piece in pieces.values()) == pytest.approx(1)
            law = recording.facts["law"][str(layer.index)]
            assert law["largest_difference"] < 1e-4
        subject = convert.adapt(
            ann, "if", NeuronSpec(initial_potential=0.0), thresholds={name: np.float32(1.0) for name in NAMES}
        )
        with probe.open(record(subject, tmp_path / "ours.h5")) as ours:
            ties, others = disagreement(recording, ours)
            assert others == 0
            assert ties <= 2


# ------------------------------------------------------------------------------------------------------- layout


def swapped(subject: Subject, layout: str = "TB") -> Subject:
    """The same network, said to have its timesteps outermost."""
    return replace(subject, layers=[replace(layer, layout=layout) for layer in subject.layers])


def test_samples_first_is_not_timesteps_first(tmp_path: Path) -> None:
    """Read as [T·B] the spikes of ten samples are mixed; for one sample, as in the survey, both are the same."""
    ann = relu_digits()
    subject = adapt(by_sinabs(ann, **SINGLE), digits(1))
    with probe.open(record(subject, tmp_path / "right.h5")) as recording:
        right = [layer.snn_spikes for layer in recording.layers]
    with pytest.raises(ProbeError, match=r"layer 0 \(0\.2\): the input changes at t = 2, though not for one sample"):
        record(swapped(subject), tmp_path / "wrong.h5")
    # Without the first layer, whose input must be constant, the law and what the networks were fed give it away.
    planned = plan(swapped(subject), data="digits", samples=20, batch_size=10, timesteps=T, layers=["1:"],
                   output=tmp_path / "deep.h5")  # fmt: skip
    captured = planned.run()
    told = " ".join(captured.broken)
    assert "were fed different numbers in" in told
    assert [f"layer {index}" in told for index in range(4)] == [False, True, True, True]
    assert "conservation law" in told
    with probe.open(captured.path) as recording:
        for layer, spikes in zip(recording.layers, right[1:], strict=True):
            mixed = spikes.reshape(2, 10, T, -1).reshape(2, T, 10, -1).transpose(0, 2, 1, 3).reshape(spikes.shape)
            assert not np.array_equal(mixed, spikes)
            np.testing.assert_array_equal(layer.snn_spikes, mixed)
        law = [layer["law"]["broken"] for layer in probe.unevenness(recording)["layers"]]
        assert law == [True, True, True]


def test_a_layout_of_another_rank_is_refused(tmp_path: Path) -> None:
    subject = adapt(by_sinabs(relu_digits(), **SINGLE), digits(1))
    with pytest.raises(ProbeError, match=r"is called with shape .* expected time and samples in the layout B,T"):
        record(swapped(subject, "B,T"), tmp_path / "wrong.h5")


# ------------------------------------------------------------------------------------- networks of its layers


def stack(make: Callable[..., nn.Module], **options: Any) -> nn.Sequential:
    """[B, T, 1, 8, 8] to [B, T, 10], two layers of the kind; large weights, so that both fire."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(2), nn.Linear(64, 20), make(**options), nn.Linear(20, 10), make(**options))
    with torch.no_grad():
        network[1].weight.mul_(3)
        network[3].weight.mul_(3)
    return network.eval()


def squeezed(make: Callable[..., nn.Module], **options: Any) -> nn.Sequential:
    """The same weights for [B·T, 1, 8, 8]."""
    plain = stack(make, batch_size=1, **options)
    return nn.Sequential(nn.Flatten(1), *list(plain)[1:])


def analog() -> nn.Sequential:
    """The ANN of `stack`."""
    weights = stack(sl.IAF)
    return nn.Sequential(nn.Flatten(1), weights[1], nn.ReLU(), weights[3], nn.ReLU()).eval()


@pytest.mark.parametrize("options", [SINGLE, {}], ids=["single", "defaults"])
def test_time_on_an_axis_of_its_own(options: dict[str, Any], tmp_path: Path) -> None:
    """IAF in [B, T, ...] gives the recording of IAFSqueeze in [B·T, ...], alone and paired with an ANN."""
    pairs = {"axis": (analog(), stack(sl.IAF, **options)), "squeezed": (analog(), squeezed(sl.IAFSqueeze, **options))}
    paths = {kind: record(pair, tmp_path / f"{kind}.h5") for kind, pair in pairs.items()}
    alone = record(pairs["axis"][1], tmp_path / "alone.h5")
    with probe.open(paths["axis"]) as one, probe.open(paths["squeezed"]) as two, probe.open(alone) as three:
        assert [layer.info.layout for layer in one.layers] == ["B,T", "B,T"]
        assert [layer.info.layout for layer in two.layers] == ["BT", "BT"]
        assert not three.has_ann
        np.testing.assert_array_equal(one.snn_logits, two.snn_logits)
        for left, right, lone in zip(one.layers, two.layers, three.layers, strict=True):
            assert left.spike_count.any()
            for name in ("snn_spikes", "snn_input"):
                np.testing.assert_array_equal(left.read(name), right.read(name))
                np.testing.assert_array_equal(left.read(name), lone.read(name))
        reasons = [layer.get("reason") for layer in probe.unevenness(one)["layers"]]
        assert reasons == ([None, None] if options else ["the neuron may fire more than one spike a timestep"] * 2)
        with pytest.raises(ProbeError, match="no ANN partner"):
            probe.unevenness(three)


def test_convolutions_between_layers_that_unflatten_time(tmp_path: Path) -> None:
    """FlattenTime, convolution, UnflattenTime(B), IAF: its B is another for the survey and for the last batch."""
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    network = nn.Sequential(
        sl.FlattenTime(), conv, sl.UnflattenTime(batch_size=7), sl.IAF(), nn.Flatten(2), nn.Linear(256, 10), sl.IAF()
    ).eval()
    first, last = sl.IAFSqueeze(batch_size=1), sl.IAFSqueeze(batch_size=1)
    twin = nn.Sequential(conv, first, nn.Flatten(1), network[5], last).eval()
    one = record(network, tmp_path / "one.h5", samples=20, batch_size=8)
    two = record(twin, tmp_path / "two.h5", samples=20, batch_size=20)
    assert network[2].batch_size == 7
    with probe.open(one) as first, probe.open(two) as second:
        for left, right in zip(first.layers, second.layers, strict=True):
            assert left.spike_count.any()
            np.testing.assert_array_equal(left.snn_spikes, right.snn_spikes)


MAKERS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "iaf": (sl.IAF, {"min_v_mem": -0.5}),
    "lif": (sl.LIF, {"tau_mem": 5.0, "norm_input": False}),
    "lif, trained decay": (sl.LIF, {"tau_mem": 5.0, "train_alphas": True, "norm_input": False}),
    "lif, synapse": (sl.LIF, {"tau_mem": 5.0, "tau_syn": 2.0, "norm_input": False}),
    "alif": (sl.ALIF, {"tau_mem": 5.0, "tau_adapt": 5.0, "spike_threshold": torch.tensor(0.3)}),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("states", [True, False])
def test_recorded_states_give_potentials(name: str, states: bool, tmp_path: Path) -> None:
    make, options = MAKERS[name]
    network = stack(make, record_states=states, **options)
    reference = stack(make, record_states=True, **options)
    with torch.no_grad():
        spikes = reference[:3](digits(20)[:, None].repeat(1, T, 1, 1, 1))
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        layer = recording.layers[0]
        assert layer.neuron == name.split(",")[0]
        assert layer.spike_count.any()
        np.testing.assert_array_equal(layer.snn_spikes, spikes)
        assert layer.has("membrane_potential") == states
        if states:
            v = reference[2].recordings["v_mem"].detach()
            np.testing.assert_allclose(layer.read("membrane_potential"), v, atol=1e-5)
            assert np.isfinite(probe.trace(recording, 0, 1, [3]).potential).all()
        else:
            assert np.isnan(probe.trace(recording, 0, 1, [3]).potential).all()
        assert recording.facts["law"]["0"]["largest_difference"] is None


def test_a_leak_by_hand(tmp_path: Path) -> None:
    """v(t) = e^(-1/5)·v(t-1) + x(t), then as many spikes as v/θ has whole thresholds, each taking θ = 1."""
    network = stack(sl.LIF, tau_mem=5.0, norm_input=False, record_states=True)
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        layer = recording.layers[1]
        x, v = layer.read("snn_input"), np.zeros((20, 10), np.float32)
        for t in range(T):
            v = np.float32(np.exp(-0.2)) * v + x[:, t]
            s = np.where(v > 0, np.trunc(v), 0)
            np.testing.assert_array_equal(layer.snn_spikes[:, t], s)
            v = v - s
            np.testing.assert_allclose(layer.read("membrane_potential")[:, t], v, atol=1e-5)
        assert layer.snn_spikes.max() > 1


def test_a_layer_fed_back_its_own_spikes_claims_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(2), nn.Linear(64, 10), sl.IAFRecurrent(rec_connect=nn.Linear(10, 10), spike_fn=SingleSpike)
    )
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        assert recording.layers[0].spike_count.any()
        assert recording.facts["law"]["0"]["largest_difference"] is None


def readout(squeeze: bool) -> nn.Sequential:
    """A leaky integrator that does not spike, as an output layer."""
    leak = sl.ExpLeakSqueeze(tau_mem=5.0, batch_size=3) if squeeze else sl.ExpLeak(tau_mem=5.0)
    return nn.Sequential(*list(squeezed(sl.IAFSqueeze) if squeeze else stack(sl.IAF))[:4], leak).eval()


@pytest.mark.parametrize("squeeze", [True, False])
def test_an_output_that_does_not_spike_is_no_layer_but_is_reset(squeeze: bool, tmp_path: Path) -> None:
    network = readout(squeeze)
    sizes = (10, 5)
    paths = [record(network, tmp_path / f"{size}.h5", samples=10, batch_size=size) for size in sizes]
    with torch.no_grad():
        x = digits(10)[:, None].repeat(1, T, 1, 1, 1)
        expected = readout(False)(x)
    for path in paths:
        with probe.open(path) as recording:
            assert [layer.name for layer in recording.layers] == ["2"]
            np.testing.assert_allclose(recording.snn_logits, expected, atol=1e-5)
    if squeeze:
        assert (network[4].batch_size, network[4].num_timesteps) == (3, -1)


@pytest.mark.parametrize("shape", [(4,), (4, 1, 1)])
def test_thresholds_are_read_as_torch_broadcasts_them(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Four channels of 4 x 4: a row of four belongs to the columns."""
    threshold = torch.tensor([0.2, 0.4, 0.8, 1.6]).reshape(shape)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), sl.IAFSqueeze(batch_size=1, spike_threshold=threshold, **SINGLE),
        nn.Flatten(1), nn.Linear(64, 10),
    ).eval()  # fmt: skip
    with probe.open(record(network, tmp_path / "r.h5")) as recording:
        layer = recording.layers[0]
        full = np.broadcast_to(layer.threshold, (1, *layer.shape))[0]
        np.testing.assert_array_equal(full, np.broadcast_to(threshold.numpy(), layer.shape))
        assert layer.spike_count.any()
        assert recording.facts["law"]["0"]["largest_difference"] < 1e-4


# ------------------------------------------------------------------------------------------ left as it was found


def test_sizes_modes_hooks_and_states_stay(tmp_path: Path) -> None:
    ann = relu_digits()
    fresh = record(by_sinabs(ann), tmp_path / "fresh.h5")
    network = by_sinabs(ann, batch_size=4, num_timesteps=3)
    layers = [module for module in network.modules() if isinstance(module, sl.IAFSqueeze)]
    with torch.no_grad():
        network(torch.rand(12, 1, 8, 8))
    network.train()
    network.spiking_model[0].eval()
    modes = [module.training for module in network.modules()]
    states = [module.v_mem.clone() for module in layers]
    assert all(float(state.abs().max()) > 0 for state in states)
    seen: list[int] = []
    handle = layers[0].register_forward_hook(lambda _module, _args, out: seen.append(len(out)))
    used = record(network, tmp_path / "used.h5", batch_size=7)
    assert [(module.batch_size, module.num_timesteps) for module in layers] == [(4, 3)] * 4
    assert [module.training for module in network.modules()] == modes
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()) == 1
    assert seen[-3:] == [7 * T, 7 * T, 6 * T]
    handle.remove()
    assert all(torch.equal(module.v_mem, state) for module, state in zip(layers, states, strict=True))
    with torch.no_grad():
        assert network.eval()(torch.rand(12, 1, 8, 8)).shape == (12, 10)
    with probe.open(fresh) as one, probe.open(used) as two:
        for left, right in zip(one.layers, two.layers, strict=True):
            np.testing.assert_array_equal(left.snn_spikes, right.snn_spikes)


def test_sizes_stay_after_an_exception(tmp_path: Path) -> None:
    network = by_sinabs(relu_digits(), batch_size=4)
    layers = [module for module in network.modules() if isinstance(module, sl.IAFSqueeze)]
    planned = plan(network, data="digits", samples=20, batch_size=10, timesteps=T, output=tmp_path / "r.h5")
    assert [(module.batch_size, module.num_timesteps) for module in layers] == [(4, -1)] * 4
    network.spiking_model[6].weight.data.fill_(float("nan"))
    with pytest.raises(ProbeError, match="NaN or infinity"):
        planned.run()
    assert [(module.batch_size, module.num_timesteps) for module in layers] == [(4, -1)] * 4
    assert list(tmp_path.iterdir()) == []


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), sl.IAF(), sl.IAFSqueeze(batch_size=1))
    with pytest.raises(ProbeError, match="mixes squeezing layers and others"):
        record(network, tmp_path / "r.h5")


def test_recognised_by_what_the_layers_have() -> None:
    ann = relu_digits()
    network = by_sinabs(ann)
    assert family.match(network)
    assert not family.match(ann)
    assert not family.match(nn.Sequential(nn.Linear(2, 2), sl.ExpLeak(tau_mem=2.0)))
    assert family.split(network) == (network.analog_model, network.spiking_model)
    assert family.split(ann) is None


def test_states_are_put_back_so_that_a_state_dict_still_loads(tmp_path: Path) -> None:
    model = from_model(relu_digits(), batch_size=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe.capture(model, data="digits", samples=14, batch_size=5, timesteps=4, output=tmp_path / "r.h5")
    model.load_state_dict(before)
    assert all(value.shape == before[name].shape for name, value in model.state_dict().items())
