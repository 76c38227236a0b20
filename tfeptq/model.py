"""`QuantizedModel`: a functional Keras model of quantized layers that distils and freezes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import keras

from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.quantization_report import QuantizationReport
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights

if TYPE_CHECKING:
    from tfeptq.config import QuantizationConfig
    from tfeptq.rounding.distillation import Distillation
    from tfeptq.selection.frontier_point import WidthChoice
    from tfeptq.selection.search import SearchReport
    from tflite_export import IntegerGraph


@keras.saving.register_keras_serializable(package="tfeptq")
class QuantizedModel(keras.Model):
    """What `tfeptq.quantize` returns: a Keras model that predicts as the integer file will.

    `predict`, `evaluate`, `save` and `summary` are Keras's own. With a distillation attached
    (`attach`), `fit` runs EPTQ's training step on what `tfeptq.rounding.distillation` feeds it;
    without one, `fit` is quantization-aware training on labels.

    Attributes:
        target: what it was quantized for, where `tflite_export.export` writes for nothing else
            unless told; saved with the model.
        quantization_config: what `tfeptq.quantize` was asked; like all below it stays with the
            object that `quantize` returned and is not saved.
        choice: costs and sensitivities of the candidates, where widths were chosen.
        accuracy_search: how they were found, where an accuracy was asked for.
        stage_seconds: stage of the recipe -> seconds.
        report: what was decided, found and measured.

    Example:
        >>> quantized.save("m.keras")
        >>> tfeptq.load_model("m.keras").bit_widths == quantized.bit_widths
        True
    """

    target: str | None = None
    quantization_config: QuantizationConfig | None = None
    choice: WidthChoice | None = None
    accuracy_search: SearchReport | None = None
    stage_seconds: Mapping[str, float] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dtype_policy = DTYPE
        self.report = QuantizationReport()

    def attach(self, distillation: Distillation | None) -> None:
        """Sets what the next `compile`/`fit` learns from; None: the compiled loss and labels."""
        self._distillation = distillation

    def train_step(self, data: Any) -> dict[str, Any]:
        distillation = getattr(self, "_distillation", None)
        if distillation is None:
            return super().train_step(data)
        return distillation.train_step(self, data)

    @property
    def weighted_layers(self) -> list[QuantizedWeights]:
        return [layer for layer in self.layers if isinstance(layer, QuantizedWeights)]

    @property
    def activation_quantizers(self) -> list[ActivationQuantizer]:
        return [layer for layer in self.layers if isinstance(layer, ActivationQuantizer)]

    @property
    def bit_widths(self) -> dict[str, tuple[int | None, int]]:
        """Layer name -> (weight bits, or None without weights; bits of its output).

        Of a layer that is called several times: the widest of its outputs. `ExportResult.layers`
        has an entry for every call.
        """
        from tfeptq.freeze.freeze import bit_widths

        return bit_widths(self)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "target": self.target}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> QuantizedModel:
        """Also reads models that were saved without their target."""
        settings = dict(config)
        target = settings.pop("target", None)
        model = super().from_config(settings, custom_objects)
        model.target = target
        return model

    def freeze(self) -> IntegerGraph:
        """The integers and scales that ship; see `tfeptq.freeze.freeze`."""
        from tfeptq.freeze.freeze import freeze

        return freeze(self)

    def fold(self) -> None:
        """Turns learned factors into what ships; see `tfeptq.freeze.folding`."""
        from tfeptq.freeze.folding import fold

        fold(self)
