"""Freezing: every learned quantity becomes an integer or a float32 scale, once.

Writes what `tfeptq.quantized.written` reads of the model, step by step, in the integers and scales
of its layers and quantizers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import activation_range, bias_dtype
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.lookup_layer import Lookup
from tfeptq.canonical.names import free_name, unique_name
from tfeptq.canonical.primitives import primitive_of
from tfeptq.canonical.table_layer import Table
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedPReLU, QuantizedWeights
from tfeptq.quantized.written import Written, WrittenKernel, WrittenSlopes
from tflite_export import targets
from tflite_export.graph import limits
from tflite_export.graph.activations import RELU, RELU6
from tflite_export.graph.case import largest_distance
from tflite_export.graph.codes import lowest_code, stays_within
from tflite_export.graph.kinds import ACTIVATION
from tflite_export.graph.proofs import prove
from tflite_export.graph.structure import (
    IntegerGraph,
    Operator,
    Quantization,
    Tensor,
    parameters,
)
from tflite_export.graph.validation import validated
from tflite_export.operators import nonlinear
from tflite_export.operators.elementwise import MAXIMUM
from tflite_export.operators.rescaling import QUANTIZE
from tflite_export.operators.tables import integers, place_operators, shift_operator

#: An input that nothing reads stays one of the file: integers from -1 to 1, whatever is passed.
_UNREAD = Tensor("", (), "int8", Quantization(np.array([1 / 128], np.float32)))


def freeze(model: keras.Model, *, target: str | None = None) -> IntegerGraph:
    """The integer graph of a model of quantized layers, with batch 1.

    Args:
        model: folded, see `tfeptq.freeze.folding.fold`; that leaves its predictions as they are.
        target: whose kernels the graph is for; None: nobody's in particular.

    Raises:
        ValueError: some kernel cannot hold what it would have to, naming the layer.
    """
    runtimes = () if target is None else targets.capabilities(target).runtimes
    return prove(validated(_Freezer(model).graph()), runtimes=runtimes)


def _primitive(layer: keras.Layer) -> keras.Layer:
    """The layer of the canonical model that a quantized one wraps, or itself."""
    return layer.layer if isinstance(layer, keras.layers.Wrapper) else layer


class _Freezer:
    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._written = Written.of(model)
        self._shapes = self._written.graph.shapes(model)
        #: Name of every tensor that the model's layers know.
        self._names: dict[Key, str] = {}
        self._tensors: dict[str, Tensor] = {}
        #: Constants of layers that may be called several times: their weights are written once.
        self._parameters: dict[keras.Layer, str] = {}
        self._biases: dict[tuple[keras.Layer, bytes, bytes], str] = {}
        self._operators: list[Operator] = []
        #: Tensor -> its integers as places of tables, which all tables of it read.
        self._counted: dict[str, str] = {}

    def graph(self) -> IntegerGraph:
        for step in self._written.steps:
            if isinstance(step, WrittenSlopes):
                self._slopes(step.layer)
            elif isinstance(step, WrittenKernel):
                self._names[step.result] = self._kernel(step)
            elif step.constant is not None:
                self._names[step.result] = self._constant(step.constant, _like(step.target))
            else:
                self._names[step.result] = self._input(step.result, _like(step.target))
        graph = self._written.graph
        for key in graph.inputs:
            if key not in self._names:
                self._input(key, _UNREAD)
        inputs = tuple((key[0], key[0]) for key in graph.inputs)
        outputs = [self._name(key) for key in graph.outputs]
        return IntegerGraph(
            self._model.name,
            self._tensors,
            tuple(self._operators),
            inputs,
            tuple(zip(_public_names(outputs), outputs, strict=True)),
        )

    def _name(self, key: Key) -> str:
        self._written.quantizer(key)
        return self._names[key]

    def _kernel(self, kernel: WrittenKernel) -> str:
        """Adds an operator, where it does anything; the tensor that it writes."""
        inputs = [self._names[key] for key in kernel.call.inputs]
        if isinstance(kernel.layer, ActivationQuantizer):
            return self._rescaled(kernel, inputs[0])
        like = _like(kernel.target)
        if kernel.moves:
            like = next(t for t in map(self._tensors.__getitem__, inputs) if not t.is_constant)
        if isinstance(kernel.layer, Lookup):
            inputs = [self._table(kernel.layer, like), self._rows(kernel.layer, inputs[0])]
        elif isinstance(kernel.layer, Table):
            source = self._tensors[inputs[0]]
            inputs = [self._results(kernel.layer, source, like), self._places(source)]
        kind, attributes = self._operator(kernel.call)
        if kernel.relu is not None:
            attributes = {**attributes, ACTIVATION: self._operator(kernel.relu)[0]}
        if isinstance(kernel.layer, QuantizedWeights):
            inputs += self._weights(kernel.layer, self._tensors[inputs[0]], like)
        elif isinstance(kernel.layer, QuantizedPReLU):
            inputs.append(self._slopes(kernel.layer))
        kind, attributes = _without_idle_relu6(kind, attributes, like)
        operator = Operator(kind, tuple(inputs), (), kernel.layer.name, attributes)
        return self._emit(operator, like, kernel.result)

    def _operator(self, call: Call) -> tuple[str, dict[str, Any]]:
        shapes = self._shapes[call.output], self._shapes[call.inputs[0]]
        return primitive_of(call.layer).operator(_primitive(call.layer), *shapes)

    def _rescaled(self, kernel: WrittenKernel, source: str) -> str:
        """A tensor in another scale; where that is its own, cut to the quantizer's width."""
        like, layer = _like(kernel.target), kernel.layer.name
        if parameters(self._tensors[source]) != parameters(like):
            operator = Operator(QUANTIZE.name, (source,), (), layer, {})
            return self._emit(operator, like, kernel.result)
        if like.bits >= self._tensors[source].bits:
            return source
        return self._clamp(source, self._unique(f"{source}/clamped"), like.bits, layer)

    def _input(self, key: Key, like: Tensor) -> str:
        """Callers may pass every integer of the type, whatever the width."""
        shape, bits = self._shapes[key], max(like.bits, 8)
        return self._add(dataclasses.replace(like, name=key[0], shape=shape, bits=bits))

    def _constant(self, constant: Constant, like: Tensor) -> str:
        return self._array(constant.name, ops.convert_to_numpy(constant.value)[None], like)

    def _table(self, layer: Lookup, like: Tensor) -> str:
        return self._array(f"{layer.name}/table", ops.convert_to_numpy(layer.table), like)

    def _rows(self, layer: Lookup, numbers: str) -> str:
        """The numbers of rows that a table reads."""
        if not layer.added.any():
            return numbers
        amounts, name = layer.added[None], f"{layer.name}/added"
        source = self._tensors[numbers]
        tensors, operator = shift_operator(source, amounts, name, layer.name, self._unique)
        self._operators.append(operator)
        return [self._add(tensor) for tensor in tensors][-1]

    def _results(self, layer: Table, source: Tensor, like: Tensor) -> str:
        """A function at all integers of a tensor, computed in float32 as in Keras."""
        steps = self._integers(source) - source.quantization.zero_point
        arguments = steps.astype(np.float32) * source.quantization.scale[0]
        return self._array(f"{layer.name}/table", layer.results(arguments), like)

    def _places(self, source: Tensor) -> str:
        if source.name not in self._counted:
            first = int(self._integers(source)[0])
            tensors, operators = place_operators(source, first, source.name, self._unique)
            for tensor in tensors:
                self._add(tensor)
            self._operators += operators
            self._counted[source.name] = tensors[-1].name
        return self._counted[source.name]

    def _integers(self, source: Tensor) -> np.ndarray:
        """Those that tables of a tensor have results for."""
        return integers(self._tensors, self._operators, source.name)

    def _array(self, name: str, values: np.ndarray, like: Tensor) -> str:
        """An array in the integers that its quantizer makes of it in Keras."""
        scale, zero_point = like.quantization.scale[0], like.quantization.zero_point
        codes = np.round(values / scale) + zero_point
        data = np.clip(codes, *activation_range(like.bits)).astype(like.dtype)
        name, bits = self._unique(name), max(like.bits, 8)
        return self._add(
            dataclasses.replace(like, name=name, shape=data.shape, data=data, bits=bits)
        )

    def _emit(self, operator: Operator, like: Tensor, key: Key) -> str:
        """Adds an operator; its output has the type, parameters and codes of `like`."""
        name = self._unique(operator.layer)
        output = dataclasses.replace(like, name=name, shape=self._shapes[key], data=None)
        operator = dataclasses.replace(operator, outputs=(name,))
        if stays_within(operator, {**self._tensors, name: output}):
            self._operators.append(operator)
            return self._add(output)
        unclamped = self._unique(f"{name}/unclamped")
        source = self._add(dataclasses.replace(output, name=unclamped, bits=8))
        self._operators.append(dataclasses.replace(operator, outputs=(source,)))
        return self._clamp(source, name, output.bits, operator.layer)

    def _clamp(self, source: str, name: str, bits: int, layer: str) -> str:
        """A MAXIMUM with the lowest code: `bits` wide codes of a tensor that may have more."""
        wide = self._tensors[source]
        data = np.full((1,) * len(wide.shape), lowest_code(bits), np.int8)
        lowest = self._add(
            Tensor(self._unique(f"{name}/lowest"), data.shape, wide.dtype, wide.quantization, data)
        )
        self._operators.append(Operator(MAXIMUM.name, (source, lowest), (name,), layer, {}))
        return self._add(dataclasses.replace(wide, name=name, bits=bits))

    def _add(self, tensor: Tensor) -> str:
        self._tensors[tensor.name] = tensor
        return tensor.name

    def _unique(self, name: str) -> str:
        return free_name(name, self._tensors)

    def _weights(self, layer: QuantizedWeights, source: Tensor, like: Tensor) -> list[str]:
        """Weight and bias constants; a shared layer's weights are written once."""
        stored = layer.stored()
        if layer not in self._parameters:
            integers, axis = linear.in_file(layer.layer, stored.codes)
            self._parameters[layer] = self._add(
                Tensor(
                    self._unique(f"{layer.name}/weights"),
                    integers.shape,
                    "int8",
                    Quantization(stored.scale, 0, axis),
                    integers,
                    stored.bits,
                )
            )
        bias = layer.integer_bias(
            source.quantization.scale[0],
            like.quantization.scale[0],
            reach=largest_distance(source),
            dtype=like.dtype,
        ).astype(bias_dtype(source.dtype))
        unit = np.float64(source.quantization.scale[0]) * stored.scale.astype(np.float64)
        unit = unit.astype(np.float32)
        # Of calls in one scale, such as the steps of a sequence, there is one bias.
        identity = (layer, bias.tobytes(), unit.tobytes())
        if identity not in self._biases:
            tensor = Tensor(
                self._unique(f"{layer.name}/bias"),
                bias.shape,
                str(bias.dtype),
                Quantization(unit),
                bias,
                bias.dtype.itemsize * 8,
            )
            self._biases[identity] = self._add(tensor)
        return [self._parameters[layer], self._biases[identity]]

    def _slopes(self, layer: QuantizedPReLU) -> str:
        if layer not in self._parameters:
            stored = layer.stored()
            name = self._unique(f"{layer.name}/alpha")
            self._parameters[layer] = self._add(
                Tensor(name, stored.codes.shape, "int8", Quantization(stored.scale), stored.codes)
            )
        return self._parameters[layer]


def _public_names(tensors: list[str]) -> list[str]:
    """The tensors' own names; one that is an output again gets another."""
    taken, names = set(tensors), list[str]()
    for tensor in tensors:
        names.append(unique_name(tensor, taken) if tensor in names else tensor)
    return names


def _without_idle_relu6(
    kind: str, attributes: dict[str, Any], like: Tensor
) -> tuple[str, dict[str, Any]]:
    """Kind and attributes, with ReLU where six is out of the output's reach and of int32's."""
    if float(like.quantization.scale[0]) >= limits.RELU6_SCALE:
        return kind, attributes
    kind = nonlinear.RELU.name if kind == nonlinear.RELU6.name else kind
    is_fused = attributes.get(ACTIVATION) == RELU6
    return kind, {**attributes, **({ACTIVATION: RELU} if is_fused else {})}


def _like(quantizer: ActivationQuantizer) -> Tensor:
    """A tensor in the scale and width of a quantizer, whose name and shape are missing."""
    scale, zero_point = quantizer.parameters()
    quantization = Quantization(np.atleast_1d(scale), zero_point)
    return Tensor("", (), quantizer.container, quantization, bits=quantizer.bits)
