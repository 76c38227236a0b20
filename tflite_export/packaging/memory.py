"""What a file takes of a microcontroller's flash and RAM, part by part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_export.file.damage import names_damage
from tflite_export.file.reader import content_of, parse
from tflite_export.file.stored import StoredModel
from tflite_export.graph.kinds import BIAS
from tflite_export.runtimes import tflm
from tflite_export.runtimes.sessions import RUNTIMES, RuntimeUnavailableError


@dataclasses.dataclass(frozen=True)
class MemoryBudget:
    """Bytes of flash and RAM that a model needs, without the code that executes it.

    Attributes:
        weights: constants other than biases: weights as stored, look-up tables, shapes.
        biases: of convolutions and dense layers.
        parameters: scales and zero points of all tensors.
        structure: everything else in the file: operators, tensors, names, alignment.
        arena: RAM, measured in TFLM on this computer.
    """

    weights: int
    biases: int
    parameters: int
    structure: int
    arena: tflm.Arena

    @property
    def flash(self) -> int:
        """The size of the file."""
        return self.weights + self.biases + self.parameters + self.structure


@names_damage
def memory_budget(model: str | Path | bytes) -> MemoryBudget:
    """Measures a `.tflite` file.

    Raises:
        ValueError: TFLM does not run the file.
        RuntimeUnavailableError: TFLM, which measures the arena, is not installed.
    """
    if reason := RUNTIMES["tflm"].missing():
        raise RuntimeUnavailableError(f"the arena cannot be measured here: {reason}")
    content = content_of(model)
    stored = parse(content)
    biases = _bias_buffers(stored)
    sizes = {tensor.buffer: tensor.stored_bytes for tensor in stored.tensors}
    bias_bytes = sum(sizes[buffer] for buffer in biases)
    weight_bytes = sum(sizes.values()) - bias_bytes
    parameters = _parameter_bytes(content)
    structure = len(content) - weight_bytes - bias_bytes - parameters
    return MemoryBudget(weight_bytes, bias_bytes, parameters, structure, tflm.arena(content))


def _parameter_bytes(content: bytes) -> int:
    """Scales and zero points; what several tensors point to lies in the file once."""
    subgraph = schema.Model.GetRootAs(content, 0).Subgraphs(0)
    sizes: dict[int, int] = {}
    for index in range(subgraph.TensorsLength()):
        parameters = subgraph.Tensors(index).Quantization()
        if parameters is None:
            continue
        for values in (parameters.ScaleAsNumpy(), parameters.ZeroPointAsNumpy()):
            if isinstance(values, np.ndarray):
                sizes[values.ctypes.data] = values.nbytes
    return sum(sizes.values())


def _bias_buffers(model: StoredModel) -> set[int]:
    """Buffers of the biases of weighted operators."""
    biases = (operator.operand(BIAS) for operator in model.operators)
    return {model.tensors[index].buffer for index in biases if index is not None}
