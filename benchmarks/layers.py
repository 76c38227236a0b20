"""Which layers and activation functions of Keras each target takes, as a page of Markdown.

    python -m benchmarks.layers > docs/layers.md

Every layer is prepared and planned for every target, with 8-bit and 16-bit activations. No data is
needed for that: it is what `tfeptq.quantize` refuses before it looks at any.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import tfeptq
from tfeptq.before_data import look_ahead
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import as_functional
from tflite_export.targets import TARGETS

_L = keras.layers
#: Shapes that layers are tried on: a line, an image, a volume, features, tokens.
_LINE, _IMAGE, _VOLUME, _FEATURES = (8, 6), (8, 9, 6), (5, 4, 6, 4), (12,)
_PICTURE = (8, 9, 3)
#: Augmentation that wants to know how much.
_BY_FACTOR = (
    "RandomBrightness", "RandomColorDegeneration", "RandomContrast", "RandomHue",
    "RandomRotation", "RandomSaturation", "RandomSharpness", "RandomZoom",
)  # fmt: skip

#: Layer -> how it is made where its class is not enough, and what it reads.
_MADE: dict[str, tuple[Callable[[type], Any], tuple[int, ...]]] = {
    "Activation": (lambda c: c("relu"), _IMAGE),
    "AdaptiveAveragePooling1D": (lambda c: c(4), _LINE),
    "AdaptiveAveragePooling2D": (lambda c: c((4, 3)), _IMAGE),
    "AdaptiveAveragePooling3D": (lambda c: c(2), _VOLUME),
    "AdaptiveMaxPooling3D": (lambda c: c(2), _VOLUME),
    "AveragePooling1D": (lambda c: c(2), _LINE),
    "AveragePooling2D": (lambda c: c(2), _IMAGE),
    "AveragePooling3D": (lambda c: c(2), _VOLUME),
    "SpatialDropout3D": (lambda c: c(0.5), _VOLUME),
    "RandomPosterization": (lambda c: c(4), _PICTURE),
    "RandomCrop": (lambda c: c(4, 3), _PICTURE),
    "RandomTranslation": (lambda c: c(0.1, 0.1), _PICTURE),
    "AdaptiveMaxPooling1D": (lambda c: c(4), _LINE),
    "AdaptiveMaxPooling2D": (lambda c: c((4, 3)), _IMAGE),
    "Bidirectional": (lambda c: c(_L.LSTM(5)), _LINE),
    "CenterCrop": (lambda c: c(4, 3), _IMAGE),
    "Conv1D": (lambda c: c(4, 3), _LINE),
    "Conv1DTranspose": (lambda c: c(4, 3), _LINE),
    "Conv2D": (lambda c: c(4, 3), _IMAGE),
    "Conv2DTranspose": (lambda c: c(4, 3), _IMAGE),
    "Conv3D": (lambda c: c(4, 3), _VOLUME),
    "Conv3DTranspose": (lambda c: c(4, 3), _VOLUME),
    "ConvLSTM1D": (lambda c: c(4, 3), (3, 8, 4)),
    "ConvLSTM2D": (lambda c: c(4, 3), (3, 8, 7, 4)),
    "ConvLSTM3D": (lambda c: c(4, 3), (2, 4, 5, 4, 3)),
    "Cropping1D": (lambda c: c(1), _LINE),
    "Cropping2D": (lambda c: c(1), _IMAGE),
    "Cropping3D": (lambda c: c(1), _VOLUME),
    "Dense": (lambda c: c(5), _FEATURES),
    "DepthwiseConv1D": (lambda c: c(3), _LINE),
    "DepthwiseConv2D": (lambda c: c(3), _IMAGE),
    "Discretization": (lambda c: c([0.0, 1.0]), _FEATURES),
    "CategoryEncoding": (lambda c: c(4), _FEATURES),
    "Dropout": (lambda c: c(0.5), _IMAGE),
    "AlphaDropout": (lambda c: c(0.5), _IMAGE),
    "GaussianDropout": (lambda c: c(0.5), _IMAGE),
    "GaussianNoise": (lambda c: c(0.5), _IMAGE),
    "EinsumDense": (lambda c: c("abc,cd->abd", (None, 7)), _LINE),
    "GRU": (lambda c: c(5), _LINE),
    "GroupNormalization": (lambda c: c(3), _IMAGE),
    "Hashing": (lambda c: c(4), _FEATURES),
    "LSTM": (lambda c: c(5), _LINE),
    "Lambda": (lambda c: c(lambda x: 2.0 * x), _IMAGE),
    "Permute": (lambda c: c((2, 1, 3)), _IMAGE),
    "RNN": (lambda c: c(_L.GRUCell(5)), _LINE),
    "RepeatVector": (lambda c: c(3), _FEATURES),
    "Rescaling": (lambda c: c(1 / 255), _IMAGE),
    "Reshape": (lambda c: c((-1,)), _IMAGE),
    "Resizing": (lambda c: c(5, 7), _IMAGE),
    "SeparableConv1D": (lambda c: c(4, 3), _LINE),
    "SeparableConv2D": (lambda c: c(4, 3), _IMAGE),
    "SimpleRNN": (lambda c: c(5), _LINE),
    "SpatialDropout1D": (lambda c: c(0.5), _LINE),
    "SpatialDropout2D": (lambda c: c(0.5), _IMAGE),
    "SpectralNormalization": (lambda c: c(_L.Conv2D(4, 3)), _IMAGE),
    "StackedRNNCells": (lambda c: _L.RNN(c([_L.LSTMCell(4), _L.LSTMCell(5)])), _LINE),
    "GRUCell": (lambda c: _L.RNN(c(5)), _LINE),
    "LSTMCell": (lambda c: _L.RNN(c(5)), _LINE),
    "SimpleRNNCell": (lambda c: _L.RNN(c(5)), _LINE),
    "TimeDistributed": (lambda c: c(_L.Dense(5)), _LINE),
    "MelSpectrogram": (lambda c: c(), (4000,)),
    "STFTSpectrogram": (lambda c: c(), (1000, 1)),
}
#: Layers that read two tensors.
_MERGES = (
    "Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract",
)  # fmt: skip
_ATTENTION: dict[str, Callable[[type, Any], Any]] = {
    "AdditiveAttention": lambda c, x: c()([x, x]),
    "Attention": lambda c, x: c()([x, x]),
    "Dot": lambda c, x: c(axes=2)([x, x]),
    "GroupQueryAttention": lambda c, x: c(3, 4, 2)(x, x),
    "MultiHeadAttention": lambda c, x: c(2, 3)(x, x),
}
_TOKENS: dict[str, Callable[[type, Any], Any]] = {
    "Embedding": lambda c, x: c(11, 6)(x),
    "ReversibleEmbedding": lambda c, x: c(11, 6)(x),
}
#: Not layers to put into a network, or of another framework, or on text.
_OUT = {
    "Equalization", "FlaxLayer", "HashedCrossing", "InputLayer", "InputSpec",
    "IntegerLookup", "JaxLayer", "Layer",
    "MaxNumBoundingBoxes", "Pipeline", "StringLookup", "TFSMLayer", "TextVectorization",
    "TorchModuleWrapper", "Wrapper",
}  # fmt: skip
_SETTINGS = {"8": {"activation_bits": 8}, "16": {"activation_bits": 16}}


def layers() -> dict[str, keras.Model]:
    """Name of a layer -> a model of it alone; without other names of the same class."""
    found: dict[str, keras.Model] = {}
    for name in sorted(dir(_L)):
        kind = getattr(_L, name)
        if isinstance(kind, type) and kind.__name__ == name and name not in _OUT:
            found[name] = _model(name, kind)
    return found


def functions() -> dict[str, keras.Model]:
    """Name of an activation function -> a model of it alone."""
    names = [name for name in dir(keras.activations) if not name.startswith("_")]
    left_out = {"deserialize", "get", "serialize"}
    found: dict[str, keras.Model] = {}
    for name in names:
        function = getattr(keras.activations, name)
        if callable(function) and name not in left_out and function.__name__ == name:
            inputs = keras.Input((8, 6))
            found[name] = keras.Model(inputs, _L.Activation(_given(function))(inputs))
    return found


def _given(function: Callable[..., Any]) -> Callable[..., Any]:
    if function is keras.activations.threshold:
        return lambda x: keras.activations.threshold(x, 0.1, 0.0)
    return function


def _model(name: str, kind: type) -> keras.Model:
    if name in _TOKENS:
        tokens = keras.Input((8,), dtype="int32")
        return keras.Model(tokens, _TOKENS[name](kind, tokens))
    if name in _ATTENTION:
        line = keras.Input(_LINE)
        return keras.Model(line, _ATTENTION[name](kind, line))
    if name in _MERGES:
        pair = [keras.Input(_IMAGE), keras.Input(_IMAGE)]
        return keras.Model(pair, kind()(pair))
    if name in _BY_FACTOR:
        picture = keras.Input(_PICTURE)
        return keras.Model(picture, kind(0.1)(picture))
    make, shape = _MADE.get(name, (lambda c: c(), _shape(name)))
    inputs = keras.Input(shape)
    layer = make(kind)
    if isinstance(layer, _L.Normalization):
        layer.adapt(np.random.default_rng(0).normal(size=(16, *shape)))
    return keras.Model(inputs, layer(inputs))


def _shape(name: str) -> tuple[int, ...]:
    ends = {"1D": _LINE, "2D": _IMAGE, "3D": _VOLUME}
    other = _PICTURE if name.startswith("Random") else _IMAGE
    return next((shape for end, shape in ends.items() if name.endswith(end)), other)


def verdicts(model: keras.Model) -> dict[str, str] | str:
    """Target -> widths of activations that it takes; or why nothing does."""
    try:
        functional = as_functional(model, None)
        tfeptq.prepare(functional)
    except Exception as error:
        if not isinstance(error, ValueError):
            raise
        return str(error).splitlines()[0]
    return {target: _widths(functional, target) for target in TARGETS}


def _widths(functional: keras.Model, target: str) -> str:
    taken = []
    for name, settings in _SETTINGS.items():
        config = tfeptq.QuantizationConfig(target=target, **settings)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Which kernels compute a function depends on the target.
                canonical = tfeptq.prepare(functional, config)
                look_ahead(QuantizationPlan.of(canonical, config), config)
        except ValueError:
            continue
        taken.append(name)
    return ", ".join(taken) or "no"


def page() -> str:
    """Markdown."""
    lines = [
        "# Which layers each target takes",
        "",
        "By `python -m benchmarks.layers`, with Keras "
        f"{keras.__version__}. 8 and 16: widths of activations with which `tfeptq.quantize` takes "
        "a model of this layer alone, "
        "in its default or simplest form; layers that need 16 bits here and 8 there take them by "
        "layer. Layers of preprocessing and augmentation that do nothing in inference vanish.",
    ]
    for title, models in (("Layers", layers()), ("Activation functions", functions())):
        lines += ["", f"## {title}", "", *_table({k: verdicts(m) for k, m in models.items()})]
    return "\n".join(lines)


def _table(found: Mapping[str, dict[str, str] | str]) -> list[str]:
    rows = [f"| | {' | '.join(TARGETS)} |", "|---" * (1 + len(TARGETS)) + "|"]
    refused = []
    for name, verdict in found.items():
        if isinstance(verdict, str):
            refused.append(f"| {name} | {_cell(verdict)} |")
        else:
            rows.append(f"| {name} | {' | '.join(verdict[target] for target in TARGETS)} |")
    if not refused:
        return rows
    return [*rows, "", "Refused:", "", "| | with these words |", "|---|---|", *refused]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    print(page())
