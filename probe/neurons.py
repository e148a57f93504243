"""The neurons: pure step functions of QCFS, IF, signed IF and SRP, and the thin modules that keep their state.

Time runs in one of two ways, and both give identical spikes. *Stepwise* (``timesteps=None``): one call is one
timestep, the potential lives in the module until `reset`. *Merged* (``timesteps=T``): one call is all T timesteps,
its input has the shape (T * sample, ...) with the timesteps outermost ("T-major"), and no state outlives the call.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

NEURONS = ("if", "snm", "negspike", "srp", "srp+negspike")
SILENCE_BELOW = 0.001
"""SRP silences a neuron whose potential after the pre-simulation is at most this many thresholds."""


# ---------------------------------------------------------------------------------------------- pure functions


def floor_straight_through(x: Tensor) -> Tensor:
    """The floor of `x`, whose gradient is passed on as if it were the identity."""
    return x + (x.floor() - x).detach()


def qcfs(x: Tensor, threshold: Tensor | float, levels: int) -> Tensor:
    """QCFS activation: θ·⌊L·clip(x/θ, 0, 1) + ½⌋/L, clip then floor (Bu et al., ICLR 2022, equation 13).

    Args:
        x: pre-activation, any shape.
        threshold: θ > 0, broadcastable to `x`, same unit as `x`.
        levels: L, the number of quantization steps.

    Returns:
        The activation, same shape as `x`, in {0, θ/L, ..., θ}; the floor is straight-through for gradients, so
        that θ is trained too.
    """
    return threshold * floor_straight_through((x / threshold).clamp(0, 1) * levels + 0.5) / levels


class Step(NamedTuple):
    """What one timestep leaves behind; both have the shape (sample, *neuron)."""

    potential: Tensor
    """v(t), after the reset by subtraction, in units of x."""
    spike: Tensor
    """s(t): 0 or 1, or -1 for a negative spike, in the dtype of the input."""


def fired(charged: Tensor, threshold: Tensor | float) -> Tensor:
    """Where the charged potential reaches θ: 0 or 1 in its dtype, no gradient."""
    charged = charged.detach()
    # Half the time of a comparison that is then converted.
    return torch.ge(charged, threshold, out=torch.empty_like(charged))


def if_step(potential: Tensor, x: Tensor, threshold: Tensor | float) -> Step:
    """One timestep of the soft-reset IF neuron: v(t) = v(t-1) + x(t) - θ·s(t), s(t) = 1 where v(t-1) + x(t) >= θ.

    Args:
        potential: v(t-1), shape (sample, *neuron), or broadcastable to it.
        x: the input x(t), shape (sample, *neuron).
        threshold: θ > 0, broadcastable to `x`.
    """
    charged = potential + x
    spike = fired(charged, threshold)
    return Step(charged - threshold * spike, spike)


class Negative(NamedTuple):
    """When a signed IF neuron may fire a negative spike (DESIGN section 3's `snm` and `negspike`)."""

    threshold: float
    """In units of θ: a negative spike is possible where the charged potential is at or below minus this."""
    inclusive: bool
    """True: at or below; False: strictly below."""
    guarded: bool = True
    """Only neurons whose net count so far is above 0 may fire a negative spike."""


NEGATIVE = {
    "snm": Negative(threshold=1.0, inclusive=True),
    "negspike": Negative(threshold=0.0, inclusive=False),
}


def signed_if_step(potential: Tensor, x: Tensor, count: Tensor, threshold: Tensor | float, negative: Negative) -> Step:
    """One timestep of the soft-reset IF neuron with negative spikes (SNM: Wang et al., IJCAI 2022).

    As `if_step`, and s(t) = -1 where the charged potential is at or below (or strictly below) the negative
    threshold and, if guarded, the net spike count n(t-1) is above 0; a negative spike adds θ to the potential.

    Args:
        potential: v(t-1), shape (sample, *neuron), or broadcastable to it.
        x: the input x(t), shape (sample, *neuron).
        count: n(t-1), the net number of spikes so far, shape (sample, *neuron).
        threshold: θ > 0, broadcastable to `x`.
        negative: the negative threshold and guard.
    """
    charged = potential + x
    spike = fired_signed(charged, count, threshold, negative)
    return Step(charged - threshold * spike, spike)


def fired_signed(charged: Tensor, count: Tensor, threshold: Tensor | float, negative: Negative) -> Tensor:
    """The net spike of `signed_if_step` from the charged potential: -1, 0 or 1 in its dtype, no gradient."""
    charged, floor = charged.detach(), -negative.threshold * threshold
    below = charged <= floor if negative.inclusive else charged < floor
    if negative.guarded:
        below &= count > 0
    return fired(charged, threshold).sub_(below.to(charged.dtype))


def silenced_by_srp(potential: Tensor, threshold: Tensor | float) -> Tensor:
    """SRP's mask (Hao et al., AAAI 2023): True where v(τ) <= 0.001·θ after the τ pre-simulation steps.

    Args:
        potential: v(τ), shape (sample, *neuron).
        threshold: θ > 0, broadcastable to it.
    """
    return potential <= SILENCE_BELOW * threshold


# ------------------------------------------------------------------------------------------------ thin modules


class QCFS(nn.Module):
    """The ANN's activation with a trainable threshold θ (a scalar Parameter) and `levels` quantization steps."""

    threshold: nn.Parameter

    def __init__(self, levels: int = 8, threshold: float = 8.0) -> None:
        super().__init__()
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """The activation of `x`, any shape."""
        return qcfs(x, self.threshold, self.levels)

    def extra_repr(self) -> str:
        """For `print(network)`."""
        return f"levels={self.levels}, threshold={self.threshold.item():.4g}"


@dataclass(frozen=True)
class NeuronSpec:
    """Which neuron replaces an activation, and its settings; `NeuronSpec.named("negspike")` gives a published one."""

    negative: Negative | None = None
    presteps: int = 0
    """τ, SRP's pre-simulation steps; 0 for no SRP."""
    initial_potential: float = 0.5
    """v(0) in units of θ."""

    layout: ClassVar[str] = "step"

    @property
    def traits(self) -> dict[str, Any]:
        """What differs from a plain IF neuron, as `probe.families.Traits` names it."""
        negative = self.negative
        return {
            "signed": negative is not None, "guarded": negative is None or negative.guarded, "presteps": self.presteps,
        }  # fmt: skip

    def make(self, theta: Tensor) -> IF:
        """A layer of such neurons with threshold θ."""
        return IF(theta, self)

    @classmethod
    def named(cls, name: str, *, presteps: int = 4, initial_potential: float = 0.5) -> NeuronSpec:
        """The neuron with one of the names in `NEURONS`.

        Raises:
            KeyError: `name` is none of them.
        """
        if name not in NEURONS:
            raise KeyError(name)
        spec = cls(initial_potential=initial_potential)
        parts = name.split("+")
        if "srp" in parts:
            spec = replace(spec, presteps=presteps)
        return replace(spec, negative=NEGATIVE.get(parts[-1]))


class IF(nn.Module):
    """A spiking neuron layer: IF, signed IF or SRP by its `spec`; its output is θ·s(t), in the unit of x.

    Args:
        threshold: θ, a number or a tensor broadcastable to (sample, *neuron); positive.
        spec: the kind of neuron; the default is the plain soft-reset IF with v(0) = θ/2.
        timesteps: None for stepwise use, else T for merged use (SRP: the T steps after the τ of its spec).

    Attributes:
        potential: v(t) after the latest stepwise call, which the next one overwrites; None after `reset`.
        silenced: SRP's mask once τ steps have passed, else None.
    """

    threshold: Tensor
    potential: Tensor | None
    count: Tensor | None
    silenced: Tensor | None

    def __init__(
        self, threshold: Tensor | float, spec: NeuronSpec | None = None, *, timesteps: int | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.as_tensor(threshold, dtype=torch.float32).detach().clone())
        self.spec = spec or NeuronSpec()
        self.timesteps = timesteps
        self.reset()

    def reset(self) -> None:
        """Forget the sample: the next stepwise call is t = 1 (or the first pre-simulation step)."""
        self.potential = self.count = self.silenced = None
        self.calls = 0

    @property
    def initial_potential(self) -> Tensor:
        """v(0) in the unit of x, broadcastable to (sample, *neuron)."""
        return self.spec.initial_potential * self.threshold

    def forward(self, x: Tensor) -> Tensor:
        """θ·s: of one timestep, (sample, *neuron), or merged, (T * sample, *neuron)."""
        if self.timesteps is None:
            return self._step(x)
        self.reset()
        steps = x.reshape(self.spec.presteps + self.timesteps, -1, *x.shape[1:])
        merged = torch.cat([self._step(step) for step in steps])
        self.reset()
        return merged

    def _step(self, x: Tensor) -> Tensor:
        # As `if_step` and `signed_if_step`, but in place: memory traffic is all that a neuron costs.
        charged = self.initial_potential + x if self.potential is None else self.potential.add_(x)
        if self.spec.negative is None:
            spike = fired(charged, self.threshold)
        else:
            count = torch.zeros_like(x) if self.count is None else self.count
            spike = fired_signed(charged, count, self.threshold, self.spec.negative)
            self.count = count.add_(spike)
        output = spike.mul_(self.threshold)
        self.potential = charged.sub_(output)
        self.calls += 1
        if self.silenced is not None:
            output.masked_fill_(self.silenced, 0)
        elif self.spec.presteps and self.calls == self.spec.presteps:
            self.silenced = silenced_by_srp(self.potential, self.threshold)
            self.potential = self.count = None
        return output

    def extra_repr(self) -> str:
        """For `print(network)`."""
        return f"spec={self.spec}, timesteps={self.timesteps}"


def replace_modules(network: nn.Module, old: dict[str, nn.Module]) -> None:
    """Put each module of `old` (dotted path -> module) into `network` in place of the one that stands there."""
    for path, module in old.items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, module)
