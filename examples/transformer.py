"""A small transformer that reads digits row by row, fully in integers.

python examples/transformer.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import digits
import keras
import numpy as np

import tfeptq
import tflite_export

ROWS, WIDTH = 8, 32


def transformer(blocks: int = 2) -> keras.Model:
    layers = keras.layers
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    rows = layers.Reshape((ROWS, 8))(layers.Rescaling(1 / 16)(image))
    x = layers.Dense(WIDTH, name="embedding")(rows)
    places = np.arange(ROWS)[None]
    x = x + layers.Embedding(ROWS, WIDTH, name="places")(places)
    for block in range(blocks):
        y = layers.LayerNormalization(name=f"norm_{block}a")(x)
        x = x + layers.MultiHeadAttention(2, WIDTH // 2, name=f"attention_{block}")(y, y)
        y = layers.LayerNormalization(name=f"norm_{block}b")(x)
        y = layers.Dense(2 * WIDTH, activation="gelu", name=f"wide_{block}")(y)
        x = x + layers.Dense(WIDTH, name=f"narrow_{block}")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="norm")(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x))


def main(*, output: Path, blocks: int, epochs: int, samples: int) -> None:
    x, test_x, _, test_y = digits.data()
    model = digits.trained(transformer(blocks), epochs=epochs)
    for bits, rounding in ((8, "nearest"), (4, "optq")):
        config = tfeptq.QuantizationConfig(
            weight_bits=bits, rounding=rounding, target="android", samples=samples
        )
        result = tflite_export.export(tfeptq.quantize(model, x, config), output)
        found = digits.accuracy(tflite_export.run(output, test_x), test_y)
        print(f"{bits} bits, {rounding}: {found:.1%}, {result.size_bytes} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--samples", type=int, default=512)
    main(**vars(parser.parse_args()))
