"""The diagnosis of a network: what a capture refuses as a finding, what only live networks can tell, and the recording.

A capture into a temporary folder is handed to the checks of `probe.diagnosis`. Where a fault stops it, that fault is
the finding, under its name in `FAULTS`. A live check runs the networks on a few samples in ways a capture never does:
with other seeds, again after a reset, alone instead of in a batch. Another is a function here and a line in `LIVE`.
"""

from __future__ import annotations

import random
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from probe.data import DataSet
from probe.diagnosis import CHECKS, explained, findings_of, told
from probe.diagnosis.findings import Finding, as_json, worst_first
from probe.errors import Interrupted, ProbeError
from probe.families import LayerPair, Subject, time_first
from probe.prepare import Adapted, Prepared, Source, adapted
from probe.recorder import Progress
from probe.recording import open_recording
from probe.run import check_spikes, evaluating, understandable
from probe.session import Capture, plan

SAMPLES = 100
"""Samples of a diagnosis: seconds for a small network, and two batches, so that what one leaves to the next is seen;
each layer has 100 times its neurons, which tells shares of neurons of a tenth of a per cent apart."""
SCHEMA = "probe-diagnose/1"
LIVE_SAMPLES, LIVE_TIMESTEPS, LIVE_VALUES = 8, 4, 2e8
"""A live check's batch, its T where any will do, and how many outputs of layers it may keep at once, a byte each."""
ALONE = 4
"""Samples that are run alone."""
SAME_VALUE, SAME_NEURONS, SAME_SAMPLES = 1e-4, 1e-3, 0.25
"""In a batch of another size sums round otherwise, and a neuron on a tie flips: what still counts as the same. An
activation or logit, as a share of the largest; then the share of a sample's neurons, and that of the samples."""
KEPT_AS = "diagnosed.h5"
"""The recording that a line to paste makes, where the diagnosis kept none."""

FAULTS = {
    "threshold-not-positive": "θ that is trained can pass 0: keep weight decay off it, clamp it, or train that layer "
    "again; θ that is missing in a checkpoint stays what it was initialised with",
    "threshold-differs": "load the same checkpoint into both networks, after the conversion if that builds new modules",
    "levels-differ": "the ANN's outputs must be k·θ/L: its θ or L is not the one it was trained with, or something "
    "follows inside the activation",
    "no-activation": "only activations from 0 up have an IF neuron for a partner",
    "not-spikes": "a spiking layer gives 0 or one height, θ or 1: it may lack the factor θ, or give a smooth value",
    "several-spikes": "an output that is not scaled by θ, or by another layer's, looks so too",
    "called-twice": "a neuron has one potential: shared by two places it mixes their inputs",
    "never-called": "a layer that the forward skips records nothing, and its weights do nothing",
    "shapes-differ": "ANN and SNN are not the same architecture, or layers are paired wrongly",
    "not-finite": "weights or inputs hold NaN or infinity, or batch norm divides by a variance of 0",
    "not-runnable": "run the network by hand on one sample of that shape",
    "modes-mixed": "all layers of a network must take time in the same way",
    "logits-shape": "both networks must end in logits for each sample, the SNN's at each timestep",
    "time-layout": "time is merged into the batch in another order than the layer's, or not in all of the network",
    "timesteps-differ": "build all spiking layers with the same number of timesteps",
    "input-changes": "an encoder or noise before the first layer makes its input vary in time",
    "not-reset": "what a network keeps between timesteps must be forgotten before each batch",
}
"""Fault that stops a capture -> its usual causes and what to do; the name is that of the check in a finding."""


# ------------------------------------------------------------------------------------------------ live networks


@dataclass
class Seen:
    """What one run of a network gave.

    Attributes:
        layers: name -> the outputs of each call or timestep, (sample, neurons), in the order of execution; whole
            numbers of spikes as int8 for the SNN.
        logits: of each timestep, (sample, class); one for the ANN.
        drew: random numbers were drawn.
        draws: the functions that drew them and the modules in which they did.
        called: paths of the modules that were called, in that order.
    """

    layers: dict[str, list[Tensor]] = field(default_factory=dict)
    logits: list[Tensor] = field(default_factory=list)
    drew: bool = False
    draws: dict[tuple[str, str], None] = field(default_factory=dict)
    called: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Where two runs that should be equal part.

    Attributes:
        layer: the first in the order of execution that differs; None where only the logits do.
        timestep: 1-based call in which it does first.
        samples: how many samples differ.
        neurons: largest share of a sample's neurons that do.
    """

    layer: str | None
    timestep: int
    samples: int
    neurons: float


class Live:
    """Networks in evaluation mode that are run on a few samples.

    Args:
        prepared: networks and data; surveyed or not.
    """

    def __init__(self, prepared: Prepared | Adapted) -> None:
        self.subject: Subject = prepared.subject
        surveyed = prepared.surveyed if isinstance(prepared, Prepared) else None
        self.pairs: Sequence[LayerPair] = surveyed.pairs if surveyed else self.subject.layers
        self.fitted = surveyed is not None
        self.index = {pair.name: i for i, pair in enumerate(self.pairs)} if surveyed else {}
        # A layer that merges time may be made for one T.
        stepwise = self.subject.timesteps is None and all(pair.layout == "step" for pair in self.pairs)
        self.timesteps = min(prepared.timesteps, LIVE_TIMESTEPS) if stepwise else prepared.timesteps
        neurons = sum(info.neurons for info in surveyed.infos) if surveyed else 1
        most = int(LIVE_VALUES / (neurons * self.timesteps))
        chosen = prepared.indices[: 2 * max(2, min(LIVE_SAMPLES, most))]
        half = max(1, len(chosen) // 2)
        self.x = prepared.load(chosen[:half])
        """A batch, (sample, ...)."""
        self.other = prepared.load(chosen[-half:])
        """Another batch of that size; the same where there is one sample only."""
        self.kinds = ("ANN", "SNN") if self.subject.ann is not None else ("SNN",)
        self.stopped: tuple[str, str] | None = None
        """The network, and the path of the innermost module, that the latest run could not leave."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode; afterwards the networks are as they were found."""
        with evaluating(*self.subject.networks), torch.no_grad(), ExitStack() as stack:
            stack.callback(self.subject.restore)
            stack.callback(self.subject.reset)
            yield

    def network(self, kind: str) -> nn.Module:
        """The ANN or the SNN."""
        network = self.subject.ann if kind == "ANN" else self.subject.snn
        assert network is not None
        return network

    def run(self, kind: str, x: Tensor, seed: int = 0) -> Seen:
        """Run the ANN or the SNN on a batch, from the state that `Subject.reset` leaves; inside `running`.

        Raises:
            ProbeError: the network cannot run it, or a layer's output has an impossible shape.
        """
        network, seen = self.network(kind), Seen()
        listener = _Draws(seen.draws)
        with ExitStack() as stack:
            stack.enter_context(understandable(network, x))
            stack.enter_context(_seeded(seed))
            for name, module in network.named_modules():
                stack.callback(module.register_forward_pre_hook(partial(_enter, listener, seen, name)).remove)
                stack.callback(module.register_forward_hook(partial(_leave, listener)).remove)
            for pair in self.pairs:
                module = pair.ann if kind == "ANN" else pair.snn
                if module is not None:
                    hook = partial(self._note, kind, pair, len(x), seen.layers)
                    stack.callback(module.register_forward_hook(hook).remove)
            before = _states()
            stack.enter_context(listener)
            stack.callback(self._note_stop, kind, listener)
            if kind == "ANN":
                seen.logits = [self.subject.run_ann(x.clone())]
            else:
                seen.logits = [one for one in self.subject.run_snn(x.clone(), self.timesteps) if one is not None]
            seen.drew = _states() != before
        return seen

    def _note_stop(self, kind: str, listener: _Draws) -> None:
        self.stopped = (kind, listener.path[-1]) if listener.path[-1] else None

    def _note(
        self, kind: str, pair: LayerPair, samples: int, layers: dict[str, list[Tensor]], _module: Any, _args: Any,
        output: Any,
    ) -> None:  # fmt: skip
        found = output[0] if isinstance(output, tuple) else output
        calls = layers.setdefault(pair.name, [])
        if kind == "ANN":
            calls.append(found.flatten(1).clone())
            return
        merged = pair.layout != "step"
        for step in time_first(found, pair.layout, self.timesteps, samples) if merged else (found,):
            if self.fitted:
                step = step.float() / torch.from_numpy(pair.spike_height).to(step.device)
                calls.append(step.round().clamp_(-127, 127).to(torch.int8).flatten(1))
            else:
                calls.append(step.flatten(1).clone())

    def difference(self, one: Seen, other: Seen, *, exact: bool) -> Difference | None:
        """The first difference of two runs; None where they are equal, or within rounding where not `exact`."""
        exact = exact and self.x.device.type == "cpu"
        for name, calls in one.layers.items():
            again = other.layers.get(name, [])
            for t, (values, others) in enumerate(zip(calls, again, strict=False), 1):
                if found := _difference(name, t, values, others, exact):
                    return found
        for t, (values, others) in enumerate(zip(one.logits, other.logits, strict=False), 1):
            # What has no sample axis is the survey's to refuse.
            if values.shape == others.shape and (found := _difference(None, t, values.flatten(1), others, exact)):
                return found
        return None


def _difference(layer: str | None, t: int, one: Tensor, other: Tensor, exact: bool) -> Difference | None:
    if one.shape != other.shape:
        return None
    if exact:
        # NaN is as good as NaN.
        shares = ((one != other) & ~((one != one) & (other != other))).float().mean(1)
        found = shares > 0
    else:
        limit = 0.5 if one.dtype == torch.int8 else SAME_VALUE * float(one.abs().max())
        shares = ((one.float() - other.float()).abs() > limit).float().mean(1)
        found = shares > (SAME_NEURONS if layer else 0)
    samples = int(found.sum())
    if samples <= (0 if exact else SAME_SAMPLES * len(found)):
        return None
    return Difference(layer, t, samples, float(shares.max()))


RANDOM = frozenset((
    "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "alpha_dropout_", "feature_dropout",
    "feature_dropout_", "feature_alpha_dropout", "feature_alpha_dropout_", "native_dropout", "rand", "rand_like",
    "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "bernoulli_", "normal", "normal_",
    "uniform_", "exponential_", "poisson", "multinomial", "random_", "rrelu", "rrelu_", "gumbel_softmax", "cauchy_",
    "geometric_", "log_normal_", "fractional_max_pool2d", "fractional_max_pool3d", "scaled_dot_product_attention",
))  # fmt: skip
"""Functions of torch that may draw random numbers."""


class _Draws(TorchFunctionMode):
    """Notes which functions draw random numbers, and in which module."""

    def __init__(self, found: dict[tuple[str, str], None]) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name not in RANDOM:
            return func(*args, **(kwargs or {}))
        before = _states()
        result = func(*args, **(kwargs or {}))
        if _states() != before:
            self.found[(name, self.path[-1])] = None
        return result


def _enter(listener: _Draws, seen: Seen, name: str, _module: nn.Module, _args: Any) -> None:
    listener.path.append(name)
    seen.called[name] = None


def _leave(listener: _Draws, _module: nn.Module, _args: Any, _output: Any) -> None:
    listener.path.pop()


def _states() -> tuple[Any, ...]:
    """The states of all generators, as what can be compared."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    kind, keys, *rest = np.random.get_state()
    return (*(state.numpy().tobytes() for state in states), kind, np.asarray(keys).tobytes(), *rest, random.getstate())


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """All generators seeded, and afterwards as they were."""
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


# ---------------------------------------------------------------------------------------------------- the checks


@dataclass(frozen=True)
class LiveCheck:
    """A check of live networks.

    Attributes:
        run: gives what it finds; of healthy networks nothing.
        summary: what it looks for, in a line.
        repeatable: it needs networks that give the same for the same, so it is left out where they do not.
    """

    run: Callable[[Live], Iterable[Finding]]
    summary: str
    repeatable: bool = False


def _plot(live: Live, kind: str, layer: str | None) -> str:
    """A picture of the recording that is made later."""
    index = live.index.get(layer or "")
    return f"probe plot accuracy {KEPT_AS}" if index is None else f"probe plot {kind} {KEPT_AS} --layer {index}"


def _finding(live: Live, check: str, severity: str, layer: str | None, what: str, **rest: Any) -> Finding:
    return Finding(check, severity, layer, what, index=live.index.get(layer or ""), **rest)


def drawing(live: Live) -> Iterator[Finding]:
    """Dropout that stays active, and other random numbers: the same batch gives other outputs with another seed."""
    found: dict[str, Difference] = {}
    places: dict[tuple[str, str], None] = {}
    for kind in live.kinds:
        one = live.run(kind, live.x, seed=0)
        if not one.drew:
            continue
        difference = live.difference(one, live.run(kind, live.x, seed=1), exact=True)
        if difference is not None:
            found[kind] = difference
            places |= one.draws
    if not found:
        return
    drops = [place for place in places if "dropout" in place[0]]
    names = [f"{name} in {module or 'the forward'}" for name, module in drops or places][:4]
    first = next(iter(found.values()))
    by = " and ".join(f"the {kind}" for kind in found)
    yield _finding(
        live, "random", "error" if drops else "warning", first.layer,
        f"{by} {'give' if len(found) > 1 else 'gives'} other outputs for the same samples in evaluation mode: "
        + (", ".join(names) or "random numbers") + (" stays active" if drops else " drawn from a generator"),
        evidence={"differing_samples": first.samples, "of_samples": len(live.x), "share_of_neurons": first.neurons},
        advice="pass training=self.training to functional dropout, and let eval() reach every nn.Dropout"
        if drops
        else "if this is a random encoding, every number here varies from run to run; else remove it in evaluation",
        look=_plot(live, "phi", first.layer),
    )  # fmt: skip


def remembering(live: Live) -> Iterator[Finding]:
    """State that outlives a reset: the same batch, run again or after another one, gives other outputs."""
    for kind in live.kinds:
        one, again = live.run(kind, live.x), live.run(kind, live.x)
        found, when = live.difference(one, again, exact=True), "run again"
        if found is None:
            live.run(kind, live.other)
            found, when = live.difference(again, live.run(kind, live.x), exact=True), "run after another batch"
        if found is None:
            continue
        place = f"layer {found.layer} does" if found.layer else "no layer does: what follows the last one keeps state"
        yield _finding(
            live, "not-reset", "error", found.layer,
            f"the same samples {when} give other outputs of the {kind}, though it was reset: first {place}"
            + (f", at t = {found.timestep}" if found.layer and kind == "SNN" else ""),
            evidence={"differing_samples": found.samples, "of_samples": len(live.x), "share_of_neurons": found.neurons},
            advice="forget v (and counters, masks, traces) of that module in what resets the network before each "
            "batch: its reset(), functional.reset_net, or reset= of a probe.Subject",
            look=_plot(live, "residual", found.layer),
        )  # fmt: skip


def mixing(live: Live) -> Iterator[Finding]:
    """Outputs that depend on the other samples of the batch: batch norm by the batch, or time and batch mixed up."""
    for kind in live.kinds:
        together = live.run(kind, live.x)
        if not all(bool(one.isfinite().all()) for one in together.logits):
            # NaN is unlike itself, and becomes any number of spikes.
            return
        number = min(ALONE, len(live.x))
        runs = [live.run(kind, live.x[i : i + 1]) for i in range(number)]
        alone = Seen(
            {name: [torch.cat(parts) for parts in zip(*(run.layers[name] for run in runs), strict=True)]
             for name in together.layers},
            [torch.cat(parts) for parts in zip(*(run.logits for run in runs), strict=True)],
        )  # fmt: skip
        first = Seen(
            {name: [values[:number] for values in calls] for name, calls in together.layers.items()},
            [values[:number] for values in together.logits],
        )
        found = live.difference(first, alone, exact=False)
        if found is None:
            continue
        norms = [name for name, one in live.network(kind).named_modules() if _lacks_statistics(one)]
        yield _finding(
            live, "batch-dependent", "error", found.layer,
            f"the {kind}'s outputs for a sample depend on the other samples in its batch"
            + (f": batch norm without running statistics in {', '.join(norms[:4])}" if norms else ""),
            evidence={"differing_samples": found.samples, "of_samples": number, "share_of_neurons": found.neurons},
            advice="keep running statistics in batch norm (track_running_stats=True) and train or calibrate them"
            if norms
            else "look for a reshape that mixes time and samples, a mean or norm over the batch axis, or a state of a "
            "fixed batch size",
            look=_plot(live, "phi", found.layer),
        )  # fmt: skip
        return


FEW_BLOCKS = 0.5
"""Weights differ by a fault if fewer than this share of the blocks between spiking layers have other ones: a conversion
that folds batch norm or θ into weights changes all."""
CLOSER = 0.9
"""And if with the ANN's weights the mean square error of the SNN's logits is this many times as large, or less; where
it stays about the same, they are worth a note."""


@dataclass(frozen=True)
class _Other:
    """A parameter or buffer that both networks have, with other values.

    Attributes:
        name: its path.
        block: the place in the order of the spiking layer before which it acts; their number behind the last.
        largest: the largest difference.
    """

    name: str
    block: int
    largest: float


def _blocks(live: Live) -> dict[str, int]:
    """Path of a module of the SNN that was called -> the place of the spiking layer that comes next."""
    entries = [{id(pair.entry or pair.snn), id(pair.snn)} for pair in live.pairs]
    found, block, modules = {}, 0, dict(live.network("SNN").named_modules())
    for name in live.run("SNN", live.x).called:
        if block < len(entries) and id(modules[name]) in entries[block]:
            block += 1
        found[name] = block
    return found


def _shared(live: Live) -> dict[str, tuple[Tensor, Tensor]]:
    """Path -> the ANN's and the SNN's parameter or buffer of that name and shape, outside activations."""
    inside = {id(one) for pair in live.pairs for outer in (pair.ann, pair.snn, pair.entry) if outer is not None
              for module in outer.modules() for one in (*module.parameters(False), *module.buffers(False))}  # fmt: skip
    networks = [live.network(kind) for kind in ("ANN", "SNN")]
    # What is not kept in a checkpoint is a state.
    kept = set(networks[1].state_dict())
    ann, snn = ({**dict(one.named_parameters()), **dict(one.named_buffers())} for one in networks)
    return {
        name: (one, snn[name]) for name, one in ann.items()
        if name in snn and name in kept and one is not snn[name] and one.shape == snn[name].shape
        and (one.dtype, one.device) == (snn[name].dtype, snn[name].device) and one.is_floating_point()
        and not {id(one), id(snn[name])} & inside
    }  # fmt: skip


def _distance(live: Live) -> float:
    """The mean square of the SNN's mean logits less the ANN's."""
    ann, snn = live.run("ANN", live.x).logits[0], live.run("SNN", live.x).logits
    return float((torch.stack(snn).double().mean(0) - ann.double()).square().mean())


def weights(live: Live) -> Iterator[Finding]:
    """Weights, biases or batch norm that are not the ANN's, in a few places of an SNN that has the others of it."""
    if not live.fitted or len(live.kinds) < 2 or live.network("ANN") is live.network("SNN"):
        return
    shared = _shared(live)
    apart = {name for name, (one, other) in shared.items() if not torch.equal(one, other)}
    if not apart:
        return
    blocks = _blocks(live)
    of = {name: blocks[module] for name in shared if (module := name.rpartition(".")[0]) in blocks}
    others = [_Other(name, of[name], float((shared[name][0] - shared[name][1]).abs().max()))
              for name in shared if name in apart and name in of]  # fmt: skip
    changed = {one.block for one in others}
    if not others or len(changed) >= FEW_BLOCKS * len(set(of.values())):
        return
    before, kept = _distance(live), {name: shared[name][1].detach().clone() for name in apart}
    try:
        for name in apart:
            shared[name][1].copy_(shared[name][0])
        after = _distance(live)
    finally:
        for name, values in kept.items():
            shared[name][1].copy_(values)
    # Weights that are meant to differ, with batch norm or θ in them, compute the same, or come closer as they are.
    if not after <= before / CLOSER or abs(after - before) <= SAME_VALUE * before:
        return
    first = min(others, key=lambda one: one.block)
    largest = max((one for one in others if one.block == first.block), key=lambda one: one.largest)
    pair = live.pairs[first.block] if first.block < len(live.pairs) else None
    place = f"before layer {pair.name}" if pair is not None else "behind the last layer"
    names = [one.name for one in others]
    yield _finding(
        live, "weights-differ", "error" if after <= CLOSER * before else "note", None if pair is None else pair.name,
        f"{largest.name}, {place}, is not the ANN's in the SNN, and most other weights are",
        evidence={"largest_difference": largest.largest, "parameters": names, "of_parameters": len(shared),
                  "logits_mean_square": before, "logits_mean_square_with_the_weights_of_the_ann": after},
        advice="load one checkpoint into both networks, after the last change of either",
        look=_plot(live, "phi", None if pair is None else pair.name),
    )  # fmt: skip


def _lacks_statistics(module: nn.Module) -> bool:
    return "Batch" in type(module).__name__ and getattr(module, "running_mean", 0) is None


def spiking(live: Live) -> Iterator[Finding]:
    """Outputs that are no spikes of height θ; a survey looks at one sample only."""
    if not live.fitted:
        return
    refused: list[Finding] = []

    def look(pair: LayerPair, samples: int, _module: nn.Module, _args: Any, output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        merged = pair.layout != "step"
        steps = time_first(found, pair.layout, live.timesteps, samples) if merged else found[None]
        try:
            check_spikes(pair, steps)
        except ProbeError as error:
            refused.append(of_refusal(error, live.index))

    with ExitStack() as stack:
        for pair in live.pairs:
            stack.callback(pair.snn.register_forward_hook(partial(look, pair, len(live.x))).remove)
        live.run("SNN", live.x)
    seen: set[tuple[str, str | None]] = set()
    for one in refused:
        if (one.check, one.layer) not in seen:
            seen.add((one.check, one.layer))
            yield one


def unused(live: Live) -> Iterator[Finding]:
    """Modules with weights that a forward passes by."""
    called = {kind: live.run(kind, live.x).called for kind in live.kinds}
    everywhere = {name for names in called.values() for name in names}
    main = live.network(live.kinds[0])
    inside = {id(module) for pair in live.pairs for outer in (pair.ann, pair.snn) if outer is not None
              for module in outer.modules()}  # fmt: skip
    weighted = [name for name, module in main.named_modules()
                if id(module) not in inside and any(True for _ in module.parameters(recurse=False))]  # fmt: skip
    of_snn = {name for name, _ in live.network("SNN").named_modules()}
    skipped = [name for name in weighted if name in called[live.kinds[0]] and name in of_snn - called["SNN"].keys()]
    if skipped:
        yield Finding(
            "skipped", "warning", None,
            f"the ANN runs {', '.join(skipped[:4])} and the SNN does not",
            evidence={"modules": skipped}, advice="let the SNN's forward do what the ANN's does",
        )  # fmt: skip
    idle = [name for name in weighted if name not in everywhere]
    if idle:
        yield Finding(
            "unused", "note", None, f"no forward runs {', '.join(idle[:4])}", evidence={"modules": idle},
            advice="an auxiliary head is not meant to run in evaluation; anything else should be called or removed",
        )  # fmt: skip


LIVE: dict[str, LiveCheck] = {
    "random": LiveCheck(drawing, "random numbers in evaluation mode"),
    "not-reset": LiveCheck(remembering, "state that outlives a reset"),
    "batch-dependent": LiveCheck(mixing, "outputs that depend on the other samples of a batch", repeatable=True),
    "spikes": LiveCheck(spiking, "outputs that are no spikes of height θ"),
    "weights-differ": LiveCheck(weights, "single weights of the SNN that are not the ANN's", repeatable=True),
    "unused": LiveCheck(unused, "modules with weights that a forward passes by"),
}
"""Name -> live check."""


def live_findings(live: Live) -> tuple[list[Finding], list[str]]:
    """What the live checks find, and the names of those that were run."""
    found: list[Finding] = []
    ran = []
    with live.running():
        for name, check in LIVE.items():
            if check.repeatable and _says(found, "random", "not-reset"):
                continue
            ran.append(name)
            try:
                found += check.run(live)
            except ProbeError as error:
                if not error.fault:
                    raise
                found.append(_left_over(live, error) or of_refusal(error, live.index))
    return found, ran


def _left_over(live: Live, error: ProbeError) -> Finding | None:
    """A run that stops though one sample was run before: a module has kept a state of that size; None if none has."""
    if error.fault != "not-runnable" or not live.fitted or live.stopped is None:
        return None
    kind, path = live.stopped
    module = live.network(kind).get_submodule(path)
    pair = next((one for one in live.pairs
                 for outer in ((one.snn, one.entry) if kind == "SNN" else (one.ann,)) if outer is not None
                 and any(part is module for part in outer.modules())), None)  # fmt: skip
    if (pair is None or kind == "ANN") and not any(_of_one_sample(part) for part in module.modules()):
        return None
    name = path if pair is None else pair.name
    return _finding(
        live, "not-reset", "error", name,
        f"{path} of the {kind} runs one sample, and then no batch of {len(live.x)}: it goes on with the state that the "
        f"one has left, though the network was reset ({error.got.split(': ', 1)[-1]})",
        evidence={"samples_before": 1, "samples": len(live.x), "module": path},
        advice="forget v (and counters, masks, traces) of that module in what resets the network before each batch: "
        "its reset(), functional.reset_net, or reset= of a probe.Subject",
        look=_plot(live, "residual", name),
    )  # fmt: skip


def _of_one_sample(module: nn.Module) -> bool:
    """It keeps a tensor that is no weight and has room for one sample."""
    kept = [*vars(module).values(), *module.buffers(False), *getattr(module, "_memories", {}).values()]
    return any(isinstance(one, Tensor) and not isinstance(one, nn.Parameter) and one.ndim > 1 and len(one) == 1
               for one in kept)  # fmt: skip


def of_refusal(error: ProbeError, index: Mapping[str, int] | None = None) -> Finding:
    """A fault that stops a capture, as a finding."""
    parts = (error.expected and f"expected {error.expected}", error.next_step, FAULTS.get(error.fault, ""))
    return Finding(
        error.fault, "error", error.layer, error.got, advice="; ".join(part for part in parts if part),
        index=(index or {}).get(error.layer or ""),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the whole


def diagnose_model(
    model: Any = "zoo:digits",
    *,
    samples: int | None = SAMPLES,
    batch_size: int = 50,
    record: str = "full",
    keep: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run a network's live checks, capture it, and check the recording.

    Args:
        model, samples, batch_size, record, options: as for `probe.capture`; fewer samples by default.
        keep: where the recording is kept; None for a temporary one.
        overwrite: replace what is there.
        command: kept in the recording.
        progress: called after each batch with the samples done and to do.

    Returns:
        The object that `probe diagnose MODEL --json` prints, see `probe.diagnose`.

    Raises:
        ProbeError: something other than the network is at fault: a path, an option, the data.
    """
    source = Source.of(model, {"samples": samples, **options})
    name = model if isinstance(model, str) else ""
    result: dict[str, Any] = {
        "schema": SCHEMA, "file": None, "model": name, "complete": False, "samples": 0, "timesteps": source.timesteps,
        "layers": None, "checks": [], "notes": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="probe-") as folder, ExitStack() as stack:
        path = Path(folder, KEPT_AS) if keep is None else Path(keep)
        planned: Capture | None = None
        prepared: Prepared | Adapted | None = None
        found: list[Finding] = []
        try:
            planned = plan(
                model, samples=samples, batch_size=batch_size, record=record, output=path, overwrite=overwrite,
                command=command, **options,
            )  # fmt: skip
            prepared = planned.prepared
        except ProbeError as error:
            found.append(of_refusal(_with_fault(error)))
            prepared = _unsurveyed(source)
        if prepared is not None:
            stack.callback(prepared.release)
            lived, result["checks"] = live_findings(Live(prepared))
            _add(found, lived)
            result |= {
                "model": prepared.name, "timesteps": prepared.timesteps, "layers": len(prepared.subject.layers),
                "notes": list(prepared.notes),
            }  # fmt: skip
        try:
            refusal = None if planned is None else _refusal(planned, progress)
        except Interrupted as stopped:
            if keep is not None:
                raise
            raise Interrupted(f"stopped: nothing is kept of {_done(stopped)}, with --keep FILE it is") from None
        if refusal is not None and not (refusal.check == "not-runnable" and _says(found, "not-reset")):
            # What stops the capture comes first; that a state of another batch's size does is known then.
            found = [refusal, *(one for one in found if (one.check, one.layer) != (refusal.check, refusal.layer))]
        recorded = planned is not None and refusal is None
        if recorded:
            with open_recording(path) as recording:
                _add(found, findings_of(recording))
                result |= told(recording, []) | {"file": None if keep is None else str(path)}
            result["checks"] = [*CHECKS, *result["checks"]]
        if _says(found, "not-finite"):
            # NaN is unlike itself.
            found = [one for one in found if one.check != "batch-dependent"]
        found = explained(found)
        lines = _Lines(source, record, batch_size, path, kept=keep is not None, recorded=recorded)
        result["findings"] = [
            as_json(replace(one, look=lines.look(one, runs=planned is not None))) for one in worst_first(found)
        ]
    return result


def _done(stopped: Interrupted) -> str:
    """As in `50 of 100 samples`."""
    return str(stopped).rpartition(" holds ")[2]


def _with_fault(error: ProbeError) -> ProbeError:
    """Pass on what is no fault of the network."""
    if not error.fault:
        raise error
    return error


def _unsurveyed(source: Source) -> Adapted | None:
    """Networks that are paired but cannot be captured; None where not even that is possible."""
    try:
        return adapted(source)
    except ProbeError:
        return None


def _refusal(planned: Capture, progress: Progress | None) -> Finding | None:
    """Run a capture; the fault that stops it."""
    index = {info.name: info.index for info in planned.prepared.surveyed.infos}
    try:
        planned.run(progress)
    except ProbeError as error:
        # What is kept of a run that stopped is no subject here.
        found = of_refusal(_with_fault(error), index)
        return replace(found, what=found.what.split(f"; {planned.path} holds")[0])
    except RuntimeError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return of_refusal(ProbeError(f"the run stops in a batch: {first}", fault="not-runnable"))
    return None


def _says(found: Iterable[Finding], *checks: str) -> bool:
    return any(one.check in checks for one in found)


def _add(found: list[Finding], more: Iterable[Finding]) -> None:
    """What was not said before."""
    for one in more:
        if not any((one.check, one.layer) == (other.check, other.layer) for other in found):
            found.append(one)


FLAGS = {
    "checkpoint": "--checkpoint", "trust_checkpoint": "--trust-checkpoint", "data": "--data", "split": "--split",
    "data_root": "--data-root", "download": "--download", "normalize": "--normalize", "image_size": "--image-size",
    "samples": "--samples", "seed": "--seed", "timesteps": "-T", "neuron": "--neuron", "srp_steps": "--srp-steps",
    "initial_potential": "--initial-potential", "levels": "--levels", "calibrate": "--calibrate",
    "calibrate_per": "--calibrate-per", "calibration_samples": "--calibration-samples",
    "average_pool": "--average-pool", "device": "--device",
}  # fmt: skip
"""Field of a `Source` -> the option of `probe capture`."""


@dataclass(frozen=True)
class _Lines:
    """Makes lines to paste of those that speak of the recording."""

    source: Source
    record: str
    batch_size: int
    path: Path
    kept: bool
    recorded: bool

    def look(self, one: Finding, *, runs: bool) -> str:
        """A finding's line; empty where a shell cannot name the model."""
        named = isinstance(self.source.model, str) and not isinstance(self.source.data, DataSet)
        if self.recorded and one.look:
            name = shlex.quote(str(self.path)) if self.kept else KEPT_AS
            line = one.look.replace(shlex.quote(str(self.path)), name)
            line = " ".join(name if word == KEPT_AS else word for word in line.split(" "))
            if self.kept:
                return line
            return f"{self._of('capture')} -o {KEPT_AS} --overwrite && {line}" if named else ""
        return self._of("layers") if named and runs and not self.recorded else ""

    def _of(self, command: str) -> str:
        """`probe capture` or `probe layers` of this model with these options."""
        model = str(self.source.model)
        words = ["probe", command, *(["--model"] if command == "layers" else []), model]
        words += [word for key, value in self.source.model_args.items() for word in ("--model-arg", f"{key}={value}")]
        words += [word for ann, snn in self.source.pairs.items() for word in ("--pair", f"{ann}={snn}")]
        plain = Source()
        for name, flag in FLAGS.items():
            value = getattr(self.source, name)
            if value == getattr(plain, name) or (name, value) == ("device", "cpu"):
                continue
            words += [flag] if value is True else [flag, "all" if value is None else str(value)]
        if command == "capture":
            words += ["--record", self.record] if self.record != "full" else []
            words += ["--batch-size", str(self.batch_size)] if self.batch_size != 50 else []
        return shlex.join(words)
