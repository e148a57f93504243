"""QCFS with merged time and stepwise, SRP and COS: the same weights through several implementations are one network.

Equal but for ties: where a charged potential comes within 1e-4 θ of firing, rounding may decide; `compare` counts them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import probe
from probe import zoo
from probe.attribution import TIE
from probe.data import DataSet, open_data
from probe.errors import ProbeError
from probe.families import convert
from probe.families.activations import Activation, activation_of, activations_of
from probe.neurons import QCFS, NeuronSpec
from probe.recording.reader import Layer
from probe.run import Run
from probe.session import plan
from tests import paper_models

pytestmark = pytest.mark.usefixtures("one_thread")

Array = npt.NDArray[Any]
Record = Callable[..., probe.Recording]

MODELS: dict[str, Callable[[], Any]] = {
    "zoo": lambda: "zoo:digits",
    "merged": paper_models.merged,
    "stepwise": paper_models.stepwise,
    "stepwise, L = 4": lambda: paper_models.stepwise(levels=4),
    "stepwise ANN": paper_models.stepwise_ann,
    "unmasked": paper_models.unmasked,
    "shifted": paper_models.shifted,
    "cos": paper_models.cos,
    "cos, T = 4": lambda: paper_models.cos(4, 4),
}
for presteps, timesteps in ((4, 8), (2, 4)):
    MODELS[f"srp, τ = {presteps}, T = {timesteps}"] = functools.partial(paper_models.srp, presteps, timesteps)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """An open recording of 12 samples of one of `MODELS`, all oracles green, made once for each set of options."""
    folder = tmp_path_factory.mktemp("recordings")

    @functools.cache
    def make(model: str, **options: Any) -> probe.Recording:
        options = {"samples": 12, "batch_size": 12, **options}
        path = folder / f"{len(list(folder.iterdir()))}.h5"
        return probe.open(probe.capture(MODELS[model](), data="digits", output=path, strict=True, **options))

    return make


# --------------------------------------------------------------------------------------------- ties


@dataclass(frozen=True)
class Fate:
    """What a float64 simulation of some neurons gives, each (sample, *neuron), potentials in units of θ."""

    distance: Array
    """The least |charged potential - θ| at any t."""
    count: Array
    potential: Array
    """v(T)."""


def simulate(x: Array, start: Any) -> Fate:
    """IF neurons on the input x in units of θ, (sample, timestep, *neuron), from v(0) = start."""
    v = np.broadcast_to(np.float64(start), x[:, 0].shape).copy()
    distance, count = np.full(v.shape, np.inf), np.zeros(v.shape, int)
    for t in range(x.shape[1]):
        v += x[:, t]
        distance = np.minimum(distance, np.abs(v - 1))
        count += v >= 1
        v -= v >= 1
    return Fate(distance, count, v)


def ties(layer: Layer, before: Array | None = None) -> Array:
    """True for the neurons that came within 1e-4 θ of another decision at some t, by the recorded inputs.

    Args:
        layer: of a recording.
        before: the input in SRP's pre-steps, (sample, timestep, *neuron), which no recording keeps.
    """
    theta = layer.threshold.astype(np.float64)
    x = layer.snn_input / (theta[:, None] if theta.ndim else theta)
    start: Any = layer.initial_fraction
    nearest = np.full(x[:, 0].shape, np.inf)
    if before is not None:
        presteps = simulate(before / theta, start)
        nearest = np.minimum(presteps.distance, np.abs(presteps.potential - 1e-3))
    if layer.neuron == "cos":
        # Its pre-simulation sees the same T inputs, and decides by v < 0 and v >= θ.
        first = simulate(x, start)
        nearest = np.minimum(first.distance, np.minimum(np.abs(first.potential), np.abs(first.potential - 1)))
        down, up = (first.potential < 0) & (first.count > 0), first.potential >= 1
        start = start - 1.0 * down + 1.0 * up
    near: Array = np.minimum(nearest, simulate(x, start).distance) <= TIE
    return near


@dataclass(frozen=True)
class Comparison:
    """Neurons of two recordings, layer by layer.

    Attributes:
        differing: spikes differ at some t.
        tied: within 1e-4 θ of an edge at some t, in either.
        unexplained: differing, and neither tied nor behind a layer in which a tie of the same sample went both ways.
    """

    differing: tuple[int, ...]
    tied: tuple[int, ...]
    unexplained: tuple[int, ...]


def compare(one: probe.Recording, other: probe.Recording, before: Mapping[int, Array] | None = None) -> Comparison:
    """Spike trains, counts and masks of two recordings of the same samples; `before` by layer, see `ties`."""

    def seen(a: Layer, b: Layer) -> tuple[Array, Array]:
        early = (before or {}).get(a.index)
        differ = (a.snn_spikes != b.snn_spikes).any(1) | (a.spike_count != b.spike_count)
        if a.info.silencing:
            differ |= a.silenced != b.silenced
        return differ, ties(a, early) | ties(b, early)

    return _compared(one, other, seen)


def compare_levels(one: probe.Recording, other: probe.Recording) -> Comparison:
    """The ANNs' levels k of two recordings; a tie is an L·x/θ within 1e-4·L of where ⌊L·x/θ + ½⌋ changes."""

    def near(layer: Layer) -> Array:
        fine = layer.ann_input / layer.threshold.astype(np.float64) * layer.levels + 0.5
        found: Array = np.abs(fine - np.rint(fine)) <= TIE * layer.levels
        return found

    return _compared(one, other, lambda a, b: (a.ann_values() != b.ann_values(), near(a) | near(b)))


def _compared(
    one: probe.Recording, other: probe.Recording, seen: Callable[[Layer, Layer], tuple[Array, Array]]
) -> Comparison:
    np.testing.assert_array_equal(one.indices, other.indices)
    assert len(one.layers) == len(other.layers) == 6
    differing, tied, unexplained = [], [], []
    excused = np.zeros(one.samples, bool)
    for a, b in zip(one.layers, other.layers, strict=True):
        differ, near = seen(a, b)
        alone = differ & ~near & ~excused.reshape(-1, *[1] * len(a.shape))
        differing.append(int(differ.sum()))
        tied.append(int(near.sum()))
        unexplained.append(int(alone.sum()))
        excused |= differ.reshape(len(differ), -1).any(1)
    return Comparison(tuple(differing), tuple(tied), tuple(unexplained))


def assert_same_network(found: Comparison) -> None:
    """Nothing differs without a tie; and ties are few, or the comparison would say nothing."""
    assert sum(found.unexplained) == 0, found
    assert sum(found.tied) < 100, found


def test_the_comparison_tells_ties_from_errors(tmp_path: Path) -> None:
    """8 steps of 1e-5 θ in a layer move a potential by 8e-5 θ, less than a tie; steps of 1e-2 θ by 0.08 θ, more."""
    recordings = []
    for by in (0.0, 1e-5, 1e-2):
        network = zoo.load("digits")
        network.get_submodule("block3.norm").bias.data += by * network.get_submodule("block3.act").threshold.item()
        path = probe.capture(network, data="digits", samples=40, output=tmp_path / f"{by}.h5")
        recordings.append(probe.open(path))
    plain, nudged, moved = recordings
    within, beyond = compare(plain, nudged), compare(plain, moved)
    assert within.differing[:2] == beyond.differing[:2] == (0, 0)
    assert 0 < within.differing[2] <= within.tied[2], within
    assert within.unexplained == (0,) * 6, within
    assert beyond.unexplained[2] > 100, beyond


# ----------------------------------------------------------------------------------------- green recordings


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("zoo", "stepwise ANN")])
def test_recordings_are_green_and_their_statistics_add_up(model: str, record: Record) -> None:
    recording = record(model)
    assert recording.complete
    assert recording.attributes["family"] == ("qcfs-merged" if model == "merged" else "qcfs-stepwise")
    assert [layer.levels for layer in recording.layers] == [4 if "L = 4" in model else 8] * 6
    for t in range(1, recording.timesteps + 1):
        for layer in probe.unevenness(recording, timestep=t, recompute=True)["layers"]:
            assert sum(layer["cases"].values()) == layer["count"] == 12 * recording.layers[layer["index"]].neurons
            assert not layer["law"]["broken"]
            # Merged layers keep their potential to themselves, and that of COS does not follow from the law.
            assert (layer["law"]["largest_difference"] is None) == (model == "merged" or "cos" in model)
            assert layer["law"]["largest_difference"] is None or layer["law"]["largest_difference"] < 1e-5
    oracle = probe.unevenness(recording, 0)["layers"][0]["oracle"]
    assert oracle["applies"] == ("cos" not in model)
    assert oracle["violations"] == 0


@pytest.mark.parametrize("timesteps", [4, 8])
def test_T_equal_to_L_and_a_start_at_half_leave_the_first_layer_without_error(timesteps: int, record: Record) -> None:
    """L = 8: at T = 8 no error of any kind, at T = 4 the grid of quarters against that of eighths."""
    for model in ("merged", "stepwise"):
        (layer,) = probe.unevenness(record(model, timesteps=timesteps), 0)["layers"]
        wrong = layer["cases"]["zero_over"] + layer["cases"]["positive_over"] + layer["cases"]["positive_under"]
        assert (wrong == 0) == (timesteps == 8)
        assert layer["attribution"]["unevenness"]["mean_square"] == 0
        assert layer["attribution"]["grid"] == layer["attribution"]["total"] | {
            "share": layer["attribution"]["grid"]["share"]
        }


# -------------------------------------------------------------------------- one network, several implementations


@pytest.mark.parametrize(("timesteps", "levels"), [(4, None), (8, None), (8, 4), (3, 4)])
def test_the_same_weights_spike_alike_in_every_implementation(
    timesteps: int, levels: int | None, record: Record
) -> None:
    """Merged time, stepwise, and probe's IF in place of each one's activations, against the bundled network."""
    numbers: dict[str, Any] = {"timesteps": timesteps, "levels": levels}
    reference = record("zoo", **numbers)
    stepwise = "stepwise" if levels is None else f"stepwise, L = {levels}"
    others = {
        "merged": record("merged", **numbers),
        "stepwise": record(stepwise, timesteps=timesteps),
        **({"unmasked": record("unmasked", timesteps=timesteps)} if levels is None else {}),
        "merged, probe's IF": record("merged", neuron="if", **numbers),
        "stepwise ANN, probe's IF": record("stepwise ANN", **numbers),
    }
    assert reference.layers[0].spike_count.sum() > 1000
    for name, other in others.items():
        found = compare(reference, other)
        assert sum(found.unexplained) == 0, (name, found)
        assert sum(found.tied) < 100, (name, found)
        assert [layer.levels for layer in other.layers] == [levels or 8] * 6
        np.testing.assert_allclose(other.ann_logits, reference.ann_logits, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(other.ann_logits.argmax(1), reference.ann_logits.argmax(1))
        for one, two in zip(reference.layers, other.layers, strict=True):
            np.testing.assert_array_equal(one.threshold, two.threshold)
        levelled = compare_levels(reference, other)
        assert sum(levelled.unexplained) == 0, (name, levelled)
        assert sum(levelled.tied) < 100, (name, levelled)


def test_the_table_of_errors_is_that_of_the_bundled_network(record: Record) -> None:
    """Where the spikes are equal, all statistics are."""
    reference, compared = record("zoo", timesteps=4), 0
    for model in ("merged", "stepwise"):
        other = record(model, timesteps=4)
        for one, two in zip(reference.layers, other.layers, strict=True):
            same = np.array_equal(one.snn_spikes, two.snn_spikes) and np.array_equal(one.ann_values(), two.ann_values())
            if same and np.array_equal(one.input_sum, two.input_sum):
                compared += 1
                for t in range(1, 5):
                    assert one.statistics.statistics[t].same(two.statistics.statistics[t])
    assert compared


def presteps_of(presteps: int) -> dict[int, Array]:
    """What each layer of the bundled network is fed in SRP's pre-steps, by layer, (sample, timestep, *neuron)."""
    data = open_data("digits")
    x = torch.from_numpy(data.load(plan(samples=12).indices))
    subject = convert.adapt(zoo.load("digits"), "srp", NeuronSpec.named("srp", presteps=presteps))
    fed: dict[int, list[Tensor]] = {i: [] for i in range(len(subject.layers))}
    for i, layer in enumerate(subject.layers):
        layer.snn.register_forward_pre_hook(lambda _module, args, i=i: fed[i].append(args[0]))
    with torch.no_grad():
        list(subject.run_snn(x, 1))
    assert all(len(steps) == presteps + 1 for steps in fed.values())
    return {i: torch.stack(steps[:presteps], 1).numpy().astype(np.float64) for i, steps in fed.items()}


@pytest.mark.parametrize(("presteps", "timesteps"), [(4, 8), (2, 4)])
def test_SRP_in_the_papers_way_and_in_probes_are_one(presteps: int, timesteps: int, record: Record) -> None:
    theirs = record(f"srp, τ = {presteps}, T = {timesteps}")
    ours = record("zoo", neuron="srp", srp_steps=presteps, timesteps=timesteps)
    found = compare(theirs, ours, presteps_of(presteps))
    assert_same_network(found)
    assert [layer.neuron for layer in theirs.layers] == ["srp"] * 6
    assert [layer.traits["presteps"] for layer in theirs.layers] == [presteps] * 6
    for one in theirs.layers:
        assert 0.05 < one.silenced.mean() < 0.95
        assert one.spike_count[~one.silenced].sum() > 100
        assert not one.spike_count[one.silenced].any()
    kept = [probe.unevenness(one, "3")["layers"][0] for one in (theirs, ours)]
    if not any(found.differing):
        assert kept[0]["cases"] == kept[1]["cases"]
    assert kept[0]["attribution"]["silencing"]["mean_square"] > 0


# --------------------------------------------------------------------------------------------------- T


@pytest.mark.parametrize("model", ["cos, T = 4", "srp, τ = 2, T = 4"])
def test_networks_made_for_one_T_run_with_that_and_refuse_another(model: str, record: Record, tmp_path: Path) -> None:
    assert record(model).timesteps == 4
    assert record(model, timesteps=4).timesteps == 4
    for asked in (3, 8):
        with pytest.raises(ProbeError, match=rf"T = {asked}, and the network's layers are made for 4.*pass -T 4"):
            probe.capture(MODELS[model](), data="digits", timesteps=asked, output=tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


def test_layers_made_for_different_T_are_refused(tmp_path: Path) -> None:
    ann, snn = paper_models.srp(4, 8)
    snn.get_submodule("block3.act").sim_len = 4
    with pytest.raises(ProbeError, match="different numbers of timesteps"):
        probe.capture((ann, snn), data="digits", output=tmp_path / "r.h5")


# ------------------------------------------------------------------------------------------------- COS


def test_COS_is_counted_and_no_more_is_claimed(record: Record) -> None:
    """Counts and cases against a plain loop over the model; n_even rests on one v(0) for the layer, so it is null."""
    recording = record("cos")
    images = torch.from_numpy(open_data("digits").load(recording.indices))
    ann, snn = paper_models.cos(batchsize=len(images))
    seen: dict[str, Tensor] = {}
    for network, kind in ((ann, "ann"), (snn, "snn")):
        for name, module in network.named_modules():
            if name.endswith(".act") and name.count(".") == 1:
                module.register_forward_hook(lambda _m, _x, out, key=name + kind: seen.update({key: out}))
    with torch.no_grad():
        ann(images)
        logits = snn(images).view(8, 12, 10).transpose(0, 1)
    np.testing.assert_allclose(recording.snn_logits, logits, rtol=1e-5, atol=1e-5)
    for layer in recording.layers:
        theta = float(layer.threshold)
        spikes = (seen[layer.name + "snn"].view(8, 12, *layer.shape) / theta).round().transpose(0, 1)
        count = spikes.sum(1).numpy()
        np.testing.assert_array_equal(layer.snn_spikes, spikes.numpy())
        np.testing.assert_array_equal(layer.spike_count, count)
        k = (seen[layer.name + "ann"] / theta * 8).round().numpy()
        told = probe.unevenness(recording, layer.index)["layers"][0]
        assert told["cases"] == {
            "zero_equal": ((k == 0) & (count == 0)).sum(), "zero_over": ((k == 0) & (count > 0)).sum(),
            "zero_under": 0, "positive_equal": ((k > 0) & (count == k)).sum(),
            "positive_over": ((k > 0) & (count > k)).sum(), "positive_under": ((k > 0) & (count < k)).sum(),
        }  # fmt: skip
        assert told["attribution"] is told["local_cases"] is told["residual"] is None
        assert told["reason"] == "v(0) differs from neuron to neuron"
        assert layer.traits["causal"] is False
        assert layer.neuron == "cos"
    assert recording.layers[1].spike_count.sum() > 1000


def test_COS_says_that_t_below_T_is_of_a_run_made_for_T(tmp_path: Path) -> None:
    planned = plan(paper_models.cos(), data="digits", output=tmp_path / "r.h5")
    assert any("not causal" in note for note in planned.prepared.notes)


def test_COS_shifts_some_neurons_and_is_no_plain_IF(record: Record) -> None:
    """What the trait is for: the same network with v(0) = θ/2 everywhere spikes otherwise."""
    found = compare(record("cos"), record("stepwise"))
    assert sum(found.unexplained) > 100, found


# ---------------------------------------------------------------------------------------------- ShiftNeuron


def test_a_learned_start_is_recorded_and_attributed(record: Record) -> None:
    """The first layer at T = L: n = ⌊u + ¼⌋ in place of ⌊u + ½⌋, u = T·x/θ; that difference is all of its error."""
    recording = record("shifted")
    for layer in recording.layers:
        assert layer.initial_fraction == 0.25
        np.testing.assert_allclose(layer.initial_potential, layer.threshold / 4)
    layer = recording.layers[0]
    u = layer.ann_input.astype(np.float64) / float(layer.threshold) * 8
    clear = np.abs((u + 0.25) * 2 - np.rint((u + 0.25) * 2)) > 2 * TIE * 8
    piece = (np.clip(np.floor(u + 0.25), 0, 8) - np.clip(np.floor(u + 0.5), 0, 8)) / 8
    assert clear.mean() > 0.98
    told = probe.unevenness(recording, 0)["layers"][0]["attribution"]
    assert told["initial_potential"]["mean"] == pytest.approx(piece.mean(), abs=(~clear).mean() / 8)
    assert told["initial_potential"]["mean"] < -0.005
    assert told["initial_potential"]["share"] == 1
    assert told["total"]["mean"] == told["initial_potential"]["mean"]
    deep = probe.unevenness(recording, "1:")["layers"]
    assert all(layer["attribution"]["initial_potential"]["mean_square"] > 0 for layer in deep)


def test_a_learned_start_that_is_no_fraction_is_counted_and_not_attributed(tmp_path: Path) -> None:
    """2^-½ is further than 1e-6 from every fraction with a denominator up to 1000; finer no potential is counted."""
    options: dict[str, Any] = {"data": "digits", "samples": 3, "record": "stats", "layers": [0, -1]}
    path = probe.capture(paper_models.shifted(2**-0.5), output=tmp_path / "r.h5", **options)
    with probe.open(path) as recording:
        for layer in probe.unevenness(recording)["layers"]:
            assert layer["attribution"] is layer["local_cases"] is layer["residual"] is None
            assert layer["reason"].startswith("v(0) is 0.707107 θ, no fraction")
            assert sum(layer["cases"].values()) == layer["count"] > 0
        assert recording.layers[0].initial_fraction == 2**-0.5
        assert not recording.facts["law"]["0"]["broken"]


@pytest.mark.parametrize("vt", [1.0, -0.125])
def test_a_learned_start_outside_the_threshold_is_not_attributed(vt: float, tmp_path: Path) -> None:
    path = probe.capture(paper_models.shifted(vt), data="digits", samples=3, record="stats", output=tmp_path / "r.h5")
    (layer,) = probe.unevenness(path, 0)["layers"]
    assert layer["attribution"] is None
    assert layer["reason"] == f"v(0) is {vt:g} θ, outside [0, θ)"


# ---------------------------------------------------------------------------------------------- batch size


@pytest.mark.parametrize("model", ["merged", "stepwise", "unmasked", "srp, τ = 2, T = 4", "cos, T = 4"])
def test_recordings_do_not_depend_on_the_batch_size(model: str, record: Record) -> None:
    """Batches of 1, of 7 and a rest of 5, and of all 12: state that outlives one or a guess at its size would show."""
    whole = record(model, timesteps=4, batch_size=50)
    before = presteps_of(2) if "srp" in model else None
    for size in (1, 7):
        cut = record(model, timesteps=4, batch_size=size)
        assert_same_network(compare(whole, cut, before))
        np.testing.assert_array_equal(whole.labels, cut.labels)
        np.testing.assert_allclose(whole.snn_logits.sum(1), cut.snn_logits.sum(1), atol=1e-3)
        for one, other in zip(whole.layers, cut.layers, strict=True):
            if np.array_equal(one.snn_input, other.snn_input) and np.array_equal(one.ann_output, other.ann_output):
                np.testing.assert_array_equal(one.snn_spikes, other.snn_spikes)
                for t in range(1, 5):
                    assert one.statistics.statistics[t].same(other.statistics.statistics[t])
        np.testing.assert_allclose(whole.layers[0].snn_input, cut.layers[0].snn_input, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- left as found

PLAIN = (bool, int, float, str, tuple)


def state(*networks: nn.Module) -> dict[str, Any]:
    """All that a user could find changed: hooks, modes, numbers kept as attributes, parameters and buffers in bits."""
    found: dict[str, Any] = {}
    for i, network in enumerate(networks):
        for name, module in network.named_modules():
            hooks = (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            kept = {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)}
            found[f"{i} {name}"] = (type(module), hooks, kept, sorted(vars(module)))
        for name, value in network.state_dict().items():
            found[f"{i} {name} value"] = value.numpy().tobytes()
        for name, parameter in network.named_parameters():
            found[f"{i} {name} gradient"] = (parameter.requires_grad, parameter.grad)
    return found


def merged_at(timesteps: int) -> nn.Module:
    network = paper_models.merged()
    network.set_T(timesteps)
    return network


FOUND: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "merged": (paper_models.merged, {}),
    "merged, found at T = 5": (lambda: merged_at(5), {}),
    "merged, another L": (lambda: merged_at(5), {"levels": 4}),
    "merged, probe's IF": (lambda: merged_at(5), {"neuron": "if"}),
    "merged, probe's IF, another L": (lambda: merged_at(5), {"neuron": "if", "levels": 4}),
    "stepwise": (paper_models.stepwise, {}),
    "stepwise ANN, another L": (paper_models.stepwise_ann, {"levels": 4, "neuron": "snm"}),
    "unmasked": (paper_models.unmasked, {}),
    "shifted": (paper_models.shifted, {}),
    "srp": (lambda: paper_models.srp(2, 4), {}),
    "cos": (lambda: paper_models.cos(4, 4, batchsize=37), {}),
}


def half_trained(model: Any) -> tuple[nn.Module, ...]:
    """Its networks, some of their modules in training mode, as after freezing a block."""
    networks = model if isinstance(model, tuple) else (model,)
    for network in networks:
        network.train()
        next(module for name, module in network.named_modules() if name.endswith("block1")).eval()
    return networks


def poisoned(samples: int, first: int) -> DataSet:
    """Digits, not finite from the batch that contains the sample `first` on."""
    digits = open_data("digits")

    def load(index: Any) -> Any:
        images = digits.load(index).copy()
        images[np.asarray(index) >= first] = np.nan
        return images

    return DataSet("poisoned", digits.labels[:samples], digits.classes, load)


@pytest.mark.parametrize("model", FOUND)
def test_the_users_model_is_left_as_found(model: str, tmp_path: Path) -> None:
    made, options = FOUND[model]
    given = made()
    networks = half_trained(given)
    before = state(*networks)
    probe.capture(given, data="digits", samples=10, batch_size=6, record="counts", output=tmp_path / "r.h5", **options)
    assert state(*networks) == before
    # Four samples are written, then an image is not finite: the capture ends in the middle of a batch.
    with pytest.raises(ProbeError, match="NaN"):
        probe.capture(
            given, data=poisoned(10, 6), samples=None, batch_size=4, output=tmp_path / "nan.h5", timesteps=4, **options
        )
    assert state(*networks) == before
    for network in networks:
        weight = next(module for name, module in network.named_modules() if name.endswith("block4.conv")).weight
        weight.data.fill_(float("nan"))
    before = state(*networks)
    with pytest.raises(ProbeError, match="NaN"):
        probe.capture(given, data="digits", samples=4, output=tmp_path / "weights.h5", **options)
    assert state(*networks) == before
    assert [path.name for path in tmp_path.iterdir()] != []


def test_the_state_that_is_compared_shows_what_could_stay_behind() -> None:
    before = state(paper_models.merged())
    changes: list[Callable[[Any], Any]] = [
        lambda network: network.set_T(3),
        lambda network: network.set_L(3),
        lambda network: network.train(),
        lambda network: network.body.register_forward_hook(print),
        lambda network: network.body[0].norm.num_batches_tracked.add_(1),
        lambda network: network.requires_grad_(False),
        lambda network: setattr(network.body, "t", 0),
    ]
    for change in changes:
        network = paper_models.merged()
        assert state(network) == before
        change(network)
        assert state(network) != before


def test_the_users_images_are_left_as_found(tmp_path: Path) -> None:
    """One batch that is the user's own memory, and a network that works on its input in place."""

    class Centred(paper_models.MergedNetwork):
        def forward(self, x: Tensor) -> Tensor:
            x.sub_(0.25)
            return super().forward(x)

    digits = open_data("digits")
    images = torch.from_numpy(digits.load(np.arange(8)).copy())
    kept = images.clone()
    data = DataSet("mine", digits.labels[:8], digits.classes, lambda index: images.numpy()[index[0] : index[-1] + 1])
    assert data.load(np.arange(8)).ctypes.data == images.numpy().ctypes.data
    network = Centred(paper_models.merged().body).eval()
    probe.capture(network, data=data, samples=None, output=tmp_path / "r.h5")
    assert torch.equal(images, kept)
    planned = plan(network, data=data, samples=None, output=tmp_path / "s.h5")

    class Ignoring:
        def append(self, layer: int | None, batch: Any) -> None:
            pass

    run = Run(
        planned.prepared.subject, planned.prepared.surveyed, planned.layers, Ignoring(), record="full", timesteps=8,
        grid=planned.info.grid,
    )  # fmt: skip
    with run.hooked():
        run.batch(images, 0)
    assert images.shape == (8, 1, 8, 8)
    assert torch.equal(images, kept)


# -------------------------------------------------------------------------------------------------- levels


def test_other_levels_on_a_merged_network(record: Record, tmp_path: Path) -> None:
    """Recorded with L = 4 at T = 4: the first layer has no error again, and the network has its own L afterwards."""
    network = paper_models.merged()
    with probe.open(
        probe.capture(network, data="digits", samples=12, timesteps=4, levels=4, strict=True, output=tmp_path / "r.h5")
    ) as recording:
        assert [layer.levels for layer in recording.layers] == [4] * 6
        assert recording.layers[0].ann_values().max() == 4
        (layer,) = probe.unevenness(recording, 0)["layers"]
        assert layer["attribution"]["total"]["mean_square"] == 0
        # What is an eighth apart for L = 8 is not for L = 4: the ANN is another one, the spikes are the same.
        assert_same_network(compare(recording, record("merged", timesteps=4)))
        assert not np.array_equal(recording.ann_logits, record("merged", timesteps=4).ann_logits)
    assert {module.L for module in network.modules() if hasattr(module, "thresh")} == {8}


def test_levels_are_put_back_where_the_network_is_refused(tmp_path: Path) -> None:
    network = paper_models.merged()
    network.body[2].act.thresh.data.fill_(-1)
    with pytest.raises(ProbeError, match=r"block3\.act has threshold -1"):
        probe.capture(network, data="digits", levels=4, output=tmp_path / "r.h5")
    assert {module.L for module in network.modules() if hasattr(module, "thresh")} == {8}


def test_a_network_that_is_found_as_an_SNN_is_converted_as_the_ANN(record: Record, tmp_path: Path) -> None:
    """`set_T(8)` was the last thing its owner did: the copy that gets probe's neurons must not merge time itself."""
    with probe.open(
        probe.capture(merged_at(8), data="digits", samples=12, neuron="if", strict=True, output=tmp_path / "r.h5")
    ) as recording:
        assert_same_network(compare(recording, record("zoo")))


def test_layers_with_a_mode_in_a_network_without_a_switch(record: Record, tmp_path: Path) -> None:
    """The body alone has no `set_T`: it is an ANN with activations that know L and θ."""
    body = paper_models.swapped(lambda q: paper_models.MergedIF(q.levels, q.threshold.item())).eval()
    before = state(body)
    with probe.open(probe.capture(body, data="digits", samples=12, strict=True, output=tmp_path / "r.h5")) as recording:
        assert_same_network(compare(recording, record("zoo")))
    assert state(body) == before


def test_neurons_of_the_users_own_take_no_levels_and_no_other_neuron(tmp_path: Path) -> None:
    for options in ({"levels": 4}, {"neuron": "if"}):
        with pytest.raises(ProbeError, match=f"--{next(iter(options))}.*qcfs-stepwise"):
            probe.capture(paper_models.stepwise(), data="digits", output=tmp_path / "r.h5", **options)


def test_probes_own_activation_is_what_the_papers_compute() -> None:
    """Clamp then floor, and floor then clamp: one function away from ties."""
    x = torch.linspace(-1, 3, 4001)
    ours = QCFS(8, 1.375)(x)
    assert ours.unique().tolist() == [1.375 * k / 8 for k in range(9)]
    for theirs in (paper_models.MergedIF(8, 1.375), paper_models.MyFloor(1.375, 8)):
        clear = (x / 1.375 * 8 % 1 - 0.5).abs() > 1e-4
        assert clear.float().mean() > 0.99
        torch.testing.assert_close(theirs(x)[clear], ours[clear])


class WithRectifier(paper_models.MyFloor):
    """An activation that keeps another one inside."""

    def __init__(self) -> None:
        super().__init__(1.0, 8)
        self.relu = nn.ReLU()


class Leaking(nn.ReLU):
    """A subclass that does something else."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.1 * x)


def test_what_is_an_activation_and_what_is_not() -> None:
    """By what it has: θ is one number whatever its shape, L whatever its name."""
    for module in (QCFS(8, 1.5), paper_models.MergedIF(8, 1.5), paper_models.MyFloor(1.5, 8)):
        found = activation_of(module)
        assert found is not None
        assert (found.levels, found.threshold) == (8, np.float32(1.5))
        assert found.threshold.shape == ()
    rectifier = nn.ReLU()
    assert activation_of(rectifier) == Activation(rectifier, levels=None, threshold=None)
    neuron_with_up = paper_models.ScaledNeuron(1.5)
    neuron_with_up.up = 1.5
    for module in (neuron_with_up, paper_models.IFNeuron(), nn.ReLU6(), Leaking(), nn.Identity()):
        assert activation_of(module) is None
    assert list(activations_of(nn.Sequential(WithRectifier(), nn.ReLU()))) == ["0", "1"]
