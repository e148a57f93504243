"""The bundled networks with their weights: `load("digits")`, `load("resnet20-cifar10")`; `train.py` made them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from probe.errors import ProbeError
from probe.zoo.networks import digits_vgg, resnet20

Network = TypeVar("Network", bound=nn.Module)

ZOO: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "digits": (digits_vgg, "digits"),
    "resnet20-cifar10": (resnet20, None),
}
"""Name -> (architecture, the bundled data it was trained on, or None where the images are not bundled)."""


def load(name: str) -> nn.Module:
    """A bundled network with its trained weights, in evaluation mode.

    Raises:
        ProbeError: no network is called that.
    """
    if name not in ZOO:
        raise ProbeError(f"unknown model zoo:{name}", expected=" or ".join(f"zoo:{known}" for known in ZOO))
    return load_weights(ZOO[name][0](), Path(str(files("probe.zoo") / "weights" / f"{name}.npz")))


def load_weights(network: Network, file: Path) -> Network:
    """Put the weights of an .npz file into `network` and return it, in evaluation mode."""
    with np.load(file, allow_pickle=False) as archive:
        state = {name: torch.from_numpy(archive[name].astype(np.float32)) for name in archive.files}
    missing = network.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in missing.missing_keys):
        raise ProbeError(f"{file}: {missing}", expected="the weights of this architecture")
    return network.eval()
