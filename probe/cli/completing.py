"""What a shell may offer after TAB: the names that a command takes, and the layers of the recording on its line.

A completion says nothing and offers nothing where it cannot know: no file, however damaged, raises, hangs or prints.
What is offered goes into the user's command line as it is, so a name from a file is offered only if it is a plain word.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

VARIABLE = "_PROBE_COMPLETE"
"""The environment variable with which a shell asks."""
RECORDING = "recording"
"""The type of an item that stands for the recordings in a folder; a shell that has no filter offers all files."""
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/+-]{0,199}")
"""A name that a shell takes as it stands."""
MOST = 200
"""Layers that are offered."""
SECONDS = 2.0
"""Of processor time, after which a recording that is not open yet is given up."""

BASH = r"""%(complete_func)s() {
    local type value name
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            plain) COMPREPLY+=("$value") ;;
            dir) compopt -o dirnames 2>/dev/null ;;
            file) compopt -o default 2>/dev/null ;;
            recording)
                compopt +o nosort -o filenames -o default 2>/dev/null
                # Half of a name with a line break is none.
                while IFS= read -r name; do [[ -e ${name/#~\//~/} ]] && COMPREPLY+=("$name"); done \
                    < <(compgen -f -X '!*.h5' -- "$value"; compgen -d -- "$value") ;;
        esac
    done < <(env PROBE_LINE="${COMP_LINE:0:COMP_POINT}" PROBE_BREAKS="$COMP_WORDBREAKS" \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""Unlike click's it keeps names with spaces and stars whole, knows words with colons, and finds recordings."""

ZSH = ZshComplete.source_template.replace(" -U", "").replace(
    "%(complete_func)s() {\n", "%(complete_func)s() {\n    compset -P 1 '--*='\n", 1
)
"""click's, but it leaves `--option=` where it is: zsh does not put back what was set aside before matches of -U."""

FISH = r"""function %(complete_func)s
    set -l before (string match -r -- '^--[^=]*=|^' (commandline -ct))
    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -ct) \
            %(prog_name)s 2>/dev/null)
        set -l parts (string split -m 1 , -- $line)
        switch $parts[1]
            case plain
                printf '%%s\n' $before$parts[2]
            case dir
                printf '%%s\n' $before(__fish_complete_directories $parts[2])
            case file
                printf '%%s\n' $before(__fish_complete_path $parts[2])
        end
    end
end
complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""
"""Unlike click's it keeps what stands behind a comma, and `--option=`."""


class Bash(BashComplete):
    """bash, from 4.4 on."""

    source_template = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """From the line: bash cuts words at colons too, and `zoo:digits` is one."""
        line = os.environ.get("PROBE_LINE", "")
        # A space at the end may be part of the last word, or part it from an empty one: one more letter tells.
        *words, last = split_arg_string(line + "_")
        incomplete = last[:-1]
        self.behind = ""
        if ":" in os.environ.get("PROBE_BREAKS", ":"):
            self.behind = incomplete[: incomplete.rfind(":") + 1]
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Without what stands before the last colon, for bash puts it behind that."""
        return f"{item.type},{str(item.value).removeprefix(self.behind)}"


class Zsh(ZshComplete):
    """zsh."""

    source_template = ZSH

    def format_completion(self, item: CompletionItem) -> str:
        """As click does, for its script knows files, and no recordings."""
        return super().format_completion(CompletionItem(item.value, "file") if item.type == RECORDING else item)


class Fish(FishComplete):
    """fish."""

    source_template = FISH

    def format_completion(self, item: CompletionItem) -> str:
        """In a line, whatever the version of click."""
        kind = "file" if item.type == RECORDING else item.type
        return f"{kind},{item.value}" + (f"\t{' '.join(item.help.split())}" if item.help else "")


CLASSES: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}


def register() -> None:
    """Let click answer these shells in our way."""
    for name, shell in CLASSES.items():
        add_completion_class(shell, name)


def script(shell: str) -> str:
    """What a shell is to run to complete `probe`."""
    return CLASSES[shell](click.Group(), {}, "probe", VARIABLE).source()


# -------------------------------------------------------------------------------------------- what is offered


def recordings(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Recordings, and folders that may have some."""
    return [CompletionItem(incomplete, RECORDING)]


def starting(names: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Those that begin with what is typed."""
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Bundled networks, or the files that may define one; recordings where the command takes them too."""
    from probe.cli.source import ZOO

    named = starting([*(f"zoo:{name}" for name in ZOO), "torchvision:"], incomplete)
    kind = RECORDING if param.default == "recording.h5" else "file"
    return named if named and incomplete else [*named, CompletionItem(incomplete, kind)]


def data_sets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Data sets, or behind a colon files."""
    from probe.cli.source import DATA

    named = starting(DATA, incomplete)
    return named or [CompletionItem(incomplete, "file")]


def methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The last of several methods, parted by commas."""
    from probe.cli.source import NEURONS

    before, comma, last = incomplete.rpartition(",")
    return [CompletionItem(before + comma + name) for name in NEURONS if name.startswith(last)]


def layers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of the layers of the recording on the line, or their indices where a number is begun."""
    file = _recording_of(ctx)
    found = layer_names(file) if file is not None else []
    # A number is taken for an index, whatever a layer is called.
    names = [
        CompletionItem(str(index), help=f"layer {index}, called {name}")
        if name.isdigit()
        else CompletionItem(name, help=f"layer {index}")
        for index, name in found
    ]
    indices = [CompletionItem(str(index), help=name) for index, name in found]
    offered = indices if incomplete[:1].isdigit() else names
    # Layers may share a name: the first tells its index.
    once: dict[str, CompletionItem] = {}
    for item in offered:
        once.setdefault(item.value, item)
    return [item for value, item in once.items() if value.startswith(incomplete)]


def _recording_of(ctx: click.Context) -> Path | None:
    """The recording on the line, or the one that the command reads without one."""
    arguments = [param.name for param in ctx.command.params if isinstance(param, click.Argument)]
    for place, name in enumerate(arguments):
        if name in ("file", "a"):
            # An option that still lacks its value keeps click from giving the arguments their names.
            said = ctx.args[place] if len(ctx.args) > place else ctx.params.get(name)
            return None if said is None else Path(said)
    return None


def layer_names(file: Path) -> list[tuple[int, str]]:
    """Index and name of a recording's layers whose names are plain words, read in a process of its own.

    Empty where the file is no recording, is damaged, or takes long to open; nothing is printed.
    """
    from probe import containment

    if not containment.can_contain() or not file.is_file():
        return []
    reading, writing = os.pipe()
    containment.contained(lambda: _tell_layers(file, writing), lambda line: None)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        text = pipe.read()
    return [(index, name) for index, name in json.loads(text or "[]")]


def _tell_layers(file: Path, writing: int) -> int:
    """In the child: write what was found, and end at once, whatever happened."""
    from probe import containment

    containment.READING = SECONDS
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        from probe.recording import open_recording

        with open_recording(file) as recording:
            known = [(layer.index, layer.name) for layer in recording.layers if PLAIN.fullmatch(layer.name)]
        # Fewer bytes than a pipe holds: nobody reads it until this process has ended.
        os.write(writing, json.dumps(known[:MOST]).encode())
    finally:
        os._exit(0)
