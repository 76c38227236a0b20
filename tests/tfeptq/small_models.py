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


def chain() -> keras.Model:
    """A third of its work: what is about layers in general, or takes long for each of them."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    x = L.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(x)
    x = L.GlobalAveragePooling2D(name="mean")(x)
    head = L.Dense(K, activation="softmax", name="classes")
    model = keras.Model(inputs, head(x), name="chain")
    # All classes occur, far from even: whose classes agree has kept something of each image.
    features = np.asarray(keras.Model(inputs, x)(images(256, seed=2)))
    kernel, _ = head.get_weights()
    kernel *= 2.0 / (features @ kernel).std(axis=0)
    head.set_weights([kernel, -features.mean(axis=0) @ kernel])
    return model


def short_network() -> keras.Model:
    """As few layers, with a norm and a sum: for what is learned, and statistics that move."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((H, W, C), name="image")
    x = L.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = L.ReLU(name="stem_relu")(L.BatchNormalization(name="norm")(x))
    y = L.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(x)
    x = L.GlobalAveragePooling2D(name="mean")(L.Add(name="sum")([x, y]))
    return keras.Model(inputs, L.Dense(K, activation="softmax", name="classes")(x), name="short")


def images(count: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, H, W, C)).astype("float32")


class Agreement:
    """A metric: whether the predicted class is the float model's, sample by sample."""

    def __init__(self, model: keras.Model) -> None:
        self._images = images(256, seed=3)
        self._classes = self._of(model)

    def __call__(self, model: keras.Model) -> np.ndarray:
        return self._of(model) == self._classes

    def _of(self, model: keras.Model) -> np.ndarray:
        # `predict` would trace a graph for every model that a search asks about.
        return np.asarray(model(self._images, training=False)).argmax(1)
