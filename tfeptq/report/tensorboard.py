"""What the report shows, for TensorBoard: curves, and histograms before and after quantization.

Keras's own callback writes what `fit` logs. Beside that, in the run `quantization`: the curves of
the distillation by step, SQNR of every layer in execution order, and histograms of every kernel and
every tensor of the file, where step 0 is float and step 1 what the file computes with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.memory import fitting_batch
from tfeptq.model import QuantizedModel
from tfeptq.quantized.quantizers import ActivationQuantizer

#: Folder in a callback's `log_dir`, which TensorBoard takes for the name of a run.
RUN = "quantization"
#: Samples of the histograms.
_SAMPLES = 32
#: dB that stand for an output without error.
_MOST = 100.0


def write_summaries(
    callbacks: Sequence[keras.callbacks.Callback] | None,
    quantized: QuantizedModel,
    samples: Sequence[np.ndarray],
) -> None:
    """Writes the summaries of a finished quantization where the user's callbacks say.

    Args:
        callbacks: of them every `keras.callbacks.TensorBoard`.
        quantized: with its report.
        samples: one array a model input, float32 (N, ...); the first few are used.
    """
    for callback in callbacks or ():
        if isinstance(callback, keras.callbacks.TensorBoard):
            writer = tf.summary.create_file_writer(str(Path(callback.log_dir) / RUN))
            with writer.as_default():
                _training(quantized)
                _quality(quantized)
                _weights(quantized)
                _activations(quantized, samples)
            writer.close()


def _training(quantized: QuantizedModel) -> None:
    for row in quantized.report.training:
        curves = dataclasses.asdict(row)
        step = curves.pop("step")
        for name, value in curves.items():
            tf.summary.scalar(f"training/{name}", value, step=step)


def _quality(quantized: QuantizedModel) -> None:
    quality = quantized.report.quality
    if quality is None:
        return
    for place, value in enumerate(quality.layers.values()):
        tf.summary.scalar("sqnr/by layer", min(value, _MOST), step=place)
    names = "\n".join(f"{place}. {name}" for place, name in enumerate(quality.layers))
    tf.summary.text("sqnr/layers", names, step=0)
    for output in quality.outputs:
        tf.summary.scalar(f"sqnr/output {output.name}", min(output.sqnr, _MOST), step=0)


def _weights(quantized: QuantizedModel) -> None:
    for layer in quantized.weighted_layers:
        both = layer.float_kernel, layer.integer_kernel()
        _both(f"weights/{layer.name}", *both)


def _activations(quantized: QuantizedModel, samples: Sequence[np.ndarray]) -> None:
    count = fitting_batch(quantized, min(_SAMPLES, len(samples[0])), copies=2)
    graph = LayerGraph.of(quantized)
    tensors = graph.execute([tf.constant(array[:count]) for array in samples])
    for call in graph.calls:
        if isinstance(call.layer, ActivationQuantizer):
            _both(f"activations/{call.layer.name}", tensors[call.inputs[0]], tensors[call.output])


def _both(name: str, before: object, after: object) -> None:
    for step, values in enumerate((before, after)):
        tf.summary.histogram(name, values, step=step)
