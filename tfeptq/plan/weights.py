"""How the weights of a layer are held: widths, granularities and containers of the target."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.names import by_legal_name
from tfeptq.config import WEIGHT_GRIDS, QuantizationConfig
from tfeptq.plan.layer_names import refuse_unknown
from tflite_export import targets


@dataclasses.dataclass(frozen=True)
class WeightStorage:
    """A layer's weights in the file.

    Attributes:
        name: of the layer.
        kind: of the operator that reads them.
        bits: width of a weight, as it was asked for.
        grid: which values it may have, by its name in `tfeptq.config.WEIGHT_GRIDS`.
        code_bits: width of the integers in the file.
        dtype: integer type in which the kernel computes: "int8" or "int16".
        per_channel: one scale an output channel, otherwise one in all.
        container: type in which they are stored: "int8", "int4" or "int2".
        requantization: how the kernel rounds its accumulator, see `QuantizedWeights`.
    """

    name: str
    kind: str
    bits: int
    grid: str
    code_bits: int
    dtype: str
    per_channel: bool
    container: str
    requantization: str


def weight_storage(
    layer: keras.Layer, bits: int, *, dtype: str, target: str, grid: str
) -> WeightStorage:
    """What the target's kernels need for the narrowest container.

    Args:
        bits: width of a weight.
        dtype: integer type of the layer's kernel, "int8" or "int16".
        grid: by its name in `tfeptq.config.WEIGHT_GRIDS`.

    Raises:
        ValueError: a width that the target cannot store; names the layer.
    """
    kind = linear.operator_kind(layer)
    codes = WEIGHT_GRIDS.find(grid).code_bits(bits)
    granularity = targets.weight_granularity(target, kind, bits=codes, activation_dtype=dtype)
    per_channel = granularity == "per_channel"
    try:
        container = targets.storage(
            target, kind, bits=codes, per_channel=per_channel, activation_dtype=dtype
        )
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}, weight_bits={bits}: {error}") from error
    rounding = requantization(kind, dtype=dtype, target=target, container=container)
    return WeightStorage(
        layer.name, kind, bits, grid, codes, dtype, per_channel, container, rounding
    )


def requantization(kind: str, *, dtype: str, target: str, container: str | None = None) -> str:
    """How the target's kernel rounds its accumulator.

    Only int8 kernels are worth the imitation: a step of int16 is far below the noise.
    """
    rounding = targets.requantization(target, kind, container=container)
    return rounding if dtype == "int8" else "once"


def asked_widths(
    model: keras.Model, graph: LayerGraph, config: QuantizationConfig
) -> dict[str, tuple[int, ...]]:
    """Layer name -> the widths of its weights that were asked for, whatever the target stores.

    The first and last layers have one, `first_last_bits`, unless that is None or widths are given
    by name.

    Raises:
        ValueError: an unknown layer name.
    """
    names = [layer.name for layer in model.layers if linear.is_weighted(layer)]
    asked = config.weight_bits
    if isinstance(asked, Mapping):
        given = by_legal_name(asked, names)
        refuse_unknown("weight_bits", given, names, "layers with weights")
        return {name: (given.get(name, 8),) for name in names}
    widths = dict.fromkeys(names, asked if isinstance(asked, tuple) else (asked,))
    if config.first_last_bits is not None:
        widths.update(dict.fromkeys(first_and_last(graph), (config.first_last_bits,)))
    return widths


def storable_widths(
    layer: keras.Layer, widths: Sequence[int], *, dtype: str, target: str, grid: str
) -> tuple[int, ...]:
    """The widths among `widths` that the target can store.

    Raises:
        ValueError: there is none; the last refusal.
    """
    fitting, refusal = [], None
    for bits in widths:
        try:
            weight_storage(layer, bits, dtype=dtype, target=target, grid=grid)
        except ValueError as error:
            refusal = error
        else:
            fitting.append(bits)
    if refusal is not None and not fitting:
        raise refusal
    return tuple(fitting)


def first_and_last(graph: LayerGraph) -> list[str]:
    """Weighted layers that no other weighted layer precedes, or none follows."""
    behind = _reached(graph, forwards=True)
    ahead = _reached(graph, forwards=False)
    calls = [call for call in graph.calls if linear.is_weighted(call.layer)]
    first = [call.layer.name for call in calls if not any(key in behind for key in call.inputs)]
    last = [call.layer.name for call in calls if call.output not in ahead]
    return list(dict.fromkeys(first + last))


def _reached(graph: LayerGraph, *, forwards: bool) -> set[Key]:
    """Tensors behind (or ahead of) some weighted layer."""
    reached: set[Key] = set()
    for call in graph.calls if forwards else reversed(graph.calls):
        source: Iterable[Key] = call.inputs
        target: Iterable[Key] = (call.output,)
        if not forwards:
            source, target = target, source
        if linear.is_weighted(call.layer) or any(key in reached for key in source):
            reached.update(target)
    return reached
