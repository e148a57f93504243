"""`sensitivity`: which layer costs the accuracy, from runs in which one layer alone spikes, or one alone does not.

A layer's output is replaced, all else stays as it is. With Σx its input summed over t = 1..T, x̄ = Σx/T, and n_even as
in `probe.attribution`:

* **only** this layer spikes: the ANN, with the activation giving θ·n_even/T of its own input held constant, which is
  what the neurons give for that on average. Constant input cannot arrive unevenly, so what shows is the grid of T spike
  counts, v(0) and clipping. SRP's neurons themselves are run on it for τ + T steps, as their mask also silences what
  ends the pre-simulation within 0.001·θ above 0.
* **all but** this layer spike: the SNN, with the layer giving the ANN's own activation of x̄ at every t: for QCFS θ·k/L
  with the level k of x̄ as in `probe.attribution`, else what the ANN's module gives.
* **even**: the SNN, with the layer giving θ·n_even/T at every t. Its unevenness is gone; its grid, v(0) and clipping
  stay, and what SRP's mask silences stays silent.

In the last two x̄ is that of the whole SNN, which is exact: a layer's input depends on the layers before it alone, and
that is checked. Their output is constant from the first step on, pre-simulation included. So they take away the layer's
own error φ - a and also the order of its spikes in time, which the *next* layers' unevenness is made of: a first layer
whose own error is 0 can rank first. One layer's gain may contain another's, so gains do not add up.

The whole SNN is run by `probe.run`, with its checks and oracles. The output error is ‖y - z‖/‖z‖ over all samples, y
the SNN's logits averaged over t and z the ANN's.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.analysis import describe_threshold, sum_inputs
from probe.attribution import AnalogCoding, why_not_even
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, time_first
from probe.intervals import accuracy_of, sign_test
from probe.layers import select_layers
from probe.prepare import Prepared, Source, prepare
from probe.recording.schema import LayerInfo
from probe.run import Run
from probe.study import Nothing
from probe.tap import numpy_of

Progress = Callable[[int, int], None]
"""Called after each layer's runs with the samples done and to do, counted anew for each layer and the baseline."""

MODES = ("only", "all_but", "even")
"""Names of the columns, in the JSON too."""
FEEDBACK = 0.01
"""How much of Σ|x| may differ where the layer's own output is replaced: rounding may flip a few spikes before it."""
NO_PARTNER = "no ANN partner"
LOOKS, PATIENCE = 3, 3.0
"""Layers, the baseline counted as one, and seconds after which the rest is estimated."""


@dataclass(frozen=True)
class Part:
    """A layer, and what is put in place of its output.

    Attributes:
        pair, info: the layer as it was surveyed.
        timesteps: T.
        reset: of the subject.
    """

    pair: LayerPair
    info: LayerInfo
    timesteps: int
    reset: Callable[[], None]

    def reasons(self) -> dict[str, str | None]:
        """Mode -> why the layer cannot be run in it; None where it can."""
        uneven = why_not_even(self.info.traits, self.info.initial_fraction)
        alone = None
        if self.info.silencing and (self.info.layout != "step" or self.pair.entry is not None):
            alone = "its pre-simulation is not that of a single module, called once a timestep"
        partner = None if self.info.paired else NO_PARTNER
        return {"only": partner or uneven or alone, "all_but": partner, "even": uneven}

    # ------------------------------------------------------------------------------------------------- the outputs

    def _even(self, total: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """n_even and, for QCFS, the level of x̄, from Σx; all (sample, *neuron)."""
        # Without a partner there is still n_even, which needs no L.
        coding = replace(self.info, paired=True).coding(self.timesteps, self.timesteps)
        assert coding is not None
        if isinstance(coding, AnalogCoding):
            u = total.astype(np.float64) / self.info.threshold
            return coding.even(np, u).astype(np.float32), None
        # The codes of all ⌊R·u⌋, for any k and n: a table, decoded once.
        none, lowest = np.zeros((), np.int64), np.full((), coding.lowest_count)
        rows = coding.decode(np.arange(coding.span), np.ones(coding.span, np.int64))
        codes = coding.encode(none, lowest, total, self.info.threshold)
        return rows.n_even.astype(np.float32)[codes], rows.k_mean.astype(np.float32)[codes]

    def _on(self, values: npt.NDArray[np.float32], like: Tensor) -> Tensor:
        return torch.from_numpy(values).to(like.device)

    def _output(self, count: Tensor) -> Tensor:
        """θ·n/T, rounded as the ANN's θ·k/L is, so that equal numbers are equal bit by bit."""
        output: Tensor = replace(self.info, levels=self.timesteps).decoded(count, self._on(self.info.threshold, count))
        return output

    def _spiking_unit(self, output: Tensor) -> Tensor:
        """From the unit of θ to that of the SNN's spikes, where their height is another."""
        if np.array_equal(self.info.height, self.info.threshold):
            return output
        return output * self._on(np.asarray(self.info.height / self.info.threshold, np.float32), output)

    def constant(self, x: Tensor) -> Tensor:
        """`only`: what the neurons give on average for the ANN's input at every t, (sample, *neuron)."""
        if self.info.silencing:
            return self._output(self._simulated(x))
        held = numpy_of(x.float())[:, None]
        total = sum_inputs(np.broadcast_to(held, (len(x), self.timesteps, *x.shape[1:])))
        return self._output(self._on(self._even(total)[0], x))

    def _simulated(self, x: Tensor) -> Tensor:
        """n of the layer's own neurons."""
        height, count = self._on(self.info.height, x), torch.zeros_like(x, dtype=torch.float32)
        self.reset()
        for t in range(1 - self.info.traits["presteps"], self.timesteps + 1):
            output = self.pair.snn(x.clone())
            if t >= 1:
                count += ((output[0] if isinstance(output, tuple) else output).float() / height).round()
        self.reset()
        return count

    def analog(self, total: Tensor) -> Tensor:
        """`all_but`: the ANN's activation of x̄, in the SNN's unit, from Σx."""
        if self.info.levels is None:
            mean, ann = total / self.timesteps, self.pair.ann
            # One module with two modes may be in the other one now.
            return self._spiking_unit(mean.relu() if ann is None or ann is self.pair.snn else ann(mean).float())
        level = self._even(numpy_of(total))[1]
        assert level is not None
        output: Tensor = self.info.decoded(self._on(level, total), self._on(self.info.threshold, total))
        return self._spiking_unit(output)

    def even(self, total: Tensor, silenced: Tensor | None) -> Tensor:
        """`even`: θ·n_even/T in the SNN's unit, from Σx and SRP's mask."""
        output = self._spiking_unit(self._output(self._on(self._even(numpy_of(total))[0], total)))
        return output if silenced is None else output.masked_fill(silenced, 0)

    # --------------------------------------------------------------------------------------------------- the hooks

    @contextlib.contextmanager
    def in_ann(self) -> Iterator[None]:
        """While it lasts, the ANN's activation gives `constant` of its input."""
        assert self.pair.ann is not None
        given: list[Tensor] = []

        # Before, for an activation may work in place.
        def before(_module: Any, args: tuple[Tensor, ...]) -> None:
            given.append(self.constant(args[0]))

        def after(_module: Any, _args: Any, output: Tensor) -> Tensor:
            return given.pop().to(output.dtype)

        with contextlib.ExitStack() as stack:
            stack.callback(self.pair.ann.register_forward_pre_hook(before).remove)
            stack.callback(self.pair.ann.register_forward_hook(after).remove)
            yield

    @contextlib.contextmanager
    def in_snn(self, value: Tensor, total: Tensor) -> Iterator[None]:
        """While it lasts, the spiking layer gives `value` at every t, whatever its layout.

        Args:
            value: (sample, *neuron).
            total: Σx of the whole SNN, same shape, which the layer must be fed now, too.

        Raises:
            ProbeError: it is fed something else.
        """
        found, calls = torch.zeros_like(total), 0
        samples, layout = len(total), self.info.layout

        def before(_module: Any, args: tuple[Tensor, ...]) -> None:
            nonlocal calls
            calls += 1
            if layout != "step":
                for x in time_first(args[0], layout, self.timesteps, samples, fed=True):
                    found.add_(x.float())
            elif calls > self.pair.traits.presteps:
                found.add_(args[0].float())

        def after(_module: Any, _args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            # New each time: what comes after may work on it in place.
            made = torch.empty(first.shape, dtype=first.dtype, device=first.device)
            (made if layout == "step" else time_first(made, layout, self.timesteps, samples)).copy_(value)
            return (made, *output[1:]) if isinstance(output, tuple) else made

        with contextlib.ExitStack() as stack:
            stack.callback((self.pair.entry or self.pair.snn).register_forward_pre_hook(before).remove)
            stack.callback(self.pair.snn.register_forward_hook(after).remove)
            yield
        if not float((found - total).abs().sum()) <= FEEDBACK * float(total.abs().sum()):
            raise ProbeError(
                f"layer {self.info.index} ({self.info.name}) is fed something else once its own output is replaced",
                expected="a feed-forward network that is as new after reset()",
                next_step="check that reset() makes every neuron forget the samples before",
            )


# ---------------------------------------------------------------------------------------------------------- scores


@dataclass
class Score:
    """What one kind of run gave, over batches.

    Attributes:
        right: whether it was right, (sample,) for each batch.
        squares: Σ (y - z)² over the classes, likewise; y its logits averaged over t and z the ANN's.
    """

    right: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    squares: list[npt.NDArray[np.float64]] = field(default_factory=list)

    def add(self, logits: Tensor, timesteps: int, ann: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Args:
            logits: summed over so many timesteps, float64 (sample, class).
            timesteps: T, or 1 for the ANN.
            ann: the ANN's, float64.
            labels: (sample,).

        Raises:
            ProbeError: NaN or infinity.
        """
        squares = (logits / timesteps - ann).square().sum(1).cpu().numpy()
        if not np.isfinite(squares).all():
            raise ProbeError("a run with a replaced layer gives NaN or infinity as logits", expected="finite outputs")
        self.right.append((logits.argmax(1) == labels).cpu().numpy())
        self.squares.append(squares)

    def answers(self) -> npt.NDArray[np.bool_]:
        """Whether it was right, (sample,)."""
        return np.concatenate(self.right)

    def error(self, norm: float) -> float | None:
        """The output error; `norm` is Σz². None where that is 0."""
        return math.sqrt(math.fsum(np.concatenate(self.squares)) / norm) if norm else None


class Ablations:
    """The runs over batches of samples, inside `hooked` of the baseline.

    Args:
        prepared: model and data.
        parts: the layers.
    """

    def __init__(self, prepared: Prepared, parts: Sequence[Part]) -> None:
        self.prepared, self.parts, self.subject = prepared, parts, prepared.subject
        self.timesteps = prepared.timesteps
        self.modes = {part.info.index: [mode for mode in MODES if not part.reasons()[mode]] for part in parts}
        self.run = Run(
            self.subject, prepared.surveyed, [part.info for part in parts], Nothing(), record="stats",
            timesteps=self.timesteps, grid=(self.timesteps,),
        )  # fmt: skip
        self.norms: list[npt.NDArray[np.float64]] = []
        self.ann, self.snn = Score(), Score()
        self.scores = {(index, mode): Score() for index, modes in self.modes.items() for mode in modes}

    @property
    def runs(self) -> dict[str, int]:
        """How many runs of each network a sample takes part in."""
        every = [mode for modes in self.modes.values() for mode in modes]
        return {"ann": 1 + every.count("only"), "snn": 1 + len(every) - every.count("only")}

    def batch(self, x: Tensor, labels: Tensor, first: int) -> Iterator[None]:
        """All runs of a batch; yields after the two baselines, and after each layer's runs.

        Args:
            x: the samples.
            labels: theirs.
            first: the place of the first among all.
        """
        ann, snn = self.run.batch(x, first)
        self.run.digests()
        assert ann is not None
        ann = ann.double()
        self.norms.append(ann.square().sum(1).cpu().numpy())
        self.ann.add(ann, 1, ann, labels)
        self.snn.add(snn.double().sum(1), self.timesteps, ann, labels)
        # As they were in the whole SNN, before another run overwrites them.
        masks = [None if (mask := part.pair.silenced()) is None else mask.clone() for part in self.parts]
        yield
        for part, tap, mask in zip(self.parts, self.run.taps, masks, strict=True):
            total = tap.tally.input_sum.view(len(x), *part.info.shape)
            for mode in self.modes[part.info.index]:
                score = self.scores[part.info.index, mode]
                with torch.no_grad():
                    if mode == "only":
                        with part.in_ann():
                            score.add(self.subject.run_ann(x.clone()).double(), 1, ann, labels)
                        continue
                    value = part.analog(total) if mode == "all_but" else part.even(total, mask)
                    with part.in_snn(value, total):
                        logits = summed(self.subject, x, self.timesteps)
                    score.add(logits, self.timesteps, ann, labels)
            yield

    def result(self) -> dict[str, Any]:
        """The accuracies and errors of all runs; layers ranked."""
        norm = math.fsum(np.concatenate(self.norms))
        ann, snn = self.ann.answers(), self.snn.answers()
        error = self.snn.error(norm)

        def row(mode: str, part: Part) -> dict[str, Any] | None:
            score = self.scores.get((part.info.index, mode))
            if score is None:
                return None
            right, here = score.answers(), score.error(norm)
            changes = _changes(right, snn)
            return {
                **accuracy_of(right), "error": here, **changes,
                "p_value": sign_test(changes["gained"], changes["lost"]),
                "accuracy_change": (changes["gained"] - changes["lost"]) / len(right),
                "error_change": None if here is None or error is None else here - error,
                "against_ann": _changes(right, ann),
            }  # fmt: skip

        layers = []
        for part in self.parts:
            info = part.info
            head = {"index": info.index, "name": info.name, "neuron": info.neuron, "levels": info.levels}
            reasons = part.reasons()
            layers.append(
                {**head, "threshold": describe_threshold(info.threshold), **{mode: row(mode, part) for mode in MODES},
                 "reasons": reasons}
            )  # fmt: skip
        layers.sort(key=_rank)
        ranked = [{"rank": None if one["all_but"] is None else i, **one} for i, one in enumerate(layers, 1)]
        return {
            "ann": accuracy_of(ann), "snn": {**accuracy_of(snn), "error": error, "against_ann": _changes(snn, ann)},
            "runs": self.runs, "broken": list(self.run.broken()), "layers": ranked,
        }  # fmt: skip


def summed(subject: Subject, x: Tensor, timesteps: int) -> Tensor:
    """The SNN's logits summed over t, float64 (sample, class)."""
    total: Tensor | None = None
    for logits in subject.run_snn(x.clone(), timesteps):
        if logits is not None:
            total = logits.double() if total is None else total + logits.double()
    assert total is not None
    return total


def _changes(right: npt.NDArray[np.bool_], before: npt.NDArray[np.bool_]) -> dict[str, int]:
    return {"gained": int((right & ~before).sum()), "lost": int((before & ~right).sum())}


def _rank(layer: dict[str, Any]) -> tuple[bool, int, float, int]:
    """By accuracy regained when the layer alone is analog, then by output error regained; without that run, last."""
    found = layer["all_but"]
    if found is None:
        return True, 0, 0.0, layer["index"]
    return False, found["lost"] - found["gained"], found["error_change"] or 0.0, layer["index"]


# ----------------------------------------------------------------------------------------------------- sensitivity


def sensitivity(
    model: Any = "zoo:digits",
    *,
    layers: Sequence[str | int] = (),
    batch_size: int = 50,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    **source: Any,
) -> dict[str, Any]:
    """Accuracy and output error with each layer alone spiking, alone analog, and with its unevenness removed.

    Args:
        model: as for `probe.capture`; there has to be an ANN.
        layers: specs of the layers to ablate; all of them without a spec.
        batch_size: samples at once.
        progress: called after each layer's runs.
        tell: called before the run with notes and what it costs, and early on with how long the rest takes.
        source: the options of `probe.prepare.Source` (data, samples, timesteps, neuron, ...).

    Returns:
        The object that `probe sensitivity --json` prints: layers ranked by the accuracy regained when the layer alone
        is analog, then by the output error regained; `gained` and `lost` are samples against the whole SNN, and
        `p_value` their sign test.

    Raises:
        ProbeError: bad input; there is no ANN; or a layer's input depends on its own output.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ProbeError(f"a batch of {batch_size}", expected="at least 1", next_step="pass --batch-size N")
    prepared = prepare(Source.of(model, source))
    try:
        if prepared.subject.ann is None:
            raise ProbeError(
                f"{prepared.name} has no ANN to compare with", expected="an ANN and the SNN converted from it",
                next_step="return a pair (ann, snn), or the ANN alone",
            )  # fmt: skip
        chosen = select_layers(prepared.surveyed.infos, layers)
        parts = [
            Part(prepared.surveyed.pairs[info.index], info, prepared.timesteps, prepared.subject.reset)
            for info in chosen
        ]
        ablations = Ablations(prepared, parts)
        if tell:
            for sentence in _notes(prepared, ablations, batch_size):
                tell(sentence)
        seconds = _run(prepared, ablations, batch_size, progress, tell)
    finally:
        prepared.release()
    return {
        "schema": "probe-sensitivity/1", "model": prepared.name, "data": prepared.data.name,
        "samples": len(prepared.indices), "family": prepared.subject.family, "timesteps": prepared.timesteps,
        "seconds": seconds, **ablations.result(), "notes": list(prepared.notes),
    }  # fmt: skip


def _notes(prepared: Prepared, ablations: Ablations, batch_size: int) -> Iterator[str]:
    yield from prepared.notes
    if memory := prepared.memory_note(batch_size):
        yield memory
    runs, layers = ablations.runs, len(ablations.parts)
    yield (
        f"{layers} layer{'s' * (layers > 1)}: {runs['ann']} ANN runs and {runs['snn']} SNN runs of "
        f"{prepared.timesteps} timesteps, each over {len(prepared.indices)} samples"
    )


def _run(
    prepared: Prepared, ablations: Ablations, batch_size: int, progress: Progress | None,
    tell: Callable[[str], None] | None,
) -> float:  # fmt: skip
    """All batches; the seconds that they took."""
    samples, each = len(prepared.indices), 1 + len(ablations.parts)
    whole = math.ceil(samples / batch_size) * each
    durations: list[float] = []
    started = last = time.perf_counter()
    with ablations.run.hooked():
        for first in range(0, samples, batch_size):
            chosen = prepared.indices[first : first + batch_size]
            labels = torch.from_numpy(prepared.data.labels[chosen]).to(prepared.device)
            for done, _ in enumerate(ablations.batch(prepared.load(chosen), labels, first), 1):
                if progress:
                    progress(first * each + done * len(chosen), samples * each)
                before, last = last, time.perf_counter()
                durations.append(last - before)
                if tell and len(durations) >= LOOKS and last - started >= PATIENCE:
                    # The median, for the first forwards may take many times as long as the others.
                    rest = statistics.median(durations) * (whole - len(durations))
                    tell(f"about {_duration(rest)} to go")
                    tell = None
    return time.perf_counter() - started


def _duration(seconds: float) -> str:
    """Roughly, for a person."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
