"""How cost grows with work: time and peak memory of a capture against samples, T and layers, each doubled four times.

    python tests/benchmarks/bench_cost.py [--rounds 3] [--record stats,spikes] [--only samples,timesteps,layers,long]

The network is a chain of equal QCFS layers, the images are noise. Every point is a process of its own, points take
turns, medians over rounds are fitted by a line, and by a power. `long` holds the peak memory at T up to 1024 against
T = 1 on the digits network and the ResNet-20, once. On a machine that is busy pass --busy: one thread, and the
processor time it takes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.benchmarks.common import fit, in_child, network_and_data, noise, peak_megabytes, row, timed  # noqa: E402

BASE = {"samples": 200, "timesteps": 8, "layers": 8}
POINTS = {"samples": (100, 200, 400, 800, 1600), "timesteps": (4, 8, 16, 32, 64), "layers": (2, 4, 8, 16, 32)}
LONG = (1, 16, 64, 256, 1024)
GOAL = 1.2


# -------------------------------------------------------------------------------------------- a point (a child)


def chain(layers: int):  # type: ignore[no-untyped-def]
    """So many equal layers of 16x16x16 QCFS neurons, fitted to noise."""
    import torch
    from torch import nn

    from probe.neurons import QCFS

    torch.manual_seed(0)
    modules: list[nn.Module] = []
    for inputs in (3, *[16] * (layers - 1)):
        modules += [nn.Conv2d(inputs, 16, 3, padding=1), nn.BatchNorm2d(16), QCFS(8)]
    network = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return fit(network, noise(50, 3, 16, 16))


def child(asked: dict[str, object]) -> None:
    """Capture once; print the seconds and this process's peak in MB."""
    import torch

    import probe
    from probe.data import DataSet

    samples, timesteps = int(str(asked["samples"])), int(str(asked["timesteps"]))
    if asked["busy"]:
        torch.set_num_threads(1)
    if asked["network"] == "chain":
        network = chain(int(str(asked["layers"])))

        def images(index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
            # Made when asked for: a data set in memory would grow with its samples.
            return noise(len(index), 3, 16, 16)

        data = DataSet("noise", np.arange(samples) % 10, tuple("0123456789"), images)
    else:
        network, data, _ = network_and_data(samples, str(asked["network"]))
    with tempfile.TemporaryDirectory() as folder:

        def capture(record: str, output: str, samples: int | None) -> None:
            probe.capture(
                network, data=data, samples=samples, timesteps=timesteps, record=record, output=Path(folder) / output
            )

        clock = time.process_time if asked["busy"] else time.perf_counter
        # What happens once a process is not timed.
        capture("stats", "warm.h5", min(samples, 10))
        seconds = timed(lambda: capture(str(asked["record"]), "recording.h5", None), clock)
    print(json.dumps({"seconds": seconds, "peak": peak_megabytes()}))


# ------------------------------------------------------------------------------------------------------- fits


def fitted(x: tuple[int, ...], y: npt.NDArray[np.float64], unit: str) -> str:
    """y = a + b·x by least squares, how good that is, and the exponent of y = c·x^p."""
    slope, start = np.polyfit(x, y, 1)
    line = start + slope * np.array(x)
    explained = 1 - ((y - line) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    power = np.polyfit(np.log(x), np.log(y), 1)[0]
    off = np.abs(y / line - 1).max()
    return f"{start:.3g} {unit} + {slope:.3g}·x, R² {explained:.4f}, off by {off:.1%}, exponent {power:.2f}"


def megabytes(peaks: npt.ArrayLike) -> str:
    return " ".join(f"{peak:.0f}" for peak in np.asarray(peaks)) + " MB"


def grow(axis: str, record: str, rounds: int, busy: bool) -> None:
    """One axis: all its points in turns."""
    x = POINTS[axis]
    found = [
        [in_child(__file__, network="chain", record=record, busy=busy, **(BASE | {axis: at})) for at in x]
        for _ in range(rounds)
    ]
    seconds, peaks = (np.median([[point[what] for point in one] for one in found], 0) for what in ("seconds", "peak"))
    others = ", ".join(f"{name} {value}" for name, value in BASE.items() if name != axis)
    row(f"{record}, {axis} {' '.join(map(str, x))} ({others})", " ".join(f"{each:.2f}" for each in seconds) + " s")
    print(f"  time = {fitted(x, seconds, 's')}; goal: linear")
    row("  peak memory", megabytes(peaks), "flat" if axis == "samples" else "")
    print(f"  memory = {fitted(x, peaks, 'MB')}; largest against smallest {peaks.max() / peaks.min():.2f}x")


def long(network: str, record: str, samples: int, busy: bool) -> None:
    """Peak memory of one batch over T."""
    peaks = [
        in_child(__file__, network=network, record=record, samples=samples, timesteps=at, busy=busy)["peak"]
        for at in LONG
    ]
    row(f"{record}, {network}, T {' '.join(map(str, LONG))}, batch {samples}: peak", megabytes(peaks))
    row(f"  T = {LONG[-1]} against {LONG[0]}", f"{peaks[-1] / peaks[0]:.2f}x", f"<= {GOAL}x")
    row(f"  the largest against T = {LONG[0]}", f"{max(peaks) / peaks[0]:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", default="stats,spikes")
    parser.add_argument("--only", default="samples,timesteps,layers,long")
    parser.add_argument("--batch", type=int, default=50, help="samples at T = 1024")
    parser.add_argument("--small", type=int, default=1, help="divide samples by this, to try it out")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child)
        return
    if asked.small > 1:
        BASE["samples"] //= asked.small
        POINTS["samples"] = tuple(samples // asked.small for samples in POINTS["samples"])
    for record in asked.record.split(","):
        for axis in POINTS:
            if axis in asked.only.split(","):
                grow(axis, record, asked.rounds, asked.busy)
        if "long" in asked.only.split(","):
            for network in ("digits", "resnet20"):
                long(network, record, asked.batch, asked.busy)


if __name__ == "__main__":
    main()
