"""The compiled loops against torch's operations, number by number; and that an accelerator is never waited for."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import probe
from probe.attribution import AnalogCoding, Coding, LayerStatistics
from probe.errors import ProbeError
from probe.neurons import IF, NEGATIVE, NeuronSpec
from probe.recording.schema import time_grid
from probe.run import Run
from probe.session import plan as plan_capture
from probe.tally import (
    AnalogTally,
    LevelTally,
    Plan,
    Tally,
    TooManySpikes,
    analog,
    devices,
    find_levels,
    levels,
    levels_native,
    workers,
)  # fmt: skip
from probe.tally.activations import kernels
from probe.tally.levels import LOCALS, PARTS, SECOND_KEYS, TorchLevels, from_totals, most_entries
from probe.tally.levels_native import MOST_CODES, NativeLevels

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
        assert codings[1].size <= MOST_CODES < codings[30].size
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


NAN, INF = float("nan"), float("inf")


def step_all(tally: Tally, outputs: list[Tensor]) -> None:
    for t, output in enumerate(outputs, start=1):
        tally.step(t, torch.full(output.shape, 0.3), output)


@pytest.mark.parametrize("make", [NativeLevels, TorchLevels])
@pytest.mark.parametrize("grid", [(1, 2, 3, 4), (2, 4), (4,), (1, 64), (200,)])
@pytest.mark.parametrize("levels_", [7, 8])
@pytest.mark.parametrize("output", [NAN, INF, -INF, 8192, 65536, 2**29, 2.0**31, 1e12, -(2.0**31), 1e30])
def test_no_output_wraps_to_no_spike(make: type[Any], grid: tuple[int, ...], levels_: int, output: float) -> None:
    """At the first timestep and at the last, counted or passed by, with one height of a spike and with many."""
    timesteps = grid[-1]
    error = TooManySpikes if np.isfinite(output) else FloatingPointError
    for height in (np.float32([1.0]), np.float32([[0.5], [2.0], [1.0]])):
        plan = Plan({t: Coding(levels_, t, timesteps) for t in grid}, (), timesteps, np.float32([1]), height)
        for at in {1, timesteps}:
            tally = make(plan)
            tally.begin(0, torch.zeros(2, 3, 5))
            steps = [torch.zeros(2, 3, 5) for _ in range(timesteps)]
            steps[at - 1][1, 2, 3] = output
            with pytest.raises(error):
                step_all(tally, steps)


@pytest.mark.parametrize("timesteps", [2, 100])
def test_refusals_far_away_wait_for_the_batch_to_end(timesteps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "at_hand", lambda device: False)
    plan = Plan({1: Coding(8, 1, timesteps), timesteps: Coding(8, timesteps, timesteps)}, (), timesteps, np.float32(1))
    for output, fault in ((0, 0), (1, 0), (3, 1), (NAN, -1), (INF, -1)):
        tally = LevelTally(plan)
        tally.begin(0, torch.zeros(2, 30))
        for t in range(1, timesteps + 1):
            out = torch.zeros(2, 30)
            out[1, 3] = output if t == 1 else 0
            tally.step(t, torch.zeros(2, 30), out)
        found = tally.fault()
        assert found is not None
        assert int(found) == fault


def turned(values: Tensor) -> Tensor:
    """The same values, the last axis outermost in memory."""
    return values.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 7)])
@pytest.mark.parametrize("kind", ["native", "torch", "analog", "analog, torch"])
def test_transposed_tensors_count_like_others(
    kind: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a layer gives them that is W @ x.T, transposed: no number is written where it is lost."""
    if kind == "analog, torch":
        monkeypatch.setattr(analog, "loops", lambda: None)
    codings: dict[int, Any] = {
        t: AnalogCoding(t, 3, silencing=True) if "analog" in kind else Coding(8, t, 3, silencing=True) for t in (1, 3)
    }
    plan = Plan(
        codings, (2, 3), 3, np.linspace(0.5, 1.5, shape[1], dtype=np.float32).reshape(-1, *[1] * (len(shape) - 2))
    )
    (level, mask), *steps = layer(NeuronSpec.named("srp", presteps=3), shape, 3, torch.from_numpy(plan.threshold), 5)
    if "analog" in kind:
        level = level * 0.37
    make: Any = {"native": NativeLevels, "torch": TorchLevels}.get(kind, AnalogTally)
    expected, told = feed(make(plan), [[(level, mask), *steps]])
    batch = [(turned(level), turned(mask)), *((turned(x), turned(y)) for x, y in steps)]
    found, told_turned = feed(make(plan), [batch])
    assert expected.spikes_at.any()
    same(found, expected)
    assert told_turned == told


@pytest.mark.parametrize("make", [NativeLevels, TorchLevels, AnalogTally])
def test_a_layer_of_one_neuron_without_axes(make: type[Any]) -> None:
    coding: Any = AnalogCoding if make is AnalogTally else lambda t, timesteps: Coding(8, t, timesteps)
    plan = Plan({1: coding(1, 1)}, (1,), 1, np.float32(1))
    tally = make(plan)
    tally.begin(0, torch.zeros(4))
    tally.step(1, torch.tensor([0.1, 0.2, 0.6, 0.7]), torch.tensor([0.0, 0, 1, 1]))
    tally.end()
    gathered = tally.take()
    assert gathered.spikes_per_neuron.shape == ()
    assert int(gathered.spikes_per_neuron) == 2
    np.testing.assert_array_equal(gathered.first_input, np.float32([[0.6], [0.2]]))


@pytest.mark.parametrize("make", [NativeLevels, TorchLevels])
@pytest.mark.parametrize("timesteps", [3, 130])
def test_sums_are_set_down_before_they_might_not_fit(
    make: type[Any], timesteps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound of a sum that any errors keep is reached early; what the errors are then decides."""
    plan = Plan({t: Coding(255, t, timesteps) for t in (1, timesteps)}, (1,), timesteps, np.float32([0.7]))
    batches = [list(layer(NeuronSpec(), (2, 35), timesteps, torch.tensor(0.7), seed)) for seed in range(5)]
    expected, _ = feed(make(plan), batches)
    made: list[dict[int, Any]] = []
    add_up = levels.add_up

    def noted(sums: dict[int, Any], more: dict[int, Any]) -> None:
        made.append(more)
        add_up(sums, more)

    for module in (levels, levels_native):
        monkeypatch.setattr(module, "most_entries", lambda coding: 150)
        monkeypatch.setattr(module, "add_up", noted)
    found, _ = feed(make(plan), batches)
    same(found, expected)
    assert len(made) == 3


@pytest.mark.parametrize("unguarded", [False, True])
def test_so_many_neurons_fit_whatever_they_do(unguarded: bool) -> None:
    coding = Coding(255, 1024, 1024, unguarded=unguarded)
    most = most_entries(coding)
    assert 1e7 < most < 2e8
    table = np.zeros((1025 - coding.lowest_count) * coding.classes * SECOND_KEYS, np.int64)
    rest = (np.zeros(LOCALS, np.int64), np.zeros(len(PARTS), np.int64), np.zeros((len(PARTS), len(PARTS)), np.int64))
    table[1] = most
    half = from_totals(coding, table, *rest)
    # As none of them errs, twice as many are no matter.
    assert (half + half).joint.sum() == 2 * most
    table[1] += 1
    with pytest.raises(OverflowError):
        from_totals(coding, table, *rest)


# -------------------------------------------------------------------------------------------------------- threads


def test_an_interrupt_leaves_nothing_for_the_next_tally(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when a helper has counted: what it counted is not there when another tally counts in this thread."""
    monkeypatch.setattr(workers, "SHARE", 500)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    plan = Plan({1: Coding(8, 1, 1)}, (), 1, np.float32(1))
    batch = [list(layer(NeuronSpec(), (4, 3, 200), 1, torch.tensor(1.0), 0))]
    expected, _ = feed(NativeLevels(plan), batch)
    counted, count = threading.Event(), levels_native.native.count
    main = threading.get_ident()

    def interrupted(*args: Any) -> None:
        if threading.get_ident() == main:
            assert counted.wait(10)
            raise KeyboardInterrupt
        count(*args)
        counted.set()

    with monkeypatch.context() as patch:
        patch.setattr(levels_native.native, "count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            feed(NativeLevels(plan), batch)
    for _ in range(3):
        found, _ = feed(NativeLevels(plan), batch)
        same(found, expected)


def test_an_interrupt_waits_for_helpers() -> None:
    """Nobody writes any more when `share` has ended, however it ends."""
    began, done = threading.Event(), threading.Event()

    def work(worker: int, _begin: int, _end: int) -> None:
        if worker == 0:
            assert began.wait(10)
            raise KeyboardInterrupt
        began.set()
        done.wait(0.2)
        done.set()

    with pytest.raises(KeyboardInterrupt):
        workers.share(8, work, threads=2)
    assert done.is_set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_makes_threads_of_its_own() -> None:
    assert workers._pool(1).submit(int).result() == 0
    child = os.fork()
    if not child:
        os._exit(workers._pool.cache_info().currsize)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert workers._pool.cache_info().currsize >= 1


def test_a_copy_is_not_written() -> None:
    values = torch.zeros(3, 4)
    assert np.shares_memory(workers.flat_to_write(values), values.numpy())
    with pytest.raises(AssertionError, match="copy"):
        workers.flat_to_write(values.t())


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


class Broken:
    """As where llvmlite is there but its library is not."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "numba":
            raise OSError("Could not find/load shared object file 'libllvmlite.so'")


def test_where_numba_does_not_compile_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NUMBA_DISABLE_JIT, whose loops in Python wrap and raise, and with a numba that cannot load its library."""
    assert kernels.__wrapped__() is not None
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", 1)
        assert kernels.__wrapped__() is None
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert kernels.__wrapped__() is None


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


class Gain(nn.Module):
    """Makes numbers that are no number, or far too large, but not of the single sample of the survey."""

    by = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by if len(x) > 1 else x


@pytest.mark.parametrize("by", [1e25, NAN])
def test_huge_inputs_of_a_relu_far_away(by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums per sample come over when the batch ends; what they tell is a sentence there too."""
    monkeypatch.setattr(Gain, "by", 1.0)

    def told(far: bool) -> str:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Gain(), nn.ReLU(), nn.Linear(16, 10)).eval()
        planned = plan_capture(
            network, data="digits", samples=5, timesteps=2, record="stats", output=tmp_path / "g.h5", overwrite=True
        )
        with monkeypatch.context() as patch:
            patch.setattr(Gain, "by", by)
            if far:
                patch.setattr(devices, "at_hand", lambda device: False)
            with pytest.raises(ProbeError) as caught:
                planned.run()
        return str(caught.value)

    assert "NaN or infinity" in told(far=False)
    assert "NaN or infinity" in told(far=True)


def test_outputs_that_are_no_numbers_far_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A neuron that gives NaN is told of as such, not as one that fires too often: here and there."""

    def told(far: bool) -> str:
        planned = plan_capture(
            "zoo:digits", samples=5, timesteps=2, record="stats", output=tmp_path / "o.h5", overwrite=True
        )
        wrong = planned.prepared.subject.layers[1].snn
        wrong.register_forward_hook(lambda _module, _args, y: y * NAN if len(y) > 1 else y)
        with monkeypatch.context() as patch:
            if far:
                patch.setattr(devices, "at_hand", lambda device: False)
            with pytest.raises(ProbeError) as caught:
                planned.run()
        return str(caught.value)

    here = told(far=False)
    assert "layer 1" in here
    assert "NaN or infinity" in here
    assert told(far=True) == here
