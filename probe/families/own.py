"""Networks with probe's own QCFS activations: the SNN is the same network with IF neurons in their place."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
from torch import nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits
from probe.neurons import IF, QCFS, NeuronSpec, replace_modules


def match(model: nn.Module) -> bool:
    """True for a network that holds a `probe.neurons.QCFS`."""
    return any(isinstance(module, QCFS) for module in model.modules())


def adapt(model: nn.Module, neuron: str, spec: NeuronSpec, levels: int | None = None) -> Subject:
    """Pair each QCFS activation of `model` with a neuron of the kind `spec`; the model itself is not changed.

    Args:
        model: the ANN.
        neuron: the name of that kind.
        spec: the kind of neuron.
        levels: another L for every activation, to see what the grid costs; None keeps the trained one.

    Raises:
        ProbeError: a threshold is not positive, or a module occurs twice.
    """
    ann = model
    if levels is not None:
        ann = copy.deepcopy(model)
        for module in ann.modules():
            if isinstance(module, QCFS):
                module.levels = levels
    activations = {name: module for name, module in ann.named_modules() if isinstance(module, QCFS)}
    neurons: dict[str, nn.Module] = {}
    for name, activation in activations.items():
        if not 1 <= activation.levels <= 255:
            raise ProbeError(f"layer {name} has {activation.levels} levels", expected="1 to 255")
        threshold = activation.threshold.detach()
        if not bool((threshold > 0).all()):
            raise ProbeError(
                f"layer {name} has threshold {threshold.min().item():.4g}",
                expected="a threshold above 0",
                next_step="train that layer again, or check that its threshold was loaded",
            )
        neurons[name] = IF(threshold, spec).train(activation.training)
    try:
        snn = copy.deepcopy(ann)
    except RuntimeError as error:
        raise ProbeError(
            f"the network cannot be copied ({str(error).splitlines()[0]})",
            expected="a network that keeps no tensor with a graph between calls",
            next_step="do not store outputs on the module, or detach them",
        ) from None
    replace_modules(snn, neurons)
    layers = tuple(
        LayerPair(
            name=name,
            ann=activation,
            snn=neurons[name],
            neuron=neuron,
            levels=activation.levels,
            threshold=np.asarray(activation.threshold.detach().cpu().numpy(), np.float32),
            initial_fraction=spec.initial_potential,
            potential=partial(getattr, neurons[name], "potential"),
            silenced=partial(getattr, neurons[name], "silenced"),
        )
        for name, activation in activations.items()
    )
    negative = spec.negative
    traits = Traits(signed=negative is not None, guarded=negative is None or negative.guarded, presteps=spec.presteps)

    def reset() -> None:
        for module in snn.modules():
            if isinstance(module, IF):
                module.reset()

    return Subject(ann, snn, layers, traits, reset, family="own")
