"""What a choice of widths costs on its target: bytes, operations, milliseconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.plan.activations import activation_bits
from tfeptq.plan.sharing import Ranges
from tfeptq.plan.widths import container, granularity
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
    model: keras.Model,
    candidates: Mapping[str, tuple[int, ...]],
    config: QuantizationConfig,
    ranges: Ranges | None = None,
    *,
    graph: IntegerGraph | None = None,
) -> Costs:
    """Costs of a canonical model on `config.target`.

    Args:
        candidates: layer name -> widths that it may take. A layer that is called several times is
            one choice; its weights are stored once, its operations are done at every call.
        ranges: of the model's tensors, see `tfeptq.plan.slots.Plan`.
        graph: an outline of the file, where its size and a lower bound of the activations will do.

    Raises:
        ValueError: a latency table that cannot be read or lacks a layer.
    """
    layers = {layer.name: layer for layer in model.layers if linear.is_weighted(layer)}
    multiplications = layer_multiplications(model)
    tables: dict[str, LayerCosts] = {
        "weight_bytes": {
            name: {bits: weight_bytes(layers[name], bits, config) for bits in widths}
            for name, widths in candidates.items()
        },
        "bit_operations": {
            name: {
                bits: multiplications[name] * bits * activation_bits(name, config)
                for bits in widths
            }
            for name, widths in candidates.items()
        },
    }
    constants = {}
    if config.budget is not None and config.budget.latency_table is not None:
        latencies = read_latencies(config.budget.latency_table)
        tables["latency_ms"] = _latencies(layers, candidates, multiplications, latencies)
        constants["latency_ms"] = latencies.others
    widest = {name: max(widths) for name, widths in candidates.items()}
    graph = graph or skeleton(model, widest, config, ranges)
    is_compressed = _is_compressed(config)
    frame = file_bytes(graph, config.target, slim=is_compressed) - sum(
        _plain_bytes(layers[name], bits, config) for name, bits in widest.items()
    )
    stored: LayerCosts = {
        name: {bits: stored_bytes(layers[name], bits, config) for bits in widths}
        for name, widths in candidates.items()
    }
    alive = alive_at_peak(graph)
    largest = tuple(sorted(alive.items(), key=lambda part: -part[1])[:3])
    return Costs(tables, constants, sum(alive.values()), frame, stored, largest)


def least_compressed_bytes(
    model: keras.Model, candidates: Mapping[str, Sequence[int]], config: QuantizationConfig
) -> float:
    """Fewest weight bytes of the candidates, in look-up tables where those pay."""
    assert config.budget is not None
    budget = dataclasses.replace(config.budget, compressed=True)
    compressed = dataclasses.replace(config, budget=budget)
    return sum(
        min(weight_bytes(model.get_layer(name), bits, compressed) for bits in widths)
        for name, widths in candidates.items()
    )


def _is_compressed(config: QuantizationConfig) -> bool:
    return config.budget is not None and config.budget.compressed


def stored_bytes(layer: keras.Layer, bits: int, config: QuantizationConfig) -> int:
    """Bytes of a layer's weights and their scales in the file; with tables, where those pay."""
    plain = _plain_bytes(layer, bits, config)
    if not _is_compressed(config) or bits > WIDEST_INDEX:
        return plain
    table = _bytes(layer, bits) + 2**bits + _TABLE_OVERHEAD
    return min(plain, table + _scales(layer, bits, config))


def weight_bytes(layer: keras.Layer, bits: int, config: QuantizationConfig) -> int:
    """Bytes of a layer's weights and their scales as they occupy the target's memory.

    Those of the file, but where the target's compiler entropy-codes the weights: there the learned
    width counts, not its container.
    """
    if config.target in _ENTROPY_CODED:
        return _bytes(layer, bits) + _scales(layer, bits, config)
    return stored_bytes(layer, bits, config)


def _plain_bytes(layer: keras.Layer, bits: int, config: QuantizationConfig) -> int:
    """In the container that the target's kernels read, without tables."""
    width = CONTAINER_BITS[container(layer, bits, config)]
    return _bytes(layer, width) + _scales(layer, bits, config)


def _bytes(layer: keras.Layer, bits: int) -> int:
    return -(-int(np.prod(layer.kernel.shape)) * bits // 8)


def _scales(layer: keras.Layer, bits: int, config: QuantizationConfig) -> int:
    per_channel = granularity(layer, bits, config) == "per_channel"
    return _SCALE_BYTES * (layer.bias.shape[0] if per_channel else 1)


def layer_multiplications(model: keras.Model) -> dict[str, int]:
    """Layer name -> multiplications of one inference, summed over the calls of a shared layer."""
    graph = LayerGraph.of(model)
    shapes = graph.shapes(model)
    result: dict[str, int] = {}
    for call in graph.calls:
        if linear.is_weighted(call.layer):
            weights_per_output = int(np.prod(call.layer.kernel.shape)) // call.layer.bias.shape[0]
            count = int(np.prod(shapes[call.output][1:])) * weights_per_output
            result[call.layer.name] = result.get(call.layer.name, 0) + count
    return result


def _latencies(
    layers: Mapping[str, keras.Layer],
    candidates: Mapping[str, tuple[int, ...]],
    multiplications: Mapping[str, int],
    table: LatencyTable,
) -> LayerCosts:
    return {
        name: {
            bits: table.layer(
                name,
                kind=linear.operator_kind(layers[name]),
                bits=bits,
                multiplications=multiplications[name],
            )
            for bits in widths
        }
        for name, widths in candidates.items()
    }
