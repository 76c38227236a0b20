"""One file that says what was asked, what came out and how it was proven: a page, or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.data.given_arrays import as_array, check_shape
from tfeptq.data.units import warn_of_another_unit
from tfeptq.quantization_report import QuantizationReport
from tfeptq.report.content import Content, content
from tfeptq.report.destination import check_destination
from tfeptq.report.quality import LEAST_SQNR
from tfeptq.report.scores import Score, score
from tfeptq.report.tables import quality_table
from tfeptq.settings import shown
from tflite_export import ExportResult
from tflite_export.file.atomic import write_atomically
from tflite_export.file.reader import stored_model

if TYPE_CHECKING:
    import keras

    from tfeptq.model import QuantizedModel

_TEMPLATE = "template.html.j2"


def write_report(
    path: str | Path,
    quantized: QuantizedModel,
    result: ExportResult,
    *,
    model: keras.Model | None = None,
    validation_data: tuple[np.ndarray, np.ndarray] | None = None,
) -> Path:
    """Writes a self-contained report of a quantization; it needs no network to be read.

    It holds accuracies, sizes, every layer with its widths, range, distance from float, bytes and
    verification, those that lose most first; how training went, histograms of weights and
    activations with the ranges chosen, the graph, the frontier where widths were chosen, what the
    target's own tools measure on the file, settings, samples, seconds and versions.

    Args:
        path: of the report, replaced atomically: `.html`, or `.json` for the same as data.
        quantized: what `tfeptq.quantize` returned.
        result: what `tflite_export.export` returned for it; the file must still be there.
        model: the float model, scored beside the others on `validation_data`.
        validation_data: inputs (N, ...) and labels of a model with one input and one output.

    Raises:
        RuntimeError: the extra `report` is not installed, which `.html` needs.
        ValueError: another suffix, labels that do not fit the outputs, or a folder that does not
            exist.

    Example:
        >>> result = tflite_export.export(quantized, "m.tflite")
        >>> tfeptq.write_report("r.html", quantized, result).name
        'r.html'
    """
    path = check_destination(path)
    _require_results(quantized, result)
    scores = (
        {} if validation_data is None else all_scores(quantized, result, model, validation_data)
    )
    return write_scored_report(path, quantized, result, scores)


def _require_results(quantized: Any, result: Any) -> None:
    if not isinstance(getattr(quantized, "report", None), QuantizationReport):
        raise ValueError(
            f"quantized={shown(quantized)} must be what tfeptq.quantize returned: "
            "write_report(path, quantized, result)"
        )
    if not isinstance(result, ExportResult):
        raise ValueError(
            f"result={shown(result)} must be what tflite_export.export(quantized, path) returned"
        )
    _require_same(quantized, result)


def _require_same(quantized: QuantizedModel, result: ExportResult) -> None:
    """Refuses the file of another quantization, as far as widths tell."""
    written: dict[str, tuple[int | None, int]] = {}
    for layer in result.layers:
        weights, bits = written.get(layer.name, (None, 0))
        # A layer may have several operators, of which one has its weights.
        weights = layer.weight_bits if weights is None else weights
        written[layer.name] = (weights, max(bits, layer.activation_bits))
    for name, widths in quantized.bit_widths.items():
        if widths[0] is not None and written.get(name) != widths:
            found = f"{written[name]} there" if name in written else "not there"
            raise ValueError(
                f"result is of {result.path}, which is no file of quantized: layer {name!r} has "
                f"the widths {widths} and is {found}; pass what tflite_export.export(quantized, "
                "path) returned"
            )


def _labelled(validation_data: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise ValueError(
            f"validation_data={shown(validation_data)} must be (inputs, labels), arrays of a model "
            "with one input and one output"
        )
    inputs = as_array(validation_data[0], "validation_data: inputs")
    return inputs.astype(np.float32), as_array(validation_data[1], "validation_data: labels")


def all_scores(
    quantized: QuantizedModel,
    result: ExportResult,
    model: keras.Model | None,
    validation_data: tuple[np.ndarray, np.ndarray],
) -> dict[str, Score]:
    """Scores of the float model, if given, the quantized one and the file in LiteRT."""
    from tflite_export import run

    inputs, labels = _labelled(validation_data)
    check_shape(inputs, quantized.inputs[0].shape[1:], "validation_data: inputs")
    stored = stored_model(result.path)
    warn_of_another_unit(inputs, stored, what="validation_data: inputs")
    scores = {}
    if model is not None:
        scores["float Keras"] = score(model.predict(inputs, verbose=0), labels)
    scores["quantized Keras"] = score(quantized.predict(inputs, verbose=0), labels)
    scores["file in LiteRT"] = score(run(result.path, inputs), labels)
    return scores


def write_scored_report(
    path: Path,
    quantized: QuantizedModel,
    result: ExportResult,
    scores: Mapping[str, Score],
    *,
    command: str | None = None,
) -> Path:
    """`write_report` where the scores are known already.

    Args:
        command: by which it was made, to be shown.
    """
    found = content(quantized, result, scores, command=command)
    text = (
        json.dumps(found.as_dict(), indent=1) if path.suffix == ".json" else _page(quantized, found)
    )
    write_atomically(path, text.encode("utf-8"))
    return path


def _page(quantized: QuantizedModel, found: Content) -> str:
    import jinja2

    from tfeptq.report.figures import figures, packed_plotly

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = figures(quantized, found)
    values: dict[str, Any] = {
        "content": found,
        "nearness": quality_table(found.quality) if found.quality else None,
        "least_sqnr": LEAST_SQNR,
        "figures": drawn,
        "plotly": packed_plotly() if drawn else None,
    }
    return environment.get_template(_TEMPLATE).render(values)


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
