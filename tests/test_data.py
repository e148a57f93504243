"""The data sets against their sources, the choice of samples against its promises, and what is said of bad input."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from probe.data import CIFAR10_MEAN, CIFAR10_STD, choose_samples, open_data
from probe.errors import ProbeError

# --------------------------------------------------------------------------------------------------- digits


def everything(split: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    data = open_data("digits", split)
    return data.load(np.arange(len(data))), data.labels


def test_digits_are_those_of_scikit_learn() -> None:
    """Every pixel and label, put together again from both splits: each sample is in exactly one, a third in test."""
    datasets = pytest.importorskip("sklearn.datasets")
    source: Any = datasets.load_digits()
    held_out = np.arange(1797) % 3 == 0
    pixels, labels = np.full((1797, 8, 8), np.nan), np.full(1797, -1)
    for split, place in (("test", held_out), ("train", ~held_out)):
        images, of_split = everything(split)
        assert images.shape == (place.sum(), 1, 8, 8)
        assert (images.dtype, of_split.dtype) == (np.float32, np.int64)
        # Normalised as (pixel - 8)/8; pixels are 0 to 16, so this is exact.
        pixels[place], labels[place] = images[:, 0] * 8 + 8, of_split
    assert (pixels == source.images).all()
    assert (labels == source.target).all()
    assert held_out.sum() == 599 == len(open_data("digits"))


def test_digits_by_index() -> None:
    data = open_data("digits")
    images, labels = everything("test")
    chosen = np.array([5, 0, 598, 5])
    assert (data.load(chosen) == images[chosen]).all()
    assert (data.name, data.classes, len(data)) == ("digits", tuple("0123456789"), len(labels))
    assert -1 <= images.min() < images.max() <= 1
    # Loading gives a copy: what a network does to its images does not change the data.
    loaded = data.load(np.arange(3))
    loaded[:] = 7
    assert (data.load(np.arange(3)) == images[:3]).all()


# ------------------------------------------------------------------------------------------ chosen samples

SETTINGS = settings(deadline=None, derandomize=True, database=None, max_examples=50)
label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60)


def of_classes(labels: npt.NDArray[np.int64], chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.bincount(labels[chosen], minlength=5)


@SETTINGS
@given(label_lists, st.integers(0, 3), st.data())
def test_chosen_samples_are_distinct_in_order_and_balanced(listed: list[int], seed: int, data: st.DataObject) -> None:
    labels = np.array(listed)
    samples = data.draw(st.integers(1, len(labels)))
    chosen = choose_samples(labels, samples, seed)
    assert len(chosen) == samples
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < len(labels)
    # Two classes differ by more than one sample only where the smaller has no more.
    taken, there = of_classes(labels, chosen), np.bincount(labels, minlength=5)
    assert ((taken == there) | (taken >= taken.max() - 1)).all()
    assert (chosen == choose_samples(labels, samples, seed)).all()


@SETTINGS
@given(label_lists, st.integers(0, 3))
def test_more_samples_are_the_fewer_and_others(listed: list[int], seed: int) -> None:
    labels = np.array(listed)
    sets = [set(choose_samples(labels, samples, seed).tolist()) for samples in range(1, len(labels) + 1)]
    assert all(fewer < more for fewer, more in pairwise(sets))


def test_chosen_digits() -> None:
    labels = open_data("digits").labels
    chosen = choose_samples(labels, 200, 0)
    assert np.bincount(labels[chosen]).tolist() == [20] * 10
    assert (chosen != choose_samples(labels, 200, 1)).any()
    # Sorted by class, as CIFAR-10 is: still all classes, from anywhere within each.
    by_class = np.repeat(np.arange(10), 100)
    chosen = choose_samples(by_class, 50, 0)
    assert np.bincount(by_class[chosen]).tolist() == [5] * 10
    assert (chosen % 100).max() > 50
    assert choose_samples(labels, None, 3).tolist() == list(range(599))
    assert choose_samples(labels, 599, 3).tolist() == list(range(599))


@pytest.mark.parametrize("samples", [0, -1, 600])
def test_impossible_numbers_of_samples(samples: int) -> None:
    with pytest.raises(ProbeError, match=re.escape(f"{samples} samples of digits; expected 1 to 599")):
        choose_samples(open_data("digits").labels, samples, 0, what="digits")


# --------------------------------------------------------------------------------------------------- names


def test_unknown_names_and_splits() -> None:
    with pytest.raises(ProbeError, match="unknown data 'emnist'; expected one of digits, cifar10, cifar100, mnist, "):
        open_data("emnist")
    with pytest.raises(ProbeError, match="unknown split 'held-out' of digits; expected train or test"):
        open_data("digits", "held-out")
    for name in ("cifar10-jpeg", "cifar10-jpeg:"):
        with pytest.raises(ProbeError, match=f"data '{name}' names no file; expected cifar10-jpeg:PATH"):
            open_data(name)


def test_digits_take_no_path() -> None:
    with pytest.raises(ProbeError, match="digits"):
        open_data("digits:some/file.npz")


# --------------------------------------------------------------------------------------------- cifar10-jpeg

COLOURS = ((90, 90, 90), (200, 30, 60), (10, 250, 128), (0, 0, 255))


def jpeg(colour: tuple[int, int, int]) -> bytes:
    """A 32x32 picture, one colour above and black below: JPEG keeps such to within a few steps of 256."""
    image = Image.new("RGB", (32, 32), colour)
    image.paste((0, 0, 0), (0, 16, 32, 32))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def contents(split: str = "test") -> dict[str, Any]:
    files = [jpeg(colour) for colour in COLOURS]
    # The first is the shortest: no other can be read with its length.
    assert all(len(file) > len(files[0]) for file in files[1:])
    return {
        f"{split}_jpeg": np.frombuffer(b"".join(files), np.uint8),
        f"{split}_length": np.array([len(file) for file in files], np.uint32),
        f"{split}_label": np.array([3, 0, 1, 3], np.uint8),
        "classes": np.array(["cat", "dog", "frog", "ship"]),
    }


def write_archive(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "tiny.npz", **arrays)
    return f"cifar10-jpeg:{folder / 'tiny.npz'}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_archive_of_four_pictures(tmp_path: Path, split: str) -> None:
    name = write_archive(tmp_path, **contents(split))
    data = open_data(name, split)
    assert (len(data), data.name, data.classes) == (4, name, ("cat", "dog", "frog", "ship"))
    assert data.labels.tolist() == [3, 0, 1, 3]
    assert data.labels.dtype == np.int64
    # Any order, any repetition; channel first, red first.
    for order in ([0, 1, 2, 3], [3, 1], [2, 2]):
        images = data.load(np.array(order))
        assert (images.shape, images.dtype) == ((len(order), 3, 32, 32), np.float32)
        assert images.flags.c_contiguous
        for image, at in zip(images, order, strict=True):
            for channel, value in enumerate(COLOURS[at]):
                for half, colour in ((slice(0, 16), value), (slice(16, 32), 0)):
                    expected = (colour / 255 - CIFAR10_MEAN[channel]) / CIFAR10_STD[channel]
                    assert np.abs(image[channel, half] - expected).max() <= 3 / 255 / CIFAR10_STD[channel]


def test_archive_without_the_split(tmp_path: Path) -> None:
    name = write_archive(tmp_path, **contents("test"))
    with pytest.raises(ProbeError, match=r"tiny\.npz cannot be read .*train_jpeg"):
        open_data(name, "train")


def test_archive_that_does_not_add_up(tmp_path: Path) -> None:
    whole = contents()
    short = {**whole, "test_jpeg": whole["test_jpeg"][:-1]}
    unlabelled = {**whole, "test_label": whole["test_label"][:-1]}
    for arrays in (short, unlabelled):
        with pytest.raises(ProbeError, match="lengths that add up"):
            open_data(write_archive(tmp_path, **arrays))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.npz", tmp_path):
        with pytest.raises(ProbeError, match=re.escape(f"no file {path}")):
            open_data(f"cifar10-jpeg:{path}")


def damaged(tmp_path: Path, how: str) -> Path:
    file = tmp_path / "bad.npz"
    np.savez(file, **contents())
    whole = file.read_bytes()
    if how == "text":
        file.write_text("index,label\n1,3\n")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut short":
        file.write_bytes(whole[: len(whole) // 2])
    elif how == "changed byte":
        place = whole.index(contents()["test_jpeg"].tobytes()[:64]) + 40
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    else:
        with file.open("wb") as out:
            np.save(out, np.arange(5))
    return file


@pytest.mark.parametrize(
    "how",
    [
        "text",
        "empty",
        "cut short",
        "changed byte",
        "one array",
    ],
)
def test_damaged_archive(tmp_path: Path, how: str) -> None:
    file = damaged(tmp_path, how)
    with pytest.raises(ProbeError, match=re.escape(f"{file} cannot be read")):
        open_data(f"cifar10-jpeg:{file}")


def test_picture_that_is_none(tmp_path: Path) -> None:
    whole = contents()
    second = int(whole["test_length"][0])
    pictures = whole["test_jpeg"].copy()
    pictures[second : second + int(whole["test_length"][1])] = 0
    data = open_data(write_archive(tmp_path, **{**whole, "test_jpeg": pictures}))
    assert data.load(np.array([0, 2])).shape == (2, 3, 32, 32)
    with pytest.raises(ProbeError, match="1"):
        data.load(np.array([0, 1]))


def test_label_without_a_class(tmp_path: Path) -> None:
    name = write_archive(tmp_path, **{**contents(), "test_label": np.array([3, 0, 4, 3], np.uint8)})
    with pytest.raises(ProbeError, match="4"):
        open_data(name)


def test_the_whole_of_cifar10(shared_data: Path) -> None:
    """The real archive: 10,000 test images, 1,000 of each class, and a few of them decoded."""
    data = open_data(f"cifar10-jpeg:{shared_data / 'cifar10-jpeg.npz'}")
    assert len(data) == 10_000
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert data.classes[0] == "airplane"
    assert data.classes[9] == "truck"
    chosen = choose_samples(data.labels, 200, 0)
    images = data.load(chosen)
    assert images.shape == (200, 3, 32, 32)
    # Normalised with the mean and deviation of the training images: about 0 and 1 here.
    assert np.abs(images.mean((0, 2, 3))).max() < 0.2
    assert np.abs(images.std((0, 2, 3)) - 1).max() < 0.1
