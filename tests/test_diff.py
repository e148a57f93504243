"""`probe diff`: signs, intervals, pairing of samples and of layers, and what it prints."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

import probe
from probe.attribution import CASES, PIECES
from probe.compare import diff, pair_layers, why_unpaired
from probe.figures import FIGURES
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_cli import refused

Run = Callable[..., Result]


@pytest.fixture
def signed(recordings: Callable[..., Path]) -> Path:
    """The same samples as `full`, with negative spikes."""
    return recordings(neuron="negspike")


def squares(path: Path, index: int, t: int) -> np.ndarray:
    """Of each sample, the mean square of φ - a in units of θ, from the arrays."""
    with probe.open(path) as recording:
        layer = recording.layers[index]
        a = np.rint(layer.ann_output.astype(np.float64) / layer.threshold * layer.levels) / layer.levels
        phi = layer.snn_spikes[:, :t].astype(np.float64).sum(1) / t
    return ((phi - a) ** 2).reshape(len(a), -1).mean(1)


def rows(found: dict[str, Any]) -> dict[int, Any]:
    return {row["index"]: row for row in found["layers"]}


# --------------------------------------------------------------------------------------------------------- laws


def test_every_difference_is_that_of_the_two_tables(full: Path, signed: Path) -> None:
    found = rows(diff(full, signed, timestep=4))
    one, other = (probe.unevenness(path, timestep=4)["layers"] for path in (full, signed))
    assert sorted(found) == [0, 1, 2, 3, 4, 5]
    for before, after in zip(one, other, strict=True):
        row = found[before["index"]]
        pairs = {"mean_square": [side["attribution"]["total"]["mean_square"] for side in (before, after)]}
        assert row["mean_square"]["difference"] == pairs["mean_square"][1] - pairs["mean_square"][0]
        for name in PIECES:
            a, b = (side["attribution"][name]["mean_square"] for side in (before, after))
            assert (row["pieces"][name]["a"], row["pieces"][name]["b"]) == (a, b)
            assert row["pieces"][name]["difference"] == b - a
            assert row["pieces"][name]["interval"] is None
        for name in CASES:
            a, b = (side["cases"][name] / side["count"] for side in (before, after))
            assert row["cases"][name]["difference"] == b - a
        assert sum(entry["difference"] for entry in row["cases"].values()) == pytest.approx(0, abs=1e-12)
        assert row["firing_rate"]["difference"] == after["firing_rate"] - before["firing_rate"]
        for name in FIGURES:
            assert row["figures"][name]["a"] == before["figures"][name]
    assert found[3]["mean_square"]["difference"] < 0


def test_a_recording_does_not_differ_from_itself(full: Path) -> None:
    found = diff(full, full)
    assert found["paired"] is True
    assert {row["verdict"] for row in found["layers"]} == {"equal"}
    for row in found["layers"]:
        assert row["mean_square"]["difference"] == 0
        assert row["mean_square"]["interval"] == {"low": 0, "high": 0}
        assert row["mean_square"]["beyond_noise"] is False
    assert found["notes"] == found["only_in_a"] == found["only_in_b"] == []


def test_the_other_way_round_every_sign_is_turned(full: Path, signed: Path) -> None:
    one, other = diff(full, signed, timestep=4), diff(signed, full, timestep=4)
    turned = {"better": "worse", "worse": "better", "noise": "noise", "equal": "equal"}
    for index, row in rows(one).items():
        mirror = rows(other)[index]
        assert turned[row["verdict"]] == mirror["verdict"]
        for name in ("mean_square", "firing_rate"):
            assert row[name]["difference"] == -mirror[name]["difference"]
            assert row[name]["interval"]["low"] == pytest.approx(-mirror[name]["interval"]["high"], abs=1e-15)
    assert [row["index"] for row in one["layers"]] == [row["index"] for row in other["layers"]]
    ann = one["accuracy"]["ann"]
    assert (ann["difference"], ann["beyond_noise"]) == (0, False)


def test_layers_are_ranked_by_how_much_they_changed(full: Path, signed: Path) -> None:
    found = diff(full, signed)["layers"]
    sizes = [abs(row["mean_square"]["difference"]) for row in found]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["rank"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert sizes[0] > 0


# --------------------------------------------------------------------------------------------------- intervals


def test_paired_intervals_are_those_of_the_differences_of_samples(full: Path, signed: Path) -> None:
    """The bootstrap beside the textbook: mean ± 2.02·σ/√40 of d = b - a of each sample (Student's t, 39 degrees)."""
    found = rows(diff(full, signed, timestep=4))
    for index in (1, 3, 5):
        d = squares(signed, index, 4) - squares(full, index, 4)
        entry = found[index]["mean_square"]
        assert entry["difference"] == pytest.approx(d.mean(), rel=1e-9)
        half = 2.0227 * d.std(ddof=1) / math.sqrt(len(d))
        assert entry["interval"]["low"] == pytest.approx(d.mean() - half, abs=0.25 * half)
        assert entry["interval"]["high"] == pytest.approx(d.mean() + half, abs=0.25 * half)
        assert entry["beyond_noise"] == (entry["interval"]["high"] < 0 or entry["interval"]["low"] > 0)


def test_pairing_takes_out_what_the_samples_share(full: Path, signed: Path, tmp_path: Path) -> None:
    """The same numbers without the pairing: the same differences, wider intervals, and a note."""
    other = tmp_path / "other.h5"
    other.write_bytes(signed.read_bytes())
    with editing(other) as file:
        file.attrs["data"] = "others"
    paired, apart = diff(full, signed, timestep=4), diff(full, other, timestep=4)
    assert (paired["paired"], apart["paired"]) == (True, False)
    assert "not paired: they hold different data" in apart["notes"][0]

    def width(found: dict[str, Any], index: int) -> float:
        interval = rows(found)[index]["mean_square"]["interval"]
        return float(interval["high"] - interval["low"])

    for index in range(1, 6):
        assert rows(paired)[index]["mean_square"]["difference"] == rows(apart)[index]["mean_square"]["difference"]
        # Variances of independent samples add up.
        d = squares(full, index, 4).var(ddof=1) + squares(signed, index, 4).var(ddof=1)
        assert width(apart, index) == pytest.approx(2 * 1.96 * math.sqrt(d / 40), rel=0.2)
    assert width(paired, 1) < width(apart, 1)


def test_verdicts_between_halves_of_the_same_data_are_noise(recordings: Callable[..., Path], full: Path) -> None:
    """Two seeds choose other samples of the same network: at most one layer in six is beyond noise."""
    found = diff(full, recordings(seed=5))
    assert found["paired"] is False
    assert "different samples" in found["notes"][0]
    verdicts = [row["verdict"] for row in found["layers"]]
    assert verdicts.count("noise") + verdicts.count("equal") >= 5


def test_what_makes_samples_the_same(full: Path, signed: Path, tmp_path: Path) -> None:
    with probe.open(full) as one, probe.open(signed) as other:
        assert why_unpaired(one, other) is None
    changed = tmp_path / "changed.h5"
    changed.write_bytes(full.read_bytes())
    with editing(changed) as file:
        file["samples/digest_snn"][3] ^= 1
    with probe.open(full) as one, probe.open(changed) as other:
        assert why_unpaired(one, other) == "the same samples were fed as different numbers"
    with editing(changed) as file:
        file.attrs["split"] = "train"
    with probe.open(full) as one, probe.open(changed) as other:
        assert why_unpaired(one, other) == "they hold different splits"


def test_where_no_sums_of_samples_are_kept_nobody_can_tell(full: Path, signed: Path) -> None:
    found = diff(full, signed, timestep=3)
    for row in found["layers"][:5]:
        assert row["verdict"] is None
        assert row["mean_square"]["interval"] is None
        assert row["reason"] == "no interval: sums of each sample are kept at t = 1, 2, 4, 8 in A"
    # Accuracy has an answer of every sample at every t.
    assert found["accuracy"]["snn"]["interval"] is not None


def test_accuracy_is_paired_too(full: Path, signed: Path) -> None:
    accuracy = diff(full, signed)["accuracy"]
    one, other = probe.accuracy(full)["snn"], probe.accuracy(signed)["snn"]
    assert list(accuracy["snn_at"]) == [str(t) for t in range(1, 9)]
    for t, entry in accuracy["snn_at"].items():
        assert (entry["a"], entry["b"]) == (one[t], other[t])
        assert entry["interval"]["low"] <= entry["difference"] <= entry["interval"]["high"]
    assert accuracy["snn"] == accuracy["snn_at"]["8"]


# ------------------------------------------------------------------------------------------ recordings that differ


def test_t_is_the_smaller_one_and_may_differ(full: Path, recordings: Callable[..., Path]) -> None:
    longer = recordings(timesteps=16)
    found = diff(full, longer)
    assert (found["a"]["timestep"], found["b"]["timestep"]) == (8, 8)
    assert found["notes"] == ["T = 8 in A and 16 in B; compared at t = 8"]
    # The network is causal: the first 8 of 16 steps are the 8.
    assert {row["verdict"] for row in found["layers"]} == {"equal"}
    apart = diff(full, longer, timestep=4, timestep_b=16)
    assert "t = 4 and t = 16" in apart["notes"][0]
    row = rows(apart)[3]
    assert row["mean_square"]["a"] == pytest.approx(squares(full, 3, 4).mean())
    assert row["mean_square"]["b"] == pytest.approx(squares(longer, 3, 16).mean())
    assert row["verdict"] == "better"
    assert apart["accuracy"]["snn"]["b"] == probe.accuracy(longer)["snn"]["16"]
    with pytest.raises(probe.ProbeError, match="t = 9"):
        diff(full, longer, timestep=9)
    with pytest.raises(probe.ProbeError, match="t = 17"):
        diff(full, longer, timestep_b=17)


def test_units_are_each_ones_own_theta(tmp_path: Path) -> None:
    one = write_recording(tmp_path / "a.h5", ["x", "y"], threshold=0.5)
    other = write_recording(tmp_path / "b.h5", ["x", "y"], threshold=0.25, levels=4)
    found = diff(one, other)
    assert "θ differs in layers 0, 1: each error is in units of its own θ" in found["notes"]
    assert "L differs in layers 0, 1" in found["notes"]
    for index, row in rows(found).items():
        for side, path in (("a", one), ("b", other)):
            assert row["mean_square"][side] == pytest.approx(squares(path, index, 8).mean())


def test_layers_are_paired_by_name_then_by_index(tmp_path: Path) -> None:
    one = write_recording(tmp_path / "a.h5", ["stem", "block.act", "head", "gone"])
    other = write_recording(tmp_path / "b.h5", ["stem", "head", "renamed"])
    found = diff(one, other)
    paired = {row["name"]: (row["name_b"], row["index"], row["index_b"], row["paired_by"]) for row in found["layers"]}
    assert paired == {"stem": ("stem", 0, 0, "name"), "head": ("head", 2, 1, "name")}
    assert [one["name"] for one in found["only_in_a"]] == ["block.act", "gone"]
    assert found["only_in_b"] == [{"index": 2, "name": "renamed"}]
    by_index = diff(one, write_recording(tmp_path / "c.h5", ["s", "b", "h", "g"]))
    assert {row["paired_by"] for row in by_index["layers"]} == {"index"}
    assert by_index["notes"] == [
        "paired by index, names differ: 0 (stem, s), 1 (block.act, b), 2 (head, h), 3 (gone, g)"
    ]
    # Another shape is another layer.
    wide = write_recording(tmp_path / "d.h5", ["s", "b"], shape=(3, 2, 2))
    with probe.open(one) as first, probe.open(wide) as second:
        assert pair_layers(first.layers, second.layers) == []
    with pytest.raises(probe.ProbeError, match="no layer of"):
        diff(one, wide)


def test_some_layers_only(full: Path, signed: Path) -> None:
    found = diff(full, signed, "1:3")
    assert sorted(rows(found)) == [1, 2]
    assert found["only_in_a"] == found["only_in_b"] == []
    with pytest.raises(probe.ProbeError, match="no layer 9"):
        diff(full, signed, 9)


def test_without_an_ann_rates_are_compared(tmp_path: Path) -> None:
    one = write_recording(tmp_path / "a.h5", ["x"], paired=False)
    other = write_recording(tmp_path / "b.h5", ["x"])
    for a, b in ((one, one), (one, other)):
        row = diff(a, b)["layers"][0]
        assert (row["mean_square"], row["verdict"], row["reason"]) == (None, None, "no ANN partner")
        assert row["firing_rate"]["difference"] == 0


# ------------------------------------------------------------------------------------------------ as a command


def test_conditions_speak_of_b_minus_a(run: Run, full: Path, signed: Path) -> None:
    """Negative spikes lower case 1 in every layer behind the first: B - A is below 0, A - B above."""
    condition = ("--fail-if", "layers.*.cases.zero_over.share > 0.01")
    assert run("diff", full, signed, *condition).exit_code == 0
    result = run("diff", signed, full, *condition)
    assert result.exit_code == 1
    lines = [line for line in result.stdout.splitlines() if line.startswith("B - A: ")]
    one, other = (probe.unevenness(path)["layers"] for path in (full, signed))
    grown = {
        before["index"]: before["cases"]["zero_over"] / before["count"] - after["cases"]["zero_over"] / after["count"]
        for before, after in zip(one, other, strict=True)
    }
    expected = [index for index, value in grown.items() if value > 0.01]
    assert [int(line.split("layers.")[1].split(".")[0]) for line in lines] == expected
    assert len(expected) >= 2
    assert f"= {grown[expected[0]]:.6g} > 0.01" in lines[0]
    assert run("diff", full, signed, "--fail-if", "snn.8 < -1%").exit_code in (0, 1)
    value = probe.accuracy(signed)["snn"]["2"] - probe.accuracy(full)["snn"]["2"]
    assert run("diff", full, signed, "--fail-if", f"snn.2 >= {value!r}").exit_code == 1
    assert run("diff", full, signed, "--fail-if", f"snn.2 > {value!r}").exit_code == 0


def test_json_and_csv(run: Run, full: Path, signed: Path) -> None:
    result = run("diff", full, signed, "--json", "-t", 4, "--fail-if", "ann != 0")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found == diff(full, signed, timestep=4, conditions=["ann != 0"])
    assert found["schema"] == "probe-diff/1"
    assert (found["a"]["method"], found["b"]["method"], found["passed"]) == ("if", "negspike", True)
    result = run("diff", full, signed, "--csv", "-t", 4, "--fail-if", "layers.1.figures.rmse < 0")
    assert result.exit_code == 1
    assert "B - A: layers.1.figures.rmse" in result.stderr
    table = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [int(row["index"]) for row in table] == [row["index"] for row in found["layers"]]
    first = found["layers"][0]
    assert float(table[0]["mean_square.difference"]) == first["mean_square"]["difference"]
    assert float(table[0]["cases.zero_over.difference"]) == first["cases"]["zero_over"]["difference"]


def test_the_table_has_a_line_a_layer(run: Run, full: Path, signed: Path) -> None:
    text = run("diff", full, signed, "-t", 4).stdout
    found = diff(full, signed, timestep=4)
    lines = [line.split() for line in text.splitlines()]
    start = next(i for i, line in enumerate(lines) if line[:2] == ["layer", "name"])
    for line, row in zip(lines[start + 1 :], found["layers"], strict=False):
        square = row["mean_square"]
        assert line[:6] == [
            str(row["index"]), row["name"], row["verdict"], f"{square['a']:.6f}", f"{square['b']:.6f}",
            f"{square['difference']:+.6f}",
        ]  # fmt: skip
    assert text.startswith(f"A: {full}, if, 40 samples, t = 4 of T = 8\nB: {signed}, negspike, 40 samples")
    ann = next(line for line in lines if line[:2] == ["accuracy,", "ANN"])
    assert ann[2] == "equal"


def test_mistakes_end_with_two(run: Run, full: Path, tmp_path: Path) -> None:
    refused(run("diff", full, tmp_path / "none.h5"), "no file", "none.h5")
    refused(run("diff", full, full, "-t", 9), "t = 9", "1 to T = 8")
    refused(run("diff", full, full, "--layer", "blok1.act"), "blok1.act", "block1.act")
    refused(run("diff", full, full, "--fail-if", "layers.*.cases.zero_ovr > 0"), "zero_ovr", "zero_over")
    assert run("diff", full).exit_code == 2


def test_names_from_a_file_are_printed_harmless(run: Run, tmp_path: Path) -> None:
    one = write_recording(tmp_path / "a.h5", ["a\x1b[31m", "b\n"])
    other = write_recording(tmp_path / "b.h5", ["c\x1b[32m"])
    text = run("diff", one, other, "--fail-if", "layers.*.count == 0").stdout
    assert "\x1b" not in text
    assert "\\x1b[31m" in text
    assert "only in A: 1 (b\\n)" in text
