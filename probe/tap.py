"""What sits on one layer while the networks run: hooks that reduce or hand on what they see, and the free oracles.

Inputs are read before the module can change them; outputs are reduced or written inside the hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.attribution import LEVEL_TOLERANCE, near_tie
from probe.errors import ProbeError
from probe.families import LayerPair
from probe.recording.schema import Batch, LayerInfo, holds
from probe.spikes import pack
from probe.tally import LayerTally

LAW_TOLERANCE = 1e-3
"""How far v(T) may be from the conservation law, in units of θ, beside what rounding Σx in float32 explains."""
INPUT_TOLERANCE = 1e-4
"""How far a first layer's ANN and SNN inputs may differ, in units of θ: rounding, nothing more."""


class Sink(Protocol):
    """Takes what the run captures; the HDF5 writer is one."""

    def append(self, layer: int | None, batch: Batch) -> None:
        """Take a piece of an array of a layer, or of the network itself for None."""


@dataclass
class Oracle:
    """A first layer fed the same input at every t: any unevenness there is a fault of the recording.

    Attributes:
        applies: the layer is such a layer.
        violations: neurons that err although they cannot, ties apart.
        ties: neurons within 1e-4·θ of a grid edge, which rounding may flip.
        input_difference: largest difference of its ANN and SNN inputs, in units of θ.
    """

    applies: bool = False
    violations: int = 0
    ties: int = 0
    input_difference: float = 0.0

    @property
    def broken(self) -> bool:
        """The recording cannot be right."""
        return self.applies and (self.violations > 0 or self.input_difference > INPUT_TOLERANCE)


def numpy_of(tensor: Tensor) -> npt.NDArray[Any]:
    """The tensor's values, without a copy where it lies in this machine's memory in logical order."""
    array: npt.NDArray[Any] = tensor.detach().contiguous().cpu().numpy()
    return array


@dataclass
class Tap:
    """What sits on one layer: reduces or hands on what the hooks see; `oracle` and `law` gather verdicts."""

    pair: LayerPair
    info: LayerInfo
    tally: LayerTally
    sink: Sink
    record: str
    timesteps: int
    clone_input: bool
    oracle: Oracle
    law: float | None = None
    """Largest |v by the conservation law - v that the module shows|, in units of θ; None if it shows none."""
    beyond_rounding: float = 0.0
    """The same, less what rounding explains."""
    timestep: int = 0
    """t of the SNN's forward in progress; 0 or less in the pre-steps."""
    seen: int = 0
    """The latest t at which the layer was called in this batch."""
    first: int = 0
    _level: Tensor = field(init=False, repr=False)
    _ann_input: Tensor | None = field(default=None, repr=False)
    _constant: Tensor | None = field(default=None, repr=False)
    _input: Tensor | None = field(default=None, repr=False)

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Put the hooks on; inputs are read before the module can change them."""
        yield self.pair.ann.register_forward_pre_hook(self._before_ann)
        yield self.pair.ann.register_forward_hook(self._after_ann)
        yield self.pair.snn.register_forward_pre_hook(self._before_snn)
        yield self.pair.snn.register_forward_hook(self._after_snn)

    def _send(self, name: str, values: npt.NDArray[Any], timestep: int | None = None) -> None:
        self.sink.append(self.info.index, Batch(name, self.first, values, timestep))

    def _holds(self, name: str) -> bool:
        return holds(self.record, name)

    def _threshold(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.pair.threshold).to(like.device)

    def _before_ann(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._holds("ann_input"):
            self._send("ann_input", numpy_of(args[0]))
        if self.oracle.applies:
            self._ann_input = args[0].clone()

    def _after_ann(self, _module: nn.Module, _args: tuple[Tensor, ...], a: Tensor) -> None:
        levels = self.info.levels
        assert levels is not None
        threshold = self._threshold(a)
        scaled = a * (levels / threshold)
        level = scaled.round()
        worst = float(scaled.sub_(level).abs_().max())
        if not worst <= LEVEL_TOLERANCE or not 0 <= float(level.min()) <= float(level.max()) <= levels:
            self._refuse_levels(a, worst)
        self._level = level
        if not self._holds("ann_output"):
            return
        if not torch.equal(threshold * level / levels, a):
            raise ProbeError(
                f"layer {self.info.name}: ANN outputs are not θ·k/L bit by bit", expected="a QCFS activation in float32"
            )
        self._send("ann_output", numpy_of(level.to(torch.uint8)))

    def _refuse_levels(self, a: Tensor, worst: float) -> None:
        where = f"layer {self.info.index} ({self.info.name})"
        if not bool(torch.isfinite(a).all()):
            raise ProbeError(
                f"{where} gives NaN or infinity in the ANN",
                expected="finite activations",
                next_step="check the checkpoint and the data's normalisation",
            )
        raise ProbeError(
            f"{where}: a·L/θ is up to {worst:.3g} away from a whole number",
            expected=f"QCFS outputs with L = {self.info.levels} and the layer's θ",
            next_step="check --levels and the threshold",
        )

    def _before_snn(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._input = args[0].clone() if self.clone_input else args[0]

    def _after_snn(self, _module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> None:
        t, x = self.timestep, self._input
        self._input = None
        if t < 1:
            return
        assert x is not None
        self._expect_one_call(t)
        if self.info.constant_input:
            self._expect_constant(t, x)
        if t == 1:
            silenced = self.pair.silenced()
            self.tally.begin(self.first, self._level, silenced)
            if silenced is not None and self._holds("silenced"):
                self._send("silenced", pack(numpy_of(silenced.expand(output.shape)).reshape(len(output), -1)))
            if self.oracle.applies and self._ann_input is not None:
                self._compare_inputs(x)
        try:
            self.tally.step(t, x, output)
        except FloatingPointError:
            raise self._not_finite() from None
        if self._holds("snn_spikes"):
            if self.info.signed:
                spikes = (output / self._threshold(output)).round_().to(torch.int8)
                self._send("snn_spikes", numpy_of(spikes), t)
            else:
                self._send("snn_spikes", pack(numpy_of(output > 0).reshape(len(output), -1)), t)
        if self._holds("snn_input") and (t == 1 or not self.info.constant_input):
            self._send("snn_input", numpy_of(x), t)

    def _expect_one_call(self, t: int) -> None:
        if t != self.seen + 1:
            what = "is called again" if t == self.seen else f"was last called at t = {self.seen}"
            raise ProbeError(
                f"layer {self.info.index} ({self.info.name}) {what} at t = {t} of the SNN",
                expected="one call a timestep, whatever the batch",
                next_step="give each use a module of its own",
            )
        self.seen = t

    def _expect_constant(self, t: int, x: Tensor) -> None:
        """The survey saw the same input at every t, so only one is kept: that must hold for every sample."""
        if t == 1:
            self._constant = x.clone()
        elif self._constant is None or not torch.equal(self._constant, x):
            raise ProbeError(
                f"layer {self.info.index} ({self.info.name}): the input changes at t = {t}, though not for one sample",
                expected="an input that is the same at every t, or never is",
            )

    @property
    def law_broken(self) -> bool:
        """The neuron is no soft-reset IF with the θ and v(0) that it is said to have."""
        return self.beyond_rounding > LAW_TOLERANCE

    def _not_finite(self) -> ProbeError:
        return ProbeError(
            f"layer {self.info.index} ({self.info.name}) is fed NaN or infinity in the SNN",
            expected="finite inputs",
            next_step="check the checkpoint and the data's normalisation",
        )

    def _compare_inputs(self, x: Tensor) -> None:
        assert self._ann_input is not None
        difference = float(((self._ann_input - x).abs() / self._threshold(x)).max())
        self.oracle.input_difference = max(self.oracle.input_difference, difference)
        self._ann_input = None

    def end(self) -> None:
        """Close the batch: counts and sums, the law and the oracle."""
        if self.seen != self.timesteps:
            raise ProbeError(
                f"layer {self.info.index} ({self.info.name}) was called {self.seen} times by the SNN",
                expected=f"once at each of {self.timesteps} timesteps",
            )
        total = self.tally.input_sum
        # The sum shows NaN and infinity in a fortieth of the time; it could itself overflow, so a look follows.
        if not bool(torch.isfinite(total.sum())) and not bool(torch.isfinite(total).all()):
            raise self._not_finite()
        n = self.tally.end()
        shape = (len(n), *self.info.shape)
        if self._holds("spike_count"):
            stored = self.info.arrays(self.record, self.timesteps)["spike_count"]
            self._send("spike_count", numpy_of(n).astype(stored.dtype).reshape(shape))
            self._send("input_sum", numpy_of(total).reshape(shape))
        self._check_law(n.view(shape), total.view(shape))
        if self.oracle.applies:
            self._consult_oracle(n.view(shape), total.view(shape))

    def _check_law(self, n: Tensor, total: Tensor) -> None:
        shown = self.pair.potential()
        if shown is None:
            return
        threshold = self._threshold(total)
        difference = (shown - total).div_(threshold).add_(n).sub_(self.info.initial_fraction).abs_()
        silenced = self.pair.silenced()
        if silenced is not None:
            difference = difference.masked_fill_(silenced, 0)
        self.law = max(self.law or 0.0, float(difference.max()))
        # A sum of T float32 numbers is off by up to T·2⁻²⁴ of itself, and so is the neuron's own potential.
        beyond = difference.sub_(total.div(threshold).abs_().add_(2), alpha=self.timesteps * 2.0**-23)
        self.beyond_rounding = max(self.beyond_rounding, float(beyond.max()))

    def _consult_oracle(self, n: Tensor, total: Tensor) -> None:
        coding = self.info.coding(self.timesteps, self.timesteps)
        assert coding is not None
        scale = torch.from_numpy(np.asarray(coding.scale(self.pair.threshold))).to(total.device)
        # As in Coding.decode, in floats: whole numbers this small have exact quotients' floors.
        fine = (total * scale).clamp_(*coding.limits).floor_()
        n_even = fine.add_(coding.start).div_(coding.resolution).floor_()
        wrong = n_even.clamp_(-self.timesteps if coding.unguarded else 0, self.timesteps) != n
        if self.info.levels == self.timesteps and self.info.initial_fraction == 0.5:
            wrong |= n != self._level.view(n.shape)
        silenced = self.pair.silenced()
        if silenced is not None:
            wrong &= ~silenced
        threshold = self._threshold(total).expand(total.shape)
        tie = near_tie(numpy_of(total[wrong]), numpy_of(threshold[wrong]), self.info.initial_fraction, self.timesteps)
        self.oracle.ties += int(tie.sum())
        self.oracle.violations += int((~tie).sum())
