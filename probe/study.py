"""`sweep`: conversion methods side by side, each simulated once, with accuracy and error at every t of a grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from probe.analysis import describe_threshold
from probe.attribution import LayerStatistics, summarise, why_not_even
from probe.errors import ProbeError
from probe.intervals import accuracy_of
from probe.layers import select_layers
from probe.methods import METHODS
from probe.prepare import DEFAULT_SWEEP_T, NOT_CAUSAL, Prepared, Source, prepare
from probe.recording.schema import Batch, LayerInfo
from probe.run import Run

Progress = Callable[[str, int, int], None]
"""Called after each batch with the method and the samples done and to do."""
DEFAULT_METHODS = ("if", "snm", "negspike", "srp", "srp+negspike")


@dataclass(frozen=True)
class Asked:
    """A method as it was asked for, `NAME` or `NAME@F` with v(0) = F·θ."""

    text: str
    name: str
    initial_potential: float | None

    @property
    def causal(self) -> bool:
        """One run gives every t."""
        return METHODS[self.name].causal


def parse_method(text: str) -> Asked:
    """A method from its text.

    Raises:
        ProbeError: there is none of that name, or v(0) is no number.
    """
    name, at, start = text.strip().partition("@")
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise ProbeError(f"unknown method {text!r}", expected=f"one of {known}, or NAME@F for v(0) = F·θ")
    try:
        return Asked(text.strip(), name, float(start) if at else None)
    except ValueError:
        raise ProbeError(f"method {text!r}", expected="NAME@F with a number F, for v(0) = F·θ") from None


def table_grid(timesteps: int, more: Sequence[int] = ()) -> tuple[int, ...]:
    """The t of the table: powers of two, T and `more`."""
    powers = {1 << i for i in range(timesteps.bit_length()) if 1 << i <= timesteps}
    return tuple(sorted(powers | {timesteps} | {t for t in more if 1 <= t <= timesteps}))


class Nothing:
    """A sink that keeps nothing: what counts is gathered while the network runs."""

    def append(self, layer: int | None, batch: Batch) -> None:
        """Let go."""


@dataclass(frozen=True)
class Ran:
    """What one run gave.

    Attributes:
        ann: whether the ANN was right, (sample,).
        snn: whether the SNN's summed logits were right at each t, (sample, timestep).
        layers: layer -> statistics at the grid.
        infos: the layers.
        broken: a sentence for each oracle that the run breaks.
        seconds: of the forwards, with all that was gathered.
    """

    ann: npt.NDArray[np.bool_]
    snn: npt.NDArray[np.bool_]
    layers: dict[int, LayerStatistics]
    infos: tuple[LayerInfo, ...]
    broken: tuple[str, ...]
    seconds: float


def simulate(
    prepared: Prepared, infos: Sequence[LayerInfo], grid: tuple[int, ...], batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> Ran:  # fmt: skip
    """Run both networks over the samples; nothing is kept of a sample but whether it was right at each t.

    Args:
        prepared: model and data.
        infos: the layers of which statistics are gathered.
        grid: the t of the statistics.
        batch_size: samples at once.
        progress: called after each batch with the samples done and to do.
    """
    run = Run(
        prepared.subject, prepared.surveyed, infos, Nothing(), record="stats", timesteps=prepared.timesteps, grid=grid,
        per_sample=(),
    )  # fmt: skip
    samples, seconds = len(prepared.indices), 0.0
    right_ann, right_snn = np.empty(samples, np.bool_), np.empty((samples, prepared.timesteps), np.bool_)
    with run.hooked():
        for first in range(0, len(prepared.indices), batch_size):
            chosen = prepared.indices[first : first + batch_size]
            x = prepared.load(chosen)
            labels = torch.from_numpy(prepared.data.labels[chosen]).to(prepared.device)
            started = time.perf_counter()
            ann, snn = run.batch(x, first)
            run.digests()
            assert ann is not None
            here = slice(first, first + len(chosen))
            right_ann[here] = (ann.argmax(1) == labels).cpu().numpy()
            right_snn[here] = (snn.double().cumsum(1).argmax(2) == labels[:, None]).cpu().numpy()
            seconds += time.perf_counter() - started
            if progress:
                progress(first + len(chosen), len(prepared.indices))
    layers = {tap.info.index: tap.tally.take() for tap in run.taps}
    return Ran(right_ann, right_snn, layers, tuple(infos), run.broken(), seconds)


def sweep(
    model: Any = "zoo:digits",
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    timesteps: int = DEFAULT_SWEEP_T,
    at: Sequence[int] = (),
    layers: Sequence[str | int] = (),
    batch_size: int = 50,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    **source: Any,
) -> dict[str, Any]:
    """Accuracy of the ANN and of each method over t, and every layer's cases and attribution, from one run a method.

    A method that is not causal (see `probe.methods`) is run once for each t of the table.

    Args:
        model: an ANN that can be converted, by name or as a module.
        methods: names of `probe.methods`, or `NAME@F` with v(0) = F·θ.
        timesteps: T.
        at: more t for the table, beside the powers of two and T.
        layers: specs of the layers whose errors are told; all of them without a spec.
        batch_size: samples at once.
        progress: called after each batch.
        tell: called before each run with what the user should know, a sentence each, once.
        source: the options of `probe.prepare.Source` (data, samples, levels, srp_steps, ...).

    Returns:
        The object that `probe sweep --json` prints: accuracies in [0, 1] with Wilson's 95% interval, errors in θ.

    Raises:
        ProbeError: bad input; or the model brings its own neurons.
    """
    asked = [parse_method(text) for text in methods]
    if not asked or len({one.text for one in asked}) < len(asked):
        raise ProbeError(f"methods {', '.join(methods) or 'none'}", expected="at least one, each once")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ProbeError(f"a batch of {batch_size}", expected="at least 1", next_step="pass --batch-size N")
    base = Source.of(model, {**source, "timesteps": timesteps})
    grid = table_grid(timesteps, at)
    rows: list[dict[str, Any]] = []
    ann: npt.NDArray[np.bool_] | None = None
    head: dict[str, Any] = {}
    said: set[str] = set()

    def say(sentence: str) -> None:
        if tell and sentence not in said:
            tell(sentence)
        said.add(sentence)

    for one in asked:
        # The longest first: it says what memory it takes, and whether there is enough shows at once.
        runs = sorted(_runs(one, timesteps, grid), reverse=True)
        ran = [(t, *_run(base, one, t, layers, grid, batch_size, progress, say)) for t in runs][::-1]
        last = ran[-1]
        head = head or {"model": last[1].name, "data": last[1].data.name, "samples": len(last[1].indices)}
        ann = last[2].ann if ann is None else ann
        rows.append(_row(one, [(t, result) for t, _, result in ran], grid))
    assert ann is not None
    return {
        "schema": "probe-sweep/1", **head, "timesteps": timesteps, "table": list(grid), "ann": accuracy_of(ann),
        "methods": rows,
    }  # fmt: skip


def _runs(asked: Asked, timesteps: int, grid: tuple[int, ...]) -> tuple[int, ...]:
    """The T of the runs that a method needs."""
    return (timesteps,) if asked.causal else grid


def _run(
    base: Source, asked: Asked, timesteps: int, layers: Sequence[str | int], grid: tuple[int, ...], batch_size: int,
    progress: Progress | None, say: Callable[[str], None],
) -> tuple[Prepared, Ran]:  # fmt: skip
    start = base.initial_potential if asked.initial_potential is None else asked.initial_potential
    prepared = prepare(replace(base, neuron=asked.name, timesteps=timesteps, initial_potential=start))
    try:
        for note in prepared.notes:
            # Here every T of the table is a run made for it.
            if note != NOT_CAUSAL:
                say(note)
        memory = prepared.memory_note(batch_size)
        if memory and timesteps == grid[-1]:
            say(f"{asked.text}: {memory}")
        infos = select_layers(prepared.surveyed.infos, layers)
        of_run = tuple(t for t in grid if t <= timesteps) if asked.causal else (timesteps,)
        told = (lambda done, of: progress(asked.text, done, of)) if progress else None
        return prepared, simulate(prepared, infos, of_run, batch_size, told)
    finally:
        prepared.release()


def _row(asked: Asked, ran: Sequence[tuple[int, Ran]], grid: tuple[int, ...]) -> dict[str, Any]:
    """A method's accuracy and layers, at each t from the run that holds it."""
    of_t = {t: next(result for timesteps, result in ran if t <= timesteps) for t in grid}
    every = range(1, ran[-1][0] + 1) if asked.causal else grid
    accuracies = {str(t): accuracy_of(of_t.get(t, ran[-1][1]).snn[:, t - 1]) for t in every}
    last = ran[-1][1]
    return {
        "method": asked.text, "summary": METHODS[asked.name].summary, "causal": asked.causal,
        "seconds": sum(result.seconds for _, result in ran), "accuracy": accuracies,
        "broken": list(dict.fromkeys(sentence for _, result in ran for sentence in result.broken)),
        "layers": [_layer(info, of_t) for info in last.infos],
    }  # fmt: skip


def _layer(info: LayerInfo, of_t: dict[int, Ran]) -> dict[str, Any]:
    reason = why_not_even(info.traits, info.initial_fraction)
    at: dict[str, Any] = {}
    for t, result in of_t.items():
        there = next(other for other in result.infos if other.index == info.index)
        coding = there.coding(t, result.snn.shape[1])
        assert coding is not None
        gathered = result.layers[info.index]
        summary = summarise(gathered.statistics[t], coding)
        if reason:
            summary.update(local_cases=None, attribution={"total": summary["attribution"]["total"]}, residual=None)
        summary["firing_rate"] = int(gathered.spikes_at[:t].sum()) / (summary["count"] * t)
        at[str(t)] = summary
    return {
        "index": info.index, "name": info.name, "threshold": describe_threshold(info.threshold), "levels": info.levels,
        "reason": reason, "at": at,
    }  # fmt: skip


def cost(methods: Sequence[str], timesteps: int, at: Sequence[int] = ()) -> Iterator[str]:
    """What a sweep is about to run, a line for each method."""
    grid = table_grid(timesteps, at)
    for text in methods:
        asked = parse_method(text)
        if asked.causal:
            yield f"{text}: one run of {timesteps} timesteps"
        else:
            yield f"{text}: {len(grid)} runs of {', '.join(map(str, grid))} timesteps, which it merges into the batch"
