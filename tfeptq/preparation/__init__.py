"""From any supported Keras model to a canonical one that holds only primitive layers."""

from tfeptq.preparation.canonical import prepare
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.functional import as_functional
from tfeptq.preparation.proof import prove

__all__ = ["UnsupportedLayerError", "as_functional", "prepare", "prove"]
