"""What a report says, as plain data: the same for the page and for the JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tfeptq.config import QuantizationConfig
from tfeptq.report.finite import finite
from tfeptq.report.layer_facts import LayerFacts, layer_facts
from tfeptq.report.scores import Score
from tfeptq.report.target_section import TargetSection, target_section
from tfeptq.rounding.training_record import TrainingRow
from tflite_export import ExportResult
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.verify import RuntimeReport

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel
    from tfeptq.report.quality import Quality

#: Nobody looks at more points of a frontier.
FRONTIER_POINTS = 400
_PACKAGES = ("tfeptq", "keras", "tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of the configuration; `is_set`: it has another value than the default."""

    name: str
    value: str
    is_set: bool


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything that a report says.

    Attributes:
        command: that made it, if one did.
        float_bytes: of the weights in float32.
        sizes: (what, bytes).
        layers: operators of the file, those first that lose most.
        runtimes: that ran the file, and those that were skipped.
        frontier: costs and predicted losses of the undominated choices, where widths were chosen;
            of many `FRONTIER_POINTS`, spread evenly.
    """

    name: str
    file: str
    target: str
    date: str
    command: str | None
    size_bytes: int
    float_bytes: int
    seconds: dict[str, float]
    versions: dict[str, str]
    scores: dict[str, Score]
    warnings: list[str]
    repairs: list[str]
    samples: dict[str, int]
    settings: list[Setting]
    sizes: list[tuple[str, int]]
    layers: list[LayerFacts]
    notes: tuple[str, ...]
    verified_samples: int | None
    constants: int | None
    runtimes: tuple[RuntimeReport, ...]
    quality: Quality | None
    training: list[TrainingRow]
    section: TargetSection
    choice: str | None
    search: Any
    frontier: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, which knows no infinities: they are null."""
        return finite(dataclasses.asdict(self))

    @property
    def headline(self) -> list[tuple[str, str]]:
        """What people look for first."""
        rows = [(name, f"{score} ({score.metric})") for name, score in self.scores.items()]
        if self.quality is not None:
            least = min((output.sqnr for output in self.quality.outputs), default=math.inf)
            rows.append(("output furthest from float", f"{least:.1f} dB SQNR"))
        ratio = self.float_bytes / self.size_bytes
        weights = f"its weights in float32 take {self.float_bytes:,}, {ratio:.1f} times as much"
        rows.append(("file", f"{self.size_bytes:,} bytes; {weights}"))
        shown = ("flash", "RAM: tensor arena", "SRAM", "inference, Vela's estimate", "cycles")
        rows += [fact for fact in self.section.facts if fact[0] in shown]
        rows.append(("quantized in", f"{sum(self.seconds.values()):.0f} seconds"))
        return rows


def content(
    quantized: QuantizedModel,
    result: ExportResult,
    scores: Mapping[str, Score],
    *,
    command: str | None = None,
) -> Content:
    """Collects what was asked, decided, measured and proven.

    Args:
        scores: whose score -> score, on labelled data.
        command: by which it was made.
    """
    report, proof = quantized.report, result.verification
    elements = _elements(result)
    return Content(
        name=quantized.name,
        file=str(result.path),
        target=result.target,
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        size_bytes=result.size_bytes,
        float_bytes=4 * elements,
        seconds=dict(report.seconds),
        versions=_versions(),
        scores=dict(scores),
        warnings=report.warnings,
        repairs=report.repairs,
        samples=report.samples,
        settings=_settings(report.config) if report.config else [],
        sizes=_sizes(result, elements),
        layers=layer_facts(quantized, result),
        notes=tuple(result.notes),
        verified_samples=proof.samples if proof else None,
        constants=proof.constants if proof else None,
        runtimes=proof.runtimes if proof else (),
        quality=report.quality,
        training=list(report.training),
        section=target_section(result.path, result.target),
        choice=report.choice.source if report.choice else None,
        search=report.search,
        frontier=_frontier(quantized),
    )


def cost_of(quantized: QuantizedModel) -> str:
    """What the frontier is drawn against: the first cost that the budget bounds."""
    choice, config = quantized.report.choice, quantized.report.config
    assert choice is not None
    limits = config.budget.limits if config and config.budget else {}
    return next((name for name in limits if name in choice.cost_names), "weight_bytes")


def _frontier(quantized: QuantizedModel) -> list[dict[str, Any]]:
    choice = quantized.report.choice
    if choice is None:
        return []
    points = choice.frontier(cost_of(quantized), most=FRONTIER_POINTS)
    return [
        {"costs": point.costs, "loss": point.loss, "file_bytes": point.file_bytes}
        for point in points
    ]


def _settings(config: QuantizationConfig) -> list[Setting]:
    defaults, shown = QuantizationConfig(), config.get_config()
    if config.augmentation is not None:
        layers = getattr(config.augmentation, "layers", [config.augmentation])
        shown["augmentation"] = ", ".join(type(layer).__name__ for layer in layers)
    return [
        Setting(name, str(value), getattr(config, name) != getattr(defaults, name))
        for name, value in shown.items()
    ]


def _versions() -> dict[str, str]:
    versions = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _elements(result: ExportResult) -> int:
    # A packed tensor's last byte may be half empty: one weight more at most.
    return sum(
        8 * layer.weight_bytes // CONTAINER_BITS[layer.container]
        for layer in result.layers
        if layer.container is not None
    )


def _sizes(result: ExportResult, elements: int) -> list[tuple[str, int]]:
    packed = [] if result.gzip_bytes is None else [("file, gzipped", result.gzip_bytes)]
    return [
        ("weights in float32", 4 * elements),
        ("weights in int8", elements),
        ("weights as stored", sum(layer.weight_bytes for layer in result.layers)),
        (f"file {result.path.name}", result.size_bytes),
        *packed,
    ]
