"""What does not commute with averaging over time is found where it works on spikes, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from probe.commuting import Bend, bends, plain
from probe.neurons import IF


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def found(network: nn.Module, x: Tensor, steps: int = 2, kinds: tuple[type, ...] = (IF,)) -> list[str]:
    """The bends of a network that is called once a timestep, as a user reads them."""
    spiking = [module for module in network.modules() if isinstance(module, kinds)]

    def run() -> None:
        for _ in range(steps):
            network(x)

    with torch.no_grad():
        return [str(bend) for bend in bends(network.eval(), [(module, module) for module in spiking], run)]


def image() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(2, 4, 8, 8)


def between(module: nn.Module) -> nn.Sequential:
    """The module on the spikes of one layer, before another."""
    return nn.Sequential(IF(1.0), module, IF(1.0))


def mean_over_time_differs(module: nn.Module) -> bool:
    """What the list rests on: the module of a mean is not the mean of the module, for 0/1 inputs."""
    torch.manual_seed(1)
    spikes = (torch.rand(4, 2, 4, 8, 8) > 0.5).float()
    with torch.no_grad():
        each = torch.stack([module(one) for one in spikes]).mean(0)
        return bool((each - module(spikes.mean(0))).abs().max() > 1e-5)


BENT = {
    "max-pooling": [
        nn.MaxPool2d(2), nn.MaxPool2d(2, 1, 1), nn.MaxPool3d((1, 2, 2)), nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveMaxPool3d((4, 2, 2)), Does(lambda x: functional.max_pool2d(x, 2)),
        Does(lambda x: torch.max_pool2d(x, 2)), Does(lambda x: functional.max_pool1d(x.flatten(1, 2), 2)),
        Does(lambda x: functional.max_pool2d(x, 2, return_indices=True)[0]),
        Does(lambda x: functional.adaptive_max_pool1d(x.flatten(1, 2), 2)),
        Does(lambda x: functional.adaptive_max_pool2d(x, 2)),
    ],
    "maximum": [
        Does(lambda x: torch.maximum(x[:, :2], x[:, 2:])), Does(lambda x: torch.max(x[:, :2], x[:, 2:])),
        Does(lambda x: x.amax((2, 3))), Does(lambda x: x.max(1)[0]), Does(lambda x: torch.fmax(x[:, :2], x[:, 2:])),
    ],
    "minimum": [Does(lambda x: torch.minimum(x[:, :2], x[:, 2:])), Does(lambda x: x.amin(1))],
    "clamp": [Does(lambda x: (x - 0.5).clamp(min=0)), Does(lambda x: (x - 0.5).clamp_min_(0))],
    "ReLU": [
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), Does(lambda x: functional.relu(x - 0.5)),
        Does(lambda x: (x - 0.5).relu_()), Does(lambda x: (x - 0.5).relu()),
    ],
    "leaky ReLU": [Does(lambda x: functional.leaky_relu(x - 0.5)), Does(lambda x: functional.leaky_relu_(x - 0.5))],
    "ELU": [Does(lambda x: functional.elu_(x - 0.5))],
    "GELU": [nn.GELU()],
    "SiLU": [nn.SiLU()],
    "sigmoid": [Does(lambda x: x.mean(1).sigmoid()), Does(lambda x: x.mean(1).sigmoid_())],
    "softmax": [nn.Softmax(1), Does(lambda x: functional.softmax(x, 1)), Does(lambda x: x.softmax(1))],
    "log-softmax": [nn.LogSoftmax(1)],
    "layer norm": [nn.LayerNorm(8), Does(lambda x: functional.layer_norm(x, (8,)))],
    "group norm": [nn.GroupNorm(2, 4)],
    "instance norm": [nn.InstanceNorm2d(4)],
    "batch norm by the batch's own statistics": [
        nn.BatchNorm2d(4, track_running_stats=False).eval(),
        Does(lambda x: functional.batch_norm(x, None, None, training=True)),
    ],
    "power": [Does(lambda x: x.mean(1) ** 2)],
    "product": [
        Does(lambda x: x[:, :2] * x[:, 2:]), Does(lambda x: x @ x.transpose(2, 3)),
        Does(lambda x: torch.einsum("bcij,bcjk->bcik", x, x)),
    ],
    "quotient": [Does(lambda x: 1 / (1 + x.mean(1))), Does(lambda x: torch.ones(8) / (1 + x))],
    "attention": [
        Does(lambda x: functional.scaled_dot_product_attention(x, x, x)),
        nn.Sequential(Does(lambda x: x[:, 0]), Does(lambda x: ATTENTION(x, x, x)[0])),
    ],
}  # fmt: skip
torch.manual_seed(0)
ATTENTION = nn.MultiheadAttention(8, 2, batch_first=True).eval()


@pytest.mark.parametrize(
    ("operation", "module"), [(name, module) for name, modules in BENT.items() for module in modules]
)
def test_what_bends_is_found(operation: str, module: nn.Module) -> None:
    assert mean_over_time_differs(module)
    names = {name.split(" in ")[0] for name in found(between(module), image())}
    assert names == {operation}


STRAIGHT = [
    nn.Conv2d(4, 4, 3), nn.Linear(8, 5), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4).eval(),
    nn.InstanceNorm2d(4, track_running_stats=True).eval(), nn.Dropout(0.5).eval(), nn.Dropout2d(0.5).eval(),
    nn.Flatten(), nn.Identity(), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 2, 2), nn.ZeroPad2d(1),
    Does(lambda x: x + x.flip(1)), Does(lambda x: torch.cat([x, 2 * x], 1)), Does(lambda x: x.mean((2, 3))),
    Does(lambda x: x.flatten(1).view(2, -1)), Does(lambda x: x * torch.arange(8.0)), Does(lambda x: x / 3),
    Does(lambda x: functional.dropout(x, training=False)), Does(lambda x: x.permute(0, 2, 3, 1) @ torch.ones(4, 3)),
    Does(lambda x: torch.matmul(torch.ones(8, 8), x) - x.sum(1, keepdim=True)),
]  # fmt: skip


@pytest.mark.parametrize("module", STRAIGHT)
def test_what_commutes_is_not(module: nn.Module) -> None:
    assert not mean_over_time_differs(module)
    assert found(between(module), image()) == []


class Nested(nn.Module):
    """A pool before the first spiking layer, one in a block, a functional one in the forward and softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.MaxPool2d(2)
        self.first = IF(1.0)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU())
        self.second = IF(1.0)
        self.output = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(self.block(self.first(self.early(x))))
        return self.output(functional.max_pool2d(out, 2).flatten(1)).softmax(1)


EXPECTED = ["max-pooling in block.1", "ReLU in block.2", "max-pooling in the forward", "softmax in the forward"]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_path_says_where_and_each_place_comes_once(steps: int) -> None:
    """At t >= 2 the pool before the first spiking layer works on the same input as at t = 1: no bend."""
    assert found(Nested(), image(), steps) == EXPECTED


class Loop(nn.Module):
    """A forward that runs through time itself, and gathers its outputs in a tensor made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Nested()

    def forward(self, x: Tensor) -> Tensor:
        gathered = torch.zeros(3, len(x), 3)
        for t in range(3):
            gathered[t] = self.network(x)
        return gathered.amax(0)


def test_a_forward_that_loops_over_time_is_followed() -> None:
    inside = [name.replace("in block", "in network.block").replace("the forward", "network") for name in EXPECTED]
    assert found(Loop(), image(), steps=1) == [*inside, "maximum in the forward"]


class Branches(nn.Module):
    """A ReLU on what no spike has reached, though a spiking layer ran before; then one on the sum with spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.spiking, self.constant, self.joined = IF(1.0), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.spiking(x)
        out: Tensor = self.joined(self.constant(x - 0.5) + spikes)
        return out


def test_a_branch_without_spikes_commutes() -> None:
    assert found(Branches(), image()) == ["ReLU in joined"]


def test_what_no_function_of_torch_shows_is_followed_by_module() -> None:
    """Where a module leaves torch, here for numpy, its output carries spikes if its input does."""
    outside = Does(lambda x: torch.from_numpy(x.numpy() + 0))
    network = nn.Sequential(outside, nn.MaxPool2d(2), IF(1.0), outside, nn.MaxPool2d(2))
    assert found(network, image()) == ["max-pooling in 4"]


class Layer(nn.Module):
    """A spiking layer that is not one module's work: comparisons, clamps and a surrogate's sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Sigmoid(), nn.MaxPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x.clamp(0, 1)) > 0.5).float()


def test_the_work_of_the_spiking_layers_is_none() -> None:
    network = nn.Sequential(Layer(), nn.Conv2d(4, 4, 1), Layer())
    assert found(network, image(), kinds=(Layer,)) == []
    assert found(network, image(), kinds=(nn.Conv2d,)) == [
        "clamp in 2", "sigmoid in 2.inner.0", "max-pooling in 2.inner.1"
    ]  # fmt: skip
    spiking = nn.Sequential(*[neuron.LIFNode(surrogate_function=surrogate.Sigmoid()) for _ in range(3)])
    assert found(spiking, image(), kinds=(neuron.LIFNode,)) == []


def test_a_chain_of_modules_is_one_layer() -> None:
    """From the first module of a layer to its last: the ReLU between them is the layer's own, that after it is not."""
    network = nn.Sequential(nn.Identity(), nn.ReLU(), IF(1.0), nn.ReLU())

    def run() -> None:
        network(image())

    with torch.no_grad():
        assert bends(network, [(network[0], network[2])], run) == [Bend("3", "ReLU")]
        assert bends(network, [(network[2], network[2])], run) == [Bend("3", "ReLU")]
        assert bends(network, [(network[0], network[0]), (network[2], network[2])], run) == [
            Bend("1", "ReLU"), Bend("3", "ReLU")
        ]  # fmt: skip


class Counting(TorchFunctionMode):
    """Someone else's mode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


class OwnMode(Nested):
    """A network that enters a mode of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with Counting():
            return super().forward(x)


def test_other_modes_do_no_harm() -> None:
    with Counting() as around:
        assert found(Nested(), image()) == EXPECTED
    assert around.seen > 10
    assert found(OwnMode(), image()) == EXPECTED


def _hooks(network: nn.Module) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]


def test_nothing_stays_behind_after_an_exception() -> None:
    """The third spiking layer raises: hooks and mode are gone, and the next search is as good as the first."""

    def fail(_x: Tensor) -> Tensor:
        raise RuntimeError("the user's forward broke")

    network = Nested()
    network.first.register_forward_hook(lambda *_: None)
    before, broken = _hooks(network), nn.Sequential(network, Does(fail))
    with pytest.raises(RuntimeError, match="forward broke"):
        found(broken, image())
    assert _hooks(network) == before
    assert sum(before) == 1
    assert torch.overrides._get_current_function_mode_stack() == []
    assert found(network, image()) == EXPECTED


def test_tensors_are_left_as_they_were() -> None:
    x = image()
    spiking = IF(1.0)
    found(nn.Sequential(spiking, nn.MaxPool2d(2)), x)
    assert vars(x) == {}
    assert spiking.potential is not None
    assert vars(spiking.potential) == {}


def test_as_a_recording_keeps_them() -> None:
    assert plain([Bend("a.b", "softmax"), Bend("", "maximum")]) == [
        {"module": "a.b", "operation": "softmax"}, {"module": "", "operation": "maximum"}
    ]  # fmt: skip
