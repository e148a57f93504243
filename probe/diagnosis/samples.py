"""Checks of what both networks were fed: the same samples, in the same order, prepared alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from probe.diagnosis.dynamics import AS_DECLARED, verdicts
from probe.diagnosis.evidence import Sides, gain, inputs_of, paste, table, theta_of
from probe.diagnosis.findings import Finding
from probe.recording import Layer, Recording

EXCHANGED = 0.5
"""Samples are mis-paired, not prepared otherwise, if at least this share of those that differ was fed to the other
network as another sample: of different numbers, none would be."""
CLEARLY = 0.1
"""Another sample's inputs fit clearly better if their correlation is higher by this: those of digits of one class
differ by as much."""
AFFINE = 0.95
"""Inputs of the two networks are each other's multiple, beside a shift, from this correlation on; a wrong mean and
standard deviation give 1 but for rounding."""
INPUTS_DIFFER = 1e-4
"""How far a first layer's inputs may differ, in units of θ: rounding, nothing more."""


class Fed(NamedTuple):
    """How the digests of the two networks' samples compare."""

    differing: int
    exchanged: int
    """Of these, how many were fed to the ANN as another sample."""
    reordered: bool
    """Both networks were fed the same samples in all."""


def fed(recording: Recording) -> Fed:
    """Compare the hashes of what ANN and SNN were fed; one sample may stand in for several."""
    ann, snn = recording.digests
    apart = ann != snn
    known = set(ann.tolist())
    exchanged = sum(one in known for one in snn[apart].tolist())
    return Fed(int(apart.sum()), exchanged, Counter(ann.tolist()) == Counter(snn.tolist()))


def exchanged_inputs(sides: Sides) -> tuple[int, int]:
    """How many samples' inputs of the SNN are clearly those of another sample of the ANN, and how many were compared.

    Rows are compared by the correlation of what is left of them beside each neuron's mean.
    """
    known = ~np.isnan(sides.ann)
    if len(sides.ann) < 3:
        return 0, len(sides.ann)
    mean = np.where(known, sides.ann, 0).sum(0) / np.maximum(known.sum(0), 1)
    ann, snn = np.where(known, sides.ann - mean, 0), sides.snn - sides.snn.mean(0)
    lengths = np.sqrt((ann * ann).sum(1))[:, None] * np.sqrt((snn * snn).sum(1))[None]
    with np.errstate(invalid="ignore", divide="ignore"):
        fits = np.nan_to_num(ann @ snn.T / lengths)
    own = fits.diagonal()
    return int((fits.max(0) > own + CLEARLY).sum()), len(own)


def _first_layer(recording: Recording) -> Layer | None:
    return next((layer for layer in recording.layers if layer.index == 0 and layer.paired), None)


def _apart(recording: Recording) -> bool:
    """The first layer's inputs differ between the networks, as far as the recording tells."""
    verdict = recording.facts["oracles"].get("0")
    return verdict is not None and verdict.get("input_difference", 0.0) > INPUTS_DIFFER


def _are_mispaired(recording: Recording) -> dict[str, Any]:
    """The numbers that show mis-paired samples; empty where there are none."""
    if not recording.has_ann:
        return {}
    found = fed(recording)
    if found.differing and found.exchanged >= EXCHANGED * found.differing:
        return {"samples_fed_differently": found.differing, "fed_as_another_sample": found.exchanged,
                **({} if found.reordered else {"reordered": False}),
                "samples": recording.samples}  # fmt: skip
    first = _first_layer(recording)
    if first is None or not (found.differing or _apart(recording)) or (sides := inputs_of(first)) is None:
        return {}
    exchanged, compared = exchanged_inputs(sides)
    if exchanged < max(2, EXCHANGED * compared):
        return {}
    return {"samples_whose_inputs_are_anothers": exchanged, "samples": compared}


def _oracle(recording: Recording) -> dict[str, Any]:
    """What the free oracle of the first layer says, where it is broken."""
    verdict = recording.facts["oracles"].get("0", {})
    if not verdict.get("broken"):
        return {}
    return {"neurons_that_cannot_err": verdict["violations"], "input_difference": verdict["input_difference"]}


def mispaired_samples(recording: Recording) -> Iterator[Finding]:
    """The ANN of one sample beside the SNN of another."""
    evidence = _are_mispaired(recording)
    if not evidence:
        return
    first = _first_layer(recording)
    yield Finding(
        "mispaired-samples", "error", None,
        "the ANN and the SNN were run on different samples: "
        + ("the same ones, in another order" if evidence.pop("reordered", True) else "some stand in for others"),
        {**evidence, **_oracle(recording)},
        "feed both networks one batch, in one order (shuffle=False, one loader, no roll or sort in between)",
        paste(recording, "accuracy") if first is None else table(first),
    )  # fmt: skip


def preprocessing(recording: Recording) -> Iterator[Finding]:
    """The same samples, prepared in two ways."""
    if not recording.has_ann or _are_mispaired(recording):
        return
    differing, first = fed(recording).differing, _first_layer(recording)
    sides = None if first is None else inputs_of(first)
    if sides is not None and differing:
        # Those that are fed alike say nothing of the others.
        ann, snn = (digests[: len(sides.ann)] for digests in recording.digests)
        sides = Sides(sides.ann[ann != snn], sides.snn[ann != snn]) if bool((ann != snn).any()) else None
    if not differing and (not _apart(recording) or first is None or _dynamics_explain(recording)):
        return
    follows = None if sides is None else gain(sides)
    evidence: dict[str, Any] = {"samples_fed_differently": differing, "samples": recording.samples}
    if first is not None and sides is not None:
        theta = float(theta_of(first).mean())
        for name, side in (("ann", sides.ann), ("snn", sides.snn)):
            evidence[f"first_input_{name}_mean_std"] = [float(np.nanmean(side)) * theta, float(np.nanstd(side)) * theta]
    if follows is not None:
        evidence |= {"slope": follows.slope, "correlation": follows.correlation}
    affine = follows is not None and follows.correlation >= AFFINE
    if not differing and not affine:
        # Fed the same, and yet no multiple: it is the first weights that differ, or something random.
        what, advice = (
            "the two networks make different numbers of the same samples before the first layer",
            "compare the modules before the first layer in both networks: weights, batch norm, normalisation, dropout",
        )
    elif not differing and follows is not None:
        what, advice = (
            "what lies before the first layer differs, for both networks were fed the same samples: beside a shift, "
            f"the SNN's layer gets {follows.slope:.3g} times what the ANN's gets",
            "compare the modules before the first layer in both networks: weights, biases, batch norm, a normalisation "
            "inside",
        )
    elif affine and follows is not None:
        what, advice = (
            f"the networks' inputs are prepared differently: beside a shift, the SNN's are {follows.slope:.3g} times "
            "the ANN's",
            "normalise once, by one mean and standard deviation, for both networks",
        )
    else:
        what, advice = (
            "the two networks were fed different numbers, which are no other sample's",
            "prepare the samples once for both networks: the same normalisation, no random augmentation, no encoder "
            "for one of them",
        )
    evidence |= _oracle(recording)
    look = paste(recording, "accuracy") if first is None else table(first)
    # What the networks were fed is nobody's layer; what they make of it is the first one's.
    layer = None if differing or first is None else first
    yield Finding(
        "preprocessing", "error", None if layer is None else layer.name, what, evidence, advice, look,
        None if layer is None else layer.index,
    )  # fmt: skip


def _dynamics_explain(recording: Recording) -> bool:
    """What is wrong with the first layer is its neurons, of which other checks speak."""
    return verdicts(recording).get(0, AS_DECLARED).kind == "order"


def first_layer_oracle(recording: Recording) -> Iterator[Finding]:
    """A first layer that errs though it is fed the same at every t, and no other check knows why."""
    verdict, first = recording.facts["oracles"].get("0", {}), _first_layer(recording)
    if first is None or not verdict.get("broken") or verdicts(recording).get(0, AS_DECLARED) is not AS_DECLARED:
        return
    if verdict["input_difference"] > INPUTS_DIFFER or fed(recording).differing:
        return
    yield Finding(
        "first-layer-oracle", "error", first.name,
        "the first layer errs in neurons that cannot err, though both networks' inputs are equal and its neurons are "
        "as declared: the ANN's activation is not the one that is declared",
        _oracle(recording), "check L, θ and the rounding (+ ½ before the floor) of the ANN's activation",
        table(first), first.index,
    )  # fmt: skip
