"""docs/recording.md against recordings of every kind: each name, shape and type, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import probe
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = (ROOT / "docs" / "recording.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (\w+) \| (.*) \|$", re.MULTILINE)
PREFIXES = {"/samples": "samples/", "/output": "output/", "/layers/index": "layers/N/", "statistics":
            "layers/N/statistics/"}  # fmt: skip
DESCRIBED = {
    prefix + name: (shape.replace("\\", ""), kind, preset, meaning)
    for heading, prefix in PREFIXES.items() for name, shape, kind, preset, meaning in ROW.findall(SECTIONS[heading])
}  # fmt: skip
"""Path, with N for a layer's index -> shape, type, preset and meaning."""
PRESETS = ("stats", "counts", "spikes", "full")


def names_in(heading: str) -> set[str]:
    """The first column of a section's first table."""
    table = re.split(r"\n\n", SECTIONS[heading].strip().split("| --- |", 1)[1])[0]
    return set(re.findall(r"^\| `(\w+)` ", table, re.MULTILINE))


ATTRIBUTES = {"": names_in("/"), "layers/N": names_in("/layers/index"), "layers/N/statistics": {"sums_are"}} | {
    path: set(re.findall(r"attributes? `(\w+)`", meaning)) for path, (_, _, _, meaning) in DESCRIBED.items()
}
ATTRIBUTES["layers/N/ann_output"] = {"encoding"}
FACTS = names_in("/facts")


@pytest.fixture(scope="module")
def files(recordings: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One recording of each kind."""
    import snntorch
    from spikingjelly.activation_based import neuron

    folder = tmp_path_factory.mktemp("kinds")
    torch.manual_seed(0)
    relu = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    leaky = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snntorch.Leaky(beta=0.5, init_hidden=True, output=True))
    node = neuron.LIFNode(step_mode="m", store_v_seq=True)
    merged = nn.Sequential(nn.Flatten(2), nn.Linear(64, 10), node)
    few = {"data": "digits", "samples": 6, "timesteps": 3, "batch_size": 3}
    made = {"full": recordings()}
    for record in PRESETS[:-1]:
        made[record] = probe.capture(output=folder / f"{record}.h5", record=record, layers=["0:2"], **few)
    made["srp"] = probe.capture(output=folder / "srp.h5", neuron="srp+negspike", layers=["0:2"], **few)
    for name, network in {"relu": relu, "snntorch": leaky, "spikingjelly": merged}.items():
        made[name] = probe.capture(network, output=folder / f"{name}.h5", **few)
    return made


def walk(file: h5py.File) -> dict[str, h5py.Group | h5py.Dataset]:
    """Every group and dataset by its path, N for the index of a layer."""
    found: dict[str, h5py.Group | h5py.Dataset] = {"": file}
    file.visititems(lambda name, item: found.__setitem__(re.sub(r"^layers/\d+", "layers/N", name), item))
    return found


def test_the_page_describes_arrays() -> None:
    assert len(DESCRIBED) > 30
    assert len(ATTRIBUTES[""]) > 25


@pytest.mark.parametrize("kind", [*PRESETS, "srp", "relu", "snntorch", "spikingjelly"])
def test_all_that_is_in_a_recording_is_on_the_page(kind: str, files: dict[str, Path]) -> None:
    with h5py.File(files[kind]) as file:
        for name, item in walk(file).items():
            assert set(item.attrs) <= ATTRIBUTES.get(name, set()), name
            if name.startswith("facts/"):
                assert name.removeprefix("facts/") in FACTS
            elif isinstance(item, h5py.Dataset):
                check(name, item, file)


def check(name: str, dataset: h5py.Dataset, file: h5py.File) -> None:
    """Shape, type and preset are what the page says of a dataset."""
    shapes, kinds, preset, _ = DESCRIBED[name]
    assert dataset.dtype.name in re.split(r", | or ", kinds), name
    assert PRESETS.index(file.attrs["record"]) >= PRESETS.index(preset), name
    layer = tuple(file[re.sub(r"^/(layers/\d+).*", r"\1", dataset.name)].attrs["shape"]) if "layers" in name else ()
    if shapes == "broadcasts":
        assert np.broadcast_shapes(dataset.shape, (1, *layer)) == (1, *layer)
        return
    # Without an ANN partner there is no t of the grid.
    grid = len(file.attrs["grid"]) if file.attrs["has_ann"] else 0
    known = {
        "sample": file.attrs["samples"], "timestep": file.attrs["timesteps"], "class": file.attrs["classes"],
        "byte": -(-int(np.prod(layer)) // 8), "grid": grid,
    }  # fmt: skip
    assert any(fits(shape, dataset.shape, known, layer) for shape in shapes.split("; ")), (name, dataset.shape)


def fits(described: str, shape: tuple[int, ...], known: dict[str, int], layer: tuple[int, ...]) -> bool:
    """A shape as the page has it, where a word that is not known stands for any size."""
    words = described.strip("()").split(", ")
    sizes: list[int | None] = []
    for word in words:
        if word == "*neuron":
            sizes.extend(layer)
        else:
            sizes.append(int(word) if word.isdigit() else known.get(word))
    return len(sizes) == len(shape) and all(one in (None, size) for one, size in zip(sizes, shape, strict=True))


def test_all_that_is_on_the_page_is_in_some_recording(files: dict[str, Path], tmp_path: Path) -> None:
    datasets: set[str] = set()
    attributes: dict[str, set[str]] = {}
    for path in files.values():
        with h5py.File(path) as file:
            for name, item in walk(file).items():
                attributes.setdefault(name, set()).update(item.attrs)
                if isinstance(item, h5py.Dataset):
                    datasets.add(name)
    assert set(DESCRIBED) - datasets == set()
    assert {name.removeprefix("facts/") for name in datasets if name.startswith("facts/")} == FACTS
    missing = {name: wanted - attributes[name] for name, wanted in ATTRIBUTES.items()}
    # Those of an index over parts, which the recordings above are too small for.
    assert missing.pop("") == {"parts", "parts_folder"}
    assert {name: left for name, left in missing.items() if left} == {}
    assert '.attrs["parts"]' in (ROOT / "probe" / "recording" / "joining.py").read_text()


def test_a_dataset_that_is_not_described_is_noticed(tmp_path: Path) -> None:
    known, layer = {"sample": 4, "timestep": 3}, (2, 5)
    assert fits("(sample, timestep, *neuron)", (4, 3, 2, 5), known, layer)
    assert not fits("(sample, *neuron)", (4, 3, 2, 5), known, layer)
    assert not fits("(sample, timestep, *neuron)", (4, 2, 2, 5), known, layer)
    assert fits("(grid of another, 7)", (9, 7), known, layer)
