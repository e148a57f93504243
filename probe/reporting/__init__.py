"""The HTML report: one file that shows a recording, or two side by side, to people who would rather look than read.

`contents` gathers what the reading commands say, `single` chooses samples, neurons and channels to look at, `verdict`
puts it in three sentences, and `page` makes the file. Its pictures are drawn in the browser by the scripts in `page/`,
from data that the file carries, so that a slider can move them all; a charting library would weigh more than the data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from probe.errors import ProbeError
from probe.recording import Recording, open_recording
from probe.writing import check_file, replacing

SUFFIXES = (".html", ".htm")

BUDGET = 10_000_000
"""Bytes that single samples may take; with a table for each layer and t the file stays below 15 MB."""


def report(
    recordings: Recording | str | Path | Sequence[Recording | str | Path] = "recording.h5",
    output: str | Path = "report.html",
    *,
    overwrite: bool = True,
) -> Path:
    """Write the report of a recording, or of two side by side.

    Args:
        recordings: one or two, open ones or their paths.
        output: the HTML file.
        overwrite: replace what is there.

    Returns:
        The path of the file.

    Raises:
        ProbeError: more than two recordings, one that cannot be read, or a file that cannot be written.
    """
    from probe.reporting.contents import contents
    from probe.reporting.page import page

    chosen = [recordings] if isinstance(recordings, Recording | str | Path) else list(recordings)
    if not 1 <= len(chosen) <= 2:
        raise ProbeError(f"{len(chosen)} recordings", expected="one, or two to be laid side by side")
    target = check_file(output, SUFFIXES, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        opened = [one if isinstance(one, Recording) else stack.enter_context(open_recording(one)) for one in chosen]
        text = page(contents(opened, BUDGET))
    with replacing(target, overwrite=overwrite) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return target
