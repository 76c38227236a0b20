"""`.keras` files: of Keras 3, and of tf_keras 2.12 and later."""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from pathlib import Path

import keras

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.hdf5 import is_keras2
from tfeptq.foreign.rebuilding import rebuilt

_HDF5 = b"\x89HDF\r\n\x1a\n"
_AGAIN = "save or copy the model once more"
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def load_archive(path: Path) -> keras.Model:
    """The model of a `.keras` file of Keras 2 or 3.

    Raises:
        ForeignModelError: it is of Keras 2 and holds a layer that Keras 3 cannot have, or is
            damaged.
    """
    _require_whole(path)
    with zipfile.ZipFile(path) as archive:
        if not _is_of_keras2(archive):
            return keras.models.load_model(path, compile=False)
        model = rebuilt(json.loads(archive.read(_CONFIG)))
        # Both store the weights by the places of their layers, in the same words.
        with tempfile.TemporaryDirectory() as folder:
            model.load_weights(archive.extract(_WEIGHTS, folder))
    return model


def _require_whole(path: Path) -> None:
    """Refuses what is no archive any more, of which Keras says that it was not found."""
    if zipfile.is_zipfile(path):
        broken = _broken_part(path)
        if broken is None:
            return
        raise ForeignModelError(f"it is damaged, in {broken}: {_AGAIN}")
    with path.open("rb") as file:
        beginning = file.read(len(_HDF5))
    if beginning == _HDF5:
        raise ForeignModelError("it is an HDF5 file: give it a name that ends in .h5")
    if not beginning:
        raise ForeignModelError(f"it is empty: {_AGAIN}")
    is_cut = beginning.startswith(b"PK")
    raise ForeignModelError(f"it is {'cut off' if is_cut else 'no .keras archive'}: {_AGAIN}")


def _broken_part(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        # The last one is what `zipfile` raises where a damaged byte names no way of packing.
        return "its tables or packed parts"


def _is_of_keras2(archive: zipfile.ZipFile) -> bool:
    if _METADATA not in archive.namelist():
        return False
    return is_keras2(json.loads(archive.read(_METADATA)).get("keras_version", "3"))
