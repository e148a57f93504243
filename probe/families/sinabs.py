"""sinabs: `from_model` networks, paired with their analog model, and networks built from its layers.

Layers have `spike_threshold` and `min_v_mem`; a squeezing layer takes [B·T, ...], samples outermost, others
[B, T, ...]. They may fire several spikes a step, and the potential is clipped from below: what rests on the
conservation law cannot be claimed then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Traits, detached, logits_of

NAME = "sinabs"
INTEGRATORS = ("IAF", "IAFSqueeze")
"""Layers that add up their input and lose nothing; of any other kind the conservation law is not assumed."""


def match(network: nn.Module) -> bool:
    """True for a network with such a layer."""
    return any(_is_layer(module) for module in network.modules())


def split(network: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The analog and the spiking model of a converted network; None for any other."""
    analog, spiking = getattr(network, "analog_model", None), getattr(network, "spiking_model", None)
    return (analog, spiking) if isinstance(analog, nn.Module) and isinstance(spiking, nn.Module) else None


def _is_layer(module: Any) -> bool:
    """A layer that spikes; a readout such as ExpLeak has the same attributes, but nothing in `spike_fn`."""
    known = hasattr(module, "spike_threshold") and hasattr(module, "min_v_mem")
    return known and getattr(module, "spike_fn", None) is not None


def _is_stateful(module: Any) -> bool:
    return hasattr(module, "reset_states") and hasattr(module, "is_state_initialised")


def _squeezes(module: Any) -> bool:
    return hasattr(module, "squeeze_forward")


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners."""
    return [_layer(name, module) for name, module in network.named_modules() if _is_layer(module)]


def _layer(name: str, module: Any) -> LayerPair:
    # An adaptive threshold is a state that begins at b0.
    threshold = detached(getattr(module, "b0", module.spike_threshold))
    spike = getattr(module.spike_fn, "__name__", type(module.spike_fn).__name__)
    traits = Traits(
        reset=_reset_of(module.reset_fn, threshold),
        graded=spike != "SingleSpike",
        leaky=type(module).__name__ not in INTEGRATORS or module.tau_syn is not None,
        bounded=module.min_v_mem is not None,
    )

    def potentials() -> Tensor | None:
        stored = getattr(module, "recordings", {}).get("v_mem") if module.record_states else None
        return stored.transpose(0, 1) if isinstance(stored, Tensor) else None

    def potential() -> Tensor | None:
        v = module.v_mem
        return v if isinstance(v, Tensor) and v.ndim > 1 else None

    # A row of thresholds meets the last axis, as torch lets it, and not the channels.
    theta = threshold.reshape(()) if threshold.size == 1 else threshold[None]
    return LayerPair(
        name=name, snn_name=name, snn=module, threshold=theta, height=1.0, initial_fraction=0.0,
        neuron=type(module).__name__.removesuffix("Squeeze").lower(),
        layout="BT" if _squeezes(module) else "B,T", traits=traits, potential=potential, potentials=potentials,
    )  # fmt: skip


def _reset_of(reset: Any, threshold: np.ndarray[Any, np.dtype[np.float32]]) -> str:
    if type(reset).__name__ != "MembraneSubtract":
        return "zero"
    value = reset.subtract_value
    return "subtract" if value is None or bool((detached(value) == threshold).all()) else "a value of its own"


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`."""
    layouts = {layer.layout for layer in layers}
    if len(layouts) > 1:
        raise ProbeError("the network mixes squeezing layers and others", expected="one kind", fault="modes-mixed")
    modules: list[Any] = list(network.modules())
    squeezing = [module for module in modules if _squeezes(module)]
    unflattening = [module for module in modules if type(module).__name__ == "UnflattenTime"]
    sizes = [(module, name, getattr(module, name)) for module in squeezing for name in ("batch_size", "num_timesteps")]
    sizes += [(module, "batch_size", module.batch_size) for module in unflattening]
    stateful = [module for module in modules if _is_stateful(module)]
    states = [(module, name, state.detach().clone()) for module in stateful for name, state in module.named_buffers()]
    sizes += [(module, "firing_rate", module.firing_rate) for module in stateful if hasattr(module, "firing_rate")]
    return {
        "reset": partial(_reset, stateful),
        "forward_snn": partial(_run, network, squeezing, unflattening, layouts == {"BT"}),
        "restore": partial(_restore, [*sizes, *states]),
        "family": NAME,
    }


def _reset(modules: list[Any]) -> None:
    for module in modules:
        module.reset_states()


def _restore(found: list[tuple[Any, str, Any]]) -> None:
    """Sizes, rates and states as they were found: a state of another batch would not load a state dict any more."""
    for module, name, value in found:
        setattr(module, name, value.clone() if isinstance(value, Tensor) else value)


def _run(
    network: nn.Module, squeezing: list[Any], unflattening: list[Any], squeezed: bool, x: Tensor, timesteps: int
) -> Iterator[Tensor]:
    samples = len(x)
    whole = x.unsqueeze(1).repeat(1, timesteps, *[1] * (x.ndim - 1))
    # Whoever made the network may have meant another batch or T.
    for module in squeezing:
        module.batch_size, module.num_timesteps = -1, timesteps
    for module in unflattening:
        module.batch_size = samples
    logits = logits_of(network(whole.flatten(0, 1) if squeezed else whole))
    if logits.ndim == 2 and len(logits) == samples * timesteps:
        logits = logits.reshape(samples, timesteps, -1)
    if logits.ndim != 3 or logits.shape[:2] != (samples, timesteps):
        raise ProbeError(
            f"the network gives shape {tuple(logits.shape)} for {samples} samples and {timesteps} timesteps",
            expected="(sample, timestep, class)",
            fault="logits-shape",
        )
    yield from logits.transpose(0, 1)
