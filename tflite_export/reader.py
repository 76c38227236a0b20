"""Where files were read until that got a room; its public names stay importable."""

from tflite_export.file.reader import parse, to_graph

__all__ = ["parse", "to_graph"]
