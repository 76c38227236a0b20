"""Augmentation by options of the command line: what suits images and spectrograms alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from tfeptq.cli.request import Request
from tfeptq.cli.values import one_of
from tfeptq.settings import real

if TYPE_CHECKING:
    import keras

_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
_GROUP = Group(
    "Copies", help="Random copies fill the calibration data up to --samples.", sort_key=4
)

RandomFlip = Annotated[
    str | None, one_of(_FLIPS, "Copies are flipped, or not, at random:", group=_GROUP)
]
RandomTranslation = Annotated[
    tuple[float, float] | None,
    Parameter(
        group=_GROUP,
        metavar="H W",
        help="Copies are moved by up to these parts of height and width: 0.125 0.125.",
    ),
]


def check_augmentation(
    file: Path | None, flip: str | None, translation: tuple[float, float] | None
) -> None:
    """Raises ValueError for options that contradict each other, or are no parts of a size."""
    if file is not None and (flip or translation is not None):
        raise ValueError(
            "--augmentation is a whole layer: leave out --random-flip and --random-translation"
        )
    for part in translation or ():
        if real("--random-translation", part, may_be_zero=True) > 1.0:
            raise ValueError(f"--random-translation: {part:g} is not a part of the size, 0 to 1")


def augmentation(
    model: keras.Model,
    asked: Request,
    flip: str | None,
    translation: tuple[float, float] | None,
) -> keras.Layer | None:
    """The layer that a request and the options ask for, or None.

    Raises:
        ValueError: it would take samples without height, width and channels for something else.
    """
    if asked.augmentation is not None:
        from tfeptq.loading import load_model

        return load_model(asked.augmentation)
    if not flip and translation is None:
        return None
    from tfeptq.preparation import as_functional

    shape = as_functional(model, asked.config.input_shape).inputs[0].shape
    if len(shape) != 4:
        raise ValueError(
            f"--random-flip, --random-translation: samples have shape {tuple(shape[1:])}; "
            "(height, width, channels) is needed"
        )
    import keras

    layers: list[keras.Layer] = []
    if flip:
        layers.append(keras.layers.RandomFlip(flip))
    if translation is not None:
        # Values in between those of neighbours are none that samples have.
        layers.append(keras.layers.RandomTranslation(*translation, interpolation="nearest"))
    return keras.Sequential(layers)
