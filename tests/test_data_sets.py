"""Each kind of data set against files written here: what is read, in which order, and what is said of bad input."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from probe import data as data_sets
from probe import userfile, vision
from probe.data import CIFAR10_MEAN, CIFAR10_STD, DATA_SETS, NORMALIZATIONS, DataSet, open_data
from probe.data.images import centre
from probe.data.user import names_user_code
from probe.errors import ProbeError

Floats = npt.NDArray[np.float32]


def everything(data: DataSet) -> Floats:
    return data.load(np.arange(len(data)))


def refused(name: str, split: str = "test", **options: Any) -> str:
    """What is said of data that cannot be opened or, where opening it shows nothing, loaded."""
    with pytest.raises(ProbeError) as error:
        everything(open_data(name, split, **options))
    assert "\n" not in str(error.value)
    return str(error.value)


# --------------------------------------------------------------------------------------------------- names

KNOWN = (
    "digits, cifar10, cifar100, mnist, fashion-mnist, cifar10-jpeg:PATH, folder:PATH, npz:PATH, "
    "FILE.py:CALLABLE, package.module:CALLABLE"
)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("svhn", "pass --data NAME"),
        ("CIFAR10", "perhaps cifar10 or cifar100"),
        ("FashionMNIST", "perhaps fashion-mnist"),
        ("fodler:images", "perhaps folder"),
        ("", "pass --data NAME"),
    ],
)
def test_unknown_names_list_all_and_suggest_near_ones(name: str, hint: str) -> None:
    assert refused(name) == f"unknown data {name!r}; expected one of {KNOWN}; {hint}"


def test_every_kind_is_listed_and_has_a_normalisation() -> None:
    assert [name.removesuffix(":PATH") for name in KNOWN.split(", ")[:-2]] == list(DATA_SETS)
    assert {kind.normalize for kind in DATA_SETS.values()} <= set(NORMALIZATIONS)


def test_options_that_do_not_fit() -> None:
    assert refused("digits:here") == "data 'digits:here' names a file; expected digits; pass --data digits"
    assert refused("folder:") == "data 'folder:' names no folder; expected folder:PATH"
    assert refused("npz") == "data 'npz' names no file; expected npz:PATH"
    split = "unknown split 'val' of {}; expected train or test; pass --split SPLIT"
    assert refused("mnist", "val") == split.format("mnist")
    assert refused("mine.py:make", "val") == split.format("mine.py:make")
    no_size = "image size 8 for digits; expected folder:PATH; leave out --image-size"
    assert refused("digits", image_size=8) == no_size
    assert refused("folder:x", image_size=0) == "image size 0; expected at least 1 pixel; pass --image-size N"


# ------------------------------------------------------------------------------------------- normalisation


def save_npz(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "tiny.npz", **arrays)
    return f"npz:{folder / 'tiny.npz'}"


@pytest.fixture
def colours(tmp_path: Path) -> str:
    """Two images of one row and two pixels in three channels: 0, 51, ... are 0, 1/5, ... of 255."""
    x = np.array([[[[0, 51]], [[102, 153]], [[204, 255]]], [[[255, 0]], [[255, 0]], [[255, 0]]]], np.uint8)
    return save_npz(tmp_path, x=x, y=np.array([0, 1]))


FIFTHS = np.array([[[[0, 0.2]], [[0.4, 0.6]], [[0.8, 1]]], [[[1, 0]], [[1, 0]], [[1, 0]]]])


@pytest.mark.parametrize("name", [*NORMALIZATIONS, "0.1,0.2,0.3/0.5,0.25,2", "0.1/2", "0.1,0.2,0.3/4", "1/2,3,4"])
def test_each_channel_is_normalised_by_its_own_numbers(colours: str, name: str) -> None:
    images = everything(open_data(colours, normalize=name))
    assert (images.shape, images.dtype) == ((2, 3, 1, 2), np.float32)
    if name in NORMALIZATIONS:
        mean, std = NORMALIZATIONS[name]
    else:
        mean, std = (tuple(map(float, half.split(","))) for half in name.split("/"))
    for channel in range(3):
        of_mean, of_std = (numbers[channel % len(numbers)] for numbers in (mean, std))
        assert np.allclose(images[:, channel], (FIFTHS[:, channel] - of_mean) / of_std, rtol=0, atol=1e-5)


def test_the_named_normalisations() -> None:
    assert NORMALIZATIONS["cifar10"] == (CIFAR10_MEAN, CIFAR10_STD)
    assert NORMALIZATIONS["imagenet"] == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert NORMALIZATIONS["mnist"] == ((0.1307,), (0.3081,))
    assert NORMALIZATIONS["none"] == NORMALIZATIONS["unit"] == ((0,), (1,))


def test_digits_are_sixteenths_before_normalisation() -> None:
    default, raw = everything(open_data("digits")), everything(open_data("digits", normalize="none"))
    # Exact: pixel/16, and (pixel/16 - 1/2)/(1/2) = (pixel - 8)/8.
    assert set(np.unique(raw * 16).tolist()) == set(range(17))
    assert (default == (raw * 16 - 8) / 8).all()
    assert (everything(open_data("digits", normalize="half")) == default).all()
    assert (everything(open_data("digits", normalize="unit")) == raw).all()


def test_unit_requires_values_between_0_and_1(tmp_path: Path) -> None:
    inside = save_npz(tmp_path, x=np.array([[0.0], [1.0]]), y=[0, 0])
    assert everything(open_data(inside, normalize="unit")).tolist() == [[0], [1]]
    for bad, shown in ((255.0, "0 to 255"), (-0.5, "-0.5 to 0")):
        name = save_npz(tmp_path, x=np.array([[0.0], [bad]]), y=[0, 0])
        expected = "expected 0 to 1 for normalisation 'unit'; pass --normalize none or --normalize m1,m2,m3/s1,s2,s3"
        assert refused(name, normalize="unit") == f"{name} has values from {shown}; {expected}"
        assert everything(open_data(name)).tolist() == [[0], [bad]]


HOW = "pass --normalize NAME or --normalize m1,m2,m3/s1,s2,s3"


def test_normalisation_for_another_number_of_channels(colours: str) -> None:
    assert (
        refused("digits", normalize="imagenet")
        == f"digits has 1 channel and normalisation 'imagenet' is for 3; expected one mean and std, or 1 of each; {HOW}"
    )
    assert (
        refused(colours, normalize="0,0/1") == f"{colours} has 3 channels and normalisation '0,0/1' is for 2; "
        f"expected one mean and std, or 3 of each; {HOW}"
    )


@pytest.mark.parametrize("text", ["", "0.5", "0.5/", "/1", "a/1", "0.5/1/1", "0.1,/1"])
def test_unparsable_normalisation(text: str) -> None:
    listed = "none, unit, half, cifar10, cifar100, mnist, fashion-mnist, imagenet, or numbers m1,m2,m3/s1,s2,s3"
    assert refused("digits", normalize=text) == f"normalisation {text!r}; expected one of {listed}; {HOW}"


def test_numbers_that_cannot_normalise() -> None:
    assert refused("digits", normalize="imagnet").endswith("; perhaps --normalize imagenet")
    for text in ("0/0", "0/-1", "0,0,0/1,0,1", "0/1e-50"):
        assert refused("digits", normalize=text) == f"normalisation {text!r}; expected every std above 0; {HOW}"
    for text in ("nan/1", "inf/1", "0/nan", "1e50/1"):
        assert refused("digits", normalize=text) == f"normalisation {text!r}; expected finite numbers; {HOW}"
    wanted = "expected as many stds as means, and not 3 and 2"
    assert refused("digits", normalize="0,0,0/1,1") == f"normalisation '0,0,0/1,1'; {wanted}; {HOW}"


# ------------------------------------------------------------------------------------ mnist, fashion-mnist

PIXELS = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2) * 10
LABELS = np.array([3, 0, 9, 3], np.uint8)


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(
    folder: Path, *, prefix: str = "t10k", packed: bool = True, images: bytes = idx(PIXELS), labels: bytes = idx(LABELS)
) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, content in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        file = folder / f"{prefix}-{stem}{'.gz' if packed else ''}"
        file.write_bytes(gzip.compress(content) if packed else content)
        written.append(file)
    return written[0], written[1]


@pytest.mark.parametrize(("name", "below"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_idx_files_of_one_split(tmp_path: Path, name: str, below: str, packed: bool, direct: bool) -> None:
    for split, prefix in (("train", "train"), ("test", "t10k")):
        root = tmp_path / split
        write_idx(root if direct else root / below, prefix=prefix, packed=packed)
        data = open_data(name, split, root=root, normalize="none")
        assert (data.name, data.labels.tolist(), data.labels.dtype) == (name, [3, 0, 9, 3], np.int64)
        assert (everything(data) == PIXELS[:, None].astype(np.float32) / 255).all()
        assert (data.load(np.array([2, 0, 2])) == everything(data)[[2, 0, 2]]).all()
        mean, std = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}[name]
        normalised = everything(open_data(name, split, root=root))
        assert np.allclose(normalised, (PIXELS[:, None] / 255 - mean) / std, rtol=0, atol=1e-5)
        other = "test" if split == "train" else "train"
        assert f"no {name} ({other}) in {root}" in refused(name, other, root=root)
    assert open_data("mnist" if name == "mnist" else name, root=root).classes[9] in ("9", "Ankle boot")


def test_torchvision_folder_comes_before_the_files_beside_it(tmp_path: Path) -> None:
    write_idx(tmp_path, labels=idx(np.array([1, 1, 1, 1], np.uint8)))
    write_idx(tmp_path / "MNIST" / "raw")
    assert open_data("mnist", root=tmp_path).labels.tolist() == [3, 0, 9, 3]


def test_the_real_mnist(shared_data: Path) -> None:
    """The official 10,000 test images: known labels, known counts, and a mean near that of the training images."""
    if not (shared_data / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no t10k-images-idx3-ubyte.gz in {shared_data}")
    data = open_data("mnist", root=shared_data)
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(data.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    images = everything(data)
    assert images.shape == (10_000, 1, 28, 28)
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02
    holds = f"{shared_data / 't10k-labels-idx1-ubyte.gz'} holds the labels of mnist (test)"
    expected = "expected fashion-mnist (test); pass --data-root DIR or --download"
    assert refused("fashion-mnist", root=shared_data) == f"{holds}; {expected}"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_files_of_the_other_data_set_of_that_name(tmp_path: Path, name: str) -> None:
    firsts = {
        "mnist": ([5, 0, 4, 1, 9, 2, 1, 3, 1, 4], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]),
        "fashion-mnist": ([9, 0, 0, 3, 0, 2, 7, 2, 5, 5], [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]),
    }
    other = "mnist" if name == "fashion-mnist" else "fashion-mnist"
    for split, labels in zip(("train", "test"), firsts[name], strict=True):
        images = np.zeros((10, 2, 2), np.uint8)
        write_idx(tmp_path, images=idx(images), labels=idx(np.array(labels, np.uint8)), prefix="t10k")
        message = refused(other, root=tmp_path)
        assert f"holds the labels of {name} ({split}); expected {other} (test)" in message
        if split == "test":
            assert open_data(name, root=tmp_path).labels.tolist() == labels


FETCH = "pass --data-root DIR or --download"
AGAIN = "replace it, or remove it and pass --download"


def test_missing_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, or each with .gz"
    message = f"no mnist (test) in {{0}}; expected {files}, in it or in {{0}}/MNIST/raw; {FETCH}"
    assert refused("mnist", root=tmp_path) == message.format(tmp_path)
    # The default is ./data; images without labels are not enough.
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data")[1].unlink()
    assert refused("mnist") == message.format("data")


def damaged_images(how: str) -> tuple[bytes, str]:
    """The bytes of a damaged file of images and what is said of them."""
    whole = idx(PIXELS)
    of_24 = "; expected 4 x 3 x 2 as its head says, and at least 1"
    head = "expected 00000803, an IDX file of bytes in 3 dimensions"
    return {
        "one byte short": (whole[:-1], f"has 23 bytes of data{of_24}"),
        "one byte more": (whole + b"0", f"has 25 bytes of data{of_24}"),
        "labels": (idx(LABELS), f"starts with 00000801; {head}"),
        "cut in the head": (whole[:9], f"starts with 00000803; {head}"),
        "empty": (b"", f"starts with nothing; {head}"),
        "of floats": (b"\0\0\x0d\3" + whole[4:], f"starts with 00000d03; {head}"),
        "no images": (idx(PIXELS[:0]), "has 0 bytes of data; expected 0 x 3 x 2 as its head says, and at least 1"),
        "cut gzip": (gzip.compress(whole)[:-12], "cannot be read (Compressed file ended before"),
        "changed gzip": (gzip.compress(whole)[:-8] + bytes(8), "cannot be read (CRC check failed"),
        "no gzip inside": (b"\x1f\x8b" + bytes(20), "cannot be read (Unknown compression method"),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "one byte short",
        "one byte more",
        "labels",
        "cut in the head",
        "empty",
        "of floats",
        "no images",
        "cut gzip",
        "changed gzip",
        "no gzip inside",
    ],
)
def test_damaged_idx_files(tmp_path: Path, how: str) -> None:
    content, said = damaged_images(how)
    images, _ = write_idx(tmp_path, packed=False, images=content)
    message = refused("mnist", root=tmp_path)
    assert message.startswith(f"{images} {said}")
    assert message.endswith(f"; {AGAIN}")


def test_idx_labels_that_do_not_fit(tmp_path: Path) -> None:
    images, labels = write_idx(tmp_path, labels=idx(LABELS[:3]))
    said = f"{images} has 4 images and {labels.name} 3 labels; expected one label an image; {FETCH}"
    assert refused("mnist", root=tmp_path) == said
    write_idx(tmp_path, labels=idx(np.array([0, 10, 0, 0], np.uint8)))
    said = f"{labels} has label 10; expected labels 0 to 9, one for each class name"
    assert refused("mnist", root=tmp_path) == said


# -------------------------------------------------------------------------------------- cifar10, cifar100


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def pictures(first: int) -> npt.NDArray[np.uint8]:
    """Two images, (sample, channel, height, width), no two bytes of a row alike."""
    return (np.arange(2 * 3072) % 251 + first).astype(np.uint8).reshape(2, 3, 32, 32)


@pytest.fixture
def tiny_cifar(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Write a CIFAR of two images a split in torchvision's layout, and let torchvision expect these checksums."""

    def write(name: str, root: Path) -> None:
        fine = name == "CIFAR100"
        maker = getattr(vision.torchvision().datasets, name)
        folder = root / maker.base_folder
        folder.mkdir(parents=True)
        batches = {"train": "tiny_train", "test": "tiny_test"}
        for split, file in batches.items():
            labels = [1, 0] if split == "train" else [0, 1]
            raw = pictures(len(split)).reshape(2, -1)
            content = pickle.dumps({"data": raw, "fine_labels" if fine else "labels": labels})
            (folder / file).write_bytes(content)
            monkeypatch.setattr(maker, f"{split}_list", [[file, md5(content)]])
        key = "fine_label_names" if fine else "label_names"
        content = pickle.dumps({key: ["airplane", "automobile"]})
        (folder / "tiny.meta").write_bytes(content)
        monkeypatch.setattr(maker, "meta", {"filename": "tiny.meta", "key": key, "md5": md5(content)})

    return write


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_torchvision_stores_it(tmp_path: Path, tiny_cifar: Callable[[str, Path], None], name: str) -> None:
    tiny_cifar(name.upper(), tmp_path)
    for split, labels in (("train", [1, 0]), ("test", [0, 1])):
        data = open_data(name, split, root=tmp_path, normalize="none")
        assert (data.name, data.classes) == (name, ("airplane", "automobile"))
        assert (data.labels.tolist(), data.labels.dtype) == (labels, np.int64)
        assert (data.load(np.array([1, 0])) == pictures(len(split))[::-1].astype(np.float32) / 255).all()
    mean, std = (np.array(numbers)[:, None, None] for numbers in NORMALIZATIONS[name])
    images = everything(open_data(name, root=tmp_path))
    assert images.flags.c_contiguous
    assert np.allclose(images, (pictures(4) / 255 - mean) / std, rtol=0, atol=1e-5)


def test_missing_and_damaged_cifar(tmp_path: Path, tiny_cifar: Callable[[str, Path], None]) -> None:
    expected = f"expected torchvision's {tmp_path / 'cifar-10-batches-py'}; {FETCH}"
    said = f"no cifar10 in {tmp_path}, or not all of it; {expected}"
    assert refused("cifar10", root=tmp_path) == said
    tiny_cifar("CIFAR10", tmp_path)
    open_data("cifar10", root=tmp_path)
    (tmp_path / "cifar-10-batches-py" / "tiny_test").write_bytes(b"damaged")
    assert refused("cifar10", root=tmp_path) == said


# ----------------------------------------------------------------------------------------------- downloads


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []

    def nothing_there(request: Any, *_: Any, **__: Any) -> None:
        asked.append(request)
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", nothing_there)
    assert not asked
    message = refused(name, root=tmp_path, download=True)
    assert asked
    assert message.startswith(f"{name} cannot be downloaded to {tmp_path} (")
    assert "Name or service not known" in message
    assert message.endswith(
        "; expected a connection, and a folder that can be written to; pass --data-root DIR with a folder that has it"
    )
    # Unasked, nothing is fetched.
    asked.clear()
    assert f"no {name}" in refused(name, root=tmp_path)
    assert not asked


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where the folder `served` is to be had over HTTP, on this machine alone."""
    (tmp_path / "served").mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served"))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_downloaded_mnist(tmp_path: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a mirror; then without it, and never where the files are there already."""
    mirror, root = tmp_path / "served", tmp_path / "root"
    files = [*write_idx(mirror, prefix="train"), *write_idx(mirror)]
    maker = vision.torchvision().datasets.MNIST
    monkeypatch.setattr(maker, "mirrors", [served])
    monkeypatch.setattr(maker, "resources", [(file.name, md5(file.read_bytes())) for file in files])
    assert open_data("mnist", root=root, download=True).labels.tolist() == [3, 0, 9, 3]
    for file in files:
        file.unlink()
    for download in (False, True):
        assert (everything(open_data("mnist", "train", root=root, download=download, normalize="unit")) <= 1).all()
    alone = tmp_path / "alone"
    write_idx(alone)
    assert len(open_data("mnist", root=alone, download=True)) == 4


def test_downloaded_cifar(
    tmp_path: Path, served: str, tiny_cifar: Callable[[str, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_cifar("CIFAR10", tmp_path / "made")
    maker = vision.torchvision().datasets.CIFAR10
    archive = tmp_path / "served" / maker.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / maker.base_folder, maker.base_folder)
    monkeypatch.setattr(maker, "url", f"{served}{archive.name}")
    monkeypatch.setattr(maker, "tgz_md5", md5(archive.read_bytes()))
    root = tmp_path / "root"
    assert open_data("cifar10", root=root, download=True).labels.tolist() == [0, 1]
    assert (
        everything(open_data("cifar10", root=root)) == everything(open_data("cifar10", root=tmp_path / "made"))
    ).all()


# -------------------------------------------------------------------------------------------------- folder


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def put(image: Image.Image, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file


def as_values(image: Image.Image) -> Floats:
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255


def test_folder_of_class_folders(tmp_path: Path) -> None:
    """Classes sorted by name, images by path at any depth; grey and transparent images become RGB."""
    images = [noise(4, 3, seed) for seed in range(5)]
    put(images[3], tmp_path / "frog" / "b.png")
    put(images[2].convert("L"), tmp_path / "frog" / "A.PNG")
    put(images[4].convert("RGBA"), tmp_path / "frog" / "deeper" / "a.png")
    put(images[1], tmp_path / "Dog" / "2.png")
    put(images[0], tmp_path / "Dog" / "10.bmp")
    (tmp_path / "frog" / "notes.txt").write_text("no image")
    put(images[0], tmp_path / ".hidden" / "a.png")
    put(images[0], tmp_path / "frog" / ".a.png")
    put(images[0], tmp_path / "loose.png")
    name = f"folder:{tmp_path}"
    data = open_data(name, normalize="none")
    assert (data.name, data.classes, data.labels.tolist()) == (name, ("Dog", "frog"), [0, 0, 1, 1, 1])
    assert data.labels.dtype == np.int64
    expected = [images[0], images[1], images[2].convert("L").convert("RGB"), images[3], images[4]]
    loaded = everything(data)
    assert (loaded == np.stack([as_values(image) for image in expected])).all()
    assert (loaded.shape, loaded.dtype, loaded.flags.c_contiguous) == ((5, 3, 3, 4), np.float32, True)
    assert (data.load(np.array([4, 1, 1])) == loaded[[4, 1, 1]]).all()
    mean, std = (np.array(numbers)[:, None, None] for numbers in NORMALIZATIONS["imagenet"])
    assert np.allclose(everything(open_data(name)), (loaded - mean) / std, rtol=0, atol=1e-5)


def write_split(root: Path, split: str, seed: int) -> None:
    put(noise(2, 2, seed), root / split / "cat" / "0.png")


@pytest.mark.parametrize(
    ("folders", "split", "taken"),
    [
        (["train", "test"], "test", "test"),
        (["train", "test"], "train", "train"),
        (["train", "val"], "test", "val"),
        (["train", "val", "test"], "test", "test"),
        (["."], "test", "."),
        (["."], "train", "."),
        (["val"], "test", "val"),
    ],
)
def test_folder_of_a_split(tmp_path: Path, folders: list[str], split: str, taken: str) -> None:
    for seed, folder in enumerate(folders):
        write_split(tmp_path, folder, seed)
    data = open_data(f"folder:{tmp_path}", split, normalize="none")
    assert data.classes == ("cat",)
    assert (everything(data)[0] == as_values(noise(2, 2, folders.index(taken)))).all()


def test_test_folder_without_classes_gives_way_to_val(tmp_path: Path) -> None:
    """As ImageNet has it: the images of `test` have no labels."""
    put(noise(2, 2), tmp_path / "test" / "unlabelled.png")
    write_split(tmp_path, "val", 1)
    assert open_data(f"folder:{tmp_path}").classes == ("cat",)


def test_folder_without_the_split(tmp_path: Path) -> None:
    write_split(tmp_path, "train", 0)
    assert refused(f"folder:{tmp_path}") == f"{tmp_path} has train; expected test or val; pass --split train"
    (tmp_path / "train").rename(tmp_path / "val")
    assert refused(f"folder:{tmp_path}", "train") == f"{tmp_path} has val; expected train; pass --split test"


def test_folders_without_images(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    said = "expected a folder of class folders; pass folder:PATH"
    assert refused(f"folder:{nowhere}") == f"no folder {nowhere}; {said}"
    file = put(noise(2, 2), tmp_path / "flat" / "a.png")
    assert refused(f"folder:{file}") == f"no folder {file}; {said}"
    said = "has no class folders; expected one folder of images for each class"
    assert refused(f"folder:{file.parent}") == f"{file.parent} {said}"
    put(noise(2, 2), tmp_path / "classes" / "cat" / "a.png")
    empty = tmp_path / "classes" / "dog"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    message = refused(f"folder:{tmp_path / 'classes'}")
    assert message.startswith(f"{empty} has no images; expected files in .jpg, .jpeg, .png")
    assert message.endswith("; add some or remove the folder")


def test_images_of_different_sizes(tmp_path: Path) -> None:
    put(noise(4, 3), tmp_path / "a" / "0.png")
    odd = put(noise(3, 4), tmp_path / "b" / "0.png")
    put(noise(9, 9), tmp_path / "b" / "1.png")
    name = f"folder:{tmp_path}"
    said = "has 3x4 pixels; expected 4x3 as the first image; pass --image-size N to resize and crop all"
    # Said when it is opened, before anything is run.
    with pytest.raises(ProbeError) as error:
        open_data(name)
    assert str(error.value) == f"{odd} {said}"
    assert everything(open_data(name, image_size=2)).shape == (3, 3, 2, 2)
    # One that changes afterwards is not mistaken for one of the right size.
    put(noise(4, 3), odd)
    (tmp_path / "b" / "1.png").unlink()
    data = open_data(name)
    put(noise(3, 4), odd)
    with pytest.raises(ProbeError) as error:
        everything(data)
    assert str(error.value) == f"{odd} {said}"


SIZES = st.integers(1, 60)


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(SIZES, SIZES, st.integers(1, 40))
def test_resized_and_cropped_as_torchvision_does(width: int, height: int, size: int) -> None:
    transforms = vision.torchvision().transforms
    both = transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)])
    image = noise(width, height)
    assert (np.asarray(centre(image, size)) == np.asarray(both(image))).all()


def test_image_size_keeps_the_middle(tmp_path: Path) -> None:
    """Resized to 8 rows and 16 columns for N = 7, as 7*256/224 = 8: of a left and a right half 3 and 4 columns stay."""
    image = Image.new("RGB", (16, 8), (255, 0, 0))
    image.paste((0, 0, 255), (8, 0, 16, 8))
    put(image, tmp_path / "cat" / "0.png")
    images = everything(open_data(f"folder:{tmp_path}", image_size=7, normalize="none"))
    # (16 - 7)/2 = 4.5, rounded to the even 4: columns 4 to 10, of which 4 to 7 are red.
    assert images[0, :, 0].tolist() == [[1] * 4 + [0] * 3, [0] * 7, [0] * 4 + [1] * 3]


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("how", ["text", "cut short", "empty"])
def test_unreadable_image(tmp_path: Path, size: int | None, how: str) -> None:
    put(noise(16, 16), tmp_path / "cat" / "0.png")
    bad = put(noise(16, 16), tmp_path / "cat" / "1.png")
    whole = bad.read_bytes()
    bad.write_bytes({"text": b"no image", "cut short": whole[: len(whole) // 2], "empty": b""}[how])
    message = refused(f"folder:{tmp_path}", image_size=size)
    assert message.startswith(f"{bad} cannot be decoded (")
    assert message.endswith("; expected an image that PIL reads; replace or remove it")


def test_images_are_decoded_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(6):
        put(noise(2, 2, place), tmp_path / "cat" / f"{place}.png")
    decoded: list[str] = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", _decoding(decoded))
    data = open_data(f"folder:{tmp_path}")
    assert decoded == []
    data.load(np.array([4, 1]))
    assert decoded == ["4.png", "1.png"]


def _decoding(seen: list[str]) -> Callable[..., Any]:
    """PIL's decoder, which tells in `seen` the files it decodes."""
    from PIL.ImageFile import ImageFile

    whole = ImageFile.load

    def load(image: Any) -> Any:
        name = Path(image.filename).name
        if name not in seen:
            seen.append(name)
        return whole(image)

    return load


# ----------------------------------------------------------------------------------------------------- npz


def test_arrays_are_used_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for x, expected in (
        (pixels, pixels.astype(np.float32) / 255),
        (np.asfortranarray(pixels), pixels.astype(np.float32) / 255),
        (pixels - 7.5, pixels - np.float32(7.5)),
        (pixels.astype(np.float16), pixels),
        (pixels % 2 == 1, pixels % 2),
        (np.asfortranarray(pixels * 2.0), pixels * 2),
        (pixels.astype(">f4"), pixels),
    ):
        name = save_npz(tmp_path, x=x, y=np.array([2, 0], np.uint8))
        data = open_data(name)
        assert (data.name, data.labels.tolist(), data.classes) == (name, [2, 0], ("0", "1", "2"))
        images = everything(data)
        assert (images.dtype, images.flags.c_contiguous, data.labels.dtype) == (np.float32, True, np.int64)
        assert (images == expected).all()
        images[:] = 9
        assert (data.load(np.array([1, 0])) == expected[::-1]).all()


def test_images_are_not_turned_by_a_guess(tmp_path: Path) -> None:
    name = save_npz(tmp_path, x=np.zeros((2, 5, 4, 3), np.uint8), y=[0, 1])
    assert everything(open_data(name)).shape == (2, 5, 4, 3)


def test_arrays_of_a_split_come_before_those_for_any(tmp_path: Path) -> None:
    x, y = np.zeros((2, 1)), np.array([0, 1])
    both = save_npz(tmp_path, x_train=x + 1, y_train=y, x_test=x + 2, y_test=y[::-1], x=x, y=y)
    assert everything(open_data(both, "train"))[0, 0] == 1
    assert everything(open_data(both))[0, 0] == 2
    assert open_data(both).labels.tolist() == [1, 0]
    any_split = save_npz(tmp_path, x=x + 3, y=y, x_test=x)
    for split in ("train", "test"):
        assert everything(open_data(any_split, split))[0, 0] == 3
    named = save_npz(tmp_path, x=x, y=y, classes=np.array(["cat", "dog", "frog"]))
    assert open_data(named).classes == ("cat", "dog", "frog")


GOOD: dict[str, Any] = {"x": np.zeros((3, 2)), "y": np.array([0, 1, 1])}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.array([[0.0], [np.nan], [1]])}, "sample 1 holds NaN or infinity; expected finite float32 numbers"),
        ({"x": np.array([[0.0], [0], [-np.inf]])}, "sample 2 holds NaN or infinity"),
        ({"x": np.array([[0.0], [0], [1e39]])}, "sample 2 holds NaN or infinity"),
        (
            {"x": np.zeros((3, 2), int)},
            "samples of type int64; expected uint8 pixels or floating-point numbers; convert",
        ),
        ({"x": np.zeros((3, 2), complex)}, "samples of type complex128; expected uint8"),
        ({"x": np.zeros(3)}, "x of shape (3,); expected (sample, ...) with at least one sample"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, "x of shape (0, 2); expected (sample, ...) with at least"),
        ({"y": np.array([0, 1])}, "3 samples and 2 labels; expected one label a sample"),
        ({"y": np.zeros((3, 1), int)}, "labels of shape (3, 1), int64; expected whole numbers, shape (sample,)"),
        ({"y": np.zeros(3)}, "labels of shape (3,), float64; expected whole numbers"),
        ({"y": np.array([True, False, True])}, "labels of shape (3,), bool; expected whole numbers"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    everything(open_data(save_npz(tmp_path, **GOOD)))
    name = save_npz(tmp_path, **{**GOOD, **arrays})
    assert refused(name).startswith(f"{name}: {said}")


@pytest.mark.parametrize(
    ("label", "classes", "said"),
    [
        (-1, None, "label -1; expected labels 0 to 99999"),
        (100_000, None, "label 100000; expected labels 0 to 99999"),
        (2, ["cat", "dog"], "label 2; expected labels 0 to 1, one for each class name"),
        (-1, ["cat", "dog"], "label -1; expected labels 0 to 1, one for each class name"),
    ],
)
def test_labels_out_of_range(tmp_path: Path, label: int, classes: list[str] | None, said: str) -> None:
    arrays = {**GOOD, "y": np.array([0, label, 1])}
    name = save_npz(tmp_path, **arrays, **({"classes": np.array(classes)} if classes else {}))
    assert refused(name) == f"{name} has {said}"


def test_a_late_nan_is_found(tmp_path: Path) -> None:
    """Samples are checked 1024 at a time: the number said is that in the data set."""
    x = np.zeros((2500, 1), np.float32)
    x[2100] = np.nan
    name = save_npz(tmp_path, x=x, y=np.zeros(2500, int))
    assert f"{name}: sample 2100 holds" in refused(name)


def test_archives_without_the_arrays(tmp_path: Path) -> None:
    file = tmp_path / "tiny.npz"
    name = save_npz(tmp_path, x_train=GOOD["x"], y_train=GOOD["y"], x=GOOD["x"])
    expected = "expected x and y, or x_test and y_test"
    assert refused(name) == f"{file} has x, x_train, y_train; {expected}; pass --split train"
    assert refused(save_npz(tmp_path, x=GOOD["x"])) == f"{file} has x; {expected}; numpy.savez(PATH, x=x, y=y)"
    name = save_npz(tmp_path, **GOOD, classes=np.array([["a", "b"]]))
    assert refused(name) == f"{file}: classes of shape (1, 2); expected names, shape (class,)"
    nowhere = tmp_path / "nowhere.npz"
    assert refused(f"npz:{nowhere}") == f"no file {nowhere}; expected an archive for npz:{nowhere}; pass npz:PATH"


class Trap:
    """Unpickled, it would write a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = np.empty(3, object)
    trap[:] = [Trap(sprung)] * 3
    for key in ("x", "y", "classes"):
        name = save_npz(tmp_path, **{**GOOD, key: trap})
        message = refused(name)
        assert "tiny.npz cannot be read (Object arrays cannot be loaded" in message
        assert message.endswith("expected an .npz archive with x and y, or x_test and y_test")
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


@settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(st.integers(0, 10_000), st.integers(1, 255), st.booleans())
def test_any_changed_byte_is_refused_or_harmless(tmp_path_factory: Any, at: int, change: int, cut: bool) -> None:
    folder = tmp_path_factory.mktemp("npz")
    np.savez_compressed(folder / "tiny.npz", **GOOD)
    whole = (folder / "tiny.npz").read_bytes()
    at %= len(whole)
    rest = b"" if cut else whole[at + 1 :]
    (folder / "tiny.npz").write_bytes(whole[:at] + bytes([whole[at] ^ change]) + rest)
    try:
        images = everything(open_data(f"npz:{folder / 'tiny.npz'}"))
    except ProbeError:
        return
    assert (images == GOOD["x"]).all()


# ------------------------------------------------------------------------------------------- a user's own


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write the user's file; gives the name of its function `make`."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(text: str) -> str:
        file = tmp_path / "mine.py"
        file.write_text(text)
        return f"{file}:make"

    return write


@pytest.fixture
def returning(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """A name of user code whose function returns the given thing."""

    def name(given: Any) -> str:
        monkeypatch.setattr(userfile, "resolve", lambda spec: lambda: given)
        return "mine.py:make"

    return name


@pytest.mark.parametrize(
    ("name", "is_code"),
    [
        ("mine.py:make", True),
        ("/some folder/mine.py:a.b", True),
        ("with:colon/mine.py:make", True),
        ("package.module:make", True),
        ("my_mnist:make", True),
        ("mine.py", True),
        ("mine.py:", True),
        ("mine", False),
        ("some/folder:make", False),
        ("mine:some/file", False),
        (":make", False),
        ("mine:", False),
    ],
)
def test_names_of_user_code(name: str, is_code: bool) -> None:
    assert names_user_code(name) == is_code


def test_function_in_a_file(user: Callable[[str], str]) -> None:
    name = user(
        "import numpy as np\n"
        "def make(split='train'):\n"
        "    return np.full((2, 1, 2, 2), {'train': 1.0, 'test': 2.0}[split]), [1, 0]\n"
    )
    for split, value in (("test", 2), ("train", 1)):
        data = open_data(name, split)
        assert (data.name, data.labels.tolist(), data.classes) == (name, [1, 0], ("0", "1"))
        assert (everything(data) == np.full((2, 1, 2, 2), value)).all()
    # Normalisation is the user's own business unless it is asked for.
    assert everything(open_data(name, normalize="1/4"))[0, 0, 0, 0] == (2 - 1) / 4


def test_function_in_a_module(tmp_path: Path, user: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `split` among its parameters it is called without."""
    (tmp_path / "tests_own_package").mkdir()
    (tmp_path / "tests_own_package" / "sets.py").write_text(
        "import torch\ndef make():\n    return torch.ones(3, 2, dtype=torch.uint8), torch.tensor([0, 0, 1])\n"
    )
    monkeypatch.chdir(tmp_path)
    data = open_data("tests_own_package.sets:make", "train")
    assert data.labels.tolist() == [0, 0, 1]
    assert (everything(data) == np.float32(1 / 255)).all()


def test_a_file_may_import_torchvision(user: Callable[[str], str]) -> None:
    """In a process of its own, where nothing prepared torchvision before."""
    name = user("import torch, torchvision\ndef make():\n    return torch.zeros(1, 1), [len(torchvision.__name__)]\n")
    code = f"from probe.data import open_data; print(open_data({name!r}).labels)"
    assert python(code).stdout.strip() == "[11]"


class Labelled(Dataset[Any]):
    """Five items, the i-th full of i; it counts which were read."""

    def __init__(self, **attributes: Any) -> None:
        self.read: list[int] = []
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> Any:
        self.read.append(i)
        return torch.full((1, 2, 2), float(i)), (2, 0, 1, 0, 2)[i]


def test_torch_data_set_is_read_once_for_its_labels(returning: Callable[[Any], str]) -> None:
    source = Labelled()
    data = open_data(returning(source))
    assert source.read[:5] == [0, 1, 2, 3, 4]
    assert (data.labels.tolist(), data.classes) == ([2, 0, 1, 0, 2], ("0", "1", "2"))
    assert data.load(np.array([3, 0, 3]))[:, 0, 0, 0].tolist() == [3, 0, 3]


@pytest.mark.parametrize("attribute", ["targets", "labels"])
@pytest.mark.parametrize("of", [list, np.array, torch.tensor])
def test_labels_beside_the_images_spare_reading_them(
    returning: Callable[[Any], str], attribute: str, of: Callable[[Any], Any]
) -> None:
    source = Labelled(**{attribute: of([2, 0, 1, 0, 2])}, classes=["cat", "dog", "frog"])
    data = open_data(returning(source))
    assert (data.labels.tolist(), data.classes) == ([2, 0, 1, 0, 2], ("cat", "dog", "frog"))
    # The first item, for its shape.
    assert source.read == [0]
    part = open_data(returning(Subset(Subset(source, [4, 2, 0]), [1, 2])))
    assert (part.labels.tolist(), part.classes) == ([1, 2], ("cat", "dog", "frog"))
    assert source.read == [0, 2]
    assert everything(part)[:, 0, 0, 0].tolist() == [2, 0]


@pytest.mark.parametrize(
    "attributes",
    [
        {"targets": [9] * 5, "target_transform": lambda label: label},
        {"targets": [9] * 4},
        {"targets": np.zeros((5, 2), int)},
        {"targets": [0.5] * 5},
        {"targets": [{}] * 5},
        {"targets": [[1], [1, 2], 3, 4, 5]},
    ],
)
def test_labels_that_cannot_be_relied_on(returning: Callable[[Any], str], attributes: dict[str, Any]) -> None:
    source = Labelled(**attributes)
    assert open_data(returning(source)).labels.tolist() == [2, 0, 1, 0, 2]
    assert set(source.read) == {0, 1, 2, 3, 4}


def test_items_that_change(returning: Callable[[Any], str]) -> None:
    name = returning(Labelled(targets=[2, 0, 1, 1, 2]))
    data = open_data(name)
    everything_but_one = data.load(np.array([0, 1, 2, 4]))
    assert everything_but_one.shape == (4, 1, 2, 2)
    assert refused(name) == f"{name}: item 3 has label 0; expected 1, the label it had before"


def test_other_things_with_items(returning: Callable[[Any], str]) -> None:
    pairs = [(torch.zeros(2), torch.tensor(1)), (np.ones(2, np.float16), np.int8(0)), [torch.ones(2).bfloat16(), 3]]
    data = open_data(returning(pairs))
    assert data.labels.tolist() == [1, 0, 3]
    assert everything(data).tolist() == [[0, 0], [1, 1], [1, 1]]
    tensors = TensorDataset(torch.arange(6).reshape(3, 2).to(torch.uint8), torch.tensor([1, 1, 0]))
    data = open_data(returning(tensors))
    assert data.labels.tolist() == [1, 1, 0]
    assert (everything(data) == np.arange(6).reshape(3, 2).astype(np.float32) / 255).all()


def test_a_data_set_of_the_users_own(returning: Callable[[Any], str]) -> None:
    asked: list[list[int]] = []

    def load(index: Any) -> Any:
        asked.append(index.tolist())
        return torch.from_numpy(index)[:, None].double()

    given = DataSet("their name", np.array([1, 0], np.uint8), ("cat", "dog"), load)  # type: ignore[arg-type]
    name = returning(given)
    data = open_data(name)
    assert (data.name, data.classes, data.labels.tolist()) == (name, ("cat", "dog"), [1, 0])
    assert data.labels.dtype == np.int64
    images = data.load(np.array([1, 0]))
    assert (images.tolist(), images.dtype) == ([[1], [0]], np.float32)
    assert asked == [[1, 0]]


def own(load: Callable[[Any], Any], labels: Any = (0, 1)) -> DataSet:
    return DataSet("own", np.array(labels), ("cat", "dog"), load)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(1), 0

    def __len__(self) -> int:
        return 1


WANTED = "expected a probe.data.DataSet, a torch Dataset with a length, or a pair (x, y) of arrays"
PAIR = "expected a pair (tensor, label) with a whole number as label"
ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, f" returned a NoneType; {WANTED}"),
        ("mnist", f" returned a str; {WANTED}"),
        ({0: (ONE, 0)}, f" returned a dict; {WANTED}"),
        (Stream(), f" returned a Stream; {WANTED}"),
        (DataLoader(Labelled()), f" returned a DataLoader; {WANTED}; return its .dataset"),
        ((ONE, ONE, ONE), f" returned 3 things; {WANTED}"),
        ([], " returned a list with no samples; expected at least one"),
        ((torch.zeros(2, 1), None), " holds a NoneType; expected a tensor or an array"),
        (([[1], [1, 2]], [0, 1]), " holds a list (setting an array element with a sequence"),
        ((torch.zeros(2, 1), [0, 1, 1]), ": 2 samples and 3 labels; expected one label a sample"),
        ((torch.full((1, 1), np.nan), [0]), ": sample 0 holds NaN or infinity; expected finite float32 numbers"),
        ([(ONE, 0), (ONE,)], f": item 1 is a tuple; {PAIR}"),
        ([{"image": ONE}], f": item 0 is a dict; {PAIR}"),
        (np.zeros((3, 4)), f": item 0 is a ndarray; {PAIR}"),
        ([(ONE, 0), (ONE, 0.5)], f": item 1 has label 0.5; {PAIR}"),
        ([(ONE, 0), (torch.tensor(3.0), 0)], f": item 1 holds a single number; {PAIR}"),
        ([(ONE, 0), (torch.tensor([np.inf]), 0)], ": sample 1 holds NaN or infinity; expected finite float32 numbers"),
        ([(ONE, 0), (torch.zeros(1, dtype=int), 0)], ": samples of type int64; expected uint8 pixels"),
        ([(ONE, 0), (torch.zeros(2), 0)], ": item 1 has shape (2,); expected (1,) as item 0 has"),
        ([(ONE, 0), ({}, 0)], ": item 1 holds a dict; expected a tensor or an array"),
        ([(ONE, 0), (ONE, -3)], " has label -3; expected labels 0 to 99999"),
        (
            [(noise(2, 2), 0)],
            ": item 0 holds a PIL image; expected a tensor; "
            "give the data set transform=torchvision.transforms.ToTensor()",
        ),
        (Labelled(classes=["cat"]), " has label 2; expected labels 0 to 0, one for each class name"),
        (own(lambda index: np.zeros((1, 2))), ": load gave shape (1, 2); expected (2, ...), sample first"),
        (own(lambda index: np.zeros(2)), ": load gave shape (2,); expected (2, ...), sample first"),
        (own(lambda index: np.array([[0.0], [np.nan]])), ": sample 1 holds NaN or infinity"),
        (own(lambda index: np.zeros((2, 1)), [0, 2]), " has label 2; expected labels 0 to 1, one for each class name"),
        (own(lambda index: 1 / 0), " raised ZeroDivisionError: division by zero"),
        (own(lambda index: None), " holds a NoneType; expected a tensor or an array"),
    ],
)
def test_things_that_are_no_data(returning: Callable[[Any], str], given: Any, said: str) -> None:
    name = returning(given)
    assert refused(name).startswith(f"{name}{said}")


def test_user_code_that_fails(user: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = user(
        "class Bad:\n"
        "    def __len__(self):\n"
        "        return 2\n"
        "    def __getitem__(self, i):\n"
        "        raise OSError(f'disk {i}')\n"
        "def make():\n"
        "    return Bad()\n"
        "number = 3\n"
    )
    assert refused(name).startswith(f"{name}: item 0 raised OSError: disk 0")
    number = name.replace("make", "number")
    assert refused(number) == f"{number} is an int; expected a function that returns {WANTED.removeprefix('expected ')}"


# ---------------------------------------------------------------------------------- torchvision, and without


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )


def test_torchvision_is_imported_where_it_would_fail_by_itself() -> None:
    """In processes of their own: by itself first, to know whether the workaround is what is tested here."""
    alone = "try:\n    import torchvision; print('imported')\nexcept RuntimeError as error: print(error)"
    helped = (
        "import gc\n"
        "from probe import vision\n"
        "first = vision.torchvision()\n"
        "gc.collect()\n"
        "assert vision.torchvision() is first\n"
        "vision.prepare()\n"
        "import torch, torchvision\n"
        "assert torchvision is first and torch.ops.torchvision.nms and torch.ops.torchvision.qnms\n"
        "assert first.datasets.MNIST and first.models.resnet18(num_classes=3).fc.out_features == 3\n"
        "print(len(vision._libraries))"
    )
    by_itself = python(alone).stdout.strip()
    assert by_itself in ("imported", "operator torchvision::nms does not exist")
    # Operators that are there already are never declared a second time.
    assert python(helped).stdout.strip() == ("0" if by_itself == "imported" else "1")


def test_torchvision_after_a_failed_import() -> None:
    code = "import contextlib\nwith contextlib.suppress(RuntimeError): import torchvision\n"
    assert (
        python(f"{code}from probe import vision; print(vision.torchvision().__name__)").stdout.strip() == "torchvision"
    )


def test_schemas_are_declared_once_and_kept() -> None:
    """On a stand-in package without compiled operators, so that it does not matter which wheels are installed."""
    code = (
        "import sys, tempfile, pathlib\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "(folder / 'torchvision').mkdir()\n"
        "(folder / 'torchvision' / '__init__.py').write_text(\n"
        "    'import torch\\n'\n"
        '    \'for name in ("nms", "qnms"):\\n\'\n'
        "    '    torch.library.register_fake(f\"torchvision::{name}\")(lambda *given: None)\\n')\n"
        "sys.path.insert(0, str(folder))\n"
        "from probe import vision\n"
        "vision.prepare(); vision.prepare()\n"
        "assert vision.torchvision().__file__.startswith(str(folder))\n"
        "print(len(vision._libraries))"
    )
    assert python(code).stdout.strip() == "1"


def test_torchvision_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    said = "torchvision is not installed; expected torchvision beside torch; pip install torchvision"
    with pytest.raises(ProbeError, match=said):
        vision.torchvision()
    assert refused("cifar10", root=tmp_path) == said
    # Nothing of it is needed for IDX files.
    write_idx(tmp_path)
    assert len(open_data("mnist", root=tmp_path)) == 4


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("operator torchvision::other does not exist\nmore"),
            "operator torchvision::other does not exist",
        ),
        (ModuleNotFoundError("No module named 'numpy.lost'", name="numpy.lost"), "No module named 'numpy.lost'"),
        (ImportError(), "ImportError"),
    ],
)
def test_torchvision_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(vision, "importlib", SimpleNamespace(import_module=fail, util=vision.importlib.util))
    said = f"torchvision cannot be imported ({reason}); expected a torchvision made for the installed torch; "
    with pytest.raises(ProbeError) as raised:
        vision.torchvision()
    assert str(raised.value) == f"{said}pip install torchvision"


def test_arrays_and_digits_need_no_torch(tmp_path: Path) -> None:
    write_idx(tmp_path)
    name = save_npz(tmp_path, **GOOD)
    code = (
        "import sys, pathlib, numpy as np\n"
        "from probe.data import open_data\n"
        f"mnist = open_data('mnist', root=pathlib.Path({str(tmp_path)!r}))\n"
        f"for data in (open_data('digits'), mnist, open_data({name!r})):\n"
        "    assert len(data.load(np.arange(2))) == 2\n"
        "print([name for name in ('torch', 'torchvision', 'PIL') if name in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"


def test_public_names() -> None:
    assert all(hasattr(data_sets, name) for name in data_sets.__all__)
