"""Names are for people: what is computed is keyed by identity, and names are made unique last."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TypeVar

from tflite_export.graph.names import free_name, unique_name

__all__ = ["by_legal_name", "free_name", "legal_name", "unique_name"]

_Value = TypeVar("_Value")


def legal_name(name: str) -> str:
    """The name of a layer as TensorFlow's graphs can hold it.

    Keras takes any, and without its TensorFlow backend or a compiled function all of them work.
    """
    # A ">" stands between parts there, of which each must begin like a name.
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name) or "layer"


def by_legal_name(given: Mapping[str, _Value], names: Collection[str]) -> dict[str, _Value]:
    """A setting by layer, by the names of a canonical model's layers and inputs."""
    return {name if name in names else legal_name(name): value for name, value in given.items()}
