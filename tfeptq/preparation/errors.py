"""Refusal of what cannot be quantized, by name."""

from __future__ import annotations

from typing import Any

import keras


class UnsupportedLayerError(ValueError):
    """A layer that has no place in an integer file.

    Attributes:
        operation: the layer, or the operation.
    """

    def __init__(self, operation: Any, problem: str, advice: str) -> None:
        kind = type(operation).__name__
        self.operation = operation
        super().__init__(f"layer {operation.name!r} ({kind}): {problem}; {advice}")


def check_layout(layer: Any) -> None:
    """Refuses a layer with the channels first."""
    check_data_format(layer, getattr(layer, "data_format", None))


def check_dimensions(operation: Any, shape: tuple[int, ...]) -> None:
    """Refuses a convolution or pooling over more than height and width; shape without batch."""
    if len(shape) > 3:
        raise UnsupportedLayerError(
            operation,
            f"works over {len(shape) - 1} dimensions",
            "the runtimes' kernels know one and two: make the others batch, channels or layers",
        )


def check_data_format(operation: Any, data_format: str | None) -> None:
    """Refuses the channels-first layout; None stands for Keras's default."""
    if (data_format or keras.config.image_data_format()) == "channels_first":
        raise UnsupportedLayerError(
            operation, "data_format='channels_first'", "rebuild the model with 'channels_last'"
        )
