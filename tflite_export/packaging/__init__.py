"""What surrounds a verified file on its way into a product, by the target's own tools."""

from tflite_export.packaging.c_source import CSource, write_c_source
from tflite_export.packaging.compression import CompressionError, CompressionResult, compress
from tflite_export.packaging.image_classifier import ImageClassifier, write_image_classifier
from tflite_export.packaging.memory import MemoryBudget, memory_budget
from tflite_export.packaging.vela import VelaReport, vela_report

__all__ = [
    "CSource",
    "CompressionError",
    "CompressionResult",
    "ImageClassifier",
    "MemoryBudget",
    "VelaReport",
    "compress",
    "memory_budget",
    "vela_report",
    "write_c_source",
    "write_image_classifier",
]
