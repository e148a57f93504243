"""The one exception for what a user can fix: it says what was got, what was expected and what to do next."""

from __future__ import annotations


class ProbeError(Exception):
    """Bad input that the user can mend; the command line prints it on one line and exits with 2.

    Args:
        got: what was found, in the user's own terms (a path, a number, a name).
        expected: what would have been accepted.
        next_step: the command or change that mends it.
        trace: the traceback of the user's own code, several lines, where that is what failed; not part of the one line.
        fault: what is wrong with the network, a name of `probe.diagnosis.networks.FAULTS`; empty where something else
            is at fault (a path, an option).
        layer: dotted name of the layer that has it, where it is one layer's.
    """

    def __init__(
        self,
        got: str,
        *,
        expected: str = "",
        next_step: str = "",
        trace: str = "",
        fault: str = "",
        layer: str | None = None,
    ) -> None:
        self.got, self.expected, self.next_step, self.trace = got, expected, next_step, trace
        self.fault, self.layer = fault, layer
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.got]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.next_step:
            parts.append(self.next_step)
        return "; ".join(" ".join(part.split()) for part in parts)


class Interrupted(Exception):
    """Ctrl-C was pressed: the run ended after the batch it was in, and what it had written was closed properly."""
