"""The recording: one HDF5 file, format 1, sample first, readable with plain h5py, MATLAB or h5ls.

    >>> import probe
    >>> with probe.open("recording.h5") as recording:
    ...     recording.layers[1].snn_spikes.shape  # (sample, timestep, *neuron)
    (40, 8, 16, 8, 8)

docs/recording.md describes every dataset, attribute and encoding for those who read the file themselves; a test holds
the page against recordings of every kind. Names and shapes stand in `schema`; `layout` makes them, `writer` fills them
in parts, `joining` makes one recording of these, and `reader` makes sure of all before it believes a byte.
"""

from probe.recording.reader import Layer, Recording, open_recording
from probe.recording.schema import PRESETS, Batch, LayerInfo, RunInfo
from probe.recording.writer import Writer

__all__ = ["PRESETS", "Batch", "Layer", "LayerInfo", "Recording", "RunInfo", "Writer", "open_recording"]
