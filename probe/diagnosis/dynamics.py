"""Checks of how neurons behave: the order of time, the reset between batches, v(0), θ, the reset, several spikes.

A layer that is declared a soft-reset IF is held against what was recorded: with --record full every spike against its
charged potential (`probe.diagnosis.replay`); a first layer that is fed the same at every t also from counts; any layer
from the inputs at t = 1, of which those that fired and those that did not lie on either side of θ - v(0), and by the
conservation law where its module shows the potential.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from probe.attribution import lawful
from probe.diagnosis.evidence import VALUES, channel_of, paste, stride_for, table, theta_of
from probe.diagnosis.findings import Finding
from probe.diagnosis.replay import (
    MARGIN,
    NARROW,
    SAME,
    Doubles,
    Edges,
    Neuron,
    Soft,
    Trains,
    consistent,
    contradictions,
    count_edges,
    counted,
    edges,
    hard,
    leaky,
    soft,
    with_unit_reset,
)
from probe.recording import Layer, Recording


@dataclass(frozen=True)
class Verdict:
    """What a layer's neurons turned out to be.

    Attributes:
        kind: `as declared`, `order`, `state`, `start`, `threshold`, `channels`, `hard`, `leak` or `unknown`.
        evidence: the numbers behind it.
    """

    kind: str
    evidence: dict[str, Any] = field(default_factory=dict)


AS_DECLARED = Verdict("as declared")


@lru_cache(maxsize=2)
def verdicts(recording: Recording) -> dict[int, Verdict]:
    """Layer index -> what its neurons turned out to be; only layers of which the conservation law is claimed."""
    return {layer.index: _verdict(layer) for layer in recording.layers if lawful(layer.traits)}


def _verdict(layer: Layer) -> Verdict:
    law = layer.recording.facts["law"].get(str(layer.index), {})
    told: dict[str, Any] = {}
    if law.get("broken"):
        told["law_off_by"] = law["largest_difference"]
    if layer.has("snn_input") or (layer.info.constant_input and layer.has("snn_spikes")):
        found = _by_spikes(layer)
    elif layer.info.constant_input and layer.has("spike_count") and not layer.info.graded and not layer.info.signed:
        found = _by_counts(layer)
    else:
        found = _by_first_inputs(layer)
    if found is AS_DECLARED and law.get("broken"):
        # At t = 1 all was as declared, so it is what a spike or a step leaves behind.
        found = Verdict("unknown")
    return Verdict(found.kind, {**told, **found.evidence}) if found is not AS_DECLARED else found


def _declared(layer: Layer) -> Neuron:
    return Neuron(layer.initial_fraction, strict=layer.traits.get("fires_at") == ">")


# -------------------------------------------------------------------------------------------------- from spikes


def _batches(recording: Recording) -> list[range]:
    size = max(1, int(recording.attributes.get("batch_size", recording.samples)))
    return [range(i, min(i + size, recording.samples)) for i in range(0, recording.samples, size)]


def _trains(layer: Layer, samples: range, step: int) -> Trains:
    """Inputs and spikes of some samples and of every `step`-th neuron."""
    theta, steps = theta_of(layer)[::step], layer.recording.timesteps
    x = np.empty((len(samples), steps, len(theta)))
    spikes = np.empty(x.shape, np.int16)
    spoken = np.ones((len(samples), len(theta)), np.bool_)
    for i, sample in enumerate(samples):
        if layer.has("snn_input"):
            x[i] = layer.read("snn_input", sample).reshape(steps, -1)[:, ::step]
        else:
            x[i] = layer.read("input_sum", sample).reshape(-1)[::step] / steps
        spikes[i] = layer.read("snn_spikes", sample).reshape(steps, -1)[:, ::step]
        if layer.info.silencing:
            spoken[i] = ~layer.read("silenced", sample).reshape(-1)[::step]
    x /= theta
    return Trains(x, spikes, spoken, channel_of(layer)[::step])


def _by_spikes(layer: Layer) -> Verdict:
    batches, steps = _batches(layer.recording), layer.recording.timesteps
    fitting = max(1, VALUES // (2 * steps * layer.neurons))
    some = [batch[:fitting] for batch in batches[:2]]
    step = stride_for(layer, sum(map(len, some)), steps)
    parts = [_trains(layer, samples, step) for samples in some]
    every = parts[0] if len(parts) == 1 else parts[0].beside(parts[1])
    declared = _declared(layer)
    wrong = contradictions(every, declared)
    if not wrong:
        return AS_DECLARED
    told = {"contradictions": wrong, "of": int(every.spoken.sum()) * steps}
    kind, more = _explained(layer, parts, every, declared, batches[0])
    return Verdict(kind, {**told, **more})


def _explained(
    layer: Layer, parts: list[Trains], every: Trains, declared: Neuron, batch: range
) -> tuple[str, dict[str, Any]]:
    """Why spikes contradict what is declared: the simplest neuron that would have fired them."""
    if _other_order(layer, batch, declared):
        return "order", {"contradictions_in_the_other_order": 0}
    pooled = edges(every, np.zeros_like(every.channel))
    by_neuron = np.arange(len(every.channel))
    if len(parts) > 1:
        longer = parts[0].followed_by(parts[1])
        reset_each = consistent(with_unit_reset(edges(every, by_neuron)))
        if not contradictions(longer, declared) or (
            not reset_each and consistent(with_unit_reset(edges(longer, by_neuron)))
        ):
            return "state", {"contradictions_if_never_reset": 0}
    fit = soft(pooled)
    if fit is not None:
        return _named(fit, declared)
    for neuron in hard(declared):
        if not contradictions(every, neuron):
            return "hard", {"reset_to": neuron.rest, "initial_potential": neuron.start}
    leak = leaky(every, declared)
    if leak is not None:
        return "leak", {"decay": leak.decay, "input_gain": leak.gain, "reset": leak.reset}
    own_start = consistent(with_unit_reset(edges(every, by_neuron)))
    # In a flat layer a channel is a neuron, and a v(0) of its own is the simpler of two explanations.
    by_channel = None if own_start and len(layer.shape) == 1 else _of_channels(edges(every, every.channel), declared)
    if by_channel is not None:
        return by_channel
    return ("state", {"starts": "differ from neuron to neuron"}) if own_start else ("unknown", {})


def _named(fit: Soft, declared: Neuron) -> tuple[str, dict[str, Any]]:
    """θ or v(0), whichever is another; in units of the declared θ."""
    numbers = {"threshold_minus_start": fit.edge, "declared": 1 - declared.start}
    of_spike = {} if fit.reset is None else {"taken_off_by_a_spike": fit.reset}
    if abs(fit.threshold - 1) <= SAME and -SAME <= fit.start < 1:
        return "start", {"initial_potential": fit.start, "declared_initial_potential": declared.start, **of_spike}
    return "threshold", {**numbers, **of_spike}


def _of_channels(found: Edges, declared: Neuron) -> tuple[str, dict[str, Any]] | None:
    """θ or v(0) of each channel; None where some channel's spikes are no soft-reset IF's."""
    if not consistent(found):
        return None
    known = (found.fired - found.unfired <= NARROW).any(1)
    fits = [soft(found, int(group)) for group in np.flatnonzero(known)]
    if not fits or None in fits:
        return None
    every = [fit for fit in fits if fit is not None]
    thetas = [fit.reset for fit in every if fit.reset is not None]
    told = {"channels": len(every), "threshold_minus_start": [min(f.edge for f in every), max(f.edge for f in every)]}
    if thetas and max(abs(theta - 1) for theta in thetas) <= SAME:
        return "start", {**told, "declared_initial_potential": declared.start}
    return "channels", {**told, **({"threshold": [min(thetas), max(thetas)]} if thetas else {})}


def _other_order(layer: Layer, batch: range, declared: Neuron) -> bool:
    """A merged layer whose spikes follow if its axis is read the other way round."""
    if layer.info.layout == "step" or len(batch) < 2 or layer.recording.timesteps < 2:
        return False
    if layer.info.layout in ("T,B", "B,T") and len(batch) != layer.recording.timesteps:
        return False
    found = _trains(layer, batch, stride_for(layer, len(batch), layer.recording.timesteps))
    turned = Trains(_turned(found.x, layer.info.layout), _turned(found.spikes, layer.info.layout),
                    np.ones_like(found.spoken), found.channel)  # fmt: skip
    return not contradictions(turned, declared)


def _turned(values: Any, layout: str) -> Any:
    """(sample, timestep, ...) of a batch, read in the other order of the merged axis."""
    samples, steps = values.shape[:2]
    if layout == "TB":
        return values.swapaxes(0, 1).reshape(samples, steps, *values.shape[2:])
    if layout == "BT":
        return values.reshape(steps, samples, *values.shape[2:]).swapaxes(0, 1)
    return values.swapaxes(0, 1)


# -------------------------------------------------------------------------------------------------- from counts


def _by_counts(layer: Layer) -> Verdict:
    """Of a first layer that is fed the same at every t: its counts against its inputs."""
    steps, batches = layer.recording.timesteps, _batches(layer.recording)
    fitting = max(1, VALUES // (2 * layer.neurons))
    some = [batch[:fitting] for batch in batches[:2]]
    step = stride_for(layer, sum(map(len, some)))
    theta, channel = theta_of(layer)[::step], channel_of(layer)[::step]

    def flat(name: str, samples: range) -> Doubles:
        found = layer.read(name, slice(samples.start, samples.stop))
        return found.reshape(len(found), -1)[:, ::step].astype(np.float64)

    totals = [flat("input_sum", samples) / theta for samples in some]
    counts = [flat("spike_count", samples).astype(np.int64) for samples in some]
    masks = [flat("silenced", samples) > 0 if layer.info.silencing else np.zeros(n.shape, bool)
             for n, samples in zip(counts, some, strict=True)]  # fmt: skip
    total, n, masked = np.concatenate(totals), np.concatenate(counts), np.concatenate(masks)
    declared = _declared(layer)

    def wrong(neuron: Neuron) -> int:
        expected, near = counted(total / steps, steps, neuron)
        return int(((expected != n) & ~near & ~masked).sum())

    found = wrong(declared)
    if not found:
        return AS_DECLARED
    told = {"contradictions": found, "of": int((~masked).sum())}
    if len(some) > 1 and not masked.any():
        number = min(map(len, totals))
        start = declared.start + totals[0][:number] - counts[0][:number]
        even = np.clip(np.floor(start + totals[1][:number]), 0, steps)
        near = np.abs(start + totals[1][:number] - np.rint(start + totals[1][:number])) <= MARGIN
        if not ((even != counts[1][:number]) & ~near).any():
            return Verdict("state", {**told, "contradictions_if_never_reset": 0})
    if masked.any():
        return Verdict("unknown", told)
    fit = soft(count_edges(total, n, steps, np.zeros_like(channel)))
    if fit is not None:
        # n > m where Σx >= θ·(m + 1) - v(0), so the value at m = 0 is θ - v(0) here too.
        kind, more = _named(fit, declared)
        return Verdict(kind, {**told, **more})
    for neuron in hard(declared):
        if not wrong(neuron):
            return Verdict("hard", {**told, "reset_to": neuron.rest, "initial_potential": neuron.start})
    own_start = consistent(with_unit_reset(count_edges(totals[0], counts[0], steps, np.arange(len(channel)))))
    by_channel = None
    if not own_start or len(layer.shape) > 1:
        by_channel = _of_channels(count_edges(total, n, steps, channel), declared)
    if by_channel is not None:
        return Verdict(by_channel[0], {**told, **by_channel[1]})
    return (
        Verdict("state", {**told, "starts": "differ from neuron to neuron"}) if own_start else Verdict("unknown", told)
    )


# ------------------------------------------------------------------------------------------ from the inputs at t = 1


def _by_first_inputs(layer: Layer) -> Verdict:
    """θ - v(0) lies above the largest x(1) that did not fire, and not above the smallest that did."""
    channels = layer.shape[0]
    spread = np.broadcast_to(layer.threshold, (1, *layer.shape)).reshape(channels, -1)
    low, high = layer.statistics.first_input[::-1].astype(np.float64)
    if len(low) != channels or bool((spread != spread[:, :1]).any()):
        return AS_DECLARED
    theta, edge = spread[:, 0].astype(np.float64), 1 - layer.initial_fraction
    low, high = np.nan_to_num(low / theta, nan=-np.inf), np.nan_to_num(high / theta, nan=np.inf)
    if not ((low > edge + MARGIN) | (high < edge - MARGIN)).any():
        return AS_DECLARED
    told: dict[str, Any] = {"declared": edge}
    if (low - high > MARGIN).any():
        # One channel, one t, and inputs that did not fire above inputs that did: v(0) is not one number.
        return Verdict("order" if layer.info.layout in ("TB", "BT") else "state", {
            **told, "largest_that_did_not_fire": float(low.max()), "smallest_that_fired": float(high.min()),
        })  # fmt: skip
    if low.max() - high.min() > MARGIN:
        middles = ((low + high) / 2)[np.isfinite(low + high)]
        between = [float(middles.min()), float(middles.max())] if len(middles) else None
        # In a flat layer a channel is a neuron, whose v(0) may differ as well as its θ.
        kind = "channels" if len(layer.shape) > 1 else "unknown"
        return Verdict(kind, {**told, "channels": channels, "threshold_minus_start": between})
    lowest, highest = float(low.max()), float(high.min())
    told["threshold_minus_start"] = [value if np.isfinite(value) else None for value in (lowest, highest)]
    law = layer.recording.facts["law"].get(str(layer.index), {})
    # By the law, v(0) is as far off as the potential; where no potential is shown, the likeliest other v(0) is 0.
    off = law.get("largest_difference") if law.get("broken") else None
    starts = [0.0] if off is None else [layer.initial_fraction - off, layer.initial_fraction + off]
    for start in () if off is None and law.get("largest_difference") is not None else starts:
        if -SAME <= start < 1 and lowest - SAME <= 1 - start <= highest + SAME:
            declared = {"declared_initial_potential": layer.initial_fraction}
            return Verdict("start", {**told, "initial_potential": max(0.0, start), **declared})
    # A potential that is off otherwise may be of another θ, a hard reset or a leak.
    return Verdict("threshold" if off is None else "unknown", told)


# -------------------------------------------------------------------------------------------------------- checks


def _first(recording: Recording, kinds: tuple[str, ...]) -> tuple[Layer, Verdict, list[int]] | None:
    """The first layer with such a verdict, and the indices of all."""
    found = [(layer, verdict) for layer in recording.layers
             if (verdict := verdicts(recording).get(layer.index, AS_DECLARED)).kind in kinds]  # fmt: skip
    return None if not found else (*found[0], [layer.index for layer, _ in found])


def _finding(
    recording: Recording, check: str, kinds: tuple[str, ...], what: str, advice: str, more: dict[str, Any] | None = None
) -> Iterator[Finding]:
    found = _first(recording, kinds)
    if found is None:
        return
    layer, verdict, indices = found
    evidence = {**verdict.evidence, **(more or {})} | ({"layers": indices} if len(indices) > 1 else {})
    theta = float(layer.threshold.mean())
    text = what.format(**{"theta": theta, "declared": layer.initial_fraction, **_numbers(verdict)})
    yield Finding(check, "error", layer.name, text, evidence, advice, table(layer), layer.index)


def _numbers(verdict: Verdict) -> dict[str, Any]:
    """Those of the evidence that sentences speak of."""
    named = ("initial_potential", "decay", "input_gain")
    return {name: verdict.evidence[name] for name in named if name in verdict.evidence}


def time_layout(recording: Recording) -> Iterator[Finding]:
    """Spikes, or logits, that make sense only if time and samples are read the other way round."""
    yield from _finding(
        recording, "time-layout", ("order",),
        "spikes do not follow from the inputs as time is read, and do where the merged axis is read the other way "
        "round: timesteps and samples are exchanged",
        "declare the other layout (TB: timesteps outermost, BT: samples outermost), or reshape the merged axis in the "
        "network as it was merged",
    )  # fmt: skip
    yield from logits_order(recording)


def logits_order(recording: Recording) -> Iterator[Finding]:
    """Logits of which the other order of time and samples is right far more often."""
    labels, logits = recording.labels, recording.snn_logits.astype(np.float64)
    right = float((logits.sum(1).argmax(1) == labels).mean())
    best = ("", right)
    for layout in ("TB", "BT"):
        turned = np.concatenate([_turned(logits[b.start : b.stop], layout) for b in _batches(recording) if len(b) > 1]
                                or [logits])  # fmt: skip
        if len(turned) == len(labels):
            there = float((turned.sum(1).argmax(1) == labels).mean())
            best = max(best, (layout, there), key=lambda pair: pair[1])
    samples = recording.samples
    # Three standard deviations of a share, and half of what is missing to 1: chance does not reach it.
    noise = 3 * float(np.sqrt(max(right * (1 - right), 0.25 / samples) / samples))
    if recording.timesteps > 1 and best[1] > right + max(noise, (1 - right) / 2):
        yield Finding(
            "time-layout", "error", None,
            f"the SNN's logits give an accuracy of {right:.1%}, and of {best[1]:.1%} if timesteps and samples are read "
            "the other way round",
            {"accuracy": right, "accuracy_in_the_other_order": best[1], "samples": samples},
            "give the logits of one timestep after the other: reshape (T, B, class) as the network merged them",
            paste(recording, "accuracy"),
        )  # fmt: skip


def not_reset(recording: Recording) -> Iterator[Finding]:
    """Potentials that go on from one batch to the next."""
    yield from _finding(
        recording, "not-reset", ("state",),
        "v(0) is not one number: neurons go on with the potential that other samples left behind",
        "reset every neuron before each batch (Subject.reset, functional.reset_net(snn), module.reset())",
    )  # fmt: skip


def hard_reset(recording: Recording) -> Iterator[Finding]:
    """A hard reset where a soft one is declared."""
    yield from _finding(
        recording, "reset-rule", ("hard",),
        "a spike sets the potential to a value instead of taking θ off: the reset is hard, and all charge above θ is "
        "lost",
        'use a soft reset (v - θ·s; SpikingJelly: v_reset=None), or declare Traits(reset="zero")',
    )  # fmt: skip


def leak(recording: Recording) -> Iterator[Finding]:
    """A leak where none is declared."""
    yield from _finding(
        recording, "leak", ("leak",),
        "the potential leaks: spikes follow from v(t) = {decay:.3g}·v(t-1) + {input_gain:.3g}·x(t), not from a sum of "
        "inputs",
        "use neurons without a leak (β = 1, IFNode), or declare Traits(leaky=True)",
    )  # fmt: skip


def unknown_neuron(recording: Recording) -> Iterator[Finding]:
    """Neurons that are neither what is declared nor anything that is known."""
    yield from _finding(
        recording, "conservation-law", ("unknown",),
        "spikes do not follow from a soft-reset neuron with the θ and v(0) that are declared, and v(T) is not "
        "v(0) + Σx - θ·n: cases against n_even and attribution mean nothing",
        "look for a hard reset, a leak, another θ or v(0), a state that is not reset; declare its traits; "
        "--record full tells them apart",
    )  # fmt: skip


def inferred_start(recording: Recording) -> Iterator[Finding]:
    """A v(0) other than is declared, inferred from which inputs fired."""
    found = _first(recording, ("start",))
    start = None if found is None else found[1].evidence.get("initial_potential")
    what = "v(0) differs from channel to channel" if start is None else "v(0) is {initial_potential:.3g} θ"
    yield from _finding(
        recording, "initial-potential", ("start",), what + " and not {declared:.3g} θ as declared",
        "start each neuron at the v(0) that the network was made for (θ/2 for QCFS), or declare initial_fraction",
    )  # fmt: skip


def inferred_threshold(recording: Recording) -> Iterator[Finding]:
    """A θ other than is declared, inferred from which inputs fired and from what a spike takes off."""
    found = _first(recording, ("threshold",))
    if found is not None:
        numbers = found[1].evidence
        taken = numbers.get("taken_off_by_a_spike")
        theta = float(found[0].threshold.mean())
        if taken is None:
            real = (
                f"neurons do not fire where θ - v(0) = {numbers['declared']:.3g} of the declared θ = {theta:.4g} says"
            )
        else:
            real = f"θ is about {taken * theta:.4g} and not {theta:.4g}"
        yield from _finding(
            recording, "threshold", ("threshold",), real.replace("{", "{{").replace("}", "}}"),
            "check that the trained threshold was loaded into the neuron, and once only scaled",
        )  # fmt: skip
    yield from _finding(
        recording, "threshold", ("channels",),
        "channels fire at different thresholds, and one θ = {theta:.4g} is declared for them" if _single(recording)
        else "channels fire at other thresholds than are declared for them",
        "pass θ with one number a channel: threshold=array of shape (channel,)",
    )  # fmt: skip


def _single(recording: Recording) -> bool:
    found = _first(recording, ("channels",))
    return found is not None and found[0].threshold.size == 1


def several_spikes(recording: Recording) -> Iterator[Finding]:
    """More than one spike a timestep, or spikes of other heights than are declared, where the survey saw none."""
    for layer in recording.layers:
        fired, most = int(layer.spikes_at.max()), layer.neurons * recording.samples
        if layer.info.graded:
            if layer.paired:
                yield Finding(
                    "several-spikes", "note", layer.name,
                    "neurons may fire several spikes a timestep: cases are counted and no attribution is claimed",
                    {"spikes_per_neuron_and_timestep": fired / most},
                    "use neurons that fire once (sinabs: spike_fn=SingleSpike) to have the error attributed",
                    table(layer), layer.index,
                )  # fmt: skip
                return
            continue
        evidence = _uncounted(layer)
        if fired > most:
            evidence = {"spikes_per_neuron_and_timestep": fired / most}
        if evidence:
            yield Finding(
                "several-spikes", "error", layer.name,
                "neurons give more than one spike a timestep, or spikes of other heights than are declared",
                evidence, "let a neuron fire 0 or 1 spike of one height a timestep, or declare Traits(graded=True)",
                table(layer), layer.index,
            )  # fmt: skip
            return


def _uncounted(layer: Layer) -> dict[str, Any]:
    """Neurons whose count is not that of their spike train, or more than T."""
    if not layer.has("spike_count"):
        return {}
    over = beyond = 0
    for first in range(0, layer.recording.samples, 32):
        samples = slice(first, min(first + 32, layer.recording.samples))
        n = layer.read("spike_count", samples).astype(np.int64)
        over += int((np.abs(n) > layer.recording.timesteps).sum())
        if layer.has("snn_spikes") and not layer.info.wide:
            beyond += int((layer.read("snn_spikes", samples).sum(1, dtype=np.int64) != n).sum())
    if not over and not beyond:
        return {}
    return {"neurons_with_more_than_T_spikes": over, "neurons_whose_train_has_another_count": beyond}
