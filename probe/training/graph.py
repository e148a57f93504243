"""Where autograd's graph is cut, what is frozen, what gets no gradient, and what grows from batch to batch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from probe.diagnosis.findings import Finding
from probe.training.evidence import Evidence, Parameter
from probe.training.tracing import SWITCH, THRESHOLDS, Cut, Site, rewritten
from probe.userfile import listed

UNCONNECTED = "element 0 of tensors does not require grad and does not have a grad_fn"
SURROGATE = (
    "with {0} = snntorch.surrogate.atan() or spikingjelly.activation_based.surrogate.ATan(), which compare in the "
    "forward and have a smooth derivative in the backward"
)
SPIKING = frozenset(("sign", "sgn", "heaviside"))
"""Functions with derivative 0 that are there to make spikes."""
WHY = {
    "comparison": "compares, and a comparison has no derivative",
    "detach": "detaches: nothing before it gets a gradient",
    "data": "takes .data, which autograd does not see",
    "no_grad": "switches autograd off",
    "whole numbers": "makes whole numbers or truth values, which carry no gradient",
    "copy": "copies the values into a new tensor, without their history",
    "flat": "has the derivative 0 everywhere",
    "leaves torch": "leaves torch, where autograd cannot follow",
    "other": "gives a result without a gradient",
}


def _is_threshold(name: str) -> bool:
    return bool(THRESHOLDS.search(name.rpartition(".")[2]))


def _lacking(seen: Evidence) -> list[Parameter]:
    """Parameters that took part, asked for a gradient and got none; thresholds have a check of their own."""
    lacking = [one for one in seen.parameters if one.required and one.used and one.norm is None]
    return lacking if not seen.connected else [one for one in lacking if not _is_threshold(one.name)]


def _blamed(seen: Evidence, parameter: Parameter, cuts: Iterable[Cut]) -> list[Cut]:
    """The cuts between a parameter and the loss behind which no other one lies."""
    bit = seen.follower.parameters[parameter.name]
    between = [cut for cut in cuts if cut.reach & bit and seen.loss_origin & cut.bit]
    before = 0
    for cut in between:
        before |= cut.origin
    return [cut for cut in between if not before & cut.bit]


def cuts(seen: Evidence) -> Iterator[Finding]:
    """The operations that keep the gradient from parameters, each line once, with all layers in which it does so."""
    by_line: dict[tuple[str, Site], tuple[list[Cut], dict[str, None]]] = {}
    unexplained = []
    if not seen.error or not seen.connected:
        follower = seen.follower
        real = [cut for cut in follower.cuts if cut.kind != "flat"]
        silenced = 0
        for call in (call for layer in seen.layers if layer.returns_none for call in layer.calls):
            silenced |= call.origin
        for parameter in _lacking(seen):
            if follower.parameters[parameter.name] & silenced:
                continue
            blamed = _blamed(seen, parameter, real)
            if not blamed and not seen.loss_origin & follower.parameters[parameter.name]:
                bit = follower.parameters[parameter.name]
                blamed = [cut for cut in follower.cuts if cut.kind == "leaves torch" and cut.origin & bit]
            if not blamed:
                unexplained.append(parameter.name)
            _sort(by_line, blamed, parameter.name)
        for parameter, blamed in flat(seen):
            _sort(by_line, blamed, parameter.name)
    for found, names in by_line.values():
        yield _of_line(seen, found, list(names))
    needed = any(one.required for one in seen.parameters)
    if not seen.connected and not by_line and needed:
        yield Finding(
            "graph-cut", "error", None,
            "the loss does not require grad, and no operation was seen that cut it off", {"error": UNCONNECTED},
            "check that the loss is made of the network's outputs, and that no part of the forward is compiled or "
            "leaves torch",
        )  # fmt: skip
    elif unexplained and seen.connected and not seen.error:
        yield Finding(
            "unused", "note", None,
            f"{_number(len(unexplained), 'parameter')} took part in the forward and got no gradient",
            {"without gradient": unexplained}, "leave them out, or use what is made of them in the loss",
        )  # fmt: skip


def flat(seen: Evidence) -> Iterator[tuple[Parameter, list[Cut]]]:
    """The parameters whose gradient is 0 because of a function with the derivative 0, and where that is."""
    found = [cut for cut in seen.follower.cuts if cut.kind == "flat"]
    for parameter in seen.parameters:
        if parameter.required and parameter.used and parameter.norm == 0:
            blamed = _blamed(seen, parameter, found)
            if blamed:
                yield parameter, blamed


def _sort(by_line: dict[tuple[str, Site], tuple[list[Cut], dict[str, None]]], blamed: Iterable[Cut], name: str) -> None:
    for cut in blamed:
        found, names = by_line.setdefault((cut.kind, cut.site), ([], {}))
        found.append(cut)
        names[name] = None


def _of_line(seen: Evidence, found: list[Cut], names: list[str]) -> Finding:
    """A line that cuts the graph."""
    cut = found[0]
    order = [one.place.layer for one in seen.follower.cuts]
    layers = sorted({one.place.layer for one in found if one.place.layer}, key=order.index)
    cut = next((one for one in found if one.place.layer == (layers[0] if layers else "")), cut)
    more = f" (and in {listed(layers[1:], 4)})" if len(layers) > 1 else ""
    code = f"`{cut.site.source}` ({cut.site})" if cut.site.line else cut.operation or "its forward"
    reason = WHY[cut.kind] if cut.kind != "other" else f"{cut.operation} gives a result without a gradient"
    evidence = {
        "kind": cut.kind, "operation": cut.operation, "line": str(cut.site), "source": cut.site.source,
        "layers": layers, "without gradient": names,
    }  # fmt: skip
    if cut.inner is not None:
        evidence["inside"] = f"{cut.inner}: {cut.inner.source}"
    if not seen.connected:
        evidence["error"] = UNCONNECTED
    none = "gets none of it" if len(names) == 1 else "get none of it"
    what = (
        f"{cut.place} cuts the gradient off{more}: {code} {reason}; {_number(len(names), 'parameter')} before it {none}"
    )
    return Finding(
        "graph-cut", "error", layers[0] if layers else None, what, evidence, _advice(cut),
        index=seen.index_of(layers[0]) if layers else None,
    )  # fmt: skip


def _advice(cut: Cut) -> str:
    source = cut.site.source
    if not cut.site.users and cut.kind in ("comparison", "flat"):
        return (
            "give this neuron a surrogate: spike_grad=snntorch.surrogate.atan(), or surrogate_function=surrogate.ATan()"
        )
    if cut.kind == "flat" and cut.operation.rstrip("_") not in SPIKING:
        name = cut.operation.rstrip("_").replace("floor_divide", "floor")
        return (
            f"write x + (torch.{name}(x) - x).detach() for torch.{name}(x), which lets the gradient through, or keep "
            "it for reports only; a neuron makes its spikes " + SURROGATE.format("spike(v - threshold), where spike")
        )
    if cut.kind in ("comparison", "flat"):
        name = "surrogate" if re.search(r"\bspike\b", source) else "spike"
        fixed, told = rewritten(source, name), SURROGATE.format(name)
        return f"write `{fixed}` {told}" if fixed else f"make the spikes by {name}(v - threshold), as numbers, {told}"
    if cut.kind in ("detach", "data"):
        fixed = re.sub(r"\.detach_?\(\)|\.data\b", "", source)
        # Where more is done in the line, it may be needed.
        single = fixed != source and not re.search(
            r"[<>;]|==|numpy|Variable|torch\.tensor|\.(item|tolist|[gl][te])\(", fixed
        )
        return f"write `{fixed}`" if single else "leave the detach out where the value goes on to the loss"
    if cut.kind == "no_grad":
        named = SWITCH.search(source)
        return (
            f"run this with autograd on: take the {named[0] if named else 'torch.no_grad()'} away, or keep it for the "
            "evaluation only"
        )
    if cut.kind == "copy":
        return "use the tensor itself, or torch.stack and torch.cat of tensors"
    if cut.kind == "leaves torch":
        return "keep the value a tensor until the loss: sum, stack and index tensors instead of numbers"
    if cut.kind == "whole numbers":
        return "keep floating-point numbers up to the loss, and take argmax, bool or int for reports only"
    return "do it with operations that autograd can follow"


def frozen(seen: Evidence) -> Iterator[Finding]:
    """Parameters with requires_grad = False: all of them, or some."""
    still = [one.name for one in seen.parameters if not one.required]
    if not still:
        if not seen.parameters:
            yield Finding("frozen", "error", None, "the network has no parameters", {"error": UNCONNECTED},
                          "return the network that is trained")  # fmt: skip
        return
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in still))
    every = len(still) == len(seen.parameters)
    evidence: dict[str, object] = {"frozen": still, "layers": layers}
    if every:
        evidence["error"] = UNCONNECTED
    yield Finding(
        "frozen", "error" if every else "note", layers[0] or None,
        f"{'all' if every else len(still)} of {_number(len(seen.parameters), 'parameter')} "
        f"{'have' if every or len(still) > 1 else 'has'} requires_grad = False",
        evidence, "call net.requires_grad_(True)" if every else "leave it so if these layers are not to be trained",
    )  # fmt: skip


def thresholds(seen: Evidence) -> Iterator[Finding]:
    """A threshold that is to be learned and gets no gradient."""
    if not seen.connected or seen.error:
        return
    for one in seen.parameters:
        if not (one.required and one.used and _is_threshold(one.name)) or one.norm:
            continue
        others = [other for other in seen.got if other.name != one.name]
        if not others:
            continue
        layer = one.name.rpartition(".")[0]
        got = "None" if one.norm is None else "0"
        yield Finding(
            "threshold-without-gradient", "warning", layer or None,
            f"the threshold {one.name} is to be learned, and its gradient is {got}",
            {"parameter": one.name, "gradient": got},
            "give the surrogate v - threshold as its argument, or return -(its derivative) for the threshold in its "
            "backward",
            index=seen.index_of(layer),
        )  # fmt: skip


def growth(seen: Evidence) -> Iterator[Finding]:
    """State that carries the graph of one batch into the next."""
    found = seen.next_batch
    if found is None:
        return
    reset = seen.way.reset_name
    if found.reached:
        layers = [path for path, _ in found.kept]
        names = [f"{path}.{name}".lstrip(".") for path, name in found.kept]
        # Whoever has a reset may well call it in the loop, which is not seen here.
        severity = "error" if not found.cured else "note" if seen.way.family == "spikingjelly" else "warning"
        held = f"in {listed(names, 4)}" if names else "outside its modules"
        yield Finding(
            "state-kept", severity, (layers[0] if layers else None) or None,
            f"the second batch's graph goes back into the first: state is kept {held}, with its history",
            {"kept": names, "operations of the first batch": found.reached, "error": found.error},
            f"call {reset} before every batch" if found.cured else
            "set the state to zeros at the start of each batch, or carry on with state.detach()",
            index=seen.index_of(layers[0]) if layers else None,
        )  # fmt: skip
    for (path, name), (first, second) in found.grown.items():
        label = f"{path}.{name}".lstrip(".")
        yield Finding(
            "graph-grows", "warning", path or None,
            f"{label} holds {first} tensors with their graph after one batch and {second} after two: memory grows",
            {"attribute": label, "after one batch": first, "after two": second},
            "keep what is logged as x.detach(), and empty the list at each batch", index=seen.index_of(path),
        )  # fmt: skip


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
