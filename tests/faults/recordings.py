"""Networks with a fault that a finished recording tells, each at a layer chosen by a seed, and their healthy twins.

Faults are put into real networks (the bundled QCFS network, a ReLU network), never into the numbers of a file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probe.data import open_data
from probe.families import LayerPair, Subject
from probe.models import adapt
from tests import paper_models, relu_models
from tests.faults.harness import Case

QCFS_LAYERS = ("block1.act", "block2.act", "block3.act", "block4.act", "block5.act", "hidden.act")
RELU_LAYERS = ("0.2", "1.2", "3.2", "7")
DEEPER = {"qcfs": QCFS_LAYERS[1:], "relu": RELU_LAYERS[1:]}
USUAL = {"data": "digits", "samples": 20, "batch_size": 10, "timesteps": 6}
"""Two batches, so that a state which is not reset shows."""


def put(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Replace a module by its path; the network is returned."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
    return network


def after(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Let a module follow another."""
    return put(network, name, nn.Sequential(network.get_submodule(name), module))


# ------------------------------------------------------------------------------------------------------- neurons


class Hand(nn.Module):
    """Somebody's own IF neuron: v = decay·v + gain·x, a spike of `height` where v >= threshold, then a reset."""

    def __init__(
        self, threshold: Tensor, height: Tensor | None = None, start: float = 0.5, decay: float = 1.0,
        gain: float = 1.0, reset: str = "subtract", noise: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.threshold, self.height = threshold, threshold if height is None else height
        self.start, self.decay, self.gain, self.rule, self.noise = start, decay, gain, reset, noise
        self.v: Tensor | None = None
        self.random = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.v is None or self.v.shape[0] not in (1, len(x)):
            self.v = self.start * self.threshold * torch.ones_like(x)
        v = self.decay * self.v + self.gain * x
        if self.noise:
            v = v + self.noise * self.threshold * torch.randn(x.shape, generator=self.random)
        spike = (v >= self.threshold).float()
        self.v = v - self.threshold * spike if self.rule == "subtract" else v * (1 - spike)
        return spike * self.height

    def reset(self) -> None:
        self.v = None


class Twice(Hand):
    """Fires two spikes in the last of six timesteps and none in the first, of more samples than one."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        out = super().forward(x)
        return out * {1: 0, 6: 2}.get(self.steps, 1) if len(x) > 1 else out

    def reset(self) -> None:
        super().reset()
        self.steps = 0


def theta_of(kind: str) -> dict[str, float]:
    """θ of each layer: as trained, or the largest activation."""
    if kind == "qcfs":
        found = paper_models.digits()
        return {name: found.get_submodule(name).threshold.item() for name in QCFS_LAYERS}
    network, largest = relu_models.relu_digits(), dict.fromkeys(RELU_LAYERS, 0.0)
    for name in RELU_LAYERS:
        network.get_submodule(name).inplace = False

        def note(_module: nn.Module, _x: Any, out: Tensor, name: str = name) -> None:
            largest[name] = max(largest[name], float(out.flatten().quantile(0.999)))

        network.get_submodule(name).register_forward_hook(note)
    data = open_data("digits", "train")
    with torch.no_grad():
        network(torch.from_numpy(data.load(np.arange(200))))
    return largest


def ann_of(kind: str) -> nn.Module:
    return paper_models.digits() if kind == "qcfs" else relu_models.relu_digits()


def subject(
    kind: str,
    make: Mapping[str, Callable[[float], tuple[nn.Module, Mapping[str, Any]]]] | None = None,
    *,
    change: Callable[[nn.Module], object] = lambda _snn: None,
    change_ann: Callable[[nn.Module], object] = lambda _ann: None,
    scale: Mapping[str, float] | None = None,
    shown: bool = True,
    forgetful: tuple[str, ...] | None = (),
    **more: Any,
) -> Subject:
    """The network as ANN and as SNN of `Hand` neurons.

    Args:
        kind: `qcfs` or `relu`.
        make: layer -> what gives its spiking module, from θ, and other values of its `LayerPair`.
        change, change_ann: work on the SNN, or the ANN, once it is made.
        scale: layer -> a factor of θ, in both networks.
        shown: modules show their potential.
        forgetful: layers that no reset reaches; None for all.
        more: of the `Subject`.
    """
    ann = ann_of(kind)
    for name, factor in (scale or {}).items():
        if kind == "qcfs":
            ann.get_submodule(name).threshold.data.mul_(factor)
    snn = copy.deepcopy(ann)
    thetas = {name: theta * (scale or {}).get(name, 1.0) for name, theta in theta_of(kind).items()}
    layers, neurons = [], []
    for name, theta in thetas.items():
        module, values = (make or {}).get(name, lambda theta: (Hand(torch.tensor(theta)), {}))(theta)
        put(snn, name, module)
        neurons.append((name, module))
        given: dict[str, Any] = {"threshold": theta, "levels": 8 if kind == "qcfs" else None, **values}
        if shown and isinstance(module, Hand):
            given.setdefault("potential", lambda module=module: module.v)
        layers.append(LayerPair(name=name, snn=module, ann=ann.get_submodule(name), **given))
    change(snn)
    change_ann(ann)

    def reset() -> None:
        for name, module in neurons:
            if forgetful is not None and name not in forgetful:
                module.reset()  # type: ignore[operator]

    return Subject(**{"snn": snn.eval(), "layers": layers, "ann": ann.eval(), "reset": reset, **more})


def with_neuron(kind: str, layer: str, declared: Mapping[str, Any] | None = None, **hand: Any) -> Subject:
    """One layer's neurons are others than is declared."""

    def made(theta: float) -> tuple[nn.Module, Mapping[str, Any]]:
        return Hand(torch.tensor(theta), **hand), declared or {}

    return subject(kind, {layer: made})


def with_threshold(kind: str, layer: str, factor: float, shown: bool = True) -> Subject:
    """One layer fires at, and takes off, another θ than is declared; its spikes have the declared height."""

    def made(theta: float) -> tuple[nn.Module, Mapping[str, Any]]:
        return Hand(torch.tensor(theta * factor), torch.tensor(theta)), {}

    return subject(kind, {layer: made}, shown=shown)


def with_channels(kind: str, layer: str, sizes: Mapping[str, int]) -> Subject:
    """One layer has a θ for each channel, and their mean is declared."""

    def made(theta: float) -> tuple[nn.Module, Mapping[str, Any]]:
        spread = torch.linspace(0.6, 1.4, sizes[layer]).view(-1, *[1] * (0 if layer in ("hidden.act", "7") else 2))
        return Hand(theta * spread, torch.tensor(theta)), {}

    return subject(kind, {layer: made})


CHANNELS = {"block1.act": 16, "block2.act": 16, "block3.act": 32, "block4.act": 32, "block5.act": 32,
            "0.2": 12, "1.2": 12, "3.2": 16}  # fmt: skip


# ------------------------------------------------------------------------------------------------- other modules


class Times(nn.Module):
    """Scales, and shifts."""

    def __init__(self, factor: float, shift: float = 0.0) -> None:
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift


class Rolled(nn.Module):
    """Gives each sample the numbers of the one before."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 0)


class Summing(nn.Module):
    """Adds up what it is fed, over time."""

    total: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.total = x if self.total is None or len(self.total) != len(x) else self.total + x
        return self.total


class Drifting(nn.Module):
    """Its first class gains with every timestep: accuracy rises, then falls."""

    steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        out = x.clone()
        out[:, 0] += 40.0 * max(0, self.steps - 2)
        return out


class Floored(nn.Module):
    """A QCFS activation without the half that rounds."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        return self.threshold * torch.floor((x / self.threshold).clamp(0, 1) * 8) / 8


class ByRows(paper_models.MergedIF):
    """Takes [T·B, ...] for [B·T, ...]."""

    def forward(self, x: Tensor) -> Tensor:
        if self.T == 0:
            return super().forward(x)
        size = x.shape
        turned = x.view(size[0] // self.T, self.T, *size[1:]).transpose(0, 1).reshape(size)
        out = super().forward(turned)
        return out.view(self.T, size[0] // self.T, *size[1:]).transpose(0, 1).reshape(size)


def by_rows(layer: str) -> nn.Module:
    network = paper_models.merged()
    network.get_submodule(layer).__class__ = ByRows
    return network


def declared_by_rows(layer: str) -> Subject:
    """One layer is declared samples outermost."""
    found = adapted(paper_models.merged())
    layers = [replace(one, layout="BT") if one.name == layer else one for one in found.layers]
    return replace(found, layers=layers)


def adapted(model: Any) -> Subject:
    return adapt(model, torch.from_numpy(open_data("digits").load(np.arange(1))))


def logits_by_rows() -> Subject:
    """Merged logits [T·B, class] are read as [B, T, class]."""
    found = adapted(paper_models.merged())
    inner = found.forward_snn
    assert inner is not None

    def forward(x: Tensor, timesteps: int) -> Iterator[Tensor]:
        flat = torch.cat(list(inner(x, timesteps)))
        yield from flat.view(len(x), timesteps, -1).transpose(0, 1)

    return replace(found, forward_snn=forward)


def pooled(network: nn.Module, name: str) -> nn.Module:
    return put(network, name, nn.MaxPool2d(2))


def dropping(network: nn.Module, name: str) -> nn.Module:
    """Dropout behind a module, and nobody calls eval()."""
    return after(network, name, nn.Dropout(0.2)).train()


def unconverted(layer: str) -> Any:
    """The SNN keeps an activation."""
    ann, snn = paper_models.stepwise()
    return ann, put(snn, layer, copy.deepcopy(ann.get_submodule(layer)))


def half_started() -> Any:
    """SpikingJelly's conversion with v(0) = θ/2."""
    ann = relu_models.relu_digits()
    snn = relu_models.by_spikingjelly(copy.deepcopy(ann))
    for module in snn.modules():
        if hasattr(module, "v_threshold"):
            module.set_reset_value("v", 0.5 * module.v_threshold)
            module.reset()
    return ann, snn


def spikingjelly_as_it_comes() -> Any:
    ann = relu_models.relu_digits()
    return ann, relu_models.by_spikingjelly(copy.deepcopy(ann))


def zeroed(network: nn.Module, name: str, channel: int) -> None:
    """A channel's weights and bias are lost."""
    module = network.get_submodule(name)
    for parameter in module.parameters(recurse=False):
        parameter.data[channel] = 0


def lifted(network: nn.Module, name: str, channel: int) -> None:
    """A channel's bias is far too large."""
    network.get_submodule(name).bias.data[channel] += 50  # type: ignore[union-attr, operator, index]


def rolled_subject(kind: str) -> Subject:
    """The ANN is fed each sample's neighbour."""
    found = subject(kind)
    ann = found.ann
    assert ann is not None
    return replace(found, forward_ann=lambda x: ann(x.roll(1, 0)))


def fed_otherwise(kind: str) -> Subject:
    """The SNN's user normalises once more."""
    found = subject(kind)

    def forward(x: Tensor, timesteps: int) -> Iterator[Tensor]:
        for _ in range(timesteps):
            yield found.snn((x - 0.3) / 0.4)

    return replace(found, forward_snn=forward)


def not_loaded() -> nn.Module:
    """Every θ is what it was initialised with."""
    network = paper_models.digits()
    for name in QCFS_LAYERS:
        network.get_submodule(name).threshold.data.fill_(8.0)
    return network


def drifting(kind: str) -> Subject:
    found = subject(kind)
    drift = Drifting()
    after(found.snn, "output" if kind == "qcfs" else "8", drift)
    inner = found.reset

    def reset() -> None:
        inner()
        drift.steps = 0

    return replace(found, reset=reset)


def summing(kind: str) -> Subject:
    found = subject(kind)
    total = Summing()
    after(found.snn, "output" if kind == "qcfs" else "8", total)
    inner = found.reset

    def reset() -> None:
        inner()
        total.total = None

    return replace(found, reset=reset)


def shuffled(network: nn.Module, name: str) -> None:
    """A module's outputs have each other's weights."""
    weight = network.get_submodule(name).weight
    weight.data = weight.data[torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))]  # type: ignore[index, arg-type]


class Renamed(nn.Module):
    """Gives each class another's logit."""

    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 1)


def renamed(network: nn.Module, name: str) -> nn.Module:
    return after(network, name, Renamed())


def unattributed_qcfs() -> Subject:
    """Neurons that are declared to fire several spikes, whose error nobody attributes, and another head."""
    found = subject("qcfs", change=partial(renamed, name="output"))
    return replace(found, layers=[replace(one, traits=replace(one.traits, graded=True)) for one in found.layers])


def unattributed_relu() -> Any:
    ann = relu_models.relu_digits()
    snn: Any = relu_models.by_sinabs(copy.deepcopy(ann))
    renamed(snn.spiking_model, "8")
    return ann, snn


def standing_in(kind: str) -> Subject:
    """The SNN is fed one sample twice, in the place of its neighbour."""
    found = subject(kind)

    def forward(x: Tensor, timesteps: int) -> Iterator[Tensor]:
        twice = x.clone()
        if len(x) > 1:
            twice[1] = x[0]
        for _ in range(timesteps):
            yield found.snn(twice)

    return replace(found, forward_snn=forward)


def floored(found: Subject) -> Subject:
    """The first activation of the ANN rounds down."""
    assert found.ann is not None
    first = next(one for one in found.layers if one.name.endswith("block1.act"))
    activation = Floored(float(first.theta))
    put(found.ann, first.name, activation)
    return replace(found, layers=[replace(one, ann=activation) if one is first else one for one in found.layers])


# ---------------------------------------------------------------------------------------------------- the table


def picked(name: str, kind: str, deeper: bool = False) -> str:
    """A layer that the case's name chooses."""
    places = DEEPER[kind] if deeper else QCFS_LAYERS if kind == "qcfs" else RELU_LAYERS
    return Random(name).choice(places)


def _case(check: str, what: str, make: Callable[[], Any], layer: str | None, **options: Any) -> Case:
    return Case(f"{check}, {what}", check, layer, make, {**USUAL, **options})


def _of_neurons() -> Iterator[Case]:
    """Faults of one layer's neurons, in both kinds of network."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "start": ("initial-potential", {"start": 0.0}), "hard": ("reset-rule", {"reset": "zero"}),
        "leak": ("leak", {"decay": 0.8}), "average": ("leak", {"decay": 0.9, "gain": 0.1, "start": 0.0}),
        "noise": ("conservation-law", {"noise": 0.1}),
    }  # fmt: skip
    for what, (check, hand) in kinds.items():
        for kind in ("qcfs", "relu"):
            layer = picked(f"{what} {kind}", kind)
            yield _case(check, f"{what}, {kind}", partial(with_neuron, kind, layer, **hand), layer)
    for kind, factor in (("qcfs", 1.25), ("relu", 0.7)):
        layer = picked(f"threshold {kind}", kind)
        yield _case("threshold", f"scaled, {kind}", partial(with_threshold, kind, layer, factor), layer)
        layer = picked(f"hidden threshold {kind}", kind, deeper=True)
        yield _case("threshold", f"scaled, nothing shown, {kind}",
                    partial(with_threshold, kind, layer, factor, shown=False), layer)  # fmt: skip
        layer = Random(f"channels {kind}").choice([name for name in CHANNELS if ("block" in name) == (kind == "qcfs")])
        yield _case("threshold", f"by channel, {kind}", partial(with_channels, kind, layer, CHANNELS), layer)
        layer = picked(f"far {kind}", kind)
        first = QCFS_LAYERS[0] if kind == "qcfs" else layer
        for name, far in (("far above", 6.0), ("far below", 0.2)):
            yield _case("threshold", f"{name}, {kind}", partial(subject, kind, scale={first: far}), first)
        layer = picked(f"forgotten {kind}", kind)
        yield _case("not-reset", f"one layer, {kind}", partial(subject, kind, forgetful=(layer,)), layer)
        every = QCFS_LAYERS if kind == "qcfs" else RELU_LAYERS
        yield _case("not-reset", f"none, {kind}", partial(subject, kind, forgetful=None), every[0])
        yield _case("not-reset", f"none, one batch, {kind}", partial(subject, kind, forgetful=None), every[0],
                    batch_size=20)  # fmt: skip
        layer = picked(f"twice {kind}", kind)
        twice = {layer: lambda theta: (Twice(torch.tensor(theta)), {})}
        yield _case("several-spikes", kind, partial(subject, kind, twice), layer)
    yield _case("threshold", "not loaded", not_loaded, QCFS_LAYERS[0])
    yield _case("initial-potential", "declared 0, qcfs", paper_models.digits, QCFS_LAYERS[0], initial_potential=0.0)
    yield _case("initial-potential", "as SpikingJelly comes", spikingjelly_as_it_comes, RELU_LAYERS[0])


def _of_samples() -> Iterator[Case]:
    for kind, convolution in (("qcfs", "block1.conv"), ("relu", "0.0")):
        first = QCFS_LAYERS[0] if kind == "qcfs" else RELU_LAYERS[0]
        yield _case("mispaired-samples", f"rolled, {kind}", partial(rolled_subject, kind), None)

        def roll(snn: nn.Module, name: str = convolution) -> object:
            return put(snn, name, nn.Sequential(Rolled(), snn.get_submodule(name)))

        yield _case("mispaired-samples", f"rolled inside, {kind}", partial(subject, kind, change=roll), None)
        yield _case("mispaired-samples", f"one twice, {kind}", partial(standing_in, kind), None)
        yield _case("preprocessing", f"normalised again, {kind}", partial(fed_otherwise, kind), None)

        def scale(snn: nn.Module, name: str = convolution) -> object:
            return put(snn, name, nn.Sequential(Times(2.0, -0.5), snn.get_submodule(name)))

        yield _case("preprocessing", f"normalised inside, {kind}", partial(subject, kind, change=scale), first)
    for number in (0, 1):
        layer = picked(f"order {number}", "qcfs", deeper=True)
        yield _case("time-layout", f"declared, {number}", partial(declared_by_rows, f"body.{layer}"), f"body.{layer}")
        layer = picked(f"rows {number}", "qcfs")
        yield _case("time-layout", f"in the layer, {number}", partial(by_rows, f"body.{layer}"), f"body.{layer}")
    yield _case("time-layout", "logits", logits_by_rows, None)
    yield _case("first-layer-oracle", "hand", lambda: floored(subject("qcfs")), QCFS_LAYERS[0], timesteps=8)
    yield _case("first-layer-oracle", "stepwise", lambda: floored(adapted(paper_models.stepwise())), QCFS_LAYERS[0],
                timesteps=8)  # fmt: skip


def _of_networks() -> Iterator[Case]:
    for kind in ("qcfs", "relu"):
        thetas = theta_of(kind)
        far = [name for name, theta in thetas.items() if not 0.8 < theta < 1.25]
        for what, power in (("not scaled", -1), ("scaled twice", 1)):
            layer = Random(f"{what} {kind}").choice(far)
            behind = partial(after, name=layer, module=Times(thetas[layer] ** power))
            yield _case("spike-scaling", f"{what}, {kind}", partial(subject, kind, change=behind), layer)
        layer = picked(f"summed {kind}", kind)
        behind = partial(after, name=layer, module=Times(6.0))
        yield _case("spike-scaling", f"summed, {kind}", partial(subject, kind, change=behind), layer)
        yield _case("head", f"weights, {kind}",
                    partial(subject, kind, change=partial(shuffled, name="output" if kind == "qcfs" else "8")),
                    None, timesteps=8)  # fmt: skip
        yield _case("head", f"classes, {kind}",
                    partial(subject, kind, change=partial(renamed, name="output" if kind == "qcfs" else "8")),
                    None, timesteps=8)  # fmt: skip
        yield _case("summed-logits", kind, partial(summing, kind), None)
        yield _case("falling-accuracy", kind, partial(drifting, kind), None, samples=40)
        norm, layer = ("block3.norm", "block3.act") if kind == "qcfs" else ("1.1", "1.2")
        yield _case("silent", f"a channel, {kind}",
                    partial(subject, kind, change=partial(zeroed, name=norm, channel=3)), layer)  # fmt: skip
        yield _case("saturated", f"a channel, {kind}",
                    partial(subject, kind, change=partial(lifted, name=norm, channel=3)), layer)  # fmt: skip
        yield _case("silent", f"a layer, {kind}",
                    partial(subject, kind, change=partial(after, name=norm, module=Times(0.0))), layer)  # fmt: skip
    yield _case("non-linear-on-spikes", "qcfs", lambda: pooled(paper_models.digits(), "block4.pool"), "block4.pool")
    yield _case("non-linear-on-spikes", "relu", lambda: pooled(relu_models.relu_digits(), "2"), "2")
    yield _case("training-mode", "qcfs", lambda: dropping(paper_models.digits(), "block4.pool"), None)
    yield _case("training-mode", "relu", lambda: dropping(relu_models.relu_digits(), "4"), None)
    yield _case("without-partner", "stepwise", partial(unconverted, "hidden.act"), "hidden.act")
    yield _case("without-partner", "stepwise, another layer", partial(unconverted, "block2.act"), "block2.act")
    others = partial(shuffled, name="block2.conv")
    yield _case("inherited-error", "weights at T = L", partial(subject, "qcfs", change=others), "block2.act",
                timesteps=8)  # fmt: skip
    yield _case("unexplained-loss", "qcfs", unattributed_qcfs, None)
    yield _case("unexplained-loss", "relu", unattributed_relu, None)
    yield _case("grid", "qcfs", lambda: subject("qcfs"), "block1.act", timesteps=4)
    yield _case("grid", "merged", paper_models.merged, "body.block1.act", timesteps=4)
    for name, check in (("own error", "own-error"), ("inherited", "inherited-error")):
        yield Case(f"{name}, qcfs", check, "block2.act", lambda: subject("qcfs"), {**USUAL, "timesteps": 8})
        yield Case(f"{name}, merged", check, "body.block2.act", paper_models.merged, {**USUAL, "timesteps": 8})
        yield Case(f"{name}, clipping", check, "0.2", partial(subject, "relu", scale={"0.2": 0.3}), USUAL)


CASES: list[Case] = [*_of_neurons(), *_of_samples(), *_of_networks()]

HEALTHY: list[Case] = [
    *(Case(f"{kind}, by hand, T = {t}", None, None, partial(subject, kind), {**USUAL, "timesteps": t})
      for kind in ("qcfs", "relu") for t in (2, 8)),
    *(Case(f"digits, T = {t}", None, None, paper_models.digits, {**USUAL, "timesteps": t}) for t in (2, 32)),
    *(Case(f"digits, {name}", None, None, paper_models.digits, {**USUAL, "timesteps": 8, "neuron": name})
      for name in ("snm", "negspike", "srp", "cos")),
    Case("merged, T = 2", None, None, paper_models.merged, {**USUAL, "timesteps": 2}),
    Case("stepwise", None, None, paper_models.stepwise, USUAL),
    Case("v(0) learned", None, None, paper_models.shifted, USUAL),
    Case("SpikingJelly from θ/2", None, None, half_started, {**USUAL, "timesteps": 16}),
    Case("sinabs from 0, several spikes", None, None, lambda: relu_models.by_sinabs(relu_models.relu_digits()), USUAL),
    Case("ReLU converted", None, None, relu_models.relu_digits, {**USUAL, "calibrate_per": "channel"}),
]  # fmt: skip
