"""What the user gives, a network, a pair or a `Subject`, becomes a `Subject` by the family that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe import calibration
from probe.errors import ProbeError
from probe.families import (
    LayerPair,
    Subject,
    convert,
    qcfs_merged,
    qcfs_stepwise,
    rewriting,
    sinabs,
    snntorch,
    spikingjelly,
)
from probe.families.activations import Activation, activations_of
from probe.methods import METHODS, Neurons, Parameters
from probe.pairing import joined, order_of, pair, spiking_shape
from probe.run import evaluating, understandable

SPIKING: tuple[ModuleType, ...] = (qcfs_stepwise, spikingjelly, snntorch, sinabs, qcfs_merged)
"""Families of networks that spike, each with `match`, `spiking_layers` and `run`; another is a file and a word here."""
DEFAULT_T = 8
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
BENT = (
    nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Softplus,
)  # fmt: skip
"""Activations that no IF neuron stands for: a conversion leaves them analog, and says so."""


@dataclass(frozen=True)
class Options:
    """How a model is to be made a subject.

    Attributes:
        neuron: one of `probe.methods`, in place of the model's activations; None for the model's own neurons, or IF
            where it has none.
        presteps: τ, for SRP.
        levels: L instead of the trained one.
        timesteps: T; None for what the network is made for, else 8.
        pairs: activation -> spiking layer, given by hand.
        calibrate, per: how θ of a ReLU network is found, see `probe.calibration`.
        average_pool: replace max-pooling by average pooling, in the ANN too.
        initial_potential: v(0) of a conversion, in units of θ.
    """

    neuron: str | None = None
    presteps: int = 4
    levels: int | None = None
    timesteps: int | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    calibrate: str = "99.9%"
    per: str = "layer"
    average_pool: bool = False
    initial_potential: float = 0.5

    def __post_init__(self) -> None:
        if self.neuron is not None and self.neuron not in METHODS:
            raise ProbeError(f"unknown neuron {self.neuron!r}", expected=f"one of {', '.join(METHODS)}")
        if self.levels is not None and not 1 <= self.levels <= 255:
            raise ProbeError(f"{self.levels} levels", expected="1 to 255", next_step="pass --levels L")
        if not 1 <= self.presteps <= 1000:
            raise ProbeError(
                f"{self.presteps} pre-simulation steps", expected="1 to 1000", next_step="pass --srp-steps N"
            )
        if not 0 <= self.initial_potential < 1:
            raise ProbeError(
                f"v(0) = {self.initial_potential:g} θ", expected="0 up to, but not, 1",
                next_step="pass --initial-potential F",
            )  # fmt: skip
        calibration.check_rule(self.calibrate)

    @property
    def spec(self) -> Neurons:
        """The neurons of a conversion."""
        parameters = Parameters(self.timesteps or DEFAULT_T, self.presteps, self.initial_potential)
        return METHODS[self.neuron or "if"].neurons(parameters)


Batches = Callable[[], Iterable[Tensor]]
"""Gives the calibration samples, batch by batch, as often as it is called."""


def unwrapped(model: Any) -> Any:
    """A network, or each of a pair, without DataParallel, DistributedDataParallel and torch.compile around it."""
    if isinstance(model, tuple | list):
        return tuple(unwrapped(one) for one in model)
    while isinstance(model, nn.Module):
        inner = model.module if isinstance(model, WRAPPERS) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner
    return model


def networks_of(model: Any) -> tuple[nn.Module, ...]:
    """The modules of a network, a pair or a subject.

    Raises:
        ProbeError: it is none of these.
    """
    if isinstance(model, Subject):
        return model.networks
    if isinstance(model, nn.Module):
        return (model,)
    if isinstance(model, tuple | list) and len(model) == 2 and all(isinstance(one, nn.Module) for one in model):
        return tuple(model)
    raise ProbeError(
        f"a model of type {type(model).__name__}",
        expected="a name, a torch.nn.Module, a pair (ann, snn) or a probe.Subject",
    )


def adapt(model: Any, x: Tensor, options: Options | None = None, batches: Batches | None = None) -> Subject:
    """Make a subject of what the user gives.

    Args:
        model: a network, a pair (ann, snn) or a subject.
        x: a sample, shape (1, ...), with which networks are run to learn their order.
        options: see there.
        batches: calibration samples, for a network of ReLUs.

    Raises:
        ProbeError: the model, the neuron or a number does not fit.
    """
    options = options or Options()
    model = unwrapped(model)
    networks = networks_of(model)
    if isinstance(model, Subject):
        return _checked(model)
    for entry in entry_points(group="probe.families"):
        family = entry.load()
        if family.match(model):
            return _checked(family.adapt(model))
    if len(networks) == 2 and networks[0] is not networks[1]:
        return _of_pair(networks[0], networks[1], x, options)
    return _of_network(networks[0], x, options, batches, given_twice=len(networks) == 2)


def _checked(subject: Subject) -> Subject:
    if not subject.layers:
        raise ProbeError("the subject has no layers", expected="a probe.LayerPair for each spiking layer")
    return subject


def _of_network(
    network: nn.Module, x: Tensor, options: Options, batches: Batches | None, *, given_twice: bool
) -> Subject:
    """A single network: two modes in one, an SNN, or an ANN to convert."""
    both = sinabs.split(network)
    if both is not None:
        return _of_pair(*both, x, options)
    if options.pairs:
        raise ProbeError("--pair with a single network", expected="a pair (ann, snn)", next_step="leave --pair out")
    if qcfs_merged.match(network) and options.neuron is None:
        # Its L can be set; all else is for a conversion, which --neuron asks for.
        _refuse_options(replace(options, levels=None), qcfs_merged.NAME)
        return qcfs_merged.adapt(network, options.levels)
    if given_twice:
        raise ProbeError(
            "ANN and SNN are the same object, and it has no mode switch",
            expected="two networks, or one with set_T(T)",
            next_step="convert a copy: copy.deepcopy(ann)",
        )
    for family in SPIKING:
        # One with two modes is an ANN too, which `neuron` converts.
        if family is not qcfs_merged and family.match(network):
            _refuse_options(options, family.NAME)
            layers = family.spiking_layers(network)
            return Subject(snn=network, layers=layers, **family.run(network, layers))
    return _converted(network, x, options, batches)


def _refuse_options(options: Options, family: str) -> None:
    """The user's own neurons are run as they are."""
    start = options.initial_potential
    given = {
        "--neuron": options.neuron, "--levels": options.levels, "--average-pool": options.average_pool or None,
        "--initial-potential": None if start == Options.initial_potential else start,
    }  # fmt: skip
    for flag, value in given.items():
        if value is not None:
            raise ProbeError(
                f"{flag}{'' if value is True else f' {value}'} with neurons of the family {family}",
                expected="the ANN alone, to convert it",
                next_step=f"leave {flag} out to record the model's own neurons",
            )  # fmt: skip


def _converted(network: nn.Module, x: Tensor, options: Options, batches: Batches | None) -> Subject:
    """probe's own neurons in place of the activations of an ANN."""
    if options.average_pool:
        network = rewriting.with_average_pooling(network)
    if qcfs_merged.match(network):
        # A stray ReLU has no θ of its own, and stays.
        stray = [name for name, found in activations_of(network).items() if found.levels is None]
        return convert.adapt(network, options.neuron or "if", options.spec, levels=options.levels, skipped=stray)
    with evaluating(network), understandable(network, x):
        network = rewriting.separated(network, lambda: network(x.clone()))
    activations = activations_of(network)
    if not activations:
        raise ProbeError(
            f"no spiking layer and no activation found among {_seen(network)}",
            expected="QCFS or ReLU activations, or the neurons of SpikingJelly, snnTorch, sinabs, QCFS, SRP or COS",
            next_step="return a probe.Subject that names the layers",
        )
    rectifiers = {name: found.module for name, found in activations.items() if found.levels is None}
    found = {}
    if rectifiers:
        if options.levels is not None:
            raise ProbeError(
                "--levels with a ReLU network", expected="QCFS activations", next_step="leave --levels out"
            )
        if batches is None:
            raise ProbeError("a ReLU network without calibration samples", expected="data to calibrate on")
        with evaluating(network):
            found = calibration.thresholds(
                network, rectifiers, batches, rule=options.calibrate, per=options.per,
                timesteps=options.timesteps or DEFAULT_T,
            )  # fmt: skip
    # Auxiliary heads, for example, are not called in evaluation.
    skipped = [name for name in rectifiers if name not in found]
    if len(skipped) == len(activations):
        raise ProbeError(
            f"layer {skipped[0]} is never called by the ANN", expected="activations in the forward",
            fault="never-called", layer=skipped[0],
        )  # fmt: skip
    subject = convert.adapt(
        network, options.neuron or "if", options.spec, levels=options.levels, thresholds=found, skipped=skipped
    )
    analog = [f"ANN {name} ({type(one).__name__}, left analog)" for name, one in network.named_modules()
              if isinstance(one, BENT)]  # fmt: skip
    return replace(subject, unpaired=(*subject.unpaired, *analog))


def _of_pair(ann: nn.Module, snn: nn.Module, x: Tensor, options: Options) -> Subject:
    """Two networks, paired layer by layer."""
    family = next((family for family in SPIKING if family.match(snn)), None)
    if family is None:
        raise ProbeError(
            f"no spiking layer found in the SNN, among {_seen(snn)}",
            expected="the neurons of SpikingJelly, snnTorch, sinabs, QCFS, SRP or COS",
            next_step="return a probe.Subject that names the layers",
        )
    _refuse_options(options, family.NAME)
    layers = family.spiking_layers(snn)
    alone = Subject(snn=snn, layers=layers, **family.run(snn, layers))
    # An ANN with a mode switch may have been left at any T.
    modes = qcfs_merged.match(ann)
    found_at = qcfs_merged.timesteps_of(ann) if modes else 0
    forward_ann = partial(convert.analog, ann) if modes else None

    switched = ann

    def restore() -> None:
        alone.restore()
        if modes:
            qcfs_merged.set_timesteps(switched, found_at)

    with ExitStack() as stack:
        # Also where the pairing is refused.
        stack.callback(restore)
        stack.callback(alone.reset)
        for context in (evaluating(ann, snn), torch.no_grad(), understandable(ann, x)):
            stack.enter_context(context)
        if modes:
            qcfs_merged.set_timesteps(ann, 0)
        ann = rewriting.separated(ann, lambda: ann(x.clone()))
        activations = activations_of(ann)
        if not activations:
            raise ProbeError(f"no activation found in the ANN, among {_seen(ann)}", expected="QCFS or ReLU activations")
        timesteps = alone.timesteps or options.timesteps or DEFAULT_T
        by_name = {layer.name: layer for layer in layers}
        seen_ann = order_of(
            {name: found.module for name, found in activations.items()},
            lambda: ann(x.clone()),
            lambda _name, output: output.shape[1:],
        )
        seen_snn = order_of(
            {layer.name: layer.snn for layer in layers},
            lambda: list(alone.run_snn(x.clone(), timesteps)),
            spiking_shape(by_name, len(x), timesteps),
        )
    partners = pair(seen_ann, seen_snn, options.pairs)
    _check_thresholds(by_name, activations, partners)
    paired, unpaired = joined(layers, activations, partners)
    if len(unpaired) == len(layers) + len(activations):
        raise ProbeError(
            f"no activation of the ANN has the shape of a spiking layer: {', '.join(map(str, seen_ann[:4]))} and "
            f"{', '.join(map(str, seen_snn[:4]))}",
            expected="the ANN that the SNN was converted from",
            fault="shapes-differ",
        )
    return replace(alone, ann=ann, layers=paired, unpaired=unpaired, forward_ann=forward_ann, restore=restore)


def _check_thresholds(
    layers: Mapping[str, LayerPair], activations: Mapping[str, Activation], partners: Mapping[str, str]
) -> None:
    """A QCFS activation and its neuron have one θ."""
    for snn_name, ann_name in partners.items():
        theta, other = activations[ann_name].threshold, layers[snn_name].theta
        if theta is None or theta.size != other.size or np.allclose(theta.ravel(), other.ravel(), rtol=1e-3):
            continue
        raise ProbeError(
            f"ANN {ann_name} has θ = {float(theta.mean()):.6g} and SNN {snn_name} has {float(other.mean()):.6g}",
            expected="one threshold in both",
            next_step="check that the SNN was made from this ANN, or pass --pair ANN.NAME=SNN.NAME",
            fault="threshold-differs",
            layer=ann_name,
        )


def _seen(network: nn.Module) -> str:
    """The kinds of modules in a network."""
    kinds = sorted({type(module).__name__ for module in network.modules() if not list(module.children())})
    return ", ".join(kinds) or type(network).__name__
