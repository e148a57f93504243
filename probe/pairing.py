"""Pairs the activations of an ANN with the spiking layers of an SNN: by hand, by name, by execution order and shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LayerPair, time_first
from probe.families.activations import Activation

LISTED = 6
"""Names in a message."""


@dataclass(frozen=True)
class Seen:
    """A layer as it was met in a run: its path and the shape of one sample's output, (*neuron)."""

    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} ({'x'.join(map(str, self.shape))})"


def order_of(
    modules: Mapping[str, nn.Module], run: Callable[[], Any], shape: Callable[[str, Tensor], Any]
) -> list[Seen]:
    """The modules that a run calls, in the order of their first call.

    Args:
        modules: path -> module.
        run: runs the network.
        shape: gives one sample's shape from a module's path and output.
    """
    seen: dict[str, Seen] = {}

    def note(name: str, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if name not in seen:
            seen[name] = Seen(name, tuple(shape(name, first)))

    with ExitStack() as stack:
        for name, module in modules.items():
            handle = module.register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
            stack.callback(handle.remove)
        run()
    return list(seen.values())


def spiking_shape(layers: Mapping[str, LayerPair], samples: int, timesteps: int) -> Callable[[str, Tensor], Any]:
    """For `order_of`: the shape of a sample in a layer's output, whatever its layout."""

    def shape(name: str, output: Tensor) -> Any:
        layout = layers[name].layout
        return output.shape[1:] if layout == "step" else time_first(output, layout, timesteps, samples).shape[2:]

    return shape


def pair(
    activations: Sequence[Seen], spiking: Sequence[Seen], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Spiking layer -> activation; each in execution order.

    What is given by hand comes first; then equal paths, where all the rest of the SNN's have such a partner; else the
    one way to pair the rest in order, before, between and after what is given, shapes equal, with as few left over as
    possible.

    Args:
        activations: of the ANN.
        spiking: of the SNN.
        given: activation -> spiking layer.

    Raises:
        ProbeError: a given name or shape does not fit, or there are several ways.
    """
    by_name = ({one.name: one for one in activations}, {one.name: one for one in spiking})
    paired: dict[str, str] = {}
    for ann_name, snn_name in (given or {}).items():
        for name, known, what in ((ann_name, by_name[0], "activation"), (snn_name, by_name[1], "spiking layer")):
            if name not in known:
                near = difflib.get_close_matches(name, list(known), 3) or list(known)[:LISTED]
                raise ProbeError(f"--pair names {what} {name}, which is not called", expected=" or ".join(near))
        one, other = by_name[0][ann_name], by_name[1][snn_name]
        if one.shape != other.shape:
            raise ProbeError(f"--pair joins {one} and {other}", expected="equal shapes")
        if snn_name in paired or ann_name in paired.values():
            raise ProbeError(f"--pair {ann_name}={snn_name} uses a layer again", expected="each layer once")
        paired[snn_name] = ann_name
    rest_ann = [one for one in activations if one.name not in paired.values()]
    rest_snn = [one for one in spiking if one.name not in paired]
    if all(one in rest_ann for one in rest_snn):
        return paired | {one.name: one.name for one in rest_snn}
    for between_ann, between_snn in _stretches(activations, spiking, paired):
        found, ways = alignment([one.shape for one in between_ann], [one.shape for one in between_snn])
        if ways > 1:
            raise ProbeError(
                f"{ways} ways to pair the ANN's {_listed(between_ann)} with the SNN's {_listed(between_snn)} in order "
                "and shape",
                expected="one",
                next_step="pass --pair ANN.NAME=SNN.NAME",
            )
        paired |= {between_snn[j].name: between_ann[i].name for i, j in found}
    return paired


def _stretches(
    activations: Sequence[Seen], spiking: Sequence[Seen], paired: Mapping[str, str]
) -> list[tuple[list[Seen], list[Seen]]]:
    """What is not paired yet, cut where something is; in one piece where the pairs given are not in order."""
    places = {one.name: i for i, one in enumerate(activations)}
    ends = [places[paired[one.name]] for one in spiking if one.name in paired]
    in_order = ends == sorted(ends)
    cut: list[tuple[list[Seen], list[Seen]]] = [([], [])]
    for place, one in enumerate(activations):
        if place not in ends:
            cut[-1][0].append(one)
        elif in_order:
            cut.append(([], []))
    stretch = 0
    for one in spiking:
        if one.name not in paired:
            cut[stretch][1].append(one)
        elif in_order:
            stretch += 1
    return cut


def _listed(seen: Sequence[Seen]) -> str:
    return ", ".join(map(str, seen[:LISTED])) + (f" and {len(seen) - LISTED} more" if len(seen) > LISTED else "")


def alignment(left: Sequence[Any], right: Sequence[Any]) -> tuple[list[tuple[int, int]], int]:
    """The longest way to pair equal items of two sequences in order, and how many ways are as long.

    Returns:
        Index pairs of one such way, and the number of ways, 1 for the empty one.
    """
    # best[i][j]: length of the longest way within left[:i], right[:j], the ways, and the last pair of one of them.
    rows, columns = len(left) + 1, len(right) + 1
    length = [[0] * columns for _ in range(rows)]
    ways = [[1] * columns for _ in range(rows)]
    for i in range(1, rows):
        for j in range(1, columns):
            longest = max(length[i - 1][j], length[i][j - 1])
            joined = length[i - 1][j - 1] + 1 if left[i - 1] == right[j - 1] else 0
            number = 0
            if max(longest, joined) == longest:
                number = ways[i - 1][j] * (length[i - 1][j] == longest) + ways[i][j - 1] * (length[i][j - 1] == longest)
                number -= ways[i - 1][j - 1] * (length[i - 1][j - 1] == longest)
            if joined >= longest and joined:
                number += ways[i - 1][j - 1]
            length[i][j], ways[i][j] = max(longest, joined), number
    found: list[tuple[int, int]] = []
    i, j = rows - 1, columns - 1
    while i and j and length[i][j]:
        if length[i - 1][j] == length[i][j]:
            i -= 1
        elif length[i][j - 1] == length[i][j]:
            j -= 1
        else:
            found.append((i - 1, j - 1))
            i, j = i - 1, j - 1
    return found[::-1], ways[-1][-1]


def joined(
    layers: Sequence[LayerPair], activations: Mapping[str, Activation], partners: Mapping[str, str]
) -> tuple[list[LayerPair], tuple[str, ...]]:
    """The layers with their partners, named after these, and the paths on both sides that have none."""
    made = []
    for layer in layers:
        partner = partners.get(layer.name)
        if partner is None:
            name = layer.name
            # Numbered modules: it may be called like the partner of another.
            while name in partners.values():
                name = f"snn.{name}"
            made.append(replace(layer, name=name, snn_name=layer.name))
            continue
        activation = activations[partner]
        made.append(replace(layer, name=partner, snn_name=layer.name, ann=activation.module, levels=activation.levels))
    alone = [f"SNN {layer.name}" for layer in layers if layer.name not in partners]
    left = [f"ANN {name}" for name in activations if name not in partners.values()]
    return made, (*left, *alone)
