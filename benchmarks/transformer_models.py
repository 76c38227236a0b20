"""Two small transformers, trained here on data of the assets folder, weights kept in a cache.

`sst2`: a BERT-style classifier of sentences (words, learned positions, blocks normalized after
each sum, the first token pooled) from 6919 sentences. `cifar`: a ViT (4 x 4 patches, a class
token, blocks normalized before each part) that learns from a ResNet20's outputs on random copies
and mixtures of 2000 images, for these alone are too few.

The cache is KERAS_HOME/tfeptq-benchmarks; a file there is named by everything it depends on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers

import tfeptq
from benchmarks.models import ASSETS

TOKENS = 40
WORDS = 3000
#: Random copies of every image that the ResNet20 is asked about.
COPIES = 12


@dataclasses.dataclass(frozen=True)
class Transformer:
    """A trained float model with unlabelled calibration samples and labelled test samples.

    Attributes:
        validation: labelled samples that an accuracy may be searched on; the test samples score.
    """

    name: str
    model: keras.Model
    calibration: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    inputs: np.ndarray
    labels: np.ndarray


@keras.saving.register_keras_serializable("tfeptq-benchmarks")
class Positions(layers.Layer):
    """Adds a learned vector to every token: (batch, tokens, width) to the same shape."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.vectors = self.add_weight(
            shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.vectors


@keras.saving.register_keras_serializable("tfeptq-benchmarks")
class ClassToken(layers.Layer):
    """Puts a learned token in front: (batch, tokens, width) to (batch, 1 + tokens, width)."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.token = self.add_weight(
            shape=(1, 1, shape[-1]), initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        batch = keras.ops.shape(x)[0]
        token = keras.ops.broadcast_to(self.token, (batch, 1, x.shape[-1]))
        return keras.ops.concatenate([token, x], axis=1)


def _feed_forward(x: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    hidden = layers.Dense(2 * width, activation="gelu", name=f"{name}_wide")(x)
    return layers.Dense(width, name=f"{name}_narrow")(hidden)


def bert(width: int = 96, blocks: int = 3, heads: int = 4, dropout: float = 0.3) -> keras.Model:
    """Token numbers (batch, TOKENS), 0 is padding, to probabilities (batch, 2)."""
    ids = layers.Input((TOKENS,), dtype="int32", name="ids")
    x = layers.Embedding(WORDS, width, name="words")(ids)
    x = Positions(name="positions")(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="first_norm")(x)
    x = layers.Dropout(dropout)(x)
    mask = keras.ops.expand_dims(keras.ops.not_equal(ids, 0), 1)
    for i in range(blocks):
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")
        y = layers.Dropout(dropout)(attention(x, x, attention_mask=mask))
        x = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}")(layers.Add()([x, y]))
        y = layers.Dropout(dropout)(_feed_forward(x, width, f"feed_forward_{i}"))
        x = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}b")(layers.Add()([x, y]))
    pooled = layers.Dense(width, activation="tanh", name="pooler")(x[:, 0])
    outputs = layers.Dense(2, activation="softmax", name="classes")(layers.Dropout(0.1)(pooled))
    return keras.Model(ids, outputs, name="bert")


def vit(width: int = 64, blocks: int = 2, heads: int = 4) -> keras.Model:
    """Images (batch, 32, 32, 3), 0 to 255, to probabilities (batch, 10)."""
    images = layers.Input((32, 32, 3), name="images")
    x = layers.Rescaling(1 / 64, offset=-2.0)(images)
    x = layers.Conv2D(width, 4, strides=4, name="patches")(x)
    x = layers.Reshape((64, width))(x)
    x = Positions(name="positions")(ClassToken(name="class_token")(x))
    for i in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}")(x)
        attention = layers.MultiHeadAttention(heads, width // heads, name=f"attention_{i}")
        x = layers.Add()([x, attention(y, y)])
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}b")(x)
        x = layers.Add()([x, _feed_forward(y, width, f"feed_forward_{i}")])
    x = layers.LayerNormalization(epsilon=1e-6, name="last_norm")(x)
    outputs = layers.Dense(10, activation="softmax", name="classes")(x[:, 0])
    return keras.Model(images, outputs, name="vit")


def _sentences(part: str) -> tuple[list[str], np.ndarray]:
    lines = (ASSETS / "sst2" / f"{part}.tsv").read_text().splitlines()
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [f"[cls] {text}" for text, _ in pairs], np.array([int(label) for _, label in pairs])


def sst2() -> Transformer:
    texts, labels = _sentences("train")
    numbers = layers.TextVectorization(
        WORDS, standardize=None, output_sequence_length=TOKENS, dtype="string"
    )
    numbers.adapt(texts)

    def ids(texts: list[str]) -> np.ndarray:
        return np.asarray(numbers(np.array(texts)), "int32")

    train = ids(texts)
    (dev, dev_labels), (test, test_labels) = (_sentences(part) for part in ("dev", "test"))
    model = _trained(bert, _fit_bert, train, labels)
    return Transformer("sst2", model, train[:2000], (ids(dev), dev_labels), ids(test), test_labels)


def _fit_bert(model: keras.Model, ids: np.ndarray, labels: np.ndarray) -> None:
    epochs, batch = 8, 64
    rate = keras.optimizers.schedules.CosineDecay(
        1e-6, epochs * len(ids) // batch, warmup_target=1e-3, warmup_steps=200
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy"],
    )
    generator = np.random.default_rng(0)
    targets = keras.utils.to_categorical(labels, 2)
    for epoch in range(epochs):
        # Words that are left out by chance (1 is the unknown word) keep the model from single ones.
        is_dropped = (generator.random(ids.shape) < 0.1) & (ids > 2)
        model.fit(
            np.where(is_dropped, 1, ids),
            targets,
            batch_size=batch,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=2,
        )


def cifar() -> Transformer:
    with np.load(ASSETS / "cifar10" / "cifar10.npz") as data:
        train, test = (data[key].astype("float32") for key in ("x_train", "x_test"))
        labels = data["y_test"].ravel()
    model = _trained(vit, _fit_vit, train)
    return Transformer("cifar", model, train, (test[:400], labels[:400]), test[400:], labels[400:])


def _fit_vit(model: keras.Model, images: np.ndarray) -> None:
    copies, targets = _asked(images)
    epochs, batch = 8, 64
    rate = keras.optimizers.schedules.CosineDecay(
        1e-6, epochs * len(copies) // batch, warmup_target=1e-3, warmup_steps=400
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05),
        keras.losses.CategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    model.fit(copies, targets, batch_size=batch, epochs=epochs, verbose=2)


def _asked(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random copies, half of them mixtures of two images, with what the ResNet20 says of them."""
    teacher = tfeptq.load_model(ASSETS / "cifar10" / "cifar_resnet20.keras")
    change = keras.Sequential(
        [
            layers.RandomFlip("horizontal", seed=1),
            layers.RandomTranslation(0.15, 0.15, interpolation="nearest", seed=2),
        ]
    )
    generator = np.random.default_rng(0)
    copies = []
    for i in range(COPIES):
        copy = np.asarray(change(images, training=True))
        if i % 2:
            share = generator.uniform(0.0, 0.5, (len(copy), 1, 1, 1)).astype("float32")
            copy = (1 - share) * copy + share * copy[generator.permutation(len(copy))]
        copies.append(copy)
    mixed = np.concatenate(copies)
    mean, deviation = (
        np.array(values, "float32") for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    logits = teacher.predict((mixed / 255 - mean) / deviation, batch_size=250, verbose=0)
    return mixed, keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def _cache() -> Path:
    home = os.environ.get("KERAS_HOME", Path.home() / ".keras")
    return Path(home) / "tfeptq-benchmarks"


def _trained(
    build: Callable[[], keras.Model], recipe: Callable[..., None], *data: np.ndarray
) -> keras.Model:
    """The model with weights of the cache, or trained by the recipe and put there."""
    keras.utils.set_random_seed(0)
    # Names that Keras gives count what was built before, and the digest is one of names too.
    keras.utils.clear_session(free_memory=False)
    model = build()
    # What the weights depend on: the model, how it is trained, and the library.
    told = model.to_json() + inspect.getsource(recipe) + keras.__version__
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    path = _cache() / f"{model.name}-{digest}.weights.h5"
    if not path.is_file():
        begin = time.perf_counter()
        recipe(model, *data)
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(path)
        print(f"{model.name}: trained in {time.perf_counter() - begin:.0f} s, kept in {path}")
    model.load_weights(path)
    return model
