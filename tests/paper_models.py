"""The networks of papers' code as their modules look from outside: the same attributes, layouts, calls and habits.

Written anew from what those modules do, so that recognising them by shape is tested without their code. All
carry the weights of `zoo:digits`, whose thresholds are trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from probe import zoo
from probe.neurons import QCFS


def digits() -> nn.Module:
    """The bundled ANN."""
    return zoo.load("digits")


def swapped(make: Callable[[QCFS], nn.Module], network: nn.Module | None = None) -> nn.Module:
    """A copy of the bundled ANN with other modules in place of its activations."""
    network = copy.deepcopy(network or digits())
    for name, module in list(network.named_modules()):
        if isinstance(module, QCFS):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, make(module))
    return network


# --------------------------------------------------------------------------------------- QCFS, merged time


class ExpandTemporalDim(nn.Module):
    """[T·B, ...] to [T, B, ...]."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return x.view(self.T, len(x) // self.T, *x.shape[1:])


class MergeTemporalDim(nn.Module):
    """[T, B, ...] to [T·B, ...]."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).contiguous()


class MergedIF(nn.Module):
    """QCFS at T = 0, soft-reset IF over merged time at T > 0; the potential is a local variable."""

    def __init__(self, L: int = 8, thresh: float = 8.0) -> None:
        super().__init__()
        self.thresh = nn.Parameter(torch.tensor([thresh]))
        self.L, self.T, self.gama = L, 0, 1.0
        self.expand, self.merge = ExpandTemporalDim(0), MergeTemporalDim(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.T == 0:
            level = torch.floor(torch.clamp(x / self.thresh, 0, 1) * self.L + 0.5)
            return level / self.L * self.thresh
        theta, steps = self.thresh.data, self.expand(x)
        v, spikes = 0.5 * theta, []
        for t in range(self.T):
            v = v + steps[t]
            spike = (v - theta >= 0).float() * theta
            v = v - spike
            spikes.append(spike)
        return self.merge(torch.stack(spikes))


class MergedNetwork(nn.Module):
    """A network with a mode switch; as an SNN it changes its input in place and gives [T, B, class]."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.T = 0
        self.merge, self.expand = MergeTemporalDim(0), ExpandTemporalDim(0)
        self.body = body

    def set_T(self, T: int) -> None:
        self.T = T
        for module in self.modules():
            if isinstance(module, MergedIF | ExpandTemporalDim):
                module.T = T

    def set_L(self, L: int) -> None:
        for module in self.modules():
            if isinstance(module, MergedIF):
                module.L = L

    def forward(self, x: Tensor) -> Tensor:
        if self.T > 0:
            x.unsqueeze_(1)
            x = self.merge(x.repeat(self.T, 1, 1, 1, 1))
        out: Tensor = self.body(x)
        return self.expand(out) if self.T > 0 else out


def merged() -> MergedNetwork:
    """QCFS with merged time."""
    return MergedNetwork(swapped(lambda q: MergedIF(q.levels, q.threshold.item()))).eval()


# ------------------------------------------------------------------------------- QCFS, SRP, COS, stepwise


class MyFloor(nn.Module):
    """The ANN's activation: floor, then clamp; `up` is θ and `t` is L."""

    def __init__(self, up: float = 4.0, t: int = 32) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.tensor([up]))
        self.t = t

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.floor(x / self.up * self.t + 0.5) / self.t, 0, 1) * self.up


class ScaledNeuron(nn.Module):
    """The inner neuron is primed with 0.5 in an extra call."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.t = scale, 0
        self.neuron = neuron.IFNode(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        x = x / self.scale
        if self.t == 0:
            self.neuron(torch.full_like(x, 0.5))
        self.t += 1
        return self.neuron(x) * self.scale

    def reset(self) -> None:
        self.t = 0
        self.neuron.reset()


class IFNeuron(nn.Module):
    """SRP's neuron where there is no pre-simulation: as above, without a `reset`."""

    def __init__(self, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.v_threshold, self.t = v_threshold, 0
        self.neuron = neuron.IFNode(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        x = x / self.v_threshold
        if self.t == 0:
            self.neuron(torch.full_like(x, 0.5))
        self.t += 1
        return self.neuron(x) * self.v_threshold


class ShiftNeuron(nn.Module):
    """v(0) is a number that was learned as the mean residue."""

    def __init__(self, scale: float = 1.0, vt: float = 0.25) -> None:
        super().__init__()
        self.scale, self.vt, self.alpha = scale, vt, 1 / 50_000
        self.neuron = neuron.IFNode(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x / self.scale) * self.scale

    def reset(self) -> None:
        self.neuron.reset()
        self.neuron.v = self.vt


class SrpLayer(nn.Module):
    """τ pre-simulation steps in the same calls, then a mask, then T steps; it resets itself and has no `reset`."""

    def __init__(self, v_threshold: float, presim_len: int, sim_len: int) -> None:
        super().__init__()
        self.neuron = neuron.IFNode(v_reset=None)
        self.v_threshold, self.presim_len, self.sim_len = v_threshold, presim_len, sim_len
        self.t, self.membrane_lower = 0, None

    def _prime(self, x: Tensor) -> None:
        self.neuron.reset()
        self.neuron(torch.full_like(x, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        if self.t == 0:
            self._prime(x)
        output = self.neuron(x / self.v_threshold)
        self.t += 1
        if self.t == self.presim_len:
            self.membrane_lower = (self.neuron.v > 1e-3).float()
            self._prime(x)
        elif self.t > self.presim_len:
            output = output * self.membrane_lower
        if self.t == self.presim_len + self.sim_len:
            self.t = 0
        return output * self.v_threshold


class CosLayer(nn.Module):
    """One call gives all steps; v(0) is shifted by a spike where a pre-simulation ended out of [0, θ)."""

    def __init__(self, v_threshold: float, presim_len: int, sim_len: int, batchsize: int) -> None:
        super().__init__()
        self.neuron = neuron.IFNode(v_reset=None)
        self.v_threshold, self.presim_len, self.sim_len, self.batchsize = v_threshold, presim_len, sim_len, batchsize
        self.snn_mode, self.arr2 = True, []
        self.act = MyFloor(v_threshold, presim_len)

    def forward(self, x: Tensor) -> Tensor:
        alone = x.dim() == 4 and len(x) <= self.batchsize
        steps = x.unsqueeze(0).repeat(self.sim_len, 1, 1, 1, 1) if alone else x.view(self.sim_len, -1, *x.shape[1:])
        self.neuron.reset()
        self.neuron(torch.full_like(steps[0], 0.5))
        fired, quiet, n = [], [], torch.zeros_like(steps[0])
        for step in steps[: self.presim_len]:
            spike = self.neuron(step / self.v_threshold)
            n = n + spike
            fired.append(torch.where(spike > 0, self.neuron.v + 1, 1000.0))
            quiet.append(torch.where(spike > 0, -1000.0, self.neuron.v))
        v, weakest, strongest = self.neuron.v, torch.stack(fired).amin(0), torch.stack(quiet).amax(0)
        fewer, more = 0.5 - (weakest - 0.999).clamp(min=1), 0.5 + (1.001 - strongest).clamp(min=1)
        start = torch.where(v >= 1, more, torch.where((v < 0) & (n > 0), fewer, 0.5))
        self.neuron.reset()
        self.neuron.v = start
        spikes = torch.cat([self.neuron(step / self.v_threshold) for step in steps])
        return spikes * self.v_threshold


def stepwise_ann(levels: int | None = None) -> nn.Module:
    """The ANN of the stepwise code, with the trained L or another."""
    return swapped(lambda q: MyFloor(q.threshold.item(), levels or q.levels)).eval()


def stepwise(levels: int | None = None) -> tuple[nn.Module, nn.Module]:
    """The stepwise pair."""
    return stepwise_ann(levels), swapped(lambda q: ScaledNeuron(q.threshold.item())).eval()


def unmasked() -> tuple[nn.Module, nn.Module]:
    """SRP's pair without pre-simulation."""
    return stepwise_ann(), swapped(lambda q: IFNeuron(q.threshold.item())).eval()


def shifted(vt: float = 0.25) -> tuple[nn.Module, nn.Module]:
    """A pair whose neurons start at vt."""
    return stepwise_ann(), swapped(lambda q: ShiftNeuron(q.threshold.item(), vt)).eval()


def srp(presim_len: int = 4, sim_len: int = 8) -> tuple[nn.Module, nn.Module]:
    """SRP's pair."""
    return stepwise_ann(), swapped(lambda q: SrpLayer(q.threshold.item(), presim_len, sim_len)).eval()


def cos(presim_len: int = 8, sim_len: int = 8, batchsize: int = 50) -> tuple[nn.Module, nn.Module]:
    """COS's pair."""
    return stepwise_ann(), swapped(lambda q: CosLayer(q.threshold.item(), presim_len, sim_len, batchsize)).eval()
