"""Random models of the layers that transformers, decoders, recurrent and dense models are made of.

They grow as those of `benchmarks.random_graphs` do, and half of their layers are of those. Seeds
from `FIRST_SEED` on mean these models, so that smaller seeds keep theirs.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from benchmarks.random_graphs import Builder, RandomCase, random_case

FIRST_SEED = 300
_L = keras.layers
_ops = keras.ops
#: Of one number: tables or operators of their own.
_FUNCTIONS = (
    "celu",
    "elu",
    "gelu",
    "hard_silu",
    "log_sigmoid",
    "mish",
    "selu",
    "silu",
    "softplus",
    "softsign",
    "squareplus",
)


class FamilyBuilder(Builder):
    """Adds layers beside those of image classifiers."""

    def image_layer(self, x: Any) -> Any:
        if self.chance(0.5):
            return super().image_layer(x)
        height, width, channels = x.shape[1:]
        small, large = min(height, width), max(height, width)
        kind = self.pick(
            ["transpose", "resize", "norm", "function", "slice", "gate", "mirror", "excite",
             "positions", "power"]
        )  # fmt: skip
        self.trait(kind)
        if kind == "transpose" and large < 9:
            filters, stride = int(self.rng.integers(2, 7)), self.pick([1, 2])
            kernel = self.pick([1, 2, 3])
            padding = self.pick(["same", "valid"])
            return _L.Conv2DTranspose(filters, kernel, strides=stride, padding=padding)(x)
        if kind == "resize":
            size = int(self.rng.integers(2, 11)), int(self.rng.integers(2, 11))
            return _L.Resizing(*size, interpolation=self.pick(["nearest", "bilinear"]))(x)
        if kind == "slice" and small > 2:
            return self.pick([lambda: x[:, 1:], lambda: x[:, :, :-1], lambda: x[:, ::2, ::2]])()
        if kind == "mirror" and small > 2:
            return _ops.pad(x, [[0, 0], [1, 1], [0, 1], [0, 0]], mode="reflect")
        if kind == "excite":
            means = _ops.mean(x, axis=(1, 2), keepdims=True)
            return x * _L.Dense(channels, activation="sigmoid")(means)
        if kind == "positions":
            return _L.Reshape((height * width, channels))(x)
        return self.any_layer(x, kind)

    def sequence_layer(self, x: Any) -> Any:
        if self.chance(0.4):
            return super().sequence_layer(x)
        length, channels = x.shape[1:]
        kind = self.pick(
            ["heads", "heads", "attention", "product", "norm", "function", "recurrent",
             "recurrent", "slice", "gate", "power"]
        )  # fmt: skip
        self.trait(kind)
        if kind == "heads":
            heads, size = self.pick([1, 2]), int(self.rng.integers(2, 5))
            return x + _L.MultiHeadAttention(heads, size)(x, x)
        if kind == "attention":
            return _L.Attention(use_scale=self.chance(0.5))([x, x])
        if kind == "product" and length <= 32:
            products = _ops.matmul(x, _ops.transpose(x, (0, 2, 1))) / float(np.sqrt(channels))
            return products if self.chance(0.3) else _ops.matmul(_ops.softmax(products), x)
        if kind == "recurrent" and length <= 12:
            layer = self.pick([_L.LSTM, _L.GRU, _L.SimpleRNN])
            units = int(self.rng.integers(2, 6))
            # Loops end the process of the converter that is the witness.
            made = layer(units, return_sequences=True, unroll=True)
            return _L.Bidirectional(made)(x) if self.chance(0.2) else made(x)
        if kind == "slice" and length > 2:
            return self.pick([lambda: x[:, 1:], lambda: x[:, ::-1], lambda: x[:, -2:]])()
        return self.any_layer(x, kind)

    def vector_layer(self, x: Any) -> Any:
        if self.chance(0.5):
            return super().vector_layer(x)
        return self.any_layer(x, self.pick(["norm", "function", "gate", "power"]))

    def any_layer(self, x: Any, kind: str) -> Any:
        """One layer on the last axis, or on each number by itself."""
        channels = x.shape[-1]
        if kind == "norm" and channels > 1:
            return self.pick([_L.LayerNormalization, _L.LayerNormalization, _unit])()(x)
        if kind == "gate" and channels > 1 and channels % 2 == 0:
            left, right = _ops.split(x, 2, axis=-1)
            gated = left * _ops.sigmoid(right)
            return gated if self.chance(0.6) else _ops.concatenate([right, gated], axis=-1)
        if kind == "power":
            return self.pick(
                [lambda: _ops.square(x), lambda: _ops.abs(x), lambda: _ops.exp(-_ops.abs(x)),
                 lambda: _ops.sqrt(_ops.relu(x) + 0.1), lambda: _ops.log(_ops.abs(x) + 1.0),
                 lambda: _ops.erf(x), lambda: x / (1.0 + _ops.abs(x)), lambda: _ops.clip(x, -1, 2)]
            )()  # fmt: skip
        return _L.Activation(self.pick(_FUNCTIONS))(x)

    def source(self, shape: tuple[int, ...]) -> tuple[Any, Any]:
        if len(shape) == 2 and self.chance(0.4):
            self.trait("tokens")
            tokens = keras.Input((min(shape[0], 12),), dtype="int32")
            return tokens, _L.Embedding(self.VOCABULARY, 2 * shape[1])(tokens)
        return super().source(shape)

    def shapes(self) -> tuple[int, ...]:
        """Sequences are short, for recurrent layers are unrolled, and frequent."""
        shape = super().shapes()
        if self.chance(0.5):
            return self.sizes((4, 13), (2, 7))
        return shape


def _unit() -> keras.Layer:
    return _L.UnitNormalization()


def case_of(seed: int) -> RandomCase:
    """The model of a seed of either kind."""
    return random_case(seed, FamilyBuilder if seed >= FIRST_SEED else Builder)
