"""snnTorch: trained SNNs of `Leaky` and its relatives, with hidden state or an explicit `mem`; without ANN partner.

Neurons have `threshold`, `reset_mechanism` and `init_hidden`; they fire strictly above the threshold, and by default
reset one step later. An output may be spikes or (spikes, potential). Only `Leaky` with β = 1 is an integrator: others
are driven by a synapse or by other spikes beside their input, and the conservation law is not assumed of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Traits, detached, logits_of

NAME = "snntorch"
STATES = ("mem", "syn", "syn_exc", "syn_inh", "spk")
"""What neurons of this package remember from one step to the next."""
SIZES = (("input_size", "hidden_size"), ("in_channels", "out_channels"), ("in_features", "out_features"))
"""Attributes of neurons that hold weights: of what they take, and how many they are."""


def match(network: nn.Module) -> bool:
    """True for a network with such a neuron."""
    return any(_is_neuron(module) for module in network.modules())


def _is_neuron(module: Any) -> bool:
    return hasattr(module, "threshold") and hasattr(module, "reset_mechanism") and hasattr(module, "init_hidden")


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners.

    Raises:
        ProbeError: a layer has weights of its own between its input and its neurons.
    """
    return [_layer(name, module) for name, module in network.named_modules() if _is_neuron(module)]


def _layer(name: str, module: Any) -> LayerPair:
    for taken, given in SIZES:
        if getattr(module, taken, None) != getattr(module, given, None):
            raise ProbeError(
                f"layer {name} takes {getattr(module, taken)} numbers and has {getattr(module, given)} neurons",
                expected="an input for each neuron",
                next_step="put its weights into a layer before it",
            )
    return LayerPair(
        name=name, snn_name=name, snn=module, threshold=_broadcast(module.threshold),
        height=_broadcast(getattr(module, "graded_spikes_factor", 1.0)), initial_fraction=0.0,
        neuron=type(module).__name__.lower(), potential=partial(_potential, module),
        traits=Traits(reset=str(module.reset_mechanism), fires_at=">", leaky=not _integrates(module)),
    )  # fmt: skip


def _broadcast(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A number, or an array that meets (sample, *neuron) as torch lets it: a row is the last axis, not the channels."""
    array = detached(value)
    return array.reshape(()) if array.size == 1 else array[None]


def _integrates(module: Any) -> bool:
    """It adds up its input and loses nothing; β is clipped to [0, 1] where it is used."""
    plain = type(module).__name__ == "Leaky" and not module.inhibition and not module.state_quant
    return plain and bool((detached(module.beta) >= 1).all())


def _potential(module: Any) -> Tensor | None:
    """v(t) after its reset, also where the module resets one step later."""
    mem, threshold = getattr(module, "mem", None), module.threshold
    if not isinstance(mem, Tensor) or not mem.numel():
        return None
    if not getattr(module, "reset_delay", True):
        return mem
    above = torch.gt(mem, threshold).to(mem.dtype)
    if module.reset_mechanism == "subtract":
        return torch.sub(mem, above * threshold)
    return mem * (1 - above) if module.reset_mechanism == "zero" else mem


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`; a `forward` that loops over time is called once."""
    neurons: dict[str, Any] = {layer.name: layer.snn for layer in layers}
    others = [module for module in network.modules() if not any(module is neuron for neuron in neurons.values())]
    return {
        "reset": partial(_reset, list(neurons.values()), [_Kept(module) for module in others]),
        "forward_snn": partial(_run, network, neurons),
        "family": NAME,
    }


_INTERNAL = frozenset(vars(nn.Module()))


class _Kept:
    """What a module that is no neuron keeps between calls: a network may hand `mem` on from step to step itself."""

    def __init__(self, module: nn.Module) -> None:
        own = {name: value for name, value in vars(module).items() if name not in _INTERNAL}
        kept = {**own, **dict(module.named_buffers(recurse=False))}
        self.module = module
        self.found = {name: (value, _copied(value)) for name, value in kept.items() if _is_state(value)}

    def put_back(self) -> None:
        """As it was found."""
        for name, (value, copied) in self.found.items():
            if not _same(value, copied):
                setattr(self.module, name, _copied(copied))
            elif getattr(self.module, name, None) is not value:
                setattr(self.module, name, value)


def _is_state(value: Any) -> bool:
    """None, a tensor, or a list, tuple or dict of such."""
    if isinstance(value, dict):
        return all(map(_is_state, value.values()))
    return all(map(_is_state, value)) if isinstance(value, list | tuple) else value is None or isinstance(value, Tensor)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value
    return value.detach().clone() if isinstance(value, Tensor) else value


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    return torch.equal(value, other) if isinstance(value, Tensor) and isinstance(other, Tensor) else value is other


def _reset(neurons: list[Any], others: list[_Kept]) -> None:
    """As `utils.reset` for these neurons, also where they sit deep in the network; `mem` begins as an empty tensor."""
    for module in neurons:
        for name in STATES:
            state = getattr(module, name, None)
            if isinstance(state, Tensor):
                setattr(module, name, torch.zeros(0, device=state.device))
    for kept in others:
        kept.put_back()


def _run(network: Any, neurons: Mapping[str, Any], x: Tensor, timesteps: int) -> Iterator[Tensor]:
    """Call the network once a timestep, or once if it gives all timesteps; a `num_steps` that it has is set to T."""
    takes = "num_steps" in inspect.signature(network.forward).parameters
    before = getattr(network, "num_steps", None)
    if before is not None:
        network.num_steps = timesteps
    try:
        with _expecting_rest(neurons):
            output = logits_of(network(x.clone(), num_steps=timesteps) if takes else network(x.clone()))
        if output.ndim == 3:
            if len(output) != timesteps:
                raise ProbeError(
                    f"the network's own loop runs {len(output)} timesteps, and T is {timesteps}",
                    expected="the same number", next_step=f"pass -T {len(output)}",
                )  # fmt: skip
            yield from output
            return
        yield output
        for _ in range(timesteps - 1):
            yield logits_of(network(x.clone()))
    finally:
        if before is not None:
            network.num_steps = before


@contextmanager
def _expecting_rest(neurons: Mapping[str, Any]) -> Iterator[None]:
    """Refuse a first call that hands a neuron a state other than 0; one of another shape it does not use."""
    seen: set[str] = set()

    def look(name: str, _module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        handed = [*args[1:], *kwargs.values()]
        if name in seen or not args:
            return
        seen.add(name)
        for state in handed:
            if isinstance(state, Tensor) and state.shape == args[0].shape and bool((state != 0).any()):
                raise ProbeError(
                    f"the network hands layer {name} a potential at t = 1 that is not 0",
                    expected="one that is forgotten before each sample",
                    next_step="clear it before the run (set it to None, or call what resets it)",
                    fault="not-reset",
                    layer=name,
                )

    with ExitStack() as stack:
        for name, neuron in neurons.items():
            stack.callback(neuron.register_forward_pre_hook(partial(look, name), with_kwargs=True).remove)
        yield
