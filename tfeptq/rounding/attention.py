"""How much each sample, and each channel of a layer, counts in the distillation."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.probes import compared_calls


def distillation_weights(
    canonical: keras.Model,
    samples: Sequence[np.ndarray],
    scores: FloatScores,
    config: QuantizationConfig,
) -> list[np.ndarray]:
    """Weights of the distillation: one array (N, channels) or (N, 1) a compared call."""
    if not config.sample_layer_attention:
        calls = compared_calls(LayerGraph.of(canonical))
        return [np.ones((len(samples[0]), 1), np.float32) for _ in calls]
    if config.channel_attention:
        return scores.attention
    return [by_channel.max(axis=-1, keepdims=True) for by_channel in scores.attention]
