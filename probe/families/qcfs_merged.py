"""QCFS with merged time: one network that is the ANN at `set_T(0)` and the SNN at `set_T(T)` (Bu et al., ICLR 2022).

Its layers have `thresh`, `L`, `T`, `expand` and `merge`; at T > 0 they take and give [T·B, ...], timesteps outermost,
start at v(0) = θ/2 in every call and keep no potential. The network changes its input in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits, logits_of
from probe.families.activations import Activation, activations_of, is_merged

NAME = "qcfs-merged"


def match(network: nn.Module) -> bool:
    """True for a network with a mode switch and such layers."""
    return hasattr(network, "set_T") and bool(_layers(network))


def _layers(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if is_merged(module)]


def timesteps_of(network: nn.Module) -> int:
    """T as it is set; 0 for the ANN."""
    of_network: Any = getattr(network, "T", 0)
    return int(of_network or max((module.T for module in _layers(network)), default=0))


def set_timesteps(network: nn.Module, timesteps: int) -> None:
    """Switch a network; one without `set_T`, such as the body of another, stays what it is."""
    if hasattr(network, "set_T"):
        network.set_T(timesteps)  # type: ignore[operator]


def spiking_layers(network: nn.Module) -> list[LayerPair]:
    """Its layers in SNN mode, without partners: for a pair (ann, snn) of two such networks."""
    layers = {name: found for name, found in activations_of(network).items() if is_merged(found.module)}
    return [replace(_pair(name, found, None), ann=None, levels=None, snn_name=name) for name, found in layers.items()]


def run(network: nn.Module, layers: Sequence[LayerPair]) -> dict[str, Any]:
    """How the network is run as an SNN, as arguments of `Subject`."""
    return {
        "forward_snn": partial(_run, network), "restore": partial(set_timesteps, network, timesteps_of(network)),
        "family": NAME,
    }  # fmt: skip


def _run(network: nn.Module, x: Tensor, timesteps: int) -> Iterator[Tensor]:
    set_timesteps(network, timesteps)
    logits = logits_of(network(x))
    if len(logits) != timesteps:
        raise ProbeError(
            f"the network gives shape {tuple(logits.shape)} at set_T({timesteps})",
            expected="(timestep, sample, class)",
            fault="logits-shape",
        )
    yield from logits


def adapt(network: nn.Module, levels: int | None = None) -> Subject:
    """The network as its own ANN and SNN.

    Args:
        network: the user's, which is left as it was found when `restore` is called.
        levels: another L for every activation; None keeps the trained one.

    Raises:
        ProbeError: a threshold is not positive.
    """
    activations = {name: found for name, found in activations_of(network).items() if is_merged(found.module)}
    modules: dict[str, Any] = {name: found.module for name, found in activations.items()}
    found_at = timesteps_of(network)
    trained: dict[str, int] = {name: module.L for name, module in modules.items()}

    def forward_ann(x: Tensor) -> Tensor:
        # Here and not before: what is switched in between, by `restore` after the survey, has to be switched again.
        set_timesteps(network, 0)
        for name, module in modules.items():
            module.L = levels or trained[name]
        return logits_of(network(x))

    def restore() -> None:
        set_timesteps(network, found_at)
        for name, module in modules.items():
            module.L = trained[name]

    return Subject(
        ann=network, snn=network, layers=[_pair(name, found, levels) for name, found in activations.items()],
        family=NAME, forward_ann=forward_ann, forward_snn=partial(_run, network), restore=restore,
    )  # fmt: skip


def _pair(name: str, activation: Activation, levels: int | None) -> LayerPair:
    assert activation.threshold is not None
    return LayerPair(
        name=name, ann=activation.module, snn=activation.module, threshold=activation.threshold,
        levels=levels or activation.levels, layout="TB", traits=Traits(exposes_potential=False),
    )  # fmt: skip
