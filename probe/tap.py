"""What sits on one layer while the networks run: hooks that reduce or hand on what they see, and the free oracles.

Inputs are read before the module can change them; outputs are reduced or written inside the hook.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.attribution import LEVEL_TOLERANCE, AnalogCoding, near_tie
from probe.errors import ProbeError
from probe.families import LayerPair, time_first
from probe.recording.schema import Batch, LayerInfo, holds
from probe.spikes import pack
from probe.tally import Number, Tally, TooManySpikes, devices, find_levels

MOST_SPIKES = 127
"""A graded neuron's spikes in one timestep, which a recording keeps as int8."""
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


@dataclass(frozen=True)
class Look:
    """Numbers on an accelerator, and who is to see them.

    Attributes:
        in_snn, timestep: when they were made.
        judge: raises what is wrong.
    """

    in_snn: bool
    timestep: int
    judge: Callable[..., None]
    values: tuple[Number, ...]


def settle(taps: Sequence[Tap]) -> None:
    """Look at everything that the hooks left on an accelerator: first the ANN's, then by t, then by layer; one copy.

    Args:
        taps: in the order of their layers.

    Raises:
        ProbeError: the first of these that tells of something wrong.
    """
    looks = sorted((look for tap in taps for look in tap.take_looks()), key=lambda look: (look.in_snn, look.timestep))
    if not looks:
        return
    given = [value for look in looks for value in look.values]
    device = next(value.device for value in given if isinstance(value, Tensor))
    every = [torch.as_tensor(value, device=device).to(torch.float64) for value in given]
    numbers = iter(torch.stack(every).tolist())
    for look in looks:
        look.judge(*(next(numbers) for _ in look.values))


def _given(value: Tensor | None) -> Tensor | None:
    return value


@dataclass
class Tap:
    """What sits on one layer: reduces or hands on what the hooks see; `oracle` and `law` gather verdicts."""

    pair: LayerPair
    info: LayerInfo
    tally: Tally
    sink: Sink
    record: str
    timesteps: int
    clone_input: bool
    oracle: Oracle
    law: float | None = None
    """Largest |v by the conservation law - v that the module shows|, in units of θ; None if it shows none."""
    beyond_rounding: float = 0.0
    """The same, less what rounding explains."""
    network: str = ""
    """Which one is running, `ann` or `snn`: one module may be both."""
    timestep: int | None = None
    """t of the SNN's forward in progress, 0 or less in the pre-steps; None where the network itself runs through it."""
    seen: int = 0
    """Calls by the SNN in this batch."""
    first: int = 0
    samples: int = 0
    _values: Tensor | None = field(default=None, repr=False)
    """k of a QCFS layer, a of a ReLU, until the batch ends."""
    _ann_input: Tensor | None = field(default=None, repr=False)
    _constant: Tensor | None = field(default=None, repr=False)
    _input: Tensor | None = field(default=None, repr=False)
    _moment: int = 0
    """t of the latest timestep."""
    _looks: list[Look] = field(default_factory=list, repr=False)
    """What is still to be looked at in this batch."""

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """Put the hooks on; inputs are read before the module can change them."""
        if self.pair.ann is not None:
            yield self.pair.ann.register_forward_pre_hook(self._before_ann)
            yield self.pair.ann.register_forward_hook(self._after_ann)
        yield (self.pair.entry or self.pair.snn).register_forward_pre_hook(self._before_snn)
        yield self.pair.snn.register_forward_hook(self._after_snn)

    def begin(self, first: int, samples: int) -> None:
        """Start a batch of so many samples; `first` is the recording's index of its first."""
        self.first, self.samples, self.seen = first, samples, 0
        self._values = None
        self._moment = 0
        self._looks.clear()

    def take_looks(self) -> list[Look]:
        """What is still to be looked at, once."""
        looks, self._looks = self._looks, []
        return looks

    def _send(self, name: str, values: npt.NDArray[Any], timestep: int | None = None) -> None:
        self.sink.append(self.info.index, Batch(name, self.first, values, timestep))

    def _holds(self, name: str) -> bool:
        return holds(self.record, name)

    @property
    def _where(self) -> str:
        return f"layer {self.info.index} ({self.info.name})"

    def _threshold(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.info.threshold).to(like.device)

    # ------------------------------------------------------------------------------------------------------- ANN

    def _before_ann(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.network != "ann":
            return
        if self._holds("ann_input"):
            self._send("ann_input", numpy_of(args[0].float()))
        if self.oracle.applies:
            self._ann_input = args[0].clone()

    def _after_ann(self, _module: nn.Module, _args: tuple[Tensor, ...], a: Tensor) -> None:
        if self.network != "ann":
            return
        if self.info.levels is None:
            self._note_analog(a.float())
        else:
            self._note_levels(a.float(), self.info.levels)

    def _note_analog(self, a: Tensor) -> None:
        # The sum shows NaN and infinity in a fraction of the time; it could itself overflow, so a look follows.
        # Something may work on it in place before the SNN runs.
        self._values = kept = a.clone()
        self._look(lambda total: self._expect_finite(total, kept, self._ann_not_finite), a.sum())
        self._look(self._expect_activation, a.min())
        if self._holds("ann_output"):
            self._send("ann_output", numpy_of(a))

    def _expect_activation(self, lowest: float) -> None:
        if lowest < 0:
            raise ProbeError(
                f"{self._where}: the ANN's outputs go down to {lowest:.3g}",
                expected="a ReLU or a QCFS activation",
                fault="no-activation",
                layer=self.info.name,
            )

    @staticmethod
    def _expect_finite(total: float, values: Tensor, error: Callable[[], ProbeError]) -> None:
        if not math.isfinite(total) and not bool(torch.isfinite(values).all()):
            raise error()

    def _note_levels(self, a: Tensor, levels: int) -> None:
        level, *verdict = find_levels(a, self.info.threshold, levels)
        self._look(self._expect_levels, *verdict)
        self._values = level
        if not self._holds("ann_output"):
            return
        if not self.info.encodes:
            self._send("ann_output", numpy_of(a))
            return
        same = (self.info.decoded(level.to(torch.float32), self._threshold(a)) == a).all()
        self._look(self._expect_encoded, same)
        self._send("ann_output", numpy_of(level))

    def _expect_encoded(self, same: float) -> None:
        if not same:
            raise ProbeError(
                f"layer {self.info.name}: ANN outputs are not θ·k/L bit by bit",
                expected="a QCFS activation in float32",
                fault="levels-differ",
                layer=self.info.name,
            )

    def _expect_levels(self, worst: float, outside: float) -> None:
        if worst <= LEVEL_TOLERANCE and not outside:
            return
        # The distance of NaN and of infinity from a whole number is NaN.
        if math.isnan(worst):
            raise self._ann_not_finite()
        raise ProbeError(
            f"{self._where}: a·L/θ is up to {worst:.3g} away from a whole number",
            expected=f"QCFS outputs with L = {self.info.levels} and the layer's θ",
            next_step="check --levels and the threshold",
            fault="levels-differ",
            layer=self.info.name,
        )

    def _ann_not_finite(self) -> ProbeError:
        return ProbeError(
            f"{self._where} gives NaN or infinity in the ANN",
            expected="finite activations",
            next_step="check the checkpoint and the data's normalisation",
            fault="not-finite",
            layer=self.info.name,
        )

    # ------------------------------------------------------------------------------------------------------- SNN

    def _before_snn(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.network == "snn":
            self._input = args[0].clone() if self.clone_input else args[0]

    def _after_snn(self, _module: nn.Module, _args: tuple[Tensor, ...], result: Tensor | tuple[Tensor, ...]) -> None:
        if self.network != "snn":
            return
        x, output = self._input, result[0] if isinstance(result, tuple) else result
        self._input = None
        assert x is not None
        if self.info.layout == "step":
            self.seen += 1
            t = self.seen - self.pair.traits.presteps
            self._expect_one_call(t)
            if t >= 1:
                self._at(t, x.float(), output.float(), self.pair.potential)
            return
        if self.seen:
            raise self._called_again()
        self.seen = self.timesteps
        inputs = time_first(x, self.info.layout, self.timesteps, self.samples, fed=True)
        outputs = time_first(output, self.info.layout, self.timesteps, self.samples)
        kept = self.pair.potentials() if self._keeps_potential else None
        for t in range(1, self.timesteps + 1):
            v = None if kept is None else kept[t - 1]
            self._at(t, inputs[t - 1].float(), outputs[t - 1].float(), partial(_given, v))

    def _expect_one_call(self, t: int) -> None:
        if t > self.timesteps or (self.timestep is not None and t != self.timestep):
            raise self._called_again()

    def _called_again(self) -> ProbeError:
        by = f"at t = {self.timestep}" if self.timestep is not None else "before the run is over"
        return ProbeError(
            f"{self._where} has been called {self.seen} times by the SNN {by}",
            expected="one call a timestep, whatever the batch",
            next_step="give each use a module of its own",
            fault="called-twice",
            layer=self.info.name,
        )

    @property
    def _keeps_potential(self) -> bool:
        return self.info.keeps_potential and self._holds("membrane_potential")

    def _at(self, t: int, x: Tensor, output: Tensor, potential: Callable[[], Tensor | None]) -> None:
        """Timestep t of the SNN: the layer's input and output, (sample, *neuron)."""
        self._moment = t
        if self.info.constant_input:
            self._expect_constant(t, x)
        if t == 1:
            self._begin_tally(x, output)
        try:
            self.tally.step(t, x, output)
        except FloatingPointError:
            raise self._not_finite() from None
        except TooManySpikes:
            raise self._too_many_spikes(t) from None
        if self._holds("snn_spikes"):
            self._send_spikes(t, output)
        if self._holds("snn_input") and (t == 1 or not self.info.constant_input):
            self._send("snn_input", numpy_of(x), t)
        if self._keeps_potential and (v := potential()) is not None:
            self._send("membrane_potential", numpy_of(v.float()), t)

    def _too_many_spikes(self, t: int) -> ProbeError:
        return ProbeError(
            f"{self._where} has neurons with more than {t} spikes in {t} timesteps",
            expected="neurons that fire as their traits say: at most one spike a timestep",
            next_step="check its threshold, or set graded in its traits",
            fault="several-spikes",
            layer=self.info.name,
        )

    def _expect_possible(self, t: float) -> None:
        """`t` is the first timestep at which there were too many spikes, or 0; -1 where they are no numbers."""
        if t < 0:
            raise self._not_finite()
        if t:
            raise self._too_many_spikes(int(t))

    def _begin_tally(self, x: Tensor, output: Tensor) -> None:
        silenced = self.pair.silenced()
        if self._values is not None and self._values.shape != output.shape:
            raise ProbeError(
                f"{self._where} has shape {tuple(self._values.shape)} in the ANN and {tuple(output.shape)} in the SNN",
                expected="equal shapes",
                next_step="pass --pair ANN.NAME=SNN.NAME",
                fault="shapes-differ",
                layer=self.info.name,
            )
        self.tally.begin(self.first, output if self._values is None else self._values, silenced)
        if silenced is not None and self._holds("silenced"):
            self._send("silenced", pack(numpy_of(silenced.expand(output.shape)).reshape(len(output), -1)))
        if self.oracle.applies and self._ann_input is not None:
            self._compare_inputs(x)

    def _send_spikes(self, t: int, output: Tensor) -> None:
        if not self.info.wide:
            self._send("snn_spikes", pack(numpy_of(output > 0).reshape(len(output), -1)), t)
            return
        spikes = (output / torch.from_numpy(self.info.height).to(output.device)).round_()
        self._look(self._expect_few_spikes, spikes.max())
        self._send("snn_spikes", numpy_of(spikes.to(torch.int8)), t)

    def _expect_few_spikes(self, most: float) -> None:
        if most > MOST_SPIKES:
            raise ProbeError(
                f"{self._where} fires {int(most)} spikes in one timestep",
                expected=f"at most {MOST_SPIKES}",
                next_step="raise its threshold, or use --record counts",
                fault="several-spikes",
                layer=self.info.name,
            )

    def _expect_constant(self, t: int, x: Tensor) -> None:
        """The survey saw the same input at every t, so only one is kept: that must hold for every sample."""
        if t == 1 or self._constant is None:
            self._constant = x.clone()
        elif devices.at_hand(x.device):
            self._expect_same(t, torch.equal(self._constant, x))
        else:
            self._look(partial(self._expect_same, t), (self._constant == x).all())

    def _expect_same(self, t: int, same: float) -> None:
        if not same:
            raise ProbeError(
                f"{self._where}: the input changes at t = {t}, though not for one sample",
                expected="an input that is the same at every t, or never is",
                fault="input-changes",
                layer=self.info.name,
            )

    @property
    def law_broken(self) -> bool:
        """The neuron is no soft-reset IF with the θ and v(0) that it is said to have."""
        return self.beyond_rounding > LAW_TOLERANCE

    def _not_finite(self) -> ProbeError:
        return ProbeError(
            f"{self._where} is fed NaN or infinity in the SNN",
            expected="finite inputs",
            next_step="check the checkpoint and the data's normalisation",
            fault="not-finite",
            layer=self.info.name,
        )

    def _compare_inputs(self, x: Tensor) -> None:
        assert self._ann_input is not None
        self._look(self._note_difference, ((self._ann_input - x).abs() / self._threshold(x)).max())
        self._ann_input = None

    def _note_difference(self, difference: float) -> None:
        self.oracle.input_difference = max(self.oracle.input_difference, difference)

    # ------------------------------------------------------------------------------------------ what is looked at

    def _look(self, judge: Callable[..., None], *values: Number) -> None:
        """Let `judge` see some numbers: at once, or at the end of the batch, for an accelerator is not waited for."""
        if any(isinstance(value, Tensor) and not devices.at_hand(value.device) for value in values):
            self._looks.append(Look(self.network == "snn", self._moment, judge, values))
        else:
            judge(*map(float, values))

    # ------------------------------------------------------------------------------------------------- the batch

    def end(self) -> None:
        """Close the batch: counts and sums, the law and the oracle."""
        wanted = self.timesteps + (self.pair.traits.presteps if self.info.layout == "step" else 0)
        if self.seen != wanted:
            raise ProbeError(
                f"{self._where} was called {self.seen} times by the SNN",
                expected=f"once at each of {wanted} timesteps",
                fault="called-twice" if self.seen > wanted else "never-called",
                layer=self.info.name,
            )
        total = self.tally.input_sum
        # The sum shows NaN and infinity in a fortieth of the time; it could itself overflow, so a look follows.
        self._look(lambda of_all: self._expect_finite(of_all, total, self._not_finite), total.sum())
        if (fault := self.tally.fault()) is not None:
            self._look(self._expect_possible, fault)
        shape = (len(total), *self.info.shape)
        if self._holds("spike_count"):
            stored = self.info.arrays(self.record, self.timesteps)["spike_count"]
            self._send("spike_count", numpy_of(self.tally.spike_count()).astype(stored.dtype).reshape(shape))
            # The tally overwrites its own in the next batch.
            self._send("input_sum", numpy_of(total).reshape(shape).copy())
        if self.pair.traits.lawful:
            self._check_law(shape)
        if self.oracle.applies:
            self._consult_oracle(self.tally.spike_count().view(shape), total.view(shape))
        settle([self])
        try:
            self.tally.end()
        except FloatingPointError:
            raise self._not_finite() from None

    def _check_law(self, shape: tuple[int, ...]) -> None:
        shown = self.pair.potential()
        if shown is None:
            return
        # A sum of T float32 numbers is off by up to T·2⁻²⁴ of itself, and so is the neuron's own potential.
        slack = self.timesteps * 2.0**-23
        of_all = shown.float().expand(shape)
        self._look(
            self._note_law, *self.tally.departure(of_all, self.pair.silenced(), self.info.initial_fraction, slack)
        )

    def _note_law(self, law: float, beyond: float) -> None:
        self.law = max(self.law or 0.0, law)
        self.beyond_rounding = max(self.beyond_rounding, beyond)

    def _consult_oracle(self, n: Tensor, total: Tensor) -> None:
        wrong = self._n_even(total) != n
        if self.info.levels == self.timesteps and self.info.initial_fraction == 0.5:
            assert self._values is not None
            wrong |= n != self._values.view(n.shape)
        silenced = self.pair.silenced()
        if silenced is not None:
            wrong &= ~silenced
        self._look(lambda number: self._tell_ties(wrong, total) if number else None, wrong.sum())

    def _tell_ties(self, wrong: Tensor, total: Tensor) -> None:
        threshold = self._threshold(total).expand(total.shape)
        tie = near_tie(numpy_of(total[wrong]), numpy_of(threshold[wrong]), self.info.initial_fraction, self.timesteps)
        self.oracle.ties += int(tie.sum())
        self.oracle.violations += int((~tie).sum())

    def _n_even(self, total: Tensor) -> Tensor:
        """The counts that the same input, spread evenly, would give."""
        coding = self.info.coding(self.timesteps, self.timesteps)
        assert coding is not None
        if isinstance(coding, AnalogCoding):
            even: Tensor = coding.even(torch, total.double() / self._threshold(total))
            return even
        scale = torch.from_numpy(np.asarray(coding.scale(self.info.threshold))).to(total.device)
        # As in Coding.decode, in floats: whole numbers this small have exact quotients' floors.
        fine = (total * scale).clamp_(*coding.limits).floor_()
        n_even = fine.add_(coding.start).div_(coding.resolution).floor_()
        return n_even.clamp_(-self.timesteps if coding.unguarded else 0, self.timesteps)
