"""The activations of an ANN, recognised by what a module has: probe's own QCFS, QCFS of two papers' code, ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from probe.families import detached
from probe.neurons import QCFS


@dataclass(frozen=True)
class Activation:
    """An activation of an ANN.

    Attributes:
        module: it.
        levels: L; None for ReLU.
        threshold: θ; None for ReLU.
    """

    module: nn.Module
    levels: int | None = None
    threshold: npt.NDArray[np.float32] | None = None


def is_merged(module: nn.Module) -> bool:
    """An activation that is QCFS at T = 0 and an IF neuron with time merged into the batch at T > 0."""
    return all(hasattr(module, name) for name in ("thresh", "L", "T", "expand", "merge"))


def activation_of(module: Any) -> Activation | None:
    """What `module` is as an activation; None if it is none.

    QCFS of the merged code has `thresh` and `L`, that of the stepwise code `up` and `t`, where t means L.
    """
    if isinstance(module, QCFS):
        return Activation(module, module.levels, detached(module.threshold))
    if is_merged(module):
        return Activation(module, int(module.L), _scalar(module.thresh))
    if hasattr(module, "up") and isinstance(getattr(module, "t", None), int) and not hasattr(module, "neuron"):
        return Activation(module, int(module.t), _scalar(module.up))
    # A subclass may do anything; ReLU6 clips, which is no rectifier to an IF neuron.
    if type(module) is nn.ReLU:
        return Activation(module)
    return None


def _scalar(value: object) -> npt.NDArray[np.float32]:
    """θ of the shape [1] as a number, which broadcasts whatever the layer's shape."""
    threshold = detached(value)
    return threshold.reshape(()) if threshold.size == 1 else threshold


def activations_of(network: nn.Module) -> dict[str, Activation]:
    """The activations of a network by dotted path, in the order of its modules.

    A module inside another activation is none of its own (COS keeps one in its spiking layer).
    """
    found: dict[str, Activation] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(outer + ".") for outer in found)
        activation = None if inside else activation_of(module)
        if activation is not None:
            found[name] = activation
    return found
