"""What if a layer had another v(0), θ, method or order of inputs: against exact simulation, by laws, and as typed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

import probe
from probe import neurons, what_if
from probe.attribution import CASES, TERMS
from probe.errors import ProbeError
from probe.what_if import simulate, suppose
from tests import paper_models, reference, relu_models
from tests.editing import editing
from tests.synthetic import write_recording

pytestmark = pytest.mark.usefixtures("one_thread")
PIECES = TERMS[1:]


def rows_of(found: dict[str, Any], layer: int = 0) -> dict[str, dict[str, Any]]:
    """What -> row."""
    return {row["what"]: row for row in found["layers"][layer]["options"]}


def copied(path: Path, to: Path) -> Path:
    shutil.copyfile(path, to)
    return to


# -------------------------------------------------------------------------------------------------- one simulation


@pytest.mark.parametrize("method", ["if", "snm", "negspike"])
@pytest.mark.parametrize("guarded", [True, False])
def test_simulation_is_exact_where_floats_are(method: str, guarded: bool) -> None:
    """Multiples of 1/8 with θ = 1/2: nothing rounds, and many potentials meet an edge exactly."""
    random = np.random.default_rng(0)
    for start in (0, 0.25, 0.5, 0.75):
        x = (random.integers(-6, 9, (9, 300)) / 8).astype(np.float32)
        ran = simulate(x, np.float32(0.5), start, method, guarded=guarded, watch=True)
        neuron = reference.Neuron(Fraction(1, 2), Fraction(start), method, guarded)
        traces = [reference.simulate(reference.exact(inputs), neuron) for inputs in x.T]
        assert [trace.count for trace in traces] == ran.count.tolist()
        assert [trace.potentials[-1] for trace in traces] == ran.potential.tolist()
        assert ran.tie is not None
        assert [trace.tie for trace in traces] == ran.tie.tolist()
        assert 10 < ran.tie.sum() < 300


@pytest.mark.parametrize("method", ["if", "snm", "negspike"])
def test_simulation_of_any_floats_but_for_ties(method: str) -> None:
    random = np.random.default_rng(1)
    x = random.normal(0.1, 0.6, (12, 400)).astype(np.float32)
    theta = random.uniform(0.3, 1.2, 400).astype(np.float32)
    ran = simulate(x, theta, 0.3, method, watch=True)
    assert ran.tie is not None
    for i, inputs in enumerate(x.T):
        neuron = reference.Neuron(Fraction(float(theta[i])), Fraction(float(np.float32(0.3))), method)
        trace = reference.simulate(reference.exact(inputs), neuron)
        assert trace.count == ran.count[i] or ran.tie[i]
        assert trace.tie == bool(ran.tie[i])
    assert ran.tie.sum() < 10


@pytest.mark.parametrize("name", neurons.NEURONS)
def test_simulation_is_that_of_the_modules_bit_for_bit(name: str) -> None:
    random = np.random.default_rng(2)
    x = random.normal(0.1, 0.7, (40, 500)).astype(np.float32)
    theta = random.uniform(0.2, 1.5, 500).astype(np.float32)
    module = neurons.IF(torch.from_numpy(theta), neurons.NeuronSpec.named(name, presteps=5, initial_potential=0.3))
    first = 5 if "srp" in name else 0
    spikes = [module(torch.from_numpy(now)[None]).numpy()[0] / theta for now in x]
    ran = simulate(x[first:], theta, 0.3, name)
    count = ran.count
    if first:
        mask = what_if.silenced(x[:first], theta, 0.3, name)
        assert 0 < mask.sum() < 500
        assert module.silenced is not None
        np.testing.assert_array_equal(mask, module.silenced.numpy()[0])
        count = np.where(mask, 0, count)
    np.testing.assert_array_equal(count, np.sum(np.rint(spikes[first:]), axis=0))
    assert module.potential is not None
    np.testing.assert_array_equal(ran.potential, module.potential.numpy()[0])


def test_constants_are_those_of_the_neurons() -> None:
    assert what_if.METHODS == neurons.NEURONS
    assert what_if.SILENCE_BELOW == neurons.SILENCE_BELOW
    known = {name: (rule.threshold, rule.inclusive) for name, rule in neurons.NEGATIVE.items()}
    assert {name: tuple(rule) for name, rule in what_if.NEGATIVE.items()} == known


def test_even_input_gives_n_even() -> None:
    x = np.random.default_rng(3).integers(-4, 12, 500) / 16
    for start in (0, 0.25, 0.5):
        constant = np.repeat(x[None], 8, 0).astype(np.float32)
        n_even = np.clip(np.floor((constant.sum(0) + 0.5 * start) / 0.5), 0, 8)
        np.testing.assert_array_equal(simulate(constant, np.float32(0.5), start).count, n_even)


def test_scaling_threshold_and_inputs_together_changes_nothing() -> None:
    x = np.random.default_rng(4).normal(0.2, 0.5, (8, 500)).astype(np.float32)
    for method in ("if", "snm", "negspike"):
        once = simulate(x, np.float32(0.7), 0.375, method)
        twice = simulate(2 * x, np.float32(2) * np.float32(0.7), 0.375, method)
        np.testing.assert_array_equal(once.count, twice.count)
        np.testing.assert_array_equal(2 * once.potential, twice.potential)


def test_permuting_keeps_each_neurons_inputs() -> None:
    x = np.random.default_rng(5).normal(size=(6, 8, 20)).astype(np.float32)
    shuffled = what_if.permuted_in_time(x, 0, 3)
    np.testing.assert_array_equal(np.sort(shuffled, axis=1), np.sort(x, axis=1))
    np.testing.assert_allclose(shuffled.sum(1), x.sum(1), atol=1e-5)
    assert (shuffled != x).mean() > 0.8
    # Neurons are permuted each for itself.
    order = np.argsort(np.argsort(shuffled, 1), 1) - np.argsort(np.argsort(x, 1), 1)
    assert len(np.unique(order[0].T, axis=0)) > 10
    np.testing.assert_array_equal(shuffled[2:], what_if.permuted_in_time(x[2:], 0, 3, 2))
    assert not np.array_equal(shuffled, what_if.permuted_in_time(x, 1, 3))
    assert not np.array_equal(shuffled, what_if.permuted_in_time(x, 0, 4))


# -------------------------------------------------------------------------------------------------- recordings


def agrees_with_unevenness(path: Path, timestep: int | None = None) -> dict[str, Any]:
    """As recorded, every number is that of `probe unevenness`, and the recorded counts are reproduced."""
    found = suppose(path, timestep=timestep, methods=["if"])
    known = probe.unevenness(path, timestep=timestep)
    for row, layer in zip(found["layers"], known["layers"], strict=True):
        assert row["reason"] is None
        assert row["reproduced"] == {"neurons": layer["count"], "ties": row["reproduced"]["ties"], "violations": 0}
        option = row["options"][0]
        assert (row["count"], option["cases"], option["local_cases"]) == (
            layer["count"], layer["cases"], layer["local_cases"],
        )  # fmt: skip
        for term in TERMS:
            for key, value in layer["attribution"][term].items():
                ours = option["attribution"][term][key]
                assert ours == (None if value is None else pytest.approx(value, rel=1e-9, abs=1e-15)), (term, key)
    return found


@pytest.mark.parametrize("name", neurons.NEURONS)
@pytest.mark.parametrize("timestep", [8, 3])
def test_recorded_parameters_reproduce_the_recorded_counts(
    name: str, timestep: int, recordings: Callable[..., Path]
) -> None:
    found = agrees_with_unevenness(recordings(neuron=name), timestep)
    # The same arithmetic: not one tie.
    assert [row["reproduced"]["ties"] for row in found["layers"]] == [0] * 6


def test_other_families_are_reproduced_but_for_ties(tmp_path: Path) -> None:
    usual: dict[str, Any] = {"data": "digits", "samples": 20, "timesteps": 8}
    models: dict[str, Any] = {
        "merged": paper_models.merged(), "stepwise": paper_models.stepwise(), "shifted": paper_models.shifted(0.3),
        "srp": paper_models.srp(), "relu": relu_models.relu_digits(),
    }  # fmt: skip
    for name, model in models.items():
        path = probe.capture(model, output=tmp_path / f"{name}.h5", **usual)
        found = agrees_with_unevenness(path)
        assert sum(row["reproduced"]["ties"] for row in found["layers"]) < 5
    with probe.open(tmp_path / "relu.h5") as recording:
        assert recording.layers[1].levels is None
    found = suppose(tmp_path / "relu.h5")
    for row in found["layers"]:
        pieces = {option["what"]: option["attribution"] for option in row["options"]}
        assert pieces["arriving evenly"]["unevenness"]["mean_square"] < 1e-6
        for key in ("mean", "mean_square"):
            assert pieces["arriving evenly"]["clipping"][key] == pieces["as recorded"]["clipping"][key]


def test_srp_on_an_if_recording_makes_the_mask_of_srp(recordings: Callable[..., Path]) -> None:
    """The pre-simulation runs every layer as a plain IF, so an IF recording holds its inputs."""
    for base, method in (("if", "srp"), ("negspike", "srp+negspike")):
        with probe.open(recordings(neuron=base)) as plain, probe.open(recordings(neuron=method)) as masked:
            for layer, other in zip(plain.layers, masked.layers, strict=True):
                bench = what_if.Bench(layer, 8, 40, 0, 4)
                option = bench.as_recorded(method, method=method)
                masks = [bench.run(block, option)[1] for block in bench.blocks()]
                assert all(mask is not None for mask in masks)
                np.testing.assert_array_equal(np.concatenate(masks), other.silenced.ravel())  # type: ignore[arg-type]
                assert other.silenced.any()
    # And where the recording has a mask, that one stays.
    found = rows_of(suppose(recordings(neuron="srp"), 2, methods=["srp", "srp+negspike", "if"], initial_potentials=[0]))
    silent = {what: row["attribution"]["silencing"]["mean_square"] for what, row in found.items()}
    assert silent["as recorded"] > 0
    assert silent["srp, v(0) = 0 θ"] > 0
    assert silent["srp+negspike, v(0) = 0 θ"] > 0
    assert silent["if, v(0) = 0 θ"] == 0


def by_hand(
    path: Path, start: Fraction, scale: Fraction, method: str, guarded: bool = True
) -> tuple[dict[str, float], dict[str, int]]:
    """Mean squares of the pieces in θ² and the cases, neuron by neuron in fractions; QCFS, scalar θ, no SRP."""
    with probe.open(path) as recording:
        (layer,), t = recording.layers, recording.timesteps
        assert layer.levels
        theta, levels = Fraction(float(layer.threshold)), layer.levels
        x = np.moveaxis(layer.snn_input, 1, -1).reshape(-1, t)
        total = layer.input_sum.ravel()
        k = layer.ann_values().ravel()
    neuron = reference.Neuron(theta * scale, start, method, guarded)
    squares, cases = dict.fromkeys(TERMS, Fraction(0)), dict.fromkeys(CASES, 0)
    for inputs, input_sum, level in zip(x, reference.exact(total), map(int, k), strict=True):
        trace = reference.simulate(reference.exact(inputs), neuron)
        described = reference.describe(level, trace.count, input_sum, neuron, levels, t)
        q = Fraction(reference.qcfs_level(input_sum / t, theta, levels), levels)
        pieces = {name: described.pieces[name] * scale for name in ("unevenness", "initial_potential")}
        pieces |= {"silencing": Fraction(0), "clipping": Fraction(0)}
        pieces["grid"] = scale * described.n_half / t - q
        pieces["inherited"] = q - Fraction(level, levels)
        pieces["total"] = scale * trace.count / t - Fraction(level, levels)
        assert sum(pieces.values()) == 2 * pieces["total"]
        for name, piece in pieces.items():
            squares[name] += piece**2
        compared = reference._compare(pieces["total"], 0)
        cases[f"{'positive' if level else 'zero'}_{compared}"] += 1
    return {name: float(square / len(x)) for name, square in squares.items()}, cases


@pytest.mark.parametrize(
    ("start", "scale", "method"),
    [("1/2", "1", "negspike"), ("1/4", "1", "if"), ("0", "5/4", "if"), ("3/16", "3/4", "snm"), ("1/2", "2", "if")],
)
@pytest.mark.parametrize(("levels", "timesteps"), [(8, 8), (5, 6)])
def test_pieces_and_cases_are_those_of_exact_arithmetic(
    start: str, scale: str, method: str, levels: int, timesteps: int, tmp_path: Path
) -> None:
    path = write_recording(tmp_path / "r.h5", ["one"], levels=levels, timesteps=timesteps, samples=4, threshold=0.6)
    found = suppose(
        path, initial_potentials=[float(Fraction(start))], threshold_scales=[float(Fraction(scale))], methods=[method]
    )
    squares, cases = by_hand(path, Fraction(start), Fraction(scale), method)
    row = found["layers"][0]["options"][1]
    assert (row["cases"], row["method"]) == (cases, method)
    for name, square in squares.items():
        assert row["attribution"][name]["mean_square"] == pytest.approx(square, rel=1e-9, abs=1e-18), name


@pytest.mark.parametrize("levels", [8, None])
@pytest.mark.parametrize("unguarded", [False, True])
def test_every_row_keeps_the_laws(levels: int | None, unguarded: bool, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "r.h5", ["one", "two"], levels=levels, unguarded=unguarded)
    found = suppose(path)
    for i, layer in enumerate(found["layers"]):
        assert layer["reproduced"] == {"neurons": 6 * 48, "ties": 0, "violations": 0}
        rows = rows_of(found, i)
        assert len(rows) == 8
        for row in rows.values():
            assert sum(row["cases"].values()) == sum(row["local_cases"].values()) == layer["count"] == 6 * 48
            pieces = row["attribution"]
            assert sum(pieces[name]["mean"] for name in PIECES) == pytest.approx(pieces["total"]["mean"])
            assert sum(pieces[name]["share"] for name in PIECES) == pytest.approx(1)
            assert row["mean_square"] == pieces["total"]["mean_square"]
            assert pieces["inherited"] == {**rows["as recorded"]["attribution"]["inherited"],
                                           "share": pieces["inherited"]["share"]}  # fmt: skip
        even = rows["arriving evenly"]
        # Without a guard a neuron may end below 0 and above -θ, one spike from n_even.
        if not unguarded:
            assert even["attribution"]["unevenness"]["mean_square"] == 0
            assert even["local_cases"]["zero_equal"] + even["local_cases"]["positive_equal"] == 6 * 48
        assert (
            rows["permuted in time"]["attribution"]["grid"]["mean"]
            == rows["as recorded"]["attribution"]["grid"]["mean"]
        )
        assert rows["as recorded"]["change"] == 0
        assert rows["v(0) = θ/2"] == {**rows["as recorded"], "what": "v(0) = θ/2"}


def test_the_best_is_the_lowest_of_its_grid(recordings: Callable[..., Path]) -> None:
    found = suppose(recordings(timesteps=3), [1, 3])
    for i, layer in enumerate(found["layers"]):
        rows = rows_of(found, i)
        recorded = rows["as recorded"]["mean_square"]
        starts, scales = (layer["best"][name]["grid"] for name in ("initial_potential", "threshold_scale"))
        assert [point["value"] for point in starts] == [i / 16 for i in range(16)]
        assert [point["value"] for point in scales] == [i / 16 for i in range(8, 33)]
        for name, grid in (("initial_potential", starts), ("threshold_scale", scales)):
            best = layer["best"][name]
            assert best["mean_square"] == min(point["mean_square"] for point in grid) <= recorded
            assert best["change"] == pytest.approx(best["mean_square"] / recorded - 1)
            (row,) = [row for what, row in rows.items() if what.startswith("best") and row[name] == best["value"]]
            assert row["mean_square"] == best["mean_square"]
        assert starts[0]["mean_square"] == rows["v(0) = 0"]["mean_square"]
        assert starts[8]["mean_square"] == scales[8]["mean_square"] == recorded
        # The same values asked for one by one.
        asked = suppose(recordings(timesteps=3), layer["index"], threshold_scales=[0.5, 1.25])
        squares = [row["mean_square"] for row in asked["layers"][0]["options"]]
        assert squares == [recorded, scales[0]["mean_square"], scales[12]["mean_square"]]


def test_an_initial_potential_off_the_grid_is_searched_too(tmp_path: Path) -> None:
    path = probe.capture(paper_models.shifted(0.3), data="digits", samples=10, timesteps=4, output=tmp_path / "r.h5")
    layer = suppose(path, 2)["layers"][0]
    assert layer["initial_potential"] == 0.3
    assert 0.3 in [point["value"] for point in layer["best"]["initial_potential"]["grid"]]
    assert layer["best"]["initial_potential"]["mean_square"] <= layer["options"][0]["mean_square"]


def test_a_recording_in_other_units_says_the_same(tmp_path: Path) -> None:
    """Its inputs are drawn in units of θ, and a factor of 2 rounds nothing."""
    one = suppose(write_recording(tmp_path / "1.h5", ["one"], threshold=0.5))
    two = suppose(write_recording(tmp_path / "2.h5", ["one"], threshold=1.0))
    assert {**two["layers"][0], "threshold": 0.5} == one["layers"][0]


def test_thresholds_a_channel(tmp_path: Path) -> None:
    theta = np.array([0.25, 0.5, 1], np.float32).reshape(1, 3, 1, 1)
    one = suppose(write_recording(tmp_path / "1.h5", ["one"], threshold=0.5))
    each = suppose(write_recording(tmp_path / "2.h5", ["one"], threshold=theta))
    assert each["layers"][0]["threshold"]["per"] == "channel"
    keep = ("options", "best", "reproduced", "count")
    assert [each["layers"][0][key] for key in keep] == [one["layers"][0][key] for key in keep]


def test_batches_and_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recording(tmp_path / "r.h5", ["one"], samples=7)
    whole = suppose(path, inputs="permuted", methods=["if", "srp"])
    monkeypatch.setattr(what_if, "BLOCK", 13)
    monkeypatch.setattr(what_if, "BATCH_BYTES", 2 * 4 * 8 * 48)
    split = suppose(path, inputs="permuted", methods=["if", "srp"])
    for one, other in zip(whole["layers"][0]["options"], split["layers"][0]["options"], strict=True):
        assert (one["cases"], one["local_cases"]) == (other["cases"], other["local_cases"])
        assert one["mean_square"] == pytest.approx(other["mean_square"], rel=1e-12)


def test_memory_does_not_grow_with_the_samples(tmp_path: Path) -> None:
    peaks = []
    for samples in (96, 288):
        path = write_recording(tmp_path / f"{samples}.h5", ["one"], shape=(4096,), timesteps=4, samples=samples)
        with probe.open(path) as recording:
            suppose(recording, inputs="permuted", samples=1)
            tracemalloc.start()
            suppose(recording, inputs="permuted", threshold_scales=[1.25])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]


# -------------------------------------------------------------------------------------------------- as typed


Run = Callable[..., Result]


def ok(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result: Result, *parts: str) -> None:
    """Exit 2, nothing on stdout, one line on stderr with all the parts."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("probe: ")
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in last


def test_the_table_as_typed(run: Run, full: Path, tmp_path: Path) -> None:
    (tmp_path / "recording.h5").symlink_to(full)
    text = ok(run("what-if"))
    assert text.startswith("t = 8 of T = 8, 40 samples; mean squares in units of θ²\n")
    blocks = text.split("\n\n")
    assert len(blocks) == 8
    assert "local: the recorded inputs are held fixed" in blocks[-1]
    assert "the ANN's α stays what it was" in blocks[-1]
    found = suppose(full)
    for block, layer in zip(blocks[1:-1], found["layers"], strict=True):
        title, _, *lines = block.splitlines()
        assert title.startswith(f"Layer {layer['index']} ({layer['name']})  if  L = 8  θ = ")
        what = [line.split("  ")[0] for line in lines]
        assert what[:3] == ["as recorded", "v(0) = 0", "v(0) = θ/2"]
        assert what[3].startswith("best v(0) = ")
        assert what[4].startswith("best θ × ")
        assert what[5:] == ["arriving evenly", "permuted in time", "negspike"]
        for line, option in zip(lines, layer["options"], strict=True):
            assert f" {option['mean_square']:.6f} " in line
    assert "silencing" not in text
    assert "clipping" not in text


def test_options_are_combined(run: Run, full: Path) -> None:
    text = ok(run("what-if", full, "--layer", 1, "-t", 4, "--initial-potential", 0, "--initial-potential", 0.25,
                  "--scale-threshold", 1.5, "--method", "negspike", "--method", "srp"))  # fmt: skip
    what = [line.split("  ")[0] for line in text.splitlines()[4:9]]
    assert what == [
        "as recorded", "negspike, v(0) = 0 θ, θ × 1.5", "srp, v(0) = 0 θ, θ × 1.5",
        "negspike, v(0) = 0.25 θ, θ × 1.5", "srp, v(0) = 0.25 θ, θ × 1.5",
    ]  # fmt: skip
    assert "silencing" in text
    assert "SRP: the mask is made on the first 4 recorded inputs" in text
    assert "arriving evenly" in ok(run("what-if", full, "--layer", 1, "--inputs", "even"))


def test_json_and_csv(run: Run, full: Path) -> None:
    found = json.loads(ok(run("what-if", full, "--layer", "0:2", "--json", "--samples", 30)))
    assert list(found) == [
        "schema", "file", "timesteps", "timestep", "samples", "recorded_samples", "complete", "seed", "notes", "layers",
    ]  # fmt: skip
    assert (found["schema"], found["samples"], found["recorded_samples"]) == ("probe-what-if/1", 30, 40)
    assert list(found["layers"][1]) == [
        "index", "name", "neuron", "levels", "threshold", "reason", "count", "initial_potential", "reproduced", "best",
        "options",
    ]  # fmt: skip
    assert found["layers"][1]["count"] == 30 * 1024
    # The first layer errs nowhere, so there is nothing to compare with.
    assert found["layers"][0]["options"][0]["change"] is None
    rows = list(csv.DictReader(io.StringIO(ok(run("what-if", full, "--layer", "0:2", "--csv", "--samples", 30)))))
    assert len(rows) == 16
    assert float(rows[9]["mean_square"]) == found["layers"][1]["options"][1]["mean_square"]
    assert rows[9]["attribution.unevenness.share"] != ""
    assert "the first 30 of 40 samples" in ok(run("what-if", full, "--layer", 5, "--samples", 30))
    one, two = (ok(run("what-if", full, "--layer", 2, "--inputs", "permuted", "--seed", seed)) for seed in (0, 1))
    assert one != two
    assert one == ok(run("what-if", full, "--layer", 2, "--inputs", "permuted", "--samples", "all"))


def test_a_layer_that_cannot_be_run_again_is_one_line(run: Run, full: Path, tmp_path: Path) -> None:
    edited = copied(full, tmp_path / "edited.h5")
    with editing(edited) as file:
        for index, change in {
            1: {"reset": "zero"},
            2: {"leaky": True},
            3: {"graded": True},
            4: {"signed": True},
        }.items():
            attributes = file[f"layers/{index}"].attrs
            attributes["traits"] = json.dumps({**json.loads(attributes["traits"]), **change})
        # Its counts are wider then, and its spikes one byte each.
        for index in (3, 4):
            layer = file[f"layers/{index}"]
            del layer["snn_spikes"]
            layer["snn_spikes"] = np.zeros((40, 8, *layer.attrs["shape"]), np.int8)
            counts = layer["spike_count"][()]
            del layer["spike_count"]
            layer["spike_count"] = counts.astype(np.int32 if index == 3 else np.int16)
        file["layers/5"].attrs["neuron"] = "iaf"
    text = ok(run("what-if", edited, "--inputs", "even"))
    lines = {line.split(" (")[0]: line for line in text.splitlines() if line.startswith("Layer")}
    for name, part in {
        "Layer 1": "act): reset to zero: the conservation law needs", "Layer 2": "act): the potential leaks",
        "Layer 3": "act): the neuron may fire more than one spike", "Layer 4": "act): its neurons (if) follow a rule",
        "Layer 5": "act): its neurons (iaf) follow a rule",
    }.items():  # fmt: skip
        assert part in lines[name]
    assert "Layer 0 (block1.act)  if" in text
    rows = list(csv.DictReader(io.StringIO(ok(run("what-if", edited, "--inputs", "even", "--csv")))))
    assert [row["index"] for row in rows] == ["0", "0", "1", "2", "3", "4", "5"]
    assert "zero" in rows[2]["reason"]
    refused(run("what-if", edited, "--layer", 2), "layer 2 (block3.act)", "leaks")
    alone = write_recording(tmp_path / "alone.h5", ["one"], paired=False)
    refused(run("what-if", alone), "layer 0 (one)", "no ANN partner")


def test_bad_input(run: Run, full: Path, recordings: Callable[..., Path], tmp_path: Path) -> None:
    refused(run("what-if", recordings(record="counts")), "--record counts", "--record full")
    refused(run("what-if", tmp_path / "none.h5"), "no file")
    refused(run("what-if", full, "-t", 9), "t = 9", "1 to T = 8")
    refused(run("what-if", full, "--layer", 6), "no layer 6")
    refused(run("what-if", full, "--initial-potential", 1), "v(0) is 1 θ", "from 0 to below 1")
    refused(run("what-if", full, "--initial-potential", "nan"), "v(0) is nan θ")
    refused(run("what-if", full, "--scale-threshold", 0), "θ times 0", "0.01 to 100")
    refused(run("what-if", full, "--scale-threshold", "nan"), "θ times nan")
    refused(run("what-if", full, "--method", "srp", "--srp-steps", 9), "9 pre-simulation steps", "1 to T = 8")
    refused(run("what-if", full, "--samples", 0), "0 samples")
    refused(run("what-if", full, "--seed", -1), "seed -1")
    assert run("what-if", full, "--method", "cos").exit_code == 2
    assert run("what-if", full, "--json", "--csv").exit_code == 2
    with pytest.raises(ProbeError, match=r"'cos'.*one of if, snm"):
        suppose(full, methods=["cos"])
    with pytest.raises(ProbeError, match=r"'shuffled'.*one of recorded"):
        suppose(full, inputs="shuffled")


def test_counts_that_are_not_reproduced_are_told(run: Run, full: Path, tmp_path: Path) -> None:
    edited = copied(full, tmp_path / "edited.h5")
    with editing(edited) as file:
        file["layers/1"].attrs["initial_fraction"] = 0.25
        file["layers/2/spike_count"][3, 1, 2, :2] = 7
    wrong = suppose(edited, [1, 2], inputs="even")["layers"]
    assert wrong[0]["reproduced"]["violations"] > 1000
    assert wrong[1]["reproduced"]["violations"] == 2
    text = ok(run("what-if", edited, "--inputs", "even"))
    assert text.count("NOT REPRODUCED") == 2
    assert "2 of 20,480 neurons do not give the recorded count" in text
    assert "NOT REPRODUCED" not in ok(run("what-if", full, "--inputs", "even"))


def test_ties_are_counted_apart(run: Run, tmp_path: Path) -> None:
    """A neuron that is fed θ/2 meets θ exactly: whoever rounds otherwise misses that spike."""
    path = write_recording(tmp_path / "r.h5", ["one"])
    with editing(path) as file:
        layer = file["layers/0"]
        layer["snn_input"][0, :, 0, 0, 0] = [0.25, 0, 0, 0, 0, 0, 0, 0]
        layer["snn_input"][0, :, 0, 0, 1] = [0.125, 0, 0, 0, 0, 0, 0, 0]
        layer["spike_count"][0, 0, 0, :2] = [0, 0]
    assert suppose(path, inputs="even")["layers"][0]["reproduced"] == {"neurons": 288, "ties": 1, "violations": 0}
    assert "reproduced, but for 1 ties of 288 neurons" in ok(run("what-if", path, "--inputs", "even"))


def test_it_runs_without_torch(full: Path) -> None:
    code = (
        "import sys; from probe.cli import main\n"
        f"sys.argv[1:] = ['what-if', {str(full)!r}, '--layer', '5']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) == {"False"}


def test_the_public_name() -> None:
    assert probe.suppose is suppose
    assert callable(probe.suppose)
    assert probe.what_if is what_if
