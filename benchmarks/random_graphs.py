"""Random Keras models of every supported layer, with what goes wrong on real ones.

Shared layers, dead channels, extreme units, odd sample counts, sorted data: a seed says which.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_L = keras.layers


@dataclasses.dataclass(frozen=True)
class RandomCase:
    """A model and its data.

    Attributes:
        samples, test: one array a model input, (N, ...).
        traits: what is odd about it.
    """

    seed: int
    model: keras.Model
    samples: list[np.ndarray]
    test: list[np.ndarray]
    traits: tuple[str, ...]


class Builder:
    """Grows a graph from live tensors; weighted layers may be called again."""

    #: Numbers of tokens, where inputs are some.
    VOCABULARY = 40

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.traits: list[str] = []
        self._shared: dict[tuple[Any, ...], keras.Layer] = {}

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def trait(self, name: str) -> None:
        if name not in self.traits:
            self.traits.append(name)

    def call(self, make: Callable[[], keras.Layer], tensor: Any, key: tuple[Any, ...]) -> Any:
        """A new layer, or one that was called on a tensor of this shape before."""
        key = (*key, tuple(tensor.shape[1:]))
        if key in self._shared and self.chance(0.35):
            self.trait("shared")
            return self._shared[key](tensor)
        self._shared[key] = make()
        return self._shared[key](tensor)

    def image_layer(self, x: Any) -> Any:
        """One layer on (height, width, channels)."""
        height, width, channels = x.shape[1:]
        small = min(height, width)
        filters = int(self.rng.integers(2, 9))
        kernel = (
            int(self.rng.integers(1, min(3, height) + 1)),
            int(self.rng.integers(1, min(3, width) + 1)),
        )
        stride = 2 if small >= 6 and self.chance(0.25) else 1
        dilation = 2 if stride == 1 and small >= 7 and self.chance(0.15) else 1
        padding = self.pick(["same", "valid"])
        windows = {"strides": stride, "padding": padding}
        bias = {"use_bias": self.chance(0.8)}
        kind = self.pick(
            ["conv", "conv", "conv", "depthwise", "depthwise", "separable", "norm", "activation",
             "activation", "pool", "pad", "crop", "up", "permute", "rescale", "ops", "prelu",
             "dense", "reshape"]
        )  # fmt: skip
        if kind == "conv":
            return self.call(
                lambda: _L.Conv2D(filters, kernel, dilation_rate=dilation, **windows, **bias),
                x, ("conv", filters, kernel, stride, dilation, padding),
            )  # fmt: skip
        if kind == "depthwise":
            multiplier = self.pick([1, 1, 2])
            return self.call(
                lambda: _L.DepthwiseConv2D(kernel, depth_multiplier=multiplier, **windows, **bias),
                x, ("depthwise", kernel, stride, padding, multiplier),
            )  # fmt: skip
        if kind == "separable":
            return _L.SeparableConv2D(filters, kernel, **windows, **bias)(x)
        if kind == "norm":
            return _L.BatchNormalization()(x)
        if kind == "pool":
            pool = self.pick([_L.MaxPooling2D, _L.AveragePooling2D])
            return pool(min(2, small), strides=self.pick([1, 2]), padding="same")(x)
        if kind == "pad":
            return _L.ZeroPadding2D(((1, 0), (0, 2)))(x) if max(height, width) < 14 else x
        if kind == "crop":
            return _L.Cropping2D(((0, 1), (1, 0)))(x) if small > 3 else x
        if kind == "up":
            way = self.pick(["nearest", "bilinear"])
            return _L.UpSampling2D(2, interpolation=way)(x) if max(height, width) < 8 else x
        if kind == "permute":
            return _L.Permute(self.pick([(2, 1, 3), (3, 1, 2), (1, 3, 2)]))(x)
        if kind == "rescale":
            return _L.Rescaling(float(self.rng.uniform(0.2, 3)), offset=float(self.rng.normal()))(x)
        if kind == "prelu":
            return _L.PReLU(shared_axes=[1, 2], alpha_initializer="random_normal")(x)
        if kind == "dense":
            return self.call(lambda: _L.Dense(filters, **bias), x, ("dense", filters))
        if kind == "reshape":
            return _L.Reshape((width, height, channels))(x)
        if kind == "ops":
            constant = self.rng.normal(size=channels).astype(np.float32)
            return self.pick(
                [lambda: x * constant, lambda: x + constant, lambda: keras.ops.relu(x),
                 lambda: keras.ops.subtract(constant, x), lambda: x * 0.5]
            )()  # fmt: skip
        return self.activation(x)

    def activation(self, x: Any) -> Any:
        name = self.pick(
            ["relu", "relu", "relu6", "leaky", "silu", "sigmoid", "tanh", "hard_silu",
             "hard_sigmoid", "softmax", "capped"]
        )  # fmt: skip
        if name == "leaky":
            return _L.LeakyReLU(float(self.rng.uniform(0.01, 0.5)))(x)
        if name == "capped":
            return _L.ReLU(max_value=float(self.rng.uniform(0.5, 4)))(x)
        if name == "softmax":
            return _L.Softmax()(x) if self.chance(0.3) else _L.ReLU()(x)
        return _L.Activation(name)(x)

    def sequence_layer(self, x: Any) -> Any:
        length = x.shape[1]
        filters = int(self.rng.integers(2, 9))
        kind = self.pick(
            ["conv", "conv", "depthwise", "dense", "norm", "activation", "pool", "permute", "pad"]
        )
        padding = self.pick(["same", "valid", "causal"]) if kind == "conv" else "same"
        kernel = int(self.rng.integers(1, min(3, length) + 1))
        if kind == "conv":
            return self.call(
                lambda: _L.Conv1D(filters, kernel, padding=padding),
                x,
                ("conv1", filters, kernel, padding),
            )
        if kind == "depthwise":
            return _L.DepthwiseConv1D(kernel, padding="same")(x)
        if kind == "dense":
            return self.call(lambda: _L.Dense(filters), x, ("dense1", filters))
        if kind == "norm":
            return _L.BatchNormalization()(x)
        if kind == "pool":
            return self.pick([_L.MaxPooling1D, _L.AveragePooling1D])(2, padding="same")(x)
        if kind == "permute":
            return _L.Permute((2, 1))(x)
        if kind == "pad":
            return _L.ZeroPadding1D(1)(x)
        return self.activation(x)

    def vector_layer(self, x: Any) -> Any:
        kind = self.pick(["dense", "dense", "norm", "activation", "dropout"])
        units = int(self.rng.integers(2, 12))
        if kind == "dense":
            return self.call(lambda: _L.Dense(units), x, ("dense0", units))
        if kind == "norm":
            return _L.BatchNormalization()(x)
        if kind == "dropout":
            return _L.Dropout(0.3)(x)
        return self.activation(x)

    def layer(self, x: Any) -> Any:
        rank = len(x.shape)
        return (
            self.image_layer(x)
            if rank == 4
            else self.sequence_layer(x)
            if rank == 3
            else self.vector_layer(x)
        )

    def merge(self, x: Any, y: Any) -> Any:
        kind = self.pick(
            [
                _L.Add,
                _L.Add,
                _L.Subtract,
                _L.Multiply,
                _L.Average,
                _L.Maximum,
                _L.Minimum,
                _L.Concatenate,
            ]
        )
        if kind in (_L.Add, _L.Concatenate) and self.chance(0.1):
            return kind()([x, y, x])
        return kind()([x, y])

    def grow(self, live: list[Any], steps: int) -> None:
        for _ in range(steps):
            x = live[-1] if self.chance(0.85) else self.pick(live)
            partners = [y for y in live if y is not x and y.shape == x.shape]
            if partners and self.chance(0.3):
                live.append(self.merge(x, self.pick(partners)))
                continue
            made = self.layer(x)
            if made is not x and 0 < int(np.prod(made.shape[1:])) <= 4096:
                live.append(made)

    def sizes(self, *bounds: tuple[int, int]) -> tuple[int, ...]:
        return tuple(int(self.rng.integers(*each)) for each in bounds)

    def shapes(self) -> tuple[int, ...]:
        """Of the model's inputs."""
        shape = self.pick(
            [self.sizes((5, 12), (5, 12), (1, 5)), self.sizes((6, 20), (2, 6)),
             self.sizes((3, 16))]
        )  # fmt: skip
        if self.chance(0.6):
            shape = self.sizes((5, 12), (5, 12), (1, 5))
        return shape

    def source(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """An input of the model, and the tensor that layers grow from."""
        given = keras.Input(shape)
        return given, given

    def head(self, x: Any) -> Any:
        if len(x.shape) == 4:
            x = self.pick([_L.GlobalAveragePooling2D, _L.GlobalMaxPooling2D, _L.Flatten])()(x)
        elif len(x.shape) == 3:
            x = self.pick([_L.GlobalAveragePooling1D, _L.Flatten])()(x)
        x = _L.Dense(int(self.rng.integers(2, 8)))(x)
        return _L.Softmax()(x) if self.chance(0.4) else x


def random_case(seed: int, builder: type[Builder] = Builder) -> RandomCase:
    """The model and data of a seed, of the layers that a builder knows."""
    keras.utils.set_random_seed(seed)
    build = builder(seed)
    rng = build.rng
    shape = build.shapes()
    sources = [build.source(shape)]
    if build.chance(0.15):
        sources.append(build.source(shape))
        build.trait("two inputs")
    inputs = [given for given, _ in sources]
    units = [1.0] * len(inputs)
    if build.chance(0.2):
        units = [float(10.0 ** rng.uniform(-7, 6)) for _ in inputs]
        build.trait("units " + ", ".join(f"{unit:.0e}" for unit in units))
    live = [made for _, made in sources]
    build.grow(live, int(rng.integers(4, 17)))
    outputs = [build.head(live[-1])] if build.chance(0.7) else [live[-1]]
    if build.chance(0.2) and len(live) > 3:
        outputs.append(build.pick(live[len(inputs) :]))
        build.trait("two outputs")
    used = [x for x in outputs if not any(x is given for given in inputs)] or [build.head(live[-1])]
    model = keras.Model(
        inputs if len(inputs) > 1 else inputs[0], used if len(used) > 1 else used[0]
    )
    count = int(build.pick([7, 33, 64, 100, 130]))
    samples = _samples(build, inputs, units, count, is_sorted=build.chance(0.3))
    test = _samples(build, inputs, units, 32, is_sorted=False)
    _settle(model, samples, build)
    # Of 32 alone, chance moves errors by a tenth.
    more = _samples(build, inputs, units, 224, is_sorted=False)
    test = [np.concatenate(parts) for parts in zip(test, more, strict=True)]
    return RandomCase(seed, model, samples, test, tuple(build.traits))


def _samples(
    build: Builder, inputs: list[Any], units: list[float], count: int, *, is_sorted: bool
) -> list[np.ndarray]:
    """Three kinds of samples of unequal loudness, in order of loudness where they are sorted."""
    kinds = build.rng.integers(0, 3, count)
    if is_sorted:
        build.trait("sorted")
        kinds = np.sort(kinds)
    loud = np.array([0.4, 1.0, 1.6])[kinds]

    def drawn(given: Any, unit: float) -> np.ndarray:
        shape = tuple(given.shape[1:])
        if given.dtype == "int32":
            return build.rng.integers(0, build.VOCABULARY, (count, *shape)).astype(np.int32)
        factors = loud.reshape(-1, *(1,) * len(shape))
        return (build.rng.normal(size=(count, *shape)) * factors * unit).astype(np.float32)

    return [drawn(*each) for each in zip(inputs, units, strict=True)]


def _settle(model: keras.Model, samples: list[np.ndarray], build: Builder) -> None:
    """Statistics of batch normalization as training leaves them, some channels dead."""
    norms = [layer for layer in model.layers if isinstance(layer, _L.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.0
    for _ in norms:
        model(samples if len(samples) > 1 else samples[0], training=True)
    for layer in norms:
        size = int(layer.gamma.shape[0])
        gamma, beta = build.rng.uniform(0.5, 1.5, size), build.rng.normal(0, 0.4, size)
        if build.chance(0.3):
            gamma[build.rng.integers(size)] = 10.0 ** build.rng.uniform(-9, -5)
            build.trait("dead channel")
        layer.gamma.assign(gamma)
        layer.beta.assign(beta)
    for layer in model.layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(build.rng.normal(0, 0.2, layer.bias.shape))
