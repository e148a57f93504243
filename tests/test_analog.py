"""ReLU layers: cases, pieces and sums against exact fractions, and the laws that hold however a run is split."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import probe
from probe.attribution import (
    NO_ERROR,
    PIECES,
    RESIDUAL_EDGES,
    AnalogCoding,
    LayerStatistics,
    Statistics,
    summarise,
)
from probe.attribution.analog import BLOCK, LIMBS, OFFSETS, Room, fold, from_limbs, to_limbs
from probe.data import open_data
from probe.families import convert
from probe.neurons import IF, NEGATIVE, NeuronSpec
from probe.plots import KINDS
from probe.plots.offset_spikes import written
from probe.recording import Recording, open_recording
from probe.session import plan
from probe.tally import AnalogTally, Plan, tally_of
from probe.tally import analog as tally_module
from tests.reference import (
    TERMS,
    Neuron,
    Rectified,
    exact,
    rectify,
    simulate,
    tabulate_rectified,
)
from tests.relu_models import relu_digits
from tests.synthetic import write_recording

pytestmark = pytest.mark.usefixtures("one_thread")


Floats = npt.NDArray[np.float32]


def floats(values: Any) -> Floats:
    return np.array(values, np.float32)


INITIALS = (Fraction(0), Fraction(1, 2), Fraction(1, 4), Fraction(3, 10))
KINDS_OF_NEURON = (
    "if", "snm", "negspike", "snm, unguarded", "negspike, unguarded", "srp", "srp+negspike", "graded",
)  # fmt: skip
PRESTEPS = 2
EXACT = (Fraction(1, 2), Fraction(2))
ODD = tuple(exact(floats([0.21432, 1.7]).tolist()))
"""Thresholds with which nothing rounds, and thresholds as training leaves them."""
WHOLE = settings(deadline=None, derandomize=True, database=None, max_examples=40)
SPREAD = st.integers(0, 2**32)


@dataclass(frozen=True)
class Rectifiers:
    """Neurons (sample, channel, place), a threshold per channel: as arrays for `probe`, and as section 3 has them."""

    coding: AnalogCoding
    activation: Floats
    count: npt.NDArray[np.int64]
    input_sum: Floats
    threshold: Floats
    silenced: npt.NDArray[np.bool_] | None
    described: list[list[Rectified]]
    skipped: int
    """Neurons that were drawn again, because rounding might tell on which side of an edge they are."""

    def statistics(self) -> Statistics:
        return self.coding.statistics(self.activation, self.count, self.input_sum, self.threshold, self.silenced)

    @property
    def neurons(self) -> list[Rectified]:
        return [one for sample in self.described for one in sample]


def draw_activation(rng: np.random.Generator, theta: Fraction, mean: Fraction, timestep: int, count: int) -> Fraction:
    """A ReLU's output: zero, that of the SNN's own mean input, half a spike from φ, anywhere, and far above θ."""
    kind = rng.integers(6)
    if kind == 0:
        return Fraction(0)
    if kind == 1:
        return max(mean, Fraction(0))
    if kind == 2:
        return max(theta * (2 * count + int(rng.integers(-1, 2))) / (2 * timestep), Fraction(0))
    if kind == 3:
        return theta * int(rng.integers(1, 1 << 16))
    return theta * int(rng.integers(0, 160)) / 64


def make_layer(
    rng: np.random.Generator,
    kind: str,
    timestep: int,
    initial: Fraction,
    thresholds: tuple[Fraction, ...] = EXACT,
    timesteps: int | None = None,
) -> Rectifiers:
    """Neurons of one kind that ran `timestep` steps on inputs in about θ/16."""
    shape = (3, len(thresholds), 4)
    unguarded, presteps = kind.endswith("unguarded"), PRESTEPS if "srp" in kind else 0
    a, x_sum, counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    silenced, skipped = np.zeros(shape, bool), 0
    described: list[list[Rectified]] = [[] for _ in range(shape[0])]
    for at in np.ndindex(shape):
        theta = thresholds[at[1]]
        name = "if" if kind == "graded" else kind.split(",")[0]
        neuron = Neuron(theta, initial, name, guarded=not unguarded, presteps=presteps)
        while True:
            # From silent to saturated neurons, and beyond both.
            steps = rng.integers(-12, 22) + rng.integers(-14, 15, presteps + timestep)
            trace = simulate([theta * int(step) / 16 for step in steps], neuron)
            count = int(rng.integers(0, 6 * timestep)) if kind == "graded" else trace.count
            # Floats, as a network has them: rounded where θ is odd.
            (total,) = exact(floats([float(theta * int(steps[presteps:].sum()) / 16)]).tolist())
            (activation,) = exact(
                floats([float(draw_activation(rng, theta, total / timestep, timestep, count))]).tolist()
            )
            one = rectify(activation, count, total, neuron, timestep, trace.silenced)
            if not one.near_edge:
                break
            skipped += 1
        a[at], x_sum[at], counts[at], silenced[at] = float(activation), float(total), count, trace.silenced
        described[at[0]].append(one)
    coding = AnalogCoding(
        timestep, timesteps or timestep, float(initial), unguarded, silencing=presteps > 0, graded=kind == "graded"
    )
    theta32 = np.array([float(theta) for theta in thresholds], np.float32)[:, None]
    return Rectifiers(coding, a, counts, x_sum, theta32, silenced if coding.silencing else None, described, skipped)


def number(limbs: npt.NDArray[np.int64]) -> Fraction:
    """What some limbs stand for, exactly."""
    return sum((int(limb) * Fraction(2) ** (32 * i - 128) for i, limb in enumerate(limbs)), Fraction(0))


# --------------------------------------------------------------------------------------- against fractions


@pytest.mark.parametrize("thresholds", [EXACT, ODD], ids=["exact", "odd"])
@pytest.mark.parametrize("timestep", [1, 3, 4, 8])
def test_statistics_against_fractions(timestep: int, thresholds: tuple[Fraction, ...]) -> None:
    """Whole numbers are equal; sums are so where nothing can round, else good to 1e-12 of what was added up."""
    rng = np.random.default_rng(timestep)
    skipped = made = 0
    for initial in INITIALS:
        for kind in KINDS_OF_NEURON:
            layer = make_layer(rng, kind, timestep, initial, thresholds, timesteps=timestep + int(rng.integers(3)))
            found, coding = layer.statistics(), layer.coding
            table = tabulate_rectified(layer.described, coding.lowest_count, coding.highest_count)
            for name in ("cases", "local_cases", "joint", "residual"):
                assert getattr(found, name).tolist() == getattr(table, name), (name, kind, initial)
            assert coding.offsets(found) == table.offsets
            nothing_rounds = thresholds is EXACT and timestep != 3
            # Far above θ, the rounding of a/θ may reach the last digit that is kept.
            assert found.largest[1:].tolist() == table.largest[1:]
            assert abs(int(found.largest[0]) - table.largest[0]) <= (0 if nothing_rounds else 1)
            parts, scales = zip(*map(roundable, layer.neurons), strict=True)
            for i, one in enumerate(TERMS):
                close(found.moments[i], table.moments[i], sum(s[one] for s in scales), nothing_rounds)
                assert coding.moment(found, i) == float(number(found.moments[i]))
                for j, other in enumerate(TERMS):
                    size = sum(
                        s[one] * p[other] + s[other] * p[one] + s[one] * s[other] / 10**12
                        for p, s in zip(parts, scales, strict=True)
                    )
                    close(found.products[i, j], table.products[i][j], size, nothing_rounds)
            for i, limbs in enumerate(found.sums):
                close(limbs, table.sums[i], abs(table.sums[i]), nothing_rounds)
            skipped, made = skipped + layer.skipped, made + len(layer.neurons)
    # Leaving out must not become a way to pass.
    assert skipped < (made / 5 if thresholds is ODD else 1)


def roundable(one: Rectified) -> tuple[dict[str, Fraction], dict[str, Fraction]]:
    """The size of each piece of a neuron, and of the numbers whose difference it is; the total's are their sums."""
    mean, fired = one.pieces["inherited"] + one.alpha, Fraction(abs(one.count) + 1)
    scales = {
        "unevenness": fired, "silencing": fired, "initial_potential": Fraction(2), "grid": Fraction(2),
        "clipping": 1 + mean, "inherited": mean + one.alpha,
    }  # fmt: skip
    parts = {name: abs(one.pieces[name]) for name in scales}
    return {**parts, "total": sum(parts.values(), Fraction(0))}, {**scales, "total": sum(scales.values(), Fraction(0))}


def close(found: npt.NDArray[np.int64], expected: Fraction, size: Fraction | int, nothing_rounds: bool) -> None:
    """Equal, or to 1e-12 of the size of what was subtracted and added up."""
    if nothing_rounds:
        assert number(found) == expected
    else:
        assert abs(number(found) - expected) <= Fraction(1, 10**12) * size


def test_the_layers_made_here_hold_every_case() -> None:
    """Else the comparisons above would compare zeros."""
    rng = np.random.default_rng(1)
    for kind in KINDS_OF_NEURON:
        for thresholds in (EXACT, ODD):
            layers = [make_layer(rng, kind, 8, Fraction(1, 4), thresholds) for _ in range(8)]
            statistics = reduce(Statistics.__add__, [layer.statistics() for layer in layers])
            # a = 0, φ < a: only negative spikes without a guard do that.
            expected = [True, True, kind.endswith("unguarded"), True, True, True]
            assert (statistics.cases.sum(2) > 0).ravel().tolist() == expected
            assert (statistics.cases[:, :, 3].sum() > 0) == ("srp" in kind)
            occurring = {term for i, term in enumerate(TERMS) if number(statistics.products[i, i])}
            assert occurring == set(TERMS) - (set() if "srp" in kind else {"silencing"})
            assert (statistics.residual > 0).sum() > 10
            offsets = layers[0].coding.offsets(statistics)
            assert offsets[-32] > 10
            assert {-1, 0, 1} < set(offsets)
            if kind == "graded":
                assert max(one.count for layer in layers for one in layer.neurons) > 4 * 8
                # What is beyond is counted with the last.
                assert statistics.joint[:, -1].sum() > 1


def one_neuron(coding: AnalogCoding, a: float, n: int, total: float) -> Statistics:
    """The statistics of a single neuron with θ = 1."""
    return coding.statistics(floats([[a]]), np.array([[n]]), floats([[total]]), floats([1]))


def pieces_of(statistics: Statistics) -> list[float]:
    return [from_limbs(limbs) for limbs in statistics.moments]


def test_neurons_by_hand() -> None:
    # θ = 1, v(0) = 0, t = 4, Σx = 5: n_even = n_half = 4 of the 5, x̄ = 1¼, clip(x̄) = 1. The neuron fired 3 times,
    # a = 1½. Total ¾ - 1½ = -¾: unevenness (3 - 4)/4, grid 4/4 - 1, clipping 1 - 1¼, inherited 1¼ - 1½.
    found = one_neuron(AnalogCoding(4, 4, 0.0), 1.5, 3, 5.0)
    assert pieces_of(found) == [-0.75, -0.25, 0, 0, 0, -0.25, -0.25]
    assert [from_limbs(limbs) for limbs in found.sums] == [3, 1.5, 9, 2.25, 4.5]
    assert found.largest.tolist() == [-3 << 30, 0, 0]  # ¾·2³²
    # v(4) = 0 + 5 - 3 = 2 >= θ: above, and in the bin [2, 2⅛). ψ = 3 - 4·1½ = -3.
    summary = summarise(found, AnalogCoding(4, 4, 0.0))
    assert summary["cases"]["positive_under"] == summary["local_cases"]["positive_under"] == 1
    assert summary["residual"] == {"below": 0, "inside": 0, "above": 1}
    assert found.residual[np.searchsorted(RESIDUAL_EDGES, 2, side="right")] == 1
    assert summary["offset_spikes"] == {"-3": 1}
    assert summary["largest_error"] == {"error": -0.75, "sample": 0, "neuron": 0}
    shares = {piece: summary["attribution"][piece]["share"] for piece in PIECES}
    third = pytest.approx(1 / 3)
    assert shares == {
        "unevenness": third, "silencing": 0, "initial_potential": 0, "grid": 0, "clipping": third, "inherited": third,
    }  # fmt: skip
    # v(0) = ½, t = 4, Σx = -3 and no spike: x̄ = -¾ is cut to 0, and so is all else. a = 0 is equal.
    found = one_neuron(AnalogCoding(4, 4), 0.0, 0, -3.0)
    assert pieces_of(found) == [0] * 7
    assert found.largest.tolist() == NO_ERROR.tolist()
    assert summarise(found, AnalogCoding(4, 4))["cases"]["zero_equal"] == 1
    # v(0) = ¼, t = 2, Σx = 1½: n_even = ⌊1¾⌋ = 1, n_half = 2, x̄ = ¾. One spike, a = ½.
    # Unevenness 0, initial potential (1 - 2)/2, grid 1 - ¾, inherited ¾ - ½: together ½ - ½ = 0.
    found = one_neuron(AnalogCoding(2, 2, 0.25), 0.5, 1, 1.5)
    assert pieces_of(found) == [0, 0, 0, -0.5, 0.25, 0, 0.25]
    assert summarise(found, AnalogCoding(2, 2, 0.25))["attribution"]["grid"]["share"] is None


def test_equal_is_half_a_spike_and_zero_is_zero() -> None:
    coding = AnalogCoding(4, 4)
    eighth = np.float32(0.125)  # half a spike at t = 4

    def case(a: float, n: int) -> str:
        cases = summarise(one_neuron(coding, a, n, 0.0), coding)["cases"]
        (name,) = (name for name, count in cases.items() if count)
        return str(name)

    beyond = float(np.nextafter(eighth, np.float32(1)))
    assert [case(float(eighth), 0), case(beyond, 0)] == ["positive_equal", "positive_under"]
    assert [case(0.375, 2), case(float(np.nextafter(np.float32(0.375), np.float32(0))), 2)] == [
        "positive_equal", "positive_over",
    ]  # fmt: skip
    assert [case(0.0, 0), case(1e-45, 0), case(0.0, 1), case(1e-45, 1)] == [
        "zero_equal", "positive_equal", "zero_over", "positive_over",
    ]  # fmt: skip


def test_offset_keys_by_hand() -> None:
    # t = 4: ψ = n - 4a. Half a spike is none; of two nearest the even one; beyond 32 the last.
    coding = AnalogCoding(4, 40)
    keys = {
        (1, 0.125): 0, (1, 0.375): 0, (1, 0.1249): 1, (1, 0.3751): -1, (2, 0.125): 2, (4, 0.375): 2, (3, 0.375): 2,
        (0, 0.0): 0, (32, 0.0): 32, (33, 0.0): 32, (0, 7.9): -32, (0, 8.2): -32, (0, 1e9): -32, (2, 0.25): 1,
    }  # fmt: skip
    for (n, a), key in keys.items():
        assert coding.offsets(one_neuron(coding, a, n, 0.0)) == {key: 1}, (n, a)


@pytest.mark.parametrize("total", [-1e30, -1e6, -100.0, 100.0, 1e6])
def test_inputs_far_beyond_the_clip(total: float) -> None:
    for n in (0, 3):
        neuron = Neuron(Fraction(1))
        one = rectify(Fraction(2), n, Fraction(total), neuron, 3)
        found, table = one_neuron(AnalogCoding(3, 8), 2.0, n, total), tabulate_rectified([[one]], 0, 8)
        assert found.residual.tolist() == table.residual
        assert found.cases.tolist() == table.cases
        assert found.local_cases.tolist() == table.local_cases
        assert pieces_of(found) == pytest.approx([float(moment) for moment in table.moments], rel=1e-12)


def test_more_spikes_than_a_neuron_should_fire_are_counted_with_the_most() -> None:
    """A neuron that says that it is not graded, and is; n is kept in the sums."""
    found = one_neuron(AnalogCoding(2, 3), 0.0, 5, 0.0)
    assert np.argwhere(found.joint).tolist() == [[OFFSETS + 5, 3]]
    assert [from_limbs(limbs) for limbs in found.sums] == [5, 0, 25, 0, 0]


# ------------------------------------------------------------------------------------------------- the laws


@st.composite
def layers(draw: st.DrawFn) -> Rectifiers:
    """A layer drawn at random, with t <= T."""
    timesteps = draw(st.integers(1, 12))
    return make_layer(
        np.random.default_rng(draw(SPREAD)),
        draw(st.sampled_from(KINDS_OF_NEURON)),
        draw(st.integers(1, timesteps)),
        draw(st.sampled_from(INITIALS)),
        draw(st.sampled_from((EXACT, ODD))),
        timesteps,
    )


@WHOLE
@given(layers())
def test_everything_adds_up(layer: Rectifiers) -> None:
    found, coding = layer.statistics(), layer.coding
    size = layer.count.size
    assert found.cases.sum() == found.local_cases.sum() == found.joint.sum() == size
    silenced = 0 if layer.silenced is None else int(layer.silenced.sum())
    assert found.cases[:, :, 3].sum() == silenced
    assert found.residual.sum() == size - silenced
    zero, one = (int(np.searchsorted(RESIDUAL_EDGES, edge, side="right")) for edge in (0, 1))
    bins = [found.residual[:zero].sum(), found.residual[zero:one].sum(), found.residual[one:].sum()]
    assert bins == found.cases.sum((0, 1))[:3].tolist()
    # Limb by limb, for the total is nothing but the sum of its pieces.
    assert found.moments[0].tolist() == found.moments[1:].sum(0).tolist()
    assert found.products[0].tolist() == found.products[1:].sum(0).tolist()
    assert found.products.tolist() == found.products.transpose(1, 0, 2).tolist()
    # And it is the total: n/t - α, summed without any piece.
    errors = [neuron.pieces["total"] for neuron in layer.neurons]
    assert coding.moment(found, 0) == pytest.approx(float(sum(errors)), rel=1e-12, abs=1e-9)
    assert coding.product(found, 0, 0) == pytest.approx(float(sum(e * e for e in errors)), rel=1e-12, abs=1e-9)
    attribution = summarise(found, coding)["attribution"]
    if number(found.products[0, 0]):
        assert sum(attribution[piece]["share"] for piece in PIECES) == pytest.approx(1, abs=1e-12)
    else:
        assert {attribution[piece]["share"] for piece in PIECES} == {None}
    offsets = coding.offsets(found)
    equal, over, under = found.cases.sum((0, 2))
    assert offsets.get(0, 0) == equal
    assert sum(times for key, times in offsets.items() if key > 0) == over
    assert sum(times for key, times in offsets.items() if key < 0) == under
    assert found.joint.sum(0).tolist() == np.bincount(
        layer.count.clip(coding.lowest_count, coding.highest_count).ravel() - coding.lowest_count,
        minlength=coding.counts,
    ).tolist()  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A layer of random numbers without a network, (sample, *neuron)."""

    coding: AnalogCoding
    activation: Floats
    count: npt.NDArray[np.int64]
    input_sum: Floats
    threshold: Floats
    silenced: npt.NDArray[np.bool_] | None

    def statistics(self, chosen: slice = slice(None)) -> Statistics:
        silenced = None if self.silenced is None else self.silenced[chosen]
        return self.coding.statistics(
            self.activation[chosen], self.count[chosen], self.input_sum[chosen], self.threshold, silenced,
            chosen.start or 0,
        )  # fmt: skip


def draw_layer(seed: int, coding: AnalogCoding, shape: tuple[int, ...]) -> Drawn:
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.2, 3, (1, shape[1], *[1] * (len(shape) - 2))).astype(np.float32)
    a = rng.normal(0, 1, shape).clip(0).astype(np.float32) * theta
    n = rng.integers(coding.lowest_count, coding.highest_count + 1, shape)
    x = (rng.normal(n, 1.5) * theta).astype(np.float32)
    return Drawn(coding, a, n, x, theta, rng.random(shape) < 0.2 if coding.silencing else None)


CODINGS = st.builds(
    AnalogCoding,
    st.integers(1, 7), st.just(7), st.sampled_from((0.0, 0.3, 0.5)), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip


@WHOLE
@given(SPREAD, CODINGS, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_same(seed: int, coding: AnalogCoding, cuts: list[int], order: Any) -> None:
    layer = draw_layer(seed, coding, (10, 3, 5))
    edges = sorted({0, 10, *cuts})
    parts = [layer.statistics(slice(*edge)) for edge in pairwise(edges)]
    order.shuffle(parts)
    whole = layer.statistics()
    assert len(parts) > 1
    assert reduce(Statistics.__add__, parts).same(whole)
    assert not parts[0].same(whole)
    # Two halves first, as of two machines.
    middle = len(parts) // 2
    halves = [reduce(Statistics.__add__, some) for some in (parts[:middle], parts[middle:])]
    assert (halves[1] + halves[0]).same(whole)


# ---------------------------------------------------------------------------------- the tally, bit for bit


SHAPES = ((1,), (7,), (1, 8191), (2, 4096), (3, 2731), (5, 4000), (5, 17, 193))
"""1, 7, 8191, 8192, 8193, 20000 and 16405 neurons: below, at and above a block."""
SPECS = {
    "if": NeuronSpec(),
    "snm, 0.3": replace(NeuronSpec.named("snm"), initial_potential=0.3),
    "negspike, unguarded": NeuronSpec(negative=NEGATIVE["negspike"]._replace(guarded=False)),
    "srp+negspike": NeuronSpec.named("srp+negspike", presteps=2),
}


@dataclass(frozen=True)
class Ran:
    """A layer that ran: x and θ·s as (timestep, sample, *neuron), a and the mask as (sample, *neuron)."""

    plan: Plan
    activation: Tensor
    inputs: Tensor
    outputs: Tensor
    silenced: Tensor | None

    def tally(self, sizes: Sequence[int]) -> LayerStatistics:
        """In batches of these sizes, through one tally; the first batch is taken out on its own."""
        tally, first = tally_of(self.plan), 0
        assert isinstance(tally, AnalogTally)
        taken = []
        for size in sizes:
            batch = slice(first, first + size)
            tally.begin(first, self.activation[batch], None if self.silenced is None else self.silenced[batch])
            for t, (x, output) in enumerate(zip(self.inputs, self.outputs, strict=True), start=1):
                tally.step(t, x[batch], output[batch])
            n = tally.spike_count()
            tally.end()
            spikes = (self.outputs[:, batch] / torch.from_numpy(self.plan.threshold)).round().sum(0)
            assert torch.equal(n.view(spikes.shape), spikes)
            if first == 0 or first + size == len(self.activation):
                taken.append(tally.take())
            first += size
        return reduce(LayerStatistics.__add__, taken)

    def from_arrays(self) -> LayerStatistics:
        """What the tally must say, from all samples at once, in numpy."""
        theta = self.plan.threshold
        spikes = np.rint(self.outputs.numpy() / theta).astype(np.int64)
        mask = None if self.silenced is None else self.silenced.numpy()
        statistics = {}
        for t, coding in self.plan.codings.items():
            assert isinstance(coding, AnalogCoding)
            input_sum = reduce(np.add, self.inputs.numpy()[:t])
            statistics[t] = coding.statistics(self.activation.numpy(), spikes[:t].sum(0), input_sum, theta, mask)
        samples = len(self.activation)
        per_sample: npt.NDArray[Any] = np.zeros((samples, len(self.plan.per_sample), 5))
        for sample in range(samples):
            alpha = (self.activation.numpy()[sample].astype(np.float64) / theta[0]).ravel()
            for slot, t in enumerate(self.plan.per_sample):
                n = spikes[:t, sample].sum(0).ravel()
                per_sample[sample, slot] = [
                    math.fsum(values) for values in (n, alpha, n * n, alpha * alpha, n * alpha)
                ]  # fmt: skip
        return LayerStatistics(
            statistics, spikes.reshape(len(spikes), -1).sum(1), spikes.sum((0, 1)), per_sample, floats([[0], [0]])
        )


def run_layer(seed: int, shape: tuple[int, ...], spec: NeuronSpec, timesteps: int = 7, samples: int = 5) -> Ran:
    """Random inputs into the real neurons; a threshold a channel, a ReLU's output that resembles the mean input."""
    generator = torch.Generator().manual_seed(seed)
    size = (samples, *shape)
    theta = torch.rand((1, shape[0], *[1] * (len(shape) - 1)), generator=generator) * 2 + 0.2
    drift = torch.rand(size, generator=generator) * 1.8 - 0.4
    steps = timesteps + spec.presteps
    x = torch.stack([theta * (drift + torch.randn(size, generator=generator) * 0.5) for _ in range(steps)])
    module = IF(theta, spec)
    outputs = torch.stack([module(step) for step in x])[spec.presteps :]
    a = (x.mean(0) + theta * torch.randn(size, generator=generator) * 0.1).clamp(min=0)
    unguarded = spec.negative is not None and not spec.negative.guarded
    codings = {
        t: AnalogCoding(t, timesteps, spec.initial_potential, unguarded, silencing=spec.presteps > 0)
        for t in range(1, timesteps + 1)
    }
    grid = Plan(codings, tuple(sorted({1, timesteps // 2 + 1, timesteps})), timesteps, theta.numpy())
    return Ran(grid, a, x[spec.presteps :], outputs, module.silenced if spec.presteps else None)


def same(found: LayerStatistics, expected: LayerStatistics) -> None:
    assert list(found.statistics) == list(expected.statistics)
    for t, statistics in expected.statistics.items():
        for name, values in vars(statistics).items():
            assert np.array_equal(getattr(found.statistics[t], name), values), (t, name)
    assert found.spikes_at.tolist() == expected.spikes_at.tolist()
    assert np.array_equal(found.spikes_per_neuron, expected.spikes_per_neuron)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(math.prod(shape)))
@pytest.mark.parametrize("kind", SPECS)
def test_tally_equals_whole_arrays_bit_for_bit(kind: str, shape: tuple[int, ...]) -> None:
    """Torch, streaming, in batches, against numpy, all at once."""
    ran = run_layer(math.prod(shape), shape, SPECS[kind])
    expected = ran.from_arrays()
    if ran.silenced is not None and math.prod(shape) > 7:
        assert 0 < ran.silenced.float().mean() < 1
    found = ran.tally((5,))
    same(found, expected)
    np.testing.assert_allclose(found.per_sample, expected.per_sample, rtol=1e-12)
    assert np.array_equal(found.per_sample[:, :, ::2][..., :2], expected.per_sample[:, :, ::2][..., :2])
    for sizes in ((1, 4), (2, 2, 1)):
        other = ran.tally(sizes)
        same(other, expected)
        assert np.array_equal(other.per_sample, found.per_sample)
        assert np.array_equal(other.first_input, found.first_input, equal_nan=True)


def test_how_a_layer_is_cut_into_tiles_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not by the number of threads, on which the tiles depend."""
    ran = run_layer(0, (5, 17, 193), NeuronSpec(), timesteps=3)
    few = run_layer(1, (3, 11), NeuronSpec(), timesteps=3, samples=40)
    expected = [one.tally((len(one.activation),)) for one in (ran, few)]
    for tiles in ((1, 1, 1), (2, 2, 2), (100, 100, 100)):
        monkeypatch.setattr(tally_module, "TILES", tiles)
        for one, statistics in zip((ran, few), expected, strict=True):
            same(one.tally((len(one.activation),)), statistics)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        same(ran.tally((5,)), expected[0])
    finally:
        torch.set_num_threads(before)


@WHOLE
@given(SPREAD, CODINGS)
def test_numpy_and_torch_agree_on_neurons_of_any_kind(seed: int, coding: AnalogCoding) -> None:
    """Any count, also of graded neurons, and any t: the tally does not ask how n came about in what it calls t = 1."""
    layer = draw_layer(seed, coding, (4, 3, 7))
    grid = Plan({1: coding}, (1,), 1, layer.threshold)
    outputs = torch.from_numpy(layer.count * layer.threshold)[None]
    mask = None if layer.silenced is None else torch.from_numpy(layer.silenced)
    ran = Ran(grid, torch.from_numpy(layer.activation), torch.from_numpy(layer.input_sum)[None], outputs, mask)
    same(ran.tally((3, 1)), ran.from_arrays())
    assert ran.from_arrays().statistics[1].same(layer.statistics())


def test_tallies_of_several_threads_do_not_meet() -> None:
    """Each thread reuses arrays of its own."""
    runs = [run_layer(seed, (5, 4000), NeuronSpec(), timesteps=3) for seed in range(4)]
    expected = [ran.tally((5,)) for ran in runs]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(lambda ran: ran.tally((2, 3)), runs), expected, strict=True):
            same(found, alone)


def test_a_tally_may_be_given_other_strides_and_one_threshold() -> None:
    ran = run_layer(3, (4, 6, 5), NeuronSpec(), timesteps=2)
    ran = replace(ran, plan=replace(ran.plan, threshold=np.full((), 0.5, np.float32)))
    ran = replace(ran, outputs=(ran.outputs > 0) * 0.5)
    last = replace(
        ran,
        activation=ran.activation.to(memory_format=torch.channels_last),
        inputs=torch.stack(list(ran.inputs), -1).movedim(-1, 0),
        outputs=torch.stack(list(ran.outputs), -1).movedim(-1, 0),
    )
    assert not last.activation.is_contiguous()
    assert not last.inputs[0].is_contiguous()
    same(last.tally((2, 3)), ran.tally((5,)))
    spread = replace(ran, plan=replace(ran.plan, threshold=np.full((1, 4, 1, 1), 0.5, np.float32)))
    same(spread.tally((5,)), ran.tally((5,)))


class NoNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to divide by a number: an accelerator multiplies with its rounded reciprocal instead."""

    divisions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "div" in func.__name__:
            self.divisions += 1
            assert isinstance(args[1], Tensor), func
            assert args[1].ndim, func
        return func(*args, **(kwargs or {}))


def test_nothing_is_divided_by_a_number() -> None:
    a, n, x = torch.rand(2, 1, 50), torch.ones(2, 1, 50), torch.rand(2, 1, 50)
    with NoNumbers() as mode:  # type: ignore[no-untyped-call]
        AnalogCoding(3, 3).block(Room(torch), a, n, x, torch.full((1, 1, 1), 0.7, dtype=torch.float64))
        assert mode.divisions >= 6
        with pytest.raises(AssertionError):
            _ = a / 3


def test_first_inputs_and_a_layer_without_an_ann() -> None:
    """Without an ANN there are no codings: counts and rates only, and NaN where the ANN would be."""
    ran = run_layer(8, (3, 4), NeuronSpec(), timesteps=4)
    alone = replace(ran, plan=replace(ran.plan, codings={})).tally((2, 3))
    both = ran.tally((5,))
    assert alone.statistics == {}
    assert alone.spikes_at.tolist() == both.spikes_at.tolist()
    assert np.array_equal(alone.first_input, both.first_input, equal_nan=True)
    assert np.array_equal(alone.per_sample[:, :, [0, 2]], both.per_sample[:, :, [0, 2]])
    assert np.isnan(alone.per_sample[:, :, [1, 3, 4]]).all()
    x, fired = ran.inputs[0].numpy(), ran.outputs[0].numpy() > 0
    for channel in range(3):
        smallest, largest = both.first_input[:, channel]
        assert smallest == x[:, channel][fired[:, channel]].min()
        assert largest == x[:, channel][~fired[:, channel]].max()


# ------------------------------------------------------------------------------------------ the largest error


def largest_of(a: Floats, n: npt.NDArray[np.int64], batch: int) -> list[int]:
    """The largest error at t = T = 1, θ = 1, by the tally in batches; checked to be what whole arrays give."""
    coding = AnalogCoding(1, 1)
    grid = Plan({1: coding}, (1,), 1, floats([1]))
    zero = torch.zeros(a.shape)
    ran = Ran(grid, torch.from_numpy(a), zero[None], torch.from_numpy(n).float()[None], None)
    samples = len(a)
    found = ran.tally([min(batch, samples - first) for first in range(0, samples, batch)])
    largest: list[int] = found.statistics[1].largest.tolist()
    assert largest == coding.statistics(a, n, np.zeros(a.shape, np.float32), floats([1])).largest.tolist()
    return largest


ONE = 1 << 32
"""θ, in the unit of the largest error."""


@pytest.mark.parametrize("batch", [1, 2, 6])
@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({(2, 8191): -1, (2, 8192): 1}, [-ONE, 2, 8191]),
        ({(2, 19_999): 1, (3, 0): -1, (4, 5): 1}, [ONE, 2, 19_999]),
        ({(2, 0): 1, (5, 7): 2}, [2 * ONE, 5, 7]),
        ({(0, 9000): -1, (0, 16_500): -1, (1, 3): 1}, [-ONE, 0, 9000]),
        ({(1, 16_384): 1, (1, 8192): -2, (1, 8191): 1}, [-2 * ONE, 1, 8192]),
        ({}, [0, -1, -1]),
    ],
)
def test_the_largest_error_is_found_where_it_is(
    places: dict[tuple[int, int], int], expected: list[int], batch: int
) -> None:
    """Of equal ones that of the lowest sample, then of the lowest neuron, whatever the sign, block and batch."""
    a, n = np.zeros((6, 20_000), np.float32), np.zeros((6, 20_000), np.int64)
    for place, error in places.items():
        a[place], n[place] = (0, error) if error > 0 else (-error, 0)
    assert largest_of(a, n, batch) == expected


def test_errors_that_are_equal_in_the_unit_of_the_largest_are_equal() -> None:
    # 1e-5 and the next float32 differ by 9e-13 θ; θ/2³² is 2.3e-10. Both are 42950 of them.
    one = np.float32(1e-5)
    other = np.nextafter(one, np.float32(1))
    for places in ((3, 5), (3, 8200)):
        a = np.zeros((2, 9000), np.float32)
        a[1, places[0]], a[1, places[1]] = one, other
        for batch in (1, 2):
            assert largest_of(a, np.zeros(a.shape, np.int64), batch) == [-42950, 1, 3]
    a = np.zeros((2, 9000), np.float32)
    a[0, 4], a[1, 3] = one, other
    assert largest_of(a, np.zeros(a.shape, np.int64), 2) == [-42950, 0, 4]


def test_an_error_too_small_for_its_unit_is_none() -> None:
    # 1e-10 is 0.43 of θ/2³², 1.5e-10 is 0.64 of it.
    for error, expected in ((1e-10, [0, -1, -1]), (1.5e-10, [-1, 1, 2])):
        a = np.zeros((2, 3), np.float32)
        a[1, 2] = error
        assert largest_of(a, np.zeros(a.shape, np.int64), 1) == expected


def test_an_error_too_large_for_its_unit_stays_at_the_end() -> None:
    # 2³⁰ θ in θ/2³² is 2⁶²; beyond, errors are equal.
    a = np.zeros((3, 3), np.float32)
    a[1, 1], a[2, 0], a[1, 2] = 2e9, 1e12, 1e12
    assert largest_of(a, np.zeros(a.shape, np.int64), 2) == [-(1 << 62), 1, 1]


# ------------------------------------------------------------------------------------------------ limbs, fold


wide = st.builds(
    lambda sign, mantissa, exponent: sign * mantissa * 10.0**exponent,
    st.sampled_from((-1, 1)), st.floats(1, 10, exclude_max=True), st.floats(-30, 30),
)  # fmt: skip


@settings(WHOLE, max_examples=300)
@given(wide)
def test_limbs_are_exact_down_to_the_last_bit(value: float) -> None:
    limbs = to_limbs(np.array(value))
    assert limbs.shape == (LIMBS,)
    kept, exactly = number(limbs), Fraction(value)
    # Cut towards 0 at 2^-128; above 2^-75 a float64 has no such digits.
    lost = exactly - kept
    assert abs(lost) < Fraction(1, 2**128)
    assert lost == 0 or (lost > 0) == (value > 0)
    if abs(value) >= 2.0**-75:
        assert kept == exactly
        assert from_limbs(limbs) == value
    assert (np.abs(limbs) < 2**32).all()
    assert to_limbs(np.array(-value)).tolist() == (-limbs).tolist()


def test_limbs_by_hand() -> None:
    # 1 = 1·2^(32·4 - 128); -3·2^32 lies one higher; 2^-127 is 2 in the lowest; 2^-129 is dropped.
    assert to_limbs(np.array([1.0, -3.0 * 2**32, 2.0**-127, 2.0**-129, -0.0, 1 + 2.0**-32])).tolist() == [
        [0, 0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, -3, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [0] * 8, [0] * 8,
        [0, 0, 0, 1, 1, 0, 0, 0],
    ]  # fmt: skip
    assert to_limbs(np.zeros((2, 3))).shape == (2, 3, LIMBS)
    largest = np.nextafter(2.0**127, 0)
    assert from_limbs(to_limbs(np.array(largest))) == largest
    assert from_limbs(to_limbs(np.array(-largest))) == -largest
    assert to_limbs(np.array(5e-324)).tolist() == [0] * 8


@pytest.mark.parametrize("value", [2.0**127, -(2.0**127), 1e300, math.inf, -math.inf, math.nan])
def test_limbs_refuse_what_they_cannot_hold(value: float) -> None:
    with pytest.raises(OverflowError):
        to_limbs(np.array([1.0, value]))


@WHOLE
@given(st.lists(wide.filter(lambda value: abs(value) > 1e-15), min_size=1, max_size=60), st.randoms())
def test_sums_of_limbs_are_the_exact_sums(values: list[float], order: Any) -> None:
    """`math.fsum` rounds the exact sum once, and so does `from_limbs`, in whatever order the limbs were added."""
    limbs = to_limbs(np.array(values))
    assert from_limbs(limbs.sum(0)) == math.fsum(values)
    shuffled = list(limbs)
    order.shuffle(shuffled)
    assert sum(shuffled).tolist() == limbs.sum(0).tolist()


def test_from_limbs_rounds_once() -> None:
    # Between 1 and the next float64 lies 2^-53, which goes to the even 1; a bit more at 2^-128 tips it.
    ulp = 2.0**-52
    half = to_limbs(np.array([1.0, ulp / 2])).sum(0)
    assert from_limbs(half) == 1.0
    half[0] += 1
    assert from_limbs(half) == 1.0 + ulp
    # Limbs of both signs, and a difference that leaves only the last digits.
    assert from_limbs(to_limbs(np.array([1e30, 1.0, -1e30])).sum(0)) == 1.0
    assert from_limbs(to_limbs(np.array([2.0**100, 2.0**-100, -(2.0**100)])).sum(0)) == 2.0**-100


def test_fold_by_hand() -> None:
    # 5 numbers: the last two go to the first two, then the third to the first, then the second: ((a+d)+c)+(b+e).
    a, b, c, d, e = 1.0, 2.0**-53, 2.0**-53, 2.0**-53, 2.0**-52
    expected = ((a + d) + c) + (b + e)
    assert fold(np.array([a, b, c, d, e])) == expected
    # That order is seen: from left to right, and exactly, the sum is another one.
    assert sum([a, b, c, d, e]) != expected
    assert fold(np.array([[3.0], [4.0]])).tolist() == [3.0, 4.0]
    assert fold(np.arange(24.0).reshape(2, 3, 4)).tolist() == [[6, 22, 38], [54, 70, 86]]


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 100, 8191, BLOCK])
def test_fold_is_the_same_in_numpy_and_torch(width: int) -> None:
    values = np.random.default_rng(width).normal(size=(3, 2, width)) * 10.0 ** np.arange(3)[:, None, None]
    of_numpy, of_torch = fold(values.copy()), fold(torch.from_numpy(values.copy()))
    assert of_numpy.tolist() == of_torch.tolist()
    # One after the other, neuron by neuron, as the docstring says.
    for row in np.ndindex(3, 2):
        numbers = values[row].tolist()
        while len(numbers) > 1:
            half = (len(numbers) + 1) // 2
            numbers = [x + numbers[half + i] if half + i < len(numbers) else x for i, x in enumerate(numbers[:half])]
        assert numbers[0] == of_numpy[row]


@pytest.mark.parametrize("xp", [np, torch], ids=["numpy", "torch"])
def test_sums_of_a_block_are_folded_in_that_order(xp: Any) -> None:
    """The block halves its products at once; the result is that of `fold` on all of them, bit by bit."""
    rng = np.random.default_rng(5)
    for width in (1, 2, 7, 4096, 8191):
        a, n, x = (rng.normal(1, 2, (2, width)).clip(0).astype(np.float32) for _ in range(3))
        n = np.rint(n)
        theta = rng.uniform(0.3, 2, (1, width))
        given = [xp.asarray(values) for values in (a, n, x, theta)]
        coding = AnalogCoding(3, 3)
        block = coding.block(Room(xp), *given)
        u, alpha, whole = x / theta, a / theta, n.astype(np.float64)
        even, half = np.floor(u + 0.5).clip(0, 3), np.floor(u + 0.5).clip(0, 3)
        cut, relu = (u / 3).clip(0, 1), (u / 3).clip(0)
        pieces = [(whole - even) / 3, even / 3 - half / 3, half / 3 - cut, cut - relu, relu - alpha]
        products = [pieces[i] * pieces[j] for i in range(5) for j in range(i, 5)]
        rest = [whole, alpha, whole * whole, alpha * alpha, whole * alpha]
        expected = fold(np.stack([*pieces, *products, *rest]))
        assert block.sums.tolist() == expected.tolist()
        assert block.total.tolist() == (whole / 3 - alpha).tolist()


# ------------------------------------------------------------------------------------------ bad numbers


@pytest.mark.parametrize("where", ["0.0", "1.0", "6"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_bad_numbers_in_the_snn_are_named(bad: float, where: str, tmp_path: Path) -> None:
    """1e30 is finite, but its square is beyond what is summed: as good as infinite."""
    planned = plan(relu_digits(), data="digits", samples=10, output=tmp_path / "r.h5")
    module = planned.prepared.subject.snn.get_submodule(where)
    module.register_forward_hook(lambda _module, _args, output: output * 0 + bad)
    layer = {"0.0": "0.2", "1.0": "1.2", "6": "7"}[where]
    named = rf"layer \d \({layer.replace('.', '[.]')}\)"
    with pytest.raises(probe.ProbeError, match=named + ".*SNN"):
        planned.run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("timestep", [1, 2])
def test_bad_numbers_in_a_tally(bad: float, timestep: int) -> None:
    """At a t of the grid at once, whichever number a device makes of NaN."""
    tally = AnalogTally(Plan({t: AnalogCoding(t, 2) for t in (1, 2)}, (1, 2), 2, floats([1])))
    zero = torch.zeros(2, 9000)
    broken = zero.clone()
    broken[1, 8500] = bad
    tally.begin(0, zero)
    with pytest.raises(FloatingPointError):  # noqa: PT012
        for t in (1, 2):
            tally.step(t, broken if t == timestep else zero, zero)
    tally.begin(0, zero)
    with pytest.raises(FloatingPointError):
        tally.step(1, zero, broken * math.nan)


def test_bad_numbers_are_seen_in_the_sums_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where NaN becomes the whole number 0, as on some devices, no code gives it away."""
    bincount = torch.bincount

    def lenient(codes: Tensor, minlength: int) -> Tensor:
        return bincount(codes.clamp(0, minlength - 1), None, minlength)

    monkeypatch.setattr(torch, "bincount", lenient)
    for x, output in ((math.nan, 0.0), (0.0, math.nan)):
        tally = AnalogTally(Plan({1: AnalogCoding(1, 1)}, (), 1, floats([1])))
        tally.begin(0, torch.zeros(1, 3))
        with pytest.raises(FloatingPointError):
            tally.step(1, torch.full((1, 3), x), torch.full((1, 3), output))


def test_numpy_refuses_bad_numbers_too() -> None:
    with np.errstate(invalid="ignore"):
        with pytest.raises((OverflowError, ValueError)):
            one_neuron(AnalogCoding(1, 1), 0.0, 0, math.nan)
        with pytest.raises(OverflowError):
            one_neuron(AnalogCoding(1, 1), 0.0, 0, math.inf)


def test_bad_numbers_in_the_ann_are_named(tmp_path: Path) -> None:
    planned = plan(relu_digits(), data="digits", samples=10, output=tmp_path / "r.h5")
    ann: Any = planned.prepared.subject.ann
    ann.get_submodule("1.0").weight.data.fill_(math.nan)
    with pytest.raises(probe.ProbeError, match=r"layer 1 \(1[.]2\) gives NaN or infinity in the ANN"):
        planned.run()


# ------------------------------------------------------------------------------------------------- recordings


SAMPLES, T = 40, 11
"""T that is no power of two; its grid is 1 to 8 and 11."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained ReLU network in each preset."""
    folder = tmp_path_factory.mktemp("relu")
    return {
        record: probe.capture(
            relu_digits(), data="digits", samples=SAMPLES, timesteps=T, record=record, output=folder / f"{record}.h5"
        )
        for record in ("stats", "counts", "spikes", "full")
    }


@pytest.fixture
def recording(recorded: dict[str, Path]) -> Iterator[Recording]:
    with open_recording(recorded["full"]) as opened:
        yield opened


def test_full_says_the_same_again_at_every_t(recording: Recording) -> None:
    assert recording.grid == (1, 2, 3, 4, 5, 6, 7, 8, 11)
    for t in range(1, T + 1):
        found = probe.unevenness(recording, timestep=t, recompute=True)
        assert [layer["name"] for layer in found["layers"]] == ["0.2", "1.2", "3.2", "7"]
        for layer in found["layers"]:
            assert layer["levels"] is None
            assert sum(layer["cases"].values()) == sum(layer["local_cases"].values()) == layer["count"]
            shares = [layer["attribution"][piece]["share"] for piece in PIECES]
            assert sum(shares) == pytest.approx(1, abs=1e-12)
            assert sum(layer["residual"].values()) == sum(layer["offset_spikes"].values()) == layer["count"]


def test_each_preset_says_the_same(recorded: dict[str, Path]) -> None:
    def layers_of(record: str, **options: Any) -> str:
        found = probe.unevenness(recorded[record], **options)
        # Strict JSON: no NaN, no infinity.
        return json.dumps(found["layers"], allow_nan=False)

    for t in (1, 5, T):
        assert len({layers_of(record, timestep=t) for record in recorded}) == 1
    whole = layers_of("full", recompute=True)
    assert layers_of("counts", recompute=True) == layers_of("spikes", recompute=True) == whole
    with pytest.raises(probe.ProbeError, match="--record stats"):
        layers_of("stats", recompute=True)
    with pytest.raises(probe.ProbeError, match="keeps no statistics at t = 9"):
        layers_of("counts", timestep=9)


@pytest.mark.parametrize("neuron", ["if", "snm", "srp", "srp+negspike"])
def test_spikes_alone_give_the_cases_of_any_t(neuron: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": "digits", "samples": 10, "timesteps": T, "neuron": neuron}
    of = {
        record: probe.capture(relu_digits(), record=record, output=tmp_path / f"{record}.h5", **options)
        for record in ("spikes", "full")
    }
    from_spikes, from_full = (probe.unevenness(of[record], timestep=9)["layers"] for record in ("spikes", "full"))
    assert len(from_full) == 4
    for one, other in zip(from_spikes, from_full, strict=True):
        assert one["cases"] == other["cases"]
        assert one["offset_spikes"] == other["offset_spikes"]
        assert one["attribution"] is None
        assert "cases only" in one["reason"]
        assert other["attribution"]["total"]["mean_square"] > 0
    probe.unevenness(of["full"], recompute=True)
    if "srp" in neuron:
        silent = [layer["attribution"]["silencing"]["mean_square"] > 0 for layer in from_full]
        assert any(silent)
        assert from_full[silent.index(True)]["residual"]["silenced"] > 0


def test_sums_of_each_sample_are_those_of_its_arrays(recording: Recording) -> None:
    for layer in recording.layers:
        steps = layer.snn_spikes.astype(np.int64)
        alpha = (layer.ann_output.astype(np.float64) / layer.threshold).reshape(SAMPLES, -1)
        per_sample = layer.statistics.per_sample
        grid = layer._group["statistics/per_sample_timestep"][()].tolist()
        assert grid == [1, 2, 4, 8, T]
        assert per_sample.shape == (SAMPLES, len(grid), 5)
        for slot, t in enumerate(grid):
            n = steps[:, :t].sum(1).reshape(SAMPLES, -1)
            for column, values in enumerate((n, alpha, n * n, alpha * alpha, n * alpha)):
                found, expected = per_sample[:, slot, column], [math.fsum(row) for row in values]
                np.testing.assert_allclose(found, expected, rtol=1e-12)
            # All samples together are the layer's sums, to the last digit.
            total = layer.statistics.statistics[t].sums
            assert to_limbs(np.asarray(per_sample[:, slot], np.float64)).sum(0).tolist() == total.tolist()
        assert layer.spikes_at.tolist() == steps.reshape(SAMPLES, T, -1).sum((0, 2)).tolist()
        assert np.array_equal(layer.spikes_per_neuron, steps.sum((0, 1)))


def test_the_largest_error_is_that_of_the_arrays(recording: Recording) -> None:
    for layer in probe.unevenness(recording)["layers"]:
        opened = recording.layers[layer["index"]]
        theta = opened.threshold.astype(np.float64)
        errors = opened.spike_count / T - opened.ann_output / theta
        found = layer["largest_error"]
        place = (found["sample"], *found["neuron"])
        assert abs(found["error"]) == pytest.approx(np.abs(errors).max(), abs=1e-9)
        assert errors[place] == pytest.approx(found["error"], abs=1e-9)


def statistics_of_file(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Every dataset of statistics, and every attribute of theirs."""
    found: dict[str, npt.NDArray[Any]] = {}

    def visit(name: str, item: Any) -> None:
        if "/statistics" not in name:
            return
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = np.asarray(value)
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    assert len(found) > 40
    return found


def equal_files(one: Path, other: Path) -> None:
    first, second = statistics_of_file(one), statistics_of_file(other)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert values.dtype == second[name].dtype, name
        assert np.array_equal(values, second[name], equal_nan=values.dtype.kind == "f"), name


def test_several_parts_say_what_one_part_says(recorded: dict[str, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"data": "digits", "samples": SAMPLES, "timesteps": T, "batch_size": 10}
    one = plan(relu_digits(), output=tmp_path / "one.h5", **options).run()
    many = plan(relu_digits(), output=tmp_path / "many.h5", **options).run(part_bytes=1)
    assert not one.path.with_name("one.h5.parts").exists()
    assert len(list(many.path.with_name("many.h5.parts").glob("part-*.h5"))) == SAMPLES // 10
    equal_files(one.path, many.path)
    probe.unevenness(many.path, recompute=True)


class Dyadic(nn.Module):
    """A ReLU network in whole multiples of powers of two, so that no sum rounds, in whatever order it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.third, self.last = nn.Linear(32, 16), nn.Linear(16, 10)
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.pool = nn.AvgPool2d(2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator) / 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.acts[0](self.first(x)))
        x = self.pool(self.acts[1](self.second(x)))
        out: Tensor = self.last(self.acts[2](self.third(x.flatten(1))))
        return out


def test_batch_sizes_do_not_matter(tmp_path: Path) -> None:
    thresholds = {f"acts.{i}": floats(theta) for i, theta in enumerate((2, 4, 8))}
    paths = []
    for size in (1, 7, 50):
        subject = convert.adapt(Dyadic().eval(), "if", NeuronSpec(), thresholds=thresholds)
        output = tmp_path / f"{size}.h5"
        paths.append(probe.capture(subject, data="digits", samples=60, timesteps=5, batch_size=size, output=output))
    with open_recording(paths[0]) as first, open_recording(paths[2]) as last:
        for one, other in zip(first.layers, last.layers, strict=True):
            assert 0.01 < one.spikes_at.sum() / (60 * 5 * one.neurons) < 0.9
            assert np.array_equal(one.snn_input, other.snn_input)
            assert np.array_equal(one.ann_output, other.ann_output)
    for path in paths[1:]:
        equal_files(paths[0], path)


def test_batch_sizes_do_not_matter_to_the_tally_of_a_trained_network(recording: Recording) -> None:
    """Its convolutions round otherwise at another batch size; what a recording holds is tallied alike at each."""
    for layer in recording.layers:
        threshold = np.asarray(layer.threshold)
        codings = {t: coding for t in recording.grid if (coding := layer.coding(t)) is not None}
        ran = Ran(
            Plan(codings, (1, 2, 4, 8, T), T, threshold),
            torch.from_numpy(layer.ann_output),
            torch.tensor(layer.snn_input).movedim(1, 0),
            torch.from_numpy(layer.snn_spikes * threshold[None]).movedim(1, 0),
            None,
        )
        kept = layer.statistics
        for size in (1, 7, 50):
            found = ran.tally([min(size, SAMPLES - first) for first in range(0, SAMPLES, size)])
            same(found, kept)
            assert np.array_equal(found.per_sample, kept.per_sample)
            assert np.array_equal(found.first_input, kept.first_input, equal_nan=True)


def test_a_recording_holds_what_plain_hooks_see(recording: Recording) -> None:
    """The user's own network with hooks by hand, and the SNN step by step; its ReLUs work in place."""
    network = relu_digits()
    subject = plan(network, data="digits", samples=20, timesteps=T, output=recording.path.with_name("none.h5")).prepared
    snn = copy.deepcopy(subject.subject.snn)
    images = torch.from_numpy(open_data("digits").load(recording.indices))
    seen: dict[tuple[str, str], list[Tensor]] = {}

    def note(key: tuple[str, str]) -> Any:
        return lambda _module, args, *output: seen.setdefault(key, []).append((output or args)[0].clone())

    for name in ("0.2", "1.2", "3.2", "7"):
        for which, network_of in (("ann", network), ("snn", snn)):
            network_of.get_submodule(name).register_forward_pre_hook(note((which, f"{name} in")))
            network_of.get_submodule(name).register_forward_hook(note((which, f"{name} out")))
    with torch.no_grad():
        logits = network(images.clone())
        for module in snn.modules():
            if isinstance(module, IF):
                module.reset()
        steps = [snn(images.clone()) for _ in range(T)]
    np.testing.assert_allclose(recording.ann_logits, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(recording.snn_logits, torch.stack(steps, 1), rtol=1e-5, atol=1e-5)
    for layer in recording.layers:
        inputs, outputs = (torch.stack(seen["snn", f"{layer.name} {end}"], 1).numpy() for end in ("in", "out"))
        assert np.array_equal(layer.read("ann_input"), seen["ann", f"{layer.name} in"][0])
        assert np.array_equal(layer.ann_output, seen["ann", f"{layer.name} out"][0])
        assert np.array_equal(layer.snn_input, inputs)
        assert np.array_equal(layer.snn_spikes, outputs > 0)
        assert np.array_equal(layer.spike_count, (outputs > 0).sum(1))
        assert np.array_equal(layer.input_sum, reduce(np.add, inputs.swapaxes(0, 1)))
        assert set(np.unique(outputs)) == {0, layer.threshold.item()}


def test_a_threshold_a_channel(tmp_path: Path) -> None:
    path = probe.capture(
        relu_digits(), data="digits", samples=10, timesteps=4, calibrate_per="channel", output=tmp_path / "r.h5"
    )
    with open_recording(path) as recording:
        assert recording.layers[0].threshold.shape == (1, 12, 1, 1)
        found = probe.unevenness(recording, recompute=True)["layers"]
        assert found[0]["threshold"]["per"] == "channel"
        for t in (1, 2, 3):
            probe.unevenness(recording, timestep=t, recompute=True)


def test_the_first_layer_has_no_unevenness(recorded: dict[str, Path]) -> None:
    """It is fed the same image at every t: the oracle holds for ReLU, too."""
    for t in (1, 4, T):
        layer = probe.unevenness(recorded["stats"], 0, timestep=t)["layers"][0]
        assert layer["oracle"]["applies"]
        assert layer["oracle"]["violations"] == 0
        assert layer["attribution"]["unevenness"]["mean_square"] == 0
        assert layer["attribution"]["grid"]["mean_square"] > 0


# ------------------------------------------------------------------------------------------------------ plots


@pytest.mark.parametrize("kind", KINDS)
def test_every_plot_of_a_relu_network(kind: str, recording: Recording) -> None:
    figure = probe.draw(recording, kind)
    assert isinstance(figure, Figure)
    words = [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel(), axes.get_title())]
    for sub in getattr(figure, "subfigs", []):
        words += [text for axes in sub.axes for text in (axes.get_xlabel(), axes.get_ylabel())]
    assert not any("None" in word or "nan" in word for word in words)
    assert any(words)


def test_offsets_as_drawn(recording: Recording) -> None:
    (axes,) = probe.draw(recording, "offsets", layers=1).axes
    bars: Any = axes.patches
    expected = probe.unevenness(recording, 1)["layers"][0]
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars}
    shares = {int(key): times / expected["count"] for key, times in expected["offset_spikes"].items()}
    assert heights == pytest.approx(shares)
    assert "nearest" in axes.get_xlabel()


def test_phi_as_drawn(recording: Recording) -> None:
    """The stairs go on beyond θ as far as a does, for there the neuron fires at every t."""
    axes = probe.draw(recording, "phi", layers=1).axes[0]
    (stairs,) = (line for line in axes.lines if line.get_label() == "exact conversion")
    end, top = np.asarray(stairs.get_xydata())[-1].tolist()
    assert end == pytest.approx(axes.get_xlim()[1])
    assert (end > 1, top) == (True, 1)
    assert "nearest spike" in axes.get_xlabel()


def test_rare_offsets_are_written_shortly() -> None:
    assert [written(share) for share in (1.0, 0.84, 0.1334, 0.00166, 0.000195, 3e-5)] == [
        "100%", "84%", "13.3%", "0.17%", "0.019%", "<0.01%",
    ]  # fmt: skip


def test_synthetic_recordings_without_levels(tmp_path: Path) -> None:
    write_recording(tmp_path / "r.h5", ["one"], levels=None, unguarded=True)
    with open_recording(tmp_path / "r.h5") as recording:
        found = [probe.unevenness(recording, timestep=t, recompute=True)["layers"][0] for t in recording.grid]
        assert sum(layer["cases"]["zero_under"] for layer in found) > 0
        assert sum(recording.layers[0].statistics.statistics[8].joint[:, :8].sum(1)) > 0
