"""The recipes that made the bundled weights: `python -m probe.zoo.train digits`, seeded, on two CPU cores.

A recipe is a sequence of phases. Each trains with plain SGD (Nesterov), a warm-up and a linear decay to zero, on
images shifted and, where that keeps the class, mirrored at random; later phases may cut squares out of the images and
average the weights over the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from probe.data import DataSet, open_data
from probe.zoo import load_weights
from probe.zoo.networks import digits_vgg, resnet20


@dataclass(frozen=True)
class Phase:
    """One run of the learning rate from its warm-up down to zero.

    Attributes:
        rate: peak learning rate.
        cutout: side of the square that is cut out of each image, in pixels; 0 for none.
        average: decay of the running average of the weights that replaces them at the end; 0 for none.
    """

    epochs: int
    rate: float
    cutout: int = 0
    average: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How one bundled network is trained.

    Attributes:
        network: makes the untrained network.
        decay: weight decay, thresholds included.
        shift: largest random shift, in pixels, in each direction.
    """

    network: Callable[[], nn.Module]
    phases: tuple[Phase, ...]
    batch: int
    decay: float
    shift: int
    mirror: bool
    bfloat16: bool


RECIPES = {
    "digits": Recipe(
        digits_vgg, (Phase(epochs=60, rate=0.05),), batch=64, decay=1e-3, shift=1, mirror=False, bfloat16=False
    ),
    "resnet20-cifar10": Recipe(
        resnet20,
        (Phase(epochs=45, rate=0.1), Phase(epochs=14, rate=0.05, cutout=8, average=0.999)),
        batch=128, decay=5e-4, shift=4, mirror=True, bfloat16=True,
    ),
}  # fmt: skip


def augment(images: Tensor, shift: int, mirror: bool, generator: torch.Generator) -> Tensor:
    """Shift each image of (sample, channel, height, width) by up to `shift` pixels and mirror half of them.

    What moves in from outside is the image's own smallest value, its background.
    """
    samples, _, height, width = images.shape
    padded = functional.pad(images, (shift,) * 4, value=float(images.min()) if not mirror else 0.0)
    down = torch.randint(2 * shift + 1, (samples, 1), generator=generator) + torch.arange(height)
    right = torch.randint(2 * shift + 1, (samples, 1), generator=generator) + torch.arange(width)
    if mirror:
        right = torch.where(torch.rand(samples, 1, generator=generator) < 0.5, right, right.flip(1))
    return padded[torch.arange(samples)[:, None, None], :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Set a square of `side` pixels, at a random place of each image of (sample, ...), to 0 (DeVries & Taylor 2017)."""
    samples, _, height, width = images.shape
    inside = []
    for size in (height, width):
        start = torch.randint(1 - side, size, (samples, 1), generator=generator)
        place = torch.arange(size)
        inside.append((place >= start) & (place < start + side))
    return images.masked_fill_((inside[0][:, None, :, None] & inside[1][:, None, None, :]), 0.0)


def evaluate(network: nn.Module, data: DataSet, batch: int = 200) -> float:
    """Accuracy of the ANN, in [0, 1], in float32 and evaluation mode."""
    network.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(data), batch):
            index = np.arange(start, min(start + batch, len(data)))
            right += int((network(torch.from_numpy(data.load(index))).argmax(1).numpy() == data.labels[index]).sum())
    return right / len(data)


def train(
    recipe: Recipe,
    data: DataSet,
    phases: Sequence[Phase],
    *,
    start: Path | None = None,
    seed: int = 0,
    compiled: bool = False,
) -> nn.Module:
    """A network trained on all of `data`.

    Args:
        recipe: how.
        data: the training split.
        phases: those of the recipe, or some of them.
        start: weights to begin with; None for random ones.
        seed: of the weights, the order of the samples and their augmentation.
        compiled: use torch.compile, which needs a C++ compiler.
    """
    # Small weights decay into subnormal numbers, on which the processor is many times slower.
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = recipe.network() if start is None else load_weights(recipe.network(), start)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(network) if compiled else network
    images, labels = torch.from_numpy(data.load(np.arange(len(data)))), torch.from_numpy(data.labels)
    for phase in phases:
        _train_phase(recipe, phase, network, forward, images, labels, generator)
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return network


def _train_phase(
    recipe: Recipe,
    phase: Phase,
    network: nn.Module,
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> None:
    optimizer = torch.optim.SGD(
        network.parameters(), lr=phase.rate, momentum=0.9, nesterov=True, weight_decay=recipe.decay
    )
    steps = len(images) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, phase.rate, total_steps=phase.epochs * steps, pct_start=0.15, anneal_strategy="linear",
        cycle_momentum=False, div_factor=20, final_div_factor=1e4,
    )  # fmt: skip
    average = get_ema_multi_avg_fn(phase.average)  # type: ignore[no-untyped-call]
    averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
    for epoch in range(phase.epochs):
        began, total = time.perf_counter(), 0.0
        network.train()
        order = torch.randperm(len(images), generator=generator)
        for index in order[: steps * recipe.batch].view(steps, recipe.batch):
            x = augment(images[index], recipe.shift, recipe.mirror, generator)
            if phase.cutout:
                x = cut_out(x, phase.cutout, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                logits = forward(x.contiguous(memory_format=torch.channels_last))
            loss = functional.cross_entropy(logits.float(), labels[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            if phase.average:
                averaged.update_parameters(network)
            total += loss.item()
        seconds = time.perf_counter() - began
        click.echo(f"epoch {epoch + 1}/{phase.epochs}  loss {total / steps:.4f}  {seconds:.0f} s", err=True)
    if phase.average:
        network.load_state_dict(averaged.module.state_dict())


def save_weights(network: nn.Module, file: Path) -> None:
    """Write the state as .npz without pickle: matrices and kernels in float16, vectors and thresholds in float32."""
    state = {name: value.numpy() for name, value in network.state_dict().items() if value.is_floating_point()}
    np.savez_compressed(
        file, **{name: value.astype(np.float16 if value.ndim > 1 else np.float32) for name, value in state.items()}
    )


@click.command()
@click.argument("name", type=click.Choice(list(RECIPES)))
@click.option("--data", help="Data to train and test on.  [default: digits; the ResNet needs cifar10-jpeg:PATH]")
@click.option("--epochs", type=click.IntRange(1), help="Of each phase, instead of the recipe's own number.")
@click.option("--start", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Weights after the first phase: train the rest.")  # fmt: skip
@click.option("--seed", default=0, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Use torch.compile: a third faster, needs a C++ compiler.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Default: NAME.npz.")
def main(
    name: str,
    data: str | None,
    epochs: int | None,
    start: Path | None,
    seed: int,
    compiled: bool,
    output: Path | None,
) -> None:
    """Train a bundled network by its recipe and save its weights."""
    recipe = RECIPES[name]
    if data is None and name != "digits":
        raise click.UsageError(f"{name} has no bundled data: pass --data cifar10-jpeg:PATH")
    data = data or "digits"
    phases = recipe.phases[1:] if start else recipe.phases
    if epochs:
        phases = tuple(replace(phase, epochs=epochs) for phase in phases)
    network = train(recipe, open_data(data, "train"), phases, start=start, seed=seed, compiled=compiled)
    file = output or Path(f"{name}.npz")
    save_weights(network, file)
    test = open_data(data, "test")
    accuracy = evaluate(load_weights(recipe.network(), file), test)
    click.echo(f"{file}: {accuracy:.4f} on the {len(test)} test images")


if __name__ == "__main__":
    main()
