"""Reads saved models: `.keras`, and `.h5` files of the Keras 2 era."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from tfeptq import model as _quantized_model  # noqa: F401  registers QuantizedModel for loading
from tfeptq.quantized import averaging as _averaging  # noqa: F401  registers the quantized averages
from tfeptq.quantized import borders as _borders  # noqa: F401  registers the requantizations
from tfeptq.quantized import wrappers as _wrappers  # noqa: F401  registers the quantized layers
from tflite_export.file.atomic import path_of


class _DepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """Keras 2 wrote a `groups` argument that Keras 3 refuses; it was always 1."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.DepthwiseConv2D:
        settings = {name: value for name, value in config.items() if name != "groups"}
        return keras.layers.DepthwiseConv2D.from_config(settings)


def load_model(path: str | Path) -> keras.Model:
    """Loads a float or a quantized model for inference.

    Args:
        path: a `.keras` file (also one that `QuantizedModel.save` wrote), or a `.h5` file of
            Keras 2 or 3.

    Raises:
        ValueError: there is no such file, it is a directory, or Keras cannot read it.

    Example:
        >>> model.save("float.keras")
        >>> tfeptq.load_model("float.keras").name == model.name
        True
    """
    path = path_of(path)
    if path.is_dir():
        raise ValueError(f"{path} is a directory; save the model as a .keras file and pass that")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    legacy = path.suffix.lower() in (".h5", ".hdf5")
    custom = {"DepthwiseConv2D": _DepthwiseConv2D} if legacy else None
    try:
        return keras.models.load_model(path, custom_objects=custom, compile=False)
    except Exception as error:
        # Keras raises whatever the broken part of a file provokes.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path}: Keras cannot load it: {reason[0]}") from error
