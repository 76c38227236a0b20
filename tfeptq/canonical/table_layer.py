"""A function of one number as a table of its results, as a layer of canonical models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.canonical.tabulated import FUNCTIONS

#: Name of a function and its settings.
Step = tuple[str, Mapping[str, float | None]]


@keras.saving.register_keras_serializable(package="tfeptq")
class Table(keras.layers.Layer):
    """Each number by itself. A file holds the function's results at all integers of its input.

    Args:
        steps: names of `tfeptq.canonical.tabulated.FUNCTIONS`, each with its arguments behind the
            tensor; one is applied to the result of the other.
    """

    def __init__(self, steps: Sequence[Step], **kwargs: Any) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.steps = [(function, dict(settings)) for function, settings in steps]

    def call(self, inputs: Any) -> Any:
        for function, settings in self.steps:
            inputs = FUNCTIONS[function](inputs, **settings)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "steps": [list(step) for step in self.steps]}

    def results(self, arguments: np.ndarray) -> np.ndarray:
        """The function at float32 numbers."""
        return ops.convert_to_numpy(self.call(ops.convert_to_tensor(arguments, DTYPE)))
