"""A capture that ends anywhere, however it does: what is there afterwards, and that `--resume` makes it whole."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import probe
from probe.cli import main
from probe.errors import ProbeError
from probe.recording.parts import LEDGER, PartsFolder, parts_folder, read_ledger
from probe.session import plan
from tests.recordings import differing

KILLS = int(os.environ.get("PROBE_TEST_KILLS", "6"))
"""How many random moments are tried; 100 before a release."""
ROOT = Path(__file__).parents[1]
OPTIONS = {"samples": 60, "batch_size": 5, "timesteps": 4, "neuron": "srp"}


def committed(path: Path, parts: int) -> bool:
    """Wait until so many parts are safe: the writer has a thread of its own."""
    until = time.monotonic() + 60
    while len(read_ledger(parts_folder(path))) < parts:
        assert time.monotonic() < until
        time.sleep(0.01)
    return True


@functools.cache
def whole(folder: Path, **options: object) -> Path:
    """The same recording, made without a disturbance."""
    return probe.capture(output=folder / f"whole-{len(options)}.h5", **(OPTIONS | options))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording that every disturbed capture must become."""
    return whole(tmp_path_factory.mktemp("undisturbed"))


def in_a_fork(path: Path, after: float) -> bool:
    """Capture in a child that is killed after so many seconds; False if it was done before."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        try:
            plan(output=path, resume=True, **OPTIONS).run(part_bytes=1 << 19)
        except BaseException:
            os._exit(3)
        os._exit(0)
    time.sleep(after)
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert status == 0
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


# Children of a process that has run networks in several threads would hang, so this file has one of its own.
def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    """After each kill: no file, or an old whole one, under the final name; every committed part opens with its sums."""
    script = f"from tests.test_resume import kill_and_resume; kill_and_resume({str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout.splitlines()[-1])
    assert kills["killed"] == KILLS
    assert kills["resumed_with_parts"] > 0


def kill_and_resume(folder: str) -> None:
    """Kill captures until there were enough kills; what is resumed must become what it would have been."""
    torch.set_num_threads(1)
    path, chance = Path(folder) / "killed.h5", random.Random(0)
    started = time.monotonic()
    expected = whole(Path(folder))
    takes = time.monotonic() - started
    killed = resumed = 0
    while killed < KILLS:
        was_killed = in_a_fork(path, chance.uniform(0, takes * 0.8))
        killed += was_killed
        parts = read_ledger(parts_folder(path))
        resumed += was_killed and bool(parts)
        for line in parts:
            with h5py.File(parts_folder(path) / line.name, "r") as file:
                assert file["layers/3/spike_count"][()].shape[0] == file.attrs["samples"] == line.samples
        if was_killed and path.exists():
            with probe.open(path) as recording:
                assert recording.complete
        if not was_killed:
            assert differing(expected, path) == []
            path.unlink()
            if parts_folder(path).exists():
                subprocess.run(["rm", "-r", str(parts_folder(path))], check=True)
    plan(output=path, resume=True, **OPTIONS).run(part_bytes=1 << 19)
    assert differing(expected, path) == []
    sys.stdout.write(json.dumps({"killed": killed, "resumed_with_parts": resumed}))


@pytest.mark.parametrize("record", ["stats", "full"])
def test_an_interrupted_capture_goes_on(record: str, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    code = (
        "import os, signal, sys; from probe.session import plan; from probe.errors import Interrupted\n"
        f"p = plan(output={str(path)!r}, record={record!r}, **{OPTIONS!r})\n"
        "try: p.run(lambda done, _: os.kill(os.getpid(), signal.SIGINT) if done == 30 else None)\n"
        "except Interrupted as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "holds 30 of 60 samples" in done.stdout
    assert "--resume" in done.stdout
    with pytest.warns(UserWarning, match="incomplete"), probe.open(path) as recording:
        assert recording.samples == 30
        assert probe.verify(recording)["passed"]
    probe.capture(output=path, record=record, resume=True, **OPTIONS)
    assert differing(whole(tmp_path, record=record), path) == []
    with probe.open(path) as recording:
        assert recording.complete


def test_resuming_what_is_complete_does_nothing_and_what_is_not_there_begins(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    command = ["capture", "-T", "2", "--samples", "20", "-o", str(path), "--resume"]
    assert CliRunner().invoke(main, command).exit_code == 0
    before = path.read_bytes()
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0
    assert "complete already" in again.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"timesteps": 5}, "timesteps is 4 there and 5 here"),
        ({"samples": 50}, "asked is 60 there and 50 here"),
        ({"batch_size": 10}, "batch_size is 5 there and 10 here"),
        ({"neuron": "if"}, "method is srp there and if here"),
        ({"record": "stats"}, "record is full there and stats here"),
        ({"layers": ["block1.act"]}, "layer 1: name is there only"),
        ({"initial_potential": 0.25}, "layer 0: initial_fraction is 0.5 there and 0.25 here"),
    ],
)
def test_another_capture_is_not_resumed(changed: dict[str, object], told: str, begun: Path) -> None:
    parts = read_ledger(parts_folder(begun))
    with pytest.raises(ProbeError) as refused:
        plan(output=begun, resume=True, **(OPTIONS | changed)).run()
    assert told in str(refused.value)
    assert "--resume" in str(refused.value)
    assert read_ledger(parts_folder(begun)) == parts


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture that was killed after some parts."""
    path = tmp_path_factory.mktemp("killed") / "begun.h5"
    code = (
        "import os, signal; from probe.session import plan\n"
        "from tests.test_resume import committed\n"
        f"p = plan(output={str(path)!r}, **{OPTIONS!r})\n"
        "end = lambda: committed(p.path, 3) and os.kill(os.getpid(), signal.SIGKILL)\n"
        "p.run(lambda done, _: end() if done == 30 else None, part_bytes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert not path.exists()
    return path


@pytest.fixture
def begun(killed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(parts_folder(killed), tmp_path / parts_folder(killed).name)
    return tmp_path / killed.name


def test_other_weights_are_not_resumed(tmp_path: Path) -> None:
    """Under the same name: a file that builds a network with random weights."""
    model = tmp_path / "net.py"
    model.write_text(
        "from probe import zoo\n\n\ndef net(more=0):\n    network = zoo.load('digits')\n"
        "    network.output.weight.data.add_(float(more))\n    return network\n"
    )
    options = {"data": "digits", "samples": 20, "batch_size": 5, "timesteps": 2, "output": tmp_path / "r.h5"}

    def stop(done: int, _samples: int) -> None:
        if done == 10:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        plan(f"{model}:net", model_args={"more": 0}, **options).run(stop, part_bytes=1)
    with pytest.raises(ProbeError, match="weights_digest is"):
        plan(f"{model}:net", model_args={"more": 1e-4}, resume=True, **options).run()
    plan(f"{model}:net", model_args={"more": 0}, resume=True, **options).run()
    with probe.open(tmp_path / "r.h5") as recording:
        assert recording.complete


@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_part_that_is_not_whole_is_captured_again(harm: str, begun: Path, undisturbed: Path) -> None:
    line = read_ledger(parts_folder(begun))[1]
    part = parts_folder(begun) / line.name
    if harm == "flipped":
        data = part.read_bytes()
        part.write_bytes(data.replace(b"zoo:digits", b"zoo:digitz", 1))
        assert part.read_bytes() != data
    elif harm == "cut":
        os.truncate(part, line.bytes // 2)
    else:
        part.unlink()
    captured = plan(output=begun, resume=True, **OPTIONS).run(part_bytes=1)
    assert bool(captured.notes) == (harm == "flipped")
    assert differing(undisturbed, begun) == []


def test_a_line_that_was_cut_is_not_glued_to_the_next(begun: Path, undisturbed: Path) -> None:
    ledger = parts_folder(begun) / LEDGER
    ledger.write_text(ledger.read_text() + '{"name": "part-')
    plan(output=begun, resume=True, **OPTIONS).run(part_bytes=1)
    assert differing(undisturbed, begun) == []
    assert all(json.loads(line) for line in ledger.read_text().splitlines())


class Drawing(nn.Module):
    """A network of which every forward draws random numbers, as an encoder of rates does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + 0.1 * torch.rand_like(x))


def test_random_numbers_in_a_forward_depend_on_the_seed_and_the_sample_alone(tmp_path: Path) -> None:
    from probe import zoo

    network = Drawing(zoo.load("digits"))

    def run(name: str, **options: object) -> Path:
        given = {"data": "digits", "samples": 20, "batch_size": 5, "timesteps": 4, "output": tmp_path / name}
        planned = plan(network, **(given | options))
        planned.run(part_bytes=1 if name == "parts.h5" else 1 << 30)
        return planned.path

    torch.manual_seed(1)
    first = run("first.h5")
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    assert differing(first, run("parts.h5")) == []
    assert torch.equal(before, torch.random.get_rng_state())
    with probe.open(first) as one, probe.open(run("other.h5", seed=5)) as other:
        assert not (one.digests[1] == other.digests[1]).any()


def without_the_powers_of_root() -> None:
    """Let file permissions count for root too, in a child between fork and exec."""
    import ctypes

    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere root cannot give up its powers")
def test_lost_permission_keeps_what_was_committed(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "r.h5"
    code = (
        "import os, sys; from probe.session import plan; from probe.errors import ProbeError\n"
        "from tests.test_resume import committed\n"
        f"p = plan(output={str(path)!r}, **{OPTIONS!r})\n"
        f"take = lambda: committed(p.path, 3) and os.chmod({str(parts_folder(path))!r}, 0o500)\n"
        "try: p.run(lambda done, _: take() if done == 30 else None, part_bytes=1)\n"
        "except ProbeError as error: print(error); sys.exit(2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=without_the_powers_of_root, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    parts_folder(path).chmod(0o700)
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stdout
    assert "--resume" in done.stdout
    # The writer may be behind.
    assert sum(line.samples for line in read_ledger(parts_folder(path))) in (15, 20, 25, 30)
    probe.capture(output=path, resume=True, **OPTIONS)
    assert differing(undisturbed, path) == []


def test_a_crash_in_the_users_forward_keeps_what_was_committed(tmp_path: Path, undisturbed: Path) -> None:
    planned = plan(output=tmp_path / "r.h5", **OPTIONS)

    def sabotage(done: int, _samples: int) -> None:
        if done == 30:
            planned.prepared.subject.snn.register_forward_pre_hook(lambda *_: 1 / 0)

    with pytest.raises(ProbeError, match="the model failed on samples 30 to 34: division by zero") as failed:
        planned.run(sabotage, part_bytes=1)
    assert "1 / 0" in failed.value.trace
    with pytest.warns(UserWarning, match="30 samples"), probe.open(planned.path) as recording:
        assert recording.samples == 30
    probe.capture(output=planned.path, resume=True, **OPTIONS)
    assert differing(undisturbed, planned.path) == []


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="one of them"):
        plan(output=tmp_path / "r.h5", resume=True, overwrite=True)


# ------------------------------------------------------------------------------- what an attacker or bad luck may do


def test_an_old_recording_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """However the new one ends early; and `--resume` then goes on with the new one, not with the old."""
    path = probe.capture(output=tmp_path / "r.h5", samples=20, timesteps=2)
    old = path.read_bytes()

    def fail(done: int, _samples: int) -> None:
        if done == 30:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        plan(output=path, overwrite=True, **OPTIONS).run(fail, part_bytes=1)
    assert path.read_bytes() == old
    assert read_ledger(parts_folder(path))
    planned = plan(output=path, resume=True, **OPTIONS)

    def poison(done: int, _samples: int) -> None:
        if done == 40:
            planned.prepared.subject.ann.get_submodule("output").weight.data.fill_(float("nan"))

    with pytest.raises(ProbeError, match=r"40 samples are in .*r\.h5\.parts, and .*r\.h5 is what it was"):
        planned.run(poison, part_bytes=1)
    assert path.read_bytes() == old
    probe.capture(output=path, resume=True, **OPTIONS)
    assert differing(whole(tmp_path), path) == []


def test_an_overwriting_run_without_a_part_is_resumed_all_the_same(tmp_path: Path, undisturbed: Path) -> None:
    path = probe.capture(output=tmp_path / "r.h5", samples=20, timesteps=2)
    code = (
        "import os, signal; from probe.session import plan\n"
        f"p = plan(output={str(path)!r}, overwrite=True, **{OPTIONS!r})\n"
        "p.run(lambda done, _: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == -9
    with probe.open(path) as recording:
        assert recording.timesteps == 2
    probe.capture(output=path, resume=True, **OPTIONS)
    assert differing(undisturbed, path) == []
    assert not parts_folder(path).exists()


def test_killed_after_the_final_name_and_before_the_folder_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "r.h5"
    plan(output=path, samples=20, batch_size=10, timesteps=2).run(part_bytes=1)
    monkeypatch.setattr(PartsFolder, "remove", PartsFolder.release)
    probe.capture(output=path, overwrite=True, **OPTIONS)
    assert parts_folder(path).is_dir()
    monkeypatch.undo()
    captured = plan(output=path, resume=True, **OPTIONS).run()
    assert "complete already" in captured.notes[0]


def test_a_damaged_part_of_a_complete_index_is_captured_again(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "r.h5"
    plan(output=path, **OPTIONS).run(part_bytes=1)
    part = sorted(parts_folder(path).glob("part-*"))[3]
    data = part.read_bytes()
    part.write_bytes(data.replace(b"zoo:digits", b"zoo:digitz", 1))
    captured = plan(output=path, resume=True, **OPTIONS).run(part_bytes=1)
    assert "captured again" in captured.notes[0]
    assert differing(undisturbed, path) == []


def test_parts_of_the_size_of_one_become_one_file(tmp_path: Path, undisturbed: Path) -> None:
    path = tmp_path / "r.h5"
    plan(output=path, **OPTIONS).run(part_seconds=0)
    assert not parts_folder(path).exists()
    assert differing(undisturbed, path) == []


@pytest.mark.parametrize(
    "line",
    [
        {"name": "../precious.txt"}, {"name": "/etc/passwd"}, {"name": "."}, {"name": "a\0b"}, {"first": "x"},
        {"first": -1}, {"samples": 0}, {"samples": True}, {"bytes": None}, {"run_id": 3}, {"more": 1},
    ],
)  # fmt: skip
def test_a_ledger_from_elsewhere_names_no_file_outside(line: dict[str, object], begun: Path, undisturbed: Path) -> None:
    folder = parts_folder(begun)
    precious = begun.parent / "precious.txt"
    precious.write_text("precious")
    (folder / "precious.txt").write_text("precious")
    whole_line = json.loads((folder / LEDGER).read_text().splitlines()[-1]) | {"bytes": 8}
    with (folder / LEDGER).open("a") as ledger:
        ledger.write(json.dumps(whole_line | line) + "\n")
    plan(output=begun, resume=True, **OPTIONS).run()
    assert precious.read_text() == "precious"
    assert differing(undisturbed, begun) == []


@pytest.mark.parametrize("what", ["ledger is a folder", "parts are a file", "no recording"])
def test_what_lies_in_the_way_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    if what == "ledger is a folder":
        (parts_folder(path) / LEDGER).mkdir(parents=True)
    elif what == "parts are a file":
        parts_folder(path).touch()
    else:
        with h5py.File(path, "w") as file:
            file.attrs["run_id"], file.attrs["complete"] = "1", True
    done = CliRunner().invoke(main, ["capture", "-o", str(path), "--resume", "-T", "2", "--samples", "10"])
    assert done.exit_code == 2, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("probe:")]) == 1


def test_many_parts_need_many_open_files(tmp_path: Path) -> None:
    """HDF5 reads zeros from a part that it cannot open."""
    path = tmp_path / "r.h5"
    plan(output=path, samples=60, batch_size=1, timesteps=1, record="stats").run(part_bytes=1)
    expected = probe.accuracy(path)
    code = (
        "import resource, json, sys; import probe\n"
        "hard = int(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard))\n"
        f"print(json.dumps(probe.accuracy({str(path)!r})))\n"
    )
    for hard in (4096, 64):
        done = subprocess.run([sys.executable, "-c", code, str(hard)], capture_output=True, text=True, check=False)
        if hard == 64:
            assert "open files, and 64 are allowed" in done.stderr
        else:
            assert json.loads(done.stdout)["snn"] == expected["snn"], done.stderr


@pytest.mark.parametrize("nth", [5, 40, 120])
def test_control_c_while_the_index_is_written_leaves_it_whole(nth: int, tmp_path: Path) -> None:
    """An exception inside HDF5's own writing would be swallowed there, and the file be damaged."""
    path = tmp_path / "r.h5"
    code = (
        "import os, signal; from probe.recording import joining; from probe.session import plan\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Pressed(joining.Disk):\n"
        "    writes = 0\n"
        "    def write(self, data):\n"
        "        self.writes += 1\n"
        f"        if self.writes == {nth}: os.kill(os.getpid(), signal.SIGINT)\n"
        "        return super().write(data)\n"
        "joining.Disk = Pressed\n"
        f"plan(output={str(path)!r}, **{OPTIONS!r}).run(part_bytes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 130, -signal.SIGINT), done.stderr
    assert "KeyboardInterrupt" in done.stderr
    assert probe.verify(path)["passed"]


def test_who_held_a_lock_before_keeps_nobody_out(tmp_path: Path) -> None:
    """A lock on a file that was removed meanwhile is none: two would write."""
    first = PartsFolder(tmp_path / "r.h5")
    (first.folder / "lock").unlink()
    (first.folder / "lock").touch()
    second = PartsFolder(tmp_path / "r.h5")
    with pytest.raises(ProbeError, match="another capture"):
        PartsFolder(tmp_path / "r.h5")
    second.release()
    first.release()
