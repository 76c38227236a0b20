"""Attention as one operation, and what its parts are otherwise written with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tfeptq.preparation import activations
from tfeptq.preparation.errors import UnsupportedLayerError
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
    given = {"bias": bias, "mask": mask, "attn_logits_soft_cap": config["attn_logits_soft_cap"]}
    asked = [name for name, setting in given.items() if setting is not None]
    if asked or config["is_causal"]:
        raise UnsupportedLayerError(
            operation,
            f"has {', '.join(asked or ['is_causal'])}",
            "attend to all places: pass sequences of the full length",
        )
    name, heads = operation.name, query.shape[1]
    # Grouped queries share keys and values.
    groups = heads // key.shape[1]
    key = repeated(key, f"{name}_keys", 1, groups)
    value = repeated(value, f"{name}_values", 1, groups)
    scale = 1.0 / math.sqrt(query.shape[2]) if scale is None else float(scale)
    scaled = affine(query, f"{name}_scale", scale, 0.0)
    scores = contract(f"{name}_scores", scaled, key, ("tnh", "snh"), "nts")
    shares = activations.softmax(scores, f"{name}_softmax")
    return contract(name, shares, value, ("nts", "snh"), "tnh")


HANDLERS: dict[str, Handler] = {"DotProductAttention": _attention}
