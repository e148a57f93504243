"""What a layer's error would be with another v(0), θ, method or arrival of its inputs: from its recorded inputs alone.

No network runs. A layer's neurons are simulated again on the inputs x(t) that were recorded, in float32 and in the
order of operations of `probe.neurons`: v += x(t); s = v >= θ; v -= θ·s. With the recorded parameters this must give
the recorded counts, neuron by neuron, which is checked each time. It is *local*: the inputs are held fixed, though
another v(0) in one layer changes what the next ones are fed; and the ANN's a stays what it was, also where θ is scaled.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from probe.analysis import SAMPLES_AT_ONCE, describe_threshold, sum_inputs
from probe.attribution import CASES, PIECES, TERMS, TIE, Coding, comparison, why_not_even
from probe.errors import ProbeError
from probe.layers import select_layers, specs_of
from probe.recording import Layer, Recording, open_recording

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

METHODS = ("if", "snm", "negspike", "srp", "srp+negspike")
INPUTS = ("recorded", "even", "permuted")
STARTS = tuple(Fraction(i, 16) for i in range(16))
"""v(0) in units of θ among which the best is searched, with the recorded one."""
SCALES = tuple(Fraction(i, 16) for i in range(8, 33))
"""Factors of θ among which the best is searched; 1 is one of them."""
SAMPLES = 1000
"""Samples that are looked at unless more are asked for: the search simulates each some forty times."""
SILENCE_BELOW = 0.001
"""As in `probe.neurons`, which would load torch."""
BLOCK = 16_384
"""Neurons simulated together, so that their state stays in the processor's cache."""
BATCH_BYTES = 1 << 25
"""Of inputs read at once; more only where a single sample has more."""

LOCAL = (
    "local: the recorded inputs are held fixed, though another v(0), θ or method in one layer changes what the next "
    "ones are fed; the ANN's α stays what it was"
)


# -------------------------------------------------------------------------------------------------- one simulation


class Negative(NamedTuple):
    """When a negative spike may be fired, see `probe.neurons.Negative`."""

    threshold: float
    inclusive: bool


NEGATIVE = {"snm": Negative(1.0, True), "negspike": Negative(0.0, False)}


@dataclass(frozen=True)
class Simulated:
    """What some neurons did; all (neuron,)."""

    count: Floats
    """n, the net number of spikes: whole numbers."""
    potential: Floats
    """v(t) after the last step."""
    tie: Mask | None
    """With `watch`: a charged potential came so close to an edge that rounding may tell the spike."""


def simulate(
    x: Floats,
    threshold: Floats,
    initial_potential: float = 0.5,
    method: str = "if",
    *,
    guarded: bool = True,
    watch: bool = False,
) -> Simulated:
    """Run soft-reset IF neurons over their inputs, in the arithmetic of `probe.neurons.IF`.

    Args:
        x: x(t), float32 (timestep, neuron).
        threshold: θ, float32, () or (neuron,).
        initial_potential: v(0) in units of θ.
        method: one of `METHODS`; SRP's mask is the caller's (`silenced`).
        guarded: negative spikes never take the net count below 0.
        watch: look out for ties, too.
    """
    negative = NEGATIVE.get(method.rpartition("+")[2])
    v = np.empty(x.shape[1:], np.float32)
    v[...] = np.float32(initial_potential) * threshold
    count, spike = np.zeros_like(v), np.empty_like(v)
    floor = None if negative is None else np.float32(-negative.threshold) * threshold
    nearest, peak = np.full_like(v, np.inf), np.zeros_like(v)
    for now in x:
        v += now
        if watch:
            edges = [threshold] if floor is None else [threshold, floor]
            nearest = np.min([nearest, *(np.abs(v - edge) for edge in edges)], axis=0)
            peak = np.maximum(peak, np.abs(v))
        spike[...] = v >= threshold
        if negative is not None and floor is not None:
            below = v <= floor if negative.inclusive else v < floor
            spike -= below & (count > 0) if guarded else below
        count += spike
        spike *= threshold
        v -= spike
    tie = None
    if watch:
        # As `near_tie`: over many steps the potential itself is off by more than that.
        tie = nearest / threshold <= np.maximum(TIE, len(x) * 2.0**-24 * (peak / threshold + 2))
    return Simulated(count, v, tie)


def silenced(x: Floats, threshold: Floats, initial_potential: float, method: str) -> Mask:
    """SRP's mask after a pre-simulation on `x`, (timestep, neuron): True where v(τ) <= 0.001·θ."""
    mask: Mask = simulate(x, threshold, initial_potential, method).potential <= np.float32(SILENCE_BELOW) * threshold
    return mask


def permuted_in_time(x: Floats, seed: int, layer: int, first_sample: int = 0) -> Floats:
    """Each neuron's inputs in a random order of their own.

    Args:
        x: (sample, timestep, neuron).
        seed: of the orders, which depend on it, the layer and the sample only, not on the batch.
        layer: the layer's index.
        first_sample: the recording's index of the first sample.
    """
    shuffled = np.empty(x.shape, x.dtype)
    for i, inputs in enumerate(x):
        np.random.default_rng((seed, layer, first_sample + i)).permuted(inputs, axis=0, out=shuffled[i])
    return shuffled


# -------------------------------------------------------------------------------------------------- what if


@dataclass(frozen=True)
class Option:
    """One way to run a layer's neurons.

    Attributes:
        what: its name in a table.
        method: one of `METHODS`.
        start: v(0) in units of the scaled θ.
        scale: factor of θ.
        inputs: one of `INPUTS`.
        counted: no simulation, the recorded counts themselves.
    """

    what: str
    method: str
    start: Fraction
    scale: Fraction = Fraction(1)
    inputs: str = "recorded"
    counted: bool = False


@dataclass(frozen=True)
class Block:
    """Some neurons of a layer with all that is known of them; arrays are (timestep, neuron) or (neuron,).

    Attributes:
        x: x(t).
        before: the inputs of SRP's pre-simulation.
        permuted: x(t) in another order, where one is asked for.
        threshold: θ, () or (neuron,).
        ann: k = a·L/θ for QCFS, a for ReLU.
        count: n, as recorded.
        input_sum: Σx.
        mask: SRP's, as recorded; None for a recording without.
    """

    x: Floats
    before: Floats
    permuted: Floats | None
    threshold: Floats
    ann: npt.NDArray[Any]
    count: npt.NDArray[Any]
    input_sum: Floats
    mask: Mask | None


@dataclass
class Sums:
    """What is added up of one option; errors are in units of the recorded θ."""

    moments: Doubles = field(default_factory=lambda: np.zeros(len(TERMS)))
    squares: Doubles = field(default_factory=lambda: np.zeros(len(TERMS)))
    products: Doubles = field(default_factory=lambda: np.zeros(len(TERMS)))
    """Of each term with the total."""
    cases: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CASES), np.int64))
    local: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(CASES), np.int64))

    @property
    def count(self) -> int:
        """How many neurons, over all samples."""
        return int(self.cases.sum())

    @property
    def mean_square(self) -> float:
        """Of φ - a, in θ²."""
        return float(self.squares[0]) / self.count

    def summary(self, against: float) -> dict[str, Any]:
        """The numbers a reader wants; `against` is the mean square that the change is relative to."""
        attribution: dict[str, dict[str, float | None]] = {}
        for i, term in enumerate(TERMS):
            of_term: dict[str, float | None] = {
                "mean": float(self.moments[i]) / self.count,
                "mean_square": float(self.squares[i]) / self.count,
            }
            if term != "total":
                of_term["share"] = float(self.products[i] / self.squares[0]) if self.squares[0] else None
            attribution[term] = of_term
        return {
            "mean_square": self.mean_square,
            "change": _change(self.mean_square, against),
            "cases": dict(zip(CASES, map(int, self.cases), strict=True)),
            "local_cases": dict(zip(CASES, map(int, self.local), strict=True)),
            "attribution": attribution,
        }


def _change(mean_square: float, against: float) -> float | None:
    return mean_square / against - 1 if against else None


class Bench:
    """A layer's neurons, to be run in several ways on what was recorded of them.

    Args:
        layer: of an open recording.
        timestep: t.
        samples: how many of the recording's.
        seed: of the permutations.
        presteps: τ of SRP, where the recording has none.
    """

    def __init__(self, layer: Layer, timestep: int, samples: int, seed: int, presteps: int) -> None:
        self.layer, self.timestep, self.samples, self.seed, self.presteps = layer, timestep, samples, seed, presteps
        self.unguarded = layer.info.signed and not layer.traits.get("guarded", True)
        self.start = Fraction(layer.initial_fraction).limit_denominator(1000)

    def as_recorded(self, what: str = "as recorded", **changed: Any) -> Option:
        """The option with the recorded parameters, but for what is changed."""
        return Option(what, **{"method": self.layer.neuron, "start": self.start, "counted": not changed, **changed})

    # ------------------------------------------------------------------------------------------ inputs

    def blocks(self, *, permuted: bool = False) -> Iterator[Block]:
        """The layer's neurons, a block at a time, sample by sample."""
        layer, t = self.layer, self.timestep
        steps = max(t, self.presteps)
        each = max(1, min(SAMPLES_AT_ONCE, BATCH_BYTES // (4 * steps * layer.neurons)))
        for first in range(0, self.samples, each):
            chosen = slice(first, min(first + each, self.samples))
            size = chosen.stop - first
            x = layer.read("snn_input", chosen, slice(0, steps)).reshape(size, steps, -1)
            if t == layer.recording.timesteps:
                count = layer.read("spike_count", chosen)
            else:
                count = layer.read("snn_spikes", chosen, slice(0, t)).sum(1, dtype=np.int64)
            arrays = {"ann": layer.ann_values(chosen), "count": count, "input_sum": sum_inputs(x[:, :t])}
            if layer.info.silencing:
                arrays["mask"] = layer.read("silenced", chosen)
            flat = {name: values.reshape(-1) for name, values in arrays.items()}
            theta = layer.threshold.reshape(-1)
            if theta.size > 1:
                theta = np.broadcast_to(layer.threshold, (size, *layer.shape)).reshape(-1)
            shuffled = permuted_in_time(x[:, :t], self.seed, layer.index, first) if permuted else None
            over_time = _time_first(x)
            shuffled = None if shuffled is None else _time_first(shuffled)
            for start in range(0, over_time.shape[1], BLOCK):
                piece = slice(start, start + BLOCK)
                inputs = np.ascontiguousarray(over_time[:, piece])
                yield Block(
                    x=inputs[:t],
                    before=inputs[: self.presteps],
                    permuted=None if shuffled is None else np.ascontiguousarray(shuffled[:, piece]),
                    threshold=theta.reshape(()) if theta.size == 1 else theta[piece],
                    mask=flat["mask"][piece] if "mask" in flat else None,
                    **{name: flat[name][piece] for name in ("ann", "count", "input_sum")},
                )

    def run(self, block: Block, option: Option) -> tuple[Doubles, Mask | None]:
        """The count of each neuron of a block, and SRP's mask where the option has one."""
        mask = None
        theta = block.threshold * np.float32(option.scale)
        if "srp" in option.method:
            mask = block.mask
            if mask is None:
                mask = silenced(block.before, theta, float(option.start), option.method)
        if option.counted:
            return block.count.astype(np.float64), mask
        x: Floats = block.x
        if option.inputs == "even":
            x = np.broadcast_to(block.input_sum / np.float32(len(x)), x.shape)
        elif option.inputs == "permuted":
            assert block.permuted is not None
            x = block.permuted
        n = simulate(x, theta, float(option.start), option.method, guarded=self._guarded(option)).count
        if mask is not None:
            n[mask] = 0
        return n.astype(np.float64), mask

    def _guarded(self, option: Option) -> bool:
        return not (self.unguarded and option.method == self.layer.neuron)

    # ------------------------------------------------------------------------------------------ errors

    def _errors(self, block: Block, n: Doubles, option: Option) -> tuple[Doubles, Doubles]:
        """a and φ - a in units of θ."""
        alpha = block.ann / self.layer.levels if self.layer.levels else block.ann.astype(np.float64) / block.threshold
        # One division, so that where both are the same fraction they are the same float.
        phi = n * option.scale.numerator / (self.timestep * option.scale.denominator)
        return alpha, phi - alpha

    def square(self, block: Block, option: Option) -> float:
        """Σ (φ - a)² over a block, in θ²."""
        return _summed(self._errors(block, self.run(block, option)[0], option)[1])

    def measure(self, block: Block, option: Option, sums: Sums) -> None:
        """Add a block's cases and pieces to those before."""
        n, mask = self.run(block, option)
        t, levels, scale = self.timestep, self.layer.levels, float(option.scale)
        alpha, total = self._errors(block, n, option)
        even, half, ramp, mean = self._counts(block, option)
        own = (n - even) * scale / t
        pieces = {
            "unevenness": own if mask is None else np.where(mask, 0, own),
            "silencing": np.zeros_like(own) if mask is None else np.where(mask, own, 0),
            "initial_potential": (even - half) * scale / t,
            "grid": half * option.scale.numerator / (t * option.scale.denominator) - ramp,
            "clipping": ramp - mean,
            "inherited": mean - alpha,
        }
        for i, term in enumerate([total, *(pieces[name] for name in PIECES)]):
            sums.moments[i] += float(term.sum())
            sums.squares[i] += _summed(term)
            sums.products[i] += float((term * total).sum())
        if levels:
            ours, theirs = n * levels * option.scale.numerator, block.ann * float(t * option.scale.denominator)
        else:
            psi = n - alpha * t / scale
            ours, theirs = np.where(np.abs(psi) <= 0.5, 0, psi), np.zeros_like(psi)
        sums.cases += _count_cases(block.ann > 0, ours, theirs)
        sums.local += _count_cases(even > 0, n, even)

    def _counts(self, block: Block, option: Option) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """n_even, n_half, and x̄ as the ANN's activation would have it: clipped to θ, and not; the last two in θ.

        For QCFS both are q_L(x̄). Σx is rounded just as `probe.attribution` does, so that the tables agree.
        """
        t, levels = self.timestep, self.layer.levels
        theta = block.threshold * np.float32(option.scale)
        lowest = -t if self.unguarded and not self._guarded(option) else 0
        if levels is None:
            u = block.input_sum.astype(np.float64) / theta.astype(np.float64)
            mean = np.maximum(block.input_sum.astype(np.float64) / block.threshold / t, 0)
            even, half = np.floor(u + float(option.start)), np.floor(u + 0.5)
            return np.clip(even, lowest, t), np.clip(half, 0, t), np.minimum(mean, float(option.scale)), mean
        coding = Coding(levels, t, self.layer.recording.timesteps, float(option.start), lowest < 0)
        resolution = coding.resolution

        def fine(threshold: Floats) -> Doubles:
            scaled = block.input_sum * coding.scale(threshold)
            whole: Doubles = np.floor(np.clip(scaled, *coding.limits)).astype(np.float64)
            return whole

        u = fine(theta)
        even, half = np.floor((u + coding.start) / resolution), np.floor((u + resolution // 2) / resolution)
        level = np.floor((2 * levels * fine(block.threshold) + resolution * t) / (2 * resolution * t))
        mean = np.clip(level, 0, levels) / levels
        return np.clip(even, lowest, t), np.clip(half, 0, t), mean, mean

    # ------------------------------------------------------------------------------------------ all of a layer

    def table(self, options: Sequence[Option]) -> tuple[list[Sums], dict[str, int]]:
        """The sums of each option, and how many neurons the recorded parameters reproduce."""
        sums = [Sums() for _ in options]
        checked = {"neurons": 0, "ties": 0, "violations": 0}
        for block in self.blocks(permuted=any(option.inputs == "permuted" for option in options)):
            for option, sum_ in zip(options, sums, strict=True):
                self.measure(block, option, sum_)
            ties, violations = self.check(block)
            checked["neurons"] += block.count.size
            checked["ties"] += ties
            checked["violations"] += violations
        return sums, checked

    def check(self, block: Block) -> tuple[int, int]:
        """How many neurons do not give the recorded count with the recorded parameters: at a tie, and elsewhere."""
        recorded = self.as_recorded("", counted=False)
        count, _ = self.run(block, recorded)
        wrong = np.flatnonzero(count != block.count)
        if not wrong.size:
            return 0, 0
        theta = block.threshold if block.threshold.size == 1 else block.threshold[wrong]
        watched = simulate(
            block.x[:, wrong], theta, float(self.start), recorded.method, guarded=not self.unguarded, watch=True
        )
        assert watched.tie is not None
        ties = int(watched.tie.sum())
        return ties, wrong.size - ties

    def search(self, options: Sequence[Option]) -> list[float]:
        """The mean square error of each option, in θ²."""
        squares, count = np.zeros(len(options)), 0
        for block in self.blocks():
            squares += [self.square(block, option) for option in options]
            count += block.count.size
        return [float(square) / count for square in squares]


def _summed(term: Doubles) -> float:
    """The sum of its squares."""
    return float((term * term).sum())


def _time_first(x: Floats) -> Floats:
    """(sample, timestep, neuron) to (timestep, sample · neuron)."""
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def _count_cases(positive: Mask, ours: Doubles, theirs: Doubles) -> npt.NDArray[np.int64]:
    """How many neurons are in each of `CASES`."""
    return np.bincount(3 * positive + comparison(ours, theirs), minlength=len(CASES))  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- the command


def suppose(
    recording: Recording | str | Path = "recording.h5",
    layers: Sequence[str | int] | str | int | None = None,
    *,
    timestep: int | None = None,
    initial_potentials: Sequence[float] = (),
    threshold_scales: Sequence[float] = (),
    methods: Sequence[str] = (),
    inputs: str = "recorded",
    seed: int = 0,
    srp_steps: int = 4,
    samples: int | None = SAMPLES,
) -> dict[str, Any]:
    """Each layer's cases and error if its neurons, or the order of its inputs, had been others; the inputs held fixed.

    Without any of the four: v(0) = 0 and θ/2, the best v(0) and the best θ of a grid, inputs that arrive evenly (x̄ at
    every t) or in a random order, and negative spikes. With some: every combination of what is given.

    SRP on a recording without it makes its mask on the first τ recorded inputs. In a recording of the same neurons
    without SRP these are just what its pre-simulation feeds the layer, so the mask is the one it would make; but its
    masked layers would then feed on something else. A recording of SRP neurons does not hold its pre-steps: there the
    recorded mask stays, whatever v(0) or θ.

    Args:
        recording: recorded with `full`; an open one, or its path.
        layers: specs (see `select_layers`); None for all.
        timestep: t, from 1; None for T.
        initial_potentials: v(0), in [0, 1) θ.
        threshold_scales: factors of θ; v(0) stays the same share of it.
        methods: of `METHODS`.
        inputs: `recorded`, `even` or `permuted`.
        seed: of the permutations.
        srp_steps: τ.
        samples: at most so many, the recording's first; None for all.

    Returns:
        The object that `probe what-if --json` prints: counts of neurons times samples, errors in units of the recorded
        θ; `change` is relative to the mean square as recorded, None where that is 0.

    Raises:
        ProbeError: no such layer, t or value, no layer of which this can be said, or no recorded inputs.
    """
    opened = recording if isinstance(recording, Recording) else open_recording(recording)
    t = opened.timesteps if timestep is None else timestep
    if not 1 <= t <= opened.timesteps:
        raise ProbeError(f"t = {t}", expected=f"1 to T = {opened.timesteps}", next_step="pass -t N")
    if samples is not None and samples < 1:
        raise ProbeError(f"{samples} samples", expected=f"1 to {opened.samples}, or all")
    if seed < 0:
        raise ProbeError(f"seed {seed}", expected="0 or more")
    starts, scales = [_start(value) for value in initial_potentials], [_scale(value) for value in threshold_scales]
    for name, known in [*((method, METHODS) for method in methods), (inputs, INPUTS)]:
        if name not in known:
            raise ProbeError(repr(name), expected="one of " + ", ".join(known))
    wanted = _Wanted(starts, scales, tuple(methods), inputs)
    presteps = srp_steps if any("srp" in method for method in methods) else 0
    if any("srp" in method for method in methods) and not 1 <= srp_steps <= opened.timesteps:
        raise ProbeError(
            f"{srp_steps} pre-simulation steps",
            expected=f"1 to T = {opened.timesteps}, for they are taken from the recorded inputs",
            next_step="pass --srp-steps N, or capture with a larger T",
        )
    chosen = select_layers(opened.layers, specs_of(layers))
    used = opened.samples if samples is None else min(samples, opened.samples)
    rows = []
    for layer in chosen:
        reason = why_not(layer)
        head = {"index": layer.index, "name": layer.name, "neuron": layer.neuron, "levels": layer.levels}
        row: dict[str, Any] = {**head, "threshold": describe_threshold(layer.threshold), "reason": reason}
        if reason is None:
            row.update(_layer(Bench(layer, t, used, seed, presteps), wanted))
        rows.append(row)
    if all(row["reason"] for row in rows):
        first = rows[0]
        raise ProbeError(
            f"layer {first['index']} ({first['name']}): {first['reason']}",
            expected="soft-reset integrate-and-fire neurons with an ANN partner",
            next_step="see `probe layers`",
        )
    return {
        "schema": "probe-what-if/1", "file": str(opened.path), "timesteps": opened.timesteps, "timestep": t,
        "samples": used, "recorded_samples": opened.samples, "complete": opened.complete, "seed": seed,
        "notes": [LOCAL, *_notes(chosen, methods, srp_steps)], "layers": rows,
    }  # fmt: skip


def _start(value: float) -> Fraction:
    reason = why_not_even({}, value) if math.isfinite(value) else f"v(0) is {value} θ"
    if reason:
        raise ProbeError(reason, expected="a number of thresholds from 0 to below 1", next_step="such as 0 or 0.25")
    return Fraction(value).limit_denominator(1000)


def _scale(value: float) -> Fraction:
    if not 0.01 <= value <= 100:
        raise ProbeError(f"θ times {value:g}", expected="a factor from 0.01 to 100")
    return Fraction(value).limit_denominator(1_000_000)


def why_not(layer: Layer) -> str | None:
    """Why a layer's neurons cannot be run again; None where they can."""
    if not layer.paired:
        return "it has no ANN partner, so there is no error to speak of"
    reason = why_not_even(layer.traits, layer.initial_fraction)
    if reason:
        return reason
    negative = layer.neuron.rpartition("+")[2] in NEGATIVE
    if layer.neuron not in METHODS or negative != layer.info.signed:
        return f"its neurons ({layer.neuron}) follow a rule of their own, which is not one of {', '.join(METHODS)}"
    return None


@dataclass(frozen=True)
class _Wanted:
    """What a user asked for; each empty for as recorded."""

    starts: Sequence[Fraction]
    scales: Sequence[Fraction]
    methods: Sequence[str]
    inputs: str

    @property
    def anything(self) -> bool:
        return bool(self.starts or self.scales or self.methods) or self.inputs != "recorded"

    def options(self, bench: Bench) -> list[Option]:
        """Every combination."""
        options = [bench.as_recorded()]
        starts: list[Fraction | None] = [*self.starts] or [None]
        scales: list[Fraction | None] = [*self.scales] or [None]
        methods: list[str | None] = [*self.methods] or [None]
        for start, scale, method in itertools.product(starts, scales, methods):
            changed: dict[str, Any] = {"inputs": self.inputs, "counted": False}
            parts = [] if method is None else [method]
            if start is not None:
                changed["start"], parts = start, [*parts, _start_text(start)]
            if scale is not None:
                changed["scale"], parts = scale, [*parts, _scale_text(scale)]
            if self.inputs != "recorded":
                parts.append(_ARRIVING[self.inputs])
            if method is not None:
                changed["method"] = method
            options.append(bench.as_recorded(", ".join(parts), **changed))
        return options


_ARRIVING = {"even": "arriving evenly", "permuted": "permuted in time"}


def _start_text(start: Fraction) -> str:
    return f"v(0) = {float(start):g} θ"


def _scale_text(scale: Fraction) -> str:
    return f"θ × {float(scale):g}"


def _layer(bench: Bench, wanted: _Wanted) -> dict[str, Any]:
    found: dict[str, Any] = {}
    searched: dict[str, tuple[list[Option], list[float]]] = {}
    if wanted.anything:
        options = wanted.options(bench)
    else:
        searched = _search(bench)
        best = {name: options[_lowest(bench, options, squares)] for name, (options, squares) in searched.items()}
        other = _with_other_spikes(bench.layer.neuron)
        options = [
            bench.as_recorded(),
            bench.as_recorded("v(0) = 0", start=Fraction(0)),
            bench.as_recorded("v(0) = θ/2", start=Fraction(1, 2)),
            best["initial_potential"],
            best["threshold_scale"],
            bench.as_recorded(_ARRIVING["even"], inputs="even"),
            bench.as_recorded(_ARRIVING["permuted"], inputs="permuted"),
            bench.as_recorded(other, method=other),
        ]
    sums, reproduced = bench.table(options)
    against = sums[0].mean_square
    found = {"count": sums[0].count, "initial_potential": float(bench.start), "reproduced": reproduced}
    if searched:
        found["best"] = {
            name: {
                "value": float(getattr(best[name], _FIELD[name])),
                **{key: sums[options.index(best[name])].summary(against)[key] for key in ("mean_square", "change")},
                "grid": [
                    {"value": float(getattr(option, _FIELD[name])), "mean_square": square}
                    for option, square in zip(*searched[name], strict=True)
                ],
            }
            for name in searched
        }  # fmt: skip
    found["options"] = [
        {
            "what": option.what, "method": option.method, "initial_potential": float(option.start),
            "threshold_scale": float(option.scale), "inputs": option.inputs, **sum_.summary(against),
        }
        for option, sum_ in zip(options, sums, strict=True)
    ]  # fmt: skip
    return found


_FIELD = {"initial_potential": "start", "threshold_scale": "scale"}


def _search(bench: Bench) -> dict[str, tuple[list[Option], list[float]]]:
    """The mean square error over the grid of v(0), and over that of θ."""
    starts = [bench.as_recorded(f"best {_start_text(start)}", start=start)
              for start in sorted({*STARTS, bench.start})]  # fmt: skip
    scales = [bench.as_recorded(f"best {_scale_text(scale)}", scale=scale) for scale in SCALES]
    squares = bench.search([*starts, *scales])
    return {
        "initial_potential": (starts, squares[: len(starts)]),
        "threshold_scale": (scales, squares[len(starts) :]),
    }


def _lowest(bench: Bench, options: Sequence[Option], squares: Sequence[float]) -> int:
    """The place of the lowest mean square; of equal ones that nearest to what was recorded."""
    distance = [abs(option.start - bench.start) + abs(option.scale - 1) for option in options]
    return min(range(len(options)), key=lambda i: (squares[i], distance[i]))


def _with_other_spikes(method: str) -> str:
    """The same method with negative spikes, or without where it has them."""
    srp, negative = "srp" in method, method.rpartition("+")[2] in NEGATIVE
    if srp:
        return "srp" if negative else "srp+negspike"
    return "if" if method == "negspike" else "negspike"


def _notes(layers: Sequence[Layer], methods: Sequence[str], srp_steps: int) -> list[str]:
    """What has to be known of SRP."""
    masked = [layer.info.silencing for layer in layers if why_not(layer) is None]
    notes = []
    if any(masked):
        notes.append(
            "SRP: its pre-steps were not recorded, so the mask stays as recorded, whatever v(0), θ or negative spikes"
        )
    if any("srp" in method for method in methods) and not all(masked):
        notes.append(
            f"SRP: the mask is made on the first {srp_steps} recorded inputs, which its pre-simulation would feed the "
            "layer too where the recorded neurons are those of the method without SRP; that masked layers then feed on "
            "something else is left out, as above"
        )
    return notes
