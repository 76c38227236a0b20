"""Refusal of what cannot be quantized, by name."""

from __future__ import annotations

from typing import Any


class UnsupportedLayerError(ValueError):
    """A layer that has no place in an integer file."""

    def __init__(self, operation: Any, problem: str, advice: str) -> None:
        kind = type(operation).__name__
        super().__init__(f"layer {operation.name!r} ({kind}): {problem}; {advice}")
