"""`probe diagnose`: what is wrong with a recording or a model, in which layer it starts, and what to change."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from probe.cli import complain, printable
from probe.cli.common import Form, progress_bar, table_options
from probe.cli.findings import COLUMNS, counted, exit_code, fail_on_option, print_findings
from probe.cli.source import Samples, source_arguments, source_options
from probe.diagnosing import diagnose, is_recording
from probe.diagnosis.findings import Finding, reaches
from probe.errors import ProbeError
from probe.recording.schema import PRESETS

OF_BOTH = ("model", "as_json", "as_csv", "table", "overwrite", "fail_on")
"""What may be given with a recording."""


@click.command()
@click.option("--samples", default="100", show_default=True, type=Samples(), metavar="N|all",
              help="Balanced over classes, chosen by the seed; or all, in order.")  # fmt: skip
@click.option("--record", default="full", show_default=True, type=click.Choice(PRESETS),
              help="What is recorded; with less some checks find nothing.")  # fmt: skip
@click.option("--batch-size", default=50, show_default=True, help="Samples that are run at once.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="FILE", help="Keep the recording of a model.")
@table_options
@fail_on_option
@source_options(without=("samples",), default="recording.h5", metavar="[TARGET]")
def command(model: str, form: Form, fail_on: str, **options: Any) -> int:
    """Say what is wrong, worst first: in which layer it starts, the numbers that show it, and what to change.

    TARGET is a recording, by default ./recording.h5, which is only read, or a MODEL as for `probe capture`. A model is
    run: recorded into a temporary file, and also twice, after a reset and sample by sample, for what no recording
    holds. A fault that stops the capture is a finding too.

    \b
    error    the network is not what it is meant to be, or its numbers mean nothing
    warning  it costs accuracy
    note     worth knowing

    \b
    Example:  probe diagnose recording.h5 --fail-on warning
              probe diagnose file.py:networks --data cifar10 -T 4 --keep diagnosed.h5
    """
    if is_recording(model):
        _refuse_options(click.get_current_context(), model)
        found = diagnose(model)
    else:
        arguments = "probe " + shlex.join(sys.argv[1:])
        with progress_bar("diagnose") as progress:
            found = diagnose(model, command=arguments, progress=progress, overwrite=form.overwrite,
                             **source_arguments(options), **options)  # fmt: skip
    findings = [Finding(**one) for one in found["findings"]]
    form.show(found, lambda: found["findings"], lambda: _print(found, findings), COLUMNS)
    return exit_code(findings, fail_on)


def _print(found: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    for note in found["notes"]:
        complain(f"note: {note}")
    # Notes are no fault.
    told = [counted(findings)] if findings else []
    if not reaches(findings, "warning"):
        told.insert(0, "nothing wrong")
    click.echo(printable(f"{_target(found)}: {', '.join(told)}  ({_scope(found)})"))
    if findings:
        click.echo()
        print_findings(findings)
    if not found["complete"]:
        complain(_incomplete(found))


def _refuse_options(ctx: click.Context, recording: str) -> None:
    """An option that only a model has would be ignored in silence."""
    for name in ctx.params:
        if name not in OF_BOTH and ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise ProbeError(
                f"--{name.replace('_', '-')} with the recording {recording}", expected="a MODEL, which is run"
            )


def _target(found: Mapping[str, Any]) -> str:
    return str(found["file"] or found["model"] or "the model")


def _scope(found: Mapping[str, Any]) -> str:
    """What was checked: how many checks, on how many samples."""
    parts = [f"{found['samples']} samples" if found["samples"] else "not captured"]
    if found["checks"]:
        parts.insert(0, f"{len(found['checks'])} checks")
    if found["layers"]:
        parts.append(f"{found['layers']} layers")
    if found["timesteps"]:
        parts.append(f"T = {found['timesteps']}")
    return ", ".join(parts)


def _incomplete(found: Mapping[str, Any]) -> str:
    if found["samples"]:
        return f"{_target(found)} is incomplete: the findings are those of {found['samples']} samples"
    return "a fault stopped the capture, so checks of recorded numbers are left out: mend it and diagnose again"
