"""Checkpoints: what is read, what is never executed, and what fits a network."""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from probe.checkpoints import fit, read_checkpoint
from probe.errors import ProbeError


class Threshold(nn.Module):
    """A QCFS activation as the merged-time code has it."""

    def __init__(self) -> None:
        super().__init__()
        self.thresh = nn.Parameter(torch.tensor([8.0]))


class Net(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.fc = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.act = Threshold()


class Evil:
    """Creates a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(file: str, *parts: str, trust: bool = False) -> str:
    """The error of reading `file`: one line that has all the parts."""
    with pytest.raises(ProbeError) as caught:
        read_checkpoint(file, trust=trust)
    line = str(caught.value)
    assert "\n" not in line
    for part in (file, *parts):
        assert part in line
    return line


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def trained() -> dict[str, Tensor]:
    """A state dict of `Net` with whole numbers that no fresh network has."""
    state = Net().state_dict()
    return {name: torch.full_like(value, 10 + i) for i, (name, value) in enumerate(state.items())}


# --------------------------------------------------------------------------------------------------------- read


def test_every_format(folder: Path) -> None:
    state = trained()
    save_file(state, "a.safetensors")
    torch.save(state, "a.pth")
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "a.pth", "old.pth"):
        checkpoint = read_checkpoint(Path(file))
        assert equal(dict(sorted(checkpoint.state.items())), dict(sorted(state.items())))
        assert checkpoint.sha256 == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_kinds_of_tensors(folder: Path) -> None:
    state = {"half": torch.ones(2).half(), "flag": torch.tensor(True), "none": torch.ones(0), "count": torch.tensor(3)}
    torch.save({**state, "weight": nn.Parameter(torch.ones(2))}, "a.pth")
    read = read_checkpoint("a.pth").state
    assert {name: value.dtype for name, value in read.items()} == {
        **{name: value.dtype for name, value in state.items()},
        "weight": torch.float32,
    }
    assert not any(value.requires_grad or isinstance(value, nn.Parameter) for value in read.values())


NESTINGS: list[Any] = [
    lambda state: {"epoch": 3, "state_dict": state, "optimizer": torch.optim.Adam([torch.ones(1)]).state_dict()},
    lambda state: {"net": state, "acc": 0.9, "epoch": 3},
    lambda state: {"model": state, "ema": {"fc.weight": torch.zeros(1)}},
    lambda state: {"checkpoint": {"model_state_dict": state}},
    lambda state: {"loss": torch.tensor(0.5), "trained": state},
    lambda state: {**state, "epoch": 3, "note": "text", 7: torch.ones(1)},
    lambda state: OrderedDict((f"module.{name}", value) for name, value in state.items()),
    lambda state: {"network": {f"_orig_mod.module.{name}": value for name, value in state.items()}},
    lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
]


@pytest.mark.parametrize("nest", NESTINGS)
def test_nested_and_wrapped(nest: Any, folder: Path) -> None:
    torch.save(nest(trained()), "a.pth")
    assert equal(read_checkpoint("a.pth").state, trained())


def test_an_optimizer_with_state_beside_it(folder: Path) -> None:
    network = Net()
    optimizer = torch.optim.Adam(network.parameters())
    network.fc(torch.ones(1, 3)).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    torch.save({"mine": network.state_dict(), "optimizer": optimizer.state_dict()}, "a.pth")
    assert equal(read_checkpoint("a.pth").state, dict(network.state_dict()))
    torch.save(optimizer.state_dict(), "a.pth")
    refused("a.pth", "no state dict, or several; its keys: state, param_groups")


def test_mixed_prefixes_are_kept(folder: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, "a.pth")
    assert list(read_checkpoint("a.pth").state) == ["module.a", "b"]


def test_no_state_dict(folder: Path) -> None:
    torch.save({"generator": {"a": torch.ones(1)}, "critic": {"a": torch.ones(1)}}, "a.pth")
    refused(
        "a.pth", "several; its keys: generator, critic; expected tensors, or a mapping of them under one of state_d"
    )
    torch.save({"epoch": 3, "deep": {"deeper": {}}}, "a.pth")
    refused("a.pth", "its keys: epoch, deep")
    torch.save({}, "a.pth")
    refused("a.pth", "its keys: none")
    torch.save([torch.ones(1)], "a.pth")
    refused("a.pth", "holds no state dict but a list")
    turning: dict[str, Any] = {}
    turning["model"] = turning
    torch.save(turning, "a.pth")
    refused("a.pth", "its keys: model")


def test_no_file(folder: Path) -> None:
    refused("none.pth", "no checkpoint none.pth; expected a file that torch.save or safetensors wrote")
    (folder / "folder").mkdir()
    refused("folder", "is a folder")
    for file in ("empty.pth", "empty.safetensors"):
        Path(file).touch()
        refused(file, "is empty")
    refused("x" * 300, "cannot be read (File name too long)")


def test_no_checkpoint(folder: Path) -> None:
    written = {
        "text.pth": b"hello world\n",
        "page.pth": b"<!DOCTYPE html>\n",
        "picture.pth": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    }
    for file, text in written.items():
        Path(file).write_bytes(text)
        assert refused(file) == f"{file} is no checkpoint; expected a file that torch.save or safetensors wrote"
        assert refused(file, trust=True) == refused(file)
    Path("lfs.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n")
    refused("lfs.pth", "only points to a Git LFS file", "run git lfs pull")
    np.savez("arrays.npz", a=np.ones(2))
    refused("arrays.npz", "damaged, cut off or not from torch.save")
    Path("text.safetensors").write_bytes(b"hello world, this is text\n")
    refused("text.safetensors", "cannot be read (", "expected a whole .safetensors file")


def test_cut_off(folder: Path) -> None:
    state = trained()
    save_file(state, "a.safetensors")
    torch.save(state, "a.pth")
    torch.save(state, "old.pth", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "a.pth", "old.pth"):
        whole = Path(file).read_bytes()
        for kept in (len(whole) // 4, len(whole) // 2, len(whole) - 4):
            Path(file).write_bytes(whole[:kept])
            line = refused(file)
            assert (
                "damaged, cut off" in line or "expected a whole .safetensors file" in line or "more than tens" in line
            )
        Path(file).write_bytes(whole)
        read_checkpoint(file)


def test_what_would_run_code_is_refused(folder: Path) -> None:
    """And is not run: each of these would create a folder."""
    made = folder / "made"
    torch.save({"state_dict": {"a": torch.ones(1)}, "evil": Evil(made)}, "evil.pth")
    torch.save(Evil(made), "old.pth", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        Path(f"evil{protocol}.pkl").write_bytes(pickle.dumps(Evil(made), protocol))
    refused("evil.pth", f"more than tensors: unpickling it needs {os.name}.mkdir", "--trust-checkpoint")
    for file in ("old.pth", *(f"evil{protocol}.pkl" for protocol in range(2, 6))):
        refused(file)
    for trust in (False, True):
        refused("evil4.pkl", "is a pickle that is not from torch.save", "torch.save(network.state", trust=trust)
    assert not made.exists()
    # And the file would indeed have done it.
    assert list(read_checkpoint("evil.pth", trust=True).state) == ["a"]
    assert made.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_trusted(folder: Path) -> None:
    network = Net()
    network.load_state_dict(trained())
    torch.save({"args": argparse.Namespace(width=2), "model": network.state_dict()}, "args.pth")
    torch.save(network, "module.pth")
    torch.save({"net": nn.DataParallel(network)}, "parallel.pth")
    for file, asked in (
        ("args.pth", "argparse.Namespace"),
        ("module.pth", f"{__name__}.Net"),
        ("parallel.pth", "torch."),
    ):
        refused(file, f"unpickling it needs {asked}", "expected a state dict", "pass --trust-checkpoint if you trust")
        assert equal(read_checkpoint(file, trust=True).state, trained())
    refused_script = nn.Linear(1, 1)
    torch.jit.save(torch.jit.script(refused_script), "script.pt")  # type: ignore[no-untyped-call]
    refused("script.pt", "is a TorchScript archive", "--trust-checkpoint")
    assert list(read_checkpoint("script.pt", trust=True).state) == ["weight", "bias"]


def test_trusted_but_not_to_be_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"net": Net()}, "module.pth")

    def fails(*_: Any) -> None:
        raise ValueError("changed since")

    monkeypatch.setattr(Net, "__setstate__", fails, raising=False)
    refused("module.pth", "unpickling module.pth raised ValueError: changed since", trust=True)
    monkeypatch.delitem(globals(), "Net")
    refused("module.pth", "needs code that cannot be imported (Can't get attribute 'Net'", "PYTHONPATH", trust=True)


# ---------------------------------------------------------------------------------------------------------- fit


def misfit(network: nn.Module, state: dict[str, Tensor], *parts: str) -> str:
    """The error of fitting, which leaves the network as it was."""
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ProbeError) as caught:
        fit(network, state, what="a.pth")
    assert equal(dict(network.state_dict()), dict(before))
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line
    return line


def loaded(state: dict[str, Tensor], network: nn.Module | None = None) -> dict[str, Tensor]:
    network = network or Net()
    fit(network, state, what="a.pth")
    return dict(network.state_dict())


def renamed(**names: str) -> dict[str, Tensor]:
    return {names.get(name.replace(".", "_"), name): value for name, value in trained().items()}


def test_fits() -> None:
    assert equal(loaded(trained()), trained())
    network = Net()
    parameter = network.fc.weight
    fit(network, trained(), what="a.pth")
    assert network.fc.weight is parameter
    assert parameter.requires_grad


def test_counters_may_be_missing() -> None:
    state = trained()
    del state["norm.num_batches_tracked"]
    network = Net()
    network.norm.num_batches_tracked.fill_(5)
    assert equal(loaded(state, network), {**trained(), "norm.num_batches_tracked": torch.tensor(5)})
    del state["norm.running_mean"]
    misfit(Net(), state, "1 missing (norm.running_mean);")


def test_misfits() -> None:
    state = trained()
    misfit(
        Net(), {}, "a.pth does not fit the network: 7 missing (", " and 4 more)", "expected the weights of this arch"
    )
    extra = {f"head.{i}": torch.ones(1) for i in range(5)}
    misfit(Net(), {**state, **extra}, "network: 5 unexpected (head.0, head.1, head.2 and 2 more);")
    misfit(Net(4), state, "6 of another shape (fc.weight [2, 3] for [4, 3], ")
    one = {**state, "fc.weight": torch.ones(3, 2), "more": torch.ones(1)}
    del one["fc.bias"]
    misfit(Net(), one, "1 missing (fc.bias), 1 unexpected (more), 1 of another shape (fc.weight [3, 2] for [2, 3]);")


@pytest.mark.parametrize("name", ["act.up", "relu.up", "up", "thresh", "relu.thresh", "act.threshold", "module.act.up"])
def test_names_of_thresholds(name: str) -> None:
    assert equal(loaded(renamed(act_thresh=name)), trained())


def test_a_threshold_inside_a_longer_name() -> None:
    network = nn.Sequential(OrderedDict(layer1=nn.Sequential(nn.Linear(1, 1), Net()), layer2=Threshold()))
    names = {"layer1.1.act.thresh": "layer1.1.relu.up", "layer2.thresh": "layer2.up"}
    state = {names.get(name, name): torch.full_like(value, 3) for name, value in network.state_dict().items()}
    assert all((value == 3).all() for value in loaded(state, network).values())


def test_a_name_that_the_network_has_is_not_mapped() -> None:
    network = nn.ModuleDict({"act": Threshold(), "relu": Threshold()})
    state = {"act.thresh": torch.tensor([1.0]), "relu.up": torch.tensor([2.0])}
    assert loaded(state, network)["relu.thresh"].item() == 2
    both = {"act.thresh": torch.tensor([1.0]), "act.up": torch.tensor([2.0])}
    misfit(nn.ModuleDict({"act": Threshold()}), both, "1 unexpected (act.up)")
    twice = {"relu.up": torch.tensor([1.0]), "act.up": torch.tensor([2.0])}
    misfit(nn.ModuleDict({"act": Threshold()}), twice, "1 missing (act.thresh), 2 unexpected (relu.up, act.up)")
    misfit(nn.ModuleDict({"fc": nn.Linear(1, 1)}), {"fc.up": torch.ones(1, 1), "fc.bias": torch.ones(1)}, "1 missing")


def test_scalar_shapes() -> None:
    state = trained()
    assert loaded({**state, "act.thresh": torch.tensor(2.0)})["act.thresh"].tolist() == [2]
    assert loaded({**state, "norm.num_batches_tracked": torch.tensor([4])})["norm.num_batches_tracked"].shape == ()
    misfit(Net(), {**state, "act.thresh": torch.ones(1, 1)}, "act.thresh [1, 1] for [1]")
    misfit(Net(), {**state, "act.thresh": torch.ones(2)}, "act.thresh [2] for [1]")


def test_wrappers_on_either_side() -> None:
    mixed = renamed(fc_weight="module.fc.weight", fc_bias="_orig_mod.fc.bias", norm_weight="norm._orig_mod.weight")
    assert equal(loaded(mixed), trained())
    wrapped = loaded(trained(), nn.DataParallel(Net()))
    assert equal(wrapped, {f"module.{name}": value for name, value in trained().items()})


def test_no_shapes_yet() -> None:
    lazy = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ProbeError, match=r"^0.weight of the network has no shape yet; .*run it once on a batch"):
        fit(lazy, trained(), what="a.pth")
    with torch.device("meta"):
        network = Net()
    with pytest.raises(ProbeError, match=r"^fc.weight of the network is on the meta device; .*build it on the CPU"):
        fit(network, trained(), what="a.pth")


def test_a_network_that_refuses() -> None:
    network = Net()
    network.register_buffer("wide", torch.zeros(1).expand(3))
    with pytest.raises(ProbeError, match=r"^a.pth cannot be loaded into the network \(Error\(s\) in loading"):
        fit(network, {**trained(), "wide": torch.arange(3.0)}, what="a.pth")
