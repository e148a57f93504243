"""Every notebook runs, and prints what stands in it: `PROBE_REFRESH=1 pytest tests/test_notebooks.py` renews that."""

from __future__ import annotations

import base64
import copy
import difflib
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import ROOT

FOLDER = ROOT / "notebooks"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb")))
WITH_ARCHIVE = "3-unevenness-grid-inherited"
LARGEST = 400_000
"""Bytes of a notebook, so that it opens at once where code is hosted."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
COMMON = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE",
}  # fmt: skip
"""One thread, and the instructions that every x86 processor has. With those of this one, sums are rounded otherwise:
of the ResNet-20 one image in 100 is classified otherwise (SRP at t = 2 and 4), and a training ends at 0.89 for 0.80.
"""
FLOATS = FOLDER / "floats.txt"
"""A hash of some floats, as the processor rounded them that made the outputs."""
FLOATS_CODE = """
import hashlib
import torch
from torch import nn
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 1, stride=2),
    nn.AvgPool2d(2), nn.Sigmoid(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
)
optimizer = torch.optim.Adam(network.parameters(), 1e-3)
for _ in range(5):
    loss = nn.functional.cross_entropy(network(torch.randn(50, 3, 16, 16)), torch.arange(50) % 10)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in network.parameters())).hexdigest())
"""
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
OF_THE_MACHINE = re.compile(r"/(?:tmp|home|root|work|opt|usr|var|Users)/|ipykernel_|\b\d+it/s\b")
"""What differs from one machine or run to the next."""


class ThisPython(KernelSpecManager):
    """Knows one kernel: the interpreter that runs the tests, whatever is installed on the machine."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=launch, display_name="Python 3", language="python")


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(name: str, folder: Path, data: Path | None) -> NotebookNode:
    """The notebook, run in a folder of its own by a kernel that imports this checkout and reads nobody's settings."""
    notebook = read(name)
    jupyter, work = folder / "jupyter", folder / "work"
    work.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MPL", "IPYTHON", "JUPYTER"))}
    environment |= {
        **COMMON, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(jupyter), "JUPYTER_RUNTIME_DIR": str(jupyter),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }  # fmt: skip
    if data is not None:
        environment["PROBE_CIFAR10"] = str(data / "cifar10-jpeg.npz")
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    # Times are not recorded: they would differ in every run.
    client = NotebookClient(notebook, km=manager, timeout=240, record_timing=False)
    client.execute(env=environment, cwd=str(work))
    warned = [output.text for cell in notebook.cells for output in cell.get("outputs", ())
                if output.get("name") == "stderr" and "Warning" in output.text]  # fmt: skip
    assert not warned, warned
    return clean(notebook)


def clean(notebook: NotebookNode) -> NotebookNode:
    """As it is kept: streams in one piece, no metadata of a run, and no stderr.

    What is written there is of the machine: progress bars, missing fonts, what torch did not find.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type != "code":
            continue
        merged: list[NotebookNode] = []
        for output in cell.outputs:
            if output.get("name") == "stderr":
                continue
            if output.output_type == "stream" and merged and merged[-1].get("name") == output.name:
                merged[-1].text += output.text
                continue
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
            merged.append(output)
        cell.outputs = merged
    return notebook


def shown(notebook: NotebookNode) -> list[str]:
    """The outputs as lines of text; of a picture, that it is there."""
    lines = []
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        lines.append(f"[{number + 1}]")
        for output in cell.outputs:
            if output.output_type == "stream":
                lines += [f"{output.name}: {line}" for line in output.text.splitlines()]
            elif output.output_type == "error":
                lines.append(f"error: {output.ename}: {output.evalue}")
            else:
                lines += [f"{kind}: {line}" for kind, data in sorted(output.data.items())
                          for line in (["a picture"] if kind == "image/png" else str(data).splitlines())]  # fmt: skip
    return lines


def near(one: str, other: str) -> bool:
    """Equal words, and numbers that are of the same size: 0.1 or 30% apart at most."""
    if NUMBER.sub("#", one).split() != NUMBER.sub("#", other).split():
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(
        math.isclose(*(float(text.replace(",", "")) for text in pair), rel_tol=0.3, abs_tol=0.1) for pair in pairs
    )


def difference(committed: NotebookNode, now: NotebookNode, *, exact: bool = True) -> list[str]:
    """What is printed now and was not, and the other way round; empty where all is as it was."""
    before, after = shown(committed), shown(now)
    if not exact and len(before) == len(after) and all(map(near, before, after)):
        return []
    return list(difflib.unified_diff(before, after, "committed", "now", n=0, lineterm=""))


@pytest.fixture(scope="module")
def floats() -> str:
    """How this processor rounds."""
    run = subprocess.run(
        [sys.executable, "-c", FLOATS_CODE], env={**os.environ, **COMMON}, capture_output=True, text=True, check=True
    )
    return run.stdout


def check(name: str, folder: Path, floats: str, data: Path | None = None) -> None:
    """Run a notebook and compare, to the last digit where floats are rounded alike; or write down what it printed."""
    now = executed(name, folder, data)
    if os.environ.get("PROBE_REFRESH"):
        (FOLDER / f"{name}.ipynb").write_text(nbformat.writes(now, indent=1) + "\n")
        FLOATS.write_text(floats)
        return
    alike = floats == FLOATS.read_text()
    if not alike:
        warnings.warn("this processor rounds floats otherwise: numbers are compared roughly", stacklevel=2)
    changed = difference(read(name), now, exact=alike)
    assert not changed, "\n".join(changed) + "\nif this is meant: PROBE_REFRESH=1 pytest tests/test_notebooks.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != WITH_ARCHIVE])
def test_it_prints_what_stands_in_it(name: str, tmp_path: Path, floats: str) -> None:
    check(name, tmp_path, floats)


@pytest.mark.slow
def test_the_resnet_prints_what_stands_in_it(tmp_path: Path, floats: str, shared_data: Path) -> None:
    check(WITH_ARCHIVE, tmp_path, floats, shared_data)


def test_the_five_are_there_and_are_explained() -> None:
    assert [name[0] for name in NAMES] == list("12345")
    assert WITH_ARCHIVE in NAMES
    explained = (FOLDER / "README.md").read_text()
    for name in NAMES:
        assert f"({name}.ipynb)" in explained


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_tells_nothing_of_the_machine(name: str) -> None:
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert len(text.encode()) < LARGEST
    notebook = read(name)
    assert notebook == clean(notebook), "PROBE_REFRESH=1 pytest tests/test_notebooks.py"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for line in shown(notebook):
        assert not OF_THE_MACHINE.search(line), line
        assert not line.startswith("error:"), line
    pictures = [
        output.data["image/png"] for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")


def edited(notebook: NotebookNode, change: Any) -> NotebookNode:
    """A copy in which the first output that `change` takes is another."""
    copied = copy.deepcopy(notebook)
    for cell in copied.cells:
        for output in cell.get("outputs", ()):
            if change(cell, output):
                return copied
    raise AssertionError("nothing to change")


def digit(_cell: NotebookNode, output: NotebookNode) -> bool:
    """Another last digit of a number that is printed."""
    if output.output_type != "stream" or not re.search(r"\d(?=\D*$)", output.text):
        return False
    output.text = re.sub(r"\d(?=\D*$)", lambda found: str((int(found[0]) + 1) % 10), output.text)
    return True


def no_picture(cell: NotebookNode, output: NotebookNode) -> bool:
    """A picture that is not drawn any more."""
    if "image/png" not in output.get("data", {}):
        return False
    cell.outputs.remove(output)
    return True


def not_printed(cell: NotebookNode, output: NotebookNode) -> bool:
    """What was printed is printed no more."""
    if output.output_type != "stream":
        return False
    cell.outputs.remove(output)
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_output_would_be_noticed(name: str) -> None:
    committed = read(name)
    assert not difference(committed, committed)
    for change in (digit, no_picture, not_printed):
        assert difference(committed, edited(committed, change)), change.__name__
    for change in (no_picture, not_printed):
        assert difference(committed, edited(committed, change), exact=False), change.__name__


def test_what_is_near() -> None:
    assert near("SNN 0.89 of 1,000", "SNN  0.80 of 1,100")
    assert not near("SNN 0.89", "ANN 0.89")
    assert not near("SNN 0.89", "SNN 0.20")
    assert not near("1,000 neurons", "100 neurons")


def test_a_failing_cell_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is this Python with this checkout, and what fails in it fails the test."""
    notebook = nbformat.v4.new_notebook(metadata=METADATA, cells=[
        nbformat.v4.new_code_cell("import os, sys, probe\nprint(sys.executable, probe.__file__, os.getcwd(), sep='|')"),
        nbformat.v4.new_code_cell("1 / 1"),
    ])  # fmt: skip
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path)
    nbformat.write(notebook, tmp_path / "one.ipynb")
    (line,) = [line for line in shown(executed("one", tmp_path, None)) if line.startswith("stdout: ")]
    python, module, folder = line.removeprefix("stdout: ").split("|")
    assert (python, Path(module), Path(folder)) == (sys.executable, ROOT / "probe" / "__init__.py", tmp_path / "work")
    notebook.cells[1].source = "1 / 0"
    nbformat.write(notebook, tmp_path / "two.ipynb")
    (tmp_path / "work").rmdir()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        executed("two", tmp_path, None)
