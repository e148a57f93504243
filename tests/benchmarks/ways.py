"""The ways of recording that `bench_table` compares; each is made and run in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import h5py

from tests.benchmarks import by_hand
from tests.benchmarks.common import network_and_data

T = 8
TEXT_SAMPLES = 2


class Way:
    """One way of recording; made and run in a child."""

    label: ClassVar[str] = ""
    note: ClassVar[str] = ""
    """What it cannot do, or what of it was run."""
    record: ClassVar[str] = "stats"
    samples: ClassVar[int | None] = None
    """Of the batch that are recorded, its cost extrapolated; None for all."""
    readers: ClassVar[tuple[str, ...]] = ()
    """Of `by_hand`, which make the case table from its files."""

    def __init__(self, network: str, batch: int, folder: Path) -> None:
        from probe.session import plan

        module, data, self.what = network_and_data(batch, network)
        self.folder = folder
        self.planned = plan(
            module, data=data, samples=batch, timesteps=T, batch_size=batch, record=self.record,
            output=folder / "recording.h5", overwrite=True,
        )  # fmt: skip
        prepared = self.planned.prepared
        self.subject, self.pairs = prepared.subject, prepared.surveyed.pairs
        self.ann = module.eval()
        self.subject.snn.eval()
        self.batch = prepared.load(prepared.indices)
        self.x = self.batch[: self.samples]
        first = self.pairs[0]
        about = {"threshold": float(first.theta), "levels": first.levels, "timesteps": T}
        folder.with_suffix(".json").write_text(json.dumps(about))
        self.prepare()

    def prepare(self) -> None:
        """What is made once and not timed."""

    def forward(self, x: Any) -> None:
        """Both networks, nothing recorded."""
        self.subject.run_ann(x.clone())
        for _ in self.subject.run_snn(x.clone(), T):
            pass
        self.subject.reset()

    def once(self) -> None:
        """Record `self.x`."""
        self.forward(self.x)

    def after(self) -> None:
        """What is undone after each recording and not timed."""


class Bare(Way):
    label = "bare forward of ANN and SNN"


class Keep(Way):
    label, note = "hooks that keep tensors", "nothing on disk"

    def once(self) -> None:
        self.kept: dict[str, Any] = {}
        self.hooked(partial(by_hand.keep, self.kept))

    def hooked(self, save: Callable[[str, Any], object]) -> None:
        by_hand.run_hooked(self.subject, self.pairs, self.x, T, save)

    def after(self) -> None:
        self.kept.clear()


class Files(Keep):
    """Hooks that write a file for each tensor."""

    save: Callable[[Path, str, Any], object]
    note = ""

    def prepare(self) -> None:
        for index in range(len(self.pairs)):
            (self.folder / str(index)).mkdir()

    def once(self) -> None:
        self.hooked(partial(self.save, self.folder))

    def after(self) -> None:
        pass


class Text(Files):
    label = "hooks with np.savetxt, six decimals"
    note = f"{TEXT_SAMPLES} samples run, extrapolated to the batch"
    samples, readers = TEXT_SAMPLES, ("loadtxt", "genfromtxt", "lines")
    save = staticmethod(by_hand.save_text)


class TorchSave(Files):
    label, readers = "hooks with torch.save", ("torch",)
    save = staticmethod(by_hand.save_torch)


class PlainH5py(Files):
    label, readers, synced = "hooks with plain h5py float32", ("h5py",), False

    def prepare(self) -> None:
        pass

    def once(self) -> None:
        with h5py.File(self.folder / "plain.h5", "w") as file:
            self.hooked(partial(by_hand.save_h5py, file))
        if self.synced:
            descriptor = os.open(self.folder / "plain.h5", os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


class SyncedH5py(PlainH5py):
    label, synced = "hooks with plain h5py float32, then fsync", True


class TorchLens(Way):
    """`torchlens.trace` of one module whose forward is all that is run."""

    label = "TorchLens, every operation, ANN and loop over T"
    note = "only with the loop wrapped in one module; nothing on disk; state reset by hand"
    with_snn = True

    def prepare(self) -> None:
        from torch import nn

        way = self

        class Both(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.ann, self.snn = way.ann, way.subject.snn

            def forward(self, x: Any) -> Any:
                total = self.ann(x)
                for _ in range(T):
                    total = total + self.snn(x)
                return total

        self.traced: Any = Both() if self.with_snn else self.ann

    def forward(self, x: Any) -> None:
        self.traced(x.clone())
        self.subject.reset()

    def once(self) -> None:
        import torchlens

        self.trace = torchlens.trace(self.traced, self.x.clone())

    def after(self) -> None:
        from torchlens.backends.torch.wrappers import unwrap_torch

        # It leaves torch's functions wrapped, and the next bare forward must be bare.
        unwrap_torch()
        self.trace = None
        self.subject.reset()


class TorchLensANN(TorchLens):
    label, with_snn = "TorchLens, every operation, ANN alone", False
    note = "against the bare ANN; nothing on disk"


class OutputMonitor(Way):
    label = "SpikingJelly's OutputMonitor (IFNode, QCFS)"
    note = "against its own bare forward; outputs only, no inputs; nothing on disk"

    def prepare(self) -> None:
        import copy

        from spikingjelly.activation_based import functional, monitor, neuron
        from torch import nn

        from probe.neurons import QCFS, replace_modules

        class Scale(nn.Module):
            def __init__(self, height: float) -> None:
                super().__init__()
                self.height = height

            def forward(self, x: Any) -> Any:
                return x * self.height

        def spiking(threshold: float) -> nn.Module:
            node = neuron.IFNode(v_threshold=threshold, v_reset=None)
            node.set_reset_value("v", threshold / 2)
            node.reset()
            return nn.Sequential(node, Scale(threshold))

        self.snn = copy.deepcopy(self.ann)
        found = {name: spiking(m.threshold.item()) for name, m in self.snn.named_modules() if isinstance(m, QCFS)}
        replace_modules(self.snn, found)
        self.snn.eval()
        self.reset = partial(functional.reset_net, self.snn)
        self.monitors = lambda: (
            monitor.OutputMonitor(self.ann, QCFS), monitor.OutputMonitor(self.snn, neuron.IFNode)
        )  # fmt: skip

    def forward(self, x: Any) -> None:
        self.ann(x)
        for _ in range(T):
            self.snn(x)
        self.reset()

    def once(self) -> None:
        self.kept = self.monitors()
        self.forward(self.x)

    def after(self) -> None:
        for one in self.kept:
            one.close()
        self.kept = ()


class InMemory(Way):
    """The statistics without a file: what the hooks cost alone."""

    label, note = "probe, stats, nothing written", "nothing on disk"

    def prepare(self) -> None:
        from probe.run import Run

        class Drop:
            def append(self, layer: int | None, batch: object) -> None:
                pass

        self.run = Run(
            self.subject, self.planned.prepared.surveyed, self.planned.layers, Drop(), record="stats", timesteps=T,
            grid=self.planned.info.grid,
        )  # fmt: skip

    def once(self) -> None:
        with self.run.hooked():
            self.run.batch(self.x, 0)


class Probe(Way):
    def once(self) -> None:
        self.planned.run()


class Stats(Probe):
    label = "probe, stats"


class Counts(Probe):
    label, record = "probe, counts", "counts"


class Spikes(Probe):
    label, record = "probe, spikes", "spikes"


class Full(Probe):
    label, record = "probe, full", "full"


WAYS: dict[str, type[Way]] = {
    "bare": Bare, "keep": Keep, "text": Text, "torch": TorchSave, "h5py": PlainH5py, "h5py-synced": SyncedH5py,
    "torchlens": TorchLens, "torchlens-ann": TorchLensANN, "monitor": OutputMonitor, "stats-memory": InMemory,
    "stats": Stats, "counts": Counts, "spikes": Spikes, "full": Full,
}  # fmt: skip
