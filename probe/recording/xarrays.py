"""A recording as xarray has it: named axes, labels beside the samples, arrays read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from probe.errors import ProbeError
from probe.layers import select_layers, specs_of
from probe.recording.schema import FIELDS, OVER_TIME

if TYPE_CHECKING:
    import xarray

    from probe.recording.reader import Layer, Recording

NEURON_AXES = {1: ("neuron",), 3: ("channel", "row", "column")}
"""Number of axes of a layer -> their names; others are numbered."""
MEANING = {
    "spike_count": ("n at T, net spikes", "spikes"),
    "ann_output": ("a, the ANN's activation", "a"),
    "input_sum": ("Σx over all T", "a"),
    "silenced": ("silenced by SRP", "1"),
    "snn_spikes": ("s(t)", "spikes"),
    "ann_input": ("the ANN's pre-activation", "a"),
    "snn_input": ("x(t)", "a"),
    "membrane_potential": ("v(t)", "a"),
}
"""Array -> what it is, and its unit; `a` is that of the activation and of θ."""


def neuron_axes(shape: Sequence[int]) -> tuple[str, ...]:
    """Names of the axes of a layer: channel, row, column of images, neuron of vectors, neuron_0, ... of others."""
    return NEURON_AXES.get(len(shape)) or tuple(f"neuron_{i}" for i in range(len(shape)))


def tree_of(recording: Recording, layers: Sequence[str | int] | str | int | None) -> xarray.DataTree:
    """See `Recording.to_xarray`."""
    xr = _xarray()
    if not hasattr(xr, "DataTree"):
        raise ProbeError(
            f"xarray {xr.__version__} has no DataTree", expected="xarray 2024.10 or newer",
            next_step="pip install --upgrade 'snn-probe[xarray]'",
        )  # fmt: skip
    chosen = select_layers(recording.layers, specs_of(layers))
    logits = {"snn": ("sample", "timestep", "class"), **({"ann": ("sample", "class")} if recording.has_ann else {})}
    root = xr.Dataset(
        {f"{network}_logits": (axes, _logits(recording, f"output/{network}")) for network, axes in logits.items()},
        _coordinates(recording, over_time=True),
        # netCDF has no truth values.
        {
            key: int(value) if isinstance(value, bool) else value
            for key, value in recording.attributes.items()
            if isinstance(value, str | int | float)
        },
    )
    # A name may hold a slash, which separates groups, so the index names the group.
    groups = {f"/layers/{layer.index}": dataset_of(layer) for layer in chosen}
    tree: xarray.DataTree = xr.DataTree.from_dict({"/": root, **groups})
    return tree


def dataset_of(layer: Layer) -> xarray.Dataset:
    """See `Layer.to_xarray`."""
    xr = _xarray()
    axes = neuron_axes(layer.shape)
    variables: dict[str, Any] = {
        name: _parameter(values, axes)
        for name, values in (("threshold", layer.threshold), ("initial_potential", layer.initial_potential))
    }
    for name in (name for name in FIELDS if layer.has(name)):
        time = ("timestep",) if name in OVER_TIME else ()
        said, unit = MEANING[name]
        variables[name] = xr.Variable(("sample", *time, *axes), _array(layer, name), {"long_name": said, "units": unit})
    attributes = {
        "index": layer.index, "name": layer.name, "module": layer.module, "neuron": layer.neuron,
        "timesteps": layer.recording.timesteps, "initial_fraction": layer.initial_fraction,
        "units": "a: that of the ANN's activation, as of θ",
    }  # fmt: skip
    if layer.levels is not None:
        attributes["levels"] = layer.levels
    if layer.threshold.size == 1:
        attributes["threshold"] = float(layer.threshold.reshape(()))
    over_time = any(layer.has(name) for name in OVER_TIME)
    made: xarray.Dataset = xr.Dataset(variables, _coordinates(layer.recording, over_time=over_time), attributes)
    return made


def _xarray() -> Any:
    try:
        import xarray
    except ImportError:
        raise ProbeError(
            "xarray is not installed", expected="the extra", next_step="pip install 'snn-probe[xarray]'"
        ) from None
    return xarray


def _coordinates(recording: Recording, *, over_time: bool) -> Mapping[str, Any]:
    sample = ("sample",)
    found = {
        "sample": (sample, np.arange(recording.samples), {"long_name": "place in the recording"}),
        "index": (sample, recording.indices, {"long_name": "place in the data set"}),
        "label": (sample, recording.labels, {"long_name": "class"}),
    }
    if over_time:
        found["timestep"] = (("timestep",), np.arange(1, recording.timesteps + 1), {"long_name": "t"})
    return found


def _parameter(values: Any, axes: tuple[str, ...]) -> tuple[tuple[str, ...], Any]:
    """θ or v(0) with the axes along which it differs, so that it broadcasts by name."""
    full = values.reshape((1,) * (1 + len(axes) - values.ndim) + values.shape)
    kept = [i for i, size in enumerate(full.shape) if size > 1]
    return tuple(("sample", *axes)[i] for i in kept), full.reshape([full.shape[i] for i in kept])


def _array(layer: Layer, name: str) -> Any:
    time = (layer.recording.timesteps,) if name in OVER_TIME else ()
    shape = (layer.recording.samples, *time, *layer.shape)
    # Of no sample: it says the type.
    return _lazy(partial(layer.read, name), shape, layer.read(name, slice(0, 0)).dtype, 1 + len(time))


def _logits(recording: Recording, name: str) -> Any:
    first = recording.read(name, slice(0, 1))
    shape = (recording.samples, *first.shape[1:])
    return _lazy(lambda *spans: recording.read(name, spans), shape, first.dtype, len(shape))


def _lazy(read: Callable[..., Any], shape: tuple[int, ...], dtype: Any, cut: int) -> Any:
    """An array that xarray reads when it needs values, and then only what it needs of the first axes.

    Args:
        read: takes a slice for each of the first `cut` axes, and gives the array cut by them.
    """
    from xarray.backends import BackendArray
    from xarray.core import indexing

    class Stored(BackendArray):
        """An array of an open recording."""

        def __init__(self) -> None:
            self.shape, self.dtype = shape, dtype

        def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
            return indexing.explicit_indexing_adapter(key, shape, indexing.IndexingSupport.BASIC, self._read)

        def _read(self, key: tuple[Any, ...]) -> Any:
            values = read(*(one if isinstance(one, slice) else slice(one, one + 1) for one in key[:cut]))
            # These axes are cut already, a single place of one to an axis of one.
            done = (slice(None) if isinstance(one, slice) else 0 for one in key[:cut])
            return values[(*done, *key[cut:])]

        def __reduce__(self) -> str | tuple[Any, ...]:
            raise ProbeError(
                "arrays of an open recording cannot be pickled", expected="loaded ones", next_step="call .load() first"
            )

        def __copy__(self) -> Stored:
            return self

        def __deepcopy__(self, memo: dict[int, Any]) -> Stored:
            return self

    return indexing.LazilyIndexedArray(Stored())
