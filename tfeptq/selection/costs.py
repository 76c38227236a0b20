"""What a choice of widths costs on its target: bytes, operations, milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfeptq.canonical import linear
from tfeptq.goals import Budget
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.plan.weights import WeightStorage
from tfeptq.selection.latency import LatencyTable, read_latencies
from tfeptq.selection.skeleton import alive_at_peak, file_bytes, skeleton
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.graph.structure import IntegerGraph
from tflite_export.packaging.compression import WIDEST_INDEX

#: Bytes of one scale in a file, float32; its zero point is in a vector that tensors share.
_SCALE_BYTES = 4
#: Of one table's DECODE operator, its tensors and metadata, as compression counts them.
_TABLE_OVERHEAD = 256
#: Targets whose compiler entropy-codes weights. Measured with Vela on normal weights: 2.1, 3.1,
#: 4.1, 5.1 and 7.4 bits a weight for 2, 3, 4, 5 and 8 learned bits: the learned width, in short.
_ENTROPY_CODED = ("ethos-u",)

LayerCosts = dict[str, dict[int, float]]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Costs of every candidate, which add up over layers, and those that do not depend on them.

    Attributes:
        tables: cost name -> layer name -> width -> cost; see `Budget` for the names.
        constants: cost name -> what comes on top whatever the widths.
        activation_bytes: peak of the activations that are alive at once.
        largest_activations: name and bytes of the largest of them.
    """

    tables: Mapping[str, LayerCosts]
    constants: Mapping[str, float]
    activation_bytes: int
    _frame_bytes: int
    _stored: LayerCosts
    largest_activations: tuple[tuple[str, int], ...] = ()

    def of(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Cost name -> cost of one choice; whole numbers but for milliseconds."""
        sums = {
            name: _sum(table, widths) + self.constants.get(name, 0)
            for name, table in self.tables.items()
        }
        return {**sums, "activation_bytes": self.activation_bytes}

    def file_bytes(self, widths: Mapping[str, int]) -> int:
        """Predicted size of the exported file; of the compressed one, if the budget is of those."""
        return int(self._frame_bytes + _sum(self._stored, widths))


def _sum(table: LayerCosts, widths: Mapping[str, int]) -> float:
    return sum(table[name][bits] for name, bits in widths.items())


def model_costs(
    plan: QuantizationPlan, budget: Budget | None, *, graph: IntegerGraph | None = None
) -> Costs:
    """Costs of the candidates for weights; activations have one width.

    A layer that is called several times is one choice; its weights are stored once, its operations
    are done at every call.

    Args:
        graph: an outline of the file, where its size and a lower bound of the activations will do.

    Raises:
        ValueError: a latency table that cannot be read or lacks a layer.
    """
    held = {
        name: {bits: plan.storage(name, bits) for bits in widths}
        for name, widths in plan.candidates.items()
    }
    multiplications = layer_multiplications(plan)
    tables: dict[str, LayerCosts] = {
        "weight_bytes": {
            name: {bits: weight_bytes(plan, one, budget) for bits, one in widths.items()}
            for name, widths in held.items()
        },
        "bit_operations": {
            name: {
                bits: multiplications[name] * bits * plan.activation_bits[name] for bits in widths
            }
            for name, widths in plan.candidates.items()
        },
    }
    constants = {}
    if budget is not None and budget.latency_table is not None:
        latencies = read_latencies(budget.latency_table)
        tables["latency_ms"] = _latencies(plan, multiplications, latencies)
        constants["latency_ms"] = latencies.others
    widest = {name: max(widths) for name, widths in plan.candidates.items()}
    graph = graph or skeleton(plan.with_widths(weights=widest))
    frame = file_bytes(graph, plan.target, slim=_is_compressed(budget)) - sum(
        _plain_bytes(plan, held[name][bits]) for name, bits in widest.items()
    )
    stored: LayerCosts = {
        name: {bits: stored_bytes(plan, one, budget) for bits, one in widths.items()}
        for name, widths in held.items()
    }
    alive = alive_at_peak(graph)
    largest = tuple(sorted(alive.items(), key=lambda part: -part[1])[:3])
    return Costs(tables, constants, sum(alive.values()), frame, stored, largest)


def least_compressed_bytes(plan: QuantizationPlan, budget: Budget) -> float:
    """Fewest weight bytes of the candidates, in look-up tables where those pay."""
    compressed = dataclasses.replace(budget, compressed=True)
    return sum(
        min(weight_bytes(plan, plan.storage(name, bits), compressed) for bits in widths)
        for name, widths in plan.candidates.items()
    )


def _is_compressed(budget: Budget | None) -> bool:
    return budget is not None and budget.compressed


def stored_bytes(plan: QuantizationPlan, held: WeightStorage, budget: Budget | None) -> int:
    """Bytes of a layer's weights and their scales in the file; with tables, where those pay."""
    plain = _plain_bytes(plan, held)
    if not _is_compressed(budget) or held.bits > WIDEST_INDEX:
        return plain
    table = _bytes(plan, held, held.bits) + 2**held.bits + _TABLE_OVERHEAD
    return min(plain, table + _scales(plan, held))


def weight_bytes(plan: QuantizationPlan, held: WeightStorage, budget: Budget | None) -> int:
    """Bytes of a layer's weights and their scales as they occupy the target's memory.

    Those of the file, but where the target's compiler entropy-codes the weights: there the learned
    width counts, not its container.
    """
    if plan.target in _ENTROPY_CODED:
        return _bytes(plan, held, held.bits) + _scales(plan, held)
    return stored_bytes(plan, held, budget)


def _plain_bytes(plan: QuantizationPlan, held: WeightStorage) -> int:
    """In the container that the target's kernels read, without tables."""
    return _bytes(plan, held, CONTAINER_BITS[held.container]) + _scales(plan, held)


def _bytes(plan: QuantizationPlan, held: WeightStorage, bits: int) -> int:
    return -(-int(np.prod(plan.model.get_layer(held.name).kernel.shape)) * bits // 8)


def _scales(plan: QuantizationPlan, held: WeightStorage) -> int:
    channels = plan.model.get_layer(held.name).bias.shape[0]
    return _SCALE_BYTES * (channels if held.per_channel else 1)


def layer_multiplications(plan: QuantizationPlan) -> dict[str, int]:
    """Layer name -> multiplications of one inference, summed over the calls of a shared layer."""
    shapes = plan.graph.shapes(plan.model)
    result: dict[str, int] = {}
    for call in plan.graph.calls:
        layer = call.layer
        if linear.is_weighted(layer):
            source, output = shapes[call.inputs[0]], shapes[call.output]
            count = linear.map_of(layer).multiplications(tuple(layer.kernel.shape), source, output)
            result[layer.name] = result.get(layer.name, 0) + count
    return result


def _latencies(
    plan: QuantizationPlan, multiplications: Mapping[str, int], table: LatencyTable
) -> LayerCosts:
    return {
        name: {
            bits: table.layer(
                name,
                kind=plan.weights[name].kind,
                bits=bits,
                multiplications=multiplications[name],
            )
            for bits in widths
        }
        for name, widths in plan.candidates.items()
    }
