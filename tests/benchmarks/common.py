"""What the benchmarks share: a table printed line by line, calls timed in turns, and a network with images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
ROWS: list[tuple[str, str, str]] = []


def row(what: str, value: str, goal: str = "") -> None:
    """Print a line of the table at once, so that a run cut short has said what it knows."""
    ROWS.append((what, value, goal))
    print(f"{what:<66} {value:>24}  {goal}", flush=True)


Clock = Callable[[], float]


def timed(call: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    started = clock()
    call()
    return clock() - started


def in_turns(rounds: int, *calls: Callable[[], object], clock: Clock = time.perf_counter) -> npt.NDArray[np.float64]:
    """Seconds, shape (round, call); one round before is not counted."""
    for call in calls:
        call()
    return np.array([[timed(call, clock) for call in calls] for _ in range(rounds)])


def ratio(seconds: npt.NDArray[np.float64], of: int, to: int = 0) -> str:
    each = seconds[:, of] / seconds[:, to]
    return f"{np.median(each):.2f}x ({each.min():.2f} to {each.max():.2f})"


def network_and_data(samples: int):  # type: ignore[no-untyped-def]
    """ResNet-20 and images: trained weights and CIFAR-10 where they are there, else random with fitting thresholds."""
    import torch

    from probe import zoo
    from probe.data import DataSet, open_data
    from probe.errors import ProbeError
    from probe.neurons import QCFS
    from probe.zoo.networks import resnet20

    torch.manual_seed(0)
    archive = Path(os.environ.get("PROBE_TEST_DATA", ROOT.parent / "shared" / "data")) / "cifar10-jpeg.npz"
    labels = np.arange(samples) % 10
    if archive.is_file():
        data = open_data(f"cifar10-jpeg:{archive}")
    else:
        noise = np.random.default_rng(0).standard_normal((samples, 3, 32, 32), dtype=np.float32)
        data = DataSet("random", labels, tuple("0123456789"), lambda index: noise[index])
    try:
        network = zoo.load("resnet20-cifar10")
        weights = "trained"
    except (ProbeError, FileNotFoundError):
        network, weights = resnet20().eval(), "random weights"

        def fit(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            module.threshold.data.fill_(float(args[0].std() * 2))

        handles = [m.register_forward_pre_hook(fit) for m in network.modules() if isinstance(m, QCFS)]
        with torch.no_grad():
            network(torch.from_numpy(data.load(np.arange(50))))
        for handle in handles:
            handle.remove()
    return network, data, f"ResNet-20 ({weights}), {data.name.split(':')[0]}"
