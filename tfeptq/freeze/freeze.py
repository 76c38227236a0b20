"""Freezing: every learned quantity becomes an integer or a float32 scale, once.

Walks the quantized model's own graph. A layer's result waits (`_Pending`) until the quantizer that
follows says in which scale it is written; a ReLU in between joins the operator.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import activation_dtype, activation_range
from tfeptq.canonical.layer_graph import Call, Key, LayerGraph
from tfeptq.canonical.names import unique_name
from tfeptq.canonical.primitives import primitive_of
from tfeptq.plan.topology import is_relu, keeps_grid
from tfeptq.quantized.grids import written_bits
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedPReLU, QuantizedWeights
from tflite_export.graph import limits
from tflite_export.graph.case import largest_distance
from tflite_export.graph.codes import lowest_code, stays_within
from tflite_export.graph.proofs import prove
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.graph.validation import validated

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel


#: An input that nothing reads stays one of the file: integers from -1 to 1, whatever is passed.
_UNREAD = Tensor("", (), "int8", Quantization(np.array([1 / 128], np.float32)))


@dataclasses.dataclass
class _Pending:
    """An operator whose output scale is not known yet; `tensors` are its inputs."""

    kind: str
    tensors: list[str]
    layer: str
    attributes: dict[str, Any]
    weights: QuantizedWeights | None = None


def freeze(model: QuantizedModel) -> IntegerGraph:
    """The integer graph of a quantized model, with batch 1.

    Learned factors are folded into scales first (`QuantizedModel.fold`), which leaves the model's
    predictions as they are.

    Raises:
        ValueError: some kernel cannot hold what it would have to, naming the layer.
    """
    model.fold()
    return prove(validated(_Freezer(model).graph()), target=model.target)


def bit_widths(model: QuantizedModel) -> dict[str, tuple[int | None, int]]:
    """Layer name -> (weight bits or None, bits of its output), inputs too, in execution order.

    A layer that is called several times has one width of its weights, but may have outputs of
    several: where, say, its calls feed ReLUs of 8 and of 5 bits. The widest is told.
    """
    graph = LayerGraph.of(model)
    written, consumers = written_bits(graph), graph.consumers()

    def output_bits(key: Key) -> int:
        while key not in written:
            if key not in consumers:
                return _UNREAD.bits
            key = consumers[key][0].output
        return written[key]

    result: dict[str, tuple[int | None, int]] = {
        key[0]: (None, output_bits(key)) for key in graph.inputs
    }
    for call in graph.calls:
        if not isinstance(call.layer, ActivationQuantizer):
            weights = call.layer.bits if isinstance(call.layer, QuantizedWeights) else None
            _, earlier = result.get(call.layer.name, (weights, 0))
            result[call.layer.name] = (weights, max(earlier, output_bits(call.output)))
    return result


def _primitive(layer: keras.Layer) -> keras.Layer:
    """The layer of the canonical model that a quantized one wraps, or itself."""
    return layer.layer if isinstance(layer, keras.layers.Wrapper) else layer


class _Freezer:
    def __init__(self, model: QuantizedModel) -> None:
        self._model = model
        self._layers = LayerGraph.of(model)
        self._shapes = self._layers.shapes(model)
        self._values: dict[Key, str | _Pending] = {}
        self._tensors: dict[str, Tensor] = {}
        #: Constants of layers that may be called several times: their weights are written once.
        self._written: dict[keras.Layer, str] = {}
        self._operators: list[Operator] = []

    def graph(self) -> IntegerGraph:
        for key in self._layers.inputs:
            self._values[key] = _Pending("INPUT", [], key[0], {})
        for call in self._layers.calls:
            self._values[call.output] = self._value(call)
        for key in self._layers.inputs:
            if isinstance(self._values[key], _Pending) and key[0] not in self._tensors:
                self._input(key[0], _UNREAD, self._shapes[key])
        inputs = tuple((key[0], f"{key[0]}") for key in self._layers.inputs)
        outputs = [self._tensor_name(key) for key in self._layers.outputs]
        return IntegerGraph(
            self._model.name,
            self._tensors,
            tuple(self._operators),
            inputs,
            tuple(zip(_public_names(outputs), outputs, strict=True)),
        )

    def _tensor_name(self, key: Key) -> str:
        value = self._values[key]
        if isinstance(value, _Pending):
            raise ValueError(f"layer {value.layer!r} has no activation quantizer behind it")
        return value

    def _value(self, call: Call) -> str | _Pending:
        layer = call.layer
        if isinstance(layer, ActivationQuantizer):
            return self._quantize(call)
        if is_relu(layer):
            return self._relu(call)
        if isinstance(layer, Constant):
            return _Pending("CONSTANT", [], layer.name, {"value": layer.value})
        inputs = [self._tensor_name(key) for key in call.inputs]
        pending = self._pending(call, inputs)
        if keeps_grid(layer):
            like = next(t for t in map(self._tensors.__getitem__, inputs) if not t.is_constant)
            return self._emit(pending, like, call.output)
        return pending

    def _pending(self, call: Call, inputs: list[str]) -> _Pending:
        layer = call.layer
        output, source = self._shapes[call.output], self._shapes[call.inputs[0]]
        kind, attributes = primitive_of(layer).operator(_primitive(layer), output, source)
        pending = _Pending(kind, inputs, layer.name, attributes)
        if isinstance(layer, QuantizedWeights):
            pending.weights = layer
        if isinstance(layer, QuantizedPReLU):
            pending.tensors = [*inputs, self._slopes(layer)]
        return pending

    def _relu(self, call: Call) -> str | _Pending:
        """A ReLU joins the operator before it, or works on the integers in their own scale."""
        kind = primitive_of(call.layer).kind_of(call.layer)
        value = self._values[call.inputs[0]]
        if isinstance(value, _Pending) and "activation" in value.attributes:
            attributes = {**value.attributes, "activation": kind}
            return dataclasses.replace(value, attributes=attributes)
        pending = _Pending(kind, [self._tensor_name(call.inputs[0])], call.layer.name, {})
        if call.layer.max_value is not None:
            return pending
        return self._emit(pending, self._tensors[pending.tensors[0]], call.output)

    def _quantize(self, call: Call) -> str:
        """Writes what waits in the quantizer's scale; on a written tensor: a requantization."""
        scale, zero_point = call.layer.parameters()
        like = Tensor(
            "",
            (),
            activation_dtype(call.layer.bits),
            Quantization(np.atleast_1d(scale), zero_point),
            bits=call.layer.bits,
        )
        value = self._values[call.inputs[0]]
        if isinstance(value, _Pending) and value.kind == "INPUT":
            value = self._input(value.layer, like, self._shapes[call.output])
        if isinstance(value, _Pending) and value.kind == "CONSTANT":
            return self._constant(value, like)
        if isinstance(value, _Pending):
            return self._emit(value, like, call.output)
        if not _same_parameters(self._tensors[value], like):
            pending = _Pending("QUANTIZE", [value], call.layer.name, {})
            return self._emit(pending, like, call.output)
        if like.bits >= self._tensors[value].bits:
            return value
        return self._clamp(value, self._unique(f"{value}/clamped"), like.bits, call.layer.name)

    def _input(self, name: str, like: Tensor, shape: tuple[int, ...]) -> str:
        """Callers may pass every integer of the type, whatever the width."""
        bits = max(like.bits, 8)
        return self._add(dataclasses.replace(like, name=name, shape=shape, bits=bits))

    def _constant(self, pending: _Pending, like: Tensor) -> str:
        """An array in the integers that its quantizer makes of it in Keras."""
        scale, zero_point = like.quantization.scale[0], like.quantization.zero_point
        values = ops.convert_to_numpy(pending.attributes["value"])[None]
        codes = np.round(values / scale) + zero_point
        data = np.clip(codes, *activation_range(like.bits)).astype(like.dtype)
        name, bits = self._unique(pending.layer), max(like.bits, 8)
        return self._add(
            dataclasses.replace(like, name=name, shape=data.shape, data=data, bits=bits)
        )

    def _emit(self, pending: _Pending, like: Tensor, key: Key) -> str:
        """Adds the operator; its output has the type, parameters and codes of `like`."""
        name = self._unique(pending.layer)
        output = dataclasses.replace(like, name=name, shape=self._shapes[key], data=None)
        inputs = list(pending.tensors)
        if pending.weights is not None:
            inputs += self._weights(pending.weights, self._tensors[inputs[0]], like, pending.kind)
        kind, attributes = _without_idle_relu6(pending, like)
        operator = Operator(kind, tuple(inputs), (name,), pending.layer, attributes)
        if stays_within(operator, {**self._tensors, name: output}):
            self._operators.append(operator)
            return self._add(output)
        unclamped = self._unique(f"{name}/unclamped")
        source = self._add(dataclasses.replace(output, name=unclamped, bits=8))
        self._operators.append(dataclasses.replace(operator, outputs=(source,)))
        return self._clamp(source, name, output.bits, pending.layer)

    def _clamp(self, source: str, name: str, bits: int, layer: str) -> str:
        """A MAXIMUM with the lowest code: `bits` wide codes of a tensor that may have more."""
        wide = self._tensors[source]
        data = np.full((1,) * len(wide.shape), lowest_code(bits), np.int8)
        lowest = self._add(
            Tensor(self._unique(f"{name}/lowest"), data.shape, wide.dtype, wide.quantization, data)
        )
        self._operators.append(Operator("MAXIMUM", (source, lowest), (name,), layer, {}))
        return self._add(dataclasses.replace(wide, name=name, bits=bits))

    def _add(self, tensor: Tensor) -> str:
        self._tensors[tensor.name] = tensor
        return tensor.name

    def _unique(self, name: str) -> str:
        return unique_name(name, set(self._tensors))

    def _weights(
        self, layer: QuantizedWeights, source: Tensor, like: Tensor, kind: str
    ) -> list[str]:
        """Weight and bias constants; a shared layer's weights are written once."""
        stored = layer.stored()
        if layer not in self._written:
            integers, axis = linear.in_file(layer.layer, stored.codes)
            self._written[layer] = self._add(
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
        ).astype(np.int64 if source.dtype == "int16" else np.int32)
        unit = np.float64(source.quantization.scale[0]) * stored.scale.astype(np.float64)
        return [
            self._written[layer],
            self._add(
                Tensor(
                    self._unique(f"{layer.name}/bias"),
                    bias.shape,
                    str(bias.dtype),
                    Quantization(unit.astype(np.float32)),
                    bias,
                    bias.dtype.itemsize * 8,
                )
            ),
        ]

    def _slopes(self, layer: QuantizedPReLU) -> str:
        if layer not in self._written:
            stored = layer.stored()
            name = self._unique(f"{layer.name}/alpha")
            self._written[layer] = self._add(
                Tensor(name, stored.codes.shape, "int8", Quantization(stored.scale), stored.codes)
            )
        return self._written[layer]


def _public_names(tensors: list[str]) -> list[str]:
    """The tensors' own names; one that is an output again gets another."""
    taken, names = set(tensors), list[str]()
    for tensor in tensors:
        names.append(unique_name(tensor, taken) if tensor in names else tensor)
    return names


def _without_idle_relu6(pending: _Pending, like: Tensor) -> tuple[str, dict[str, Any]]:
    """Kind and attributes, with ReLU where six is out of the output's reach and of int32's."""
    if float(like.quantization.scale[0]) >= limits.RELU6_SCALE:
        return pending.kind, pending.attributes
    kind = "RELU" if pending.kind == "RELU6" else pending.kind
    is_fused = pending.attributes.get("activation") == "RELU6"
    return kind, {**pending.attributes, **({"activation": "RELU"} if is_fused else {})}


def _same_parameters(tensor: Tensor, other: Tensor) -> bool:
    left, right = tensor.quantization, other.quantization
    return (
        tensor.dtype == other.dtype
        and left.zero_point == right.zero_point
        and bool(left.scale[0] == right.scale[0])
    )
