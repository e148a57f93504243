"""Cases, pieces and sums against exact fractions neuron by neuron, and the laws that hold between them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe import attribution
from probe.attribution import (
    CASES,
    DENSE,
    NO_ERROR,
    PIECES,
    RESIDUAL_EDGES,
    Coding,
    NotWhole,
    Rows,
    Statistics,
    count,
    larger_error,
    levels_of,
    near_tie,
    offset_spikes,
    statistics_of,
    summarise,
    sums_of,
    why_not_even,
)
from probe.data import DataSet
from probe.neurons import IF, QCFS, NeuronSpec
from probe.recording import open_recording
from probe.session import Captured, plan
from tests.reference import (
    TERMS,
    Described,
    Neuron,
    describe,
    exact,
    near_edge,
    near_level_edge,
    qcfs_level,
    shares,
    simulate,
    tabulate,
)

pytestmark = pytest.mark.usefixtures("one_thread")


INITIALS = (Fraction(0), Fraction(1, 2), Fraction(1, 4), Fraction(3, 10))
KINDS = ("if", "snm", "negspike", "negspike, unguarded", "srp", "srp+negspike")
PRESTEPS = 2
WHOLE = settings(deadline=None, derandomize=True, database=None, max_examples=40)


@dataclass(frozen=True)
class Layer:
    """Neurons (sample, channel, place), a threshold per channel: as arrays for `probe`, and as section 3 has them."""

    coding: Coding
    level: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    input_sum: npt.NDArray[np.float32]
    threshold: npt.NDArray[np.float32]
    silenced: npt.NDArray[np.bool_] | None
    described: list[list[Described]]

    def codes(self) -> npt.NDArray[np.int64]:
        return self.coding.encode(self.level, self.count, self.input_sum, self.threshold, self.silenced)

    def statistics(self) -> Statistics:
        return statistics_of(self.codes(), self.coding)

    def rows(self) -> Rows:
        """One row a neuron."""
        codes = self.codes().ravel()
        return self.coding.decode(codes, np.ones_like(codes))


def make_layer(
    rng: np.random.Generator, kind: str, levels: int, timestep: int, initial: Fraction, timesteps: int | None = None
) -> Layer:
    """Neurons of one kind that ran `timestep` steps; thresholds ½ and 2, inputs in θ/16, so that nothing rounds."""
    thresholds = (Fraction(1, 2), Fraction(2))
    shape = (3, 2, 4)
    unguarded = kind.endswith("unguarded")
    level, counts = rng.integers(0, levels + 1, shape), np.zeros(shape, np.int64)
    sums, silenced = np.zeros(shape, np.float32), np.zeros(shape, bool)
    described: list[list[Described]] = []
    # From silent to saturated neurons, and beyond both.
    drift = rng.integers(-12, 22, shape)
    for sample in range(shape[0]):
        described.append([])
        for channel, place in np.ndindex(shape[1:]):
            at = (sample, channel, place)
            theta = thresholds[channel]
            neuron = Neuron(
                theta, initial, kind.split(",")[0], guarded=not unguarded, presteps=PRESTEPS if "srp" in kind else 0
            )
            steps = drift[at] + rng.integers(-14, 15, neuron.presteps + timestep)
            inputs = [theta * int(step) / 16 for step in steps]
            trace = simulate(inputs, neuron)
            total = sum(inputs[neuron.presteps :], Fraction(0))
            if rng.random() < 0.5:
                # Half of the neurons stand on the level of their own mean input: they have no inherited error.
                level[at] = qcfs_level(total / timestep, theta, levels)
            counts[at], sums[at], silenced[at] = trace.count, float(total), trace.silenced
            described[-1].append(describe(int(level[at]), trace.count, total, neuron, levels, timestep, trace.silenced))
    silencing = "srp" in kind
    coding = Coding(levels, timestep, timesteps or timestep, float(initial), unguarded, silencing)
    return Layer(
        coding,
        level,
        counts,
        sums,
        np.array(thresholds, np.float32)[:, None],
        silenced if silencing else None,
        described,
    )


# --------------------------------------------------------------------------------------- against fractions


@pytest.mark.parametrize("timestep", [1, 3, 4, 8, 16])
@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_statistics_against_fractions(levels: int, timestep: int) -> None:
    rng = np.random.default_rng(levels * 100 + timestep)
    for initial in INITIALS:
        for kind in KINDS:
            layer = make_layer(rng, kind, levels, timestep, initial)
            found, coding = layer.statistics(), layer.coding
            table = tabulate(layer.described, levels, timestep, timestep, unguarded=coding.unguarded)
            for name in ("cases", "local_cases", "joint", "moments", "products", "residual", "largest"):
                assert getattr(found, name).tolist() == getattr(table, name), (name, kind, initial)
            assert offset_spikes(found.joint, levels, timestep, coding.lowest_count) == table.offsets
            _check_summary(layer, found)


def test_the_layers_made_here_hold_every_case() -> None:
    """Else the comparisons above would compare zeros."""
    rng = np.random.default_rng(1)
    for kind in KINDS:
        made = [make_layer(rng, kind, 4, 8, Fraction(1, 4)).statistics() for _ in range(8)]
        statistics = reduce(Statistics.__add__, made)
        # a = 0, φ < a: only negative spikes without a guard do that.
        expected = [True, True, kind.endswith("unguarded"), True, True, True]
        assert (statistics.cases.sum(2) > 0).ravel().tolist() == expected
        assert (statistics.cases[:, :, 3].sum() > 0) == ("srp" in kind)
        occurring = {term for term, square in zip(TERMS, statistics.products.diagonal(), strict=True) if square}
        assert occurring == set(TERMS) - {"clipping"} - (set() if "srp" in kind else {"silencing"})
        assert (statistics.residual > 0).sum() > 10


def _check_summary(layer: Layer, found: Statistics) -> None:
    """What a reader sees, against sums over the described neurons."""
    neurons = [one for sample in layer.described for one in sample]
    summary = summarise(found, layer.coding)
    assert summary["count"] == len(neurons) == 24
    for name in CASES:
        sign, comparison = name.split("_")
        assert summary["cases"][name] == sum(
            one.positive == (sign == "positive") and one.comparison == comparison for one in neurons
        )
        assert summary["local_cases"][name] == sum(
            one.local_positive == (sign == "positive") and one.local_comparison == comparison for one in neurons
        )
    for name, number in summary["residual"].items():
        assert number == sum(one.residual == name for one in neurons)
    assert ("silenced" in summary["residual"]) == layer.coding.silencing
    expected = shares(layer.described)
    for term in TERMS:
        entry, pieces = summary["attribution"][term], [one.pieces[term] for one in neurons]
        assert entry["mean"] == pytest.approx(float(sum(pieces) / len(pieces)), abs=1e-12)
        assert entry["mean_square"] == pytest.approx(float(sum(p * p for p in pieces) / len(pieces)), abs=1e-12)
        if term != "total":
            assert entry["share"] == (pytest.approx(float(expected[term]), abs=1e-12) if expected else None)
    worst = max(abs(one.pieces["total"]) for one in neurons)
    if worst:
        largest = summary["largest_error"]
        assert abs(largest["error"]) == pytest.approx(float(worst))
        place = layer.described[largest["sample"]][largest["neuron"]]
        assert float(place.pieces["total"]) == pytest.approx(largest["error"])
    else:
        assert summary["largest_error"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_piece_of_every_neuron(kind: str) -> None:
    """Row by row: the whole numbers behind a code, its six pieces, and that they add up to the total."""
    rng = np.random.default_rng(7)
    for levels, timestep, timesteps, initial in (
        (8, 8, 8, Fraction(1, 2)), (4, 3, 8, Fraction(1, 4)), (8, 5, 16, Fraction(3, 10)), (2, 16, 16, Fraction(0)),
    ):  # fmt: skip
        layer = make_layer(rng, kind, levels, timestep, initial, timesteps)
        rows, neurons = layer.rows(), [one for sample in layer.described for one in sample]
        pieces = rows.pieces()
        assert pieces[0].tolist() == pieces[1:].sum(0).tolist()
        assert (pieces[5] == 0).all()
        for i, one in enumerate(neurons):
            found = [int(values[i]) for values in (rows.k, rows.n, rows.n_even, rows.n_half)]
            assert found == [one.level, one.count, one.n_even, one.n_half]
            assert Fraction(int(rows.k_mean[i]), levels) == one.q
            assert [Fraction(int(piece), levels * timestep) for piece in pieces[:, i]] == list(one.pieces.values())


def test_one_neuron_by_hand() -> None:
    # θ = 1, L = 4, T = 4, v(0) = ¼. x = -1, 1, 1, ¼: Σx = 1¼; v = -¾, ¼, 1¼ - 1, ½: one spike.
    trace = simulate(exact([-1, 1, 1, 0.25]), Neuron(Fraction(1), Fraction(1, 4)))
    assert (trace.spikes, trace.potentials[-1]) == ((0, 0, 1, 0), Fraction(1, 2))
    # The ANN had 0.8: k = 3. n_even = ⌊1¼ + ¼⌋ = 1, n_half = ⌊1¼ + ½⌋ = 1, q_L(5/16) = ¼·⌊5/4 + ½⌋ = ¼.
    coding = Coding(levels=4, timestep=4, timesteps=4, initial_potential=0.25)
    code = coding.encode(np.array([[3]]), np.array([[1]]), np.array([[1.25]], np.float32), np.float32([1]))
    statistics = statistics_of(code, coding)
    # n·L - k·T = 4 - 12 = -8 sixteenths, all inherited: k_q - k = 1 - 3, times T.
    assert statistics.moments.tolist() == [-8, 0, 0, 0, 0, 0, -8]
    summary = summarise(statistics, coding)
    assert summary["cases"]["positive_under"] == summary["local_cases"]["positive_equal"] == 1
    assert summary["residual"] == {"below": 0, "inside": 1, "above": 0}
    assert summary["offset_spikes"] == {"-2": 1}
    assert summary["attribution"]["inherited"] == {"mean": -0.5, "mean_square": 0.25, "share": 1.0}
    # v(4) = ½ lies in the bin [½, ⅝): the first of its 8 edges that is not above it.
    assert statistics.residual[np.searchsorted(RESIDUAL_EDGES, 0.5, side="right")] == 1


def test_real_thresholds_in_float32() -> None:
    """Trained-looking thresholds and inputs, the real modules in float32; ties, and only they, are left out."""
    generator = torch.Generator().manual_seed(4)
    threshold = torch.tensor([0.21432, 1.7, 0.9, 3.3]).view(4, 1)
    kept = total = 0
    for levels, timesteps, initial in ((8, 8, 0.5), (4, 8, 0.3), (8, 3, 0.25), (8, 4, 0.0)):
        x = threshold * (torch.rand(timesteps, 12, 4, 10, generator=generator) * 2 - 0.6)
        ann = QCFS(levels)
        ann.threshold.data = threshold
        mean = threshold * (torch.rand(12, 4, 10, generator=generator) * 1.6 - 0.3)
        a = ann(mean).detach().numpy()
        module = IF(threshold, NeuronSpec(initial_potential=initial))
        n = sum(module(step) for step in x) / threshold
        input_sum = reduce(torch.add, x).numpy()
        level = levels_of(a, threshold.numpy(), levels)
        coding = Coding(levels, timesteps, timesteps, initial)
        codes = coding.encode(level, n.round().numpy(), input_sum, threshold.numpy())
        clear, described = [], []
        for at in np.ndindex(12, 4, 10):
            theta = Fraction(float(threshold[at[1]]))
            neuron = Neuron(theta, Fraction(initial).limit_denominator(10))
            inputs = exact(x[(slice(None), *at)])
            trace = simulate(inputs, neuron)
            pre = Fraction(float(mean[at]))
            tie = trace.tie or near_edge(sum(inputs, Fraction(0)), neuron, levels, timesteps)
            if tie or near_level_edge(pre, theta, levels):
                continue
            k = qcfs_level(pre, theta, levels)
            clear.append(codes[at])
            described.append(describe(k, trace.count, sum(inputs, Fraction(0)), neuron, levels, timesteps))
        kept, total = kept + len(clear), total + codes.size
        found = statistics_of(np.array([clear]), coding)
        table = tabulate([described], levels, timesteps, timesteps)
        assert found.cases.tolist() == table.cases
        assert found.joint.tolist() == table.joint
        assert found.products.tolist() == table.products
        assert found.residual.tolist() == table.residual
    # Leaving out must not become a way to pass: about one neuron in 300 is a tie.
    assert kept / total > 0.99


# ------------------------------------------------------------------------------------------------- the laws


@st.composite
def layers(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> Layer:
    """A layer drawn at random, with t <= T."""
    timesteps = draw(st.integers(1, 12))
    return make_layer(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        draw(st.sampled_from(kinds)),
        draw(st.integers(1, 10)),
        draw(st.integers(1, timesteps)),
        draw(st.sampled_from(INITIALS)),
        timesteps,
    )


@WHOLE
@given(layers())
def test_everything_adds_up(layer: Layer) -> None:
    found, coding = layer.statistics(), layer.coding
    size = layer.level.size
    # Every neuron has one case, one local case, one (k, n), and one bin unless it is silenced.
    assert found.cases.sum() == found.local_cases.sum() == found.joint.sum() == size
    silenced = 0 if layer.silenced is None else int(layer.silenced.sum())
    assert found.cases[:, :, 3].sum() == silenced
    assert found.residual.sum() == size - silenced
    # Bins up to θ·0 and those from 1 on say the same as the second key.
    zero, one = (int(np.searchsorted(RESIDUAL_EDGES, edge, side="right")) for edge in (0, 1))
    bins = [found.residual[:zero].sum(), found.residual[zero:one].sum(), found.residual[one:].sum()]
    assert bins == found.cases.sum((0, 1))[:3].tolist()
    # The pieces add up to the total: neuron by neuron, in sums, and in products with anything.
    assert (layer.rows().pieces()[1:].sum(0) == layer.rows().pieces()[0]).all()
    assert found.moments[1:].sum() == found.moments[0]
    assert (found.products[1:].sum(0) == found.products[0]).all()
    assert (found.products == found.products.T).all()
    assert found.products[1:, 0].sum() == found.products[0, 0]
    attribution = summarise(found, coding)["attribution"]
    if found.products[0, 0]:
        assert sum(attribution[piece]["share"] for piece in PIECES) == pytest.approx(1, abs=1e-12)
    else:
        assert {attribution[piece]["share"] for piece in PIECES} == {None}
    # Sums of the joint histogram are the sums over neurons.
    n, k = layer.count, layer.level
    assert sums_of(found.joint, coding.lowest_count).tolist() == [
        n.sum(), k.sum(), (n * n).sum(), (k * k).sum(), (n * k).sum(),
    ]  # fmt: skip


@WHOLE
@given(layers())
def test_offset_key_zero_is_the_two_equal_rows(layer: Layer) -> None:
    found, coding = layer.statistics(), layer.coding
    offsets = offset_spikes(found.joint, coding.levels, coding.timestep, coding.lowest_count)
    equal, over, under = found.cases.sum((0, 2))
    assert offsets.get(0, 0) == equal
    assert sum(number for key, number in offsets.items() if key > 0) == over
    assert sum(number for key, number in offsets.items() if key < 0) == under


@WHOLE
@given(layers(), st.integers(1, 2), st.integers(0, 50))
def test_halves_add_up_to_the_whole(layer: Layer, cut: int, first: int) -> None:
    codes, coding = layer.codes(), layer.coding
    whole = statistics_of(codes, coding, first)
    halves = [statistics_of(codes[:cut], coding, first), statistics_of(codes[cut:], coding, first + cut)]
    assert (halves[0] + halves[1]).same(whole)
    assert (halves[1] + halves[0]).same(whole)
    assert not halves[0].same(whole)


@WHOLE
@given(layers())
def test_codes_keep_the_whole_numbers(layer: Layer) -> None:
    rows, coding, codes = layer.rows(), layer.coding, layer.codes()
    assert (rows.k == layer.level.ravel()).all()
    assert (rows.n == layer.count.ravel()).all()
    if layer.silenced is not None:
        assert (rows.silenced == layer.silenced.ravel()).all()
    assert 0 <= codes.min() <= codes.max() < coding.size


@WHOLE
@given(layers(("if", "snm", "negspike", "negspike, unguarded", "srp", "srp+negspike")))
def test_n_even_follows_from_the_residual_potential(layer: Layer) -> None:
    """n_even = clip(⌊(Σx + v(0))/θ⌋, 0, T) = clip(n + ⌊v(T)/θ⌋, 0, T), with -T for unguarded negative spikes."""
    rows, coding = layer.rows(), layer.coding
    low = -coding.timestep if coding.unguarded else 0
    from_residual = np.clip(rows.n + rows.residual // coding.resolution, low, coding.timestep)
    assert (rows.n_even == from_residual).all()
    assert (rows.n >= low).all()
    assert (rows.n <= coding.timestep).all()


inputs_in_sixteenths = st.lists(st.integers(-24, 40), min_size=1, max_size=12)
unmasked = st.sampled_from([kind for kind in KINDS if "srp" not in kind])


def neuron_of(kind: str, threshold: int, initial: Fraction) -> Neuron:
    return Neuron(Fraction(threshold), initial, kind.split(",")[0], guarded="unguarded" not in kind)


@WHOLE
@given(inputs_in_sixteenths, unmasked, st.sampled_from(INITIALS))
def test_n_even_is_the_count_of_the_same_input_spread_evenly(steps: list[int], kind: str, initial: Fraction) -> None:
    """Not by formula: a second neuron is run on the mean, and its spikes are counted."""
    neuron, timesteps = neuron_of(kind, 1, initial), len(steps)
    total = Fraction(sum(steps), 16)
    evenly = simulate([total / timesteps] * timesteps, neuron)
    coding = Coding(8, timesteps, timesteps, float(initial), neuron.unguarded)
    codes = coding.encode(np.zeros((1, 1)), np.zeros((1, 1)), np.array([[total]], np.float32), np.float32([1]))
    assert coding.decode(codes[0], np.ones(1, np.int64)).n_even.tolist() == [evenly.count]


@WHOLE
@given(st.integers(-24, 40), st.integers(1, 12), unmasked, st.sampled_from(INITIALS), st.integers(1, 8))
def test_constant_input_has_no_unevenness(step: int, timesteps: int, kind: str, initial: Fraction, levels: int) -> None:
    neuron, x = neuron_of(kind, 2, initial), Fraction(2 * step, 16)
    trace = simulate([x] * timesteps, neuron)
    coding = Coding(levels, timesteps, timesteps, float(initial), neuron.unguarded)
    level, n = np.array([[qcfs_level(x, Fraction(2), levels)]]), np.array([[trace.count]])
    codes = coding.encode(level, n, np.array([[float(x * timesteps)]], np.float32), np.float32([2]))
    found = statistics_of(codes, coding)
    pieces = dict(zip(TERMS, found.moments.tolist(), strict=True))
    assert pieces["unevenness"] == pieces["silencing"] == pieces["inherited"] == 0
    assert found.local_cases[:, 1:].sum() == 0
    # n_half is clipped to [0, T] even where n_even is clipped to [-T, T]: there this law holds for x >= 0 only.
    if initial == Fraction(1, 2) and (x >= 0 or not neuron.unguarded):
        assert pieces["initial_potential"] == 0
        if levels == timesteps:
            assert pieces["total"] == 0
            assert found.largest.tolist() == NO_ERROR.tolist()


@pytest.mark.parametrize("kind", ["if", "snm", "negspike"])
@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
def test_levels_equal_timesteps_and_half_a_threshold_leave_no_error(levels: int, kind: str) -> None:
    """The free oracle, with the real modules: at T = L a constant input gives every neuron its ANN's activation."""
    generator = torch.Generator().manual_seed(levels)
    threshold = torch.tensor([0.25, 1.0, 4.0]).view(3, 1)
    on_the_grid = torch.randint(-64, 192, (40, 3, 20), generator=generator) / 64 * threshold
    ann = QCFS(levels)
    ann.threshold.data = threshold
    module = IF(threshold, NeuronSpec.named(kind), timesteps=levels)
    outputs = module(on_the_grid.repeat(levels, 1, 1)).unflatten(0, (levels, -1))
    n = (outputs.sum(0) / threshold).numpy()
    input_sum = reduce(torch.add, [on_the_grid] * levels).numpy()
    level = levels_of(ann(on_the_grid).detach().numpy(), threshold.numpy(), levels)
    coding = Coding(levels, levels, levels)
    found = statistics_of(coding.encode(level, n, input_sum, threshold.numpy()), coding)
    assert not found.products.any()
    assert found.cases[:, 1:].sum() == 0
    assert 0 < found.cases[0].sum() < found.cases.sum()
    attribution = summarise(found, coding)["attribution"]
    assert attribution["total"] == {"mean": 0, "mean_square": 0}
    assert all(attribution[piece]["share"] is None for piece in PIECES)


def test_mis_paired_samples_break_the_oracle() -> None:
    """The same layer with its samples shifted by one: the law must be able to fail."""
    x = torch.rand(50, 30, generator=torch.Generator().manual_seed(2))
    n = IF(1.0, timesteps=8)(x.repeat(8, 1)).unflatten(0, (8, -1)).sum(0).numpy()
    coding = Coding(8, 8, 8)
    level = levels_of(QCFS(8, 1.0)(x).detach().numpy(), np.float32([1]), 8)
    right, wrong = (
        statistics_of(coding.encode(k, n, (8 * x).numpy(), np.float32([1])), coding)
        for k in (level, np.roll(level, 1, 0))
    )
    assert right.cases[:, 1:].sum() <= 3
    assert wrong.cases[:, 1:].sum() > 1000


def test_inputs_far_beyond_the_clip_change_nothing() -> None:
    """A neuron driven far below 0 or far above T·θ has the statistics of section 3, not those of another code."""
    coding = Coding(levels=4, timestep=3, timesteps=8)
    for total in (-1e30, -1e6, -100.0, 100.0, 1e6, 1e30):
        for n in (0, 3):
            one = describe(2, n, Fraction(total), Neuron(Fraction(1)), 4, 3)
            codes = coding.encode(np.array([[2]]), np.array([[n]]), np.array([[total]], np.float32), np.float32([1]))
            found, table = statistics_of(codes, coding), tabulate([[one]], 4, 3, 8)
            assert found.moments.tolist() == table.moments
            assert found.residual.tolist() == table.residual
            assert found.cases.tolist() == table.cases


def test_sparse_and_dense_histograms_agree() -> None:
    rng = np.random.default_rng(0)
    sparse, dense = Coding(8, 60, 200, 0.25), Coding(8, 60, 60, 0.25)
    assert (sparse.dense, dense.dense) == (False, True)
    assert dense.size <= DENSE < sparse.size
    k, n = rng.integers(0, 9, (4, 50)), rng.integers(0, 61, (4, 50))
    total = (n + rng.normal(0, 1, n.shape)).astype(np.float32)
    one, other = (statistics_of(c.encode(k, n, total, np.float32([1])), c) for c in (sparse, dense))
    assert one.products.tolist() == other.products.tolist()
    assert one.cases.tolist() == other.cases.tolist()
    assert one.residual.tolist() == other.residual.tolist()
    assert one.largest.tolist() == other.largest.tolist()
    assert one.joint[:, :61].tolist() == other.joint.tolist()


# ---------------------------------------------------------------------------------------------- refusals


def test_levels_are_refused_where_the_activation_is_none() -> None:
    # θ = 2, L = 8: level 3 is 0.75, and a thousandth of a level is 0.00025.
    threshold = np.float32([2])

    def level(a: float) -> int:
        return int(levels_of(np.array([0.75, a], np.float32), threshold, 8)[1])

    assert [level(a) for a in (0.0, 0.25, 0.75, 2.0)] == [0, 1, 3, 8]
    assert level(0.75 + 0.00024) == level(0.75 - 0.00024) == 3
    for a, worst in ((0.75 + 0.00026, 0.00104), (0.75 - 0.00026, 0.00104), (0.87, 0.48), (2.25, 1), (-0.25, 1)):
        with pytest.raises(NotWhole) as refused:
            level(a)
        assert refused.value.worst == pytest.approx(worst, rel=0.01)
    for a in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(NotWhole):
            level(a)
    # A wrong L shows, and so does a wrong θ; empty layers have nothing to refuse.
    right = QCFS(8, 2.0)(torch.linspace(-1, 3, 200)).detach().numpy()
    assert levels_of(right, threshold, 8).max() == 8
    with pytest.raises(NotWhole):
        levels_of(right, threshold, 6)
    with pytest.raises(NotWhole):
        levels_of(right, np.float32([1.9]), 8)
    assert levels_of(right[:0], threshold, 8).shape == (0,)


def test_levels_of_each_channel() -> None:
    threshold = np.array([0.21432, 3.3], np.float32)[:, None]
    k = np.array([[0, 1, 8], [5, 7, 2]])
    assert levels_of((threshold * k / 8).astype(np.float32), threshold, 8).tolist() == k.tolist()


def test_initial_potential_must_be_a_fraction() -> None:
    assert Coding(8, 8, 8, 0.3).resolution == 80
    assert Coding(8, 8, 8, 0.3).start == 24
    assert why_not_even({}, 0.3) is None
    assert "no fraction" in str(why_not_even({}, 2**-0.5))
    assert "outside [0, θ)" in str(why_not_even({}, 1.0))


def test_near_tie() -> None:
    # θ = 2, v(0) = 1: (Σx + 1)/2 is whole at Σx = 1, 3, ...; a tie is up to 0.0002 away.
    sums = np.array([1, 3.00019, 2.99981, 3.00021, 2.99979, 2, -1], np.float32)
    assert near_tie(sums, np.float32([2]), 0.5).tolist() == [True, True, True, False, False, False, True]
    # 1024 inputs that add up to 100 θ are off by up to 1024/2^24 of 102 θ: 0.0062 θ.
    far = np.array([201.01, 201.02, 1.0001], np.float32)
    assert near_tie(far, np.float32([2]), 0.5, timesteps=1024).tolist() == [True, False, True]


@pytest.mark.parametrize("timesteps", [8, 64, 300, 1000])
def test_constant_input_errs_only_near_ties_however_long(timesteps: int) -> None:
    """A float32 sum drifts with T; the neurons that it flips must all be called ties, and few others."""
    x = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.1
    threshold, module = np.float32([0.7]), IF(0.7)
    n, total = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(timesteps):
        n += module(x) > 0
        total += x
    coding = Coding(8, timesteps, timesteps)
    codes = coding.encode(np.zeros(len(x)), n.numpy(), total.numpy(), threshold)
    rows = coding.decode(codes, np.ones(len(x), np.int64))
    wrong = rows.n != rows.n_even
    tie = near_tie(total.numpy(), threshold, 0.5, timesteps)
    assert not (wrong & ~tie).any()
    assert tie.mean() < 1e-3 + 2 * timesteps * 2.0**-24 * (timesteps + 2)
    if timesteps == 1000:
        # Without T the distance is too short: this is no empty promise.
        assert (wrong & ~near_tie(total.numpy(), threshold, 0.5)).any()


def long_run(folder: Path) -> Captured:
    """A correct network, 1000 timesteps long, on uniform noise."""
    images = np.random.default_rng(0).uniform(-0.2, 1, (20, 1, 20, 20)).astype(np.float32)
    data = DataSet("uniform", np.arange(20) % 2, ("a", "b"), lambda index: images[index])
    network = torch.nn.Sequential(QCFS(8, 0.7), torch.nn.Flatten(), torch.nn.Linear(400, 2)).eval()
    return plan(network, data=data, samples=None, timesteps=1000, record="stats", output=folder / "long.h5").run()


def test_a_correct_run_of_many_timesteps_keeps_the_oracle(tmp_path: Path) -> None:
    facts = open_recording(long_run(tmp_path).path).facts["oracles"]["0"]
    assert facts["applies"]
    assert facts["violations"] == 0
    # Rounding did flip some, so there was something to excuse.
    assert 0 < facts["ties"] < 100


def test_a_correct_run_of_many_timesteps_keeps_the_law(tmp_path: Path) -> None:
    assert not long_run(tmp_path).broken


def _rows(coding: Coding, n: int, neurons: int) -> Rows:
    codes = coding.encode(np.array([0]), np.array([n]), np.array([float(n)], np.float32), np.float32([1]))
    return coding.decode(codes, np.array([neurons], np.int64))


def test_sums_that_would_not_fit_are_refused() -> None:
    # L·T = 2^10: a neuron at n = T, k = 0 errs by 2^10, squared 2^20; 2^43 of them make 2^63.
    coding = Coding(levels=8, timestep=128, timesteps=128)
    fitting = count(_rows(coding, 128, 2**43 - 1))
    assert int(fitting.products[0, 0]) == 2**63 - 2**20
    with pytest.raises(OverflowError):
        count(_rows(coding, 128, 2**43))


def test_adding_refuses_what_would_not_fit() -> None:
    coding = Coding(levels=8, timestep=128, timesteps=128)
    half = count(_rows(coding, 128, 2**42))
    with pytest.raises(OverflowError):
        _ = half + half
    fitting = half + count(_rows(coding, 128, 2**42 - 1))
    assert int(fitting.products[0, 0]) == 2**63 - 2**20


def test_larger_error_prefers_the_earlier_sample() -> None:
    one, two = np.array([-5, 3, 7]), np.array([5, 2, 9])
    assert larger_error(one, two).tolist() == larger_error(two, one).tolist() == [5, 2, 9]
    assert larger_error(one, np.array([6, 9, 9])).tolist() == [6, 9, 9]
    assert larger_error(one, np.array([5, 3, 6])).tolist() == [5, 3, 6]
    assert larger_error(NO_ERROR, one).tolist() == larger_error(one, NO_ERROR).tolist() == [-5, 3, 7]
    assert larger_error(NO_ERROR, NO_ERROR).tolist() == [0, -1, -1]


def test_names() -> None:
    assert attribution.TERMS == TERMS
    assert CASES == (
        "zero_equal", "zero_over", "zero_under", "positive_equal", "positive_over", "positive_under",
    )  # fmt: skip
