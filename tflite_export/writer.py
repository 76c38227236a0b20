"""Where files were written until that got a room; its public names stay importable."""

from tflite_export.file.writer import serialize, write

__all__ = ["serialize", "write"]
