"""Every trap that a real model sets, and that what handles it is needed: with the handling taken away, things go wrong.

Rows of DESIGN.md, section 7, and where each is tested:

* one model is both networks, time merged into the batch: `test_mode_*`, `test_layout_*`; `thresh` of shape [1]:
  `test_theta_is_read_*`; a potential that is a local: `test_potential_*`; no paper's code is imported: `test_duck_*`
* the input rewritten in place: `test_input_*`, and tests/test_families_qcfs.py for the user's own images
* [T·B] read as [B, T]: `test_layout_*`; sinabs' [B·T]: the tests of that family
* a call a timestep, t means L, an inner neuron with priming calls, reset by hand, v(0): `test_t_*`, `test_stepwise_*`,
  `test_state_*`
* SRP's pre-simulation and mask: `test_srp_*`; COS's single call: `test_cos_*`
* SpikingJelly's scalers, snnTorch's strict threshold: the tests of these families
* an in-place ReLU: `test_relu_*`; one module called twice: `test_twice_*`
* training mode, state between batches, shuffled loaders: `test_training_*`, `test_state_*`, `test_shuffled_*`
* a threshold that is not positive: `test_theta_not_positive_*`
* torchvision beside a CPU-only torch: tests/test_data_sets.py

Beside these: the free oracle of a first layer, `test_merged_start_*`; floats where counts are meant,
`test_counts_*`; the keys of old checkpoints, tests/test_checkpoints.py.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

import probe
from probe import families, zoo
from probe.attribution import TIE
from probe.data import DataSet, open_data
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, activations, qcfs_stepwise
from probe.models import Options, adapt
from probe.run import Run
from probe.session import Capture, plan
from probe.tap import Tap
from tests import paper_models, relu_models

pytestmark = pytest.mark.usefixtures("one_thread")

Patch = pytest.MonkeyPatch


def images(samples: int) -> Tensor:
    return torch.from_numpy(open_data("digits").load(np.arange(samples)))


def subject_of(model: Any, **options: Any) -> Subject:
    return adapt(model, images(1), Options(**options))


def changed(subject: Subject, **values: Any) -> Subject:
    """With other values in every layer."""
    return replace(subject, layers=[replace(layer, **values) for layer in subject.layers])


def planned(model: Any, folder: Path, **options: Any) -> Capture:
    return plan(
        model, data="digits", output=folder / "r.h5", overwrite=True, **{"samples": 12, "batch_size": 6, **options}
    )


def broken(model: Any, folder: Path, **options: Any) -> tuple[str, ...]:
    """What a capture shouts; nothing where all oracles are green."""
    return planned(model, folder, **options).run().broken


def counts(folder: Path) -> list[np.ndarray[Any, Any]]:
    """Spike counts of each layer."""
    with probe.open(folder / "r.h5") as recording:
        return [layer.spike_count for layer in recording.layers]


def cases(folder: Path, layer: int = 0) -> dict[str, int]:
    found: dict[str, int] = probe.unevenness(folder / "r.h5", layer)["layers"][0]["cases"]
    return found


def errors(found: dict[str, int]) -> int:
    """Neurons whose φ is not a."""
    return sum(number for case, number in found.items() if not case.endswith("_equal"))


# --------------------------------------------------------------------------------- one model is both networks


def test_mode_is_switched_before_each_forward(tmp_path: Path) -> None:
    network = paper_models.merged()
    called: list[int] = []
    set_t = network.set_T
    network.set_T = lambda T: (called.append(T), set_t(T))  # type: ignore[assignment, func-returns-value]
    capture = planned(network, tmp_path, timesteps=4)
    called.clear()
    assert capture.run().broken == ()
    # Two batches, ANN first, and at the end as found.
    assert called == [0, 4, 0, 4, 0]


def test_mode_without_the_switch_to_the_ANN(tmp_path: Path) -> None:
    """In the second batch of 6 the ANN would be the SNN that the first one left behind, 24 = T·B."""
    subject = replace(subject_of(paper_models.merged()), forward_ann=None)
    with pytest.raises(
        ProbeError, match=r"layer 0 .* has shape \(24, 16, 8, 8\) in the ANN and \(6, 16, 8, 8\) in the SNN"
    ):
        broken(subject, tmp_path, timesteps=4)


def test_theta_is_read_whatever_it_is(monkeypatch: Patch, tmp_path: Path) -> None:
    """A float, a Parameter of shape [1], a buffer, one a channel: the same θ."""
    network = paper_models.merged()
    wanted = [float(module.thresh.detach()) for module in network.modules() if hasattr(module, "thresh")]
    assert network.body[0].act.thresh.shape == (1,)
    for model in (network, paper_models.stepwise(), paper_models.srp(), paper_models.cos(), buffered(), "zoo:digits"):
        found = [pair.theta for pair in planned(model, tmp_path).prepared.surveyed.pairs]
        assert [theta.shape for theta in found] == [()] * 6
        assert [float(theta) for theta in found] == wanted
    by_channel = [pair.theta for pair in planned(per_channel(), tmp_path).prepared.surveyed.pairs]
    assert [theta.shape for theta in by_channel[:2]] == [(1, 16, 1, 1)] * 2
    assert [float(theta.mean()) for theta in by_channel] == pytest.approx(wanted)
    # A Parameter has a graph, and numpy refuses it.
    monkeypatch.setattr(activations, "detached", lambda value: np.asarray(value.numpy(), np.float32))
    with pytest.raises(RuntimeError, match="requires grad"):
        planned(paper_models.merged(), tmp_path)


class PerChannel(paper_models.ScaledNeuron):
    """θ is a buffer with a number a channel; the inner neuron works in units of it."""

    scale: Tensor

    def __init__(self, scale: float, channels: int, primed: bool = True) -> None:
        super().__init__()
        del self.scale
        self.register_buffer("scale", torch.full((channels,), scale))
        self.primed = primed

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale.view(-1, *[1] * (x.ndim - 2))
        x = x / scale
        if self.t == 0 and self.primed:
            self.neuron(torch.full_like(x, 0.5))
        self.t += 1
        return self.neuron(x) * scale


def per_channel(unprimed: str = "") -> tuple[nn.Module, nn.Module]:
    """The stepwise pair with θ by channel; one layer may start at 0."""
    ann, snn = paper_models.stepwise()
    channels = {"block1": 16, "block2": 16, "block3": 32, "block4": 32, "block5": 32, "hidden": 64}
    for name, number in channels.items():
        block = snn.get_submodule(name)
        block.act = PerChannel(block.act.scale, number, primed=name != unprimed)
    return ann, snn.eval()


def buffered() -> tuple[nn.Module, nn.Module]:
    """The stepwise pair with θ as a tensor without axes."""
    ann, snn = paper_models.stepwise()
    for module in snn.modules():
        if isinstance(module, paper_models.ScaledNeuron):
            theta = module.scale
            del module.scale
            module.register_buffer("scale", torch.tensor(theta))
    return ann, snn


def test_theta_by_channel_gives_the_same_recording(tmp_path: Path) -> None:
    assert broken(per_channel(), tmp_path) == ()
    by_channel, tables = counts(tmp_path), [cases(tmp_path, i) for i in range(6)]
    assert broken(paper_models.stepwise(), tmp_path) == ()
    for one, other in zip(by_channel, counts(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
    assert tables == [cases(tmp_path, i) for i in range(6)]


@pytest.mark.parametrize("theta", [0.0, -0.5, float("nan"), float("inf")])
def test_theta_not_positive_names_its_layer(theta: float, tmp_path: Path) -> None:
    merged = paper_models.merged()
    merged.body[2].act.thresh.data.fill_(theta)
    models: dict[str, Any] = {"body.block3.act": merged}
    for make, attribute in (
        (paper_models.stepwise, "scale"), (paper_models.srp, "v_threshold"), (paper_models.cos, "v_threshold")
    ):  # fmt: skip
        ann, snn = make()
        setattr(snn.get_submodule("block3.act"), attribute, theta)
        with pytest.raises(ProbeError, match=rf"layer block3\.act has threshold {theta:.4g}; expected a threshold abo"):
            planned((ann, snn), tmp_path)
    ann = paper_models.stepwise_ann()
    ann.get_submodule("block3.act").up.data.fill_(theta)
    models["block3.act"] = ann
    for name, model in models.items():
        with pytest.raises(ProbeError, match=rf"layer {name} has threshold {theta:.4g}"):
            planned(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_theta_not_positive_unchecked(monkeypatch: Patch, tmp_path: Path) -> None:
    """A layer with θ = -0.5 seems to work, all oracles green; its recording is refused when it is made."""

    def unchecked(self: LayerPair) -> None:
        for name, values in (("threshold", self.threshold), ("height", self.threshold)):
            object.__setattr__(self, name, np.asarray(values, np.float32))

    monkeypatch.setattr(LayerPair, "__post_init__", unchecked)
    network = paper_models.merged()
    network.body[4].act.thresh.data.fill_(-0.5)
    with pytest.raises(ProbeError, match="layer 4 has an impossible threshold"):
        broken(network, tmp_path)


def test_potential_is_that_of_the_law(tmp_path: Path) -> None:
    """v(T) = v(0) + Σx - θ·n of the merged layers, whose potential is a local, is the stepwise neurons' own."""
    subject = subject_of(paper_models.merged())
    assert all(layer.potential() is None and not layer.traits.exposes_potential for layer in subject.layers)
    assert broken(subject, tmp_path, batch_size=12) == ()
    _, snn = paper_models.stepwise()
    with probe.open(tmp_path / "r.h5") as recording, torch.no_grad():
        assert recording.facts["law"]["0"]["largest_difference"] is None
        x = torch.from_numpy(open_data("digits").load(recording.indices))
        for _ in range(8):
            snn(x)
        for layer in recording.layers:
            theta = float(layer.threshold)
            shown = snn.get_submodule(layer.name.removeprefix("body.")).neuron.v.numpy() * theta
            rebuilt = layer.initial_potential + layer.input_sum - theta * layer.spike_count
            close = np.abs(shown - rebuilt) < 1e-4 * theta
            assert close.mean() > 0.999
            # From v(0) = 0, all of it is θ/2 away.
            assert not (np.abs(shown - (rebuilt - theta / 2)) < 1e-4 * theta)[close].any()


# --------------------------------------------------------------------------------------------- duck-typing

ALLOWED = {"probe", "torch", "numpy", *sys.stdlib_module_names}


def test_duck_no_code_of_a_paper_or_converter_is_imported() -> None:
    files = list(Path(families.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= ALLOWED, file.name


def disguised(network: nn.Module) -> nn.Module:
    """Every class of the paper's code under another name and from another place."""
    for module in network.modules():
        kind = type(module)
        if kind.__module__ == paper_models.__name__:
            module.__class__ = type(f"Other{kind.__name__[::-1]}", (kind,), {"__module__": "elsewhere"})
    return network


def test_duck_a_layer_is_what_it_has(tmp_path: Path) -> None:
    """Not what its class is called."""
    for make in (paper_models.merged, paper_models.stepwise, lambda: paper_models.srp(4, 8), paper_models.cos):
        assert broken(make(), tmp_path) == ()
        plain = counts(tmp_path)
        given = make()
        other = tuple(map(disguised, given)) if isinstance(given, tuple) else disguised(given)
        assert broken(other, tmp_path) == ()
        with probe.open(tmp_path / "r.h5") as recording:
            assert recording.layers[0].module.startswith("Other")
        for one, two in zip(plain, counts(tmp_path), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("name", "make"), [("merge", paper_models.merged), ("neuron", paper_models.stepwise)])
def test_duck_without_what_it_has_it_is_none(name: str, make: Callable[[], Any], tmp_path: Path) -> None:
    given = make()
    for module in (given[1] if isinstance(given, tuple) else given).modules():
        if hasattr(module, "thresh") or hasattr(module, "scale"):
            delattr(module, name)
    with pytest.raises(ProbeError, match="no spiking layer"):
        planned(given, tmp_path)


# --------------------------------------------------------------------------------- the input is rewritten in place


class Nothing:
    """A sink."""

    def append(self, layer: int | None, batch: Any) -> None:
        pass


def run_of(capture: Capture) -> Run:
    prepared = capture.prepared
    return Run(
        prepared.subject, prepared.surveyed, capture.layers, Nothing(), record="full",
        timesteps=capture.info.timesteps, grid=capture.info.grid,
    )  # fmt: skip


@contextlib.contextmanager
def without_copies() -> Iterator[None]:
    """`clone` gives the tensor itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "clone", lambda self, **_: self)
        yield


def test_input_stays_as_it_was_though_the_network_adds_an_axis(tmp_path: Path) -> None:
    run, x = run_of(planned(paper_models.merged(), tmp_path)), images(6)
    kept = x.clone()
    with run.hooked():
        ann, _ = run.batch(x, 0)
        assert torch.equal(x, kept)
        with without_copies():
            run.batch(x, 0)
    assert x.shape == (6, 1, 1, 8, 8)
    # The other order, ANN last, could not have worked without a copy.
    with pytest.raises(RuntimeError), torch.no_grad():
        paper_models.merged()(x)
    with torch.no_grad():
        torch.testing.assert_close(ann, paper_models.merged()(kept))


class Centred(nn.Module):
    """A network that prepares its input in place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.sub_(0.125))
        return out


def test_input_is_the_same_at_every_timestep(tmp_path: Path) -> None:
    ann, snn = paper_models.stepwise()
    capture = planned((Centred(ann).eval(), Centred(snn).eval()), tmp_path)
    assert capture.run().broken == ()
    run = run_of(planned((Centred(ann).eval(), Centred(snn).eval()), tmp_path))
    # Else every timestep takes another eighth off.
    with pytest.raises(ProbeError, match="the input changes at t = 2"), run.hooked(), without_copies():
        run.batch(images(6), 0)


# ------------------------------------------------------------------------------------------------- layout


def test_layout_read_the_wrong_way_is_told(monkeypatch: Patch, tmp_path: Path) -> None:
    """[T·B] read as [B·T], which a single sample does not show: T = L, so no neuron of the first layer can err."""
    right = subject_of(paper_models.merged())
    assert [layer.layout for layer in right.layers] == ["TB"] * 6
    assert broken(right, tmp_path) == ()
    assert errors(cases(tmp_path)) == 0
    wrong = changed(right, layout="BT")
    with pytest.raises(ProbeError, match=r"layer 0 \(body\.block1\.act\): the input changes at t = 2"):
        broken(wrong, tmp_path)
    # And were the constant input not compared, the oracle would still know.
    monkeypatch.setattr(Tap, "_expect_constant", lambda *_: None)
    (told, *_) = broken(wrong, tmp_path)
    assert "layer 0 (body.block1.act) errs in" in told
    assert "time is read in the wrong order" in told
    # Plausible cases 1, 2 and 3 all the same, which is what the oracle is for.
    found = cases(tmp_path)
    assert min(found["zero_over"], found["positive_over"], found["positive_under"]) > 100


def test_layout_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for layout in ("T,B", "B,T"):
        with pytest.raises(ProbeError, match=f"called with shape .* time and samples in the layout {layout}"):
            broken(changed(subject_of(paper_models.merged()), layout=layout), tmp_path)
    with pytest.raises(ProbeError, match=r"act is called .* times in 2 timesteps by the SNN"):
        broken(changed(subject_of(paper_models.stepwise()), layout="TB"), tmp_path)
    with pytest.raises(ProbeError, match="layout 'BTC'; expected one of"):
        changed(subject_of(paper_models.merged()), layout="BTC")


def test_layout_of_the_logits_is_checked(tmp_path: Path) -> None:
    class Averaged(paper_models.MergedNetwork):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            return out.mean(0) if self.T > 0 else out

    with pytest.raises(ProbeError, match=r"gives shape \(1, 10\) at set_T\(8\); expected \(timestep, sample, class\)"):
        planned(Averaged(paper_models.merged().body).eval(), tmp_path)


# --------------------------------------------------------------------------------------------- t means L


def test_t_of_an_activation_is_L_and_t_of_a_neuron_is_not(monkeypatch: Patch, tmp_path: Path) -> None:
    ann, snn = paper_models.stepwise()
    assert ann.get_submodule("block1.act").t == 8
    assert snn.get_submodule("block1.act").t == 0
    assert activations.activation_of(snn.get_submodule("block1.act")) is None
    capture = planned((ann, snn), tmp_path, timesteps=5)
    assert [info.levels for info in capture.layers] == [8] * 6
    assert capture.run().broken == ()
    # Were it T, no output of the ANN would be a whole number of fifths.
    found = activations.activation_of
    monkeypatch.setattr(activations, "activation_of", lambda module: (one := found(module)) and replace(one, levels=5))
    with pytest.raises(ProbeError, match=r"a·L/θ is up to .* away from a whole number; expected .* L = 5"):
        broken(paper_models.stepwise(), tmp_path, timesteps=5)


# ----------------------------------------------------------------------------------------------- stepwise


def calls(network: nn.Module, x: Tensor, forwards: int) -> dict[str, int]:
    """Calls of the first layer's wrapper and of its inner neuron."""
    wrapper = network.get_submodule("block1.act")
    seen = {"wrapper": 0, "inner": 0}
    for module, kind in ((wrapper, "wrapper"), (wrapper.neuron, "inner")):
        module.register_forward_hook(lambda *_, kind=kind: seen.update({kind: seen[kind] + 1}))
    with torch.no_grad():
        for _ in range(forwards):
            network(x)
    return seen


@pytest.mark.parametrize(
    ("make", "forwards", "seen"),
    [
        # T = 4 and one call that primes.
        (paper_models.stepwise, 4, {"wrapper": 4, "inner": 5}),
        # τ = 4 and T = 4, primed before each.
        (lambda: paper_models.srp(4, 4), 8, {"wrapper": 8, "inner": 10}),
        # One call: 1 to prime, 4 to pre-simulate, 4 to simulate.
        (lambda: paper_models.cos(4, 4), 1, {"wrapper": 1, "inner": 9}),
    ],
)
def test_stepwise_inner_neurons_are_called_more_often(
    make: Callable[[], Any], forwards: int, seen: dict[str, int], tmp_path: Path
) -> None:
    """So the wrapper is recorded; hooking what is inside is refused by the number of its calls."""
    assert calls(make()[1], images(2), forwards) == seen
    right = subject_of(make(), timesteps=4)
    assert broken(right, tmp_path, timesteps=4) == ()
    inner = replace(right, layers=[replace(layer, snn=layer.snn.neuron, height=1.0) for layer in right.layers])
    with pytest.raises(ProbeError, match=r"layer .*\.act is called 1 times by the ANN and \d+ times in"):
        broken(inner, tmp_path, timesteps=4)


def test_stepwise_inner_trains_are_shifted_by_the_priming_call() -> None:
    """The first of 5 inner calls has no spike, for 0.5 is below θ; steps 2 to 5 are the wrapper's 1 to 4."""
    _, snn = paper_models.stepwise()
    wrapper = snn.get_submodule("block1.act")
    outer: list[Tensor] = []
    inner: list[Tensor] = []
    wrapper.register_forward_hook(lambda _m, _x, out: outer.append(out / wrapper.scale))
    wrapper.neuron.register_forward_hook(lambda _m, _x, out: inner.append(out))
    with torch.no_grad():
        for _ in range(4):
            snn(images(2))
    assert not inner[0].any()
    torch.testing.assert_close(torch.stack(inner[1:]), torch.stack(outer))
    assert not torch.equal(torch.stack(inner[:4]).round(), torch.stack(outer).round())


class Unprimed(paper_models.ScaledNeuron):
    """The paper's neuron without its priming: v(0) = 0."""

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(x / self.scale) * self.scale


def unprimed(layer: str) -> tuple[nn.Module, nn.Module]:
    ann, snn = paper_models.stepwise()
    snn.get_submodule(layer).__class__ = Unprimed
    return ann, snn


def test_stepwise_start_is_checked(monkeypatch: Patch, tmp_path: Path) -> None:
    """v(0) is said to be θ/2 and is 0: half a θ off the conservation law, in a layer that no oracle watches."""
    (told,) = broken(unprimed("block3.act"), tmp_path)
    assert told.startswith("layer 2 (block3.act) is up to 0.5 θ away from the conservation law")
    told_of_first = broken(unprimed("block1.act"), tmp_path)
    assert any("errs in" in told for told in told_of_first)
    with pytest.raises(ProbeError, match="ORACLE BROKEN"):
        probe.capture(unprimed("block3.act"), data="digits", samples=4, strict=True, output=tmp_path / "s.h5")
    monkeypatch.setattr(Tap, "_check_law", lambda *_: None)
    assert broken(unprimed("block3.act"), tmp_path) == ()


def test_stepwise_start_is_checked_where_theta_differs_by_channel(tmp_path: Path) -> None:
    (told,) = broken(per_channel(unprimed="block3"), tmp_path)
    assert told.startswith("layer 2 (block3.act) is up to 0.5 θ away from the conservation law")


def test_merged_start_is_checked_by_the_free_oracle(tmp_path: Path) -> None:
    """No potential is shown here, but a first layer that is fed the same at every t cannot be uneven."""

    class FromZero(paper_models.MergedIF):
        def forward(self, x: Tensor) -> Tensor:
            # Half a θ less in the first step.
            if self.T > 0:
                x = self.merge(torch.cat([self.expand(x)[:1] - self.thresh.data / 2, self.expand(x)[1:]]))
            return super().forward(x)

    network = paper_models.merged()
    network.body[0].act.__class__ = FromZero
    (told,) = broken(network, tmp_path)
    assert "θ or v(0) is not what it is said to be" in told


def test_state_is_reset_before_each_batch(monkeypatch: Patch, tmp_path: Path) -> None:
    """Else the second batch starts where the first one ended, unprimed."""
    assert broken(paper_models.stepwise(), tmp_path) == ()
    first_and_second = counts(tmp_path)[0]
    monkeypatch.setattr(qcfs_stepwise, "_reset", lambda _wrappers: None)
    told = broken(paper_models.stepwise(), tmp_path)
    assert all("conservation law" in one or "errs in" in one for one in told)
    assert len(told) == 7
    leaked = counts(tmp_path)[0]
    assert not np.array_equal(leaked[6:], first_and_second[6:])
    # A single batch shows it too: the survey's sample came first.
    assert broken(paper_models.stepwise(), tmp_path, samples=1)


# -------------------------------------------------------------------------------------------------- SRP


def test_srp_presteps_are_not_recorded(tmp_path: Path) -> None:
    """τ = 4, T = 8: of twelve calls the last eight. Said to have no pre-steps, it breaks the law and the count of T."""
    right = subject_of(paper_models.srp(4, 8))
    assert broken(right, tmp_path) == ()
    correct = counts(tmp_path)
    _, snn = paper_models.srp(4, 8)
    outputs: list[Tensor] = []
    theta = snn.get_submodule("block2.act").v_threshold
    snn.get_submodule("block2.act").register_forward_hook(lambda _m, _x, out: outputs.append(out / theta))
    x = torch.from_numpy(open_data("digits").load(plan(samples=12, output=tmp_path / "x.h5").indices))
    with torch.no_grad():
        for _ in range(12):
            snn(x)
    np.testing.assert_allclose(correct[1], torch.stack(outputs[4:]).sum(0), atol=1e-5)
    assert not np.allclose(correct[1], torch.stack(outputs[:8]).sum(0))
    told = broken(changed(right, traits=replace(right.layers[0].traits, presteps=0)), tmp_path)
    assert sum("conservation law" in one for one in told) >= 5
    np.testing.assert_allclose(counts(tmp_path)[1], torch.stack(outputs[:8]).sum(0), atol=1e-5)


def test_srp_mask_is_kept(tmp_path: Path) -> None:
    """A neuron is silenced where v(τ) <= 0.001 θ; without the mask its silence breaks the law."""
    right = subject_of(paper_models.srp(4, 8))
    assert broken(right, tmp_path) == ()
    with probe.open(tmp_path / "r.h5") as recording:
        layer = recording.layers[0]
        x = layer.snn_input[:, 0].astype(np.float64) / float(layer.threshold)
        potential = np.full(x.shape, 0.5)
        tie = np.zeros(x.shape, bool)
        for _ in range(4):
            potential += x
            tie |= np.abs(potential - 1) < TIE
            potential -= potential >= 1
        clear = ~tie & (np.abs(potential - 1e-3) > TIE)
        np.testing.assert_array_equal(layer.silenced[clear], (potential <= 1e-3)[clear])
        assert layer.silenced.any()
        law = recording.facts["law"]
        assert max(verdict["largest_difference"] for verdict in law.values()) < 1e-5
    told = broken(changed(right, silenced=lambda: None), tmp_path, record="stats")
    assert sum("conservation law" in one for one in told) >= 3


def test_srp_counts_start_anew_in_every_batch(monkeypatch: Patch, tmp_path: Path) -> None:
    """Its layers count their calls: after the survey's six of twelve, a batch would begin in the middle."""
    assert broken(paper_models.srp(4, 8), tmp_path, samples=3, batch_size=1) == ()
    right = counts(tmp_path)
    monkeypatch.setattr(qcfs_stepwise, "_reset", lambda _wrappers: None)
    told = broken(paper_models.srp(4, 8), tmp_path, samples=3, batch_size=1)
    assert sum("conservation law" in one for one in told) >= 5
    assert not np.array_equal(right[0], counts(tmp_path)[0])


# --------------------------------------------------------------------------------------------- several spikes


def test_several_spikes_that_the_first_sample_does_not_show_are_refused(tmp_path: Path) -> None:
    right = subject_of(paper_models.digits())
    layer = right.layers[2]

    def twice(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output * (2 if len(output) > 1 else 1)

    layer.snn.register_forward_hook(twice)
    with pytest.raises(ProbeError) as raised:
        broken(right, tmp_path)
    assert (raised.value.fault, raised.value.layer) == ("several-spikes", layer.name)
    assert "more than" in str(raised.value)


# ------------------------------------------------------------------------------------------------------ COS


def test_cos_takes_its_batch_size_from_the_batch(monkeypatch: Patch, tmp_path: Path) -> None:
    """With `batchsize` 2 and 6 samples, its layers take one copy of the samples for several timesteps."""
    right = paper_models.cos(3, 3, batchsize=2)
    assert broken(right, tmp_path) == ()
    found = counts(tmp_path)
    assert broken(paper_models.cos(3, 3, batchsize=6), tmp_path) == ()
    for one, other in zip(found, counts(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)

    def unadjusted(network: nn.Module, _wrappers: Any, x: Tensor, timesteps: int) -> Iterator[Tensor]:
        merged = network(x)
        yield from merged.reshape(timesteps, len(merged) // timesteps, -1)

    monkeypatch.setattr(qcfs_stepwise, "_run_cos", unadjusted)
    wrong = planned(right, tmp_path)
    run = run_of(wrong)
    # The six samples became two at three timesteps, which no layer of six samples gives.
    with run.hooked(), pytest.raises(ProbeError, match=r"called with shape \(6, 16, 8, 8\) for 6 samples and 3"):
        run.batch(images(6), 0)


# --------------------------------------------------------------------------------------------- in-place ReLU


def test_relu_in_place_is_read_before_it_acts(monkeypatch: Patch, tmp_path: Path) -> None:
    network = relu_models.relu_digits()
    assert isinstance(network[0][2], nn.ReLU)
    assert network[0][2].inplace
    assert broken(network, tmp_path, timesteps=4) == ()
    with probe.open(tmp_path / "r.h5") as recording:
        x, a = recording.layers[0].ann_input, recording.layers[0].ann_output
        np.testing.assert_array_equal(a, np.maximum(x, 0))
        assert 0.1 < (x < 0).mean() < 0.9
        with torch.no_grad():
            fed = network[0][:2](torch.from_numpy(open_data("digits").load(recording.indices)))
        np.testing.assert_allclose(x, fed, rtol=1e-4, atol=1e-5)

    def afterwards(self: Tap) -> Iterator[Any]:
        """The same hooks, the ANN's input read when the module is done."""
        assert self.pair.ann is not None
        yield self.pair.ann.register_forward_hook(lambda module, args, _out: self._before_ann(module, args))
        yield self.pair.ann.register_forward_hook(self._after_ann)
        yield self.pair.snn.register_forward_pre_hook(self._before_snn)
        yield self.pair.snn.register_forward_hook(self._after_snn)

    monkeypatch.setattr(Tap, "hooks", afterwards)
    told = broken(network, tmp_path, timesteps=4)
    with probe.open(tmp_path / "r.h5") as recording:
        assert recording.layers[0].ann_input.min() == 0
    assert any("its inputs differ" in one for one in told)


# ------------------------------------------------------------------------------------------- called twice


class Shared(nn.Module):
    """One activation for two places."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head, self.act = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10), act

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.act(self.second(self.act(self.first(x.flatten(1))))))
        return out


def shared_models() -> dict[str, Any]:
    return {
        "merged": paper_models.MergedNetwork(Shared(paper_models.MergedIF(8, 1.0))).eval(),
        "stepwise": (Shared(paper_models.MyFloor(1.0, 8)), Shared(paper_models.ScaledNeuron(1.0))),
        "converted": Shared(paper_models.MyFloor(1.0, 8)),
    }


@pytest.mark.parametrize("kind", ["merged", "stepwise", "converted"])
def test_twice_called_modules_are_refused(kind: str, monkeypatch: Patch, tmp_path: Path) -> None:
    """By the survey; and, were it not for that, by the run itself, for which two calls would be t = 1 and t = 2."""
    with pytest.raises(ProbeError, match=r"act is called 2 times by the ANN and .* expected once in each forward"):
        planned(shared_models()[kind], tmp_path)
    monkeypatch.setattr("probe.run._check_calls", lambda *_: None)
    with pytest.raises(ProbeError, match=r"layer 0 \((body\.)?act\) has been called 2 times"):
        broken(shared_models()[kind], tmp_path, timesteps=2)


# -------------------------------------------------------------------------------------------- training mode


def training() -> nn.Module:
    """The merged network in training mode, with dropout."""
    network = paper_models.merged()
    network.body.hidden = nn.Sequential(network.body.hidden.linear, network.body.hidden.act, nn.Dropout(0.5))
    return network.train()


def test_training_mode_is_left_for_the_run_and_found_again(monkeypatch: Patch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = training()
    mean = network.body[1].norm.running_mean.clone()
    assert broken(network, tmp_path) == ()
    assert torch.equal(network.body[1].norm.running_mean, mean)
    assert int(network.body[1].norm.num_batches_tracked) == int(training().body[1].norm.num_batches_tracked)
    assert all(module.training for module in network.modules())
    in_training = counts(tmp_path)
    with probe.open(tmp_path / "r.h5") as recording:
        assert "body.block2.norm" in recording.facts["modes"]["found_in_training_mode"]
        logits = recording.ann_logits
    assert broken(training().eval(), tmp_path) == ()
    with probe.open(tmp_path / "r.h5") as recording:
        assert recording.facts["modes"]["found_in_training_mode"] == []
        np.testing.assert_array_equal(recording.ann_logits, logits)
    for one, other in zip(in_training, counts(tmp_path), strict=True):
        np.testing.assert_array_equal(one, other)
    # As it is: statistics of the batch, and other neurons dropped in each network; the data change the model.
    monkeypatch.setattr("probe.run.evaluating", lambda *_: contextlib.nullcontext())
    broken(network, tmp_path)
    assert not torch.equal(network.body[1].norm.running_mean, mean)
    with probe.open(tmp_path / "r.h5") as recording:
        assert not np.allclose(recording.ann_logits, logits)


def test_training_mode_of_a_pair_while_its_layers_are_put_in_order(monkeypatch: Patch, tmp_path: Path) -> None:
    """Both networks are run once to pair them: batch norm must not learn from that."""
    ann, snn = paper_models.stepwise()
    networks = (ann.train(), snn.train())

    def learned() -> list[int]:
        return [int(network.get_submodule("block2.norm").num_batches_tracked) for network in networks]

    found = learned()
    planned(networks, tmp_path)
    assert learned() == found
    assert all(module.training for network in networks for module in network.modules())
    monkeypatch.setattr("probe.models.evaluating", lambda *_: contextlib.nullcontext())
    planned(networks, tmp_path)
    assert all(now > before for now, before in zip(learned(), found, strict=True))


# ----------------------------------------------------------------------------------------- shuffled samples


def test_shuffled_samples_are_told(tmp_path: Path) -> None:
    """The ANN of one sample beside the SNN of another: tables like any other, and a first layer that cannot be."""
    right = subject_of(paper_models.merged())
    forward = right.forward_ann
    assert forward is not None
    wrong = replace(right, forward_ann=lambda x: forward(x.roll(1, 0)))
    assert broken(right, tmp_path) == ()
    assert errors(cases(tmp_path)) == 0
    told = broken(wrong, tmp_path)
    assert any("were fed different numbers in 12 samples" in one for one in told)
    assert any("samples are mis-paired" in one for one in told)
    found = cases(tmp_path)
    assert found["zero_over"] > 0.05 * sum(found.values())


def test_shuffled_loaders_cannot_part_the_networks(tmp_path: Path) -> None:
    """A loader that gives other images at every call: each batch is loaded once, for both."""
    digits, asked = open_data("digits"), []

    def load(index: Any) -> Any:
        asked.append(len(index))
        return digits.load((np.asarray(index) + 17 * len(asked)) % len(digits))

    data = DataSet("shuffling", digits.labels, digits.classes, load)
    capture = plan(paper_models.merged(), data=data, samples=12, batch_size=6, output=tmp_path / "r.h5")
    asked.clear()
    assert capture.run().broken == ()
    assert asked == [6, 6]
    with probe.open(tmp_path / "r.h5") as recording:
        ann, snn = recording.digests
        np.testing.assert_array_equal(ann, snn)


# --------------------------------------------------------------------------------------- counts, not floats


def test_counts_are_compared_and_not_floats(tmp_path: Path) -> None:
    """φ = a is n·L = k·T, here n = k. In float32 some of these differ, and after six decimals of text nearly all."""
    assert broken(paper_models.merged(), tmp_path, samples=20) == ()
    lost_as_floats = lost_as_text = equal_in_all = 0
    with probe.open(tmp_path / "r.h5") as recording:
        for layer in recording.layers:
            n, k = layer.spike_count.astype(int), layer.ann_values().astype(int)
            equal = n == k
            positive = equal & (k > 0)
            told = cases(tmp_path, layer.index)
            assert told["positive_equal"] == positive.sum()
            assert told["zero_equal"] == (equal & (k == 0)).sum()
            theta = layer.threshold
            a = layer.ann_output
            # The mean of θ·s(t) over t, as a script would take it.
            phi = np.zeros_like(a)
            for t in range(8):
                phi += layer.snn_spikes[:, t] * theta
            phi /= np.float32(8)
            equal_in_all += positive.sum()
            lost_as_floats += (positive & (phi != a)).sum()
            read = np.array([float(f"{value:.6f}") for value in a[positive]], np.float32)
            lost_as_text += (read != phi[positive]).sum()
    assert equal_in_all > 1000
    assert lost_as_floats > 0.01 * equal_in_all
    assert lost_as_text > 0.5 * equal_in_all


def test_counts_that_are_none_are_refused(monkeypatch: Patch, tmp_path: Path) -> None:
    """An ANN whose θ is a hundredth larger: every level is a little off, and without the check the table is wrong."""
    ann, snn = paper_models.stepwise()
    ann.get_submodule("block2.act").up.data.mul_(1.01)
    with pytest.raises(ProbeError, match=r"ANN block2.act has θ = 1\.45487 and SNN block2.act has 1\.44046"):
        broken((ann, snn), tmp_path)
    monkeypatch.setattr("probe.models._check_thresholds", lambda *_: None)
    with pytest.raises(ProbeError, match=r"layer 1 \(block2\.act\): a·L/θ is up to 0\.08 away from a whole number"):
        broken((ann, snn), tmp_path)
    monkeypatch.setattr("probe.tap.LEVEL_TOLERANCE", 1.0)
    monkeypatch.setattr("probe.attribution.levels.LEVEL_TOLERANCE", 1.0)
    assert broken((ann, snn), tmp_path) == ()
    with probe.open(tmp_path / "r.h5") as recording:
        layer = recording.layers[1]
        full = layer.ann_output > 1.005 * layer.threshold
        assert full.any()
        assert cases(tmp_path, 1)["positive_equal"] >= (layer.spike_count[full] == 8).sum() > 0


def test_the_bundled_network_has_none_of_these(tmp_path: Path) -> None:
    """What all of the above is measured against."""
    assert broken(zoo.load("digits"), tmp_path) == ()
    assert errors(cases(tmp_path)) == 0
    assert isinstance(paper_models.stepwise()[1].get_submodule("block1.act").neuron, neuron.IFNode)
