"""A user's own data: what a callable in a file or module returns, as a `DataSet`."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from probe import vision
from probe.data.sets import Asked, DataSet, Indices, array_data, checked_labels, require_finite, values
from probe.errors import ProbeError

WANTED = "a probe.data.DataSet, a torch Dataset with a length, or a pair (x, y) of arrays"


def names_user_code(name: str) -> bool:
    """Whether a name is `FILE.py:CALLABLE` or `package.module:CALLABLE` by its form."""
    place, colon, function = name.rpartition(":")
    if name.endswith(".py") or place.endswith(".py"):
        return True
    return bool(colon) and all(part.isidentifier() for part in (*place.split("."), *function.split(".")))


def open_user(asked: Asked) -> DataSet:
    """Call the user's function, with `split=` if it takes that, and make a data set of what it returns.

    It may return a `DataSet`, a torch Dataset of (tensor, label) or anything else with a length and such items, or a
    tuple (x, y) of arrays or tensors. Samples are used in their order and in their shape; uint8 is divided by 255.
    """
    from probe import userfile

    vision.prepare()
    function = userfile.resolve(asked.name)
    if not callable(function):
        raise ProbeError(f"{asked.name} is {_kind(function)}", expected=f"a function that returns {WANTED}")
    arguments = {"split": asked.split} if userfile.takes(function, "split") else {}
    given = userfile.call(asked.name, function, **arguments)
    if isinstance(given, DataSet):
        return _checked(asked.name, given)
    if isinstance(given, tuple):
        if len(given) != 2:
            raise ProbeError(f"{asked.name} returned {len(given)} things", expected=WANTED)
        x, y = (_array(asked.name, part) for part in given)
        return array_data(asked.name, x, y)
    return _map_style(asked.name, given)


def _checked(name: str, given: DataSet) -> DataSet:
    """The user's `DataSet` under the name it was asked for, with what it loads checked."""
    from probe import userfile

    labels, classes = checked_labels(name, _array(name, given.labels), given.classes)

    def load(index: Indices) -> npt.NDArray[np.float32]:
        loaded = _array(name, userfile.call(name, lambda: given.load(index)))
        if loaded.ndim < 2 or len(loaded) != len(index):
            raise ProbeError(f"{name}: load gave shape {loaded.shape}", expected=f"({len(index)}, ...), sample first")
        images = values(name, loaded)
        require_finite(name, images, index)
        return images

    return replace(given, name=name, labels=labels, classes=classes, load=load)


def _map_style(name: str, source: Any) -> DataSet:
    """The data set of something with a length and items (tensor, label).

    The labels are those of `.targets` or `.labels` where there are such; otherwise every item is read once.
    """
    from probe import userfile

    _require_map_style(name, source)
    samples = userfile.call(name, lambda: len(source))
    if not samples:
        raise ProbeError(f"{name} returned {_kind(source)} with no samples", expected="at least one")

    def item(i: int) -> tuple[npt.NDArray[np.float32], int]:
        value, label = _pair(name, i, userfile.call(f"{name}: item {i}", lambda: source[i]))
        sample = values(name, value)
        require_finite(name, sample[None], [i])
        return sample, label

    declared = userfile.call(name, lambda: _declared_labels(name, source))
    stored = np.array([item(i)[1] for i in range(samples)], np.int64) if declared is None else declared
    labels, classes = checked_labels(name, stored, _class_names(source))
    shape = item(0)[0].shape

    def load(index: Indices) -> npt.NDArray[np.float32]:
        images = np.empty((len(index), *shape), np.float32)
        for place, i in enumerate(index.tolist()):
            sample, label = item(i)
            if sample.shape != shape:
                raise ProbeError(f"{name}: item {i} has shape {sample.shape}", expected=f"{shape} as item 0 has")
            if label != labels[i]:
                raise ProbeError(
                    f"{name}: item {i} has label {label}", expected=f"{labels[i]}, the label it had before"
                )
            images[place] = sample
        return images

    return DataSet(name, labels, classes, load)


def _require_map_style(name: str, source: Any) -> None:
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(source, DataLoader):
        raise ProbeError(f"{name} returned a DataLoader", expected=WANTED, next_step="return its .dataset")
    has_items = hasattr(source, "__len__") and hasattr(source, "__getitem__")
    if isinstance(source, (IterableDataset, Mapping, str, bytes)) or not has_items:
        raise ProbeError(f"{name} returned {_kind(source)}", expected=WANTED)


def _pair(name: str, i: int, given: Any) -> tuple[npt.NDArray[Any], int]:
    """The sample and the label in item `i`."""
    wanted = "a pair (tensor, label) with a whole number as label"
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ProbeError(f"{name}: item {i} is {_kind(given)}", expected=wanted)
    if type(given[0]).__module__.startswith("PIL."):
        raise ProbeError(
            f"{name}: item {i} holds a PIL image",
            expected="a tensor",
            next_step="give the data set transform=torchvision.transforms.ToTensor()",
        )
    value = _array(f"{name}: item {i}", given[0])
    if value.ndim < 1:
        raise ProbeError(f"{name}: item {i} holds a single number", expected=wanted)
    try:
        return value, operator.index(given[1])
    except (TypeError, ValueError, RuntimeError):
        raise ProbeError(f"{name}: item {i} has label {given[1]!r}", expected=wanted) from None


def _declared_labels(name: str, source: Any) -> npt.NDArray[Any] | None:
    """The labels that a data set tells without its images; None if it has none that can be relied on."""
    from torch.utils.data import Subset

    if isinstance(source, Subset):
        of_all = _declared_labels(name, source.dataset)
        return None if of_all is None else of_all[np.asarray(source.indices)]
    # The items have other labels than .targets then.
    if getattr(source, "target_transform", None) is not None:
        return None
    for attribute in ("targets", "labels"):
        try:
            labels = _array(name, getattr(source, attribute))
        except (AttributeError, ProbeError):
            continue
        if labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) == len(source):
            return labels
    return None


def _class_names(source: Any) -> tuple[str, ...] | None:
    from torch.utils.data import Subset

    while isinstance(source, Subset):
        source = source.dataset
    names = getattr(source, "classes", None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else None


def _array(name: str, value: Any) -> npt.NDArray[Any]:
    """A tensor, array or list as an array.

    Raises:
        ProbeError: it is nothing of that.
    """
    import torch

    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            return np.asarray(value.float() if value.dtype is torch.bfloat16 else value)
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ProbeError(f"{name} holds {_kind(value)} ({error})", expected="a tensor or an array") from None
    if array.dtype == object:
        raise ProbeError(f"{name} holds {_kind(value)}", expected="a tensor or an array")
    return array


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
