"""What makes two pieces of a recording pieces of the same one: compared field by field, before they are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from probe.recording.schema import LayerInfo, RunInfo

OF_RUN = (
    "model", "model_args", "code_digest", "checkpoint_sha256", "weights_digest", "family", "method", "has_ann",
    "data", "split", "data_digest",
    "seed", "asked", "selection_digest", "timesteps", "record", "grid", "per_sample", "classes", "batch_size", "device",
    "torch_version", "created_by", "format_version",
)  # fmt: skip
"""Attributes of the root that pieces share."""
OF_SELECTION = ("seed", "asked", "selection_digest", "data_digest", "batch_size")
"""Those in which recordings of other samples differ, and may be joined nevertheless."""
OF_LAYER = (
    "name", "snn_name", "module", "neuron", "levels", "paired", "reset", "shape", "layout", "traits", "encoding",
    "initial_fraction",
)  # fmt: skip
"""Attributes of a layer; its parameters are compared too."""
PARAMETERS = ("threshold", "initial_potential", "height")

Identity = dict[str, Any]
"""Field -> value; a layer's as `layer 3: threshold`."""


def identity_of(file: h5py.File) -> Identity:
    """Of a part or a recording."""
    found: Identity = {name: file.attrs[name] for name in OF_RUN if name in file.attrs}
    if "layers" not in file:
        return found
    for index in sorted(file["layers"], key=int):
        layer = file[f"layers/{index}"]
        found |= {f"layer {index}: {name}": layer.attrs[name] for name in OF_LAYER}
        found |= {f"layer {index}: {name}": layer[name][()] for name in PARAMETERS}
    return found


def planned_identity(info: RunInfo, layers: Iterable[LayerInfo]) -> Identity:
    """Of what is going to be written."""
    attributes = info.attributes()
    found: Identity = {name: attributes[name] for name in OF_RUN}
    for layer in layers:
        of_layer = layer.attributes() | layer.parameters()
        found |= {f"layer {layer.index}: {name}": of_layer[name] for name in (*OF_LAYER, *PARAMETERS)}
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any], but: Iterable[str] = ()) -> Iterator[str]:
    """A clause for each field that differs.

    Args:
        there, here: two identities, the one that is on disk and the one that is to join it.
        but: fields that may differ.
    """
    left_out = set(but)
    for name in dict.fromkeys((*there, *here)):
        if name in left_out:
            continue
        if name not in there or name not in here:
            yield f"{name} is {'there' if name in there else 'here'} only"
        elif not np.array_equal(there[name], here[name]):
            yield f"{name} is {_text(there[name])} there and {_text(here[name])} here"


def _text(value: Any) -> str:
    values = np.asarray(value)
    if values.size <= 1 or values.dtype.kind in "USO":
        text = str(value)
        return text if len(text) <= 60 else text[:57] + "..."
    return f"{values.shape} values, the first {values.flat[0]}"
