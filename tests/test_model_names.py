"""What a model's name stands for, with arguments and with a checkpoint, and what each mistake is answered with."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from probe.errors import ProbeError
from probe.model_names import Opened, open_model, parse_arguments
from probe.zoo import load

MODELS = """
from types import SimpleNamespace

import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=2, bias=True):
        super().__init__()
        self.fc = nn.Linear(3, width, bias=bias)

def pair(width=2):
    return Net(width), Net(width)

def loaded_pair(state_dict, width=2):
    networks = pair(width)
    for network in networks:
        network.load_state_dict(state_dict)
    return networks

def optional(state_dict=None):
    return Net() if state_dict is None else loaded_pair(state_dict)

def subject(layers=()):
    return SimpleNamespace(ann=Net(), snn=Net(), layers=layers)

def nothing(): ...
def number(): return 3
def triple(): return Net(), Net(), Net()
def half(): return Net(), None
def unfinished(): return Net
def fails(): raise ValueError("no weights here")

a_net, a_pair, a_subject, a_number = Net(), pair(), subject(), 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `mine.py`, which is forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("mine.py").write_text(MODELS)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def refused(name: str, *parts: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> ProbeError:
    """The error of opening `name`: one line that has all the parts."""
    with pytest.raises(ProbeError) as caught:
        open_model(name, arguments or {}, **options)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return caught.value


def checkpoint(file: str, network: nn.Module) -> Path:
    """Every tensor of `network` as ones, in a file."""
    torch.save({name: torch.ones_like(value) for name, value in network.state_dict().items()}, file)
    return Path(file)


def net_checkpoint() -> Path:
    return checkpoint("net.pth", nn.ModuleDict({"fc": nn.Linear(3, 2)}))


def all_ones(network: nn.Module) -> bool:
    return all(bool((value == 1).all()) for value in network.state_dict().values())


def test_zoo() -> None:
    opened = open_model("zoo:digits")
    assert opened == Opened(opened.model, "zoo:digits", "digits", "", random=False)
    assert torch.equal(opened.model.output.weight, load("digits").output.weight)  # type: ignore[union-attr, arg-type]
    assert open_model("zoo:resnet20-cifar10").data is None
    refused("zoo:vgg", "unknown model zoo:vgg; expected zoo:digits or")
    refused("zoo:", "unknown model zoo:")
    refused("zoo:digits", "zoo:digits takes no --model-arg levels", arguments={"levels": 4})
    other = open_model("zoo:digits", checkpoint=checkpoint("ones.pth", load("digits")))
    assert all_ones(other.model)
    assert (other.data, other.random, len(other.checkpoint_sha256)) == ("digits", False, 64)


def test_torchvision() -> None:
    opened = open_model("torchvision:squeezenet1_1", {"num_classes": 3})
    assert opened == Opened(opened.model, "torchvision:squeezenet1_1", None, "", random=True)
    assert opened.model.classifier[1].out_channels == 3
    weights = checkpoint("ones.pth", opened.model)
    loaded = open_model("torchvision:squeezenet1_1", {"num_classes": 3}, checkpoint=weights)
    assert all_ones(loaded.model)
    assert not loaded.random
    refused("torchvision:squeezenet1_1", "of another shape (classifier.1.weight", checkpoint=weights)
    refused("torchvision:resnet81", "unknown model torchvision:resnet81; expected", "near it: resnet18")
    refused("torchvision:", "unknown model torchvision:; expected torchvision:NAME with a name of")
    error = refused("torchvision:squeezenet1_1", "raised TypeError: ", "'wide'", arguments={"wide": 2})
    assert "userfile.py" not in error.trace
    refused("torchvision:resnet18", "would be downloaded; expected --checkpoint FILE", arguments={"weights": "DEFAULT"})


@pytest.mark.parametrize("source", ["mine.py", "mine"])
def test_what_a_callable_returns(source: str) -> None:
    network = open_model(f"{source}:Net", {"width": 5}).model
    assert network.fc.weight.shape == (5, 3)
    opened = open_model(f"{source}:pair")
    assert opened == Opened(opened.model, f"{source}:pair", None, "", random=False)
    assert [type(part).__name__ for part in opened.model] == ["Net", "Net"]
    assert open_model(f"{source}:subject", {"layers": (1, 2)}).model.layers == (1, 2)


def test_models_taken_as_they_are() -> None:
    for name, kind in (("a_net", nn.Module), ("a_pair", tuple), ("a_subject", SimpleNamespace)):
        assert isinstance(open_model(f"mine.py:{name}").model, kind)
        error = refused(f"mine.py:{name}", arguments={"width": 3})
        assert str(error) == f"mine.py:{name} is not called, so it takes no --model-arg width"


def test_what_is_no_model() -> None:
    accepted = "expected an nn.Module, a pair (ann, snn) of them, or a probe.Subject"
    refused("mine.py:nothing", f"mine.py:nothing returned None; {accepted}")
    refused("mine.py:number", f"returned an object of type int; {accepted}")
    refused("mine.py:triple", f"returned a tuple of Net, Net, Net; {accepted}")
    refused("mine.py:half", "returned a tuple of Net, NoneType;")
    refused("mine.py:unfinished", "returned the class Net;")
    refused("mine.py:a_number", "mine.py:a_number is an object of type int; expected a callable that returns an nn.M")
    refused("mine.py:nn", "mine.py:nn is an object of type module; expected a callable")
    assert "in fails" in refused("mine.py:fails", "mine.py:fails raised ValueError: no weights here").trace
    refused("mine.py:Net", "unexpected keyword argument 'wdth'; expected its parameters width=2", arguments={"wdth": 1})


def test_what_is_no_name() -> None:
    forms = "expected zoo:NAME, torchvision:NAME, path/to/file.py:callable or package.module:callable"
    assert str(refused("digits")) == f"unknown model 'digits'; {forms}; did you mean zoo:digits?"
    assert str(refused("something")) == f"unknown model 'something'; {forms}"
    assert str(refused("")) == f"unknown model ''; {forms}"
    refused("mine.py", "names no attribute", "it has Net, pair")
    refused("none.py:build", "no file none.py", "the current folder has mine.py")
    refused("none:build", "no module none")


def test_a_checkpoint_for_a_network() -> None:
    file = net_checkpoint()
    opened = open_model("mine.py:Net", checkpoint=file)
    assert all_ones(opened.model)
    assert opened.checkpoint_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not all_ones(open_model("mine.py:Net").model)
    refused("mine.py:Net", "net.pth does not fit the network: 2 of another", checkpoint=file, arguments={"width": 4})
    refused("mine.py:Net", "no checkpoint none.pth", checkpoint=Path("none.pth"))
    assert all_ones(open_model("mine.py:a_net", checkpoint=file).model)


def test_a_checkpoint_for_a_callable_that_takes_it() -> None:
    file = net_checkpoint()
    for name in ("loaded_pair", "optional"):
        opened = open_model(f"mine.py:{name}", checkpoint=file)
        assert len(opened.model) == 2
        assert all(all_ones(network) for network in opened.model)
        assert len(opened.checkpoint_sha256) == 64
    assert isinstance(open_model("mine.py:optional").model, nn.Module)
    refused("mine.py:loaded_pair", "mine.py:loaded_pair needs a state_dict; pass --checkpoint FILE")
    refused("mine.py:optional", "from --checkpoint and from --model-arg", arguments={"state_dict": 1}, checkpoint=file)
    refused("mine.py:loaded_pair", "raised RuntimeError: Error(s)", arguments={"width": 4}, checkpoint=file)


def test_a_checkpoint_that_has_nowhere_to_go() -> None:
    file = net_checkpoint()
    for name, given in (
        ("pair", "a tuple of Net, Net"),
        ("a_pair", "a tuple"),
        ("subject", "an object of type SimpleNamespace"),
    ):
        refused(f"mine.py:{name}", f"gives {given}", "expected a callable with a parameter state_dict", checkpoint=file)


def test_a_checkpoint_that_has_to_be_trusted() -> None:
    """A whole module is unpickled with the class beside the user's file."""
    state = torch.load(net_checkpoint())
    torch.save({"args": argparse.Namespace(), "net": state}, "args.pth")
    refused("mine.py:Net", "--trust-checkpoint", checkpoint=Path("args.pth"))
    assert all_ones(open_model("mine.py:Net", checkpoint=Path("args.pth"), trust=True).model)
    from_module = open_model("mine:Net", checkpoint=net_checkpoint()).model
    torch.save(from_module, "whole.pth")
    del sys.modules["mine"]
    sys.path.remove(str(Path.cwd()))
    assert all_ones(open_model("mine.py:Net", checkpoint=Path("whole.pth"), trust=True).model)


def test_arguments() -> None:
    pairs = ["width=8", "rate=1e-3", "act=relu", "shape=(1, 2)", "none=None", "on=True", "text='8'", "empty=", "eq=a=b"]
    assert parse_arguments(pairs) == {
        "width": 8,
        "rate": 1e-3,
        "act": "relu",
        "shape": (1, 2),
        "none": None,
        "on": True,
        "text": "8",
        "empty": "",
        "eq": "a=b",
    }
    assert parse_arguments(["path=/data/x", "call=exit()", "sum=1 + x", "date=01-02"]) == {
        "path": "/data/x",
        "call": "exit()",
        "sum": "1 + x",
        "date": "01-02",
    }
    assert parse_arguments([]) == {}
    for pair in ("width", "=3", "my-width=3", "a.b=3", ""):
        with pytest.raises(ProbeError, match=f"^--model-arg '{pair}'; expected KEY=VALUE"):
            parse_arguments([pair])
    with pytest.raises(ProbeError, match=r"^--model-arg a is given twice"):
        parse_arguments(["a=1", "b=2", "a=1"])
