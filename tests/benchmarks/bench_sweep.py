"""What a sweep costs: one run a method beside the bare simulation, and beside seven runs, the way it is done by hand.

    python tests/benchmarks/bench_sweep.py [--rounds 5] [--samples 50] [--batch 25] [--methods if,negspike,srp] [--busy]

Only ratios within one run mean anything, as in `bench_table`. On a machine that is busy with other work pass --busy:
one thread, and the processor time it takes.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from tests.benchmarks.common import Clock, in_turns, network_and_data, ratio, row  # noqa: E402

T = 64


def bench_sweep(method: str, rounds: int, samples: int, batch: int, clock: Clock) -> None:
    """One method's run of a sweep to T, one bare simulation to T, and one bare simulation for each T of the table."""
    import torch

    from probe.prepare import Source, prepare
    from probe.study import simulate, table_grid

    network, data, what = network_and_data(samples)
    prepared = prepare(Source(network, data=data, samples=samples, timesteps=T, neuron=method))
    subject, grid = prepared.subject, table_grid(T)
    batches = [prepared.load(prepared.indices[i : i + batch]) for i in range(0, samples, batch)]

    def bare(*lengths: int) -> None:
        with torch.no_grad():
            for timesteps in lengths:
                for x in batches:
                    subject.reset()
                    for _ in subject.run_snn(x.clone(), timesteps):
                        pass

    def swept() -> None:
        simulate(prepared, prepared.surveyed.infos, grid, batch)

    subject.snn.eval()
    seconds = in_turns(rounds, lambda: bare(T), lambda: bare(*grid), swept, clock=clock)
    row(f"{method}: bare simulation to T = {T}, {what}, {samples} samples", f"{np.median(seconds[:, 0]):.2f} s")
    row("  one run of the sweep: every t, cases and attribution of all layers", ratio(seconds, 2), "<= 1.30x")
    row(f"  {len(grid)} bare simulations, one for each T, nothing gathered", ratio(seconds, 1))


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--methods", default="if,negspike,srp")
    parser.add_argument("--busy", action="store_true")
    asked = parser.parse_args()
    if asked.busy:
        import torch

        torch.set_num_threads(1)
    for method in asked.methods.split(","):
        bench_sweep(
            method, asked.rounds, asked.samples, asked.batch, time.process_time if asked.busy else time.perf_counter
        )


if __name__ == "__main__":
    main()
