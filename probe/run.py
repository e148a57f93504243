"""The aligned run: both networks on the same samples, hooks on every layer, everything handed to sinks at once.

What a hook sees is reduced or written inside the hook; only what must outlive it is copied. Hooks and modes are
undone however the run ends.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from probe.attribution import LEVEL_TOLERANCE, LayerStatistics, why_not_even
from probe.commuting import Bend, bends, plain
from probe.cost import Wiring, cost_fact, wiring_of
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, time_first
from probe.recording.facts import Facts, broken_oracles
from probe.recording.schema import LayerInfo, per_sample_grid
from probe.tally import Plan, tally_of
from probe.tap import Oracle, Sink, Tap, numpy_of, settle
from probe.userfile import has_user_frame, user_traceback

Digests = npt.NDArray[np.uint64]
SEEDS = 1_000_003
"""Between the random numbers of two seeds lie those of as many samples."""


# ------------------------------------------------------------------------------------------------------ survey


@dataclass(frozen=True)
class Survey:
    """What one sample tells of a subject, before the run.

    Attributes:
        pairs: the subject's layers in execution order, θ in a shape that broadcasts.
        infos: the same layers as a recording describes them.
        classes: length of the logits.
        rewrites: layers whose module changes its own input in place.
        calls: calls per layer in one forward of the ANN and in `timesteps` timesteps of the SNN.
        timesteps: how many the SNN was run.
        trained: modules found in training mode.
        bends: operations on spikes that do not commute with averaging over time.
        cost: what a spike of each layer costs, see `probe.cost`.
    """

    pairs: tuple[LayerPair, ...]
    infos: tuple[LayerInfo, ...]
    classes: int
    rewrites: frozenset[str]
    calls: dict[str, tuple[int, int]]
    timesteps: int
    trained: tuple[str, ...]
    bends: tuple[Bend, ...] = ()
    cost: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers that depend on the seed alone; outside, those of the user go on as if nothing had been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed % (1 << 63))
        yield


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


class _Surveyor:
    """Hooks that note the order, calls, inputs and outputs of each layer, in one run of each network."""

    def __init__(self, subject: Subject) -> None:
        self.layers = {pair.name: pair for pair in subject.layers}
        self.network = ""
        self.order: list[str] = []
        self.calls = {name: {"ann": 0, "snn": 0} for name in self.layers}
        self.inputs: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        self.outputs: dict[str, list[Tensor]] = {name: [] for name in self.layers}
        self.activations: dict[str, Tensor] = {}
        self.rewrites: set[str] = set()
        self.shown: set[str] = set()
        self._version = 0
        self._entered: Tensor | None = None

    def hooks(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        for pair in self.layers.values():
            if pair.ann is not None:
                yield pair.ann.register_forward_pre_hook(partial(self._before, pair, "ann"))
                yield pair.ann.register_forward_hook(partial(self._after, pair, "ann"))
            yield (pair.entry or pair.snn).register_forward_pre_hook(partial(self._before, pair, "snn"))
            yield pair.snn.register_forward_hook(partial(self._after, pair, "snn"))

    def _before(self, pair: LayerPair, network: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if network != self.network:
            return
        self._entered, self._version = args[0], args[0]._version
        if network == "snn":
            self.inputs[pair.name].append(args[0].clone())

    def _after(self, pair: LayerPair, network: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if network != self.network:
            return
        name, first = pair.name, output[0] if isinstance(output, tuple) else output
        self.calls[name][network] += 1
        if self._entered is not None and self._entered._version != self._version:
            self.rewrites.add(name)
        if network == "ann":
            self.activations[name] = first.clone()
            return
        if name not in self.order:
            self.order.append(name)
        self.outputs[name].append(first.clone())
        # Looked at now, for the reset forgets it; a merged layer shows its last one only, unless it stores all.
        if (pair.potential() if pair.layout == "step" else pair.potentials()) is not None:
            self.shown.add(name)


def survey(subject: Subject, x: Tensor, timesteps: int = 2) -> Survey:
    """Run one sample to learn order, shapes and habits.

    Args:
        subject: the networks.
        x: one sample, shape (1, ...).
        timesteps: T; a network that is called once a timestep is run for two.

    Raises:
        ProbeError: a network cannot take the sample, a layer is not called exactly once, or does not give spikes.
    """
    steps = timesteps if subject.forward_snn is not None else 2
    surveyor = _Surveyor(subject)
    found = [name for network in subject.networks for name, module in network.named_modules() if module.training]
    trained = tuple(dict.fromkeys(name or "the network itself" for name in found))
    logits: list[Tensor] = []
    bent: list[Bend] = []
    ends = {pair.name: (pair.entry or pair.snn, pair.snn) for pair in subject.layers}
    wiring = Wiring()
    # Version counters exist outside inference mode only.
    with torch.no_grad(), evaluating(*subject.networks), contextlib.ExitStack() as stack:
        for handle in surveyor.hooks():
            stack.callback(handle.remove)
        stack.callback(subject.restore)
        stack.callback(subject.reset)
        with understandable(subject.snn, x):
            if subject.ann is not None:
                surveyor.network = "ann"
                activations = {pair.name: (pair.ann, pair.ann) for pair in subject.layers if pair.ann is not None}
                wiring = wiring_of(subject.ann, activations, lambda: logits.append(subject.run_ann(x.clone())))
            surveyor.network = "snn"

            def run_snn() -> None:
                logits.extend(one for one in subject.run_snn(x.clone(), steps) if one is not None)

            def run_bends() -> None:
                bent.extend(bends(subject.snn, list(ends.values()), run_snn))

            if subject.ann is None:
                wiring = wiring_of(subject.snn, ends, run_bends)
            else:
                run_bends()
    classes = {tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in logits}
    short = len(logits) != steps + (subject.ann is not None)
    if (
        short
        or len(classes) != 1
        or not isinstance(logits[0], Tensor)
        or logits[0].ndim != 2
        or len(logits[0]) != len(x)
    ):
        shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in logits]
        of_ann = f"ANN {shapes[0]} and " if subject.ann is not None and shapes else ""
        of_snn = dict.fromkeys(map(str, shapes[bool(of_ann) :]))
        raise ProbeError(
            f"the outputs have shape {of_ann}SNN {', '.join(of_snn)}" + (f", {len(logits)} in all" if short else ""),
            expected="logits (sample, class), alike in both, one of the SNN at each timestep",
            fault="logits-shape",
        )
    _check_calls(surveyor, subject, steps)
    pairs, infos = [], []
    for index, name in enumerate(surveyor.order):
        pair, info = _described(surveyor, surveyor.layers[name], index, steps, len(x))
        pairs.append(pair)
        infos.append(info)
    calls = {name: (number["ann"], number["snn"]) for name, number in surveyor.calls.items()}
    cost = cost_fact(wiring, {info.name: info.shape for info in infos}, of_ann=subject.ann is not None)
    return Survey(
        tuple(pairs), tuple(infos), logits[0].shape[1], frozenset(surveyor.rewrites), calls, steps, trained,
        tuple(bent), cost,
    )  # fmt: skip


@contextlib.contextmanager
def understandable(network: nn.Module, x: Tensor) -> Iterator[None]:
    """What goes wrong in the user's forward, in one line that says which shape the network wants."""
    try:
        yield
    except (ProbeError, KeyboardInterrupt):
        raise
    except Exception as error:
        shape = "x".join(map(str, x.shape[1:]))
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProbeError(
            f"the model cannot run a sample of shape {shape}: {message}",
            expected=_wanted(network) or "float32 data of the shape it was trained on",
            next_step="check --data and the model's dtype",
            trace=user_traceback(error) if has_user_frame(error) else "",
            fault="not-runnable",
        ) from None


def _wanted(network: nn.Module) -> str:
    """What a network's first weighted module takes."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            sizes = "x".join("HWD"[: module.weight.ndim - 2])
            return f"samples of {module.in_channels} x {sizes}, {module.weight.dtype}, for {name or 'its convolution'}"
        if isinstance(module, nn.Linear):
            return f"samples of {module.in_features} numbers, {module.weight.dtype}, for {name or 'its linear layer'}"
    return ""


def _check_calls(surveyor: _Surveyor, subject: Subject, steps: int) -> None:
    names = [pair.name for pair in subject.layers]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ProbeError(f"two layers are called {twice.pop()}", expected="names that differ")
    for name, calls in surveyor.calls.items():
        pair = surveyor.layers[name]
        of_ann, of_snn = calls["ann"], calls["snn"]
        if (pair.ann is not None and not of_ann) or not of_snn:
            raise ProbeError(
                f"layer {name} is never called by the {'SNN' if of_ann or pair.ann is None else 'ANN'}",
                expected="activations that take part in the forward",
                next_step="remove the module, or call it",
                fault="never-called",
                layer=name,
            )
        wanted = steps + pair.traits.presteps if pair.layout == "step" else 1
        if (pair.ann is not None and of_ann != 1) or of_snn != wanted:
            by_ann = f"{of_ann} times by the ANN and " if pair.ann is not None else ""
            raise ProbeError(
                f"layer {name} is called {by_ann}{of_snn} times in {steps} timesteps by the SNN",
                expected="once in each forward",
                next_step="give each use a module of its own",
                fault="called-twice",
                layer=name,
            )


def _described(
    surveyor: _Surveyor, pair: LayerPair, index: int, steps: int, samples: int
) -> tuple[LayerPair, LayerInfo]:
    """A layer with θ in a shape that broadcasts, and as a recording describes it."""
    inputs, outputs = surveyor.inputs[pair.name], surveyor.outputs[pair.name]
    if pair.layout == "step":
        x, output = torch.stack(inputs[-2:]), torch.stack(outputs[-steps:])
    else:
        x = time_first(inputs[0], pair.layout, steps, samples, fed=True)
        output = time_first(outputs[0], pair.layout, steps, samples)
    shape = tuple(output.shape[2:])
    pair = replace(pair, threshold=_fitted(pair, pair.theta, shape), height=_fitted(pair, pair.spike_height, shape))
    check_spikes(pair, output)
    activation = surveyor.activations.get(pair.name)
    if activation is not None and tuple(activation.shape[1:]) != shape:
        raise ProbeError(
            f"layer {pair.name} has shape {tuple(activation.shape[1:])} in the ANN and {shape} in the SNN",
            expected="equal shapes", next_step="pass --pair ANN.NAME=SNN.NAME", fault="shapes-differ", layer=pair.name,
        )  # fmt: skip
    info = LayerInfo(
        index=index,
        name=pair.name,
        module=type(pair.snn).__name__,
        neuron=pair.neuron,
        levels=pair.levels,
        shape=shape,
        threshold=pair.theta,
        initial_fraction=pair.initial_fraction,
        traits=pair.traits.plain(),
        layout=pair.layout,
        constant_input=index == 0 and bool((x[1:] == x[:1]).all()),
        encoding="raw",
        paired=pair.ann is not None,
        height=pair.spike_height,
        keeps_potential=not pair.traits.lawful and pair.name in surveyor.shown,
        snn_name=pair.snn_name or pair.name,
    )
    if info.levels is not None and activation is not None:
        info = replace(info, encoding=_encoding(info, activation))
    return pair, info


def _fitted(pair: LayerPair, values: npt.NDArray[np.float32], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """θ or a height in a shape that broadcasts to (sample, *neuron); one axis means the channels."""
    if values.size == 1:
        return values.reshape(())
    if values.ndim == 1 and shape and len(values) == shape[0]:
        return values.reshape(1, -1, *[1] * (len(shape) - 1))
    try:
        fits = np.broadcast_shapes(values.shape, (1, *shape)) == (1, *shape)
    except ValueError:
        fits = False
    if not fits:
        raise ProbeError(
            f"layer {pair.name} has thresholds of shape {values.shape} and neurons of shape {shape}",
            expected="one number, one a channel, or a shape that broadcasts to (sample, *neuron)",
            fault="shapes-differ",
            layer=pair.name,
        )
    return values


def check_spikes(pair: LayerPair, output: Tensor) -> None:
    """A spiking layer gives whole numbers of spikes, at most one a timestep unless it is graded."""
    scaled = output.float() / torch.from_numpy(pair.spike_height).to(output.device)
    worst = float((scaled - scaled.round()).abs().max())
    if not worst <= LEVEL_TOLERANCE:
        raise ProbeError(
            f"layer {pair.name} gives outputs that are up to {worst:.3g} away from whole numbers of spikes of height "
            f"{float(pair.spike_height.mean()):.4g}",
            expected="0 or the height of a spike",
            next_step=_ratio(scaled) or "check its threshold, and that its forward returns spikes",
            fault="not-spikes" if worst == worst else "not-finite",
            layer=pair.name,
        )
    lowest, highest = int(scaled.min().round()), int(scaled.max().round())
    if (lowest < 0 and not pair.traits.signed) or (max(highest, -lowest) > 1 and not pair.traits.graded):
        raise ProbeError(
            f"layer {pair.name} gives {lowest if lowest < 0 else highest} spikes in one timestep",
            expected="neurons that fire as their traits say: "
            + ("-1, " if pair.traits.signed else "") + "0 or 1 spike a timestep",
            next_step="check its threshold, or set signed or graded in its traits",
            fault="several-spikes", layer=pair.name,
        )  # fmt: skip


def _ratio(scaled: Tensor) -> str:
    """What to do where every spike has one height, another than it should."""
    heights = scaled[scaled != 0].abs()
    lowest, highest = float(heights.min()), float(heights.max())
    if not highest - lowest <= LEVEL_TOLERANCE * highest:
        return ""
    return f"every spike has {highest:.4g} times that height: check that it is scaled by the layer's θ"


def _encoding(info: LayerInfo, activation: Tensor) -> str:
    """How the ANN's outputs follow from their levels bit by bit; `raw` where they do not."""
    threshold = torch.from_numpy(info.threshold).to(activation.device)
    assert info.levels is not None
    level = (activation.float() * (info.levels / threshold)).round()
    for encoding in ("levels", "levels-first"):
        if torch.equal(replace(info, encoding=encoding).decoded(level, threshold), activation):
            return encoding
    return "raw"


# --------------------------------------------------------------------------------------------------------- run


def _check_logits(ann: Tensor | None, steps: Sequence[Tensor], samples: int, timesteps: int, classes: int) -> None:
    """Logits of every sample at every timestep: a network with a loop of its own may give others."""
    shapes = {tuple(logits.shape) for logits in (*([] if ann is None else [ann]), *steps)}
    if len(steps) != timesteps or shapes != {(samples, classes)}:
        got = " and ".join(map(str, sorted(shapes)))
        raise ProbeError(
            f"the networks give logits of shape {got} at {len(steps)} timesteps",
            expected=f"({samples}, {classes}) at each of {timesteps}",
            fault="logits-shape",
        )


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
        per_sample: the t of which sums are kept for each sample; None for those of a recording.
        seed: of the random numbers that a network may draw; they depend on it and on the batch's first sample alone.
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
        per_sample: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        per_sample = per_sample_grid(timesteps) if per_sample is None else per_sample
        self.subject, self.surveyed, self.sink, self.timesteps = subject, surveyed, sink, timesteps
        self.seed = seed
        self._fed: dict[str, list[int]] = {"ann": [], "snn": []}
        self._network, self._samples = "", 0
        self.fed_differently = 0
        self.taps = []
        for info in recorded:
            pair = surveyed.pairs[info.index]
            plan = Plan(info.codings(grid, timesteps), per_sample, timesteps, info.threshold, info.height)
            promised = why_not_even(info.traits, info.initial_fraction) is None
            oracle = Oracle(applies=info.index == 0 and info.constant_input and info.paired and promised)
            clone = info.name in surveyed.rewrites
            self.taps.append(Tap(pair, info, tally_of(plan), sink, record, timesteps, clone, oracle))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks and evaluation mode, undone on leaving."""
        with evaluating(*self.subject.networks), contextlib.ExitStack() as stack:
            stack.callback(self.subject.restore)
            stack.callback(self.subject.reset)
            for network in self.subject.networks:
                stack.callback(network.register_forward_pre_hook(self._note_fed).remove)
            for tap in self.taps:
                for handle in tap.hooks():
                    stack.callback(handle.remove)
            yield

    def _note_fed(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Hash what the running network is fed, once a batch: at the SNN's first timestep, whatever its layout."""
        fed = self._fed.get(self._network)
        if fed is None or fed or not args or not isinstance(args[0], Tensor):
            return
        layout = self.surveyed.infos[0].layout if self._network == "snn" else "step"
        first = args[0]
        if len(first) != self._samples or layout in ("T,B", "B,T"):
            try:
                first = time_first(first, layout, self.timesteps, self._samples, fed=True)[0]
            except ProbeError:
                # A network of the user that is fed in a layout of its own.
                return
        fed.extend(digest(sample) for sample in numpy_of(first.float()))

    def digests(self) -> tuple[Digests, Digests]:
        """64-bit hashes of what the ANN and the SNN were fed in the latest batch, each (sample,)."""
        ann, snn = (np.array(self._fed[network], np.uint64) for network in ("ann", "snn"))
        if self.subject.ann is not None:
            self.fed_differently += int((ann != snn).sum())
        return ann, snn

    def _start(self, network: str, timestep: int | None = None) -> None:
        self._network = network
        for tap in self.taps:
            tap.network, tap.timestep = network, timestep

    def batch(self, x: Tensor, first: int) -> tuple[Tensor | None, Tensor]:
        """Run one batch through both networks; inside `hooked`.

        Args:
            x: shape (sample, ...); each network gets a copy of its own.
            first: the recording's index of the first sample.

        Returns:
            Logits of the ANN (sample, class), or None, and of the SNN at each t (sample, timestep, class).

        Raises:
            ProbeError: NaN or infinity, or activations that are not what the layer says.
        """
        self._samples = len(x)
        for tap in self.taps:
            tap.begin(first, len(x))
        for fed in self._fed.values():
            fed.clear()
        ann: Tensor | None = None
        steps: list[Tensor] = []
        # Not inference mode: the states that neurons keep could not be reset outside it.
        with torch.no_grad(), seeded(self.seed * SEEDS + first):
            if self.subject.ann is not None:
                self._start("ann")
                ann = self.subject.run_ann(x.clone())
            # The hooks of the first forward must know that it is t = 1, or a pre-step; some networks run through time
            # themselves, and then the layers count their calls alone.
            t = 1 - self.subject.presteps if self.subject.forward_snn is None else None
            self._start("snn", t)
            for logits in self.subject.run_snn(x.clone(), self.timesteps):
                if logits is not None:
                    steps.append(logits)
                t = None if t is None else t + 1
                self._start("snn", t)
            settle(self.taps)
            for tap in self.taps:
                tap.end()
            self._start("")
        _check_logits(ann, steps, len(x), self.timesteps, self.surveyed.classes)
        snn = torch.stack(steps, 1)
        for fed in self._fed.values():
            # What did not pass as a positional tensor is known to be what it was given here.
            if not fed:
                fed.extend(digest(sample) for sample in numpy_of(x.float()))
        for name, values in (("ANN", ann), ("SNN", snn)):
            if values is not None and not bool(torch.isfinite(values).all()):
                raise ProbeError(
                    f"the {name} gives NaN or infinity as logits",
                    expected="finite outputs",
                    next_step="check the checkpoint and the data's normalisation",
                    fault="not-finite",
                )
        return ann, snn

    def broken(self) -> tuple[str, ...]:
        """A sentence for each oracle that this run breaks."""
        return tuple(broken_oracles(self.facts(), {tap.info.index: tap.info.name for tap in self.taps}))

    def take(self) -> tuple[dict[int, LayerStatistics], Facts]:
        """Statistics by layer and facts of the batches since the last call; starts anew."""
        gathered = {tap.info.index: tap.tally.take() for tap in self.taps if tap.tally.touched}
        facts = self.facts()
        self.fed_differently = 0
        for tap in self.taps:
            tap.law, tap.beyond_rounding, tap.oracle = None, 0.0, Oracle(tap.oracle.applies)
        return gathered, facts

    def _training_kinds(self) -> list[str]:
        """Classes of the modules that were found in training mode."""
        found = set(self.surveyed.trained)
        every = (pair for network in self.subject.networks for pair in network.named_modules())
        return sorted({type(module).__name__ for name, module in every if name in found})

    def facts(self) -> Facts:
        """What a later diagnosis needs and no array holds, of the batches since the last `take`."""
        return {
            "modes": {"found_in_training_mode": list(self.surveyed.trained), "training_kinds": self._training_kinds()},
            "calls": {name: {"ann": ann, "snn": snn} for name, (ann, snn) in self.surveyed.calls.items()},
            "surveyed_timesteps": self.surveyed.timesteps,
            "order": [info.name for info in self.surveyed.infos],
            "rewrites_input": sorted(self.surveyed.rewrites),
            "law": {
                str(tap.info.index): {"largest_difference": tap.law, "broken": tap.law_broken} for tap in self.taps
            },
            "fed": {"differing_samples": self.fed_differently},
            "operations": sorted({type(module).__name__ for module in self.subject.snn.modules() if _is_leaf(module)}),
            "on_spikes": plain(self.surveyed.bends),
            "cost": self.surveyed.cost,
            "pairs": {info.name: info.snn_name for info in self.surveyed.infos},
            "unpaired": list(self.subject.unpaired),
            "oracles": {
                str(tap.info.index): {**vars(tap.oracle), "broken": tap.oracle.broken}
                for tap in self.taps
                if tap.oracle.applies
            },
        }
