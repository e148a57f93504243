"""QCFS, SRP and COS with a call a timestep or a layer: spiking wrappers around an inner `neuron` in units of θ.

* a wrapper with `scale` or `v_threshold` and a step counter `t` (Bu et al., ICLR 2022; Hao et al., AAAI 2023): the
  inner neuron is primed with 0.5 in an extra call, so it is the wrapper that is recorded;
* `scale` and `vt`: the start potential is learned;
* `presim_len`, `sim_len`, `membrane_lower` (SRP): τ pre-simulation steps in the same calls, then a mask;
* `presim_len`, `sim_len`, `batchsize` (COS, Hao et al., ICLR 2023): one call gives all steps, [T·B, ...] with timesteps
  outermost, and v(0) is shifted neuron by neuron in a pre-simulation of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits, detached, logits_of

NAME = "qcfs-stepwise"


def match(network: nn.Module) -> bool:
    """True for a network with such a wrapper."""
    return any(_is_wrapper(module) for module in network.modules())


def _is_wrapper(module: nn.Module) -> bool:
    inner = getattr(module, "neuron", None)
    return isinstance(inner, nn.Module) and (hasattr(module, "scale") or hasattr(module, "v_threshold"))


def _is_cos(module: nn.Module) -> bool:
    return hasattr(module, "presim_len") and hasattr(module, "batchsize")


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners."""
    return [_layer(name, module) for name, module in network.named_modules() if _is_wrapper(module)]


def _layer(name: str, module: Any) -> LayerPair:
    threshold = detached(module.scale if hasattr(module, "scale") else module.v_threshold)
    threshold = threshold.reshape(()) if threshold.size == 1 else threshold

    def potential() -> Tensor | None:
        v = module.neuron.v
        if not isinstance(v, Tensor):
            return None
        # One axis means the channels.
        shape = (-1, *[1] * (v.ndim - 2)) if threshold.ndim == 1 else threshold.shape
        return v * torch.from_numpy(threshold).to(v.device).reshape(shape)

    common = partial(LayerPair, name=name, snn_name=name, snn=module, threshold=threshold, potential=potential)
    if _is_cos(module):
        # The name of the method, as its counts are those of an IF with another start for each neuron.
        return common(neuron="cos", layout="TB", traits=Traits(uniform_start=False, causal=False))
    if hasattr(module, "membrane_lower"):
        silenced: Callable[[], Tensor | None] = partial(_mask, module)
        return common(neuron="srp", traits=Traits(presteps=int(module.presim_len)), silenced=silenced)
    if hasattr(module, "vt"):
        return common(initial_fraction=float(module.vt))
    return common()


def _mask(module: Any) -> Tensor | None:
    """SRP's mask: True where the neuron is silenced; None before the pre-simulation is over."""
    kept: Tensor | None = module.membrane_lower
    return None if kept is None else kept == 0


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`.

    Raises:
        ProbeError: layers of different methods in one network.
    """
    wrappers: list[Any] = [layer.snn for layer in layers]
    lengths = {int(module.sim_len) for module in wrappers if hasattr(module, "sim_len")}
    if len(lengths) > 1 or len({layer.traits.presteps for layer in layers}) > 1:
        raise ProbeError(
            "the network's layers simulate different numbers of timesteps",
            expected="one presim_len and one sim_len",
            fault="timesteps-differ",
        )
    timesteps = next(iter(lengths), None)
    return {
        "reset": partial(_reset, wrappers),
        "forward_snn": partial(_run_cos, network, wrappers) if any(map(_is_cos, wrappers)) else None,
        # What SRP's layers count ends, and begins again, after sim_len steps.
        "timesteps": timesteps,
        "family": NAME,
    }


def _reset(wrappers: list[Any]) -> None:
    for module in wrappers:
        if hasattr(module, "reset"):
            module.reset()
        else:
            module.neuron.reset()
            # COS counts no steps.
            if hasattr(module, "t"):
                module.t = 0
        if hasattr(module, "membrane_lower"):
            module.membrane_lower = None


def _run_cos(network: nn.Module, wrappers: list[Any], x: Tensor, timesteps: int) -> Iterator[Tensor]:
    """One call; its layers tell a single copy of the samples from T copies by `batchsize`, so that has to be true."""
    before = [module.batchsize for module in wrappers]
    try:
        for module in wrappers:
            module.batchsize = len(x)
        merged = logits_of(network(x))
    finally:
        for module, batchsize in zip(wrappers, before, strict=True):
            module.batchsize = batchsize
    yield from merged.reshape(timesteps, len(x), *merged.shape[1:])


__all__ = ["NAME", "Subject", "match", "run", "spiking_layers"]
