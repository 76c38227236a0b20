"""Random small models of all supported layers: several inputs and outputs, shared layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L

#: Of images; height, width, channels and the number of samples are all different.
IMAGE, SEQUENCE, ROW = (7, 6, 3), (8, 5), (11,)
#: No tensor has more values in a sample.
LARGEST = 600

Shape = tuple[int, ...]
#: Draws a layer that takes tensors of a shape.
Layers = Callable[[np.random.Generator, Shape], keras.Layer]


def _convolution(kind: Any) -> Layers:
    def make(draw: np.random.Generator, shape: Shape) -> keras.Layer:
        size = [int(draw.integers(1, min(3, extent) + 1)) for extent in shape[:-1]]
        options: dict[str, Any] = {"padding": str(draw.choice(["same", "valid"]))}
        if draw.random() < 0.3:
            options["strides"] = 2
        elif kind in (L.Conv1DTranspose, L.Conv2DTranspose):
            # An even window with "same" leaves a size that the kernel cannot have.
            is_same = options["padding"] == "same" and any(extent % 2 == 0 for extent in size)
            options["output_padding"] = [None, None if is_same else 0][int(draw.integers(2))]
        elif draw.random() < 0.3 and options["padding"] == "same":
            options["dilation_rate"] = 2
        if kind in (L.DepthwiseConv1D, L.DepthwiseConv2D):
            return kind(size, depth_multiplier=int(draw.integers(1, 3)), **options)
        return kind(int(draw.integers(2, 6)), size, **options)

    return make


def _dense(draw: np.random.Generator, shape: Shape) -> keras.Layer:
    return L.Dense(
        int(draw.integers(2, 8)), activation=str(draw.choice(["relu", "linear", "linear", "tanh"]))
    )


def _prelu(draw: np.random.Generator, shape: Shape) -> keras.Layer:
    slopes = keras.initializers.RandomUniform(0.1, 0.4)
    return L.PReLU(alpha_initializer=slopes, shared_axes=list(range(1, len(shape))) or None)


def _permute(draw: np.random.Generator, shape: Shape) -> keras.Layer:
    return L.Permute([int(axis) + 1 for axis in draw.permutation(len(shape))])


def _reshape(draw: np.random.Generator, shape: Shape) -> keras.Layer:
    if len(shape) == 1:
        divisors = [size for size in range(1, shape[0] + 1) if shape[0] % size == 0]
        return L.Reshape((int(draw.choice(divisors)), -1))
    if len(shape) == 2:
        return L.Reshape((*shape, 1) if draw.random() < 0.5 else (-1,))
    joined = [(shape[0] * shape[1], shape[2]), (shape[0], shape[1] * shape[2])]
    return L.Reshape(joined[int(draw.integers(2))])


def _normalization(draw: np.random.Generator, shape: Shape) -> keras.Layer:
    near_one = keras.initializers.RandomUniform(0.5, 1.5)
    return L.BatchNormalization(
        gamma_initializer=near_one,
        moving_variance_initializer=near_one,
        moving_mean_initializer="random_normal",
        beta_initializer="random_normal",
    )


def _fixed(*layers: Callable[[], keras.Layer]) -> Layers:
    return lambda draw, shape: layers[int(draw.integers(len(layers)))]()


_ACTIVATIONS = _fixed(
    L.ReLU,
    lambda: L.ReLU(6.0),
    lambda: L.ReLU(1.5),
    lambda: L.LeakyReLU(0.2),
    L.Softmax,
    *(
        lambda name=name: L.Activation(name)
        for name in ("sigmoid", "tanh", "silu", "hard_silu", "hard_sigmoid", "elu")
    ),
)
_ALWAYS: tuple[Layers, ...] = (_dense, _dense, _permute, _reshape, _ACTIVATIONS, _prelu)
_BY_RANK: dict[int, tuple[Layers, ...]] = {
    1: (),
    2: (
        _convolution(L.Conv1D),
        _convolution(L.SeparableConv1D),
        _convolution(L.DepthwiseConv1D),
        _convolution(L.Conv1DTranspose),
        _normalization,
        _fixed(L.Flatten, L.GlobalAveragePooling1D, L.GlobalMaxPooling1D),
        _fixed(lambda: L.ZeroPadding1D(1), lambda: L.Cropping1D((1, 0))),
        _fixed(lambda: L.MaxPooling1D(2), lambda: L.AveragePooling1D(2, 1)),
    ),
    3: (
        _convolution(L.Conv2D),
        _convolution(L.Conv2D),
        _convolution(L.DepthwiseConv2D),
        _convolution(L.Conv2DTranspose),
        _convolution(L.SeparableConv2D),
        _normalization,
        _fixed(
            L.Flatten,
            L.GlobalAveragePooling2D,
            lambda: L.GlobalAveragePooling2D(keepdims=True),
            L.GlobalMaxPooling2D,
        ),
        _fixed(lambda: L.ZeroPadding2D(((1, 0), (0, 2))), lambda: L.Cropping2D(((0, 1), (1, 0)))),
        _fixed(lambda: L.MaxPooling2D(2), lambda: L.AveragePooling2D((2, 1), 1, "same")),
        _fixed(lambda: L.UpSampling2D((1, 2)), lambda: L.UpSampling2D(2, interpolation="bilinear")),
    ),
}
_MERGES = (L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average, L.Concatenate)


def random_model(seed: int, steps: int = 12) -> keras.Model:
    """A model of about `steps` layers, with one to three inputs and one to four outputs."""
    keras.utils.set_random_seed(seed)
    draw = np.random.default_rng(seed)
    shapes = [IMAGE, IMAGE, IMAGE, SEQUENCE, ROW]
    inputs = [
        keras.Input(shapes[int(draw.integers(len(shapes)))], name=name)
        for name in "abc"[: int(draw.integers(1, 4))]
    ]
    tensors, made = list(inputs), {}
    unread = dict.fromkeys(range(len(inputs)))
    for _ in range(steps):
        # Mostly the newest tensors that nothing reads yet: deep rather than wide.
        first = list(unread)[-1] if draw.random() < 0.7 else int(draw.integers(len(tensors)))
        partners = [
            index
            for index, tensor in enumerate(tensors)
            if tensor.shape == tensors[first].shape and index != first
        ]
        if partners and draw.random() < 0.4:
            second = partners[int(draw.integers(len(partners)))]
            sources = [first, second]
            output = _MERGES[int(draw.integers(len(_MERGES)))]()([tensors[i] for i in sources])
        else:
            sources, output = [first], _applied(draw, tensors[first], made)
        if output is None:
            continue
        for index in sources:
            unread.pop(index, None)
        unread[len(tensors)] = None
        tensors.append(output)
    return keras.Model(inputs, [_head(tensors[index]) for index in list(unread)[-4:]])


def _applied(draw: np.random.Generator, tensor: Any, made: dict[keras.Layer, Shape]) -> Any:
    """A layer's output, of one called before if there is one that fits; None: too large."""
    shape = tuple(tensor.shape[1:])
    again = [layer for layer, known in made.items() if _is_like(known, shape)]
    if again and draw.random() < 0.4:
        layer = again[int(draw.integers(len(again)))]
    else:
        kinds = (*_ALWAYS, *_BY_RANK[len(shape)])
        layer = kinds[int(draw.integers(len(kinds)))](draw, shape)
    try:
        output = layer.compute_output_shape(tensor.shape)[1:]
    except ValueError:
        return None
    if not 0 < np.prod(output) <= LARGEST:
        return None
    made.setdefault(layer, shape)
    result = layer(tensor)
    # What is most often behind weights where channels do not come last.
    is_moved = isinstance(layer, (L.Dense, L.Conv1D, L.Conv2D)) and draw.random() < 0.4
    return _permute(draw, tuple(output))(result) if is_moved else result


def _is_like(known: Shape, shape: Shape) -> bool:
    """Whether a layer that was built for `known` can take `shape`: weights fit the channels."""
    return len(known) == len(shape) and known[-1] == shape[-1]


def _head(tensor: Any) -> Any:
    """Few logits, or what there is where that is little."""
    flat = L.Flatten()(tensor) if len(tensor.shape) > 2 else tensor
    return flat if flat.shape[-1] <= 6 else L.Dense(3)(flat)


def samples(model: keras.Model, count: int, seed: int = 1) -> list[np.ndarray]:
    """One array a model input, float32 (count, ...)."""
    generator = np.random.default_rng(seed)
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    return [generator.normal(size=(count, *shape)).astype("float32") for shape in shapes]
