"""The options that name a model and data, shared by the commands that run a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from probe.cli.completing import data_sets, models, starting
from probe.errors import ProbeError

F = TypeVar("F", bound=Callable[..., Any])

NEURONS = ("if", "snm", "negspike", "srp", "srp+negspike", "cos")
"""The names of `probe.methods`, which would load torch; a test holds the two together."""
ZOO = ("digits", "resnet20-cifar10")
"""Likewise those of `probe.zoo`."""
DATA = ("digits", "cifar10", "cifar100", "mnist", "fashion-mnist", "cifar10-jpeg:", "folder:", "npz:")
"""Likewise those of `probe.data`, with a colon where a path follows."""
DEVICES = ("cpu", "cuda", "mps", "auto")


class Samples(click.ParamType[Any]):
    """A number of samples, or `all` (None)."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number, or None for all."""
        if value == "all":
            return None
        try:
            return int(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither a number nor 'all'", param, ctx)


def _among(names: Sequence[str], ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    """What a shell may offer of a few names."""
    return starting(names, incomplete)


OPTIONS = (
    click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="For the callable; repeatable."),
    click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights: a state dict, or .safetensors."),
    click.option("--trust-checkpoint", is_flag=True, help="Unpickle the checkpoint, which can run any code in it."),
    click.option("--data", shell_complete=data_sets, help="digits, cifar10, cifar100, mnist, fashion-mnist, "
                 "folder:PATH, npz:PATH, cifar10-jpeg:PATH or file.py:callable.  "
                 "[default: the model's own, if bundled]"),
    click.option("--split", default="test", show_default=True, shell_complete=partial(_among, ("train", "test")),
                 help="train or test."),
    click.option("--data-root", type=click.Path(path_type=Path), help="Folder of cifar10, ...  [default: ./data]"),
    click.option("--download", is_flag=True, help="Fetch such a data set if it is not there."),
    click.option("--normalize", metavar="NAME|M/S", help="none, unit, half, cifar10, imagenet, ..., or "
                 "means/deviations such as 0.5,0.5,0.5/0.2,0.2,0.2.  [default: the data's own]"),
    click.option("--image-size", type=int, metavar="N", help="For folder: resize and centre-crop to N x N."),
    click.option("--samples", default="200", show_default=True, type=Samples(), metavar="N|all",
                 help="Balanced over classes, chosen by the seed; or all, in order."),
    click.option("--seed", default=0, show_default=True, help="Chooses the samples."),
    click.option("-T", "--timesteps", type=int, help="T, the simulated length.  [default: the network's own, or 8]"),
    click.option("--neuron", type=click.Choice(NEURONS),
                 help="Convert the ANN with this neuron.  [default: the model's own neurons, or if]"),
    click.option("--srp-steps", default=4, show_default=True, help="τ, SRP's pre-simulation steps."),
    click.option("--initial-potential", default=0.5, show_default=True, help="v(0) of a conversion, in units of θ."),
    click.option("--levels", type=int, help="L instead of the trained one."),
    click.option("--pair", "pairs", multiple=True, metavar="ANN=SNN", help="Pair two layers by hand; repeatable."),
    click.option("--calibrate", default="99.9%", show_default=True, metavar="max|P%|mse",
                 help="How a ReLU network's thresholds are found."),
    click.option("--calibrate-per", default="layer", show_default=True, type=click.Choice(("layer", "channel")),
                 help="Whether one θ is found for each layer or for each channel."),
    click.option("--calibration-samples", default=200, show_default=True, help="Of the split train, if there is."),
    click.option("--average-pool", is_flag=True, help="Replace max-pooling by average pooling, in the ANN too."),
    click.option("--device", default="cpu", show_default=True, shell_complete=partial(_among, DEVICES),
                 help="cpu, cuda, mps or auto."),
)  # fmt: skip


def source_options(
    *, flag: bool = False, without: Sequence[str] = (), default: str = "zoo:digits", metavar: str = "[MODEL]"
) -> Callable[[F], F]:
    """MODEL, or with `flag` --model, and the options that say how it is run on which data, but for some by name."""

    def decorate(function: F) -> F:
        for option in reversed(OPTIONS):
            function = option(function)
        parameters: list[click.Parameter] = getattr(function, "__click_params__", [])
        parameters[:] = [parameter for parameter in parameters if parameter.name not in without]
        if flag:
            return click.option(
                "--model", shell_complete=models, help="Show how the layers of this model would be paired."
            )(function)
        return click.argument("model", default=default, metavar=metavar, shell_complete=models)(function)

    return decorate


def source_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Take `model_args` and `pairs` out of parsed options and return them as mappings.

    Raises:
        ProbeError: one is not of the form KEY=VALUE.
    """
    from probe.model_names import parse_arguments

    pairs: dict[str, str] = {}
    for text in options.pop("pairs"):
        ann, equals, snn = text.partition("=")
        if not equals or not ann or not snn or ann in pairs:
            raise ProbeError(f"--pair {text}", expected="ANN.NAME=SNN.NAME, each activation once")
        pairs[ann] = snn
    return {"model_args": parse_arguments(options.pop("model_args")), "pairs": pairs}
