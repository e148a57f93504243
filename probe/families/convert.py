"""probe's own conversion: the SNN is a copy of the ANN with IF neurons in place of its activations.

QCFS activations bring their θ and L; ReLU has neither, so its θ comes from calibration (`probe.calibration`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits, logits_of
from probe.families.activations import activations_of, is_merged
from probe.families.qcfs_merged import set_timesteps, timesteps_of
from probe.methods import Neurons
from probe.neurons import replace_modules

Thresholds = Mapping[str, npt.NDArray[np.float32]]


def adapt(
    network: nn.Module,
    neuron: str,
    spec: Neurons,
    *,
    levels: int | None = None,
    thresholds: Thresholds | None = None,
    skipped: Collection[str] = (),
) -> Subject:
    """Pair each activation of `network` with a neuron of the kind `spec`; the network itself is not changed.

    Args:
        network: the ANN.
        neuron: the name of that kind.
        spec: the kind of neuron, of `probe.methods`.
        levels: another L for every QCFS activation, to see what the grid costs; None keeps the trained one.
        thresholds: θ of each ReLU by its path, broadcastable to (sample, *neuron).
        skipped: paths of activations that the forward does not call, and that stay as they are.

    Raises:
        ProbeError: a threshold is not positive, or the network cannot be copied.
    """
    ann = network
    if levels is not None:
        ann = _copied(network)
        for activation in activations_of(ann).values():
            _set_levels(activation.module, levels)
    activations = {name: found for name, found in activations_of(ann).items() if name not in skipped}
    traits = Traits(**spec.traits)
    neurons: dict[str, nn.Module] = {}
    layers = []
    for name, activation in activations.items():
        threshold = activation.threshold if activation.threshold is not None else (thresholds or {})[name]
        layer = LayerPair(
            name=name, ann=activation.module, snn=activation.module, neuron=neuron, levels=activation.levels,
            threshold=threshold, initial_fraction=spec.initial_potential, traits=traits, layout=spec.layout,
        )  # fmt: skip
        made = spec.make(torch.from_numpy(layer.theta.copy())).train(activation.module.training)
        neurons[name] = made
        layers.append((layer, made))
    snn = _copied(ann)
    merged = any(is_merged(activation.module) for activation in activations.values())
    if merged:
        # probe's neurons are called once a timestep, so the copy must not merge time, however it was found.
        set_timesteps(snn, 0)
    replace_modules(snn, neurons)

    def reset() -> None:
        for module in neurons.values():
            module.reset()  # type: ignore[operator]

    return Subject(
        ann=ann, snn=snn, reset=reset, family="own" if any(found.levels for found in activations.values()) else "relu",
        layers=[_joined(layer, made) for layer, made in layers],
        forward_ann=partial(analog, ann) if merged else None,
        restore=partial(set_timesteps, ann, timesteps_of(ann)) if merged else _nothing,
        forward_snn=partial(_run_merged, snn) if spec.layout == "TB" else None,
        unpaired=tuple(f"ANN {name}" for name in skipped),
    )  # fmt: skip


def _run_merged(snn: nn.Module, x: Tensor, timesteps: int) -> Iterator[Tensor]:
    """One call with all timesteps in the batch, timesteps outermost."""
    merged = logits_of(snn(x.repeat(timesteps, *[1] * (x.ndim - 1))))
    yield from merged.reshape(timesteps, len(x), *merged.shape[1:])


def _nothing() -> None:
    """A network without modes is always as it was found."""


def _joined(layer: LayerPair, made: nn.Module) -> LayerPair:
    return replace(
        layer, snn=made, potential=partial(getattr, made, "potential"), silenced=partial(getattr, made, "silenced")
    )


def _set_levels(module: nn.Module, levels: int) -> None:
    """L of an activation, which each code calls by another name."""
    for name in ("levels", "L", "t"):
        if hasattr(module, name):
            setattr(module, name, levels)
            return


def analog(network: nn.Module, x: Tensor) -> Tensor:
    """The ANN of a network with a mode switch."""
    set_timesteps(network, 0)
    return logits_of(network(x))


def _copied(network: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise ProbeError(
            f"the network cannot be copied ({str(error).splitlines()[0]})",
            expected="a network that keeps no tensor with a graph between calls",
            next_step="do not store outputs on the module, or detach them",
        ) from None
