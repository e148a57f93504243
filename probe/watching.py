"""Spiking layers while they are trained: firing rate, dead share and gradient norm, every so many training steps.

Hooks are on for every `every`-th training step only; in the others a step costs one comparison. They are torch's
hooks for all modules, so that nothing hangs on the network itself: it can be saved and copied at any time. The user
says where a step ends:

    >>> with probe.watch(network, every=100) as watch:
    ...     for x, y in loader:
    ...         optimizer.zero_grad()
    ...         loss(network(x), y).backward()
    ...         optimizer.step()
    ...         watch.step()

Over one watched step, all its calls, samples and timesteps together, a layer with spikes s and input x has

- `firing_rate`: spikes per neuron, sample and timestep, negative ones included; in a module of no known library every
  s ≠ 0 is one spike, but for the rounding of a straight-through estimator (`NOISE`);
- `dead_share`: the share of its neurons that never fired;
- `gradient_norm`: √Σ(∂loss/∂x)² over samples, neurons and timesteps: what comes back through the surrogate to the
  weights before the layer; empty where x needs no gradient or backward did not reach it. It is of whatever `backward`
  is called on: under a `GradScaler` of the scaled loss, so it is the scale times as large.

Calls without gradients, and calls while the network is in eval mode, do not count: a validation in between does not
disturb.
"""

from __future__ import annotations

import csv
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import unserializable_hook

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
NOISE = 1e-4
"""Smaller outputs of a module of no known library are no spikes; in half precision it is the rounding of that."""
UNEVEN = 1e-3
"""Of whole numbers of spikes, as a share of one."""
MOST = 16
"""Spikes in one timestep that still are a number of spikes."""


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
        exact: outputs that are not 0 are spikes, however small; else those of more than `NOISE`.
        guessed: nobody told the layout, `step` is only likely.
    """

    index: int
    name: str
    module: nn.Module
    layout: str = "step"
    counting: bool = False
    exact: bool = False
    guessed: bool = False


def watch(
    model: nn.Module,
    *,
    every: int = 100,
    layers: Sequence[str] | str = (),
    layout: str | None = None,
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
            SpikingJelly and sinabs; where there are none, modules within the network whose output is spikes (0 and
            whole multiples of one height, of either sign; several at a time only of a height from 1, for smaller ones
            are means over time) while their input is not, found in the first watched step.
        layout: how calls of a layer of no such library carry time: one call a timestep (`step`), or `TB`, `BT`,
            `T,B`, `B,T`, as in `probe.families.LAYOUTS`. By default `step`, or `T,B` where the sizes of the network's
            input tell that two axes are time and samples; a warning tells where they might.
        log_dir: folder for TensorBoard.
        path: CSV file, with the columns `COLUMNS`.
        writer: a `SummaryWriter`, or anything with `add_scalar` and `flush`; it is not closed.
        overwrite: replace an existing CSV file.

    Raises:
        ProbeError: an argument that cannot be, `layers` that match none, TensorBoard asked for and not installed.
    """
    every = _whole(every)
    if layout is not None and layout not in LAYOUTS:
        raise ProbeError(f"layout {layout!r}", expected="one of " + ", ".join(LAYOUTS))
    if not isinstance(model, nn.Module):
        raise ProbeError(f"the network is of type {type(model).__name__}", expected="a torch.nn.Module")
    named = [layers] if isinstance(layers, str) else list(layers)
    found = _named(model, named, layout) if named else _recognised(model)
    return Watch(model, every, found, layout, _sink(log_dir, path, writer, overwrite))


def _whole(every: Any) -> int:
    try:
        steps = operator.index(every)
    except TypeError:
        steps = 0
    if steps < 1 or isinstance(every, bool):
        raise ProbeError(f"every = {every!r}", expected="a whole number from 1")
    return steps


class Watch:
    """A network that is watched, see `watch`; hooks are on within `with` only.

    Attributes:
        layers: what is watched; empty until the first watched step where layers have to be found by their output.
        latest: rows of the last watched step, each with the keys `COLUMNS`; only these are kept.
    """

    def __init__(self, model: nn.Module, every: int, layers: Sequence[Watched], layout: str | None, sink: Sink) -> None:
        self.layers = tuple(layers)
        self.latest: list[dict[str, Any]] = []
        self._model, self._every, self._layout, self._sink = model, every, layout, sink
        self._index = 0
        self._hooks = ExitStack()
        self._tallies: dict[int, Tally] = {}
        self._seen = Seen()
        self._dead: set[str] = set()
        self._on = self._watching = self._told = False

    def __enter__(self) -> Watch:
        self._sink.open()
        self._on = True
        self._begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        left = self._index == 0 and any(tally.calls for tally in self._tallies.values())
        self.close()
        if left and kind is None:
            warnings.warn("watch.step() was never called, so nothing was written: call it once a training step",
                          stacklevel=2)  # fmt: skip

    def close(self) -> None:
        """Take the hooks off and close what was written; a step that is not over is dropped."""
        self._on = self._watching = False
        self._hooks.close()
        self._tallies = {}
        self._sink.close()

    def step(self) -> None:
        """A training step is over: call it after `backward`, once a step.

        Raises:
            ProbeError: it is called outside of `with`.
        """
        if not self._on:
            raise ProbeError(
                "watch.step() outside of the with block", expected="with probe.watch(network) as watch: ..."
            )
        if self._watching:
            self._finish()
        self._index += 1
        if self._index % self._every == 0:
            self._begin()

    def _begin(self) -> None:
        """Put the hooks on, for one step."""
        looking = not self.layers
        # What the network gives is a result, not a layer.
        candidates = self.layers or [
            Watched(i, name, module, self._layout or "step", guessed=self._layout is None)
            for i, (name, module) in enumerate(_modules(self._model))
            if module is not self._model
        ]
        self._tallies = {id(layer.module): Tally(layer, self._hooks, looking=looking) for layer in candidates}
        self._seen = Seen()
        self._hooks.callback(register_module_forward_pre_hook(self._before).remove)
        self._hooks.callback(register_module_forward_hook(self._after).remove)
        self._watching = True

    def _counts(self) -> bool:
        return self._model.training and torch.is_grad_enabled()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if module is self._model and self._counts():
            self._seen.add(x)
        tally = self._tallies.get(id(module))
        if tally is not None and isinstance(x, Tensor) and self._counts():
            tally.before(x)

    def _after(self, module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        tally = self._tallies.get(id(module))
        if tally is None:
            return
        spikes = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(spikes, Tensor) and self._counts():
            tally.after(spikes.detach())

    def _finish(self) -> None:
        """Take the hooks off, and write what they counted."""
        self._watching = False
        self._hooks.close()
        tallies, self._tallies = list(self._tallies.values()), {}
        called = any(tally.calls for tally in tallies)
        if not called and (self.layers or not self._seen.calls):
            warnings.warn(
                f"step {self._index}: no layer was called in training mode with gradients, so there is nothing to "
                "write; is this the network that is called?",
                stacklevel=3,
            )
            return
        if not self.layers:
            tallies = _spiking(tallies)
            if not tallies:
                self._tell_nothing_spikes()
                return
        if any(tally.layer.guessed and tally.calls for tally in tallies):
            doubtful = _settle(tallies, self._seen)
            if doubtful:
                shapes = ", ".join(f"{tally.layer.name} gives {list(tally.shape)}" for tally in doubtful)
                warnings.warn(
                    f"the sizes do not tell whether axis 1 is one of neurons or of time or samples ({shapes}); it is "
                    "counted as neurons: pass layout='T,B' or 'B,T' if it is not, layout='step' if it is",
                    stacklevel=3,
                )
        self.layers = tuple(tally.layer for tally in tallies)
        self.latest = [{"step": self._index, **tally.row()} for tally in tallies]
        self._sink.write(self.latest)
        for row in self.latest:
            if row["dead_share"] == 1.0 and row["layer"] not in self._dead:
                self._dead.add(row["layer"])
                warnings.warn(f"layer {row['layer']} is dead: none of its neurons fired in step {row['step']}",
                              stacklevel=3)  # fmt: skip

    def _tell_nothing_spikes(self) -> None:
        if not self._told:
            self._told = True
            warnings.warn(
                f"step {self._index}: no module within the network gives spikes for an input that is none, so nothing "
                "is written: name the modules, probe.watch(network, layers=['NAME', ...]); neurons that are no "
                "modules of their own cannot be watched",
                stacklevel=4,
            )


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
        return Watched(index, name, module, exact=True)
    # A height that is learned is 1 only at the start.
    learned = isinstance(getattr(module, "graded_spikes_factor", None), nn.Parameter)
    counting = bool((pair.spike_height == 1).all()) and not learned
    return Watched(index, name, module, pair.layout, counting, exact=True)


def _named(model: nn.Module, specs: Sequence[str], layout: str | None) -> list[Watched]:
    """The modules that the user named; one that a library's neuron is has the layout of that."""
    known = {layer.name: layer for layer in _recognised(model)}
    every = [
        replace(known[name], index=i) if name in known
        else Watched(i, name, module, layout or "step", guessed=layout is None)
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
    found = [tally for tally in tallies if tally.calls and tally.spikes]
    spiking = {id(tally.layer.module) for tally in found}
    return [tally for tally in found if not any(id(child) in spiking for child in _below(tally.layer.module))]


def _below(module: nn.Module) -> Iterator[nn.Module]:
    return (child for child in module.modules() if child is not module)


def _settle(tallies: Sequence[Tally], seen: Seen) -> list[Tally]:
    """Guessed layouts, set where the sizes tell that two axes are no neurons; gives those where they do not tell."""
    guessed = [tally for tally in tallies if tally.layer.guessed]
    # A layer that is called more often than the network is called once a timestep.
    open_ = [tally for tally in guessed if 0 < tally.calls <= seen.calls and len(tally.shape) > 2 and seen.shape]
    lead = tuple(seen.shape[:2])
    alike = bool(open_) and len(seen.shape) > 2 and all(tuple(tally.shape[:2]) == lead for tally in open_)
    two: list[Tally] = []
    doubtful: list[Tally] = []
    for tally in open_:
        first, second = tally.shape[:2]
        if second == 1 or (tuple(tally.shape[:2]) == lead and not alike):
            # Channels, which are the same in one layer only.
            continue
        if alike:
            several = len({tally.shape for tally in open_}) > 1
            (two if len(seen.shape) > 4 or several else doubtful).append(tally)
        elif second == lead[0] != first:
            (two if first % second else doubtful).append(tally)
        elif first == lead[0] and len(tally.shape) == 3 != len(seen.shape):
            doubtful.append(tally)
    for tally in guessed:
        if tally.calls:
            tally.settle("T,B" if tally in two else "step")
    return doubtful


# ---------------------------------------------------------------------------------------------- what they count


@dataclass
class Seen:
    """The network's own calls in one watched step.

    Attributes:
        calls: how many.
        shape: of the input of the first; empty where that is no tensor.
    """

    calls: int = 0
    shape: torch.Size = field(default_factory=torch.Size)

    def add(self, x: Any) -> None:
        """Count a call."""
        if not self.calls and isinstance(x, Tensor):
            self.shape = x.shape
        self.calls += 1


@dataclass
class Levels:
    """Whether the values of several calls are whole numbers of spikes of one height, and how many at most.

    Attributes:
        whole: they are, so far.
        smallest: size of the smallest that is not 0; infinite where all are.
        largest: size of the largest.
    """

    whole: bool = True
    smallest: float = math.inf
    largest: float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in those of a call."""
        if not self.whole or not values.numel():
            return
        noise, uneven = _noise(values), max(UNEVEN, _rounding(values))
        sizes = values.detach().abs().float()
        largest = float(sizes.amax())
        if not math.isfinite(largest):
            self.whole = False
        elif largest > noise:
            fired = sizes > max(noise, uneven * largest)
            smallest = float(torch.where(fired, sizes, largest).amin())
            counts = sizes / min(smallest, self.smallest)
            self.whole = bool(((counts - counts.round()).abs() <= uneven * counts.clamp(min=1)).all())
            self._join(smallest, largest, uneven)

    def _join(self, smallest: float, largest: float, uneven: float) -> None:
        """One height for all calls: those before have to be whole multiples of a smaller one."""
        if smallest < self.smallest < math.inf:
            count = self.smallest / smallest
            self.whole = self.whole and abs(count - round(count)) <= uneven * count
        self.smallest, self.largest = min(smallest, self.smallest), max(largest, self.largest)
        self.whole = self.whole and self.most <= MOST

    @property
    def most(self) -> int:
        """Spikes in one output, at most."""
        return round(self.largest / self.smallest)

    @property
    def spikes(self) -> bool:
        """They are spikes: a mean over time has several levels too, but all below 1."""
        return self.whole and (self.most <= 1 or self.smallest >= 1 - UNEVEN)


def _rounding(values: Tensor) -> float:
    return torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0


def _noise(values: Tensor) -> float:
    return max(NOISE, _rounding(values))


@dataclass
class Tally:
    """What a layer does in one watched step, added up over its calls on the device of its tensors.

    Attributes:
        layer: whose.
        hooks: takes the hooks on tensors.
        looking: whether its outputs are spikes is still to be found out.
        shape: of the output of its first call.
    """

    layer: Watched
    hooks: ExitStack
    looking: bool = False
    calls: int = 0
    shape: torch.Size = field(default_factory=torch.Size)
    _gave: Levels = field(default_factory=Levels)
    _fed: Levels = field(default_factory=Levels)
    _fired: dict[torch.Size, Tensor] = field(default_factory=dict)
    _outputs: int = 0
    _squares: list[Tensor] = field(default_factory=list)

    @property
    def spikes(self) -> bool:
        """It gave nothing but spikes, and did not just pass them on; of several at once it may make one."""
        return self._gave.spikes and (not self._fed.spikes or self._gave.most <= 1 < self._fed.most)

    def before(self, x: Tensor) -> None:
        """A call begins."""
        if self.looking:
            self._fed.add(x)
        if x.requires_grad:
            self.hooks.callback(x.register_hook(self._backward).remove)  # type: ignore[no-untyped-call]

    @unserializable_hook  # type: ignore[untyped-decorator]
    def _backward(self, gradient: Tensor) -> None:
        self._squares.append(torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32).square())

    def after(self, spikes: Tensor) -> None:
        """A call is over."""
        if not self.calls:
            self.shape = spikes.shape
        self.calls += 1
        if self.looking:
            self._gave.add(spikes)
        axes = min(_BATCH_AXES[self.layer.layout], spikes.ndim)
        if self.layer.counting:
            # Comparing takes ten times as long as adding up.
            ones = spikes.abs()
        else:
            ones = spikes != 0 if self.layer.exact else spikes.abs() > _noise(spikes)
        self._add(ones.sum(tuple(range(axes)), dtype=torch.float32))
        self._outputs += spikes.numel()

    def _add(self, fired: Tensor) -> None:
        known = self._fired.get(fired.shape)
        self._fired[fired.shape] = fired if known is None else known.add_(fired)

    def settle(self, layout: str) -> None:
        """The layout is known, after its calls were counted as `step`."""
        self.layer = replace(self.layer, layout=layout, guessed=False)
        fired, self._fired = self._fired, {}
        for counts in fired.values():
            self._add(counts.sum(0) if _BATCH_AXES[layout] > 1 and counts.ndim else counts)

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
