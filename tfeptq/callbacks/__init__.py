"""Quantization inside `model.fit`."""

from tfeptq.callbacks.quantization import QuantizationCallback

__all__ = ["QuantizationCallback"]
