"""Layers of your own: most are read as they are, the others say what they compute.

python examples/custom_layer.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import digits
import keras
from keras import ops

import tfeptq
import tflite_export


class Gate(keras.layers.Layer):
    """Channels weighted by their means; its `call` is read by itself."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(16, activation="sigmoid")

    def call(self, x: Any) -> Any:
        return x * self.dense(ops.mean(x, axis=(1, 2), keepdims=True))


class Folded(keras.layers.Layer):
    """Adds an image's mirror image, sample by sample in a loop, which nobody can read."""

    def call(self, x: Any) -> Any:
        return ops.vectorized_map(lambda image: image + image[:, ::-1], x)


@tfeptq.register_layer(Folded)
def folded(layer: Folded, x: Any) -> Any:
    """The same for all samples at once."""
    return x + ops.flip(x, axis=2)


def main(*, output: Path, epochs: int) -> None:
    x, test_x, _, test_y = digits.data()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            Gate(),
            Folded(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    digits.trained(model, epochs=epochs)
    config = tfeptq.QuantizationConfig(weight_bits=4, rounding="optq", target="android")
    result = tflite_export.export(tfeptq.quantize(model, x, config), output)
    found = digits.accuracy(tflite_export.run(output, test_x), test_y)
    print(f"file: {found:.1%}, {result.size_bytes} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
