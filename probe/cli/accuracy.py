"""`probe accuracy`: the ANN, and the SNN at every timestep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from probe.cli.common import Form, print_table, recording_argument, table_options


@click.command()
@recording_argument
@table_options
@click.option("--all", "every", is_flag=True, help="Every t, not only powers of two and T.")
def command(file: Path, form: Form, every: bool) -> None:
    """Print the accuracy of the ANN and of the SNN over t, in per cent, as a paper's row.

    \b
    Example:  probe accuracy recording.h5 --all
    """
    from probe.analysis import accuracy

    found = accuracy(file)
    form.show(found, lambda: _rows(found), lambda: _print(found, every))


def _rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One for the ANN, which has no t, and one a t."""
    yield {"network": "ann", "t": None, "accuracy": found["ann"]}
    for t, value in found["snn"].items():
        yield {"network": "snn", "t": int(t), "accuracy": value}


def _print(found: Mapping[str, Any], every: bool) -> None:
    last = len(found["snn"])
    chosen = [t for t in range(1, last + 1) if every or t & (t - 1) == 0 or t == last]
    header = ["samples", "ANN", *(f"T={t}" for t in chosen)]
    values = [found["ann"], *(found["snn"][str(t)] for t in chosen)]
    print_table(
        header, [[found["samples"], *("-" if value is None else f"{100 * value:.2f}" for value in values)]], left=0
    )
