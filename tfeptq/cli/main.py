"""The command `tfeptq`. Exit codes: 0 done, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import numpy as np

from tfeptq import __version__
from tfeptq.cli.augmentation import add_augmentation, augmentation
from tfeptq.cli.latency import add_latency
from tfeptq.cli.packaging import add_package
from tfeptq.config import (
    INITIAL_ROUNDINGS,
    ROUNDINGS,
    SENSITIVITIES,
    TARGETS,
    THRESHOLDS,
    QuantizationConfig,
)
from tfeptq.data.given_arrays import as_array, check_shape
from tfeptq.goals import COSTS, AccuracyTarget, Budget
from tfeptq.options import add_choice, require_file
from tflite_export.file.atomic import destination, require_folder

if TYPE_CHECKING:
    import keras

    from tfeptq.model import QuantizedModel
    from tfeptq.report.scores import Score
    from tflite_export import ExportResult, Inspection
    from tflite_export.targets.findings import Finding

DONE, NO, BAD_INPUT = 0, 1, 2
_RUNTIMES = ("litert", "litert-reference", "tflite-runtime", "tflm", "reference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            return options.command(options)
        except BrokenPipeError:
            # The reader has seen enough; Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except OSError as error:
            place = "" if error.filename is None else f"{error.filename}: "
            return _complain(f"{place}{error.strerror or error}")
        except (ValueError, RuntimeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return _complain(lines[0])


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stands in for `warnings.showwarning`."""
    if issubclass(category, UserWarning):
        print(f"tfeptq: warning: {str(message).splitlines()[0]}", file=sys.stderr)


def _complain(message: str) -> int:
    print(f"tfeptq: error: {message}", file=sys.stderr)
    return BAD_INPUT


class _Parser(argparse.ArgumentParser):
    """argparse with one line on stderr instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(_complain(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tfeptq", description="Keras models to fully integer TensorFlow Lite files."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_demo(commands)
    _add_quantize(commands)
    _add_inspect(commands)
    _add_evaluate(commands)
    _add_check(commands)
    add_package(commands)
    _add_frontier(commands)
    add_latency(commands)
    return parser


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser("demo", help="scikit-learn's digits to a 4-bit file, in seconds")
    parser.add_argument("--weight-bits", type=int, default=4, metavar="N")
    parser.add_argument("--steps", type=int, default=300, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("digits.tflite"), metavar="F.tflite")
    parser.set_defaults(command=_demo)


def _add_quantize(commands: Any) -> None:
    defaults = QuantizationConfig()
    parser = commands.add_parser("quantize", help="quantize a Keras model and write a file")
    _add_choice(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="F.tflite")
    for cost in COSTS:
        name = cost.replace("_", "-")
        kind = float if cost == "latency_ms" else int
        parser.add_argument(f"--max-{name}", type=kind, metavar="N", help="with candidate widths")
    parser.add_argument(
        "--min-accuracy",
        type=float,
        metavar="R",
        help="part of the float accuracy to hold on the validation data, with candidate widths",
    )
    add_choice(parser, "--minimize", COSTS, default="weight_bytes", help="with --min-accuracy")
    parser.add_argument(
        "--search-steps",
        type=int,
        default=0,
        metavar="N",
        help="with --min-accuracy: learn for N steps before each evaluation of the search; 0 "
        "trains nothing, which is quick but may end at more bytes",
    )
    add_choice(parser, "--rounding", ROUNDINGS, default=defaults.rounding)
    add_choice(
        parser,
        "--initial-rounding",
        INITIAL_ROUNDINGS,
        default=defaults.initial_rounding,
        help="what --rounding eptq starts from",
    )
    for name in ("steps", "batch_size", "measured_moves"):
        _add_number(parser, name)
    parser.add_argument("--validation", type=Path, metavar="V.npz", help="labelled, to score on")
    parser.add_argument("--save-keras", type=Path, metavar="F.keras")
    parser.add_argument("--report", type=Path, metavar="R.html", help="needs the extra 'report'")
    for end in ("input", "output"):
        add_choice(
            parser,
            f"--{end}-type",
            ("int8", "uint8", "float32"),
            help=f"of the file's {end}s; float32 for android only",
        )
    _add_keys(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=_quantize)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """What the widths of the layers depend on."""
    defaults = QuantizationConfig()
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras or .h5")
    parser.add_argument("--calibration", type=Path, required=True, metavar="X.npz")
    parser.add_argument(
        "--weight-bits",
        type=_widths,
        default=defaults.weight_bits,
        metavar="N|N,N,...|LAYER=N,...",
        help="one width for all layers, candidates to choose from, or widths by layer name (others "
        "get 8)",
    )
    parser.add_argument(
        "--first-last-bits", type=_bits_or_none, default=defaults.first_last_bits, metavar="N|none"
    )
    parser.add_argument(
        "--activation-bits",
        type=_widths,
        default=defaults.activation_bits,
        metavar="N|N,N,...|LAYER=N,...",
        help="4 to 8 or 16: one width for all layers, candidates, or widths by layer name (others "
        "get 8)",
    )
    add_choice(parser, "--target", TARGETS, default=defaults.target)
    parser.add_argument(
        "--input-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="fixes the input's scale and zero point: 0 255 for pixels",
    )
    add_choice(parser, "--threshold", THRESHOLDS, default=defaults.threshold)
    add_choice(parser, "--sensitivity", SENSITIVITIES, default=defaults.sensitivity)
    parser.add_argument(
        "--trace-loss",
        metavar="LOSS",
        help="with --sensitivity hawq_v2: take the traces of this Keras loss, with the labels of "
        "the calibration data, for example sparse_categorical_crossentropy",
    )
    parser.add_argument(
        "--latency-table", type=Path, metavar="T.csv", help="columns operator, bits, ms"
    )
    parser.add_argument(
        "--compressed",
        action="store_true",
        help="microcontroller: count weights as `package --compress` stores them, in tables",
    )
    for name in ("samples", "seed"):
        _add_number(parser, name)
    add_augmentation(parser)
    parser.add_argument("--resume", type=Path, metavar="DIR", help="keeps finished steps here")


def _add_number(parser: argparse.ArgumentParser, name: str) -> None:
    default = getattr(QuantizationConfig(), name)
    parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, metavar="N")


def _add_frontier(commands: Any) -> None:
    parser = commands.add_parser(
        "frontier", help="predicted loss against cost for every sensible choice of widths"
    )
    _add_choice(parser)
    add_choice(parser, "--cost", COSTS, default="weight_bytes")
    _add_keys(parser)
    parser.add_argument("--json", action="store_true", help="every point with its widths")
    parser.set_defaults(command=_frontier)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input-key", metavar="NAME", help="array of inputs in .npz files")
    parser.add_argument("--label-key", metavar="NAME", help="array of labels in .npz files (y)")


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="operators, tensors, widths and bytes of a file")
    parser.add_argument("file", type=Path, metavar="F.tflite")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_inspect)


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser("evaluate", help="score a file on labelled data")
    parser.add_argument("file", type=Path, metavar="F.tflite")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="X.npz",
        help="inputs and labels; int8 inputs are taken for the file's own integers",
    )
    add_choice(parser, "--runtime", _RUNTIMES, default="litert")
    _add_keys(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_evaluate)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser("check", help="known blockers of a file on a target")
    parser.add_argument("file", type=Path, metavar="F.tflite")
    add_choice(parser, "--target", TARGETS, required=True)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_check)


def _widths(text: str) -> int | tuple[int, ...] | dict[str, int]:
    try:
        if "=" not in text:
            widths = tuple(int(bits) for bits in text.split(","))
            return widths if len(widths) > 1 else widths[0]
        pairs = (entry.rsplit("=", 1) for entry in text.split(","))
        return {name: int(bits) for name, bits in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a width, nor WIDTH,WIDTH, nor LAYER=WIDTH,LAYER=WIDTH"
        ) from None


def _bits_or_none(text: str) -> int | None:
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a width nor none") from None


def _demo(options: argparse.Namespace) -> int:
    QuantizationConfig(weight_bits=options.weight_bits, steps=options.steps)
    destination(options.output, suffix=".tflite")

    from tfeptq.cli.startup import load_tensorflow

    load_tensorflow()
    from tfeptq.cli.demo import run_demo

    run_demo(weight_bits=options.weight_bits, steps=options.steps, output=options.output)
    return DONE


def _quantize(options: argparse.Namespace) -> int:
    from tflite_export.packaging.end_types import check_ends

    config = _configuration(options, _budget(options))
    _check_goal(options, config)
    _check_paths(options)
    check_ends(config.target, options.input_type, options.output_type)
    destination(options.output, suffix=".tflite")
    if options.save_keras:
        destination(options.save_keras, suffix=".keras")
    if options.report:
        from tfeptq.report.html import require_installed

        destination(options.report, suffix=".html")
        require_installed()

    calibration = _calibration(options)
    validation = _labelled(options.validation, options) if options.validation else None
    if options.min_accuracy is not None and validation:
        config = _with_goal(options, config, _accuracy_on(*validation))
    # Standard output is the result's alone where a program reads it.
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        quantized, result, scores = _quantized(options, config, calibration, validation)
        if options.report:
            _write_report(options.report, quantized, result, scores)
    if options.json:
        print(json.dumps(_summary(quantized, result, scores)))
    else:
        _show(quantized, result, scores)
    return DONE


def _configuration(options: argparse.Namespace, budget: Budget | None) -> QuantizationConfig:
    fields = {field.name for field in dataclasses.fields(QuantizationConfig)}
    settings = {name: value for name, value in vars(options).items() if name in fields}
    return QuantizationConfig(**settings, budget=budget)


def _budget(options: argparse.Namespace) -> Budget | None:
    """What the --max-... options bound, and the table that prices layers."""
    limits: dict[str, Any] = {cost: getattr(options, f"max_{cost}", None) for cost in COSTS}
    is_bounded = any(limit is not None for limit in limits.values())
    if not (is_bounded or options.latency_table or options.compressed):
        return None
    table = None if options.latency_table is None else str(options.latency_table)
    return Budget(**limits, latency_table=table, compressed=options.compressed)


def _with_goal(
    options: argparse.Namespace, config: QuantizationConfig, metric: Callable[[Any], Any]
) -> QuantizationConfig:
    """The configuration with --min-accuracy."""
    target = AccuracyTarget(
        metric, options.min_accuracy, cost=options.minimize, search_steps=options.search_steps
    )
    return dataclasses.replace(config, accuracy_target=target)


def _check_paths(options: argparse.Namespace) -> None:
    """Refuses files that are not there and folders that cannot be written, before the work."""
    for path in (options.model, options.calibration, getattr(options, "validation", None)):
        if path is not None:
            require_file(path)
    if options.latency_table is not None:
        require_file(options.latency_table)
    require_folder("--resume", options.resume)


def _check_goal(options: argparse.Namespace, config: QuantizationConfig) -> None:
    """Refuses candidates that nothing chooses from, and a target that nothing measures."""
    has_candidates = any(
        isinstance(widths, tuple) for widths in (options.weight_bits, options.activation_bits)
    )
    if options.min_accuracy is not None:
        if not has_candidates:
            raise ValueError("--min-accuracy needs candidates, for example --weight-bits 2,3,4,8")
        if options.validation is None:
            raise ValueError("--min-accuracy needs labelled data: --validation V.npz")
        # The metric comes with the data; the rest is known now.
        _with_goal(options, config, lambda model: 0.0)
    elif has_candidates and not ((budget := _budget(options)) and budget.limits):
        raise ValueError("candidate widths: add --max-weight-bytes or --min-accuracy")


def _accuracy_on(inputs: np.ndarray, labels: np.ndarray) -> Callable[[Any], np.ndarray]:
    """Metric of an accuracy target: whether each sample's class is right."""

    def is_right(model: Any) -> np.ndarray:
        from tfeptq.report.scores import correct

        outputs = np.asarray(model.predict(inputs.astype("float32"), verbose=0))
        values = correct(outputs.reshape(len(outputs), -1), labels)
        if values is None:
            raise ValueError("--min-accuracy needs labels that are classes")
        return values

    return is_right


def _frontier(options: argparse.Namespace) -> int:
    config = _configuration(options, _budget(options))
    _check_paths(options)
    calibration, labels = _calibration(options)
    with contextlib.redirect_stdout(sys.stderr if options.json else sys.stdout):
        from tfeptq.cli.startup import load_tensorflow

        load_tensorflow()
        from tfeptq.pareto import pareto_frontier

        points = pareto_frontier(
            _model(options),
            calibration,
            dataclasses.replace(config, augmentation=augmentation(options, calibration)),
            cost=options.cost,
            checkpoint_dir=options.resume,
            labels=labels,
        )
    if options.json:
        print(json.dumps([dataclasses.asdict(point) for point in points]))
        return DONE
    from tfeptq.report.tables import show_frontier

    show_frontier(points, options.cost)
    return DONE


def _calibration(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples, and labels where a loss takes them."""
    if options.trace_loss:
        return _labelled(options.calibration, options)

    from tfeptq.data.samples import load_npz

    return load_npz(options.calibration, input_key=options.input_key)[0], None


def _model(options: argparse.Namespace) -> keras.Model:
    """Compiled if a loss is given."""

    from tfeptq.loading import load_model

    model = load_model(options.model)
    if options.trace_loss:
        model.compile(loss=_loss(options.trace_loss))
    return model


def _loss(name: str) -> Any:
    import keras

    try:
        return keras.losses.get(name)
    except ValueError as error:
        raise ValueError(
            f"--trace-loss {name!r} is no loss of Keras; for example "
            "sparse_categorical_crossentropy or mean_squared_error"
        ) from error


def _labelled(path: Path, options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    from tfeptq.data.samples import load_npz

    inputs, labels = load_npz(path, input_key=options.input_key, label_key=options.label_key)
    if labels is None:
        raise ValueError(f"{path}: no labels; name them with --label-key")
    inputs, labels = as_array(inputs, f"{path}: inputs"), as_array(labels, f"{path}: labels")
    if not inputs.ndim or not labels.ndim or len(inputs) != len(labels) or not len(labels):
        raise ValueError(
            f"{path}: inputs of shape {inputs.shape} and labels of shape {labels.shape}; as many "
            "of both are needed, at least one"
        )
    if not (np.all(np.isfinite(inputs)) and np.all(np.isfinite(labels))):
        raise ValueError(f"{path}: inputs or labels hold NaN or infinity")
    return inputs, labels


def _quantized(
    options: argparse.Namespace,
    config: QuantizationConfig,
    calibration: tuple[np.ndarray, np.ndarray | None],
    validation: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[QuantizedModel, ExportResult, dict[str, Score]]:
    from tfeptq.cli.startup import load_tensorflow

    load_tensorflow()
    import tflite_export
    from tfeptq.pipeline import quantize
    from tfeptq.report.scores import score

    model = _model(options)
    scores = {}
    if validation:
        # Before the work: it finds data that do not fit the model.
        inputs, labels = validation[0].astype("float32"), validation[1]
        _check_fit(model, inputs, options.validation)
        scores["float Keras"] = score(model.predict(inputs, verbose=0), labels)
    samples, classes = calibration
    config = dataclasses.replace(config, augmentation=augmentation(options, samples))
    quantized = quantize(model, samples, config, checkpoint_dir=options.resume, labels=classes)
    result = _write(quantized, options)
    if validation:
        scores["quantized Keras"] = score(quantized.predict(inputs, verbose=0), labels)
        scores["file in LiteRT"] = score(tflite_export.run(result.path, inputs), labels)
    return quantized, result, scores


def _check_fit(model: keras.Model, inputs: np.ndarray, path: Path) -> None:
    """Refuses data that the model cannot be scored on."""
    sources, results = len(model.inputs), len(model.outputs)
    if sources > 1 or results > 1:
        raise ValueError(
            f"{path}: the model has {sources} inputs and {results} outputs; scores are for models "
            "of one input and one output"
        )
    check_shape(inputs, model.inputs[0].shape[1:], f"{path}: inputs")


def _write(quantized: QuantizedModel, options: argparse.Namespace) -> ExportResult:
    """Writes the file and, if asked, the Keras model; neither where one of them fails."""
    import tflite_export

    ends = {"input_type": options.input_type, "output_type": options.output_type}
    if not options.save_keras:
        return tflite_export.export(quantized, options.output, **ends)
    with tempfile.TemporaryDirectory(dir=options.save_keras.parent) as folder:
        saved = Path(folder) / options.save_keras.name
        quantized.save(saved)
        result = tflite_export.export(quantized, options.output, **ends)
        os.replace(saved, options.save_keras)
    return result


def _write_report(
    path: Path, quantized: QuantizedModel, result: ExportResult, scores: dict[str, Score]
) -> None:
    from tfeptq.report.html import write_scored_report

    write_scored_report(path, quantized, result, scores)
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
    print(f"{result.path}: {result.size_bytes} bytes")
    if result.verification is not None:
        print(result.verification.summary())
    if result.findings or result.target == "coral":
        _show_findings(result.findings)


def _show_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        source = f" [{finding.source}]" if finding.source else ""
        print(f"{finding.operator}: {finding.rule}; {finding.advice}{source}")
    print(f"{len(findings)} blockers" if findings else "no known blocker")


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
        "layers": [dataclasses.asdict(layer) for layer in result.layers],
        "findings": [dataclasses.asdict(finding) for finding in result.findings],
        "notes": result.notes,
        "quality": _quality(quantized),
        "samples": quantized.report.samples,
        "scores": {name: dataclasses.asdict(value) for name, value in scores.items()},
    }


def _inspect(options: argparse.Namespace) -> int:
    import tflite_export

    inspection = tflite_export.inspect(options.file)
    print(json.dumps(inspection.as_dict()) if options.json else inspection.table())
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    import tflite_export
    from tfeptq.report.scores import score

    inputs, labels = _labelled(options.data, options)
    floats = _floats(inputs, tflite_export.inspect(options.file))
    outputs = tflite_export.run(options.file, floats, runtime=options.runtime)
    value = score(outputs, labels)
    if options.json:
        print(json.dumps({"runtime": options.runtime, **dataclasses.asdict(value)}))
    else:
        print(f"{value.metric}: {value} on {value.samples} samples in {options.runtime}")
    return DONE


def _floats(inputs: np.ndarray, inspection: Inspection) -> np.ndarray:
    """Real values of inputs: int8 ones are the file's own integers, others are what they say."""
    floats = inputs.astype("float32")
    tensor = next(t for t in inspection.tensors if t.name == inspection.inputs[0])
    if inputs.dtype.name != "int8" or tensor.scale is None or tensor.zero_point is None:
        return floats
    return (floats - tensor.zero_point) * np.float32(tensor.scale)


def _check(options: argparse.Namespace) -> int:
    import tflite_export

    result = tflite_export.check(options.file, target=options.target)
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        _show_findings(result.findings)
    return DONE if result.ok else NO
