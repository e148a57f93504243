"""What a report holds, against numbers computed slowly from the recording; its verdict, its size, and the command."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result

import probe
from probe.attribution import CASES, PIECES, RESIDUAL_EDGES
from probe.recording import Recording
from probe.reporting import BUDGET
from probe.reporting.contents import MOST_CELLS, _cells, contents
from probe.reporting.page import page, plain
from probe.reporting.single import (
    DETAILS,
    RATE_MAP,
    Detail,
    _bytes,
    affordable,
    maps,
    rate_map,
    telling_neurons,
    telling_samples,
    traces,
)
from probe.reporting.verdict import verdict
from probe.session import plan
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_cli import ok, refused

Run = Callable[..., Result]
MUCH = DETAILS[0]


@pytest.fixture
def recording(full: Path) -> Iterator[Recording]:
    with probe.open(full) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recording]:
    """An open recording of random neurons, made once for each name."""
    folder = tmp_path_factory.mktemp("report")
    known: dict[str, Recording] = {}

    def make(name: str, **options: Any) -> Recording:
        if name not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                known[name] = probe.open(write_recording(folder / f"{name}.h5", ["only"], **options))
        return known[name]

    return make


def edited(source: Path, target: Path, change: Callable[[h5py.File], None]) -> Path:
    shutil.copy(source, target)
    with editing(target) as file:
        change(file)
    return target


def unpacked(text: str, dtype: str, *shape: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def said_of(*recordings: Recording) -> dict[str, Any]:
    return contents(recordings, BUDGET)


# ------------------------------------------------------------------------------------------ statistics at each t


def test_every_layer_and_t_has_the_numbers_of_unevenness(recording: Recording) -> None:
    said = said_of(recording)["recordings"][0]
    assert said["grid"] == list(recording.grid) == list(range(1, 9))
    for t in said["grid"]:
        rows = probe.unevenness(recording, timestep=t)["layers"]
        for layer, row in zip(said["layers"], rows, strict=True):
            assert {key: layer["at"][str(t)][key] for key in row} == row


def test_the_layers_facts_are_those_of_the_table(recording: Recording) -> None:
    table = probe.layer_table(recording)["layers"]
    for layer, row in zip(said_of(recording)["recordings"][0]["layers"], table, strict=True):
        for name in ("index", "name", "threshold", "levels", "firing_rate", "silent", "saturated"):
            assert layer[name] == row[name], name
        spikes = recording.layers[layer["index"]].snn_spikes.reshape(40, 8, -1)
        assert layer["rate"] == pytest.approx([spikes[:, t].mean() for t in range(8)])


@pytest.mark.parametrize("t", [1, 3, 8])
def test_the_histogram_counts_every_a_and_n(recording: Recording, t: int) -> None:
    layer = recording.layers[3]
    k = np.rint(layer.ann_output / layer.threshold * 8).astype(int).ravel()
    n = layer.snn_spikes[:, :t].sum(1, dtype=int).ravel()
    expected: dict[tuple[int, int], int] = {}
    for pair in zip(k.tolist(), n.tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + 1
    phi = said_of(recording)["recordings"][0]["layers"][3]["at"][str(t)]["phi"]
    assert (phi["steps"], phi["block"]) == (8, 1)
    assert {(a, count): number for a, count, number in phi["cells"]} == expected


def test_the_bins_of_the_residual_potential(recording: Recording) -> None:
    layer = recording.layers[2]
    bins = said_of(recording)["recordings"][0]["layers"][2]["at"]["8"]["bins"]
    v = (0.5 + (layer.input_sum.astype(float) / layer.threshold) - layer.spike_count.astype(int)).ravel()
    expected, _ = np.histogram(v, [-np.inf, *RESIDUAL_EDGES, np.inf])
    assert sum(bins) == layer.spike_count.size
    # Those on an edge may fall to either side of it.
    assert np.abs(np.array(bins) - expected).sum() <= 0.01 * sum(bins)


def test_many_cells_are_joined_in_blocks() -> None:
    random = np.random.default_rng(0)
    a, n, number = random.integers(0, 301, 9000), random.integers(-40, 301, 9000), random.integers(1, 9, 9000)
    block, cells = _cells(a, n, number)
    assert block > 1
    assert len(cells) <= MOST_CELLS
    expected: dict[tuple[int, int], int] = {}
    for of_a, of_n, neurons in zip(a.tolist(), n.tolist(), number.tolist(), strict=True):
        cell = (of_a // block * block, of_n // block * block)
        expected[cell] = expected.get(cell, 0) + neurons
    assert {(of_a, of_n): neurons for of_a, of_n, neurons in cells.tolist()} == expected
    finer = {(x // (block // 2), y // (block // 2)) for x, y in zip(a.tolist(), n.tolist(), strict=True)}
    assert len(finer) > MOST_CELLS


def test_accuracy_has_wilsons_intervals(recording: Recording) -> None:
    told = said_of(recording)["recordings"][0]["accuracy"]
    right = recording.snn_logits.astype(float).cumsum(1).argmax(2) == recording.labels[:, None]
    assert told["snn"] == pytest.approx(right.mean(0))
    assert told["ann"] == pytest.approx((recording.ann_logits.argmax(1) == recording.labels).mean())
    for p, low, high in zip(told["snn"], told["low"], told["high"], strict=True):
        for edge in (low, high):
            # Wilson's edges solve (p - edge)² = z²·edge·(1 - edge)/n.
            assert (p - edge) ** 2 == pytest.approx(1.96**2 * edge * (1 - edge) / 40, abs=1e-12)


# ---------------------------------------------------------------------------------------------- single samples


def test_samples_that_the_snn_lost_come_first(recording: Recording) -> None:
    summed = recording.snn_logits.astype(float).sum(1).argmax(1)
    lost = [
        i for i in range(40)
        if summed[i] != recording.labels[i] and recording.ann_logits[i].argmax() == recording.labels[i]
    ]  # fmt: skip
    largest = []
    for layer in reversed(recording.layers):
        error = np.abs(layer.spike_count / 8 - layer.ann_output / layer.threshold).reshape(40, -1).max(1).round(5)
        largest.append(set(np.flatnonzero(error == error.max()).tolist()))
    found = telling_samples(recording, 4)
    assert len(found) == len(set(found)) == 4
    assert found[: len(lost[:2])] == lost[:2]
    rest = found[len(lost[:2]) :]
    assert all(any(sample in one for one in largest) for sample in rest[:1])
    assert telling_samples(recording, 0) == []


def test_lost_samples_are_shown(recording: Recording, full: Path, tmp_path: Path) -> None:
    """Samples 7, 11 and 30 are made wrong for the SNN: two of them are shown, of four."""

    def lose(file: h5py.File) -> None:
        for sample in (7, 11, 30):
            answer = int(recording.ann_logits[sample].argmax())
            file["samples/label"][sample] = answer
            file["output/snn"][sample] = 0
            file["output/snn"][sample, 0, (answer + 1) % 10] = 1

    with probe.open(edited(full, tmp_path / "lost.h5", lose)) as other:
        ann, snn = probe.analysis.right_answers(other)
        assert ann is not None
        lost = np.flatnonzero(ann & ~snn[:, -1]).tolist()
        assert {7, 11, 30} <= set(lost)
        assert telling_samples(other, 4)[:2] == lost[:2]
        assert telling_samples(other, 1) == lost[:1]
        head = said_of(other)["recordings"][0]["shown"][0]
        assert head["sample"] == lost[0]
        assert head["ann"] == head["label"] != head["snn"]


def test_neurons_are_the_worst_and_the_most_active(recording: Recording) -> None:
    layer = recording.layers[4]
    for sample in (0, 13):
        phi = (layer.spike_count[sample] / 8).ravel()
        error = np.abs(phi - (layer.ann_output[sample] / layer.threshold).ravel()).round(5)
        found = telling_neurons(layer, sample, 10)
        assert found == sorted(set(found))
        assert len(found) == 10
        worst, active = sorted(error, reverse=True)[:5], sorted(phi, reverse=True)[:5]
        # Of equal ones any may be shown.
        assert sorted(error[found], reverse=True)[:5] == worst
        assert sum(phi[found] >= active[-1]) >= 5


@pytest.mark.parametrize("fraction", [0.5, 0.3, -0.25, 1.7])
def test_traces_are_those_of_probe_trace_bit_for_bit(full: Path, tmp_path: Path, fraction: float) -> None:
    def start(file: h5py.File) -> None:
        for index in ("1", "4"):
            group = file[f"layers/{index}"]
            group.attrs["initial_fraction"] = fraction
            group["initial_potential"][...] = group["threshold"][()] * np.float32(fraction)

    with probe.open(edited(full, tmp_path / "start.h5", start)) as recording:
        for index in (1, 4):
            layer = recording.layers[index]
            neurons = telling_neurons(layer, 3, 40)
            shown = traces(layer, 3, neurons)
            assert shown is not None
            number = len(neurons)
            x, v = (unpacked(shown[key], "<f4", number, 8) for key in ("x", "v"))
            spikes = unpacked(shown["spikes"], "i1", number, 8)
            for i, neuron in enumerate(neurons):
                expected = probe.trace(recording, index, 3, neuron)
                assert x[i].tobytes() == expected.x.tobytes()
                assert v[i].tobytes() == expected.potential.tobytes()
                assert spikes[i].tolist() == expected.spike.tolist()
                assert shown["threshold"][i] == expected.threshold
                assert shown["start"][i] == np.float32(expected.initial_potential)
                assert shown["a"][i] == expected.ann_output


def test_traces_with_thresholds_by_channel_and_negative_spikes(made: Callable[..., Recording]) -> None:
    recording = made("channels", threshold=np.array([0.5, 1.0, 2.0]).reshape(3, 1, 1), unguarded=True)
    shown = traces(recording.layers[0], 1, range(48))
    assert shown is not None
    assert shown["threshold"] == [0.5] * 16 + [1.0] * 16 + [2.0] * 16
    spikes, v = unpacked(shown["spikes"], "i1", 48, 8), unpacked(shown["v"], "<f4", 48, 8)
    assert spikes.min() == -1
    for neuron in range(48):
        expected = probe.trace(recording, 0, 1, neuron)
        assert v[neuron].tobytes() == expected.potential.tobytes()
        assert spikes[neuron].tolist() == expected.spike.tolist()


SHAPES = ((1,), (100,), (5100,), (3, 5), (2, 3, 4, 5), (12, 5, 5), (3, 70, 40))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("detail", [MUCH, Detail(1, 12, 4, 8)], ids=["much", "little"])
def test_maps_show_a_and_n_of_the_neurons_they_name(
    made: Callable[..., Recording], shape: tuple[int, ...], detail: Detail
) -> None:
    layer = made(f"shape {shape}", shape=shape, samples=2).layers[0]
    shown = maps(layer, 1, detail)
    assert shown is not None
    channels, rows, columns = len(shown["channels"]), shown["rows"], shown["columns"]
    n = unpacked(shown["n"], "i1", len(shown["at"]), channels, rows, columns)
    a = unpacked(shown["a"], "<f4", channels, rows, columns)
    assert channels <= detail.channels
    assert max(rows, columns) <= (detail.side if len(shape) > 2 else 64)
    of_a = (layer.ann_output[1] / layer.threshold.reshape(-1)[0]).ravel()
    counts = layer.snn_spikes[1].reshape(8, -1).cumsum(0, dtype=int)
    seen = set()
    for c, channel in enumerate(shown["channels"]):
        for row in range(rows):
            for column in range(columns):
                flat = (channel * shown["height"] + row * shown["stride"]) * shown["width"] + column * shown["stride"]
                if flat >= layer.neurons:
                    assert np.isnan(a[c, row, column])
                    continue
                seen.add(flat)
                assert a[c, row, column] == of_a[flat]
                for i, t in enumerate(shown["at"]):
                    assert n[i, c, row, column] == counts[t - 1, flat]
    if shown["stride"] == 1 and channels == (shape[0] if len(shape) > 2 else 1):
        assert seen == set(range(layer.neurons))


def test_maps_show_the_strongest_channels(recording: Recording) -> None:
    layer = recording.layers[0]
    strength = [
        float(layer.ann_output[2, c].sum() / layer.threshold.max() + layer.spike_count[2, c].sum() / 8)
        for c in range(16)
    ]
    shown = maps(layer, 2, Detail(1, 1, 4, 32))
    assert shown is not None
    assert set(shown["channels"]) == set(np.argsort(strength)[-4:].tolist())


@pytest.mark.parametrize(("count", "wide"), [(1, 1), (3, 2), (9000, 4)])
def test_counts_of_several_spikes_a_step_do_not_wrap(
    made: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch, count: int, wide: int
) -> None:
    """Graded neurons fire several spikes a step, so that a count may be above T, and above 127."""
    layer = made("graded", timesteps=64, samples=2).layers[0]
    read = layer.read

    def graded(name: str, *arguments: Any) -> Any:
        return read(name, *arguments).astype(int) * count if name == "snn_spikes" else read(name, *arguments)

    monkeypatch.setattr(layer, "read", graded)
    shown = maps(layer, 0, MUCH)
    assert shown is not None
    assert shown["bytes"] == wide
    n = unpacked(shown["n"], {1: "i1", 2: "<i2", 4: "<i4"}[wide], len(shown["at"]), 3, 4, 4)
    assert n[-1].ravel().tolist() == (layer.snn_spikes[0].reshape(64, -1).sum(0, dtype=int) * count).tolist()


@pytest.mark.parametrize("shape", [*SHAPES, (100, 9, 9)], ids=str)
def test_rates_are_the_means_of_blocks(made: Callable[..., Recording], shape: tuple[int, ...]) -> None:
    layer = made(f"shape {shape}", shape=shape, samples=2).layers[0]
    shown = rate_map(layer)
    rows, columns, (down, across) = shown["rows"], shown["columns"], shown["block"]
    assert rows <= RATE_MAP[0]
    assert columns <= RATE_MAP[1]
    assert shown["at"] == [1, 2, 3, 4, 5, 6, 7, 8]
    values = unpacked(shown["values"], "u1", 8, rows, columns)
    spikes = layer.snn_spikes.reshape(2, 8, -1)
    width = 64 if len(shape) == 1 and shape[0] > 64 else layer.neurons // (shape[0] if len(shape) > 1 else 1)
    assert shown["width"] == width
    cells: dict[tuple[int, int], list[int]] = {}
    for flat in range(layer.neurons):
        cells.setdefault((flat // width // down, flat % width // across), []).append(flat)
    assert max(row for row, _ in cells) == rows - 1
    assert max(column for _, column in cells) == columns - 1
    step = (shown["high"] - shown["low"]) / 255
    for t in (1, 8):
        for (row, column), neurons in cells.items():
            expected = spikes[:, :t, neurons].mean()
            assert shown["low"] + step * values[t - 1, row, column] == pytest.approx(expected, abs=step * 0.51)


def test_rates_below_zero(made: Callable[..., Recording], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made("below", unguarded=True).layers[0]
    spikes = -np.abs(layer.snn_spikes.astype(int))
    monkeypatch.setattr(layer, "read", lambda _name, samples, timesteps: spikes[samples, timesteps])
    shown = rate_map(layer)
    assert shown["low"] < 0
    step = (shown["high"] - shown["low"]) / 255
    values = unpacked(shown["values"], "u1", 8, 3, 16) * step + shown["low"]
    np.testing.assert_allclose(values[-1], spikes.mean((0, 1)).reshape(3, 16), atol=0.51 * step)


def test_rates_without_spikes_are_those_at_the_end(made: Callable[..., Recording]) -> None:
    layer = made("counts", record="counts").layers[0]
    shown = rate_map(layer)
    assert (shown["at"], shown["samples"]) == ([8], 6)
    step = shown["high"] / 255
    values = unpacked(shown["values"], "u1", 3, 16) * step
    np.testing.assert_allclose(values, layer.spike_count.mean(0).reshape(3, 16) / 8, atol=0.51 * step)


@pytest.mark.parametrize("record", ["stats", "counts", "spikes", "full"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_estimate_of_bytes_is_no_less_than_what_is_taken(
    made: Callable[..., Recording], shape: tuple[int, ...], record: str
) -> None:
    name = f"shape {shape}" if record == "full" else f"{record} {shape}"
    layer = made(name, shape=shape, samples=2, record=record).layers[0]

    def taken(detail: Detail) -> int:
        size = len(rate_map(layer)["values"])
        for sample in range(min(2, detail.samples)):
            neurons = telling_neurons(layer, sample, detail.neurons)
            for found in (traces(layer, sample, neurons), maps(layer, sample, detail)):
                size += sum(len(one) for one in (found or {}).values() if isinstance(one, str))
        return size

    for detail in DETAILS:
        two = Detail(min(2, detail.samples), detail.neurons, detail.channels, detail.side)
        # Base64 fills up to four bytes.
        assert taken(two) - 40 <= _bytes(layer, two) <= 1.5 * taken(two) + 40, detail


def test_less_is_shown_where_there_are_more_layers(made: Callable[..., Recording]) -> None:
    recording = made("shape (12, 5, 5)", shape=(12, 5, 5), samples=2)
    size = sum(_bytes(layer, MUCH) for layer in recording.layers)
    assert affordable([recording], size) == MUCH
    assert affordable([recording], size - 1) == DETAILS[1]
    assert affordable([recording, recording], 2 * size - 1) == DETAILS[1]
    assert affordable([recording], 1) == DETAILS[-1]


def test_a_report_of_nothing_but_statistics_and_no_budget(made: Callable[..., Recording]) -> None:
    said = contents([made("shape (12, 5, 5)", shape=(12, 5, 5), samples=2)], 1)["recordings"][0]
    assert said["shown"] == []
    assert said["layers"][0]["shown"] == []
    assert page(contents([made("stats", record="stats")], BUDGET)).startswith("<!doctype html>")


# ------------------------------------------------------------------------------------------------------ verdict


def answers(right_ann: list[int], right_snn: list[int]) -> Callable[[h5py.File], None]:
    """Which of 40 samples each network has right at T."""

    def change(file: h5py.File) -> None:
        labels = file["samples/label"][()]
        wrong = (labels + 1) % 10
        of_ann = np.where(np.isin(np.arange(40), right_ann), labels, wrong)
        of_snn = np.where(np.isin(np.arange(40), right_snn), labels, wrong)
        file["output/ann"][...] = np.eye(10, dtype=np.float32)[of_ann]
        file["output/snn"][...] = 0
        file["output/snn"][:, -1] = np.eye(10, dtype=np.float32)[of_snn]

    return change


@pytest.mark.parametrize(
    ("ann", "snn", "right", "change", "near"),
    [
        (range(30), range(30), "75.00% of 40 samples and the ANN on 75.00%", "each answered alike", "at t = 8"),
        (range(30), range(20), "50.00% of 40 samples and the ANN on 75.00%",
         "−25.00 points: 10 lost, 0 gained, p = 0.002 by chance", "never"),
        (range(20), range(25), "62.50% of 40 samples and the ANN on 50.00%",
         "+12.50 points: 0 lost, 5 gained, p = 0.062 by chance", "at t = 8"),
        (range(20), range(20, 40), "50.00% of 40 samples and the ANN on 50.00%",
         "+0.00 points: 20 lost, 20 gained, p = 1 by chance", "at t = 8"),
    ],
    ids=["alike", "loss", "gain", "other samples"],
)  # fmt: skip
def test_the_first_sentence(
    full: Path, tmp_path: Path, ann: range, snn: range, right: str, change: str, near: str
) -> None:
    with probe.open(edited(full, tmp_path / "answers.h5", answers(list(ann), list(snn)))) as recording:
        told = said_of(recording)["recordings"][0]["verdict"][0]
    came = "never comes so near" if near == "never" else f"first comes within a point of the ANN {near}"
    assert told == f"At T = 8 the SNN is right on {right} ({change}); it {came}."


def test_the_second_sentence(recording: Recording) -> None:
    rows = probe.unevenness(recording)["layers"]
    starting = next(row for row in rows if row["attribution"]["total"]["mean_square"] >= 1e-4)
    piece = max(PIECES, key=lambda name: starting["attribution"][name]["share"])
    told = said_of(recording)["recordings"][0]["verdict"][1]
    share = starting["attribution"][piece]["share"]
    last = rows[-1]["attribution"]
    assert told == (
        f"The error starts in layer {starting['index']} ({starting['name']}), where it is mostly {piece} "
        f"({share:.0%}); in the last one, 5 (hidden.act), its mean square is {last['total']['mean_square']:.2g} θ², "
        f"{last['inherited']['share']:.0%} of it inherited."
    )


def test_the_second_sentence_of_one_layer_and_of_none(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(layers=["0"])) as first:
        assert said_of(first)["recordings"][0]["verdict"][1] == "No layer errs by more than a mean square of 0 θ²."
    with probe.open(recordings(layers=["1"])) as second:
        told = said_of(second)["recordings"][0]["verdict"][1]
        assert told.startswith("The error starts in layer 1 (block2.act), where it is mostly ")
        assert told.count("layer") == 1


def test_the_verdict_of_an_snn_alone(made: Callable[..., Recording]) -> None:
    recording = made("alone", paired=False, levels=None)
    said = said_of(recording)["recordings"][0]
    assert said["verdict"][1] == "Where its error comes from cannot be told: no layer has an ANN partner."
    assert said["layers"][0]["at"] == {}
    assert said["grid"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_verdict_of_an_incomplete_recording(made: Callable[..., Recording]) -> None:
    recording = made("stopped", complete=False)
    said = said_of(recording)["recordings"][0]
    assert "the 6 samples that were recorded of " in said["verdict"][0]
    assert re.search(r"incomplete: 6 of \d+ samples", page(said_of(recording)))


def test_the_third_sentence_is_the_first_finding(recording: Recording, recordings: Callable[..., Path]) -> None:
    findings = probe.diagnose(recording)["findings"]
    told = said_of(recording)["recordings"][0]["verdict"][2]
    assert findings
    assert told.startswith(f"The checks find {len(findings)} note")
    assert (
        f"layer {findings[0]['index']} ({findings[0]['layer']}), {findings[0]['what']}: {findings[0]['advice']}."
        in told
    )
    with probe.open(recordings(layers=["0"])) as first:
        assert not probe.diagnose(first)["findings"]
        assert said_of(first)["recordings"][0]["verdict"][2] == "The checks find nothing wrong."


def finding(**other: Any) -> dict[str, Any]:
    usual = {"severity": "warning", "index": 2, "layer": "act", "what": "it is wrong", "advice": "mend it"}
    return {**usual, **other}


def test_the_verdict_with_several_findings(recording: Recording) -> None:
    rows = probe.unevenness(recording)["layers"]

    def said(*findings: dict[str, Any]) -> list[str]:
        return verdict(recording, rows, findings)

    assert said(finding())[2] == "The checks find 1 warning; first of all in layer 2 (act), it is wrong: mend it."
    # A module that is no spiking layer has no index.
    pool = finding(index=None, layer="block.pool", advice="")
    assert said(pool, finding())[2] == "The checks find 2 warnings; first of all in block.pool, it is wrong."
    network = finding(index=None, layer=None)
    assert said(network)[2] == "The checks find 1 warning; first of all, it is wrong: mend it."
    severe = finding(severity="error")
    told = said(severe, finding(), finding(severity="note"), finding(severity="note"))
    assert told[2].startswith("The checks find 1 error, 1 warning, 2 notes; first of all in layer 2")
    # What the error is made of means little where a neuron is not what it should be.
    assert told[1].endswith(", but mend first what is wrong below.")
    assert "but" not in said(finding())[1]


def test_a_finding_in_a_module_that_is_no_layer_has_no_link(recording: Recording) -> None:
    said = said_of(recording)
    said["recordings"][0]["findings"] = [
        {**finding(index=None, layer="block.pool"), "check": "x", "evidence": {}, "look": ""}
    ]
    text = page(said)
    assert "block.pool: it is wrong." in text
    assert 'href="#layer=' not in text
    assert "layer None" not in text


@pytest.mark.parametrize("neuron", ["if", "srp"])
def test_the_verdict_is_three_sentences(recordings: Callable[..., Path], neuron: str) -> None:
    with probe.open(recordings(neuron=neuron)) as recording:
        verdict = said_of(recording)["recordings"][0]["verdict"]
    assert len(verdict) == 3
    for sentence in verdict:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        # One sentence each: no full stop before another capital letter.
        assert not re.search(r"\. [A-Z]", sentence)


# ---------------------------------------------------------------------------------------------------- two of them


def test_two_recordings_share_samples_and_neurons(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings()) as a, probe.open(recordings(neuron="srp", record="spikes")) as b:
        said = said_of(a, b)
        one, other = said["recordings"]
        assert [head["sample"] for head in one["shown"]] == [head["sample"] for head in other["shown"]]
        for left, right in zip(one["layers"], other["layers"], strict=True):
            for mine, yours in zip(left["shown"], right["shown"], strict=True):
                assert mine["traces"]["neurons"] == yours["traces"]["neurons"]
                assert "x" in mine["traces"]
                assert "x" not in yours["traces"]
        assert said["rows"] == [[i, i] for i in range(6)]
        expected = probe.diff(a, b)
        assert said["difference"] == expected
        text = page(said)
        for letter, told in zip("AB", said["recordings"], strict=True):
            links = [one["index"] for one in told["findings"] if one["index"] is not None]
            assert links
            assert all(f'href="#layer={letter}{index}"' in text for index in links)


def test_two_recordings_share_the_budget(recordings: Callable[..., Path]) -> None:
    """The second takes far more than the first."""

    packed = {"x", "v", "spikes", "a", "n", "values"}

    def taken(value: Any) -> int:
        if isinstance(value, dict):
            texts = [len(one) for name, one in value.items() if name in packed and isinstance(one, str)]
            return sum(texts) + sum(taken(one) for one in value.values())
        return sum(taken(one) for one in value) if isinstance(value, list) else 0

    with probe.open(recordings(record="stats")) as a, probe.open(recordings()) as b:
        sizes = [taken(contents([a, b], budget)["recordings"]) for budget in (60_000, 200_000, BUDGET)]
    assert sizes[0] <= 60_000 < sizes[1] <= 200_000 < sizes[2]


def test_neurons_of_the_second_are_its_own_where_the_first_has_none(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(record="stats")) as a, probe.open(recordings()) as b:
        shown = said_of(a, b)["recordings"][1]["layers"][2]["shown"]
        assert shown
        assert all(one["traces"]["neurons"] for one in shown)


def test_rows_of_recordings_with_other_layers(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(layers=["0", "2", "4"])) as a, probe.open(recordings(layers=["2", "3", "4"])) as b:
        said = said_of(a, b)
    assert said["rows"] == [[0, None], [1, 0], [2, 2], [None, 1]]
    assert [layer["index"] for layer in said["recordings"][1]["layers"]] == [2, 3, 4]


def test_two_recordings_with_nothing_in_common(recordings: Callable[..., Path], made: Callable[..., Recording]) -> None:
    with probe.open(recordings()) as a:
        b = made("alone", paired=False, levels=None)
        said = said_of(a, b)
    assert said["rows"] == [[i, None] for i in range(6)] + [[None, 0]]
    assert said["difference"] is None
    assert "B against A" not in page(said)


# --------------------------------------------------------------------------------------------------------- page


class Parts(HTMLParser):
    """What a page is made of: its elements with their attributes, and the text of each script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._within = tag
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self._within:
            self.texts[self._within][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def test_the_page_carries_all_and_loads_nothing(recording: Recording) -> None:
    said = said_of(recording)
    text = page(said)
    parts = Parts(text)
    for tag, attributes in parts.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "style", "srcset"} & attributes.keys(), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
        if "href" in attributes:
            assert str(attributes["href"]).startswith("#")
    assert set(re.findall(r"https?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}
    data, script = parts.texts["script"]
    assert json.loads(data) == json.loads(json.dumps({key: said[key] for key in ("words", "recordings", "rows")}))
    policy = next(one["content"] for tag, one in parts.elements if one.get("http-equiv"))
    for kind, source in (("script", script), ("style", parts.texts["style"][0])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none'; ")
    assert "unsafe" not in str(policy)


def test_the_tables_of_the_page_do_not_need_the_script(recording: Recording) -> None:
    text = page(said_of(recording))
    rows = probe.unevenness(recording)["layers"]
    for row in rows:
        assert f'<td data-value="{row["attribution"]["total"]["mean_square"]}">' in text
        assert f"<td>{row['name']}</td>" in text
    for finding in probe.diagnose(recording)["findings"]:
        assert finding["what"] in text
        assert f'href="#layer=A{finding["index"]}"' in text


def test_what_is_no_number_is_refused_and_not_written(recording: Recording) -> None:
    said = said_of(recording)
    said["recordings"][0]["layers"][0]["rate"][0] = math.nan
    with pytest.raises(ValueError, match="not JSON compliant"):
        page(said)


def test_values_of_evidence_as_text() -> None:
    assert plain(None) == "–"
    assert plain(True) == "yes"
    assert plain(0.123456) == "0.1235"
    assert plain({"a": [1, 2.5], "b": None}) == "a: 1, 2.5, b: –"
    assert plain(list(range(40))).endswith("31 and 8 more")
    assert plain("text") == "text"


HOSTILE = (
    "</script><script>hacked()</script>", "<img src=x onerror=hacked()>", "\"'><b>{{7*7}}{% raw %}${7*7}",
    "a\u202eb\x1b[31m\x9bc\nd\u2028", "x" * 1000, "=1+1",
)  # fmt: skip


def test_names_from_a_file_are_escaped(full: Path, tmp_path: Path) -> None:
    def rename(file: h5py.File) -> None:
        for i, name in enumerate(HOSTILE[:6]):
            file[f"layers/{i}"].attrs["name"] = name
        file.attrs["model"] = HOSTILE[0]
        file.attrs["data"] = file.attrs["method"] = HOSTILE[3]

    with probe.open(edited(full, tmp_path / "hostile.h5", rename)) as recording:
        text = page(said_of(recording))
    parts = Parts(text)
    tags = [tag for tag, _ in parts.elements]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert "b" not in tags
    # They are there, as text, and nothing was computed.
    assert "&lt;img src=x onerror=hacked()&gt;" in text
    assert "{{7*7}}" in text
    assert all(one.isprintable() or one == "\n" for one in text)
    names = [layer["name"] for layer in json.loads(parts.texts["script"][0])["recordings"][0]["layers"]]
    assert names[1] == HOSTILE[1]
    assert names[3] == "a\\u202eb\\x1b[31m\\x9bc\\nd\\u2028"


def test_a_file_name_that_is_no_text(full: Path, tmp_path: Path) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.h5")
    shutil.copy(full, strange)
    written = probe.report(strange, tmp_path / "strange.html")
    assert "caf\\udce9.h5" in written.read_text(encoding="utf-8")


# --------------------------------------------------------------------------------------- every kind of recording


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 1}, {"timesteps": 1}, {"shape": (1,), "samples": 1, "timesteps": 1}, {"timesteps": 300},
        {"shape": (3, 5)}, {"shape": (2, 3, 4, 5)}, {"unguarded": True}, {"levels": None},
        {"levels": None, "timesteps": 33}, {"threshold": np.array([0.5, 1.0, 2.0]).reshape(3, 1, 1)},
        {"paired": False, "levels": None}, {"record": "stats"}, {"record": "counts"}, {"record": "spikes"},
        {"complete": False}, {"unguarded": True, "levels": None},
    ],
    ids=str,
)  # fmt: skip
def test_every_kind_of_recording_has_a_report(
    made: Callable[..., Recording], tmp_path: Path, options: dict[str, Any]
) -> None:
    recording = made(str(options), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = said_of(recording)
    shown = said["recordings"][0]["layers"][0]
    for row in shown["at"].values():
        assert sum(row["cases"][name] for name in CASES) == row["count"]
        assert sum(number for _, _, number in row["phi"]["cells"]) == row["count"]
    assert len(Parts(page(said)).texts["script"]) == 2


def test_a_recording_in_parts_says_what_a_plain_one_says(recordings: Callable[..., Path], tmp_path: Path) -> None:
    parts = tmp_path / "parts.h5"
    plan(output=parts, samples=40, batch_size=20).run(part_bytes=1)
    with probe.open(parts) as one, probe.open(recordings()) as other:
        assert len(one.parts) > 1
        mine, yours = said_of(one)["recordings"][0], said_of(other)["recordings"][0]
    for name in ("layers", "verdict", "accuracy", "shown"):
        assert mine[name] == yours[name], name


def test_other_t_in_the_grid(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(timesteps=20, at=[11, 19])) as recording:
        said = said_of(recording)["recordings"][0]
        assert said["grid"] == [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 19, 20]
        assert (
            said["layers"][1]["at"]["11"]["cases"] == probe.unevenness(recording, 1, timestep=11)["layers"][0]["cases"]
        )


# ------------------------------------------------------------------------------------------------------ command


def test_the_command_writes_and_says_how_much(run: Run, full: Path, tmp_path: Path) -> None:
    shutil.copy(full, tmp_path / "recording.h5")
    printed = ok(run("report"))
    size = (tmp_path / "report.html").stat().st_size
    assert printed == f"report.html: {size / 1000:.1f} kB\n"
    with probe.open(full) as recording:
        verdict = said_of(recording)["recordings"][0]["verdict"]
    assert verdict[1] in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["recording.h5", "report.html"]


def test_the_command_with_two_files(run: Run, full: Path, recordings: Callable[..., Path], tmp_path: Path) -> None:
    ok(run("report", full, recordings(neuron="srp"), "-o", "both.html"))
    text = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "B against A" in text
    assert text.count('<p class="lead">') == 2


def test_the_command_does_not_overwrite_by_itself(run: Run, full: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    refused(run("report", full), "report.html exists", "; expected a new file; pass --overwrite")
    assert (tmp_path / "report.html").read_text() == "mine"
    ok(run("report", full, "--overwrite"))
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-o", "report.pdf"], ["report.pdf", "expected .html"]),
        (["-o", "report"], ["report", "expected .html"]),
        (["-o", "missing/report.html"], ["no folder missing", "expected an existing folder"]),
        (["-o", "folder.html"], ["folder.html", "is a folder"]),
        (["-o", "/proc/report.html"], ["cannot be written", "expected a writable folder"]),
        (["again.h5", "again.h5"], ["3 recordings", "expected one, or two"]),
        (["missing.h5"], ["missing.h5"]),
    ],
    ids=str,
)
def test_the_command_refuses_in_a_line(
    run: Run, full: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    (tmp_path / "folder.html").mkdir()
    shutil.copy(full, tmp_path / "again.h5")
    refused(run("report", full, *arguments), *parts)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["again.h5", "folder.html"]


def test_a_full_disk_leaves_the_old_file(run: Run, full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("old")

    def half(self: Path, text: str, **_: Any) -> int:
        self.write_bytes(text[:1000].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    refused(run("report", full, "--overwrite"), "report.html cannot be written (No space left on device)")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_the_installed_command_in_a_process_of_its_own(full: Path, tmp_path: Path) -> None:
    """Contained, with its limits of memory and time, and without torch and matplotlib."""
    script = (
        "import sys, atexit; sys.argv = ['probe', 'report', *sys.argv[1:]]\n"
        "from probe.cli import main\n"
        "atexit.register(lambda: print(sorted({'torch', 'matplotlib'} & set(sys.modules)), file=sys.stderr))\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(full), "-o", "out.html"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out.html: ")
    assert "torch" not in done.stderr
    assert "matplotlib" not in done.stderr
    damaged = tmp_path / "damaged.h5"
    data = bytearray(full.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 5000] = bytes(5000)
    damaged.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-m", "probe", "report", str(damaged), "-o", "x.html"], cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "x.html").exists()


def test_the_function_takes_paths_and_open_recordings(recording: Recording, full: Path, tmp_path: Path) -> None:
    one = probe.report(recording, tmp_path / "one.html")
    other = probe.report([str(full)], str(tmp_path / "other.html"))
    assert one == tmp_path / "one.html"
    assert one.read_bytes() == other.read_bytes()
    assert probe.report([recording, full], tmp_path / "two.html").stat().st_size > one.stat().st_size
    with pytest.raises(probe.ProbeError, match="0 recordings"):
        probe.report([], tmp_path / "none.html")
    with pytest.raises(probe.ProbeError, match="exists"):
        probe.report(full, one, overwrite=False)
