"""What widths cost on their target, as tables over the widths that decide it.

- weight bytes: containers and granularities depend on the integer type of the kernel;
- bit operations: multiplications x weight bits x operand bits, or the bits of both operands of a
  product of two tensors. A kernel reads what its own integer type holds: 8-bit layers behind a
  16-bit tensor read 8 bits;
- milliseconds: by a table of the user's, see `tfeptq.selection.latency_table`;
- activation bytes: one cost a step of execution, see `tfeptq.selection.memory`;
- file bytes: what the size of the exported file is predicted from.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping

import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.integer_types import activation_dtype, bias_dtype
from tfeptq.canonical.layer_graph import Call
from tfeptq.canonical.primitives import is_product
from tfeptq.goals import Budget
from tfeptq.plan.quantization_plan import Kernel, QuantizationPlan
from tfeptq.plan.weights import WeightStorage
from tfeptq.selection.factor import Factor, constant, tabled, weights
from tfeptq.selection.latency_table import LatencyTable
from tfeptq.selection.variables import Variables
from tflite_export import targets
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.packaging.compression import DECODE_BYTES, WIDEST_INDEX

#: Bytes of one scale in a file, float32; its zero point is in a vector that tensors share.
_SCALE_BYTES = 4
#: What look-up tables save of the file, to be told from what is written before compression.
TABLE_SAVINGS = "table_savings"


def storage(
    plan: QuantizationPlan, variables: Variables, budget: Budget | None
) -> Iterator[Factor]:
    """What a layer's weights and biases occupy; without what the target cannot store."""

    def costs(name: str, bits: int, wide: int) -> dict[str, float] | None:
        try:
            held = plan.storage(name, bits, activation_dtype(wide))
        except ValueError:
            return None
        stored = _stored_bytes(plan, held, budget)
        channels = plan.graph.layers[name].bias.shape[0]
        bias = channels * np.dtype(bias_dtype(held.dtype)).itemsize
        return {
            "weight_bytes": weight_bytes(plan, held, budget),
            "file_bytes": stored + bias,
            TABLE_SAVINGS: _plain_bytes(plan, held) - stored,
        }

    for name in plan.candidates:
        decisive = weights(name), variables.of_layer(name)
        yield tabled(decisive, variables.widths, functools.partial(costs, name))


def operations(plan: QuantizationPlan, variables: Variables) -> Iterator[Factor]:
    """Bit operations of every call of a layer with weights, and of every product of two tensors."""

    def costs(count: int, bits: int, *wide: int) -> dict[str, float]:
        return {"bit_operations": count * bits * _operand_bits(wide[0], wide[-1])}

    def of_tensors(count: int, places: tuple[int, ...], *wide: int) -> dict[str, float]:
        left, right, written = (wide[place] for place in places)
        bits = _operand_bits(left, written) * _operand_bits(right, written)
        return {"bit_operations": count * bits}

    for call, count in _multiplications(plan):
        name = call.layer.name
        read, written = variables.of_tensor(call.inputs[0]), variables.of_layer(name)
        decisive = tuple(dict.fromkeys((weights(name), read, written)))
        yield tabled(decisive, variables.widths, functools.partial(costs, count))
    for kernel, count in _products(plan):
        # An array is held in the type of the kernel.
        keys = [key if key in plan.tensors else kernel.result for key in kernel.call.inputs]
        involved = [variables.of_tensor(key) for key in (*keys, kernel.result)]
        decisive = tuple(dict.fromkeys(involved))
        priced = functools.partial(of_tensors, count, tuple(map(decisive.index, involved)))
        yield tabled(decisive, variables.widths, priced, kernel.call.layer.name)


def _operand_bits(read: int, written: int) -> int:
    """Width in which a kernel reads a tensor of width `read` if it writes `written`."""
    return 16 if written == 16 else min(read, 8)


def latencies(
    plan: QuantizationPlan, variables: Variables, table: LatencyTable
) -> Iterator[Factor]:
    """Milliseconds of every layer, by the integer type in which it computes.

    Raises:
        ValueError: the table lacks a layer, or a type that a layer may compute in.
    """
    of_activations = (w for (kind, _), w in variables.widths.items() if kind == "activations")
    types = sorted({activation_dtype(bits) for widths in of_activations for bits in widths})
    is_one = not plan.chooses_activations or len(types) == 1
    tables = {dtype: table.of_type(dtype, is_one=is_one) for dtype in types}
    multiplications = layer_multiplications(plan)

    def costs(name: str, bits: int, wide: int) -> dict[str, float]:
        kind, count = plan.weights[name].kind, multiplications[name]
        of_type = tables[activation_dtype(wide)]
        return {"latency_ms": of_type.layer(name, kind=kind, bits=bits, multiplications=count)}

    for name in plan.candidates:
        decisive = weights(name), variables.of_layer(name)
        yield tabled(decisive, variables.widths, functools.partial(costs, name))
    yield from _without_weights(plan, variables, tables)


def _without_weights(
    plan: QuantizationPlan, variables: Variables, tables: Mapping[str, LatencyTable]
) -> Iterator[Factor]:
    """Times of a layer's own operators follow its type; others take what the slowest type does."""
    writing = {
        kernel.call.layer.name: variables.of_tensor(kernel.result)
        for kernel in plan.kernels
        if all(kernel.call.layer.name in table.layers for table in tables.values())
    }

    def costs(name: str, wide: int) -> dict[str, float]:
        return {"latency_ms": tables[activation_dtype(wide)].layers[name]}

    for name, variable in writing.items():
        yield tabled([variable], variables.widths, functools.partial(costs, name), name)
    rest = max(
        table.others + sum(ms for name, ms in table.layers.items() if name not in writing)
        for table in tables.values()
    )
    yield constant({"latency_ms": rest}, "operators without weights")


def least_compressed_bytes(plan: QuantizationPlan, budget: Budget) -> float:
    """Fewest weight bytes of the candidates, in look-up tables where those pay."""
    compressed = dataclasses.replace(budget, compressed=True)
    return sum(
        min(weight_bytes(plan, plan.storage(name, bits), compressed) for bits in widths)
        for name, widths in plan.candidates.items()
    )


def is_compressed(budget: Budget | None) -> bool:
    """Whether weights are counted as compression stores them."""
    return budget is not None and budget.compressed


def weight_bytes(plan: QuantizationPlan, held: WeightStorage, budget: Budget | None) -> int:
    """Bytes of a layer's weights and their scales as they occupy the target's memory.

    Those of the file, but where the target's compiler entropy-codes the weights: there the learned
    width counts, not its container. Measured with Vela on normal weights: 2.1, 3.1, 4.1, 5.1 and
    7.4 bits a weight for 2, 3, 4, 5 and 8 learned bits.
    """
    if targets.capabilities(plan.target).entropy_codes:
        return _bytes(plan, held, held.bits) + _scales(plan, held)
    return _stored_bytes(plan, held, budget)


def _stored_bytes(plan: QuantizationPlan, held: WeightStorage, budget: Budget | None) -> int:
    """In the file; with tables, where those pay."""
    plain = _plain_bytes(plan, held)
    if not is_compressed(budget) or held.bits > WIDEST_INDEX:
        return plain
    table = _bytes(plan, held, held.bits) + 2**held.bits + DECODE_BYTES
    return min(plain, table + _scales(plan, held))


def _plain_bytes(plan: QuantizationPlan, held: WeightStorage) -> int:
    """In the container that the target's kernels read, without tables."""
    return _bytes(plan, held, CONTAINER_BITS[held.container]) + _scales(plan, held)


def _bytes(plan: QuantizationPlan, held: WeightStorage, bits: int) -> int:
    return -(-int(np.prod(plan.graph.layers[held.name].kernel.shape)) * bits // 8)


def _scales(plan: QuantizationPlan, held: WeightStorage) -> int:
    channels = plan.graph.layers[held.name].bias.shape[0]
    return _SCALE_BYTES * (channels if held.per_channel else 1)


def layer_multiplications(plan: QuantizationPlan) -> dict[str, int]:
    """Layer name -> multiplications of one inference, summed over the calls of a shared layer."""
    result: dict[str, int] = {}
    for call, count in _multiplications(plan):
        result[call.layer.name] = result.get(call.layer.name, 0) + count
    return result


def _products(plan: QuantizationPlan) -> Iterator[tuple[Kernel, int]]:
    """Of every product of two tensors: a result takes as many as the left one has columns."""
    shapes = plan.graph.shapes(plan.model)
    for kernel in plan.kernels:
        if is_product(kernel.call.layer):
            left, output = shapes[kernel.call.inputs[0]], shapes[kernel.call.output]
            yield kernel, int(np.prod(output[1:])) * left[-1]


def _multiplications(plan: QuantizationPlan) -> Iterator[tuple[Call, int]]:
    """Of every call of a layer with weights."""
    shapes = plan.graph.shapes(plan.model)
    for call in (kernel.call for kernel in plan.kernels if kernel.call.layer.name in plan.weights):
        source, output = shapes[call.inputs[0]], shapes[call.output]
        kernel_shape = tuple(call.layer.kernel.shape)
        yield call, linear.map_of(call.layer).multiplications(kernel_shape, source, output)
