"""The compiled loops against torch's operations, number by number; and that an accelerator is never waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import probe
from probe.attribution import AnalogCoding, Coding, LayerStatistics
from probe.errors import ProbeError
from probe.neurons import IF, NEGATIVE, NeuronSpec
from probe.recording.schema import time_grid
from probe.run import Run
from probe.session import plan as plan_capture
from probe.tally import AnalogTally, LevelTally, Plan, Tally, TooManySpikes, devices, find_levels, levels, workers
from probe.tally.activations import kernels
from probe.tally.levels import TorchLevels
from probe.tally.levels_native import PLACES, NativeLevels

pytestmark = pytest.mark.usefixtures("one_thread")

SPECS = {
    "if": NeuronSpec(),
    "if, 0.3": NeuronSpec(initial_potential=0.3),
    "snm": NeuronSpec.named("snm"),
    "negspike, unguarded": NeuronSpec(negative=NEGATIVE["negspike"]._replace(guarded=False)),
    "srp": NeuronSpec.named("srp", presteps=3),
    "srp+negspike": NeuronSpec.named("srp+negspike", presteps=3),
}


def layer(spec: NeuronSpec, shape: tuple[int, ...], timesteps: int, threshold: Tensor, seed: int) -> Iterator[Any]:
    """k, SRP's mask, then x(t) and s(t) of a layer of real neurons, all of them other for each seed."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.rand(shape, generator=generator) * 2.4 - 0.8
    module = IF(threshold, spec)
    inputs = [
        threshold * (drift + torch.randn(shape, generator=generator) * 0.6) for _ in range(spec.presteps + timesteps)
    ]
    outputs = [module(x) for x in inputs]
    yield torch.randint(0, 9, shape, generator=generator), module.silenced
    yield from zip(inputs[spec.presteps :], outputs[spec.presteps :], strict=True)


def feed(tally: Tally, batches: list[list[Any]]) -> tuple[LayerStatistics, list[Any]]:
    """What a tally gathers of some batches, and what it says of each."""
    told, first = [], 0
    for (level, silenced), *steps in batches:
        tally.begin(first, level, silenced)
        for t, (x, output) in enumerate(steps, start=1):
            tally.step(t, x, output)
        total, n = tally.input_sum.clone(), tally.spike_count()
        shown = (total - n * 0.9).view(level.shape)
        apart = [float(one) for one in tally.departure(shown, silenced, 0.5, 1e-6)]
        told.append((total.numpy().tobytes(), n.tolist(), apart))
        tally.end()
        first += len(level)
    return tally.take(), told


def same(found: LayerStatistics, expected: LayerStatistics) -> None:
    assert list(found.statistics) == list(expected.statistics)
    for t, statistics in expected.statistics.items():
        for name, values in vars(statistics).items():
            assert getattr(found.statistics[t], name).tolist() == values.tolist(), (t, name)
            assert getattr(found.statistics[t], name).dtype == values.dtype
    for name in ("spikes_at", "spikes_per_neuron", "per_sample"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert found.first_input.tobytes() == expected.first_input.tobytes()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("timesteps", [4, 30])
@pytest.mark.parametrize("kind", SPECS)
def test_loops_give_what_torch_gives(kind: str, timesteps: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number, for one threshold and for one a channel, in layers that threads share and in small ones."""
    spec = SPECS[kind]
    monkeypatch.setattr(workers, "SHARE", 500)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    unguarded = spec.negative is not None and not spec.negative.guarded
    grid = (1, 2, 4) if timesteps == 4 else (1, 2, 7, 29, 30)
    codings = {t: Coding(8, t, timesteps, spec.initial_potential, unguarded, silencing=spec.presteps > 0) for t in grid}
    if timesteps == 30 and kind == "if":
        assert codings[1].size <= PLACES < codings[30].size
    for threshold in (torch.tensor(0.21432), torch.tensor([0.3, 1.7, 0.9])[:, None, None]):
        plan = Plan(codings, (1, 3, timesteps), timesteps, threshold.numpy())
        batches = [
            list(layer(spec, (size, 3, 23, 31), timesteps, threshold, seed)) for seed, size in enumerate((3, 1, 4))
        ]
        found, told = feed(NativeLevels(plan), batches)
        expected, of_torch = feed(TorchLevels(plan), batches)
        same(found, expected)
        assert told == of_torch


def test_counts_beyond_what_a_place_holds_are_set_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a place of a histogram overflows its numbers become statistics; nothing else changes."""
    threshold = torch.tensor(0.7)
    plan = Plan({t: Coding(8, t, 3) for t in (1, 2, 3)}, (3,), 3, threshold.numpy())
    batches = [list(layer(NeuronSpec(), (2, 3, 5, 7), 3, threshold, seed)) for seed in range(5)]
    expected, _ = feed(NativeLevels(plan), batches)
    monkeypatch.setattr("probe.tally.levels_native.MOST", 500)
    found, _ = feed(NativeLevels(plan), batches)
    same(found, expected)


@pytest.mark.parametrize("make", [NativeLevels, TorchLevels])
@pytest.mark.parametrize("timesteps", [2, 100])
def test_refusals_are_the_same(make: type[Any], timesteps: int) -> None:
    """NaN; more spikes than timesteps; fewer than the neuron's traits allow: by a histogram and by sums."""
    plan = Plan({1: Coding(8, 1, timesteps), timesteps: Coding(8, timesteps, timesteps)}, (), timesteps, np.float32(1))
    zeros = torch.zeros(2, 30, dtype=torch.int64)
    nan, many, below = (torch.zeros(2, 30) for _ in range(3))
    nan[1, 3], many[1, 29], below[0, 4] = torch.nan, 2, -1
    for x, output, error in (
        (nan, zeros.float(), FloatingPointError),
        (zeros.float(), many, TooManySpikes),
        (zeros.float(), below, TooManySpikes),
    ):
        tally = make(plan)
        tally.begin(0, zeros)
        with pytest.raises(error):
            tally.step(1, x, output)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_levels_of_activations(layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels and what is wrong with them, as the loops and as torch have it; and NaN and infinity are told."""
    threshold = np.array([0.3, 1.7], np.float32)[:, None, None]
    level = torch.randint(0, 5, (3, 2, 4, 5))
    a = (torch.from_numpy(threshold) * level / 4).to(memory_format=layout)
    wrong = a.clone()
    wrong[2, 1, 0, 3] = -float(threshold[1, 0, 0])
    for given, worst, outside in (
        (a, 0, 0), (a + 0.01, 0.01, 0), (wrong, 0, 1),
        (a.masked_fill(level == 2, torch.nan), np.nan, None), (a.masked_fill(level == 2, torch.inf), np.nan, None),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            found = find_levels(given, threshold, 4)
            patch.setattr("probe.tally.activations.kernels", lambda: None)
            expected = find_levels(given, threshold, 4)
        assert float(found[1]) == pytest.approx(float(expected[1]), abs=0, nan_ok=True)
        assert np.isnan(float(found[1])) == np.isnan(worst)
        if outside is not None:
            assert bool(found[2]) == bool(expected[2]) == bool(outside)
        if worst == 0 and not outside:
            assert (found[0] == level).all()
            assert (expected[0] == level).all()


def test_without_numba_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan({1: Coding(8, 1, 1)}, (1,), 1, np.float32(1))
    made = LevelTally(plan)._make(torch.device("cpu"))
    assert isinstance(made, NativeLevels)
    monkeypatch.setattr(levels, "kernels", lambda: None)
    assert isinstance(LevelTally(plan)._make(torch.device("cpu")), TorchLevels)
    assert kernels() is not None


# ------------------------------------------------------------------------------------------------ an accelerator


class Asked(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the processor wait for an accelerator: values asked for, and sizes that follow from values."""

    WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "bincount", "equal",
               "is_nonzero", "item", "_to_copy_host")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        if name in self.WAITING:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """As if the processor's tensors lay on an accelerator; copies to the host are counted as `cpu`."""
    monkeypatch.setattr(devices, "at_hand", lambda device: False)
    asked, cpu = Asked(), Tensor.cpu

    def copied(tensor: Tensor) -> Tensor:
        asked.seen["cpu"] += 1
        return cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", copied)
    return asked


@pytest.mark.parametrize("timesteps", [4, 70])
@pytest.mark.parametrize("kind", SPECS)
def test_a_tally_far_away_gives_the_same(kind: str, timesteps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, threshold = SPECS[kind], torch.tensor([0.3, 1.7])[:, None]
    unguarded = spec.negative is not None and not spec.negative.guarded
    codings: dict[int, Any] = {
        t: Coding(8, t, timesteps, spec.initial_potential, unguarded, silencing=spec.presteps > 0)
        for t in (1, timesteps)
    }
    batches = [list(layer(spec, (size, 2, 17), timesteps, threshold, size)) for size in (3, 2)]
    plan = Plan(codings, (1, timesteps), timesteps, threshold.numpy())
    expected, told = feed(LevelTally(plan), batches)
    analog = {
        t: AnalogCoding(t, timesteps, spec.initial_potential, unguarded, spec.presteps > 0) for t in (1, timesteps)
    }
    of_analog = Plan(analog, (1, 3, timesteps), timesteps, threshold.numpy())
    floats = [[(level * 0.37, mask), *steps] for (level, mask), *steps in batches]
    analog_expected, _ = feed(AnalogTally(of_analog), floats)
    monkeypatch.setattr(devices, "at_hand", lambda device: False)
    found, told_far = feed(LevelTally(plan), batches)
    same(found, expected)
    assert told_far == told
    found, _ = feed(AnalogTally(of_analog), floats)
    same(found, analog_expected)


class Drop:
    def append(self, layer: int | None, batch: object) -> None:
        pass


def run_far(tmp_path: Path, timesteps: int, neuron: str, far: Asked, model: Any = "zoo:digits") -> Counter[str]:
    """What a batch of the bundled network asks of the accelerator."""
    planned = plan_capture(
        model, samples=5, timesteps=timesteps, neuron=neuron, record="stats", output=tmp_path / "f.h5"
    )
    run = Run(
        planned.prepared.subject, planned.prepared.surveyed, planned.layers, Drop(), record="stats",
        timesteps=timesteps, grid=time_grid(timesteps),
    )  # fmt: skip
    x = planned.prepared.load(planned.indices)
    far.seen.clear()
    with run.hooked(), far:
        run.batch(x, 0)
    return Counter(far.seen)


@pytest.mark.parametrize("neuron", ["if", "negspike", "srp"])
def test_nothing_waits_for_an_accelerator_within_a_batch(tmp_path: Path, far: Asked, neuron: str) -> None:
    """However many timesteps there are, a batch of `stats` asks for as much: nothing is asked at a timestep.

    What remains, once a batch: of each layer one copy of all verdicts and one of its samples' sums; of the networks,
    hashes of what both were fed, and whether their logits are finite.
    """
    layers = len(plan_capture("zoo:digits", samples=1, output=tmp_path / "n.h5").layers)
    short, long = (run_far(tmp_path, timesteps, neuron, far) for timesteps in (2, 6))
    assert short == long
    assert short["nonzero"] == short["_unique2"] == short["bincount"] == short["equal"] == 0
    assert short["cpu"] <= layers + 2
    # Verdicts come over as a list, which is one copy on an accelerator and here one value at a time.
    assert short["_local_scalar_dense"] <= 2


def test_what_is_wrong_far_away_is_told_when_the_batch_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentence as here, of the layer that came first."""
    network = probe.zoo.load("digits")

    def told() -> str:
        with pytest.raises(ProbeError) as caught:
            probe.capture(network, samples=5, timesteps=2, record="stats", output=tmp_path / "w.h5", overwrite=True)
        return str(caught.value)

    activations = [module for module in network.modules() if type(module).__name__ == "QCFS"]
    for module in activations[2:4]:
        module.register_forward_hook(lambda _module, _args, a: a + 0.003 * (len(a) > 1))
    here = told()
    monkeypatch.setattr(devices, "at_hand", lambda device: False)
    assert told() == here
