"""One table: what recording a network's layers costs, as people do it today and with probe.

    python tests/benchmarks/bench_table.py [--network vgg16|resnet20] [--rounds 5] [--batch 50] [--rows bare,stats,full]

Same network, same batch, T = 8, both networks (ANN and SNN) run. Each row is a child process of its own, and the
children take turns: a round is, child after child, one bare forward and one recording, and a row's time is the median
over rounds of recording / bare. Peak memory is the child's own. The case table of layer 0 is then made from the files
by a fresh process. Nothing else may run on the machine: torch's threads wait for each other at every operation.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.benchmarks import by_hand  # noqa: E402
from tests.benchmarks.common import (  # noqa: E402
    bytes_under,
    forget_peak,
    peak_megabytes,
    spread,
    stored_bytes,
    timed,
)
from tests.benchmarks.ways import WAYS, Bare, Probe, T, Text, Way  # noqa: E402

LAB_SAMPLES = 200
"""Samples of the lab's notes, for which reading text is told too."""
HAND = ROOT / "tests" / "benchmarks" / "by_hand.py"


# ------------------------------------------------------------------------------------------------ in a child


def child(name: str, network: str, batch: int, folder: Path) -> None:
    """Ready after a round that is not counted; then a round for each line that comes in, seconds as JSON."""
    import torch

    answer = sys.stdout
    # What a library prints is no answer.
    sys.stdout = sys.stderr

    def say(**what: object) -> None:
        print(json.dumps(what), file=answer, flush=True)

    with torch.no_grad():
        way = WAYS[name](network, batch, folder)

        def turn() -> dict[str, float]:
            bare = timed(lambda: way.forward(way.batch))
            less = timed(lambda: way.forward(way.x)) if way.samples else bare
            seconds = timed(way.once)
            way.after()
            # What fewer samples cost above their own bare forward, as often as they fit into the batch.
            return {"bare": bare, "seconds": bare + (seconds - less) * batch / len(way.x)}

        forget_peak()
        turn()
        say(what=way.what)
        for _ in sys.stdin:
            say(**turn())
        say(peak=peak_megabytes(), bytes=bytes_under(folder) * batch / len(way.x))


# ------------------------------------------------------------------------------------------------- the table


@dataclass
class Row:
    """A child and what it found.

    Attributes:
        seconds: (bare, recording) of each round.
        peak, bytes: MB, and bytes on disk.
        cold: seconds from a cold start to the case table, by reader.
        cases: the case table.
    """

    name: str
    folder: Path
    process: subprocess.Popen[str]
    what: str = ""
    failed: str = ""
    seconds: list[tuple[float, float]] = field(default_factory=list)
    peak: float = 0.0
    bytes: float = 0.0
    cold: dict[str, float] = field(default_factory=dict)
    cases: dict[str, int] = field(default_factory=dict)

    @property
    def way(self) -> type[Way]:
        return WAYS[self.name]

    @property
    def ratios(self) -> list[float]:
        return [seconds / bare for bare, seconds in self.seconds]

    def hear(self) -> dict[str, Any]:
        """The child's next answer; empty where it died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.folder.with_suffix(".log").read_text().splitlines()
            code = self.process.wait()
            self.failed = "out of memory" if code == -9 else f"failed: {said[-1] if said else code}"
            return {}
        found: dict[str, Any] = json.loads(line)
        return found

    def turn(self) -> None:
        assert self.process.stdin is not None
        if self.failed:
            return
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        if found := self.hear():
            self.seconds.append((found["bare"], found["seconds"]))

    def finish(self) -> None:
        assert self.process.stdin is not None
        if self.failed:
            return
        self.process.stdin.close()
        if found := self.hear():
            self.peak, self.bytes = found["peak"], found["bytes"]
        self.process.wait()


def start(name: str, network: str, batch: int, folder: Path) -> Row:
    folder.mkdir()
    command = [sys.executable, __file__, "--child", name, "--network", network, "--batch", str(batch)]
    with open(folder.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(
            [*command, "--folder", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    started = Row(name, folder, process)
    started.what = started.hear().get("what", "")
    return started


def run(*command: str) -> tuple[float, str]:
    """Seconds of a fresh process, and what it prints."""
    started = time.perf_counter()
    printed = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return time.perf_counter() - started, printed


def read_back(found: Row, batch: int, rounds: int, empty: float) -> None:
    """The case table from a cold start; `empty` is what a process that imports numpy takes."""
    if issubclass(found.way, Probe):
        command = ("-m", "probe", "unevenness", str(found.folder / "recording.h5"), "--layer", "0")
        found.cold["probe"] = float(np.median([run(*command)[0] for _ in range(rounds)]))
        found.cases = json.loads(run(*command, "--json")[1])["layers"][0]["cases"]
    for reader in found.way.readers:
        each = [run(str(HAND), reader, str(found.folder)) for _ in range(rounds)]
        seconds = float(np.median([one for one, _ in each]))
        found.cold[reader] = empty + max(0.0, seconds - empty) * batch / (found.way.samples or batch)
        found.cases = json.loads(each[0][1])


def show(rows: dict[str, Row]) -> None:
    """The table."""
    plain = rows["h5py"].bytes if "h5py" in rows else 0.0
    line = "{:<50} {:>22} {:>12} {:>10} {:>8} {:>11}"
    print(line.format("", "time over bare", "peak memory", "on disk", "of h5py", "case table"))
    for found in rows.values():
        label = found.way.label
        if found.failed:
            print(f"{label:<50} {found.failed}")
            continue
        cells = [
            f"{np.median([bare for bare, _ in found.seconds]):.3f} s" if found.way is Bare else spread(found.ratios),
            f"{found.peak:.0f} MB",
            f"{found.bytes / 1e6:.1f} MB" if found.bytes else "-",
            f"{found.bytes / plain:.3f}" if found.bytes and plain else "-",
            next((f"{seconds:.2f} s" for seconds in found.cold.values()), "-"),
        ]
        print(line.format(label, *cells))
    print()
    for found in rows.values():
        if found.way.note and not found.failed:
            print(f"  {found.way.label}: {found.way.note}")


def show_more(rows: dict[str, Row], batch: int, empty: float) -> None:
    """Goals that compare rows."""
    fastest = min((found.cold["probe"] for found in rows.values() if "probe" in found.cold), default=None)
    for reader in Text.readers:
        if "text" not in rows or reader not in rows["text"].cold:
            continue
        seconds = rows["text"].cold[reader]
        many = empty + (seconds - empty) * LAB_SAMPLES / batch
        against = f" = {seconds / fastest:.0f}x and {many / fastest:.0f}x probe's (goal 100x)" if fastest else ""
        print(f"case table from text by {reader}: {seconds:.1f} s, of {LAB_SAMPLES} samples {many:.1f} s{against}")
    for against in ("h5py", "h5py-synced"):
        if "full" in rows and against in rows and rows["full"].seconds and rows[against].seconds:
            each = [ours / theirs for ours, theirs in zip(rows["full"].ratios, rows[against].ratios, strict=True)]
            share = rows["full"].bytes / rows[against].bytes
            # Hooks see 2 + 2T arrays a layer; `full` keeps n and Σx too.
            same = share * (2 * T + 2) / (2 * T + 4)
            print(
                f"full against {against}: time {spread(each)} (goal 1x), bytes {share:.3f}, with n and Σx as float32 "
                f"beside the hooks' arrays {same:.3f} (goal 0.55)"
            )
    for name in ("spikes", "full"):
        if name in rows and rows[name].bytes:
            stored, as_floats = spike_bytes(rows[name].folder / "recording.h5")
            print(f"spike trains of {name}: 1/{as_floats / stored:.0f} of float32 (goal 1/60)")
    tables = {name: tuple(found.cases[case] for case in by_hand.CASES) for name, found in rows.items() if found.cases}
    whole = {name: table for name, table in tables.items() if WAYS[name].samples is None}
    if whole:
        print(f"case tables of {', '.join(whole)}: {'equal' if len(set(whole.values())) == 1 else f'DIFFER: {whole}'}")


def spike_bytes(recording: Path) -> tuple[int, int]:
    """Of a recording's spike trains: bytes on disk, and as float32."""
    import probe

    with probe.open(recording) as opened:
        neurons = sum(int(np.prod(layer.shape)) for layer in opened.layers)
        as_floats = 4 * neurons * opened.samples * opened.timesteps
    return stored_bytes(recording.parent, lambda name: name.endswith("/snn_spikes")), as_floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20", choices=("vgg16", "resnet20", "digits"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rows", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child, asked.network, asked.batch, asked.folder)
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: start(name, asked.network, asked.batch, Path(folder) / name) for name in asked.rows.split(",")}
        for _ in range(asked.rounds):
            for found in rows.values():
                found.turn()
        for found in rows.values():
            found.finish()
        empty = float(np.median([run("-c", "import numpy")[0] for _ in range(asked.rounds)]))
        for found in rows.values():
            if not found.failed:
                read_back(found, asked.batch, min(asked.rounds, 3), empty)
        what = next((found.what for found in rows.values() if found.what), "")
        print(f"{what}, batch {asked.batch}, T = {T}, {asked.rounds} rounds, {time.perf_counter() - started:.0f} s\n")
        show(rows)
        show_more(rows, asked.batch, empty)


if __name__ == "__main__":
    main()
