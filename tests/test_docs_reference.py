"""Nothing is undocumented, nothing that is generated is out of date, every link leads somewhere."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import numpy as np
import pytest
from click.testing import Result

import probe
from probe import diagnosis, training
from probe.attribution import CASES, PIECES, RESIDUALS, TERMS, Coding
from probe.attribution.analog import OFFSETS
from probe.attribution.common import LEVEL_TOLERANCE, TIE
from probe.cli import COMMANDS, main
from probe.data import DATA_SETS
from probe.diagnosis import networks
from probe.figures import FIGURES, RESAMPLES
from probe.methods import METHODS
from probe.models import SPIKING
from probe.plots import KINDS
from probe.plots.colours import CASE_LABELS, TERM_LABELS
from probe.recording.behind import PART_BYTES, PART_SECONDS, WAITING_BYTES
from probe.recording.schema import PRESETS
from probe.zoo import ZOO
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text()
         for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))}  # fmt: skip


@pytest.fixture(scope="module")
def generate() -> types.ModuleType:
    """docs/generate.py as a module."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def page(name: str) -> str:
    return PAGES[f"docs/{name}"]


def sections(text: str, level: int = 3) -> dict[str, str]:
    """Heading -> what stands below it, up to the next of its level or above."""
    marks = "#" * level
    return dict(re.findall(rf"^{marks} (.*)\n((?:(?!^#{{1,{level}}} ).*\n)*)", text, re.MULTILINE))


# --------------------------------------------------------------------------------------------------- generated


def test_what_is_generated_is_up_to_date(generate: types.ModuleType) -> None:
    stale = [path.relative_to(ROOT).as_posix() for path, _, _ in generate.outdated()]
    assert not stale, f"run python docs/generate.py: {', '.join(stale)}"


def test_every_section_stands_on_a_page_once(generate: types.ModuleType) -> None:
    found = [name for text in PAGES.values() for _, name, _, _ in generate.MARKED.findall(text)]
    assert sorted(found) == sorted(generate.SECTIONS)
    assert sum(text.count("<!-- generated:") for text in PAGES.values()) == len(found), "a marker has no end"


def test_the_check_shows_a_difference_and_exits_with_1(tmp_path: Path) -> None:
    """In a folder of its own, elsewhere, in a narrow terminal and another language, without optional packages."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "absent").mkdir()
    for name in ("spikingjelly", "snntorch", "sinabs", "pyarrow", "xarray", "nbformat", "sklearn", "tensorboard"):
        (tmp_path / "absent" / f"{name}.py").write_text("raise ImportError(__name__)\n")
    (tmp_path / "probe").symlink_to(ROOT / "probe")
    (tmp_path / "docs" / "generate.py").write_text((DOCS / "generate.py").read_text())
    edited = page("commands.md").replace("| 130 | interrupted", "| 131 | interrupted")
    assert edited != page("commands.md")
    target = tmp_path / "docs" / "commands.md"
    target.write_text(edited)
    script = str(tmp_path / "docs" / "generate.py")
    environment = {"PATH": "", "COLUMNS": "40", "TERM": "dumb", "LANG": "C", "HOME": str(tmp_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, script, *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", cwd="/",
            env={**environment, "PYTHONUTF8": "1", "PYTHONPATH": str(tmp_path / "absent")},
        )  # fmt: skip

    told = run("--check")
    assert (told.returncode, told.stderr) == (1, "")
    assert "-| 131 | interrupted" in told.stdout
    assert "+| 130 | interrupted" in told.stdout
    assert target.read_text() == edited
    assert run().returncode == 0
    assert target.read_text() == page("commands.md")
    assert run("--check").returncode == 0


# ------------------------------------------------------------------------------------------------ undocumented


def parameters() -> Iterator[tuple[str, click.Command, click.Parameter]]:
    context = main.make_context("probe", ["--help"], resilient_parsing=True)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command
        for parameter in command.params:
            yield name, command, parameter


def test_every_command_and_option_says_what_it_is() -> None:
    silent = []
    for name, command, parameter in parameters():
        said = command.help or ""
        if not re.search(r"^\s*Example:\s+(.*\| *)?probe ", said, re.MULTILINE):
            silent.append(f"probe {name} has no example")
        if isinstance(parameter, click.Option) and not parameter.help:
            silent.append(f"probe {name} {parameter.opts[0]} has no help")
        if isinstance(parameter, click.Argument) and parameter.name not in ("file", "shell"):
            word = (parameter.metavar or str(parameter.name).upper()).strip("[].")
            if word not in said:
                silent.append(f"probe {name} does not say what {word} is")
    assert not silent, "\n".join(dict.fromkeys(silent))


def test_every_command_and_option_is_on_the_page() -> None:
    found = sections(page("commands.md"), 2)
    for name, _, parameter in parameters():
        section = found[f"probe {name}"]
        for word in parameter.opts if isinstance(parameter, click.Option) else ():
            assert re.search(rf"`[^`]*(?<![\w-]){re.escape(word)}\b", section), (name, word)
    assert set(found) >= {f"probe {name}" for name in COMMANDS}
    assert all(f"`probe {name}`" in PAGES["CHANGELOG.md"] for name in COMMANDS)


def test_every_check_is_explained() -> None:
    found = sections(page("diagnosis.md"))
    assert list(found) == list(diagnosis.CHECKS)
    for name, text in found.items():
        assert re.search(r"\*Means:\*.*\*Evidence:\*.*\*Remedy:\*", text, re.DOTALL), name
    live = sections(page("diagnosis.md"), 2)["Checks of live networks"]
    assert re.findall(r"^- `([\w-]+)`: ", live, re.MULTILINE) == list(networks.LIVE)
    faults = sections(page("diagnosis.md"), 2)["Faults that stop a capture"]
    assert re.findall(r"^\| `([\w-]+)` ", faults, re.MULTILINE) == list(networks.FAULTS)
    table = sections(page("gradients.md"), 2)["What is looked for"]
    told = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)}
    assert told == set(training.CHECKS)


def test_every_finding_is_a_check_that_is_explained() -> None:
    """The names that the code gives to findings, read from it."""
    named = set()
    for path in [*(ROOT / "probe" / "diagnosis").glob("*.py"), *(ROOT / "probe" / "training").glob("*.py")]:
        named |= set(re.findall(r'Finding\(\s*"([\w-]+)"', path.read_text()))
        named |= set(re.findall(r'_finding\(\s*(?:live|recording), "([\w-]+)"', path.read_text()))
    known = {*diagnosis.CHECKS, *networks.LIVE, *networks.FAULTS, *training.CHECKS}
    assert len(named) > 30
    assert named - known == {"skipped"}
    assert "`skipped`" in page("diagnosis.md")


def test_every_plot_is_explained() -> None:
    assert [name for name in sections(page("plots.md")) if name in KINDS] == list(KINDS)
    assert all(len(text) > 80 for text in sections(page("plots.md")).values())


def first_column(text: str) -> set[str]:
    """The terms in the first column of all tables."""
    rows = re.sub(r"^\|.*\n(?=\| ---)", "", text, flags=re.MULTILINE)
    return {term for row in re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE) for term in re.findall(r"`(.*?)`", row)}


def test_every_method_data_set_preset_and_family_is_named() -> None:
    assert first_column(sections(page("measurement.md"), 2)["Neurons"]) == set(METHODS)
    data = first_column(sections(page("families.md"), 2)["DATA"])
    assert {name.split(":")[0] for name in data} == {*DATA_SETS, "file.py"}
    assert all(f"`{preset}`" in page("recording.md") for preset in PRESETS)
    assert all(f"`zoo:{name}`" in page("reference.md") for name in ZOO)
    for family in SPIKING:
        assert f"`{family.NAME}`" in page("families.md")
        assert (DOCS / "families" / f"{family.NAME}.md").is_file()
    trait = first_column(sections(page("families.md"), 2)["What may be claimed"])
    assert trait == set(probe.Traits().plain())


def test_every_public_name_is_described() -> None:
    found = sections(page("reference.md"))
    assert {f"`probe.{name}`" for name in probe.__all__} == {name for name in found if name.startswith("`probe.")}
    for name in probe.__all__:
        assert len(found[f"`probe.{name}`"].strip()) > 10
        assert name == "__version__" or (getattr(probe, name).__doc__ or "").strip(), name


# ------------------------------------------------------------------------------------------------------- words


KNOWN = first_column(page("glossary.md"))


def general(word: str) -> str:
    """A header without the numbers that a recording puts into it."""
    word = re.sub(r"^(T)=[1-9]\d*$", r"\1=N", word)
    return re.sub(r"^-?\d+$", "", word)


def test_words_of_the_code_are_in_the_glossary() -> None:
    words = {*CASES, *PIECES, *TERMS, *RESIDUALS, *FIGURES}
    assert words - KNOWN == set()
    labels = {label.split(",")[0] for label in TERM_LABELS.values()}
    assert labels - KNOWN == set()
    assert {label.replace("a ", "α ").replace(" a", " α") for label in CASE_LABELS.values()} - {
        term.split(" (")[0] for term in KNOWN
    } == set()


def test_every_word_of_a_table_is_in_the_glossary(
    recordings: Callable[..., Path], run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers of every table that a command prints, and the rows of those that `probe unevenness --layer` does."""
    headers: list[str] = []
    rows: list[str] = []

    def note(header: Any, found: Any, **_options: Any) -> None:
        headers.extend(header)
        rows.extend(str(row[0]) for row in found)

    for name in COMMANDS:
        module = import_module(f"probe.cli.{name.replace('-', '_')}")
        if hasattr(module, "print_table"):
            monkeypatch.setattr(module, "print_table", note)
    file = recordings()
    few = ("zoo:digits", "--samples", "10", "-T", "2")
    for arguments in (
        ("unevenness", file, "--layer", "1"), ("unevenness", recordings(neuron="srp", samples=10), "--layer", "1"),
    ):  # fmt: skip
        assert run(*arguments).exit_code == 0
    assert {general(word) for word in rows} - {""} - KNOWN == set()
    assert len(rows) > 30
    for arguments in (
        ("unevenness", file), ("accuracy", file), ("layers", file), ("diff", file, file),
        ("layers", "--model", "zoo:digits"), ("trace", file, "--neuron", "0,0,0"),
        ("what-if", file, "--layer", "1", "--samples", "2"), ("sweep", *few, "--methods", "if", "--layer", "0"),
        ("sensitivity", *few, "--layer", "0"), ("surrogate", "snntorch:fast_sigmoid", "--at", "0"),
    ):  # fmt: skip
        result = run(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert {general(word) for word in headers} - {""} - KNOWN == set()
    assert {"case 1", "inherited", "95% from", "all but (%)", "claims", "what if"} <= set(headers)


def test_the_headers_of_probe_gradients_are_in_the_glossary() -> None:
    """Its table is printed only where something spikes, so its header is read from the code."""
    source = (ROOT / "probe" / "cli" / "gradients.py").read_text()
    headers = re.findall(r'"([^"]+)"', " ".join(re.findall(r"header \+?= \[(.*?)\]", source, re.DOTALL)))
    assert len(headers) == 11
    assert set(headers) - KNOWN == set()


def test_every_axis_has_its_label_in_the_glossary(recordings: Callable[..., Path]) -> None:
    labels = set()
    with probe.open(recordings()) as recording:
        for kind, plot in KINDS.items():
            if plot.on_figure:
                continue
            layers = None if plot.over == "network" else ["1"]
            for axes in probe.draw(recording, kind, layers=layers).axes:
                labels |= {re.sub(r"^\d+ most", "N most", label) for label in (axes.get_xlabel(), axes.get_ylabel())}
    shown = first_column(sections(page("glossary.md"), 2)["Axes"])
    missing = {label for label in labels if label and not any(label.startswith(known) for known in shown)}
    assert missing == set()
    assert {known for known in shown if not any(label.startswith(known) for label in labels)} == {
        "activation a / θ, to the nearest spike"
    }


# -------------------------------------------------------------------------------------------------------- JSON


SCHEMAS = {
    schema: (command, re.findall(r"`(\w+)`", keys))
    for schema, command, keys in re.findall(r"^\| `(probe-[\w-]+/\d+)` \| `(.*?)` \| (.*) \|$", page("json.md"),
                                            re.MULTILINE)
}  # fmt: skip


def test_every_schema_of_the_code_is_described() -> None:
    """Also of commands that are no table."""
    named = set()
    for path in (ROOT / "probe").rglob("*.py"):
        named |= set(re.findall(r'"(probe-[a-z-]+/\d+)"', path.read_text()))
    described = {one for text in PAGES.values() for one in re.findall(r"`(probe-[a-z-]+/\d+)`", text)}
    assert named - described == set()
    assert set(SCHEMAS) - named == set()


def test_objects_have_the_keys_that_are_described(recordings: Callable[..., Path], run: Callable[..., Result]) -> None:
    file = recordings()
    few = ("zoo:digits", "--samples", "10", "-T", "2")
    net = (
        "import snntorch as snn\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), snn.Leaky(beta=0.9, init_hidden=True))\n"
    )
    Path("net.py").write_text(net)
    commands: dict[str, tuple[object, ...]] = {
        "unevenness": (file,), "accuracy": (file,), "layers": (file,), "trace": (file, "--neuron", "0,0,0"),
        "layers --model": ("zoo:digits",), "what-if": (file, "--layer", "1", "--samples", "2"),
        "check": (file, "--fail-if", "ann < 0"), "diagnose": (file, "--fail-on", "error"), "diff": (file, file),
        "sweep": (*few, "--methods", "if"), "sensitivity": (*few, "--layer", "0"),
        "surrogate": ("snntorch:fast_sigmoid",), "gradients": ("net.py:net", "--data", "digits", "--samples", "4"),
        "verify": (file,),
    }  # fmt: skip
    told = {"probe-figures/1": list(probe.error_figures(file))}
    rows = {}
    for command, arguments in commands.items():
        result = run(*command.split(), *arguments, "--json")
        assert result.exit_code in (0, 1), (command, result.output)
        found = json.loads(result.stdout)
        told[found["schema"]] = list(found)
        lists = {name: value for name, value in found.items() if isinstance(value, list)}
        rows |= {(command, name): sorted({key for row in value for key in row}) for name, value in lists.items()
                 if value and isinstance(value[0], dict)}  # fmt: skip
        assert SCHEMAS[found["schema"]][0] == command
        if command == "unevenness":
            keys = first_column(sections(page("json.md"), 2)["A layer of `probe unevenness`"])
            assert keys == {*found["layers"][0], "reason"}
    assert told == {schema: keys for schema, (_, keys) in SCHEMAS.items()}
    described = re.findall(r"^\| `(.*?)` \| `(\w+)` \| (.*) \|$", sections(page("json.md"), 2)["Rows"], re.MULTILINE)
    del rows["unevenness", "layers"]
    assert {(command, name): sorted(re.findall(r"`(\w+)`", keys)) for command, name, keys in described} == rows


# ----------------------------------------------------------------------------------------------------- numbers


def test_numbers_that_pages_state_are_those_of_the_code() -> None:
    measurement, scale = page("measurement.md"), page("scale.md")
    assert f"where it is more than {LEVEL_TOLERANCE:g} away" in measurement
    assert f"drawn with replacement, {RESAMPLES:,} times" in measurement
    assert f"within 10⁻{'⁰¹²³⁴⁵⁶⁷⁸⁹'[round(-math.log10(TIE))]}·θ of one" in measurement
    assert f"beyond ±{OFFSETS} all are counted together" in measurement
    assert f"parts, of {PART_BYTES >> 20} MiB or a minute each" in scale
    assert PART_SECONDS == 60
    assert f"at most {WAITING_BYTES >> 20} MB wait for it" in scale
    coding = Coding(levels=4, timestep=4, timesteps=4, initial_potential=0.5)
    code = coding.encode(np.array([[1]]), np.array([[2]]), np.float32([[0.4]]), np.float32(1.0))
    pieces = dict(zip(TERMS, coding.decode(code[0], np.array([1])).pieces()[:, 0] / 16, strict=True))
    told = {0.5: "+½", -0.25: "−¼"}
    assert f"| unevenness | (2 − 0)/4 | {told[pieces['unevenness']]} |" in measurement
    assert f"| inherited | 0 − ¼ | {told[pieces['inherited']]} |" in measurement
    later = Coding(levels=4, timestep=8, timesteps=8, initial_potential=0.0)
    code = later.encode(np.array([[1]]), np.array([[2]]), np.float32([[2.6]]), np.float32(1.0))
    row = dict(zip(TERMS, later.decode(code[0], np.array([1])).pieces()[:, 0].tolist(), strict=True))
    assert f"in 1/32, −{-row['initial_potential']} for v(0), and {row['grid']}\nfor the grid" in measurement


# ------------------------------------------------------------------------------------------------------- links


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").replace("\\", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)}


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))


def dangling(name: str, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in links(text):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = unquote(link).partition("#")
        file = (ROOT / name).parent / target if target else ROOT / name
        there = file.exists() and file.resolve().is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(file.read_text() if target else text)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    assert dangling(name, PAGES[name]) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "# A `b` c\n\n[x](#a-b-c) [y](#a-b) [z](README.md) [g](gone.md) [w](families.md#data) [v](families.md#dat)"
    assert dangling("docs/scale.md", text) == ["#a-b", "gone.md", "families.md#dat"]


def test_every_page_is_in_the_index() -> None:
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links(page("README.md"))}
    listed |= {(DOCS / link).resolve() for link in re.findall(r"\]\((families/[\w-]+\.md)\)", page("families.md"))}
    assert {path.resolve() for path in DOCS.rglob("*.md")} - listed == {(DOCS / "README.md").resolve()}


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## {re.escape(probe.__version__)}\b", PAGES["CHANGELOG.md"], re.MULTILINE)


def test_pages_speak_of_the_project_alone() -> None:
    """No paths of a machine and no hosts of registries: what a reader has is a clone."""
    for name, text in PAGES.items():
        assert not re.search(r"/(?:home|root|work|opt|Users)/\w|localhost|--index-url|pypi\.", text), name
