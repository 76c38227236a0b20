"""The command `tfeptq`. Exit codes: 0 done, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tfeptq import __version__
from tfeptq.config import ROUNDINGS, TARGETS, THRESHOLDS, QuantizationConfig

DONE, NO, BAD_INPUT = 0, 1, 2
_RUNTIMES = ("litert", "litert-reference", "tflite-runtime", "tflm", "reference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return _complain(lines[0])


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
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras or .h5")
    parser.add_argument("--calibration", type=Path, required=True, metavar="X.npz")
    parser.add_argument("--output", type=Path, required=True, metavar="F.tflite")
    parser.add_argument(
        "--weight-bits",
        type=_weight_bits,
        default=defaults.weight_bits,
        metavar="N|LAYER=N,...",
        help="one width for all layers, or widths by layer name (others get 8)",
    )
    parser.add_argument(
        "--first-last-bits", type=_bits_or_none, default=defaults.first_last_bits, metavar="N|none"
    )
    parser.add_argument(
        "--activation-bits", type=int, default=defaults.activation_bits, metavar="N"
    )
    parser.add_argument("--target", choices=TARGETS, default=defaults.target)
    parser.add_argument("--threshold", choices=THRESHOLDS, default=defaults.threshold)
    parser.add_argument("--rounding", choices=ROUNDINGS, default=defaults.rounding)
    for name in ("steps", "batch_size", "samples", "seed"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(defaults, name), metavar="N")
    parser.add_argument("--validation", type=Path, metavar="V.npz", help="labelled, to score on")
    parser.add_argument("--save-keras", type=Path, metavar="F.keras")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="keeps finished steps here")
    _add_keys(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=_quantize)


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
    parser.add_argument("--data", type=Path, required=True, metavar="X.npz")
    parser.add_argument("--runtime", choices=_RUNTIMES, default="litert")
    _add_keys(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_evaluate)


def _add_check(commands: Any) -> None:
    parser = commands.add_parser("check", help="known blockers of a file on a target")
    parser.add_argument("file", type=Path, metavar="F.tflite")
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(command=_check)


def _weight_bits(text: str) -> int | dict[str, int]:
    try:
        if "=" not in text:
            return int(text)
        pairs = (entry.rsplit("=", 1) for entry in text.split(","))
        return {name: int(bits) for name, bits in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a width nor LAYER=WIDTH,LAYER=WIDTH"
        ) from None


def _bits_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _demo(options: argparse.Namespace) -> int:
    from tfeptq.demo import run_demo

    QuantizationConfig(weight_bits=options.weight_bits, steps=options.steps)
    run_demo(weight_bits=options.weight_bits, steps=options.steps, output=options.output)
    return DONE


def _quantize(options: argparse.Namespace) -> int:
    fields = {field.name for field in dataclasses.fields(QuantizationConfig)}
    given = {name: value for name, value in vars(options).items() if name in fields}
    config = QuantizationConfig(**given)
    if not options.output.parent.is_dir():
        raise ValueError(f"{options.output}: the folder {options.output.parent} does not exist")

    import tflite_export
    from tfeptq.data import load_npz
    from tfeptq.loading import load_model
    from tfeptq.pipeline import quantize
    from tfeptq.report.tables import show_layers, show_seconds

    keys = {"input_key": options.input_key, "label_key": options.label_key}
    calibration, _ = load_npz(options.calibration, input_key=options.input_key)
    validation = load_npz(options.validation, **keys) if options.validation else None
    model = load_model(options.model)
    quantized = quantize(model, calibration, config, checkpoint_dir=options.resume)
    if options.save_keras:
        quantized.save(options.save_keras)
    result = tflite_export.export(quantized, options.output, target=config.target)
    scores = _scores(model, quantized, result, validation) if validation else {}
    if options.json:
        print(json.dumps(_summary(result, scores)))
        return DONE
    show_layers(result)
    show_seconds(quantized.stage_seconds)
    for name, value in scores.items():
        print(f"{name}: {value}")
    print(f"{result.path}: {result.size_bytes} bytes")
    if result.verification is not None:
        print(result.verification.summary())
    return DONE


def _scores(model: Any, quantized: Any, result: Any, validation: Any) -> dict[str, Any]:
    """Scores of the float model, the quantized one and the file on the validation data."""
    import numpy as np

    import tflite_export
    from tfeptq.report.scores import score

    inputs, labels = validation
    if labels is None:
        raise ValueError("the validation data hold no labels; name them with --label-key")
    inputs = np.asarray(inputs, np.float32)
    return {
        "float Keras": score(model.predict(inputs, verbose=0), labels),
        "quantized Keras": score(quantized.predict(inputs, verbose=0), labels),
        "file in LiteRT": score(np.asarray(tflite_export.run(result.path, inputs)), labels),
    }


def _summary(result: Any, scores: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(result.path),
        "size_bytes": result.size_bytes,
        "layers": [dataclasses.asdict(layer) for layer in result.layers],
        "scores": {name: dataclasses.asdict(value) for name, value in scores.items()},
    }


def _inspect(options: argparse.Namespace) -> int:
    import tflite_export

    inspection = tflite_export.inspect(options.file)
    print(json.dumps(inspection.as_dict()) if options.json else inspection.table())
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    import numpy as np

    import tflite_export
    from tfeptq.data import load_npz
    from tfeptq.report.scores import score

    inputs, labels = load_npz(
        options.data, input_key=options.input_key, label_key=options.label_key
    )
    if labels is None:
        raise ValueError(f"{options.data}: no labels; name them with --label-key")
    # Files of pixels are often uint8; the model's own input type decides what they mean.
    floats = inputs if inputs.dtype == np.int8 else inputs.astype(np.float32)
    outputs = tflite_export.run(options.file, floats, runtime=options.runtime)
    value = score(np.asarray(outputs), labels)
    if options.json:
        print(json.dumps({"runtime": options.runtime, **dataclasses.asdict(value)}))
    else:
        print(f"{value.metric}: {value} on {value.samples} samples in {options.runtime}")
    return DONE


def _check(options: argparse.Namespace) -> int:
    import tflite_export

    result = tflite_export.check(options.file, target=options.target)
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        for finding in result.findings:
            print(f"{finding.operator}: {finding.rule}; {finding.advice}")
        print("no known blocker" if result.ok else f"{len(result.findings)} blockers")
    return DONE if result.ok else NO
