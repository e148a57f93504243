"""A surrogate gradient as autograd gives it: any callable from x = v − θ to spikes, measured on a grid.

Nothing is reimplemented: forward is what the callable returns, gradient what autograd sends back for a gradient of 1
at each element, both in float32, in which networks train.

    >>> from probe import measure_surrogate
    >>> measure_surrogate("spikingjelly:Sigmoid(alpha=4.0)").gradient.maximum
    1.0
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe import vision
from probe.errors import ProbeError
from probe.userfile import call, has_user_frame, resolve

Floats = npt.NDArray[np.float64]
Spiking = Callable[[Tensor], Any]

SHORT = {"spikingjelly": "spikingjelly.activation_based.surrogate", "snntorch": "snntorch.surrogate"}
"""What stands for the module in which a library keeps its surrogates."""
SPAN = 2.0
"""x runs from −SPAN to SPAN."""
POINTS = 4001
"""Of the grid; an odd number, so that 0 is one of them."""
ACTIVE = 0.01
"""The gradient counts as active above this share of its maximum."""
LEVEL = 1e-6
"""Gradients that differ from the maximum by less, as a share of it, are on its plateau: float32 tells no more."""
EVEN = 0.01
"""A gradient with less of its area without a mirror image at −x counts as symmetric."""
SLACK = 1e-6
"""Outputs that differ from 0 or 1 by less are 0 or 1: straight-through estimators leave float32's rounding."""
COARSE = 8
"""A width of fewer steps of the grid is told with a remark."""


@dataclass(frozen=True)
class Forward:
    """What a surrogate returns.

    Attributes:
        step: all values are 0 or 1, but for rounding, and they switch once, from 0 to 1.
        switch: the x at which they do; null where `step` is false.
        fires_at: `>=` where x = `switch` gives 1, else `>`; away from 0 the grid cannot tell, and it is `>=`.
        lowest: smallest value on the grid.
        highest: largest value on the grid.
    """

    step: bool
    switch: float | None
    fires_at: str | None
    lowest: float
    highest: float


@dataclass(frozen=True)
class Gradient:
    """The gradient g(x) on the grid; x in units of the potential, infinite and undefined values taken as 0.

    Attributes:
        maximum: largest g.
        minimum: smallest g.
        peak: where g is largest, the middle of a plateau; null where that reaches an end of the grid.
        width: full width at half maximum around the peak, between points by a straight line; null where it reaches an
            end of the grid.
        width_from: where that begins.
        width_to: where that ends.
        active_from: the first x with g above 1% of its maximum.
        active_to: the last such x.
        area: ∫g dx over the grid by trapezoids; 1 is the height of the Heaviside step.
        area_below: the share of ∫|g| dx that lies at x < 0; null where g is 0 everywhere.
        asymmetry: ∫|g(x) − g(−x)| dx / (2·∫|g| dx), from 0 to 1; null where g is 0 everywhere.
    """

    maximum: float
    minimum: float
    peak: float | None
    width: float | None
    width_from: float | None
    width_to: float | None
    active_from: float | None
    active_to: float | None
    area: float
    area_below: float | None
    asymmetry: float | None


@dataclass(frozen=True)
class MeasuredSurrogate:
    """A surrogate as it was measured.

    Attributes:
        name: as the user named it.
        label: the same, short.
        x: the grid, v − θ.
        outputs: forward at each x.
        gradients: g at each x; None where autograd has none to give.
        forward: what the outputs are.
        gradient: figures of g; None where there is none.
        at: (x, output, g) at each x that was asked for, g NaN where there is none.
        remarks: a sentence for each thing that is not as in a common surrogate.
    """

    name: str
    label: str
    x: Floats
    outputs: Floats
    gradients: Floats | None
    forward: Forward
    gradient: Gradient | None
    at: tuple[tuple[float, float, float], ...]
    remarks: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As `probe surrogate --json` prints it, without the curves."""
        at = {str(x): {"forward": _number(y), "gradient": _number(g)} for x, y, g in self.at}
        gradient = None if self.gradient is None else {**vars(self.gradient)}
        return {"name": self.name, "label": self.label, "forward": {**vars(self.forward)}, "gradient": gradient,
                "at": at, "remarks": list(self.remarks)}  # fmt: skip


def measure_surrogate(
    surrogate: str | Callable[..., Any], *, at: Sequence[float] = (), span: float = SPAN, points: int = POINTS
) -> MeasuredSurrogate:
    """Measure a surrogate: its output, and its gradient through autograd, at x = v − θ from −span to span.

    Args:
        surrogate: a name (see `open_surrogate`), or a callable that maps a tensor of x to one of the same shape.
        at: further x, whose values `at` of the result has.
        span: the largest x.
        points: of the grid, an odd number.

    Raises:
        ProbeError: there is no such callable, its arguments do not fit, its forward or backward raises, or either
            gives something else than a number for each x.
    """
    if not (math.isfinite(span) and span > 0):
        raise ProbeError(f"range {span:g}", expected="a number above 0")
    if points < 3 or points % 2 == 0:
        raise ProbeError(f"{points} points", expected="an odd number from 3, so that x = 0 is one of them")
    if not all(map(math.isfinite, at)):
        raise ProbeError("at " + ", ".join(map(str, at)), expected="finite numbers")
    half = points // 2
    x = torch.arange(-half, half + 1, dtype=torch.float64).mul(span / half).float()
    asked = torch.tensor(list(at), dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        if isinstance(surrogate, str):
            name, label, spiking = surrogate, _label(surrogate), open_surrogate(surrogate)
        else:
            name = label = getattr(surrogate, "__name__", type(surrogate).__name__)
            spiking = _spiking(name, surrogate, (), {})
        outputs, gradients = _run(name, spiking, x)
        again = _run(name, spiking, x)
        there, slopes = _run(name, spiking, asked) if at else (_array(asked), None)
    grid = _array(x)
    forward = _forward(grid, outputs)
    gradient = None if gradients is None else _gradient(grid, np.where(np.isfinite(gradients), gradients, 0.0))
    random = not all(_equal(one, other) for one, other in zip((outputs, gradients), again, strict=True))
    return MeasuredSurrogate(
        name=name, label=label, x=grid, outputs=outputs, gradients=gradients, forward=forward, gradient=gradient,
        at=tuple(
            (float(given), float(there[i]), math.nan if slopes is None else float(slopes[i]))
            for i, given in enumerate(at)
        ),
        remarks=tuple(_remarks(grid, outputs, gradients, forward, gradient, random)),
    )  # fmt: skip


def distinct(measured: Sequence[MeasuredSurrogate]) -> list[MeasuredSurrogate]:
    """The same, those whose labels are equal labelled by their whole names."""
    labels = [one.label for one in measured]
    return [replace(one, label=one.name) if labels.count(one.label) > 1 else one for one in measured]


# ------------------------------------------------------------------------------------------------- by its name


def open_surrogate(spec: str) -> Spiking:
    """The callable that `spec` names, from a tensor of x to spikes.

    A class is instantiated, `apply` of an autograd function is used, a function that makes surrogates (all its
    parameters have defaults, or what it returns is a function) is called; arguments in parentheses are Python
    literals. Those of a function or autograd function come after x. Naming code imports it.

    Args:
        spec: `package.module:NAME`, `package.module.NAME`, `path/to/file.py:NAME`, `spikingjelly:NAME` or
            `snntorch:NAME`, each also with arguments, as in `spikingjelly:Sigmoid(alpha=4.0)`.

    Raises:
        ProbeError: there is no such thing, it is no callable, or its arguments do not fit.
    """
    target, args, kwargs = parse_surrogate(spec)
    vision.prepare()
    return _spiking(target, resolve(target), args, kwargs)


def parse_surrogate(spec: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """`snntorch:atan(alpha=2.0)` as `snntorch.surrogate:atan`, () and {"alpha": 2.0}.

    Raises:
        ProbeError: what stands in parentheses is no list of literals.
    """
    text = spec.strip()
    target, args, kwargs = _arguments(text) if text.endswith(")") else (text, (), {})
    source, colon, attribute = target.rpartition(":")
    if colon:
        return f"{SHORT.get(source, source)}:{attribute}", args, kwargs
    module, dot, attribute = target.rpartition(".")
    if dot and module and attribute != "py" and "/" not in target:
        return f"{module}:{attribute}", args, kwargs
    return target, args, kwargs


def _arguments(text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """The name, and the arguments of the parentheses that end the text; a folder's name may have some too."""
    for i, character in enumerate(text):
        if character != "(":
            continue
        try:
            found = ast.parse(f"f{text[i:]}", mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        if isinstance(found, ast.Call) and isinstance(found.func, ast.Name) and text[:i]:
            values = [_literal(text, one) for one in found.args]
            return (
                text[:i],
                tuple(values),
                {str(one.arg): _literal(text, one.value) for one in found.keywords if one.arg},
            )
    raise ProbeError(f"the arguments of {text} cannot be read", expected="literals, as in Sigmoid(alpha=4.0)")


def _literal(text: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise ProbeError(
            f"{text}: {ast.unparse(node)} is no literal", expected="numbers, texts and the like, as in (alpha=4.0)",
            next_step="put what has to be computed into a function of your own, path/to/file.py:NAME",
        ) from None  # fmt: skip


def _label(spec: str) -> str:
    """`Sigmoid(alpha=4.0)` of a whole spec."""
    target = _arguments(spec.strip())[0] if spec.strip().endswith(")") else spec.strip()
    return target.rpartition(":")[2].rpartition(".")[2] + spec.strip()[len(target) :]


# -------------------------------------------------------------------------------------------- from x to spikes


def _spiking(name: str, found: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, made: bool = False) -> Spiking:
    """`found` as a function of x alone; `made` where it comes from a function that makes surrogates."""
    if isinstance(found, type) and issubclass(found, torch.autograd.Function):
        return _applied(name, found, args, kwargs)
    if isinstance(found, type):
        found, args, kwargs, made = call(name, partial(found, *args), **kwargs), (), {}, True
    if not callable(found):
        raise ProbeError(f"{name} is of type {type(found).__name__}", expected="a callable from x = v − θ to spikes")
    function = found.forward if isinstance(found, nn.Module) else found
    signature = _signature(function)

    def from_factory() -> Spiking:
        return _spiking(name, call(name, partial(found, *args), **kwargs), (), {}, made=True)

    if made or signature is None:
        return partial(_called, found, args, kwargs)
    parameters = signature.parameters.values()
    if all(parameter.default is not inspect.Parameter.empty for parameter in parameters):
        return from_factory()
    x = torch.zeros(3)
    if _fits(signature, (x, *args), kwargs):
        given = call(name, partial(_called, found, args, kwargs, x))
        return (
            from_factory()
            if callable(given) and _fits(signature, args, kwargs)
            else partial(_called, found, args, kwargs)
        )
    if _fits(signature, args, kwargs):
        return from_factory()
    raise _misfit(name, signature, (x, *args), kwargs)


def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], x: Tensor) -> Any:
    return function(x, *args, **kwargs)


def _applied(name: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Spiking:
    """`apply` of an autograd function, which takes no argument by name."""
    signature = inspect.signature(function.forward)
    first = [torch.zeros(3)] if _sets_up_context(function) else [None, torch.zeros(3)]
    if not _fits(signature, (*first, *args), kwargs):
        raise _misfit(name, signature, (*first, *args), kwargs)
    bound = signature.bind(*first, *args, **kwargs)
    if bound.kwargs:
        bound.apply_defaults()
    return partial(_called, function.apply, bound.args[len(first) :], {})


def _sets_up_context(function: type[torch.autograd.Function]) -> bool:
    """Its forward takes no ctx: a method of its own is given that."""
    return any("setup_context" in vars(base) for base in function.__mro__ if not base.__module__.startswith("torch."))


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """None where Python cannot tell, as for functions written in C."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _fits(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _misfit(name: str, signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ProbeError:
    try:
        signature.bind(*args, **kwargs)
        reason = "its arguments do not fit"
    except TypeError as error:
        reason = str(error)
    names = ", ".join(map(str, (one.replace(annotation=one.empty) for one in signature.parameters.values())))
    return ProbeError(f"{name}: {reason}", expected=f"its parameters ({names})",
                      next_step="pass all but x in parentheses, as in sigmoid(alpha=4.0)")  # fmt: skip


# -------------------------------------------------------------------------------------------------- measuring


def _run(name: str, spiking: Spiking, x: Tensor) -> tuple[Floats, Floats | None]:
    """Outputs and gradients at each x, shape (point,); None for gradients that autograd cannot give."""
    leaf = x.clone().requires_grad_()

    def forward() -> Any:
        with torch.enable_grad():
            # A copy: a callable may work in place.
            return spiking(leaf.clone())

    output = call(name, forward)
    if not isinstance(output, Tensor):
        raise ProbeError(f"{name} returns {_described(output)}", expected="a tensor of spikes, one for each x")
    if output.shape != x.shape:
        raise ProbeError(
            f"{name} returns shape {tuple(output.shape)} for {len(x)} values of x", expected=f"({len(x)},)"
        )
    if output.is_complex():
        raise ProbeError(f"{name} returns complex numbers", expected="spikes, real numbers")
    if not output.requires_grad:
        return _array(output), None

    gradient = _backward(name, output, leaf)
    if gradient is None:
        raise ProbeError(
            f"the backward of {name} gives no gradient for x", expected="a tensor, one number for each x",
            next_step="return the gradient of the first argument of forward from backward",
        )  # fmt: skip
    return _array(output), _array(gradient)


def _backward(name: str, output: Tensor, leaf: Tensor) -> Tensor | None:
    what = f"the backward of {name}"

    def backward() -> Any:
        try:
            return torch.autograd.grad(output, leaf, torch.ones_like(output), allow_unused=True)[0]
        except RuntimeError as error:
            if has_user_frame(error):
                raise
            # What torch says of a gradient that does not fit is said in one line.
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ProbeError(f"{what} failed: {reason}", expected="one gradient, a number for each x") from None

    gradient: Tensor | None = call(what, backward)
    return gradient


def _described(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _array(values: Tensor) -> Floats:
    return values.detach().to("cpu", torch.float64).numpy().copy()


def _equal(one: Floats | None, other: Floats | None) -> bool:
    return one is other if one is None or other is None else bool(np.array_equal(one, other, equal_nan=True))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _forward(x: Floats, outputs: Floats) -> Forward:
    finite = outputs[np.isfinite(outputs)]
    lowest, highest = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    # What is left of v − v.detach() is rounded as v is.
    fires = np.abs(outputs - 1) <= SLACK * max(1.0, float(x[-1]))
    binary = bool((fires | (np.abs(outputs) <= SLACK * max(1.0, float(x[-1])))).all())
    if not binary or fires[0] or not fires[-1] or np.count_nonzero(np.diff(fires)) != 1:
        return Forward(False, None, None, *((0.0, 0.0) if math.isnan(lowest) else (lowest, highest)))
    first, zero = int(fires.argmax()), len(x) // 2
    strict = first == zero + 1
    return Forward(True, 0.0 if strict else float(x[first]), ">" if strict else ">=", lowest, highest)


def _gradient(x: Floats, g: Floats) -> Gradient:
    maximum, minimum = float(g.max()), float(g.min())
    peak = begin = end = active_from = active_to = None
    if maximum > 0:
        low, high = _around(g >= maximum * (1 - LEVEL), int(g.argmax()))
        if low > 0 and high < len(g) - 1:
            peak = float(x[low] + x[high]) / 2
        left, right = _around(g >= maximum / 2, int(g.argmax()))
        if left > 0 and right < len(g) - 1:
            begin = _crossing(x, g, left - 1, left, maximum / 2)
            end = _crossing(x, g, right, right + 1, maximum / 2)
        active = np.flatnonzero(g > ACTIVE * maximum)
        active_from, active_to = float(x[active[0]]), float(x[active[-1]])
    size = _area(x, np.abs(g))
    middle = len(x) // 2
    return Gradient(
        maximum=maximum, minimum=minimum, peak=peak, width=None if begin is None or end is None else end - begin,
        width_from=begin, width_to=end, active_from=active_from, active_to=active_to, area=_area(x, g),
        area_below=_area(x[: middle + 1], np.abs(g[: middle + 1])) / size if size else None,
        asymmetry=_area(x, np.abs(g - g[::-1])) / (2 * size) if size else None,
    )  # fmt: skip


def _around(inside: npt.NDArray[np.bool_], place: int) -> tuple[int, int]:
    """The first and the last index of the run of true values that `place` is in."""
    outside = np.flatnonzero(~inside)
    before, after = outside[outside < place], outside[outside > place]
    return int(before[-1]) + 1 if before.size else 0, int(after[0]) - 1 if after.size else len(inside) - 1


def _crossing(x: Floats, g: Floats, i: int, j: int, level: float) -> float:
    """Where the straight line between two neighbouring points has the given height."""
    return float(x[i] + (x[j] - x[i]) * (level - g[i]) / (g[j] - g[i]))


def _area(x: Floats, values: Floats) -> float:
    """∫ values dx by trapezoids."""
    return float(((values[1:] + values[:-1]) * np.diff(x)).sum() / 2)


def _remarks(
    x: Floats, outputs: Floats, gradients: Floats | None, forward: Forward, gradient: Gradient | None, random: bool
) -> list[str]:
    """What a reader of the figures should know."""
    said = []
    if not forward.step:
        said.append(f"forward is no Heaviside step: values from {forward.lowest:g} to {forward.highest:g}")
    elif forward.switch:
        said.append(f"forward switches at x = {forward.switch:.4g}, not at 0")
    if not np.isfinite(outputs).all():
        said.append(f"forward is not finite at {_places(x, ~np.isfinite(outputs))}")
    if random:
        said.append("two measurements differ: it draws random numbers, and the figures are those of one draw")
    if gradients is None or gradient is None:
        return [*said, "no gradient: autograd does not reach x through it, so nothing before it learns"]
    if not np.isfinite(gradients).all():
        said.append(f"the gradient is not finite at {_places(x, ~np.isfinite(gradients))}, taken as 0")
    if gradient.minimum < 0:
        said.append(f"the gradient is negative at {_places(x, gradients < 0)}, down to {gradient.minimum:.4g}")
    if gradient.maximum <= 0:
        return [*said, "the gradient is nowhere above 0"]
    return said + _shape_remarks(x, gradient)


def _shape_remarks(x: Floats, gradient: Gradient) -> list[str]:
    said = []
    step = float(x[1] - x[0])
    if gradient.peak is None:
        said.append("the gradient is at its maximum up to an end of the range: it has no peak there")
    elif abs(gradient.peak) > step / 2:
        said.append(f"the gradient peaks at x = {gradient.peak:.4g}, not at 0")
    if (gradient.peak is None or abs(gradient.peak) <= step / 2) and (gradient.asymmetry or 0) > EVEN:
        said.append(f"the gradient is not symmetric: {gradient.area_below:.1%} of its area lies below 0")
    if gradient.peak is not None and (gradient.active_from == x[0] or gradient.active_to == x[-1]):
        said.append(f"the gradient is above {ACTIVE:.0%} of its maximum up to an end of the range")
    if gradient.width is not None and gradient.width < COARSE * step:
        said.append("the width is a few steps of the grid only: measure it over a smaller range")
    return said


def _places(x: Floats, chosen: npt.NDArray[np.bool_]) -> str:
    """How many points, and from where to where."""
    inside = x[chosen]
    return f"{np.mean(chosen):.1%} of the points, x from {inside[0]:.4g} to {inside[-1]:.4g}"
