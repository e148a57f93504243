"""What is printed where: colours, narrow terminals, pipes, and terminals without Greek letters."""

from __future__ import annotations

import csv
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from probe.cli.layout import split_columns, table_text, takes_colour, wrapped
from tests.conftest import ROOT
from tests.synthetic import write_recording

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
QUIET = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "CLICOLOR", "PYTHONIOENCODING")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in QUIET}
    return {**kept, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **more}


def terminal(folder: Path, columns: int, *arguments: object, **more: str) -> str:
    """What a terminal of so many columns gets, stdout and stderr, from a command that exits with 0."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    command = [sys.executable, "-m", "probe", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment(**more))
    os.close(slave)
    seen = b""
    while True:
        try:
            piece = os.read(master, 65536)
        except OSError:
            # So Linux says that nobody has the other end any more.
            piece = b""
        if not piece:
            break
        seen += piece
    os.close(master)
    text = seen.decode().replace("\r\n", "\n")
    assert process.wait() == 0, text
    return text


def piped(folder: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "probe", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment(**more), encoding="utf-8"
    )


@pytest.fixture
def there(full: Path, tmp_path: Path) -> Path:
    (tmp_path / "recording.h5").symlink_to(full)
    return tmp_path


def plain(text: str) -> str:
    return ESCAPE.sub("", text)


def lines_of_tables(text: str) -> list[str]:
    """Without the sentences above and below, which a terminal wraps."""
    return [line for line in plain(text).splitlines() if not re.match(r"t = |case 1: |a sample|\(unknown", line)]


# ------------------------------------------------------------------------------------------------------- layout


def test_columns_that_do_not_fit_make_blocks_that_begin_with_the_key() -> None:
    header, rows = ["layer", "name", "a", "bb"], [[0, "x", 1, 2], [1, "longer", 10, 20]]
    assert table_text(header, rows, left=2) == (
        "layer  name     a  bb\n0      x        1   2\n1      longer  10  20\n"
    )  # fmt: skip
    assert table_text(header, rows, left=2, width=21) == table_text(header, rows, left=2)
    # Half of 20 columns does not hold both that name the row, so the name is a column like the others.
    assert table_text(header, rows, left=2, width=18) == (
        "layer  name     a\n0      x        1\n1      longer  10\n\nlayer  bb\n0       2\n1      20\n"
    )  # fmt: skip


@pytest.mark.parametrize("width", range(8, 60))
def test_every_cell_is_printed_whole_and_once(width: int) -> None:
    widths, groups = [5, 6, 7, 3, 9, 4], [[0], [1], [2, 3], [4], [5]]
    blocks = split_columns(widths, groups, 2, width)
    repeated = 1 if widths[0] + 2 + widths[1] > width // 2 else 2
    if blocks == [[0, 1, 2, 3, 4, 5]]:
        assert width >= sum(widths) + 2 * 5
        return
    assert width < sum(widths) + 2 * 5
    for block in blocks:
        assert block[:repeated] == list(range(repeated))
        # A block is too wide only where one group alone is.
        own = [i for i in block if i >= repeated]
        assert sum(widths[i] + 2 for i in block) - 2 <= width or own in [[2, 3], [1], [4], [5]]
    assert [i for block in blocks for i in block[repeated:]] == list(range(repeated, 6))


def test_a_column_without_a_name_stays_with_the_one_before() -> None:
    text = table_text(["", "share", "", "other", ""], [["row", "0.5", "10", "0.25", "5"]], width=20)
    assert text == "     share\nrow    0.5  10\n\n     other\nrow   0.25  5\n"


def test_wide_and_combining_characters_take_their_columns() -> None:
    assert (cell_len("abc"), cell_len("α = 0"), cell_len("層"), cell_len("e\u0301")) == (3, 5, 2, 1)
    assert table_text(["n", "v"], [["層", 1], ["ab", 2]]) == "n   v\n層  1\nab  2\n"


def test_sentences_break_between_words() -> None:
    assert wrapped("one two three", 12, lead="- ") == "- one two\n  three"
    assert wrapped("a-word-that-is-longer-than-the-line", 10) == "a-word-that-is-longer-than-the-line"


@pytest.mark.parametrize(
    ("more", "on_terminal", "expected"),
    [
        ({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True), ({"FORCE_COLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)  # fmt: skip
def test_who_gets_colours(
    more: dict[str, str], on_terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return on_terminal

    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **more}.items():
        monkeypatch.setenv(name, value)
    assert takes_colour(Stream()) is expected


# ---------------------------------------------------------------------------------------------------- terminals

TABLES = [["unevenness"], ["unevenness", "--layer", "1"], ["layers"], ["accuracy", "--all"], ["diff", "recording.h5"]]


@pytest.mark.parametrize("words", TABLES, ids=" ".join)
def test_a_table_fits_the_terminal(words: list[str], there: Path) -> None:
    typed = [words[0], "recording.h5", *words[1:]]
    whole = piped(there, *typed).stdout
    cells = set(re.findall(r"\S+", "\n".join(lines_of_tables(whole))))
    for columns in (40, 80, 200):
        text = terminal(there, columns, *typed)
        for line in lines_of_tables(text):
            if re.match(r"[\d ]|[a-z]+  ", line):
                assert cell_len(line) <= max(columns, 40), line
        assert cells <= set(re.findall(r"\S+", plain(text))), columns


def test_a_wide_terminal_gets_the_table_of_a_pipe(there: Path) -> None:
    assert plain(terminal(there, 200, "unevenness")) == piped(there, "unevenness").stdout


def test_a_narrow_terminal_gets_blocks(there: Path) -> None:
    text = plain(terminal(there, 80, "unevenness"))
    headers = [line for line in text.splitlines() if line.startswith("layer")]
    assert len(headers) > 1
    assert all(header.startswith("layer  name  ") for header in headers)
    rows = [line for line in text.splitlines() if line.startswith("5      hidden.act")]
    assert len(rows) == len(headers)
    names = [name for header in headers for name in re.split(r"  +", header)[2:]]
    (header,) = (line for line in piped(there, "unevenness").stdout.splitlines() if line.startswith("layer"))
    assert names == re.split(r"  +", header)[2:]


@pytest.mark.parametrize("width", ["20", "40"])
def test_a_pipe_gets_whole_lines_whatever_columns_say(width: str, there: Path) -> None:
    usual = piped(there, "unevenness")
    assert piped(there, "unevenness", COLUMNS=width).stdout == usual.stdout
    assert max(map(len, usual.stdout.splitlines())) > 150
    assert "\x1b" not in usual.stdout
    assert piped(there, "diagnose", COLUMNS=width).stdout == piped(there, "diagnose").stdout


def test_a_long_name_is_not_cut(tmp_path: Path) -> None:
    name = "features." + "long_name_of_a_module." * 4 + "act"
    write_recording(tmp_path / "recording.h5", [name, "b"])
    text = plain(terminal(tmp_path, 40, "unevenness"))
    assert text.count(name) == 1
    # What names the row leaves room for the numbers, so each block begins with the index alone.
    headers = [line for line in text.splitlines() if line.startswith("layer")]
    assert len(headers) > 3
    assert sum("name" in header for header in headers) == 1


# ------------------------------------------------------------------------------------------------------- colours


def test_no_color_and_dumb_terminals_get_no_escapes(there: Path) -> None:
    assert COLOUR.search(terminal(there, 200, "unevenness"))
    for more in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        text = terminal(there, 200, "unevenness", **more)
        assert "\x1b" not in text
        assert text == piped(there, "unevenness").stdout


def test_force_color_colours_a_pipe(there: Path) -> None:
    forced = piped(there, "unevenness", FORCE_COLOR="1").stdout
    assert COLOUR.search(forced)
    assert plain(forced) == piped(there, "unevenness").stdout
    assert "\x1b" not in piped(there, "unevenness", FORCE_COLOR="1", NO_COLOR="1").stdout
    for form in ("--json", "--csv"):
        assert "\x1b" not in piped(there, "unevenness", form, FORCE_COLOR="1").stdout


CAPTURE = ("capture", "zoo:digits", "--samples", 40, "-T", 2, "--overwrite", "-o")


@pytest.mark.parametrize("columns", [40, 200])
def test_the_bar_stays_on_its_line(columns: int, tmp_path: Path) -> None:
    text = terminal(tmp_path, columns, *CAPTURE, "r.h5")
    drawn = [line for line in re.split(r"[\r\n]", plain(text)) if line.startswith("capture ")]
    assert any("40/40" in line for line in drawn)
    assert max(map(cell_len, drawn)) <= columns
    assert ("━" in text) is (columns == 200)


def test_the_bar_without_colours(tmp_path: Path) -> None:
    assert COLOUR.search(terminal(tmp_path, 100, *CAPTURE, "r.h5"))
    text = terminal(tmp_path, 100, *CAPTURE, "r.h5", NO_COLOR="1")
    assert "40/40" in text
    assert not re.search(r"\x1b\[[0-9;]*[34][0-9]", text)
    dumb = terminal(tmp_path, 100, *CAPTURE, "r.h5", TERM="dumb")
    assert "\x1b" not in dumb
    assert "accuracy: ANN" in dumb


def test_there_is_no_bar_in_a_pipe(tmp_path: Path) -> None:
    for more in ({}, {"FORCE_COLOR": "1"}):
        done = piped(tmp_path, *CAPTURE, "r.h5", **more)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
        assert "━" not in done.stderr
        assert "40/40" not in done.stderr


# -------------------------------------------------------------------------------------------------- help, letters


@pytest.mark.parametrize("words", [["--help"], ["unevenness", "--help"], ["export", "--help"]], ids=" ".join)
def test_help_fits_a_narrow_terminal(words: list[str], tmp_path: Path) -> None:
    text = terminal(tmp_path, 40, *words)
    verbatim = re.compile(r"^ +(Example:|probe ) |^ {7}.*probe ")
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= 40 or verbatim.match(line), line
    assert "--help" in text


@pytest.mark.parametrize(
    "more", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
             {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=str,
)  # fmt: skip
def test_letters_that_a_terminal_lacks(more: dict[str, str], there: Path) -> None:
    for words in (["unevenness"], ["unevenness", "--layer", "1"], ["diagnose"], ["--help"], ["unevenness", "--csv"]):
        command = [sys.executable, "-m", "probe", *words]
        done = subprocess.run(command, cwd=there, capture_output=True, check=False, env=environment(**more))
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout
    text = terminal(there, 60, "capture", "--samples", "4", "-T", "2", "-o", "r.h5", **more)
    assert "accuracy: ANN" in text


# ---------------------------------------------------------------------------------------------------- closed pipes


@pytest.mark.parametrize(
    "words", ["unevenness", "unevenness --csv", "layers --json", "accuracy", "diagnose", "--help", "completion bash"]
)
@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_reader_that_leaves_is_no_error(words: str, reader: str, there: Path) -> None:
    command = f"{sys.executable} -m probe {words} | {reader}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=there, capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_failed_check_fails_though_its_reader_has_left(there: Path) -> None:
    command = f"{sys.executable} -m probe check --fail-if 'snn.8 <= 1' | (exec <&-; sleep 3); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=there, capture_output=True, text=True, check=False, env=environment()
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_rows_of_csv_are_lines_of_a_pipe(there: Path) -> None:
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(piped(there, "unevenness", "--csv").stdout)))
    assert [row["index"] for row in rows] == [str(i) for i in range(6)]
