"""The loss whose Hessian selection uses: how far the outputs move from the float model's own.

Self-distillation needs no labels: KL(p || q) of a softmax or sigmoid, half the squared error of
other outputs, in units of their deviations where there are several, between the model and itself
with changed weights. At the trained weights its gradient is zero and its Hessian is exactly J'AJ,
J the Jacobian of the logits and A the Hessian of the loss in the logits: positive semidefinite,
and the Fisher information of the outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.canonical.logits import logit_keys
from tfeptq.canonical.primitives import primitive_of
from tfeptq.hessian.output_units import OutputUnits
from tfeptq.hessian.samplewise import flattened, summed


class SelfDistillation:
    """The loss of one batch, per sample, and the square root of its curvature at the logits.

    Args:
        model: canonical float model. Outputs that end in a softmax or sigmoid are compared as
            distributions, all others by squared error.
        units: in which the latter are compared; None: as they are.
    """

    def __init__(self, model: keras.Model, units: OutputUnits | None = None) -> None:
        graph = LayerGraph.of(model)
        producers = {call.output: call.layer for call in graph.calls}
        self.keys = logit_keys(model)
        self._kinds = [
            _kind(producers[output]) if key != output else "linear"
            for key, output in zip(self.keys, graph.outputs, strict=True)
        ]
        deviations = [None] * len(self.keys) if units is None else units.deviations
        self._units = [
            unit if kind == "linear" else None
            for unit, kind in zip(deviations, self._kinds, strict=True)
        ]

    def loss(self, tensors: Mapping[Key, Any]) -> tf.Tensor:
        """Divergence of the logits from their own present values: zero, with its curvature."""
        total = 0.0
        for index, kind in enumerate(self._kinds):
            logits = self._scaled(index, tensors)
            total += tf.reduce_sum(_divergence(kind, tf.stop_gradient(logits), logits))
        return total / tf.cast(tf.shape(tensors[self.keys[0]])[0], tf.float32)

    def divergence(self, reference: Mapping[Key, Any], tensors: Mapping[Key, Any]) -> tf.Tensor:
        """Divergence of the outputs from those of another run, one value a sample."""
        total = 0.0
        for index, kind in enumerate(self._kinds):
            pair = self._scaled(index, reference), self._scaled(index, tensors)
            total += summed(_divergence(kind, *pair))
        return total

    def whiten(self, logits: list[tf.Tensor], shifts: list[tf.Tensor]) -> tf.Tensor:
        """Rows r with r.r' = shift' A shift, (N, outputs): A^(1/2) times small logit shifts."""
        parts = []
        for kind, unit, value, shift in zip(self._kinds, self._units, logits, shifts, strict=True):
            part = _whitened(kind, value, shift)
            part = part if unit is None else part / unit
            parts.append(flattened(part))
        return tf.concat(parts, axis=1)

    def whitened(self, tensors: Mapping[Key, Any]) -> tf.Tensor:
        """A^(1/2) y, (N, outputs), whose derivatives do not see that A depends on y.

        Args:
            tensors: the logits y, among others.
        """
        logits = [tensors[key] for key in self.keys]
        return self.whiten([tf.stop_gradient(value) for value in logits], logits)

    def _scaled(self, index: int, tensors: Mapping[Key, Any]) -> tf.Tensor:
        values, unit = tensors[self.keys[index]], self._units[index]
        return values if unit is None else values / unit


def _kind(layer: keras.Layer) -> str:
    """Of a layer that ends the model behind its logits."""
    squashes = primitive_of(layer).squashes
    assert squashes is not None
    return squashes


def _divergence(kind: str, reference: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Element by element; sums over classes and units are the divergence."""
    if kind == "softmax":
        log_p, log_q = tf.nn.log_softmax(reference), tf.nn.log_softmax(logits)
        return tf.exp(log_p) * (log_p - log_q)
    if kind == "sigmoid":
        p = tf.sigmoid(reference)
        log_odds = tf.math.log_sigmoid(reference) - tf.math.log_sigmoid(logits)
        log_other = tf.math.log_sigmoid(-reference) - tf.math.log_sigmoid(-logits)
        return p * log_odds + (1.0 - p) * log_other
    return 0.5 * tf.square(logits - reference)


def _whitened(kind: str, logits: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    if kind == "softmax":
        p = tf.nn.softmax(logits)
        return tf.sqrt(p) * (shift - tf.reduce_sum(p * shift, axis=-1, keepdims=True))
    if kind == "sigmoid":
        p = tf.sigmoid(logits)
        return tf.sqrt(p * (1.0 - p)) * shift
    return shift
