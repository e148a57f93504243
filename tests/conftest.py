"""What several tests share: a recording of the bundled network in each preset, and a shell-like runner."""

from __future__ import annotations

import json
import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each process has a core; more threads would only wait for each other. Has to be said before torch is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import probe
from probe.cli import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the CIFAR-10 archive; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("PROBE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cifar10-jpeg.npz").is_file():
        pytest.skip(f"no cifar10-jpeg.npz in {folder}; set PROBE_TEST_DATA to the folder that has it")
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a small recording of the bundled network once for each set of options; treat it as read-only."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("recordings")

    def make(**options: Any) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            output = folder / f"{len(made)}.h5"
            made[key] = probe.capture(output=output, **{"samples": 40, "batch_size": 20, **options})
        return made[key]

    return make


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tiny layers: threads would only wait for each other, ten times as long where the cores are taken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def full(recordings: Callable[..., Path]) -> Path:
    """40 samples, T = 8, everything recorded."""
    return recordings()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`probe ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return invoke
