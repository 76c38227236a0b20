"""Find the pixels of digits on cluttered canvases: a U-Net, quantized in several ways.

python examples/segment_digits.py

Trains a U-Net (transposed convolutions, skip connections, a class for every pixel) in a minute and
prints the mean intersection over union of every file, as LiteRT computes it.
"""

from __future__ import annotations

import argparse
from typing import Any

import keras
import numpy as np
from canvases import CLASSES, Canvases, canvases
from keras import layers
from recipes import Row, Run, compare, show

SIDE = 32


def unet(width: int, depth: int = 2) -> keras.Model:
    """Three levels of `depth` convolutions; every level up reads the same level down as well."""
    image = keras.Input((SIDE, SIDE, 1), name="image")
    top = _block(image, width, depth)
    middle = _block(layers.MaxPooling2D()(top), 2 * width, depth)
    bottom = _block(layers.MaxPooling2D()(middle), 4 * width, depth)
    x = layers.Conv2DTranspose(2 * width, 3, strides=2, padding="same")(bottom)
    x = _block(layers.Concatenate()([x, middle]), 2 * width, depth)
    x = layers.Conv2DTranspose(width, 3, strides=2, padding="same")(x)
    x = _block(layers.Concatenate()([x, top]), width, depth)
    pixels = layers.Conv2D(1 + CLASSES, 1, activation="softmax", name="pixels")(x)
    return keras.Model(image, pixels, name="unet")


def _block(x: Any, width: int, depth: int) -> Any:
    for _ in range(depth):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    return x


def mean_iou(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean over classes of intersection over union, of class numbers of pixels."""
    ratios = []
    for each in range(1 + CLASSES):
        left, right = found == each, wanted == each
        if right.any():
            ratios.append(np.sum(left & right) / np.sum(left | right))
    return float(np.mean(ratios))


def main(
    *, width: int, depth: int, canvas_count: int, epochs: int, steps: int, samples: int
) -> list[Row]:
    keras.utils.set_random_seed(0)
    train = canvases(canvas_count, side=SIDE, zooms=(1.25, 1.5), seed=1)
    test = canvases(max(canvas_count // 10, 8), side=SIDE, zooms=(1.25, 1.5), seed=2)
    model = unet(width, depth)
    model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy")
    model.fit(train.images, train.classes, batch_size=32, epochs=epochs, verbose=0)
    return show("mIoU, percent", compare(model, train.images[:samples], _score(test), steps=steps))


def _score(test: Canvases) -> Any:
    def score(run: Run) -> float:
        (found,) = run(test.images)
        return mean_iou(found.argmax(axis=-1), test.classes)

    return score


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--depth", type=int, default=2, help="convolutions of a block")
    parser.add_argument("--canvas-count", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of EPTQ")
    parser.add_argument("--samples", type=int, default=256, help="to calibrate with")
    main(**vars(parser.parse_args()))
