"""Follows tensors through a forward: what each was made of, where autograd lost it, and where spikes were made.

Every tensor carries two sets, kept as the bits of a whole number. Its *origin* is what its value rests on: parameters,
places where the graph was cut, earlier spikes. Its *reach* is what autograd can get back to from it. An operation whose
inputs have a reach and whose output has none is a cut. Inside a custom `torch.autograd.Function` nothing is a cut: its
backward answers for it.
"""

from __future__ import annotations

import ast
import linecache
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from probe.commuting import tensors_in
from probe.userfile import is_users

COMPARISONS = frozenset((
    "gt", "ge", "lt", "le", "eq", "ne", "greater", "greater_equal", "less", "less_equal", "not_equal", "logical_not",
    "logical_and", "logical_or", "isclose", "__gt__", "__ge__", "__lt__", "__le__", "__eq__", "__ne__",
))  # fmt: skip
FLAT = frozenset(("sign", "sgn", "round", "floor", "ceil", "trunc", "fix", "bernoulli", "floor_divide", "heaviside"))
"""Functions that are differentiable by name only: their derivative is 0 everywhere."""
SQUASHING = frozenset(("sigmoid", "tanh", "hardsigmoid", "softsign", "erf", "atan", "arctan", "exp"))
CASTS = frozenset((
    "float", "double", "half", "bfloat16", "to", "type", "type_as", "where", "mul", "multiply", "__mul__", "__rmul__",
))  # fmt: skip
"""What makes spikes of a comparison."""
SUMS = frozenset(
    ("add", "sub", "subtract", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "__iadd__", "__isub__")
)
COPIES = frozenset(("tensor", "as_tensor", "new_tensor"))
BY_FIRST = frozenset(("to", "type_as", "expand_as", "view_as", "reshape_as"))
"""Functions whose other operands give a shape, type or device, and no value."""
VALUELESS = re.compile(r"(new_(zeros|ones|empty|full)|.*_like|requires_grad_?|size|dim|register_hook|retain_grad)$")
"""Functions whose result does not rest on the values of their operands."""
LEAVING = frozenset(("item", "tolist", "numpy", "__float__", "__int__", "__index__", "__array__", "__complex__"))
"""Functions whose result is no tensor: autograd cannot follow it."""
IN_PLACE = re.compile(r"(?!_).*[^_]_$|__i(add|sub|mul|truediv|div|pow)__$|__setitem__$")
"""Functions that change their first operand."""
PROPERTIES = frozenset(("data", "T", "mT", "H", "mH", "real", "imag"))
"""Attributes of a tensor that are tensors made of it."""
SWITCH = re.compile(r"(torch\.)?(no_grad\(\)|inference_mode\([^)]*\)|set_grad_enabled\([^)]*\))")
MEANT_TO_SPIKE = re.compile(r"spik|fire|firing|heavis|surrog|neuron|lif|^if|if$|leaky|izhik", re.IGNORECASE)
THRESHOLDS = re.compile(r"thresh|theta|v_?th(r|$)|^thr$", re.IGNORECASE)

FLOATS = re.compile(r"\.dtype$|float|double|half", re.IGNORECASE)

_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]
_TORCH = os.path.join(os.path.dirname(os.path.abspath(torch.__file__)), "")
_OURS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
_is_users = cache(is_users)
LARGEST_COUNT = 64
"""Outputs up to so many times the smallest are whole numbers of spikes; beyond, they are no spikes."""


@dataclass(frozen=True)
class Site:
    """A line of the user's code.

    Attributes:
        file: its path.
        line: its number.
        function: the function that it is in.
    """

    file: str
    line: int
    function: str

    @property
    def users(self) -> bool:
        """It is not in a library."""
        return _is_users(self.file)

    @property
    def source(self) -> str:
        """The line itself."""
        return linecache.getline(self.file, self.line).strip()

    def __str__(self) -> str:
        if not self.file:
            return "no line of Python"
        inside = os.path.relpath(self.file)
        return f"{self.file if inside.startswith('..') else inside}:{self.line}"


@dataclass(frozen=True)
class Place:
    """Where in the network something happens.

    Attributes:
        layer: dotted name of the module; where a module with weights of its own does it in its forward, that of the
            weights used last before.
        module: dotted name of the innermost module; empty for the network itself.
        kind: its class.
        after: `layer` names the weights before it.
    """

    layer: str
    module: str
    kind: str
    after: bool = False

    def __str__(self) -> str:
        where = f"the forward of {self.module or self.kind}" if self.kind != "the loss" else self.kind
        if self.after:
            return f"{where}, after {self.layer},"
        return f"layer {self.layer}" if self.layer else where


@dataclass
class Cut:
    """An operation behind which autograd knows nothing of what came before.

    Attributes:
        kind: `comparison`, `detach`, `data`, `no_grad`, `whole numbers`, `copy`, `flat`, `leaves torch` or `other`.
        operation: the function's name.
        place, site: where; `site` of a `no_grad` is where it begins, if that is seen.
        reach: what autograd could still get back to before it.
        origin: what its operands rest on.
        bit: its own.
        inner: the line of the operation where `site` is that of something else.
    """

    kind: str
    operation: str
    place: Place
    site: Site
    reach: int
    origin: int
    bit: int
    inner: Site | None = None


@dataclass
class Spiking:
    """One call of what makes spikes.

    Attributes:
        place, site: where.
        potential: the tensor that is compared, or given to the Function; None where it is not seen.
        spikes: what came out.
        function: the class of the Function; None for a comparison.
        arguments: what the Function was called with.
        which: the place of `potential` among them.
        origin: what `potential` rests on.
        drive: the bit of what the weights before gave last; a state carries it on to the next call.
        cut: the bit of the comparison; 0 for a Function.
        smooth: the output is no whole number of spikes.
        version: of `potential` when it was used: another one later means that it was changed in place.
        trail: the lines between that of the user and this call, which tell firing from resetting.
        module: the neuron, where it makes spikes in compiled code; `potential` is then what it was fed.
        state: its potential after this call, after the reset; None where it is not shown.
        fed: the weights that were used last before.
        arrived: gradient at `spikes`, and at `potential`, once backward has been there.
    """

    place: Place
    site: Site
    potential: Tensor | None
    spikes: Tensor
    function: type | None = None
    arguments: tuple[Any, ...] = ()
    which: int = 0
    origin: int = 0
    drive: int = 0
    cut: int = 0
    smooth: bool = False
    version: int = 0
    trail: tuple[tuple[str, int], ...] = ()
    module: nn.Module | None = None
    state: Tensor | None = None
    fed: str = ""
    arrived: dict[str, Tensor] = field(default_factory=dict)

    @property
    def node(self) -> Any:
        """Autograd's node of the Function."""
        return self.spikes.grad_fn if self.function is not None else None

    def listen(self) -> None:
        """Keep the gradients that backward brings."""

        def keep(name: str) -> Callable[[Tensor | None], None]:
            def hook(gradient: Tensor | None) -> None:
                # A backward that returns None has the hooks of what it was given called with it.
                if gradient is not None:
                    self.arrived[name] = gradient.detach()

            return hook

        for name, tensor in (("spikes", self.spikes), ("potential", self.potential)):
            if tensor is not None and tensor.requires_grad:
                tensor.register_hook(keep(name))  # type: ignore[no-untyped-call]


@dataclass
class Squash:
    """A smooth, bounded function in the forward of what may be a neuron."""

    operation: str
    place: Place
    site: Site
    values: Tensor


@dataclass
class _Applied:
    """A Function whose forward has been entered; its output is met later."""

    function: type
    arguments: tuple[Any, ...]
    place: Place
    site: Site
    origin: int
    reach: int
    nodes: list[Any]
    trail: tuple[tuple[str, int], ...]
    frame: FrameType
    drive: int
    fed: str
    latest: Tensor | None = None


class Follower(TorchFunctionMode):
    """Notes cuts and spikes while a network runs; inside `following`.

    Attributes:
        cuts, calls, squashes: what was found, in order.
        functions: Functions whose output is no spikes.
        changes: lines that change a tensor in place that autograd follows: where, and of which shape.
        parameters: name -> bit, of all that may need a gradient.
        used: bits of the parameters that took part.
        in_loss: the network is through, and its loss is made.
        outputs: module -> tensors that it gave in its latest call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.modules = dict(network.named_modules())
        self.cuts: list[Cut] = []
        self.calls: list[Spiking] = []
        self.functions: list[Spiking] = []
        self.squashes: list[Squash] = []
        self.changes: dict[Site, tuple[Place, tuple[int, ...]]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self.used = 0
        self.path: list[str] = [""]
        self.weighted = ""
        self._before: list[tuple[int, int]] = []
        self._parameters = {id(value): 1 << i for i, (_, value) in enumerate(network.named_parameters())}
        self.parameters = {name: 1 << i for i, (name, _) in enumerate(network.named_parameters())}
        self._bits = len(self.parameters)
        self._origin: Any = WeakIdKeyDictionary()
        self._reach: Any = WeakIdKeyDictionary()
        self._compared: dict[int, Spiking] = {}
        self._applied: list[_Applied] = []
        self._running: _Applied | None = None
        self._known: Any = WeakIdKeyDictionary()
        self._disabled_at: Site | None = None
        self._enabled = True
        self._drive = 0
        self.in_loss = False
        self._has_weights = {
            name: any(value.ndim > 1 for value in module.parameters()) for name, module in self.modules.items()
        }

    # ------------------------------------------------------------------------------------------------ the sets

    def origin(self, tensor: Tensor) -> int:
        """What its value rests on."""
        bits: int = self._origin.get(tensor, 0) | self._parameters.get(id(tensor), 0)
        return bits

    def reach(self, tensor: Tensor, *, within: bool = False) -> int:
        """What autograd can get back to from it; `within` a Function also through what it does not record there."""
        if not (tensor.requires_grad or within):
            return 0
        own = self._parameters.get(id(tensor), 0) if tensor.requires_grad else 0
        bits: int = self._reach.get(tensor, 0) | own
        return bits

    def _new_bit(self) -> int:
        self._bits += 1
        return 1 << (self._bits - 1)

    def _mark(self, value: Any, origin: int, reach: int) -> None:
        for tensor in tensors_in(value):
            self._origin[tensor] = origin
            self._reach[tensor] = reach

    # -------------------------------------------------------------------------------------------- the functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled":
            # What a Function switches off for its forward does not pass here.
            self._enabled = bool(args and args[0])
            self._disabled_at = None if self._enabled else _switch()
        if name == "__get__":
            name = getattr(func.__self__, "__name__", "")
            if name not in PROPERTIES:
                return func(*args, **(kwargs or {}))
        if VALUELESS.match(name):
            return func(*args, **(kwargs or {}))
        if self._enabled and torch.is_grad_enabled():
            self._finish()
        operands = list(tensors_in(args[:1] if name in BY_FIRST else (args, kwargs)))
        for tensor in operands:
            self._meet(tensor)
        recording = self._enabled and not torch.is_inference_mode_enabled()
        entered = self._function() if recording and not torch.is_grad_enabled() else None
        origin = reach = 0
        for tensor in operands:
            origin |= self.origin(tensor)
            reach |= self.reach(tensor, within=entered is not None)
        self.used |= origin
        # A comparison in place, or a change of its operand, must not hide what was compared.
        compared = next((one for one in operands if self.reach(one)), None) if name in COMPARISONS else None
        result = func(*args, **(kwargs or {}))
        target = args[0] if name == "__setitem__" else result
        made = list(tensors_in(target))
        if entered is not None:
            self._mark(made, origin, reach)
            entered.latest = made[0] if made else entered.latest
        elif not made:
            if name in LEAVING and origin:
                self._cut("leaves torch", name, reach or origin, origin)
        elif reach and not any(one.requires_grad for one in made):
            cut = self._cut(self._kind(name, made[0], recording), name, reach, origin)
            self._mark(made, origin | cut.bit, 0)
            if compared is not None:
                self._compare(cut, compared, made[0], origin)
        else:
            if reach and name.removesuffix("_") in FLAT:
                cut = self._cut("flat", name, reach, origin)
                origin |= cut.bit
                self._flat_spikes(cut, operands[0], made[0])
            self._mark(made, origin, reach)
        if entered is None:
            self._look(name, operands, made, origin)
        return result

    def _kind(self, name: str, made: Tensor, recording: bool) -> str:
        if not recording:
            return "no_grad"
        if name in ("detach", "detach_"):
            return "detach"
        if name == "data":
            return "data"
        if name.removesuffix("_") in COMPARISONS:
            return "comparison"
        if name in COPIES:
            return "copy"
        return "other" if made.is_floating_point() else "whole numbers"

    def _cut(self, kind: str, operation: str, reach: int, origin: int) -> Cut:
        at = _site()
        site = (self._disabled_at or _inference() or at) if kind == "no_grad" else at
        cut = Cut(kind, operation, self.place(), site, reach, origin, self._new_bit(), at if at != site else None)
        self.cuts.append(cut)
        return cut

    def place(self) -> Place:
        """Where the network is."""
        if self.in_loss:
            return Place("", "", "the loss")
        inner = name = self.path[-1]
        kind = type(self.modules[inner]).__name__
        # By who called whom: a surrogate may be shared by several neurons, and has the name of one of them.
        for above in reversed(self.path[:-1]):
            if not above or self._has_weights[above] or isinstance(self.modules[above], nn.Sequential | nn.ModuleList):
                break
            name = above
        own = bool(name) and meant_to_spike(self.modules[name])
        if not name or (not own and self._has_weights[inner] and any(True for _ in self.modules[inner].children())):
            inside = self.weighted.startswith(f"{name}.") if name else bool(self.weighted)
            return Place(self.weighted if inside else name, inner, kind, after=inside)
        return Place(name, inner, type(self.modules[name]).__name__)

    # ------------------------------------------------------------------------------------------------ Functions

    def _function(self) -> _Applied | None:
        """The Function whose forward is running, if any; noted when it is first seen."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not _APPLY:
            frame = frame.f_back
        if frame is None:
            return None
        if self._running is not None and self._running.frame is frame:
            return self._running
        arguments = tuple(frame.f_locals["args"])
        origin = reach = 0
        for tensor in tensors_in(arguments):
            self._meet(tensor)
            origin, reach = origin | self.origin(tensor), reach | self.reach(tensor)
        site = _site(frame.f_back)
        nodes = [_node(one) for one in tensors_in(arguments) if one.requires_grad]
        applied = self._running = _Applied(
            frame.f_locals["cls"], arguments, self.place(), site, origin, reach, nodes, _trail(frame.f_back), frame,
            self._drive, self.weighted,
        )  # fmt: skip
        # Without an input that requires grad there is no node to know its output by.
        if nodes:
            self._applied.append(applied)
        return applied

    def _finish(self) -> None:
        """A Function is over: where none of its inputs requires grad, its output has no node to be met by."""
        applied, self._running = self._running, None
        if applied is not None and not applied.nodes and applied.latest is not None:
            self._spikes_of(applied, applied.latest)

    def _meet(self, tensor: Tensor) -> None:
        """A tensor is used: it may be the output of a Function."""
        if not self._applied:
            return
        node = tensor.grad_fn if tensor.requires_grad else None
        function = getattr(node, "_forward_cls", None)
        if node is None or function is None or tensor in self._known:
            return
        self._known[tensor] = None
        edges = [edge for edge, _ in node.next_functions]
        for i, applied in enumerate(self._applied):
            if applied.function is function and all(any(one is edge for edge in edges) for one in applied.nodes):
                del self._applied[i]
                self._spikes_of(applied, tensor)
                return

    def _spikes_of(self, applied: _Applied, spikes: Tensor) -> None:
        tensors = [(i, one) for i, one in enumerate(applied.arguments) if isinstance(one, Tensor)]
        fitting = [(i, one) for i, one in tensors if one.shape == spikes.shape]
        fitting.sort(key=lambda pair: not pair[1].requires_grad)
        which, potential = fitting[0] if fitting else (0, None)
        call = Spiking(
            applied.place, applied.site, potential, spikes, applied.function, applied.arguments, which,
            origin=applied.origin, drive=applied.drive, smooth=spike_height(spikes) is None,
            version=potential._version if potential is not None else 0, trail=applied.trail, fed=applied.fed,
        )  # fmt: skip
        call.listen()
        (self.functions if call.smooth else self.calls).append(call)
        self._mark(spikes, applied.origin, applied.reach)

    # ---------------------------------------------------------------------------------------------- comparisons

    def _compare(self, cut: Cut, potential: Tensor, fired: Tensor, origin: int) -> None:
        """What was compared, until its spikes are seen."""
        call = Spiking(
            cut.place, cut.site, potential, fired, origin=origin, drive=self._drive, cut=cut.bit,
            version=potential._version, trail=_trail(sys._getframe(2)), fed=self.weighted,
        )  # fmt: skip
        self._compared[cut.bit] = call

    def _flat_spikes(self, cut: Cut, potential: Tensor, spikes: Tensor) -> None:
        """Spikes that a function with derivative 0 gives."""
        if cut.place.layer and spikes.shape == potential.shape and spike_height(spikes) is not None:
            call = Spiking(cut.place, cut.site, potential, spikes, origin=cut.origin, drive=self._drive, cut=cut.bit,
                           version=potential._version, fed=self.weighted)  # fmt: skip
            self.calls.append(call)

    def _look(self, name: str, operands: list[Tensor], made: list[Tensor], origin: int) -> None:
        """Spikes that a comparison is made into, and smooth functions."""
        if name in CASTS and made and any(one.dtype is torch.bool for one in operands):
            found = self._latest(origin)
            shaped = found is not None and found.potential is not None and found.potential.shape == made[0].shape
            if found is not None and shaped and spike_height(made[0]) is not None:
                del self._compared[found.cut]
                found.spikes = made[0]
                self.calls.append(found)
                found.listen()
        if name in SUMS and made and made[0].requires_grad:
            self._straight_through(made[0], origin)
        if IN_PLACE.match(name) and operands and operands[0].requires_grad:
            self.changes.setdefault(_site(), (self.place(), tuple(operands[0].shape)))
        if name.removesuffix("_") in SQUASHING and made and made[0].ndim > 1:
            self.squashes.append(Squash(name, self.place(), _site(), made[0].detach()))

    def _straight_through(self, total: Tensor, origin: int) -> None:
        """A sum that has the values of the spikes and a gradient beside: s + (spikes − s).detach()."""
        for call in [*reversed(self._compared.values()), *reversed(self.calls[-8:])]:
            fits = call.function is None and origin & call.cut and not call.spikes.requires_grad
            if fits and call.spikes.shape == total.shape and _alike(call.spikes, total):
                if self._compared.pop(call.cut, None) is not None:
                    self.calls.append(call)
                call.spikes = total
                call.listen()
                return

    def _latest(self, origin: int) -> Spiking | None:
        """The latest comparison that something rests on."""
        for bit in reversed(self._compared):
            if origin & bit:
                return self._compared[bit]
        return None

    # ---------------------------------------------------------------------------------------------- the modules

    def enter(self, name: str) -> None:
        """A module's forward begins."""
        self.path.append(name)
        self._before.append((len(self.calls) + len(self.functions), len(self.cuts)))

    def leave(self, name: str, args: Any, output: Any) -> None:
        """It ends: what it gave, and whether a comparison in it was given a gradient by a detour."""
        if self._enabled:
            self._finish()
        given = list(tensors_in(args))
        calls, cuts = self._before.pop()
        inside = [one for one in self.cuts[cuts:] if one.place.module == name and one.origin]
        tensors = list(tensors_in(output))
        self.outputs[name] = [one.detach() for one in tensors]
        for tensor in tensors:
            self._meet(tensor)
            if tensor not in self._origin:
                # Made where no function of torch is seen, as in compiled code or by numpy.
                rests = [*given, *self.modules[name].parameters()]
                origin = reach = 0
                for one in rests:
                    origin, reach = origin | self.origin(one), reach | self.reach(one)
                if reach and not tensor.requires_grad:
                    cut = inside[-1] if inside else self._cut("leaves torch", "", reach, origin)
                    origin, reach = origin | cut.origin | cut.bit, 0
                self._mark(tensor, origin, reach)
            self._detour(name, tensor)
        if self._has_weights[name] and not any(True for _ in self.modules[name].children()):
            self.weighted, self._drive = name, self._new_bit()
            for tensor in tensors:
                self._origin[tensor] = self.origin(tensor) | self._drive
        if len(self.calls) + len(self.functions) == calls:
            self._opaque(name, given, tensors)
        self.path.pop()

    def _opaque(self, name: str, given: list[Tensor], tensors: list[Tensor]) -> None:
        """Spikes that a neuron makes in compiled code."""
        module: Any = self.modules[name]
        if not name or not meant_to_spike(module) or not given:
            return
        fed = given[0]
        alike = [one for one in tensors if one.shape == fed.shape and one.requires_grad]
        fitting = [one for one in alike if spike_height(one) is not None]
        if not fitting or fed.ndim < 2:
            return
        v = getattr(module, "v", None)
        call = Spiking(
            self.place(), _site(), fed if fed.requires_grad else None, fitting[0], version=fed._version, module=module,
            state=v.detach().clone() if isinstance(v, Tensor) else None, fed=self.weighted,
        )  # fmt: skip
        call.listen()
        self.calls.append(call)

    def _detour(self, name: str, output: Tensor) -> None:
        """The way of s + (spikes − s).detach(): spikes with a gradient that no Function gives."""
        if not name or not output.requires_grad or hasattr(output.grad_fn, "_forward_cls"):
            return
        origin = self.origin(output)
        inside = [
            call for call in [*self.calls[-8:], *self._compared.values()]
            if call.function is None and origin & call.cut and call.potential is not None
            and (call.place.module == name or call.place.module.startswith(f"{name}."))
            and call.potential.shape == output.shape
        ]  # fmt: skip
        if not inside or inside[-1].spikes is output or spike_height(output) is None:
            return
        call = inside[-1]
        if self._compared.pop(call.cut, None) is not None:
            self.calls.append(call)
        call.spikes = output
        call.listen()


@contextmanager
def following(network: nn.Module) -> Iterator[Follower]:
    """Follow what a network does inside this context; its hooks are taken off again."""
    follower = Follower(network)

    def enter(name: str) -> Callable[..., None]:
        return lambda _module, _args: follower.enter(name)

    def leave(name: str) -> Callable[..., None]:
        return lambda _module, args, output: follower.leave(name, args, output)

    with ExitStack() as stack:
        for name, module in follower.modules.items():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave(name)).remove)
        stack.enter_context(follower)
        yield follower


# ----------------------------------------------------------------------------------------------- lines and values


def meant_to_spike(module: nn.Module) -> bool:
    """True for what is no module of torch and calls itself a neuron, or has a threshold."""
    if type(module).__module__.startswith("torch.") or "NonSpiking" in type(module).__name__:
        return False
    names = [name for name in (*vars(module), *module._parameters, *module._buffers) if THRESHOLDS.search(name)]
    return bool(names) or bool(MEANT_TO_SPIKE.search(type(module).__name__))


def _alike(spikes: Tensor, total: Tensor) -> bool:
    """The same numbers but for rounding; of one dtype or not."""
    return total.is_floating_point() and torch.allclose(spikes.detach().to(total.dtype), total.detach(), atol=1e-3)


def _node(tensor: Tensor) -> Any:
    """Autograd's node that gets a tensor's gradient."""
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    return torch.autograd.graph.get_gradient_edge(tensor).node


def _trail(frame: FrameType | None) -> tuple[tuple[str, int], ...]:
    """The lines of a library from a frame up to the innermost one of the user, or to where probe calls the network."""
    found: list[tuple[str, int]] = []
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    while frame is not None and not _is_users(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith(_OURS):
            break
        if not frame.f_code.co_filename.startswith(_TORCH):
            found.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found[:8])


def _site(frame: FrameType | None = None) -> Site:
    """The innermost line of the user's own code; where there is none, of a library that is neither torch nor probe."""
    frame = frame or sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    other: FrameType | None = None
    # Up to where probe calls the network; what has called probe is not meant.
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        file = frame.f_code.co_filename
        if _is_users(file):
            return Site(file, frame.f_lineno, frame.f_code.co_name)
        if other is None and not file.startswith((_TORCH, "<")):
            other = frame
        frame = frame.f_back
    return Site("", 0, "") if other is None else Site(other.f_code.co_filename, other.f_lineno, other.f_code.co_name)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From a frame up to where probe calls the network."""
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        yield frame
        frame = frame.f_back


def _switch() -> Site:
    """Where autograd is switched off: a line, or that of the decorator of a function."""
    for frame in _frames(sys._getframe(1)):
        if _is_users(frame.f_code.co_filename):
            break
        if frame.f_code.co_name == "decorate_context" and "func" in frame.f_locals:
            code = getattr(frame.f_locals["func"], "__code__", None)
            if code is not None:
                return _named(code, def_line(code)) or Site(code.co_filename, def_line(code), code.co_name)
    return _site()


def _inference() -> Site | None:
    """The line of the torch.inference_mode that is on, which no function of torch shows; None where it is not seen."""
    if not torch.is_inference_mode_enabled():
        return None
    users = (frame for frame in _frames(sys._getframe(1)) if _is_users(frame.f_code.co_filename))
    return next((site for frame in users if (site := _named(frame.f_code, frame.f_lineno))), None)


def _named(code: CodeType, last: int) -> Site | None:
    """The last line of a function, from its decorators down to one line, that names a switch of autograd."""
    for line in range(last, code.co_firstlineno - 1, -1):
        if SWITCH.search(linecache.getline(code.co_filename, line)):
            return Site(code.co_filename, line, code.co_name)
    return None


def def_line(code: CodeType) -> int:
    """The line of a function's `def`, which comes after its decorators."""
    for line in range(code.co_firstlineno, code.co_firstlineno + 20):
        if re.match(r"\s*(async\s+)?def\s", linecache.getline(code.co_filename, line)):
            return line
    return code.co_firstlineno


def spike_height(values: Tensor) -> float | None:
    """The output for one spike, 0 where there is none, None where the values are no whole numbers of spikes.

    Args:
        values: shape (sample, ...); where channels have heights of their own, along axis 1.
    """
    values = values.detach().abs().float()
    if not values.numel() or not bool(values.any()):
        return 0.0
    if bool(torch.isfinite(values).all()):
        for axes in (None, 1):
            if axes is not None and values.ndim < 2:
                break
            rows = values.reshape(1, -1) if axes is None else values.transpose(0, 1).flatten(1)
            smallest = torch.where(rows > 0, rows, torch.inf).amin(1, keepdim=True)
            counts = rows / smallest
            whole = (counts - counts.round()).abs() <= 1e-3
            if bool(whole.all()) and bool((counts <= LARGEST_COUNT).all()):
                return float(smallest.min())
    return None


def rewritten(source: str, spike: str = "spike") -> str:
    """A line whose value is a comparison cast to 0 and 1, with a spiking function of the difference; else empty.

    Only where the line then does the same: the comparison and its cast are all of what is assigned to one name or
    returned.

    >>> rewritten("return (v >= self.threshold).float()")
    'return spike(v - self.threshold)'
    """
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return ""
    if len(tree.body) != 1:
        return ""
    statement = tree.body[0]
    if isinstance(statement, ast.Assign):
        if len(statement.targets) != 1 or not isinstance(statement.targets[0], ast.Name | ast.Attribute):
            return ""
    elif not isinstance(statement, ast.Return) or statement.value is None:
        return ""
    found = _difference(statement.value)
    if found is None:
        return ""
    statement.value = ast.Call(ast.Name(spike), [found], [])
    return ast.unparse(statement)


def _difference(node: Any) -> ast.expr | None:
    """What spikes where it is above 0, of a comparison that is cast to 0 and 1."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if _is_number(other, 1):
                return _compared(one)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.keywords:
        return None
    name, of, given = node.func.attr, node.func.value, node.args
    if name == "heaviside" and len(given) == 2:
        return given[0]
    if name == "where" and len(given) == 3:
        found = _compared(given[0])
        if found is not None and _is_number(given[1], 0) and _is_number(given[2], 1):
            return ast.BinOp(found.right, ast.Sub(), found.left) if isinstance(found, ast.BinOp) else None
        return found if _is_number(given[1], 1) and _is_number(given[2], 0) else None
    found = _compared(of)
    if found is None or len(given) > 1:
        return None
    if not given:
        return found if name in ("float", "double", "half", "bfloat16") else None
    of_v = ast.unparse(given[0]) in (ast.unparse(one) for one in ast.walk(of) if isinstance(one, ast.expr))
    return found if name in ("to", "type", "type_as") and (of_v or FLOATS.search(ast.unparse(given[0]))) else None


def _compared(node: ast.AST) -> ast.expr | None:
    """`a - b` of `a > b`, `b < a`, `torch.gt(a, b)` and `a.gt(b)`."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        above, below = node.left, node.comparators[0]
        if isinstance(node.ops[0], ast.Lt | ast.LtE):
            above, below = below, above
        elif not isinstance(node.ops[0], ast.Gt | ast.GtE):
            return None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr not in ("gt", "ge", "greater", "greater_equal") or node.keywords:
            return None
        both = node.args if len(node.args) == 2 else [node.func.value, *node.args]
        if len(both) != 2:
            return None
        above, below = both
    else:
        return None
    return above if _is_number(below, 0) else ast.BinOp(above, ast.Sub(), below)


def _is_number(node: ast.AST, number: int) -> bool:
    """0 or 1, or a tensor of them like another."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr == ("zeros_like", "ones_like")[number]
    return isinstance(node, ast.Constant) and type(node.value) in (int, float) and node.value == number
