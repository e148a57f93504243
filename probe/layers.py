"""Choosing layers: by index, slice, dotted name, glob or regular expression."""

from __future__ import annotations

import difflib
import fnmatch
import operator
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

from probe.errors import ProbeError
from probe.printable import shortened


class Named(Protocol):
    """Anything with a layer's index and name."""

    @property
    def index(self) -> int:
        """In execution order."""

    @property
    def name(self) -> str:
        """Dotted module path."""


L = TypeVar("L", bound=Named)


def specs_of(layers: Sequence[str | int] | str | int | None) -> Sequence[str | int]:
    """What was given for layers as a sequence of specs, where a single one will do; none for None.

    Raises:
        ProbeError: it is neither a spec nor a sequence of them.
    """
    if layers is None:
        return ()
    if isinstance(layers, str):
        return (layers,)
    if not isinstance(layers, bool):
        with suppress(TypeError):
            return (operator.index(layers),)  # type: ignore[arg-type]
        with suppress(TypeError):
            return tuple(layers)  # type: ignore[arg-type]
    raise ProbeError(f"layers {shortened(repr(layers), 60)}", expected="an index, a name or a list of those")


def select_layers(layers: Sequence[L], specs: Sequence[str | int]) -> list[L]:
    """The layers that any of `specs` names, in execution order; all of them without a spec.

    Args:
        layers: to choose from.
        specs: each an index (`0`, `-1` counts from the last), a slice (`0:5`), a dotted name, a glob (`layer1.*`) or
            `re:` and a regular expression that matches somewhere in the name.

    Raises:
        ProbeError: a spec matches none; it says which layers there are, or which names are near.
    """
    if not specs:
        return list(layers)
    chosen: dict[int, L] = {}
    for spec in specs:
        found = _match(layers, str(spec).strip())
        if not found:
            said = shortened(str(spec), 200)
            raise ProbeError(f"no layer {said}", expected=_expected(layers, str(spec)), next_step="see `probe layers`")
        chosen.update({layer.index: layer for layer in found})
    return [layer for layer in layers if layer.index in chosen]


def _match(layers: Sequence[L], spec: str) -> list[L]:
    if re.fullmatch(r"-?[0-9]{1,18}", spec):
        index = int(spec)
        if index < 0:
            return list(layers[index : index + 1 or None]) if -index <= len(layers) else []
        return [layer for layer in layers if layer.index == index]
    if re.fullmatch(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?(:-?[0-9]{1,18})?", spec):
        parts = [int(part) if part else None for part in spec.split(":")]
        if len(parts) == 3 and parts[2] == 0:
            return []
        # Indices are the network's, also where only some of its layers were recorded.
        chosen = range(max((layer.index for layer in layers), default=-1) + 1)[slice(*parts)]
        return [layer for layer in layers if layer.index in chosen]
    if spec.startswith("re:"):
        try:
            pattern = re.compile(spec[3:])
        except re.error as error:
            raise ProbeError(f"layer {spec!r} is no regular expression ({error})", expected="re:PATTERN") from None
        return [layer for layer in layers if pattern.search(layer.name)]
    exact = [layer for layer in layers if layer.name == spec]
    return exact or [layer for layer in layers if fnmatch.fnmatchcase(layer.name, spec)]


def _expected(layers: Sequence[L], spec: str) -> str:
    names = [layer.name for layer in layers]
    if spec in names:
        index = layers[names.index(spec)].index
        return f"an index: the layer that is called {spec} has index {index}, and is re:^{spec}$"
    near = difflib.get_close_matches(spec, names, 3)
    if near:
        return "perhaps " + " or ".join(near)
    shown = ", ".join(f"{layer.index} ({layer.name})" for layer in layers[:8])
    return f"one of {shown}" + (f" ... {layers[-1].index} ({layers[-1].name})" if len(layers) > 8 else "")
