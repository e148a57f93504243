"""Surrogate gradients as they are used: measured at the values that the network came to, and on a grid around them."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from probe.diagnosis.findings import Finding
from probe.training.evidence import ACTIVE, GRID, Evidence, Failure, Layer, Measured
from probe.training.tracing import MEANT_TO_SPIKE, Site, Spiking, Squash, def_line, meant_to_spike, spike_height
from probe.userfile import is_users

NARROW, FAINT = 0.005, 5e-4
"""A layer gets almost no gradient with a smaller share of its neurons in the active window and with a smaller mean of
the derivative, as a share of its largest: a surrogate with long tails lets something through outside of its window."""
OFF_CENTRE = 0.5
"""A surrogate whose derivative where spikes set in is below this share of its largest one is off the threshold."""
FAR_OFF = 0.05
"""Below this share it is an error."""
REACH = 3.0
"""The grid goes to this multiple of the largest potential."""
LARGEST_THRESHOLD = 100.0
"""A number that a Function is given beside the potential, and that is larger, is no threshold."""


# -------------------------------------------------------------------------------------------------- measuring


def measure(layer: Layer) -> None:
    """Ask each call's surrogate for its derivative; the graph must still be whole."""
    for call in layer.calls:
        layer.derivatives.append(_derivative(layer, call))
    first = layer.calls[0]
    if layer.failures or all(one is None for one in layer.derivatives):
        return
    seen = _on_values(layer) if first.module is None else None
    grid = _on_grid(first) if first.module is None else _of_library(first)
    layer.measured = seen if grid is None else grid
    if layer.measured is not None and seen is not None:
        layer.measured.peak = max(layer.measured.peak, seen.peak)
    layer.ignores = first.function is not None and _ignores(first)


def failure_of(error: BaseException) -> Failure:
    """What a backward raised, and the line of the user's code."""
    frames = list(traceback.walk_tb(error.__traceback__))
    users = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames
             if is_users(frame.f_code.co_filename)]  # fmt: skip
    inside = any(one[2] == "backward" for one in users)
    text = f"{type(error).__name__}: " + " ".join(str(error).split())[:300]
    return Failure(text, Site(*users[-1]) if inside else None)


def _derivative(layer: Layer, call: Spiking) -> Tensor | None:
    """d spike / d potential at every neuron of a call."""
    if not call.spikes.requires_grad or call.potential is None:
        return None
    ones = torch.ones_like(call.spikes)
    if call.module is not None:
        return _of_module(call)
    if call.function is None:
        if call.potential._version != call.version:
            return None
        try:
            (found,) = torch.autograd.grad(call.spikes, call.potential, ones, retain_graph=True, allow_unused=True)
        except RuntimeError:
            return None
        return found
    try:
        returned = call.node.apply(ones)
    except Exception as error:
        _failed(layer, failure_of(error))
        return None
    given = returned if isinstance(returned, tuple) else (returned,)
    if len(given) < len(call.arguments):
        text = f"gives {len(given)} gradients for {len(call.arguments)} inputs"
        _failed(layer, Failure(text, _backward_site(call)))
        return None
    for i, (one, argument) in enumerate(zip(given, call.arguments, strict=False)):
        if isinstance(argument, Tensor) and argument.requires_grad:
            wrong = _wrong(one, argument, i)
            if wrong:
                _failed(layer, Failure(wrong, _backward_site(call)))
                return None
    found = given[call.which]
    if found is None:
        _told(layer, "returns None for the potential: nothing before this layer gets a gradient")
        return None
    if found.shape != call.potential.shape:
        _told(layer, f"returns a gradient of shape {tuple(found.shape)} for a potential of shape "
                     f"{tuple(call.potential.shape)}, which autograd sums up without a word")  # fmt: skip
        return None
    kept: Tensor = found.detach()
    return kept


def _of_module(call: Spiking) -> Tensor | None:
    """From a neuron's own `surrogate_function`, at the potential that it had after the call's last timestep.

    What a hard reset has taken away is not known: neurons that fired are left out then, and the values come in a row.
    """
    module: Any = call.module
    surrogate, threshold = getattr(module, "surrogate_function", None), getattr(module, "v_threshold", None)
    if surrogate is None or threshold is None or call.state is None:
        return None
    fired = call.spikes.detach()
    fired = fired if fired.shape == call.state.shape else fired[-1]
    if fired.shape != call.state.shape:
        return None
    before = call.state + fired * threshold if module.v_reset is None else call.state[fired == 0]
    return _slope(surrogate, before - threshold) if before.numel() else None


def _slope(surrogate: Any, x: Tensor) -> Tensor | None:
    try:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(surrogate(x).sum(), x)
    except Exception:
        return None
    return found.detach()


def _failed(layer: Layer, failure: Failure) -> None:
    if all(failure.text != one.text for one in layer.failures):
        layer.failures.append(failure)


def _told(layer: Layer, sentence: str) -> None:
    if sentence not in layer.shapes:
        layer.shapes.append(sentence)


def _wrong(given: Any, argument: Tensor, i: int) -> str:
    """What autograd would refuse of a gradient."""
    if given is None:
        return ""
    if not isinstance(given, Tensor):
        return f"returns a {type(given).__name__} as gradient {i}, no tensor"
    if given.device != argument.device and given.ndim:
        return f"returns gradient {i} on {given.device}, and its input is on {argument.device}"
    if given.shape != argument.shape and not _sums_to(tuple(given.shape), tuple(argument.shape)):
        return f"returns gradient {i} of shape {tuple(given.shape)}, and its input has {tuple(argument.shape)}"
    return ""


def _sums_to(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """True where autograd sums a gradient of one shape to another."""
    if len(wanted) > len(shape):
        return False
    tail = shape[len(shape) - len(wanted) :]
    return all(want in (1, have) for have, want in zip(tail, wanted, strict=True))


def _backward_site(call: Spiking) -> Site | None:
    code = getattr(getattr(call.function, "backward", None), "__code__", None)
    return Site(code.co_filename, def_line(code), "backward") if code is not None else None


def _ignores(call: Spiking) -> bool:
    """Whether the Function's backward gives the same for any gradient that it is given."""
    try:
        one, two = (_first(call.node.apply(torch.full_like(call.spikes, k)), call.which) for k in (1.0, 2.0))
    except Exception:
        return False
    return one is not None and two is not None and bool(one.any()) and torch.equal(one, two)


def _first(returned: Any, which: int) -> Tensor | None:
    found = returned[which] if isinstance(returned, tuple) else returned
    return found.detach() if isinstance(found, Tensor) else None


def _on_values(layer: Layer) -> Measured | None:
    """From the potentials, spikes and derivatives of the layer's calls."""
    parts = [
        (call.potential.detach(), call.spikes.detach() != 0, derivative.abs())
        for call, derivative in zip(layer.calls, layer.derivatives, strict=True)
        if derivative is not None and call.potential is not None and call.potential._version == call.version
        and derivative.shape == call.potential.shape == call.spikes.shape
    ]  # fmt: skip
    if not parts:
        return None
    v, fired, slope = (torch.cat([part[i].flatten() for part in parts]) for i in range(3))
    finite = torch.isfinite(slope) & torch.isfinite(v)
    v, fired, slope = v[finite].double(), fired[finite], slope[finite].double()
    if not len(v):
        return None
    place = int(slope.argmax())
    peak = float(slope[place])
    below, above = v[~fired], v[fired]
    if not len(below) or not len(above) or not peak or float(below.max()) > float(above.min()):
        return Measured(None, peak, float(v[place]), None)
    low, high = float(below.max()), float(above.min())
    margin = max(high - low, 0.05 * float(v.max() - v.min()))
    near = (v >= low - margin) & (v <= high + margin)
    return Measured((low + high) / 2, peak, float(v[place]), float(slope[near].max()) / peak)


def _on_grid(call: Spiking) -> Measured | None:
    """From the Function itself, on a grid; None where its other arguments are not single numbers."""
    function: Any = call.function
    v = call.potential
    if function is None or v is None:
        return None
    others = [one for i, one in enumerate(call.arguments) if i != call.which]
    tensors = [one for one in others if isinstance(one, Tensor)]
    if any(one.numel() != 1 for one in tensors):
        return None
    numbers = [abs(float(one.detach())) for one in tensors]
    numbers += [abs(float(one)) for one in others if isinstance(one, int | float)]
    finite = v.detach()[torch.isfinite(v.detach())]
    numbers = [number for number in numbers if number < LARGEST_THRESHOLD]
    largest = max([1.0, *numbers, float(finite.abs().max()) if len(finite) else 0.0])

    def run(points: Tensor) -> tuple[Tensor, Tensor] | None:
        grid = points.to(v).reshape(*[1] * (v.ndim - 1), -1).requires_grad_()
        spikes = function.apply(*(grid * 1 if i == call.which else one for i, one in enumerate(call.arguments)))
        slope = _first(spikes.grad_fn.apply(torch.ones_like(spikes)), call.which)
        if slope is None or not slope.shape == spikes.shape == grid.shape:
            return None
        return spikes.detach().flatten() > 0, slope.flatten()

    return _scanned(run, REACH * largest)


def _of_library(call: Spiking) -> Measured | None:
    """From a neuron's own `surrogate_function`, a function of v − θ."""
    surrogate: Any = getattr(call.module, "surrogate_function", None)

    def run(points: Tensor) -> tuple[Tensor, Tensor] | None:
        slope = _slope(surrogate, points)
        return None if slope is None else (surrogate(points).detach() > 0, slope)

    return None if surrogate is None else _scanned(run, REACH)


def _scanned(run: Callable[[Tensor], tuple[Tensor, Tensor] | None], reach: float) -> Measured | None:
    """Where spikes set in between −reach and reach, and where the derivative is largest; around the former closely."""
    points = torch.linspace(-reach, reach, GRID)
    try:
        with torch.enable_grad(), torch.random.fork_rng([]):
            coarse = run(points)
            if coarse is None:
                return None
            (fired, slope), i = coarse, _first_switch(coarse[0])
            if i is not None:
                near = torch.linspace(float(points[max(0, i - 1)]), float(points[min(GRID - 1, i + 2)]), GRID)
                fine = run(near)
                if fine is None:
                    return None
                points, order = torch.cat([points, near]).sort(stable=True)
                fired, slope = (torch.cat([one, two])[order] for one, two in zip(coarse, fine, strict=True))
    except Exception:
        return None
    if not bool(torch.isfinite(slope).all()):
        return None
    slope, points = slope.abs().double().cpu(), points.double()
    peak, i = float(slope.max()), _first_switch(fired)
    if not peak or i is None:
        return Measured(None, peak, 0.0, None)
    plateau = points[slope >= 0.99 * peak]
    at_switch = float(slope[max(0, i - 1) : i + 3].max()) / peak
    return Measured(float(points[i : i + 2].mean()), peak, float(plateau[0] + plateau[-1]) / 2, at_switch)


def _first_switch(fired: Tensor) -> int | None:
    """The last point of a grid before spikes set in; a neuron that fires several a step sets in at the first."""
    switches = (fired[1:] & ~fired[:-1]).nonzero().flatten()
    return int(switches[0]) if len(switches) else None


# ---------------------------------------------------------------------------------------------------- the checks


def smooth(seen: Evidence) -> Iterator[Finding]:
    """What is meant to spike and returns something smooth."""
    spiking = {call.place.layer for call in seen.follower.calls}
    told: set[str] = set()
    for call in seen.follower.functions:
        function = call.function.__name__ if call.function is not None else ""
        named = MEANT_TO_SPIKE.search(function) or _is_neuron(seen, call.place.module)
        if call.place.layer not in told and named and call.spikes.is_floating_point():
            told.add(call.place.layer)
            yield _smooth(seen, call.place.layer, str(call.place), f"the forward of {function}", call.site, call.spikes)
    for one in seen.follower.squashes:
        layer = one.place.layer
        if layer in told or layer in spiking or one.values.ndim < 2:
            continue
        module = one.place.module if not one.place.after else ""
        owner = layer if _is_neuron(seen, layer) else module
        outputs = seen.follower.outputs.get(owner, []) if owner and _is_neuron(seen, owner) else []
        returned = next((out for out in outputs if out.shape == one.values.shape), None)
        if returned is None and (MEANT_TO_SPIKE.search(one.site.function) or _of_difference(one, seen)):
            returned = one.values
        inside = returned is not None and float(returned.min()) >= -1.001 and float(returned.max()) <= 1.001
        if returned is None or not inside or any(spike_height(out) is not None for out in outputs):
            continue
        told.add(layer)
        yield _smooth(seen, layer, str(one.place), one.operation, one.site, returned)


def _of_difference(one: Squash, seen: Evidence) -> bool:
    """In a forward with weights: σ(k·(v − θ)), by its line, at every timestep."""
    if not one.place.after or one.operation not in ("sigmoid", "hardsigmoid"):
        return False
    if sum(other.site == one.site for other in seen.follower.squashes) < 2:
        return False
    return bool(re.search(r"sigmoid\((.*-.*)\)", one.site.source))


def _is_neuron(seen: Evidence, name: str) -> bool:
    return bool(name) and name in seen.follower.modules and meant_to_spike(seen.follower.modules[name])


def _smooth(seen: Evidence, layer: str, place: str, operation: str, site: Site, values: Tensor) -> Finding:
    """A layer whose outputs are no spikes; `share` counts what is neither 0 nor the largest output."""
    share = float(((values != 0) & (values != 1) & (values != values.max())).float().mean())
    code = f": `{site.source}` ({site})" if site.line else ""
    return Finding(
        "smooth-forward", "error", layer or None,
        f"{place} returns {operation} of the potential{code}; {100 * share:.3g}% of its outputs are neither 0 nor θ, "
        "so nothing spikes",
        {"share not 0 or θ": share, "smallest": float(values.min()), "largest": float(values.max()),
         "line": str(site), "source": site.source},
        "return spikes in the forward, (v >= threshold), and put the smooth function's derivative into the backward of "
        "a torch.autograd.Function, or use one of snntorch.surrogate or spikingjelly.activation_based.surrogate",
        index=seen.index_of(layer),
    )  # fmt: skip


def spikeless(seen: Evidence) -> Iterator[Finding]:
    """A network in which nothing was seen to spike."""
    unseen = not seen.connected and any(cut.kind == "no_grad" for cut in seen.follower.cuts)
    if seen.layers or unseen or any(True for _ in smooth(seen)):
        return
    kinds = sorted({type(module).__name__ for module in seen.network.modules() if not list(module.children())})
    yield Finding(
        "no-spikes", "warning", None, "nothing in this network gives spikes", {"modules": kinds},
        "check that this is the spiking network, and that its neurons compare a potential with a threshold",
    )  # fmt: skip


def failing(seen: Evidence) -> Iterator[Finding]:
    """A backward that raises, or whose gradients autograd refuses."""
    told: dict[tuple[str, str], list[Layer]] = {}
    for layer in seen.layers:
        for failure in layer.failures:
            told.setdefault((_name(layer), failure.text), []).append(layer)
    for (name, text), layers in told.items():
        failure = next(one for one in layers[0].failures if one.text == text)
        changed = _changed(seen, text)
        yield _failing(name, failure, layers, seen) if changed is None else changed
    if seen.error and not told and seen.connected:
        known = None if seen.failed_layer is None else seen.layers[seen.failed_layer]
        found = seen.failure or Failure(seen.error)
        heaviside = [cut for cut in seen.follower.cuts if cut.operation.startswith("heaviside")]
        if heaviside and "heaviside" in seen.error:
            cut = heaviside[0]
            yield Finding(
                "graph-cut", "error", cut.place.layer or None,
                f"{cut.place} calls heaviside, which torch cannot differentiate: `{cut.site.source}` ({cut.site})",
                {"kind": "flat", "operation": "heaviside", "line": str(cut.site), "source": cut.site.source,
                 "error": seen.error},
                "call a surrogate such as snntorch.surrogate.atan() or spikingjelly.activation_based.surrogate.ATan() "
                "of the same argument", index=seen.index_of(cut.place.layer),
            )  # fmt: skip
            return
        changed = _changed(seen, seen.error)
        if changed is not None:
            yield changed
            return
        match = re.search(r"unction (\w+)Backward\b", seen.error)
        name = _name(known) if known is not None else match[1] if match else ""
        yield _failing(name, found, [known] if known is not None else [], seen)


def _changed(seen: Evidence, error: str) -> Finding | None:
    """A tensor that autograd needs was changed in place: the lines that may have done it; None for another error."""
    found = re.search(r"modified by an inplace operation: \[[\w.]+ \[([\d, ]*)\]", error)
    if found is None:
        return None
    shape = tuple(int(number) for number in found[1].split(",") if number.strip())
    lines = [(site, place) for site, (place, its) in seen.follower.changes.items() if its == shape]
    layer = lines[0][1].layer if lines else ""
    told = f": `{lines[0][0].source}` ({lines[0][0]})" if lines else ""
    where = f" in {lines[0][1]}".rstrip(",") if lines else ""
    return Finding(
        "backward-fails", "error", layer or None,
        f"a tensor of shape {shape} that backward needs was changed in place{where}{told}",
        {"lines": [str(site) for site, _ in lines], "error": seen.error},
        "write the change as a new tensor: v = v - spikes * threshold instead of v -= ..., and "
        "torch.where(spikes > 0, 0, v) instead of v[...] = 0", index=seen.index_of(layer),
    )  # fmt: skip


def _failing(name: str, failure: Failure, layers: list[Layer], seen: Evidence) -> Finding:
    first = layers[0] if layers else None
    site = failure.site
    where = f" (layer {first.name}{f' and {len(layers) - 1} more' if len(layers) > 1 else ''})" if first else ""
    subject = f"the backward of {name}{where}" if name else "loss.backward()"
    raised = re.match(r"\w+(Error|Exception|Interrupt)?: ", failure.text) and not failure.text.startswith("returns")
    verb = "raises " if raised else ""
    line = f": `{site.source}` ({site})" if site is not None and site.line else ""
    return Finding(
        "backward-fails", "error", first.name if first else None, f"{subject} {verb}{failure.text}{line}",
        {"function": name, "layers": [layer.name for layer in layers], "line": str(site) if site else "",
         "error": seen.error or failure.text},
        "return one gradient for each input of forward, None for what needs none, each with the shape and the device "
        "of its input: grad_output * derivative(v)" if name else "mend the operation that it names",
        index=first.index if first else None,
    )  # fmt: skip


def shapes(seen: Evidence) -> Iterator[Finding]:
    """Gradients that autograd takes though they are not what they should be."""
    for layer in seen.layers:
        for sentence in layer.shapes:
            site = _backward_site(layer.calls[0])
            none = layer.returns_none
            yield Finding(
                "gradient-shape", "error" if none else "warning", layer.name,
                f"the backward of {_name(layer)} (layer {layer.name}) {sentence}",
                {"function": _name(layer), "line": str(site) if site else ""},
                "return grad_output * derivative(v), of the shape of v", index=layer.index,
            )  # fmt: skip
        if layer.ignores:
            site = _backward_site(layer.calls[0])
            yield Finding(
                "gradient-ignored", "error", layer.name,
                f"the backward of {_name(layer)} (layer {layer.name}) gives the same for every grad_output: the loss "
                "does not come through",
                {"function": _name(layer), "line": str(site) if site else ""},
                "multiply the derivative by grad_output", index=layer.index,
            )  # fmt: skip


def centre(seen: Evidence) -> Iterator[Finding]:
    """A surrogate whose largest derivative is not where spikes set in."""
    for layer in seen.layers:
        found = layer.measured
        if found is None or found.switch is None or found.at_switch is None or found.at_switch >= OFF_CENTRE:
            continue
        site = layer.calls[0].site
        line = f": `{site.source}` ({site})" if site.users and site.line else ""
        yield Finding(
            "surrogate-centre", "error" if found.at_switch < FAR_OFF else "warning", layer.name,
            f"the surrogate of layer {layer.name} ({_name(layer)}) has its largest derivative at {found.peak_at:.3g}, "
            f"and spikes set in at {found.switch:.3g}: there it is {100 * found.at_switch:.3g}% of that{line}",
            {"line": str(site), "spikes set in at": found.switch, "largest derivative at": found.peak_at,
             "share of it where spikes set in": found.at_switch},
            f"take the derivative at v - threshold, not at v - {found.peak_at:.3g}" if abs(found.switch) > 1e-3 else
            "take the derivative at 0, the value of the argument at which spikes set in",
            _look(layer), index=layer.index,
        )  # fmt: skip


def window(seen: Evidence) -> Iterator[Finding]:
    """A surrogate so narrow that almost no neuron gets a gradient, or one that is 0 or not finite."""
    for layer in seen.layers if not any(True for _ in broken_values(seen)) else ():
        known = [one for one in layer.derivatives if one is not None]
        broken = sum(int((~torch.isfinite(one)).sum()) for one in known)
        share = layer.active_share
        if broken:
            yield Finding(
                "surrogate-not-finite", "error", layer.name,
                f"the surrogate of layer {layer.name} ({_name(layer)}) gives NaN or infinity at {broken} potentials",
                {"potentials": broken}, "keep the argument of exp and of divisions bounded", index=layer.index,
            )  # fmt: skip
        elif known and layer.measured is not None and not layer.measured.peak and not _is_flat(seen, layer):
            yield Finding(
                "surrogate-window", "error", layer.name,
                f"the surrogate of layer {layer.name} ({_name(layer)}) is 0 at every neuron", {"active share": 0.0},
                "give it a derivative that is above 0 around the threshold", index=layer.index,
            )  # fmt: skip
        elif share is not None and share < NARROW and layer.measured is not None:
            mean = sum(float(one.abs().double().sum()) for one in known) / sum(one.numel() for one in known)
            faint = mean < FAINT * layer.measured.peak
            yield Finding(
                "surrogate-window", "warning" if faint else "note", layer.name,
                f"{100 * share:.3g}% of the neurons of layer {layer.name}, over samples and timesteps, are where its "
                f"surrogate is above {100 * ACTIVE:.0f}% of its largest value"
                + (": almost none gets a gradient" if faint else ": they learn from its tails"),
                {"active share": share, "mean derivative": mean, "largest derivative": layer.measured.peak,
                 "spread of the potential": _spread(layer)},
                "widen the surrogate (a smaller slope or alpha), or bring potentials nearer to the threshold (larger "
                "weights, batch norm, a lower threshold)", _look(layer), index=layer.index,
            )  # fmt: skip


def broken_values(seen: Evidence) -> Iterator[Finding]:
    """Parameters, potentials or a loss that are NaN or infinite before backward begins."""
    for name, value in seen.network.named_parameters():
        count = int((~torch.isfinite(value.detach())).sum())
        if count:
            owner = name.rpartition(".")[0]
            yield Finding(
                "not-finite", "error", owner or None,
                f"{count} of the {value.numel():,} values of {name} are NaN or infinite",
                {"parameter": name, "values": count}, "load or initialise it again; training has diverged, or a "
                "checkpoint is broken", index=seen.index_of(owner),
            )  # fmt: skip
            return
    for layer in seen.layers:
        values = [call.potential.detach() for call in layer.calls if call.potential is not None]
        calls = [i for i, one in enumerate(values) if one.is_floating_point() and not bool(torch.isfinite(one).all())]
        if calls:
            yield Finding(
                "not-finite", "error", layer.name,
                f"the potential of layer {layer.name} is NaN or infinite, from call {calls[0] + 1} of {len(values)} on",
                {"calls": calls}, "look at what it is fed, and for divisions, logarithms and states that grow",
                index=layer.index,
            )  # fmt: skip
            return
    if not math.isfinite(seen.loss):
        yield Finding(
            "not-finite", "error", None, f"the loss is {seen.loss}, and all parameters and potentials are finite",
            {"loss": str(seen.loss)}, "look for divisions and logarithms between the last layer and the loss",
        )  # fmt: skip


def _is_flat(seen: Evidence, layer: Layer) -> bool:
    return any(cut.kind == "flat" and cut.bit == layer.calls[0].cut for cut in seen.follower.cuts)


def _spread(layer: Layer) -> float | None:
    values = [call.potential.detach().flatten() for call in layer.calls if call.potential is not None]
    return float(torch.cat(values).double().std(correction=0)) if values else None


def _name(layer: Layer) -> str:
    function = layer.calls[0].function
    return function.__name__ if function is not None else layer.calls[0].place.kind


def _look(layer: Layer) -> str:
    """`probe surrogate` measures what a library keeps under a name."""
    call = layer.calls[0]
    library: Any = call.function if call.function is not None else getattr(call.module, "surrogate_function", None)
    kind = library if isinstance(library, type) else type(library)
    package = kind.__module__.partition(".")[0]
    if package not in ("snntorch", "spikingjelly"):
        return ""
    given = [one for i, one in enumerate(call.arguments) if i != call.which]
    named = {} if call.function is not None else getattr(library, "_sg_params", {})
    if not all(isinstance(one, int | float) for one in (*given, *named.values())):
        return ""
    told = ", ".join([*map(repr, given), *(f"{name}={value!r}" for name, value in named.items())])
    return f"probe surrogate '{package}:{kind.__name__}({told})'"
