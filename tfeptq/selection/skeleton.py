"""A model's integer graph before anything is learned: the operators and sizes of its file."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfeptq.calibrate.thresholds import fitted_grid
from tfeptq.model import QuantizedModel
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.quantized.wrap import wrap
from tflite_export.file.writer import write
from tflite_export.graph.structure import IntegerGraph, Tensor
from tflite_export.packaging.compression import slimmed
from tflite_export.targets.containers import plan_storage


def skeleton(plan: QuantizationPlan) -> IntegerGraph:
    """The graph that a canonical model will become, with arbitrary integers and scales."""
    generator = np.random.default_rng(0)
    quantized = _uncalibrated(plan)
    for layer in quantized.weighted_layers:
        layer.set_step(generator.uniform(1.0, 2.0, layer.step.shape))
    graph = quantized.freeze()
    tensors = {name: _filled(tensor, generator) for name, tensor in graph.tensors.items()}
    return dataclasses.replace(graph, tensors=tensors)


def rounded(plan: QuantizationPlan) -> IntegerGraph:
    """The same graph with the model's own weights, rounded to nearest without any data.

    For tools that look at the weights: Vela codes frequent integers in fewer bits.
    """
    quantized = _uncalibrated(plan)
    for layer in quantized.weighted_layers:
        grid = fitted_grid(
            layer.layer,
            None,
            grid=layer.grid_name,
            bits=layer.bits,
            method="mse",
            per_channel=layer.per_channel,
        )
        layer.set_grid(grid)
    return quantized.freeze()


def _uncalibrated(plan: QuantizationPlan) -> QuantizedModel:
    quantized = QuantizedModel(*wrap(plan), name=plan.model.name)
    free = (q for q in quantized.activation_quantizers if q.fixed is None)
    for index, quantizer in enumerate(free):
        # Unequal scales, as learned ones are: equal ones would make requantizations vanish.
        quantizer.set_range(0.0, 1.0 + index)
    return quantized


def _filled(tensor: Tensor, generator: np.random.Generator) -> Tensor:
    """Random constants: the writer stores equal ones once."""
    if tensor.data is None:
        return tensor
    low, high = -(2 ** (tensor.bits - 1)), 2 ** (tensor.bits - 1) - 1
    data = generator.integers(low, high, tensor.shape, dtype=tensor.data.dtype)
    return dataclasses.replace(tensor, data=data)


def file_bytes(graph: IntegerGraph, target: str, *, slim: bool = False) -> int:
    """Size of the file that `graph` is written to.

    Args:
        slim: without the parameters that compression for microcontrollers drops.
    """
    content = write(graph, plan_storage(graph, target))
    return len(slimmed(content) if slim else content)


def peak_activation_bytes(graph: IntegerGraph) -> int:
    """Most bytes of activations that are alive at once: from their writer to their last reader.

    What a memory planner without fragmentation needs; a runtime's arena adds its bookkeeping and
    the scratch buffers of kernels.
    """
    return sum(alive_at_peak(graph).values())


def alive_at_peak(graph: IntegerGraph) -> dict[str, int]:
    """Bytes of the activations that are alive when these are most, by tensor."""
    births = {name: 0 for _, name in graph.inputs}
    deaths = {name: len(graph.operators) for _, name in graph.outputs}
    for time, operator in enumerate(graph.operators):
        births.update(dict.fromkeys(operator.outputs, time))
        for name in operator.inputs:
            deaths[name] = max(deaths.get(name, 0), time)
    sizes = {
        name: int(np.prod(graph.tensors[name].shape)) * np.dtype(graph.tensors[name].dtype).itemsize
        for name in births
    }
    alive = np.zeros(len(graph.operators) + 1, np.int64)
    for name, birth in births.items():
        alive[birth : deaths.get(name, birth) + 1] += sizes[name]
    peak = int(alive.argmax())
    return {
        name: sizes[name]
        for name, birth in births.items()
        if birth <= peak <= deaths.get(name, birth)
    }
