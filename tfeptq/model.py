"""`QuantizedModel`: a functional Keras model of quantized layers that distils and freezes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import keras

from tfeptq.canonical.deep_models import followed_to_the_end
from tfeptq.canonical.own_dtype import DTYPE
from tfeptq.freeze.bit_widths import bit_widths
from tfeptq.freeze.folding import fold
from tfeptq.freeze.freeze import freeze
from tfeptq.quantization_report import QuantizationReport
from tfeptq.quantized.quantizers import ActivationQuantizer
from tfeptq.quantized.wrappers import QuantizedWeights

if TYPE_CHECKING:
    from tfeptq.config import Outputs, QuantizationConfig
    from tfeptq.selection.choice import Choice
    from tfeptq.selection.search import SearchReport
    from tflite_export import IntegerGraph


class TrainingStep(Protocol):
    """What a model learns by, instead of a loss on labels; see `QuantizedModel.attach`."""

    def train_step(self, model: QuantizedModel, data: Any) -> dict[str, Any]:
        """One step of the model's optimizer, traced by Keras.

        Args:
            data: a batch of what `fit` is fed.

        Returns:
            Name -> loss, for logs.
        """


@keras.saving.register_keras_serializable(package="tfeptq")
class QuantizedModel(keras.Model):
    """What `tfeptq.quantize` returns: a Keras model that predicts as the integer file will.

    `predict`, `evaluate`, `save` and `summary` are Keras's own. With a training step attached
    (`attach`), `fit` runs that: EPTQ's is `tfeptq.rounding.distillation`. Without one, `fit` is
    quantization-aware training on labels.

    Args:
        target: what it is quantized for.
        asked_outputs: see the attribute.

    Attributes:
        target: `tflite_export.export` writes for nothing else unless told; saved with the model.
        asked_outputs: `QuantizationConfig.outputs`; saved with the model, so that `tfeptq.compare`
            knows where the float model is to end.
        report: what `tfeptq.quantize` was asked, decided, found and measured. It stays with the
            object that `quantize` returned and is not saved.

    Example:
        >>> quantized.save("m.keras")
        >>> tfeptq.load_model("m.keras").bit_widths == quantized.bit_widths
        True
    """

    asked_outputs: Outputs | None

    def __init__(
        self,
        *args: Any,
        target: str | None = None,
        asked_outputs: Outputs | None = None,
        **kwargs: Any,
    ) -> None:
        with followed_to_the_end():
            super().__init__(*args, **kwargs)
        self.dtype_policy = DTYPE
        self.target, self.asked_outputs = target, asked_outputs
        self.report = QuantizationReport()
        self._training_step: TrainingStep | None = None

    def attach(self, step: TrainingStep | None) -> None:
        """Sets what the next `compile`/`fit` learns by; None: the compiled loss and labels."""
        self._training_step = step

    def train_step(self, data: Any) -> dict[str, Any]:
        if self._training_step is None:
            return super().train_step(data)
        return self._training_step.train_step(self, data)

    @property
    def quantization_config(self) -> QuantizationConfig | None:
        """`report.config`."""
        return self.report.config

    @property
    def choice(self) -> Choice | None:
        """`report.choice`."""
        return self.report.choice

    @property
    def accuracy_search(self) -> SearchReport | None:
        """`report.search`."""
        return self.report.search

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """`report.seconds`."""
        return self.report.seconds

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
        return bit_widths(self)

    def export(self, filepath: Any, *options: Any, **named: Any) -> None:
        """Keras's own, which writes a model of floats that imitates the integers.

        Raises:
            ValueError: a `.tflite` file is asked for, which `tflite_export.export` writes.
        """
        if str(filepath).endswith(".tflite") or "litert" in (*options, named.get("format")):
            raise ValueError(
                f"{filepath}: model.export is Keras's, which writes floats; the file of integers "
                f"is written by tflite_export.export(quantized, {str(filepath)!r})"
            )
        super().export(filepath, *options, **named)

    def get_config(self) -> dict[str, Any]:
        asked = self.asked_outputs
        listed = asked if asked is None or isinstance(asked, str) else list(asked)
        return {**super().get_config(), "target": self.target, "asked_outputs": listed}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> QuantizedModel:
        """Also reads models that were saved without what they were quantized for."""
        settings = dict(config)
        target, asked = (settings.pop(name, None) for name in ("target", "asked_outputs"))
        model = super().from_config(settings, custom_objects)
        model.target = target
        model.asked_outputs = tuple(asked) if isinstance(asked, list) else asked
        return model

    def freeze(self) -> IntegerGraph:
        """The integers and scales that ship; see `tfeptq.freeze.freeze`."""
        self.fold()
        return freeze(self, target=self.target)

    def fold(self) -> None:
        """Turns learned factors into what ships; see `tfeptq.freeze.folding`."""
        self.report.add_repairs(repair.sentence() for repair in fold(self))
