"""The page with the command for each family: its files are written, its commands run, beside a stand-in repository."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

import probe
from tests import paper_models, relu_models
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "families.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE))
STAND_INS = ("Models", "utils", "networks")
"""What the page's files import: the user's own modules."""


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Each section's stand-ins are its own, and what it puts on the path is taken off again."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in STAND_INS:
        sys.modules.pop(name, None)


def prepare_merged(folder: Path) -> None:
    (folder / "Models.py").write_text(
        "from tests import paper_models\ndef modelpool(name, data):\n    return paper_models.merged()\n"
    )
    state = paper_models.merged().state_dict()
    # As an old checkpoint calls them.
    torch.save({key.replace("act.thresh", "relu.up"): value for key, value in state.items()}, "cifar10-vgg16.pth")


def prepare_stepwise(folder: Path) -> None:
    (folder / "Models.py").write_text(
        "from tests import paper_models\ndef modelpool(name, data):\n    return paper_models.stepwise_ann()\n"
    )
    (folder / "utils.py").write_text(
        "from tests import paper_models\n"
        "def replace_activation_by_MPLayer(network, presim_len, sim_len):\n"
        "    return paper_models.srp(presim_len, sim_len)[1]\n"
    )
    torch.save(paper_models.stepwise_ann().state_dict(), "vgg16.pth")


def prepare_trained(folder: Path) -> None:
    (folder / "networks.py").write_text("from tests.relu_models import relu_digits as trained\n")
    images, labels = relu_models.digits_arrays()
    torch.save((images[:200], labels[:200]), "calibration.pt")


def prepare_snntorch(folder: Path) -> None:
    source = re.search(r"```python\n(.*?)```", SECTIONS["snnTorch"], re.DOTALL)
    assert source
    made: dict[str, object] = {}
    exec(source[1].replace("net.load_state_dict(state_dict)", ""), made)
    network = made["network"]
    assert callable(network)
    torch.manual_seed(0)
    torch.save(network(None).state_dict(), "torch_snn.pth")


def prepare_relu(folder: Path) -> None:
    from probe.vision import torchvision

    torch.manual_seed(0)
    torch.save(torchvision().models.resnet18(num_classes=10).state_dict(), "resnet18.pth")
    random = np.random.default_rng(0)
    np.savez("images.npz", x=random.random((20, 3, 32, 32), np.float32), y=np.arange(20) % 10)


def prepare_own(folder: Path) -> None:
    (folder / "networks.py").write_text(
        "from collections import OrderedDict\n"
        "import torch\nfrom torch import nn\nfrom probe.neurons import IF\n"
        "class MyNeuron(IF):\n    '''A neuron of the user.'''\n"
        "def trained():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(OrderedDict(flat=nn.Flatten(), one=nn.Linear(64, 32), act1=nn.ReLU(),\n"
        "                                     two=nn.Linear(32, 16), act2=nn.ReLU(), out=nn.Linear(16, 10))).eval()\n"
    )


CASES: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "QCFS, merged time": (prepare_merged, "qcfs-merged", ["if", "negspike"]),
    "QCFS, SRP and COS, stepwise": (prepare_stepwise, "qcfs-stepwise", ["srp"]),
    "SpikingJelly": (prepare_trained, "spikingjelly", ["if"]),
    "snnTorch": (prepare_snntorch, "snntorch", ["leaky"]),
    "sinabs": (prepare_trained, "sinabs", ["iaf"]),
    "A plain ReLU network": (prepare_relu, "relu", ["if"]),
    "Your own": (prepare_own, "user", ["if"]),
}
"""Section -> (what lies beside the page's file, the family, the methods of its recordings)."""


def test_every_family_has_its_section() -> None:
    assert list(SECTIONS) == [*CASES, "When the pairing is not what you mean"]


@pytest.mark.parametrize("title", CASES)
def test_the_page_runs(title: str, run: Callable[..., Result], tmp_path: Path, own_modules: None) -> None:
    make, family, methods = CASES[title]
    make(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", SECTIONS[title], re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", code)
        assert name
        (tmp_path / name[1]).write_text(code)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", SECTIONS[title], re.DOTALL)
                for line in block.splitlines()]  # fmt: skip
    assert commands
    few = (
        "--data npz:images.npz --samples 4 --calibration-samples 4" if title.startswith("A plain") else "--data digits"
    )
    made = []
    for command in commands:
        short = command.replace("--data cifar10", few).replace("-T 32", "-T 4")
        if "probe capture" in short and "--samples" not in short:
            short += " --samples 20"
        program, *arguments = shlex.split(short)
        assert program == "probe"
        result = run(*arguments)
        assert result.exit_code == 0, (command, result.output)
        assert "ORACLE" not in result.output
        if arguments[0] == "capture":
            with probe.open(tmp_path / arguments[arguments.index("-o") + 1]) as recording:
                made.append(recording.attributes["method"])
                expected = "own" if made[-1] == "negspike" else family
                assert recording.attributes["family"] == expected
                assert recording.samples in (4, 20)
    assert made == methods
