"""Where tensors lie, and whether their values are at hand."""

from __future__ import annotations

import torch


def at_hand(device: torch.device) -> bool:
    """True where a value can be looked at without waiting: not so on an accelerator, which runs behind."""
    return device.type == "cpu"
