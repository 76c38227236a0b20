"""What surrounds a verified file on its way into a product, by the target's own tools."""

from tflite_export.packaging.c_source import CSource, write_c_source
from tflite_export.packaging.compression import CompressionError, CompressionResult, compress
from tflite_export.packaging.memory import MemoryBudget, memory_budget
from tflite_export.packaging.vela import VelaReport, vela_report

__all__ = [
    "CSource",
    "CompressionError",
    "CompressionResult",
    "MemoryBudget",
    "VelaReport",
    "compress",
    "memory_budget",
    "vela_report",
    "write_c_source",
]
