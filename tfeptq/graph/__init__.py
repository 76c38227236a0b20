"""From any supported Keras model to a canonical one that holds only primitive layers."""

from tfeptq.graph.canonical import prepare
from tfeptq.graph.errors import UnsupportedLayerError

__all__ = ["UnsupportedLayerError", "prepare"]
