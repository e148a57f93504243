"""The aligned run: both networks on the same samples, hooks on every layer, everything handed to sinks at once.

What a hook sees is reduced or written inside the hook; only what must outlive it is copied. Hooks and modes are
undone however the run ends.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.attribution import LEVEL_TOLERANCE, near_tie
from probe.errors import ProbeError
from probe.families import LayerPair, Subject
from probe.recording.schema import Batch, LayerInfo, holds, per_sample_grid
from probe.spikes import pack
from probe.tally import LayerTally, Plan

Digests = npt.NDArray[np.uint64]
LAW_TOLERANCE = 1e-3
"""How far v(T) may be from the conservation law, in units of θ, beside what rounding Σx in float32 explains."""
INPUT_TOLERANCE = 1e-4
"""How far a first layer's ANN and SNN inputs may differ, in units of θ: rounding, nothing more."""


class Sink(Protocol):
    """Takes what the run captures; the HDF5 writer is one."""

    def append(self, layer: int | None, batch: Batch) -> None:
        """Take a piece of an array of a layer, or of the network itself for None."""


# ------------------------------------------------------------------------------------------------------ survey


@dataclass(frozen=True)
class Survey:
    """What one sample and two timesteps tell of a subject, before the run.

    Attributes:
        pairs: the subject's layers in execution order.
        infos: the same layers as a recording describes them.
        classes: length of the logits.
        rewrites: layers whose module changes its own input in place.
        calls: calls per layer in one forward of each network.
        trained: modules found in training mode.
    """

    pairs: tuple[LayerPair, ...]
    infos: tuple[LayerInfo, ...]
    classes: int
    rewrites: frozenset[str]
    calls: dict[str, tuple[int, int]]
    trained: tuple[str, ...]


@contextlib.contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode, and afterwards each module's own mode again."""
    found = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in found:
            module.training = training


def survey(subject: Subject, x: Tensor) -> Survey:
    """Run one sample to learn order, shapes and habits.

    Args:
        subject: the networks.
        x: one sample, shape (1, ...).

    Raises:
        ProbeError: a network cannot take the sample, or a layer is not called exactly once.
    """
    order: list[str] = []
    calls = {pair.name: [0, 0] for pair in subject.layers}
    inputs: dict[str, list[Tensor]] = {pair.name: [] for pair in subject.layers}
    outputs: dict[str, Tensor] = {}
    rewrites: set[str] = set()
    versions: dict[str, int] = {}

    def before(name: str, network: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            versions[name] = args[0]._version
            if network:
                inputs[name].append(args[0].clone())

        return hook

    def after(name: str, network: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name][network] += 1
            if args[0]._version != versions[name]:
                rewrites.add(name)
            if not network:
                order.append(name)
                outputs[name] = output

        return hook

    networks = (subject.ann, subject.snn)
    found = [name for network in networks for name, module in network.named_modules() if module.training]
    trained = tuple(dict.fromkeys(name or "the network itself" for name in found))
    # Version counters exist outside inference mode only.
    with torch.no_grad(), evaluating(subject.ann, subject.snn), contextlib.ExitStack() as stack:
        for pair in subject.layers:
            for network, module in enumerate((pair.ann, pair.snn)):
                stack.enter_context(_removed(module.register_forward_pre_hook(before(pair.name, network))))
                stack.enter_context(_removed(module.register_forward_hook(after(pair.name, network))))
        stack.callback(subject.reset)
        try:
            logits = subject.run_ann(x.clone())
            steps = sum(1 for _ in subject.run_snn(x.clone(), 2))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            shape = "x".join(map(str, x.shape[1:]))
            raise ProbeError(
                f"the model cannot run a sample of shape {shape}: {error}",
                expected="float32 data of the shape it was trained on",
                next_step="check --data and the model's dtype",
            ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"has shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"is a {type(logits).__name__}"
        raise ProbeError(f"the model's output {got}", expected="one tensor of logits (sample, class)")
    for name, (of_ann, of_snn) in calls.items():
        if not of_ann or not of_snn:
            raise ProbeError(
                f"layer {name} is never called by the {'SNN' if of_ann else 'ANN'}",
                expected="activations that take part in the forward",
                next_step="remove the module, or call it",
            )
        if of_ann != 1 or of_snn != steps:
            raise ProbeError(
                f"layer {name} is called {of_ann} times by the ANN and {of_snn} times in {steps} timesteps by the SNN",
                expected="once in each forward",
                next_step="give each use a module of its own",
            )
    by_name = {pair.name: pair for pair in subject.layers}
    pairs = tuple(by_name[name] for name in order)
    infos = tuple(
        LayerInfo(
            index=index,
            name=pair.name,
            module=type(pair.snn).__name__,
            neuron=pair.neuron,
            levels=pair.levels,
            shape=tuple(outputs[pair.name].shape[1:]),
            threshold=pair.threshold,
            initial_fraction=pair.initial_fraction,
            traits=subject.traits.plain(),
            constant_input=bool(torch.equal(inputs[pair.name][-1], inputs[pair.name][-2])) and index == 0,
            encodable=pair.levels is not None,
        )
        for index, pair in enumerate(pairs)
    )
    return Survey(
        pairs, infos, logits.shape[1], frozenset(rewrites), {n: (a, s) for n, (a, s) in calls.items()}, trained
    )


@contextlib.contextmanager
def _removed(handle: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


# --------------------------------------------------------------------------------------------------------- tap


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


# --------------------------------------------------------------------------------------------------------- run


def _note_fed(fed: list[int], _module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Hash what a network is fed, once a batch: at the SNN's first timestep."""
    if not fed:
        fed.extend(digest(sample) for sample in numpy_of(args[0]))


def digest(sample: npt.NDArray[Any]) -> int:
    """64 bits of the BLAKE2b hash of an array's bytes."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(sample).data, digest_size=8).digest(), "little")


def _is_leaf(module: nn.Module) -> bool:
    return not any(True for _ in module.children())


class Run:
    """Both networks over batches of samples, into a sink.

    Args:
        subject: the networks.
        surveyed: what `survey` found.
        recorded: the layers to record, of `surveyed.infos`.
        sink: takes the arrays.
        record: the preset that says which.
        timesteps: T.
        grid: the t of the statistics.
    """

    def __init__(
        self,
        subject: Subject,
        surveyed: Survey,
        recorded: Sequence[LayerInfo],
        sink: Sink,
        *,
        record: str,
        timesteps: int,
        grid: tuple[int, ...],
    ) -> None:
        self.subject, self.surveyed, self.sink, self.timesteps = subject, surveyed, sink, timesteps
        self._fed_ann: list[int] = []
        self._fed_snn: list[int] = []
        self.fed_differently = 0
        self.taps = []
        for info in recorded:
            pair = surveyed.pairs[info.index]
            codings = {t: coding for t in grid if (coding := info.coding(t, timesteps))}
            plan = Plan(codings, per_sample_grid(timesteps), timesteps, info.threshold)
            oracle = Oracle(applies=info.index == 0 and info.constant_input)
            clone = info.name in surveyed.rewrites
            self.taps.append(Tap(pair, info, LayerTally(plan), sink, record, timesteps, clone, oracle))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks and evaluation mode, undone on leaving."""
        with evaluating(self.subject.ann, self.subject.snn), contextlib.ExitStack() as stack:
            stack.callback(self.subject.reset)
            for network, fed in ((self.subject.ann, self._fed_ann), (self.subject.snn, self._fed_snn)):
                stack.callback(network.register_forward_pre_hook(partial(_note_fed, fed)).remove)
            for tap in self.taps:
                for handle in tap.hooks():
                    stack.callback(handle.remove)
            yield

    def digests(self) -> tuple[Digests, Digests]:
        """64-bit hashes of what the ANN and the SNN were fed in the latest batch, each (sample,)."""
        ann, snn = (np.array(fed, np.uint64) for fed in (self._fed_ann, self._fed_snn))
        self.fed_differently += int((ann != snn).sum())
        return ann, snn

    def batch(self, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Run one batch through both networks; inside `hooked`.

        Args:
            x: shape (sample, ...); each network gets a copy of its own.
            first: the recording's index of the first sample.

        Returns:
            Logits of the ANN (sample, class) and of the SNN at each t (sample, timestep, class).

        Raises:
            ProbeError: NaN or infinity, or activations that are not what the layer says.
        """
        for tap in self.taps:
            tap.first, tap.seen = first, 0
        self._fed_ann.clear()
        self._fed_snn.clear()
        steps: list[Tensor] = []
        with torch.inference_mode():
            ann = self.subject.run_ann(x.clone())
            # The hooks of the first forward must know that it is t = 1, or a pre-step.
            t = 1 - self.subject.traits.presteps
            self._set_timestep(t)
            for logits in self.subject.run_snn(x.clone(), self.timesteps):
                if logits is not None:
                    steps.append(logits)
                t += 1
                self._set_timestep(t)
            for tap in self.taps:
                tap.end()
            snn = torch.stack(steps, 1)
        for name, logits in (("ANN", ann), ("SNN", snn)):
            if not bool(torch.isfinite(logits).all()):
                raise ProbeError(
                    f"the {name} gives NaN or infinity as logits",
                    expected="finite outputs",
                    next_step="check the checkpoint and the data's normalisation",
                )
        return ann, snn

    def _set_timestep(self, timestep: int) -> None:
        for tap in self.taps:
            tap.timestep = timestep

    def broken(self) -> tuple[str, ...]:
        """A sentence for each oracle that this run breaks."""
        told = []
        if self.fed_differently:
            told.append(f"ANN and SNN were fed different numbers in {self.fed_differently} samples")
        for tap in self.taps:
            where, oracle = f"layer {tap.info.index} ({tap.info.name})", tap.oracle
            if oracle.broken:
                told.append(
                    f"{where} errs in {oracle.violations} neurons that cannot err, and its inputs differ by up to "
                    f"{oracle.input_difference:.2g} θ: fed the same input at every t it has no unevenness, so samples "
                    "are mis-paired, time is read in the wrong order, or θ or v(0) is not what it is said to be"
                )
            if tap.law_broken:
                told.append(
                    f"{where} is up to {tap.law:.2g} θ away from the conservation law v(T) = v(0) + Σx - θ·n: it is no "
                    "soft-reset neuron with the θ and v(0) that it is said to have, and its attribution means nothing"
                )
        return tuple(told)

    def facts(self) -> dict[str, Any]:
        """What a later diagnosis needs and no array holds."""
        return {
            "modes": {"found_in_training_mode": list(self.surveyed.trained)},
            "calls": {name: {"ann": ann, "snn": snn} for name, (ann, snn) in self.surveyed.calls.items()},
            "order": [info.name for info in self.surveyed.infos],
            "rewrites_input": sorted(self.surveyed.rewrites),
            "law": {
                str(tap.info.index): {"largest_difference": tap.law, "broken": tap.law_broken} for tap in self.taps
            },
            "fed": {"differing_samples": self.fed_differently},
            "operations": sorted({type(module).__name__ for module in self.subject.snn.modules() if _is_leaf(module)}),
            "oracles": {
                str(tap.info.index): {**vars(tap.oracle), "broken": tap.oracle.broken}
                for tap in self.taps
                if tap.oracle.applies
            },
        }
