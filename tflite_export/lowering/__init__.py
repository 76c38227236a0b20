"""Lowering: an operator of the integer graph as schema options, constant operands and a version."""

from tflite_export.lowering.operators import OPERATORS, Codec, decode, encode
from tflite_export.lowering.versions import operator_version

__all__ = ["OPERATORS", "Codec", "decode", "encode", "operator_version"]
