"""Checks of where an error comes from: the layer where it starts, of which kind it is, and what it costs over t."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from probe.analysis import right_answers
from probe.attribution import why_not_even
from probe.diagnosis.dynamics import AS_DECLARED, inferred_start, logits_order, verdicts
from probe.diagnosis.evidence import Lost, Shares, Sides, lost, lost_by_conversion, outputs_of, paste, shares_at
from probe.diagnosis.findings import Finding
from probe.diagnosis.scaling import logits_of, spike_scaling, summed_logits
from probe.recording import Layer, Recording

MOSTLY = 0.5
"""A layer's error is mostly of one kind from half of its mean square on."""
NEGLIGIBLE = 1e-4
"""Mean squares below this, in θ², are nobody's concern: errors of a hundredth of a spike's height."""
WORTH = 1e-3
"""A v(0) of 0 that costs less than this, in θ², is no fault: from 16 timesteps on, say."""
COSTLY = 0.01
"""A layer's error can be what accuracy was lost by from this share of its activation on, both as mean squares."""
BEHIND = 3.0
"""Logits err more than what lies behind the layers makes of their errors from this factor on: sound networks have 0.05
to 0.9, and other weights 4 to 100."""
LEAST = 0.05
"""And from this share of what the logits vary by on."""
FEW = 5
"""Of fewer samples nothing is told by how they vary."""
TINY = 1e-30
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
    """Layers whose error is more than nothing."""
    return [(layer, shares) for layer, shares in _known(recording) if shares.mean_square >= NEGLIGIBLE]


@lru_cache(maxsize=2)
def _known(recording: Recording) -> list[Known]:
    """Layers of which it is known what their error is made of, those without any too."""
    if not _sound(recording):
        return []
    found = ((layer, shares_at(layer, recording.timesteps)) for layer in recording.layers)
    return [(layer, shares) for layer, shares in found if shares is not None]


def jump(recording: Recording) -> tuple[Known, Known] | None:
    """The first two layers in a row of which the second inherits far more than any before it errs.

    It has to be far more in units of θ² and as a share of the activation too: where few neurons are active, an error
    that is small in θ² is large to what comes behind. A layer may be fed by any before it.
    """
    found = _known(recording)
    for place, (layer, shares) in enumerate(found[1:], 1):
        before = found[:place]
        inherited = shares.piece["inherited"]
        if before[-1][0].index != layer.index - 1 or not shares.activation:
            continue
        most = max(one.mean_square for _, one in before)
        share = max(one.relative for _, one in before)
        if inherited >= JUMP * max(most, NEGLIGIBLE) and inherited / shares.activation >= JUMP * share:
            return before[-1], (layer, shares)
    return None


def _severity(cost: Lost | None) -> str:
    return "warning" if cost is not None and cost.significant else "note"


def _severity_of(recording: Recording, found: Iterable[Known]) -> str:
    """Of what layers make themselves: a warning where it is large enough to be what accuracy was lost by.

    What comes in between two layers, or behind the last one, explains the loss better.
    """
    severity = _severity(lost_by_conversion(recording))
    large = any(shares.relative >= COSTLY for _, shares in found)
    if severity == "note" or not large or jump(recording) is not None or head_differs(recording):
        return "note"
    return severity


def _cost(cost: Lost | None) -> dict[str, Any]:
    if cost is None:
        return {}
    return {"accuracy_ann": cost.before, "accuracy_snn": cost.after, "p_by_chance": cost.p}


def own_error(recording: Recording) -> Iterator[Finding]:
    """Layers whose error is mostly their own: of each kind the first, with its remedy."""
    cost, found = lost_by_conversion(recording), _sources(recording)
    for piece, remedy in REMEDIES.items():
        layers = [(layer, shares) for layer, shares in found if shares.share[piece] >= MOSTLY]
        if not layers:
            continue
        layer, shares = layers[0]
        yield Finding(
            "own-error", _severity_of(recording, layers), layer.name,
            f"the error of this layer is mostly its own {piece.replace('_', ' ')}",
            {"share": shares.share[piece], "mean_square": shares.mean_square, **_indices(layers), **_cost(cost)},
            remedy, paste(recording, "plot attribution", layer, "attribution"), layer.index,
        )  # fmt: skip


def _indices(layers: list[Known]) -> dict[str, Any]:
    return {"layers": [layer.index for layer, _ in layers]} if len(layers) > 1 else {}


def inherited_error(recording: Recording) -> Iterator[Finding]:
    """Layers whose error is mostly inherited, and the layer where it starts."""
    found, cost = _sources(recording), lost_by_conversion(recording)
    if (between := jump(recording)) is not None:
        (layer, shares), (after, theirs) = between
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
    if heirs and not before:
        yield _without_source(recording, heirs)
    if not before:
        return
    start, shares = next((one for one in before if one[1].own >= MOSTLY), before[0])
    kind = max(REMEDIES, key=lambda piece: shares.share[piece])
    named = [layer.index for layer, _ in heirs]
    worst = max(heirs, key=lambda one: one[1].mean_square)[1]
    text = f"layer {named[0]} inherits" if len(named) == 1 else f"layers {', '.join(map(str, named))} inherit"
    yield Finding(
        "inherited-error", _severity_of(recording, found), start.name,
        f"{text} most of the error; it starts in this layer, mostly as {kind.replace('_', ' ')}",
        {"layers": named, "inherited_share": worst.share["inherited"], "own_share_where_it_starts": shares.own,
         "mean_square_where_it_starts": shares.mean_square, **_cost(cost)},
        f"begin there: {REMEDIES[kind]}", paste(recording, "plot attribution", None, "attribution"), start.index,
    )  # fmt: skip


def _without_source(recording: Recording, heirs: list[Known]) -> Finding:
    """Layers that inherit, where no recorded layer before them errs by anything that counts."""
    layer, shares = heirs[0]
    named = [one.index for one, _ in heirs]
    return Finding(
        "inherited-error", "note", layer.name,
        "this layer inherits most of its error, and what is recorded of the layers before it hardly errs",
        {"layers": named, "inherited_mean_square": shares.piece["inherited"], "mean_square": shares.mean_square,
         **_cost(lost_by_conversion(recording))},
        "record all layers, and compare what lies before this one in both networks: weights, biases, batch norm",
        paste(recording, "plot attribution", layer, "attribution"), layer.index,
    )  # fmt: skip


def _head(recording: Recording) -> dict[str, Any]:
    """How far the logits differ, and the layers; empty where the recording cannot tell."""
    known = _known(recording)
    if not recording.has_ann or not known or known[-1][0].index != len(recording.facts["order"]) - 1:
        return {}
    sides = logits_of(recording)
    if sides is None or not bool(np.isfinite(sides.snn).all() and np.isfinite(sides.ann).all()):
        return {}
    # Beside their means, which a bias makes; of statistics alone, means and all.
    if len(sides.ann) >= FEW and all(layer.has("spike_count") for layer, _ in known):
        logits, layers = _spread(sides), 0.0
        if logits >= LEAST:
            layers = max(_spread(one) for layer, _ in known if (one := outputs_of(layer)) is not None)
    else:
        logits = float(((sides.snn - sides.ann) ** 2).sum() / max(float((sides.ann**2).sum()), TINY))
        layers = max(shares.relative for _, shares in known)
    return {"error_of_the_logits": logits, "largest_error_of_a_layer": layers, "last_layer": known[-1][0].index}


def _spread(sides: Sides) -> float:
    """The mean square of the difference, as a share of what varies from sample to sample."""
    varying = float(((sides.ann - sides.ann.mean(0)) ** 2).sum())
    return float(((sides.snn - sides.ann) ** 2).sum()) / max(varying, TINY)


@lru_cache(maxsize=2)
def head_differs(recording: Recording) -> dict[str, Any]:
    """The numbers that show that what lies behind the last layer differs; empty where it does not."""
    found = _head(recording)
    if not found or found["error_of_the_logits"] < max(LEAST, BEHIND * found["largest_error_of_a_layer"]):
        return {}
    return found


def head(recording: Recording) -> Iterator[Finding]:
    """Logits that differ far more than the error of any layer explains."""
    found = head_differs(recording)
    # Of a factor, and of what fed the layers otherwise, other checks speak.
    if not found or jump(recording) is not None or any(spike_scaling(recording)) or any(summed_logits(recording)):
        return
    last = recording.layers[-1]
    yield Finding(
        "head", "error", None,
        f"what lies behind the last layer, {last.index} ({last.name}), differs: the SNN's mean logits are far from the "
        "ANN's, and no layer's spikes are",
        {**found, **_cost(lost_by_conversion(recording))},
        "compare the last weights and biases of both networks, and what is done with the logits",
        paste(recording, "accuracy"),
    )  # fmt: skip


def unexplained_loss(recording: Recording) -> Iterator[Finding]:
    """Accuracy that is lost beyond noise; told only where nothing above a note explains it."""
    cost = lost_by_conversion(recording)
    if cost is None or not cost.significant:
        return
    yield Finding(
        "unexplained-loss", "warning", None,
        f"the SNN is right in {cost.after:.1%} and the ANN in {cost.before:.1%}, beyond noise, and no check says why",
        _cost(cost),
        "record more (--record full), let layers be run as in the ANN one by one (probe sensitivity), and compare the "
        "weights of both networks",
        paste(recording, "plot accuracy", None, "accuracy"),
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
    costs = _severity_of(recording, apart) if shares.share["grid"] >= MOSTLY else "note"
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
        cost = lost_by_conversion(recording)
        costs = shares.piece["initial_potential"] >= WORTH or (cost is not None and cost.significant)
        yield Finding(
            "initial-potential", "warning" if fraction == 0 and costs else "note", layer.name,
            f"v(0) is {f'{fraction:.3g} θ' if fraction else 0} and not θ/2, which rounds counts to the nearest",
            {"initial_potential": fraction, "mean_square_of_initial_potential": shares.piece["initial_potential"],
             "mean_square": shares.mean_square, "layers": others, **_cost(cost)},
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
