"""SpikingJelly: `ann2snn` conversions and networks built from its neurons, of 2.x and of 0.0.0.0.14.

A conversion is a chain of three modules, scaler, neuron (θ = 1, v(0) = 0), scaler: the layer's θ is the outer scaler's,
and so is its θ-scaled output. Elsewhere a neuron stands alone and gives 0 or 1. Neurons have `v_threshold`, `v_reset`
and a step mode: `s`, a call a timestep, or `m`, one call with [T, B, ...].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Traits, detached, logits_of
from probe.userfile import has_user_frame, user_traceback

NAME = "spikingjelly"


def match(network: nn.Module) -> bool:
    """True for a network with such a neuron."""
    return any(_is_neuron(module) for module in network.modules())


def _is_neuron(module: Any) -> bool:
    return hasattr(module, "v_threshold") and hasattr(module, "v_reset") and hasattr(module, "step_mode")


def _is_scaler(module: Any) -> bool:
    return hasattr(module, "scale") and "Scaler" in type(module).__name__


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its spiking layers, in the order of its modules, without partners.

    Raises:
        ProbeError: step modes are mixed, or a scaler does not fit its neuron.
    """
    layers = []
    parents = {f"{name}.{child}".lstrip("."): module for name, module in network.named_modules()
               for child, _ in module.named_children()}  # fmt: skip
    for name, module in network.named_modules():
        if _is_neuron(module):
            siblings = list(parents[name].children()) if name in parents else []
            place = next((i for i, sibling in enumerate(siblings) if sibling is module), 0)
            around = siblings[max(0, place - 1) : place + 2]
            if len(around) == 3 and _is_scaler(around[0]) and _is_scaler(around[2]):
                layers.append(_chain(name.rpartition(".")[0], *around))
            else:
                layers.append(_alone(name, module))
    modes = {layer.layout for layer in layers}
    if len(modes) > 1:
        raise ProbeError(
            "the network mixes step modes 's' and 'm'", expected="one",
            next_step="call functional.set_step_mode(network, 's') or 'm'", fault="modes-mixed",
        )  # fmt: skip
    return layers


INTEGRATORS = ("IFNode", "SimpleIFNode", "HalfThresholdIFNode")
"""Nodes that add up their input and lose nothing; of any other kind the conservation law is not assumed."""


def _traits(module: Any) -> Traits:
    kind = type(module).__name__
    ternary = kind.startswith("Ternary")
    return Traits(
        reset="subtract" if module.v_reset is None else "zero", leaky=kind not in INTEGRATORS,
        signed=ternary, guarded=not ternary,
        graded=hasattr(getattr(module, "surrogate_function", None), "max_spike_count"),
    )  # fmt: skip


def _start(module: Any, threshold: float) -> float:
    """v(0) in units of θ: what the reset puts back; 0, or half a threshold for the node of that name."""
    memory = getattr(module, "_memories_rv", {})
    value = memory.get("v", 0.0) if isinstance(memory, dict) else 0.0
    return float(value) / threshold if isinstance(value, int | float) else 0.0


def _layout(module: Any) -> str:
    return "T,B" if module.step_mode == "m" else "step"


def _potential(module: Any, factor: Any) -> Tensor | None:
    v = module.v
    return v * factor(v) if isinstance(v, Tensor) else None


def _potentials(module: Any, factor: Any) -> Tensor | None:
    stored = getattr(module, "v_seq", None) if getattr(module, "store_v_seq", False) else None
    return stored * factor(stored[0]) if isinstance(stored, Tensor) else None


def _chain(name: str, before: Any, neuron: Any, after: Any) -> LayerPair:
    theta, fires = detached(after.scale), float(detached(neuron.v_threshold))
    if not np.allclose(detached(before.scale) * theta, fires, rtol=1e-4):
        raise ProbeError(
            f"layer {name} is scaled by {detached(before.scale).ravel()[0]:.4g} before and {theta.ravel()[0]:.4g} "
            f"after a neuron with threshold {fires:.4g}",
            expected="factors whose product is that threshold",
            fault="threshold-differs",
            layer=name,
        )
    channel = int(getattr(after, "channel_dim", 1))

    def factor(like: Tensor) -> Any:
        """θ in units of the neuron's own threshold, along the channels of a tensor (sample, channel, ...)."""
        scale = after.scale / fires
        return scale.view([-1 if axis == channel else 1 for axis in range(like.ndim)]) if scale.ndim else scale

    return LayerPair(
        # Along the channels, after the sample axis; axes to the right are added when the shape is known.
        name=name, snn_name=name, snn=after, entry=before, threshold=theta, initial_fraction=_start(neuron, fires),
        layout=_layout(neuron), traits=_traits(neuron), neuron=_kind(neuron),
        potential=partial(_potential, neuron, factor), potentials=partial(_potentials, neuron, factor),
    )  # fmt: skip


def _alone(name: str, neuron: Any) -> LayerPair:
    threshold = detached(neuron.v_threshold)
    theta = float(threshold) if threshold.size == 1 else threshold
    start = _start(neuron, float(threshold.ravel()[0]))
    return LayerPair(
        name=name, snn_name=name, snn=neuron, threshold=theta, height=1.0, initial_fraction=start,
        layout=_layout(neuron), traits=_traits(neuron), neuron=_kind(neuron),
        potential=partial(_potential, neuron, lambda _like: 1),
        potentials=partial(_potentials, neuron, lambda _like: 1),
    )  # fmt: skip


def _kind(module: Any) -> str:
    traits = _traits(module)
    return "if" if traits.lawful else type(module).__name__.removesuffix("Node").lower()


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run and reset, as arguments of `Subject`."""
    merged = any(layer.layout == "T,B" for layer in layers)
    return {
        "reset": partial(_reset, network),
        "forward_snn": partial(_run_merged, network) if merged else None,
        "family": NAME,
    }


def _reset(network: nn.Module) -> None:
    """As `functional.reset_net`: every module that has a `reset`."""
    for module in network.modules():
        reset = getattr(module, "reset", None)
        if callable(reset):
            reset()


def _run_merged(network: nn.Module, x: Tensor, timesteps: int) -> Iterator[Tensor]:
    repeated = x.unsqueeze(0).repeat(timesteps, *[1] * x.ndim)
    try:
        output = network(repeated)
    except (RuntimeError, ValueError, IndexError) as error:
        shape, lines = "x".join(map(str, repeated.shape)), str(error).splitlines()
        raise ProbeError(
            f"the network in step mode 'm' cannot take (timestep, sample, ...), here {shape}: "
            f"{lines[0] if lines else type(error).__name__}",
            expected="a forward for all timesteps at once",
            next_step="where its forward repeats the sample over time itself, pass the module inside that it repeats "
            "it for",
            trace=user_traceback(error) if has_user_frame(error) else "",
            fault="not-runnable",
        ) from None
    logits = logits_of(output)
    if logits.ndim != 3 or len(logits) != timesteps:
        raise ProbeError(
            f"the network gives shape {tuple(logits.shape)} for {timesteps} timesteps in step mode 'm'",
            expected="(timestep, sample, class)",
            next_step="do not average over time inside the network",
            fault="logits-shape",
        )
    yield from logits
