"""How a network that is trained is called, how its loss is made, and how it is left as it was found."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from probe.commuting import tensors_in
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, logits_of, sinabs, snntorch, spikingjelly
from probe.models import DEFAULT_T, unwrapped
from probe.run import understandable
from probe.training.tracing import following
from probe.userfile import call, is_users, listed, resolve

FAMILIES = (spikingjelly, snntorch, sinabs)
"""Families of networks that are trained as they spike."""
STEP_NAMES = ("num_steps", "timesteps", "time_steps", "n_steps", "T")
"""What a forward may call the number of timesteps."""
RESETS = (
    "reset", "reset_state", "reset_states", "reset_mem", "reset_hidden", "init_state", "init_states", "init_hidden",
)  # fmt: skip
"""What a network of the user may call the method that forgets its state."""
TRIED = 3
"""Samples of the run that shows how the network wants to be called."""
ABOUT_DATA = re.compile(r"shape|sizes? (of|mis)|dimension|dtype|scalar type|channels|mat1", re.IGNORECASE)
"""An error that the data may be the reason of."""
LOSS_TAKES = "a function of (outputs, labels) that returns a loss, a tensor with one number"

Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """How a network is called for a batch.

    Attributes:
        how: in words.
        run: samples, shape (sample, ...), to the network's outputs.
        reset: forgets the state; None where nothing is known that does.
        reset_name: how the user calls it.
        timesteps: T; None where the network knows it alone.
        once: the network is called once a batch, and `run` does not reset it.
        stacked: the outputs are (timestep, sample, class), put together here.
        family: its name; empty for a network of the user's own.
        any_size: it takes batches of another size.
    """

    how: str
    run: Callable[[Tensor], Any]
    reset: Callable[[], Any] | None = None
    reset_name: str = ""
    timesteps: int | None = None
    once: bool = True
    stacked: bool = False
    family: str = ""
    any_size: bool = True


def way_of(model: Any, x: Tensor, timesteps: int | None) -> tuple[nn.Module, Way]:
    """The network that is trained, and how it is called.

    Args:
        model: a network, a pair (ann, snn) or a subject.
        x: samples, shape (sample, ...).
        timesteps: T, where the user says so.

    Raises:
        ProbeError: the network cannot run them.
    """
    model = unwrapped(model)
    if isinstance(model, Subject):
        return model.snn, _stepwise(model, timesteps or model.timesteps or DEFAULT_T)
    network: nn.Module = model[-1] if isinstance(model, tuple | list) else model
    both = sinabs.split(network)
    network = both[1] if both is not None else network
    for family in FAMILIES:
        if family.match(network):
            try:
                layers = family.spiking_layers(network)
            except ProbeError:
                break
            subject = Subject(snn=network, layers=layers, **family.run(network, layers))
            return network, _of_family(subject, x[:TRIED], timesteps)
    try:
        return network, _of_user(network, x[:TRIED], timesteps)
    except ProbeError:
        # It may want a batch of one size.
        with suppress(ProbeError):
            return network, replace(_of_user(network, x, timesteps), any_size=False)
        raise


def _stepwise(subject: Subject, timesteps: int) -> Way:
    def run(x: Tensor) -> Tensor:
        return torch.stack([logits for logits in subject.run_snn(x, timesteps) if logits is not None])

    merged = any(layer.layout != "step" for layer in subject.layers)
    return Way(
        f"called once for all {timesteps} timesteps" if merged else f"called once a timestep, T = {timesteps}",
        run, subject.reset, RESETTING.get(subject.family, "its reset"), timesteps, once=False, stacked=True,
        family=subject.family,
    )  # fmt: skip


RESETTING = {
    "snntorch": "snntorch.utils.reset(net)",
    "spikingjelly": "spikingjelly.activation_based.functional.reset_net(net)",
    "sinabs": "sinabs.reset_states(net)",
}
"""Family -> how its users forget the state of a network."""


def _of_family(subject: Subject, x: Tensor, timesteps: int | None) -> Way:
    """A network with the neurons of a package: with a loop over time of its own, or called for each timestep."""
    if not _loops(subject, x):
        return _stepwise(subject, timesteps or DEFAULT_T)
    run, told = _once(subject.snn, timesteps)
    name = RESETTING[subject.family]
    return Way(told, run, subject.reset, name, timesteps, family=subject.family)


def _loops(subject: Subject, x: Tensor) -> bool:
    """Whether one call of the network with samples runs through all timesteps."""
    seen: dict[str, list[tuple[int, ...]]] = {}

    def note(layer: LayerPair) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.setdefault(layer.name, []).append(tuple(args[0].shape) if args else ())

        return hook

    handles = [(layer.entry or layer.snn).register_forward_pre_hook(note(layer)) for layer in subject.layers]
    layout = subject.layers[0].layout if subject.layers else ""
    merged = layout in ("T,B", "B,T", "BT")
    try:
        with as_found(subject.snn), torch.no_grad():
            subject.reset()
            output = _once(subject.snn, None)[0](x)
    except Exception:
        # In step mode `m` it may want a time axis that these samples do not have; others say so when they are run.
        return not merged
    finally:
        for handle in handles:
            handle.remove()
    if merged:
        first = next(iter(seen.values()), [()])[0]
        if layout == "BT":
            return bool(first) and first[0] > len(x)
        if layout == "B,T":
            return len(first) > 2 and first[0] == len(x) and first[1] > 1
        return len(first) > 1 and first[1] == len(x)
    tensor = next(tensors_in(output), None)
    return any(len(calls) > 1 for calls in seen.values()) or (tensor is not None and tensor.ndim > 2)


def _once(network: nn.Module, timesteps: int | None) -> tuple[Callable[[Tensor], Any], str]:
    """A call for the whole batch; a number of timesteps that the network takes or keeps is set."""
    parameters = inspect.signature(network.forward).parameters
    taken = next((name for name in STEP_NAMES if name in parameters), None)
    needed = taken is not None and parameters[taken].default is inspect.Parameter.empty
    if taken is not None and (timesteps is not None or needed):
        steps = {taken: timesteps or DEFAULT_T}
        return lambda x: network(x, **steps), f"called once a batch with {taken}={steps[taken]}"
    kept = next((name for name in STEP_NAMES if isinstance(getattr(network, name, None), int)), None)
    if kept is not None and timesteps is not None:
        setattr(network, kept, timesteps)
    steps_told = f", its {kept} = {getattr(network, kept)}" if kept is not None else ""
    return lambda x: network(x), f"called once a batch{steps_told}"


def _of_user(network: nn.Module, x: Tensor, timesteps: int | None) -> Way:
    """A network of modules that no family knows."""
    run, told = _once(network, timesteps)
    name = next((name for name in RESETS if _plain_method(network, name)), None)
    inner = [(path, module) for path, module in holders(network)
             if path and not type(module).__module__.startswith("torch.")]  # fmt: skip
    resets = [(path, one, module) for path, module in inner for one in RESETS if _plain_method(module, one)]
    reset: Callable[[], Any] | None = None
    reset_name = ""
    if name is not None:
        reset, reset_name = getattr(network, name), f"net.{name}()"
    elif resets:
        reset_name = f"{resets[0][0]}.{resets[0][1]}()" + (" and the others" if len(resets) > 1 else "")

        def reset_all() -> None:
            for _, one, module in resets:
                getattr(module, one)()

        reset = reset_all
    with as_found(network), torch.enable_grad(), runnable(network, x):
        if reset is not None:
            reset()
        before = _states(network)
        with following(network) as tried:
            output = run(x.clone())
        passed = _passes_state(network, output)
        keeps = passed or _states(network) != before
    calls: dict[Any, int] = {}
    for one in [*tried.calls, *tried.functions]:
        key = (one.place, one.site, one.fed)
        calls[key] = calls.get(key, 0) + 1
    tensor = next(tensors_in(output), None)
    loops = max(calls.values(), default=0) > 1 or (tensor is not None and tensor.ndim > 2)
    if loops or not (keeps or timesteps):
        return Way(told, run, reset, reset_name, timesteps)
    steps = timesteps or DEFAULT_T

    def stepped(samples: Tensor) -> Tensor:
        if reset is not None:
            reset()
        if not passed:
            return torch.stack([logits_of(run(samples.clone())) for _ in range(steps)])
        outputs = [run(samples.clone())]
        while len(outputs) < steps:
            outputs.append(network(samples.clone(), outputs[-1][1]))
        return torch.stack([one[0] for one in outputs])

    return Way(f"called once a timestep, T = {steps}", stepped, reset, reset_name, steps, stacked=True)


def _passes_state(network: nn.Module, output: Any) -> bool:
    """`forward(x, state=None)` that returns (output, state), to be given it at the next timestep."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    taken = len(parameters) > 1 and parameters[1].default is None and parameters[1].name not in STEP_NAMES
    pair = isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], Tensor)
    return taken and pair and output[0].ndim == 2


def _plain_method(owner: Any, name: str) -> bool:
    """A method that is called without arguments."""
    method = getattr(owner, name, None)
    if not inspect.ismethod(method):
        return False
    parameters = inspect.signature(method).parameters.values()
    return all(
        one.default is not inspect.Parameter.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        for one in parameters
    )


# ------------------------------------------------------------------------------------------------------- the loss


@dataclass(frozen=True)
class LossMaker:
    """The loss of a batch.

    Attributes:
        make: outputs and labels, shape (sample,), to a scalar.
        told: what it does, in words.
    """

    make: Loss
    told: str


def loss_of(spec: str | Loss | None, way: Way, run: Callable[[Tensor], Any], x: Tensor, classes: int) -> LossMaker:
    """The user's loss, or the cross entropy of outputs summed over time.

    Args:
        spec: `file.py:callable`, a callable, or None.
        way: how the network is called.
        run: runs it without leaving a trace.
        x: a batch.
        classes: of the data.

    Raises:
        ProbeError: there is no such function, or time and classes cannot be told apart.
    """
    if spec is not None:
        name = spec if isinstance(spec, str) else getattr(spec, "__name__", "loss")
        function = resolve(spec) if isinstance(spec, str) else spec
        if not callable(function):
            raise ProbeError(f"{name} is of type {type(function).__name__}", expected=LOSS_TAKES)

        def made(outputs: Any, labels: Tensor) -> Tensor:
            loss = call(name, lambda: function(outputs, labels))
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)[:60]
                raise ProbeError(f"{name} returned {got}", expected=LOSS_TAKES)
            return loss.reshape(())

        return LossMaker(made, name)
    order, why = _axes(way, run, x, classes)

    def cross_entropy(outputs: Any, labels: Tensor) -> Tensor:
        logits = _logits(outputs)
        return functional.cross_entropy(logits if order is None else logits.permute(order).sum(0), labels)

    return LossMaker(cross_entropy, why)


def _axes(way: Way, run: Callable[[Tensor], Any], x: Tensor, classes: int) -> tuple[tuple[int, int, int] | None, str]:
    """The axes of time, samples and classes, and how they were told; of the first output where there are several."""
    # Two small batches of different sizes: the axis that changes with them is that of the samples, whatever T is.
    few = torch.cat([x] * TRIED)[: TRIED if way.any_size else len(x)]
    count = len(few)
    output = run(few)
    logits = _logits(output)
    shape = tuple(logits.shape)
    first = " of the first output" if any(one is logits for one in tensors_in(output) if output is not logits) else ""
    advice = "pass --loss file.py:callable, a function of (outputs, labels)"
    if way.stacked:
        return (0, 1, 2), "cross entropy of the outputs summed over the timesteps"
    if len(shape) == 2 and shape[0] == count:
        if shape[1] < classes:
            raise ProbeError(f"the model gives {shape[1]} classes and the data has {classes}", expected="equal numbers")
        return None, f"cross entropy{first}, (sample, {shape[1]} classes): there is no axis for time"
    if len(shape) != 3:
        raise ProbeError(
            f"outputs of shape {_shape(shape)} for {count} samples",
            expected="(sample, class), (timestep, sample, class) or (sample, timestep, class)", next_step=advice,
        )  # fmt: skip
    if way.any_size:
        try:
            fewer = tuple(_logits(run(few[:-1])).shape)
        except ProbeError as error:
            raise ProbeError(
                f"the model ran a batch of {count} samples, and then not one of {count - 1}: {error.got}",
                expected="state that begins anew in each batch",
                next_step="reset what it keeps of the batch before, or keep it in its modules",
                trace=error.trace, fault=error.fault,
            ) from None  # fmt: skip
        changed = [axis for axis in range(3) if len(fewer) == 3 and fewer[axis] != shape[axis]]
        told = f" and {_shape(fewer)} for {count - 1}"
    else:
        changed, told = [axis for axis in range(3) if shape[axis] == count], ""
    if len(changed) != 1:
        raise ProbeError(
            f"outputs of shape {_shape(shape)} for {count} samples{told}",
            expected="samples along one axis, which alone grows with them", next_step=advice,
        )  # fmt: skip
    (batch,) = changed
    others = [axis for axis in (2, 1, 0) if axis != batch]
    class_axis = next((axis for axis in others if shape[axis] == classes), None)
    if class_axis is None:
        raise ProbeError(
            f"outputs of shape {_shape(shape)}, none of whose axes has the data's {classes} classes",
            expected=f"(timestep, sample, {classes})", next_step=advice,
        )  # fmt: skip
    time = next(axis for axis in others if axis != class_axis)
    names = {batch: "sample", class_axis: f"{classes} classes", time: f"time = {shape[time]}"}
    return (time, batch, class_axis), (
        f"cross entropy{first} summed over axis {time}, ({', '.join(names[axis] for axis in range(3))}): axis {batch} "
        f"{'grows with' if way.any_size else 'is as long as'} the batch, axis {class_axis} has the data's classes"
    )  # fmt: skip


def _logits(output: Any) -> Tensor:
    """The logits among the outputs: the first of (spikes, potentials); of a list with one for each timestep, all."""
    if isinstance(output, list | tuple) and len(output) > (2 if isinstance(output, tuple) else 1):
        shapes = {tuple(one.shape) if isinstance(one, Tensor) else () for one in output}
        if len(shapes) == 1 and len(next(iter(shapes))) == 2:
            return torch.stack(list(output))
    return logits_of(output)


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


@contextmanager
def runnable(network: nn.Module, x: Tensor) -> Iterator[None]:
    """As `understandable`: what goes wrong in a forward, where a state of another batch is why it says that."""
    kept = [(f"{path}.{name}".lstrip("."), tuple(one.shape)) for path, name, one in kept_tensors(network)
            if one.ndim > 1 and len(one) != len(x)]  # fmt: skip
    try:
        with understandable(network, x):
            yield
    except ProbeError as error:
        if error.fault != "not-runnable":
            raise
        sizes = re.findall(r"\d+", error.got)
        held = [f"{name} {_shape(shape)}" for name, shape in kept if {str(shape[0]), str(len(x))} <= set(sizes)]
        if held:
            raise ProbeError(
                f"state of another batch is kept in {listed(held, 4)}: {error.got}", trace=error.trace,
                expected="state that begins anew in each batch",
                next_step="reset it before each batch, or set it to zeros at the start of the forward",
                fault=error.fault,
            ) from None  # fmt: skip
        if not re.search(ABOUT_DATA, error.got.partition(": ")[2]):
            raise ProbeError(error.got, trace=error.trace, fault=error.fault) from None
        raise


# --------------------------------------------------------------------------------------------------- as it was found

_INTERNAL = frozenset(vars(nn.Module())) - {"training"}


@contextmanager
def as_found(network: nn.Module) -> Iterator[None]:
    """Parameters, gradients, buffers, attributes, modes and random numbers, as they were before, whatever happens."""
    parameters = [(one, one.detach().clone(), one.grad, one.requires_grad) for one in network.parameters()]
    buffers = [(module, dict(module._buffers), {name: _copied(one) for name, one in module._buffers.items()})
               for module in network.modules()]  # fmt: skip
    found = [(owner, {name: (value, _copied(value)) for name, value in vars(owner).items() if name not in _INTERNAL})
             for _, owner in holders(network)]  # fmt: skip
    for parameter, *_ in parameters:
        parameter.grad = None
    devices = sorted({one.device.index or 0 for one in network.parameters() if one.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for parameter, value, gradient, required in parameters:
                if not torch.equal(parameter, value):
                    parameter.copy_(value)
                parameter.grad = gradient
                parameter.requires_grad_(required)
            for module, kept, copies in buffers:
                module._buffers.clear()
                for name, buffer in kept.items():
                    module._buffers[name] = _restored(buffer, copies[name])
            for owner, attributes in found:
                for name in [name for name in vars(owner) if name not in _INTERNAL and name not in attributes]:
                    del vars(owner)[name]
                for name, (value, copied) in attributes.items():
                    vars(owner)[name] = _restored(value, copied)


def _copied(value: Any) -> Any:
    """What is needed to put a value back: of tensors their numbers, of lists and dicts what they hold."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: (one, _copied(one)) for key, one in value.items()}
    return [(one, _copied(one)) for one in value] if isinstance(value, list) else None


def _restored(value: Any, copied: Any) -> Any:
    """The value itself, holding what it held."""
    if isinstance(value, Tensor):
        if value.shape == copied.shape and torch.equal(value, copied):
            return value
        if value.shape == copied.shape and value.grad_fn is None and not value.requires_grad:
            return value.copy_(copied)
        return copied
    if isinstance(value, dict):
        held = {key: _restored(*pair) for key, pair in copied.items()}
        if held.keys() != value.keys() or any(held[key] is not value[key] for key in held):
            value.clear()
            value.update(held)
    elif isinstance(value, list):
        held_list = [_restored(*pair) for pair in copied]
        if len(held_list) != len(value) or any(a is not b for a, b in zip(held_list, value, strict=True)):
            value[:] = held_list
    return value


# ------------------------------------------------------------------------------------------------------ what is kept


def holders(network: nn.Module) -> Iterator[tuple[str, Any]]:
    """What may keep a state: the modules, and objects of the user's own classes that they hold, each with its path."""
    seen = set(map(id, network.modules()))
    for path, module in network.named_modules():
        yield path, module
        yield from _held(path, module, seen)


def _held(path: str, owner: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(owner).items()):
        many = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
        for key, one in [("", value), *many] if name not in _INTERNAL else ():
            if id(one) not in seen and hasattr(one, "__dict__") and _is_of_user(type(one)):
                seen.add(id(one))
                label = ".".join(str(part) for part in (path, name, key) if part != "")
                yield label, one
                yield from _held(label, one, seen)


def _is_of_user(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    return kind.__module__ == "__main__" if file is None else is_users(file)


def kept_tensors(network: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Tensors that these keep beside their parameters: the holder's path, the attribute's name, the tensor."""
    for path, owner in holders(network):
        own = {name: value for name, value in vars(owner).items() if name not in _INTERNAL}
        for name, value in {**own, **getattr(owner, "_buffers", {})}.items():
            for tensor in tensors_in(value):
                if not isinstance(tensor, nn.Parameter):
                    yield path, name, tensor


def kept_graphs(network: nn.Module) -> list[tuple[str, str, Tensor]]:
    """Those of them that hold on to autograd's graph."""
    return [(path, name, tensor) for path, name, tensor in kept_tensors(network) if tensor.grad_fn is not None]


def _states(network: nn.Module) -> dict[tuple[str, str], tuple[int, int]]:
    """Which tensors the user's own modules keep, and in which version."""
    own = {path for path, owner in holders(network) if not type(owner).__module__.startswith("torch.")}
    return {(path, name): (id(one), one._version) for path, name, one in kept_tensors(network) if path in own}
