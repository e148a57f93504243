"""`probe accuracy`: the ANN, and the SNN at every timestep."""

from __future__ import annotations

from pathlib import Path

import click

from probe.cli.common import format_options, print_csv, print_json, print_table, recording_argument


@click.command()
@recording_argument
@format_options
@click.option("--all", "every", is_flag=True, help="Every t, not only powers of two and T.")
def command(file: Path, as_json: bool, as_csv: bool, every: bool) -> None:
    """Print the accuracy of the ANN and of the SNN over t, in per cent, as a paper's row.

    \b
    Example:  probe accuracy recording.h5 --all
    """
    from probe.analysis import accuracy

    found = accuracy(file)
    if as_json:
        return print_json(found)
    if as_csv:
        return print_csv([{"network": "ann", "t": "", "accuracy": found["ann"]}] + [
            {"network": "snn", "t": t, "accuracy": value} for t, value in found["snn"].items()
        ])  # fmt: skip
    last = len(found["snn"])
    chosen = [t for t in range(1, last + 1) if every or t & (t - 1) == 0 or t == last]
    header = ["samples", "ANN", *(f"T={t}" for t in chosen)]
    values = [found["ann"], *(found["snn"][str(t)] for t in chosen)]
    return print_table(
        header, [[found["samples"], *("-" if value is None else f"{100 * value:.2f}" for value in values)]], left=0
    )
