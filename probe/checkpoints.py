"""A checkpoint: read without running code that it may hold, and fitted to a network by the names of its tensors."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probe.errors import ProbeError
from probe.userfile import call, listed

NESTED = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "weights", "params")
"""Where training scripts keep the state dict in what they save; the first of these that holds tensors is taken."""
WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put into the names of a network's tensors."""
THRESHOLDS = ("thresh", "up", "threshold")
"""What QCFS code calls the trained threshold of an activation, itself called `act` or `relu`."""
WRITTEN = "a file that torch.save or safetensors wrote"
SAVE = "save it with torch.save(network.state_dict(), FILE)"
TORCH = (b"PK", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
"""How a file of torch.save starts: as a zip archive, before torch 1.6 with a pickled number."""
NAMED = 3
"""An error names at most this many tensors of a kind."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        state: dotted name -> tensor, on the CPU.
        sha256: of the file, as hex digits.
    """

    state: dict[str, Tensor]
    sha256: str


# --------------------------------------------------------------------------------------------------------- read


def read_checkpoint(path: str | os.PathLike[str], *, trust: bool = False) -> Checkpoint:
    """The state dict in a `.safetensors` file, or in one that `torch.save` wrote.

    Args:
        path: the file; its state dict may be nested, as in `{"epoch": 90, "state_dict": {...}}`.
        trust: unpickle what is more than tensors, for instance a whole module. That can run any code.

    Raises:
        ProbeError: the file cannot be read, would have to be unpickled, or holds no state dict.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ProbeError(f"checkpoint {path} is a folder", expected=WRITTEN)
        if not path.is_file():
            raise ProbeError(f"no checkpoint {path}", expected=WRITTEN)
        if path.stat().st_size == 0:
            raise ProbeError(f"checkpoint {path} is empty", expected=WRITTEN)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ProbeError(f"checkpoint {path} cannot be read ({error.strerror})", expected=WRITTEN) from None
    held = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, trust)
    return Checkpoint(_without_wrappers(_state_in(held, path)), digest)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ProbeError(f"checkpoint {path} cannot be read ({error})", expected="a whole .safetensors file") from None


def _read_torch(path: Path, trust: bool) -> Any:
    try:
        return _load(path, weights_only=True)
    except Exception as error:
        script = "TorchScript" in str(error)
        if not (script or isinstance(error, pickle.UnpicklingError)) or not _start(path).startswith(TORCH):
            raise _unreadable(path) from None
        if not trust:
            raise _refusal(path, script, str(error)) from None
    return call(f"unpickling {path}", _unpickle, path=path)


def _load(path: Path, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        # They speak of options of torch.load, which the user did not call.
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _unpickle(path: Path) -> Any:
    try:
        return _load(path, weights_only=False)
    except (ImportError, AttributeError) as error:
        raise ProbeError(
            f"checkpoint {path} needs code that cannot be imported ({error})",
            expected="the code that it was saved with",
            next_step=f"add its folder to PYTHONPATH, or {SAVE}",
        ) from None
    except (pickle.UnpicklingError, EOFError):
        raise _unreadable(path) from None


def _refusal(path: Path, script: bool, text: str) -> ProbeError:
    """Why a file of torch.save was not unpickled."""
    asked = re.search(r"GLOBAL (\S*[^\s.])(\s|$)", text)
    if asked:
        got = f"checkpoint {path} is more than tensors: unpickling it needs {asked[1]}"
    elif script:
        got = f"checkpoint {path} is a TorchScript archive"
    else:
        got = f"checkpoint {path} is damaged, or more than tensors"
    return ProbeError(
        got,
        expected="a state dict",
        next_step=f"{SAVE}, or pass --trust-checkpoint if you trust who made it: unpickling can run any code",
    )


def _unreadable(path: Path) -> ProbeError:
    start = _start(path)
    if start.startswith(b"version https://git-lfs"):
        return ProbeError(f"{path} only points to a Git LFS file", expected=WRITTEN, next_step="run git lfs pull")
    if start.startswith(TORCH):
        return ProbeError(f"checkpoint {path} is damaged, cut off or not from torch.save", expected=WRITTEN)
    if start.startswith(b"\x80"):
        return ProbeError(f"{path} is a pickle that is not from torch.save", expected=WRITTEN, next_step=SAVE)
    return ProbeError(f"{path} is no checkpoint", expected=WRITTEN)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _state_in(held: Any, path: Path) -> dict[str, Tensor]:
    if found := _inside(held):
        return found
    if not isinstance(held, Mapping):
        got = f"checkpoint {path} holds no state dict but a {type(held).__name__}"
    else:
        got = f"checkpoint {path} has no state dict, or several; its keys: {listed(map(str, held)) or 'none'}"
    raise ProbeError(got, expected=f"tensors, or a mapping of them under one of {', '.join(NESTED)}", next_step=SAVE)


def _inside(held: Any, depth: int = 4) -> dict[str, Tensor]:
    """The first level of nested mappings that holds tensors by name; empty where there is none, or several."""
    if isinstance(held, nn.Module):
        held = held.state_dict()
    if not isinstance(held, Mapping) or depth == 0 or "param_groups" in held:
        return {}
    for name in NESTED:
        if found := _inside(held.get(name), depth - 1):
            return found
    nested = [found for value in held.values() if (found := _inside(value, depth - 1))]
    if nested:
        return nested[0] if len(nested) == 1 else {}
    tensors = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return {name: value.detach() for name, value in tensors.items()}


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in [f"{wrapper}." for wrapper in WRAPPERS] * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


# ---------------------------------------------------------------------------------------------------------- fit


def fit(network: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load `state` into `network`, which it has to fit in every name and shape; only batch counters may be missing.

    Names that differ in what wraps a network (`module.`, `_orig_mod.`) or in what a QCFS threshold is called
    (`relu.up`, `act.thresh`) are told apart only where that is needed. If it does not fit, nothing is changed.

    Args:
        network: what is loaded into.
        state: dotted name -> tensor.
        what: how the user named the checkpoint, for errors.

    Raises:
        ProbeError: the network has no shapes yet, or a name or shape does not fit.
    """
    for name, tensor in _named_tensors(network):
        if is_lazy(tensor):
            raise ProbeError(
                f"{name} of the network has no shape yet",
                expected=f"a network that {what} can be loaded into",
                next_step="run it once on a batch before returning it",
            )
        if tensor.is_meta:
            raise ProbeError(
                f"{name} of the network is on the meta device",
                expected=f"a network that {what} can be loaded into",
                next_step="build it on the CPU",
            )
    own = network.state_dict()
    source = _matched(list(own), list(state))
    missing = [name for name in own if name not in source and _is_weight(name, own[name])]
    unexpected = [name for name in state if name not in set(source.values())]
    shapes = [
        f"{name} {list(state[given].shape)} for {list(own[name].shape)}"
        for name, given in source.items()
        if not _same_shape(state[given], own[name])
    ]
    problems = [
        f"{len(names)} {problem} ({listed(names, NAMED)})"
        for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise ProbeError(
            f"{what} does not fit the network: {', '.join(problems)}",
            expected="the weights of this architecture",
            next_step="build the network with the arguments that it was trained with",
        )
    fitting = {name: state[given].reshape(own[name].shape) for name, given in source.items()}
    try:
        network.load_state_dict({**own, **fitting})
    except RuntimeError as error:
        raise ProbeError(f"{what} cannot be loaded into the network ({error})") from None


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _is_weight(name: str, value: Any) -> bool:
    """False for what a network does without: batch counters, and extra state that is no tensor."""
    return isinstance(value, Tensor) and not name.endswith("num_batches_tracked")


def _same_shape(given: Tensor, own: Tensor) -> bool:
    """A scalar may have the shape () or [1]."""
    return given.shape == own.shape or (given.numel() == own.numel() == 1 and max(given.ndim, own.ndim) == 1)


def _matched(own: list[str], given: list[str]) -> dict[str, str]:
    """The network's name -> the checkpoint's: the same name, else the only one that means the same."""
    source = {name: name for name in own if name in set(given)}
    free, left = ([name for name in names if name not in source] for names in (own, given))
    mine, theirs = _by_meaning(free), _by_meaning(left)
    for meaning, names in mine.items():
        candidates = theirs.get(meaning, [])
        if len(names) == len(candidates) == 1:
            source[names[0]] = candidates[0]
    return source


def _by_meaning(names: list[str]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        found.setdefault(_meaning(name), []).append(name)
    return found


def _meaning(name: str) -> tuple[str, ...]:
    """A name's parts without wrappers; a threshold's without what the activation and the threshold are called."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    if parts and parts[-1] in THRESHOLDS:
        parts.pop()
        if parts and parts[-1] in ("act", "relu"):
            parts.pop()
        parts.append("thresh")
    return tuple(parts)
