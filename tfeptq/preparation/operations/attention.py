"""Attention as one operation, and what its parts are otherwise written with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfeptq.preparation import activations
from tfeptq.preparation.constants import broadcast_constant
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.masks import masked
from tfeptq.preparation.merges import pair
from tfeptq.preparation.nodes import Node, affine
from tfeptq.preparation.operations.arguments import Handler, only_tensor
from tfeptq.preparation.operations.repetition import repeated
from tfeptq.preparation.products import contract


def _attention(operation: Any, config: Mapping[str, Any], arguments: tuple[Any, ...]) -> Node:
    """softmax(scale q k') v for tensors of axes (time, heads, features).

    The scale is applied to the queries, where the layer that makes them takes it.
    """
    query, key, value, bias, mask, scale, *_ = (*arguments, None, None, None)
    query, key, value = (only_tensor(operation, tensor) for tensor in (query, key, value))
    if config["attn_logits_soft_cap"] is not None:
        raise UnsupportedLayerError(operation, "has attn_logits_soft_cap", "leave it out")
    name, heads = operation.name, query.shape[1]
    # Grouped queries share keys and values.
    groups = heads // key.shape[1]
    key = repeated(key, f"{name}_keys", 1, groups)
    value = repeated(value, f"{name}_values", 1, groups)
    scale = 1.0 / math.sqrt(query.shape[2]) if scale is None else float(scale)
    scaled = affine(query, f"{name}_scale", scale, 0.0)
    scores = contract(f"{name}_scores", scaled, key, ("tnh", "snh"), "nts")
    if bias is not None:
        scores = _sum(f"{name}_bias", scores, bias)
    if config["is_causal"]:
        scores = masked(f"{name}_causal", scores, np.tri(scores.shape[1], scores.shape[2])[None])
    if mask is not None:
        scores = masked(f"{name}_mask", scores, mask)
    shares = activations.softmax(scores, f"{name}_softmax")
    return contract(name, shares, value, ("nts", "snh"), "tnh")


def _sum(name: str, scores: Node, bias: Any) -> Node:
    operand = bias if isinstance(bias, Node) else broadcast_constant(name, bias, scores)
    return pair(keras.layers.Add, name, scores, operand)


HANDLERS: dict[str, Handler] = {"DotProductAttention": _attention}
