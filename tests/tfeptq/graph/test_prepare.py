"""prepare: the canonical model computes what the original computes, with primitive layers only."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tfeptq.graph import UnsupportedLayerError, prepare

H, W, C, N = 9, 7, 3, 5
PRIMITIVES = (
    L.InputLayer,
    L.Conv2D,
    L.DepthwiseConv2D,
    L.Dense,
    L.ReLU,
    L.LeakyReLU,
    L.PReLU,
    L.Activation,
    L.Softmax,
    L.Add,
    L.Subtract,
    L.Multiply,
    L.Maximum,
    L.Minimum,
    L.Concatenate,
    L.MaxPooling2D,
    L.AveragePooling2D,
    L.GlobalAveragePooling2D,
    L.Reshape,
    L.Permute,
    L.ZeroPadding2D,
    L.Cropping2D,
    L.UpSampling2D,
)


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every weight a random value, so that no fold is trivially the identity."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        values = generator.normal(size=variable.shape).astype("float32") * 0.5
        if "variance" in variable.name:
            values = np.abs(values) + 0.3
        if variable.dtype == "float32":
            variable.assign(values)
    return model


def check(model: keras.Model) -> keras.Model:
    """Compares the outputs and returns the canonical model."""
    canonical = prepare(model)
    for layer in canonical.layers:
        assert type(layer) in PRIMITIVES, layer
        if isinstance(layer, (L.Conv2D, L.DepthwiseConv2D, L.Dense)):
            assert layer.use_bias
            assert layer.activation.__name__ == "linear"
    generator = np.random.default_rng(1)
    inputs = [generator.normal(size=(4, *t.shape[1:])).astype("float32") for t in model.inputs]
    expected = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0]))
    found = keras.tree.flatten(canonical(inputs if len(inputs) > 1 else inputs[0]))
    assert len(expected) == len(found)
    for left, right in zip(expected, found, strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert left.shape == right.shape
        assert np.abs(left - right).max() <= 1e-5 * np.abs(left).max()
    return canonical


def image_model(*stack, shape=(H, W, C)) -> keras.Model:
    inputs = keras.Input(shape)
    outputs = inputs
    for layer in stack:
        outputs = layer(outputs)
    return randomize(keras.Model(inputs, outputs))


IMAGE_STACKS = {
    "conv": [L.Conv2D(N, (3, 2), activation="relu")],
    "conv same strided": [L.Conv2D(N, 3, strides=2, padding="same", use_bias=False)],
    "conv dilated": [L.Conv2D(N, 3, dilation_rate=2, padding="same", activation="tanh")],
    "conv one group a channel": [L.Conv2D(2 * C, 3, groups=C, activation="relu")],
    "depthwise": [L.DepthwiseConv2D((3, 2), depth_multiplier=2, activation="relu6")],
    "separable": [L.SeparableConv2D(N, 3, depth_multiplier=2, padding="same", activation="silu")],
    "dense on an image": [L.Dense(N, activation="sigmoid")],
    "conv, normalization, relu": [L.Conv2D(N, 3), L.BatchNormalization(), L.ReLU(6.0)],
    "depthwise, normalization": [
        L.DepthwiseConv2D(3, depth_multiplier=2),
        L.BatchNormalization(scale=False),
    ],
    "dense, normalization": [L.Flatten(), L.Dense(N), L.BatchNormalization(center=False)],
    "normalization, valid conv": [L.BatchNormalization(), L.Conv2D(N, 3)],
    "normalization, same conv": [L.BatchNormalization(), L.Conv2D(N, 3, padding="same")],
    "normalization, depthwise": [L.BatchNormalization(), L.DepthwiseConv2D(3, depth_multiplier=2)],
    "normalization, flatten, dense": [L.BatchNormalization(), L.Flatten(), L.Dense(N)],
    "relu, normalization": [L.Conv2D(N, 3), L.ReLU(), L.BatchNormalization(), L.ReLU()],
    "normalization alone on vectors": [L.Flatten(), L.BatchNormalization(), L.ReLU()],
    "rescaling": [L.Rescaling(1 / 127.5, -1.0), L.Conv2D(N, 3, padding="same")],
    "normalization layer": [L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])],
    "relu bounded": [L.ReLU(max_value=3.5)],
    "relu with slope": [L.ReLU(negative_slope=0.3)],
    "leaky relu": [L.LeakyReLU(negative_slope=0.1)],
    "prelu": [L.PReLU(shared_axes=[1, 2])],
    "prelu by position": [L.PReLU()],
    "hard swish": [L.Conv2D(N, 1, activation="hard_silu")],
    "hard sigmoid": [L.Conv2D(N, 1, activation="hard_sigmoid")],
    "activation layers": [L.Activation("swish"), L.Activation("tanh"), L.Activation("sigmoid")],
    "softmax": [L.Flatten(), L.Dense(N, activation="softmax")],
    "max pooling": [L.MaxPooling2D((2, 3), strides=2, padding="same")],
    "average pooling": [L.AveragePooling2D((2, 3), strides=1, padding="same")],
    "average pooling of everything": [L.AveragePooling2D((H, W)), L.Flatten()],
    "global pooling": [L.GlobalAveragePooling2D()],
    "global pooling kept": [L.GlobalAveragePooling2D(keepdims=True)],
    "global max pooling": [L.GlobalMaxPooling2D()],
    "global max pooling kept": [L.GlobalMaxPooling2D(keepdims=True)],
    "reshape": [L.Reshape((W, -1)), L.Permute((2, 1))],
    "padding and cropping": [L.ZeroPadding2D(((1, 2), (0, 3))), L.Cropping2D(((0, 2), (1, 1)))],
    "up-sampling": [L.UpSampling2D((2, 3))],
    "up-sampling bilinear": [L.UpSampling2D(2, interpolation="bilinear")],
    "no-operations": [L.Dropout(0.5), L.GaussianNoise(1.0), L.SpatialDropout2D(0.5), L.Identity()],
}


@pytest.mark.parametrize("name", IMAGE_STACKS)
def test_two_dimensional_layers(name):
    check(
        image_model(
            *[layer.__class__.from_config(layer.get_config()) for layer in IMAGE_STACKS[name]]
        )
    )


SEQUENCE_STACKS = {
    "conv": [L.Conv1D(N, 3, activation="relu")],
    "causal conv": [L.Conv1D(N, 3, padding="causal", dilation_rate=2)],
    "strided conv": [L.Conv1D(N, 3, padding="same", strides=2)],
    "depthwise": [L.DepthwiseConv1D(3, depth_multiplier=2, strides=2, activation="relu")],
    "separable": [L.SeparableConv1D(N, 3, padding="same", strides=2, activation="relu")],
    "conv, normalization, relu, conv": [
        L.Conv1D(N, 3),
        L.BatchNormalization(),
        L.ReLU(),
        L.Conv1D(4, 2),
    ],
    "max pooling": [L.MaxPooling1D(2)],
    "average pooling": [L.AveragePooling1D(3, strides=2, padding="same")],
    "global pooling": [L.GlobalAveragePooling1D()],
    "global pooling kept": [L.GlobalAveragePooling1D(keepdims=True)],
    "global max pooling": [L.GlobalMaxPooling1D()],
    "padding and cropping": [L.ZeroPadding1D((1, 2)), L.Cropping1D((2, 0))],
    "dense": [L.Dense(N), L.BatchNormalization()],
}


@pytest.mark.parametrize("name", SEQUENCE_STACKS)
def test_one_dimensional_layers(name):
    stack = [layer.__class__.from_config(layer.get_config()) for layer in SEQUENCE_STACKS[name]]
    check(image_model(*stack, shape=(11, C)))


def test_one_dimensional_convolutions_meet_without_reshapes():
    stack = [L.Conv1D(N, 3), L.BatchNormalization(), L.ReLU(), L.Conv1D(4, 2), L.ReLU()]
    canonical = check(image_model(*stack, shape=(11, C)))
    kinds = [type(layer) for layer in canonical.layers]
    assert kinds == [L.InputLayer, L.Reshape, L.Conv2D, L.ReLU, L.Conv2D, L.ReLU, L.Reshape]


def two_branches(merge) -> keras.Model:
    inputs = keras.Input((H, W, C))
    branches = [L.Conv2D(N, 1, name=f"branch_{index}")(inputs) for index in range(3)]
    return randomize(keras.Model(inputs, merge(branches)))


@pytest.mark.parametrize(
    "merge",
    [L.Add(), L.Multiply(), L.Average(), L.Maximum(), L.Minimum(), L.Concatenate(axis=1)],
    ids=lambda merge: type(merge).__name__,
)
def test_merges_of_three(merge):
    check(two_branches(merge))


def test_subtract():
    check(two_branches(lambda branches: L.Subtract()(branches[:2])))


OPERATIONS = {
    "arithmetic with numbers": lambda x: (1 - (x * 2 + 1) / 3.0) - 0.5,
    "arithmetic with channels": lambda x: (
        ops.multiply(x, np.array([1.0, 2.0, -3.0], "float32"))
        + np.array([0.0, 1.0, 2.0], "float32")
    ),
    "negative": lambda x: -x,
    "relu6": ops.relu6,
    "clip": lambda x: ops.clip(x, -0.5, 0.75),
    "maximum of a number": lambda x: ops.maximum(x, 0.25),
    "minimum of a number": lambda x: ops.minimum(0.25, x),
    "two tensors": lambda x: ops.maximum(x + ops.sigmoid(x), ops.tanh(x) * x) - ops.minimum(x, -x),
    "silu": ops.silu,
    "hard functions": lambda x: ops.hard_silu(x) + ops.hard_sigmoid(x),
    "leaky relu": lambda x: ops.leaky_relu(x, 0.3),
    "softmax": lambda x: ops.softmax(ops.reshape(x, (-1, H, W * C)), axis=-1),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "mean kept": lambda x: ops.mean(x, axis=[-3, -2], keepdims=True),
    "shapes": lambda x: ops.squeeze(ops.expand_dims(ops.reshape(x, (-1, H * W, C)), 1), axis=1),
    "transpose": lambda x: ops.transpose(x, (0, 2, 3, 1)),
    "concatenate": lambda x: ops.concatenate([x, -x, x], axis=-1),
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_keras_operations(name):
    inputs = keras.Input((H, W, C))
    check(keras.Model(inputs, OPERATIONS[name](inputs)))


def test_batch_normalization_leaves_no_layer_where_it_folds():
    canonical = check(image_model(L.Conv2D(N, 3, name="conv"), L.BatchNormalization(), L.ReLU()))
    assert [layer.name for layer in canonical.layers][1] == "conv"
    assert [type(layer) for layer in canonical.layers] == [L.InputLayer, L.Conv2D, L.ReLU]


def test_a_normalization_that_fits_nowhere_becomes_a_depthwise_convolution():
    canonical = check(image_model(L.BatchNormalization(name="norm"), L.ReLU()))
    assert type(canonical.get_layer("norm")) is L.DepthwiseConv2D


def test_an_output_in_the_middle_keeps_its_value():
    inputs = keras.Input((H, W, C))
    middle = L.Conv2D(N, 3)(inputs)
    check(randomize(keras.Model(inputs, [middle, L.BatchNormalization()(middle)])))


def test_shared_layers_stay_shared_and_do_not_fold():
    left, right = keras.Input((H, W, C)), keras.Input((H, W, C))
    shared = L.Conv2D(N, 3, name="shared")
    first = L.BatchNormalization()(shared(left))
    model = randomize(keras.Model([left, right], [first, shared(right)]))
    canonical = check(model)
    assert sum(isinstance(layer, L.Conv2D) for layer in canonical.layers) == 1


def test_nested_models_are_flattened_and_shared():
    inner = keras.Sequential([keras.Input((H, W, C)), L.Conv2D(C, 3, padding="same", name="conv")])
    inputs = keras.Input((H, W, C))
    outputs = L.Conv2D(C, 1, name="conv")(inner(inner(inputs)))
    canonical = check(randomize(keras.Model(inputs, outputs)))
    assert sum(isinstance(layer, L.Conv2D) for layer in canonical.layers) == 2


def test_sequential_models_and_several_outputs_keep_order():
    inputs = {"b": keras.Input((W,), name="b"), "a": keras.Input((N,), name="a")}
    outputs = [L.Dense(3, name="one")(inputs["b"]), L.Dense(2, name="two")(inputs["a"])]
    canonical = prepare(randomize(keras.Model(list(inputs.values()), outputs)))
    assert [tensor.shape[-1] for tensor in canonical.inputs] == [W, N]
    assert [tensor.shape[-1] for tensor in canonical.outputs] == [3, 2]


def test_the_original_is_untouched():
    model = image_model(L.Conv2D(N, 3), L.BatchNormalization(), L.ReLU(), L.Dense(2))
    weights = [array.copy() for array in model.get_weights()]
    config = model.get_config()
    prepare(model)
    assert model.get_config() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


REFUSED = {
    "LayerNormalization": (L.LayerNormalization(name="culprit"), "BatchNormalization"),
    "Conv2DTranspose": (L.Conv2DTranspose(4, 3, name="culprit"), "UpSampling2D"),
    "ReLU": (L.ReLU(threshold=1.0, name="culprit"), "threshold=0"),
    "Activation": (L.Activation("gelu", name="culprit"), "use relu"),
    "Softmax": (L.Softmax(axis=1, name="culprit"), "last axis"),
    "BatchNormalization": (L.BatchNormalization(axis=1, name="culprit"), "last axis"),
    "UpSampling2D": (L.UpSampling2D(interpolation="lanczos3", name="culprit"), "bilinear"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_layer_its_class_and_the_way_out(kind):
    layer, advice = REFUSED[kind]
    with pytest.raises(UnsupportedLayerError) as refusal:
        prepare(image_model(layer))
    assert f"layer 'culprit' ({kind})" in str(refusal.value)
    assert advice in str(refusal.value)


def test_a_subclassed_layer_is_refused():
    class Strange(L.Conv2D):
        def call(self, inputs):
            return super().call(inputs) * 2

    with pytest.raises(UnsupportedLayerError, match=r"'odd' \(Strange\)"):
        prepare(image_model(Strange(N, 3, name="odd")))


def test_unsupported_operations_are_refused_by_name():
    inputs = keras.Input((H, W, C))
    with pytest.raises(UnsupportedLayerError, match=r"\(Exp\)"):
        prepare(keras.Model(inputs, ops.exp(inputs)))


def test_constants_that_vary_with_the_position_are_refused():
    inputs = keras.Input((H, W, C))
    model = keras.Model(inputs, inputs * np.arange(W * C, dtype="float32").reshape(W, C))
    with pytest.raises(UnsupportedLayerError, match="one value for each channel"):
        prepare(model)


@pytest.mark.parametrize(
    "model", [keras.Sequential([L.Dense(2)]), "not a model"], ids=["unbuilt", "text"]
)
def test_unbuilt_models_get_one_clear_error(model):
    with pytest.raises(ValueError, match=r"keras\.Model|symbolic inputs"):
        prepare(model)


def test_unknown_sizes_are_refused():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(ValueError, match="fixed sizes"):
        prepare(keras.Model(inputs, L.Conv2D(2, 3)(inputs)))


@pytest.mark.parametrize(
    "name",
    [
        "mlperf_tiny/tiny_ic.keras",
        "mlperf_tiny/tiny_kws.keras",
        "mlperf_tiny/tiny_vww.keras",
        "mlperf_tiny/tiny_ad.keras",
        "mlperf_tiny/tiny_sww.keras",
        "cifar10/cifar_resnet20.keras",
    ],
)
def test_real_models(assets, name):
    check(keras.models.load_model(assets / name, compile=False))
