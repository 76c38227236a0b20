"""scikit-learn's handwritten digits on cluttered canvases, with what there is to find on them."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.ndimage import zoom
from sklearn.datasets import load_digits

CLASSES = 10
#: A pixel is of a digit where it is at least so bright.
INK = 0.35


@dataclasses.dataclass(frozen=True)
class Canvases:
    """Pictures and their labels.

    Attributes:
        images: float32 (N, side, side, 1) from 0 to 1.
        classes: int32 (N, side, side): 0 is the background, 1 + d the digit d.
        boxes: a picture's digits, float32 (n, 5) each: left, top, right, bottom in pixels, digit.
    """

    images: np.ndarray
    classes: np.ndarray
    boxes: list[np.ndarray]

    def __getitem__(self, chosen: slice) -> Canvases:
        return Canvases(self.images[chosen], self.classes[chosen], self.boxes[chosen])


def canvases(
    count: int, *, side: int, zooms: tuple[float, ...], digits: int = 3, seed: int = 0
) -> Canvases:
    """Draws up to `digits` digits, each as large as one of `zooms` times 8 pixels, beside clutter.

    Digits of different seeds may be the same handwriting, never on the same canvas.
    """
    generator = np.random.default_rng(seed)
    drawn, labels = load_digits(return_X_y=True)
    images = generator.uniform(0.0, 0.25, (count, side, side)).astype("float32")
    classes = np.zeros((count, side, side), np.int32)
    boxes = []
    for image, found in zip(images, classes, strict=True):
        _scribble(image, generator)
        boxes.append(_placed(image, found, drawn, labels, zooms, digits, generator))
    return Canvases(images[..., None].clip(0.0, 1.0), classes, boxes)


def _scribble(image: np.ndarray, generator: np.random.Generator) -> None:
    """Short strokes, as bright as digits."""
    side = len(image)
    for _ in range(6):
        start, direction = generator.uniform(0, side, 2), generator.normal(size=2)
        steps = np.linspace(0, generator.uniform(3, 8), 20)[:, None]
        points = start + steps * direction / (np.linalg.norm(direction) + 1e-6)
        rows, columns = np.clip(points.astype(int), 0, side - 1).T
        image[rows, columns] = generator.uniform(0.5, 1.0)


def _placed(
    image: np.ndarray,
    classes: np.ndarray,
    drawn: np.ndarray,
    labels: np.ndarray,
    zooms: tuple[float, ...],
    digits: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Puts digits where there are none yet."""
    boxes: list[tuple[float, ...]] = []
    for _ in range(digits):
        index = int(generator.integers(len(drawn)))
        digit = zoom(drawn[index].reshape(8, 8) / 16.0, generator.choice(zooms), order=1)
        size, digit_class = len(digit), int(labels[index])
        top, left = generator.integers(0, len(image) - size + 1, 2)
        place = slice(top, top + size), slice(left, left + size)
        if classes[place].any():
            continue
        ink = digit >= INK
        image[place] = np.maximum(image[place], digit)
        classes[place][ink] = 1 + digit_class
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        corner = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        boxes.append((*map(float, corner), float(digit_class)))
    return np.array(boxes, np.float32).reshape(-1, 5)
