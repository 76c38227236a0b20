"""Train a digit classifier and get its 4-bit file from the same `fit`, with a callback.

python examples/quantize_while_training.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfeptq


def classifier() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def main(*, output: Path, epochs: int, steps: int) -> dict[str, list[float]]:
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    x, test_x, y, test_y = train_test_split(images, labels, test_size=0.3, random_state=0)

    callback = tfeptq.QuantizationCallback(
        x,
        tfeptq.QuantizationConfig(weight_bits=4, steps=steps, samples=512),
        export_path=output,
        validation_data=(test_x, test_y),
    )
    model = classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(
        x, y, validation_data=(test_x, test_y), epochs=epochs, verbose=2, callbacks=[callback]
    ).history
    print(f"float:     {history['val_accuracy'][-1]:.1%}")
    print(f"quantized: {history['quantized_accuracy'][-1]:.1%}")
    print(f"{output}: {output.stat().st_size} bytes")
    return history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    main(**vars(parser.parse_args()))
