"""Files that are built otherwise than a recording, each refused with one line by what it is, sealed again or not."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result

import probe
from probe.printable import printable, printable_json, shortened
from probe.recording.plain import parsed
from probe.recording.seal import SEAL, seal_of
from probe.recording.structure import check_structure
from tests.editing import editing
from tests.test_cli import ok, refused

Run = Callable[..., Result]
COUNT = "layers/1/spike_count"


def replaced(file: h5py.File, name: str, **how: Any) -> h5py.Dataset:
    """The dataset of that name, made anew as `how` says; it has the same values unless `data` is given."""
    values = file[name][()]
    attributes = dict(file[name].attrs)
    del file[name]
    dataset = file.create_dataset(name, **{"data": values, **how})
    dataset.attrs.update(attributes)
    return dataset


def soft(file: h5py.File) -> None:
    file.move(COUNT, "moved")
    file[COUNT] = h5py.SoftLink("/moved")


def outside(file: h5py.File) -> None:
    del file[COUNT]
    file[COUNT] = h5py.ExternalLink("secret.h5", COUNT)


def cycle(file: h5py.File) -> None:
    file["layers/1/again"] = file["/"]


def twice(file: h5py.File) -> None:
    file["more"] = file[COUNT]


def deep(file: h5py.File) -> None:
    file.create_group("a/b/c/d/e/f")


def virtual(file: h5py.File) -> None:
    dataset = file[COUNT]
    layout = h5py.VirtualLayout(dataset.shape, dataset.dtype)
    layout[...] = h5py.VirtualSource("secret.h5", COUNT, dataset.shape)
    del file[COUNT]
    file.create_virtual_dataset(COUNT, layout)


def external(file: h5py.File) -> None:
    shape = file[COUNT].shape
    del file[COUNT]
    file.create_dataset(COUNT, shape, "u1", external=[("secret.h5", 0, h5py.h5f.UNLIMITED)], fill_time="never")


def unknown_filter(file: h5py.File) -> None:
    replaced(file, COUNT, compression="lzf")


def missing_chunk(file: h5py.File) -> None:
    shape = file[COUNT].shape
    del file[COUNT]
    file.create_dataset(COUNT, shape, "u1", chunks=(1, *shape[1:]), fletcher32=True)[1:] = 1


def terabytes(file: h5py.File) -> None:
    shape = file[COUNT].shape
    del file[COUNT]
    file.create_dataset(COUNT, (1 << 40, *shape[1:]), "u1", chunks=(1, *shape[1:]), fletcher32=True)


def bomb(file: h5py.File) -> None:
    del file[COUNT]
    dataset = file.create_dataset(COUNT, (1 << 32,), "u1", chunks=(1 << 31,), compression="gzip")
    for i in range(2):
        dataset.id.write_direct_chunk((i << 31,), zlib.compress(bytes(1 << 20), 9))


def unchecked(file: h5py.File) -> None:
    values = file[COUNT][()]
    del file[COUNT]
    dataset = file.create_dataset(COUNT, values.shape, "u1", chunks=values.shape, fletcher32=True)
    dataset.id.write_direct_chunk((0,) * values.ndim, values.tobytes(), filter_mask=1)


def short_chunk(file: h5py.File) -> None:
    """HDF5 2.0 ends the process that reads it."""
    shape = file[COUNT].shape
    del file[COUNT]
    dataset = file.create_dataset(COUNT, shape, "u1", chunks=shape, fletcher32=True, compression="gzip")
    dataset.id.write_direct_chunk((0,) * len(shape), b"x")


def swollen_chunk(file: h5py.File) -> None:
    shape = file[COUNT].shape
    del file[COUNT]
    dataset = file.create_dataset(COUNT, shape, "u1", chunks=(1, *shape[1:]), compression="gzip")
    for i in range(shape[0]):
        dataset.id.write_direct_chunk((i,) + (0,) * (len(shape) - 1), zlib.compress(bytes(1 << 24), 9))


def unallocated(file: h5py.File) -> None:
    del file["layers/1/threshold"]
    file.create_dataset("layers/1/threshold", (1,), "f4", fill_time="never")


def compound(file: h5py.File) -> None:
    replaced(file, "samples/label", data=np.zeros(40, [("a", "i4"), ("b", "i4")]))


def named(file: h5py.File) -> None:
    file["kind"] = np.dtype("f4")


def wide(file: h5py.File) -> None:
    replaced(file, "output/snn", data=file["output/snn"][()].astype(np.float64))


def nothing(file: h5py.File) -> None:
    file.attrs["model"] = h5py.Empty("f4")


def not_a_number(file: h5py.File) -> None:
    file["layers/1/threshold"][...] = np.nan


def infinite(file: h5py.File) -> None:
    file["layers/1/threshold"][...] = np.inf


def negative(file: h5py.File) -> None:
    file["layers/1/threshold"][...] = -1


def no_height(file: h5py.File) -> None:
    file["layers/1/height"][...] = np.nan


def far_start(file: h5py.File) -> None:
    file["layers/1"].attrs["initial_fraction"] = 1e300


def endless(file: h5py.File) -> None:
    file["layers/1"].attrs["traits"] = "[" * 50_000


def other_traits(file: h5py.File) -> None:
    file["layers/1"].attrs["traits"] = json.dumps({"presteps": "many"})


def endless_name(file: h5py.File) -> None:
    file["layers/1"].attrs["name"] = "x" * 50_000


def wrong_law(file: h5py.File) -> None:
    del file["facts/law"]
    file["facts/law"] = json.dumps({"1": {"broken": True, "largest_difference": "x"}})


def no_facts(file: h5py.File) -> None:
    del file["facts/oracles"]


def big_number(file: h5py.File) -> None:
    del file["facts/law"]
    file["facts/law"] = '{"1": {"broken": false, "largest_difference": 1e999}}'


def other_statistics(file: h5py.File) -> None:
    replaced(file, "layers/1/statistics/joint", data=np.zeros((8, 2, 2), np.int64))


def other_grid(file: h5py.File) -> None:
    file["layers/1/statistics/timestep"][0] = 7


HARMS: dict[Callable[[h5py.File], None], str] = {
    soft: "a link to somewhere else", outside: "a link to somewhere else", cycle: "stands elsewhere too",
    twice: "stands elsewhere too", deep: "too deep", virtual: "has no parts", external: "stored in other files",
    unknown_filter: "filter 32000", missing_chunk: "stores 39", terabytes: "stores 0", bomb: "claims 2,147,483,648",
    short_chunk: "shorter than its checksum", swollen_chunk: "claims",
    unchecked: "no checksum", unallocated: "does not hold", compound: "no plain numbers", named: "neither a group",
    wide: "type float64", nothing: "no value", not_a_number: "impossible", infinite: "impossible",
    negative: "threshold",
    no_height: "impossible", far_start: "v(0)", endless: "damaged", other_traits: "presteps", endless_name: "too long",
    wrong_law: "law of layer 1", no_facts: "oracles", big_number: "no finite number", other_statistics: "joint",
    other_grid: "timestep",
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_file_that_is_built_otherwise_is_refused(
    harm: Callable[[h5py.File], None], run: Run, full: Path, tmp_path: Path
) -> None:
    path = tmp_path / "harmed.h5"
    shutil.copy(full, path)
    shutil.copy(full, tmp_path / "secret.h5")
    with h5py.File(path, "r+") as file:
        harm(file)
    line = refused(run("unevenness", path), "harmed.h5", "; expected ")
    assert line.count("; ") >= 2
    try:
        with editing(path):
            pass
    except (OSError, KeyError, RuntimeError, ValueError, TypeError):
        # Of what cannot be read there is no seal, and it is refused before.
        return
    refused(run("unevenness", path), HARMS[harm], "; expected ")


def test_every_attribute_is_sealed(full: Path, tmp_path: Path) -> None:
    """Changed a little, each is refused; without the seal many would give another table."""
    path = tmp_path / "changed.h5"
    with h5py.File(full) as file:
        places = [
            (owner, name) for owner in ("/", "layers/1", "layers/1/statistics/sums") for name in file[owner].attrs
        ]
    for owner, name in places:
        shutil.copy(full, path)
        with h5py.File(path, "r+") as file:
            old = file[owner].attrs[name]
            del file[owner].attrs[name]
            if isinstance(old, str):
                file[owner].attrs[name] = old + " "
            elif np.asarray(old).dtype.kind in "iufb":
                file[owner].attrs[name] = (np.logical_not if np.asarray(old).dtype.kind == "b" else lambda x: x + 1)(
                    old
                )
        with pytest.raises(probe.ProbeError):
            probe.open(path)


def test_the_seal_is_that_of_what_is_read_back(full: Path) -> None:
    with h5py.File(full) as file:
        assert file.attrs[SEAL] == seal_of(file)
        assert check_structure(file).virtual == {}
        assert check_structure(file).bytes > 10_000


def test_names_with_markup_are_harmless_everywhere(run: Run, full: Path, tmp_path: Path) -> None:
    for i, name in enumerate(("a[red]$x$\x1b[2J", "\x9b31m\u202eevil", "a\nprobe: fine", "<b>$\\frac{1}$")):
        path = tmp_path / f"{i}.h5"
        shutil.copy(full, path)
        with editing(path) as file:
            file["layers/1"].attrs["name"] = name
            file.attrs["model"] = file.attrs["method"] = name
        for arguments in (["unevenness"], ["unevenness", "--json"], ["layers", "--csv"], ["layers", "--json"],
                          ["diagnose", "--json"], ["diff", path, path]):  # fmt: skip
            result = run(*arguments, *([path] if arguments[0] != "diff" else []))
            assert result.exit_code in (0, 1), result.output
            assert all(c.isprintable() or c == "\n" for c in result.output), arguments
            if "--json" in arguments and arguments[0] != "diagnose":
                assert json.loads(result.stdout)["layers"][1]["name"] == name
        ok(run("plot", "attribution", path, "-o", f"{i}.png"))
        ok(run("plot", "phi", path, "--layer", 1, "-o", f"{i}-phi.png"))


def test_printable() -> None:
    assert printable("α [red] $x$") == "α [red] $x$"
    assert printable("\x1b]8;;x\x07\u202e\n") == "\\x1b]8;;x\\x07\\u202e\\n"
    assert json.loads(printable_json({"\x9b": "\u2028\U000e0001é"})) == {"\x9b": "\u2028\U000e0001é"}
    assert all(c.isprintable() or c == "\n" for c in printable_json(["\x9b\u2028\U000e0001\x7f"]))
    assert shortened("abcdefghij", 6) == "ab…hij"
    assert len(shortened("x" * 5000)) == 1000


@pytest.mark.parametrize("text", ["NaN", "1e999", "[" * 100_000, "9" * 5000, "", "{", b"\xff", None])
def test_json_that_is_none(text: Any) -> None:
    with pytest.raises((ValueError, RecursionError)):
        parsed(text)
