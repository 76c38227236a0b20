"""Random models through every rounding and target, beside TFLiteConverter's int8 file.

    python -m benchmarks.random_models --seeds 0 300 [--jobs 2]

Seeds below 300 are models of convolutions and what goes with them, those from 300 on of attention,
recurrent layers and others as well (`benchmarks.random_families`).

Each model runs in a process of its own, so that a crash is a result. One JSON line a model goes to
benchmarks/results/random_models.jsonl; `--table` sums them up.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.rows import in_a_process, record

RESULTS = Path(__file__).parent / "results" / "random_models.jsonl"
TARGETS = ("android", "coral", "ethos-u", "microcontroller")
ROUNDINGS = ("nearest", "optq", "eptq")
#: Of one model.
_SECONDS = 1200
#: Errors of an exported file beside the witness's: relative, plus a share of the output's spread
#: below which both are right.
ALLOWED_RATIO, NEGLIGIBLE = 1.1, 0.002


def error(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Largest over outputs of the rms error in units of the output's own deviation."""
    errors = []
    for want, got in zip(wanted, found, strict=True):
        spread = max(float(np.std(want)), 1e-3 * float(np.abs(want).max()), 1e-30)
        errors.append(float(np.sqrt(np.mean((want.astype(np.float64) - got) ** 2)) / spread))
    return max(errors)


def converted(model: Any, samples: Sequence[np.ndarray]) -> bytes:
    """TFLiteConverter's fully integer file on the same samples."""
    import tensorflow as tf

    holder = tf.Module()
    holder.variables_of_model = [variable.value for variable in model.variables]
    shapes = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]

    @tf.function(input_signature=shapes)
    def call(*inputs: Any) -> Any:
        return tf.nest.flatten(
            model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        )

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], holder
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [array[index : index + 1] for array in samples] for index in range(len(samples[0]))
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _given(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Values as an input of the witness takes them; tokens, and one that nothing reads, as is."""
    if detail["dtype"] in (np.float32, np.int32):
        return values
    scale, zero = detail["quantization"]
    return np.clip(np.round(values / scale) + zero, -128, 127).astype(np.int8)


def witness_error(case: Any, wanted: Sequence[np.ndarray]) -> float | str:
    """In a LiteRT interpreter; where it cannot be made or run, why."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=converted(case.model, case.samples))
        interpreter.allocate_tensors()
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem)[:120]}"
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for index in range(len(case.test[0])):
        for detail, array in zip(ins, case.test, strict=True):
            interpreter.set_tensor(detail["index"], _given(array[index : index + 1], detail))
        interpreter.invoke()
        rows.append(
            [
                (interpreter.get_tensor(d["index"]).astype(np.float64) - d["quantization"][1])
                * d["quantization"][0]
                for d in outs
            ]
        )
    found = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    # The converter may order outputs by its own names.
    by_shape = [next((f for f in found if f.shape == w.shape), None) for w in wanted]
    if any(part is None for part in by_shape):
        return "other shapes"
    if len({w.shape for w in wanted}) < len(wanted):
        by_shape = found if [f.shape for f in found] == [w.shape for w in wanted] else by_shape
    return error(wanted, by_shape)


def _listed(value: Any) -> list[np.ndarray]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _one_rounding(
    case: Any, wanted: Sequence[np.ndarray], rounding: str, bits: int
) -> dict[str, Any]:
    import tfeptq
    import tflite_export

    config = tfeptq.QuantizationConfig(
        weight_bits=bits,
        rounding=rounding,
        steps=50,
        samples=len(case.samples[0]),
        batch_size=16,
        target=TARGETS[case.seed % len(TARGETS)] if bits == 8 else "microcontroller",
    )
    result: dict[str, Any] = {"target": config.target}
    begin = time.perf_counter()
    try:
        quantized = tfeptq.quantize(case.model, case.samples, config)
    except Exception as problem:
        return {**result, "refused": f"{type(problem).__name__}: {str(problem)[:400]}"}
    result["seconds"] = round(time.perf_counter() - begin, 2)
    result["repairs"] = len(quantized.report.repairs)
    result["warnings"] = len(quantized.report.warnings)
    given = case.test if len(case.test) > 1 else case.test[0]
    result["keras"] = error(wanted, _listed(quantized.predict(given, verbose=0)))
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS if bits == 8 else (config.target,):
            path = Path(folder) / f"{target}.tflite"
            runtime = "litert" if target in ("android", "coral") else "tflm"
            try:
                tflite_export.export(quantized, path, target=target)
                found = _listed(tflite_export.run(path, given, runtime=runtime))
                result[target] = error(wanted, found)
            except Exception as problem:
                result[target] = f"{type(problem).__name__}: {str(problem)[:400]}"
    return result


def measure(seed: int) -> Iterator[dict[str, Any]]:
    """All figures of one model; those of ours first, for the converter may end the process."""
    from benchmarks.random_families import case_of

    warnings.filterwarnings("ignore")
    case = case_of(seed)
    given = case.test if len(case.test) > 1 else case.test[0]
    wanted = _listed(case.model.predict(given, verbose=0))
    result: dict[str, Any] = {"seed": seed, "traits": case.traits, "layers": len(case.model.layers)}
    if not all(np.isfinite(array).all() for array in wanted):
        yield {**result, "skipped": "the float model gives infinity"}
        return
    for rounding in ROUNDINGS:
        result[rounding] = _one_rounding(case, wanted, rounding, 8)
    result["optq 4"] = _one_rounding(case, wanted, "optq", 4)
    yield {**result, "witness": "ended the process"}
    yield {**result, "witness": witness_error(case, wanted)}


def _in_a_process(seed: int) -> dict[str, Any]:
    found = in_a_process("benchmarks.random_models", str(seed), seconds=_SECONDS)
    return {"seed": seed, **found}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What was refused, crashed, or is further from float than the witness; and how much that is.

    Of a seed that was measured twice, the later row counts.
    """
    lines, counts = [], Counter()
    ratios: list[float] = []
    for row in {row["seed"]: row for row in rows}.values():
        seed = row["seed"]
        if "crash" in row:
            counts["crashed"] += 1
            lines.append(f"{seed}: CRASH {row['crash']} {row.get('end', '')[-200:]}")
            continue
        if "skipped" in row:
            counts["skipped"] += 1
            continue
        counts["models"] += 1
        witness = row["witness"]
        if isinstance(witness, str):
            counts["no witness"] += 1
        for rounding in ROUNDINGS:
            found = row[rounding]
            if "refused" in found:
                counts[f"{rounding} refused"] += 1
                lines.append(f"{seed} {rounding} {found['target']}: {found['refused']}")
                continue
            counts["exports"] += len(TARGETS)
            for target in (name for name in TARGETS if isinstance(found[name], str)):
                counts["exports refused"] += 1
                lines.append(f"{seed} {rounding} {target}: {found[target]}")
            if isinstance(witness, str):
                continue
            values = {name: found[name] for name in TARGETS if not isinstance(found[name], str)}
            allowed = ALLOWED_RATIO * witness + NEGLIGIBLE
            further = {name: value for name, value in values.items() if value > allowed}
            counts["compared"] += len(values)
            counts["further than the witness"] += len(further)
            ratios += [max(value, 1e-6) / max(witness, 1e-6) for value in values.values()]
            if further:
                shown = ", ".join(f"{name} {value:.4f}" for name, value in further.items())
                lines.append(
                    f"{seed} {rounding}: {shown}; Keras {found['keras']:.4f}, "
                    f"witness {witness:.4f} {row['traits']}"
                )
    lines += [f"{name}: {count}" for name, count in counts.items()]
    if ratios:
        share = 100 * counts["further than the witness"] / counts["compared"]
        lines.append(f"further than the witness: {share:.2f} % of what was compared")
        lines.append(f"geometric mean of error / witness's: {np.exp(np.mean(np.log(ratios))):.3f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 300), metavar=("FROM", "TO"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--one", type=int)
    parser.add_argument("--table", action="store_true", help="sum up what was measured instead")
    parser.add_argument(
        "--results", type=Path, nargs="+", default=[RESULTS], help="several only with --table"
    )
    options = parser.parse_args(arguments)
    if options.one is not None:
        for row in measure(options.one):
            print(json.dumps(row), flush=True)
        return
    if not options.table:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for row in pool.map(_in_a_process, range(*options.seeds)):
                record(row, options.results[0], is_printed=False)
    lines = [line for path in options.results for line in path.open()]
    print(table([json.loads(line) for line in lines]))


if __name__ == "__main__":
    main()
