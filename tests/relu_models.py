"""ReLU networks trained on the bundled digits, and what SpikingJelly, sinabs and snnTorch make of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import sinabs.from_torch
import torch
from spikingjelly.activation_based import ann2snn, neuron
from torch import Tensor, fx, nn
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


class Residual(nn.Module):
    """A ResNet's block, whose one nn.ReLU is called twice, or whose ReLUs are functional."""

    def __init__(self, by_function: bool = False) -> None:
        super().__init__()
        self.by_function = by_function
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.pool, self.fc = nn.ReLU(inplace=True), nn.AvgPool2d(4), nn.Linear(24, 10)

    def rectified(self, x: Tensor) -> Tensor:
        return functional.relu(x) if self.by_function else self.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.second(self.rectified(self.first(x)))
        out: Tensor = self.fc(self.pool(self.rectified(x)).flatten(1))
        return out


def residual(by_function: bool = False) -> Residual:
    """Untrained, seeded."""
    torch.manual_seed(0)
    return Residual(by_function).eval()


def calibration_batches() -> list[tuple[Tensor, Tensor]]:
    """Two batches of (images, labels), as a data loader gives them."""
    images, labels = digits_arrays()
    return [(images[first : first + 100].clone(), labels[first : first + 100]) for first in (0, 100)]


def by_spikingjelly(ann: nn.Module, **recipe: Any) -> nn.Module:
    """SpikingJelly's rate-coding conversion; each spiking layer has θ and v(0) = 0, or θ/2 for half thresholds."""
    made = ann2snn.RateCodingRecipe(calibration_batches(), **{"mode": "99.9%", **recipe})
    converted: nn.Module = ann2snn.Converter(made).convert(ann)
    return converted.eval()


def by_threshold_balancing(ann: nn.Module, **recipe: Any) -> nn.Module:
    """SpikingJelly's local threshold balancing: a θ for each channel, v(0) = θ/2."""
    made = ann2snn.LocalThresholdBalancingRecipe(calibration_batches(), **recipe)
    converted: nn.Module = ann2snn.Converter(made).convert(ann)
    return converted.eval()


def tailored(ann: nn.Module, thresholds: Mapping[str, float]) -> fx.GraphModule:
    """The layout of SpikingJelly 0.0.0.0.14: `snn tailor.<k>` with the children 0, 1, 2: scaler, node, scaler.

    Args:
        ann: its ReLUs are replaced, in the order in which they are called.
        thresholds: path of a ReLU -> θ.
    """
    network = fx.symbolic_trace(ann)
    number = 0
    for node in list(network.graph.nodes):
        if node.op != "call_module" or not isinstance(network.get_submodule(node.target), nn.ReLU):
            continue
        theta, last = thresholds[node.target], node.args[0]
        scaler = ann2snn.modules.VoltageScaler
        chain = [scaler(1.0 / theta), neuron.IFNode(v_reset=None), scaler(theta)]
        for place, module in enumerate(chain):
            target = f"snn tailor.{number}.{place}"
            network.add_submodule(target, module)
            with network.graph.inserting_before(node):
                last = network.graph.call_module(target, (last,))
        node.replace_all_uses_with(last)
        network.graph.erase_node(node)
        number += 1
    network.delete_all_unused_submodules()
    network.recompile()
    return network.eval()


def by_sinabs(ann: nn.Module, **options: Any) -> nn.Module:
    """sinabs' network: analog and spiking model in one; θ = 1, v(0) = 0, several spikes a step, v >= -1 by default."""
    network: nn.Module = sinabs.from_torch.from_model(ann, **{"batch_size": 1, **options})
    return network.eval()
