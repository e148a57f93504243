"""ReLU networks trained on the bundled digits, and what SpikingJelly, sinabs and snnTorch make of them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from probe.data import open_data


def digits_arrays(split: str = "train") -> tuple[Tensor, Tensor]:
    """All images and labels of a split."""
    data = open_data("digits", split)
    return torch.from_numpy(data.load(np.arange(len(data)))), torch.from_numpy(data.labels)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def architecture() -> nn.Sequential:
    """Four ReLUs, in place; average pooling."""
    return nn.Sequential(
        block(1, 12), block(12, 12), nn.AvgPool2d(2), block(12, 16), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


def fit(network: nn.Module, epochs: int = 12) -> nn.Module:
    """Train on the digits, seeded; a few seconds."""
    images, labels = digits_arrays()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(images[chosen].clone()), labels[chosen]).backward()
            optimizer.step()
    return network.eval()


@functools.cache
def _trained() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return fit(architecture()).state_dict()


def relu_digits() -> nn.Sequential:
    """A trained ReLU network."""
    network = architecture()
    network.load_state_dict(_trained())
    return network.eval()
