"""Everything the README shows is real: its outputs, its Python, its commands, its map."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from probe.plots import KINDS
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")


def shown() -> list[tuple[str, str]]:
    """The console blocks: command and output."""
    blocks = re.findall(r"```console\n\$ (.*)\n((?:.*\n)*?)```", README)
    assert len(blocks) == 5
    return blocks


def same(expected: str, printed: str) -> None:
    """Equal words, and numbers that differ by rounding at most.

    The network's own float sums depend on the processor: another one may flip a few of 200,000 neurons.
    """
    assert re.sub(r"\s+", " ", NUMBER.sub("#", printed)) == re.sub(r"\s+", " ", NUMBER.sub("#", expected))
    for one, other in zip(NUMBER.findall(expected), NUMBER.findall(printed), strict=True):
        first, second = (float(text.replace(",", "")) for text in (one, other))
        assert second == pytest.approx(first, rel=0.01, abs=0.0011), (one, other)


def test_outputs_are_those_of_the_commands(run: Callable[..., Result]) -> None:
    for command, output in shown():
        program, *arguments = shlex.split(command)
        assert program == "probe"
        result = run(*arguments)
        assert result.exit_code == 0
        same(output, result.stdout)


def test_a_wrong_output_would_be_noticed() -> None:
    same("T = 8, 1,000 of 0.5", "T = 8, 1,001 of 0.5")
    with pytest.raises(AssertionError):
        same("T = 8, 1,000", "T = 8, 1,100")
    with pytest.raises(AssertionError):
        same("grid 0.5", "unevenness 0.5")


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n((?:.*\n)*?)```", README)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "(200, 16, 8, 8)"
    assert 0.95 < float(lines[1]) <= 1


def test_the_map_names_what_is_there() -> None:
    block = README.split("The data's way, from top to bottom:")[1].split("```")[1]
    for path in re.findall(r"(?:probe/)?([a-z_]+(?:\.py|/))", block):
        if path != "probe/":
            assert (ROOT / "probe" / path).exists(), path
    for module in (ROOT / "probe").iterdir():
        if not module.name.startswith(("_", "py.", "errors", "layers")):
            assert module.name in block or module.name + "/" in block, module.name
    for kind in KINDS:
        assert f"`{kind}`" in README
