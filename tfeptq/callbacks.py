"""Quantization inside `model.fit`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras

import tflite_export
from tfeptq.config import QuantizationConfig
from tfeptq.model import QuantizedModel
from tfeptq.pipeline import quantize


class QuantizationCallback(keras.callbacks.Callback):
    """Quantizes a copy of the model at the end of training; the float model is untouched.

    Args:
        calibration: unlabelled samples, see `tfeptq.quantize`.
        config: what to do; the default learns 8-bit weights.
        export_path: where the verified file is written, for `config.target`; None: not at all.
        validation_data: `(x, y)` on which the quantized model is scored with the model's own
            metrics; they appear as `quantized_<metric>` in the logs and in the history.
        every_epochs: also score a copy quantized by calibration alone (no training) after every
            so many epochs.

    Attributes:
        quantized: the quantized model, after training.
        result: the `tflite_export.ExportResult`, after training, where a file was asked for.
    """

    def __init__(
        self,
        calibration: Any,
        config: QuantizationConfig | None = None,
        *,
        export_path: str | Path | None = None,
        validation_data: tuple[Any, Any] | None = None,
        every_epochs: int | None = None,
    ) -> None:
        super().__init__()
        if every_epochs is not None and every_epochs < 1:
            raise ValueError(f"every_epochs={every_epochs} must be at least 1, or None")
        if every_epochs is not None and validation_data is None:
            raise ValueError("every_epochs needs validation_data to score on")
        self.config = config or QuantizationConfig()
        self.quantized: QuantizedModel | None = None
        self.result: tflite_export.ExportResult | None = None
        self._calibration = calibration
        self._export_path = export_path
        self._validation_data = validation_data
        self._every_epochs = every_epochs

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._every_epochs is None or (epoch + 1) % self._every_epochs:
            return
        nearest = dataclasses.replace(self.config, rounding="nearest")
        scores = self._scores(quantize(self.model, self._calibration, nearest))
        if logs is not None:
            logs.update(scores)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.quantized = quantize(self.model, self._calibration, self.config)
        scores = self._scores(self.quantized) if self._validation_data is not None else {}
        if self._export_path is not None:
            self.result = tflite_export.export(
                self.quantized, self._export_path, target=self.config.target
            )
        if logs is not None:
            logs.update(scores)
        self._add_to_history(scores)

    def _scores(self, quantized: QuantizedModel) -> dict[str, float]:
        """The compiled loss and metrics of the float model on the quantized one."""
        inputs, labels = self._validation_data or (None, None)
        compiled = self.model.get_compile_config() or {}
        quantized.compile(
            loss=compiled.get("loss"),
            metrics=keras.saving.deserialize_keras_object(compiled.get("metrics")),
            weighted_metrics=keras.saving.deserialize_keras_object(
                compiled.get("weighted_metrics")
            ),
        )
        scores = quantized.evaluate(inputs, labels, verbose=0, return_dict=True)
        return {f"quantized_{name}": float(value) for name, value in scores.items()}

    def _add_to_history(self, scores: dict[str, float]) -> None:
        """What is known after the last epoch belongs to it; Keras wrote its logs before."""
        history = getattr(self.model, "history", None)
        for name, value in scores.items():
            entries = getattr(history, "history", {}).setdefault(name, [])
            if self._every_epochs is not None and entries:
                entries[-1] = value
            else:
                entries.append(value)
