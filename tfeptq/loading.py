"""Reads saved models: `.keras`, and `.h5` files and SavedModels of the Keras 2 era."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras

from tfeptq import model as _quantized_model  # noqa: F401  registers QuantizedModel for loading
from tfeptq.foreign.archive import load_archive
from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.files import require_model_file
from tfeptq.foreign.hdf5 import load_hdf5
from tfeptq.foreign.saved_model import load_saved_model
from tfeptq.foreign.stripping import WrappedModelError, strip, stripping_python
from tfeptq.quantized import averaging as _averaging  # noqa: F401  registers the quantized averages
from tfeptq.quantized import borders as _borders  # noqa: F401  registers the requantizations
from tfeptq.quantized import wrappers as _wrappers  # noqa: F401  registers the quantized layers
from tflite_export.file.atomic import path_of


def load_model(path: str | Path) -> keras.Model:
    """Loads a float or a quantized model for inference.

    Args:
        path: a `.keras` file (also one that `QuantizedModel.save` wrote), a `.h5` file, or the
            folder of a SavedModel; of Keras 3, Keras 2 or tf_keras. A SavedModel without a Keras
            structure is read by its signature. Wrappers that tensorflow-model-optimization
            prunes and clusters with are taken off where this Python, or the one that the variable
            TFMOT_PYTHON names, has it.

    Raises:
        ValueError: there is no such file or SavedModel, or it cannot be read.

    Example:
        >>> model.save("float.keras")
        >>> tfeptq.load_model("float.keras").name == model.name
        True
    """
    path = path_of(path)
    require_model_file(path)
    suffix = path.suffix.lower()
    load: Callable[[Path], keras.Model] = load_archive
    if path.is_dir():
        load = load_saved_model
    elif suffix in (".h5", ".hdf5"):
        load = load_hdf5
    try:
        try:
            return load(path)
        except WrappedModelError:
            if stripping_python() is None:
                raise
            return _without_wrappers(path)
    except Exception as error:
        # Keras raises whatever the broken part of a file provokes.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        said = f"Keras cannot load it: {reason[0]}"
        if not isinstance(error, ForeignModelError):
            said = _unknown_class(error) or said
        raise ValueError(f"{path}: {said}") from error


def _unknown_class(error: BaseException | None) -> str | None:
    """What to say where Keras does not know a class of the user's."""
    while error is not None:
        found = re.search(r"Could not locate (?:class|function) '([^']+)'", str(error))
        if found is not None:
            return (
                f"it needs {found[1]!r}, which Keras does not know here: decorate it with "
                "@keras.saving.register_keras_serializable() and import its module first, or pass "
                "the model itself to tfeptq.quantize"
            )
        error = error.__cause__ or error.__context__
    return None


def _without_wrappers(path: Path) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / "stripped.h5"
        strip(path, stripped)
        return load_hdf5(stripped)
