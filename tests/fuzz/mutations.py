"""Kinds of damage, each a function of a folder with a recording; what is chosen at random comes from `random` alone."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from tests.fuzz.bases import NAME, PARTS

Mutation = Callable[[Path, Random, Path], None]
"""Of the folder, the source of chance, and a folder with files that nobody may open."""

MARKUP = (
    "[red]bold[/red]",
    "[link=file:///etc/passwd]x[/link]",
    "[/]",
    "$x$",
    r"$\frac{1}{0$",
    "$",
    "<script>alert(1)</script>",
    "\x1b[31mred",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "a\nprobe: all is well",
    "a\rb",
    "a\tb",
    "\u2028",
    "\ufeff",
    "名前",
    "👩‍👩‍👧",
    "é\u0301" * 20,
    "%s%n{0}{}",
    "x" * 100_000,
    "a" * 900,
    "../../etc/passwd",
    "-rf",
    "=1+1",
    "",
)
BOMBS = (
    "[" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "9" * 100_000,
    "1e999",
    "NaN",
    "-Infinity",
    "",
    "null",
    "[]",
    "{}",
    '"text"',
    "1",
    "{",
    '{"0": 1}',
    '{"0": null}',
    '{"0": []}',
    "[[]]",
    "[1]",
    '{"layers": {"0": {}}}',
    "true",
    "[" + "0," * 200_000 + "0]",
    '{"0": {"applies": true, "broken": true, "violations": "x", "ties": 0}}',
    '{"0": {"largest_difference": "x", "broken": true}}',
    '[{"operation": 1}]',
    '[{"operation": [], "module": {}}]',
    '"\\ud800"',
    '{"4": {"broken": true, "largest_difference": 1e308}}',
)
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 5, 255, 256, 2**31 - 1, 2**31, 2**62, -(2**63), np.uint64(2**64 - 1), 0.5, float("nan"),
    float("inf"), -float("inf"), 1e308, 1e-320, -0.0, True, False, np.float16(1), np.int8(-128),
)  # fmt: skip


def strange(random: Random) -> Any:
    """Some value for an attribute."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(NUMBERS)
    if kind == 3:
        return random.choice(MARKUP)[:60_000].replace("\0", "")
    if kind == 4:
        return random.choice(BOMBS)[:60_000]
    if kind == 5:
        return np.array([random.choice((0, 1, -1, 4, 2**40, 2**62)) for _ in range(random.randrange(0, 6))], np.int64)
    if kind == 6:
        return np.void(pickle.dumps(os.getcwd))
    return random.choice(
        (
            np.bytes_(b"\xff\xfe\x00x"),
            h5py.Empty("f8"),
            np.zeros(5000),
            np.array([1 + 2j]),
            "\udcff",
            np.array("x" * 70, "S"),
        )
    )


def everything(file: h5py.File) -> tuple[list[Any], list[Any]]:
    """All groups, and all datasets."""
    groups: list[Any] = [file]
    datasets: list[Any] = []
    file.visititems(lambda _, item: (datasets if isinstance(item, h5py.Dataset) else groups).append(item))
    return groups, datasets


def target_of(folder: Path, random: Random) -> Path:
    """The recording, or one of its parts."""
    parts = sorted((folder / PARTS).glob("*.h5"))
    return random.choice([folder / NAME, *parts]) if parts else folder / NAME


# ------------------------------------------------------------------------------------------------------ raw bytes


def flip(folder: Path, random: Random, _: Path) -> None:
    """Bytes anywhere."""
    _flip(target_of(folder, random), random, None)


def _flip(path: Path, random: Random, places: list[int] | None) -> None:
    raw = bytearray(path.read_bytes())
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        place = random.choice(places) if places else random.randrange(len(raw))
        raw[place] = random.choice((raw[place] ^ 1 << random.randrange(8), 0, 255, random.randrange(256)))
    path.write_bytes(raw)


def flip_structure(folder: Path, random: Random, _: Path) -> None:
    """Bytes of what is no array: headers, names, trees, heaps, attributes."""
    path = target_of(folder, random)
    bulk = np.zeros(path.stat().st_size, bool)
    with h5py.File(path) as file:
        for dataset in everything(file)[1]:
            if dataset.chunks:
                for i in range(dataset.id.get_num_chunks()):
                    info = dataset.id.get_chunk_info(i)
                    bulk[info.byte_offset : info.byte_offset + info.size] = True
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    # Most of what is left is room that nothing uses yet, and holds zeros.
    places = np.flatnonzero(~bulk & (raw != 0)) if random.random() < 0.8 else np.flatnonzero(~bulk)
    _flip(path, random, [int(place) for place in random.choices(places, k=64)])


def truncate(folder: Path, random: Random, _: Path) -> None:
    path = target_of(folder, random)
    size = path.stat().st_size
    os.truncate(path, random.choice((0, 1, 8, 100, size - 1, size - 8, size // 2, random.randrange(size))))


def extend(folder: Path, random: Random, _: Path) -> None:
    with target_of(folder, random).open("ab") as file:
        file.write(random.randbytes(random.choice((1, 100, 100_000))))


def blocks(folder: Path, random: Random, _: Path) -> None:
    """A block of bytes that is zero, another's, or exchanged with another."""
    path = target_of(folder, random)
    raw = bytearray(path.read_bytes())
    size = random.choice((8, 64, 512, 4096, 20_000))
    one, other = (random.randrange(max(1, len(raw) - size)) & ~7 for _ in range(2))
    first, second = raw[one : one + size], raw[other : other + size]
    how = random.randrange(4)
    raw[one : one + len(first)] = (
        bytes(len(first)) if how == 0 else random.randbytes(len(first)) if how == 1 else second
    )
    if how == 3:
        raw[other : other + len(second)] = first
    path.write_bytes(raw[: max(len(raw), 1)])


# ------------------------------------------------------------------------------------------- attributes and values


def attribute(folder: Path, random: Random, _: Path) -> None:
    """One attribute with another value, or gone."""
    with h5py.File(target_of(folder, random), "r+") as file:
        groups, datasets = everything(file)
        owners = [item for item in (*groups, *datasets) if len(item.attrs)]
        owner = random.choice([file, *owners])
        name = random.choice(sorted(owner.attrs))
        if random.random() < 0.15:
            del owner.attrs[name]
            return
        old = owner.attrs[name]
        if isinstance(old, np.integer | np.floating) and random.random() < 0.5:
            owner.attrs[name] = type(old)(random.choice((old + 1, old * 2, old - 1, -old)))
        elif isinstance(old, np.bool_) and random.random() < 0.6:
            owner.attrs[name] = not old
        else:
            owner.attrs[name] = strange(random)


def names(folder: Path, random: Random, _: Path) -> None:
    """Names and other text with markup, terminal escapes and line breaks."""
    with h5py.File(folder / NAME, "r+") as file:
        layers = [file[f"layers/{index}"] for index in file["layers"]]
        for _ in range(random.choice((1, 2, 6))):
            owner = random.choice([file, *layers])
            texts = [name for name, value in owner.attrs.items() if isinstance(value, str)]
            owner.attrs[random.choice([*texts, *(["name"] * 6 if owner is not file else ["model"])])] = random.choice(
                MARKUP
            )[:60_000]


def facts(folder: Path, random: Random, _: Path) -> None:
    """Facts, traits and encodings that are other JSON, or none."""
    with h5py.File(folder / NAME, "r+") as file:
        if random.random() < 0.3:
            layer = file[f"layers/{random.choice(list(file['layers']))}"]
            name = random.choice(("traits", "encoding"))
            value = json.loads(layer.attrs[name])
            value[random.choice(sorted(value))] = random.choice(
                (None, 1, -1, "x", [], {}, True, False, 1e300, "zero", 2**40)
            )
            layer.attrs[name] = random.choice((json.dumps(value), json.dumps(value), random.choice(BOMBS)[:60_000]))
            return
        name = random.choice(sorted(file["facts"]))
        text: Any = random.choice(BOMBS)
        if random.random() < 0.6:
            text = json.dumps(_altered(json.loads(file[f"facts/{name}"][()]), random))
        del file[f"facts/{name}"]
        if random.random() < 0.95:
            file[f"facts/{name}"] = random.choice((text, text, text, text, np.arange(3), np.float64(1)))


def _altered(value: Any, random: Random) -> Any:
    if isinstance(value, dict) and value and random.random() < 0.8:
        key = random.choice(sorted(value))
        return {**value, key: _altered(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        place = random.randrange(len(value))
        return [*value[:place], _altered(value[place], random), *value[place + 1 :]]
    return random.choice((None, 0, -1, 10**30, 1e308, "x", random.choice(MARKUP), [], {}, True, [None], {"x": 1}))


def values(folder: Path, random: Random, _: Path) -> None:
    """A value of some dataset, its checksum made to fit: NaN, infinite, negative, huge, or just another."""
    with h5py.File(folder / NAME, "r+") as file:
        here = [one for one in everything(file)[1] if one.dtype.kind in "iuf" and not one.is_virtual and one.size]
        small = [one for one in here if one.size < 50]
        dataset = random.choice(small if random.random() < 0.5 else here)
        array = np.atleast_1d(dataset[()]).copy()
        flat = array.reshape(-1)
        for _ in range(random.choice((1, 1, 5, len(flat)))):
            place = random.randrange(len(flat))
            if array.dtype.kind == "f":
                flat[place] = np.asarray(
                    random.choice((np.nan, np.inf, -1.0, 0.0, 1e38, 1e-40, flat[place] * 2)), array.dtype
                )
            else:
                limits = np.iinfo(array.dtype)
                flat[place] = random.choice((limits.max, limits.min, 0, 1, int(flat[place]) ^ 1))
        dataset[...] = array.reshape(dataset.shape)


# ----------------------------------------------------------------------------------------------------------- shapes


def shapes(folder: Path, random: Random, _: Path) -> None:
    """A dataset that is gone, or of another shape, kind or size."""
    with h5py.File(target_of(folder, random), "r+") as file:
        groups, datasets = everything(file)
        item = random.choice(datasets if random.random() < 0.85 else groups[1:])
        name, how = item.name, random.randrange(9)
        old = item if isinstance(item, h5py.Dataset) else None
        shape, dtype = (old.shape, old.dtype) if old is not None else ((2,), np.dtype(np.float32))
        attributes = dict(item.attrs)
        if old is not None and how == 0 and old.maxshape and old.maxshape[0] is None:
            old.resize(random.choice((0, 1, shape[0] + 1, shape[0] * 2, 2**40)), axis=0)
            return
        del file[name]
        if how == 1:
            return
        if how == 2:
            file.create_group(name)
            return
        if how == 3:
            new = file.create_dataset(name, data=np.zeros(_other(shape, random), dtype if dtype.kind != "O" else "f4"))
        elif how == 4:
            new = file.create_dataset(name, data=h5py.Empty("f4"))
        elif how == 5:
            new = file.create_dataset(name, data=np.zeros((), "f4"))
        elif how == 6:
            # Large in its claims alone: no chunk of it is stored.
            length = random.choice((1, 6, 2**20, 2**33, 2**50))
            new = file.create_dataset(name, (length, *shape[1:]), "f4", chunks=(1, *shape[1:]), fletcher32=True)
        elif how == 7:
            new = file.create_dataset(
                name, (random.choice((10**6, 2**33, 2**45)),), dtype if dtype.kind != "O" else "f4"
            )
        else:
            new = file.create_dataset(
                name, data=np.zeros(shape, dtype if dtype.kind != "O" else "f4"), fletcher32=bool(shape) or None
            )
        for key, value in attributes.items():
            new.attrs[key] = value


def _other(shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    how = random.randrange(5)
    if how == 0:
        return ()
    if how == 1:
        return (*shape, 1)
    if how == 2:
        return shape[::-1]
    if how == 3:
        return tuple(0 for _ in shape) or (0,)
    return tuple(max(0, size + random.choice((-1, 0, 1))) for size in shape) or (3,)


def kinds(folder: Path, random: Random, _: Path) -> None:
    """A dataset or attribute of a type that recordings do not have: compound, references, opaque, named, pickled."""
    with h5py.File(target_of(folder, random), "r+") as file:
        groups, datasets = everything(file)
        item = random.choice(datasets)
        name, length = item.name, max(1, item.shape[0] if item.shape else 1)
        file["named type"] = np.dtype("f4") if random.random() < 0.5 else np.dtype([("a", "i4"), ("b", "f8", 3)])
        pickled = np.void(pickle.dumps({"x": os.system}))
        choices: list[tuple[Any, Any]] = [
            (np.zeros(length, [("a", "i4"), ("b", "f8")]), None),
            (np.array([file.ref] * length, dtype=h5py.ref_dtype), h5py.ref_dtype),
            (np.array([item.regionref[...]] * length, dtype=h5py.regionref_dtype), h5py.regionref_dtype),
            (np.array([pickled] * length), None),
            (np.zeros(length, np.complex64), None),
            (np.zeros(length, ">f4"), None),
            (np.zeros(length, "f2"), None),
            (np.zeros(length, "S5"), None),
            (np.zeros(item.shape, "f8"), None),
            (np.zeros(item.shape, bool), None),
            (np.array(["x"] * length, dtype=object), h5py.string_dtype()),
            (np.array([0] * length), h5py.enum_dtype({"RED": 0}, "i4")),
            (np.zeros(length, ("f4", (2, 2))), None),
        ]
        data, dtype = random.choice(choices)
        if random.random() < 0.4:
            owner = random.choice([file, *groups])
            owner.attrs.create(
                random.choice([*owner.attrs, "more"]), data[0] if random.random() < 0.5 else data, dtype=dtype
            )
            return
        del file[name]
        if random.random() < 0.2:
            vlen = file.create_dataset(name, (length,), dtype=h5py.vlen_dtype("f4"))
            vlen[0] = np.arange(5)
        elif random.random() < 0.3:
            file[name] = file["named type"]
        else:
            file.create_dataset(name, data=data, dtype=dtype)


def filters(folder: Path, random: Random, _: Path) -> None:
    """A dataset stored otherwise: with other filters, unknown ones, without checksums, or deflated a thousandfold."""
    with h5py.File(target_of(folder, random), "r+") as file:
        wide = [
            one
            for one in everything(file)[1]
            if one.dtype.kind in "iuf" and one.ndim and one.size and not one.is_virtual
        ]
        item = random.choice(wide)
        name, data, attributes, how = item.name, item[()], dict(item.attrs), random.randrange(7)
        del file[name]
        if how == 0:
            new = file.create_dataset(name, data=data, compression="lzf")
        elif how == 1:
            new = file.create_dataset(name, data=data, shuffle=True, compression="gzip", fletcher32=True)
        elif how == 2:
            new = file.create_dataset(name, data=data, scaleoffset=0 if data.dtype.kind in "iu" else 2)
        elif how == 3:
            new = _low(file, name, data.shape, data.dtype, [random.choice((32001, 32015, 305, 65535)), 3])
        elif how == 4:
            new = file.create_dataset(name, data=data, chunks=data.shape, fletcher32=True)
            new.id.write_direct_chunk((0,) * data.ndim, data.tobytes(), filter_mask=0xFFFFFFFF)
        elif how == 5:
            # A few kilobytes that deflate makes hundreds of megabytes of, claimed or not.
            import zlib

            rows = random.choice((1, 10**8))
            new = file.create_dataset(name, (rows,), "u1", chunks=(rows,), compression="gzip")
            new.id.write_direct_chunk((0,), zlib.compress(bytes(3 * 10**8), 9))
        else:
            new = file.create_dataset(
                name, data.shape, data.dtype, chunks=data.shape, fletcher32=True, compression="gzip"
            )
            new.id.write_direct_chunk((0,) * data.ndim, random.randbytes(random.choice((1, 8, 100))))
        for key, value in attributes.items():
            new.attrs[key] = value


def _low(file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, codes: list[int]) -> h5py.Dataset:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    for code in codes:
        properties.set_filter(code, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, properties))


# ------------------------------------------------------------------------------------------------------------ links


def _elsewhere(random: Random, canary: Path) -> str:
    """Somewhere that no recording may read."""
    relative = os.path.relpath(canary / "secret.h5", canary.parent / "work")
    return random.choice(
        (str(canary / "secret.h5"), str(canary / "secret.bin"), str(canary / "pipe"), relative, "/dev/zero",
         "missing.h5", "other.h5", NAME, ".", str(canary), f"file://{canary}/secret.h5", "secret%b.h5", "%bsecret.h5")
    )  # fmt: skip


def links(folder: Path, random: Random, canary: Path) -> None:
    """Soft, external, hard and cyclic links in place of a group or a dataset, or beside them."""
    with h5py.File(target_of(folder, random), "r+") as file:
        groups, datasets = everything(file)
        name = random.choice([*groups[1:], *datasets]).name
        more = f"{random.choice(groups).name}/more"
        how = random.randrange(7)
        where = more if random.random() < 0.3 else name
        if how == 0:
            link: Any = h5py.SoftLink(random.choice(("/", "/layers", where, "/nowhere", random.choice(datasets).name)))
        elif how == 1:
            link = h5py.ExternalLink(_elsewhere(random, canary), random.choice(("/", name, "/data")))
        elif how == 2:
            link = file["/"]
        elif how == 3:
            link = random.choice(groups)
        elif how == 4:
            link = random.choice(datasets)
        elif how == 5:
            # The object stays, under another name, and a link stands in its place.
            file.move(name, "/moved")
            link = h5py.SoftLink("/moved")
            where = name
        else:
            deep = file
            for _ in range(random.choice((10, 300))):
                deep = deep.create_group("deeper")
            link = deep
        if where in file:
            del file[where]
        file[where] = link


def sources(folder: Path, random: Random, canary: Path) -> None:
    """A virtual dataset that is read from somewhere else."""
    with h5py.File(folder / NAME, "r+") as file:
        item = random.choice([one for one in everything(file)[1] if one.ndim and one.dtype.kind in "iuf"])
        name, shape, dtype, attributes = item.name, item.shape, item.dtype, dict(item.attrs)
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype)
        parts = sorted((folder / PARTS).glob("*.h5"))
        other = (
            f"{PARTS}/{random.choice(parts).name}" if parts and random.random() < 0.4 else _elsewhere(random, canary)
        )
        layout[...] = h5py.VirtualSource(other, random.choice((name, name, "data")), shape)
        new = file.create_virtual_dataset(name, layout)
        for key, value in attributes.items():
            new.attrs[key] = value


def external(folder: Path, random: Random, canary: Path) -> None:
    """A dataset whose bytes lie in another file."""
    with h5py.File(target_of(folder, random), "r+") as file:
        item = random.choice([one for one in everything(file)[1] if one.dtype.kind in "iuf" and one.size])
        name, shape, dtype, attributes = item.name, item.shape, item.dtype, dict(item.attrs)
        del file[name]
        where = random.choice(
            (str(canary / "secret.bin"), str(canary / "pipe"), "/dev/zero", "other.h5", "../canary/secret.bin")
        )
        new = file.create_dataset(
            name, shape or (1,), dtype, external=[(where, 0, h5py.h5f.UNLIMITED)], fill_time="never"
        )
        for key, value in attributes.items():
            new.attrs[key] = value


# ------------------------------------------------------------------------------------------------------------ files


def whole_file(folder: Path, random: Random, canary: Path) -> None:
    """Something else under the recording's name."""
    path = folder / NAME
    how = random.randrange(9)
    raw = path.read_bytes()
    path.unlink()
    if how == 0:
        os.mkfifo(path)
    elif how == 1:
        path.mkdir()
    elif how == 2:
        path.symlink_to(random.choice(("/dev/zero", "/dev/null", str(canary / "pipe"), "missing", NAME)))
    elif how == 3:
        path.write_bytes(random.randbytes(random.choice((0, 7, 8, 1000))))
    elif how == 4:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + random.randbytes(random.choice((0, 40, 4000))))
    elif how == 5:
        path.write_bytes(random.randbytes(512 * random.choice((1, 2))) + raw)
    elif how == 6:
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(3)
    elif how == 7:
        path.write_bytes(pickle.dumps({"x": np.zeros(3)}))
    else:
        with h5py.File(path, "w", libver="latest") as file:
            file.attrs["format"] = "probe-recording"
            file.attrs["format_version"] = random.choice((0, 1, 2, 99, -1, "x"))


def of_parts(folder: Path, random: Random, canary: Path) -> None:
    """Parts that are missing, exchanged, of another file, linked, or said to be otherwise."""
    parts = sorted((folder / PARTS).glob("*.h5"))
    one, other = random.sample(parts, 2)
    how = random.randrange(10)
    if how == 0:
        one.unlink()
    elif how == 1:
        middle = one.with_name("middle")
        one.rename(middle)
        other.rename(one)
        middle.rename(other)
    elif how == 2:
        shutil.copy(other, one)
    elif how == 3:
        one.unlink()
        one.symlink_to(random.choice((str(canary / "secret.h5"), other.name, "/dev/zero", str(canary / "pipe"))))
    elif how == 4:
        one.unlink()
        os.mkfifo(one)
    elif how == 5:
        one.unlink()
        one.mkdir()
    elif how == 6:
        with h5py.File(one, "r+") as file:
            file["output/snn"][0] = 7.0
    elif how == 7:
        (folder / PARTS).rename(folder / "parts")
        if random.random() < 0.5:
            (folder / PARTS).symlink_to("parts")
    else:
        with h5py.File(folder / NAME, "r+") as file:
            lines = json.loads(file.attrs["parts"])
            line = random.choice(lines)
            key = random.choice(sorted(line))
            line[key] = random.choice(
                (
                    0,
                    -1,
                    2**40,
                    1,
                    "x",
                    "../x",
                    "/etc/passwd",
                    None,
                    [],
                    "..",
                    str(canary / "secret.h5"),
                    line[key],
                    "a\0b",
                )
            )
            if how == 9:
                random.shuffle(lines)
            text = json.dumps(lines) if random.random() < 0.8 else random.choice(BOMBS)[:60_000]
            file.attrs["parts"] = text
            if random.random() < 0.2:
                file.attrs["parts_folder"] = random.choice(("..", "/tmp", "recording.h5.parts/", "", "x"))


def untouched(folder: Path, _random: Random, _: Path) -> None:
    """Nothing: what is told of it must be right."""


KINDS: dict[str, tuple[Mutation, int]] = {
    "bytes flipped": (flip, 3),
    "structure flipped": (flip_structure, 6),
    "truncated": (truncate, 1),
    "extended": (extend, 1),
    "blocks": (blocks, 2),
    "attribute": (attribute, 4),
    "names": (names, 3),
    "facts": (facts, 3),
    "values": (values, 2),
    "shapes": (shapes, 3),
    "kinds of values": (kinds, 2),
    "filters": (filters, 2),
    "links": (links, 3),
    "virtual sources": (sources, 2),
    "external storage": (external, 2),
    "another file": (whole_file, 1),
    "parts": (of_parts, 2),
    "untouched": (untouched, 1),
}
"""Name -> the function, and how often it is chosen."""
HOSTILE = {"attribute", "names", "facts", "values", "shapes", "kinds of values", "filters", "parts"}
"""Those that somebody could seal again, as who writes a file on purpose would; others are refused before the seal."""


def kinds_for(base: str) -> Iterator[tuple[str, int]]:
    """The kinds that make sense of a recording, with their weights."""
    for name, (_, weight) in KINDS.items():
        if (name == "parts") == (base == "parts") or name != "parts":
            yield name, weight * (5 if name == "parts" else 1)
