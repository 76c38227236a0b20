"""One step of a layer that goes through time: read once, called as often as there are steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfeptq.preparation.operation_names import name_operations
from tfeptq.preparation.trace import Symbol, Trace, is_symbol, trace


class Step(keras.Operation):
    """What one step makes of its inputs; every call of it is the same place in the network.

    The canonical model has one layer for each operation of the step, called once a step, so that a
    state has one quantizer through time.

    Args:
        compute: tensors -> tensors, on symbolic tensors.
        like: tensors in whose shapes it reads its inputs, batch included.
        name: of its operations, see `tfeptq.preparation.operation_names`.
    """

    def __init__(
        self, compute: Callable[..., Sequence[Any]], like: Sequence[Any], name: str
    ) -> None:
        super().__init__(name=name)
        batch = next((each.shape[0] for each in like if is_symbol(each)), None)
        inputs = [
            keras.Input(
                batch_shape=(batch, *each.shape[1:]),
                dtype=keras.backend.standardize_dtype(each.dtype),
                name=f"{name}_input_{index}",
            )
            for index, each in enumerate(like)
        ]
        model = keras.Model(inputs, list(compute(*inputs)), name=name)
        name_operations(model, name)
        self._model = model
        self.trace: Trace = trace(model)

    def compute_output_spec(self, *tensors: Any) -> list[Symbol]:
        return [keras.KerasTensor(made.shape, dtype=made.dtype) for made in self._model.outputs]

    def call(self, *tensors: Any) -> list[Any]:
        return list(self._model(list(tensors)))
