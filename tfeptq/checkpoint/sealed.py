"""Arrays in a file that is either whole or not there, whatever happens while it is written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

#: Ending of what is being written; one that stays behind belongs to a process that died.
PARTIAL = ".partial"
#: Member of the `.npz` file that holds the checksum of all others.
_CHECKSUM = "sha256"
#: What NumPy raises on damaged files, and on pickled objects, which are never loaded.
_UNREADABLE = (
    *(OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error),
    # One bit of a ZIP file's fields makes it encrypted, packed otherwise, or of any size.
    *(RuntimeError, MemoryError, OverflowError),
)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` file aside, makes sure that it is on the disk, and gives it its name.

    A process that dies, or a disk that is full, leaves what `path` held before.

    Args:
        arrays: plain arrays by name, no objects.

    Raises:
        OSError: the file cannot be written; nothing partial is left.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        with open(partial, "wb") as file:
            _save(file, {**arrays, _CHECKSUM: checksum(arrays)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _save(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """`numpy.savez`, which refuses some names."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, or None where there is none, or one that is torn or not ours."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        expected = arrays.pop(_CHECKSUM)
    except _UNREADABLE:
        return None
    return arrays if np.array_equal(expected, checksum(arrays)) else None


def checksum(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 of names, types, shapes and values, uint8 (32,)."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        array = np.asarray(array)
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk as well."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
