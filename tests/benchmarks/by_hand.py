"""What people do today: hooks that keep or write every layer's inputs and outputs, and a script that reads them back.

    python tests/benchmarks/by_hand.py READER FOLDER

prints the case table of layer 0 from what the hooks left in FOLDER; READER is one of `READERS`. Of each layer the
hooks see input and output in the ANN, and at every timestep in the SNN: `<layer>/ann_in`, `<layer>/ann_out`,
`<layer>/snn<t>_in`, `<layer>/snn<t>_out`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor, nn

    from probe.families import LayerPair, Subject

Array = npt.NDArray[Any]
CASES = ("zero_equal", "zero_over", "zero_under", "positive_equal", "positive_over", "positive_under")


# -------------------------------------------------------------------------------------------------- recording


def run_hooked(
    subject: Subject, pairs: Iterable[LayerPair], x: Tensor, timesteps: int, save: Callable[[str, Tensor], object]
) -> None:
    """Both networks once over `x`, every layer's input and output handed to `save` inside a forward hook."""
    network = "ann"

    def hook(index: int, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        save(f"{index}/{network}_in", args[0])
        save(f"{index}/{network}_out", output)

    with ExitStack() as hooks:
        for index, pair in enumerate(pairs):
            for module in (pair.ann, pair.snn):
                assert module is not None
                hooks.callback(module.register_forward_hook(partial(hook, index)).remove)
        subject.run_ann(x.clone())
        network = "snn1"
        for t, _ in enumerate(subject.run_snn(x.clone(), timesteps), start=2):
            network = f"snn{t}"
        subject.reset()


def keep(kept: dict[str, Tensor], name: str, values: Tensor) -> None:
    kept[name] = values


def save_text(folder: Path, name: str, values: Tensor) -> None:
    """Six decimals, rows of 64, as in the lab's notes."""
    np.savetxt(folder / f"{name}.txt", values.numpy().reshape(-1, 64), fmt="%.6f")


def save_torch(folder: Path, name: str, values: Tensor) -> None:
    import torch

    torch.save(values, folder / f"{name}.pt")


def save_h5py(file: Any, name: str, values: Tensor) -> None:
    """An open h5py file; contiguous float32."""
    file[name] = values.numpy()


# ---------------------------------------------------------------------------------------------------- reading


def from_loadtxt(folder: Path, name: str) -> Array:
    return np.loadtxt(folder / f"{name}.txt", dtype=np.float32)


def from_genfromtxt(folder: Path, name: str) -> Array:
    return np.genfromtxt(folder / f"{name}.txt", dtype=np.float32)


def from_lines(folder: Path, name: str) -> Array:
    """As it is written without numpy: line by line, `float` of each word."""
    with open(folder / f"{name}.txt") as file:
        return np.array([[float(word) for word in line.split()] for line in file], np.float32)


def from_torch(folder: Path, name: str) -> Array:
    import torch

    values: Array = torch.load(folder / f"{name}.pt").numpy()
    return values


def from_h5py(folder: Path, name: str) -> Array:
    import h5py

    with h5py.File(folder / "plain.h5") as file:
        values: Array = file[name][()]
    return values


READERS = {
    "loadtxt": from_loadtxt, "genfromtxt": from_genfromtxt, "lines": from_lines, "torch": from_torch, "h5py": from_h5py,
}  # fmt: skip


def case_table(read: Callable[[str], Array], threshold: float, levels: int, timesteps: int) -> dict[str, int]:
    """Layer 0's neurons by case: the sign of a, and how φ compares with it, as whole numbers k·T and n·L."""
    k = np.rint(read("0/ann_out") * (levels / threshold)).astype(np.int32)
    n = np.zeros_like(k)
    for t in range(1, timesteps + 1):
        n += np.rint(read(f"0/snn{t}_out") / threshold).astype(np.int32)
    a, phi = k * timesteps, n * levels
    zero = k == 0
    counts = [int(np.count_nonzero(rows & how)) for rows in (zero, ~zero) for how in (phi == a, phi > a, phi < a)]
    return dict(zip(CASES, counts, strict=True))


def main() -> None:
    reader, folder = sys.argv[1], Path(sys.argv[2])
    about = json.loads((folder.with_suffix(".json")).read_text())
    print(json.dumps(case_table(partial(READERS[reader], folder), **about)))


if __name__ == "__main__":
    main()
