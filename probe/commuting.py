"""Which operations of an SNN do not commute with averaging over time: maxima, softmax and other bends between layers.

What commutes (convolution, linear, average pooling, batch norm in evaluation, addition) turns the mean over time of
its inputs into that of its outputs, so rates pass as activations do. Everything else makes them differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

BENDS = {
    "max_pool1d": "max-pooling", "max_pool2d": "max-pooling", "max_pool3d": "max-pooling",
    "max_pool1d_with_indices": "max-pooling", "max_pool2d_with_indices": "max-pooling",
    "max_pool3d_with_indices": "max-pooling", "fractional_max_pool2d": "max-pooling",
    "fractional_max_pool3d": "max-pooling", "fractional_max_pool2d_with_indices": "max-pooling",
    "fractional_max_pool3d_with_indices": "max-pooling", "adaptive_max_pool1d": "max-pooling",
    "adaptive_max_pool2d": "max-pooling", "adaptive_max_pool3d": "max-pooling",
    "adaptive_max_pool1d_with_indices": "max-pooling", "adaptive_max_pool2d_with_indices": "max-pooling",
    "adaptive_max_pool3d_with_indices": "max-pooling",
    "lp_pool1d": "power-average pooling", "lp_pool2d": "power-average pooling", "lp_pool3d": "power-average pooling",
    "max": "maximum", "amax": "maximum", "maximum": "maximum", "fmax": "maximum",
    "min": "minimum", "amin": "minimum", "minimum": "minimum", "fmin": "minimum",
    "clamp": "clamp", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp", "abs": "absolute value",
    "threshold": "threshold", "_threshold": "threshold",
    "relu": "ReLU", "relu6": "ReLU6", "hardtanh": "ReLU6 or hard tanh", "leaky_relu": "leaky ReLU",
    "rrelu": "leaky ReLU",
    "prelu": "PReLU", "elu": "ELU", "selu": "SELU", "celu": "CELU", "gelu": "GELU", "silu": "SiLU", "mish": "Mish",
    "sigmoid": "sigmoid", "logsigmoid": "log-sigmoid", "hardsigmoid": "hard sigmoid", "hardswish": "hard swish",
    "tanh": "tanh", "softsign": "softsign", "softplus": "softplus", "glu": "GLU",
    "softmax": "softmax", "softmin": "softmin", "log_softmax": "log-softmax", "gumbel_softmax": "softmax",
    "exp": "exponential", "log": "logarithm", "sqrt": "root", "pow": "power", "__rpow__": "power", "square": "power",
    "reciprocal": "quotient", "rsqrt": "quotient", "__rdiv__": "quotient", "__rtruediv__": "quotient",
    "layer_norm": "layer norm", "group_norm": "group norm", "instance_norm": "instance norm", "rms_norm": "RMS norm",
    "local_response_norm": "local response norm", "batch_norm": "batch norm by the batch's own statistics",
    "normalize": "normalisation", "scaled_dot_product_attention": "attention",
    "multi_head_attention_forward": "attention",
}  # fmt: skip
"""Function -> what it is called; its form with an underscore works in place and bends alike."""

PRODUCTS = ("mul", "multiply", "matmul", "mm", "bmm", "einsum")
"""Functions that are linear in each of their operands, and bend where two of them carry spikes."""
QUOTIENTS = ("div", "divide", "true_divide")
"""Functions that bend where the second operand carries spikes."""
OWN_STATISTICS = {"batch_norm": ("training", 5, False), "instance_norm": ("use_input_stats", 5, True)}
"""Norms that are linear unless this argument, here with its place and default, makes them use what they are fed."""


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


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, however it is nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))


class _Listener(TorchFunctionMode):
    """Follows what comes out of spiking layers through the network, and notes the bends it meets outside of them.

    What is no such descendant, as all before the first spiking layer, is the same at every t, and commutes.
    """

    def __init__(self) -> None:
        self.path: list[str] = [""]
        self.inside = 0
        self.found: dict[Bend, None] = {}
        self._spikes: Any = WeakIdKeyDictionary()

    def mark(self, value: Any) -> None:
        """Its tensors carry spikes."""
        for tensor in tensors_in(value):
            self._spikes[tensor] = None

    def marked(self, value: Any) -> int:
        """How many of its tensors carry spikes."""
        return sum(tensor in self._spikes for tensor in tensors_in(value))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operands = self.marked((args, kwargs))
        if operands and not self.inside:
            bend = self._bend(getattr(func, "__name__", ""), args, kwargs or {})
            if bend:
                self.found[Bend(self.path[-1], bend)] = None
        result = func(*args, **(kwargs or {}))
        if operands:
            self.mark(args[0] if getattr(func, "__name__", "") == "__setitem__" else result)
        return result

    def _bend(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """What a function is called as a bend of operands that carry spikes; empty where it commutes."""
        if name not in BENDS:
            name = name.removesuffix("_")
        if name in PRODUCTS:
            return "product" if self.marked(args) > 1 else ""
        if name in QUOTIENTS:
            return "quotient" if self.marked(args[1:]) else ""
        if name in OWN_STATISTICS:
            argument, place, default = OWN_STATISTICS[name]
            if not kwargs.get(argument, args[place] if len(args) > place else default):
                return ""
        return BENDS.get(name, "")


def bends(network: nn.Module, layers: Sequence[tuple[nn.Module, nn.Module]], run: Callable[[], Any]) -> list[Bend]:
    """The operations of a network on spikes that do not commute with averaging over time.

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

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        listener.path.pop()
        listener.inside -= id(module) in exits
        # Also what a module makes of spikes where no function of torch is seen, as in compiled code.
        if id(module) in exits or listener.marked(args):
            listener.mark(output)

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
