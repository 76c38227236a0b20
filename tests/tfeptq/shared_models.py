"""Small float models whose layers are called several times, and equal ones with copies of them."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from keras import layers as L

H, W, C, K = 9, 7, 3, 5
#: (name, constructor) -> the layer of that name: the same at every call, or a copy of it.
Supply = Callable[[str, Callable[..., keras.Layer]], keras.Layer]


def towers(supply: Supply, *, swapped: bool = False) -> keras.Model:
    """One embedding of two inputs of unequal scale, one of which passes a layer more before it."""
    deep, flat = keras.Input((24,), name="deep"), keras.Input((13,), name="flat")
    ends = {
        "deep": L.Dense(11, activation="relu", name="extra")(deep),
        "flat": L.Dense(11, name="other")(L.Rescaling(0.1)(flat)),
    }
    for name in reversed(ends) if swapped else list(ends):
        ends[name] = L.ReLU()(supply("embed", lambda **n: L.Dense(16, **n))(ends[name]))
    joined = L.Concatenate()([ends["deep"], ends["flat"]])
    return keras.Model([deep, flat], L.Dense(K, name="classes")(joined))


def pyramid(supply: Supply) -> keras.Model:
    """Heads on three levels, with a batch normalization of each level's own and unequal sizes."""
    image = keras.Input((16, 12, C), name="image")
    levels = [L.Conv2D(6, 3, padding="same", activation="relu6", name="level_0")(image)]
    for index in (1, 2):
        stage = L.Conv2D(6, 3, 2, padding="same", activation="relu6", name=f"level_{index}")
        levels.append(stage(levels[-1]))
    scores, boxes = [], []
    for index, level in enumerate(reversed(levels)):
        make = lambda **n: L.SeparableConv2D(6, 3, padding="same", use_bias=False, **n)  # noqa: E731
        norm = L.BatchNormalization(
            name=f"norm_{index}",
            gamma_initializer=keras.initializers.Constant(0.5 + index),
            moving_mean_initializer="random_normal",
        )
        x = L.ReLU()(norm(supply("tower", make)(level)))
        scores.append(L.Flatten()(supply("scores", lambda **n: L.Conv2D(3, 1, **n))(x)))
        boxes.append(L.Reshape((-1, 4))(supply("boxes", lambda **n: L.Conv2D(8, 1, **n))(x)))
    outputs = [L.Activation("sigmoid")(L.Concatenate()(scores)), L.Concatenate(axis=1)(boxes)]
    return keras.Model(image, outputs)


def repeated(supply: Supply) -> keras.Model:
    """A convolution that reads its own result, with and without a ReLU behind it."""
    image = keras.Input((H, W, 4), name="image")
    x = image
    for index in range(3):
        x = supply("again", lambda **n: L.Conv2D(4, (3, 2), padding="same", **n))(x)
        x = L.ReLU()(x) if index != 1 else x
    return keras.Model(image, L.Dense(K, name="classes")(L.GlobalAveragePooling2D()(x)))


def alternating(supply: Supply) -> keras.Model:
    """Two layers that read each other's results."""
    inputs = x = keras.Input((12,), name="row")
    for _ in range(2):
        x = supply("left", lambda **n: L.Dense(11, activation="relu", **n))(x)
        x = supply("right", lambda **n: L.Dense(12, **n))(x)
    return keras.Model(inputs, L.Dense(K, name="classes")(x))


def nested(supply: Supply) -> keras.Model:
    """A model of many kinds of layers, called on two inputs and once more deeper down."""
    first, second = keras.Input((H, W, C), name="first"), keras.Input((H, W, C), name="second")

    def encoder(**name: str) -> keras.Model:
        inputs = keras.Input((H, W, C))
        x = L.DepthwiseConv2D((2, 3), padding="same")(inputs)
        x = L.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.3))(x)
        x = L.BatchNormalization(beta_initializer="random_normal")(x)
        x = L.ReLU()(L.AveragePooling2D((2, 3), 1, padding="same")(x))
        return keras.Model(inputs, L.Conv2D(C, 1, activation="tanh")(x), **name)

    deeper = supply("encoder", encoder)(L.Conv2D(C, 3, padding="same", name="extra")(second))
    ends = [supply("encoder", encoder)(first), supply("encoder", encoder)(second), deeper]
    pool = L.GlobalAveragePooling2D()
    joined = L.Concatenate()([pool(end) for end in ends])
    return keras.Model([first, second], L.Dense(K, name="classes")(joined))


MODELS: dict[str, Callable[[Supply], keras.Model]] = {
    "towers": towers,
    "towers, other order": lambda supply: towers(supply, swapped=True),
    "pyramid": pyramid,
    "repeated": repeated,
    "alternating": alternating,
    "nested": nested,
}


def shared(name: str, seed: int = 0) -> keras.Model:
    """A model of `MODELS` that shares its layers."""
    keras.utils.set_random_seed(seed)
    layers: dict[str, keras.Layer] = {}

    def supply(name: str, make: Callable[..., keras.Layer]) -> keras.Layer:
        return layers.setdefault(name, layers.get(name) or make(name=name))

    model = MODELS[name](supply)
    for weight in model.weights:
        if weight.name == "bias":
            weight.assign(np.linspace(-0.3, 0.4, weight.shape[0]))
    return model


def copied(name: str, seed: int = 0) -> keras.Model:
    """The same function as `shared` without a shared layer: every call has a copy of its own."""
    original = shared(name, seed)
    copies: dict[str, list[keras.Layer]] = {}

    def supply(name: str, make: Callable[..., keras.Layer]) -> keras.Layer:
        made = copies.setdefault(name, [])
        made.append(make(name=f"{name}_{'abc'[len(made)]}"))
        return made[-1]

    model = MODELS[name](supply)
    origins = {layer.name: name for name, made in copies.items() for layer in made}
    for layer in model.layers:
        if layer.weights:
            source = original.get_layer(origins.get(layer.name, layer.name))
            layer.set_weights(source.get_weights())
    return model


def samples(model: keras.Model, count: int = 48, seed: int = 1) -> tuple[np.ndarray, ...]:
    """One array a model input; the first input is positive and large where there are two."""
    generator = np.random.default_rng(seed)
    arrays = [
        generator.normal(size=(count, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]
    return (3.0 * np.abs(arrays[0]), *arrays[1:]) if len(arrays) > 1 else (arrays[0],)
