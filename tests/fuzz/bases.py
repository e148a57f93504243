"""The whole recordings that are damaged: small ones, of every kind, made in a process of their own (torch is large).

python -m tests.fuzz.bases FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import h5py

NAME = "recording.h5"
PARTS = NAME + ".parts"
SMALL: dict[str, Any] = {"samples": 6, "batch_size": 3, "timesteps": 4, "layers": ["0", "-2", "-1"]}
KINDS = ("full", "stats", "srp", "relu", "parts")


def make(folder: Path) -> None:
    """A folder for each kind, with the recording in it."""
    import torch

    import probe
    from probe.session import plan
    from tests import relu_models

    torch.set_num_threads(1)
    for kind in KINDS:
        target = folder / kind
        target.mkdir(parents=True)
        os.chdir(target)
        if kind == "parts":
            plan("zoo:digits", output=NAME, **SMALL).run(part_bytes=1)
        elif kind == "relu":
            probe.capture(relu_models.relu_digits(), data="digits", output=NAME, **SMALL)
        else:
            options = {"stats": {"record": "stats"}, "srp": {"neuron": "srp"}}.get(kind, {})
            probe.capture("zoo:digits", output=NAME, **SMALL, **options)
        # The index of parts is given the seal of each, which tells parts apart that were exchanged.
        reseal(target)


def reseal(folder: Path) -> None:
    """Give a recording, with its parts, the seal that it would have if it had been written as it is now."""
    from probe.recording.seal import seal

    seals: dict[str, str] = {}
    for path in [*sorted((folder / PARTS).glob("*.h5")), folder / NAME]:
        with h5py.File(path, "r+") as file:
            if path.name == NAME and seals:
                lines = json.loads(file.attrs["parts"])
                for line in lines:
                    line["seal"] = seals[line["name"]]
                    line["bytes"] = (folder / PARTS / line["name"]).stat().st_size
                file.attrs["parts"] = json.dumps(lines)
            seals[path.name] = seal(file)
    if seals and (folder / PARTS).is_dir():
        # Closing may have changed a size.
        with h5py.File(folder / NAME, "r+") as file:
            lines = json.loads(file.attrs["parts"])
            for line in lines:
                line["bytes"] = (folder / PARTS / line["name"]).stat().st_size
            file.attrs["parts"] = json.dumps(lines)
            seal(file)


def copy(base: Path, target: Path) -> None:
    """A fresh copy to damage."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
