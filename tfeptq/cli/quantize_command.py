"""`tfeptq quantize`: the whole road from a Keras file to a TensorFlow Lite file."""

from __future__ import annotations

import contextlib
import dataclasses
import json as json_text
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from cyclopts import Parameter

from tfeptq.cli.augmentation import (
    RandomFlip,
    RandomTranslation,
    augmentation,
    check_augmentation,
)
from tfeptq.cli.ends import Ends, EndType
from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.npz import Npz, fits, names_file, require_one_end
from tfeptq.cli.own_files import require_kept
from tfeptq.cli.request import (
    ConfigFile,
    Goal,
    Limits,
    Prices,
    Request,
    Settings,
    request,
)
from tfeptq.cli.results import show_file
from tfeptq.cli.source import TraceLoss, source_model
from tfeptq.cli.typed import typed_command
from tfeptq.cli.values import InputKey, Json, LabelKey, Model, Verbose, require_file
from tfeptq.cli.workers import Ray, Workers, sharing
from tfeptq.foreign.files import require_model_file
from tfeptq.report.destination import check_destination
from tflite_export.file.atomic import destination, require_folder

if TYPE_CHECKING:
    import keras

    from tfeptq.model import QuantizedModel
    from tfeptq.report.scores import Score
    from tflite_export import ExportResult


def quantize(
    model: Model,
    /,
    *,
    calibration: Annotated[Path, Parameter(metavar="X.npz")],
    output: Annotated[Path, Parameter(metavar="F.tflite")],
    config: ConfigFile = None,
    validation: Annotated[Path | None, Parameter(metavar="V.npz")] = None,
    report: Annotated[Path | None, Parameter(metavar="R.html|R.json")] = None,
    save_keras: Annotated[Path | None, Parameter(metavar="F.keras")] = None,
    resume: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    input_type: EndType = None,
    output_type: EndType = None,
    input_key: InputKey = None,
    label_key: LabelKey = None,
    trace_loss: TraceLoss = None,
    json: Json = False,
    verbose: Verbose = 1,
    workers: Workers = None,
    ray: Ray = None,
    settings: Settings = None,
    limits: Limits = None,
    prices: Prices = None,
    goal: Goal = None,
    random_flip: RandomFlip = None,
    random_translation: RandomTranslation = None,
) -> int:
    """Quantize a Keras model and write a TensorFlow Lite file.

    Args:
        model: The float model: .keras, .h5 or the folder of a SavedModel.
        calibration: A few hundred unlabelled samples.
        output: The file to write.
        validation: Labelled samples, to score the float model, the quantized one and the file on.
        report: A page about everything that was decided and measured, which needs the extra
            'report'; .json gives the same as data.
        save_keras: Also writes the quantized Keras model.
        resume: Keeps finished steps in this folder; the same command goes on there.
    """
    asked = request(config, settings, {**(limits or {}), **(prices or {})}, goal)
    _check_goal(asked, validation)
    if validation is not None and asked.config.outputs is not None:
        raise ValueError(
            "--validation scores the model's own outputs, which --outputs leaves out; score the "
            "file with what you decode it by, or leave one of them out"
        )
    check_augmentation(asked.augmentation, random_flip, random_translation)
    require_model_file(model)
    for path in (calibration, validation):
        if path is not None:
            require_file(path)
    require_folder("--resume", resume)
    ends = Ends(input_type=input_type, output_type=output_type)
    _check_outputs(output, save_keras, report, asked.config.target, ends)
    require_kept(
        (model, calibration, validation, config, *asked.files),
        {"--output": output, "--save-keras": save_keras, "--report": report},
    )
    shared = sharing(workers, ray)

    # Standard output is the result's alone where a program reads it.
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        source = source_model(model, trace_loss)
        copies = augmentation(source, asked, random_flip, random_translation)
        samples = Npz(calibration, input_key, label_key, is_labelled=trace_loss is not None)
        scored = None
        if validation is not None:
            from tfeptq.preparation import as_functional

            # A SavedModel and a subclassed model do not tell their ends themselves.
            functional = as_functional(source, asked.config.input_shape)
            require_one_end(functional, validation)
            check = fits(functional, validation)
            scored = Npz(validation, input_key, label_key, check=check)
        job = _Job(source, samples, scored, resume, verbose)
        with shared:
            quantized = job.quantized(asked, copies, ends)
        result = _write(quantized, output, save_keras, ends)
        job.score_results(quantized, result)
        if report is not None:
            _write_report(report, quantized, result, job.scores)
    if json:
        print(json_text.dumps(_summary(quantized, result, job.scores)))
    else:
        _show(quantized, result, job.scores)
    return DONE


class _Job:
    """One quantization and its scores; files of samples are read after all other checks."""

    def __init__(
        self,
        source: keras.Model,
        samples: Npz,
        scored: Npz | None,
        resume: Path | None,
        verbose: int,
    ) -> None:
        self._source, self._samples, self._scored = source, samples, scored
        self._resume, self._verbose = resume, verbose
        self.scores: dict[str, Score] = {}
        self._doubts: list[str] = []

    def quantized(self, asked: Request, copies: keras.Layer | None, ends: Ends) -> QuantizedModel:
        from tfeptq.before_data import require_ends
        from tfeptq.data.later import Later
        from tfeptq.pipeline import quantize as quantize_model

        config = asked.config
        require_ends(self._source, self._samples.inputs, config, **ends)
        if asked.goal is not None and self._scored is not None:
            config = asked.with_metric(_accuracy_on(self._scored))
        quantized = quantize_model(
            self._source,
            Later(self._read),
            dataclasses.replace(config, augmentation=copies),
            checkpoint_dir=self._resume,
            labels=self._samples.labels if self._samples.is_labelled else None,
            verbose=self._verbose,
        )
        quantized.report.add_warnings(self._doubts)
        return quantized

    def _read(self) -> np.ndarray:
        """Calibration samples. Before the work scores the float model, which finds bad labels."""
        if self._scored is not None and not self.scores:
            self._score("float Keras", lambda x: self._source.predict(x, verbose=0))
            self._doubt_units(self._scored)
        return self._samples.arrays[0]

    def _doubt_units(self, scored: Npz) -> None:
        from tfeptq.data.given_arrays import as_array
        from tfeptq.data.units import bounds_of, doubt_unit

        path = self._samples.path
        known = bounds_of(as_array(self._samples.arrays[0], f"{path}: inputs"))
        inputs, _ = scored.arrays
        self._doubts = doubt_unit(
            inputs, known, what=f"{scored.path}: samples", beside=f"those of {path}"
        )

    def score_results(self, quantized: QuantizedModel, result: ExportResult) -> None:
        import tflite_export

        if self._scored is not None:
            self._score("quantized Keras", lambda x: quantized.predict(x, verbose=0))
            self._score("file in LiteRT", lambda x: tflite_export.run(result.path, x))

    def _score(self, name: str, run: Callable[[np.ndarray], Any]) -> None:
        from tfeptq.report.scores import score

        assert self._scored is not None
        inputs, labels = self._scored.arrays
        outputs = run(inputs.astype("float32"))
        with names_file(self._scored.path):
            self.scores[name] = score(outputs, labels)


def _check_goal(asked: Request, validation: Path | None) -> None:
    """Refuses candidates that nothing chooses from, and a target that nothing measures."""
    config = asked.config
    if asked.goal is not None:
        if not config.has_candidates:
            raise ValueError("--min-accuracy needs candidates, for example --weight-bits 2,3,4,8")
        if validation is None:
            raise ValueError("--min-accuracy needs labelled data: --validation V.npz")
        # The metric comes with the data; the rest is known now.
        asked.with_metric(lambda model: 0.0)
    elif config.has_candidates and not (config.budget and config.budget.limits):
        raise ValueError("candidate widths: add --max-weight-bytes or --min-accuracy")


def _check_outputs(
    output: Path,
    save_keras: Path | None,
    report: Path | None,
    target: str,
    ends: Ends,
) -> None:
    """Refuses what cannot be written, or not for the target."""
    destination(output, suffix=".tflite")
    if save_keras is not None:
        destination(save_keras, suffix=".keras")
    if report is not None:
        check_destination(report)
    from tflite_export.packaging.end_types import check_ends

    check_ends(target, **ends)


def _accuracy_on(data: Npz) -> Callable[[Any], np.ndarray]:
    """Metric of an accuracy target: whether each sample's class is right."""

    def is_right(model: Any) -> np.ndarray:
        from tfeptq.report.scores import correct

        inputs, labels = data.arrays
        outputs = np.asarray(model.predict(inputs.astype("float32"), verbose=0))
        values = correct(outputs.reshape(len(outputs), -1), labels)
        if values is None:
            raise ValueError("--min-accuracy needs labels that are classes")
        return values

    return is_right


def _write(
    quantized: QuantizedModel, output: Path, save_keras: Path | None, ends: Ends
) -> ExportResult:
    """Writes the Keras model, if asked, and the file; a refused file leaves what was learned."""
    import tflite_export

    if save_keras is not None:
        with tempfile.TemporaryDirectory(dir=save_keras.parent) as folder:
            saved = Path(folder) / save_keras.name
            quantized.save(saved)
            os.replace(saved, save_keras)
    try:
        return tflite_export.export(quantized, output, **ends)
    except (ValueError, RuntimeError):
        if save_keras is not None:
            print(f"{save_keras} holds what was learned: `tfeptq export` writes a file of it")
        raise


def _write_report(
    path: Path, quantized: QuantizedModel, result: ExportResult, scores: dict[str, Score]
) -> None:
    from tfeptq.report.html import write_scored_report

    write_scored_report(path, quantized, result, scores, command=typed_command())
    print(f"report: {path}")


def _show(quantized: QuantizedModel, result: ExportResult, scores: dict[str, Score]) -> None:
    from tfeptq.report.tables import show_layers, show_samples, show_seconds

    show_layers(result)
    if quantized.choice is not None:
        print(f"widths by {quantized.choice.source}")
    show_seconds(quantized.stage_seconds)
    show_samples(quantized.report.samples)
    for name, value in scores.items():
        print(f"{name}: {value}")
    show_file(result)


def _quality(quantized: QuantizedModel) -> dict[str, Any] | None:
    """How near the outputs are to float, without infinities, which JSON does not know."""
    found = quantized.report.quality
    if found is None:
        return None
    outputs = [
        {"name": o.name, "sqnr": min(o.sqnr, 999.0), "cosine": o.cosine, "codes": o.codes}
        | {"agreement": o.agreement, "channel_codes": o.channel_codes}
        for o in found.outputs
    ]
    return {"samples": found.samples, "is_held_back": found.is_held_back, "outputs": outputs}


def _summary(
    quantized: QuantizedModel, result: ExportResult, scores: dict[str, Score]
) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "gzip_bytes": result.gzip_bytes,
        "layers": [dataclasses.asdict(layer) for layer in result.layers],
        "findings": [dataclasses.asdict(finding) for finding in result.findings],
        "notes": result.notes,
        "quality": _quality(quantized),
        "samples": quantized.report.samples,
        "scores": {name: dataclasses.asdict(value) for name, value in scores.items()},
    }
