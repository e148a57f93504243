"""What watching a training costs: a step of snnTorch's tutorial network, plain and watched; prints one table.

    python tests/benchmarks/bench_watch.py [--rounds 10] [--batch 64] [--timesteps 50]

The network is 12C5-MP2-64C5-MP2-1024FC10 with Leaky neurons, β = 0.5, fast sigmoid with k = 25, on random images of
MNIST's shape, its weights tripled so that every layer fires. Plain steps, steps between watched ones and watched steps
take turns; each ratio is the median over rounds of one turn's ratio. Times are processor time of one thread: work that
others do on the machine disturbs that least.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import snntorch
import torch
from snntorch import surrogate, utils
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import probe  # noqa: E402
from tests.benchmarks.common import ratio, row  # noqa: E402

GOAL = 0.05


def tutorial() -> nn.Sequential:
    """snnTorch's tutorial network, with hidden states."""

    def leaky(**last: bool) -> nn.Module:
        return snntorch.Leaky(beta=0.5, spike_grad=surrogate.fast_sigmoid(slope=25), init_hidden=True, **last)

    return nn.Sequential(
        nn.Conv2d(1, 12, 5), nn.MaxPool2d(2), leaky(), nn.Conv2d(12, 64, 5), nn.MaxPool2d(2), leaky(), nn.Flatten(),
        nn.Linear(1024, 10), leaky(output=True),
    )  # fmt: skip


def work(call: Callable[[], object]) -> float:
    """Seconds of processor time."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--timesteps", type=int, default=50)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = tutorial()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-4)
    x, y = torch.rand(arguments.batch, 1, 28, 28), torch.arange(arguments.batch) % 10

    def train() -> Tensor:
        utils.reset(network)
        counts = sum(network(x)[0] for _ in range(arguments.timesteps))
        loss = nn.functional.cross_entropy(counts, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    with tempfile.TemporaryDirectory() as folder, \
            probe.watch(network, every=1, path=Path(folder) / "each.csv") as each, \
            probe.watch(network, every=10**9, path=Path(folder) / "never.csv") as never:  # fmt: skip
        # Both begin with a watched step; from then on the second one has no hooks, as between two watched steps.
        each._hooks.close()
        train()
        never.step()

        def between() -> None:
            train()
            never.step()

        def watched() -> None:
            each._begin()
            train()
            each._finish()

        calls = (train, between, watched)
        for call in calls:
            call()
        seconds = np.array([[work(call) for call in calls] for _ in range(arguments.rounds)])
    what = f"a training step, tutorial network, batch {arguments.batch}, T = {arguments.timesteps}"
    row(what, f"{np.median(seconds[:, 0]):.3f} s")
    row("  a step between watched ones", ratio(seconds, 1))
    row("  a watched step (every = 1)", ratio(seconds, 2))
    for every in (10, 100):
        extra = (seconds[:, 2] / seconds[:, 0] - 1) / every
        goal = f"< {GOAL:.0%}" if every == 100 else ""
        row(f"  watched steps shared out over every = {every}", f"{np.median(extra):+.2%}", goal)


if __name__ == "__main__":
    main()
