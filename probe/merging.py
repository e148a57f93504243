"""`merge`: parts and recordings, from other machines for example, into one plain file."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from probe.errors import ProbeError
from probe.interrupts import uninterrupted
from probe.recording.identity import OF_SELECTION, differences, identity_of
from probe.recording.joining import open_part, write_whole
from probe.recording.parts import (
    PartLine,
    allow_open_files,
    check_target,
    covering,
    free_bytes,
    parts_folder,
    read_ledger,
)
from probe.recording.reader import IncompleteRecording, Recording, open_recording
from probe.recording.schema import RunInfo

OF_MACHINE = ("device", "torch_version", "created_by")
"""Fields in which recordings of their own may differ; equal inputs may then give other roundings."""


@dataclass(frozen=True)
class Piece:
    """A recording or a part.

    Attributes:
        source: where it was found.
        recording: open.
        first: the place of its first sample among those of its run, where that is known.
    """

    source: Path
    recording: Recording
    first: int | None = None

    @property
    def run_id(self) -> str:
        """Of its run."""
        return str(self.recording.attributes["run_id"])


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        path: the file.
        samples: how many it holds; asked: how many its runs were to record.
        pieces: of how many it was made.
        notes: what the user should know, a sentence each.
    """

    path: Path
    samples: int
    asked: int
    pieces: int
    notes: tuple[str, ...]


def merge(sources: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> Merged:
    """Join parts of one run, or recordings of different samples, into one plain file.

    Args:
        sources: recordings, and folders of parts.
        output: the new file.
        overwrite: replace it.

    Raises:
        ProbeError: they are not of the same network, data and options, share a sample, or something cannot be read or
            written.
    """
    target = Path(output)
    check_target(target, overwrite=overwrite)
    if not sources:
        raise ProbeError("nothing to merge", expected="recordings or folders of parts")
    with contextlib.ExitStack() as stack:
        pieces = [piece for source in sources for piece in _pieces(Path(source), stack)]
        runs = list(dict.fromkeys(piece.run_id for piece in pieces))
        if len(runs) == 1 and all(piece.first is not None for piece in pieces):
            pieces.sort(key=lambda piece: piece.first or 0)
        notes = _check(pieces)
        samples = sum(piece.recording.samples for piece in pieces)
        asked = sum(_info(next(p for p in pieces if p.run_id == run)).asked for run in runs)
        bytes_needed = sum(piece.recording.path.stat().st_size for piece in pieces)
        if bytes_needed > free_bytes(target):
            raise ProbeError(
                f"{bytes_needed / 1e9:.2f} GB to write and {free_bytes(target) / 1e9:.2f} GB free",
                expected="room for all pieces", next_step="pass another -o",
            )  # fmt: skip
        try:
            with uninterrupted() as stop:
                write_whole(
                    target, _joined_info(pieces, runs, asked), [piece.recording for piece in pieces],
                    [piece.first or 0 for piece in pieces], complete=samples == asked, stop=stop,
                )  # fmt: skip
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ProbeError(
                f"writing {target} failed ({reason})", expected="whole pieces and room for them",
                next_step="see `probe verify` for each piece",
            ) from None  # fmt: skip
        return Merged(target, samples, asked, len(pieces), notes)


def _pieces(source: Path, stack: contextlib.ExitStack) -> Iterator[Piece]:
    if source.is_dir():
        lines = read_ledger(source)
        if not lines:
            raise ProbeError(f"{source} holds no part that is whole", expected="a folder of parts with its ledger")
        yield from _parts(source, [line for line in lines if line.run_id == lines[-1].run_id], stack)
        return
    with warnings.catch_warnings():
        # Whether all samples are there is said of the whole.
        warnings.simplefilter("ignore", IncompleteRecording)
        recording = stack.enter_context(open_recording(source))
    # Each part knows its place among the samples of its run; an incomplete index does not.
    if recording.parts:
        yield from _parts(parts_folder(source), recording.parts, stack)
    else:
        yield Piece(source, recording, 0 if recording.complete else None)


def _parts(folder: Path, lines: Sequence[PartLine], stack: contextlib.ExitStack) -> Iterator[Piece]:
    allow_open_files(len(lines))
    for line in covering(lines):
        yield Piece(folder / line.name, stack.enter_context(open_part(folder, line)), line.first)


def _info(piece: Piece) -> RunInfo:
    try:
        return RunInfo.of(piece.recording.attributes)
    except KeyError as error:
        raise ProbeError(
            f"{piece.source} does not say its {error.args[0]}", expected="a recording of this version of probe",
            next_step="capture it again",
        ) from None  # fmt: skip


def _check(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """Refuse pieces that do not belong together; what else should be known of them."""
    first, notes = pieces[0], []
    there = identity_of(first.recording._file)
    for piece in pieces[1:]:
        here = identity_of(piece.recording._file)
        but = () if piece.run_id == first.run_id else (*OF_SELECTION, *OF_MACHINE)
        differing = list(differences(there, here, but))
        if differing:
            raise ProbeError(
                f"{first.source} and {piece.source} differ: " + "; ".join(differing[:8]),
                expected="the same model, data and options",
            )
        machine = [name for name in OF_MACHINE if there[name] != here[name]]
        notes += [f"{piece.source} was made with another {name}: {here[name]}, not {there[name]}" for name in machine]
    seen: dict[int, Path] = {}
    for piece in pieces:
        for index in piece.recording.indices.tolist():
            if index in seen:
                raise ProbeError(
                    f"sample {index} of {first.recording.attributes['data']} is in {seen[index]} and in {piece.source}",
                    expected="each sample once", next_step="leave one of them out",
                )  # fmt: skip
            seen[index] = piece.source
    return tuple(dict.fromkeys(notes))


def _joined_info(pieces: Sequence[Piece], runs: Sequence[str], asked: int) -> RunInfo:
    info = _info(pieces[0])
    if len(runs) == 1:
        return info
    places = np.concatenate([piece.recording.indices for piece in pieces]).astype(np.int64)
    return replace(
        info, run_id=uuid.uuid4().hex, asked=asked, data_digest="",
        selection_digest=hashlib.blake2b(places.tobytes(), digest_size=16).hexdigest(),
    )  # fmt: skip
