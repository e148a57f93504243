"""Layers replaced one at a time: laws, a slow reference, every family's layout, and a model that is left as it was."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from matplotlib.figure import Figure
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import probe
from probe import ablation
from probe.ablation import MODES, Part
from probe.errors import ProbeError
from probe.families import LayerPair, Subject, Traits
from probe.intervals import sign_test
from probe.neurons import IF, QCFS, NeuronSpec, qcfs
from probe.plots import draw_ranking
from probe.plots.layer_ranking import draw_sensitivity
from probe.prepare import Source, prepare
from probe.recording.schema import LayerInfo
from tests import paper_models, relu_models
from tests.test_cli import ok, refused

Run = Callable[..., Result]
FEW: dict[str, Any] = {"data": "digits", "samples": 40, "batch_size": 25}
pytestmark = pytest.mark.usefixtures("one_thread")


def by_index(found: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(found["layers"], key=lambda layer: int(layer["index"]))


def numbers(found: dict[str, Any]) -> list[float]:
    """Every number of every layer and mode, in execution order; -1 for None."""
    keys = ("accuracy", "low", "high", "error", "gained", "lost", "p_value", "accuracy_change", "error_change")
    rows = [found["ann"], found["snn"], *(layer[mode] for layer in by_index(found) for mode in MODES)]
    return [-1.0 if row is None else row.get(key, 0.0) for row in rows for key in keys]


def two_layers(levels: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 20), QCFS(levels, 0.5), nn.Linear(20, 16), QCFS(levels, 0.25), nn.Linear(16, 10)
    )


# ---------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("neuron", ["if", "negspike"])
def test_where_grids_agree_a_layer_alone_is_the_ann(neuron: str) -> None:
    """L = T and v(0) = θ/2: constant input gives n = k, so one spiking layer changes nothing, and n_even is q_L(x̄)."""
    found = probe.sensitivity(neuron=neuron, timesteps=8, **FEW)
    assert found["snn"]["error"] > 0
    for layer in found["layers"]:
        assert layer["only"]["error"] == 0
        assert layer["only"]["against_ann"] == {"gained": 0, "lost": 0}
        assert layer["only"]["accuracy"] == found["ann"]["accuracy"]
        assert layer["even"] == layer["all_but"]


def test_a_single_layer_fed_the_same_image_has_nothing_to_lose() -> None:
    """Its spikes cannot come unevenly, and no layer follows that their order could disturb."""
    network = two_layers()[:3].append(nn.Linear(20, 10))
    for timesteps in (3, 8):
        found = probe.sensitivity(network, timesteps=timesteps, **FEW)
        (layer,) = found["layers"]
        assert layer["even"]["error"] == pytest.approx(found["snn"]["error"], abs=1e-6)
        assert layer["only"]["error"] == pytest.approx(found["snn"]["error"], abs=1e-6)
        assert layer["all_but"]["error"] == pytest.approx(0, abs=1e-6)
        assert layer["even"]["gained"] == layer["even"]["lost"] == 0
        assert found["snn"]["error"] < 1e-6 if timesteps == 8 else found["snn"]["error"] > 0.01


def test_a_layer_without_an_error_of_its_own_still_disturbs_the_next() -> None:
    """The first layer's φ is exact at L = T; that its spikes come one by one is what the second layer errs by."""
    found = probe.sensitivity(two_layers(), timesteps=8, **FEW)
    first, second = by_index(found)
    assert found["snn"]["error"] > 0.01
    # The second layer is now fed the same at every t.
    assert first["all_but"]["error"] == pytest.approx(0, abs=1e-6)
    assert second["all_but"]["error"] == pytest.approx(0, abs=1e-6)
    assert first["all_but"]["error_change"] == pytest.approx(-found["snn"]["error"], abs=1e-6)


@pytest.mark.parametrize("batch_size", [40, 7])
def test_against_a_slow_reference(batch_size: int) -> None:
    """Two layers, T = 5, L = 8, v(0) = 0.3·θ, with every run written out."""
    network, T, start = two_layers().double(), 5, 0.3
    weights = [network[i] for i in (1, 3, 5)]
    thetas = [network[i].threshold.item() for i in (2, 4)]
    prepared = prepare(Source(network, data="digits", samples=40))
    x, labels = prepared.load(prepared.indices).flatten(1), prepared.data.labels[prepared.indices]

    def spikes(inputs: list[Tensor], theta: float) -> list[Tensor]:
        v, out = torch.full_like(inputs[0], start * theta), []
        for one in inputs:
            v = v + one
            out.append((v >= theta).double() * theta)
            v = v - out[-1]
        return out

    def even(mean: Tensor, theta: float) -> Tensor:
        return theta * torch.floor(T * mean / theta + start).clamp(0, T) / T

    def run(first: str = "spike", second: str = "spike") -> Tensor:
        """Mean logits; each layer spikes, or gives one output at every t: `ann`, `even`."""
        values = [x] * T
        for layer, kind in enumerate((first, second)):
            inputs = [weights[layer](one) for one in values]
            mean, theta = torch.stack(inputs).mean(0), thetas[layer]
            if kind == "spike":
                values = spikes(inputs, theta)
            else:
                values = [qcfs(mean, theta, 8) if kind == "ann" else even(mean, theta)] * T
        return torch.stack([weights[2](one) for one in values]).mean(0)

    with torch.no_grad():
        ann, snn = run("ann", "ann"), run()
        expected = {
            (0, "only"): run("even", "ann"), (1, "only"): run("ann", "even"),
            (0, "all_but"): run("ann", "spike"), (1, "all_but"): run("spike", "ann"),
            (0, "even"): run("even", "spike"), (1, "even"): run("spike", "even"),
        }  # fmt: skip
    found = probe.sensitivity(
        network, data="digits", samples=40, timesteps=T, initial_potential=start, batch_size=batch_size
    )
    right = (snn.argmax(1).numpy() == labels).astype(int)
    assert found["snn"]["accuracy"] == right.mean()
    assert found["snn"]["error"] == pytest.approx(float((snn - ann).norm() / ann.norm()), rel=1e-6)
    layers = by_index(found)
    for (index, mode), logits in expected.items():
        row, now = layers[index][mode], (logits.argmax(1).numpy() == labels).astype(int)
        assert row["error"] == pytest.approx(float((logits - ann).norm() / ann.norm()), rel=1e-6), (index, mode)
        assert (row["gained"], row["lost"]) == ((now > right).sum(), (now < right).sum())
        assert row["accuracy"] == now.mean()
        assert row["accuracy_change"] == pytest.approx(now.mean() - right.mean())
        assert row["error_change"] == pytest.approx(row["error"] - found["snn"]["error"])


def test_the_layer_at_fault_ranks_first() -> None:
    """One layer's neurons start 2.5 θ too high and fire two spikes too many; nothing else is wrong."""
    ann, snn = paper_models.stepwise()
    name = "block4.act"
    snn.get_submodule("block4").act = paper_models.ShiftNeuron(ann.get_submodule(name).up.item(), vt=2.5)
    found = probe.sensitivity((ann, snn), timesteps=3, **FEW)
    first = found["layers"][0]
    assert (first["rank"], first["name"]) == (1, name)
    assert found["snn"]["accuracy"] < 0.7
    assert first["all_but"]["accuracy"] > 0.9
    assert first["all_but"]["p_value"] < 1e-3
    assert first["all_but"]["error"] < 0.5 * min(one["all_but"]["error"] for one in found["layers"][1:])
    # No n_even for such a start, and the reason stands there instead.
    assert first["only"] is None
    assert first["even"] is None
    assert "v(0) is 2.5 θ" in first["reasons"]["only"]
    assert first["reasons"]["all_but"] is None


def test_the_sign_test_by_hand() -> None:
    assert sign_test(0, 0) == sign_test(3, 3) == 1
    assert sign_test(5, 0) == sign_test(0, 5) == 2 / 32
    assert sign_test(7, 1) == 2 * (1 + 8) / 256


# ------------------------------------------------------------------------------------------------------ families


def test_merged_stepwise_and_own_neurons_agree() -> None:
    own = probe.sensitivity(timesteps=4, **FEW)
    for model in (paper_models.merged(), paper_models.stepwise(), paper_models.unmasked()):
        found = probe.sensitivity(model, timesteps=4, **FEW)
        assert numbers(found) == pytest.approx(numbers(own), abs=1e-5)
        assert [one["name"].removeprefix("body.") for one in found["layers"]] == [one["name"] for one in own["layers"]]


def test_srp_of_two_implementations_agrees() -> None:
    own = probe.sensitivity(neuron="srp", timesteps=8, **FEW)
    found = probe.sensitivity(paper_models.srp(4, 8), **FEW)
    assert numbers(found) == pytest.approx(numbers(own), abs=1e-5)
    assert all(layer[mode] for layer in own["layers"] for mode in MODES)


def test_what_srp_silences_stays_silent_when_evened() -> None:
    """The last layer's θ·n_even/6, under the mask of the whole SNN, through the weights behind it."""
    options = {"data": "digits", "samples": 40, "neuron": "srp", "timesteps": 6}
    prepared = prepare(Source(two_layers(), **options))
    x, snn, fed = prepared.load(prepared.indices), prepared.subject.snn, []
    handle = snn.get_submodule("4").register_forward_pre_hook(lambda _module, args: fed.append(args[0]))
    with torch.no_grad():
        list(prepared.subject.run_snn(x, 6))
        handle.remove()
        theta, mask = snn.get_submodule("4").threshold, snn.get_submodule("4").silenced
        even = theta * torch.floor(torch.stack(fed[4:]).sum(0) / theta + 0.5).clamp(0, 6) / 6
        z = prepared.subject.run_ann(x)
        expected, unmasked = (
            float((snn.get_submodule("5")(one) - z).norm() / z.norm()) for one in (even.masked_fill(mask, 0), even)
        )
    layer = by_index(probe.sensitivity(two_layers(), **options))[1]
    assert layer["even"]["error"] == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(unmasked, rel=1e-3)


def test_srp_alone_silences_what_lies_at_the_edge() -> None:
    """τ = 4, v(0) = ½, x = ⅛: v(τ) = ½ + 4·⅛ - 1 = 0, so the neuron is silenced, and IF would have fired once in 8."""
    module = IF(1.0, NeuronSpec.named("srp"))
    pair = LayerPair("act", module, 1.0, ann=nn.ReLU(), neuron="srp", traits=Traits(presteps=4))
    info = LayerInfo(0, "act", "IF", "srp", None, (4,), pair.theta, 0.5, pair.traits.plain(), height=pair.spike_height)
    part = Part(pair, info, 8, module.reset)
    x = torch.tensor([[0.125, 0.25, -0.3, 2.0]])
    torch.testing.assert_close(part.constant(x), torch.tensor([[0.0, 0.25, 0.0, 1.0]]))
    assert module.potential is None
    plain = Part(pair, LayerInfo(**{**vars(info), "traits": Traits().plain()}), 8, module.reset)
    torch.testing.assert_close(plain.constant(x), torch.tensor([[0.125, 0.25, 0.0, 1.0]]))
    silenced = torch.tensor([[True, False, False, False]])
    torch.testing.assert_close(part.even(8 * x, silenced), torch.tensor([[0.0, 0.25, 0.0, 1.0]]))


def test_cos_has_no_even_count() -> None:
    found = probe.sensitivity(neuron="cos", timesteps=4, **FEW)
    for layer in found["layers"]:
        assert layer["only"] is None
        assert layer["even"] is None
        assert layer["all_but"]["error"] > 0
        assert layer["reasons"]["even"] == "v(0) differs from neuron to neuron"


def test_a_relu_conversion_in_both_step_modes() -> None:
    """SpikingJelly's chains of three modules, called step by step and with [T, B, ...]; thresholds of each channel."""
    ann = relu_models.relu_digits()
    snn = relu_models.by_spikingjelly(ann, mode="Max", channel_wise=True)
    found = {}
    for mode in ("s", "m"):
        functional.set_step_mode(snn, mode)
        found[mode] = probe.sensitivity((ann, snn), timesteps=6, **FEW)
    assert numbers(found["s"]) == pytest.approx(numbers(found["m"]), abs=1e-4)
    # Of the first layer alone, written out: θ·clip(⌊6·x/θ⌋, 0, 6)/6 in place of its ReLU.
    prepared = prepare(Source((ann, snn), data="digits", samples=40, timesteps=6))
    x, theta = prepared.load(prepared.indices), torch.from_numpy(prepared.surveyed.infos[0].threshold)
    with torch.no_grad():
        inputs = ann[0][:2](x)
        alone = ann[1:](theta * torch.floor(6 * inputs.double() / theta).clamp(0, 6).float() / 6)
        whole = ann(x)
    expected = float((alone - whole).norm() / whole.norm())
    assert by_index(found["s"])[0]["only"]["error"] == pytest.approx(expected, rel=1e-3)


def test_sinabs_is_samples_outermost_and_bounded() -> None:
    ann = relu_models.relu_digits()
    snn = relu_models.by_sinabs(ann)
    found = probe.sensitivity(snn, timesteps=8, **FEW)
    layer = by_index(found)[0]
    assert layer["only"] is None
    assert "clipped from below" in layer["reasons"]["only"]
    assert layer["all_but"]["error"] < found["snn"]["error"]
    # With neurons that promise n_even the two columns are there.
    from sinabs.activation import SingleSpike

    found = probe.sensitivity(relu_models.by_sinabs(ann, min_v_mem=None, spike_fn=SingleSpike), timesteps=8, **FEW)
    assert all(one["even"] and one["only"] for one in found["layers"])


def test_spikes_of_another_height() -> None:
    """Spikes of height 1 for θ = ½, weights halved behind them: the same network, so the same numbers."""
    ann = two_layers()

    class Unit(IF):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / self.threshold

    def subject(unit: bool) -> Subject:
        snn, layers = copy.deepcopy(ann), []
        for place in (2, 4):
            theta = ann[place].threshold.item()
            neuron = Unit(theta) if unit else IF(theta)
            snn[place] = neuron
            if unit:
                snn[place + 1].weight.data *= theta
            height = 1.0 if unit else None
            layers.append(LayerPair(str(place), neuron, theta, ann[place], levels=8, height=height))

        def reset() -> None:
            for layer in layers:
                layer.snn.reset()

        return Subject(snn, layers, ann, reset)

    plain, other = (probe.sensitivity(subject(unit), timesteps=5, **FEW) for unit in (False, True))
    assert numbers(other) == pytest.approx(numbers(plain), abs=1e-5)


# -------------------------------------------------------------------------------------------- left as it was found


def hooks(network: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in network.modules())


def test_the_model_is_left_as_it_was_found() -> None:
    network = paper_models.merged()
    network.set_T(3)
    network.body.block2.train()
    modes = [module.training for module in network.modules()]
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        before = network(x.clone())
    probe.sensitivity(network, timesteps=4, layers=["*block1*", -1], **FEW)
    with torch.no_grad():
        assert torch.equal(network(x.clone()), before)
    assert [module.training for module in network.modules()] == modes
    assert network.T == 3
    assert hooks(network) == 0


class Feedback(nn.Module):
    """Its first layer is also fed what it gave before, until `forget`."""

    def __init__(self, ann: nn.Sequential) -> None:
        super().__init__()
        self.input, self.output, self.neuron, self.last = ann[1], ann[3], IF(0.5), 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.neuron(self.input(x.flatten(1)) + 0.5 * self.last)
        out: Tensor = self.output(self.last)
        return out

    def forget(self) -> None:
        self.last = 0.0
        self.neuron.reset()


def test_a_layer_that_feeds_itself_is_refused_and_no_hook_stays() -> None:
    ann = two_layers()[:3].append(nn.Linear(20, 10))
    snn = Feedback(copy.deepcopy(ann))
    subject = Subject(snn, [LayerPair("act", snn.neuron, 0.5, ann[2], levels=8)], ann, snn.forget)
    with pytest.raises(ProbeError, match=r"layer 0 \(act\) is fed something else once its own output is replaced"):
        probe.sensitivity(subject, timesteps=4, **FEW)
    assert hooks(ann) == hooks(snn) == 0
    assert snn.neuron.potential is None


def test_an_snn_alone_is_refused() -> None:
    with pytest.raises(ProbeError, match="has no ANN to compare with; expected an ANN"):
        probe.sensitivity(paper_models.stepwise()[1], timesteps=4, **FEW)
    with pytest.raises(ProbeError, match="a batch of 0"):
        probe.sensitivity(batch_size=0)


# --------------------------------------------------------------------------------------------- command and picture


def test_the_cost_is_told_first_and_the_time_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "PATIENCE", 0.0)
    happened: list[Any] = []
    probe.sensitivity(
        timesteps=2, layers=["0:2"], progress=lambda done, of: happened.append((done, of)), tell=happened.append, **FEW
    )
    assert happened[0] == "2 layers: 3 ANN runs and 5 SNN runs of 2 timesteps, each over 40 samples"
    # Batches of 25 and 15, each through the baseline and two layers.
    assert happened[1:4] == [(25, 120), (50, 120), (75, 120)]
    assert happened[4].startswith("about ")
    assert happened[5:] == [(90, 120), (105, 120), (120, 120)]


def test_on_the_command_line(run: Run, tmp_path: Path) -> None:
    options = ("-T", 4, "--samples", 30, "--batch-size", 20)
    result = run("sensitivity", *options, "--layer", "0:2", "-o", "s.png")
    lines = ok(result).splitlines()
    assert lines[0] == "zoo:digits, 30 samples of digits, T = 4"
    assert lines[1].startswith("ANN ")
    head = next(i for i, line in enumerate(lines) if line.startswith("rank  layer  name"))
    assert sorted(line.split()[2] for line in lines[head + 1 : head + 3]) == ["block1.act", "block2.act"]
    assert [line.split()[0] for line in lines[head + 1 : head + 3]] == ["1", "2"]
    told = "  2 layers: 3 ANN runs and 5 SNN runs of 4 timesteps, each over 30 samples"
    assert result.stderr.splitlines()[0] == told
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    refused(run("sensitivity", *options, "-o", "s.png"), "s.png exists")
    refused(run("sensitivity", *options, "--layer", "block9*"), "no layer block9*")
    ok(run("sensitivity", *options, "--layer", 0, "-o", "s.png", "--overwrite"))


def test_json_and_csv(run: Run) -> None:
    options = ("-T", 4, "--samples", 20, "--layer", 1)
    found = json.loads(ok(run("sensitivity", *options, "--json")))
    assert found["schema"] == "probe-sensitivity/1"
    assert list(found["layers"][0]) == [
        "rank", "index", "name", "neuron", "levels", "threshold", "only", "all_but", "even", "reasons"
    ]  # fmt: skip
    assert found["runs"] == {"ann": 2, "snn": 3}
    again = probe.sensitivity(timesteps=4, samples=20, layers=[1])
    assert {**again, "seconds": 0} == {**found, "seconds": 0}
    rows = list(csv.DictReader(io.StringIO(ok(run("sensitivity", *options, "--csv")))))
    assert [row["mode"] for row in rows] == ["ann", "snn", "only", "all_but", "even"]
    assert float(rows[3]["error"]) == found["layers"][0]["all_but"]["error"]
    assert rows[3]["name"] == "block2.act"
    empty = ok(run("sensitivity", "-T", 4, "--samples", 20, "--layer", 0, "--neuron", "cos"))
    assert "layer 0, no only and no even: v(0) differs from neuron to neuron" in empty


def made(names: list[str]) -> dict[str, Any]:
    def row(value: float) -> dict[str, float]:
        return {"accuracy": value, "low": value - 0.05, "high": value + 0.05, "error": 1 - value}

    layers = [
        {"index": i, "name": name, "all_but": row(0.8 - i / 100), "even": row(0.7), "only": None if i else row(0.9)}
        for i, name in enumerate(names)
    ]
    return {"model": "m", "data": "d", "samples": 9, "timesteps": 4, "ann": row(0.9), "snn": row(0.6), "layers": layers}


def test_the_picture_shows_the_numbers_and_its_labels_do_not_overlap() -> None:
    result = made([f"module.features.stage{i}.block{i}.activation_function" for i in range(20)])
    axes = draw_sensitivity(Figure().add_subplot(), result)
    shown = {line.get_label(): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(shown["all but it spike"], [0.8 - i / 100 for i in range(20)])
    assert list(shown["only it spikes"]) == [0.9]
    assert list(shown["ANN"]) == [0.9, 0.9]
    figure = draw_ranking(result)
    figure.draw_without_rendering()
    left, right = figure.axes
    boxes = [label.get_window_extent() for label in left.get_yticklabels()]
    assert len(boxes) == 20
    assert all(not one.overlaps(other) for one, other in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0
    assert list(right.get_yticks()) == []
