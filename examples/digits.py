"""What the examples share: scikit-learn's digits, and a small network that has learned them."""

from __future__ import annotations

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images (1257, 8, 8, 1) with values from 0 to 16, test images, and their labels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    x, test_x, y, test_y = train_test_split(images, labels, test_size=0.3, random_state=0)
    return x, test_x, y, test_y


def trained(model: keras.Model, *, epochs: int) -> keras.Model:
    """Learns the digits; prints how well."""
    x, test_x, y, test_y = data()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, verbose=0)
    print(f"float model: {model.evaluate(test_x, test_y, verbose=0)[1]:.1%}")
    return model


def classifier(*, epochs: int) -> keras.Model:
    """A convolutional network that knows the digits."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Rescaling(1 / 16),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.SeparableConv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )
    return trained(model, epochs=epochs)


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of the samples whose largest output is that of their class."""
    return float(np.mean(probabilities.argmax(axis=-1) == labels))
