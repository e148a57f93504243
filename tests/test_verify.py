"""`verify` on whole recordings of every kind, and on one with a value changed in each of its datasets in turn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result

import probe
from probe.recording.schema import PRESETS
from tests import paper_models, relu_models
from tests.editing import editing
from tests.test_cli import ok, refused

Run = Callable[..., Result]
USUAL: dict[str, Any] = {"data": "digits", "samples": 12, "timesteps": 4, "batch_size": 5}
KINDS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    **{name: (lambda name=name: ("zoo:digits", {"neuron": name})) for name in ("if", "negspike", "srp", "cos")},
    "merged": lambda: (paper_models.merged(), {}),
    "relu": lambda: (relu_models.relu_digits(), {}),
    "spikingjelly": lambda: ((relu_models.relu_digits(), relu_models.by_spikingjelly(relu_models.relu_digits())), {}),
}
UNSEEN = {"samples/index", "samples/label", "output/ann", "output/snn", "ann_input", "statistics/first_input", "height"}
"""What no law holds against anything else: where such a value is changed, and the checksum with it, nothing shows."""


def whole(path: Path) -> dict[str, Any]:
    found = probe.verify(path)
    assert found["problems"] == []
    assert found["passed"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_of_every_kind_are_whole(kind: str, tmp_path: Path) -> None:
    model, options = KINDS[kind]()
    path = probe.capture(model, output=tmp_path / "r.h5", **USUAL, **options)
    assert whole(path)["checked"] > 60


def test_every_preset_is_whole_and_more_is_checked_of_more(tmp_path: Path) -> None:
    checked = [whole(probe.capture(output=tmp_path / f"{one}.h5", record=one, **USUAL))["checked"] for one in PRESETS]
    assert checked == sorted(checked)
    assert checked[0] < checked[1] < checked[3]


@pytest.fixture(scope="module", params=["srp", "relu"])
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, options = KINDS[request.param]()
    return probe.capture(model, output=tmp_path_factory.mktemp("full") / "r.h5", **USUAL, **options)


def writable(path: Path) -> h5py.File:
    return h5py.File(path, "r+")


def names(path: Path) -> list[str]:
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return [name for name in found if not name.startswith(("facts/", "layers/")) or name.startswith("layers/1/")]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_value_changed_in_any_dataset_is_seen(sealed: bool, full: Path, tmp_path: Path) -> None:
    """Of the network and of layer 1; the rest of the layers are alike. What the seal does not see, the laws do."""
    unseen = set()
    for name in names(full):
        path = tmp_path / "r.h5"
        shutil.copy(full, path)
        with (editing if sealed else writable)(path) as file:
            values = file[name][()]
            flat = np.atleast_1d(values).reshape(-1)
            # The last place, not the first: padding bits of packed spikes are at the end of a row, and are none.
            place = len(flat) // 2
            flat[place] = flat[place] ^ 1 if values.dtype.kind in "ui" else flat[place] * 1.5 + 1
            file[name][...] = flat.reshape(values.shape)
        try:
            seen = not probe.verify(path)["passed"]
        except probe.ProbeError:
            seen = True
        if not seen:
            unseen.add(name.removeprefix("layers/1/"))
    assert unseen == (UNSEEN if sealed else {"ann_input"})


def test_bytes_that_were_flipped_are_seen(full: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.h5"
    shutil.copy(full, path)
    with h5py.File(path) as file:
        chunk = file["layers/1/snn_input"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        byte = raw.read(1)
        raw.seek(-1, 1)
        raw.write(bytes([byte[0] ^ 4]))
    problems = probe.verify(path)["problems"]
    assert any("snn_input of layer 1 cannot be read" in one for one in problems)


def test_on_the_command_line(run: Run, full: Path, tmp_path: Path) -> None:
    assert ": whole, " in ok(run("verify", full))
    found = json.loads(ok(run("verify", full, "--json")))
    assert (found["schema"], found["passed"]) == ("probe-verify/1", True)
    path = tmp_path / "r.h5"
    shutil.copy(full, path)
    with editing(path) as file:
        file["layers/0/statistics/spikes_at"][0] += 1
    result = run("verify", path)
    assert result.exit_code == 1
    assert "spikes of all neurons do not add up" in result.stdout
    refused(run("verify", tmp_path / "none.h5"), "no file")
