"""HDF5 files of Keras 2, read by Keras 3 through a copy in its own terms."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import h5py
import keras

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.keras2_config import translated
from tfeptq.foreign.keras2_layers import OBJECTS


def load_hdf5(path: Path) -> keras.Model:
    """The model of an `.h5` file of Keras 2 or 3.

    Raises:
        ForeignModelError: it holds weights only, or a layer that Keras 3 cannot have.
    """
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise ForeignModelError(
                "it holds weights only; build the model, call model.load_weights on it and save "
                "that as .keras"
            )
        if not is_keras2(file.attrs.get("keras_version", "2")):
            return keras.models.load_model(path, compile=False)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "model.h5"
            with h5py.File(copy, "w") as translation:
                file.copy("model_weights", translation)
                _describe(translation, translated(json.loads(_text(config))))
            return keras.models.load_model(copy, custom_objects=OBJECTS, compile=False)


def is_keras2(version: Any) -> bool:
    """Whether a file was written by Keras 1 or 2, all of tf_keras included."""
    return _text(version).partition(".")[0] in ("1", "2")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _describe(file: h5py.File, config: Any) -> None:
    """Attributes are limited to 64 KiB, but for those that are stored apart from their object."""
    file.attrs["keras_version"] = "2"
    file.attrs.create("model_config", json.dumps(config), dtype=h5py.string_dtype())
