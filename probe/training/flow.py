"""How gradients flow: their norms over layers and timesteps, neurons that none reaches, state that is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from probe.diagnosis.findings import Finding
from probe.training import graph, surrogates
from probe.training.evidence import Evidence, Layer

VANISHED, EXPLODED = 1e-4, 1e4
"""Limits on a layer's norm of the gradient at its spikes, as a share of the next layer's."""
FAR_VANISHED, FAR_EXPLODED = 1e-7, 1e6
"""The same as a share of the last layer's."""
FADED, SWELLED = 1e-6, 1e4
"""Limits on a layer's norm at its first timesteps, as a share of its largest and of its last."""
LEAST_STEPS = 4
"""Fewer timesteps say nothing of time."""
DEAD, DEAD_LAST = 0.4, 0.9
"""A layer with so many dead neurons is told as a warning, with all of them as an error; of the last layer of a network
that is not trained yet many often are."""
LEAST_DEAD = 0.05
"""With fewer it is not told."""
UNREACHED = 1e-4
"""No gradient reaches a neuron whose derivative is never above this share of its surrogate's largest."""


def dead_share(layer: Layer) -> float | None:
    """The share of neurons that never fire and that no gradient passes; None where that was not measured."""
    gradient, derivative = layer.largest_gradient(), layer.largest_derivative()
    if gradient is None and derivative is None:
        return None
    fired = layer.fired()
    reached = fired.clone().fill_(False)
    if derivative is not None and layer.measured is not None and derivative.shape == fired.shape:
        reached = derivative > UNREACHED * layer.measured.peak
    elif gradient is not None and gradient.shape == fired.shape:
        reached = gradient > UNREACHED * gradient.max()
    else:
        return None
    return float((~fired & ~reached).float().mean())


def dead(seen: Evidence) -> Iterator[Finding]:
    """Neurons that never fire and that no gradient reaches."""
    for layer in seen.layers if not seen.error else ():
        share = dead_share(layer)
        if share is None or share < LEAST_DEAD:
            continue
        limit = DEAD_LAST if layer is seen.layers[-1] else DEAD
        severity = "error" if share == 1 else "warning" if share >= limit else "note"
        yield Finding(
            "dead-neurons", severity, layer.name,
            f"{100 * share:.3g}% of the {layer.neurons:,} neurons of layer {layer.name} never fire in this batch, and "
            "no gradient reaches them",
            {"dead share": share, "neurons": layer.neurons, "firing rate": layer.firing_rate},
            "raise what they are fed (weights, bias, batch norm) or lower the threshold, or widen the surrogate",
            index=layer.index,
        )  # fmt: skip


def silent(seen: Evidence) -> Iterator[Finding]:
    """A layer in which nothing fires: those behind it are fed nothing."""
    for layer in seen.layers:
        if not layer.firing_rate and (dead_share(layer) or 0) < LEAST_DEAD:
            yield Finding(
                "silent-layer", "note", layer.name, f"layer {layer.name} never fires in this batch",
                {"firing rate": 0.0}, "raise its input, lower its threshold, or run more timesteps", index=layer.index,
            )  # fmt: skip


def over_layers(seen: Evidence) -> Iterator[Finding]:
    """Gradients that vanish or explode on their way back through the layers."""
    if seen.error:
        return
    known = [(layer, norm) for layer in seen.layers if (norm := layer.norm) is not None]
    if any(True for _ in graph.flat(seen)):
        # A function with derivative 0 is why, and is told as such.
        known = [(layer, norm) for layer, norm in known if norm]
    broken = [layer for layer, norm in known if not math.isfinite(norm)]
    if broken and any(True for _ in surrogates.broken_values(seen)):
        return
    if broken:
        # Backward comes from behind: at its last call the layer nearest to the loss has only what the next one gave it.
        layer, after = broken[-1], [one for one, _ in known if one.index > broken[-1].index]
        last = layer.norms[-1]
        layer = after[0] if after and last is not None and not math.isfinite(last) else layer
        yield Finding(
            "exploding-gradient", "error", layer.name,
            f"the gradient becomes NaN or infinite on its way back through layer {layer.name}",
            {"layers": [one.name for one in broken]},
            "look at its surrogate, and at the loss; detach the reset, or clip gradients", index=layer.index,
        )  # fmt: skip
        return
    if len(known) < 2 or not known[-1][1]:
        if known and not known[-1][1] and seen.connected:
            layer = known[-1][0]
            yield Finding(
                "vanishing-gradient", "error", layer.name,
                f"the gradient at the spikes of layer {layer.name} is exactly 0",
                {"norms": _norms(known)}, "check that the loss depends on these spikes, and what lies between",
                index=layer.index,
            )  # fmt: skip
        return
    # Back to front: what each layer lets through of the gradient at its own spikes.
    steps = [(near / far, layer) for (_, near), (layer, far) in pairwise(known) if far]
    for falls, name, limit, far_limit in (
        (True, "vanishing-gradient", VANISHED, FAR_VANISHED), (False, "exploding-gradient", EXPLODED, FAR_EXPLODED),
    ):  # fmt: skip
        choose = min if falls else max
        ratio, culprit = choose(steps, key=lambda pair: pair[0])
        whole, end = choose(((norm / known[-1][1], layer) for layer, norm in known), key=lambda pair: pair[0])
        beyond = ratio < limit or whole < far_limit if falls else ratio > limit or whole > far_limit
        if not beyond:
            continue
        yield Finding(
            name, "error" if not ratio else "warning", culprit.name,
            f"on its way back from layer {known[-1][0].name} to layer {end.name} the norm of the gradient "
            f"{'falls' if falls else 'grows'} to {whole:.2g} of what it was, in layer {culprit.name} alone to "
            f"{ratio:.2g}",
            {"over": "layers", "in this layer": ratio, "from the last layer": whole, "norms": _norms(known)},
            "widen that layer's surrogate, or scale up what it is fed" if falls else
            "use a surrogate with a smaller derivative, scale down the weights, or clip gradients",
            index=culprit.index,
        )  # fmt: skip


def _norms(known: list[tuple[Layer, float]]) -> dict[str, float]:
    return {layer.name: norm for layer, norm in known}


def over_time(seen: Evidence) -> Iterator[Finding]:
    """Gradients that vanish or explode on their way back through the timesteps."""
    for layer in seen.layers if not seen.error else ():
        norms = [norm or 0.0 for norm in layer.norms]
        if len(norms) < LEAST_STEPS or layer.norm is None or not all(map(math.isfinite, norms)) or not any(norms):
            continue
        part = len(norms) // LEAST_STEPS
        early, late, largest = max(norms[:part]), max(norms[-part:]), max(norms)
        evidence = {"over": "timesteps", "norms": norms}
        if early < FADED * largest:
            yield Finding(
                "vanishing-gradient", "warning", layer.name,
                f"at the first timesteps the gradient of layer {layer.name} has {early / largest:.2g} of its largest "
                "norm: what happens there is not learned",
                {**evidence, "ratio": early / largest},
                "use the outputs of all timesteps in the loss, a slower leak (β nearer to 1), or fewer timesteps",
                index=layer.index,
            )  # fmt: skip
        elif late and early > SWELLED * late:
            yield Finding(
                "exploding-gradient", "warning", layer.name,
                f"at the first timesteps the gradient of layer {layer.name} has {early / late:.2g} times the norm of "
                "the last",
                {**evidence, "ratio": early / late},
                "detach the reset, use a surrogate with a smaller derivative, or a factor of the state of at most 1",
                index=layer.index,
            )  # fmt: skip


def forgetting(seen: Evidence) -> Iterator[Finding]:
    """Neurons that begin anew at every timestep."""
    for layer in seen.layers:
        calls = layer.calls
        # What no weights of a module drive is not followed.
        if len(calls) < 2 or not all(call.origin & call.drive for call in calls):
            continue
        if all(not later.origin & before.drive for before, later in pairwise(calls)):
            yield Finding(
                "state-lost", "warning", layer.name,
                f"layer {layer.name} is called {len(calls)} times, and nothing is carried from one call to the next: "
                "its potential begins anew at every timestep",
                {"calls": len(calls)},
                "keep the potential from call to call, and set it to zeros once a batch", index=layer.index,
            )  # fmt: skip
