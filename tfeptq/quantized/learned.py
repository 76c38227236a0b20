"""What a training may change, of a model or of a copy of it: files do not tell."""

from __future__ import annotations

import keras

from tfeptq.config import QuantizationConfig
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights


def choose_learned(quantized: keras.Model, config: QuantizationConfig) -> None:
    """Marks what is learned, and has weights keep the structure of the float ones."""
    for layer in quantized.layers:
        if isinstance(layer, QuantizedWeights):
            layer.keep_structure()
            layer.set_learned(scales=config.train_scales, biases=config.train_biases)
        elif isinstance(layer, ActivationQuantizer):
            layer.set_learned(scale=config.train_scales)
