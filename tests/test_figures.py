"""The figures of φ against a: beside slow floats from the recorded arrays, their laws, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probe
from probe.attribution import AnalogCoding, Coding
from probe.figures import FIGURES, RESAMPLES, bounds, figures_of, pooled_figures, resampled, sample_sums
from tests import relu_models
from tests.editing import editing
from tests.synthetic import write_recording


def slow(a: np.ndarray, phi: np.ndarray) -> dict[str, float]:
    """The figures of two arrays of floats, one number after another."""
    pairs = [(float(x), float(y)) for x, y in zip(a.ravel(), phi.ravel(), strict=True)]
    count = len(pairs)
    mean_a, mean_phi = math.fsum(x for x, _ in pairs) / count, math.fsum(y for _, y in pairs) / count
    square = math.fsum((y - x) ** 2 for x, y in pairs)
    energy = math.fsum(x * x for x, _ in pairs)
    spread_a = math.fsum((x - mean_a) ** 2 for x, _ in pairs)
    spread_phi = math.fsum((y - mean_phi) ** 2 for _, y in pairs)
    together = math.fsum((x - mean_a) * (y - mean_phi) for x, y in pairs)
    return {
        "bias": math.fsum(y - x for x, y in pairs) / count,
        "rmse": math.sqrt(square / count),
        "relative_l2": math.sqrt(square) / math.sqrt(energy),
        "sqnr_db": 10 * math.log10(energy / square),
        "cosine": math.fsum(x * y for x, y in pairs) / math.sqrt(energy * math.fsum(y * y for _, y in pairs)),
        "pearson": together / math.sqrt(spread_a * spread_phi),
    }


def arrays(recording: Any, index: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """A and φ of one layer at t, in units of θ, from `full`; QCFS on its levels, without float32's rounding."""
    layer = recording.layers[index]
    theta = layer.threshold.astype(np.float64)
    a = layer.ann_output.astype(np.float64) / theta
    if layer.levels:
        a = np.rint(a * layer.levels) / layer.levels
    return a, layer.snn_spikes[:, :t].astype(np.float64).sum(1) / t


@pytest.fixture(scope="module")
def relu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ReLU network on 30 digits, T = 8, in batches of 7."""
    output = tmp_path_factory.mktemp("relu") / "r.h5"
    return probe.capture(relu_models.relu_digits(), data="digits", samples=30, batch_size=7, output=output)


@pytest.mark.parametrize("t", [1, 4, 7, 8])
@pytest.mark.parametrize("kind", ["qcfs", "signed", "relu"])
def test_figures_are_those_of_the_arrays(
    kind: str, t: int, relu: Path, full: Path, recordings: Callable[..., Path]
) -> None:
    path = {"qcfs": full, "signed": recordings(neuron="negspike"), "relu": relu}[kind]
    found = probe.error_figures(path, timestep=t)
    assert (found["schema"], found["timestep"]) == ("probe-figures/1", t)
    with probe.open(path) as recording:
        for row in found["layers"][1:]:
            a, phi = arrays(recording, row["index"], t)
            expected = slow(a, phi)
            for name in FIGURES:
                assert row["figures"][name] == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
            # RMSE² = bias² + variance, the variance by numpy.
            assert row["figures"]["rmse"] ** 2 == pytest.approx(row["figures"]["bias"] ** 2 + np.var(phi - a), rel=1e-6)
            # The largest error is where it is said to be, and none is larger.
            largest = row["largest_error"]
            place = (largest["sample"], *largest["neuron"])
            assert (phi - a)[place] == pytest.approx(largest["error"], abs=1e-6)
            assert np.abs(phi - a).max() <= abs(largest["error"]) + 1e-6


def test_pooled_over_the_data_set_and_never_averaged_over_batches(recordings: Callable[..., Path]) -> None:
    """The same samples in batches of 20 and of 7 give the same figures, bit by bit, and not the mean of the halves'."""
    one, other = (probe.error_figures(path, timestep=4) for path in (recordings(), recordings(batch_size=7)))
    assert [row["figures"] for row in one["layers"]] == [row["figures"] for row in other["layers"]]
    with probe.open(recordings()) as recording:
        a, phi = arrays(recording, 3, 4)
    halves = [slow(a[:20], phi[:20]), slow(a[20:], phi[20:])]
    assert one["layers"][3]["figures"]["rmse"] == pytest.approx(
        math.sqrt(sum(half["rmse"] ** 2 for half in halves) / 2)
    )
    assert one["layers"][3]["figures"]["rmse"] != pytest.approx(sum(half["rmse"] for half in halves) / 2, rel=1e-6)


def test_they_agree_with_the_attribution(full: Path, relu: Path) -> None:
    """Two ways to the same numbers: sums of n and k here, sums of pieces there."""
    for path in (full, relu):
        for row in probe.unevenness(path, timestep=4)["layers"]:
            total, figures = row["attribution"]["total"], row["figures"]
            assert figures["rmse"] ** 2 == pytest.approx(total["mean_square"], rel=1e-9)
            assert figures["bias"] == pytest.approx(total["mean"], rel=1e-9, abs=1e-15)


# ------------------------------------------------------------------------------------------- whole numbers by hand


def test_by_hand() -> None:
    """L = 2, t = 4: k = 0, 1, 2 are a = 0, ½, 1; n = 1, 2, 2 are φ = ¼, ½, ½; e = ¼, 0, -½."""
    coding = Coding(2, 4, 4)
    statistics = coding.statistics(
        np.array([[0, 1, 2]]), np.array([[1, 2, 2]]), np.zeros((1, 3), np.float32), np.float32(1)
    )
    values, reasons = pooled_figures(statistics, coding)
    assert reasons == {}
    assert values["bias"] == pytest.approx(-0.25 / 3)
    assert values["rmse"] == pytest.approx(math.sqrt((1 / 16 + 1 / 4) / 3))
    assert values["relative_l2"] == pytest.approx(math.sqrt((5 / 16) / (5 / 4))) == pytest.approx(0.5)
    assert values["sqnr_db"] == pytest.approx(10 * math.log10(4))
    assert values["cosine"] == pytest.approx((1 / 4 + 1 / 2) / math.sqrt(5 / 4 * 9 / 16))
    # Means ½ and 5/12: (-½)(-1/6) + 0 + ½·1/12 over √(½ · (1/36 + 1/144 + 1/144)).
    assert values["pearson"] == pytest.approx((1 / 12 + 1 / 24) / math.sqrt(1 / 2 * 6 / 144))


def test_identical_is_perfect_and_nothing_is_ever_nan() -> None:
    coding = Coding(4, 4, 4)

    def figures(k: list[int], n: list[int]) -> tuple[dict[str, float | None], dict[str, str]]:
        statistics = coding.statistics(np.array([k]), np.array([n]), np.zeros((1, len(k)), np.float32), np.float32(1))
        return pooled_figures(statistics, coding)

    values, reasons = figures([0, 1, 4], [0, 1, 4])
    assert [values[name] for name in FIGURES] == [0, 0, 0, None, 1, 1]
    assert reasons == {"sqnr_db": "there is no error"}
    values, reasons = figures([0, 0, 0], [0, 0, 0])
    assert [values[name] for name in FIGURES] == [0, 0, None, None, None, None]
    assert set(reasons) == {"relative_l2", "sqnr_db", "cosine", "pearson"}
    assert "zero everywhere" in reasons["cosine"]
    values, reasons = figures([1, 2, 3], [0, 0, 0])
    assert (values["relative_l2"], values["sqnr_db"], values["cosine"]) == (1, 0, None)
    assert reasons["cosine"] == reasons["pearson"] == "no neuron has fired"
    values, reasons = figures([2, 2, 2], [1, 2, 3])
    assert values["pearson"] is None
    assert "the same everywhere" in reasons["pearson"]
    assert values["cosine"] is not None


def test_relu_in_exact_sums() -> None:
    """A ReLU layer whose outputs stand on the grid has no error, not one of 1e-9; and a tiny one is not lost."""
    coding = AnalogCoding(4, 4)
    a = np.array([[0.25, 0.5, 1.0, 0.0]], np.float32)
    n = np.array([[1, 2, 4, 0]])
    values, reasons = pooled_figures(coding.statistics(a, n, np.zeros_like(a), np.float32(1)), coding)
    assert (values["rmse"], values["pearson"], reasons) == (0, 1, {"sqnr_db": "there is no error"})
    a[0, 1] += 2.0**-20
    values, _ = pooled_figures(coding.statistics(a, n, np.zeros_like(a), np.float32(1)), coding)
    assert values["bias"] == pytest.approx(-(2.0**-22), rel=1e-12)
    assert values["rmse"] == pytest.approx(2.0**-21, rel=1e-3)


# -------------------------------------------------------------------------------------------------- each sample


@pytest.mark.parametrize("kind", ["qcfs", "relu"])
def test_sums_of_samples_add_up_to_the_pooled_ones(kind: str, full: Path, relu: Path) -> None:
    with probe.open(full if kind == "qcfs" else relu) as recording:
        for layer in recording.layers:
            for t in layer.per_sample_timesteps:
                coding, statistics = layer.coding(t), layer.statistics_at(t)
                assert coding is not None
                assert statistics is not None
                kept = layer.per_sample_at(t)
                assert kept is not None
                if kind == "qcfs":
                    np.testing.assert_array_equal(kept.sum(0), statistics.sums)
                sums = sample_sums(layer, t, coding)
                pooled, _ = pooled_figures(statistics, coding)
                again = figures_of(sums.sum(0, keepdims=True))
                for name in FIGURES:
                    if pooled[name] is None:
                        assert np.isnan(again[name][0])
                    else:
                        assert again[name][0] == pytest.approx(pooled[name], rel=1e-6, abs=1e-9)
                # One sample's: those of its arrays.
                a, phi = arrays(recording, layer.index, t)
                for sample in (0, len(a) - 1):
                    of_one = figures_of(sums[sample : sample + 1])
                    expected = float(np.sqrt(((phi[sample] - a[sample]) ** 2).mean()))
                    assert of_one["rmse"][0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_draw_is_a_choice_of_samples() -> None:
    """Σ over the drawn samples: each draw draws as many as there are, and the mean over draws is the sum itself."""
    values = np.stack([np.ones(50), np.arange(50.0)], 1)
    drawn = resampled(values)
    assert drawn.shape == (RESAMPLES, 2)
    assert set(drawn[:, 0]) == {50}
    assert drawn[:, 1].mean() == pytest.approx(values[:, 1].sum(), rel=0.01)
    # Of a sum, the spread is known: √N · σ.
    assert drawn[:, 1].std() == pytest.approx(math.sqrt(50) * np.arange(50.0).std(), rel=0.1)
    np.testing.assert_array_equal(drawn, resampled(values))
    assert not np.array_equal(drawn, resampled(values, seed=1))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """RMSE of 60 samples out of a known population, 300 times: 95% of the intervals hold it, give or take."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        error = random.gamma(2.0, 0.5, 60)
        sums = np.stack([np.ones(60), error, error**2, *[np.ones(60)] * 5], 1)
        interval = bounds(figures_of(resampled(sums))["rmse"])
        assert interval is not None
        # E[e²] of a gamma distribution with shape 2 and scale ½: 2·3·¼.
        hits += interval["low"] <= math.sqrt(1.5) <= interval["high"]
    assert 0.88 <= hits / 300 <= 0.98


def test_intervals_lie_around_the_figures_and_only_where_samples_were_kept(full: Path) -> None:
    for t in (1, 2, 4, 8):
        for row in probe.error_figures(full, timestep=t)["layers"]:
            figures = row["figures"]
            for name in FIGURES:
                if figures[name] is not None and figures["rmse"]:
                    interval = figures["interval"][name]
                    assert interval["low"] <= figures[name] <= interval["high"]
                    assert interval["low"] < interval["high"]
    off = probe.error_figures(full, 1, timestep=3)["layers"][0]["figures"]
    assert off["interval"] is None
    assert off["reasons"] == {"interval": "sums of each sample are kept at t = 1, 2, 4, 8"}
    assert off["rmse"] > 0


def test_one_sample_and_recordings_without_sums_of_samples(recordings: Callable[..., Path], tmp_path: Path) -> None:
    one = probe.error_figures(recordings(samples=1, batch_size=1), 1)["layers"][0]["figures"]
    assert one["interval"] is None
    assert "single sample" in one["reasons"]["interval"]
    without = probe.error_figures(write_recording(tmp_path / "r.h5", ["a"]), 0)["layers"][0]["figures"]
    assert without["interval"] is None
    assert without["reasons"]["interval"] == "no sums of each sample are kept"
    assert without["rmse"] > 0


def test_sums_that_do_not_fit_are_refused(full: Path, tmp_path: Path) -> None:
    harmed = tmp_path / "harmed.h5"
    harmed.write_bytes(full.read_bytes())
    with editing(harmed) as file:
        kept = file["layers/1/statistics/per_sample"][:10]
        del file["layers/1/statistics/per_sample"]
        file["layers/1/statistics"].create_dataset("per_sample", data=kept)
    with pytest.raises(probe.ProbeError, match="cannot be read"):
        probe.error_figures(harmed, 1)


def test_off_the_grid_and_from_spikes_alone(recordings: Callable[..., Path]) -> None:
    """At t = 13 of 16, which no statistics were kept for, spikes are enough."""
    options = {"timesteps": 16, "samples": 20}
    spikes, whole = recordings(record="spikes", **options), recordings(**options)
    row = probe.unevenness(spikes, 2, timestep=13)["layers"][0]
    assert row["attribution"] is None
    with probe.open(whole) as recording:
        a, phi = arrays(recording, 2, 13)
    for name, value in slow(a, phi).items():
        assert row["figures"][name] == pytest.approx(value, rel=1e-6)


def test_units_are_each_channels_own_theta(tmp_path: Path) -> None:
    theta = np.array([0.25, 0.5, 2.0], np.float32).reshape(1, 3, 1, 1)
    path = write_recording(tmp_path / "r.h5", ["a"], threshold=theta)
    with probe.open(path) as recording:
        a, phi = arrays(recording, 0, 8)
    figures = probe.error_figures(path)["layers"][0]["figures"]
    assert figures["relative_l2"] == pytest.approx(slow(a, phi)["relative_l2"], rel=1e-6)
    # In the unit of a it is another number.
    assert figures["relative_l2"] != pytest.approx(slow(a * theta, phi * theta)["relative_l2"], rel=1e-3)


# -------------------------------------------------------------------------------------------------- as printed


def test_the_table_of_a_layer_shows_them(run: Callable[..., Any], full: Path, tmp_path: Path) -> None:
    figures = probe.error_figures(full, 3, timestep=4)["layers"][0]["figures"]
    lines = {
        line.split("  ")[0]: line.split() for line in run("unevenness", full, "--layer", 3, "-t", 4).stdout.splitlines()
    }
    interval = figures["interval"]["rmse"]
    assert lines["RMSE"][1:] == [f"{value:.6f}" for value in (figures["rmse"], interval["low"], interval["high"])]
    assert lines["SQNR (dB)"][2] == f"{figures['sqnr_db']:.2f}"
    # No error at all: no ratio, and nothing that looks like one.
    first = run("unevenness", full, "--layer", 0).stdout
    assert next(line.split() for line in first.splitlines() if line.startswith("SQNR")) == ["SQNR", "(dB)", *"---"]
    theta = np.array([0.25, 0.5, 2.0], np.float32).reshape(1, 3, 1, 1)
    spread = write_recording(tmp_path / "r.h5", ["a"], threshold=theta)
    assert "units of each θ" in run("unevenness", spread, "--layer", 0).stdout
