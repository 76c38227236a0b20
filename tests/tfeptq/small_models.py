"""Small float models with awkward shapes, shared by tests."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as L

H, W, C, K = 9, 7, 3, 5


def residual_network(seed: int = 0) -> keras.Model:
    """Convolutions, depthwise, residual add, concat, pooling, dense: most of what files hold."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="norm")(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(x)
    y = L.Conv2D(8, 1, name="pointwise")(y)
    x = L.ReLU(name="sum_relu")(L.Add(name="sum")([x, y]))
    x = L.Concatenate(name="joined")(
        [L.MaxPooling2D(2, name="pool")(x), L.Conv2D(4, 2, 2, name="skip")(x)]
    )
    x = L.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, L.Dense(K, activation="softmax", name="classes")(x), name="small")


def images(count: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, H, W, C)).astype("float32")


class Agreement:
    """A metric: whether the predicted class is the float model's, sample by sample."""

    def __init__(self, model: keras.Model) -> None:
        self._images = images(256, seed=3)
        self._classes = model.predict(self._images, verbose=0).argmax(1)

    def __call__(self, model: keras.Model) -> np.ndarray:
        return model.predict(self._images, verbose=0).argmax(1) == self._classes
