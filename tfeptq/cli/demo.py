"""The whole road on real data in seconds: scikit-learn's handwritten digits to a 4-bit file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tflite_export
from tfeptq.config import QuantizationConfig
from tfeptq.pipeline import quantize
from tfeptq.progress import StepProgress, Stopwatch
from tfeptq.report.scores import Score, score
from tfeptq.report.tables import show, show_layers, show_seconds

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def digits() -> Split:
    """Images (N, 8, 8, 1) in [0, 16] and labels: 1,197 to train, 600 to test."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32")
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=600, random_state=0, stratify=labels
    )
    return train_x, train_y, test_x, test_y


def small_cnn() -> keras.Model:
    """Convolution and depthwise-separable convolution with batch normalization."""
    layers = keras.layers
    inputs = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 16, name="rescaling")(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="conv_relu")(_normalized(x, "conv_norm"))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.ReLU(name="depthwise_relu")(_normalized(x, "depthwise_norm"))
    x = layers.Conv2D(32, 1, use_bias=False, name="pointwise")(x)
    x = layers.ReLU(name="pointwise_relu")(_normalized(x, "pointwise_norm"))
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.Conv2D(32, 3, activation="relu", name="features")(x)
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(
        inputs, layers.Dense(10, activation="softmax", name="digit")(x), name="digits"
    )


def _normalized(x: Any, name: str) -> Any:
    # A few hundred steps are too few for the moving statistics at Keras's default momentum.
    return keras.layers.BatchNormalization(momentum=0.9, name=name)(x)


def trained(
    model: keras.Model, data: Split, *, epochs: int = 30, batch_size: int = 64
) -> keras.Model:
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    steps = epochs * -(-len(data[0]) // batch_size)
    bar = StepProgress(steps, "training of the float model")
    model.fit(*data[:2], batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[bar])
    return model


def run_demo(*, weight_bits: int = 4, steps: int = 300, output: Path | None = None) -> Path:
    """Trains, quantizes, exports, runs and prints; returns the path of the file."""
    output = output or Path("digits.tflite")
    keras.utils.set_random_seed(0)
    data, watch = digits(), Stopwatch()
    with watch("train the float model"):
        model = trained(small_cnn(), data)
    config = QuantizationConfig(
        weight_bits=weight_bits, first_last_bits=None, steps=steps, samples=512
    )
    quantized = quantize(model, data[0], config)
    watch.seconds.update(quantized.stage_seconds)
    with watch("export and verify"):
        result = tflite_export.export(quantized, output)
    with watch("run the file"):
        outputs = tflite_export.run(output, data[2])
    scores = {
        "float Keras": score(model.predict(data[2], verbose=0), data[3]),
        "quantized Keras": score(quantized.predict(data[2], verbose=0), data[3]),
        "TFLite file in LiteRT": score(np.asarray(outputs), data[3]),
    }
    _print(model, result, scores, watch)
    return output


def _print(
    model: keras.Model,
    result: tflite_export.ExportResult,
    scores: dict[str, Score],
    watch: Stopwatch,
) -> None:
    show_layers(result)
    samples = next(iter(scores.values())).samples
    show(
        f"Accuracy on {samples} images (with standard error)",
        ("model", "accuracy"),
        scores.items(),
    )
    show(
        "Size",
        ("what", "bytes"),
        [("float32 weights", 4 * model.count_params()), (str(result.path), result.size_bytes)],
    )
    show_seconds(watch.seconds)
    if result.verification is not None:
        print(result.verification.summary())
