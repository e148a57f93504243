"""Pictures of a recording: one file a kind, each a function that draws on a given Axes or Figure and returns it.

`draw` looks the kind up, makes a figure of the right size and gives each layer its panel:

    >>> import probe
    >>> from probe.plots import draw, save
    >>> with probe.open("recording.h5") as recording:
    ...     path = save(draw(recording, "phi", layers="0"), "phi-layer0.png")

Another kind is one file here and one line in `KINDS`. This module names the kinds without loading matplotlib, and
none of its neighbours touches `pyplot`: figures are plain objects, and none has to be closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from probe.errors import ProbeError
from probe.plots.saving import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from probe.analysis import Trace
    from probe.plots.choice import LayerChoice, NeuronChoice
    from probe.recording import Recording
    from probe.surrogates import MeasuredSurrogate

__all__ = ["KINDS", "Plot", "draw", "draw_ranking", "draw_study", "draw_surrogates", "draw_trace", "save"]


@dataclass(frozen=True)
class Plot:
    """A kind of plot.

    Attributes:
        summary: one line on what it shows.
        function: ``file.function`` in this package. It is called with what to draw on (an Axes, or a Figure where
            `on_figure`), with what to draw, and by keyword with what it `takes`.
        over: what one panel shows: the `network` (a recording), several `layers` (a list) or one `layer`.
        takes: `timestep` (one t), `sample` (a panel each), `neurons` (all in one panel) or `neuron` (a panel each).
        size: width and height of a panel, in inches.
        per_layer: inches of height that each layer adds, where several are drawn together.
        on_figure: it lays out axes of its own; by default one layer is drawn, the first.
    """

    summary: str
    function: str
    over: Literal["network", "layers", "layer"]
    takes: tuple[str, ...] = ()
    size: tuple[float, float] = (5.6, 4.2)
    per_layer: float = 0.0
    on_figure: bool = False

    def load(self) -> Callable[..., object]:
        """The function that draws; imports matplotlib."""
        module, name = self.function.split(".")
        function: Callable[..., object] = getattr(import_module(f"{__name__}.{module}"), name)
        return function


KINDS: dict[str, Plot] = {
    "raster": Plot("spikes of chosen neurons over time, for one sample", "raster.draw_raster", "layer",
                   ("sample", "neurons"), size=(5.6, 5.6)),
    "rates": Plot("firing rate of each layer at each timestep", "rates.draw_rates", "layers",
                  size=(8.4, 1.6), per_layer=0.28),
    "cases": Plot("share of each of the six cases, by layer", "case_bars.draw_cases", "layers",
                  ("timestep",), size=(8.4, 1.6), per_layer=0.28),
    "attribution": Plot("what the error is made of, by layer; over t for a single layer",
                        "attribution_bars.draw_attribution", "layers", ("timestep",), size=(8.4, 1.6), per_layer=0.28),
    "phi": Plot("φ against a, and the staircase of an exact conversion", "phi_against_a.draw_phi", "layer",
                ("timestep",)),
    "offsets": Plot("histogram of the offset spikes", "offset_spikes.draw_offsets", "layer", ("timestep",)),
    "residual": Plot("histogram of the residual potential", "residual_potential.draw_residual", "layer",
                     ("timestep",)),
    "accuracy": Plot("accuracy of the SNN over t, and the ANN's", "accuracy_curve.draw_accuracy", "network"),
    "features": Plot("a, φ(T) and their difference as maps, for one sample", "feature_maps.draw_features", "layer",
                     ("sample",), size=(9.6, 4.4), on_figure=True),
    "trace": Plot("one neuron over time: input, potential, spikes, output", "neuron_trace.draw_neuron", "layer",
                  ("sample", "neuron"), size=(7.2, 6.4), on_figure=True),
}  # fmt: skip
"""Every kind, by the name that `draw` and `probe plot` know it by."""


def draw(
    recording: Recording,
    kind: str,
    *,
    layers: LayerChoice = None,
    timestep: int | None = None,
    samples: int | Sequence[int] | None = None,
    neurons: NeuronChoice = None,
    size: tuple[float, float] | None = None,
) -> Figure:
    """Draw one kind of plot of a recording.

    Args:
        recording: an open recording.
        kind: a name in `KINDS`.
        layers: an index, name or pattern, or several (see `probe.analysis.select_layers`); by default every layer,
            or the first for `features` and `trace`. A kind that shows one layer gets a panel for each.
        timestep: t, from 1, of the recording's grid; by default T, but `attribution` of a single layer shows them all.
        samples: one or several indices in the recording, for `raster`, `features` and `trace`, each in a panel; by
            default the first, or the one with the layer's largest error for `trace`.
        neurons: for `raster` and `trace`, one neuron (a tuple of indices, or its flat index) or a list of neurons; by
            default the 40 most active, or the one with the sample's largest error for `trace`.
        size: width and height of the figure in inches; by default what its panels need.

    Returns:
        A figure that belongs to no window; `save` writes it.

    Raises:
        ProbeError: no such kind, an argument that the kind does not take or that is out of range, or the recording
            does not hold what is to be drawn.
    """
    if kind not in KINDS:
        raise ProbeError(f"no plot {str(kind)!r}", expected="one of " + ", ".join(KINDS))
    from probe.plots.panels import compose

    return compose(kind, KINDS[kind], recording, layers, timestep, samples, neurons, size)


def draw_trace(trace: Trace, *, size: tuple[float, float] | None = None) -> Figure:
    """Draw one neuron over time, as `draw` does for the kind `trace`.

    Args:
        trace: from `probe.trace`.
        size: width and height of the figure in inches.
    """
    from matplotlib.figure import Figure

    from probe.plots import style
    from probe.plots.neuron_trace import draw_steps

    with style.applied():
        figure = draw_steps(Figure(figsize=size or KINDS["trace"].size, layout="constrained"), trace)
        figure.draw_without_rendering()
    return figure


def draw_study(result: Mapping[str, Any]) -> Figure:
    """Accuracy over T of every method, from what `probe.sweep` returned."""
    from matplotlib.figure import Figure

    from probe.plots.style import applied
    from probe.plots.sweep_curves import draw_sweep

    with applied():
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
        draw_sweep(figure.add_subplot(), result)
    return figure


def draw_ranking(result: Mapping[str, Any]) -> Figure:
    """The layers by what they cost, accuracy beside output error, from what `probe.sensitivity` returned."""
    from matplotlib.figure import Figure

    from probe.plots.layer_ranking import draw_sensitivity
    from probe.plots.style import applied

    with applied():
        figure = Figure(figsize=(10.4, 2.1 + 0.26 * len(result["layers"])), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_sensitivity(left, result)
        draw_sensitivity(right, result, of="error")
        # The rows and the words are those of the left panel.
        right.set_yticks([])
        right.set_title("")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_surrogates(measured: Sequence[MeasuredSurrogate]) -> Figure:
    """Forward and gradient of surrogates over v − θ, from what `probe.measure_surrogate` returned for each."""
    from matplotlib.figure import Figure

    from probe.plots.style import applied
    from probe.plots.surrogate_curves import draw_curves

    with applied():
        figure = Figure(figsize=(6.8, 5.2 + 0.1 * len(measured)), layout="constrained")
        draw_curves(figure, measured)
    return figure
