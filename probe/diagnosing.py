"""`diagnose`: what is wrong with a recording or a model, in which layer it starts, and what to change.

Of a recording the checks of `probe.diagnosis` tell it, without torch; a model is captured first, and what only live
networks show is added (`probe.diagnosis.networks`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from probe.diagnosis import CHECKS, findings_of, told
from probe.errors import ProbeError
from probe.recording import Recording, open_recording

SUFFIXES = (".h5", ".hdf5")


def is_recording(target: Any) -> bool:
    """True for a recording or the path of one, False for a model: a name is a path where it ends like one or is one."""
    if isinstance(target, Recording | Path):
        return True
    if not isinstance(target, str):
        return False
    return target.endswith(SUFFIXES) or (":" not in target and not target.endswith(".py") and Path(target).exists())


def diagnose(target: Any = "recording.h5", **options: Any) -> dict[str, Any]:
    """Find out what is wrong with a recording or a model, worst first.

    Args:
        target: a recording or its path; or a model as for `probe.capture`, which is run.
        options: for a model, those of `probe.capture` but `output`, `at`, `layers` and `strict`, and: samples (100 by
            default), keep (a path: where the recording is kept), overwrite (replace what is there), progress.

    Returns:
        The object that `probe diagnose --json` prints: schema, file (None for a temporary recording), model, complete
        (False where a fault stopped the capture), samples, timesteps, layers, checks (names of those that were run),
        notes, and findings, each with check, severity (`error`, `warning` or `note`), layer, index, what, evidence,
        advice and look, a command to paste.

    Raises:
        ProbeError: bad input; a fault of the network is a finding.
    """
    if not is_recording(target):
        from probe.diagnosis.networks import diagnose_model

        return diagnose_model(target, **options)
    if options:
        raise ProbeError(
            f"{', '.join(options)} with a recording", expected="a model, which is run with such options",
            next_step="leave them out: a recording is only read",
        )  # fmt: skip
    if isinstance(target, Recording):
        return _of_recording(target)
    with open_recording(target) as recording:
        return _of_recording(recording)


def _of_recording(recording: Recording) -> dict[str, Any]:
    found = told(recording, findings_of(recording))
    findings = found.pop("findings")
    whole = {
        "model": recording.attributes.get("model", ""), "layers": len(recording.layers), "checks": list(CHECKS),
        "notes": [],
    }  # fmt: skip
    return {**found, **whole, "findings": findings}
