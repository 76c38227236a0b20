"""Layers of the user's own, by what they decompose into."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from tfeptq.preparation.layers import LAYERS

#: Of a layer and the arguments of its call, what the call returns.
Decomposition = Callable[..., Any]
_DECOMPOSITIONS: dict[type, Decomposition] = {}


def register_layer(layer_class: type, decompose: Decomposition | None = None) -> Any:
    """Says what a layer of your own computes, in supported layers and `keras.ops`.

    Most need no registration: a `call` that is written with layers, `keras.ops` or functions of
    TensorFlow is read by itself. This is for those that look at values, loop in TensorFlow or
    call other libraries.

    Args:
        layer_class: the exact class; classes derived from it may compute otherwise.
        decompose: function of a layer and of the arguments of its call, symbolic tensors among
            them; returns what the call returns. Weights are arguments of operations, as in
            `keras.ops.conv(x, layer.kernel)`; layers that are made inside need a `name`. None: a
            decorator of that function.

    Returns:
        The function `decompose`.

    Raises:
        ValueError: no class of layers, one that is supported already, or no function.

    Example:
        >>> class Doubled(keras.layers.Layer):
        ...     def call(self, x):
        ...         return keras.ops.vectorized_map(lambda row: row + row, x)
        >>> @tfeptq.register_layer(Doubled)
        ... def doubled(layer, x):
        ...     return 2.0 * x
        >>> tfeptq.prepare(keras.Sequential([model, Doubled()])).output_shape
        (None, 2)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.Layer)):
        raise ValueError(
            f"layer_class={layer_class!r} must be a class derived from keras.Layer; pass the class "
            "itself, not a layer made of it"
        )
    if layer_class in LAYERS:
        raise ValueError(f"keras.layers.{layer_class.__name__} is supported as it is")
    if decompose is None:
        return functools.partial(register_layer, layer_class)
    if not callable(decompose):
        raise ValueError(
            f"decompose={decompose!r} must be a function of a layer and the arguments of its call"
        )
    _DECOMPOSITIONS[layer_class] = decompose
    return decompose


def decomposition(layer: keras.Layer) -> Callable[..., Any] | None:
    """What stands for the `call` of a registered layer; None for all others."""
    decompose = _DECOMPOSITIONS.get(type(layer))
    if decompose is None:
        return None
    taken = inspect.signature(decompose).parameters

    def call(*arguments: Any, **keywords: Any) -> Any:
        # Keras gives every layer these two; they say nothing here where they are not asked for.
        given = {name: value for name, value in keywords.items() if name not in _OF_KERAS}
        for name in _OF_KERAS:
            if keywords.get(name) or name in taken:
                given[name] = keywords.get(name, _OF_KERAS[name])
        return decompose(layer, *arguments, **given)

    return call


_OF_KERAS = {"training": False, "mask": None}
