"""From any supported Keras model to a canonical one that holds only primitive layers."""

from tfeptq.graph.canonical import prepare
from tfeptq.graph.errors import UnsupportedLayerError
from tfeptq.graph.proof import prove

__all__ = ["UnsupportedLayerError", "prepare", "prove"]
