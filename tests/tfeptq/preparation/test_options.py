"""Every option of every supported layer is honoured, refused or known to change no prediction.

The lists are compared with the signatures: an option that a new Keras adds is noticed here.
"""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

from tests.tfeptq.preparation.canonical_check import check, randomize
from tfeptq.preparation import UnsupportedLayerError, prepare, prove
from tfeptq.preparation.layers import LAYERS
from tfeptq.preparation.operations import SUPPORTED

#: Options that matter in training only, or at the start of it.
HARMLESS = {
    *("kernel_initializer", "bias_initializer", "depthwise_initializer", "pointwise_initializer"),
    *("embeddings_initializer", "embeddings_regularizer", "embeddings_constraint", "weights"),
    *("alpha_initializer", "beta_initializer", "gamma_initializer"),
    *("moving_mean_initializer", "moving_variance_initializer"),
    *("kernel_regularizer", "bias_regularizer", "depthwise_regularizer", "pointwise_regularizer"),
    *("alpha_regularizer", "beta_regularizer", "gamma_regularizer", "activity_regularizer"),
    *("kernel_constraint", "bias_constraint", "depthwise_constraint", "pointwise_constraint"),
    *("alpha_constraint", "beta_constraint", "gamma_constraint"),
    *("momentum", "synchronized", "renorm", "renorm_clipping", "renorm_momentum"),
    *("lora_alpha", "seed", "name", "dtype", "trainable", "autocast"),
    # Says how quantize() would go about it; a layer that was quantized so is refused.
    "quantization_config",
}
#: Layers that do nothing at inference, whatever their options.
IDLE = {
    kind
    for kind in LAYERS
    if "training" in inspect.signature(kind.call).parameters
    if kind not in (L.Dense, L.BatchNormalization, L.Resizing, L.CenterCrop)
} | {L.ActivityRegularization}
#: Arguments without which a layer cannot be made.
NEEDED = {
    L.Dense: {"units": 4},
    L.Resizing: {"height": 8, "width": 5},
    L.CenterCrop: {"height": 4, "width": 5},
    L.Embedding: {"input_dim": 20, "output_dim": 4},
    L.Conv1D: {"filters": 4, "kernel_size": 3},
    L.Conv2D: {"filters": 4, "kernel_size": 3},
    L.Conv1DTranspose: {"filters": 4, "kernel_size": 3},
    L.Conv2DTranspose: {"filters": 4, "kernel_size": 3},
    L.DepthwiseConv1D: {"kernel_size": 3},
    L.DepthwiseConv2D: {"kernel_size": 3},
    L.SeparableConv1D: {"filters": 4, "kernel_size": 3},
    L.SeparableConv2D: {"filters": 4, "kernel_size": 3},
    L.Rescaling: {"scale": 2.0},
    L.Activation: {"activation": "tanh"},
    L.Reshape: {"target_shape": (-1,)},
    L.Permute: {"dims": (2, 1, 3)},
    L.GaussianNoise: {"stddev": 1.0},
    L.RandomPosterization: {"factor": 4},
    L.RandomTranslation: {"height_factor": 0.5, "width_factor": 0.5},
    L.RandomZoom: {"height_factor": 0.5},
}
for _kind in LAYERS:
    _needed = inspect.signature(_kind.__init__).parameters
    for _name, _value in (("rate", 0.5), ("factor", 0.5), ("pool_size", 2)):
        if _name in _needed and _needed[_name].default is inspect.Parameter.empty:
            NEEDED.setdefault(_kind, {_name: _value})
#: Option -> a value that is honoured.
HONOURED = {
    "units": 5,
    "height": 11,
    "width": 13,
    "fill_mode": "constant",
    "fill_value": 1.0,
    "input_dim": 30,
    "mask_zero": True,
    "output_dim": 5,
    "activation": "relu",
    "use_bias": False,
    "lora_rank": 2,
    "filters": 5,
    "kernel_size": 2,
    "strides": 2,
    "padding": "same",
    "dilation_rate": 2,
    "groups": 3,
    "depth_multiplier": 2,
    "shared_axes": [1, 2],
    "epsilon": 0.5,
    "center": False,
    "scale": False,
    "mean": 0.5,
    "variance": 2.0,
    "invert": True,
    "offset": 1.5,
    "max_value": 1.5,
    "threshold": 0.5,
    "negative_slope": 0.25,
    "alpha": 0.25,
    "output_padding": 0,
    "pool_size": 3,
    "keepdims": True,
    "target_shape": (7, -1),
    "dims": (2, 3, 1),
    "cropping": 2,
    "size": 3,
    "interpolation": "bilinear",
    "axis": -1,
    "data_format": "channels_last",
}
HONOURED_BY_LAYER = {
    (L.Activation, "activation"): "sigmoid",
    (L.CenterCrop, "height"): 7,
    (L.CenterCrop, "width"): 2,
    (L.Resizing, "crop_to_aspect_ratio"): True,
    (L.Resizing, "pad_to_aspect_ratio"): True,
    (L.Rescaling, "scale"): [1.0, 2.0, 3.0],
    (L.Conv2D, "filters"): 6,
    (L.Conv1D, "filters"): 6,
    (L.ZeroPadding1D, "padding"): (2, 1),
    (L.ZeroPadding2D, "padding"): ((2, 1), (0, 1)),
    (L.Concatenate, "axis"): 2,
    (L.Normalization, "axis"): 1,
    (L.BatchNormalization, "axis"): 1,
    (L.Softmax, "axis"): (1, 3),
    (L.Conv2D, "groups"): 2,
}
#: Option -> a value that is refused, and why.
REFUSED = {
    "data_format": ("channels_first", "channels_last"),
}
REFUSED_BY_LAYER = {
    (L.Softmax, "axis"): ((0, 1), "axes of a sample"),
    (L.Resizing, "antialias"): (True, "leave it out"),
    (L.UpSampling2D, "interpolation"): ("bicubic", "bilinear"),
    (L.Concatenate, "axis"): (0, "the batch"),
}
ONE_DIMENSION = {kind for kind in LAYERS if "1D" in kind.__name__}
MERGES = {L.Add, L.Subtract, L.Multiply, L.Maximum, L.Minimum, L.Average, L.Concatenate}


def options(kind: type) -> list[str]:
    parameters = inspect.signature(kind.__init__).parameters
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        name for name, entry in parameters.items() if name != "self" and entry.kind not in kinds
    ]


def with_option(kind: type, name: str, value: object) -> keras.Model:
    settings = {**NEEDED.get(kind, {}), name: value}
    if kind is L.Normalization and name != "axis":
        settings = {"mean": 0.25, "variance": 1.5, **settings}
    if kind is L.Normalization and name == "axis":
        settings |= {"mean": np.arange(9.0), "variance": np.arange(1.0, 10.0)}
    if name == "groups":
        settings["filters"] = 6
    if name == "groups" and value == 2:
        settings["filters"] = 4
    inputs = keras.Input((8, 3) if kind in ONE_DIMENSION else (9, 7, 4 if value == 2 else 3))
    layer = kind(**settings)
    return randomize(keras.Model(inputs, layer([inputs, inputs] if kind in MERGES else inputs)))


def layer_options() -> list[tuple[type, str]]:
    return [(kind, name) for kind in LAYERS if kind not in IDLE for name in options(kind)]


@pytest.mark.parametrize(("kind", "name"), layer_options(), ids=lambda v: getattr(v, "__name__", v))
def test_every_option_is_honoured_refused_or_harmless(kind, name):
    honoured = HONOURED_BY_LAYER.get((kind, name), HONOURED.get(name))
    refused = REFUSED_BY_LAYER.get((kind, name), REFUSED.get(name))
    if name in HARMLESS:
        return
    assert honoured is not None or refused is not None, f"{kind.__name__} has a new option {name!r}"
    if honoured is not None:
        check(with_option(kind, name, honoured))
    if refused is not None:
        with pytest.raises(UnsupportedLayerError, match=refused[1]):
            prepare(with_option(kind, name, refused[0]))


def test_options_of_all_layers_are_known():
    assert set(options(L.Layer)) <= HARMLESS


@pytest.mark.parametrize("kind", sorted(IDLE, key=lambda kind: kind.__name__))
def test_idle_layers_do_nothing_at_inference(kind):
    inputs = keras.Input((8, 3) if kind in ONE_DIMENSION else (9, 7, 3))
    canonical = check(keras.Model(inputs, kind(**NEEDED.get(kind, {}))(inputs)))
    assert len(canonical.layers) == 1


@pytest.mark.parametrize("kind", LAYERS)
def test_every_argument_of_a_call_is_bound(kind):
    (_, *others) = inspect.signature(kind.call).parameters
    assert set(others) - {"self", "inputs", "data"} <= {"training", "mask"}


def test_constant_masks_say_what_is_averaged():
    inputs = keras.Input((8, 3))
    mask = np.arange(8)[None] < 5
    model = keras.Model(inputs, L.GlobalAveragePooling1D()(inputs, mask=mask))
    samples = np.random.default_rng(0).normal(size=(4, 8, 3)).astype("float32")
    prove(model, prepare(model), [samples])


def test_layers_that_keras_quantized_are_refused():
    inputs = keras.Input((8,))
    layer = L.Dense(4, name="dense")
    model = keras.Model(inputs, layer(inputs))
    layer.quantize("int8")
    with pytest.raises(UnsupportedLayerError, match=r"'dense' \(Dense\): is quantized by Keras"):
        prepare(model)


def test_layers_that_compute_in_integers_are_refused():
    inputs = keras.Input((8,), dtype="int32")
    with pytest.raises(UnsupportedLayerError, match="computes in int32"):
        prepare(keras.Model(inputs, L.ReLU(dtype="int32")(inputs)))


#: Class of an operation -> its settings, all of which the handlers read.
OPERATIONS = {
    "AdaptiveAveragePool": {"output_size", "data_format"},
    "AdaptiveMaxPool": {"output_size", "data_format"},
    "AveragePool": {"pool_size", "strides", "padding", "data_format"},
    "Amax": {"axis", "keepdims"},
    "Amin": {"axis", "keepdims"},
    "Argmax": {"axis", "keepdims"},
    "Average": {"axis"},
    "Celu": {"alpha"},
    "Cumsum": {"axis", "dtype"},
    "Diff": {"axis", "n"},
    "Glu": {"axis"},
    "HardShrink": {"threshold"},
    "LogSoftmax": {"axis"},
    "Logsumexp": {"axis", "keepdims"},
    "Norm": {"axis", "keepdims", "ord"},
    "OneHot": {"num_classes", "axis", "dtype", "sparse"},
    "Prod": {"axis", "dtype", "keepdims"},
    "Roll": {"axis", "shift"},
    "Rot90": {"axes", "k"},
    "Round": {"decimals"},
    "SoftShrink": {"threshold"},
    "Squareplus": {"b"},
    "Threshold": {"default_value", "threshold"},
    "Tril": {"k"},
    "Triu": {"k"},
    # Calibration refuses numbers that are none.
    "NanToNum": {"nan", "neginf", "posinf"},
    "BroadcastTo": {"shape"},
    "Cast": {"dtype"},
    "Clip": {"x_min", "x_max"},
    "Concatenate": {"axis"},
    # In any floating-point type.
    "ConvertToTensor": {"dtype", "sparse", "ragged"},
    "Conv": {"strides", "padding", "data_format", "dilation_rate"},
    "DepthwiseConv": {"strides", "padding", "data_format", "dilation_rate"},
    "Einsum": {"subscripts"},
    "ExpandDims": {"axis"},
    "Flip": {"axis"},
    "DotProductAttention": {"is_causal", "flash_attention", "attn_logits_soft_cap"},
    "Elu": {"alpha"},
    "Gelu": {"approximate"},
    "LayerNorm": {"axis", "epsilon", "rms_scaling"},
    "ExtractPatches": {"size", "strides", "dilation_rate", "padding", "data_format"},
    "LeakyRelu": {"negative_slope"},
    "Max": {"axis", "keepdims", "initial"},
    "MaxPool": {"pool_size", "strides", "padding", "data_format"},
    "Mean": {"axis", "keepdims"},
    "Min": {"axis", "keepdims", "initial"},
    # What is done in training only.
    "Moments": {"axes", "keepdims", "synchronized"},
    "Normalize": {"axis", "order", "epsilon"},
    "RMSNorm": {"axis", "epsilon"},
    "Std": {"axis", "keepdims"},
    "Var": {"axis", "keepdims"},
    "Moveaxis": {"source", "destination"},
    # In any type the array holds the same numbers.
    "OnesLike": {"dtype"},
    "ZerosLike": {"dtype"},
    "Pad": {"pad_width", "mode"},
    "ReLU": {"negative_slope", "max_value", "threshold"},
    "Repeat": {"repeats", "axis"},
    "Reshape": {"newshape"},
    # Keras fills the frame of a padding resize with one value only.
    "Resize": {
        *("size", "interpolation", "antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio"),
        *("fill_mode", "fill_value", "data_format"),
    },
    "SeparableConv": {"strides", "padding", "data_format", "dilation_rate"},
    "Softmax": {"axis"},
    "Split": {"indices_or_sections", "axis"},
    "Squeeze": {"axis"},
    "Stack": {"axis"},
    "Sum": {"axis", "keepdims"},
    "Swapaxes": {"axis1", "axis2"},
    "Tensordot": {"axes"},
    "Take": {"axis"},
    "Tile": {"repeats"},
    "Transpose": {"axes"},
    # Their number is that of the places.
    "Unstack": {"num", "axis"},
}
CALLS = {
    "take": lambda x: ops.take(x, [0, 2], axis=-1),
    "dot_product_attention": lambda x: ops.dot_product_attention(x, x, x),
    "elu": lambda x: ops.elu(x, 0.5),
    "exp": ops.exp,
    "arccos": ops.arccos,
    "arccosh": ops.arccosh,
    "arcsin": ops.arcsin,
    "arcsinh": ops.arcsinh,
    "arctan": ops.arctan,
    "arctanh": ops.arctanh,
    "ceil": ops.ceil,
    "cos": ops.cos,
    "cosh": ops.cosh,
    "erf": ops.erf,
    "exp2": ops.exp2,
    "expm1": ops.expm1,
    "floor": ops.floor,
    "log": ops.log,
    "log10": ops.log10,
    "log1p": ops.log1p,
    "log2": ops.log2,
    "log_sigmoid": ops.log_sigmoid,
    "reciprocal": ops.reciprocal,
    "selu": ops.selu,
    "sign": ops.sign,
    "sin": ops.sin,
    "sinh": ops.sinh,
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "sparse_plus": ops.sparse_plus,
    "sparse_sigmoid": ops.sparse_sigmoid,
    "tan": ops.tan,
    "tanh_shrink": ops.tanh_shrink,
    "trunc": ops.trunc,
    "celu": ops.celu,
    "hard_shrink": ops.hard_shrink,
    "soft_shrink": ops.soft_shrink,
    "squareplus": ops.squareplus,
    "round": ops.round,
    "nan_to_num": ops.nan_to_num,
    "log_softmax": ops.log_softmax,
    "tril": ops.tril,
    "triu": ops.triu,
    "amax": lambda x: ops.amax(x, axis=1),
    "amin": lambda x: ops.amin(x, axis=1),
    "average": lambda x: ops.average(x, axis=1),
    "cumsum": lambda x: ops.cumsum(x, axis=1),
    "diff": ops.diff,
    "equal": lambda x: ops.equal(x, 0.0),
    "floor_divide": lambda x: ops.floor_divide(x, 0.5),
    "glu": lambda x: ops.glu(x[:, 1:], axis=1),
    "greater": lambda x: ops.greater(x, 0.0),
    "greater_equal": lambda x: ops.greater_equal(x, 0.0),
    "hypot": lambda x: ops.hypot(x, x),
    "less": lambda x: ops.less(x, 0.0),
    "less_equal": lambda x: ops.less_equal(x, 0.0),
    "logaddexp": lambda x: ops.logaddexp(x, x),
    "logic": lambda x: ops.logical_not(ops.logical_and(ops.logical_or(x > 1.0, x > 2.0), x > 3.0)),
    "logsumexp": lambda x: ops.logsumexp(x, axis=1),
    "mod": lambda x: ops.mod(x, 2.0),
    "norm": lambda x: ops.norm(x, axis=-1),
    "not_equal": lambda x: ops.not_equal(x, 0.0),
    "prod": lambda x: ops.prod(x, axis=1),
    "roll": lambda x: ops.roll(x, 1, axis=1),
    "rot90": lambda x: ops.rot90(x, axes=(1, 2)),
    "threshold": lambda x: ops.threshold(x, 0.5, 0.1),
    "where": lambda x: ops.where(x > 0.0, x, 1.0),
    "gelu": ops.gelu,
    "layer_normalization": ops.layer_normalization,
    "moments": lambda x: ops.moments(x, axes=[-1])[0],
    "normalize": lambda x: ops.normalize(x, axis=-1),
    "rms_normalization": ops.rms_normalization,
    "rsqrt": ops.rsqrt,
    "sqrt": ops.sqrt,
    "std": lambda x: ops.std(x, axis=1),
    "var": lambda x: ops.var(x, axis=1),
    "absolute": ops.absolute,
    "broadcast_to": lambda x: ops.broadcast_to(x, (1, 9, 7, 3)),
    "convert_to_tensor": ops.convert_to_tensor,
    "einsum": lambda x: ops.einsum("abcd,de->abce", x, np.ones((3, 2), "float32")),
    "flip": lambda x: ops.flip(x, axis=1),
    "min": lambda x: ops.min(x, axis=(1, 2)),
    "repeat": lambda x: ops.repeat(x, 2, axis=1),
    "stack": lambda x: ops.stack([x, x], axis=1),
    "sum": lambda x: ops.sum(x, axis=(1, 2)),
    "tensordot": lambda x: ops.tensordot(x, np.ones((3, 2), "float32"), axes=1),
    "tile": lambda x: ops.tile(x, (1, 2, 1, 1)),
    "unstack": lambda x: ops.unstack(x, axis=1)[0],
    "add": lambda x: ops.add(x, x),
    "adaptive_average_pool": lambda x: ops.adaptive_average_pool(x, (3, 7)),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, (9, 1)),
    "average_pool": lambda x: ops.average_pool(x, 2),
    "cast": lambda x: ops.cast(x, "float32"),
    "clip": lambda x: ops.clip(x, -1.0, 1.0),
    "concatenate": lambda x: ops.concatenate([x, x]),
    "conv": lambda x: ops.conv(x, np.ones((1, 1, 3, 2), "float32")),
    "depthwise_conv": lambda x: ops.depthwise_conv(x, np.ones((1, 1, 3, 1), "float32")),
    "divide": lambda x: ops.divide(x, 2.0),
    "dot": lambda x: ops.dot(x, np.ones((3, 2), "float32")),
    "expand_dims": lambda x: ops.expand_dims(x, -1),
    "extract_patches": lambda x: ops.image.extract_patches(x, 3),
    "get_item": lambda x: x[:, 1:],
    "hard_sigmoid": ops.hard_sigmoid,
    "hard_silu": ops.hard_silu,
    "hard_tanh": ops.hard_tanh,
    "leaky_relu": ops.leaky_relu,
    "matmul": lambda x: ops.matmul(x, np.ones((3, 2), "float32")),
    "max": lambda x: ops.max(x, axis=(1, 2)),
    "argmax": lambda x: ops.argmax(x, axis=-1),
    "max_pool": lambda x: ops.max_pool(x, 2),
    "maximum": lambda x: ops.maximum(x, 0.0),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "minimum": lambda x: ops.minimum(x, 0.0),
    "moveaxis": lambda x: ops.moveaxis(x, 1, 2),
    "multiply": lambda x: ops.multiply(x, x),
    "negative": ops.negative,
    "one_hot": lambda x: ops.one_hot(ops.argmax(x, axis=-1), 3),
    "ones_like": ops.ones_like,
    "pad": lambda x: ops.pad(x, 1),
    "power": lambda x: ops.power(x, 2),
    "relu": ops.relu,
    "relu of a layer": lambda x: keras.activations.relu(x, negative_slope=0.1),
    "relu6": ops.relu6,
    "reshape": lambda x: ops.reshape(x, (-1, 9)),
    "resize": lambda x: ops.image.resize(x, (18, 14)),
    "separable_conv": lambda x: ops.separable_conv(
        x, np.ones((1, 1, 3, 1), "float32"), np.ones((1, 1, 3, 2), "float32")
    ),
    "sigmoid": ops.sigmoid,
    "silu": ops.silu,
    "softmax": ops.softmax,
    "split": lambda x: ops.split(x, 3, axis=-1),
    "square": ops.square,
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, -1)),
    "stop_gradient": ops.stop_gradient,
    "subtract": lambda x: ops.subtract(x, 1.0),
    "swapaxes": lambda x: ops.swapaxes(x, 1, 2),
    "tanh": ops.tanh,
    "transpose": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "true_divide": lambda x: x / 2.0,
    "zeros_like": ops.zeros_like,
}


def test_settings_of_operations_are_all_read():
    inputs = keras.Input((9, 7, 3))
    seen: dict[str, type] = {}
    for name, call in CALLS.items():
        model = keras.Model(inputs, call(inputs))
        for operation in model.operations:
            if not isinstance(operation, keras.Layer):
                seen[type(operation).__name__] = type(operation)
                known = OPERATIONS.get(type(operation).__name__, set())
                assert set(options(type(operation))) - {"name"} == known, name
    assert set(seen) == SUPPORTED
