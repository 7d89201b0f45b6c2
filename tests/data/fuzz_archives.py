"""Damages data sets at random: each is loaded or refused with one line.

Archives, folders, the image files and batches in them and idx files are damaged, as bytes and as
what they are made of. Nothing may be written outside the cache and no process started. A few
hundred mutations are part of the tests; more, from the root, with

    python -m tests.data.fuzz_archives --mutations 20000 --seed 0
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tests.data.files import cifar10, cifar100, fashion_mnist, idx, labelled
from tests.fuzzing import (
    Random,
    Watch,
    check_line,
    chosen,
    extended,
    flipped,
    main,
    overwritten,
    rounds,
    truncated,
)

from mulfree import data
from mulfree.data import DataConfig
from mulfree.errors import MulfreeError

Files = dict[str, bytes]

_NAMES = (
    *(
        "",
        ".",
        "./",
        "..",
        "../x",
        "/x",
        "C:x",
        "a\\b",
        "\0",
        "\x1b[2J",
        "a\nb",
        "\u202e",
        "\u200d",
    ),
    *(".x", "._1.png", "Thumbs.db", "__MACOSX/train/a/1.png", "train", "train/1.png", "x" * 300),
    *("train/a/b/1.png", "train/" + "y" * 250 + "/1.png", "train/\u3000/1.png", "val/z/1.png"),
    *("train/\udcff/1.png", "a/" * 200, "TRAIN/class000/9.png", "test/class000/.png", "train//"),
)
_TYPES = (
    *(tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE),
    *(tarfile.GNUTYPE_SPARSE, b"V", b"x", b"\xff"),
)
_NUMBERS = (0, 1, 2, 7, 8, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def _damaged(rng: Random, content: bytes) -> bytes:
    """Bytes after one change; they may become none."""
    if not content:
        return rng.bytes(int(rng.integers(1, 64)))
    change: Callable[[Random, bytes], bytes] = chosen(
        rng, (truncated, extended, flipped, flipped, overwritten, _renumbered)
    )
    return change(rng, content)


def _renumbered(rng: Random, content: bytes) -> bytes:
    """Another number of 16 or 32 bits somewhere near the start, where headers are."""
    data = bytearray(content)
    code = chosen(rng, (">I", "<I", ">H", "<H"))
    number = int(chosen(rng, _NUMBERS)) % (2 ** (8 * struct.calcsize(code)))
    place = int(rng.integers(min(len(data), 64)))
    data[place : place + struct.calcsize(code)] = struct.pack(code, number)
    return bytes(data)


def _images() -> list[bytes]:
    """Image files of every format and many modes."""
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    for kind in ("PNG", "JPEG", "WEBP", "BMP"):
        for mode in ("RGB", "L", "RGBA", "P", "CMYK", "LA", "1"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError):  # formats do not have every mode
                noise.convert(mode).save(buffer, kind, exif=exif.tobytes())
                made.append(buffer.getvalue())
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        noise.save(buffer, kind, save_all=True, append_images=[noise.rotate(180)])
        made.append(buffer.getvalue())
    for options in ({"progressive": True}, {"icc_profile": bytes(200)}):
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", **options)
        made.append(buffer.getvalue())
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 2**16, (4, 4), dtype=np.uint16)).save(buffer, "PNG")
    made.append(buffer.getvalue())
    return made


_IMAGES = _images()
_SMALL = labelled(side=4, each=1)
_PNG_START = 8


def _rechunked(rng: Random, content: bytes) -> bytes:
    """A PNG with damaged chunks whose checksums are right; other files as they are."""
    if content[:4] != b"\x89PNG":
        return content
    chunks, place = [], _PNG_START
    while place + 8 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    which = int(rng.integers(len(chunks)))
    kind, body = chunks[which]
    match int(rng.integers(4)):
        case 0:
            chunks[which] = (kind, _damaged(rng, body))
        case 1:
            chunks.insert(which, chosen(rng, chunks))
        case 2:
            unpacked = bytes(int(rng.integers(2**16)))
            chunks.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(unpacked)))
        case _:
            exif = _damaged(rng, b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
            chunks.insert(1, (b"eXIf", exif))
    return content[:_PNG_START] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _labelled(rng: Random) -> Files:
    """An image archive's files after up to 3 changes of names, of contents or of both."""
    files = dict(_SMALL)
    for _ in range(int(rng.integers(4))):
        name = chosen(rng, list(files) or [""])
        match int(rng.integers(6)):
            case 0:
                files[chosen(rng, _NAMES)] = files.pop(name, b"")
            case 1:
                files[name + chosen(rng, ("", "~", "\u00a0", "/", "/x"))] = files.get(name, b"")
            case 2:
                files[name] = _damaged(rng, files.get(name, b""))
            case 3:
                files[name] = _damaged(rng, chosen(rng, _IMAGES))
            case 4:
                files[name] = _rechunked(rng, chosen(rng, _IMAGES))
            case _:
                files[name] = chosen(rng, _IMAGES)
    return files


def _tar(rng: Random, files: Files, compress: Callable[[bytes], bytes]) -> bytes:
    """A tar file; members may be something else than files, occur twice or have odd headers."""
    buffer = io.BytesIO()
    kind = chosen(rng, (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            if rng.integers(16) == 0:
                entry.type = chosen(rng, _TYPES)
                entry.linkname = chosen(rng, ("", "/etc/passwd", "../x", name))
            if rng.integers(16) == 0 and kind == tarfile.PAX_FORMAT:
                key = chosen(
                    rng, ("size", "path", "GNU.sparse.map", "GNU.sparse.realsize", "mtime")
                )
                entry.pax_headers = {key: chosen(rng, ("", "0,0", "-1", "9" * 30, "x", "1.5e400"))}
            for _ in range(1 + (rng.integers(32) == 0)):
                archive.addfile(entry, io.BytesIO(content))
    plain = buffer.getvalue()
    if rng.integers(8) == 0:
        plain = _resized_member(rng, plain)
    if rng.integers(8) == 0:
        plain = _damaged(rng, plain)
    return compress(plain)


def _resized_member(rng: Random, content: bytes) -> bytes:
    """Another size in the first header, whose checksum is right."""
    header = bytearray(content[:512])
    size = int(chosen(rng, (*_NUMBERS, 8**11 - 1)))
    header[124:136] = b"%011o\0" % min(size, 8**11 - 1)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


def _zip(rng: Random, files: Files) -> bytes:
    buffer = io.BytesIO()
    kind = chosen(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(buffer, "w", kind) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        for name, content in files.items():
            entry = zipfile.ZipInfo(name or "x")
            entry.compress_type = kind
            if rng.integers(16) == 0:
                entry.external_attr = int(chosen(rng, (0o120777, 0o010644, 0o060644))) << 16
            for _ in range(1 + (rng.integers(32) == 0)):
                archive.writestr(entry, content)
    return buffer.getvalue()


_COMPRESS: tuple[Callable[[bytes], bytes], ...] = (
    bytes,
    lambda content: gzip.compress(content, 1),
    lambda content: bz2.compress(content, 1),
    lambda content: lzma.compress(content, preset=0),
)


def _archive(rng: Random, folder: Path, files: Files) -> Path:
    path = folder / "input"
    zipped = rng.integers(2)
    with contextlib.suppress(UnicodeError, ValueError):  # names that the format cannot have
        content = _zip(rng, files) if zipped else _tar(rng, files, chosen(rng, _COMPRESS))
        path.write_bytes(_damaged(rng, content) if rng.integers(3) == 0 else content)
    return path


def _folder(rng: Random, folder: Path, files: Files) -> Path:
    path = folder / "input"
    path.mkdir()
    for name, content in files.items():
        # Only names that stay below the folder can be made.
        target = Path(os.path.normpath(path / name.lstrip("/")))
        with contextlib.suppress(OSError, ValueError):
            target.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # writing into a pipe would not end
            match int(rng.integers(24)):
                case 0:
                    target.symlink_to(chosen(rng, ("nowhere", "/dev/zero", ".", str(path))))
                case 1:
                    os.mkfifo(target)
                case _:
                    target.write_bytes(content)
    return path


def _image_set(rng: Random, folder: Path) -> DataConfig:
    files = _labelled(rng)
    path = (_archive if rng.integers(4) else _folder)(rng, folder, files)
    side = chosen(rng, (None, None, 7, 40))
    return DataConfig(name="image_folder", root=str(path), image_size=side, max_image_pixels=2**18)


def _cifar(rng: Random, folder: Path) -> DataConfig:
    name, files = chosen(rng, (("cifar10", dict(_CIFAR10)), ("cifar100", dict(_CIFAR100))))
    for _ in range(int(rng.integers(3))):
        hit = chosen(rng, list(files))
        # Most of a batch is pixels: the damage goes to what is before and behind them.
        content, head = files[hit], 200
        damaged = _damaged(rng, content[:head]), _damaged(rng, content[-head:])
        files[hit] = chosen(
            rng, (damaged[0] + content[head:], content[:-head] + damaged[1], b"", content[:-1])
        )
    path = (_archive if rng.integers(2) else _folder)(rng, folder, files)
    return DataConfig(name=name, root=str(path))


def _idx(rng: Random, folder: Path) -> DataConfig:
    files = dict(chosen(rng, _FASHION))
    for _ in range(int(rng.integers(3))):
        hit = chosen(rng, list(files))
        match int(rng.integers(4)):
            case 0:
                files[hit] = _damaged(rng, files[hit])
            case 1 if hit.endswith(".gz"):
                with contextlib.suppress(OSError, EOFError, zlib.error):  # damaged already
                    files[hit] = gzip.compress(_damaged(rng, gzip.decompress(files[hit])), 1)
            case 2:
                files[hit] = idx(np.zeros(tuple(rng.integers(0, 40, 3)), np.uint8))
            case _:
                files[hit] = _renumbered(rng, files[hit])
    return DataConfig(name="fashion_mnist", root=str(_folder(rng, folder, files)))


_CIFAR10, _CIFAR100 = cifar10(), cifar100()
_FASHION = (fashion_mnist(), fashion_mnist(ending=".gz"))
_KINDS = (_image_set, _image_set, _image_set, _image_set, _cifar, _idx)


def fuzz(mutations: int, seed: int, folder: Path) -> Counter[str]:
    """How many data sets were refused and loaded; anything else is an exception."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    os.environ["MULFREE_CACHE"] = str(folder / "cache")
    watch = Watch(folder)
    for number in rounds(mutations, every=20):
        make: Callable[[Random, Path], DataConfig] = chosen(rng, _KINDS)
        source = folder / "source"
        source.mkdir()
        config = make(rng, source)
        name = config.name.rstrip("0")
        try:
            with watch:
                splits = data.load(config)
        except MulfreeError as error:
            outcomes[f"{name} refused"] += 1
            check_line(error)
        except Exception as error:
            error.add_note(f"mutation {number} of seed {seed}: {config}")
            raise
        else:
            outcomes[f"{name} loaded"] += 1
            assert len(splits.train) == len(splits.train.images) > 0
            assert all(name.isprintable() and 1 <= len(name) <= 200 for name in splits.classes)
        assert {path.name for path in folder.iterdir()} <= {"source", "cache"}
        for path in folder.iterdir():
            shutil.rmtree(path)
    return outcomes


if __name__ == "__main__":
    main(fuzz, "data sets")
