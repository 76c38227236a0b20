"""Soft rounding of all layers of a model at once.

A dozen operators a layer, and as many for their gradients, take longer to start than to run: the
rounding variables of all layers are one vector for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfeptq.quantized.quantizers import rectified_sigmoid
from tfeptq.quantized.wrappers import QuantizedWeights, chosen_shares, undecided_shares


def soft_rounding(
    layers: Sequence[QuantizedWeights], weights: Mapping[str, float], beta: Any
) -> tuple[dict[str, Any], Any]:
    """Quantized kernels by the layers' names, and the rounding regularizer.

    Args:
        layers: at least one; all are equally soft.
        weights: of each layer in the sum of `QuantizedWeights.undecided`.
        beta: exponent of the regularizer.
    """
    logits = [layer.rounding_logits() for layer in layers]
    sizes = [math.prod(each.shape) for each in logits]
    vector = tf.concat([tf.reshape(each, [-1]) for each in logits], axis=0)
    soft_share = tf.convert_to_tensor(layers[0].soft_share)
    shares, undecided = _of_vector(vector, soft_share, beta)
    parts = zip(layers, tf.split(shares, sizes), strict=True)
    kernels = {
        layer.name: layer.quantized_kernel(tf.reshape(part, layer.rounding.shape))
        for layer, part in parts
    }
    # Not by a weight for every number: XLA cannot compile what is too long to be a constant.
    terms = [
        weights[layer.name] * tf.reduce_sum(part)
        for layer, part in zip(layers, tf.split(undecided, sizes), strict=True)
    ]
    return kernels, tf.add_n(terms)


@tf.function(jit_compile=True, reduce_retracing=True, autograph=False)
def _of_vector(logits: tf.Tensor, soft_share: tf.Tensor, beta: tf.Tensor) -> Any:
    soft = rectified_sigmoid(logits)
    return chosen_shares(logits, soft, soft_share), undecided_shares(soft, beta)
