"""snnTorch: trained SNNs of `Leaky` and its relatives, with hidden state or an explicit `mem`; without ANN partner.

Neurons have `threshold`, `reset_mechanism` and `init_hidden`; they fire strictly above the threshold, and by default
reset one step later. An output may be spikes or (spikes, potential).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Traits, detached, logits_of

NAME = "snntorch"


def match(network: nn.Module) -> bool:
    """True for a network with such a neuron."""
    return any(_is_neuron(module) for module in network.modules())


def _is_neuron(module: Any) -> bool:
    return hasattr(module, "threshold") and hasattr(module, "reset_mechanism") and hasattr(module, "init_hidden")


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners."""
    return [_layer(name, module) for name, module in network.named_modules() if _is_neuron(module)]


def _layer(name: str, module: Any) -> LayerPair:
    threshold, height = detached(module.threshold), detached(getattr(module, "graded_spikes_factor", 1.0))
    beta = getattr(module, "beta", None)
    leaky = beta is None or bool((detached(beta) != 1).any())
    delayed = bool(getattr(module, "reset_delay", True))
    subtracts = module.reset_mechanism == "subtract"

    def potential() -> Tensor | None:
        """v(t) after its reset, also where the module resets one step later."""
        mem = getattr(module, "mem", None)
        if not isinstance(mem, Tensor) or not mem.numel():
            return None
        if not delayed:
            return mem
        fired = (mem > module.threshold).to(mem.dtype)
        return mem - fired * module.threshold if subtracts else mem

    return LayerPair(
        name=name, snn_name=name, snn=module, threshold=threshold.reshape(()) if threshold.size == 1 else threshold,
        height=height.reshape(()) if height.size == 1 else height, initial_fraction=0.0,
        neuron=type(module).__name__.lower(),
        traits=Traits(reset=str(module.reset_mechanism), fires_at=">", leaky=leaky), potential=potential,
    )  # fmt: skip


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`; a `forward` that loops over time is called once."""
    neurons: list[Any] = [layer.snn for layer in layers]
    return {"reset": partial(_reset, neurons), "forward_snn": partial(_run, network), "family": NAME}


def _reset(neurons: list[Any]) -> None:
    """As `utils.reset` for these neurons, also where they sit deep in the network; `mem` begins as an empty tensor."""
    for module in neurons:
        for name in ("mem", "syn", "syn_exc", "syn_inh", "spk"):
            state = getattr(module, name, None)
            if isinstance(state, Tensor):
                setattr(module, name, torch.zeros(0, device=state.device))


def _run(network: Any, x: Tensor, timesteps: int) -> Iterator[Tensor]:
    """Call the network once a timestep, or once if it gives all timesteps; a `num_steps` that it has is set to T."""
    takes = "num_steps" in inspect.signature(network.forward).parameters
    before = getattr(network, "num_steps", None)
    if before is not None:
        network.num_steps = timesteps
    try:
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
