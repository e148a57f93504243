"""The aligned run: both networks on the same samples, hooks on every layer, everything handed to sinks at once.

What a hook sees is reduced or written inside the hook; only what must outlive it is copied. Hooks and modes are
undone however the run ends.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, Subject
from probe.recording.schema import LayerInfo, per_sample_grid
from probe.tally import LayerTally, Plan
from probe.tap import Oracle, Sink, Tap, numpy_of

Digests = npt.NDArray[np.uint64]


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
