"""What a spike costs: how many multiply-accumulates of the next weighted layers one spike of a neuron takes part in.

A neuron's fan-out is the number of connections that its spike travels: it passes batch norm, dropout, scaling,
reshaping, concatenation, addition and pooling, where it reaches every window that holds it, up to the first
convolutions or linear layers on each of its ways, and there it costs one accumulate for each output it has a weight to.
What a skip connection adds straight to the next spiking layer's input costs none, and neither does a bias. Taps of a
convolution that hang over the border multiply padding, not a neuron: they are left out on both sides, so

    Σ over the inputs of a convolution of their fan-out = its multiply-accumulates,

and a network whose every neuron fires once would cost what the ANN costs, but for pooling, which the ANN does before it
multiplies. A weighted layer that is fed numbers instead of spikes, as the image or another weighted layer's output, is
dense: it multiplies at every timestep, whatever fires.

Everything is found by running one sample through the network, the ANN where there is one, for it has the same wiring.
Beside each tensor that carries spikes runs a shadow, in which every operation is replaced by one whose derivative
counts ways, 1 or 0. The derivatives of the connection counts by the shadows are the fan-outs. Where spikes pass an
operation that is not known here, the layer's cost is unknown, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from probe.commuting import tensors_in

Array = npt.NDArray[Any]

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = ("matmul", "mm", "__matmul__")
"""Linear layers too, where the second operand is a matrix that does not depend on the data."""
ARRANGING = {
    "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "moveaxis",
    "swapaxes", "swapdims", "t", "__getitem__", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack",
    "split", "chunk", "unbind", "tensor_split", "narrow", "select", "index_select", "pad", "constant_pad_nd", "expand",
    "repeat", "tile", "roll", "flip", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "sum", "view_as",
    "reshape_as", "expand_as", "broadcast_to", "unfold", "as_strided", "diagonal",
}  # fmt: skip
"""Done to a shadow as they are done to what it stands for."""
SCALING = {
    "batch_norm", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout",
    "feature_alpha_dropout", "mul", "multiply", "div", "divide", "true_divide", "neg", "negative", "contiguous",
    "clone", "to", "float", "double", "half", "bfloat16", "type", "type_as", "relu", "relu6", "hardtanh", "clamp",
    "clip", "clamp_min", "requires_grad", "cuda", "cpu", "__rmul__",
}  # fmt: skip
"""These leave a spike where it is, whatever they make of its height."""
ADDING = {"add", "sub", "subtract", "__radd__", "__rsub__", "rsub"}
WINDOWS = {f"{kind}_pool{d}d": d for kind in ("avg", "max") for d in (1, 2, 3)}
ADAPTIVE = {f"adaptive_{name}": d for name, d in WINDOWS.items()}
"""Poolings and their dimensions."""
MOST = 1 << 26
"""Neurons times timesteps of a layer above which nothing is counted: its shadows would fill the memory."""


@dataclass
class Wiring:
    """What one forward tells of a network's weighted layers.

    Attributes:
        fan_out: layer -> the fan-out of each neuron, of the shape of its output.
        macs: layer -> multiply-accumulates of the weighted layers that its spikes feed.
        dense: multiply-accumulates of the weighted layers that are fed numbers.
        total: of all weighted layers, each once.
        unknown: layer -> why its cost is not known; the empty name stands for the network.
    """

    fan_out: dict[str, Array] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    dense: int = 0
    total: int = 0
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Shadow:
    """Beside a tensor that carries spikes: one of its shape, with a way back to each layer it comes from."""

    ways: Tensor
    layers: frozenset[str]


class _Unknown(Exception):
    """An operation on spikes that is not known here."""


class _Listener(TorchFunctionMode):
    """Follows spikes from the layers they leave to the weighted layers they reach."""

    def __init__(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.path: list[str] = [""]
        self.inside = 0
        self.leaves: dict[str, list[Tensor]] = {}
        self.counts: list[Tensor] = []
        self._shadows: Any = WeakIdKeyDictionary()
        self._numbers: Any = WeakIdKeyDictionary()

    def fed(self, value: Any) -> None:
        """Its tensors are numbers: the image, or what became of it."""
        for tensor in tensors_in(value):
            self._shadows.pop(tensor, None)
            self._numbers[tensor] = None

    def start(self, args: Any) -> None:
        """The network, or a part of it that is called by itself, is given its arguments."""
        self.fed([one for one in tensors_in(args) if one not in self._shadows])

    def fired(self, layer: str, output: Any) -> None:
        """A tensor is the output of a spiking layer."""
        if not isinstance(output, Tensor):
            return self._lost({layer}, f"it gives a {type(output).__name__}")
        self._numbers.pop(output, None)
        if output.numel() > MOST:
            self._lost({layer}, "too many neurons times timesteps to count ways for")
            return self.fed(output)
        leaf = torch.zeros(output.shape, device=output.device, requires_grad=True)
        self.leaves.setdefault(layer, []).append(leaf)
        with torch.enable_grad():
            self._shadows[output] = _Shadow(leaf * 1, frozenset({layer}))
        return None

    def left(self, args: Any, output: Any) -> None:
        """A module is done; what it did where nobody sees functions, as in compiled code, is unknown."""
        outside = [one for one in tensors_in(output) if one not in self._shadows and one not in self._numbers]
        inputs = list(tensors_in(args))
        if self.inside or not outside or not any(one in self._shadows or one in self._numbers for one in inputs):
            return
        layers = self._layers(inputs)
        self._lost(layers | {""}, f"what {self.path[-1] or 'the network'} does cannot be seen")
        self.fed(outside)

    def _layers(self, tensors: Sequence[Tensor]) -> frozenset[str]:
        return frozenset().union(*(self._shadows[one].layers for one in tensors if one in self._shadows))

    def _lost(self, layers: Any, why: str) -> None:
        for layer in layers:
            self.wiring.unknown.setdefault(layer, why)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if self.inside:
            return func(*args, **given)
        operands = [*tensors_in((args, given))]
        followed = [one for one in operands if one in self._shadows]
        numbers = any(one in self._numbers for one in operands)
        # What works in place is looked up before it works.
        shadows = {id(one): self._shadows[one] for one in followed}
        result = func(*args, **given)
        name = _plain_name(func)
        # What is no tensor of floats, as a shape or a comparison, carries neither spikes nor numbers.
        made = any(one.is_floating_point() for one in tensors_in(result))
        if not made or not (followed or numbers or _weighted(name)):
            return result
        try:
            with torch.enable_grad():
                self._follow(name, func, args, given, result, shadows, numbers)
        except Exception as error:
            # Whatever goes wrong here is no fault of the network, and only its cost is lost.
            layers = frozenset().union(*(one.layers for one in shadows.values()))
            what = str(error) if isinstance(error, _Unknown) else f"{name} ({type(error).__name__})"
            where = f" in {self.path[-1]}" if self.path[-1] else ""
            self._lost(layers | ({""} if _weighted(name) else set()), f"spikes pass {what}{where}")
            self.fed(result)
        return result

    def _follow(
        self, name: str, func: Any, args: tuple[Any, ...], given: dict[str, Any], result: Any,
        shadows: dict[int, _Shadow], numbers: bool,
    ) -> None:  # fmt: skip
        """Make the shadows of a result; where it is weighted, count what it costs."""
        if _weighted(name):
            self._weighted(name, func, args, given, shadows)
            return self.fed(result)
        if not shadows or numbers:
            # Numbers stay numbers, and turn the spikes they are added to into numbers.
            return self.fed(result)
        layers = frozenset().union(*(one.layers for one in shadows.values()))
        ways = self._ways(name, func, args, given, result, shadows)
        for tensor, way in zip(tensors_in(result), tensors_in(ways), strict=True):
            if tensor.shape != way.shape:
                raise _Unknown(name)
            self._numbers.pop(tensor, None)
            self._shadows[tensor] = _Shadow(way, layers)
        return None

    def _ways(
        self, name: str, func: Any, args: tuple[Any, ...], given: dict[str, Any], result: Any,
        shadows: dict[int, _Shadow],
    ) -> Any:  # fmt: skip
        """The operation, done to the shadows so that its derivative counts ways."""
        ways = [one.ways for one in shadows.values()]
        if name == "mean":
            name, func = "sum", torch.sum
        if name in ADDING or name in SCALING:
            if name in SCALING and len(ways) > 1:
                raise _Unknown("a product of spikes")
            return sum(ways, torch.zeros((), device=ways[0].device)) + torch.zeros(result.shape, device=ways[0].device)
        if name == "__get__":
            # An attribute: .data, .T, .mT
            return ways[0] if result.shape == ways[0].shape else func(*_replaced(args, shadows))
        if name in ARRANGING:
            named = {key: value for key, value in given.items() if key not in ("dtype", "out")}
            return func(*_replaced(args, shadows), **_replaced(named, shadows))
        if name == "interpolate" and len(args) < 4 and given.get("mode", "nearest") in ("nearest", "nearest-exact"):
            return func(*_replaced(args, shadows), **given)
        if name in WINDOWS and len(ways) == 1:
            return _windows(ways[0], WINDOWS[name], name.startswith("max"), args, given)
        if name in ADAPTIVE and len(ways) == 1:
            return _adaptive(ways[0], ADAPTIVE[name], next(tensors_in(result)).shape)
        raise _Unknown(name)

    def _weighted(
        self, name: str, func: Any, args: tuple[Any, ...], given: dict[str, Any], shadows: dict[int, _Shadow]
    ) -> None:
        """Count the connections of a weighted layer, and to whom they belong."""
        x = args[0] if args else given["input"]
        called = {"mm": "mat2", "matmul": "other", "__matmul__": "other"}.get(name, "weight")
        weight = args[1] if len(args) > 1 else given[called]
        if weight in self._numbers or weight in self._shadows:
            raise _Unknown(f"{name} of two things that depend on the data")
        if name in PRODUCTS and weight.ndim != 2:
            raise _Unknown(name)
        named = {key: value for key, value in given.items() if key not in ("input", "weight", "bias")}
        each = _connections(name, func, x, weight, args[3:], named)
        connections = round(float(each.sum(dtype=torch.float64)))
        self.wiring.total += connections
        shadow = shadows.get(id(x))
        if shadow is None:
            self.wiring.dense += connections
            return
        self.counts.append((shadow.ways * each).sum())
        for layer in shadow.layers:
            self.wiring.macs[layer] = self.wiring.macs.get(layer, 0) + connections


def _plain_name(func: Any) -> str:
    """`add` of add, add_ and __iadd__."""
    name = str(getattr(func, "__name__", ""))
    if name in ("__get__", "__getitem__", "__matmul__", "__radd__", "__rsub__", "__rmul__"):
        return name
    if name.startswith("__i") and name.endswith("__"):
        return name[3:-2]
    return name.removesuffix("_") if not name.startswith("__") else name.strip("_")


def _weighted(name: str) -> bool:
    return name == "linear" or name in CONVOLUTIONS or name in TRANSPOSED or name in PRODUCTS


def _replaced(value: Any, shadows: Mapping[int, _Shadow]) -> Any:
    """A value with the shadows of its tensors in their place; tensors without one, such as an index, stay."""
    if isinstance(value, Tensor):
        return shadows[id(value)].ways if id(value) in shadows else value
    if isinstance(value, tuple | list):
        return type(value)(_replaced(one, shadows) for one in value)
    if isinstance(value, Mapping):
        return {key: _replaced(one, shadows) for key, one in value.items()}
    return value


def _connections(
    name: str, func: Any, x: Tensor, weight: Tensor, rest: Sequence[Any], named: Mapping[str, Any]
) -> Tensor:
    """How many outputs each element of x has a weight to; of the shape of x."""
    if name == "linear" or name in PRODUCTS:
        outputs = weight.shape[0] if name == "linear" else weight.shape[1]
        return torch.full(x.shape, float(outputs), device=x.device)
    # stride, padding, dilation, groups; transposed: stride, padding, output_padding, groups, dilation
    options, given = dict(named), list(rest)
    groups = int(options.pop("groups", rest[3] if len(rest) > 3 else 1))
    given[3:4] = [1] if len(rest) > 3 else []
    size, kernel = x.shape[-(weight.ndim - 2) :], weight.shape[2:]
    # All channels of a group are alike, so one is enough.
    with torch.enable_grad():
        probe = torch.zeros(1, 1, *size, device=x.device, requires_grad=True)
        taps = func(probe, torch.ones(1, 1, *kernel, device=x.device), None, *given, **options)
        (touched,) = torch.autograd.grad(taps.sum(), probe)
    outputs = weight.shape[1] if name in TRANSPOSED else weight.shape[0] // groups
    return (touched[0, 0] * outputs).expand(x.shape)


def _windows(ways: Tensor, d: int, of_maximum: bool, args: tuple[Any, ...], given: Mapping[str, Any]) -> Tensor:
    """Sums over the windows of a pooling: a spike counts in each that holds it."""
    names = ("kernel_size", "stride", "padding", *(("dilation",) if of_maximum else ()), "ceil_mode")
    options = {**dict(zip(names, args[1:], strict=False)), **given}
    dilation = options.get("dilation", 1)
    if any(one != 1 for one in (dilation if isinstance(dilation, tuple | list) else (dilation,))):
        raise _Unknown("dilated pooling")
    kernel = _tuple(options["kernel_size"], d)
    stride = _tuple(options.get("stride") or kernel, d)
    padding = _tuple(options.get("padding", 0), d)
    ceil = bool(options.get("ceil_mode", False))
    if d == 1:
        ways = ways[..., None, :]
        kernel, stride, padding = (1, *kernel), (1, *stride), (0, *padding)
    pool = functional.avg_pool3d if d == 3 else functional.avg_pool2d
    pooled = pool(ways, kernel, stride, padding, ceil, True, 1)
    return pooled[..., 0, :] if d == 1 else pooled


def _tuple(value: Any, d: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * d if len(values) == 1 else values


def _adaptive(ways: Tensor, d: int, shape: torch.Size) -> Tensor:
    """Sums over the windows of an adaptive pooling, axis by axis."""
    for axis in range(-d, 0):
        size, wanted = ways.shape[axis], shape[axis]
        ends = [(i * size // wanted, -(-(i + 1) * size // wanted)) for i in range(wanted)]
        ways = torch.stack([ways.narrow(axis, low, high - low).sum(axis) for low, high in ends], axis)
    return ways


def wiring_of(network: nn.Module, layers: Mapping[str, tuple[nn.Module, nn.Module]], run: Callable[[], Any]) -> Wiring:
    """Run a network once, and count what its layers' spikes cost.

    Args:
        network: what is run.
        layers: name -> the first and the last module of a spiking layer, or of the activation in its place.
        run: runs it on one sample; an exception is passed on.

    Returns:
        Fan-outs are means over calls; multiply-accumulates add up over all that `run` does.
    """
    wiring = Wiring()
    listener = _Listener(wiring)
    entries, exits = {id(first) for first, _ in layers.values()}, {id(last): name for name, (_, last) in layers.items()}

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            if len(listener.path) == 1:
                listener.start(args)
            listener.path.append(name)
            listener.inside += id(module) in entries

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        layer = exits.get(id(module))
        listener.inside -= layer is not None
        if layer is not None:
            listener.fired(layer, output[0] if isinstance(output, tuple) else output)
        else:
            listener.left(args, output)
        listener.path.pop()

    with ExitStack() as stack:
        for name, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(listener)
        run()
    try:
        _collect(listener)
    except RuntimeError as error:
        listener._lost({"", *listener.leaves}, f"ways cannot be counted ({error})")
    return wiring


def _collect(listener: _Listener) -> None:
    """The fan-outs, once the network has run."""
    leaves = [leaf for some in listener.leaves.values() for leaf in some]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if listener.counts:
        found = torch.autograd.grad(listener.counts, leaves, allow_unused=True)
    ways = {id(leaf): torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)}
    for name, some in listener.leaves.items():
        if name not in listener.wiring.unknown:
            listener.wiring.fan_out[name] = np.mean([ways[id(leaf)].detach().cpu().numpy() for leaf in some], axis=0)
            listener.wiring.macs.setdefault(name, 0)


# ------------------------------------------------------------------------------------------------------ as a fact


def cost_fact(wiring: Wiring, shapes: Mapping[str, tuple[int, ...]], *, of_ann: bool) -> dict[str, Any]:
    """As a recording keeps it: what `probe layers` reads.

    Args:
        wiring: what a run told.
        shapes: layer -> (*neuron), in execution order.
        of_ann: it was the ANN that ran; the multiply-accumulates of an SNN are no ANN's.

    Returns:
        `layers`: for each index `fan_out` (see `compact`) and `macs`, or `reason`; `macs` of the whole network, and
        `dense_macs` of what is fed numbers, None where unknown.
    """
    layers: dict[str, dict[str, Any]] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        fan_out = wiring.fan_out.get(name)
        if fan_out is None:
            layers[str(index)] = {"reason": wiring.unknown.get(name, "no activation of the ANN stands for it")}
            continue
        # Timesteps that are merged with the samples are all wired alike.
        each = fan_out.reshape(-1, *shape).mean(0, dtype=np.float64)
        layers[str(index)] = {"fan_out": compact(each), "macs": wiring.macs[name] if of_ann else None}
    known = of_ann and "" not in wiring.unknown
    return {
        "layers": layers,
        "macs": wiring.total if known else None,
        "dense_macs": wiring.dense if known else None,
        "reason": None if known else wiring.unknown.get("", "there is no ANN"),
    }


def compact(values: Array) -> dict[str, Any]:
    """An array whose rows mostly repeat: its distinct slices along each axis, and which of them stands where.

    Returns:
        `values`, nested lists, and for each axis of `places` the index into them, or None where all are alike.
    """
    places: list[list[int] | None] = []
    for axis in range(values.ndim):
        values, place = np.unique(values, axis=axis, return_inverse=True)
        places.append(place.ravel().tolist() if values.shape[axis] > 1 else None)
    return {"values": values.tolist(), "places": places}
