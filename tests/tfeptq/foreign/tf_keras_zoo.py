"""Models of Keras 2 (tf_keras), saved in every way it knows, with what they answer.

Of every model `write` makes `NAME.h5`, `NAME.keras`, a SavedModel `NAME/` and `NAME.npz` (x0, x1,
..., y0, y1, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

#: Name -> function that makes the model from `tf_keras.layers`.
MODELS: dict[str, Callable] = {}


def model(make: Callable) -> Callable:
    MODELS[make.__name__] = make
    return make


@model
def convolutions(k, tf):
    layers = k.layers
    return k.Sequential(
        [
            k.Input((9, 11, 3)),
            layers.ZeroPadding2D(((1, 0), (2, 1))),
            layers.Conv2D(8, (3, 5), strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(alpha=0.2),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.ReLU(6.0),
            layers.SeparableConv2D(6, 3, padding="same", activation="relu"),
            layers.PReLU(shared_axes=[1, 2]),
            layers.AveragePooling2D(2, padding="same"),
            layers.UpSampling2D(2, interpolation="bilinear"),
            layers.Cropping2D(((0, 1), (1, 0))),
            layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
            layers.Dropout(0.3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ],
        name="convolutions",
    )


@model
def old_activations(k, tf):
    """Keras 3 has other slopes for one of these names."""
    inputs = k.Input((6,), name="features")
    names = ("hard_sigmoid", "sigmoid", "tanh", "elu", "swish", "gelu", "relu")
    parts = [k.layers.Dense(3, activation=name)(inputs) for name in names]
    parts.append(k.layers.Activation("hard_sigmoid")(inputs))
    return k.Model(inputs, k.layers.Concatenate()(parts), name="old_activations")


@model
def residual(k, tf):
    inputs = k.Input((8, 8, 4), name="image")
    x = k.layers.Conv2D(4, 3, padding="same")(inputs)
    x = k.layers.BatchNormalization(axis=[3], momentum=0.9)(x)
    x = k.layers.Activation("relu")(x)
    x = k.layers.Add()([x, inputs])
    return k.Model(inputs, k.layers.Flatten()(x), name="residual")


@model
def nested(k, tf):
    block = k.Sequential([k.Input((6,)), k.layers.Dense(6, "relu"), k.layers.BatchNormalization()])
    left, right = k.Input((6,), name="left"), k.Input((6,), name="right")
    joined = k.layers.Multiply()([block(left), block(right)])
    inner_input = k.Input((6,))
    inner = k.Model(inner_input, k.layers.Dense(3)(inner_input), name="inner")
    outputs = {"both": inner(joined), "one": k.layers.Dense(2)(block(left))}
    return k.Model([left, right], outputs, name="nested")


@model
def frozen_base(k, tf):
    """As transfer learning leaves it: the base, its statistics among its weights, is frozen."""
    inputs = k.Input((8, 6, 3))
    x = k.layers.Conv2D(4, 3, name="base_conv")(inputs)
    x = k.layers.BatchNormalization()(x)
    base = k.Model(inputs, k.layers.Conv2D(5, 1)(x), name="base")
    base.trainable = False
    image = k.Input((8, 6, 3))
    x = k.layers.GlobalAveragePooling2D()(base(image, training=False))
    return k.Model(image, k.layers.Dense(3)(x), name="frozen_base")


@model
def partly_frozen(k, tf):
    layers = [k.layers.Dense(5), k.layers.BatchNormalization(), k.layers.Dense(4)]
    layers[0].trainable = False
    block = k.Sequential([k.Input((6,)), *layers], name="block")
    return k.Sequential([k.Input((6,)), block, k.layers.BatchNormalization()], name="partly_frozen")


@model
def recurrent(k, tf):
    inputs = k.Input((2, 4))
    x = k.layers.Bidirectional(k.layers.LSTM(3, return_sequences=True))(inputs)
    x = k.layers.GRU(4, return_sequences=True)(x)
    x = k.layers.TimeDistributed(k.layers.Dense(3))(x)
    x = k.layers.GRU(3, reset_after=False, return_sequences=True)(x)
    x = k.layers.SimpleRNN(3, return_sequences=True)(x)
    x = k.layers.LSTM(2, recurrent_activation="hard_sigmoid")(x)
    return k.Model(inputs, x, name="recurrent")


@model
def sequence(k, tf):
    inputs = k.Input((12, 3))
    x = k.layers.ZeroPadding1D(1)(inputs)
    x = k.layers.Conv1D(6, 3, activation="relu")(x)
    x = k.layers.MaxPooling1D(2)(x)
    x = k.layers.LayerNormalization()(x)
    attended = k.layers.MultiHeadAttention(2, 4)(x, x)
    x = k.layers.Add()([x, attended])
    x = k.layers.Permute((2, 1))(x)
    return k.Model(inputs, k.layers.GlobalMaxPooling1D()(x), name="sequence")


@model
def tokens(k, tf):
    inputs = k.Input((7,), dtype="int32")
    x = k.layers.Embedding(11, 4)(inputs)
    x = k.layers.GlobalAveragePooling1D()(x)
    return k.Model(inputs, k.layers.Dense(2, activation="sigmoid")(x), name="tokens")


@model
def preprocessing(k, tf):
    normalization = k.layers.Normalization(axis=-1)
    normalization.adapt([[0.0, 2.0, 5.0], [1.0, 3.0, 9.0]])
    return k.Sequential(
        [
            k.Input((4, 6, 3)),
            k.layers.Rescaling(1 / 127.5, offset=-1.0),
            k.layers.RandomFlip("horizontal"),
            normalization,
            k.layers.Conv2D(3, 1),
        ],
        name="preprocessing",
    )


@model
def functions(k, tf):
    """Operators and functions of TensorFlow, which Keras 2 keeps as layers of its own."""
    inputs = k.Input((6, 8, 2))
    x = tf.nn.relu(k.layers.Conv2D(4, 3, padding="same")(inputs))
    x = tf.concat([x, 2.0 * inputs + 1.0], axis=-1)
    x = x[:, 1:5, ::2]
    x = tf.image.resize(x, (8, 8))
    x = tf.reduce_mean(x, axis=[1, 2])
    return k.Model(inputs, 3.0 - tf.sigmoid(x) * tf.add(x, x), name="functions")


@model
def anonymous(k, tf):
    inputs = k.Input((6,))
    x = k.layers.Dense(4)(inputs)
    x = k.layers.Lambda(lambda t: t * t * 0.5 + t)(x)
    return k.Model(inputs, k.layers.Dense(2)(x), name="anonymous")


@model
def removed_layers(k, tf):
    """Layers that Keras 3 does not have."""
    inputs = k.Input((6, 5))
    x = k.layers.ThresholdedReLU(theta=0.2)(inputs)
    x = k.layers.LocallyConnected1D(3, 2)(x)
    return k.Model(inputs, x, name="removed_layers")


@model
def half_precision(k, tf):
    policy = k.mixed_precision.Policy("mixed_float16")
    inputs = k.Input((6,))
    x = k.layers.Dense(4, activation="relu", dtype=policy)(inputs)
    return k.Model(inputs, k.layers.Dense(2, dtype="float32")(x), name="half_precision")


@model
def subclassed(k, tf):
    class Subclassed(k.Model):
        def __init__(self):
            super().__init__(name="subclassed")
            self.first, self.last = k.layers.Conv2D(4, 3), k.layers.Dense(3)

        def call(self, inputs):
            return self.last(tf.reduce_max(tf.nn.relu6(self.first(inputs)), axis=(1, 2)))

    return Subclassed()


def randomized(model, generator):
    """Weights as training leaves them: none is zero, no two statistics are alike."""
    for variable in model.variables:
        if "float" not in variable.dtype.name or not variable.shape.num_elements():
            continue
        values = generator.normal(0.0, 0.4, variable.shape)
        if "variance" in variable.name:
            values = abs(values) + 0.3
        variable.assign(values.astype(variable.dtype.name))
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def samples_of(model, generator):
    found = []
    for tensor in model.inputs:
        shape = (4, *tensor.shape[1:])
        is_integer = tensor.dtype == "int32"
        values = generator.integers(0, 11, shape) if is_integer else generator.normal(size=shape)
        found.append(values.astype("int32" if is_integer else "float32"))
    return found


def write(name: str, folder: Path, k, tf, np):
    """Makes and saves one model; returns it."""
    k.backend.clear_session()
    k.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    made = MODELS[name](k, tf)
    if made.inputs is None:
        inputs = [generator.normal(size=(4, 7, 6, 3)).astype("float32")]
        made.predict(inputs[0], verbose=0)
        formats = [""]
    else:
        inputs = samples_of(made, generator)
        formats = [".h5", ".keras", ""]
    randomized(made, generator)
    answers = tf.nest.flatten(made(inputs if len(inputs) > 1 else inputs[0], training=False))
    given = {f"x{i}": x for i, x in enumerate(inputs)}
    np.savez(folder / f"{name}.npz", **given, **{f"y{i}": y for i, y in enumerate(answers)})
    for ending in formats:
        made.save(folder / f"{name}{ending}", save_format=None if ending else "tf")
    return made
