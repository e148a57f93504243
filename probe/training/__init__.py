"""Checks of a network that is trained as it spikes: one training step is run, and followed tensor by tensor.

A check is a function of the `Evidence` of that step; another is a function in a file here and a line in `CHECKS`. The
way of the data: `running` calls the network and makes the loss, `tracing` follows what happens, `evidence` holds it
by layers and parameters, and `graph`, `surrogates` and `flow` judge it.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probe.data import DataSet, choose_samples
from probe.diagnosis.findings import Finding, as_json, worst_first
from probe.errors import ProbeError
from probe.model_names import Opened, open_model
from probe.models import networks_of
from probe.neurons import QCFS
from probe.prepare import Source, find_device
from probe.training import flow, graph, surrogates
from probe.training.evidence import Evidence, Layer, NextBatch, Parameter, chosen, roles_of
from probe.training.running import Loss, LossMaker, Way, as_found, kept_graphs, loss_of, runnable, way_of
from probe.training.tracing import Follower, following, meant_to_spike
from probe.userfile import listed

SAMPLES = 32
"""In a batch."""


@dataclass(frozen=True)
class Check:
    """A check of a training step.

    Attributes:
        run: gives what it finds; of a healthy network no error and no warning.
        summary: what it looks for, in a line.
    """

    run: Callable[[Evidence], Iterable[Finding]]
    summary: str


def _only(name: str, *runs: Callable[[Evidence], Iterable[Finding]]) -> Callable[[Evidence], Iterable[Finding]]:
    """Of what these find, that which has this name."""
    return lambda seen: [one for run in runs for one in run(seen) if one.check == name]


def _registered(found: dict[str, tuple[str, tuple[Callable[[Evidence], Iterable[Finding]], ...]]]) -> dict[str, Check]:
    return {name: Check(_only(name, *runs), summary) for name, (summary, runs) in found.items()}


_FLOW = (flow.over_layers, flow.over_time)
CHECKS: dict[str, Check] = _registered({
    "not-finite": ("parameters, potentials or a loss that are NaN or infinite", (surrogates.broken_values,)),
    "graph-cut": ("operations that keep the gradient from parameters", (graph.cuts, surrogates.failing)),
    "unused": ("parameters that got no gradient though nothing cut them off", (graph.cuts,)),
    "frozen": ("parameters with requires_grad = False", (graph.frozen,)),
    "backward-fails": ("a backward that raises, or gives gradients that are refused", (surrogates.failing,)),
    "gradient-shape": ("gradients that autograd takes though they are wrong", (surrogates.shapes,)),
    "gradient-ignored": ("a backward that does not use the gradient it is given", (surrogates.shapes,)),
    "smooth-forward": ("neurons that return something smooth and no spikes", (surrogates.smooth,)),
    "no-spikes": ("a network in which nothing spikes", (surrogates.spikeless,)),
    "surrogate-centre": ("a surrogate that is centred off the threshold", (surrogates.centre,)),
    "surrogate-window": ("a surrogate so narrow that almost no neuron gets a gradient", (surrogates.window,)),
    "surrogate-not-finite": ("a surrogate that gives NaN or infinity", (surrogates.window,)),
    "dead-neurons": ("neurons that never fire and that no gradient reaches", (flow.dead,)),
    "silent-layer": ("a layer in which nothing fires", (flow.silent,)),
    "vanishing-gradient": ("gradients that vanish over layers or timesteps", _FLOW),
    "exploding-gradient": ("gradients that explode over layers or timesteps", _FLOW),
    "threshold-without-gradient": ("a learned threshold that gets no gradient", (graph.thresholds,)),
    "state-kept": ("state that carries one batch's graph into the next", (graph.growth,)),
    "graph-grows": ("what is logged with its graph, batch after batch", (graph.growth,)),
    "state-lost": ("neurons that begin anew at every timestep", (flow.forgetting,)),
})  # fmt: skip
"""Name -> check."""


def gradients(model: Any, *, loss: str | Loss | None = None, samples: int = SAMPLES, **options: Any) -> dict[str, Any]:
    """Run one training step of a spiking network, and say what is wrong with its gradients; nothing in it is changed.

    Args:
        model: a name for `open_model`, a network, a pair of which the second spikes, or a `Subject`.
        loss: `file.py:callable` or a callable of (outputs, labels); None for the cross entropy of the outputs summed
            over time.
        samples: in a batch; two batches are run.
        options: of `Source` by name: data, split, data_root, timesteps, device, seed, checkpoint, model_args, ...

    Returns:
        The object that `probe gradients --json` prints.

    Raises:
        ProbeError: model, data or loss do not fit, or the network cannot run.
    """
    source = Source.of(model, {**options, "samples": samples})
    if isinstance(source.model, str):
        checkpoint = None if source.checkpoint is None else Path(source.checkpoint)
        opened = open_model(source.model, source.model_args, checkpoint=checkpoint, trust=source.trust_checkpoint)
    else:
        opened = Opened(source.model, type(networks_of(source.model)[0]).__name__)
    network = networks_of(opened.model)[-1]
    _check_kind(opened.name, network)
    data, batches = _batches(source, opened, samples)
    home = _device_of(network)
    device = home if source.device is None else find_device(source.device)
    dtypes = (one.dtype for one in network.parameters() if one.dtype.is_floating_point)
    dtype = next(dtypes, torch.float32)
    try:
        network.to(device)
        given = [(x.to(device, dtype), labels.to(device)) for x, labels in batches]
        with as_found(network), torch.enable_grad():
            network, way = way_of(opened.model, given[0][0], source.timesteps)
            if not network.training:
                network.train()
            torch.manual_seed(source.seed)
            maker = _loss_maker(loss, network, way, given[0][0], len(data.classes))
            seen = _step(network, way, maker, given)
        _check_spikes(opened.name, seen)
        found = worst_first(one for check in CHECKS.values() for one in check.run(seen))
    finally:
        network.to(home)
    return _told(opened.name, data, samples, way, maker, seen, found)


def _batches(source: Source, opened: Opened, samples: int) -> tuple[DataSet, list[tuple[Tensor, Tensor]]]:
    """The data, and two batches of it; of data that is too small for two, one twice."""
    if source.data is None and opened.data is None:
        raise ProbeError(f"{opened.name} comes without images", expected="--data", next_step="pass --data NAME")
    named = source.data if source.data is not None else str(opened.data)
    data = named if isinstance(named, DataSet) else source.open_data(named, source.split)
    if samples < 2:
        raise ProbeError(f"{samples} samples in a batch", expected="at least 2", next_step="pass --samples N")
    count = min(len(data), 2 * samples)
    chosen = choose_samples(data.labels, count, source.seed, what=data.name)
    halves = [chosen[::2], chosen[1::2]] if count == 2 * samples else [chosen[:samples]] * 2
    batches = [(torch.from_numpy(data.load(half)), torch.from_numpy(data.labels[half]).long()) for half in halves]
    return data, batches


def _check_kind(name: str, network: nn.Module) -> None:
    """TorchScript cannot be followed, and an ANN has no surrogates."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise ProbeError(f"{name} is TorchScript, which cannot be followed", expected="a network in Python",
                         next_step="pass the network that was given to torch.jit")  # fmt: skip
    if any(isinstance(module, QCFS) for module in network.modules()):
        raise _is_ann(name, "QCFS")


def _check_spikes(name: str, seen: Evidence) -> None:
    modules = list(seen.network.modules())
    if any(isinstance(one, nn.ReLU) for one in modules) and not any(map(meant_to_spike, modules)):
        found = [one.check for one in surrogates.spikeless(seen)]
        if found:
            raise _is_ann(name, "ReLU")


def _is_ann(name: str, kind: str) -> ProbeError:
    return ProbeError(
        f"{name} is an ANN: nothing in it spikes, its activations are {kind}", expected="a network that spikes",
        next_step="pass one, as in probe gradients net.py:Net --data mnist",
    )  # fmt: skip


def _device_of(network: nn.Module) -> torch.device:
    return next((one.device for one in network.parameters()), torch.device("cpu"))


def _loss_maker(spec: str | Loss | None, network: nn.Module, way: Way, x: Tensor, classes: int) -> LossMaker:
    def run(samples: Tensor) -> Any:
        with as_found(network), torch.no_grad(), runnable(network, samples):
            if way.once and way.reset is not None:
                way.reset()
            return way.run(samples.clone())

    return loss_of(spec, way, run, x, classes)


# ------------------------------------------------------------------------------------------------ one training step


def _step(network: nn.Module, way: Way, maker: LossMaker, batches: list[tuple[Tensor, Tensor]]) -> Evidence:
    """Forward, loss, backward, and what the next batch meets."""
    (x, labels), (next_x, next_labels) = batches
    if way.once and way.reset is not None:
        way.reset()
    with following(network) as follower:
        with runnable(network, x):
            outputs = way.run(x.clone())
        follower.in_loss = True
        loss = maker.make(outputs, labels)
    origin = follower.origin(loss)
    roles = roles_of(follower, len(x))
    for layer in (layer for one in roles for layer in one):
        surrogates.measure(layer)
    nodes = _nodes(loss)
    kept = kept_graphs(network)
    error, failure, failed = "", None, None
    try:
        loss.backward()  # type: ignore[no-untyped-call]
    except Exception as raised:
        error = " ".join(str(raised).split())
        failure = surrogates.failure_of(raised)
        failed = _layer_of(raised, (layer for one in roles for layer in one))
    parameters = tuple(_parameter(name, one, follower) for name, one in network.named_parameters())
    next_batch = None
    if way.once and not error and loss.requires_grad:
        next_batch = _next_batch(network, way, maker, (next_x, next_labels), nodes, kept)
    return Evidence(
        network, way, follower, chosen(roles), parameters, origin, float(loss.detach()), bool(loss.requires_grad),
        error, failure, failed, next_batch,
    )  # fmt: skip


def _parameter(name: str, value: nn.Parameter, follower: Follower) -> Parameter:
    norm = None if value.grad is None else float(torch.linalg.vector_norm(value.grad.float()))
    return Parameter(name, value.requires_grad, bool(follower.used & follower.parameters[name]), norm)


def _layer_of(error: BaseException, layers: Iterable[Layer]) -> int | None:
    """The layer whose Function's backward raised."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        for layer in layers:
            if node is not None and any(call.node is node for call in layer.calls):
                return layer.index
    return None


def _nodes(loss: Tensor) -> dict[Any, None]:
    """Autograd's operations behind a tensor, those that keep what parameters get left out."""
    found: dict[Any, None] = {}
    waiting = [loss.grad_fn] if loss.grad_fn is not None else []
    while waiting:
        node = waiting.pop()
        if node in found or hasattr(node, "variable"):
            continue
        found[node] = None
        waiting.extend(one for one, _ in node.next_functions if one is not None)
    return found


def _next_batch(
    network: nn.Module, way: Way, maker: LossMaker, batch: tuple[Tensor, Tensor], first: dict[Any, None],
    kept: list[tuple[str, str, Tensor]],
) -> NextBatch | None:  # fmt: skip
    """A second batch without a reset: does its graph go back into the first?"""
    x, labels = batch
    before = _counted(kept)
    try:
        loss = maker.make(way.run(x.clone()), labels)
    except Exception:
        # A state that does not fit, or whatever: the first batch says what is wrong with the forward.
        return None
    second = _nodes(loss)
    reached = [node for node in second if node in first]
    through = [(path, name) for path, name, tensor in kept if tensor.grad_fn in second]
    after = _counted(kept_graphs(network))
    grown = {
        key: (count, after[key]) for key, count in before.items()
        if after.get(key, 0) > count and key not in through
    }  # fmt: skip
    error, cured = "", None
    if reached:
        try:
            loss.backward()  # type: ignore[no-untyped-call]
        except RuntimeError as raised:
            error = " ".join(str(raised).split())[:120]
        if way.reset is not None:
            earlier = {**first, **second}
            way.reset()
            again = _nodes(maker.make(way.run(x.clone()), labels))
            cured = not any(node in earlier for node in again)
    return NextBatch(len(reached), tuple(dict.fromkeys(through)), error, cured, grown)


def _counted(kept: list[tuple[str, str, Tensor]]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for path, name, _ in kept:
        counts[path, name] = counts.get((path, name), 0) + 1
    return counts


# ------------------------------------------------------------------------------------------------- what is told


def _told(
    name: str, data: DataSet, samples: int, way: Way, maker: LossMaker, seen: Evidence, found: list[Finding]
) -> dict[str, Any]:
    rows = [
        {
            "index": layer.index, "name": layer.name, "module": layer.module, "calls": len(layer.norms),
            "neurons": layer.neurons, "firing_rate": layer.firing_rate, "spike_height": layer.height,
            "active_share": layer.active_share, "dead_share": flow.dead_share(layer),
            "surrogate": _surrogate(layer), "gradient_norm": layer.norm, "gradient_norms": layer.norms,
        }
        for layer in seen.layers
    ]  # fmt: skip
    parameters = [
        {"name": one.name, "requires_grad": one.required, "used": one.used, "gradient_norm": one.norm}
        for one in seen.parameters
    ]
    told = {
        "schema": "probe-gradients/1", "model": name, "data": data.name, "samples": samples,
        "timesteps": way.timesteps, "run": way.how, "family": way.family or "user", "loss": seen.loss,
        "loss_is": maker.told, "backward": seen.error or "done", "layers": rows, "parameters": parameters,
        "findings": [as_json(one) for one in found], "notes": list(_notes(way, seen)),
    }  # fmt: skip
    plain: dict[str, Any] = _plain(told)
    return plain


def _notes(way: Way, seen: Evidence) -> Iterator[str]:
    if way.stacked and way.reset is not None:
        yield f"the state is reset before each batch; your training loop has to do so too: {way.reset_name}"
    told = {layer for one in graph.cuts(seen) for layer in [one.layer, *one.evidence.get("layers", ())]}
    blind = [
        layer.name for layer in seen.layers
        if layer.name not in told and all(one is None for one in layer.derivatives)
        and not (layer.failures or layer.shapes or layer.calls[0].module)
    ]  # fmt: skip
    if blind and seen.connected and not seen.error:
        yield f"the surrogate was not measured in {listed(blind, 4)}: how its spikes get a gradient was not seen"


def _surrogate(layer: Layer) -> dict[str, Any] | None:
    found = layer.measured
    if found is None:
        return None
    return {"switch": found.switch, "peak": found.peak, "peak_at": found.peak_at, "at_switch": found.at_switch}


def _plain(value: Any) -> Any:
    """Without NaN and infinity, which JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
