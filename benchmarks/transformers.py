"""Two trained transformers as files, and the choice of their widths by each sensitivity.

    python -m benchmarks.transformers [--models sst2 cifar] [--parts files widths]
        [--rows float converter ...] [--target android] [--steps 500] [--seeds 1]

files   accuracy, bytes and what is not in integers: our files (written, verified operator by
        operator, run in the target's runtime), the float model, and TFLiteConverter's int8 file of
        the same model and samples;
widths  2, 4 or 8 bits a layer at equal bytes, chosen by each sensitivity and at random: accuracy on
        test samples and divergence from the float model, weights rounded by OPTQ and activations
        left in float, so that nothing but the choice differs. "measured" is what `quantize` does
        unless told otherwise: inter_layer's choice, improved by measurements on calibration
        samples.

Times are seconds of this process on all cores together, without those of the runtimes.

Models are trained once, in about three and seven minutes, and kept in
KERAS_HOME/tfeptq-benchmarks, see `benchmarks.transformer_models`. Results are appended to
benchmarks/results/transformers.jsonl; `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import tfeptq
import tflite_export
from benchmarks import transformer_models
from benchmarks.transformer_models import Transformer
from tfeptq.config import SENSITIVITIES
from tfeptq.data.samples import take_samples
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.report.scores import correct
from tfeptq.report.tables import show
from tfeptq.selection.choice import Choice
from tfeptq.selection.prepare import prepare_choice
from tfeptq.selection.variables import of_kind
from tfeptq.sensitivity.measured import MeasuredDivergence

RESULTS = Path(__file__).parent / "results" / "transformers.jsonl"
MODELS: dict[str, Callable[[], Transformer]] = {
    "sst2": transformer_models.sst2,
    "cifar": transformer_models.cifar,
}
RUNTIMES = {"android": "litert", "microcontroller": "tflm"}
#: What the choice is between; android stores each as it is.
WIDTHS = (2, 4, 8)
#: Weight bytes as a share of those at 8 bits.
BUDGETS = (0.5, 0.4, 0.33)
DRAWS = 10
#: A choice by inter_layer that measurements improve.
MEASURED = "measured"
#: Name of a row -> settings of the quantization; "mixed" rows hold 99 % of the float accuracy.
ROWS: dict[str, dict[str, Any]] = {
    "W8A8": {"weight_bits": 8, "rounding": "nearest"},
    "W4A8 nearest": {"weight_bits": 4, "rounding": "nearest"},
    "W4A8 OPTQ": {"weight_bits": 4, "rounding": "optq"},
    "W4A8 EPTQ": {"weight_bits": 4, "rounding": "eptq", "initial_rounding": "optq"},
    "mixed A8": {"weight_bits": WIDTHS, "rounding": "optq", "first_last_bits": None},
    "W8A16": {"weight_bits": 8, "activation_bits": 16, "rounding": "nearest"},
    "mixed A8/16": {"weight_bits": 8, "activation_bits": (8, 16), "rounding": "nearest"},
}


def files(task: Transformer, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a file."""
    inputs, labels = task.inputs[: options.samples], task.labels[: options.samples]
    wanted = task.model.predict(inputs, verbose=0)
    for name in options.rows:
        begin = time.process_time()
        if name in ("float", "converter"):
            found = _converted(task, inputs, is_float=name == "float")
        else:
            found = _exported(task, name, inputs, options)
        outputs = found.pop("outputs", None)
        row = {"file": name, **found, "cpu": round(time.process_time() - begin, 1)}
        yield row if outputs is None else {**row, **_scored(outputs, wanted, labels)}


def _scored(outputs: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy, and how much lower than the float model's on the same samples."""
    right, right_before = (
        np.asarray(correct(values, labels), float) for values in (outputs, wanted)
    )
    lost = right_before - right
    root = np.sqrt(len(labels))
    return {
        "accuracy": round(100 * right.mean(), 2),
        "error": round(100 * right.std(ddof=1) / root, 2),
        "lost": round(100 * lost.mean(), 2),
        "lost_error": round(100 * lost.std(ddof=1) / root, 2),
        "agreement": round(100 * np.mean(outputs.argmax(1) == wanted.argmax(1)), 2),
    }


def _converted(task: Transformer, inputs: np.ndarray, *, is_float: bool) -> dict[str, Any]:
    """TFLiteConverter's file; where it cannot be all integer, the nearest that it can make."""
    remark = ""
    try:
        content = _convert(task, is_float=is_float, is_strict=True)
    except Exception as error:
        remark = f"refused as all integer ({str(error).splitlines()[0][:80]}); otherwise "
        try:
            content = _convert(task, is_float=is_float, is_strict=False)
        except Exception as second:
            return {"remark": f"{remark}too: {str(second).splitlines()[0][:80]}"}
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    if not is_float:
        remark += _float_operators(interpreter)
    return {"bytes": len(content), "remark": remark, "outputs": _run(interpreter, inputs)}


def _convert(task: Transformer, *, is_float: bool, is_strict: bool) -> bytes:
    spec = tf.TensorSpec((1, *task.inputs.shape[1:]), task.model.inputs[0].dtype)
    function = tf.function(lambda x: task.model(x, training=False), input_signature=[spec])
    # What a Keras model tracks is not what the converter looks for: it would not freeze them.
    holder = tf.Module()
    holder.of_model = [variable.value for variable in task.model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], holder
    )
    if not is_float:
        samples = task.calibration[:256].astype(spec.dtype.as_numpy_dtype)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        if is_strict:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return converter.convert()


def _float_operators(interpreter: Interpreter) -> str:
    """Operators of a file that read or write floats, but for conversions at its ends."""
    details = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    counts: collections.Counter[str] = collections.Counter()
    for operator in interpreter._get_ops_details():
        ends = [*operator["inputs"], *operator["outputs"]]
        is_float = any(details.get(index) in (np.float32, np.float16) for index in ends)
        if is_float and operator["op_name"] not in ("QUANTIZE", "DEQUANTIZE", "DELEGATE"):
            counts[operator["op_name"]] += 1
    found = ", ".join(f"{number} {name}" for name, number in counts.most_common())
    return f"in float: {found}" if found else "no float operator"


def _run(interpreter: Interpreter, inputs: np.ndarray) -> np.ndarray:
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for sample in inputs:
        interpreter.set_tensor(given["index"], sample[None].astype(given["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(made["index"])[0].copy())
    return np.stack(outputs)


def _exported(
    task: Transformer, name: str, inputs: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    settings = dict(ROWS[name])
    if name.startswith("mixed"):
        cost = "bit_operations" if "activation_bits" in settings else "weight_bytes"
        settings["accuracy_target"] = tfeptq.AccuracyTarget(_metric(task), relative=0.99, cost=cost)
    config = tfeptq.QuantizationConfig(
        target=options.target, steps=options.steps, samples=1024, **settings
    )
    quantized = tfeptq.quantize(task.model, task.calibration, config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        result = tflite_export.export(quantized, path)
        outputs = np.asarray(tflite_export.run(path, inputs, runtime=RUNTIMES[options.target]))
    widths = collections.Counter(quantized.bit_widths.values())
    shown = ", ".join(
        f"{count} W{bits or '-'}A{wide}" for (bits, wide), count in sorted(widths.items(), key=str)
    )
    spent = {stage: round(value, 1) for stage, value in quantized.report.seconds.items()}
    return {"bytes": result.size_bytes, "outputs": outputs, "remark": shown, "stages": spent}


def _metric(task: Transformer) -> Callable[[keras.Model], np.ndarray]:
    values, labels = task.validation

    def is_right(model: keras.Model) -> np.ndarray:
        return model.predict(values, verbose=0).argmax(axis=1) == labels

    return is_right


def widths(task: Transformer, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a choice, for every seed."""
    canonical = prepare(task.model)
    for seed in range(options.seeds):
        choices, spent = _choices(task, canonical, seed)
        sensitivity = choices["inter_layer"].sensitivity
        measured = MeasuredDivergence(
            canonical, [task.inputs.astype("float32")], sensitivity.errors, count=1000
        )
        for budget in BUDGETS:
            for method, found in _chosen(choices, budget, seed):
                row = {
                    "seed": seed,
                    "budget": budget,
                    "choice": method,
                    "bytes": int(choices["inter_layer"].program.cost(found, "weight_bytes")),
                    "cpu": spent.get(method),
                }
                bits = of_kind(found, "weights")
                row["divergence"] = round(measured(bits), 5)
                yield {**row, **_rounded_accuracy(canonical, bits, sensitivity.errors, task)}


def _choices(
    task: Transformer, canonical: keras.Model, seed: int
) -> tuple[dict[str, Choice], dict[str, float]]:
    """By each sensitivity, and the processor seconds that it took."""
    choices, spent = {}, {}
    for method in (*SENSITIVITIES, MEASURED):
        is_measured = method == MEASURED
        config = tfeptq.QuantizationConfig(
            weight_bits=WIDTHS,
            first_last_bits=None,
            rounding="optq",
            sensitivity="inter_layer" if is_measured else method,
            measured_moves=None if is_measured else 0,
            seed=seed,
        )
        samples = take_samples(task.calibration, canonical.inputs, samples=1024, seed=seed)
        begin = time.process_time()
        choices[method] = prepare_choice(QuantizationPlan.of(canonical, config), samples, config)
        spent[method] = round(time.process_time() - begin, 1)
    return choices, spent


def _chosen(
    choices: Mapping[str, Choice], budget: float, seed: int
) -> Iterator[tuple[str, dict[Any, int]]]:
    """Widths within a share of the bytes at 8 bits, by every method and at random."""
    program = choices["inter_layer"].program
    limit = budget * program.cost(program.widest(), "weight_bytes")
    for method, choice in choices.items():
        yield method, choice.within({"weight_bytes": limit})
    for draw in range(DRAWS):
        generator = np.random.default_rng([seed, draw])
        allowed = {variable: sorted(losses) for variable, losses in program.losses.items()}
        found = {v: int(generator.choice(bits)) for v, bits in allowed.items()}
        while program.cost(found, "weight_bytes") > limit:
            lowered = [v for v in found if found[v] > min(allowed[v])]
            variable = lowered[generator.integers(len(lowered))]
            found[variable] = max(b for b in allowed[variable] if b < found[variable])
        # Then up again, in random order, as far as there is room: equal bytes.
        for index in generator.permutation(len(found)):
            variable = list(found)[index]
            for bits in sorted(allowed[variable]):
                raised = {**found, variable: max(bits, found[variable])}
                if program.cost(raised, "weight_bytes") <= limit:
                    found = raised
        yield f"random {draw}", found


def _rounded_accuracy(
    canonical: keras.Model, bits: Mapping[str, int], errors: Mapping[Any, Any], task: Transformer
) -> dict[str, Any]:
    """Of the model with its weights as they ship, on the test samples."""
    old = {name: canonical.get_layer(name).get_weights() for name in bits}
    wanted = canonical.predict(task.inputs, verbose=0)
    try:
        for name, (kernel, bias) in old.items():
            error = errors[name, bits[name]]
            canonical.get_layer(name).set_weights([kernel + error.kernel, bias + error.bias])
        outputs = canonical.predict(task.inputs, verbose=0)
    finally:
        for name, values in old.items():
            canonical.get_layer(name).set_weights(values)
    return _scored(outputs, wanted, task.labels)


PARTS = {"files": files, "widths": widths}


def show_files(rows: list[dict[str, Any]]) -> None:
    show(
        "Files: accuracy on test samples, percent",
        (
            "model",
            "target",
            "file",
            "accuracy",
            "+-",
            "lost",
            "+-",
            "bytes",
            "cpu s",
            "what is in it",
        ),
        [
            (
                *(row[key] for key in ("model", "target", "file")),
                *(row.get(key, "") for key in ("accuracy", "error", "lost", "lost_error")),
                row.get("bytes", ""),
                row.get("cpu", ""),
                row["remark"],
            )
            for row in rows
        ],
    )


def show_widths(rows: list[dict[str, Any]]) -> None:
    """Random draws as their mean, with the best of them."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        method = row["choice"].split()[0]
        found.setdefault((row["model"], row["budget"], method), []).append(row)
    table = []
    for (model, budget, method), group in found.items():
        accuracy, divergence = ([row[k] for row in group] for k in ("accuracy", "divergence"))
        spent = [row["cpu"] for row in group if row["cpu"] is not None]
        table.append(
            (
                model,
                budget,
                method,
                f"{np.mean(accuracy):.2f}",
                f"{min(accuracy):.2f} to {max(accuracy):.2f}",
                f"{np.mean(divergence):.4f}",
                f"{min(divergence):.4f}",
                int(np.mean([row["bytes"] for row in group])),
                f"{np.mean(spent):.0f}" if spent else "",
            )
        )
    columns = ("model", "bytes", "choice", "accuracy", "range", "divergence", "least", "B", "cpu s")
    show(
        "Widths at equal bytes (share of 8 bits); means over seeds, random over draws",
        columns,
        table,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    rows = ["float", "converter", *ROWS]
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--target", default="android", choices=list(RUNTIMES))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=None, help="test samples; all")
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    options = parser.parse_args()
    if not options.table:
        RESULTS.parent.mkdir(exist_ok=True)
        for name in options.models:
            _measure(MODELS[name](), options)
    recorded = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    show_files([row for row in recorded if row["part"] == "files"])
    show_widths([row for row in recorded if row["part"] == "widths"])


def _measure(task: Transformer, options: argparse.Namespace) -> None:
    for part in options.parts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for row in PARTS[part](task, options):
                told = {"part": part, "model": task.name, "target": options.target, **row}
                with RESULTS.open("a") as file:
                    file.write(json.dumps(told) + "\n")
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
