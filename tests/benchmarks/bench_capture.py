"""What the parts cost: ways to keep the same spike trains, and the start-up of the commands; prints one table.

    python tests/benchmarks/bench_capture.py [--rounds 5] [--samples 20] [--only spikes,startup]

Whole captures beside what people do today are in `bench_table`, growth and memory in `bench_cost`. What is compared is
run in turns, and each ratio is the median over rounds of one turn's ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.benchmarks import by_hand  # noqa: E402
from tests.benchmarks.common import fit, in_memory, in_turns, network_and_data, noise, ratio, row  # noqa: E402

T = 8


def spike_trains(samples: int) -> list[npt.NDArray[np.float32]]:
    """Of every layer and timestep of the ResNet-20, (sample, neuron), in the order in which they arise."""
    import torch

    from probe.prepare import Source, prepare

    network, data, _ = network_and_data(samples)
    prepared = prepare(Source(network, data=data, samples=samples, timesteps=T))
    prepared.subject.snn.eval()
    kept: dict[str, Any] = {}
    with torch.no_grad():
        x = prepared.load(prepared.indices)
        by_hand.run_hooked(prepared.subject, prepared.surveyed.pairs, x, T, partial(by_hand.keep, kept))
    return [each.numpy().reshape(samples, -1) for name, each in kept.items() if "snn" in name and name.endswith("out")]


def bench_spikes(rounds: int, samples: int, folder: Path) -> None:
    """Each way with its packing, not synced."""
    from probe.spikes import pack

    spikes = spike_trains(samples)

    def writer(name: str, encode: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]], **how: Any):  # type: ignore[no-untyped-def]
        def write() -> None:
            with h5py.File(folder / name, "w") as file:
                for i, values in enumerate(spikes):
                    encoded = encode(values)
                    file.create_dataset(str(i), data=encoded, chunks=encoded.shape if how else None, **how)

        return write

    def bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        return pack(values > 0)

    ways: list[tuple[str, Callable[[], None]]] = [
        ("float32, plain h5py", writer("s0.h5", lambda values: values)),
        ("bits", writer("s1.h5", bits)),
        ("bits, deflate-1", writer("s2.h5", bits, compression="gzip", compression_opts=1)),
    ]
    try:
        import hdf5plugin

        ways.append(("bits, Blosc2 (hdf5plugin)", writer("s3.h5", bits, **hdf5plugin.Blosc2())))
    except ImportError:
        pass
    seconds = in_turns(rounds, *(write for _, write in ways))
    sizes = [(folder / f"s{i}.h5").stat().st_size for i in range(len(ways))]
    for i, (name, _) in enumerate(ways):
        part = f"{sizes[i] / 1e6:.1f} MB, {np.median(seconds[:, i]):.3f} s"
        row(f"spikes of {samples} samples as {name}", part, f"1/{sizes[0] / sizes[i]:.0f} of the bytes")


def bench_startup(rounds: int, folder: Path) -> None:
    """The commands as a user types them, against the imports that reading HDF5 takes."""
    import torch
    from torch import nn

    import probe
    from probe.neurons import QCFS

    torch.manual_seed(0)
    images = noise(200, 3, 32, 32)
    layer = (nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), QCFS(8))
    network = fit(nn.Sequential(*layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)), images[:50])
    recording = folder / "large.h5"
    probe.capture(network, data=in_memory("noise", images), timesteps=T, record="stats", output=recording)
    command = [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from probe.cli import main; main()",
    ]

    def fresh(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(words, check=True, capture_output=True)

    seconds = in_turns(
        rounds,
        fresh(sys.executable, "-c", "import numpy, h5py"),
        fresh(*command, "--help"),
        fresh(*command, "unevenness", str(recording), "--layer", "0"),
    )
    row('python -c "import numpy, h5py"', f"{np.median(seconds[:, 0]):.2f} s")
    row("  probe --help", ratio(seconds, 1), "<= 4x")
    row("  probe unevenness --layer 0, 13 million neurons", ratio(seconds, 2), "<= 4x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=20, help="whose spikes are written")
    parser.add_argument("--only", default="spikes,startup")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "spikes" in asked.only.split(","):
            bench_spikes(asked.rounds, asked.samples, Path(folder))
        if "startup" in asked.only.split(","):
            bench_startup(asked.rounds, Path(folder))


if __name__ == "__main__":
    main()
