"""What several checks share: commands to paste, accuracy lost beyond noise, and what a layer's arrays tell."""

from __future__ import annotations

import math
import shlex
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from probe.analysis import right_answers, statistics_at
from probe.attribution import Statistics, summarise, why_not_even
from probe.attribution.analog import from_limbs
from probe.attribution.common import PIECES
from probe.intervals import chance
from probe.recording import Layer, Recording

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ALARM = 0.01
"""A difference that chance makes less often than this is beyond noise; a diagnosis has some ten chances to be wrong."""
VALUES = 1 << 21
"""Numbers of an array that a check looks at: 16 MiB as float64, and thousands of neurons a layer."""
LOOKED_AT = 256
"""Samples of a recording that a check looks at where it does not need all."""


def paste(recording: Recording, command: str, layer: Layer | None = None, picture: str = "") -> str:
    """A command to paste: `probe COMMAND FILE --layer L -o PICTURE-layerL.png --overwrite`."""
    parts = ["probe", *command.split(), shlex.quote(str(recording.path))]
    if layer is not None:
        parts += ["--layer", str(layer.index)]
    if picture:
        # Pasted twice, it replaces its own picture.
        parts += ["-o", f"{picture}{'' if layer is None else f'-layer{layer.index}'}.png", "--overwrite"]
    return " ".join(parts)


def table(layer: Layer) -> str:
    """The command that shows a layer's numbers."""
    command = "unevenness" if layer.paired else "layers"
    return paste(layer.recording, command, layer if layer.paired else None)


# ------------------------------------------------------------------------------------------------------ accuracy


class Lost(NamedTuple):
    """Accuracy before and after, of the same samples."""

    before: float
    after: float
    p: float
    """That chance alone loses as much."""

    @property
    def significant(self) -> bool:
        """Beyond noise."""
        return self.p < ALARM


def lost(before: Mask, after: Mask, looks: int = 1) -> Lost:
    """What was lost between two runs on the same samples.

    Args:
        before, after: which samples were right, (sample,).
        looks: how many such pairs were looked at to find this one, by which p is multiplied (Bonferroni).
    """
    p = min(1.0, looks * chance(int((before & ~after).sum()), int((after & ~before).sum())))
    return Lost(float(before.mean()), float(after.mean()), p)


def lost_by_conversion(recording: Recording) -> Lost | None:
    """The SNN's accuracy at T beside the ANN's; None where there is no ANN."""
    ann, snn = right_answers(recording)
    return None if ann is None else lost(ann, snn[:, -1])


# --------------------------------------------------------------------------------------------------------- layers


class Shares(NamedTuple):
    """What a layer's error at some t is made of."""

    mean_square: float
    """Of φ - a, in θ²."""
    share: dict[str, float]
    """Piece -> its signed share."""
    piece: dict[str, float]
    """Piece -> its mean square, in θ²."""
    activation: float
    """The mean square of a, in θ²."""

    @property
    def relative(self) -> float:
        """The error as a share of the activation, both as mean squares; 0 where nothing is active."""
        return self.mean_square / self.activation if self.activation else 0.0

    @property
    def own(self) -> float:
        """The share of all that is this layer's own."""
        return sum(value for name, value in self.share.items() if name != "inherited")


def shares_at(layer: Layer, timestep: int) -> Shares | None:
    """What a layer's error at t is made of; None where the recording cannot tell."""
    coding = layer.coding(timestep)
    if coding is None or why_not_even(layer.traits, layer.initial_fraction) or timestep not in layer.recording.grid:
        return None
    statistics = statistics_at(layer, timestep)
    if statistics is None:
        return None
    found = summarise(statistics, coding)["attribution"]
    return Shares(
        float(found["total"]["mean_square"]),
        {name: float(found[name]["share"] or 0) for name in PIECES},
        {name: float(found[name]["mean_square"]) for name in PIECES},
        _activation(statistics, layer.levels),
    )


def _activation(statistics: Statistics, levels: int | None) -> float:
    """The mean of (a/θ)²: Σk² is kept with levels, and Σ(a/θ)², in limbs, without."""
    number = int(statistics.cases.sum())
    total = from_limbs(statistics.sums[3]) if levels is None else float(statistics.sums[3]) / levels**2
    return total / number if number else 0.0


def theta_of(layer: Layer) -> Doubles:
    """θ of every neuron, (neuron,)."""
    return np.broadcast_to(layer.threshold, (1, *layer.shape)).reshape(-1).astype(np.float64)


def channel_of(layer: Layer) -> npt.NDArray[np.int64]:
    """The channel of every neuron, (neuron,): its place on the first axis."""
    return np.repeat(np.arange(layer.shape[0]), layer.neurons // layer.shape[0])


def stride_for(layer: Layer, samples: int, timesteps: int = 1) -> int:
    """Every how many-th neuron is looked at, so that `VALUES` numbers do."""
    return max(1, -(-layer.neurons * samples * timesteps // VALUES))


class Sides(NamedTuple):
    """What stands for a layer's input in both networks, (sample, neuron), in units of θ; NaN where it says nothing."""

    ann: Doubles
    snn: Doubles
    """The mean over t."""


def inputs_of(layer: Layer) -> Sides | None:
    """Both networks' inputs of a layer; where only counts are kept, the ANN's follow from a between 0 and θ.

    None where there is no partner or the recording keeps no arrays.
    """
    if not layer.paired or not layer.has("input_sum"):
        return None
    samples = slice(0, min(layer.recording.samples, LOOKED_AT))
    step = stride_for(layer, samples.stop)
    theta = theta_of(layer)[::step]

    def flat(name: str) -> Doubles:
        pieces = [layer.read(name, slice(i, min(i + 32, samples.stop))) for i in range(0, samples.stop, 32)]
        return np.concatenate([piece.reshape(len(piece), -1)[:, ::step] for piece in pieces]).astype(np.float64) / theta

    snn = flat("input_sum") / layer.recording.timesteps
    if layer.has("ann_input"):
        return Sides(flat("ann_input"), snn)
    a = flat("ann_output")
    # Where the activation is flat it says nothing of its input.
    top = np.inf if layer.levels is None else 1 - 0.5 / layer.levels
    return Sides(np.where((a > 0) & (a < top), a, np.nan), snn)


def outputs_of(layer: Layer) -> Sides | None:
    """a and φ(T) of a layer, as `inputs_of`."""
    if not layer.paired or not layer.has("spike_count"):
        return None
    samples = slice(0, min(layer.recording.samples, LOOKED_AT))
    step = stride_for(layer, samples.stop)
    theta = theta_of(layer)[::step]
    a = layer.read("ann_output", samples).reshape(samples.stop, -1)[:, ::step] / theta
    n = layer.read("spike_count", samples).reshape(samples.stop, -1)[:, ::step]
    return Sides(a.astype(np.float64), n.astype(np.float64) / layer.recording.timesteps)


class Gain(NamedTuple):
    """How the SNN's side follows the ANN's, sample by sample."""

    slope: float
    correlation: float
    pairs: int
    """Numbers that were compared."""


def gain(sides: Sides) -> Gain | None:
    """The slope b and correlation r of the SNN's side on the ANN's, of all neurons together, each less its own means.

    With f, g the two sides less each neuron's mean over samples: b = Σfg/Σf², r = Σfg/√(Σf²·Σg²). Means are taken off
    because a bias, which zero padding makes differ from place to place, is not scaled. None where nothing varies.
    """
    known = ~np.isnan(sides.ann)
    number = known.sum(0)
    use = number >= 3
    if not use.any():
        return None
    f, g, known = np.where(known, sides.ann, 0)[:, use], np.where(known, sides.snn, 0)[:, use], known[:, use]
    f, g = ((side - side.sum(0) / number[use]) * known for side in (f, g))
    ff, gg, fg = float((f * f).sum()), float((g * g).sum()), float((f * g).sum())
    if ff <= 0 or gg <= 0:
        return None
    return Gain(fg / ff, fg / math.sqrt(ff * gg), int(number[use].sum()))
