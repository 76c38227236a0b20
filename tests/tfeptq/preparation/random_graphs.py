"""Random small models of every kind of layer and operation that `prepare` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

Step = Callable[["RandomGraph", Any], Any]


class RandomGraph:
    """Draws layers, constants, shared layers and nested models onto a growing list of tensors.

    Args:
        name: what a layer that would be called `wanted` is called; None: Keras decides.
    """

    def __init__(self, seed: int, name: Callable[[str], str | None] = lambda wanted: None) -> None:
        self.rng = np.random.default_rng(seed)
        self._name = name
        self._shared: list[tuple[tuple[int, ...], keras.layers.Layer]] = []
        self._depth = 0

    def model(self, steps: int) -> keras.Model:
        """A model with one to three outputs; weights are random."""
        inputs = self.inputs()
        tensors = [tensor for tensor in inputs if self.rng.random() > 0.1 or len(inputs) == 1]
        tensors = tensors or inputs[:1]
        for _ in range(steps):
            tensors.append(self.step(self.pick(tensors, recent=True), tensors))
        count = self.rng.integers(1, 4)
        outputs = [tensors[-1], *(self.pick(tensors) for _ in range(count - 1))]
        given = inputs if len(inputs) > 1 else inputs[0]
        return keras.Model(given, outputs if count > 1 else outputs[0])

    def inputs(self) -> list[Any]:
        shapes = [(6, 5, 3), (6, 5, 4), (7, 3), (4,)]
        count = self.rng.choice([1, 1, 2, 3])
        picked = [shapes[self.rng.integers(len(shapes))] for _ in range(count)]
        return [keras.Input(shape, name=self.name("input")) for shape in picked]

    def name(self, wanted: str) -> str | None:
        return self._name(wanted)

    def pick(self, tensors: list[Any], *, recent: bool = False) -> Any:
        chosen = tensors[-3:] if recent and self.rng.random() < 0.7 else tensors
        return chosen[self.rng.integers(len(chosen))]

    def constant(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype("float32")

    def choice(self, *values: Any) -> Any:
        return values[self.rng.integers(len(values))]

    def step(self, x: Any, tensors: list[Any]) -> Any:
        shape = tuple(x.shape[1:])
        kinds = [*ANY, *{3: IMAGE, 2: SEQUENCE, 1: VECTOR}[len(shape)]]
        if self.rng.random() < 0.2:
            made = self._again(x, shape)
            if made is not None:
                return made
        if self.rng.random() < 0.3:
            partners = [t for t in tensors if t.shape == x.shape]
            return self._merged(x, self.pick(partners))
        if self._depth < 2 and self.rng.random() < 0.1:
            return self._nested(shape)(x)
        return kinds[self.rng.integers(len(kinds))](self, x)

    def weighted(self, layer: keras.layers.Layer, x: Any) -> Any:
        """Calls a layer that later steps may call again."""
        self._shared.append((tuple(x.shape[1:]), layer))
        return layer(x)

    def _again(self, x: Any, shape: tuple[int, ...]) -> Any | None:
        fitting = [layer for known, layer in self._shared if known == shape]
        return self.choice(*fitting)(x) if fitting else None

    def _merged(self, x: Any, y: Any) -> Any:
        kind = self.choice(L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average)
        name = self.name(kind.__name__.lower())
        # Keras takes some dense tensors for sparse ones, and then no constant beside them.
        is_dense = not (x.sparse and y.sparse)
        if kind is not L.Subtract and is_dense and self.rng.random() < 0.4:
            constant = self.constant(1, *(self.choice(1, size) for size in x.shape[1:]))
            return kind(name=name)([x, y, constant, *([x] if self.rng.random() < 0.5 else [])])
        if self.rng.random() < 0.3:
            return L.Concatenate(axis=self.choice(-1, 1), name=name)([x, y])
        return kind(name=name)([x, y])

    def _nested(self, shape: tuple[int, ...]) -> keras.Model:
        """Inner layers have the names of outer ones, where names are given."""
        self._depth += 1
        outer, self._shared = self._shared, []
        inputs = keras.Input(shape)
        tensors = [inputs]
        for _ in range(self.rng.integers(1, 4)):
            tensors.append(self.step(tensors[-1], tensors))
        if tensors[-1] is inputs:
            tensors.append(L.ReLU()(inputs))
        self._depth -= 1
        self._shared = outer
        model = keras.Model(inputs, tensors[-1])
        self._shared.append((shape, model))
        return model


def _conv(g: RandomGraph, x: Any) -> Any:
    options = {
        "padding": g.choice("same", "valid"),
        "strides": g.choice(1, 1, 2),
        "use_bias": bool(g.choice(True, False)),
        "activation": g.choice(None, "relu", "relu6", "silu", "tanh", "hard_sigmoid", "sigmoid"),
    }
    size = g.choice(1, 2, 3) if min(x.shape[1:-1]) >= 3 else 1
    two = len(x.shape) == 4
    kind = g.choice(*((L.Conv2D, L.SeparableConv2D) if two else (L.Conv1D, L.SeparableConv1D)))
    if g.rng.random() < 0.3:
        depthwise = L.DepthwiseConv2D if two else L.DepthwiseConv1D
        return g.weighted(depthwise(size, name=g.name("depthwise"), **options), x)
    return g.weighted(kind(g.choice(3, 4), size, name=g.name("conv"), **options), x)


def _dense(g: RandomGraph, x: Any) -> Any:
    activation = g.choice(None, "relu", "leaky_relu", "hard_tanh", "softmax")
    return g.weighted(L.Dense(g.choice(3, 4), activation=activation, name=g.name("dense")), x)


def _pool(g: RandomGraph, x: Any) -> Any:
    two = len(x.shape) == 4
    kinds = (L.MaxPooling2D, L.AveragePooling2D) if two else (L.MaxPooling1D, L.AveragePooling1D)
    if min(x.shape[1:-1]) < 2:
        return L.ReLU()(x)
    return g.choice(*kinds)(2, strides=g.choice(1, 2), padding=g.choice("same", "valid"))(x)


def _global(g: RandomGraph, x: Any) -> Any:
    two = len(x.shape) == 4
    kinds = (
        (L.GlobalMaxPooling2D, L.GlobalAveragePooling2D)
        if two
        else (L.GlobalMaxPooling1D, L.GlobalAveragePooling1D)
    )
    return g.choice(*kinds)(keepdims=bool(g.choice(True, False)))(x)


def _frame(g: RandomGraph, x: Any) -> Any:
    two = len(x.shape) == 4
    if g.rng.random() < 0.5 or min(x.shape[1:-1]) < 3:
        return (L.ZeroPadding2D if two else L.ZeroPadding1D)(1)(x)
    return (L.Cropping2D if two else L.Cropping1D)(1)(x)


def _enlarged(g: RandomGraph, x: Any) -> Any:
    if max(x.shape[1:-1]) > 8:
        return L.Dropout(0.5)(x)
    if len(x.shape) == 3:
        return L.UpSampling1D(2)(x)
    return L.UpSampling2D(2, interpolation=g.choice("nearest", "bilinear"))(x)


def _part(g: RandomGraph, x: Any) -> Any:
    return x[:, : max(x.shape[1] - 1, 1)]


def _with_constant(g: RandomGraph, x: Any) -> Any:
    shape = [g.choice(1, size) for size in x.shape[1:]][g.rng.integers(len(x.shape) - 1) :]
    c = g.constant(*shape)
    return g.choice(
        lambda: x + c,
        lambda: ops.subtract(c, x),
        lambda: ops.multiply(c, x),
        lambda: ops.maximum(x, c),
        lambda: ops.minimum(ops.convert_to_tensor(c), x),
        lambda: x / (np.abs(c) + 0.5),
        lambda: L.Concatenate()([x, ops.ones_like(x)]),
    )()


def _scaled(g: RandomGraph, x: Any) -> Any:
    size = x.shape[-1]
    return g.choice(
        lambda: L.BatchNormalization(name=g.name("norm"))(x),
        lambda: L.Rescaling(g.choice(0.5, list(g.constant(size))), offset=0.3)(x),
        lambda: L.Normalization(mean=g.constant(size), variance=np.abs(g.constant(size)) + 0.2)(x),
        lambda: ops.negative(x),
    )()


def _activated(g: RandomGraph, x: Any) -> Any:
    return g.choice(
        lambda: L.ReLU(max_value=g.choice(None, 6.0, 1.5))(x),
        lambda: L.LeakyReLU(negative_slope=0.2)(x),
        lambda: L.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None)(x),
        lambda: L.Activation(g.choice("tanh", "sigmoid", "silu", "hard_silu"))(x),
        lambda: L.Softmax()(x),
        lambda: ops.clip(x, -0.5, 1.0),
        lambda: ops.square(x * 0.5),
    )()


def _moved(g: RandomGraph, x: Any) -> Any:
    rank = len(x.shape) - 1
    return g.choice(
        lambda: L.Flatten()(x),
        lambda: L.Reshape((-1, x.shape[-1]))(x),
        lambda: L.Permute(tuple(int(a) + 1 for a in g.rng.permutation(rank)))(x),
        lambda: L.Dropout(0.3)(x),
        lambda: ops.split(x, [1], axis=-1)[0] if x.shape[-1] > 1 else x * 2.0,
    )()


ANY: tuple[Step, ...] = (_dense, _with_constant, _with_constant, _scaled, _scaled, _activated)
SPATIAL: tuple[Step, ...] = (_conv, _conv, _conv, _pool, _global, _frame, _enlarged, _part, _moved)
IMAGE, SEQUENCE = SPATIAL, SPATIAL
VECTOR: tuple[Step, ...] = (lambda g, x: L.Reshape((1, -1))(x), _part)
