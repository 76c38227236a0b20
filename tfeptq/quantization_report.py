"""What a quantization decided, found and measured, kept with the model that it made."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfeptq.calibrate.histograms import Histogram
    from tfeptq.canonical.layer_graph import Key
    from tfeptq.config import QuantizationConfig
    from tfeptq.report.quality import Quality
    from tfeptq.rounding.training_record import TrainingRow
    from tfeptq.selection.choice import Choice
    from tfeptq.selection.search import SearchReport


@dataclasses.dataclass
class QuantizationReport:
    """Grows while `tfeptq.quantize` works; not saved with the model.

    Attributes:
        samples: stage of the recipe -> how many calibration samples it used.
        repairs: what was changed, without loss, so that every runtime can execute it; one sentence
            each, which names the layer.
        warnings: what may cost accuracy and what to do about it; one sentence each, which names the
            layer, input or output.
        training: the distillation, epoch by epoch.
        histograms: layer name and number of its call -> what calibration counted in its output.
        quality: how near every output is to the float model's.
        config: what was asked.
        choice: costs and sensitivities of the candidates, where widths were chosen.
        search: how they were found, where an accuracy was asked for.
        seconds: stage of the recipe -> seconds.
    """

    samples: dict[str, int] = dataclasses.field(default_factory=dict)
    repairs: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    training: Sequence[TrainingRow] = ()
    histograms: Mapping[Key, Histogram] = dataclasses.field(default_factory=dict, compare=False)
    quality: Quality | None = None
    config: QuantizationConfig | None = None
    # Reports are equal whose findings are: the same run takes other times.
    choice: Choice | None = dataclasses.field(default=None, compare=False)
    search: SearchReport | None = dataclasses.field(default=None, compare=False)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict, compare=False)

    def stated(self) -> str:
        """As JSON, to be kept with the result of a stage."""
        return json.dumps([self.samples, self.repairs, self.warnings])

    def restate(self, text: str) -> None:
        """Takes over what a stage stated whose result was kept."""
        samples, repairs, warnings = json.loads(text)
        self.samples.update(samples)
        for sentences, kept in ((self.repairs, repairs), (self.warnings, warnings)):
            sentences.extend(sentence for sentence in kept if sentence not in sentences)

    def add_repairs(self, sentences: Iterable[str]) -> None:
        """Adds those that are new."""
        self.repairs += [sentence for sentence in sentences if sentence not in self.repairs]

    def add_warnings(self, sentences: Iterable[str]) -> None:
        """Adds those that are new."""
        self.warnings += [sentence for sentence in sentences if sentence not in self.warnings]
