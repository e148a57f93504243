"""QCFS with merged time: one network that is the ANN at `set_T(0)` and the SNN at `set_T(T)` (Bu et al., ICLR 2022).

Its layers have `thresh`, `L`, `T`, `expand` and `merge`; at T > 0 they take and give [T·B, ...], timesteps outermost,
start at v(0) = θ/2 in every call and keep no potential. The network changes its input in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits, logits_of
from probe.families.activations import Activation, activations_of, is_merged

NAME = "qcfs-merged"


def match(network: nn.Module) -> bool:
    """True for a network with a mode switch and such layers."""
    return hasattr(network, "set_T") and any(is_merged(module) for module in network.modules())


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
    found_at = int(getattr(network, "T", 0) or max((module.T for module in modules.values()), default=0))
    trained: dict[str, int] = {name: module.L for name, module in modules.items()}

    def set_t(timesteps: int) -> None:
        network.set_T(timesteps)  # type: ignore[operator]

    def set_levels(of: dict[str, int]) -> None:
        for name, number in of.items():
            modules[name].L = number

    if levels is not None:
        set_levels(dict.fromkeys(activations, levels))

    def forward_ann(x: Tensor) -> Tensor:
        set_t(0)
        return logits_of(network(x))

    def forward_snn(x: Tensor, timesteps: int) -> Iterator[Tensor]:
        set_t(timesteps)
        logits = logits_of(network(x))
        if len(logits) != timesteps:
            raise ProbeError(
                f"the network gives shape {tuple(logits.shape)} at set_T({timesteps})",
                expected="(timestep, sample, class)",
            )
        yield from logits

    def restore() -> None:
        set_t(found_at)
        set_levels(trained)

    return Subject(
        ann=network, snn=network, layers=[_pair(name, found, levels) for name, found in activations.items()],
        family=NAME, forward_ann=forward_ann, forward_snn=forward_snn, restore=restore,
    )  # fmt: skip


def _pair(name: str, activation: Activation, levels: int | None) -> LayerPair:
    assert activation.threshold is not None
    return LayerPair(
        name=name, ann=activation.module, snn=activation.module, threshold=activation.threshold,
        levels=levels or activation.levels, layout="TB", traits=Traits(exposes_potential=False),
    )  # fmt: skip
