"""`.keras` files: of Keras 3, and of tf_keras 2.12 and later."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import keras

from tfeptq.foreign.hdf5 import is_keras2
from tfeptq.foreign.rebuilding import rebuilt

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def load_archive(path: Path) -> keras.Model:
    """The model of a `.keras` file of Keras 2 or 3.

    Raises:
        ForeignModelError: it is of Keras 2 and holds a layer that Keras 3 cannot have.
    """
    if not zipfile.is_zipfile(path):
        return keras.models.load_model(path, compile=False)
    with zipfile.ZipFile(path) as archive:
        if not _is_of_keras2(archive):
            return keras.models.load_model(path, compile=False)
        model = rebuilt(json.loads(archive.read(_CONFIG)))
        # Both store the weights by the places of their layers, in the same words.
        with tempfile.TemporaryDirectory() as folder:
            model.load_weights(archive.extract(_WEIGHTS, folder))
    return model


def _is_of_keras2(archive: zipfile.ZipFile) -> bool:
    if _METADATA not in archive.namelist():
        return False
    return is_keras2(json.loads(archive.read(_METADATA)).get("keras_version", "3"))
