"""Moments of a layer's inputs, and how far they are to be trusted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical import linear

#: Positions that are looked at: in a sample, for neighbouring ones say much the same; and of all
#: samples for each input of the layer, but not fewer than `_ENOUGH`. What is fitted to so many has
#: 1 / 64 more error than what is fitted to all, and correlations are known to 1 %.
_POSITIONS, _FOR_EACH_INPUT, _ENOUGH = 256, 64, 2**13


@dataclasses.dataclass(frozen=True)
class InputMoments:
    """Of a layer's inputs, x in the quantized and y in the float model, over all positions.

    Attributes:
        covariance: of x, (groups, K, K), float64; see `linear.input_columns` for groups and K.
        cross: E[x y'] less the means' product, in the same shape.
        mean, float_mean: of x and y, (groups, 1, K).
    """

    covariance: np.ndarray
    cross: np.ndarray
    mean: np.ndarray
    float_mean: np.ndarray

    @classmethod
    def of(
        cls,
        layer: keras.Layer,
        inputs: Sequence[tf.Tensor],
        float_inputs: Sequence[tf.Tensor] | None = None,
        *,
        is_centered: bool = True,
    ) -> InputMoments:
        """Moments of one call's inputs, over batches.

        Args:
            layer: the weighted primitive.
            inputs, float_inputs: x and y, one tensor (N, ...) a batch; without y it is x.
            is_centered: leave the means out, which a bias makes up for.
        """
        sums: list[np.ndarray] = []
        offsets: list[tf.Tensor] = []
        positions = 0
        total = sum(int(x.shape[0]) for x in inputs)
        for index, x in enumerate(inputs):
            y = x if float_inputs is None else float_inputs[index]
            both = [_some_positions(layer, each, total) for each in (x, y)]
            # Squares of float32 values far from zero would leave nothing of a small variance.
            offsets = offsets or [tf.reduce_mean(each, axis=1, keepdims=True) for each in both]
            shifted = [each - offset for each, offset in zip(both, offsets, strict=True)]
            parts = [
                *(tf.matmul(shifted[0], each, transpose_a=True) for each in shifted),
                *(tf.reduce_sum(each, axis=1, keepdims=True) for each in shifted),
            ]
            found = [part.numpy().astype(np.float64) for part in parts]
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
            positions += shifted[0].shape[1]
        second, cross, *rests = (part / positions for part in sums)
        mean, float_mean = (
            offset.numpy() + rest for offset, rest in zip(offsets, rests, strict=True)
        )
        covariance, cross = second - _outer(rests[0], rests[0]), cross - _outer(*rests)
        centered = cls(covariance, cross, mean, float_mean)
        return centered if is_centered else centered.uncentered()

    @classmethod
    def pooled(
        cls, parts: Sequence[InputMoments], weights: Sequence[float] | None = None
    ) -> InputMoments:
        """Of several calls or batches together; all are centered.

        Args:
            weights: of the parts, in any unit; None: equal ones.
        """

        def average(arrays: Sequence[np.ndarray]) -> np.ndarray:
            return np.average(arrays, axis=0, weights=weights)

        mean = average([part.mean for part in parts])
        float_mean = average([part.float_mean for part in parts])
        moved = [part.about(mean, float_mean) for part in parts]
        covariance = average([part.covariance for part in moved])
        return cls(covariance, average([part.cross for part in moved]), mean, float_mean)

    def about(self, mean: np.ndarray, float_mean: np.ndarray) -> InputMoments:
        """Moments of distances from these points instead of the means."""
        shift, float_shift = self.mean - mean, self.float_mean - float_mean
        return InputMoments(
            self.covariance + _outer(shift, shift),
            self.cross + _outer(shift, float_shift),
            mean,
            float_mean,
        )

    def uncentered(self) -> InputMoments:
        """Moments of distances from zero: the means count as all else."""
        return self.about(np.zeros_like(self.mean), np.zeros_like(self.float_mean))


@dataclasses.dataclass(frozen=True)
class SplitMoments:
    """Moments of all samples, and of two halves of them: where those differ, it is by chance.

    Attributes:
        whole: of all.
        halves: empty where there is one sample only.
    """

    whole: InputMoments
    halves: tuple[InputMoments, ...]

    @classmethod
    def of(
        cls,
        layer: keras.Layer,
        inputs: Sequence[tf.Tensor],
        float_inputs: Sequence[tf.Tensor] | None = None,
    ) -> SplitMoments:
        """Moments of one call's inputs, see `InputMoments.of`; batches go to the halves in turn."""
        float_inputs = inputs if float_inputs is None else float_inputs
        parts = [slice(half, None, 2) for half in range(min(len(inputs), 2))]
        halves = [InputMoments.of(layer, inputs[part], float_inputs[part]) for part in parts]
        sizes = [sum(batch.shape[0] for batch in inputs[part]) for part in parts]
        whole = InputMoments.pooled(halves, sizes)
        return cls(whole, tuple(halves) if len(halves) > 1 else ())

    @classmethod
    def pooled(cls, parts: Sequence[SplitMoments], weights: Sequence[float]) -> SplitMoments:
        """Of the calls of a shared layer together; all are centered.

        Args:
            weights: of the calls, in any unit.
        """
        whole = InputMoments.pooled([part.whole for part in parts], weights)
        by_half = zip(*(part.halves for part in parts), strict=True)
        return cls(whole, tuple(InputMoments.pooled(half, weights) for half in by_half))

    def uncentered(self) -> SplitMoments:
        """See `InputMoments.uncentered`."""
        return SplitMoments(
            self.whole.uncentered(), tuple(half.uncentered() for half in self.halves)
        )

    def covariance(self) -> np.ndarray:
        """Covariance of the inputs with as much of the correlations as is not chance.

        They are shrunk by a factor that depends on how far those of the halves differ (Schaefer and
        Strimmer 2005, who take the variance between samples instead). (groups, K, K), float64.
        """
        covariance = self.whole.covariance
        found = np.sum(np.square(_correlations(covariance)))
        chance = found
        if self.halves:
            first, second = (_correlations(half.covariance) for half in self.halves)
            chance = np.sum(np.square(first - second)) / 4.0
        kept = 1.0 - min(chance / found, 1.0) if found > 0.0 else 0.0
        own = covariance * np.eye(covariance.shape[-1])
        return own + kept * (covariance - own)


def _correlations(covariance: np.ndarray) -> np.ndarray:
    """Of different inputs, (groups, K, K); 0 on the diagonal and where an input does not vary."""
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    deviations = np.sqrt(np.where(variances > 0.0, variances, np.inf))[:, :, None]
    scaled = covariance / deviations / np.swapaxes(deviations, 1, 2)
    return scaled * (1.0 - np.eye(covariance.shape[-1]))


def _outer(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Products of rows (groups, 1, K), (groups, K, K)."""
    return np.swapaxes(left, 1, 2) @ right


def _some_positions(layer: keras.Layer, inputs: tf.Tensor, samples: int) -> tf.Tensor:
    """`linear.input_columns` at some positions of a sample, evenly spread; see `_POSITIONS`.

    Args:
        samples: of all batches together.
    """
    positions = linear.positions(layer, tuple(inputs.shape))
    of_one = linear.by_group(layer, np.empty(layer.kernel.shape, np.bool_)).shape[1]
    wanted = -(-max(_FOR_EACH_INPUT * of_one, _ENOUGH) // samples)
    stride = -(-positions // min(wanted, _POSITIONS))
    # With a divisor of the width every row would give the same columns, the border among them.
    while math.gcd(stride, positions) > 1:
        stride += 1
    return linear.input_columns(layer, inputs, stride=stride)
