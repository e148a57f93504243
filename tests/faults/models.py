"""Networks with a fault that stops a capture or that only live networks show, each at a layer chosen by a seed.

Every fault is put into at least two networks, of several families where there are such; `HEALTHY` holds the same
networks, and others, as they should be.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import torch
from spikingjelly.activation_based import functional as sj_functional
from torch import Tensor, nn
from torch.nn import functional

from probe.data import open_data
from probe.families import Subject
from probe.models import adapt
from probe.neurons import IF
from tests import paper_models, relu_models
from tests.faults import recordings
from tests.faults.harness import Case
from tests.paper_models import CosLayer, MergedIF, MyFloor, ScaledNeuron, SrpLayer

BLOCKS = ("block1", "block2", "block3", "block4", "block5")
"""The convolutional blocks of the bundled network, each with `conv`, `norm`, `act`; `hidden` follows."""
RECTIFIED = ("0.2", "1.2", "3.2", "7")
"""The ReLUs of `relu_models.relu_digits`."""


def pick(name: str, places: tuple[str, ...] = BLOCKS) -> str:
    """A place that the case's name chooses."""
    return Random(name).choice(places)


def put(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Replace a module by its path; the network is returned."""
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module.train(network.training))
    return network


def after(network: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Let a module follow another."""
    return put(network, name, nn.Sequential(network.get_submodule(name), module))


def subject_of(model: Any) -> Subject:
    return adapt(model, torch.from_numpy(open_data("digits").load([0])))


# -------------------------------------------------------------------------------------------- modules at fault


class Finer(MyFloor):
    """Says that it has L levels, and has another number."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.floor(x / self.up * (self.t - 1) + 0.5) / (self.t - 1), 0, 1) * self.up


class FinerMerged(MergedIF):
    def forward(self, x: Tensor) -> Tensor:
        if self.T:
            return super().forward(x)
        return torch.floor(torch.clamp(x / self.thresh, 0, 1) * (self.L - 1) + 0.5) / (self.L - 1) * self.thresh


class Scaled(nn.Module):
    """The outputs of another module as an SNN, times a factor."""

    def __init__(self, inner: Any, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.factor


def scaled_stepwise(place: str, factor: float) -> Any:
    """One neuron's spikes, times a factor."""
    ann, snn = paper_models.stepwise()
    act = snn.get_submodule(f"{place}.act")
    plain = act.forward
    act.forward = lambda x: plain(x) * factor  # type: ignore[method-assign]
    return ann, snn


def scaled_merged(place: str, factor: float) -> nn.Module:
    network = paper_models.merged()
    act = network.get_submodule(f"body.{place}.act")
    plain = act.forward
    act.forward = lambda x: plain(x) * (factor if act.T else 1)  # type: ignore[method-assign]
    return network


def smooth(place: str) -> Any:
    """A sigmoid in place of a spike."""
    ann, snn = paper_models.stepwise()
    act = snn.get_submodule(f"{place}.act")
    act.forward = lambda x: torch.sigmoid(10 * (x - act.scale))  # type: ignore[method-assign]
    return ann, snn


def threshold_of(place: str) -> float:
    """θ of a layer of the bundled network."""
    theta: float = paper_models.digits().get_submodule(f"{place}.act").threshold.item()
    return theta


def not_positive(make: Callable[[], Any], place: str, attribute: str, theta: float) -> Any:
    model = make()
    module: Any = (model[1] if isinstance(model, tuple) else model).get_submodule(place)
    value = getattr(module, attribute)
    if isinstance(value, Tensor):
        value.data.fill_(theta)
    else:
        setattr(module, attribute, theta)
    return model


def other_threshold(place: str, factor: float) -> Any:
    ann, snn = paper_models.stepwise()
    ann.get_submodule(f"{place}.act").up.data.mul_(factor)
    return ann, snn


def other_scaler(place: str) -> Any:
    """SpikingJelly's second scaler is not the inverse of the first."""
    ann = relu_models.relu_digits()
    snn = relu_models.by_spikingjelly(ann)
    snn.get_submodule(place).scaler1.scale.mul_(1.5)
    return ann, snn


def other_levels(place: str) -> Any:
    ann, snn = paper_models.stepwise()
    old = ann.get_submodule(f"{place}.act")
    return put(ann, f"{place}.act", Finer(old.up.item(), old.t)), snn


def other_levels_merged(place: str) -> nn.Module:
    network = paper_models.merged()
    old = network.get_submodule(f"body.{place}.act")
    return put(network, f"body.{place}.act", FinerMerged(old.L, old.thresh.item()))


def negative(place: str) -> Subject:
    """An activation that is none: the ANN's partner is a leaky ReLU."""
    ann, snn = paper_models.stepwise()
    put(ann, f"{place}.act", nn.LeakyReLU())
    whole = subject_of(paper_models.stepwise())
    layers = [replace(layer, ann=ann.get_submodule(layer.name), levels=None if place in layer.name else layer.levels)
              for layer in subject_of((paper_models.stepwise_ann(), snn)).layers]  # fmt: skip
    return replace(whole, ann=ann, snn=snn, layers=layers, reset=subject_of((paper_models.stepwise_ann(), snn)).reset)


def shared(model: Any, pair: tuple[str, str], prefix: str = "") -> Any:
    """Two places have one module."""
    for network in model if isinstance(model, tuple) else (model,):
        put(network, f"{prefix}{pair[1]}.act", network.get_submodule(f"{prefix}{pair[0]}.act"))
    return model


class Passing(nn.Module):
    """A block whose activation is there, and is not called."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        for name, child in block.named_children():
            setattr(self, name, child)
        self.steps = [name for name, _ in block.named_children() if name != "act"]

    def forward(self, x: Tensor) -> Tensor:
        for name in self.steps:
            x = getattr(self, name)(x)
        return x


class Idle(Passing):
    """A block whose convolution is there, and is not called; the sizes are equal without it."""

    def __init__(self, block: Any) -> None:
        super().__init__(block)
        self.steps = [name for name, _ in block.named_children() if name != "conv"]


def passing(place: str) -> Any:
    ann, snn = paper_models.stepwise()
    return ann, put(snn, place, Passing(snn.get_submodule(place)))


def passing_merged(place: str) -> nn.Module:
    network = paper_models.merged()
    return put(network, f"body.{place}", Passing(network.get_submodule(f"body.{place}")))


def idle(place: str) -> Any:
    ann, snn = paper_models.stepwise()
    return ann, put(snn, place, Idle(snn.get_submodule(place)))


def mispaired(model: Any, one: str, other: str) -> Subject:
    """A layer's partner is another layer's, of another shape."""
    subject = subject_of(model)
    partner = next(layer.ann for layer in subject.layers if other in layer.name)
    return replace(subject, layers=[replace(layer, ann=partner) if one in layer.name else layer
                                    for layer in subject.layers if other not in layer.name])  # fmt: skip


def not_finite(model: Any, conv: str) -> Any:
    """A weight of the ANN is not finite, and so is the SNN's, for it has been copied."""
    for network in model if isinstance(model, tuple) else (model,):
        network.get_submodule(conv).weight.data.view(-1)[3] = float("nan")
    return model


def modes_mixed(place: str) -> Any:
    ann = relu_models.relu_digits()
    snn = relu_models.by_spikingjelly(ann)
    snn.get_submodule(place).if_node.step_mode = "m"
    return ann, snn


class AsDict(nn.Module):
    """Gives its logits in a mapping."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": x}


class Halved(nn.Module):
    """Gives half of the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5]


def ending(model: Any, last: nn.Module) -> Any:
    """Another end of the SNN, or of both networks where there is one."""
    if isinstance(model, tuple):
        return model[0], after(model[1], "output", last)
    return after(model, "body.output", last)


def other_channels(model: Any) -> Any:
    """A network for colour images."""
    for network in model if isinstance(model, tuple) else (model,):
        for name, module in list(network.named_modules()):
            if isinstance(module, nn.Conv2d) and module.in_channels == 1:
                put(network, name, nn.Conv2d(3, module.out_channels, 3, padding=1))
    return model


def lengths_differ(make: Callable[[float], nn.Module], place: str) -> Any:
    snn = paper_models.swapped(lambda q: make(float(q.threshold)))
    snn.get_submodule(f"{place}.act").sim_len = 6
    return paper_models.stepwise_ann(), snn.eval()


def laid_out(model: Any, layout: str) -> Subject:
    subject = subject_of(model)
    return replace(subject, layers=[replace(layer, layout=layout) for layer in subject.layers])


class Restless(nn.Module):
    """An encoder whose output drifts over the four timesteps, in a batch of several samples."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return x
        self.calls += 1
        return x + 0.1 * (self.calls % 4)


def restless(model: Any, name: str) -> Any:
    after(model[1], name, Restless())
    return model


class Dropping(nn.Module):
    """Functional dropout that forgets to ask for the mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p)


class Stubborn(nn.Dropout):
    """Dropout that stays active, as Monte Carlo dropout does."""

    def train(self, mode: bool = True) -> Stubborn:
        self.training = True
        return self


def dropping(model: Any, name: str, module: nn.Module) -> Any:
    """Dropout before an activation, in both networks."""
    for network in model if isinstance(model, tuple) else (model,):
        after(network, name, copy.deepcopy(module))
        network.eval()
    return model


class Kept(ScaledNeuron):
    """Its reset begins the count of steps anew, and keeps the potential."""

    def forward(self, x: Tensor) -> Tensor:
        x = x / self.scale
        if self.t == 0 and not isinstance(self.neuron.v, Tensor):
            self.neuron(torch.full_like(x, 0.5))
        self.t += 1
        return self.neuron(x) * self.scale

    def reset(self) -> None:
        self.t = 0


def kept(place: str) -> Any:
    ann, snn = paper_models.stepwise()
    return ann, put(snn, f"{place}.act", Kept(snn.get_submodule(f"{place}.act").scale))


def kept_by_spikingjelly(place: str) -> Any:
    ann = relu_models.relu_digits()
    snn = relu_models.by_spikingjelly(ann)
    snn.get_submodule(place).if_node.reset = lambda: None
    return ann, snn


def unreset(model: Any) -> Subject:
    """A subject of one's own that forgets to reset."""
    return replace(subject_of(model), reset=lambda: None)


class Smoothing(nn.Module):
    """A trace of what passed, which nothing resets."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0, keepdim=True).detach()
        self.trace = 0.5 * self.trace + 0.5 * mean
        return x + 0.3 * self.trace


def kept_shape(kind: str, place: str) -> Subject:
    """One layer's reset is forgotten, and its potential has room for as many samples as the first run had."""
    forgotten: Any = {place: lambda theta: (IF(theta), {})}
    return recordings.subject(kind, forgotten, forgetful=(place,))


def other_weights(model: Any, path: str) -> Any:
    """A weight of the SNN is not the ANN's."""
    weight = (model.snn if isinstance(model, Subject) else model[1]).get_submodule(path).weight
    weight.data = weight.data.flip(0)
    return model


def smoothed(model: Any, name: str) -> Any:
    after(model[1], name, Smoothing())
    return model


class Centred(nn.Module):
    """Takes the mean over the batch off."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True) * 0.5


def by_batch(model: Any, prefix: str, place: str) -> Any:
    """Batch norm without running statistics."""
    for network in model if isinstance(model, tuple) else (model,):
        old = network.get_submodule(f"{prefix}{place}.norm")
        new = nn.BatchNorm2d(old.num_features, track_running_stats=False)
        new.load_state_dict({"weight": old.weight, "bias": old.bias})
        put(network, f"{prefix}{place}.norm", new)
    return model


def centred(model: Any, name: str) -> Any:
    for network in model if isinstance(model, tuple) else (model,):
        after(network, name, Centred())
    return model


# --------------------------------------------------------------------------------------------------- the cases


def spikingjelly(mode: str = "s", convert: Callable[..., nn.Module] = relu_models.by_spikingjelly) -> Any:
    ann = relu_models.relu_digits()
    snn = convert(ann)
    sj_functional.set_step_mode(snn, mode)
    return ann, snn


half = partial(relu_models.by_spikingjelly, channel_wise=True, half_threshold=True)
"""With v(0) = θ/2: from 0, as without it, the counts are rounded down, and a diagnosis rightly says so."""
SPIKING_NAMES = {"0.2": "0.spiking_0", "1.2": "1.spiking_0", "3.2": "3.spiking_0", "7": "spiking_0"}
"""ReLU -> what SpikingJelly puts in its place."""


def _cases() -> list[Case]:
    made: list[Case] = []

    def add(
        check: str, kind: str, make: Callable[[str], Any], layer: str | None = "{}.act",
        places: tuple[str, ...] = BLOCKS, **options: Any,
    ) -> None:  # fmt: skip
        name = f"{check}, {kind}"
        place = pick(name, places)
        named = None if layer is None else layer.format(place)
        made.append(Case(name, check, named, partial(make, place), options))

    def sj(place: str) -> str:
        return SPIKING_NAMES[place]

    add(
        "threshold-not-positive",
        "merged",
        lambda p: not_positive(paper_models.merged, f"body.{p}.act", "thresh", -0.3),
        "body.{}.act",
    )
    add("threshold-not-positive", "stepwise", lambda p: not_positive(paper_models.stepwise, f"{p}.act", "scale", 0.0))
    add("threshold-not-positive", "ANN", lambda p: not_positive(paper_models.stepwise_ann, f"{p}.act", "up", -1.0))
    add("threshold-differs", "stepwise", lambda p: other_threshold(p, 1.01))
    add("threshold-differs", "stepwise, not loaded", lambda p: other_threshold(p, 3.0))
    # A chain is met before it is paired.
    place = pick("threshold-differs, spikingjelly", RECTIFIED)
    made.append(
        Case("threshold-differs, spikingjelly", "threshold-differs", sj(place), partial(other_scaler, sj(place)))
    )
    add("levels-differ", "stepwise", other_levels)
    add("levels-differ", "merged", other_levels_merged, "body.{}.act")
    add("no-activation", "subject", negative)
    add("no-activation", "another layer", negative)
    add("not-spikes", "stepwise, without θ", lambda p: scaled_stepwise(p, 1 / threshold_of(p)))
    add("not-spikes", "merged, without θ", lambda p: scaled_merged(p, 1 / threshold_of(p)), "body.{}.act")
    add("not-spikes", "sigmoid", smooth)
    add("several-spikes", "stepwise", lambda p: scaled_stepwise(p, 2.0))
    add("several-spikes", "merged", lambda p: scaled_merged(p, 3.0), "body.{}.act")
    twins = ("block1", "block3")
    after_it = {"block1": "block2", "block3": "block4"}
    add(
        "called-twice",
        "merged",
        lambda p: shared(paper_models.merged(), (p, after_it[p]), "body."),
        "body.{}.act",
        twins,
    )
    add("called-twice", "stepwise", lambda p: shared(paper_models.stepwise(), (p, after_it[p])), places=twins)
    add("called-twice", "ANN", lambda p: shared(paper_models.stepwise_ann(), (p, after_it[p])), places=twins)
    add("never-called", "merged", passing_merged, "body.{}.act")
    add("never-called", "stepwise", passing)
    add("shapes-differ", "merged", lambda p: mispaired(paper_models.merged(), p, "hidden"), "body.{}.act")
    add("shapes-differ", "stepwise", lambda p: mispaired(paper_models.stepwise(), p, "hidden"))
    add("not-finite", "merged", lambda p: not_finite(paper_models.merged(), f"body.{p}.conv"), "body.{}.act")
    add("not-finite", "stepwise", lambda p: not_finite(paper_models.stepwise(), f"{p}.conv"))
    add("not-finite", "ReLU", lambda p: not_finite(relu_models.relu_digits(), f"{p[0]}.0"), "{}", RECTIFIED[:3])
    add("modes-mixed", "spikingjelly", lambda p: modes_mixed(sj(p)), None, RECTIFIED)
    add("modes-mixed", "spikingjelly, another layer", lambda p: modes_mixed(sj(p)), None, RECTIFIED)
    add("logits-shape", "merged", lambda _: ending(paper_models.merged(), AsDict()), None)
    add("logits-shape", "stepwise", lambda _: ending(paper_models.stepwise(), Halved()), None)
    add("not-runnable", "merged", lambda _: other_channels(paper_models.merged()), None)
    add("not-runnable", "stepwise", lambda _: other_channels(paper_models.stepwise()), None)
    add("timesteps-differ", "SRP", lambda p: lengths_differ(lambda theta: SrpLayer(theta, 4, 4), p), None)
    add("timesteps-differ", "COS", lambda p: lengths_differ(lambda theta: CosLayer(theta, 4, 4, 50), p), None)
    add("time-layout", "merged", lambda _: laid_out(paper_models.merged(), "T,B"), None)
    add("time-layout", "COS", lambda _: laid_out(paper_models.cos(4, 4), "B,T"), None)
    add("input-changes", "stepwise", lambda _: restless(paper_models.stepwise(), "block1.conv"), "block1.act")
    add("input-changes", "spikingjelly", lambda _: restless(spikingjelly(), "0.0"), "0.2")
    add("random", "merged", lambda p: dropping(paper_models.merged(), f"body.{p}.norm", Dropping(0.2)), "body.{}.act")
    add("random", "stepwise", lambda p: dropping(paper_models.stepwise(), f"{p}.conv", Stubborn(0.1)))
    add(
        "random",
        "ReLU",
        lambda p: dropping(relu_models.relu_digits(), f"{p[0]}.0", Dropping(0.05)),
        "{}",
        RECTIFIED[:3],
    )
    add("random", "ANN", lambda p: dropping(paper_models.digits(), f"{p}.conv", Stubborn(0.02)))
    add("not-reset", "stepwise", kept)
    add("not-reset", "spikingjelly", lambda p: kept_by_spikingjelly(sj(p)), "{}", RECTIFIED)
    add("not-reset", "subject", lambda _: unreset(paper_models.stepwise()), "block1.act")
    add("not-reset", "a trace", lambda p: smoothed(paper_models.stepwise(), f"{p}.conv"))
    add("not-reset", "its shape, QCFS", lambda p: kept_shape("qcfs", f"{p}.act"))
    add("not-reset", "its shape, ReLU", lambda p: kept_shape("relu", p), "{}", RECTIFIED)
    add("weights-differ", "stepwise", lambda p: other_weights(paper_models.stepwise(), f"{p}.conv"))
    add("weights-differ", "head", lambda _: other_weights(paper_models.stepwise(), "output"), None)
    add("weights-differ", "ReLU", lambda p: other_weights(recordings.subject("relu"), f"{p[0]}.0"), "{}", RECTIFIED[:3])
    add("batch-dependent", "merged", lambda p: by_batch(paper_models.merged(), "body.", p), "body.{}.act")
    add("batch-dependent", "stepwise", lambda p: by_batch(paper_models.stepwise(), "", p))
    add("batch-dependent", "ReLU", lambda p: centred(relu_models.relu_digits(), f"{p[0]}.0"), "{}", RECTIFIED[:3])
    add("skipped", "stepwise", idle, None, ("block2", "block5"))
    add("skipped", "stepwise, another layer", idle, None, ("block4", "block5"))
    return made


CASES: list[Case] = _cases()


def converted(neuron: str) -> Case:
    return Case(f"digits, {neuron}", None, None, paper_models.digits, {"neuron": neuron})


def snntorch_network() -> nn.Module:
    import snntorch

    torch.manual_seed(0)
    leaky = snntorch.Leaky(beta=0.9, init_hidden=True)
    output = snntorch.Leaky(beta=0.8, init_hidden=True, output=True)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), leaky, nn.Linear(20, 10), output)
    with torch.no_grad():
        network[1].weight.mul_(2.5)
        network[3].weight.mul_(2.5)
    return network.eval()


HEALTHY: list[Case] = [
    *(converted(neuron) for neuron in ("if", "snm", "negspike", "srp", "srp+negspike", "cos")),
    Case("merged QCFS", None, None, paper_models.merged),
    Case("stepwise QCFS", None, None, paper_models.stepwise),
    Case("SRP without pre-simulation", None, None, paper_models.unmasked),
    Case("SRP", None, None, lambda: paper_models.srp(4, 8), {"timesteps": 8}),
    Case("COS", None, None, lambda: paper_models.cos(8, 8), {"timesteps": 8}),
    Case("spikingjelly, s", None, None, lambda: spikingjelly("s", half), {"timesteps": 8}),
    Case("spikingjelly, m", None, None, lambda: spikingjelly("m", half), {"timesteps": 8}),
    Case("sinabs", None, None, lambda: relu_models.by_sinabs(relu_models.relu_digits())),
    Case("snnTorch", None, None, snntorch_network),
    Case("ReLU, converted", None, None, relu_models.relu_digits),
    Case("merged QCFS in training mode, dropout that obeys", None, None,
         lambda: dropping(paper_models.merged(), "body.block3.norm", nn.Dropout(0.3))),
]  # fmt: skip
