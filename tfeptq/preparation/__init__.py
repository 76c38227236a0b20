"""From any supported Keras model to a canonical one that holds only primitive layers."""

from tfeptq.preparation.canonical import prepare
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.functional import as_functional, open_inputs
from tfeptq.preparation.proof import prove
from tfeptq.preparation.registered import register_layer

__all__ = [
    "UnsupportedLayerError",
    "as_functional",
    "open_inputs",
    "prepare",
    "prove",
    "register_layer",
]
