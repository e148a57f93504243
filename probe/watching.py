"""Spiking layers while they are trained: firing rate, dead share and gradient norm, every so many training steps.

Hooks are on for every `every`-th training step only; in the others a step costs one comparison. The user says where
a step ends:

    >>> with probe.watch(network, every=100) as watch:          # doctest: +SKIP
    ...     for x, y in loader:
    ...         optimizer.zero_grad()
    ...         loss(network(x), y).backward()
    ...         optimizer.step()
    ...         watch.step()

Over one watched step, all its calls, samples and timesteps together, a layer with spikes s and input x has

- `firing_rate`: spikes per neuron, sample and timestep, negative ones included; in a module of no known library every
  s ≠ 0 is one spike;
- `dead_share`: the share of its neurons that never fired;
- `gradient_norm`: √Σ(∂loss/∂x)² over samples, neurons and timesteps: what comes back through the surrogate to the
  weights before the layer; empty where x needs no gradient or backward did not reach it.

Calls without gradients, and calls while the network is in eval mode, do not count: a validation in between does not
disturb.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.families import LAYOUTS, sinabs, snntorch, spikingjelly
from probe.layers import select_layers
from probe.userfile import listed

FAMILIES = (snntorch, spikingjelly, sinabs)
"""Whose layers are known by what they have."""
FIGURES = ("firing_rate", "dead_share", "gradient_norm")
COLUMNS = ("step", "layer", *FIGURES)
"""Of the CSV file, a row for each layer and watched step."""
DEFAULT_CSV = "watch.csv"
_BATCH_AXES = {"step": 1, "TB": 1, "BT": 1, "T,B": 2, "B,T": 2}
"""Layout -> leading axes of a call that are no neurons."""


class ScalarWriter(Protocol):
    """What TensorBoard's `SummaryWriter` has, and all that is needed of it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Keep a number."""

    def flush(self) -> object:
        """Write what was kept to the disk."""


@dataclass(frozen=True)
class Watched:
    """A module that is watched.

    Attributes:
        index: in the order of the network's modules.
        name: dotted module path.
        module: it.
        layout: how its calls carry time, one of `probe.families.LAYOUTS`.
        counting: its output is the number of spikes, 0, 1 or more; if not, every output but 0 is one spike.
    """

    index: int
    name: str
    module: nn.Module
    layout: str = "step"
    counting: bool = False


def watch(
    model: nn.Module,
    *,
    every: int = 100,
    layers: Sequence[str] | str = (),
    layout: str = "step",
    log_dir: str | Path | None = None,
    path: str | Path | None = None,
    writer: ScalarWriter | None = None,
    overwrite: bool = False,
) -> Watch:
    """Watch the spiking layers of a network that is being trained; used with `with`, see this module.

    Where none of `log_dir`, `path` and `writer` is given, TensorBoard is written if it is installed, into its own
    default folder (`runs/...`), else `watch.csv`.

    Args:
        model: the network; it must be what is called, for its `training` says whether a call counts.
        every: watch step 0, `every`, 2·`every`, ...
        layers: dotted module paths, globs or `re:PATTERN` of modules to watch. By default the layers of snnTorch,
            SpikingJelly and sinabs; where there are none, modules whose output is spikes (0 and one other value) while
            their input is not, found in the first watched step.
        layout: how calls of a layer of no such library carry time: one call a timestep (`step`), or `TB`, `BT`,
            `T,B`, `B,T`, as in `probe.families.LAYOUTS`.
        log_dir: folder for TensorBoard.
        path: CSV file, with the columns `COLUMNS`.
        writer: a `SummaryWriter`, or anything with `add_scalar` and `flush`; it is not closed.
        overwrite: replace an existing CSV file.

    Raises:
        ProbeError: an argument that cannot be, `layers` that match none, TensorBoard asked for and not installed.
    """
    if every < 1:
        raise ProbeError(f"every = {every}", expected="a whole number from 1")
    if layout not in LAYOUTS:
        raise ProbeError(f"layout {layout!r}", expected="one of " + ", ".join(LAYOUTS))
    if not isinstance(model, nn.Module):
        raise ProbeError(f"the network is of type {type(model).__name__}", expected="a torch.nn.Module")
    named = [layers] if isinstance(layers, str) else list(layers)
    found = _named(model, named, layout) if named else _recognised(model)
    return Watch(model, every, found, layout, _sink(log_dir, path, writer, overwrite))


class Watch:
    """A network that is watched, see `watch`; its hooks are on within `with` only.

    Attributes:
        layers: what is watched; empty until the first watched step where layers have to be found by their output.
        latest: rows of the last watched step, each with the keys `COLUMNS`; only these are kept.
    """

    def __init__(self, model: nn.Module, every: int, layers: Sequence[Watched], layout: str, sink: Sink) -> None:
        self.layers = tuple(layers)
        self.latest: list[dict[str, Any]] = []
        self._model, self._every, self._layout, self._sink = model, every, layout, sink
        self._index = 0
        self._hooks = ExitStack()
        self._tallies: list[Tally] = []
        self._dead: set[str] = set()
        self._on = False

    def __enter__(self) -> Watch:
        self._sink.open()
        self._on = True
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        left = self._index == 0 and any(tally.calls for tally in self._tallies)
        self.close()
        if left and kind is None:
            warnings.warn("watch.step() was never called, so nothing was written: call it once a training step",
                          stacklevel=2)  # fmt: skip

    def close(self) -> None:
        """Take the hooks off and close what was written; a step that is not over is dropped."""
        self._on = False
        self._hooks.close()
        self._tallies = []
        self._sink.close()

    def step(self) -> None:
        """A training step is over: call it after `backward`, once a step.

        Raises:
            ProbeError: the first watched step is over and no module gave spikes; or it is called outside of `with`.
        """
        if not self._on:
            raise ProbeError(
                "watch.step() outside of the with block", expected="with probe.watch(network) as watch: ..."
            )
        if self._tallies:
            self._finish()
        self._index += 1
        if self._index % self._every == 0:
            self._begin()

    def _begin(self) -> None:
        """Put the hooks on, for one step."""
        looking = not self.layers
        candidates = self.layers or tuple(
            Watched(i, name, module, self._layout) for i, (name, module) in enumerate(_modules(self._model))
        )
        self._tallies = [Tally(layer, self._model, self._hooks, looking=looking) for layer in candidates]
        for tally in self._tallies:
            tally.hook()

    def _finish(self) -> None:
        """Take the hooks off, and write what they counted."""
        self._hooks.close()
        tallies, self._tallies = self._tallies, []
        if not any(tally.calls for tally in tallies):
            warnings.warn(
                f"step {self._index}: no layer was called in training mode with gradients, so there is nothing to "
                "write; is this the network that is called?",
                stacklevel=3,
            )
            return
        if not self.layers:
            tallies = _spiking(tallies)
            if not tallies:
                raise ProbeError(
                    "no module of the network gives spikes (0 and one other value)", expected="spiking layers",
                    next_step="name the modules: probe.watch(network, layers=['NAME', ...])",
                )  # fmt: skip
            self.layers = tuple(tally.layer for tally in tallies)
        self.latest = [{"step": self._index, **tally.row()} for tally in tallies]
        self._sink.write(self.latest)
        for row in self.latest:
            if row["dead_share"] == 1.0 and row["layer"] not in self._dead:
                self._dead.add(row["layer"])
                warnings.warn(f"layer {row['layer']} is dead: none of its neurons fired in step {row['step']}",
                              stacklevel=3)  # fmt: skip


# ------------------------------------------------------------------------------------------------- which layers


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module by its dotted path, the network itself by the name of its class."""
    return ((name or type(model).__name__, module) for name, module in model.named_modules())


def _recognised(model: nn.Module) -> list[Watched]:
    """The neurons of the libraries, in the order of the network's modules."""
    found: list[Watched] = []
    for name, module in _modules(model):
        for family in FAMILIES:
            if family.match(module) and not any(family.match(child) for child in module.children()):
                found.append(_of_family(len(found), name, module, family))
                break
    return found


def _of_family(index: int, name: str, module: nn.Module, family: Any) -> Watched:
    try:
        (pair,) = family.spiking_layers(module)
    except ProbeError:
        # What cannot be recorded, such as neurons with weights of their own, can still be watched.
        return Watched(index, name, module)
    # A height that is learned is 1 only at the start.
    learned = isinstance(getattr(module, "graded_spikes_factor", None), nn.Parameter)
    return Watched(index, name, module, pair.layout, bool((pair.spike_height == 1).all()) and not learned)


def _named(model: nn.Module, specs: Sequence[str], layout: str) -> list[Watched]:
    """The modules that the user named; one that a library's neuron is has the layout of that."""
    known = {layer.name: layer for layer in _recognised(model)}
    every = [
        Watched(i, name, module, known[name].layout, known[name].counting) if name in known
        else Watched(i, name, module, layout)
        for i, (name, module) in enumerate(_modules(model))
    ]  # fmt: skip
    chosen: set[int] = set()
    for spec in specs:
        # A name first: what Sequential calls its modules would else be an index.
        found = [layer for layer in every if layer.name == spec]
        if not found and (spec.startswith("re:") or any(character in spec for character in "*?[")):
            found = select_layers(every, [spec])
        if not found:
            near = get_close_matches(spec, [layer.name for layer in every]) or [layer.name for layer in every[1:]]
            raise ProbeError(
                f"no module {spec}", expected="a dotted name, a glob or re:PATTERN of the network's modules",
                next_step=f"it has {listed(near)}" if near else "it has no modules",
            )  # fmt: skip
        chosen.update(layer.index for layer in found)
    return [layer for layer in every if layer.index in chosen]


def _spiking(tallies: Sequence[Tally]) -> list[Tally]:
    """Those that gave nothing but spikes for an input that was none, without those that only hold such a module."""
    found = [tally for tally in tallies if tally.calls and tally.gives_spikes and not tally.fed_spikes]
    spiking = {id(tally.layer.module) for tally in found}
    return [tally for tally in found if not any(id(child) in spiking for child in _below(tally.layer.module))]


def _below(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if child is not module)


def _is_spikes(values: Tensor) -> bool:
    """0 and at most one other value."""
    if not values.numel():
        return True
    values = values.float()
    low, high = (float(value) for value in torch.aminmax(values))
    other = high if high else low
    return bool(((values == 0) | (values == other)).all())


# ---------------------------------------------------------------------------------------------- what they count


@dataclass
class Tally:
    """What a layer does in one watched step, added up over its calls on the device of its tensors.

    Attributes:
        layer: whose.
        model: the network; only calls while it trains count.
        hooks: takes the hooks.
        looking: whether its outputs are spikes is still to be found out.
    """

    layer: Watched
    model: nn.Module
    hooks: ExitStack
    looking: bool = False
    calls: int = 0
    gives_spikes: bool = True
    fed_spikes: bool = True
    _fired: dict[torch.Size, Tensor] = field(default_factory=dict)
    _outputs: int = 0
    _squares: list[Tensor] = field(default_factory=list)

    def hook(self) -> None:
        """Put a hook on either side of the module."""
        self.hooks.callback(self.layer.module.register_forward_pre_hook(self._before).remove)
        self.hooks.callback(self.layer.module.register_forward_hook(self._after).remove)

    def _counts(self) -> bool:
        return self.model.training and torch.is_grad_enabled()

    def _before(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if not isinstance(x, Tensor) or not self._counts():
            return
        if self.looking:
            self.fed_spikes = self.fed_spikes and _is_spikes(x.detach())
        if x.requires_grad:
            self.hooks.callback(x.register_hook(self._backward).remove)  # type: ignore[no-untyped-call]

    def _backward(self, gradient: Tensor) -> None:
        self._squares.append(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32).square())

    def _after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        spikes = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(spikes, Tensor) or not self._counts():
            return
        self.calls += 1
        spikes = spikes.detach()
        if self.looking:
            self.gives_spikes = self.gives_spikes and _is_spikes(spikes)
        axes = min(_BATCH_AXES[self.layer.layout], spikes.ndim)
        # Comparing takes ten times as long as adding up.
        ones = spikes.abs() if self.layer.counting else spikes != 0
        fired = ones.sum(tuple(range(axes)), dtype=torch.float32)
        known = self._fired.get(fired.shape)
        self._fired[fired.shape] = fired if known is None else known.add_(fired)
        self._outputs += spikes.numel()

    def row(self) -> dict[str, Any]:
        """The figures, by name; None for what is not known."""
        fired = [counts.double() for counts in self._fired.values()]
        neurons = sum(counts.numel() for counts in fired)
        dead = sum(int((counts == 0).sum()) for counts in fired)
        total = sum(float(counts.sum()) for counts in fired)
        norm = float(torch.stack(self._squares).double().sum().sqrt()) if self._squares else None
        return {
            "layer": self.layer.name,
            "firing_rate": total / self._outputs if self._outputs else None,
            "dead_share": dead / neurons if neurons else None,
            "gradient_norm": norm,
        }


# ----------------------------------------------------------------------------------------------- where it goes


class Sink:
    """TensorBoard, a CSV file, a writer of the user's, or several; each watched step is flushed.

    What cannot be written ends the log with a warning, never the training.

    Args:
        tensorboard: makes a `SummaryWriter`; None for none.
        path: CSV file; None for none.
        writer: the user's; None for none.
        overwrite: replace an existing CSV file.
    """

    def __init__(
        self, tensorboard: Callable[[], Any] | None, path: Path | None, writer: ScalarWriter | None, overwrite: bool
    ) -> None:
        self._tensorboard, self._path, self._writer, self._overwrite = tensorboard, path, writer, overwrite
        self._stack = ExitStack()
        self._writers: list[ScalarWriter] = []
        self._file: TextIO | None = None

    def open(self) -> None:
        """Open what is to be written.

        Raises:
            ProbeError: it cannot be opened.
        """
        try:
            if self._path is not None:
                self._file = self._path.open("w" if self._overwrite else "x", newline="", encoding="utf-8")
                self._stack.callback(self._file.close)
                csv.writer(self._file, lineterminator="\n").writerow(COLUMNS)
                self._file.flush()
            if self._tensorboard is not None:
                made = self._tensorboard()
                self._stack.callback(made.close)
                self._writers.append(made)
        except OSError as error:
            self.close()
            raise ProbeError(f"{error.filename or self._path} cannot be written ({error.strerror or error})",
                             expected="a new file in a writable folder") from None  # fmt: skip
        if self._writer is not None:
            self._writers.append(self._writer)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of one step."""
        try:
            if self._file is not None:
                csv.DictWriter(self._file, COLUMNS, lineterminator="\n").writerows(rows)
                self._file.flush()
            for writer in self._writers:
                for row in rows:
                    for name in FIGURES:
                        if row[name] is not None:
                            writer.add_scalar(f"{name}/{row['layer']}", row[name], row["step"])
                writer.flush()
        except OSError as error:
            warnings.warn(f"step {rows[0]['step']} cannot be written ({error.strerror or error}); nothing more will be",
                          stacklevel=4)  # fmt: skip
            self.close()

    def close(self) -> None:
        """Close what was opened here."""
        self._file, self._writers = None, []
        with suppress(OSError):
            self._stack.close()


def _sink(log_dir: str | Path | None, path: str | Path | None, writer: ScalarWriter | None, overwrite: bool) -> Sink:
    """What is written, checked before the training begins."""
    tensorboard = None
    if log_dir is not None or (path is None and writer is None):
        summary_writer = _summary_writer()
        if summary_writer is not None:
            tensorboard = partial(summary_writer, log_dir=None if log_dir is None else str(log_dir))
        elif log_dir is not None:
            raise ProbeError("log_dir is given and TensorBoard is not installed", expected="it beside torch",
                             next_step="pip install tensorboard, or pass path='watch.csv'")  # fmt: skip
        else:
            path = DEFAULT_CSV
    file = None if path is None else Path(path)
    if file is not None:
        if not file.parent.is_dir():
            raise ProbeError(f"no folder {file.parent}", expected="an existing folder", next_step="create it")
        if file.is_dir():
            raise ProbeError(f"{file} is a folder", expected="a file name")
        if file.exists() and not overwrite:
            raise ProbeError(f"{file} exists", expected="a new file", next_step="pass overwrite=True or another path")
    return Sink(tensorboard, file, writer, overwrite)


def _summary_writer() -> Callable[..., Any] | None:
    """TensorBoard's writer; None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter
