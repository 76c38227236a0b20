"""What people pass instead of a Keras model, and what to do about it."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np

#: Modules of the models of Keras 2.
_KERAS_2 = ("tf_keras.", "keras.engine.", "keras.src.engine.", "tensorflow.python.keras.")


def require_model(model: Any) -> None:
    """Raises ValueError for anything but an instance of `keras.Model`, with the way to one."""
    if isinstance(model, keras.Model):
        return
    received = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
    raise ValueError(f"model must be a keras.Model, received {received}: {_way_out(model)}")


def is_keras2_model(model: Any) -> bool:
    """Whether it is a model of Keras 2, or of a class derived from one."""
    return any(
        kind.__module__.startswith(_KERAS_2) and kind.__name__ == "Model"
        for kind in type(model).__mro__
    )


def _way_out(model: Any) -> str:
    if isinstance(model, (str, os.PathLike)):
        return f"load the file with tfeptq.load_model({os.fspath(model)!r}) and pass the result"
    if isinstance(model, type):
        return "pass a model made of it"
    if is_keras2_model(model):
        return (
            "it is a model of Keras 2 (tf_keras): tfeptq.quantize takes it; elsewhere save it as "
            ".h5 and read that with tfeptq.load_model"
        )
    if isinstance(model, np.ndarray):
        return "the model comes first, then the calibration samples"
    if isinstance(model, keras.Layer):
        return "wrap the layer in keras.Sequential([keras.Input(shape), layer])"
    if hasattr(model, "signatures"):
        return "read the SavedModel with tfeptq.load_model(folder) and pass the result"
    return "pass a functional model, or a Sequential model built on an Input"
