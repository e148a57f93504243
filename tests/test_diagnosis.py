"""The checks of a recording: their arithmetic on a few numbers, every preset, and networks with a fault."""

from __future__ import annotations

import ast
import json
import math
import shlex
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import probe
from probe.cli import main
from probe.diagnosis import CHECKS, UNEXPLAINED, explained, findings_of, told
from probe.diagnosis.evidence import ALARM, Sides, gain, lost
from probe.diagnosis.findings import Finding, reaches, worst_first
from probe.diagnosis.replay import (
    Neuron,
    Trains,
    consistent,
    contradictions,
    count_edges,
    counted,
    edges,
    hard,
    leaky,
    soft,
    with_unit_reset,
)
from probe.diagnosis.samples import exchanged_inputs
from probe.diagnosis.scaling import _meaning
from probe.diagnosis.thresholds import _largest_activation
from probe.intervals import chance
from probe.neurons import QCFS
from probe.recording import Recording
from probe.recording.schema import PRESETS
from tests import paper_models, relu_models
from tests.editing import editing
from tests.faults import recordings as faulty
from tests.faults.harness import Case
from tests.synthetic import write_recording

pytestmark = pytest.mark.usefixtures("one_thread")


def said(model: Any, folder: Path, **options: Any) -> list[Finding]:
    path = probe.capture(model, output=folder / "r.h5", overwrite=True, **options)
    with probe.open(path) as recording:
        return findings_of(recording)


def loud(found: list[Finding]) -> list[tuple[str, str, str | None]]:
    return [(one.severity, one.check, one.layer) for one in found if one.severity != "note"]


# ------------------------------------------------------------------------------------------------ the faults


ONE_OF_EACH = list({case.check: case for case in reversed(faulty.CASES)}.values())
"""All of them are run in tests/faults/test_table.py."""


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_a_fault_is_found_in_its_layer(case: Case, tmp_path: Path) -> None:
    found = said(case.make(), tmp_path, **case.options)
    named = [one for one in found if one.check == case.check and one.layer == case.layer]
    assert named, loud(found)
    for one in found:
        assert one.evidence
        assert one.advice
        assert one.what
        assert one.look.startswith("probe ")
        assert one.check in CHECKS
    json.dumps([one.evidence for one in found], allow_nan=False)


@pytest.mark.parametrize("case", faulty.HEALTHY, ids=lambda case: case.name)
def test_nothing_above_a_note_is_said_of_a_healthy_network(case: Case, tmp_path: Path) -> None:
    assert loud(said(case.make(), tmp_path, **case.options)) == []


def test_each_check_has_two_networks_with_its_fault() -> None:
    checks = [case.check for case in faulty.CASES]
    # NaN never gets into a finished recording: see below.
    assert {name for name in CHECKS if checks.count(name) < 2} == {"not-finite"}


@pytest.mark.parametrize("record", PRESETS)
def test_every_preset_is_enough_for_something(record: str, tmp_path: Path) -> None:
    """Where less is kept less is said: no false alarm of a healthy network, and an error in the layer at fault."""
    healthy = said(faulty.subject("qcfs"), tmp_path, **faulty.USUAL, record=record)
    assert loud(healthy) == []
    for fault in ({"start": 0.0}, {"reset": "zero"}, {"decay": 0.8}):
        found = said(faulty.with_neuron("qcfs", "block3.act", **fault), tmp_path, **faulty.USUAL, record=record)
        assert (found[0].severity, found[0].layer) == ("error", "block3.act")
        assert found[0].check in ("initial-potential", "reset-rule", "leak", "conservation-law", "threshold")
    assert found[0].check == ("leak" if record == "full" else "conservation-law")


def test_some_layers_alone_are_enough(tmp_path: Path) -> None:
    model = faulty.with_neuron("qcfs", "block3.act", start=0.0)
    found = said(model, tmp_path, **faulty.USUAL, layers=["block3.act", "block5.act"])
    assert [(one.check, one.index) for one in found if one.severity == "error"] == [("initial-potential", 2)]


def test_a_synthetic_recording_without_facts_is_read(tmp_path: Path) -> None:
    """Facts of an older version, and neurons whose inputs have nothing to do with the ANN."""
    for record in PRESETS:
        path = write_recording(tmp_path / f"{record}.h5", ["a", "b"], record=record)
        with probe.open(path) as recording:
            assert {one.check for one in findings_of(recording)} <= set(CHECKS)
        path = write_recording(tmp_path / f"{record}-alone.h5", ["a"], record=record, paired=False)
        with probe.open(path) as recording:
            findings_of(recording)


def test_the_command_to_paste_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a b"
    folder.mkdir()
    commands = set()
    for model in (
        faulty.with_neuron("qcfs", "block2.act", start=0.0),
        faulty.subject("relu", scale={"0.2": 0.3}),
    ):
        commands |= {one.look for one in said(model, folder, **faulty.USUAL)}
    assert len(commands) >= 3
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "probe"
        # Twice: the picture is there then.
        for _ in range(2):
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, (command, result.output)


def test_no_check_loads_torch() -> None:
    for file in Path(probe.__file__).parent.joinpath("diagnosis").glob("*.py"):
        if file.name == "networks.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" for name in names), file.name


def test_numbers_that_are_none_are_told(full: Path, tmp_path: Path) -> None:
    """A capture refuses them; a file from elsewhere may hold them."""
    copied = tmp_path / "nan.h5"
    copied.write_bytes(full.read_bytes())
    with editing(copied) as file:
        sums = file["layers/2/input_sum"]
        sums[1, 0, 0, 0] = np.nan
        logits = file["output/snn"]
        logits[0, 0, 0] = np.inf
    with probe.open(copied) as recording:
        found = list(CHECKS["not-finite"].run(recording))
    assert [(one.layer, one.evidence["samples"]) for one in found] == [(None, 1), ("block3.act", 1)]


def test_as_json(full: Path) -> None:
    with probe.open(full) as recording:
        made = told(recording, findings_of(recording))
    assert made["schema"] == "probe-diagnose/1"
    assert {one["severity"] for one in made["findings"]} == {"note"}
    json.dumps(made, allow_nan=False)


# ------------------------------------------------------------------------------------------------- arithmetic


def fired(x: Any, neuron: Neuron) -> Trains:
    """What a neuron makes of inputs (sample, timestep, neuron); each neuron a channel."""
    x = np.asarray(x, np.float64)
    v, spikes = np.full(x[:, 0].shape, neuron.start), np.zeros(x.shape, np.int16)
    for t in range(x.shape[1]):
        u = neuron.decay * v + neuron.gain * x[:, t]
        s = u >= 1
        v = u - s if neuron.reset == "subtract" else np.where(s, neuron.rest, u)
        spikes[:, t] = s
    return Trains(x, spikes, np.ones(x[:, 0].shape, bool), np.arange(x.shape[2]))


RANDOM = np.random.default_rng(0).normal(0.4, 0.5, (40, 6, 25))


def test_contradictions_by_hand() -> None:
    """v(0) = 0.5, x = 0.3, 0.3, 0.3: u = 0.8, 1.1, 0.4, so s = 0, 1, 0."""
    x = np.full((1, 3, 1), 0.3)
    one = Trains(x, np.array([[[0], [1], [0]]]), np.ones((1, 1), bool), np.zeros(1, int))
    assert contradictions(one, Neuron(0.5)) == 0
    # From 0: u = 0.3, 0.6 though it fired; then, less the spike, -0.1.
    assert contradictions(one, Neuron(0.0)) == 1
    late = Trains(x, np.array([[[0], [0], [1]]]), np.ones((1, 1), bool), np.zeros(1, int))
    assert contradictions(late, Neuron(0.5)) == 1
    silenced = Trains(x, late.spikes, np.zeros((1, 1), bool), late.channel)
    assert contradictions(silenced, Neuron(0.5)) == 0


@pytest.mark.parametrize("start", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("theta", [0.7, 1.0, 1.3])
def test_theta_and_start_are_inferred(start: float, theta: float) -> None:
    """x and v(0) in units of the real θ, spikes held against a declared one of 1: edge = θ·(1 - v(0)), reset = θ."""
    trains = fired(RANDOM, Neuron(start))
    scaled = Trains(trains.x * theta, trains.spikes, trains.spoken, trains.channel)
    fit = soft(edges(scaled, np.zeros_like(trains.channel)))
    assert fit is not None
    assert fit.reset == pytest.approx(theta, abs=0.02)
    assert fit.edge == pytest.approx(theta * (1 - start), abs=0.02)
    assert fit.start == pytest.approx(theta * start, abs=0.03)


def test_no_soft_reset_fits_a_hard_one_or_a_leak() -> None:
    for neuron in (Neuron(reset="zero"), Neuron(decay=0.8), Neuron(decay=0.9, gain=0.1)):
        x = RANDOM * (8 if neuron.gain < 1 else 1)
        trains = fired(x, neuron)
        assert contradictions(trains, Neuron()) > 0
        assert soft(edges(trains, np.zeros_like(trains.channel))) is None
        assert contradictions(trains, neuron) == 0
    assert [one.reset for one in hard(Neuron(0.5))] == ["zero"] * 4


@pytest.mark.parametrize(
    "neuron", [Neuron(decay=0.8), Neuron(0.0, decay=0.9, gain=0.1), Neuron(decay=0.63, reset="zero")]
)
def test_a_leak_is_measured(neuron: Neuron) -> None:
    found = leaky(fired(RANDOM * (8 if neuron.gain < 1 else 1), neuron), Neuron())
    assert found is not None
    assert found.decay == pytest.approx(neuron.decay, abs=0.02)
    assert found.reset == neuron.reset
    assert leaky(fired(RANDOM, Neuron(0.2)), Neuron()) is None


def test_starts_that_differ_from_neuron_to_neuron() -> None:
    starts = np.linspace(0, 0.9, 25)
    parts = [fired(RANDOM[:, :, i : i + 1], Neuron(float(start))) for i, start in enumerate(starts)]
    trains = Trains(RANDOM, np.concatenate([part.spikes for part in parts], 2), np.ones((40, 25), bool), np.arange(25))
    by_neuron = edges(trains, trains.channel)
    assert not consistent(edges(trains, np.zeros_like(trains.channel)))
    assert consistent(by_neuron)
    found = with_unit_reset(by_neuron)
    assert consistent(found)
    assert (found.unfired[:, 0] <= 1 - starts + 1e-9).all()
    assert (found.fired[:, 0] >= 1 - starts - 1e-9).all()


def test_a_state_that_goes_on_is_one_long_train() -> None:
    long = fired(RANDOM, Neuron())
    halves = [Trains(long.x[:, i : i + 3], long.spikes[:, i : i + 3], long.spoken, long.channel) for i in (0, 3)]
    assert contradictions(halves[1], Neuron()) > 0
    assert contradictions(halves[0].followed_by(halves[1]), Neuron()) == 0


def test_counts_of_a_constant_input() -> None:
    """x = 0.3 from v(0) = 0.5, T = 6: ⌊1.8 + 0.5⌋ = 2; from 0: 1."""
    x = np.array([[0.3, 0.9, -0.2]])
    assert counted(x, 6, Neuron(0.5))[0].tolist() == [[2, 5, 0]]
    assert counted(x, 6, Neuron(0.0))[0].tolist() == [[1, 5, 0]]
    x = np.random.default_rng(1).uniform(0, 1, (50, 40))
    for start, theta in ((0.5, 1.0), (0.0, 1.0), (0.5, 1.4)):
        n = counted(x, 6, Neuron(start))[0]
        fit = soft(count_edges(x * 6 * theta, n, 6, np.zeros(40, int)))
        assert fit is not None
        assert (fit.reset, fit.edge) == (pytest.approx(theta, abs=0.02), pytest.approx(theta * (1 - start), abs=0.02))
    assert soft(count_edges(x * 6, counted(x, 6, Neuron(0.0, reset="zero"))[0], 6, np.zeros(40, int))) is None


def test_what_chance_loses() -> None:
    """Of 5 answers that changed, all lost: 1/32; 4 of 5: 6/32."""
    assert chance(5, 0) == 1 / 32
    assert chance(4, 1) == 6 / 32
    assert chance(0, 0) == chance(0, 3) == 1
    exact = sum(math.comb(2001, k) for k in range(1050, 2002)) / 2**2001
    assert chance(1050, 951) == pytest.approx(exact, rel=0.05)
    before, after = np.array([True] * 10 + [False] * 10), np.zeros(20, bool)
    found = lost(before, after)
    assert (found.before, found.after, found.p) == (0.5, 0.0, 1 / 1024)
    assert found.significant
    assert not lost(before, after, looks=20).significant
    assert ALARM == 0.01


def test_the_gain_ignores_biases_and_what_is_unknown() -> None:
    ann = np.random.default_rng(2).normal(size=(12, 7))
    snn = 2.5 * ann + np.arange(7)
    ann[0, :3] = np.nan
    found = gain(Sides(ann, snn))
    assert found is not None
    assert (found.slope, found.correlation) == (pytest.approx(2.5), pytest.approx(1.0))
    assert found.pairs == 12 * 7 - 3
    assert gain(Sides(np.zeros((5, 2)), np.ones((5, 2)))) is None
    assert gain(Sides(ann[:2], snn[:2])) is None


@pytest.mark.parametrize(
    ("factor", "meaning"),
    [(1.05, None), (0.9, None), (0.5, "not scaled"), (2.0, "twice"), (8.1, "summed"), (1 / 8, "divided by T"),
     (1.5, None), (30.0, "another number")],
)  # fmt: skip
def test_what_a_factor_means(factor: float, meaning: str | None) -> None:
    found = _meaning(factor, 2.0, 8)
    assert (found is None) if meaning is None else (found is not None and meaning in found[0])


def test_samples_that_were_exchanged() -> None:
    ann = np.random.default_rng(3).normal(size=(10, 30))
    assert exchanged_inputs(Sides(ann, 2 * ann + 1)) == (0, 10)
    assert exchanged_inputs(Sides(ann, np.roll(ann, 1, 0))) == (10, 10)
    assert exchanged_inputs(Sides(ann, ann[[1, 0, *range(2, 10)]])) == (2, 10)


def test_worst_first() -> None:
    order = [
        Finding("a", "note", "x", "", index=0),
        Finding("b", "error", "y", "", index=3),
        Finding("c", "error", None, ""),
    ]
    assert [one.check for one in worst_first(order)] == ["c", "b", "a"]
    assert reaches(order, "warning")
    assert not reaches(order[:1], "warning")
    with pytest.raises(ValueError, match="severity"):
        Finding("a", "fatal", None, "")


def test_noise_in_the_accuracy_gives_no_alarm(recordings: Callable[..., Path]) -> None:
    """40 digits over t = 1 to 8: the SNN may be right in one more at t = 5 than at T."""
    for neuron in ("if", "negspike"):
        with probe.open(recordings(neuron=neuron)) as recording:
            assert list(CHECKS["falling-accuracy"].run(recording)) == []
            assert isinstance(recording, Recording)


# ------------------------------------------------------------------------------------------- what eyes have found


def chain(*widths: int, levels: int = 4, theta: float = 0.2, seed: int = 0) -> nn.Sequential:
    """An untrained QCFS network."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in pairwise((64, *widths)):
        layers += [nn.Linear(before, width), QCFS(levels, theta)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10)).eval()


def test_other_weights_at_T_equal_L_are_told(tmp_path: Path) -> None:
    """The first layer errs in nothing then, and the second inherits."""
    model = faulty.subject("qcfs", change=partial(faulty.shuffled, name="block2.conv"))
    for record in PRESETS:
        found = said(model, tmp_path, **{**faulty.USUAL, "timesteps": 8}, record=record)
        assert ("warning", "inherited-error", "block2.act") in loud(found)
        assert not [one for one in loud(found) if one[1] in ("own-error", "unexplained-loss")]


def test_another_head_is_not_blamed_on_a_layer(tmp_path: Path) -> None:
    for kind, name in (("qcfs", "output"), ("relu", "8")):
        model = faulty.subject(kind, change=partial(faulty.shuffled, name=name))
        for record in PRESETS:
            found = said(model, tmp_path, **{**faulty.USUAL, "timesteps": 8}, record=record)
            assert loud(found) == [("error", "head", None)]


def test_layers_that_inherit_from_none(tmp_path: Path) -> None:
    found = said(faulty.subject("qcfs"), tmp_path, **{**faulty.USUAL, "timesteps": 8}, layers=["block5.act"])
    (heir,) = [one for one in found if one.check == "inherited-error"]
    assert (heir.severity, heir.layer) == ("note", "block5.act")


def test_a_loss_is_told_where_nothing_explains_it() -> None:
    note, loss = Finding("grid", "note", "x", "", index=0), Finding(UNEXPLAINED, "warning", None, "")
    assert explained([note, loss]) == [note, loss]
    assert explained([note, loss, Finding("silent", "warning", "x", "")])[-1].check == "silent"
    assert len(explained([loss, Finding("leak", "error", "x", "")])) == 1


def test_few_levels_and_samples_give_no_alarm(tmp_path: Path) -> None:
    """Of one level all that is active is at the ceiling, and one sample's silent neurons are silent in all."""
    for levels, theta in ((1, 0.2), (2, 0.2), (4, 0.05)):
        found = said(chain(48, 48, levels=levels, theta=theta), tmp_path, data="digits", samples=30, timesteps=levels)
        assert loud(found) == []
    for samples in (1, 3):
        model = chain(48, 48, theta=0.4)
        assert loud(said(model, tmp_path, data="digits", samples=samples, timesteps=3)) == []


def test_few_active_neurons_give_no_jump(tmp_path: Path) -> None:
    """The second layer errs little in θ², and much for what is active in it."""
    model = chain(64, 256, 32, theta=1.0)
    for place, factor in ((1, 2), (3, 3), (5, 8)):
        model[place].weight.data *= factor
    model[3].bias.data -= 2
    found = said(model, tmp_path, data="digits", samples=50, timesteps=8)
    assert not [one for one in found if "fed other numbers" in one.what]


def test_a_start_at_0_is_a_note_where_it_costs_nothing(tmp_path: Path) -> None:
    for timesteps, severity in ((4, "warning"), (64, "note")):
        found = said(faulty.spikingjelly_as_it_comes(), tmp_path, data="digits", samples=20, timesteps=timesteps)
        assert {one.severity for one in found if one.check == "initial-potential"} <= {severity}
        assert (severity == "note") or loud(found)


def test_a_silent_layer_has_no_threshold_too_high(tmp_path: Path) -> None:
    found = said(faulty.spikingjelly_as_it_comes(), tmp_path, data="digits", samples=20, timesteps=1)
    assert "silent" in {one.check for one in found}
    assert "threshold" not in {one.check for one in found}


def test_the_largest_activation_of_a_relu_layer(tmp_path: Path) -> None:
    """Without arrays it is known to half a spike."""
    exact: list[float] = []
    for record in ("full", "stats"):
        path = probe.capture(relu_models.relu_digits(), output=tmp_path / "r.h5", overwrite=True, record=record,
                             data="digits", samples=20, timesteps=8)  # fmt: skip
        with probe.open(path) as recording:
            found = [_largest_activation(layer) for layer in recording.layers]
            if exact:
                assert all(one <= other <= one + 1 / 8 + 1e-6 for one, other in zip(exact, found, strict=True))
            exact = exact or found


def test_what_lies_before_the_first_layer(tmp_path: Path) -> None:
    """Both networks were fed the same: nothing is normalised otherwise."""

    def change(snn: nn.Module) -> None:
        snn.get_submodule("block1.norm").running_var *= 1.5  # type: ignore[operator]

    found = said(faulty.subject("qcfs", change=change), tmp_path, **faulty.USUAL)
    (one,) = [one for one in found if one.check == "preprocessing"]
    assert one.layer == "block1.act"
    assert "fed the same samples" in one.what
    assert "0.817 times" in one.what


def test_a_sample_that_stands_in_for_another(tmp_path: Path) -> None:
    found = said(faulty.standing_in("qcfs"), tmp_path, **faulty.USUAL)
    assert [(one.check, one.layer) for one in found if one.severity == "error"] == [("mispaired-samples", None)]
    (one,) = [one for one in found if one.check == "mispaired-samples"]
    assert "stand in for others" in one.what


def test_weights_that_are_meant_to_differ() -> None:
    """Batch norm folded into a convolution under the old names computes the same."""
    ann = relu_models.relu_digits()
    model = faulty.subject("relu")
    conv, norm = model.snn.get_submodule("1.0"), model.snn.get_submodule("1.1")
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator, union-attr]
    with torch.no_grad():
        bias = (0 if conv.bias is None else conv.bias) - norm.running_mean  # type: ignore[operator]
        conv.weight.mul_(factor.view(-1, 1, 1, 1))  # type: ignore[union-attr, operator]
        norm.bias.add_(bias * factor)  # type: ignore[union-attr, operator]
        if conv.bias is not None:
            conv.bias.zero_()  # type: ignore[union-attr, operator]
        norm.running_mean.zero_()  # type: ignore[union-attr, operator]
        norm.running_var.fill_(1 - norm.eps)  # type: ignore[union-attr, operator]
        norm.weight.fill_(1)  # type: ignore[union-attr, operator]
    assert ann is not None
    found = probe.diagnose(model, **{**faulty.USUAL, "timesteps": 8})["findings"]
    assert [one for one in found if one["severity"] != "note"] == []


def test_a_diagnosis_leaves_weights_as_they_were() -> None:
    model = faulty.subject("relu", change=partial(faulty.shuffled, name="3.0"))
    before = {name: value.clone() for name, value in model.snn.state_dict().items()}
    found = probe.diagnose(model, **faulty.USUAL)["findings"]
    assert ("weights-differ", "3.2") in [(one["check"], one["layer"]) for one in found]
    (told,) = [one for one in found if one["check"] == "weights-differ"]
    assert told["evidence"]["parameters"] == ["3.0.weight"]
    assert all(torch.equal(value, before[name]) for name, value in model.snn.state_dict().items())


def test_weights_that_differ_and_cost_nothing_are_a_note() -> None:
    def change(snn: nn.Module) -> None:
        snn.get_submodule("block3.conv").weight.data[0] *= 1.2  # type: ignore[index, operator]

    found = probe.diagnose(faulty.subject("qcfs", change=change), **faulty.USUAL)["findings"]
    (told,) = [one for one in found if one["check"] == "weights-differ"]
    assert (told["severity"], told["layer"]) == ("note", "block3.act")


def test_nan_is_told_once() -> None:
    """NaN is unlike itself, and is no sign of samples that depend on each other."""
    model = paper_models.digits()
    model.get_submodule("block3.conv").weight.data[0, 0, 0, 0] = float("nan")  # type: ignore[index, operator]
    found = probe.diagnose(model, data="digits", samples=10, timesteps=4)["findings"]
    assert [one["check"] for one in found if one["severity"] == "error"] == ["not-finite"]


def test_twins_of_other_families(tmp_path: Path) -> None:
    """A network that was trained as an SNN has no ANN to differ from."""
    import snntorch

    torch.manual_seed(0)
    leaky_layers = [snntorch.Leaky(beta=0.9, init_hidden=True), snntorch.Leaky(beta=0.8, init_hidden=True, output=True)]
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 20), leaky_layers[0], torch.nn.Linear(20, 10), leaky_layers[1]
    )
    with torch.no_grad():
        network[1].weight.mul_(2.5)
        network[3].weight.mul_(2.5)
    for record in PRESETS:
        assert said(network.eval(), tmp_path, **faulty.USUAL, record=record) == []
