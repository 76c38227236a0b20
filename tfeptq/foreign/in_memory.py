"""Models of Keras 2 (tf_keras) that live in the same process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.function_model import FunctionModel
from tfeptq.foreign.hdf5 import load_hdf5


def converted(model: Any) -> keras.Model:
    """A Keras 3 model with the weights that a model of Keras 2 has now.

    Where its layers cannot be rebuilt, its TensorFlow function is taken.

    Raises:
        ForeignModelError: it was never built.
    """
    if not model.built:
        raise ForeignModelError(f"model {model.name!r} was never built; call it on a sample first")
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.h5"
            model.save(path, include_optimizer=False)
            return load_hdf5(path)
    except Exception:
        # Subclassed models and custom layers have no configuration to go by.
        return _by_function(model)


def _by_function(model: Any) -> FunctionModel:
    given = model.save_spec()
    if given is None:
        raise ForeignModelError(
            f"model {model.name!r} does not know its inputs; call its predict on a sample first"
        )
    structure = given[0][0]
    leaves = tf.nest.flatten(structure)
    names = [leaf.name or f"input_{index}" for index, leaf in enumerate(leaves)]
    specs = dict(zip(names, leaves, strict=True))

    def function(inputs: Any) -> Any:
        tensors = [inputs[name] for name in names] if len(names) > 1 else [inputs]
        return model(tf.nest.pack_sequence_as(structure, tensors), training=False)

    return FunctionModel(function, specs, keeps=model, name=model.name)
