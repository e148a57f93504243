"""What the ANN's activations are, in one pass: the levels of a QCFS, or the numbers of a ReLU, and what is wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.tally import devices
from probe.tally.plan import Number
from probe.tally.workers import flat, kernels, row, share, workers


def find_levels(a: Tensor, threshold: npt.NDArray[np.float32], levels: int) -> tuple[Tensor, Number, Number]:
    """k = rint(a·L/θ), the level that each output stands on.

    Args:
        a: float32, (sample, *neuron).
        threshold: θ, float32, broadcastable to it.
        levels: L, at most 255.

    Returns:
        k in uint8, of the same shape; the largest distance of an a·L/θ from a whole number, NaN where there is one;
        and 1 if a k is below 0 or above L, else 0. The last two still lie on an accelerator.
    """
    factor = np.float32(levels) / threshold
    native = kernels() if devices.at_hand(a.device) else None
    if native is None:
        scaled = a * torch.from_numpy(np.asarray(factor)).to(a.device)
        level = scaled.round()
        lowest, highest = torch.aminmax(level)
        outside = (lowest < 0) | (highest > levels)
        return level.to(torch.uint8), scaled.sub_(level).abs_().max(), outside.to(torch.float32)
    values, factors = flat(a), row(np.asarray(factor), a.shape[1:])
    found = np.empty(len(values), np.uint8)

    def work(_worker: int, begin: int, end: int) -> tuple[float, bool]:
        told: tuple[float, bool] = native.find_levels(values, factors, levels, a[0].numel(), begin, end, found)
        return told

    told = share(len(values), work, threads=workers(len(values)))
    worst = float(np.max([one for one, _ in told]))
    return torch.from_numpy(found).view(a.shape), worst, float(any(outside for _, outside in told))
