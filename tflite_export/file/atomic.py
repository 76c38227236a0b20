"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

#: Names that files of Keras models end in.
_OF_KERAS = (".keras", ".h5", ".hdf5")


def path_of(value: Any) -> Path:
    """A path that was given as one. Raises ValueError for anything else, and for no name."""
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        is_content = isinstance(value, (bytes, bytearray, memoryview))
        shown = f"a content of {len(value)} bytes" if is_content else " ".join(repr(value).split())
        raise ValueError(f"{shown:.80} is not the path of a file")
    return Path(value)


def destination(path: Any, *, suffix: str | None = None) -> Path:
    """The path of a file that can be written; nothing is left there.

    Args:
        suffix: that the name must have.

    Raises:
        ValueError: no path, another suffix, a folder, a device, or a place where nothing can be
            written.
    """
    path = path_of(path)
    _require_name(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; the name of a file in it is needed")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a device or a pipe, which a file would replace; give a name")
    if suffix is not None and path.suffix != suffix:
        raise ValueError(f"{path}: the name must end in {suffix}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist")
    require_writable(path.parent)
    return path


def _require_name(path: Path) -> None:
    """Raises ValueError for what no file can be called."""
    try:
        os.lstat(path)
    except ValueError as error:
        reason = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            return
        reason = str(error.strerror)
    else:
        return
    raise ValueError(f"{str(path)[:60]!r}: no file can have this name: {reason}")


def tflite_destination(path: Any) -> Path:
    """`destination` of a TensorFlow Lite file: a Keras model is not written over by one.

    Raises:
        ValueError: see `destination`, and names of Keras models.
    """
    path = destination(path)
    if path.suffix.lower() in _OF_KERAS:
        raise ValueError(
            f"{path}: {path.suffix} is for Keras models; the name of a TensorFlow Lite file ends "
            "in .tflite"
        )
    return path


def require_folder(name: str, folder: Any) -> None:
    """Raises ValueError for a folder that cannot be made or written; leaves nothing behind.

    Args:
        name: of the argument that it was given as.
        folder: a path, which need not exist yet, or None.
    """
    if folder is None:
        return
    if not isinstance(folder, (str, os.PathLike)):
        shown = " ".join(repr(folder).split())
        raise ValueError(f"{name}={shown:.80} must be the path of a folder, or None")
    path = Path(folder).absolute()
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if not existing.is_dir():
        raise ValueError(f"{name}: {existing} is a file; a folder is needed")
    require_writable(existing)


def require_writable(folder: Path) -> None:
    """Raises ValueError for a folder in which nothing can be written.

    Permissions say too little: only writing shows what a file system allows.
    """
    try:
        with tempfile.TemporaryDirectory(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{folder}: nothing can be written there: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes next to the file and renames, so that readers never see a part of it."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        os.unlink(partial)
        # A full disk does not say whose file it has no room for.
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.unlink(partial)
        raise
