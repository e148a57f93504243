"""Which operations of an SNN do not commute with averaging over time: maxima, softmax and other bends between layers.

What commutes (convolution, linear, average pooling, batch norm in evaluation, addition) turns the mean over time of
its inputs into that of its outputs, so rates pass as activations do. Everything else makes them differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

BENDS = {
    "max_pool1d": "max-pooling", "max_pool2d": "max-pooling", "max_pool3d": "max-pooling",
    "max_pool1d_with_indices": "max-pooling", "max_pool2d_with_indices": "max-pooling",
    "adaptive_max_pool1d": "max-pooling", "adaptive_max_pool2d": "max-pooling", "adaptive_max_pool3d": "max-pooling",
    "amax": "maximum", "maximum": "maximum", "fmax": "maximum",
    "relu": "ReLU", "relu_": "ReLU", "relu6": "ReLU6", "hardtanh": "hard tanh", "leaky_relu": "leaky ReLU",
    "prelu": "PReLU", "elu": "ELU", "selu": "SELU", "celu": "CELU", "gelu": "GELU", "silu": "SiLU", "mish": "Mish",
    "sigmoid": "sigmoid", "hardsigmoid": "hard sigmoid", "hardswish": "hard swish", "tanh": "tanh",
    "softplus": "softplus", "softmax": "softmax", "log_softmax": "log-softmax",
    "layer_norm": "layer norm", "group_norm": "group norm", "instance_norm": "instance norm", "rms_norm": "RMS norm",
    "normalize": "normalisation", "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
}  # fmt: skip
"""Function -> what it is called."""


@dataclass(frozen=True)
class Bend:
    """An operation on spikes that does not commute with averaging over time.

    Attributes:
        module: path of the innermost module in which it happens; empty for the network itself.
        operation: what it is.
    """

    module: str
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} in {self.module or 'the forward'}"


class _Listener(TorchFunctionMode):
    """Notes bends outside spiking layers, after the first of them."""

    def __init__(self) -> None:
        self.path: list[str] = [""]
        self.inside = 0
        self.spiking = False
        self.found: dict[Bend, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if self.spiking and not self.inside and name in BENDS:
            self.found[Bend(self.path[-1], BENDS[name])] = None
        return func(*args, **(kwargs or {}))


def bends(network: nn.Module, layers: Sequence[tuple[nn.Module, nn.Module]], run: Callable[[], Any]) -> list[Bend]:
    """The operations of a network on spikes that do not commute with averaging over time.

    Before the first spiking layer everything is the same at every t, and commutes.

    Args:
        network: the SNN.
        layers: the first and the last module of each spiking layer.
        run: runs it; an exception ends the search and is passed on.
    """
    listener = _Listener()
    modules = dict(network.named_modules())
    entries, exits = {id(first) for first, _ in layers}, {id(last) for _, last in layers}

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any) -> None:
            listener.path.append(name)
            listener.inside += id(module) in entries

        return hook

    def leave(module: nn.Module, _args: Any, _output: Any) -> None:
        listener.path.pop()
        if id(module) in exits:
            listener.inside -= 1
            listener.spiking = True

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(listener)
        run()
    return list(listener.found)


def plain(found: Sequence[Bend]) -> list[dict[str, str]]:
    """As a recording keeps them."""
    return [asdict(one) for one in found]
