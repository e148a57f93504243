"""Every example is run: those of the package's docstrings, of the pages, and the commands that the pages show."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from spikingjelly.activation_based import neuron
from torch import nn

from probe import diagnosis, plots
from probe.cli import main
from probe.data import DATA_SETS
from probe.methods import METHODS
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
Recordings = Callable[..., Path]
MODULES = [path for path in sorted((ROOT / "probe").rglob("*.py")) if ">>> " in path.read_text()]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))}  # fmt: skip
EXAMPLES = [name for name, text in PAGES.items() if "\n>>> " in text]


@pytest.fixture
def folder(recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recording as the examples have it."""
    shutil.copy(recordings(), tmp_path / "recording.h5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def relu(folder: Path) -> Path:
    """The folder, with a recording of a ReLU network too."""
    import probe

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).eval()
    probe.capture(network, data="digits", samples=10, timesteps=4, output="relu.h5")
    return folder


def prompts(text: str) -> int:
    return len(re.findall(r"^ *>>> ", text, re.MULTILINE))


def run_examples(test: doctest.DocTest) -> int:
    """How many examples were run; all of them right."""
    told: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
    assert not any(doctest.SKIP in example.options for example in test.examples), test.name
    return len(test.examples)


def placeholders() -> dict[str, Any]:
    """What the example of `probe.watch` takes from its reader."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), neuron.LIFNode())
    loader = [(torch.full((2, 4), 9.0), torch.tensor([0, 1]))]
    return {"network": network, "loader": loader, "loss": nn.CrossEntropyLoss(),
            "optimizer": torch.optim.SGD(network.parameters(), 0.1)}  # fmt: skip


def test_the_package_has_examples() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in MODULES}
    assert names >= {"probe/__init__.py", "probe/plots/__init__.py", "probe/watching.py", "probe/recording/__init__.py"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_of_docstrings(path: Path, folder: Path) -> None:
    """Each is run: as many as there are prompts in the file, none of them skipped."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = import_module(name)
    known = {**vars(module), **(placeholders() if name == "probe.watching" else {})}
    if name == "probe.watching":
        import probe

        known["probe"] = probe
    tests = doctest.DocTestFinder().find(module, name, globs=known)
    assert sum(run_examples(test) for test in tests) == prompts(path.read_text()) > 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_pages(name: str, relu: Path) -> None:
    """The blocks of a page, from top to bottom, share their names."""
    text = PAGES[name]
    blocks = re.findall(r"^```pycon\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert sum(map(prompts, blocks)) == prompts(text), "examples stand in blocks called pycon"
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, name, 0)
    assert run_examples(test) == prompts(text)


def test_a_wrong_example_is_noticed() -> None:
    parser = doctest.DocTestParser()
    assert run_examples(parser.get_doctest(">>> 1 + 1\n2\n", {}, "right", None, 0)) == 1
    with pytest.raises(AssertionError, match="Expected"):
        run_examples(parser.get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0))
    with pytest.raises(AssertionError):
        run_examples(parser.get_doctest(">>> 1 + 1  # doctest: +SKIP\n3\n", {}, "skipped", None, 0))


# ------------------------------------------------------------------------------------------------------ Python


ELSEWHERE = {"README.md": "test_readme.py", "docs/gradients.md": "", "docs/extending.md": ""}
"""Page with blocks of Python -> the test that runs them; empty for this file. The families' are in test_docs.py."""


def test_every_block_of_python_is_run_somewhere() -> None:
    for name, text in PAGES.items():
        if "```python\n" in text and not name.startswith("docs/families/"):
            where = ELSEWHERE.get(name, f"test_{Path(name).stem}.py") or Path(__file__).name
            test = ROOT / "tests" / where
            assert test.is_file(), f"nothing runs the Python of {name}"
            assert Path(name).name in test.read_text(), f"{where} does not read {name}"
    assert prompts(PAGES["README.md"]) == 0


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """What the page registers is forgotten afterwards; its plots are looked for in the current folder too."""
    every: tuple[dict[str, Any], ...] = (METHODS, diagnosis.CHECKS, plots.KINDS, DATA_SETS)
    before = [(registry, dict(registry)) for registry in every]
    monkeypatch.setattr(plots, "__path__", [*plots.__path__, str(folder)])
    monkeypatch.syspath_prepend(str(folder))
    yield
    for registry, kept in before:
        registry.clear()
        registry.update(kept)


EXTENSIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", PAGES["docs/extending.md"], re.MULTILINE))


@pytest.mark.parametrize("title", EXTENSIONS)
def test_what_is_added_appears(
    title: str, registries: None, run: Callable[..., Result], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section, known = EXTENSIONS[title], {"__name__": "example"}
    for kind, code in re.findall(r"^```(python|toml|sh)\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        file = re.match(r"# (\w+\.py)\n", code)
        if kind == "toml":
            as_installed(code, folder)
        elif kind == "sh":
            for line in code.splitlines():
                result = run(*shlex.split(line)[1:])
                assert result.exit_code == 0, result.output
        elif file:
            (folder / file[1]).write_text(code)
        else:
            exec(compile(code, f"extending.md, {title}", "exec"), known)
    printed = capsys.readouterr().out
    import probe

    if title == "A family":
        with probe.open("burst.h5") as recording:
            assert recording.attributes["family"] == "bursting"
            (layer,) = recording.layers
            assert (layer.neuron, layer.spike_count.sum() > 0) == ("burst", True)
            assert recording.facts["law"]["0"]["broken"] is False
    elif title == "A method":
        assert (folder / "half.h5").is_file()
    elif title == "A check":
        found = ast.literal_eval(printed)
        assert found
        assert set(found) <= {"block1.act", "block2.act", "block3.act", "block4.act", "block5.act", "hidden.act"}
    elif title == "A plot":
        assert (folder / "counts.png").stat().st_size > 10_000
    elif title == "A data set":
        with probe.open("dots.h5") as recording:
            assert recording.attributes["data"] == "dots.py:dots"
    else:
        pytest.fail(f"nothing is asserted of {title}")


def as_installed(toml: str, folder: Path) -> None:
    """The entry points of a pyproject.toml as pip would leave them."""
    group, name, value = re.findall(r'\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', toml)[0]
    info = folder / "made_here-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-here\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")


def test_the_page_on_gradients(run: Callable[..., Result], tmp_path: Path) -> None:
    """Its files are run as it says, and its network is told what it shows."""
    page = PAGES["docs/gradients.md"]
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        file = re.match(r"# (\w+\.py)\n", code)
        assert file
        (tmp_path / file[1]).write_text(code)
    random = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", x=random.random((80, 1, 28, 28), np.float32), y=np.arange(80) % 10)
    (command, with_loss) = (line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
                            for line in block.splitlines())  # fmt: skip
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    for line in (command, with_loss):
        result = run(*shlex.split(line.replace("--data mnist", "--data npz:images.npz"))[1:], "--samples", "8")
        assert result.exit_code == 1
        assert " ".join(shown.split()) in " ".join(result.stdout.split())
    assert "spikes = spike(membrane_potential - self.threshold)" in " ".join(result.stdout.split())


# ---------------------------------------------------------------------------------------------------- commands


def shown_commands() -> list[tuple[str, list[str]]]:
    """The words behind every `probe` in a block for a shell, with the page."""
    found = []
    for name, text in PAGES.items():
        for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            # What a console prints is no command.
            for line in [one for one in lines if one.startswith("$ ")] or lines:
                lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=";&|>")
                lexer.whitespace_split = True
                words = list(lexer)
                for start in [i for i, word in enumerate(words) if re.fullmatch(r"(.*/)?probe", word)]:
                    rest = words[start + 1 :]
                    end = next((i for i, word in enumerate(rest) if set(word) <= set(";&|>")), len(rest))
                    found.append((name, rest[:end]))
    return [(name, words) for name, words in found if words and words[0] != "..."]


def test_every_command_that_is_shown_is_understood() -> None:
    """Its options exist, and their values are of the right kind; nothing is run."""
    shown = shown_commands()
    assert len(shown) > 60
    wrong = []
    for name, shown_words in shown:
        words = ["phi" if word == "KIND" else word for word in shown_words if word != "..."]
        line = shlex.join(words)
        command = main.get_command(main.make_context("probe", ["--help"], resilient_parsing=True), words[0])
        if command is None:
            wrong.append(f"{name}: {line}: no such command")
            continue
        try:
            command.make_context(words[0], [*words[1:]])
        except Exception as error:
            wrong.append(f"{name}: probe {line}: {getattr(error, 'message', error)}")
    assert not wrong, "\n".join(wrong)
