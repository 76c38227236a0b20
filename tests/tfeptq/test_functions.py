"""Functions of one number on every target: by a table, by operators, or refused by name.

A table is right to half a step of its output at every integer of its input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfeptq
import tflite_export
from tfeptq.before_data import look_ahead
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tflite_export.graph.structure import IntegerGraph
from tflite_export.targets import TARGETS

SHAPE = (8, 16)
#: Of all numbers.
ANY: dict[str, Callable[[Any], Any]] = {
    name: getattr(ops, name)
    for name in (
        *("arcsinh", "arctan", "ceil", "celu", "cos", "cosh", "elu", "erf", "exp", "exp2"),
        *("expm1", "floor", "gelu", "hard_shrink", "log_sigmoid", "round", "selu", "sign"),
        *("sin", "sinh", "soft_shrink", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
        *("squareplus", "tanh_shrink", "trunc", "absolute", "negative", "square", "relu"),
        *(
            "relu6",
            "sigmoid",
            "tanh",
            "silu",
            "hard_sigmoid",
            "hard_silu",
            "hard_tanh",
            "leaky_relu",
        ),
    )
} | {
    "gelu of erf": lambda x: ops.gelu(x, approximate=False),
    "mish": L.Activation("mish"),
    "hard_silu": L.Activation("hard_silu"),
    "elu of another slope": lambda x: ops.elu(x, 0.6),
    "threshold": lambda x: ops.threshold(x, 0.2, -0.1),
    "relu with a threshold": L.ReLU(threshold=0.3),
    "relu with all": L.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2),
    "relu with a bound": L.ReLU(max_value=1.0),
    "fifth power": lambda x: x**5,
    "third power": lambda x: x**3,
    "power of two": lambda x: 2.0**x,
    "greater": lambda x: ops.cast(x > 0.1, "float32"),
    "at most": lambda x: ops.cast(x <= 0.1, "float32"),
    "modulo": lambda x: ops.mod(x, 0.75),
    "whole parts": lambda x: ops.floor_divide(x, 0.5),
    "of a scale and an offset": lambda x: 3.0 * ops.softplus(-2.0 * x + 0.5) - 1.0,
}
#: Of numbers from 0.05 to 3.
POSITIVE: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(ops, name) for name in ("log", "log10", "log1p", "log2")},
    **{name: getattr(ops, name) for name in ("reciprocal", "rsqrt", "sqrt")},
    "root of a sum": lambda x: 2.0 / ops.sqrt(x + 0.5),
    "power": lambda x: x**1.7,
    "negative power": lambda x: x**-1.5,
    "arccos": lambda x: ops.arccos(x / 4.0),
    "arccosh": lambda x: ops.arccosh(x + 1.0),
    "arcsin": lambda x: ops.arcsin(x / 4.0),
    "arctanh": lambda x: ops.arctanh(x / 4.0),
    "tangent": lambda x: ops.tan(x / 3.0),
}
NAMES = (*ANY, *POSITIVE)
#: What the Edge TPU can compute, by operators of its own; it has no tables.
OF_CORAL = {
    *("absolute", "negative", "square", "relu", "relu6", "sigmoid", "tanh", "silu"),
    *("hard_sigmoid", "hard_silu", "hard_tanh", "gelu", "relu with a bound", "third power"),
    *("leaky_relu", "rsqrt", "sqrt", "root of a sum"),
}
#: On Ethos-U what differs from other microcontrollers, and some others.
OF_ETHOS = {"gelu", "gelu of erf", "exp", "elu", "hard_silu", *NAMES[::8]}
PROMISED = {
    "android": list(NAMES),
    "coral": [name for name in NAMES if name in OF_CORAL],
    "ethos-u": [name for name in NAMES if name in OF_ETHOS],
    "microcontroller": list(NAMES),
}
#: Name -> target whose kernels compute it; the others have tables.
NATIVE = {"gelu": ("android", "ethos-u"), "exp": ("android", "ethos-u")}
REFUSED = [(name, "coral") for name in NAMES if name not in OF_CORAL]
#: Noise of what is computed by several operators of 8 bits.
LEAST_DECIBELS = 25.0


def model_of(*names: str) -> keras.Model:
    inputs = {"any": keras.Input(SHAPE, name="any"), "shares": keras.Input(SHAPE, name="shares")}
    outputs = []
    for name in names:
        function, given = (ANY[name], "any") if name in ANY else (POSITIVE[name], "shares")
        if isinstance(function, keras.Layer):
            function = type(function).from_config(function.get_config())
        outputs.append(function(inputs[given]))
    return keras.Model(list(inputs.values()), outputs, name="functions")


def config_of(target: str) -> tfeptq.QuantizationConfig:
    return tfeptq.QuantizationConfig(
        target=target, rounding="nearest", threshold="max", samples=64, bias_correction=False
    )


@dataclasses.dataclass(frozen=True)
class Exported:
    """All functions that a target has, in one file.

    Attributes:
        found: outputs of the file, and of the float model, by name.
        integers: what the float model makes of the inputs as the file holds them.
    """

    graph: IntegerGraph
    found: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]
    of_integers: dict[str, np.ndarray]

    def output(self, name: str) -> str:
        return self.graph.outputs[list(self.found).index(name)][1]

    def is_table(self, name: str) -> bool:
        (maker,) = [each for each in self.graph.operators if self.output(name) in each.outputs]
        return maker.kind == "GATHER"


def rounded(graph: IntegerGraph, samples: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """The numbers that a file's input integers stand for."""
    made = []
    for (_, name), values in zip(graph.inputs, samples, strict=True):
        quantization = graph.tensors[name].quantization
        scale, zero_point = quantization.scale[0], quantization.zero_point
        integers = np.clip(np.round(values / scale) + zero_point, -128, 127)
        made.append(((integers - zero_point) * scale).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def exported(request, tmp_path_factory) -> Callable[[str], Exported]:
    known: dict[str, Exported] = {}

    def of(target: str) -> Exported:
        if target not in known:
            path = tmp_path_factory.mktemp("functions") / "m.tflite"
            names, generator = PROMISED[target], np.random.default_rng(0)
            samples = (
                generator.normal(0, 1.5, (64, *SHAPE)).clip(-4, 4).astype("float32"),
                generator.uniform(0.05, 3.0, (64, *SHAPE)).astype("float32"),
            )
            model = model_of(*names)
            quantized = tfeptq.quantize(model, samples, config_of(target))
            tflite_export.export(quantized, path)
            graph = quantized.freeze()
            found, wanted, of_integers = (
                dict(zip(names, arrays, strict=True))
                for arrays in (
                    tflite_export.run(path, list(samples), runtime="litert"),
                    model.predict(samples, verbose=0),
                    model.predict(rounded(graph, samples), verbose=0),
                )
            )
            known[target] = Exported(graph, found, wanted, of_integers)
        return known[target]

    return of


@pytest.mark.parametrize(
    ("target", "name"), [(target, name) for target in TARGETS for name in PROMISED[target]]
)
def test_a_promised_function_is_near_float(exported, target, name):
    road = exported(target)
    found = road.found[name].astype(np.float64)
    if road.is_table(name):
        assert target not in NATIVE.get(name, ())
        quantization = road.graph.tensors[road.output(name)].quantization
        scale, zero_point = float(quantization.scale[0]), quantization.zero_point
        highest, lowest = (127 - zero_point) * scale, (-128 - zero_point) * scale
        reached = road.of_integers[name].clip(lowest, highest)
        assert np.abs(found - reached).max() <= 0.501 * scale
        assert found.std() > scale
        return
    wanted = road.wanted[name].astype(np.float64)
    noise = np.mean((found - wanted) ** 2)
    assert 10 * np.log10(np.mean(wanted**2) / noise) > LEAST_DECIBELS


@pytest.mark.parametrize(("name", "target"), REFUSED)
def test_what_a_target_lacks_is_refused_by_name_before_the_work(name, target):
    config = config_of(target)
    with pytest.raises(ValueError, match=f"layer '.*target '{target}'.*android"):
        look_ahead(QuantizationPlan.of(prepare(model_of(name), config), config), config)


def test_a_table_of_16_bits_is_exact_where_a_target_has_it(tmp_path):
    """1 / sqrt(x) of a layer normalization, which kernels of 16 bits compute to 1 %."""
    samples = np.random.default_rng(0).normal(size=(64, *SHAPE)).astype("float32")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, L.LayerNormalization()(inputs))
    config = dataclasses.replace(config_of("android"), activation_bits=16)
    quantized = tfeptq.quantize(model, samples, config)
    tflite_export.export(quantized, tmp_path / "m.tflite")
    found = tflite_export.run(tmp_path / "m.tflite", samples, runtime="litert")
    wanted = model.predict(samples, verbose=0)
    assert 10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2)) > 60
    graph = quantized.freeze()
    (table,) = (graph.tensors[each.inputs[0]] for each in graph.operators if each.kind == "GATHER")
    assert table.data.shape == (2**15,), "a variance is not negative: half a table"


#: Bounds that no value comes near: they cost no code, however far they are.
DISTANT: dict[str, Callable[[Any, float], Any]] = {
    "minimum": ops.minimum,
    "maximum": lambda x, bound: ops.maximum(x, -bound),
    "clip": lambda x, bound: ops.clip(x, -bound, bound),
    "by channel": lambda x, bound: ops.clip(x, [-bound, -2 * bound, -bound], bound),
    "relu": lambda x, bound: L.ReLU(max_value=bound, negative_slope=0.1)(x),
}


@pytest.mark.parametrize("bound", [30.0, 1e6, 1e12, float(np.finfo("float32").max), np.inf])
@pytest.mark.parametrize("name", DISTANT)
def test_a_distant_bound_takes_no_codes(name, bound, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 4))
    x = DISTANT[name](L.Dense(3)(inputs), bound)
    model = keras.Model(inputs, L.Dense(2)(x))
    samples = np.random.default_rng(0).normal(size=(33, 5, 4)).astype("float32")
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=33, target="microcontroller")
    quantized = tfeptq.quantize(model, samples, config)
    assert quantized.report.quality.outputs[0].sqnr > 30.0
    if bound == 1e6:
        tflite_export.export(quantized, tmp_path / "m.tflite")
        found = tflite_export.run(tmp_path / "m.tflite", samples, runtime="tflm")
        assert np.square(found - model(samples)).mean() < 1e-3 * np.var(model(samples))
