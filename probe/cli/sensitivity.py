"""`probe sensitivity`: which layer costs the accuracy, ranked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from probe.cli import complain, printable
from probe.cli.common import Form, layer_option, print_table, progress_bar, table_options
from probe.cli.source import source_arguments, source_options

BEYOND_CHANCE = 0.05
"""The sign test's level below which a layer is named."""
HELP = (
    "all but: all layers spike but this one, which gives its activation of its mean input at every t",
    "even:    all layers spike, and this one gives θ·n_even/T at every t: its unevenness is removed",
    "only:    the ANN, where this layer alone spikes, on its own input held constant",
    "change in percentage points, + and - samples gained and lost, all against the whole SNN",
    "error: of the logits' mean over t, relative L2 to the ANN's; layers' gains do not add up",
)


@click.command()
@source_options()
@layer_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Draw the ranking: .png, .svg or .pdf.")
@click.option("--batch-size", default=50, show_default=True, help="Samples that are run at once.")
@table_options
def command(output: Path | None, form: Form, **options: Any) -> None:
    """Rank the layers by the accuracy that each costs: with each alone analog, without its unevenness, alone spiking.

    \b
    For each layer the network is run three times more:
      all but  all layers spike but this one, which is analog at every t
      even     all layers spike, and this one's output is what it would have been, had its input come evenly
      only     the ANN, where this layer alone spikes, on its own input held constant
    MODEL is as for `probe capture`.

    The table is ranked by the accuracy regained in `all but`, then by the output error. An analog layer also sends
    no uneven spikes to the next one, so a layer without any error of its own can rank first.

    \b
    Example:  probe sensitivity zoo:digits -T 4 --layer 0:3 -o sensitivity.png
    """
    from probe.ablation import sensitivity
    from probe.plots import draw_ranking
    from probe.plots.saving import check_target

    if output is not None:
        check_target(output, overwrite=form.overwrite)
    with progress_bar("sensitivity") as progress:
        found = sensitivity(progress=progress, tell=_tell, **source_arguments(options), **options)
    try:
        form.show(
            found, lambda: _rows(found), lambda: _print(found), draw=form.picture(output, lambda: draw_ranking(found))
        )
    finally:
        for sentence in found["broken"]:
            complain(f"ORACLE BROKEN: {sentence}")


def _tell(sentence: str) -> None:
    click.echo(f"  {printable(sentence)}", err=True)


def _rows(found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for the ANN, one for the SNN, and one a layer and mode."""
    from probe.ablation import MODES

    head = {"rank": None, "index": None, "name": None}
    for network in ("ann", "snn"):
        yield {**head, "mode": network, **found[network]}
    for layer in found["layers"]:
        head = {key: layer[key] for key in ("rank", "index", "name")}
        for mode in MODES:
            yield {**head, "mode": mode, **(layer[mode] or {}), "reason": layer["reasons"][mode]}


def _print(found: Mapping[str, Any]) -> None:
    ann, snn = found["ann"], found["snn"]
    against = snn["against_ann"]
    click.echo(
        f"{printable(found['model'])}, {found['samples']} samples of {printable(found['data'])}, T = "
        f"{found['timesteps']}"
    )
    click.echo(
        f"ANN {_percent(ann)} % ({_interval(ann)}), SNN {_percent(snn)} % ({_interval(snn)}; {against['gained']} "
        f"samples gained, {against['lost']} lost), error {_error(snn)}"
    )
    click.echo()
    every = ("(%)", "95%", "change", "+", "-", "error")
    header = [*(f"all but {every[0]}", *every[1:]), *(f"even {every[0]}", *every[1:]), "only (%)", "95%", "error"]
    rows = []
    for layer in found["layers"]:
        name = [layer["rank"] or "-", layer["index"], layer["name"]]
        rows.append(name + _cells(layer["all_but"]) + _cells(layer["even"]) + _cells(layer["only"], changes=False))
    print_table(["rank", "layer", "name", *header], rows, left=3)
    for layer in found["layers"]:
        for reason in dict.fromkeys(filter(None, layer["reasons"].values())):
            modes = [mode.replace("_", " ") for mode, why in layer["reasons"].items() if why == reason]
            click.echo(f"layer {layer['index']}, no {' and no '.join(modes)}: {printable(reason)}")
    click.echo()
    for line in HELP:
        click.echo(line)
    click.echo(_verdict(found))


def _verdict(found: Mapping[str, Any]) -> str:
    ranked = [layer for layer in found["layers"] if layer["all_but"]]
    sure = [str(layer["index"]) for layer in ranked if layer["all_but"]["p_value"] < BEYOND_CHANCE]
    if not ranked:
        return "no layer could be ranked"
    test = f"(sign test of + against -, each layer at {BEYOND_CHANCE:.0%})"
    if not sure:
        return f"no layer's change in `all but` is beyond chance {test}: go by the errors, or take more samples"
    return f"beyond chance in `all but` {test}: layer{'s' * (len(sure) > 1)} {', '.join(sure)}"


def _cells(row: Mapping[str, Any] | None, *, changes: bool = True) -> list[Any]:
    if row is None:
        return ["-"] * (6 if changes else 3)
    changed = [f"{100 * row['accuracy_change']:+.2f}", row["gained"], row["lost"]] if changes else []
    return [_percent(row), _interval(row), *changed, _error(row)]


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"{100 * row['low']:.1f}-{100 * row['high']:.1f}"


def _error(row: Mapping[str, Any]) -> str:
    return "-" if row["error"] is None else f"{row['error']:.4f}"
