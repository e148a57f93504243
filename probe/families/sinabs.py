"""sinabs: `from_model` networks, paired with their analog model, and networks built from its layers.

Layers have `spike_threshold` and `min_v_mem`; a squeezing layer takes [B·T, ...], samples outermost, others
[B, T, ...]. They may fire several spikes a step, and the potential is clipped from below: what rests on the
conservation law cannot be claimed then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Traits, detached, logits_of

NAME = "sinabs"


def match(network: nn.Module) -> bool:
    """True for a network with such a layer."""
    return any(_is_layer(module) for module in network.modules())


def split(network: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The analog and the spiking model of a converted network; None for any other."""
    analog, spiking = getattr(network, "analog_model", None), getattr(network, "spiking_model", None)
    return (analog, spiking) if isinstance(analog, nn.Module) and isinstance(spiking, nn.Module) else None


def _is_layer(module: Any) -> bool:
    return hasattr(module, "spike_threshold") and hasattr(module, "min_v_mem") and hasattr(module, "spike_fn")


def _squeezes(module: Any) -> bool:
    return hasattr(module, "squeeze_forward")


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners."""
    return [_layer(name, module) for name, module in network.named_modules() if _is_layer(module)]


def _layer(name: str, module: Any) -> LayerPair:
    threshold = detached(module.spike_threshold)
    spike = getattr(module.spike_fn, "__name__", type(module.spike_fn).__name__)
    reset = type(module.reset_fn).__name__
    traits = Traits(
        reset="subtract" if reset == "MembraneSubtract" else "zero",
        graded=spike != "SingleSpike",
        leaky=getattr(module, "tau_mem", None) is not None or getattr(module, "tau_syn", None) is not None,
        bounded=module.min_v_mem is not None,
    )

    def potentials() -> Tensor | None:
        stored = getattr(module, "recordings", {}).get("v_mem") if module.record_states else None
        return stored.transpose(0, 1) if isinstance(stored, Tensor) else None

    def potential() -> Tensor | None:
        v = module.v_mem
        return v if isinstance(v, Tensor) and v.ndim > 1 else None

    return LayerPair(
        name=name, snn_name=name, snn=module, threshold=threshold.reshape(()) if threshold.size == 1 else threshold,
        height=1.0, initial_fraction=0.0, neuron=type(module).__name__.removesuffix("Squeeze").lower(),
        layout="BT" if _squeezes(module) else "B,T", traits=traits, potential=potential, potentials=potentials,
    )  # fmt: skip


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`."""
    squeezed = {layer.layout for layer in layers}
    if len(squeezed) > 1:
        raise ProbeError("the network mixes squeezing layers and others", expected="one kind")
    modules: list[Any] = [layer.snn for layer in layers]
    sizes = [(module, module.batch_size, module.num_timesteps) for module in modules if _squeezes(module)]
    return {
        "reset": partial(_reset, modules),
        "forward_snn": partial(_run, network, modules, squeezed == {"BT"}),
        "restore": partial(_restore, sizes),
        "family": NAME,
    }


def _reset(modules: list[Any]) -> None:
    for module in modules:
        module.reset_states()


def _restore(sizes: list[tuple[Any, Any, Any]]) -> None:
    for module, batch_size, timesteps in sizes:
        module.batch_size, module.num_timesteps = batch_size, timesteps


def _run(network: nn.Module, modules: list[Any], squeezed: bool, x: Tensor, timesteps: int) -> Iterator[Tensor]:
    samples = len(x)
    whole = x.unsqueeze(1).repeat(1, timesteps, *[1] * (x.ndim - 1))
    if squeezed:
        for module in modules:
            # Whoever made the network may have meant another batch or T.
            module.batch_size, module.num_timesteps = -1, timesteps
        whole = whole.flatten(0, 1)
    logits = logits_of(network(whole))
    if squeezed:
        logits = logits.reshape(samples, timesteps, *logits.shape[1:])
    if logits.ndim != 3 or logits.shape[:2] != (samples, timesteps):
        raise ProbeError(
            f"the network gives shape {tuple(logits.shape)} for {samples} samples and {timesteps} timesteps",
            expected="(sample, timestep, class)",
        )
    yield from logits.transpose(0, 1)
