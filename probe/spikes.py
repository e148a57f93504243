"""Spike trains to bits and back: eight neurons a byte, the first neuron in the highest bit.

A plain reader needs two lines: ``bits = numpy.unpackbits(raw, axis=-1)[..., :neurons]`` and a reshape to the
layer's shape.

    >>> import numpy as np
    >>> pack(np.array([1, 0, 0, 0, 0, 0, 0, 1, 1]))
    array([129, 128], dtype=uint8)
    >>> unpack(pack(np.array([1, 0, 1])), 3)
    array([1, 0, 1], dtype=int8)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def packed_size(neurons: int) -> int:
    """Bytes that the spikes of this many neurons take at one timestep."""
    return -(-neurons // 8)


def pack(spikes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Bits of a spike train.

    Args:
        spikes: nonzero where a neuron fired, shape (..., neuron).

    Returns:
        uint8, shape (..., byte).
    """
    return np.packbits(spikes != 0, axis=-1)


def unpack(packed: npt.NDArray[np.uint8], neurons: int) -> npt.NDArray[np.int8]:
    """The spike train behind some bits: 0 or 1, int8, shape (..., neuron)."""
    return np.unpackbits(packed, axis=-1, count=neurons).view(np.int8)
