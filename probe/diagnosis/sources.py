"""Checks of where an error comes from: the layer where it starts, of which kind it is, and what it costs over t."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from probe.analysis import right_answers
from probe.attribution import why_not_even
from probe.diagnosis.dynamics import AS_DECLARED, inferred_start, logits_order, verdicts
from probe.diagnosis.evidence import Lost, Shares, lost, lost_by_conversion, paste, shares_at
from probe.diagnosis.findings import Finding
from probe.recording import Layer, Recording

MOSTLY = 0.5
"""A layer's error is mostly of one kind from half of its mean square on."""
NEGLIGIBLE = 1e-4
"""Mean squares below this, in θ², are nobody's concern: errors of a hundredth of a spike's height."""
COSTS = 0.1
"""A grid or a v(0) is worth a word from this share of a layer's mean square on."""
JUMP = 20.0
"""An inherited mean square this many times that of the layer before is more than weights make of it: from layer to
layer of sound networks it grows up to threefold."""

REMEDIES = {
    "unevenness": "SRP or negative spikes lessen it (--neuron srp, --neuron negspike), and so does a larger T",
    "silencing": "a longer pre-simulation (--srp-steps), or neurons without SRP's mask",
    "initial_potential": "start at v(0) = θ/2",
    "grid": "run T = L timesteps, or train with L = T; behind a ReLU, run more timesteps",
    "clipping": "raise θ: calibrate on the maximum or a higher percentile (--calibrate max)",
}
"""Piece -> what lessens it."""


Known = tuple[Layer, Shares]


def _sound(recording: Recording) -> bool:
    """Nothing says that the recording's numbers mean something else."""
    facts = recording.facts
    broken = any(verdict.get("broken") for name in ("oracles", "law") for verdict in facts[name].values())
    differently = facts.get("fed", {}).get("differing_samples", 0)
    if broken or differently or any(logits_order(recording)):
        return False
    return all(one is AS_DECLARED for one in verdicts(recording).values())


def _sources(recording: Recording) -> list[Known]:
    if not _sound(recording):
        return []
    found = ((layer, shares_at(layer, recording.timesteps)) for layer in recording.layers)
    return [(layer, shares) for layer, shares in found if shares is not None and shares.mean_square >= NEGLIGIBLE]


def _jump(found: list[Known]) -> tuple[Known, Known] | None:
    """The first two layers in a row of which the second inherits far more than the first errs."""
    for one, other in pairwise(found):
        if other[0].index == one[0].index + 1 and other[1].piece["inherited"] >= JUMP * one[1].mean_square:
            return one, other
    return None


def _severity(cost: Lost | None) -> str:
    return "warning" if cost is not None and cost.significant else "note"


def _cost(cost: Lost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {"accuracy_ann": cost.before, "accuracy_snn": cost.after, "p_by_chance": cost.p}


def own_error(recording: Recording) -> Iterator[Finding]:
    """Layers whose error is mostly their own: of each kind the first, with its remedy."""
    cost, found = lost_by_conversion(recording), _sources(recording)
    # What comes in between two layers explains the loss better.
    severity = _severity(cost) if _jump(found) is None else "note"
    for piece, remedy in REMEDIES.items():
        layers = [(layer, shares) for layer, shares in found if shares.share[piece] >= MOSTLY]
        if not layers:
            continue
        layer, shares = layers[0]
        yield Finding(
            "own-error", severity, layer.name,
            f"the error of this layer is mostly its own {piece.replace('_', ' ')}",
            {"share": shares.share[piece], "mean_square": shares.mean_square, **_indices(layers), **_cost(cost)},
            remedy, paste(recording, "plot attribution", layer, "attribution"), layer.index,
        )  # fmt: skip


def _indices(layers: list[Known]) -> dict[str, Any]:
    return {"layers": [layer.index for layer, _ in layers]} if len(layers) > 1 else {}


def inherited_error(recording: Recording) -> Iterator[Finding]:
    """Layers whose error is mostly inherited, and the layer where it starts."""
    found, cost = _sources(recording), lost_by_conversion(recording)
    if (jump := _jump(found)) is not None:
        (layer, shares), (after, theirs) = jump
        yield Finding(
            "inherited-error", _severity(cost), after.name,
            "this layer is fed other numbers than the error of the layer before explains",
            {"inherited_mean_square": theirs.piece["inherited"], "mean_square_of_the_layer_before": shares.mean_square,
             **_cost(cost)},
            f"compare what lies between layers {layer.index} and {after.index} in both networks: weights, biases, "
            "batch norm, pooling, scaling",
            paste(recording, "plot attribution", after, "attribution"), after.index,
        )  # fmt: skip
        return
    heirs = [(layer, shares) for layer, shares in found if shares.share["inherited"] >= MOSTLY]
    before = [(layer, shares) for layer, shares in found if heirs and layer.index < heirs[0][0].index]
    if not before:
        return
    start, shares = next((one for one in before if one[1].own >= MOSTLY), before[0])
    kind = max(REMEDIES, key=lambda piece: shares.share[piece])
    named = [layer.index for layer, _ in heirs]
    worst = max(heirs, key=lambda one: one[1].mean_square)[1]
    text = f"layer {named[0]} inherits" if len(named) == 1 else f"layers {', '.join(map(str, named))} inherit"
    yield Finding(
        "inherited-error", _severity(cost), start.name,
        f"{text} most of the error; it starts in this layer, mostly as {kind.replace('_', ' ')}",
        {"layers": named, "inherited_share": worst.share["inherited"], "own_share_where_it_starts": shares.own,
         "mean_square_where_it_starts": shares.mean_square, **_cost(cost)},
        f"begin there: {REMEDIES[kind]}", paste(recording, "plot attribution", None, "attribution"), start.index,
    )  # fmt: skip


def grids(recording: Recording) -> Iterator[Finding]:
    """L and T on different grids, and what each t costs."""
    found = _sources(recording)
    apart = [(layer, shares) for layer, shares in found
             if layer.levels not in (None, recording.timesteps) and shares.share["grid"] >= COSTS]  # fmt: skip
    if not apart:
        return
    layer, shares = max(apart, key=lambda one: one[1].piece["grid"])
    at = {str(t): there.piece["grid"] for t in recording.grid if (there := shares_at(layer, t)) is not None}
    cost = lost_by_conversion(recording)
    costs = _severity(cost) if shares.share["grid"] >= MOSTLY and _jump(found) is None else "note"
    first = apart[0][0]
    yield Finding(
        "grid", costs, first.name,
        f"spike counts at T = {recording.timesteps} and the ANN's L = {layer.levels} levels stand on different grids",
        {"timesteps": recording.timesteps, "levels": layer.levels, "worst_layer": layer.index,
         "grid_share": shares.share["grid"], "grid_mean_square_at_t": at, **_cost(cost)},
        f"run T = {layer.levels} timesteps, where the grids agree, or train with L = {recording.timesteps}",
        paste(recording, "plot attribution", layer, "attribution"), first.index,
    )  # fmt: skip


def initial_potential(recording: Recording) -> Iterator[Finding]:
    """A v(0) other than is declared, or than the network was made for."""
    yield from inferred_start(recording)
    yield from declared_start(recording)


def declared_start(recording: Recording) -> Iterator[Finding]:
    """A conversion that is declared to start elsewhere than at θ/2, where that costs something."""
    known = verdicts(recording)
    for layer in recording.layers:
        fraction = layer.initial_fraction
        if fraction == 0.5 or not layer.paired or why_not_even(layer.traits, fraction) or known.get(
            layer.index, AS_DECLARED) is not AS_DECLARED:  # fmt: skip
            continue
        shares = shares_at(layer, recording.timesteps)
        if shares is None:
            continue
        piece = shares.piece["initial_potential"] / shares.mean_square if shares.mean_square else 0.0
        if piece < COSTS:
            continue
        others = [one.index for one in recording.layers if one.paired and one.initial_fraction == fraction]
        # A v(0) that was learned is meant; 0 is what a neuron has whose v(0) nobody set.
        yield Finding(
            "initial-potential", "warning" if fraction == 0 else "note", layer.name,
            f"v(0) is {f'{fraction:.3g} θ' if fraction else 0} and not θ/2, which rounds counts to the nearest",
            {"initial_potential": fraction, "mean_square_of_initial_potential": shares.piece["initial_potential"],
             "mean_square": shares.mean_square, "layers": others, **_cost(lost_by_conversion(recording))},
            "start each neuron at v(0) = θ/2 (--initial-potential 0.5; SpikingJelly: a half-threshold node, or "
            "v_threshold / 2 added at t = 1)",
            paste(recording, "plot attribution", layer, "attribution"), layer.index,
        )  # fmt: skip
        return


def falling_accuracy(recording: Recording) -> Iterator[Finding]:
    """Accuracy that falls again as T grows, beyond noise."""
    _, snn = right_answers(recording)
    shares = snn.mean(0)
    best = int(shares.argmax())
    found = lost(snn[:, best], snn[:, -1], looks=recording.timesteps)
    if found.significant:
        yield Finding(
            "falling-accuracy", "warning", None,
            f"accuracy falls again as T grows: {found.before:.1%} at t = {best + 1}, {found.after:.1%} at T",
            {"best_t": best + 1, "accuracy": found.before, "accuracy_at_T": found.after, "p_by_chance": found.p},
            f"run {best + 1} timesteps, and see whether grid or clipping grows with t (T = L; a larger θ)",
            paste(recording, "plot accuracy", None, "accuracy"),
        )  # fmt: skip
