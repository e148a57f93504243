"""`probe completion`: what a shell needs to complete commands, options, files, models and layers."""

from __future__ import annotations

import click

from probe.cli.completing import CLASSES, script


@click.command()
@click.argument("shell", type=click.Choice(list(CLASSES)))
def command(shell: str) -> None:
    """Print the script with which bash, zsh or fish completes `probe` after TAB.

    \b
    Paste the line of your shell, or put it into its start-up file:
      bash (~/.bashrc)   eval "$(probe completion bash)"
      zsh  (~/.zshrc)    eval "$(probe completion zsh)"     after compinit
      fish               probe completion fish > ~/.config/fish/completions/probe.fish

    Offered are commands, options and their choices, recordings, bundled models, data sets, kinds of plot, methods, and
    behind --layer the layers of the recording on the line.

    \b
    Example:  probe completion bash > probe-completion.bash
    """
    click.echo(script(shell))
