"""What the user gives, a network, a pair or a `Subject`, becomes a `Subject` by the family that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from probe import calibration
from probe.errors import ProbeError
from probe.families import Subject, convert, qcfs_merged, qcfs_stepwise, rewriting, sinabs, snntorch, spikingjelly
from probe.families.activations import activations_of
from probe.neurons import NEURONS, NeuronSpec
from probe.pairing import joined, order_of, pair, spiking_shape
from probe.run import evaluating, understandable

SPIKING: tuple[ModuleType, ...] = (qcfs_stepwise, spikingjelly, snntorch, sinabs)
"""Families of networks that spike, each with `match`, `spiking_layers` and `run`; another is a file and a word here."""
DEFAULT_T = 8


@dataclass(frozen=True)
class Options:
    """How a model is to be made a subject.

    Attributes:
        neuron: `if`, `snm`, `negspike`, `srp` or `srp+negspike`, probe's own in place of the model's activations; None
            for the model's own neurons, or IF where it has none.
        presteps: τ, for SRP.
        levels: L instead of the trained one.
        timesteps: T; None for what the network is made for, else 8.
        pairs: activation -> spiking layer, given by hand.
        calibrate, per: how θ of a ReLU network is found, see `probe.calibration`.
        average_pool: replace max-pooling by average pooling, in the ANN too.
    """

    neuron: str | None = None
    presteps: int = 4
    levels: int | None = None
    timesteps: int | None = None
    pairs: Mapping[str, str] = field(default_factory=dict)
    calibrate: str = "99.9%"
    per: str = "layer"
    average_pool: bool = False

    def __post_init__(self) -> None:
        if self.neuron is not None and self.neuron not in NEURONS:
            raise ProbeError(f"unknown neuron {self.neuron!r}", expected=f"one of {', '.join(NEURONS)}")
        if self.levels is not None and not 1 <= self.levels <= 255:
            raise ProbeError(f"{self.levels} levels", expected="1 to 255", next_step="pass --levels L")
        if not 1 <= self.presteps <= 1000:
            raise ProbeError(
                f"{self.presteps} pre-simulation steps", expected="1 to 1000", next_step="pass --srp-steps N"
            )
        calibration.check_rule(self.calibrate)

    @property
    def spec(self) -> NeuronSpec:
        """The neuron of a conversion."""
        return NeuronSpec.named(self.neuron or "if", presteps=self.presteps)


Batches = Callable[[], Iterable[Tensor]]
"""Gives the calibration samples, batch by batch, as often as it is called."""


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
        if options.average_pool:
            raise ProbeError("--average-pool with a network of two modes", expected="--neuron, to convert its ANN")
        return qcfs_merged.adapt(network, options.levels)
    if given_twice:
        raise ProbeError(
            "ANN and SNN are the same object, and it has no mode switch",
            expected="two networks, or one with set_T(T)",
            next_step="convert a copy: copy.deepcopy(ann)",
        )
    for family in SPIKING:
        if family.match(network):
            _refuse_options(options, family.NAME)
            layers = family.spiking_layers(network)
            return Subject(snn=network, layers=layers, **family.run(network, layers))
    return _converted(network, x, options, batches)


def _refuse_options(options: Options, family: str) -> None:
    """The user's own neurons are run as they are."""
    given = {"--neuron": options.neuron, "--levels": options.levels, "--average-pool": options.average_pool or None}
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
        return convert.adapt(network, options.neuron or "if", options.spec, levels=options.levels)
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
        raise ProbeError(f"layer {skipped[0]} is never called by the ANN", expected="activations in the forward")
    return convert.adapt(
        network, options.neuron or "if", options.spec, levels=options.levels, thresholds=found, skipped=skipped
    )


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
    with evaluating(ann, snn), torch.no_grad(), understandable(ann, x):
        ann = rewriting.separated(ann, lambda: ann(x.clone()))
        activations = activations_of(ann)
        if not activations:
            raise ProbeError(f"no activation found in the ANN, among {_seen(ann)}", expected="QCFS or ReLU activations")
        timesteps = alone.timesteps or options.timesteps or DEFAULT_T
        by_name = {layer.name: layer for layer in layers}
        try:
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
        finally:
            alone.reset()
            alone.restore()
    paired, unpaired = joined(layers, activations, pair(seen_ann, seen_snn, options.pairs))
    if len(unpaired) == len(layers) + len(activations):
        raise ProbeError(
            f"no activation of the ANN has the shape of a spiking layer: {', '.join(map(str, seen_ann[:4]))} and "
            f"{', '.join(map(str, seen_snn[:4]))}",
            expected="the ANN that the SNN was converted from",
        )
    return replace(alone, ann=ann, layers=paired, unpaired=unpaired)


def _seen(network: nn.Module) -> str:
    """The kinds of modules in a network."""
    kinds = sorted({type(module).__name__ for module in network.modules() if not list(module.children())})
    return ", ".join(kinds) or type(network).__name__
