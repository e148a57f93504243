"""probe: how a spiking network differs from the ANN it was converted from, layer by layer and timestep by timestep.

The data's way: a `family` runs the network as ANN and as SNN, `run` captures every spiking layer into a `recording`,
`attribution` says where each error comes from, `analysis` puts it in tables, `plots` draws it.

    >>> import probe
    >>> with probe.open("recording.h5") as recording:
    ...     table = probe.unevenness(recording, layers="0")
    >>> table["layers"][0]["oracle"]["violations"]
    0

The public names below are loaded when they are first used, so that `import probe` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe.ablation import sensitivity as sensitivity
    from probe.analysis import accuracy as accuracy
    from probe.analysis import error_figures as error_figures
    from probe.analysis import layer_table as layer_table
    from probe.analysis import trace as trace
    from probe.analysis import unevenness as unevenness
    from probe.compare import diff as diff
    from probe.conditions import check as check
    from probe.diagnosing import diagnose as diagnose
    from probe.errors import ProbeError as ProbeError
    from probe.exporting import export as export
    from probe.families import LayerPair as LayerPair
    from probe.families import Subject as Subject
    from probe.families import Traits as Traits
    from probe.merging import merge as merge
    from probe.plots import draw as draw
    from probe.recording import Recording as Recording
    from probe.recording import open_recording as open  # noqa: F401
    from probe.reporting import report as report
    from probe.session import capture as capture
    from probe.study import sweep as sweep
    from probe.surrogates import measure_surrogate as measure_surrogate
    from probe.training import gradients as gradients
    from probe.verification import verify as verify
    from probe.watching import watch as watch
    from probe.what_if import suppose as suppose

__version__ = "0.1.0"

_PUBLIC = {
    "capture": ("probe.session", "capture"),
    "sweep": ("probe.study", "sweep"),
    "sensitivity": ("probe.ablation", "sensitivity"),
    "open": ("probe.recording", "open_recording"),
    "unevenness": ("probe.analysis", "unevenness"),
    "accuracy": ("probe.analysis", "accuracy"),
    "error_figures": ("probe.analysis", "error_figures"),
    "check": ("probe.conditions", "check"),
    "diagnose": ("probe.diagnosing", "diagnose"),
    "diff": ("probe.compare", "diff"),
    "layer_table": ("probe.analysis", "layer_table"),
    "trace": ("probe.analysis", "trace"),
    "verify": ("probe.verification", "verify"),
    "merge": ("probe.merging", "merge"),
    "export": ("probe.exporting", "export"),
    "suppose": ("probe.what_if", "suppose"),
    "measure_surrogate": ("probe.surrogates", "measure_surrogate"),
    "watch": ("probe.watching", "watch"),
    "gradients": ("probe.training", "gradients"),
    "draw": ("probe.plots", "draw"),
    "report": ("probe.reporting", "report"),
    "Recording": ("probe.recording", "Recording"),
    "ProbeError": ("probe.errors", "ProbeError"),
    "Subject": ("probe.families", "Subject"),
    "LayerPair": ("probe.families", "LayerPair"),
    "Traits": ("probe.families", "Traits"),
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
