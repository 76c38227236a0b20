"""A model that ends where it is asked to: at layers by name, or before what joins its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from tfeptq.config import PARTS, Outputs
from tfeptq.preparation.trace import Symbol, flat_functional, input_names, symbols
from tflite_export.near_names import meant


def with_outputs(model: keras.Model, outputs: Outputs | None) -> keras.Model:
    """The same layers up to other outputs.

    Args:
        model: functional or Sequential.
        outputs: names of layers, in the order of the new outputs; a layer that is called several
            times, or gives several tensors, gives as many, in the order of Keras's walk. "parts":
            where an output is a concatenation along its last axis, what it joins. None: the model's
            own.

    Returns:
        A functional model with a flat list of outputs, or `model` where nothing changes.

    Raises:
        ValueError: a name that the model does not have; lists those that it has.
    """
    if outputs is None:
        return model
    flat = flat_functional(model)
    walk = _Walk(flat)
    if outputs == PARTS:
        chosen = [part for tensor in walk.outputs for part in walk.parts(tensor)]
        if len(chosen) == len(walk.outputs):
            return model
    else:
        chosen = [tensor for name in outputs for tensor in walk.named(name)]
    return keras.Model(walk.inputs, chosen, name=model.name)


class _Walk:
    """The graph of a model walked through once more, by Keras, over new inputs.

    `Layer.output` will not do: of a layer in several models it is the tensor of the first.
    """

    def __init__(self, model: keras.Model) -> None:
        names = input_names(model)
        self._model = model
        self._made: dict[str, list[Symbol]] = {}
        self._calls: dict[int, tuple[keras.Operation, list[Symbol]]] = {}
        self.inputs = [
            keras.Input(
                batch_shape=tensor.shape,
                dtype=tensor.dtype,
                name=names.get(id(tensor), tensor.name),
            )
            for tensor in model.inputs
        ]
        copy = keras.models.clone_model(
            model,
            input_tensors=self.inputs,
            clone_function=lambda operation: operation,
            call_function=self._called,
        )
        self.outputs: Sequence[Symbol] = copy.outputs

    def _called(self, operation: keras.Operation, *arguments: Any, **keywords: Any) -> Any:
        made = operation(*arguments, **keywords)
        tensors = symbols(made)
        self._made.setdefault(operation.name, []).extend(tensors)
        for tensor in tensors:
            self._calls[id(tensor)] = operation, symbols((arguments, keywords))
        return made

    def named(self, name: str) -> list[Symbol]:
        """Outputs of a layer, of all its calls."""
        if name not in self._made:
            close = meant(name, self._made)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ValueError(
                f"outputs: model {self._model.name!r} has no layer {name!r}; it has "
                f"{', '.join(self._made)}{hint}"
            )
        return self._made[name]

    def parts(self, tensor: Symbol) -> Iterator[Symbol]:
        """What is joined along the last axis to this tensor, or the tensor itself."""
        operation, joined = self._calls.get(id(tensor), (None, []))
        if not _joins_features(operation, len(tensor.shape)):
            yield tensor
            return
        for part in joined:
            yield from self.parts(part)


def _joins_features(operation: keras.Operation | None, rank: int) -> bool:
    # `keras.ops.concatenate` makes an operation of the same name that no module exports.
    kind = type(operation).__name__
    return kind == "Concatenate" and getattr(operation, "axis", None) in (-1, rank - 1)
