"""Scales that every kernel can hold, whatever comes in.

Sums of int32, multipliers and shifts have bounds (`tflite_export.graph.limits`). Here scales are
widened until they keep to them: those of outputs first, each from the scales of its inputs, then
those of weights. That costs nothing where it is needed:

- a channel whose bias does not fit has weights that are invisible beside it: its output's scale
  holds the bias, or its output is saturated;
- an output with a scale so fine that a step of an input moves it across its whole range has no
  values in between. Where a bounded ReLU fixes its scale, the weights are made smaller instead, and
  a step still moves it across.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.primitives import Magnitude, find_primitive
from tfeptq.quantized.integer_bias import largest_total
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights
from tfeptq.quantized.written import Written, WrittenKernel
from tflite_export.graph import limits
from tflite_export.graph.kinds import kind_of

#: How much of what kernels can hold is used before training moves scales and biases, and after.
_BEFORE_TRAINING, _AFTER_TRAINING = 0.5, 0.99
#: Part of an output's step that a unit of the bias is, where no weights choose it, and at least is.
_FINE, _FINEST = 2.0**-8, 2.0**-30
#: What is widened goes a little beyond, so that float32 rounds it to the right side.
_MARGIN = 1.001
#: Steps of a fixed output that one unit of a weight and an input's step move it at least, where
#: kernels could not hold what it was: few enough for the bias to keep its value.
_STEEP = 4.0
#: Widening moves other bounds; after so many rounds there is no solution.
_ROUNDS = 20
#: Of numbers that float32 holds as scales.
_LARGEST_EXPONENT = 80.0


@dataclasses.dataclass(frozen=True)
class Repair:
    """Something that was widened.

    Attributes:
        name: of the weighted layer, or of the layer whose output it is.
        channels: with widened weight scales; empty: the scale of the output.
        is_saturated: the weights of the channels were made smaller instead.
        is_input: the scale of the layer's input was moved instead, up or down.
    """

    name: str
    channels: tuple[int, ...] = ()
    is_saturated: bool = False
    is_input: bool = False

    def joined(self, other: Repair) -> Repair:
        """Both in one."""
        channels = tuple(sorted({*self.channels, *other.channels}))
        return dataclasses.replace(self, channels=channels)

    def sentence(self) -> str:
        if self.is_input:
            return (
                f"layer {self.name!r}: the scale of its input was moved to where its kernel, which "
                "counts in units of its own, can hold it"
            )
        if not self.channels:
            return (
                f"layer {self.name!r}: the scale of its output was widened until kernels can hold "
                "the factor between it and the scales of its inputs"
            )
        some = ", ".join(map(str, self.channels[:5])) + (", ..." if len(self.channels) > 5 else "")
        if self.is_saturated:
            return (
                f"layer {self.name!r}: one step of its input moves the bounded outputs of "
                f"{len(self.channels)} channels ({some}) from end to end; their weights were made "
                "smaller until kernels can hold them: check the units of what this layer reads"
            )
        return (
            f"layer {self.name!r}: the weight scales of {len(self.channels)} channels ({some}) "
            "were widened until kernels can hold their biases and sums; beside these their weights "
            "are too small to be seen"
        )


def settle(model: keras.Model, *, is_trained: bool) -> list[Repair]:
    """Widens scales of activations and weights until all bounds hold.

    Args:
        model: of quantized layers, with all scales set; learned factors are folded.
        is_trained: nothing moves any more: all of each bound may be used, and integers that were
            learned are kept as far as they fit; otherwise they are those nearest to the weights.

    Returns:
        What was widened; nothing in a model that it has been called on before.
    """
    share = _AFTER_TRAINING if is_trained else _BEFORE_TRAINING
    kernels = Written.of(model).computing()
    repairs: dict[tuple[Any, ...], Repair] = {}
    for _ in range(_ROUNDS):
        found = [
            *_bounded_inputs(kernels, share),
            *_widened_outputs(kernels, share),
            *(_smaller_weights(kernels, share) if is_trained else ()),
            *_widened_weights(kernels, share, is_trained),
        ]
        if not found:
            break
        for repair in found:
            key = (repair.name, bool(repair.channels), repair.is_saturated, repair.is_input)
            repairs[key] = repair.joined(repairs.get(key, repair))
    return list(repairs.values())


def _bounded_inputs(kernels: Sequence[WrittenKernel], share: float) -> Iterable[Repair]:
    """Scales of inputs that kernels count in units of their own: sigmoid, tanh, softmax and such.

    Beyond the upper bounds these functions are flat; a tensor that others read keeps its scale.
    """
    readers = Counter(source for kernel in kernels for source in kernel.sources)
    for kernel in kernels:
        row = find_primitive(kernel.layer)
        source = kernel.sources[0]
        if row is None or source.fixed is not None:
            continue
        bounds = kind_of(row.kind_of(kernel.layer)).input_scales.get(source.container)
        if bounds is None:
            continue
        scale = float(source.parameters()[0])
        if scale * share < bounds.low:
            source.rescale(bounds.low / share * _MARGIN)
            yield Repair(kernel.layer.name, is_input=True)
        elif scale > bounds.high * share and readers[source] == 1 and row.flat_beyond:
            source.rescale(bounds.high * share / _MARGIN)
            yield Repair(kernel.layer.name, is_input=True)


def _widened_outputs(kernels: Sequence[WrittenKernel], share: float) -> Iterable[Repair]:
    for kernel in kernels:
        scale = float(kernel.target.parameters()[0])
        least = least_output_scale(kernel, share)
        # Fixed parameters are the kernel's: what they cannot hold is refused when it is frozen.
        if scale < least and kernel.target.fixed is None:
            kernel.target.rescale(least * _MARGIN)
            yield Repair(kernel.layer.name)


def _smaller_weights(kernels: Sequence[WrittenKernel], share: float) -> Iterable[Repair]:
    """Of layers whose output has a fixed scale that is too fine for them.

    Weights of a shared layer stay: its other calls need them. While something still moves they stay
    too, for means and losses are measured in front of the bound.
    """
    for kernel in kernels:
        if not _is_beyond_fixed(kernel, share) or kernel.layer.calls > 1:
            continue
        layer, target = kernel.layer, kernel.target
        source, steps = kernel.sources[0], layer.scales().astype(np.float64)
        sums = linear.by_channel(layer.layer, np.abs(layer.integers().astype(np.int64))).sum(axis=1)
        largest = share * limits.RESULT / (8.0 * max(source.reach * float(sums.max()), 1.0))
        finest = min(_STEEP, largest) / _MARGIN * _scale(target) / _scale(source)
        zero_point = target.parameters()[1]
        low, high = ((code - zero_point) * _scale(target) for code in target.codes)
        layer.shrink(np.minimum(steps, finest), (low, high))
        yield Repair(layer.name, tuple(map(int, np.flatnonzero(steps > finest))), is_saturated=True)


def _is_beyond_fixed(kernel: WrittenKernel, share: float) -> bool:
    """Whether weights are too large for the fixed scale of their output."""
    return (
        isinstance(kernel.layer, QuantizedWeights)
        and kernel.target.fixed is not None
        and _scale(kernel.target) < least_output_scale(kernel, share)
    )


def least_output_scale(kernel: WrittenKernel, share: float) -> float:
    """Finest scale of the output with which the kernel can hold what it makes of its inputs."""
    row = find_primitive(kernel.layer)
    # What is no primitive is a quantizer, which rescales.
    bound = _OUTPUT_BOUNDS[Magnitude.RESCALED if row is None else row.magnitude]
    return max(limits.LOWEST_SCALE / share, bound(kernel, share))


def _of_weights(kernel: WrittenKernel, share: float) -> float:
    source, dtype = kernel.sources[0], kernel.target.container
    steps = kernel.layer.scales().astype(np.float64)
    reached = _scale(source) * source.reach * np.abs(_rows(kernel.layer)).sum(axis=1)
    return max(
        _scale(source) * float(steps.max()) / (share * limits.MULTIPLIER[dtype]),
        # The bias takes as much again, and shifts go up to the next power of two.
        8.0 * float(reached.max()) / (share * limits.RESULT),
    )


def _of_rescaling(kernel: WrittenKernel, share: float) -> float:
    slope = max(1.0, abs(float(getattr(kernel.layer, "negative_slope", 1.0))))
    source = kernel.sources[0]
    return 2.0 * slope * _scale(source) * source.reach / (share * limits.RESULT)


def _of_mean(kernel: WrittenKernel, share: float) -> float:
    # The division by the count is rounded to a power of two, the rest is part of the multiplier.
    return 2.0 * _of_rescaling(kernel, share)


def _of_slopes(kernel: WrittenKernel, share: float) -> float:
    steepest = 127.0 * float(kernel.layer.stored().scale[0])
    return _of_rescaling(kernel, share) * max(steepest, 1.0)


def _of_product(kernel: WrittenKernel, share: float) -> float:
    product = float(np.prod([_scale(s) * s.reach for s in kernel.sources]))
    return 2.0 * product / (share * limits.RESULT)


def _of_dot_product(kernel: WrittenKernel, share: float) -> float:
    return kernel.layer.terms * _of_product(kernel, share)


def _of_sum(kernel: WrittenKernel, share: float) -> float:
    largest = max(map(_scale, kernel.sources))
    return 2.0 * largest / (share * limits.SUM_RATIO[kernel.target.container])


def _of_hard_swish(kernel: WrittenKernel, share: float) -> float:
    return _scale(kernel.sources[0]) / (share * limits.HARD_SWISH_RATIO)


def _of_exponential(kernel: WrittenKernel, share: float) -> float:
    source = kernel.sources[0]
    scale, zero_point = source.parameters()
    _, highest = limits.reach(source.container, zero_point)
    # What no scale holds is refused when it is frozen.
    largest = np.exp(min(highest * float(scale), _LARGEST_EXPONENT))
    return float(largest) / (share * limits.RESULT)


_OUTPUT_BOUNDS: dict[Magnitude, Callable[[WrittenKernel, float], float]] = {
    Magnitude.NONE: lambda *_: 0.0,
    Magnitude.WEIGHTED: _of_weights,
    Magnitude.MEAN: _of_mean,
    Magnitude.RESCALED: _of_rescaling,
    Magnitude.SLOPES: _of_slopes,
    Magnitude.PRODUCT: _of_product,
    Magnitude.DOT_PRODUCT: _of_dot_product,
    Magnitude.SUM: _of_sum,
    Magnitude.HARD_SWISH: _of_hard_swish,
    Magnitude.EXPONENTIAL: _of_exponential,
}


def _widened_weights(
    kernels: Sequence[WrittenKernel], share: float, is_trained: bool
) -> Iterable[Repair]:
    calls: dict[QuantizedWeights, list[WrittenKernel]] = {}
    for kernel in kernels:
        # Wider ones would be further from what fits.
        if isinstance(kernel.layer, QuantizedWeights) and not _is_beyond_fixed(kernel, share):
            calls.setdefault(kernel.layer, []).append(kernel)
    for layer, its_calls in calls.items():
        steps = layer.scales().astype(np.float64)
        least = np.max([least_steps(call, share) for call in its_calls], axis=0)
        if np.any(steps < least):
            wider = np.maximum(steps, least * _MARGIN)
            layer.widen_step(wider) if is_trained else layer.set_step(wider)
            yield Repair(layer.name, tuple(map(int, np.flatnonzero(steps < least))))


def least_steps(kernel: WrittenKernel, share: float) -> np.ndarray:
    """Finest weight scales with which biases and sums fit, float64, as many as the layer has."""
    layer, (source,), target = kernel.layer, kernel.sources, kernel.target
    rows, steps = _rows(layer), layer.scales().astype(np.float64)
    input_scale, output_scale, dtype = _scale(source), _scale(target), target.container
    magnitude = np.abs(rows).sum(axis=1) * source.reach
    bias = _visible_bias(layer, target, input_scale * magnitude) / input_scale
    total = share * largest_total(input_scale * steps / output_scale, dtype=dtype)
    needed = (magnitude + np.abs(bias)) / total
    if not layer.per_channel:
        needed = needed.max(keepdims=True)
    unit = output_scale / input_scale
    is_empty = magnitude == 0.0 if layer.per_channel else np.all(magnitude == 0.0, keepdims=True)
    least = np.where(is_empty & (steps < _FINEST * unit), _FINE * unit, _FINEST * unit)
    return np.maximum(needed, least)


def _visible_bias(layer: QuantizedWeights, target: ActivationQuantizer, reach: np.ndarray) -> Any:
    """The bias, or what is so far out of the output's range that any input gives the same."""
    low, high = target.codes
    scale, zero_point = target.parameters()
    room = 2.0 * reach + (high - low) * float(scale)
    bias = keras.ops.convert_to_numpy(layer.quantized_bias()).astype(np.float64)
    return np.clip(
        bias, (low - zero_point) * float(scale) - room, (high - zero_point) * float(scale) + room
    )


def _rows(layer: QuantizedWeights) -> np.ndarray:
    """Quantized weights, (output channels, weights of a channel), float64."""
    return linear.by_channel(layer.layer, layer.integer_kernel())


def _scale(quantizer: ActivationQuantizer) -> float:
    return float(quantizer.parameters()[0])
