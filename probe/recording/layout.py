"""Lays out an empty recording: groups, attributes and datasets without a sample.

All of it before the first batch: a file in which groups or attributes are made between flushes may not open after a
kill.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from probe.recording.schema import LayerInfo, RunInfo, Stored

STEPWISE = ("snn_input", "snn_spikes", "membrane_potential")
OF_ANN = ("samples/digest_ann", "output/ann")


def network_arrays(info: RunInfo) -> dict[str, Stored]:
    """The per-sample datasets of the network itself, by path."""
    every = {
        "samples/index": Stored((), np.int64),
        "samples/label": Stored((), np.int64),
        "samples/digest_ann": Stored((), np.uint64),
        "samples/digest_snn": Stored((), np.uint64),
        "output/ann": Stored((info.classes,), np.float32),
        "output/snn": Stored((info.timesteps, info.classes), np.float32),
    }
    return {name: stored for name, stored in every.items() if info.has_ann or name not in OF_ANN}


def lay_out(file: h5py.File, info: RunInfo, layers: Iterable[LayerInfo], *, arrays: bool = True) -> None:
    """Give an empty file the structure of a recording of no sample; `arrays` says whether with per-sample datasets."""
    file.attrs.update(info.attributes())
    file.attrs["complete"], file.attrs["samples"] = False, 0
    file.create_group("facts")
    if arrays:
        for name, stored in network_arrays(info).items():
            _create(file, name, stored, info)
    for layer in layers:
        group = file.create_group(f"layers/{layer.index}")
        group.attrs.update(layer.attributes())
        for name, values in layer.parameters().items():
            # A single number cannot carry a checksum; the seal covers it.
            group.create_dataset(name, data=values, fletcher32=True if values.ndim else None)
        if arrays:
            for name, stored in layer.arrays(info.record, info.timesteps).items():
                dataset = _create(group, name, stored, info)
                if name == "ann_output":
                    dataset.attrs["encoding"] = layer.encoding if layer.encodes else "raw"
        group.create_group("statistics")


def _create(parent: h5py.Group, name: str, stored: Stored, info: RunInfo) -> h5py.Dataset:
    # Beside the raw inputs of `full`, what deflating k and n would save is nothing, and the time is not.
    dwarfed = info.record == "full" and name in ("spike_count", "ann_output")
    deflate = np.dtype(stored.dtype).kind in "iu" and not dwarfed
    return parent.create_dataset(
        name,
        shape=(0, *stored.shape),
        maxshape=(None, *stored.shape),
        dtype=stored.dtype,
        chunks=stored.chunks(info.batch_size, stepwise=name in STEPWISE),
        fletcher32=True,
        compression="gzip" if deflate else None,
        compression_opts=1 if deflate else None,
    )


def conclude(file: h5py.File, facts: Mapping[str, Any], *, samples: int, complete: bool) -> None:
    """Write what is known at the end, but for the seal: the facts, how many samples, and whether they are all."""
    for name, fact in facts.items():
        file["facts"].create_dataset(name, data=json.dumps(fact))
    file.attrs["samples"], file.attrs["complete"] = samples, complete
