"""Where files were read until that got a room; its public names stay importable."""

from tflite_export.file.as_graph import to_graph
from tflite_export.file.reader import parse

__all__ = ["parse", "to_graph"]
