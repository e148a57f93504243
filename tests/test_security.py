"""No pickle is loaded unasked, from a checkpoint, data or a recording; each is refused with one line."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import Result

from tests.editing import editing
from tests.test_cli import refused

Run = Callable[..., Result]
PACKAGE = Path(__file__).resolve().parents[1] / "probe"


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.made,)


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a pickle would make; a pickle that is loaded does make it."""
    made = tmp_path / "sprung"
    pickle.loads(pickle.dumps(Evil(made)))
    assert made.exists()
    made.unlink()
    return made


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Where the package calls `module.function`."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (name, name.replace("np.", "numpy.")):
                found.append((f"{path.relative_to(PACKAGE)}:{node.lineno}", node))
    return found


@pytest.mark.parametrize(("function", "keyword"), [("np.load", "allow_pickle"), ("torch.load", "weights_only")])
def test_every_load_says_that_nothing_is_unpickled(function: str, keyword: str) -> None:
    found = calls(function)
    assert found
    for place, call in found:
        said = {one.arg: ast.unparse(one.value) for one in call.keywords}
        # `weights_only=weights_only` is True but for --trust-checkpoint, which tests/test_checkpoints.py holds.
        assert said.get(keyword) in (("False",) if keyword == "allow_pickle" else ("True", "weights_only")), place


def test_nothing_else_unpickles() -> None:
    for name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "shelve.open", "joblib.load",
                 "eval",
                 "exec", "np.core.multiarray._reconstruct", "yaml.load", "dill.load", "dill.loads"):  # fmt: skip
        assert calls(name) == [], name


def test_pickles_in_checkpoints_are_refused(run: Run, tmp_path: Path, sprung: Path) -> None:
    evil = {"weight": torch.zeros(2), "more": Evil(sprung)}
    torch.save(evil, tmp_path / "zip.pth")
    torch.save(evil, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(evil))
    np.savez(tmp_path / "arrays.npz", weight=np.array([Evil(sprung)], object))
    (tmp_path / "net.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Linear(2, 2))\n"
    )
    for name in ("zip.pth", "old.pth", "plain.pkl", "arrays.npz"):
        line = refused(run("layers", "--model", "net.py:net", "--checkpoint", tmp_path / name, "--data", "digits"))
        assert name in line
        assert not sprung.exists()


def test_pickles_in_data_are_refused(run: Run, tmp_path: Path, sprung: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([Evil(sprung)] * 3, object), y=np.arange(3))
    np.save(tmp_path / "data.npy", np.array([Evil(sprung)], object), allow_pickle=True)
    for name in ("data.npz", "data.npy"):
        refused(run("layers", "--model", "zoo:digits", "--data", tmp_path / name))
        assert not sprung.exists()


def _opaque(file: h5py.File, raw: bytes) -> None:
    file.attrs["model"] = np.void(raw)


def _attribute_of_layer(file: h5py.File, raw: bytes) -> None:
    file["layers/1"].attrs["traits"] = np.void(raw)


def _dataset(file: h5py.File, raw: bytes) -> None:
    del file["samples/label"]
    file["samples/label"] = np.array([np.void(raw)] * 40)


def _fact(file: h5py.File, raw: bytes) -> None:
    del file["facts/law"]
    file["facts/law"] = np.void(raw)


def _references(file: h5py.File, _: bytes) -> None:
    del file["samples/label"]
    file.create_dataset("samples/label", data=np.array([file.ref] * 40, dtype=h5py.ref_dtype))


def _of_a_reference(file: h5py.File, _: bytes) -> None:
    file.attrs.create("model", file["layers/1"].ref, dtype=h5py.ref_dtype)


def _text(file: h5py.File, raw: bytes) -> None:
    file["layers/1"].attrs["traits"] = np.bytes_(raw.replace(b"\0", b" "))


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize(
    "hide",
    [_opaque, _attribute_of_layer, _dataset, _fact, _references, _of_a_reference, _text],
    ids=lambda one: one.__name__,
)  # fmt: skip
def test_pickles_and_references_in_recordings_are_refused(
    hide: Callable[[h5py.File, bytes], None], sealed: bool, run: Run, full: Path, tmp_path: Path, sprung: Path
) -> None:
    path = tmp_path / "hidden.h5"
    shutil.copy(full, path)
    unpickled = []
    sys.addaudithook(lambda event, _: unpickled.append(event) if event == "pickle.find_class" else None)
    with (editing if sealed else lambda one: h5py.File(one, "r+"))(path) as file:
        hide(file, pickle.dumps(Evil(sprung)))
    unpickled.clear()
    for command in ("accuracy", "unevenness", "layers", "verify", "diagnose"):
        line = refused(run(command, path))
        assert "hidden.h5" in line
        assert line.count("; ") >= 2
    assert unpickled == []
    assert not sprung.exists()


def test_a_pipe_and_a_device_are_no_recordings(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "zero.h5").symlink_to("/dev/zero")
    for name in ("pipe.h5", "zero.h5"):
        refused(run("accuracy", tmp_path / name), "no plain file", "expected a recording")
