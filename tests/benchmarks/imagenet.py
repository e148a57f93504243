"""What ImageNet's 50,000 validation images at T = 32 would take with VGG-16, per preset, on 1, 8 and 64 GPUs.

    python tests/benchmarks/imagenet.py [-T 32] [--samples 2] [--activation qcfs|relu]

Measured here: torchvision's VGG-16 with batch norm at 224x224, random weights, fitted thresholds, average pooling, a
few samples of noise, every preset in a process of its own, at the very T. Assumed, and printed as such: how fast a GPU
runs the bare network, that recording costs there in proportion what it costs here, the disks, and how samples are
split.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from probe.recording.schema import FIELDS, PRESETS  # noqa: E402
from tests.benchmarks.common import fit, forget_peak, in_child, in_memory, noise, peak_megabytes, stored_bytes, timed  # noqa: E402

GPUS = (1, 8, 64)
# A Tesla V100 takes 178.95 ms for a batch of 64 of VGG-16 at 224x224 in float32: kexinzhao/Paddle_benchmark,
# float16_benchmark.md (cuDNN 7.1, CUDA 9.0).
RATE = 64 / 0.17895
RATE_SOURCE = "V100, float32: 178.95 ms a batch of 64, PaddlePaddle's float16_benchmark.md"


# ------------------------------------------------------------------------------------------- measured (a child)


def of_samples(name: str) -> bool:
    """Whether a dataset of a recording grows with the samples."""
    return name.startswith(("samples/", "output/")) or name.rpartition("/")[2] in (*FIELDS, "per_sample")


def once(recording: Path) -> int:
    """Bytes of a recording that do not grow with the samples, before compression."""
    sizes = []
    with h5py.File(recording) as file:
        file.visititems(
            lambda name, found: (
                sizes.append(found.nbytes) if isinstance(found, h5py.Dataset) and not of_samples(name) else None
            )
        )
    return sum(sizes)


def child(record: str, samples: int, timesteps: int, activation: str) -> None:
    """Bare and recorded, in turns; printed as JSON."""
    import torch
    from torch import nn

    from probe.data import DataSet
    from probe.neurons import QCFS, replace_modules
    from probe.session import plan
    from probe.vision import torchvision

    torch.manual_seed(0)
    network = torchvision().models.vgg16_bn(weights=None)
    pools = {name: nn.AvgPool2d(2) for name, module in network.named_modules() if isinstance(module, nn.MaxPool2d)}
    relus = {name: QCFS(8) for name, module in network.named_modules() if isinstance(module, nn.ReLU)}
    replace_modules(network, pools | (relus if activation == "qcfs" else {}))
    images = noise(max(samples, 2), 3, 224, 224)
    fit(network, images)
    data = in_memory("noise", images)
    data = DataSet("noise", data.labels, tuple(map(str, range(1000))), data.load)
    with tempfile.TemporaryDirectory() as folder:
        planned = plan(
            network, data=data, samples=samples, timesteps=timesteps, batch_size=samples, record=record,
            calibration_samples=samples, output=Path(folder) / "recording.h5",
        )  # fmt: skip
        subject, x = planned.prepared.subject, planned.prepared.load(planned.indices)

        def bare() -> None:
            with torch.no_grad():
                subject.run_ann(x.clone())
                for _ in subject.run_snn(x.clone(), timesteps):
                    pass
                subject.reset()

        network.eval(), subject.snn.eval()
        forget_peak()
        found = {"bare": timed(bare), "recorded": timed(planned.run), "peak": peak_megabytes()}
        found |= {
            "once": once(planned.path), "each": stored_bytes(Path(folder), of_samples) / samples,
            "planned": planned.bytes / samples,
            "neurons": sum(info.neurons for info in planned.layers),
        }  # fmt: skip
    print(json.dumps(found))


# --------------------------------------------------------------------------------------------------- estimated


def text_of(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.1f} d" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{seconds / 60:.1f} min"


def size_of(count: float) -> str:
    for unit in ("MB", "GB"):
        count /= 1e3 if unit == "GB" else 1e6
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1e3:.3g} TB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-T", "--timesteps", type=int, default=32)
    parser.add_argument("--samples", type=int, default=2, help="measured here; at least 2")
    parser.add_argument("--activation", default="qcfs", choices=("qcfs", "relu"))
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=10, help="samples a batch on the GPU")
    parser.add_argument("--rate", type=float, default=RATE, help="images/s of the bare ANN on one GPU")
    parser.add_argument("--bandwidth", type=float, default=2000, help="MB/s that the disk of a machine writes")
    parser.add_argument("--per-machine", type=int, default=8, help="GPUs that share a machine, its disk and memory")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(**asked.child)
        return
    if asked.samples < 2:
        parser.error("--samples: growth is measured from 1 sample to more")
    how = {"timesteps": asked.timesteps, "activation": asked.activation}
    one = in_child(__file__, record="stats", samples=1, **how)
    more = {record: in_child(__file__, record=record, samples=asked.samples, **how) for record in PRESETS}

    bare = float(np.median([found["bare"] for found in more.values()])) / asked.samples
    over = {record: found["recorded"] / found["bare"] for record, found in more.items()}
    in_batch = (more["stats"]["peak"] - one["peak"]) / (asked.samples - 1)
    steps = asked.timesteps + 1
    print(f"VGG-16 ({asked.activation}), 224x224, T = {asked.timesteps}, {one['neurons']:,} neurons a sample\n")
    print(f"MEASURED on this machine, {asked.samples} samples of noise, random weights")
    print(f"  bare, ANN and SNN: {bare:.2f} s a sample, {bare / steps:.3f} s a forward")
    print(f"  peak memory, stats: {one['peak']:.0f} MB for 1 sample, {in_batch:.0f} MB for each more in the batch")
    for record, found in more.items():
        print(
            f"  {record:<6} {over[record]:.2f}x bare, peak {found['peak']:.0f} MB; on disk once at most "
            f"{size_of(found['once'])}, for each sample {size_of(found['each'])} of {size_of(found['planned'])} planned"
        )
    source = RATE_SOURCE if asked.rate == RATE else "given"
    print(
        f"""
ASSUMED
  a GPU takes {asked.rate:.0f} images/s through the bare ANN ({source}; --rate)
  a timestep of the SNN takes what a forward of the ANN takes
  the statistics cost there, as a multiple of bare, what they cost here
  what counts, spikes and full add to that is the host's work: what it takes here, or the disk if that takes longer
  the disk of a machine writes {asked.bandwidth:.0f} MB/s (--bandwidth) for {asked.per_machine} GPUs (--per-machine)
  one process a GPU, batches of {asked.batch} (--batch), samples split evenly, nothing exchanged meanwhile
  spikes of noise through random weights compress like those of images; memory grows linearly in the batch"""
    )
    print(f"\nESTIMATED for {asked.images:,} images")
    line = "  {:<8}" + " {:>12}" * len(GPUS) + " {:>16} {:>18} {:>12}"
    print(
        line.format("preset", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS), "memory a GPU", "a machine", "disk")
    )
    simulated = steps / asked.rate
    for record in ("bare", *PRESETS):
        times = []
        for gpus in GPUS:
            each = simulated
            if record != "bare":
                host = max(0.0, over[record] - over["stats"]) * bare
                disk = more[record]["each"] / 1e6 / (asked.bandwidth / min(gpus, asked.per_machine))
                each = simulated * over["stats"] + max(host, disk)
            times.append(text_of(each * asked.images / gpus))
        if record == "bare":
            print(line.format(record, *times, "", "", ""))
            continue
        memory = more[record]["peak"] + in_batch * (asked.batch - asked.samples)
        stored = more[record]["once"] + more[record]["each"] * asked.images
        machine = size_of(memory * min(max(GPUS), asked.per_machine) * 1e6)
        print(line.format(record, *times, size_of(memory * 1e6), machine, size_of(stored)))


if __name__ == "__main__":
    main()
