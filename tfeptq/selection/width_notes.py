"""What is said of widths that a target does not store, or stores in as many bytes as wider ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras

from tfeptq.canonical import linear
from tfeptq.config import QuantizationConfig
from tfeptq.plan.widths import asked_candidates, container
from tfeptq.selection.costs import least_compressed_bytes, weight_bytes

#: Layers that a sentence lists by name.
_NAMES = 3
_WIDEST = 8


def dropped(
    model: keras.Model, candidates: Mapping[str, Sequence[int]], config: QuantizationConfig
) -> list[str]:
    """Sentences about the candidates that the target cannot store, a sentence for equal ones.

    Args:
        candidates: layer name -> what is left.
        config: with candidates of weight_bits, otherwise nothing is dropped.
    """
    if not isinstance(config.weight_bits, tuple):
        return []
    layers: dict[tuple[int, ...], list[str]] = {}
    for name, asked in asked_candidates(model, config).items():
        missing = tuple(bits for bits in asked if bits not in candidates[name])
        if missing:
            layers.setdefault(missing, []).append(name)
    return [
        f"weight_bits: target {config.target!r} does not store {_listed(missing)} bits in "
        f"{named(names)}: they are no candidates there"
        for missing, names in layers.items()
    ]


def unrewarded(
    model: keras.Model, widths: Mapping[str, Sequence[int]], config: QuantizationConfig
) -> list[str]:
    """Sentences about widths that take as many bytes as wider ones do.

    Args:
        widths: layer name -> widths of its weights.
        config: with the widths of activations resolved.
    """
    layers: dict[tuple[int, int, str], list[str]] = {}
    for layer in filter(linear.is_weighted, model.layers):
        for bits in widths[layer.name]:
            size = weight_bytes(layer, bits, config)
            wider = [
                more
                for more in range(bits + 1, _WIDEST + 1)
                if weight_bytes(layer, more, config) <= size
            ]
            if wider:
                key = bits, max(wider), container(layer, bits, config)
                layers.setdefault(key, []).append(layer.name)
    return [
        f"weight_bits={bits} of {named(names)} is stored as {stored} on target {config.target!r}, "
        f"where {more} bits take no more bytes{_tables(config)}"
        for (bits, more, stored), names in sorted(layers.items())
    ]


def _tables(config: QuantizationConfig) -> str:
    if config.target != "microcontroller":
        return ""
    return "; look-up tables make it smaller (Budget(compressed=True), `tfeptq package --compress`)"


def by_tables(
    model: keras.Model, candidates: Mapping[str, Sequence[int]], config: QuantizationConfig
) -> str:
    """What to add to the refusal of a budget that look-up tables alone can meet, or nothing."""
    budget = config.budget
    if config.target != "microcontroller" or budget is None or budget.compressed:
        return ""
    least = least_compressed_bytes(model, candidates, config)
    if budget.weight_bytes is None or least > budget.weight_bytes:
        return ""
    return (
        f". With look-up tables it can be met: compressed=True counts {least:g} bytes at least, "
        "which `tfeptq package --compress` writes"
    )


def named(names: Sequence[str]) -> str:
    """Layers, the first of them by name."""
    shown = ", ".join(map(repr, names[:_NAMES]))
    rest = len(names) - _NAMES
    return f"layer {shown}" if len(names) == 1 else f"layers {shown}{_more(rest)}"


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _listed(widths: Sequence[int]) -> str:
    return " and ".join(filter(None, (", ".join(map(str, widths[:-1])), str(widths[-1]))))
