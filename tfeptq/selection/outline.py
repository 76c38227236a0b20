"""The operators and shapes of a model's file before anything is learned, without a model of it.

What a target refuses for its kind, shape, type or width is found here, in no time and without data.
The values of weights and scales are made up; what calibration may add, a clamp or a requantization
of equal types, is missing. `tfeptq.selection.skeleton` has the whole graph.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.constant_layer import Constant
from tfeptq.canonical.integer_types import bias_dtype
from tfeptq.canonical.layer_graph import Call, Key
from tfeptq.canonical.names import free_name
from tfeptq.canonical.primitives import primitive_of
from tfeptq.plan.quantization_plan import Kernel, QuantizationPlan
from tflite_export.graph.structure import IntegerGraph, Operator, Quantization, Tensor
from tflite_export.operators.rescaling import QUANTIZE
from tflite_export.operators.tables import integers, place_operators, shift_operator


def outline(plan: QuantizationPlan) -> IntegerGraph:
    """The graph of a canonical model, for `plan_storage` and static rules; it computes nothing."""
    return _Outline(plan).graph()


class _Outline:
    def __init__(self, plan: QuantizationPlan) -> None:
        self._plan = plan
        self._shapes = plan.graph.shapes(plan.model)
        self._tensors: dict[str, Tensor] = {}
        self._names: dict[Key, str] = {}
        self._copies: dict[tuple[str, str], str] = {}
        self._operators: list[Operator] = []
        self._counted: dict[str, str] = {}

    def graph(self) -> IntegerGraph:
        calls = self._plan.graph
        for key in calls.inputs:
            self._write(key, key[0])
        for call in calls.calls:
            if isinstance(call.layer, Constant):
                shape, dtype = self._shapes[call.output], self._dtype(call.output)
                self._names[call.output] = self._constant(call.layer.name, shape, dtype)
        for kernel in self._plan.kernels:
            self._add(kernel)
        inputs = [self._names[key] for key in calls.inputs]
        outputs = [self._names[key] for key in calls.outputs]
        return IntegerGraph(
            self._plan.model.name,
            self._tensors,
            tuple(self._operators),
            tuple(zip(inputs, inputs, strict=True)),
            tuple(zip(outputs, outputs, strict=True)),
        )

    def _add(self, kernel: Kernel) -> None:
        layer = kernel.call.layer
        kind, attributes = self._operator(kernel.call)
        if kernel.relu is not None:
            attributes = {**attributes, "activation": self._operator(kernel.relu)[0]}
        dtype = kernel.quantizer.dtype
        row, read = primitive_of(layer), [self._names[key] for key in kernel.call.inputs]
        as_they_are = row.looks_up or row.makes_indices
        inputs = read if as_they_are else [self._read(name, dtype) for name in read]
        if row.looks_up:
            table = self._constant(f"{layer.name}/table", tuple(layer.table.shape), dtype)
            inputs = [table, self._rows(layer, read[0])]
        elif row.tabulates:
            count = len(self._integers(inputs[0]))
            table = self._constant(f"{layer.name}/table", (count,), dtype)
            inputs = [table, self._places(inputs[0])]
        inputs += self._parameters(layer, dtype)
        output = self._write(kernel.result, layer.name)
        self._operators.append(Operator(kind, tuple(inputs), (output,), layer.name, attributes))

    def _rows(self, layer: Any, numbers: str) -> str:
        if not layer.added.any():
            return numbers
        amounts, name = layer.added[None], f"{layer.name}/added"
        source = self._tensors[numbers]
        tensors, operator = shift_operator(
            source, amounts, name, layer.name, lambda wanted: free_name(wanted, self._tensors)
        )
        self._tensors.update({tensor.name: tensor for tensor in tensors})
        self._operators.append(operator)
        return tensors[-1].name

    def _operator(self, call: Call) -> tuple[str, dict[str, Any]]:
        shapes = self._shapes[call.output], self._shapes[call.inputs[0]]
        return primitive_of(call.layer).operator(call.layer, *shapes)

    def _dtype(self, key: Key) -> str:
        return self._plan.tensors[key].quantizer.dtype

    def _read(self, name: str, dtype: str) -> str:
        """A tensor in the type in which its reader computes."""
        if self._tensors[name].dtype == dtype:
            return name
        if (name, dtype) not in self._copies and self._tensors[name].is_constant:
            # An array is written in either type.
            shape = self._tensors[name].shape
            self._copies[name, dtype] = self._constant(f"{name}/{dtype}", shape, dtype)
        if (name, dtype) not in self._copies:
            copy = self._tensor(f"{name}/{dtype}", self._tensors[name].shape, dtype)
            self._operators.append(Operator(QUANTIZE.name, (name,), (copy,), name, {}))
            self._copies[name, dtype] = copy
        return self._copies[name, dtype]

    def _places(self, name: str) -> str:
        if name not in self._counted:
            source = self._tensors[name]
            first = int(self._integers(name)[0])
            tensors, operators = place_operators(
                source, first, name, lambda wanted: free_name(wanted, self._tensors)
            )
            self._tensors.update({tensor.name: tensor for tensor in tensors})
            self._operators += operators
            self._counted[name] = tensors[-1].name
        return self._counted[name]

    def _integers(self, name: str) -> np.ndarray:
        return integers(self._tensors, self._operators, name)

    def _parameters(self, layer: keras.Layer, dtype: str) -> list[str]:
        if primitive_of(layer).has_slopes:
            return [self._constant(f"{layer.name}/alpha", tuple(layer.alpha.shape), "int8")]
        if layer.name not in self._plan.weights:
            return []
        held = self._plan.weights[layer.name]
        channels = layer.bias.shape[0]
        stored, axis = linear.in_file(layer, np.empty(layer.kernel.shape, np.int8))
        scales = channels if held.per_channel else 1
        weights = self._constant(
            f"{layer.name}/weights",
            stored.shape,
            "int8",
            scales=scales,
            axis=axis,
            bits=held.code_bits,
        )
        bias = self._constant(f"{layer.name}/bias", (channels,), bias_dtype(dtype), scales=scales)
        return [weights, bias]

    def _write(self, key: Key, name: str) -> str:
        self._names[key] = self._tensor(name, self._shapes[key], self._dtype(key))
        return self._names[key]

    def _constant(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        scales: int = 1,
        axis: int = 0,
        bits: int | None = None,
    ) -> str:
        data = np.ones(shape, dtype)
        bits = bits or 8 * data.itemsize
        return self._tensor(name, shape, dtype, scales=scales, axis=axis, bits=bits, data=data)

    def _tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        scales: int = 1,
        axis: int = 0,
        bits: int = 8,
        data: np.ndarray | None = None,
    ) -> str:
        name = free_name(name, self._tensors)
        quantization = Quantization(np.ones(scales, np.float32), 0, axis)
        self._tensors[name] = Tensor(name, shape, dtype, quantization, data, bits)
        return name
