"""The pages of the families: their files are written, their commands run, and their traits are those recorded."""

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
from probe.attribution import why_not_even
from probe.models import SPIKING
from probe.recording import Layer
from tests import paper_models, relu_models
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = ROOT / "docs" / "families"
PAGES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.md"))}
INDEX = (ROOT / "docs" / "families.md").read_text()
STAND_INS = ("Models", "utils", "networks")
"""What the pages' files import: the user's own modules."""


@pytest.fixture
def own_modules() -> Iterator[None]:
    """Each page's stand-ins are its own, and what it puts on the path is taken off again."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in list(sys.modules):
        if name.split(".")[0] in STAND_INS:
            del sys.modules[name]


def prepare_merged(folder: Path) -> None:
    (folder / "Models.py").write_text(
        "from tests import paper_models\ndef modelpool(name, data):\n    return paper_models.merged()\n"
    )
    state = paper_models.merged().state_dict()
    # As an old checkpoint calls them.
    torch.save({key.replace("act.thresh", "relu.up"): value for key, value in state.items()}, "cifar10-vgg16.pth")


def prepare_stepwise(folder: Path) -> None:
    """The repositories' functions by name: what they make is chosen by their arguments, which differ."""
    (folder / "Models").mkdir()
    (folder / "Models" / "VGG.py").write_text(
        "from tests import paper_models\ndef vgg16(num_classes):\n    return paper_models.digits()\n"
    )
    (folder / "utils.py").write_text(
        "from tests import paper_models\n"
        "def replace_maxpool2d_by_avgpool2d(model):\n    return model\n"
        "def replace_activation_by_floor(model, t):\n    return paper_models.stepwise_ann(t)\n"
        "def replace_activation_by_neuron(model):\n    return paper_models.stepwise()[1]\n"
        "def replace_activation_by_MPLayer(model, presim_len, sim_len, batchsize=None):\n"
        "    if batchsize is not None:\n        return paper_models.cos(presim_len, sim_len, batchsize)[1]\n"
        "    return paper_models.srp(presim_len, sim_len)[1]\n"
    )
    torch.save(paper_models.stepwise_ann().state_dict(), "vgg16.pth")


def prepare_trained(folder: Path) -> None:
    (folder / "networks.py").write_text("from tests.relu_models import relu_digits as trained\n")
    images, labels = relu_models.digits_arrays()
    torch.save((images[:200], labels[:200]), "calibration.pt")


def prepare_snntorch(folder: Path) -> None:
    source = re.search(r"```python\n(.*?)```", PAGES["snntorch"], re.DOTALL)
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


def prepare_user(folder: Path) -> None:
    (folder / "networks.py").write_text(
        "from collections import OrderedDict\n"
        "import torch\nfrom torch import nn\nfrom probe.neurons import IF\n"
        "class MyNeuron(IF):\n    '''A neuron of the user.'''\n"
        "def trained():\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(OrderedDict(flat=nn.Flatten(), one=nn.Linear(64, 32), act1=nn.ReLU(),\n"
        "                                     two=nn.Linear(32, 16), act2=nn.ReLU(), out=nn.Linear(16, 10))).eval()\n"
    )


def nothing(_folder: Path) -> None:
    pass


CASES: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "qcfs-merged": (prepare_merged, "qcfs-merged", ["if", "negspike"]),
    "qcfs-stepwise": (prepare_stepwise, "qcfs-stepwise", ["if"]),
    "srp": (prepare_stepwise, "qcfs-stepwise", ["srp"]),
    "cos": (prepare_stepwise, "qcfs-stepwise", ["cos"]),
    "spikingjelly": (prepare_trained, "spikingjelly", ["if", "lif"]),
    "snntorch": (prepare_snntorch, "snntorch", ["leaky"]),
    "sinabs": (prepare_trained, "sinabs", ["iaf", "iaf"]),
    "own": (nothing, "own", ["if", "srp"]),
    "relu": (prepare_relu, "relu", ["if"]),
    "user": (prepare_user, "user", ["if"]),
}
"""Page -> (what lies beside the page's file, the family, the methods of its recordings)."""
HEADINGS = ["How it is recognised", "The command", "Traits", "What may be claimed", "Traps"]


def test_every_family_has_its_page() -> None:
    assert set(PAGES) == set(CASES)
    assert {family for _, family, _ in CASES.values()} == {module.NAME for module in SPIKING} | {"own", "relu", "user"}
    for name, page in PAGES.items():
        assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS, name
        assert f"`{CASES[name][1]}`" in page
        assert f"](families/{name}.md)" in INDEX


@pytest.mark.parametrize("name", CASES)
def test_the_page_runs(name: str, run: Callable[..., Result], tmp_path: Path, own_modules: None) -> None:
    make, family, methods = CASES[name]
    make(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL):
        named = re.match(r"# (\w+\.py)\n", code)
        assert named
        (tmp_path / named[1]).write_text(code)
    commands = [line for block in re.findall(r"```sh\n(.*?)```", PAGES[name], re.DOTALL) for line in block.splitlines()]
    assert commands
    few = "--data npz:images.npz --samples 4 --calibration-samples 4" if name == "relu" else "--data digits"
    made, paths = [], []
    for command in commands:
        short = re.sub(r"-T (16|25|32)", "-T 4", command.replace("--data cifar10", few))
        if "probe capture" in short and "--samples" not in short:
            short += " --samples 10"
        program, *arguments = shlex.split(short)
        assert program == "probe"
        result = run(*arguments)
        assert result.exit_code == 0, (command, result.output)
        assert "ORACLE" not in result.output
        if arguments[0] == "capture":
            paths.append(tmp_path / arguments[arguments.index("-o") + 1])
            with probe.open(paths[-1]) as recording:
                made.append(recording.attributes["method"])
                expected = "own" if made[-1] == "negspike" else family
                assert recording.attributes["family"] == expected
                assert recording.samples in (4, 10)
    assert made == methods
    expected = traits_table(paths)
    assert expected in PAGES[name], f"the traits of {name}.md are now\n\n{expected}"


def traits_table(paths: list[Path]) -> str:
    """What is recorded of the neurons, a column for each recording of the page."""
    columns = []
    for path in paths:
        with probe.open(path) as recording:
            found = [described(layer) for layer in recording.layers]
            assert all(one == found[0] for one in found)
            columns.append(found[0])
    rows = [["", *(f"`{path.name}`" for path in paths)], *[["---"] * (len(paths) + 1)]]
    rows += [[key, *(column[key] for column in columns)] for key in columns[0]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def described(layer: Layer) -> dict[str, str]:
    told = {
        "`neuron`": layer.neuron, "v(0) / θ": f"{layer.initial_fraction:g}", "layout": f"`{layer.info.layout}`",
        **{f"`{name}`": str(value).lower() if isinstance(value, bool) else f"`{value}`"
           for name, value in layer.traits.items()},
    }  # fmt: skip
    claimed = "no ANN" if not layer.paired else why_not_even(layer.traits, layer.initial_fraction) or "all"
    return {**told, "claimed": claimed}
