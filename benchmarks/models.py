"""The real models and data of the assets folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np

import tfeptq

ASSETS = Path(
    os.environ.get("TFEPTQ_ASSETS", Path(__file__).resolve().parents[2] / "shared" / "assets")
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A model with unlabelled calibration samples and labelled test samples it never sees.

    Attributes:
        augmentation: what a float model of this kind is usually trained with.
    """

    name: str
    model: keras.Model
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    augmentation: keras.Layer


def _cifar(name: str, file: str, *, normalized: bool) -> Task:
    with np.load(ASSETS / "cifar10" / "cifar10.npz") as data:
        train, test = (data[key].astype("float32") for key in ("x_train", "x_test"))
        labels = data["y_test"].ravel()
    if normalized:
        mean, deviation = (
            np.array(values, "float32") for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        train, test = ((array / 255 - mean) / deviation for array in (train, test))
    augmentation = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.125, 0.125, interpolation="nearest"),
        ]
    )
    return Task(name, tfeptq.load_model(ASSETS / file), train, test, labels, augmentation)


def _keywords() -> Task:
    with np.load(ASSETS / "kws" / "kws01.npz") as data:
        values = (data["q"].astype("float32") - data["zero_point"]) * data["scale"]
        labels = data["y"].ravel()
    model = tfeptq.load_model(ASSETS / "mlperf_tiny" / "tiny_kws.keras")
    values = values.reshape(-1, *model.inputs[0].shape[1:]).astype("float32")
    # Words come earlier or later by up to 0.12 s.
    augmentation = keras.layers.RandomTranslation(
        0.12, 0.0, fill_mode="nearest", interpolation="nearest"
    )
    return Task("dscnn", model, values[:200], values[200:], labels[200:], augmentation)


TASKS = {
    "resnet8": lambda: _cifar("resnet8", "mlperf_tiny/tiny_ic.keras", normalized=False),
    "dscnn": _keywords,
    "resnet20": lambda: _cifar("resnet20", "cifar10/cifar_resnet20.keras", normalized=True),
    "resnet56": lambda: _cifar("resnet56", "cifar10/cifar_resnet56.keras", normalized=True),
}


def load(name: str) -> Task:
    if not ASSETS.is_dir():
        raise SystemExit(f"no assets at {ASSETS}; set TFEPTQ_ASSETS to their folder")
    return TASKS[name]()
