"""What keeps a file from TensorFlow Lite Micro, beside what its table says."""

from __future__ import annotations

from tflite_export.file.stored import StoredModel
from tflite_export.operators.softmax import SOFTMAX
from tflite_export.targets.findings import Finding


def findings(model: StoredModel) -> list[Finding]:
    """The NPU of "ethos-u" and LiteRT's optimized kernel take any number of values."""
    limit, tensors = SOFTMAX.most_values["int8", "int8"], model.tensors
    return [
        Finding(
            model.where(operator),
            f"TFLM ends the program where more than {limit} of its int8 inputs are nearly equal",
            "export the Keras model with tflite_export, which gives its results 16 bits",
            "TFLM's kernel, measured",
        )
        for operator in model.operators
        if operator.kind == SOFTMAX.name
        and tensors[operator.inputs[0]].type == tensors[operator.outputs[0]].type == "int8"
        and tensors[operator.inputs[0]].shape[-1:] > (limit,)
    ]
