"""What a capture costs: time beside the bare forwards, writing, memory, start-up; run as a script, prints one table.

    python tests/benchmarks/bench_capture.py [--rounds 5] [--batch 100] [--only capture,write,memory,startup]

Only ratios within one run mean anything: what is compared is run in turns, and each ratio is the median over rounds
of one turn's ratio. Nothing else may run on the machine: torch's threads wait for each other at every operation.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.benchmarks.common import in_turns, network_and_data, ratio, row  # noqa: E402

T = 8


class Drop:
    """A sink that keeps nothing."""

    def append(self, layer: int | None, batch: object) -> None:
        pass


class Keep:
    """A sink that keeps everything, for what is to be written twice."""

    def __init__(self) -> None:
        self.batches: list[tuple[int | None, object]] = []

    def append(self, layer: int | None, batch: object) -> None:
        self.batches.append((layer, batch))


# ----------------------------------------------------------------------------------------------------- capture


def bench_capture(rounds: int, batch: int, folder: Path) -> None:
    """A capture of the statistics against the bare forwards of both networks over the same batch."""
    import torch

    from probe.recording.schema import time_grid
    from probe.run import Run
    from probe.session import plan

    network, data, what = network_and_data(batch)
    planned = plan(
        network, data=data, samples=batch, timesteps=T, batch_size=batch, record="stats",
        output=folder / "stats.h5", overwrite=True,
    )  # fmt: skip
    subject = planned.prepared.subject
    network.eval(), subject.ann.eval(), subject.snn.eval()
    x = torch.from_numpy(data.load(planned.indices))
    run = Run(
        subject, planned.prepared.surveyed, planned.layers, Drop(), record="stats", timesteps=T, grid=time_grid(T)
    )

    def bare() -> None:
        with torch.inference_mode():
            subject.run_ann(x.clone())
            for _ in subject.run_snn(x.clone(), T):
                pass
            subject.reset()

    def in_memory() -> None:
        with run.hooked():
            run.batch(x, 0)

    seconds = in_turns(rounds, bare, in_memory, planned.run)
    row(f"bare forwards of ANN and SNN, {what}, batch {batch}, T = {T}", f"{np.median(seconds[:, 0]):.3f} s")
    row("  capture in memory, record=stats", ratio(seconds, 1), "<= 1.30x")
    row("  plan(...).run() to disk, record=stats, images loaded", ratio(seconds, 2))


# ------------------------------------------------------------------------------------------------------- write


def bench_write(rounds: int, samples: int, folder: Path) -> None:
    """`full` through the Writer, packing included, against plain h5py: the same arrays as contiguous float32.

    Both files are synced to disk, and both rates are megabytes of the float32 arrays a second.
    """
    from dataclasses import replace

    import torch

    from probe.recording.schema import time_grid
    from probe.recording.writer import Writer
    from probe.run import Run
    from probe.session import plan
    from probe.spikes import pack, unpack

    network, data, _ = network_and_data(samples)
    planned = plan(
        network, data=data, samples=samples, timesteps=T, batch_size=samples, record="full",
        output=folder / "full.h5", overwrite=True,
    )  # fmt: skip
    kept = Keep()
    run = Run(
        planned.prepared.subject,
        planned.prepared.surveyed,
        planned.layers,
        kept,
        record="full",
        timesteps=T,
        grid=time_grid(T),
    )
    with run.hooked():
        run.batch(torch.from_numpy(data.load(planned.indices)), 0)
    gathered = {tap.info.index: tap.tally.take() for tap in run.taps}
    sizes = {info.index: info.neurons for info in planned.layers}
    shapes = {info.index: info.shape for info in planned.layers}
    plain = []
    for layer, b in kept.batches:
        if b.field == "snn_spikes":
            spikes = unpack(b.values, sizes[layer]).astype(np.float32)
            plain.append((layer, replace(b, values=spikes.reshape(samples, *shapes[layer]))))
        else:
            plain.append((layer, replace(b, values=b.values.astype(np.float32))))
    megabytes = sum(b.values.nbytes for _, b in plain) / 1e6

    def with_probe() -> None:
        writer = Writer(folder / "probe.h5", planned.info, planned.layers, overwrite=True)
        for (layer, b), (_, decoded) in zip(kept.batches, plain, strict=True):
            if b.field == "snn_spikes":
                b = replace(b, values=pack(decoded.values.reshape(samples, -1) > 0))
            writer.append(layer, b)
        writer.finish(gathered, run.facts())

    def with_h5py() -> None:
        path = folder / "plain.h5"
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            for layer, b in plain:
                name = f"{layer}/{b.field}"
                if b.timestep is None:
                    file[name] = b.values
                    continue
                if name not in file:
                    steps = 1 if b.field == "snn_input" and layer == 0 else T
                    file.create_dataset(name, (samples, steps, *b.values.shape[1:]), "f4")
                file[name][:, b.timestep - 1] = b.values
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    seconds = in_turns(rounds, with_h5py, with_probe)
    rates = megabytes / np.median(seconds, 0)
    row(f"full, {samples} samples, {megabytes:.0f} MB as float32: plain h5py, synced", f"{rates[0]:.0f} MB/s")
    share = np.median(seconds[:, 0] / seconds[:, 1])
    row("  probe's Writer, bits packed, checked, synced", f"{rates[1]:.0f} MB/s = {share:.0%}", ">= 70%")
    on_disk = [(folder / name).stat().st_size / 1e6 for name in ("plain.h5", "probe.h5")]
    row("  bytes on disk, plain and probe", f"{on_disk[0]:.0f} MB, {on_disk[1]:.0f} MB")
    with h5py.File(folder / "probe.h5") as file:
        stored = sum(file[f"layers/{i}/snn_spikes"].id.get_storage_size() for i in sizes)
    as_floats = sum(b.values.nbytes for _, b in plain if b.field == "snn_spikes")
    row("  spikes on disk against float32", f"1/{as_floats / stored:.0f}")
    _bench_spikes(rounds, folder, [b.values for _, b in plain if b.field == "snn_spikes"])


def _bench_spikes(rounds: int, folder: Path, spikes: list[npt.NDArray[np.float32]]) -> None:
    """Ways to keep the same spike trains, each with its packing, not synced."""
    from probe.spikes import pack

    def writer(name: str, encode: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.generic]], **how: object):  # type: ignore[no-untyped-def]
        def write() -> None:
            with h5py.File(folder / name, "w") as file:
                for i, values in enumerate(spikes):
                    encoded = encode(values.reshape(len(values), -1))
                    file.create_dataset(str(i), data=encoded, chunks=encoded.shape if how else None, **how)

        return write

    def bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        return pack(values > 0)

    ways: list[tuple[str, Callable[[], None]]] = [
        ("float32, plain h5py", writer("s0.h5", lambda values: values)),
        ("bits", writer("s1.h5", bits)),
        ("bits, deflate-1 (what probe does)", writer("s2.h5", bits, compression="gzip", compression_opts=1)),
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
        row(f"  spikes as {name}", part, f"1/{sizes[0] / sizes[i]:.0f} of the bytes")


# ------------------------------------------------------------------------------------------------------ memory


def child(samples: int, timesteps: int, record: str, folder: str) -> None:
    """In a process of its own: capture so many random images with the bundled network, print the peak in MB."""
    import torch

    import probe
    from probe.data import DataSet
    from probe.zoo import load

    torch.set_num_threads(1)
    labels = np.arange(samples) % 10

    def images(index: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return np.random.default_rng(int(index[0])).standard_normal((len(index), 1, 8, 8), dtype=np.float32)

    data = DataSet("random", labels, tuple("0123456789"), images)
    probe.capture(
        load("digits"), data=data, samples=None, timesteps=timesteps, record=record, output=Path(folder) / "m.h5",
        overwrite=True,
    )  # fmt: skip
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def bench_memory(folder: Path) -> None:
    """Peak memory of a capture over samples, and over T."""

    def peak(samples: int, timesteps: int, record: str) -> str:
        command = [sys.executable, __file__, "--child", str(samples), str(timesteps), record, str(folder)]
        return f"{float(subprocess.run(command, check=True, capture_output=True, text=True).stdout):.0f}"

    for record in ("stats", "full"):
        found = " ".join(peak(samples, T, record) for samples in (100, 200, 400, 800))
        row(f"peak memory, digits, {record}, 100, 200, 400, 800 samples", f"{found} MB", "flat")
    for record in ("stats", "full"):
        found = " ".join(peak(100, timesteps, record) for timesteps in (4, 8, 16, 32))
        row(f"peak memory, digits, {record}, T = 4, 8, 16, 32", f"{found} MB", "flat")


# ----------------------------------------------------------------------------------------------------- startup


def write_large(path: Path) -> None:
    """A recording with 13 million neurons in layer 0: 200 samples of 64x32x32, random statistics."""
    import torch

    from probe.recording.schema import Batch, LayerInfo, RunInfo, per_sample_grid, time_grid
    from probe.recording.writer import Writer
    from probe.tally import LevelTally, Plan

    theta = np.asarray(1.5, np.float32)
    layer = LayerInfo(0, "act", "IF", "if", 8, (64, 32, 32), theta, 0.5, {"reset": "subtract"})
    grid = time_grid(T)
    info = RunInfo(
        timesteps=T, record="stats", family="own", method="if", model="random", data="random", split="test", seed=0,
        classes=10, batch_size=50, grid=grid, per_sample=per_sample_grid(T), run_id="bench", created_by="bench",
    )  # fmt: skip
    tally = LevelTally(Plan({t: layer.coding(t, T) for t in grid}, info.per_sample, T, theta))
    writer = Writer(path, info, [layer])
    generator = torch.Generator().manual_seed(0)
    for first in range(0, 200, 50):
        shape = (50, *layer.shape)
        tally.begin(first, torch.randint(0, 9, shape, generator=generator))
        for t in range(1, T + 1):
            x = torch.randn(shape, generator=generator)
            tally.step(t, x, (x > 0.7) * theta.item())
        tally.end()
        for name, values in {
            "index": np.arange(first, first + 50), "label": np.arange(50) % 10,
            "digest_ann": np.zeros(50, np.uint64), "digest_snn": np.zeros(50, np.uint64),
            "ann": np.zeros((50, 10), np.float32), "snn": np.zeros((50, T, 10), np.float32),
        }.items():  # fmt: skip
            writer.append(None, Batch(name, first, values))
    writer.finish({0: tally.take()}, {"modes": {}, "oracles": {}, "law": {}})


def bench_startup(rounds: int, folder: Path) -> None:
    """The commands as a user types them, against the imports that reading HDF5 takes."""
    recording = folder / "large.h5"
    write_large(recording)
    probe = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); from probe.cli import main; main()"]

    def command(*words: str) -> Callable[[], object]:
        return lambda: subprocess.run(words, check=True, capture_output=True)

    seconds = in_turns(
        rounds,
        command(sys.executable, "-c", "import numpy, h5py"),
        command(*probe, "--help"),
        command(*probe, "unevenness", str(recording), "--layer", "0"),
    )
    row('python -c "import numpy, h5py"', f"{np.median(seconds[:, 0]):.2f} s")
    row("  probe --help", ratio(seconds, 1), "<= 4x")
    row("  probe unevenness --layer 0, 13 million neurons", ratio(seconds, 2), "<= 4x")


def parts(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "capture", lambda: bench_capture(arguments.rounds, arguments.batch, folder)
    yield "write", lambda: bench_write(arguments.rounds, arguments.samples, folder)
    yield "memory", lambda: bench_memory(folder)
    yield "startup", lambda: bench_startup(arguments.rounds, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100, help="samples a batch of the capture")
    parser.add_argument("--samples", type=int, default=20, help="samples to write with `full`")
    parser.add_argument("--only", default="capture,write,memory,startup")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        samples, timesteps, record, where = arguments.child
        child(int(samples), int(timesteps), record, where)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, bench in parts(arguments, Path(folder)):
            if name in arguments.only.split(","):
                bench()


if __name__ == "__main__":
    main()
