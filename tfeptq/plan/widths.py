"""Widths and granularities of every weighted layer, checked against the target before any work.

Weights that can be stored depend on the integer type in which a layer computes: configurations are
resolved first (`tfeptq.plan.activations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.names import by_legal_name
from tfeptq.config import QuantizationConfig
from tfeptq.plan.activations import kernel_dtype
from tfeptq.plan.layer_names import refuse_unknown
from tflite_export import targets


def layer_widths(model: keras.Model, config: QuantizationConfig) -> dict[str, int]:
    """Weight bits of every weighted layer of a canonical model; of candidates the widest.

    Raises:
        ValueError: an unknown layer name, or a width that the target cannot store.
    """
    if isinstance(config.weight_bits, tuple):
        return {name: max(widths) for name, widths in candidate_widths(model, config).items()}
    layers = [layer for layer in model.layers if linear.is_weighted(layer)]
    names = [layer.name for layer in layers]
    if isinstance(config.weight_bits, Mapping):
        given = by_legal_name(config.weight_bits, names)
        refuse_unknown("weight_bits", given, names, "layers with weights")
        widths = {name: given.get(name, 8) for name in names}
    else:
        widths = dict.fromkeys(names, config.weight_bits)
        if config.first_last_bits is not None:
            widths.update(dict.fromkeys(first_and_last(model), config.first_last_bits))
    for layer in layers:
        container(layer, widths[layer.name], config)
    return widths


def candidate_widths(model: keras.Model, config: QuantizationConfig) -> dict[str, tuple[int, ...]]:
    """Candidate widths of every weighted layer that its target can store, ascending.

    The first and last layers have one, `first_last_bits`, unless that is None.

    Raises:
        ValueError: a layer that the target can store in none of the candidates.
    """
    return {
        name: _storable(model.get_layer(name), widths, config)
        for name, widths in asked_candidates(model, config).items()
    }


def asked_candidates(model: keras.Model, config: QuantizationConfig) -> dict[str, tuple[int, ...]]:
    """Candidates of every weighted layer as they were asked for, whatever the target stores."""
    assert isinstance(config.weight_bits, tuple)
    names = (layer.name for layer in model.layers if linear.is_weighted(layer))
    asked = dict.fromkeys(names, config.weight_bits)
    if config.first_last_bits is not None:
        asked.update(dict.fromkeys(first_and_last(model), (config.first_last_bits,)))
    return asked


def _storable(
    layer: keras.Layer, widths: Sequence[int], config: QuantizationConfig
) -> tuple[int, ...]:
    """The widths among `widths` that the target can store; the last refusal where there is none."""
    fitting, refusal = [], None
    for bits in widths:
        try:
            container(layer, bits, config)
        except ValueError as error:
            refusal = error
        else:
            fitting.append(bits)
    if refusal is not None and not fitting:
        raise refusal
    return tuple(fitting)


def layer_granularity(
    model: keras.Model, widths: Mapping[str, int], config: QuantizationConfig
) -> dict[str, bool]:
    """Layer name -> whether its weights have one scale a channel, as the target's kernels need."""
    return {
        layer.name: granularity(layer, widths[layer.name], config) == "per_channel"
        for layer in model.layers
        if linear.is_weighted(layer)
    }


def layer_requantizations(
    model: keras.Model, widths: Mapping[str, int], config: QuantizationConfig
) -> dict[str, str]:
    """Layer name -> how the target's kernel rounds its accumulator, of weights and global means.

    Only int8 kernels are worth the imitation: a step of int16 is far below the noise.
    """
    result = {}
    for layer in model.layers:
        if linear.is_weighted(layer):
            kind, stored = linear.operator_kind(layer), container(layer, widths[layer.name], config)
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
            kind, stored = "MEAN", None
        else:
            continue
        is_narrow = kernel_dtype(layer, config) == "int8"
        rounding = targets.requantization(config.target, kind, container=stored)
        result[layer.name] = rounding if is_narrow else "once"
    return result


def first_and_last(model: keras.Model) -> list[str]:
    """Weighted layers that no other weighted layer precedes, or none follows."""
    graph = LayerGraph.of(model)
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
        source, target = (call.inputs, (call.output,))
        if not forwards:
            source, target = target, source
        if linear.is_weighted(call.layer) or any(key in reached for key in source):
            reached.update(target)
    return reached


def granularity(layer: keras.Layer, bits: int, config: QuantizationConfig) -> str:
    """What the target's kernels need for the narrowest container: per_channel or per_tensor."""
    return targets.weight_granularity(
        config.target,
        linear.operator_kind(layer),
        bits=bits,
        activation_dtype=kernel_dtype(layer, config),
    )


def container(layer: keras.Layer, bits: int, config: QuantizationConfig) -> str:
    """Type in which the weights will be stored. Raises ValueError naming the layer."""
    try:
        return targets.storage(
            config.target,
            linear.operator_kind(layer),
            bits=bits,
            per_channel=granularity(layer, bits, config) == "per_channel",
            activation_dtype=kernel_dtype(layer, config),
        )
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}, weight_bits={bits}: {error}") from error
