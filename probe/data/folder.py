"""A folder of images with one sub-folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from probe.data.images import centre, decode, stored_size
from probe.data.sets import Asked, DataSet, Indices, values
from probe.errors import ProbeError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {"train": ("train",), "test": ("test", "val")}


def open_folder(asked: Asked) -> DataSet:
    """Class folders below PATH/test or PATH/val (PATH/train for that split), or below PATH where there are no such.

    Their sorted names are the classes; images are found at any depth below each, sorted by path. They are decoded when
    they are loaded, to RGB. Without `image_size` all have to be of one size, which is read from the head of every file.
    """
    root = Path(asked.path)
    if not root.is_dir():
        raise ProbeError(f"no folder {root}", expected="a folder of class folders", next_step="pass folder:PATH")
    folder = _split_folder(root, asked.split)
    classes = _folders(folder)
    if not classes:
        raise ProbeError(f"{folder} has no class folders", expected="one folder of images for each class")
    paths: list[str] = []
    counts = []
    for name in classes:
        of_class = sorted(_images(folder / name))
        if not of_class:
            raise ProbeError(
                f"{folder / name} has no images",
                expected=f"files in {', '.join(SUFFIXES)}",
                next_step="add some or remove the folder",
            )
        paths += of_class
        counts.append(len(of_class))
    size = asked.image_size
    width, height = (size, size) if size is not None else _one_size(paths)

    def load(index: Indices) -> npt.NDArray[np.float32]:
        pixels = np.empty((len(index), 3, height, width), np.uint8)
        for place, i in enumerate(index):
            image = decode(paths[i], paths[i])
            if size is not None:
                image = centre(image, size)
            elif image.size != (width, height):
                raise _odd(paths[i], image.size, (width, height))
            pixels[place] = np.asarray(image).transpose(2, 0, 1)
        return values(asked.name, pixels)

    return DataSet(asked.name, np.repeat(np.arange(len(classes), dtype=np.int64), counts), tuple(classes), load)


def _split_folder(root: Path, split: str) -> Path:
    there = [root / name for name in SPLITS[split] if (root / name).is_dir()]
    if there:
        # ImageNet's `test` has images and no classes; its `val` is what is meant.
        return next((folder for folder in there if _folders(folder)), there[0])
    names = _folders(root)
    known = [name for folders in SPLITS.values() for name in folders]
    if names and set(names) <= set(known):
        other = "train" if split == "test" else "test"
        raise ProbeError(
            f"{root} has {' and '.join(names)}", expected=" or ".join(SPLITS[split]), next_step=f"pass --split {other}"
        )
    return root


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path) -> Iterator[str]:
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def _one_size(paths: list[str]) -> tuple[int, int]:
    first = stored_size(paths[0])
    for path in paths[1:]:
        size = stored_size(path)
        if size != first:
            raise _odd(path, size, first)
    return first


def _odd(path: str, size: tuple[int, int], first: tuple[int, int]) -> ProbeError:
    return ProbeError(
        f"{path} has {size[0]}x{size[1]} pixels",
        expected=f"{first[0]}x{first[1]} as the first image",
        next_step="pass --image-size N to resize and crop all",
    )
