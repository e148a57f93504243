"""A short run of the fuzzer with every run of the tests, and the proof that it finds what it looks for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz.harness import ROOT, Did, Fuzz, judge, run

COUNT = int(os.environ.get("PROBE_FUZZ_COUNT", "150"))
SEED = int(os.environ.get("PROBE_FUZZ_SEED", "0"))


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory) -> Fuzz:
    return Fuzz(tmp_path_factory.mktemp("fuzz"), SEED)


@pytest.mark.timeout(7200)
def test_damaged_recordings_are_refused_or_read_right(fuzz: Fuzz) -> None:
    """In a process without torch, which forks faster."""
    arguments = ["--count", COUNT, "--seed", SEED, "--quick", 1, "--drawn", 0.04, "--bases", fuzz.bases]
    command = [sys.executable, "-m", "tests.fuzz", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failures" in done.stdout
    assert {"refused", "right"} <= set(done.stdout.splitlines()[0].split())


def test_a_number_is_always_the_same_damage(fuzz: Fuzz) -> None:
    found = []
    for _ in range(2):
        fuzz.mutate(7)
        found.append((fuzz.work / "recording.h5").read_bytes())
    assert found[0] == found[1]


FINE = Did(0, "table\n", "", 0.1, 0, "", [])
LINE = "probe: r.h5 is damaged; expected a whole recording; capture it again\n"


@pytest.mark.parametrize(
    ("did", "outcome", "failed"),
    [
        (FINE, "right", False),
        (replace(FINE, code=2, out="", err=LINE), "refused", False),
        (replace(FINE, code=2, out="", err="probe: what\n"), "UNCLEAR", True),
        (replace(FINE, code=2, out="", err=LINE * 2), "UNCLEAR", True),
        (replace(FINE, out="other\n"), "WRONG TABLE", True),
        (replace(FINE, out="other\n", err="probe: warning: r.h5 is incomplete: ...\n"), "warned", False),
        (replace(FINE, picture="other"), "WRONG TABLE", True),
        (replace(FINE, code=3, err="Traceback (most recent call last):\n"), "TRACEBACK", True),
        (replace(FINE, code=-11), "EXIT -11", True),
        (replace(FINE, out="a\x1b[31m\n"), "ESCAPES", True),
        (replace(FINE, out="\u202e\n"), "ESCAPES", True),
        (replace(FINE, memory=2 << 30), "MEMORY", True),
        (replace(FINE, elsewhere=["the canary"]), "ELSEWHERE", True),
        (replace(FINE, out="424242.25\n"), "ELSEWHERE", True),
        (replace(FINE, hung=True), "HANG", True),
    ],
)
def test_what_is_a_failure(did: Did, outcome: str, failed: bool) -> None:
    assert judge(did, FINE, hostile=False) == (outcome, failed)


@pytest.mark.parametrize(
    ("do", "found"),
    [
        (lambda canary: (canary / "secret.bin").read_bytes(), "canary"),
        (lambda canary: os.open("/etc/hostname", os.O_RDONLY), "/etc/hostname"),
        (lambda canary: Path("new.txt").touch(), "new.txt"),
        (lambda canary: os.system("true"), "os.system"),
    ],
)
def test_what_is_opened_elsewhere_is_seen(
    do: Callable[[Path], object], found: str, fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import probe.cli

    monkeypatch.setattr(probe.cli.Commands, "_guarded", lambda *_: do(fuzz.canary.folder) and 0)
    did = run(tmp_path, ["accuracy"], fuzz.canary, fuzz.logs)
    assert any(found in one for one in did.elsewhere)


def test_the_hdf5_library_is_watched_too(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens files without Python's knowing."""
    import h5py

    import probe.cli

    with h5py.File(tmp_path / "links.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(fuzz.canary.folder / "secret.h5"), "data")
    monkeypatch.setattr(probe.cli.Commands, "_guarded", lambda *_: h5py.File("links.h5")["x"][0, 0] and 0)
    assert run(tmp_path, ["accuracy"], fuzz.canary, fuzz.logs).elsewhere
