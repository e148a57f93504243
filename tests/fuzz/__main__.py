"""`python -m tests.fuzz`: a long run, with a table of what became of the damaged recordings."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.harness import Fuzz


def main() -> int:
    """Exit with 1 where a command did what none may do."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=500, help="damaged recordings")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to see it again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", type=int, default=2, help="commands for each that print")
    parser.add_argument("--drawn", type=float, default=0.12, help="commands for each that draw, on average")
    parser.add_argument("--bases", type=Path, help="whole recordings, from `python -m tests.fuzz.bases FOLDER`")
    parser.add_argument("--keep", type=Path, help="leave the last damaged recording here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="probe-fuzz-") as folder:
        fuzz = Fuzz(Path(folder), options.seed, options.bases)
        start = time.monotonic()
        for number in range(options.first, options.first + options.count):
            told = len(fuzz.summary.failures)
            for _ in fuzz.one(number, options.quick, options.drawn):
                pass
            for failure in fuzz.summary.failures[told:]:
                sys.stdout.write(f"{failure}\n")
            if number % 500 == 499:
                sys.stdout.write(f"{fuzz.summary.table()}\n... {number + 1} after {time.monotonic() - start:.0f} s\n")
            sys.stdout.flush()
        if options.keep:
            import shutil

            shutil.copytree(fuzz.work, options.keep, symlinks=True)
        sys.stdout.write(fuzz.summary.table() + "\n")
    return 1 if fuzz.summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
