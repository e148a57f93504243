"""What TAB offers: by the shells' own protocols, in a real bash, and before files that are damaged or hostile."""

from __future__ import annotations

import faulthandler
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem
from click.testing import Result

from probe.cli import COMMANDS
from probe.cli.completing import CLASSES, VARIABLE, layer_names, script
from probe.cli.source import DATA, NEURONS, ZOO
from probe.plots import KINDS
from tests.conftest import ROOT
from tests.editing import editing
from tests.synthetic import write_recording
from tests.test_cli import ok

Run = Callable[..., Result]
LAYERS = [f"block{i}.act" for i in range(1, 6)] + ["hidden.act"]


@pytest.fixture
def there(full: Path, tmp_path: Path) -> Path:
    (tmp_path / "recording.h5").symlink_to(full)
    return tmp_path


@pytest.fixture
def bash(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """What a bash that has run the script offers for lines as they are typed: a list of words for each."""
    program = tmp_path / "bin" / "probe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m probe "$@"\n')
    program.chmod(0o755)

    def ask(*lines: str, folder: Path = tmp_path) -> list[list[str]]:
        asked = "\n".join(
            f"COMP_LINE={_quoted(line)}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=(probe); COMP_CWORD=0; COMPREPLY=(x)\n"
            "_probe_completion probe; printf '%s\\0' \"${COMPREPLY[@]}\"; printf 'END\\0'"
            for line in lines
        )
        source = f'eval "$(probe completion bash)"\ncomplete -p probe >&2\n{asked}'
        path = f"{program.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "--norc", "-c", source], cwd=folder, capture_output=True, text=True, check=True,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}, timeout=200,
        )  # fmt: skip
        assert done.stderr == "complete -o nosort -F _probe_completion probe\n"
        *answers, last = done.stdout.split("END\0")
        assert last == ""
        return [[word for word in answer.split("\0") if word] for answer in answers]

    return ask


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def asked(shell: str, line: str, folder: Path) -> list[str]:
    """The lines that a shell's own script gets for a line that it asks about."""
    words = line.split()
    last = "" if line.endswith(" ") else words[-1]
    if shell == "bash":
        told = {"PROBE_LINE": line, "PROBE_BREAKS": " \t\n\"'><=;|&(:"}
    elif shell == "zsh":
        told = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - (1 if last else 0))}
    else:
        told = {"COMP_WORDS": line, "COMP_CWORD": last}
    done = subprocess.run(
        [sys.executable, "-m", "probe"], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, VARIABLE: f"{shell}_complete", "PYTHONPATH": str(ROOT), **told},
    )  # fmt: skip
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


# -------------------------------------------------------------------------------------------------------- bash


def test_bash_completes_what_is_typed(there: Path, bash: Callable[..., list[list[str]]]) -> None:
    (there / "other file.h5").symlink_to(there / "recording.h5")
    (there / "notes.txt").touch()
    (there / "bro\nken.h5").touch()
    (there / "broken\nfolder").mkdir()
    lines = {
        "probe ": list(COMMANDS),
        "probe une": ["unevenness"],
        "probe plot r": [kind for kind in KINDS if kind.startswith("r")],
        "probe capture --neuron s": [name for name in NEURONS if name.startswith("s")],
        "probe sweep --methods if,s": [f"if,{name}" for name in NEURONS if name.startswith("s")],
        "probe capture zo": [f"zoo:{name}" for name in ZOO],
        # bash takes the colon for the end of a word, and what is offered stands behind it.
        "probe capture zoo:d": ["digits"],
        "probe capture --data cif": ["cifar10", "cifar100", "cifar10-jpeg:"],
        "probe capture --data=mn": ["mnist"],
        "probe capture --record s": ["stats", "spikes"],
        "probe capture --split ": ["train", "test"],
        "probe unevenness --layer ": LAYERS,
        "probe unevenness recording.h5 --layer h": ["hidden.act"],
        "probe unevenness 'other file.h5' --layer h": ["hidden.act"],
        "probe trace --layer 5": ["5"],
        "probe unevenness none.h5 --layer ": [],
        "probe plot phi none.h5 --layer ": [],
        "probe plot phi --layer hid": ["hidden.act"],
        "probe diff recording.h5 none.h5 --layer hid": ["hidden.act"],
        "probe export --arr": ["--array"],
        "probe export --array snn": ["snn_spikes", "snn_input"],
        "probe completion ": ["bash", "zsh", "fish"],
        "probe layers re": ["recording.h5"],
        "probe layers oth": ["other file.h5"],
        "probe diff recording.h5 re": ["recording.h5"],
        "probe merge recording.h5 oth": ["other file.h5"],
        "probe layers other\\ ": ["other file.h5"],
        "probe layers 'other ": ["other file.h5"],
        "probe layers bro": [],
        "probe layers no": [],
        "probe layers bi": ["bin"],
        "probe nothing --layer ": list(COMMANDS),
    }
    for line, offered in zip(lines, bash(*lines), strict=True):
        assert offered == lines[line], line


NEEDED = {
    "bash": 'bind -x \'"\\C-g": printf "%s\\n" "$READLINE_LINE" >> lines\'',
    "zsh": 'autoload -U compinit; compinit -u -D; put() { print -r -- "$BUFFER" >> lines }; zle -N put; bindkey ^G put',
}
ALONE = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
"""No file of the user's is read."""


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


def after_keys(shell: str, *typed: str, folder: Path) -> list[str]:
    """The lines that stand behind the prompt of a shell in a terminal of its own, after keys were pressed."""
    import pty
    import select

    needs(shell)
    (folder / "lines").touch()
    child, master = pty.fork()
    if not child:
        os.chdir(folder)
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        os.execvpe(
            shell,
            ALONE[shell],
            {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb", "INPUTRC": os.devnull},
        )

    def written(lines: int) -> list[str]:
        seen, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)
            there = (folder / "lines").read_text().splitlines()
            if len(there) == lines:
                return there
        raise AssertionError(seen)

    try:
        os.write(master, f'{NEEDED[shell]}; eval "$(probe completion {shell})"; echo ready >> lines\r'.encode())
        written(1)
        for done, keys in enumerate(typed, 2):
            # The line is emptied, and ^G puts what it has become into the file.
            os.write(master, b"\x15" + keys.encode() + b"\x07")
            last = written(done)
        return last[1:]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(master)


def test_a_key_in_a_real_terminal(there: Path, bash: Callable[..., list[list[str]]]) -> None:
    """TAB pressed: readline puts what is left of the word behind the cursor."""
    for name in ("zz.h5", "mm.h5", "aa.h5", "a b.h5"):
        (there / name).symlink_to(there / "recording.h5")
    pressed = {
        "echo x; probe unev\t": "echo x; probe unevenness ",
        "probe unevenness --layer hid\t": "probe unevenness --layer hidden.act ",
        "probe unevenness --layer=hid\t": "probe unevenness --layer=hidden.act ",
        "probe capture zoo:dig\t": "probe capture zoo:digits ",
        "probe layers rec\t": "probe layers recording.h5 ",
        "probe layers a\\ \t": "probe layers a\\ b.h5 ",
        # All that is offered, in the order in which it is: files by name, layers as in the network.
        "probe layers \x1b*": "probe layers a\\ b.h5 aa.h5 bin mm.h5 recording.h5 zz.h5 ",
        "probe unevenness --layer \x1b*": f"probe unevenness --layer {' '.join(LAYERS)} ",
    }
    assert after_keys("bash", *pressed, folder=there) == list(pressed.values())


# ----------------------------------------------------------------------------------------------- other shells


def test_zsh_gets_help_beside_names(there: Path) -> None:
    lines = asked("zsh", "probe unevenness --layer ", there)
    assert lines[:6] == ["plain", "block1.act", "layer 0", "plain", "block2.act", "layer 1"]
    assert asked("zsh", "probe capture zoo:d", there) == ["plain", "zoo:digits", "_"]
    assert asked("zsh", "probe layers re", there) == ["file", "re", "_"]
    commands = asked("zsh", "probe ", there)
    assert commands[1::3] == list(COMMANDS)
    assert all(text != "_" for text in commands[2::3])


def test_zsh_keeps_the_option_before_its_value(there: Path, bash: Callable[..., list[list[str]]]) -> None:
    pressed = {
        "probe unevenness --layer=hid\t": "probe unevenness --layer=hidden.act ",
        "probe unevenness --layer hid\t": "probe unevenness --layer hidden.act ",
        "probe capture --data=cifar10-\t": "probe capture --data=cifar10-jpeg: ",
        "probe capture --output=rec\t": "probe capture --output=recording.h5 ",
        "probe layers rec\t": "probe layers recording.h5 ",
        "probe unevenness --lay\t": "probe unevenness --layer ",
    }
    assert after_keys("zsh", *pressed, folder=there) == list(pressed.values())


def fish(folder: Path, *lines: str) -> list[list[str]]:
    """What a fish that has run the script offers for lines: words, and behind a tab their help."""
    needs("fish")
    done = subprocess.run(
        ["fish", "--no-config", "-c", "probe completion fish | source\nfor l in $argv; complete -C $l; echo END; end",
         "--", *lines], cwd=folder, capture_output=True, text=True, check=True, timeout=200,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr == ""
    return [answer.splitlines() for answer in done.stdout.split("END\n")[:-1]]


def test_a_real_fish_completes_what_is_typed(there: Path, bash: Callable[..., list[list[str]]]) -> None:
    lines = {
        "probe une": ["unevenness"],
        "probe unevenness --layer hid": ["hidden.act"],
        "probe unevenness --layer=hid": ["--layer=hidden.act"],
        "probe capture --output=rec": ["--output=recording.h5"],
        "probe capture --data=mn": ["--data=mnist"],
        "probe capture zoo:d": ["zoo:digits"],
        "probe layers re": ["recording.h5"],
        "probe layers bi": ["bin/"],
        "probe sweep --methods if,s": [f"if,{name}" for name in NEURONS if name.startswith("s")],
    }
    for line, offered in zip(lines, fish(there, *lines), strict=True):
        assert [word.split("\t")[0] for word in offered] == sorted(lines[line]), line


def test_fish_shows_help_with_commas_whole(there: Path, bash: Callable[..., list[list[str]]]) -> None:
    from probe.cli.unevenness import command

    told = {option.opts[-1]: option.help for option in command.params if isinstance(option, click.Option)}
    assert "," in told["--layer"]
    (offered,) = fish(there, "probe unevenness --")
    shown = dict(word.split("\t") for word in offered)
    assert {name: shown[name] for name in ("--layer", "--json", "--table")} == {
        name: told[name] for name in ("--layer", "--json", "--table")
    }


def test_fish_gets_help_beside_names(there: Path) -> None:
    for line, told in {
        "probe unevenness --layer hid": "plain,hidden.act\tlayer 5",
        "probe unevenness --layer=hid": "plain,hidden.act\tlayer 5",
        "probe unevenness --js": "plain,--json\tPrint JSON, a stable contract.",
        "probe sweep --methods if,sn": "plain,if,snm",
        "probe plot feat": "plain,features",
        "probe layers re": "file,re",
    }.items():
        assert asked("fish", line, there) == [told]


def test_help_of_several_lines_is_one_for_fish() -> None:
    shell = CLASSES["fish"](click.Group(), {}, "probe", VARIABLE)
    assert shell.format_completion(CompletionItem("a", help="b,\n\tc")) == "plain,a\tb, c"


def test_the_command_prints_the_script_of_each_shell(run: Run) -> None:
    for shell in CLASSES:
        printed = ok(run("completion", shell))
        assert printed.strip() == script(shell).strip()
        assert f"{VARIABLE}={shell}_complete" in printed
    assert run("completion", "tcsh").exit_code == 2
    checked = subprocess.run(["bash", "-n"], input=script("bash"), capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    # What is changed in click's script is found in it.
    assert "compset -P" in script("zsh")
    assert " -U" not in script("zsh")
    help_text = ok(run("completion", "--help"))
    assert 'eval "$(probe completion bash)"' in help_text


def test_the_usual_variable_gives_the_same_script(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "probe"], capture_output=True, text=True, check=True,
                          env={**os.environ, VARIABLE: "bash_source", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.stdout.strip() == script("bash").strip()


def test_completing_loads_no_torch(there: Path) -> None:
    code = (
        "import sys, atexit\nheavy = {'torch', 'matplotlib', 'pandas'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "from probe.cli import main\nmain()"
    )
    for line in ("probe ", "probe capture zoo", "probe plot ", "probe unevenness --layer ", "probe sweep --methods "):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=there, capture_output=True, text=True, check=True,
            env={**os.environ, VARIABLE: "bash_complete", "PROBE_LINE": line, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.stdout
        assert done.stderr == "[]\n", line


def test_names_that_completion_offers_are_those_there_are() -> None:
    from probe.data import DATA_SETS
    from probe.zoo import ZOO as NETWORKS

    assert tuple(NETWORKS) == ZOO
    assert sorted(DATA) == sorted(name + ":" * bool(kind.takes) for name, kind in DATA_SETS.items())


# ------------------------------------------------------------------------------------------------- bad recordings


def damaged(kind: str, full: Path, file: Path) -> None:
    if kind == "text":
        file.write_text("no recording")
    elif kind == "cut":
        file.write_bytes(full.read_bytes()[:100_000])
    elif kind == "empty":
        file.touch()
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "noise":
        raw = bytearray(full.read_bytes())
        for place in range(96, 20_000, 7):
            raw[place] ^= 0x55
        file.write_bytes(raw)


@pytest.mark.parametrize("kind", ["absent", "text", "cut", "empty", "folder", "pipe", "noise"])
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_file_that_is_no_recording_offers_nothing(kind: str, shell: str, full: Path, tmp_path: Path) -> None:
    damaged(kind, full, tmp_path / "bad.h5")
    started = time.monotonic()
    assert asked(shell, "probe unevenness bad.h5 --layer ", tmp_path) == []
    assert time.monotonic() - started < 60


def test_opening_that_never_ends_or_crashes_offers_nothing(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import probe.recording

    def busy(path: Path) -> None:
        from probe import containment

        with containment.opening(str(path), 0):
            while True:
                pass

    def crash(path: Path) -> None:
        faulthandler.disable()
        os.kill(os.getpid(), 11)

    assert [name for _, name in layer_names(full)] == LAYERS
    for fault in (busy, crash):
        monkeypatch.setattr(probe.recording, "open_recording", fault)
        started = time.monotonic()
        assert layer_names(full) == []
        assert time.monotonic() - started < 30


def test_names_that_a_shell_would_run_are_not_offered(full: Path, there: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.h5"
    hostile.write_bytes(full.read_bytes())
    names = ["$(touch pwned)", "a b", "--overwrite", "`id`", "x;rm -r .", "\x1b[2J"]
    with editing(hostile) as file:
        for index, name in enumerate(names[:5]):
            file[f"layers/{index}"].attrs["name"] = name
    for shell in CLASSES:
        text = "\n".join(asked(shell, "probe unevenness hostile.h5 --layer ", tmp_path))
        assert "hidden.act" in text
        assert not any(name in text for name in names)
    assert not (tmp_path / "pwned").exists()


def test_a_layer_whose_name_is_a_number_is_offered_by_its_index(tmp_path: Path) -> None:
    write_recording(tmp_path / "recording.h5", ["1", "0", "act"], shape=(2,), record="stats")
    assert asked("zsh", "probe unevenness --layer ", tmp_path) == [
        "plain", "0", "layer 0, called 1", "plain", "1", "layer 1, called 0", "plain", "act", "layer 2",
    ]  # fmt: skip


def test_layers_of_one_name_are_offered_once(tmp_path: Path) -> None:
    write_recording(tmp_path / "recording.h5", ["act", "b", "act", "1", "1"], shape=(2,), record="stats")
    assert asked("bash", "probe unevenness --layer ", tmp_path) == ["plain,act", "plain,b", "plain,3", "plain,4"]
    assert asked("zsh", "probe unevenness --layer a", tmp_path) == ["plain", "act", "layer 0"]
    assert asked("bash", "probe unevenness --layer 2", tmp_path) == ["plain,2"]


def test_many_layers_are_offered_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"layer{i}." + "x" * 150 for i in range(30)]
    write_recording(tmp_path / "recording.h5", names, shape=(2,), record="stats")
    offered = asked("bash", "probe unevenness --layer ", tmp_path)
    assert offered == [f"plain,{name}" for name in names]
    monkeypatch.setattr("probe.cli.completing.MOST", 20)
    assert [name for _, name in layer_names(tmp_path / "recording.h5")] == names[:20]
