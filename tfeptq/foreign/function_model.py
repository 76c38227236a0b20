"""A TensorFlow function as a Keras model, for what has no layers any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf


class FunctionModel(keras.Model):
    """Computes a function of TensorFlow tensors; its layers are read from the graph of that.

    Args:
        function: of one tensor, or of a dictionary of them where there are several inputs.
        specs: of the inputs by name, the batch first.
        keeps: an object that the function's variables live in.

    Attributes:
        input_specs: symbolic tensors by the names of the inputs, with their types.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        specs: Mapping[str, tf.TensorSpec],
        *,
        keeps: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        # Keras would track what it finds in attributes; a closure is not looked into.
        self._compute = lambda inputs: (function(inputs), keeps)[0]
        self.input_specs = {
            name: keras.KerasTensor(tuple(spec.shape), dtype=spec.dtype.name)
            for name, spec in specs.items()
        }
        self.built = True

    def call(self, inputs: Any) -> Any:
        return self._compute(inputs)

    def get_build_config(self) -> dict[str, Any]:
        shapes = {name: tuple(spec.shape) for name, spec in self.input_specs.items()}
        return {"input_shape": shapes if len(shapes) > 1 else next(iter(shapes.values()))}
