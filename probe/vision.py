"""The one place that imports torchvision, also where its compiled operators do not fit the installed torch."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from types import ModuleType

from probe.errors import ProbeError

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""The operators that torchvision registers something for on import, whether they are there or not."""
_libraries: list[object] = []
"""A schema lasts as long as the library object that defined it."""


def torchvision() -> ModuleType:
    """The module torchvision.

    Raises:
        ProbeError: it is not installed, or does not fit the installed torch.
    """
    prepare()
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise _unusable(error) from None
        raise ProbeError(
            "torchvision is not installed", expected="torchvision beside torch", next_step="pip install torchvision"
        ) from None
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise _unusable(error) from None


def prepare() -> None:
    """Make `import torchvision` work in this process, from a user's file too; does nothing where it would anyway.

    On Linux, torch's CPU wheel beside PyPI's torchvision wheel, which was compiled for CUDA, fails on import with
    `operator torchvision::nms does not exist`: the compiled operators cannot be loaded. Models and data sets need none
    of them, so the schemas that are missed are declared, without code behind them.
    """
    if sys.platform != "linux" or "torchvision" in sys.modules:
        return
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return
    import torch

    for folder in package.submodule_search_locations or ():
        operators = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
        if operators is not None and operators.origin:
            with suppress(OSError):
                torch.ops.load_library(operators.origin)  # type: ignore[no-untyped-call]
    missing = [schema for schema in SCHEMAS if not hasattr(torch.ops.torchvision, schema.partition("(")[0])]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in missing:
            library.define(schema)  # type: ignore[no-untyped-call]
        _libraries.append(library)


def _unusable(error: Exception) -> ProbeError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ProbeError(
        f"torchvision cannot be imported ({reason})",
        expected="a torchvision made for the installed torch",
        next_step="pip install torchvision",
    )
