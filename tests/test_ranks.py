"""Several processes that share a capture, as torchrun starts them, and `probe merge`: equal to one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import probe
from probe.cli import main
from probe.errors import ProbeError
from probe.recording.joining import appear
from probe.recording.parts import PartsFolder, parts_folder
from probe.recording.reader import IncompleteRecording
from probe.session import plan
from tests.recordings import differing

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def started(ranks: int, *arguments: str) -> subprocess.Popen[str]:
    """`torchrun ... -m probe capture ARGUMENTS`."""
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={free_port()}",
        "-m", "probe", "capture", *arguments,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def alone(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "probe", "capture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)


RUNS = {
    "qcfs": ("-T", "4", "--samples", "70", "--batch-size", "10", "--record", "counts"),
    "srp": ("-T", "3", "--samples", "33", "--batch-size", "10", "--neuron", "srp"),
    "relu": (f"{ROOT / 'tests' / 'relu_models.py'}:relu_digits", "--data", "digits", "-T", "4", "--samples", "40",
             "--batch-size", "8", "--record", "stats"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "run"), [(2, "qcfs"), (3, "srp"), (2, "relu")])
def test_ranks_record_what_one_process_does(ranks: int, run: str, tmp_path: Path) -> None:
    one, several = tmp_path / "one.h5", tmp_path / "several.h5"
    single = alone(*RUNS[run], "-o", str(one))
    assert single.returncode == 0, single.stderr
    output, errors = (process := started(ranks, *RUNS[run], "-o", str(several))).communicate()
    assert process.returncode == 0, errors
    # One rank speaks for all.
    assert output.splitlines()[1:] == single.stdout.splitlines()[1:]
    # What is small becomes one file.
    assert not parts_folder(several).exists()
    assert differing(one, several) == []
    assert probe.verify(several)["passed"]


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1])
def test_a_rank_that_dies_ends_the_run_and_its_batches_stay(dies: int, tmp_path: Path) -> None:
    """A sabotaged network kills its own process at the sixth batch; the others say so, and one process completes it."""
    model = tmp_path / "net.py"
    model.write_text(
        "import os, signal\nfrom probe import zoo\n\n\ndef net():\n"
        "    network = zoo.load('digits')\n"
        "    calls = []\n\n"
        "    def count(*_):\n"
        "        calls.append(1)\n"
        f"        if len(calls) == 60 and os.environ.get('RANK') == '{dies}':\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n\n"
        "    network.register_forward_pre_hook(count)\n    return network\n"
    )
    path, options = tmp_path / "r.h5", ("--data", "digits", "-T", "4", "--samples", "200", "--batch-size", "2")
    arguments = (f"{model}:net", *options, "-o", str(path))
    process = started(2, *arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "another rank ended" in errors
    assert "--resume" in errors
    if dies == 1:
        # Rank 0 was alive to write what there was.
        with pytest.warns(UserWarning, match="incomplete"), probe.open(path) as recording:
            assert 0 < recording.samples < 200
            assert probe.verify(recording)["passed"]
    else:
        assert not path.exists()
        assert parts_folder(path).is_dir()
    resumed = alone(*arguments, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    whole = tmp_path / "whole.h5"
    assert alone(f"{model}:net", *options, "-o", str(whole)).returncode == 0
    assert differing(whole, path) == []


@pytest.mark.slow
def test_control_c_reaches_every_rank_and_resuming_takes_any_number_of_them(tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    arguments = ("-T", "8", "--samples", "all", "--batch-size", "2", "--record", "counts")
    process = started(2, *arguments, "-o", str(path))
    limit = time.monotonic() + 60
    while time.monotonic() < limit and len(list(parts_folder(path).glob("*.tmp"))) < 2:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "with --resume goes on" in errors, errors
    with pytest.warns(UserWarning, match="incomplete"), probe.open(path) as recording:
        assert 0 < recording.samples < 599
    _, errors = (again := started(3, *arguments, "-o", str(path), "--resume")).communicate()
    assert again.returncode == 0, errors
    one = tmp_path / "one.h5"
    assert alone(*arguments, "-o", str(one)).returncode == 0
    assert differing(one, path) == []


@pytest.mark.slow
def test_ranks_with_other_weights_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "net.py"
    model.write_text(
        "import os\nfrom probe import zoo\n\n\ndef net():\n    network = zoo.load('digits')\n"
        "    network.output.weight.data.add_(0.01 * int(os.environ['RANK']))\n    return network\n"
    )
    process = started(2, f"{model}:net", "--data", "digits", "-T", "2", "--samples", "20", "--batch-size", "5",
                      "-o", str(tmp_path / "r.h5"))  # fmt: skip
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "rank 1 has another run than rank 0: weights_digest is" in errors
    assert not (tmp_path / "r.h5").exists()


# ------------------------------------------------------------------------------------------------------ merge


@pytest.mark.slow
def test_ranks_without_a_common_disk_say_so_and_their_parts_are_joined(tmp_path: Path) -> None:
    """Each rank works in a folder of its own, as machines do that share none."""
    program = tmp_path / "each.py"
    arguments = ("-T", "4", "--samples", "40", "--batch-size", "10", "--record", "counts", "-o", "r.h5")
    program.write_text(
        "import os, sys\nfrom probe.cli import main\n"
        f"os.chdir({str(tmp_path / 'disk')!r} + os.environ['RANK'])\n"
        f"sys.argv = ['probe', 'capture', *{arguments!r}]\nmain()\n"
    )
    folders = [tmp_path / f"disk{rank}" for rank in range(2)]
    for folder in folders:
        folder.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    done = subprocess.run([*launcher, str(program)], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "20 of 40 samples are here; where ranks write to disks of their own, `probe merge`" in done.stderr
    assert not (folders[1] / "r.h5").exists()
    with pytest.warns(IncompleteRecording), probe.open(folders[0] / "r.h5") as recording:
        assert recording.samples == 20
    result = CliRunner().invoke(
        main, ["merge", *(str(folder / "r.h5.parts") for folder in folders), "-o", str(tmp_path / "w.h5")]
    )
    assert result.exit_code == 0, result.output
    single = alone(*arguments[:-1], str(tmp_path / "one.h5"))
    assert single.returncode == 0, single.stderr
    assert differing(tmp_path / "one.h5", tmp_path / "w.h5") == []


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """A recording in four parts."""
    planned = plan(samples=40, batch_size=10, output=tmp_path / "parted.h5", timesteps=4)
    planned.run(part_bytes=1)
    return planned.path


def test_an_index_becomes_one_plain_file(indexed: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.h5"
    done = CliRunner().invoke(main, ["merge", str(indexed), "-o", str(one)])
    assert done.exit_code == 0, done.stderr
    assert "40 samples from 4 pieces" in done.stdout
    shutil.rmtree(parts_folder(indexed))
    indexed.unlink()
    straight = probe.capture(samples=40, batch_size=10, output=tmp_path / "straight.h5", timesteps=4)
    assert differing(straight, one) == []
    assert probe.verify(one)["passed"]
    with probe.open(one) as recording:
        assert recording.complete


def test_parts_of_two_machines_become_one_recording(indexed: Path, tmp_path: Path) -> None:
    straight = probe.capture(samples=40, batch_size=10, output=tmp_path / "straight.h5", timesteps=4)
    folder, other = parts_folder(indexed), tmp_path / "node2" / "parted.h5.parts"
    other.mkdir(parents=True)
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    (folder / "ledger.jsonl").write_text(lines[0] + lines[2])
    (other / "ledger.1.jsonl").write_text(lines[3] + lines[1])
    for part in sorted(folder.glob("part-*"))[1::2]:
        shutil.move(part, other)
    merged = probe.merge([other, folder], tmp_path / "merged.h5")
    assert (merged.samples, merged.asked, merged.pieces) == (40, 40, 4)
    assert differing(straight, merged.path) == []
    half = probe.merge([other], tmp_path / "half.h5")
    assert (half.samples, half.asked) == (20, 40)
    with pytest.warns(UserWarning, match="incomplete"), probe.open(half.path) as recording, probe.open(straight) as all:
        assert recording.indices.tolist() == all.indices[10:20].tolist() + all.indices[30:].tolist()
        assert probe.verify(recording)["passed"]


def test_an_incomplete_index_and_the_rest_are_put_in_order(indexed: Path, tmp_path: Path) -> None:
    straight = probe.capture(samples=40, batch_size=10, output=tmp_path / "straight.h5", timesteps=4)
    later = tmp_path / "later" / "parted.h5.parts"
    later.mkdir(parents=True)
    folder = parts_folder(indexed)
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    held = PartsFolder(indexed)
    (later / "ledger.jsonl").write_text("".join(lines[:2]))
    for part in sorted(folder.glob("part-*"))[:2]:
        shutil.move(part, later)
    run_id = json.loads(lines[0])["run_id"]
    indexed.unlink()
    assert appear(held, run_id, 40) == (20, True)
    merged = probe.merge([indexed, later], tmp_path / "merged.h5")
    assert differing(straight, merged.path) == []


def test_recordings_of_other_samples_follow_one_another(tmp_path: Path) -> None:
    everything = plan(samples=None, timesteps=2, output=tmp_path / "all.h5", record="counts").prepared
    paths = []
    for name, chosen in (("a", everything.indices[:300]), ("b", everything.indices[300:])):
        planned = plan(samples=None, timesteps=2, output=tmp_path / f"{name}.h5", record="counts")
        picked = type(planned.prepared)(**(vars(planned.prepared) | {"indices": chosen}))
        info = type(planned.info)(**(vars(planned.info) | {"asked": len(chosen), "run_id": name * 32}))
        type(planned)(planned.path, info, picked, planned.layers).run()
        paths.append(planned.path)
    whole = probe.capture(samples=None, timesteps=2, output=tmp_path / "whole.h5", record="counts")
    merged = probe.merge(paths, tmp_path / "merged.h5")
    assert differing(whole, merged.path) == []
    with pytest.raises(ProbeError, match=r"sample 0 of digits is in .*a\.h5 and in .*whole\.h5"):
        probe.merge([paths[0], whole], tmp_path / "twice.h5")
    assert not (tmp_path / "twice.h5").exists()


def test_what_does_not_belong_together_is_refused_field_by_field(indexed: Path, tmp_path: Path) -> None:
    other = probe.capture(samples=40, timesteps=3, seed=4, output=tmp_path / "other.h5")
    with pytest.raises(ProbeError, match="timesteps is 4 there and 3 here"):
        probe.merge([indexed, other], tmp_path / "m.h5")
    with pytest.raises(ProbeError, match="holds no part"):
        probe.merge([tmp_path], tmp_path / "m.h5")
    with pytest.raises(ProbeError, match="exists"):
        probe.merge([indexed], other)
    assert not (tmp_path / "m.h5").exists()
