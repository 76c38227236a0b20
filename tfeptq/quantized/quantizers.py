"""Fake quantization: what the integer kernels will see, in float32, and its gradients."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from tfeptq.canonical.integer_types import activation_dtype, activation_range
from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.quantized.fused import (
    compared_and_quantized,
    gradual_fake_quantize,
    without_gradients,
)
from tflite_export.graph import limits

#: Stretch of the rectified sigmoid h(a) = clip(ZETA * sigmoid(a) + GAMMA, 0, 1); AdaRound, eq. 23.
ZETA, GAMMA = 1.2, -0.1


def straight_through(value: Any, replacement: Any) -> Any:
    """`replacement` in the forward pass, the gradient of `value` in the backward pass."""
    return value + ops.stop_gradient(replacement - value)


def rectified_sigmoid(logits: Any) -> Any:
    """h(a) of the rounding variables, in [0, 1]."""
    return ops.clip(ZETA * ops.sigmoid(logits) + GAMMA, 0.0, 1.0)


def rectified_sigmoid_inverse(fraction: np.ndarray) -> np.ndarray:
    """a such that h(a) = fraction, float32; exactly >= 0 where fraction >= 0.5."""
    probability = (np.asarray(fraction, np.float64) - GAMMA) / ZETA
    logits = np.log(probability) - np.log1p(-probability)
    return np.where(fraction >= 0.5, np.maximum(logits, 0.0), np.minimum(logits, -1e-6)).astype(
        np.float32
    )


def fake_quantize(values: Any, *, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    """scale * (clip(round(values / scale) + zero_point, low, high) - zero_point), float32.

    Gradients are those of LSQ (Esser et al., arXiv 1902.08153): straight through the rounding for
    `values`, and the rounding error (or the clipping bound) for `scale`.
    """
    scaled = values / scale
    rounded = straight_through(scaled, ops.round(scaled))
    return ops.clip(rounded, low - zero_point, high - zero_point) * scale


def asymmetric_parameters(minimum: float, maximum: float, *, bits: int) -> tuple[np.float32, int]:
    """Scale and zero point of the range [minimum, maximum], widened to hold zero exactly.

    Returns symmetric parameters (zero point 0) for 16 bits.
    """
    minimum, maximum = min(float(minimum), 0.0), max(float(maximum), 0.0)
    low, high = activation_range(bits)
    if bits == 16:
        return _positive(max(-minimum, maximum) / high), 0
    scale = _positive((maximum - minimum) / (high - low))
    zero_point = int(np.clip(round(low - minimum / float(scale)), low, high))
    return scale, zero_point


def _positive(scale: float) -> np.float32:
    return np.float32(max(scale, limits.LOWEST_SCALE))


def scale_unit(bits: int) -> float:
    """Unit in which the logarithm of a scale of `bits` is learned, so that one rate suits all.

    What a factor moves values by, in steps, grows with their number: with the unit of 4 bits, 8-bit
    ranges lose several codes by the noise of a few gradients.
    """
    return min(1.0, 2.0 ** (4 - bits))


def given_unit(bits: int, given: float | None) -> float:
    return scale_unit(bits) if given is None else given


@keras.saving.register_keras_serializable(package="tfeptq")
class ActivationQuantizer(keras.layers.Layer):
    """Quantizes one tensor of the file: out = p * x + (1 - p) * Q(x).

    Q is asymmetric int8, of which 4 to 7 bits use the highest 2^bits codes, or symmetric int16,
    with a learned scale (LSQ) and a fixed zero point. p is the share that is still float: 1 while
    ranges are not known, falling to exactly 0 in training (EPTQ, section 4.3, gradual activation
    quantization).

    Args:
        bits: 4 to 8, or 16.
        fixed: optional `(scale, zero_point)` that the kernel demands; never learned.
        scale_unit: of `log_scale`; None: that of `bits`, see `scale_unit`.
    """

    def __init__(
        self,
        bits: int = 8,
        fixed: tuple[float, int] | None = None,
        scale_unit: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": DTYPE, **kwargs})
        self.bits = bits
        self.scale_unit = given_unit(bits, scale_unit)
        self.fixed = tuple(fixed) if fixed is not None else None

    def build(self, input_shape: Any) -> None:
        scale, zero_point = self.fixed or (1.0, 0)
        self.base_scale = self._constant("base_scale", scale)
        self.zero_point = self._constant("zero_point", zero_point)
        self.float_share = self._constant("float_share", 0.0)
        self.log_scale = self.add_weight(
            name="log_scale", shape=(), initializer="zeros", trainable=self.fixed is None
        )

    def _constant(self, name: str, value: float) -> keras.Variable:
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=initializer, trainable=False)

    @property
    def codes(self) -> tuple[int, int]:
        return activation_range(self.bits)

    @property
    def container(self) -> str:
        """Type of its tensor in the file."""
        return activation_dtype(self.bits)

    @property
    def reach(self) -> int:
        """Largest distance of an integer of its tensor's type from the zero point."""
        return max(map(abs, limits.reach(self.container, self.parameters()[1])))

    def call(
        self, inputs: Any, is_fused: bool = False, ends: tuple[float, float] | None = None
    ) -> Any:
        """The quantized tensor.

        Args:
            is_fused: compute in one kernel, see `tfeptq.quantized.fused`; the result is the same.
            ends: of a ReLU that this kernel applies first.
        """
        if is_fused:
            return gradual_fake_quantize(inputs, *self._settings(), ends=ends)
        low, high = self.codes
        scale = self._scale()
        quantized = fake_quantize(
            inputs, scale=scale, zero_point=self.zero_point, low=low, high=high
        )
        return quantized + self.float_share * (inputs - quantized)

    def compared(
        self, inputs: Any, targets: Any, weights: Any, *, ends: tuple[float, float] | None
    ) -> tuple[Any, Any]:
        """The quantized tensor, and the sum of weights * (inputs - targets)^2, in one kernel."""
        return compared_and_quantized(inputs, targets, weights, *self._settings(), ends=ends)

    def without_gradients(self, inputs: Any) -> Any:
        """The quantized tensor in one kernel, outside of compiled functions."""
        return without_gradients(inputs, *self._settings())

    def _scale(self) -> Any:
        return self.base_scale * ops.exp(self.scale_unit * self.log_scale)

    def _settings(self) -> tuple[Any, ...]:
        """Scale, zero point, share that is float, and the lowest and highest code, as tensors."""
        shares = map(ops.convert_to_tensor, (self.zero_point, self.float_share))
        return self._scale(), *shares, ops.convert_to_tensor(self.codes, "float32")

    def set_range(self, minimum: float, maximum: float) -> None:
        """Takes scale and zero point from a calibrated range; refused on fixed parameters."""
        if self.fixed is not None:
            raise ValueError(f"{self.name!r} has fixed parameters {self.fixed}")
        scale, zero_point = asymmetric_parameters(minimum, maximum, bits=self.bits)
        self.base_scale.assign(scale)
        self.zero_point.assign(zero_point)
        self.log_scale.assign(0.0)

    def rescale(self, scale: float) -> None:
        """Takes another scale; codes of zero stay where they are."""
        self.base_scale.assign(np.float32(scale))
        self.log_scale.assign(0.0)

    def set_learned(self, *, scale: bool) -> None:
        """Whether training may change the scale; one that a kernel demands stays in any case."""
        self.log_scale.trainable = scale and self.fixed is None

    def fold(self) -> None:
        """Moves the learned factor into the scale, so that the scale is one float32 number."""
        factor = np.exp(self.scale_unit * np.float64(ops.convert_to_numpy(self.log_scale)))
        self.base_scale.assign(_positive(float(self.base_scale.numpy()) * factor))
        self.log_scale.assign(0.0)
        self.float_share.assign(0.0)

    def parameters(self) -> tuple[np.float32, int]:
        """Scale and zero point as they go into the file. Call `fold` after training first."""
        return (
            np.float32(ops.convert_to_numpy(self.base_scale)),
            int(ops.convert_to_numpy(self.zero_point)),
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        own = {"bits": self.bits, "fixed": self.fixed, "scale_unit": self.scale_unit}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ActivationQuantizer:
        """Also reads quantizers that were saved when all had one unit."""
        return super().from_config({"scale_unit": 1.0, **config})
