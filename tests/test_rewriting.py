"""Every use of ReLU gets a module of its own, with the same outputs; what cannot be traced says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import probe
from probe.errors import ProbeError
from probe.families.rewriting import separated, with_average_pooling
from probe.neurons import QCFS
from probe.vision import torchvision


class Shared(nn.Module):
    """One nn.ReLU called twice, three functional ones of different spelling, and a QCFS."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 12), nn.Linear(12, 10)
        self.relu, self.qcfs = nn.ReLU(inplace=True), QCFS(4, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.one(x.flatten(1)))
        x = self.relu(x - 0.1)
        x = functional.relu(x - 0.1)
        x = torch.relu(x - 0.01)
        return functional.relu(self.two(self.qcfs(x.relu())), inplace=True)


class Data(nn.Module):
    """Its path depends on the data, which no trace follows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x.flatten(1))
        return functional.relu(x) if float(x.sum()) > 0 else functional.relu(-x)


def rectifiers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if type(module) is nn.ReLU]


def test_each_use_has_a_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Shared().eval()
    x = torch.randn(5, 1, 8, 8)
    made = separated(network, lambda: network(x.clone()))
    assert rectifiers(network) == ["relu"]
    assert rectifiers(made) == ["relu", "relu_1", "relu_2", "relu_3", "relu_4", "relu_5"]
    assert torch.equal(made(x.clone()), network(x.clone()))
    calls: Counter[str] = Counter()
    hooks = [
        made.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name in rectifiers(made)
    ]
    made(x.clone())
    assert calls == dict.fromkeys(rectifiers(made), 1)
    for hook in hooks:
        hook.remove()
    # The weights are the user's own, not a copy.
    assert made.get_parameter("one.weight") is network.one.weight
    probe.capture(network, data="digits", samples=10, timesteps=4, output=tmp_path / "r.h5", strict=True)
    with probe.open(tmp_path / "r.h5") as recording:
        assert [(layer.name, layer.levels) for layer in recording.layers] == [
            ("relu", None), ("relu_1", None), ("relu_2", None), ("relu_3", None), ("relu_4", None), ("qcfs", 4),
            ("relu_5", None),
        ]  # fmt: skip
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_network_that_needs_nothing_is_left_alone() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU())
    assert separated(network, lambda: network(torch.zeros(1, 64))) is network


def test_what_cannot_be_traced_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        ProbeError, match=r"1 functional relu and 0 shared nn.ReLU and cannot be rewritten.*own for each"
    ):
        probe.capture(Data(), data="digits", samples=10, output=tmp_path / "r.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "googlenet"])
def test_torchvision(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision().models.get_model(name, num_classes=10, weights=None).eval()
    x = torch.randn(2, 3, 64, 64)
    made = separated(network, lambda: network(x))
    with torch.no_grad():
        torch.testing.assert_close(made(x), network(x), rtol=0, atol=0)
    # Counted in the architectures: 1 + 2·8, 1 + 3·16, 8 + 2, and 3 + 9·6 (two auxiliary heads do not run).
    expected = {"resnet18": 17, "resnet50": 49, "vgg11_bn": 10, "googlenet": 57}[name]
    calls = 0

    def note(*_: object) -> None:
        nonlocal calls
        calls += 1

    for path in rectifiers(made):
        made.get_submodule(path).register_forward_hook(note)
    with torch.no_grad():
        made(x)
    assert calls == expected


def test_average_pooling() -> None:
    network = nn.Sequential(
        nn.MaxPool2d(2, ceil_mode=True), nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(2)), nn.MaxPool1d(2)
    )
    changed = with_average_pooling(network)
    assert [type(module).__name__ for module in changed.modules()][1:] == [
        "AvgPool2d", "Sequential", "AvgPool2d", "AdaptiveAvgPool2d", "AvgPool1d",
    ]  # fmt: skip
    assert isinstance(network[0], nn.MaxPool2d)
    x = torch.arange(25.0).view(1, 1, 5, 5)
    assert changed[0](x).tolist() == nn.AvgPool2d(2, ceil_mode=True)(x).tolist()
    assert changed[1][0](x).shape == network[1][0](x).shape
    with pytest.raises(ProbeError, match="max-pooling 0 is dilated"):
        with_average_pooling(nn.Sequential(nn.MaxPool2d(2, dilation=2)))
