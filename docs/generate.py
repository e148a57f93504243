"""Writes what of the documentation follows from the code, between the markers of the pages beside this file.

    python docs/generate.py             bring every page up to date
    python docs/generate.py --check     exit with 1, and show the difference, where a page is out of date

A page holds `<!-- generated: NAME -->` ... `<!-- end: NAME -->`, with a name of `SECTIONS`; what stands between is
replaced. Nothing here depends on the terminal, the folder, the date or the packages that are installed beside probe's
own, and nothing is looked up but the code.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import click  # noqa: E402

import probe  # noqa: E402
from probe.cli import COMMANDS, READING  # noqa: E402
from probe.cli import main as program  # noqa: E402

MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n)(.*?)(<!-- end: \2 -->\n)", re.DOTALL)
DEFAULT = re.compile(r"\s*\[default: (.*)\]$")
INTRODUCED = ("from", "of", "the", "a", "an")


# ------------------------------------------------------------------------------------------------------ Markdown


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells may hold anything but line breaks."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in line) + " |"
                     for line in lines) + "\n"  # fmt: skip


def code(text: str) -> str:
    """Text as code; nothing for no text."""
    return f"`{text}`" if text else ""


def escaped(text: str) -> str:
    """A sentence in which Markdown finds no emphasis and no tags, but the code that it has."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(\*|<(?=[A-Za-z/!]))", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def sentence(text: str | None) -> str:
    """The first sentence of a docstring, or its first line if that is one."""
    first = inspect.cleandoc(text or "").split("\n\n")[0]
    return escaped(" ".join(first.split()))


def blocks(help_text: str) -> Iterator[str]:
    """A command's help, written for click, as Markdown: examples to paste, lists as they are, paragraphs."""
    for block in inspect.cleandoc(help_text).split("\n\n"):
        kept = block.startswith("\b\n")
        text = block.removeprefix("\b\n")
        example = re.match(r"Example:\s+", text)
        if example:
            lines = [line.strip() for line in text[example.end() :].splitlines()]
            yield "```sh\n" + "\n".join(lines) + "\n```\n"
        elif kept:
            yield "```text\n" + textwrap.dedent(text).rstrip() + "\n```\n"
        else:
            yield escaped(" ".join(text.split())) + "\n"


# ------------------------------------------------------------------------------------------------------ commands


def commands() -> str:
    """Every command as click knows it."""
    found = [*blocks(program.help or "")]
    context = click.Context(program, info_name="probe")
    rows = [[f"[`probe {name}`](#probe-{name})", sentence(command(name).help)] for name in COMMANDS]
    found.append(table(["command", "what it does"], rows))
    for name in COMMANDS:
        found.append(f"## probe {name}\n")
        found += of_command(name, context)
    return "\n".join(found)


def command(name: str) -> click.Command:
    """One by its name."""
    loaded: click.Command = import_module(f"probe.cli.{name.replace('-', '_')}").command
    return loaded


def of_command(name: str, parent: click.Context) -> Iterator[str]:
    """Its usage, its help, its arguments and options."""
    one = command(name)
    context = click.Context(one, info_name=name, parent=parent)
    arguments = [param for param in one.params if isinstance(param, click.Argument)]
    options = [param for param in one.params if isinstance(param, click.Option)]
    words = " ".join(param.make_metavar(ctx=context) for param in arguments)
    yield f"```text\nprobe {name} {'[OPTIONS] ' if options else ''}{words}".rstrip() + "\n```\n"
    yield from blocks(one.help or "")
    if arguments:
        rows = []
        for param in arguments:
            choices = ", ".join(map(code, param.type.choices)) if isinstance(param.type, click.Choice) else ""
            word = code(param.make_metavar(ctx=context))
            rows.append([word, "required" if param.required else default_of(param), choices])
        yield table(["argument", "default", "choices"], rows)
    yield table(
        ["option", "default", "what it does"],
        [[spelled(param, context), default_of(param), escaped(DEFAULT.sub("", param.help or ""))] for param in options],
    )


def spelled(option: click.Option, context: click.Context) -> str:
    """An option with what it takes, as in `-o, --output FILE`."""
    names = ", ".join(sorted([*option.opts, *option.secondary_opts], key=len))
    taken = "" if option.is_flag else " " + option.make_metavar(ctx=context)
    unsaid = option.multiple and "repeat" not in (option.help or "")
    return code(names + taken) + (", repeatable" if unsaid else "")


def default_of(param: click.Parameter) -> str:
    """What stands where nothing is given; empty for nothing."""
    said = DEFAULT.search(getattr(param, "help", None) or "")
    if said:
        return escaped(said[1])
    value = param.to_info_dict().get("default")
    if value is None or value is False or value == () or type(value).__name__ == "UNSET" or "Sentinel" in repr(value):
        return ""
    return code(str(value))


def exit_codes() -> str:
    """What `probe.cli` exits with."""
    from probe.cli import EXIT_CHECK, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_OURS

    meant = {
        0: "done",
        EXIT_CHECK: "a check that was asked for failed: `--strict`, `--fail-if`, `--fail-on`, `verify`, `gradients`",
        EXIT_INPUT: "the input is at fault; one line on stderr has what was got, what was expected and the next step",
        EXIT_OURS: "an error of probe itself, with a traceback",
        EXIT_INTERRUPTED: "interrupted (Ctrl-C)",
    }
    return table(["exit code", "meaning"], [[str(number), text] for number, text in sorted(meant.items())])


def reading() -> str:
    """The commands that only read recordings."""
    return ", ".join(f"[`{name}`](#probe-{name})" for name in READING) + "\n"


# ----------------------------------------------------------------------------------------------- what is registered


def anchored(names: Iterable[tuple[str, str]], header: Sequence[str]) -> str:
    """A table of things that have a heading of their own on the page."""
    return table(header, [[f"[`{name}`](#{name})", escaped(text)] for name, text in names])


def checks() -> str:
    """Those of a recording."""
    from probe.diagnosis import CHECKS

    return anchored([(name, check.summary) for name, check in CHECKS.items()], ["check", "what it looks for"])


def live_checks() -> str:
    """Those of live networks."""
    from probe.diagnosis.networks import LIVE

    return table(["check", "what it looks for"], [[code(name), escaped(one.summary)] for name, one in LIVE.items()])


def faults() -> str:
    """What stops a capture."""
    from probe.diagnosis.networks import FAULTS

    return table(["finding", "usual causes, and what to do"], [[code(name), escaped(text)] for name, text in
                                                               FAULTS.items()])  # fmt: skip


def plots() -> str:
    """Kinds of pictures, and what each may be told."""
    from probe.plots import KINDS

    flags = {"timestep": "-t", "sample": "--sample", "neurons": "--neuron", "neuron": "--neuron"}
    rows = []
    for name, plot in KINDS.items():
        takes = ([] if plot.over == "network" else ["--layer"]) + [flags[word] for word in plot.takes]
        rows.append([f"[`{name}`](#{name})", escaped(plot.summary), ", ".join(map(code, takes))])
    return table(["kind", "what it shows", "takes"], rows)


def methods() -> str:
    """Conversion methods."""
    from probe.methods import METHODS

    rows = [[code(name), escaped(one.summary), "yes" if one.causal else "no"] for name, one in METHODS.items()]
    return table(["method", "what it does", "one run gives every t"], rows)


def data_sets() -> str:
    """Names of data."""
    from probe.data import DATA_SETS

    rows = []
    for name, kind in DATA_SETS.items():
        shown = f"{name}:{kind.takes.upper()}" if kind.takes else name
        rows.append([code(shown), code(kind.normalize), "`--image-size`" if kind.resizes else ""])
    rows.append(["`file.py:callable`, `package.module:callable`", "`none`", ""])
    return table(["`--data`", "normalised by", "takes"], rows)


def normalizations() -> str:
    """Named means and deviations."""
    from probe.data import NORMALIZATIONS

    def shown(values: Any) -> str:
        return ", ".join(f"{float(value):g}" for value in values)

    rows = []
    for name, value in NORMALIZATIONS.items():
        pair = tuple(value) if isinstance(value, Sequence) else (getattr(value, "mean", ()), getattr(value, "std", ()))
        rows.append([code(name), *(shown(part) for part in pair)])
    return table(["`--normalize`", "means", "deviations"], rows)


def presets() -> str:
    """What a recording keeps."""
    from probe.recording.schema import FIELDS, PRESETS

    rows = [[code(preset), ", ".join(code(name) for name, first in FIELDS.items() if first == preset) or
             "statistics, logits, facts"] for preset in PRESETS]  # fmt: skip
    return table(["`--record`", "adds, for each layer"], rows)


def models() -> str:
    """Bundled networks."""
    from probe.zoo import ZOO

    rows = [[code(f"zoo:{name}"), sentence(made.__doc__), code(data or "")] for name, (made, data) in ZOO.items()]
    return table(["MODEL", "what it is", "bundled data"], rows)


def families() -> str:
    """Families of spiking networks, by what `probe layers --model` and a recording call them."""
    from probe.models import SPIKING

    rows = []
    for module in SPIKING:
        doc = inspect.cleandoc(module.__doc__ or "").splitlines()[0]
        rows.append([f"[`{module.NAME}`](families/{module.NAME}.md)", escaped(doc)])
    return table(["family", "networks"], rows)


def attributes_of(kind: type) -> list[tuple[str, str]]:
    """The names of a dataclass's docstring with what is said of each."""
    doc = inspect.cleandoc(kind.__doc__ or "")
    said = re.search(r"Attributes:\n(.*?)(?:\n\S|\n\n\S|\Z)", doc, re.DOTALL)
    assert said, kind
    found = re.findall(r"^    ([\w, ]+): (.*(?:\n      .*)*)", said[1], re.MULTILINE)
    return [(name, " ".join(text.split())) for names, text in found for name in names.split(", ")]


def fields_of(kind: type) -> str:
    """The attributes of a dataclass, with defaults."""
    defaults = {}
    for one in dataclasses.fields(kind):
        plain = one.default is not dataclasses.MISSING and isinstance(one.default, str | int | float | tuple | None)
        defaults[one.name] = repr(one.default) if plain else ""
    rows = [[code(name), code(defaults[name]), escaped(text)] for name, text in attributes_of(kind)]
    return table(["attribute", "default", "meaning"], rows)


def traits() -> str:
    """How neurons may differ."""
    return fields_of(probe.Traits)


def layer_pair() -> str:
    """What a layer is."""
    return fields_of(probe.LayerPair)


def subject() -> str:
    """What a network is."""
    return fields_of(probe.Subject)


def terms() -> str:
    """The pieces of an error, with the colours of the pictures left out."""
    from probe.attribution import CASES, PIECES, RESIDUALS

    rows = [["cases", ", ".join(map(code, CASES))], ["pieces", ", ".join(map(code, PIECES))],
            ["residual potential", ", ".join(map(code, RESIDUALS))]]  # fmt: skip
    return table(["", "names in JSON"], rows)


def public_names() -> str:
    """What `import probe` gives."""
    found = []
    for name in probe.__all__:
        thing = getattr(probe, name)
        if not callable(thing):
            found.append(f"### `probe.{name}`\n\nThe version, text.\n")
            continue
        found.append(f"### `probe.{name}`\n")
        if inspect.isclass(thing):
            found.append(f"A class. {sentence(thing.__doc__)}\n")
        else:
            found.append(f"```text\nprobe.{name}{called(thing)}\n```\n\n{sentence(thing.__doc__)}\n")
    return "\n".join(found)


def called(function: Callable[..., Any]) -> str:
    """The parameters of a function, with plain defaults."""
    words, starred = [], False
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.VAR_POSITIONAL:
            starred = True
        elif one.kind is one.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        mark = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        plain = isinstance(one.default, str | int | float | bool | tuple | None)
        value = "" if one.default is one.empty else f"={one.default!r}" if plain else "=..."
        words.append(mark + one.name + value)
    text = f"({', '.join(words)})"
    return text if len(text) <= 100 else "(\n    " + ",\n    ".join(words) + ",\n)"


SECTIONS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "reading": reading,
    "exit-codes": exit_codes,
    "checks": checks,
    "live-checks": live_checks,
    "faults": faults,
    "plots": plots,
    "methods": methods,
    "data-sets": data_sets,
    "normalizations": normalizations,
    "presets": presets,
    "models": models,
    "families": families,
    "traits": traits,
    "layer-pair": layer_pair,
    "subject": subject,
    "terms": terms,
    "public-names": public_names,
}
"""Name in a marker -> what writes it."""


# --------------------------------------------------------------------------------------------------------- pages


def pages() -> list[Path]:
    """Every page of this folder."""
    return sorted(HERE.rglob("*.md"))


def renewed(text: str) -> str:
    """A page with what is generated of it as the code has it now."""
    return MARKED.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n{found[4]}", text)


def outdated() -> Iterator[tuple[Path, str, str]]:
    """Pages that are not as the code has it: path, text, what the text should be."""
    for path in pages():
        text = path.read_text()
        new = renewed(text)
        if new != text:
            yield path, text, new


def run(check: bool) -> int:
    """Write what is out of date; or only tell, and return 1."""
    found = 0
    for path, text, new in outdated():
        found += 1
        name = path.relative_to(HERE.parent).as_posix()
        if check:
            lines = difflib.unified_diff(text.splitlines(), new.splitlines(), name, f"{name}, generated", lineterm="")
            sys.stdout.write("\n".join(lines) + "\n")
        else:
            path.write_text(new)
            sys.stdout.write(f"{name}\n")
    if check and found:
        sys.stdout.write("out of date; run python docs/generate.py\n")
    return int(check and found > 0)


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
