"""The streaming tally against the same statistics made from whole arrays, at every t, by every number it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from probe.attribution import Coding, LayerStatistics, levels_of, statistics_of
from probe.families import convert
from probe.neurons import IF, NEGATIVE, QCFS, NeuronSpec
from probe.tally import LevelTally, Plan, TooManySpikes, levels

pytestmark = pytest.mark.usefixtures("one_thread", "way")


@pytest.fixture(params=["native", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of counting: the compiled loops, and operations of torch where these are not there."""
    if request.param == "torch":
        monkeypatch.setattr(levels, "kernels", lambda: None)


Arrays = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Captured:
    """One batch of one layer: x and θ·s as (timestep, sample, *neuron), k and the mask as (sample, *neuron)."""

    level: npt.NDArray[np.int64]
    inputs: Arrays
    outputs: Arrays
    silenced: npt.NDArray[np.bool_] | None


def random_network(seed: int) -> nn.Sequential:
    """Convolution, pool, convolution, linear; the first threshold differs from channel to channel, others are odd."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        QCFS(4),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 2),
        QCFS(8),
        nn.Flatten(),
        nn.Linear(27, 5),
        QCFS(1),
    )
    with torch.no_grad():
        network[1].threshold.data = torch.rand(4, 1, 1) * 0.8 + 0.2
        network[4].threshold.data = torch.tensor(0.21432)
        network[7].threshold.data = torch.tensor([0.37])
    return network.eval()


def capture(network: nn.Module, spec: NeuronSpec, images: Tensor, timesteps: int) -> list[Captured]:
    """Run both networks on a batch and keep every layer's arrays whole."""
    subject = convert.adapt(network, "any", spec)
    seen: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = [([], [], []) for _ in subject.layers]
    with torch.no_grad():
        for pair, (activations, inputs, outputs) in zip(subject.layers, seen, strict=True):
            pair.ann.register_forward_hook(lambda _m, _x, a, kept=activations: kept.append(a.clone()))
            pair.snn.register_forward_pre_hook(lambda _m, x, kept=inputs: kept.append(x[0].clone()))
            pair.snn.register_forward_hook(lambda _m, _x, y, kept=outputs: kept.append(y.clone()))
        subject.run_ann(images)
        for _ in subject.run_snn(images, timesteps):
            pass
        captured = []
        for pair, (activations, inputs, outputs) in zip(subject.layers, seen, strict=True):
            assert pair.levels is not None
            mask = pair.silenced()
            x, y = (torch.stack(steps[spec.presteps :]).numpy() for steps in (inputs, outputs))
            level = levels_of(activations[0].numpy(), pair.threshold, pair.levels)
            captured.append(Captured(level, x, y, None if mask is None else mask.numpy()))
            # The hooks above sit on the caller's network too.
            pair.ann._forward_hooks.clear()
    return captured


# -------------------------------------------------------------------------------- the same from whole arrays


def from_whole_arrays(batches: list[Captured], plan: Plan) -> LayerStatistics:
    """What a tally must say, from all samples at once and nothing that streams."""
    level = np.concatenate([batch.level for batch in batches])
    inputs, outputs = (np.concatenate([getattr(b, name) for b in batches], 1) for name in ("inputs", "outputs"))
    masks = [batch.silenced for batch in batches if batch.silenced is not None]
    silenced = np.concatenate(masks) if masks else None
    spikes = np.rint(outputs / plan.threshold).astype(np.int64)
    assert np.abs(outputs - spikes * plan.threshold).max() <= 1e-6
    statistics, per_sample = {}, []
    for t, coding in plan.codings.items():
        input_sum = reduce(np.add, inputs[:t])
        n = spikes[:t].sum(0)
        statistics[t] = statistics_of(coding.encode(level, n, input_sum, plan.threshold, silenced), coding)
    for t in plan.per_sample:
        n, k = spikes[:t].sum(0).reshape(len(level), -1), level.reshape(len(level), -1)
        per_sample.append(np.stack([n.sum(1), k.sum(1), (n * n).sum(1), (k * k).sum(1), (n * k).sum(1)], 1))
    first_input = np.full((2, level.shape[1]), np.nan, np.float32)
    for channel in range(level.shape[1]):
        x, fired = inputs[0][:, channel].ravel(), outputs[0][:, channel].ravel() > 0
        # A silenced neuron could not fire, whatever its input: it is no evidence of what does not.
        quiet = ~fired if silenced is None else ~(fired | silenced[:, channel].ravel())
        first_input[0, channel] = x[fired].min() if fired.any() else np.nan
        first_input[1, channel] = x[quiet].max() if quiet.any() else np.nan
    return LayerStatistics(
        statistics,
        spikes.reshape(len(spikes), -1).sum(1),
        spikes.sum((0, 1)),
        np.stack(per_sample, 1),
        first_input,
    )


def stream(tally: LevelTally, plan: Plan, batch: Captured, first: int) -> None:
    """One batch through the tally, as the hooks of a run do it; what `end` and `input_sum` give is checked here."""
    silenced = None if batch.silenced is None else torch.from_numpy(batch.silenced)
    tally.begin(first, torch.from_numpy(batch.level), silenced)
    for t, (x, y) in enumerate(zip(batch.inputs, batch.outputs, strict=True), start=1):
        tally.step(t, torch.from_numpy(x), torch.from_numpy(y))
    summed = tally.input_sum.numpy().reshape(batch.level.shape)
    n = tally.spike_count().numpy().reshape(batch.level.shape)
    tally.end()
    assert (summed == reduce(np.add, batch.inputs)).all()
    assert (n == np.rint(batch.outputs / plan.threshold).sum(0)).all()


def check(found: LayerStatistics, expected: LayerStatistics) -> None:
    assert list(found.statistics) == list(expected.statistics)
    for t, statistics in expected.statistics.items():
        for name, values in vars(statistics).items():
            assert getattr(found.statistics[t], name).tolist() == values.tolist(), (t, name)
        assert found.statistics[t].same(statistics)
    assert found.spikes_at.tolist() == expected.spikes_at.tolist()
    assert found.spikes_per_neuron.shape == expected.spikes_per_neuron.shape
    assert (found.spikes_per_neuron == expected.spikes_per_neuron).all()
    assert found.per_sample.tolist() == expected.per_sample.tolist()
    np.testing.assert_array_equal(found.first_input, expected.first_input)


def plan_for(
    levels: int, threshold: Arrays, timesteps: int, grid: tuple[int, ...], spec: NeuronSpec | None = None
) -> Plan:
    spec = spec or NeuronSpec()
    unguarded = spec.negative is not None and not spec.negative.guarded
    codings = {
        t: Coding(levels, t, timesteps, spec.initial_potential, unguarded, silencing=spec.presteps > 0) for t in grid
    }
    return Plan(codings, tuple(t for t in grid if t in (1, 2, 8, timesteps)), timesteps, threshold)


SPECS = {
    "if": NeuronSpec(),
    "if, 0.3": NeuronSpec(initial_potential=0.3),
    "if, 0": NeuronSpec(initial_potential=0.0),
    "snm": NeuronSpec.named("snm"),
    "negspike": NeuronSpec.named("negspike"),
    "negspike, unguarded": NeuronSpec(negative=NEGATIVE["negspike"]._replace(guarded=False)),
    "snm, unguarded": NeuronSpec(negative=NEGATIVE["snm"]._replace(guarded=False)),
    "srp": NeuronSpec.named("srp", presteps=4),
    "srp+negspike": NeuronSpec.named("srp+negspike", presteps=3),
}
GRIDS = {3: (1, 2, 3), 8: (1, 2, 5, 8), 40: (1, 2, 8, 33, 40), 120: (1, 8, 64, 119, 120)}
"""T -> the t of the statistics; most t of the larger ones lie off the grid."""


def batches_of(seed: int, sizes: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for size in sizes:
        yield torch.randn(size, 2, 8, 8, generator=generator)


@pytest.mark.parametrize("timesteps", GRIDS)
@pytest.mark.parametrize("kind", SPECS)
def test_tally_of_a_network_equals_whole_arrays(kind: str, timesteps: int) -> None:
    spec, network, sizes = SPECS[kind], random_network(timesteps), (3, 1, 4)
    runs = [capture(network, spec, images, timesteps) for images in batches_of(timesteps, sizes)]
    thresholds = [m.threshold.detach().numpy() for m in network if isinstance(m, QCFS)]
    levels = [m.levels for m in network if isinstance(m, QCFS)]
    if "srp" in kind:
        assert any(batch.silenced is not None and batch.silenced.any() for run in runs for batch in run)
    for layer, (threshold, of_layer) in enumerate(zip(thresholds, levels, strict=True)):
        batches = [run[layer] for run in runs]
        plan = plan_for(of_layer, threshold, timesteps, GRIDS[timesteps], spec)
        expected = from_whole_arrays(batches, plan)
        assert expected.spikes_at.any()
        if "unguarded" in kind and timesteps > 3:
            assert min(b.outputs.sum(0).min() for b in batches) < 0

        # All in one take, then a take after the second batch and one after the third.
        tally = LevelTally(plan)
        for first, batch in zip((0, 3, 4), batches, strict=True):
            assert tally.touched == (first > 0)
            stream(tally, plan, batch, first)
        check(tally.take(), expected)
        assert not tally.touched
        stream(tally, plan, batches[0], 0)
        stream(tally, plan, batches[1], 3)
        early = tally.take()
        stream(tally, plan, batches[2], 4)
        late = tally.take()
        check(early, from_whole_arrays(batches[:2], plan))
        check(early + late, expected)


def test_both_ways_of_counting_are_covered() -> None:
    """Of the runs above, those with T = 3 and 8 have a place for each code, and those with T = 120 have not."""
    assert all(Coding(8, t, t).dense for t in (3, 8, 40))
    assert not Coding(8, 120, 120).dense
    assert not Coding(8, 40, 40, 0.3).dense


@pytest.mark.parametrize("timesteps", [4, 200])
def test_more_spikes_than_timesteps_are_refused(timesteps: int) -> None:
    """Two spikes at t = 1, whether codes have a place each or not."""
    codings = {t: Coding(8, t, timesteps) for t in (1, timesteps)}
    assert codings[timesteps].dense == (timesteps == 4)
    tally = LevelTally(Plan(codings, (), timesteps, np.asarray(0.5, np.float32)))
    tally.begin(0, torch.zeros(2, 3))
    output = torch.zeros(2, 3)
    output[1, 2] = 1.0
    with pytest.raises(TooManySpikes):
        tally.step(1, torch.ones(2, 3), output)


def random_batch(seed: int, shape: tuple[int, ...], timesteps: int, threshold: Arrays, levels: int) -> Captured:
    """A layer without a network: normal inputs into the real IF neuron."""
    generator = torch.Generator().manual_seed(seed)
    of_layer = torch.from_numpy(threshold)
    # Neurons differ in drift, so that all counts from 0 to T occur.
    drift = torch.rand(shape, generator=generator) * 1.6 - 0.3
    inputs = [of_layer * (drift + torch.randn(shape, generator=generator) * 0.5) for _ in range(timesteps)]
    module = IF(of_layer)
    outputs = [module(x) for x in inputs]
    level = torch.randint(0, levels + 1, shape, generator=generator).numpy()
    return Captured(level, torch.stack(inputs).numpy(), torch.stack(outputs).numpy(), None)


@pytest.mark.parametrize(
    ("shape", "timesteps", "channels"),
    [
        ((3, 10, 50, 50), 3, False),
        ((2, 36, 64, 64), 2, True),
        ((5, 7, 50, 130), 4, True),
    ],
    ids=["samples beyond 131072 neurons", "a sample beyond 131072 neurons", "samples in between"],
)
def test_layers_larger_than_a_piece(shape: tuple[int, ...], timesteps: int, channels: bool) -> None:
    """The tally may cut a layer for the cache; no neuron is lost or counted twice at the cuts."""
    threshold = np.linspace(0.3, 2.1, shape[1], dtype=np.float32)[:, None, None] if channels else np.float32([0.7])
    batch = random_batch(11, shape, timesteps, threshold, levels=4)
    plan = plan_for(4, threshold, timesteps, tuple(range(1, timesteps + 1)))
    tally = LevelTally(plan)
    stream(tally, plan, batch, 100)
    expected = from_whole_arrays([batch], plan)
    shifted = {t: replace(s, largest=s.largest + np.array([0, 100, 0])) for t, s in expected.statistics.items()}
    check(tally.take(), replace(expected, statistics=shifted))


@pytest.mark.parametrize("levels", [1, 8, 255])
def test_many_steps_and_levels(levels: int) -> None:
    """Sums of squares beyond 2^24, where float32 would lose them, and L up to the largest allowed."""
    threshold = np.array([0.9, 0.21432], np.float32)[:, None, None]
    batches = [random_batch(seed, (2, 2, 20, 20), 150, threshold, levels) for seed in (0, 1)]
    plan = plan_for(levels, threshold, 150, (1, 8, 150))
    tally = LevelTally(plan)
    for first, batch in zip((0, 2), batches, strict=True):
        stream(tally, plan, batch, first)
    expected = from_whole_arrays(batches, plan)
    assert expected.per_sample[..., 2].max() > 2**22
    check(tally.take(), expected)


def test_shapes_may_change_between_batches() -> None:
    """A last batch that is smaller, then the first size again."""
    threshold = np.float32([1.3])
    batches = [random_batch(size, (size, 3, 4), 5, threshold, levels=2) for size in (6, 2, 6, 1)]
    plan = plan_for(2, threshold, 5, (2, 5))
    tally = LevelTally(plan)
    for first, batch in zip((0, 6, 8, 14), batches, strict=True):
        stream(tally, plan, batch, first)
    check(tally.take(), from_whole_arrays(batches, plan))


def test_non_contiguous_tensors_and_other_number_types() -> None:
    """Channels-last inputs have the same logical order; k may come as float32, int64 or uint8."""
    threshold = np.float32([0.6])
    batch = random_batch(3, (4, 5, 6, 7), 4, threshold, levels=8)
    plan = plan_for(8, threshold, 4, (1, 4))
    expected = from_whole_arrays([batch], plan)
    for number_type in (torch.float32, torch.int64, torch.uint8):
        tally = LevelTally(plan)
        tally.begin(0, torch.from_numpy(batch.level).to(number_type).to(memory_format=torch.channels_last))
        for t, (x, y) in enumerate(zip(batch.inputs, batch.outputs, strict=True), start=1):
            x, y = (torch.from_numpy(a).to(memory_format=torch.channels_last) for a in (x, y))
            assert not x.is_contiguous()
            tally.step(t, x, y)
        tally.end()
        check(tally.take(), expected)


def test_largest_error_is_found_where_it_is() -> None:
    # θ = 1, L = 2, T = 2. φ - a in θ/4 is 2n - 2k; sample 1, neuron 2 fires twice with k = 0, and so does 3 later on.
    plan = plan_for(2, np.float32([1]), 2, (1, 2))
    tally = LevelTally(plan)
    quiet = torch.zeros(2, 4)
    output = quiet.clone()
    output[1, 2] = output[1, 3] = 1
    for first in (10, 12):
        tally.begin(first, torch.zeros(2, 4, dtype=torch.int64))
        tally.step(1, quiet, output)
        tally.step(2, quiet, output)
        tally.end()
    statistics = tally.take().statistics
    assert statistics[1].largest.tolist() == [2, 11, 2]
    assert statistics[2].largest.tolist() == [4, 11, 2]
    # The next take knows nothing of it.
    tally.begin(14, torch.zeros(2, 4, dtype=torch.int64))
    tally.step(1, quiet, quiet)
    tally.step(2, quiet, output)
    tally.end()
    statistics = tally.take().statistics
    assert statistics[1].largest.tolist() == [0, -1, -1]
    assert statistics[2].largest.tolist() == [2, 15, 2]


def test_first_inputs_by_hand() -> None:
    # Channel 0: 0.6 and 0.9 fire at t = 1, 0.2 does not; channel 1 never fires; channel 2 always.
    x = torch.tensor([[[0.6, 0.2], [0.1, -0.4], [0.7, 0.8]], [[0.9, -1.0], [0.3, 0.0], [0.5, 2.0]]])
    plan = plan_for(1, np.float32([1]), 1, (1,))
    tally = LevelTally(plan)
    tally.begin(0, torch.zeros(2, 3, 2))
    tally.step(1, x, (x >= 0.5).float())
    tally.end()
    nan = np.nan
    expected = np.array([[0.6, nan, 0.5], [0.2, 0.3, nan]], np.float32)
    np.testing.assert_array_equal(tally.take().first_input, expected)
