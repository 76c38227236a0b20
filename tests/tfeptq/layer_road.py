"""The whole road of single layers: save, load, freeze, write and run, the same for each.

One model has a branch, and an output, for every layer, so that they are quantized once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L

import tfeptq
import tflite_export
from tfeptq.canonical.argmax_layer import ArgMax
from tfeptq.canonical.functions import gelu_tanh, rsqrt
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.canonical.matmul_layer import MatMul
from tfeptq.canonical.mean_layer import Mean
from tfeptq.canonical.resize_layer import Resize
from tfeptq.canonical.table_layer import Table
from tfeptq.model import QuantizedModel
from tflite_export.file.reader import parse
from tflite_export.file.stored import StoredModel
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor

SHAPE = (6, 5, 4)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer.

    Attributes:
        layer: made with the name that it gets.
        kind: the operator that executes it.
        reads: number of images that it takes; 0: it takes the features of one, (n,).
        of_shares: it takes numbers from 0 to 1.
        has_road: a model of branches of one image has no place for it: it has tests of its own.
    """

    layer: Callable[[str], keras.Layer]
    kind: str
    reads: int = 1
    of_shares: bool = False
    has_road: bool = True


def _of(kind: type[keras.Layer], *arguments: Any, **settings: Any) -> Callable[[str], keras.Layer]:
    return lambda name: kind(*arguments, name=name, **settings)


#: Name -> case. Where a layer has two operators, it has two.
CASES: dict[str, Case] = {
    "conv": Case(_of(L.Conv2D, 3, 3, padding="same", strides=2), "CONV_2D"),
    "depthwise": Case(_of(L.DepthwiseConv2D, 3, depth_multiplier=2), "DEPTHWISE_CONV_2D"),
    "transposed": Case(_of(L.Conv2DTranspose, 3, (3, 2), 2, "same"), "TRANSPOSE_CONV"),
    "dense": Case(_of(L.Dense, 3), "FULLY_CONNECTED"),
    "max_pooling": Case(_of(L.MaxPooling2D, 2), "MAX_POOL_2D"),
    "average_pooling": Case(_of(L.AveragePooling2D, 2, padding="same"), "AVERAGE_POOL_2D"),
    "mean": Case(_of(L.GlobalAveragePooling2D), "MEAN"),
    "add": Case(_of(L.Add), "ADD", reads=2),
    "subtract": Case(_of(L.Subtract), "SUB", reads=2),
    "multiply": Case(_of(L.Multiply), "MUL", reads=2),
    "maximum": Case(_of(L.Maximum), "MAXIMUM", reads=2),
    "minimum": Case(_of(L.Minimum), "MINIMUM", reads=2),
    "concatenate": Case(_of(L.Concatenate), "CONCATENATION", reads=2),
    "reshape": Case(_of(L.Reshape, (5, 6, 4)), "RESHAPE"),
    "permute": Case(_of(L.Permute, (2, 1, 3)), "TRANSPOSE"),
    "padding": Case(_of(L.ZeroPadding2D, 1), "PAD"),
    "cropping": Case(_of(L.Cropping2D, 1), "SLICE"),
    "nearest": Case(_of(L.UpSampling2D, 2), "RESIZE_NEAREST_NEIGHBOR"),
    "bilinear": Case(_of(L.UpSampling2D, 2, interpolation="bilinear"), "RESIZE_BILINEAR"),
    "resize_nearest": Case(_of(Resize, 7, 4, "nearest"), "RESIZE_NEAREST_NEIGHBOR"),
    "resize": Case(_of(Resize, 4, 7, "bilinear"), "RESIZE_BILINEAR"),
    "relu": Case(_of(L.ReLU), "RELU"),
    "relu6": Case(_of(L.ReLU, 6.0), "RELU6"),
    "leaky_relu": Case(_of(L.LeakyReLU, 0.2), "LEAKY_RELU"),
    "prelu": Case(_of(L.PReLU, "random_uniform", shared_axes=[1, 2]), "PRELU"),
    "softmax": Case(_of(L.Softmax), "SOFTMAX", reads=0),
    "sigmoid": Case(_of(L.Activation, "sigmoid"), "LOGISTIC"),
    "tanh": Case(_of(L.Activation, "tanh"), "TANH"),
    "gelu": Case(_of(L.Activation, "gelu"), "GELU"),
    "gelu_tanh": Case(_of(L.Activation, gelu_tanh), "GELU"),
    # On its own the function is a table, which is exact; normalizations have the operator.
    "rsqrt": Case(_of(L.Activation, rsqrt), "RSQRT", has_road=False),
    "matmul": Case(_of(MatMul, transpose_b=True), "BATCH_MATMUL", reads=2),
    "table": Case(_of(Table, [("softplus", {})]), "GATHER"),
    "argmax": Case(_of(ArgMax), "ARG_MAX", has_road=False),
    "lookup": Case(_of(Lookup, 5, 3), "GATHER", has_road=False),
    "mean_of_channels": Case(_of(Mean, axes=(3,), keepdims=True), "MEAN"),
    "exponential": Case(_of(L.Activation, "exponential"), "EXP"),
    "elu": Case(_of(L.Activation, "elu"), "ELU"),
    "hard_silu": Case(_of(L.Activation, "hard_silu"), "HARD_SWISH"),
}


def branches(names: tuple[str, ...]) -> keras.Model:
    """Every layer on tensors that other layers read too, each an output of the model."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, name="image")
    images = [L.Conv2D(4, 1, name="one")(inputs), L.Conv2D(4, 1, name="two")(inputs)]
    features = L.Flatten(name="features")(images[0])
    shares = L.Activation("sigmoid", name="shares")(images[1])
    outputs = []
    for name in names:
        case = CASES[name]
        reads = features if case.reads == 0 else images[: case.reads]
        reads = reads[0] if case.reads == 1 else reads
        outputs.append(case.layer(name)(shares if case.of_shares else reads))
    return keras.Model(inputs, outputs, name="branches")


@dataclasses.dataclass(frozen=True)
class Road:
    """What came of a model of branches at each station.

    Attributes:
        graph: of the quantized model, and `again` of the loaded one.
        predictions: outputs of the quantized model, of the loaded one and of the file, each a list
            in the order of the branches.
    """

    quantized: QuantizedModel
    loaded: QuantizedModel
    graph: IntegerGraph
    again: IntegerGraph
    stored: StoredModel
    verification: tflite_export.Verification
    predictions: Mapping[str, list[np.ndarray]]

    def operators(self, layer: str) -> list[Operator]:
        return [operator for operator in self.graph.operators if operator.layer == layer]

    def constants(self, layer: str) -> list[Tensor]:
        names = [name for operator in self.operators(layer) for name in operator.inputs]
        tensors = map(self.graph.tensors.__getitem__, names)
        return [tensor for tensor in tensors if tensor.is_constant]


class LayerRoad:
    """Tests of every layer; a subclass says which, for what target and in which widths.

    Attributes:
        names: of the cases.
        target, weight_bits, activation_bits: of all of them.
        runtime: what executes the file.
        most, average: distance of the Keras model from the file, in steps of the output's scale.
    """

    names: tuple[str, ...]
    target = "android"
    weight_bits = 8
    activation_bits = 8
    runtime = "litert"
    most, average = 1.0, 0.1

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "name" in metafunc.fixturenames:
            metafunc.parametrize("name", self.names)

    @pytest.fixture(scope="class")
    def road(self, tmp_path_factory) -> Road:
        folder = tmp_path_factory.mktemp("road")
        samples = np.random.default_rng(0).normal(size=(48, *SHAPE)).astype("float32")
        config = tfeptq.QuantizationConfig(
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            target=self.target,
            first_last_bits=None,
            rounding="nearest",
            threshold="max",
            samples=len(samples),
        )
        quantized = tfeptq.quantize(branches(self.names), samples, config)
        quantized.save(folder / "m.keras")
        loaded = tfeptq.load_model(folder / "m.keras")
        exported = tflite_export.export(loaded, folder / "m.tflite")
        predictions = {
            "quantized": quantized.predict(samples, verbose=0),
            "loaded": loaded.predict(samples, verbose=0),
            "file": tflite_export.run(folder / "m.tflite", samples, runtime=self.runtime),
        }
        stored = parse((folder / "m.tflite").read_bytes())
        graphs = quantized.freeze(), loaded.freeze()
        return Road(quantized, loaded, *graphs, stored, exported.verification, predictions)

    def test_loaded_it_is_what_was_saved(self, road, name):
        saved, loaded = (layer_of(model, name) for model in (road.quantized, road.loaded))
        assert type(saved) is type(loaded)
        for left, right in zip(saved.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(left, right)
        place = self.names.index(name)
        before, after = (road.predictions[key][place] for key in ("quantized", "loaded"))
        np.testing.assert_array_equal(before, after)
        assert road.loaded.bit_widths[name] == road.quantized.bit_widths[name]

    def test_frozen_it_is_its_operator(self, road, name):
        assert CASES[name].kind in {operator.kind for operator in road.operators(name)}
        for operator in road.operators(name):
            assert operator in road.again.operators
            for tensor in operator.inputs:
                left, right = road.graph.tensors[tensor], road.again.tensors[tensor]
                np.testing.assert_array_equal(left.quantization.scale, right.quantization.scale)
                if left.is_constant:
                    np.testing.assert_array_equal(left.data, right.data)

    def test_written_it_holds_the_frozen_integers(self, road, name):
        kinds = {operator.kind for operator in road.stored.operators}
        assert CASES[name].kind in kinds
        for constant in road.constants(name):
            assert any(
                np.array_equal(constant.data, stored.values)
                and np.array_equal(constant.quantization.scale, stored.scale)
                for stored in road.stored.tensors
                if stored.values is not None
            )

    def test_run_it_computes_what_keras_predicts(self, road, name):
        place = self.names.index(name)
        predicted, found = (road.predictions[key][place] for key in ("quantized", "file"))
        scale = float(road.graph.tensors[road.graph.outputs[place][1]].quantization.scale[0])
        steps = np.abs(predicted - found) / scale
        assert predicted.std() > scale
        assert steps.max() < self.most + 0.01
        assert steps.mean() < self.average

    def test_every_runtime_that_ran_was_compared_on_it(self, road, name):
        results = {tensor for operator in road.operators(name) for tensor in operator.outputs}
        ran = [report for report in road.verification.runtimes if report.skipped is None]
        # A runtime without a kernel says so by layer; another one then proves it.
        reports = [report for report in ran if name not in report.left_out]
        assert reports
        for report in reports:
            assert results & {difference.tensor for difference in report.operators}


def layer_of(model: keras.Model, name: str) -> keras.Layer:
    return model.get_layer(name)
