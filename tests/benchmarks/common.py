"""What the benchmarks share: rows printed one by one, calls timed in turns, networks with images, children, fits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

    from probe.data import DataSet

ROOT = Path(__file__).resolve().parents[2]
Clock = Callable[[], float]


# ---------------------------------------------------------------------------------------------- time and tables


def row(what: str, value: str, goal: str = "") -> None:
    """Print a line of the table at once, so that a run cut short has said what it knows."""
    print(f"{what:<66} {value:>24}  {goal}", flush=True)


def timed(call: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    started = clock()
    call()
    return clock() - started


def in_turns(rounds: int, *calls: Callable[[], object], clock: Clock = time.perf_counter) -> npt.NDArray[np.float64]:
    """Seconds, shape (round, call); one round before is not counted."""
    for call in calls:
        call()
    return np.array([[timed(call, clock) for call in calls] for _ in range(rounds)])


def spread(each: npt.ArrayLike) -> str:
    """Median, least and largest of ratios."""
    values = np.asarray(each)
    return f"{np.median(values):.2f}x ({values.min():.2f} to {values.max():.2f})"


def ratio(seconds: npt.NDArray[np.float64], of: int, to: int = 0) -> str:
    return spread(seconds[:, of] / seconds[:, to])


# ----------------------------------------------------------------------------------------- children and memory


def peak_megabytes() -> float:
    """This process's own largest resident memory; `ru_maxrss` starts from the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    """From here on `peak_megabytes` counts anew: setting a network up is not what is measured."""
    Path("/proc/self/clear_refs").write_text("5")


def in_child(script: str, **asked: object) -> dict[str, Any]:
    """What `script --child JSON` prints, from a process of its own."""
    command = [sys.executable, script, "--child", json.dumps(asked)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


def bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def stored_bytes(folder: Path, wanted: Callable[[str], bool]) -> int:
    """What the datasets of a recording that are `wanted` by name take on disk, its parts included."""
    import h5py

    total = 0

    def add(name: str, found: object) -> None:
        nonlocal total
        if isinstance(found, h5py.Dataset) and wanted(name):
            # A virtual dataset stores nothing.
            total += found.id.get_storage_size()

    for path in sorted(folder.rglob("*.h5")):
        with h5py.File(path) as file:
            file.visititems(add)
    return total


# -------------------------------------------------------------------------------------------- networks and data


def vgg16(levels: int = 8) -> nn.Module:
    """VGG-16 for 32x32 images: 13 convolutions with batch norm, two hidden linear layers, 15 QCFS layers.

    A sample has 284,672 neurons.
    """
    from torch import nn

    from probe.neurons import QCFS

    modules: list[nn.Module] = []
    inputs = 3
    for outputs, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            modules += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), QCFS(levels)]
            inputs = outputs
        modules.append(nn.AvgPool2d(2))
    modules.append(nn.Flatten())
    for inputs in (512, 4096):
        modules += [nn.Linear(inputs, 4096), QCFS(levels)]
    return nn.Sequential(*modules, nn.Linear(4096, 10))


def fit(network: nn.Module, images: npt.NDArray[np.float32]) -> nn.Module:
    """Batch norm and thresholds that suit random weights: θ is twice the standard deviation of a layer's inputs."""
    import torch

    from probe.neurons import QCFS

    def threshold(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        module.threshold.data.fill_(float(args[0].std() * 2))

    handles = [m.register_forward_pre_hook(threshold) for m in network.modules() if isinstance(m, QCFS)]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # The mean over batches, of which there is one.
            module.momentum = None
    with torch.no_grad():
        network.train()(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return network.eval()


def in_memory(name: str, images: npt.NDArray[np.float32], labels: npt.NDArray[np.int64] | None = None) -> DataSet:
    """A data set of ten classes whose images are decoded before anything is timed."""
    from probe.data import DataSet

    labels = np.arange(len(images)) % 10 if labels is None else labels
    return DataSet(name, labels, tuple("0123456789"), lambda index: images[index])


def noise(samples: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((samples, *shape), dtype=np.float32)


def cifar10(samples: int) -> DataSet:
    """CIFAR-10 images, balanced over classes, where they are there; else noise."""
    from probe.data import choose_samples, open_data

    archive = Path(os.environ.get("PROBE_TEST_DATA", ROOT.parent / "shared" / "data")) / "cifar10-jpeg.npz"
    if not archive.is_file():
        return in_memory("random images", noise(samples, 3, 32, 32))
    data = open_data(f"cifar10-jpeg:{archive}")
    chosen = choose_samples(data.labels, samples, 0)
    return in_memory("CIFAR-10", data.load(chosen), data.labels[chosen])


def network_and_data(samples: int, network: str = "resnet20") -> tuple[nn.Module, DataSet, str]:
    """A network by name (`resnet20` and `digits` are trained, `vgg16` has random weights), images, and both named."""
    import torch

    from probe import zoo
    from probe.data import choose_samples, open_data

    if network == "digits":
        digits = open_data("digits")
        chosen = choose_samples(digits.labels, samples, 0)
        return zoo.load("digits"), in_memory("digits", digits.load(chosen), digits.labels[chosen]), "digits"
    data = cifar10(samples)
    if network == "vgg16":
        torch.manual_seed(0)
        images = cifar10(50)
        return fit(vgg16(), images.load(np.arange(50))), data, f"VGG-16 (random weights), {data.name}"
    return zoo.load("resnet20-cifar10"), data, f"ResNet-20 (trained), {data.name}"
