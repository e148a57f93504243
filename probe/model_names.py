"""What a user's name for a model stands for: a bundled network, one of torchvision's, or what their own code makes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from probe import vision, zoo
from probe.checkpoints import Checkpoint, fit, read_checkpoint
from probe.errors import ProbeError
from probe.userfile import call, listed, resolve, takes

FORMS = "zoo:NAME, torchvision:NAME, path/to/file.py:callable or package.module:callable"
ACCEPTED = "an nn.Module, a pair (ann, snn) of them, or a probe.Subject"
NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Opened:
    """A model as its name gave it.

    Attributes:
        model: an nn.Module, a pair (ann, snn) of them, or an object with `snn` and `layers`, as a `Subject` has.
        name: how the user named it.
        data: the bundled data that it was trained on; None where the user has to name it.
        checkpoint_sha256: of the checkpoint file, empty without one.
        random: True where the weights are known to be untrained.
    """

    model: Any
    name: str
    data: str | None = None
    checkpoint_sha256: str = ""
    random: bool = False


def open_model(
    name: str, arguments: Mapping[str, Any] = NONE, *, checkpoint: Path | None = None, trust: bool = False
) -> Opened:
    """The model that `name` stands for, with the weights of `checkpoint` where one is given.

    Args:
        name: `zoo:NAME`, `torchvision:NAME`, `path/to/file.py:callable` or `package.module:callable`; instead of a
            callable also the module, pair or Subject itself.
        arguments: what the callable, or torchvision's builder, is called with.
        checkpoint: loaded into the network; a callable with a parameter `state_dict` gets its tensors instead.
        trust: unpickle a checkpoint that is more than tensors, which can run any code.

    Raises:
        ProbeError: there is no such model, the arguments or the checkpoint do not fit, or the callable raises or
            returns something else.
    """
    kind, colon, rest = name.partition(":")
    if kind == "zoo" and colon:
        return _from_zoo(name, rest, arguments, _read(checkpoint, trust), checkpoint)
    if kind == "torchvision" and colon:
        return _from_torchvision(name, rest, arguments, _read(checkpoint, trust), checkpoint)
    if not colon and not name.endswith(".py"):
        near = get_close_matches(name, zoo.ZOO)
        raise ProbeError(
            f"unknown model {name!r}", expected=FORMS, next_step=f"did you mean zoo:{near[0]}?" if near else ""
        )
    vision.prepare()
    found = resolve(name)
    weights = _read(checkpoint, trust)
    sha256 = weights.sha256 if weights else ""
    if _is_model(found):
        if arguments:
            raise ProbeError(f"{name} is not called, so it takes no --model-arg {next(iter(arguments))}")
        return Opened(_fitted(name, found, weights, checkpoint), name, checkpoint_sha256=sha256)
    if not callable(found):
        raise ProbeError(f"{name} is {_described(found)}", expected=f"a callable that returns {ACCEPTED}")
    if takes(found, "state_dict"):
        model = call(name, found, **_with_state(name, found, arguments, weights))
        weights = None
    else:
        model = call(name, found, **arguments)
    if not _is_model(model):
        raise ProbeError(f"{name} returned {_described(model)}", expected=ACCEPTED)
    return Opened(_fitted(name, model, weights, checkpoint), name, checkpoint_sha256=sha256)


def parse_arguments(pairs: Sequence[str]) -> dict[str, Any]:
    """`["width=8", "act=relu"]` as `{"width": 8, "act": "relu"}`: a Python literal, or else the text itself.

    Raises:
        ProbeError: one is no `key=value` with a name as the key, or a key is given twice.
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ProbeError(f"--model-arg {pair!r}", expected="KEY=VALUE with a parameter's name as KEY")
        if key in arguments:
            raise ProbeError(f"--model-arg {key} is given twice", expected="each key once")
        try:
            arguments[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            arguments[key] = text
    return arguments


def _read(checkpoint: Path | None, trust: bool) -> Checkpoint | None:
    return None if checkpoint is None else read_checkpoint(checkpoint, trust=trust)


def _from_zoo(
    name: str, rest: str, arguments: Mapping[str, Any], weights: Checkpoint | None, checkpoint: Path | None
) -> Opened:
    network = zoo.load(rest)
    if arguments:
        raise ProbeError(
            f"{name} takes no --model-arg {next(iter(arguments))}", expected="the network as it is bundled"
        )
    model = _fitted(name, network, weights, checkpoint)
    return Opened(model, name, zoo.ZOO[rest][1], weights.sha256 if weights else "")


def _from_torchvision(
    name: str, rest: str, arguments: Mapping[str, Any], weights: Checkpoint | None, checkpoint: Path | None
) -> Opened:
    models = vision.torchvision().models
    known = models.list_models()
    if rest.lower() not in known:
        near = get_close_matches(rest.lower(), known)
        raise ProbeError(
            f"unknown model {name}",
            expected="torchvision:NAME with a name of torchvision.models.list_models()",
            next_step=f"near it: {listed(near)}" if near else "",
        )
    if "weights" in arguments:
        raise ProbeError(
            f"{name} with --model-arg weights, which would be downloaded", expected="--checkpoint FILE for its weights"
        )
    network = call(name, models.get_model_builder(rest), weights=None, **arguments)
    model = _fitted(name, network, weights, checkpoint)
    return Opened(model, name, None, weights.sha256 if weights else "", random=weights is None)


def _with_state(name: str, function: Any, arguments: Mapping[str, Any], weights: Checkpoint | None) -> dict[str, Any]:
    """The arguments of a callable that loads the tensors of the checkpoint itself."""
    if weights is None:
        needed = inspect.signature(function).parameters["state_dict"].default is inspect.Parameter.empty
        if needed and "state_dict" not in arguments:
            raise ProbeError(f"{name} needs a state_dict", next_step="pass --checkpoint FILE")
        return dict(arguments)
    if "state_dict" in arguments:
        raise ProbeError(f"{name} gets state_dict from --checkpoint and from --model-arg", expected="one of them")
    return {**arguments, "state_dict": weights.state}


def _fitted(name: str, model: Any, weights: Checkpoint | None, checkpoint: Path | None) -> Any:
    if weights is None:
        return model
    if not isinstance(model, nn.Module):
        raise ProbeError(
            f"{name} gives {_described(model)}, and --checkpoint is loaded into a single network",
            expected="a callable with a parameter state_dict",
            next_step="add it: it gets the tensors of the checkpoint, to load them where they belong",
        )
    fit(model, weights.state, what=str(checkpoint))
    return model


def _is_model(found: Any) -> bool:
    if isinstance(found, tuple):
        return len(found) == 2 and all(isinstance(part, nn.Module) for part in found)
    if isinstance(found, (type, ModuleType)):
        return False
    return isinstance(found, nn.Module) or (hasattr(found, "snn") and hasattr(found, "layers"))


def _described(found: Any) -> str:
    if found is None:
        return "None"
    if isinstance(found, tuple):
        return f"a tuple of {listed(type(part).__name__ for part in found) or 'nothing'}"
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"an object of type {type(found).__name__}"
