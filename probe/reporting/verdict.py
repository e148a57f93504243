"""The verdict in three sentences: what the conversion costs, where its error starts and of what it is, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probe.analysis import right_answers
from probe.attribution import PIECES
from probe.diagnosis.findings import SEVERITIES
from probe.diagnosis.sources import NEGLIGIBLE
from probe.intervals import sign_test
from probe.recording import Recording

NEAR = 0.01
"""An SNN is near its ANN from where it has one point less, or more, on."""
Row = Mapping[str, Any]


def verdict(recording: Recording, rows: Sequence[Row], findings: Sequence[Row]) -> list[str]:
    """Three sentences on a recording.

    Args:
        recording: an open one.
        rows: its layers at T, as `probe.unevenness` has them.
        findings: as `probe.diagnose` has them.
    """
    return [_cost(recording), _origin(rows, findings), _advice(findings)]


def _cost(recording: Recording) -> str:
    """What the SNN gets right beside the ANN, and from which t on it comes near."""
    ann, snn = right_answers(recording)
    timesteps, last = recording.timesteps, snn[:, -1]
    of = f"{recording.samples} samples"
    if not recording.complete:
        of = f"the {recording.samples} samples that were recorded of {recording.attributes['asked']}"
    head = f"At T = {timesteps} the SNN is right on {last.mean():.2%} of {of}"
    if ann is None:
        return f"{head}; there is no ANN beside it."
    gained, lost = int((last & ~ann).sum()), int((ann & ~last).sum())
    change = "each answered alike"
    if gained or lost:
        points = f"{100 * (last.mean() - ann.mean()):+.2f}".replace("-", "−")
        change = f"{points} points: {lost} lost, {gained} gained, p = {sign_test(gained, lost):.2g} by chance"
    reached = [t for t, share in enumerate(snn.mean(0), 1) if share >= ann.mean() - NEAR]
    near = f"it first comes within a point of the ANN at t = {reached[0]}" if reached else "it never comes so near"
    return f"{head} and the ANN on {ann.mean():.2%} ({change}); {near}."


def _origin(rows: Sequence[Row], findings: Sequence[Row]) -> str:
    """Where the error starts, of which kind it is there, and what the last layer has of it."""
    # Where a neuron is not what it is declared as, its error is not of the kind it seems to be.
    doubt = ", but mend first what is wrong below" if any(one["severity"] == "error" for one in findings) else ""
    known = [row for row in rows if row["attribution"]]
    if not known:
        reason = rows[0]["reason"] if rows else "no layer has an ANN partner"
        return f"Where its error comes from cannot be told: {reason}."
    squares = [row["attribution"]["total"]["mean_square"] for row in known]
    starting = next((row for row, square in zip(known, squares, strict=True) if square >= NEGLIGIBLE), None)
    if starting is None:
        return f"No layer errs by more than a mean square of {max(squares):.2g} θ²."
    first, last = f"The error starts in layer {_named(starting)}, where it is mostly {_kind(starting)}", known[-1]
    if last is starting:
        return f"{first} (mean square {squares[-1]:.2g} θ²){doubt}."
    inherited = last["attribution"]["inherited"]["share"]
    told = f", {inherited:.0%} of it inherited" if inherited is not None else ""
    return f"{first}; in the last one, {_named(last)}, its mean square is {squares[-1]:.2g} θ²{told}{doubt}."


def _named(row: Row) -> str:
    return f"{row['index']} ({row['name']})"


def _kind(row: Row) -> str:
    piece = max(PIECES, key=lambda name: row["attribution"][name]["share"] or 0.0)
    return f"{piece.replace('_', ' ')} ({row['attribution'][piece]['share'] or 0:.0%})"


def _advice(findings: Sequence[Row]) -> str:
    """How many findings there are, and the worst one with its remedy."""
    if not findings:
        return "The checks find nothing wrong."
    counts = {one: sum(finding["severity"] == one for finding in findings) for one in SEVERITIES}
    told = ", ".join(f"{number} {one}{'s' if number > 1 else ''}" for one, number in counts.items() if number)
    worst = findings[0]
    # Some are about a module that is no spiking layer, and has no index.
    where = "" if not worst["layer"] else f" in {worst['layer']}"
    if worst["index"] is not None:
        where = f" in layer {worst['index']} ({worst['layer']})"
    advice = f": {worst['advice']}" if worst["advice"] else ""
    return f"The checks find {told}; first of all{where}, {worst['what']}{advice}."


def compared(difference: Row | None) -> str:
    """A sentence on two recordings: what became of the accuracy and of the layers' errors from A to B.

    Args:
        difference: as `probe.diff` has it; None where no layer is in both, for which there is no sentence.
    """
    if difference is None:
        return ""
    snn = difference["accuracy"]["snn"]
    change = "unknown"
    if snn["difference"] is not None:
        change = f"{100 * snn['difference']:+.2f} points".replace("-", "−")
    beyond = {True: ", beyond sampling noise", False: ", within sampling noise", None: ""}[snn["beyond_noise"]]
    verdicts = [row["verdict"] for row in difference["layers"]]
    counted = [f"{verdicts.count(word)} {text}" for word, text in
               (("better", "better"), ("worse", "worse"), ("equal", "equal"), ("noise", "within noise"))
               if verdicts.count(word)]  # fmt: skip
    layers = f"; layers by the mean square of their error: {', '.join(counted)}" if counted else ""
    return f"The SNN's accuracy at t = {difference['a']['timestep']} changes by {change}{beyond}{layers}."
