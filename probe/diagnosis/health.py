"""Checks of the networks as they were run: modes, operations on spikes, layers without a partner, silence, numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from probe.diagnosis.evidence import paste, table
from probe.diagnosis.findings import Finding
from probe.recording import Layer, Recording

AWAKE = 0.1
"""A channel that is silent in the SNN is meant to be awake where T timesteps could show this many whole spikes a neuron
of the ANN's activation; less is lost in unevenness now and then."""
FULL = 0.95
"""And one that fires at every t is meant to where the ANN's mean activation is above this."""
ENOUGH = 5
"""Samples from which on a channel that is silent, or full, in all of them says something."""
LOUD = 0.5
"""A layer of which this share of neurons fires at every t of every sample passes on little."""

BY_BATCH = "batch norm by the batch's own statistics"


def training_mode(recording: Recording) -> Iterator[Finding]:
    """Dropout or batch norm that was found in training mode, or that goes by the batch in evaluation too."""
    modes = recording.facts["modes"]
    found = modes.get("found_in_training_mode", [])
    # Of other modules the mode says nothing.
    acting = [kind for kind in modes.get("training_kinds", []) if "Dropout" in kind or "Norm" in kind]
    if found and acting:
        yield Finding(
            "training-mode", "warning", None,
            f"the network was handed over in training mode with {', '.join(acting)}: it was recorded in evaluation "
            "mode, and runs otherwise where nobody switches it",
            {"modules": list(found)[:8], "number": len(found)}, "call eval() on both networks before running them",
            paste(recording, "accuracy"),
        )  # fmt: skip
    for bend in recording.facts.get("on_spikes", []):
        if bend["operation"] == BY_BATCH:
            yield Finding(
                "training-mode", "error", bend["module"] or None,
                "batch norm goes by the statistics of the batch, also in evaluation mode: a sample's spikes depend on "
                "the others, and differ from timestep to timestep",
                {"module": bend["module"]}, "keep running statistics (track_running_stats=True), and call eval()",
                paste(recording, "accuracy"),
            )  # fmt: skip
            return


def bends_on_spikes(recording: Recording) -> Iterator[Finding]:
    """Max-pooling, or another operation on spikes that does not commute with averaging over time."""
    if not recording.has_ann:
        return
    found = [bend for bend in recording.facts.get("on_spikes", []) if bend["operation"] != BY_BATCH]
    for operation in dict.fromkeys(bend["operation"] for bend in found):
        places = [bend["module"] for bend in found if bend["operation"] == operation]
        pooling = operation == "max-pooling"
        yield Finding(
            "non-linear-on-spikes", "warning", places[0] or None,
            f"spikes pass {operation}, which does not commute with averaging over time: the mean of what comes out is "
            "not what the ANN has",
            {"modules": places},
            "use average pooling and train with it (--average-pool tries it as it is)" if pooling else
            "put a spiking layer in its place, or an operation that is linear",
            paste(recording, "plot attribution", None, "attribution"),
        )  # fmt: skip


def without_partner(recording: Recording) -> Iterator[Finding]:
    """Activations of the ANN, or layers of the SNN, that the other network does not have."""
    unpaired = recording.facts.get("unpaired", [])
    if not recording.has_ann or not unpaired:
        return
    converted = recording.attributes.get("family") in ("own", "relu")
    by_name = {layer.name: layer for layer in recording.layers}
    alone = next((layer for layer in recording.layers if not layer.paired), None)
    first = str(unpaired[0]).split(" (")[0].removeprefix("ANN ").removeprefix("SNN ")
    layer = by_name.get(first, alone)
    yield Finding(
        "without-partner", "note" if converted else "warning", layer.name if layer is not None else first,
        f"{', '.join(map(str, unpaired[:6]))}: executed in one network only, so its activations are "
        f"{'left as they are' if converted else 'skipped, or not converted,'} in the other",
        {"unpaired": list(unpaired)},
        "put a spiking layer in place of each activation, and call each in both networks; pass "
        "--pair ANN.NAME=SNN.NAME where they are paired otherwise",
        paste(recording, "layers"), layer.index if layer is not None else None,
    )  # fmt: skip


# --------------------------------------------------------------------------------------------- silent, saturated


def _by_channel(layer: Layer, values: Any) -> Any:
    """Sums over each channel's neurons, (channel,)."""
    return np.asarray(values, np.float64).reshape(layer.shape[0], -1).sum(1)


class Meant(NamedTuple):
    """What the ANN has in each channel, (channel,)."""

    activation: Any
    """Its mean, in units of θ."""
    spikes: Any
    """The whole spikes of a neuron that it is worth in T timesteps: the mean of ⌊T·a/θ⌋, at most T each."""


def _meant(layer: Layer) -> Meant | None:
    """None where only statistics are kept."""
    if not layer.paired or not layer.has("ann_output"):
        return None
    recording, activation, spikes = layer.recording, np.zeros(layer.shape[0]), np.zeros(layer.shape[0])
    for first in range(0, recording.samples, 32):
        a = layer.read("ann_output", slice(first, min(first + 32, recording.samples))) / layer.threshold
        whole = np.clip(np.floor(a * recording.timesteps), 0, recording.timesteps)
        activation += _by_channel(layer, a.sum(0, dtype=np.float64))
        spikes += _by_channel(layer, whole.sum(0, dtype=np.float64))
    number = recording.samples * layer.neurons / layer.shape[0]
    return Meant(activation / number, spikes / number)


def _layer_is_meant(layer: Layer) -> float | None:
    """The ANN's mean activation in the layer, in units of θ, from its statistics."""
    coding = layer.coding(layer.recording.timesteps)
    statistics = layer.statistics_at(layer.recording.timesteps)
    if coding is None or statistics is None:
        return None
    count = int(statistics.cases.sum())
    phi = layer.spikes_per_neuron.sum() / (count * layer.recording.timesteps)
    return float(phi - coding.moment(statistics, 0) / count)


def _least(layer: Layer) -> int:
    """How many channels mean something: in a flat layer one is a single neuron."""
    return 1 if layer.neurons > layer.shape[0] else max(2, layer.neurons // 20)


def silent(recording: Recording) -> Iterator[Finding]:
    """Layers and channels that never fire, where the ANN's are active or there is none."""
    for layer in recording.layers:
        spikes = layer.spikes_per_neuron
        dead = _by_channel(layer, spikes != 0) == 0
        share = float((spikes == 0).mean())
        evidence: dict[str, Any] = {"silent_neurons": share, "silent_channels": int(dead.sum()),
                                    "channels": len(dead)}  # fmt: skip
        if dead.all():
            meant = _layer_is_meant(layer)
            if meant is not None and meant <= 0:
                continue
            evidence |= {} if meant is None else {"mean_activation_of_the_ann": meant}
            yield Finding(
                "silent", "error", layer.name, "no neuron of this layer fired in any sample", evidence,
                "check θ, v(0) and what the layer is fed; with T timesteps a neuron needs θ·(1 - v(0)/θ)/T a timestep",
                paste(recording, "layers"), layer.index,
            )  # fmt: skip
            return
        channels = _meant(layer)
        if channels is None or recording.samples < ENOUGH:
            continue
        wrong = dead & (channels.spikes > AWAKE)
        if int(wrong.sum()) >= _least(layer):
            yield Finding(
                "silent", "warning", layer.name,
                f"{int(wrong.sum())} of {len(dead)} channels never fire, and are active in the ANN",
                {**evidence, "first_channels": np.flatnonzero(wrong)[:8].tolist(),
                 "their_mean_activation_in_the_ann": float(channels.activation[wrong].mean())},
                "compare these channels' weights, θ and v(0) with the others'", table(layer), layer.index,
            )  # fmt: skip
            return


def saturated(recording: Recording) -> Iterator[Finding]:
    """Layers and channels that fire at every t of every sample, where the ANN's are not at their ceiling."""
    most = recording.samples * recording.timesteps
    for layer in recording.layers:
        full = layer.spikes_per_neuron >= most
        if layer.info.graded or not full.any() or recording.samples < ENOUGH:
            continue
        always = _by_channel(layer, full) == layer.neurons // layer.shape[0]
        share, meant = float(full.mean()), _meant(layer)
        in_ann = _layer_is_meant(layer)
        wrong = always & (meant.activation < FULL) if meant is not None else np.zeros_like(always)
        whole = share >= LOUD and (in_ann is None or in_ann < share * FULL)
        if not whole and int(wrong.sum()) < _least(layer):
            continue
        evidence = {"saturated_neurons": share, "saturated_channels": int(always.sum()), "channels": len(always)}
        if meant is not None and wrong.any():
            evidence |= {"first_channels": np.flatnonzero(wrong)[:8].tolist(),
                         "their_mean_activation_in_the_ann": float(meant.activation[wrong].mean())}  # fmt: skip
        yield Finding(
            "saturated", "warning", layer.name,
            f"{share:.1%} of the neurons fire at every timestep of every sample, and the ANN's are below their ceiling"
            if layer.paired else f"{share:.1%} of the neurons fire at every timestep of every sample",
            evidence, "raise θ, or check what the layer is fed: its bias, the weights before it, the scaling of spikes",
            table(layer), layer.index,
        )  # fmt: skip
        return


def not_finite(recording: Recording) -> Iterator[Finding]:
    """NaN or infinity among the logits and the summed inputs."""
    for what, logits in (("ANN", recording.ann_logits if recording.has_ann else None), ("SNN", recording.snn_logits)):
        if logits is not None and not bool(np.isfinite(logits).all()):
            yield Finding(
                "not-finite", "error", None, f"the {what}'s logits hold NaN or infinity",
                {"samples": int((~np.isfinite(logits)).reshape(len(logits), -1).any(1).sum())},
                "check the checkpoint and the data's normalisation", paste(recording, "accuracy"),
            )  # fmt: skip
    for layer in recording.layers:
        if not layer.has("input_sum"):
            continue
        bad = 0
        for first in range(0, recording.samples, 32):
            total = layer.read("input_sum", slice(first, min(first + 32, recording.samples)))
            bad += int((~np.isfinite(total)).reshape(len(total), -1).any(1).sum())
        if bad:
            yield Finding(
                "not-finite", "error", layer.name, "the layer's inputs hold NaN or infinity", {"samples": bad},
                "check the weights before it, and the data's normalisation", table(layer), layer.index,
            )  # fmt: skip
            return
