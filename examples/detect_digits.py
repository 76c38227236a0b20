"""Locate and read digits on cluttered canvases: a two-scale detector, quantized in several ways.

python examples/detect_digits.py

The model gives, for every cell of two grids, a box in pixels and ten probabilities, joined in one
output as many exports have it. In one integer tensor they would share one scale, which leaves the
probabilities a few codes; so the files end at the heads (`outputs=`), and what decodes boxes stays
outside. Prints the mean average precision at an overlap of one half.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from canvases import CLASSES, Canvases, canvases
from keras import layers, ops
from recipes import RECIPES, Row, Run, compare, show

SIDE = 48
#: Pixels of a cell, and the largest digit that its grid is for.
GRIDS = {"fine": (4, 12.0), "coarse": (8, 48.0)}
HEADS = tuple(f"{grid}_{kind}" for grid in GRIDS for kind in ("boxes", "logits"))


def detector(width: int) -> keras.Model:
    """Features of two scales, and on each of them boxes in pixels beside logits of classes."""
    image = keras.Input((SIDE, SIDE, 1), name="image")
    x = _block(_block(image, width, strides=2), 2 * width)
    fine = _block(_block(x, 3 * width, strides=2), 3 * width)
    coarse = _block(_block(fine, 4 * width, strides=2), 4 * width)
    above = layers.UpSampling2D(interpolation="bilinear")(coarse)
    fine = _block(layers.Concatenate()([above, fine]), 3 * width)
    joined = []
    for (grid, (cell, _)), features in zip(GRIDS.items(), (fine, coarse), strict=True):
        features = _block(features, 3 * width)
        boxes = layers.Conv2D(4, 1, name=f"{grid}_boxes", bias_initializer=_initial(cell))(features)
        logits = layers.Conv2D(
            CLASSES, 1, name=f"{grid}_logits", bias_initializer=keras.initializers.Constant(-3.0)
        )(features)
        both = layers.Concatenate()([boxes, layers.Activation("sigmoid")(logits)])
        joined.append(layers.Reshape((-1, 4 + CLASSES))(both))
    return keras.Model(image, layers.Concatenate(axis=1, name="detections")(joined))


def _block(x: Any, width: int, strides: int = 1) -> Any:
    x = layers.Conv2D(width, 3, strides=strides, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _initial(cell: int) -> Any:
    """Sizes start at those of two cells, offsets at the centre."""
    return lambda shape, dtype: ops.convert_to_tensor([0.0, 0.0, 2.0 * cell, 2.0 * cell], dtype)


def centres() -> np.ndarray:
    """Middle of every cell of both grids, (cells, 2) as (x, y) in pixels."""
    grids = []
    for cell, _ in GRIDS.values():
        middle = (np.arange(SIDE // cell) + 0.5) * cell
        grids.append(np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2))
    return np.concatenate(grids).astype("float32")


def targets(data: Canvases) -> np.ndarray:
    """What the model should give: (N, cells, 4 + classes), where cells without a digit have no box.

    A digit belongs to the cell that holds its centre, in the grid for its size.
    """
    result = np.zeros((len(data.images), len(centres()), 4 + CLASSES), np.float32)
    for wanted, boxes in zip(result, data.boxes, strict=True):
        for left, top, right, bottom, digit in boxes:
            x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            start = 0
            for cell, largest in GRIDS.values():
                cells = SIDE // cell
                if max(width, height) <= largest:
                    break
                start += cells * cells
            index = start + int(y // cell) * cells + int(x // cell)
            wanted[index, :4] = (*((x, y) - centres()[index]), width, height)
            wanted[index, 4 + int(digit)] = 1.0
    return result


def loss(wanted: Any, found: Any) -> Any:
    """Absolute errors of the boxes that there are, in cells, and a focal loss of the classes."""
    has_digit = ops.max(wanted[..., 4:], axis=-1)
    boxes = ops.sum(ops.abs(wanted[..., :4] - found[..., :4]), axis=-1) * has_digit / 8.0
    p = ops.clip(found[..., 4:], 1e-6, 1.0 - 1e-6)
    hits = -wanted[..., 4:] * ops.square(1.0 - p) * ops.log(p)
    misses = -(1.0 - wanted[..., 4:]) * ops.square(p) * ops.log(1.0 - p)
    return ops.sum(boxes + ops.sum(4.0 * hits + misses, axis=-1), axis=-1) / 3.0


def detections(heads: list[np.ndarray], *, least: float = 0.05) -> list[np.ndarray]:
    """Decodes the four heads: per picture (n, 6) of left, top, right, bottom, digit, score."""
    count = len(heads[0])
    boxes = np.concatenate([part.reshape(count, -1, 4) for part in heads[0::2]], axis=1)
    logits = np.concatenate([part.reshape(count, -1, CLASSES) for part in heads[1::2]], axis=1)
    scores = 1.0 / (1.0 + np.exp(-logits))
    middle, half = boxes[..., :2] + centres(), boxes[..., 2:] / 2
    corners = np.concatenate([middle - half, middle + half], axis=-1)
    result = []
    for places, chances in zip(corners, scores, strict=True):
        cells, digits = np.nonzero(chances > least)
        rows = np.column_stack([places[cells], digits, chances[cells, digits]])
        result.append(_without_repeats(rows[np.argsort(-rows[:, 5])]))
    return result


def _without_repeats(rows: np.ndarray) -> np.ndarray:
    """The best of boxes of one digit that overlap by more than half."""
    kept: list[np.ndarray] = []
    for row in rows:
        if not any(row[4] == other[4] and overlap(row, other) > 0.5 for other in kept):
            kept.append(row)
    return np.array(kept).reshape(-1, 6)


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(left[2:4], right[2:4]) - np.maximum(left[:2], right[:2])
    shared = float(np.prod(np.maximum(sides, 0.0)))
    areas = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (left, right))
    return shared / max(areas - shared, 1e-9)


def mean_average_precision(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Mean over digits of the area under precision against recall, at an overlap of one half."""
    values = []
    for digit in range(CLASSES):
        truth = [boxes[boxes[:, 4] == digit] for boxes in wanted]
        total = sum(map(len, truth))
        if not total:
            continue
        rows = [(row[5], i, row) for i, each in enumerate(found) for row in each if row[4] == digit]
        taken = [np.zeros(len(boxes), bool) for boxes in truth]
        hits = [
            _hit(row, truth[i], taken[i]) for _, i, row in sorted(rows, key=lambda row: -row[0])
        ]
        right = np.cumsum(hits)
        precision = right / np.arange(1, len(hits) + 1)
        # The best precision at this recall or a higher one.
        best = np.maximum.accumulate(precision[::-1])[::-1]
        values.append(float(np.sum(best * np.array(hits))) / total)
    return float(np.mean(values))


def _hit(row: np.ndarray, truth: np.ndarray, taken: np.ndarray) -> bool:
    """Whether a detection is of a digit that no better one has found; takes it."""
    overlaps = [0.0 if used else overlap(row, box) for box, used in zip(truth, taken, strict=True)]
    index = int(np.argmax(overlaps)) if overlaps else -1
    if index < 0 or overlaps[index] < 0.5:
        return False
    taken[index] = True
    return True


def main(
    *, width: int, canvas_count: int, epochs: int, steps: int, samples: int, only: Sequence[str]
) -> list[Row]:
    keras.utils.set_random_seed(0)
    zooms = (1.0, 1.25, 2.0, 2.5)
    train = canvases(canvas_count, side=SIDE, zooms=zooms, digits=4, seed=1)
    test = canvases(max(canvas_count // 10, 8), side=SIDE, zooms=zooms, digits=4, seed=2)
    model = detector(width)
    model.compile(keras.optimizers.Adam(3e-3), loss)
    model.fit(train.images, targets(train), batch_size=32, epochs=epochs, verbose=0)

    def score(run: Run) -> float:
        return mean_average_precision(detections(run(test.images)), test.boxes)

    calibration = train.images[:samples]
    rows = compare(model, calibration, score, steps=steps, outputs=HEADS, only=only)
    return show("mAP at .5, percent", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=12)
    parser.add_argument("--canvas-count", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=300, help="of EPTQ")
    parser.add_argument("--samples", type=int, default=256, help="to calibrate with")
    parser.add_argument("--only", nargs="+", default=RECIPES, choices=RECIPES)
    main(**vars(parser.parse_args()))
