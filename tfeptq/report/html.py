"""One HTML file that says what was asked, what came out and how it was proven."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.config import QuantizationConfig
from tfeptq.report.quality import LEAST_SQNR
from tfeptq.report.scores import Score, score
from tfeptq.report.tables import quality_table
from tfeptq.report.target_section import target_section
from tflite_export import ExportResult
from tflite_export.file.atomic import destination, write_atomically
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.verify import OperatorDifference, RuntimeReport

if TYPE_CHECKING:
    import keras

    from tfeptq.model import QuantizedModel

_TEMPLATE = "template.html.j2"
_PACKAGES = ("tfeptq", "keras", "tensorflow", "ai-edge-litert", "tflite-micro", "ethos-u-vela")


def require_installed() -> None:
    """Raises RuntimeError where the libraries of the extra `report` are missing."""
    missing = [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"a report needs {' and '.join(missing)}: install the extra 'report', "
            "pip install 'tfeptq[report]'"
        )


def write_report(
    path: str | Path,
    quantized: QuantizedModel,
    result: ExportResult,
    *,
    model: keras.Model | None = None,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """Writes a self-contained HTML report of a quantization; it needs no network to be read.

    It holds the configuration, every layer with its widths, bytes and verification, seconds, sizes,
    the frontier where widths were chosen, and what the target's own tools measure on the file.

    Args:
        path: of the report, replaced atomically.
        quantized: what `tfeptq.quantize` returned.
        result: what `tflite_export.export` returned for it; the file must still be there.
        model: the float model, scored beside the others on `validation_data`.
        validation_data: inputs (N, ...) and labels of a model with one input and one output.

    Raises:
        RuntimeError: the extra `report` is not installed.
        ValueError: labels that do not fit the outputs, or a folder that does not exist.

    Example:
        >>> result = tflite_export.export(quantized, "m.tflite")
        >>> tfeptq.write_report("r.html", quantized, result).name
        'r.html'
    """
    require_installed()
    path = destination(path)
    scores = (
        {} if validation_data is None else all_scores(quantized, result, model, validation_data)
    )
    return write_scored_report(path, quantized, result, scores)


def all_scores(
    quantized: QuantizedModel,
    result: ExportResult,
    model: keras.Model | None,
    validation_data: tuple[np.ndarray, np.ndarray],
) -> dict[str, Score]:
    """Scores of the float model, if given, the quantized one and the file in LiteRT."""
    from tflite_export import run

    inputs, labels = np.asarray(validation_data[0], np.float32), np.asarray(validation_data[1])
    scores = {}
    if model is not None:
        scores["float Keras"] = score(model.predict(inputs, verbose=0), labels)
    scores["quantized Keras"] = score(quantized.predict(inputs, verbose=0), labels)
    scores["file in LiteRT"] = score(run(result.path, inputs), labels)
    return scores


def write_scored_report(
    path: Path, quantized: QuantizedModel, result: ExportResult, scores: Mapping[str, Score]
) -> Path:
    """`write_report` where the scores are known already."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(_TEMPLATE).render(_content(quantized, result, scores))
    write_atomically(path, text.encode("utf-8"))
    return path


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _content(
    quantized: QuantizedModel, result: ExportResult, scores: Mapping[str, Score]
) -> dict[str, Any]:
    config = quantized.report.config
    runtimes = result.verification.runtimes if result.verification else ()
    return {
        "name": quantized.name,
        "result": result,
        "scores": scores,
        "settings": _settings(config) if config else [],
        "versions": _versions(),
        "layers": _layers(result),
        "runtimes": runtimes,
        "sizes": _sizes(result),
        "report": quantized.report,
        "nearness": quality_table(quality) if (quality := quantized.report.quality) else None,
        "least_sqnr": LEAST_SQNR,
        "seconds": quantized.report.seconds,
        "search": quantized.report.search,
        "section": target_section(result.path, result.target),
        **_frontier(quantized),
    }


def _settings(config: QuantizationConfig) -> list[tuple[str, str, bool]]:
    """(name, value, whether it differs from the default) of every setting."""
    defaults, shown = QuantizationConfig(), config.get_config()
    if config.augmentation is not None:
        layers = getattr(config.augmentation, "layers", [config.augmentation])
        shown["augmentation"] = ", ".join(type(layer).__name__ for layer in layers)
    return [
        (name, str(value), getattr(config, name) != getattr(defaults, name))
        for name, value in shown.items()
    ]


def _versions() -> list[tuple[str, str]]:
    versions = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            versions.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclasses.dataclass(frozen=True)
class _Row:
    """An operator of the file; `verdicts` holds one entry a runtime that was run."""

    layer: Any
    verdicts: list[str]


def _layers(result: ExportResult) -> list[_Row]:
    runs = _run(result)
    return [
        _Row(layer, [_verdict(report.operators[index]) for report in runs])
        for index, layer in enumerate(result.layers)
    ]


def _run(result: ExportResult) -> list[RuntimeReport]:
    reports = result.verification.runtimes if result.verification else ()
    return [report for report in reports if not report.skipped]


def _verdict(difference: OperatorDifference) -> str:
    if difference.maximum == 0:
        return "identical"
    return f"{difference.maximum} LSB at most, {difference.mean:.2g} on average"


def _sizes(result: ExportResult) -> list[tuple[str, int]]:
    # A packed tensor's last byte may be half empty: one weight more at most.
    elements = sum(
        8 * layer.weight_bytes // CONTAINER_BITS[layer.container]
        for layer in result.layers
        if layer.container is not None
    )
    return [
        ("weights in float32", 4 * elements),
        ("weights in int8", elements),
        ("weights as stored", sum(layer.weight_bytes for layer in result.layers)),
        (f"file {result.path.name}", result.size_bytes),
    ]


def _frontier(quantized: QuantizedModel) -> dict[str, str | None]:
    """The plot and what draws it; 2 MB that only reports with a plot carry."""
    if quantized.report.choice is None:
        return {"figure": None, "plotly": None, "source": None}
    from tfeptq.report.frontier_plot import frontier_figure, packed_plotly

    choice, config = quantized.report.choice, quantized.report.config
    limits = config.budget.limits if config and config.budget else {}
    cost = next((name for name in limits if name in choice.cost_names), "weight_bytes")
    chosen = choice.point_of(quantized.bit_widths)
    figure = frontier_figure(choice.frontier(cost), chosen, cost)
    return {"figure": figure, "plotly": packed_plotly(), "source": choice.source}
