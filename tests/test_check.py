"""`probe check` and its conditions: what they compare, with what, and how each mistake is met."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import run as run_process
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import probe
from probe.conditions import Found, Numbers, Row, difference, lookup, numbers_of, parse
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_cli import refused

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def numbers(recordings: Callable[..., Path]) -> Numbers:
    with probe.open(recordings()) as recording:
        return numbers_of(recording, 4, ["layers"])


# ----------------------------------------------------------------------------------------------------- grammar


@pytest.mark.parametrize(
    ("text", "path", "sign", "limit"),
    [
        ("layers.*.cases.zero_over.share > 0.05", "layers.*.cases.zero_over.share", ">", 0.05),
        ("  snn.8<90%", "snn.8", "<", 0.9),
        ("ann >= 1e-3 ", "ann", ">=", 1e-3),
        ("a<=-2", "a", "<=", -2),
        ("complete == false", "complete", "==", 0),
        ("layers.my layer.act.count != 3", "layers.my layer.act.count", "!=", 3),
    ],
)
def test_a_condition_has_three_parts(text: str, path: str, sign: str, limit: float) -> None:
    found = parse(text)
    assert (found.path, found.sign, found.limit) == (path, sign, pytest.approx(limit))


@pytest.mark.parametrize("text", ["", "snn.8", "snn.8 <", "> 3", "snn.8 = 3", "snn.8 < lots", "snn.8 < nan", "a < 3 4"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(probe.ProbeError, match="condition"):
        parse(text)


@pytest.mark.parametrize(
    ("sign", "holds"),
    [(">", [False, False, True]), (">=", [False, True, True]), ("<", [True, False, False]),
     ("<=", [True, True, False]), ("==", [False, True, False]), ("!=", [True, False, True])],
)  # fmt: skip
def test_operators(sign: str, holds: list[bool]) -> None:
    condition = parse(f"x {sign} 0.5")
    assert [condition.holds(value) for value in (0.25, 0.5, 0.75)] == holds


def test_paths_name_what_the_json_holds(numbers: Numbers, full: Path) -> None:
    layers = probe.unevenness(full, timestep=4)["layers"]
    found = lookup(numbers, "layers.*.cases.zero_over")
    assert [one.value for one in found] == [row["cases"]["zero_over"] for row in layers]
    assert [one.path for one in found][:2] == ["layers.0.cases.zero_over", "layers.1.cases.zero_over"]
    assert [(one.layer, one.name) for one in found][1] == (1, "block2.act")
    # A share of a count is one of the neurons; that of a piece is its own number.
    (share,) = lookup(numbers, "layers.3.cases.zero_over.share")
    assert share.value == layers[3]["cases"]["zero_over"] / layers[3]["count"]
    (piece,) = lookup(numbers, "layers.3.attribution.unevenness.share")
    assert piece.value == layers[3]["attribution"]["unevenness"]["share"] != share.value
    for path in ("layers.block4.act.cases.zero_over.share", "layers.-3.cases.zero_over.share"):
        assert lookup(numbers, path) == [share]
    assert [one.layer for one in lookup(numbers, "layers.1:3.count")] == [1, 2]
    assert len(lookup(numbers, "layers.0.cases.*.share")) == 6
    assert sum(one.value or 0 for one in lookup(numbers, "layers.0.cases.*.share")) == pytest.approx(1)
    # Of the seven only six have a share; the seventh is left out.
    assert len(lookup(numbers, "layers.3.attribution.*.share")) == 6
    assert lookup(numbers, "layers.3.largest_error.neuron.2")[0].value == layers[3]["largest_error"]["neuron"][2]
    # What `probe layers` has is there too, and the accuracies.
    assert lookup(numbers, "layers.5.silent")[0].value == probe.layer_table(full)["layers"][5]["silent"]
    accuracy = probe.accuracy(full)
    assert [one.value for one in lookup(numbers, "snn.*")] == list(accuracy["snn"].values())
    assert lookup(numbers, "ann") == [Found("ann", None, None, accuracy["ann"])]
    assert lookup(numbers, "timestep")[0].value == 4


def test_offsets_that_do_not_occur_are_none_of_the_neurons(numbers: Numbers) -> None:
    (found,) = lookup(numbers, "layers.0.offset_spikes.-7.share")
    assert found.value == 0


def test_names_with_dots_and_digits() -> None:
    rows = [Row(0, "1", {"count": 10}), Row(1, "0.act", {"count": 11}), Row(2, "0.act.inner", {"count": 12})]
    numbers = Numbers({}, rows)
    # A plain number is an index, whatever the layers are called; of names the longest that fits.
    for path, expected in (("layers.1.count", 11), ("layers.0.act.count", 11), ("layers.0.act.inner.count", 12)):
        assert [one.value for one in lookup(numbers, path)] == [expected]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("layers.*.cases.zero_ovr", ["no zero_ovr in layers.*.cases", "zero_over"]),
        ("layers.0.figure.rmse", ["no figure in layers.0", "figures"]),
        ("layers.blok2.act.count", ["layers.blok2.act.count", "block2.act"]),
        ("layers.9.count", ["no layer 9", "5 (hidden.act)"]),
        ("layers.0.cases", ["layers.0.cases is no number", "zero_equal"]),
        ("layers.0.name", ["layers.0.name is no number"]),
        ("layers", ["layers is no number", "layers.*"]),
        ("snn.9", ["no 9 in snn", "1, 2, 3"]),
        ("snm.8", ["snm", "perhaps snn"]),
        ("acc", ["acc", "layers, ann, snn"]),
        ("ann.share", ["no share in ann"]),
        ("layers.0.firing_rate.share", ["no share in layers.0.firing_rate"]),
        ("layers.0.spikes_per_sample.*", ["no *"]),
    ],
)
def test_a_path_that_names_nothing_says_what_is_near(path: str, parts: list[str], numbers: Numbers) -> None:
    with pytest.raises(probe.ProbeError) as caught:
        lookup(numbers, path)
    for part in parts:
        assert part in str(caught.value)


def test_a_number_that_only_some_layers_have_is_undefined_in_the_others() -> None:
    numbers = Numbers({}, [Row(0, "a", {"threshold": 0.5}), Row(1, "b", {"threshold": {"min": 0.1, "max": 0.9}})])
    first, second = lookup(numbers, "layers.*.threshold.min")
    assert (first.value, first.reason) == (None, "this layer has no such number")
    assert second.value == 0.1


def test_difference_is_the_second_minus_the_first() -> None:
    before = [Found("a", 0, "x", 1.0), Found("b", 0, "x", None, "why"), Found("c", 0, "x", 3.0)]
    after = [Found("a", 0, "x", 1.5), Found("b", 0, "x", 2.0), Found("d", 0, "x", 4.0)]
    found = {one.path: (one.value, one.reason) for one in difference(before, after)}
    assert found == {"a": (0.5, ""), "b": (None, "why"), "c": (None, "only in A"), "d": (None, "only in B")}


# ----------------------------------------------------------------------------------------------------- command


def test_a_line_for_each_breach(run: Run, full: Path) -> None:
    layers = probe.unevenness(full)["layers"]
    shares = [row["cases"]["zero_over"] / row["count"] for row in layers]
    limit = sorted(shares)[3]
    result = run("check", full, "--fail-if", f"layers.*.cases.zero_over.share > {limit!r}")
    assert result.exit_code == 1
    expected = [
        f"layers.{i}.cases.zero_over.share = {share:.6g} > {limit:.6g}  layer {i} ({layers[i]['name']})"
        for i, share in enumerate(shares)
        if share > limit
    ]
    assert result.stdout.splitlines() == expected
    assert len(expected) == 2


def test_nothing_breached_is_one_line(run: Run, full: Path) -> None:
    result = run("check", full, "--fail-if", "layers.*.cases.zero_over.share > 99%", "--fail-if", "snn.8 < 50%")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{full}: 7 numbers within 2 limits at t = 8\n"


def test_t_chooses_the_numbers(run: Run, full: Path) -> None:
    """The first layer has no error at T = L, and one of the grid before."""
    condition = ("--fail-if", "layers.0.figures.rmse > 0")
    assert run("check", full, *condition).exit_code == 0
    assert run("check", full, *condition, "-t", 4).exit_code == 1
    refused(run("check", full, *condition, "-t", 9), "t = 9", "1 to T = 8")


def test_what_is_undefined_never_breaches_and_is_told(run: Run, full: Path) -> None:
    for sign in ("<", ">=", "!="):
        result = run("check", full, "--fail-if", f"layers.0.attribution.unevenness.share {sign} 0.5")
        assert result.exit_code == 0
        assert "layers.0.attribution.unevenness.share" in result.stderr
        assert "no error to have a share of" in result.stderr
    result = run("check", full, "--fail-if", "layers.*.figures.interval.rmse.high > 99", "-t", 3)
    assert "sums of each sample are kept at t = 1, 2, 4, 8" in result.stderr
    assert "and 3 more" in result.stderr


def test_json_says_all_of_it(run: Run, full: Path) -> None:
    conditions = ["layers.*.attribution.unevenness.share > 20%", "snn.8 < 0.5"]
    result = run("check", full, "--json", *[part for one in conditions for part in ("--fail-if", one)])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found == probe.check(full, conditions)
    assert list(found) == ["schema", "file", "timesteps", "timestep", "samples", "complete", "passed", "conditions"]
    assert (found["schema"], found["passed"]) == ("probe-check/1", False)
    first, second = found["conditions"]
    assert first["compared"] == 5
    assert first["breaches"][0] == {
        "path": "layers.1.attribution.unevenness.share", "layer": 1, "name": "block2.act", "value": 1.0, "limit": 0.2,
    }  # fmt: skip
    assert [one["layer"] for one in first["null"]] == [0]
    assert second == {"condition": "snn.8 < 0.5", "compared": 1, "breaches": [], "null": []}


def test_mistakes_end_with_two(run: Run, full: Path, tmp_path: Path) -> None:
    refused(run("check", full), "no condition", "--fail-if")
    refused(run("check", full, "--fail-if", "layers.*.cases.zero_over"), "condition", "> >= <")
    refused(run("check", full, "--fail-if", "layers.*.cases.zero_ovr > 1"), "zero_ovr", "perhaps zero_over")
    refused(run("check", full, "--fail-if", "layers.*.count > 1 or 2"), "condition")
    refused(run("check", tmp_path / "none.h5", "--fail-if", "ann < 1"), "no file")
    # One good condition does not hide a bad one.
    assert run("check", full, "--fail-if", "ann < 2", "--fail-if", "an < 2").exit_code == 2


def test_a_recording_without_an_ann(run: Run, tmp_path: Path) -> None:
    alone = write_recording(tmp_path / "r.h5", ["a"], paired=False)
    assert run("check", alone, "--fail-if", "layers.*.firing_rate > 0").exit_code == 1
    refused(run("check", alone, "--fail-if", "layers.*.cases.zero_over > 0"), "no cases in layers.*")


def test_no_attribution_where_the_family_promises_none(run: Run, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "r.h5", ["a"])
    with editing(path) as file:
        traits = json.loads(file["layers/0"].attrs["traits"])
        file["layers/0"].attrs["traits"] = json.dumps({**traits, "reset": "zero"})
    result = run("check", path, "--fail-if", "layers.*.attribution.total.mean_square > 0")
    assert result.exit_code == 0
    assert "reset to zero" in result.stderr
    assert run("check", path, "--fail-if", "layers.*.figures.rmse > 0").exit_code == 1


def test_names_from_a_file_are_printed_harmless(run: Run, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "r.h5", ["a\x1b[31m"])
    result = run("check", path, "--fail-if", "layers.*.count > 0")
    assert "\x1b" not in result.stdout
    assert "\\x1b[31m" in result.stdout


def test_an_incomplete_recording_can_be_refused(run: Run, full: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped.h5"
    stopped.write_bytes(full.read_bytes())
    with editing(stopped) as file:
        file.attrs["complete"] = np.False_
    assert run("check", stopped, "--fail-if", "complete == false").exit_code == 1
    assert run("check", full, "--fail-if", "complete == false").exit_code == 0


def test_no_network_is_run_and_no_torch_imported(full: Path) -> None:
    code = (
        "import sys; from probe.cli import main\n"
        f"sys.argv[1:] = ['check', {str(full)!r}, '--fail-if', 'snn.8 < 0.5']\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    # Of the process that reads, and of the one that waits for it.
    assert (done.returncode, set(done.stderr.splitlines())) == (0, {"False"})


def test_the_help_has_the_grammar(run: Run) -> None:
    text: Any = run("check", "--help").stdout
    assert "layers.*.cases.zero_over.share > 5%" in text
    assert "Example:  probe check" in text
