"""The commands, one file each: parse, call one library function, print.

Tables go to stdout, progress and warnings to stderr. Exit codes: 0 done; 1 a check that was asked for failed; 2 the
input is at fault; 3 an error of ours; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from probe import __version__
from probe.errors import Interrupted, ProbeError
from probe.printable import printable as printable

COMMANDS = (
    "capture", "layers", "accuracy", "unevenness", "plot", "report", "trace", "what-if", "check", "diagnose", "diff",
    "sweep", "sensitivity", "surrogate", "gradients", "verify", "merge", "export", "completion",
)  # fmt: skip
"""Each is a module of this package with a click command called `command`; another command is a file and a word here.

A dash in the word is an underscore in the file's name."""

READING = (
    "layers",
    "accuracy",
    "unevenness",
    "plot",
    "report",
    "trace",
    "what-if",
    "check",
    "diagnose",
    "diff",
    "verify",
    "merge",
    "export",
)
"""Those that read recordings, which the installed command does in a process of its own: see `probe.containment`."""

NARROW = 52
"""Columns of a terminal below which click's help, left to itself, runs over its edge."""
EXIT_CHECK, EXIT_INPUT, EXIT_OURS, EXIT_INTERRUPTED = 1, 2, 3, 130


class Commands(click.Group):
    """Loads a command when it is used, and turns exceptions into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command's module is imported only now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"probe.cli.{cmd_name.replace('-', '_')}").command
        return command

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and exit."""
        extra["standalone_mode"] = False
        columns = shutil.get_terminal_size().columns
        if columns < NARROW:
            extra.setdefault("terminal_width", max(columns - 2, 20))
        for stream in (sys.stdout, sys.stderr):
            # A terminal without Greek letters gets question marks, not half a table.
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
                _let_its_reader_leave(stream)
        if os.environ.get("_PROBE_COMPLETE"):
            self._complete(args, prog_name or "probe", extra)
        # Called with arguments it is part of somebody's program, whose threads would not survive a fork.
        if args is None and any(word in READING for word in sys.argv[1:2]):
            from probe import containment

            if containment.can_contain():
                sys.exit(containment.contained(lambda: self._warned(args, prog_name, extra), complain))
        sys.exit(self._warned(args, prog_name, extra))

    def _complete(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> None:
        """Answer a shell that asks what could follow, and exit; where nothing is known nothing is said."""
        from probe.cli.completing import register

        register()
        with contextlib.suppress(Exception):
            super().main(args, prog_name, **extra)
        sys.exit(0)

    def _warned(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any]) -> int:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return self._guarded(args, prog_name or "probe", extra)

    def _guarded(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        try:
            result = super().main(args, prog_name, **extra)
            return result if isinstance(result, int) else 0
        except ProbeError as error:
            for line in error.trace.splitlines():
                click.echo(printable(line), err=True)
            complain(str(error))
            return EXIT_INPUT
        except click.ClickException as error:
            error.show()
            return EXIT_INPUT
        except Interrupted as stopped:
            complain(str(stopped))
            return EXIT_INTERRUPTED
        except (KeyboardInterrupt, click.Abort):
            complain("interrupted")
            return EXIT_INTERRUPTED
        except MemoryError:
            complain(
                "more memory is needed than there is, or than the file's arrays account for; expected a recording that "
                "fits; choose fewer layers or samples, or close other programs"
            )
            return EXIT_INPUT
        except OSError as error:
            if error.errno != errno.ENOSPC:
                return _ours(error)
            # What stdout still holds must not complain at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            complain(f"{error.filename or 'the output'} cannot be written: no space left on device")
            return EXIT_INPUT
        except Exception as error:
            return _ours(error)


def _let_its_reader_leave(stream: io.TextIOWrapper) -> None:
    """A pipe that its reader has closed is no error: the rest goes nowhere, and the exit code stays the command's."""
    if "write" in vars(stream):
        return

    def patient(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return method(*arguments)
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
                return None

        return call

    stream.write, stream.flush = patient(stream.write), patient(stream.flush)  # type: ignore[method-assign]


def _ours(error: Exception) -> int:
    """What is nobody else's fault, with all that helps to find it."""
    traceback.print_exc()
    complain(f"this is an error of probe itself ({type(error).__name__}), please report it with the lines above")
    return EXIT_OURS


def complain(message: str) -> None:
    """One line on stderr."""
    click.echo(f"probe: {printable(message)}", err=True)


def _show_warning(message: Warning | str, category: type[Warning], *_rest: Any, **_named: Any) -> None:
    complain(f"warning: {message}" if category is not UserWarning else str(message))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="probe")
def main() -> None:
    """Layer-wise diagnostics of ANN-to-SNN conversion.

    `probe capture` runs a network as ANN and as SNN on the same samples and records every spiking layer;
    the other commands read the recording (by default ./recording.h5).

    \b
    Example:  probe capture && probe unevenness --layer 0
    """
