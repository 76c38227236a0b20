"""Attributes that several operators have, and how files store them."""

from __future__ import annotations

from tflite_export.graph import activations
from tflite_export.graph.kinds import ACTIVATION, Attribute, Tolerance

#: Windows that move over an image.
WINDOW = {
    "padding": Attribute("padding", "Padding", ("SAME", "VALID")),
    "stride_h": Attribute("strideH"),
    "stride_w": Attribute("strideW"),
}
DILATION = {"dilation_h": Attribute("dilationHFactor"), "dilation_w": Attribute("dilationWFactor")}
FILTER = {"filter_h": Attribute("filterHeight"), "filter_w": Attribute("filterWidth")}
#: An activation function that joins the operator.
FUSED = {
    ACTIVATION: Attribute("fusedActivationFunction", "ActivationFunctionType", activations.FUSED)
}
#: Of operators that files may fuse one into, and the integer graph may not: code of "NONE".
UNFUSED = {"fusedActivationFunction": 0}
#: An attribute that is a constant int32 operand.
OPERAND = Attribute()

#: XNNPACK takes the int8 form.
RESCALED_BY_XNNPACK = {
    ("litert", "int8"): Tolerance(1, "XNNPACK requantizes in float32 and rounds half to even")
}
MEASURED_IN_TFLM = Tolerance(
    1, "TFLM's kernel rescales a little differently; measured, the cause is not established"
)
_FLOAT64 = Tolerance(
    1,
    "TFLM takes the quotient of two scales in float64, LiteRT in float32, whose last bit decides "
    "where a result is halfway",
)
#: Kernels whose multiplier is a quotient of scales.
QUOTIENT_IN_TFLM = {("tflm", "int8"): _FLOAT64, ("tflm", "int16"): _FLOAT64}
