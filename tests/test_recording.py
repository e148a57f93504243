"""The file: parts, index, commits, and what a reader does with files that are not whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import probe
from probe.errors import ProbeError
from probe.recording.parts import LEDGER, parts_folder
from probe.recording.schema import PRESETS
from probe.session import plan
from probe.spikes import pack, packed_size, unpack
from tests.editing import editing
from tests.synthetic import write_recording


def test_spikes_round_trip() -> None:
    spikes = np.random.default_rng(0).random((3, 5, 13)) < 0.3
    packed = pack(spikes)
    assert packed.shape == (3, 5, packed_size(13)) == (3, 5, 2)
    np.testing.assert_array_equal(unpack(packed, 13), spikes)
    # The two lines of the documentation, for a reader without probe.
    np.testing.assert_array_equal(np.unpackbits(packed, axis=-1)[..., :13], spikes)


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A recording in four parts."""
    planned = plan(samples=40, batch_size=10, output=tmp_path / "parted.h5", timesteps=4)
    planned.run(part_bytes=1)
    return planned.path


def test_parts_read_as_one_recording(indexed: Path, tmp_path: Path) -> None:
    whole = probe.capture(samples=40, batch_size=10, output=tmp_path / "whole.h5", timesteps=4)
    assert not parts_folder(whole).exists()
    assert len(list(parts_folder(indexed).glob("part-*.h5"))) == 4
    lines = [json.loads(line) for line in (parts_folder(indexed) / LEDGER).read_text().splitlines()]
    assert [(line["first"], line["samples"]) for line in lines] == [(0, 10), (10, 10), (20, 10), (30, 10)]
    with probe.open(whole) as one, probe.open(indexed) as other:
        assert other.complete
        assert other.samples == 40
        np.testing.assert_array_equal(one.snn_logits, other.snn_logits)
        np.testing.assert_array_equal(one.digests[0], other.digests[0])
        for a, b in zip(one.layers, other.layers, strict=True):
            for name in ("spike_count", "ann_output", "input_sum", "snn_spikes", "ann_input", "snn_input"):
                np.testing.assert_array_equal(a.read(name), b.read(name))
            for t in one.grid:
                assert a.statistics.statistics[t].same(b.statistics.statistics[t])
            np.testing.assert_array_equal(a.spikes_at, b.spikes_at)
            np.testing.assert_array_equal(a.spikes_per_neuron, b.spikes_per_neuron)
            np.testing.assert_array_equal(a.statistics.per_sample, b.statistics.per_sample)
            np.testing.assert_array_equal(a.statistics.first_input, b.statistics.first_input)
        assert probe.unevenness(other, recompute=True)["layers"] == probe.unevenness(one, recompute=True)["layers"]


def test_a_recording_moves_with_its_parts_and_reads_from_anywhere(
    indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with probe.open(indexed) as recording:
        count = recording.layers[1].spike_count
    shutil.move(indexed, elsewhere / indexed.name)
    shutil.move(parts_folder(indexed), elsewhere / parts_folder(indexed).name)
    monkeypatch.chdir("/")
    with probe.open(elsewhere / indexed.name) as recording:
        np.testing.assert_array_equal(recording.layers[1].spike_count, count)
        assert count.sum() > 0


@pytest.mark.parametrize("harm", ["missing", "shorter", "of another run"])
def test_a_part_that_is_not_whole_is_refused(harm: str, indexed: Path, tmp_path: Path) -> None:
    """HDF5 itself would read zeros, without a word."""
    part = next(parts_folder(indexed).glob("part-*-000000020.h5"))
    if harm == "missing":
        part.unlink()
    elif harm == "shorter":
        os.truncate(part, part.stat().st_size - 1000)
    else:
        with editing(part) as file:
            file.attrs["run_id"] = "f" * 32
    with pytest.raises(ProbeError, match=r"part-\w+-000000020\.h5"):
        probe.open(indexed)


def test_every_preset_holds_what_the_table_says(recordings: Callable[..., Path]) -> None:
    held = {
        "stats": set(),
        "counts": {"spike_count", "ann_output", "input_sum"},
        "spikes": {"spike_count", "ann_output", "input_sum", "snn_spikes"},
        "full": {"spike_count", "ann_output", "input_sum", "snn_spikes", "ann_input", "snn_input"},
    }
    for preset in PRESETS:
        path = recordings(record=preset)
        with h5py.File(path) as file:
            layer = file["layers/2"]
            assert set(layer) - {"threshold", "initial_potential", "height", "statistics"} == held[preset]
            checked = [item for item in layer.values() if isinstance(item, h5py.Dataset) and item.ndim > 1]
            assert all(item.fletcher32 for item in checked)
        with probe.open(path) as recording:
            assert probe.unevenness(recording)["layers"] == probe.unevenness(recordings())["layers"]
            if preset != "full":
                with pytest.raises(ProbeError, match="--record full"):
                    _ = recording.layers[2].snn_input


def test_plain_h5py_reads_it(full: Path) -> None:
    with h5py.File(full) as file, probe.open(full) as recording:
        layer = file["layers/1"]
        theta, levels = layer["threshold"][()], layer.attrs["levels"]
        a = (theta * layer["ann_output"][()].astype(np.float32)) / np.float32(levels)
        np.testing.assert_array_equal(a, recording.layers[1].ann_output)
        bits = np.unpackbits(layer["snn_spikes"][()], axis=-1)[..., : 16 * 64]
        np.testing.assert_array_equal(bits.sum(1).reshape(-1, 16, 8, 8), layer["spike_count"][()])
        assert file.attrs["format"] == "probe-recording"
        assert file["layers/0/snn_input"].shape == (40, 1, 16, 8, 8)
        assert layer["snn_input"].shape == (40, 8, 16, 8, 8)
        assert recording.layers[0].snn_input.shape == (40, 8, 16, 8, 8)
        assert recording.layers[0].read("snn_input", 3, slice(2, 5)).shape == (3, 16, 8, 8)


def test_a_file_under_the_final_name_is_always_a_whole_one(tmp_path: Path) -> None:
    """A capture killed in the middle leaves only the folder of parts, and every committed part is whole."""
    script = (
        "from probe.session import plan; import os, signal\n"
        "p = plan(samples=40, batch_size=10, output='killed.h5')\n"
        "p.run(lambda done, samples: os.kill(os.getpid(), signal.SIGKILL) if done == 30 else None, part_bytes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert not (tmp_path / "killed.h5").exists()
    parts = sorted((tmp_path / "killed.h5.parts").glob("part-*.h5"))
    # The writer may be behind.
    assert [part.name[-9:] for part in parts] == ["000000.h5", "000010.h5"][: len(parts)]
    for part in parts:
        with h5py.File(part) as file:
            assert file["layers/3/spike_count"][()].shape[0] == file.attrs["samples"] == 10
    with pytest.raises(ProbeError, match="unfinished capture"):
        probe.open(tmp_path / "killed.h5")
    with pytest.raises(ProbeError, match="unfinished capture"):
        plan(output=tmp_path / "killed.h5")
    probe.capture(samples=10, output=tmp_path / "killed.h5", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.h5"]


def starved(folder: Path, run: str) -> str:
    """What a capture of 60 samples tells when its disk is full; a limit on the size of a file stands for the disk."""
    script = (
        "import resource, signal, sys; from probe.session import plan; from probe.errors import ProbeError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def squeeze(limit): resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "def wait_for_a_part():\n"
        "    from pathlib import Path; import time\n"
        "    while 'part-' not in Path('full.h5.parts/ledger.jsonl').read_text(): time.sleep(0.01)\n"
        "p = plan(samples=60, batch_size=10, output='full.h5')\n"
        f"try: {run}\n"
        "except ProbeError as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == ""
    assert "full.h5 failed" in done.stdout
    return done.stdout


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    """The write fails in the second part; there is room for an index of the first."""
    told = starved(
        tmp_path,
        "p.run(lambda done, _: (wait_for_a_part(), squeeze(1_000_000)) if done == 30 else None, part_bytes=2_000_000)",
    )
    assert "holds the first 20 samples" in told
    with pytest.warns(UserWarning, match="incomplete"), probe.open(tmp_path / "full.h5") as recording:
        assert recording.samples == 20
        probe.unevenness(recording, recompute=True)


def test_a_disk_too_full_for_an_index_keeps_the_parts(tmp_path: Path) -> None:
    told = starved(
        tmp_path,
        "p.run(lambda done, _: (wait_for_a_part(), squeeze(10_000)) if done == 30 else None, part_bytes=2_000_000)",
    )
    assert "the finished parts are in full.h5.parts" in told
    assert [path.name for path in tmp_path.iterdir()] == ["full.h5.parts"]
    (part,) = (tmp_path / "full.h5.parts").glob("part-*")
    with h5py.File(part) as file:
        assert len(file["layers/3/spike_count"][()]) == file.attrs["samples"] == 20


def test_a_full_disk_before_the_first_commit_leaves_nothing(tmp_path: Path) -> None:
    assert "nothing was kept" in starved(tmp_path, "squeeze(300_000); p.run()")
    assert list(tmp_path.iterdir()) == []


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    paths = [probe.capture(samples=20, output=tmp_path / f"{i}.h5") for i in range(2)]
    with h5py.File(paths[0]) as one, h5py.File(paths[1]) as other:
        names: list[str] = []
        one.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(names) > 100
        for name in names:
            np.testing.assert_array_equal(one[name][()], other[name][()])


def test_selected_layers_keep_their_index(recordings: Callable[..., Path]) -> None:
    with probe.open(recordings(layers=["block[23].act", "-1"])) as recording:
        assert [(layer.index, layer.name) for layer in recording.layers] == [
            (1, "block2.act"),
            (2, "block3.act"),
            (5, "hidden.act"),
        ]
        assert probe.unevenness(recording, "5")["layers"][0]["name"] == "hidden.act"


def test_one_sample_reads_as_it_does_among_all(tmp_path: Path, full: Path) -> None:
    """Also where each channel has a threshold of its own, which broadcasts over a sample axis."""
    theta = np.array([0.5, 1.0, 2.0], np.float32).reshape(1, 3, 1, 1)
    for path in (write_recording(tmp_path / "channels.h5", ["a"], threshold=theta), full):
        with probe.open(path) as recording:
            layer = recording.layers[0]
            for name in ("spike_count", "ann_output", "input_sum", "snn_spikes", "ann_input", "snn_input"):
                every = layer.read(name)
                np.testing.assert_array_equal(layer.read(name, 3), every[3])
                np.testing.assert_array_equal(layer.read(name, -1), every[-1])
                np.testing.assert_array_equal(layer.read(name, [1, 4]), every[[1, 4]])
            found = probe.trace(recording, 0, 2, (1, 2, 3))
            assert found.threshold == np.broadcast_to(layer.threshold, (1, *layer.shape))[0, 1, 2, 3]
            assert found.ann_output == layer.ann_output[2, 1, 2, 3]


def test_a_recording_under_another_name_says_where_its_parts_should_be(indexed: Path) -> None:
    """HDF5 would look for the old name, and read zeros."""
    renamed = indexed.with_name("renamed.h5")
    shutil.move(indexed, renamed)
    shutil.move(parts_folder(indexed), parts_folder(renamed))
    with pytest.raises(ProbeError, match=r"parts in parted\.h5\.parts.*parted\.h5"):
        probe.open(renamed)


def test_parts_that_are_replaced_while_a_recording_is_open(indexed: Path) -> None:
    with probe.open(indexed) as recording:
        assert recording.layers[0].spike_count.sum() > 0
        plan(samples=20, batch_size=10, output=indexed, overwrite=True).run(part_bytes=1)
        with pytest.raises(ProbeError, match="removed or replaced"):
            _ = recording.layers[0].spike_count
    with probe.open(indexed) as recording:
        assert recording.samples == 20
        assert len(list(parts_folder(indexed).glob("part-*"))) == 2


@pytest.mark.parametrize("part_bytes", [1, 1 << 30])
def test_overwrite_touches_the_old_recording_only_when_the_new_one_is_whole(part_bytes: int, indexed: Path) -> None:
    def seen() -> list[int]:
        with probe.open(indexed) as recording:
            return [recording.samples, int(recording.layers[3].spike_count.sum())]

    old = seen()
    during: list[list[int]] = []
    planned = plan(samples=30, batch_size=10, output=indexed, overwrite=True)
    planned.run(lambda _done, _samples: during.append(seen()), part_bytes=part_bytes)
    assert during == [old] * 3
    assert seen()[0] == 30
    if part_bytes == 1:
        assert len((parts_folder(indexed) / LEDGER).read_text().splitlines()) == 3
    names = {path.name for path in indexed.parent.iterdir()}
    assert names == ({"parted.h5", "parted.h5.parts"} if part_bytes == 1 else {"parted.h5"})


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    refusals: list[str] = []

    def second(_done: int, _samples: int) -> None:
        with pytest.raises(ProbeError) as refused:
            plan(samples=10, output=tmp_path / "r.h5", overwrite=True).run()
        refusals.append(str(refused.value))

    plan(samples=20, batch_size=20, output=tmp_path / "r.h5").run(second)
    assert len(refusals) == 1
    assert "another capture is writing" in refusals[0]
    assert [path.name for path in tmp_path.iterdir()] == ["r.h5"]


def test_a_failure_after_a_commit_says_what_was_kept(tmp_path: Path) -> None:
    planned = plan(samples=40, batch_size=10, output=tmp_path / "r.h5")

    def poison(done: int, _samples: int) -> None:
        if done == 30:
            planned.prepared.subject.ann.get_submodule("output").weight.data.fill_(float("nan"))

    with pytest.raises(ProbeError, match=r"NaN or infinity as logits.*holds the first 30 samples"):
        planned.run(poison, part_bytes=1)
    with pytest.warns(UserWarning, match="30 samples"), probe.open(tmp_path / "r.h5") as recording:
        assert recording.samples == 30


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("/", "samples", 10**12),
        ("/", "samples", 3),
        ("/", "timesteps", 10**9),
        ("/", "timesteps", 7),
        ("/", "format_version", 0),
        ("layers/1", "shape", [1 << 40, 1 << 40, 8]),
        ("layers/1", "shape", [16, 8]),
        ("layers/1", "levels", -3),
        ("layers/1", "traits", "{"),
        ("layers/1", "encoding", "[]"),
    ],
)
def test_attributes_that_contradict_the_arrays(
    where: str, name: str, value: object, full: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "edited.h5"
    edited.write_bytes(full.read_bytes())
    with editing(edited) as file:
        file[where].attrs[name] = value
    with pytest.raises(ProbeError, match="damaged"):
        probe.open(edited)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers/1/threshold", np.zeros(1, np.float32)),
        ("layers/1/threshold", np.ones((3, 5), np.float32)),
        ("layers/1/spike_count", np.zeros((40, 2), np.uint8)),
        ("samples/label", np.zeros(7, np.int64)),
        ("output/snn", np.zeros((40, 3, 10), np.float32)),
    ],
)
def test_arrays_of_another_shape(name: str, value: np.ndarray, full: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.h5"
    edited.write_bytes(full.read_bytes())
    with editing(edited) as file:
        del file[name]
        file[name] = value
    with pytest.raises(ProbeError, match="damaged"):
        probe.open(edited)


def test_edited_spikes_do_not_pass_a_recomputation(full: Path, tmp_path: Path) -> None:
    edited = tmp_path / "edited.h5"
    edited.write_bytes(full.read_bytes())
    with editing(edited) as file:
        file["layers/1/snn_spikes"][3, 2, :4] ^= 0xFF
    with probe.open(edited) as recording, pytest.raises(ProbeError, match="do not add up"):
        probe.unevenness(recording, 1, recompute=True)


def test_cases_at_any_t_from_spikes_alone(recordings: Callable[..., Path]) -> None:
    with (
        probe.open(recordings(record="spikes", timesteps=20)) as spikes,
        probe.open(recordings(record="full", timesteps=20)) as full,
    ):
        one, other = (probe.unevenness(recording, 3, timestep=11)["layers"][0] for recording in (spikes, full))
        assert one["cases"] == other["cases"]
        assert one["offset_spikes"] == other["offset_spikes"]
        assert one["largest_error"] == other["largest_error"]
        assert one["attribution"] is one["local_cases"] is one["residual"] is None
        assert "without inputs" in one["reason"]
        assert other["attribution"]["unevenness"]["mean_square"] > 0
