"""Augmentation by options of the command line: what suits images and spectrograms alike."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")


def add_augmentation(parser: argparse.ArgumentParser) -> None:
    """Options that `augmentation` reads."""
    group = parser.add_argument_group(
        "augmentation", "random copies fill the calibration data up to --samples"
    )
    group.add_argument("--random-flip", choices=_FLIPS)
    group.add_argument(
        "--random-translation",
        type=_fraction,
        nargs=2,
        metavar=("H", "W"),
        help="move by up to these parts of height and width, for example 0.125 0.125",
    )


def augmentation(options: argparse.Namespace, samples: np.ndarray) -> keras.Layer | None:
    """The layer that the options ask for, or None.

    Raises:
        ValueError: it would take samples without height, width and channels for something else.
    """
    if not options.random_flip and options.random_translation is None:
        return None
    if samples.ndim != 4:
        raise ValueError(
            f"--random-flip, --random-translation: samples have shape {samples.shape[1:]}; "
            "(height, width, channels) is needed"
        )
    import keras

    layers: list[keras.Layer] = []
    if options.random_flip:
        layers.append(keras.layers.RandomFlip(options.random_flip))
    if options.random_translation:
        # Values in between those of neighbours are none that samples have.
        layers.append(
            keras.layers.RandomTranslation(*options.random_translation, interpolation="nearest")
        )
    return keras.Sequential(layers)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a part of the size, 0 to 1")
    return value
