"""Feature maps: the ANN's output, the SNN's and their difference, one above the other, for one sample."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure, SubFigure

from probe.plots.choice import choose_sample, outputs_of, strongest_channels
from probe.plots.colours import DIVERGING, MAP
from probe.plots.style import layer_title
from probe.recording import Layer

ROW = 64
"""How many neurons of a layer without channels stand in one row."""
OnFigure = TypeVar("OnFigure", Figure, SubFigure)
Maps = npt.NDArray[np.float32]


def draw_features(figure: OnFigure, layer: Layer, sample: int = 0) -> OnFigure:
    """Draw a, φ(T) and φ(T) − a in units of θ: a map for each of the channels that are most active in the sample.

    Without an ANN partner, φ(T) alone.

    Args:
        figure: to draw on.
        layer: recorded with `counts` or more, of the shape (channel, row, column); a layer of another shape is one map.
        sample: its index in the recording.
    """
    sample = choose_sample(layer.recording, sample)
    phi, a = outputs_of(layer, sample)
    channels = strongest_channels(phi, a) if len(layer.shape) >= 3 else []
    a = phi if a is None else a
    if channels:
        a, phi = (values.reshape(*layer.shape[:2], -1) for values in (a, phi))
        names, a, phi = [f"channel {c}" for c in channels], a[channels], phi[channels]
    else:
        names, a, phi = [""], _one_map(a)[None], _one_map(phi)[None]
    axes = figure.subplots(3 if layer.paired else 1, len(names), squeeze=False)
    difference = phi - a
    both = np.stack([a, phi])
    low, high = min(0.0, float(np.nanmin(both))), float(np.nanmax(both)) or 1.0
    most = float(np.nanmax(np.abs(difference))) or 1 / layer.recording.timesteps
    rows = [
        (a, "a", MAP, low, high),
        (phi, "φ(T)", MAP, low, high),
        (difference, "φ(T) − a", DIVERGING, -most, most),
    ]
    rows = rows if layer.paired else rows[1:2]
    for row, (values, label, colours, lowest, highest) in enumerate(rows):
        for column, values_of_channel in enumerate(values):
            ax = axes[row, column]
            image = ax.imshow(
                values_of_channel, cmap=colours, vmin=lowest, vmax=highest, interpolation="nearest",
                aspect="equal" if len(layer.shape) >= 3 else "auto",
            )  # fmt: skip
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
            if row == 0:
                ax.set_title(names[column], fontsize=8.5, loc="center")
            if column == 0:
                ax.set_ylabel(label)
        if not layer.paired:
            figure.colorbar(image, ax=axes, label="φ(T) (θ)")
        elif row > 0:
            figure.colorbar(
                image, ax=axes[:2] if row == 1 else axes[2], aspect=24 if row == 1 else 12,
                label="a and φ(T) (θ)" if row == 1 else "difference (θ)",
            )  # fmt: skip
    if len(layer.shape) < 3:
        axes[-1, 0].set_xlabel(_order_of(layer.shape))
    figure.suptitle(layer_title(layer, sample=sample), x=0.01, ha="left")
    return figure


def _one_map(values: Maps) -> Maps:
    """The values of a layer without channels as one map; a long vector breaks into rows, filled up with NaN."""
    if values.ndim == 2:
        return values
    rows = -(-values.size // ROW)
    padded = np.full(max(1, rows) * min(ROW, values.size), np.nan, np.float32)
    padded[: values.size] = values.ravel()
    return padded.reshape(rows, -1)


def _order_of(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return f"{shape[1]} columns of {shape[0]} rows, as in the layer"
    return f"neurons 0 to {shape[0] - 1}" + (f", {ROW} in a row" if shape[0] > ROW else "")
