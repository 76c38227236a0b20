"""The Keras zoo, quantized by calibration alone, beside TFLiteConverter's int8 file.

    python -m benchmarks.zoo [--models MobileNetV2 "hub BERT"] [--table]

Every family of keras.applications and the backbones of keras-hub (`pip install keras-hub`; left out
where it is not installed), untrained and small (`benchmarks.zoo_models`): nearest int8, exported
for Android, verified and run. One process a model, so that a crash is a result; one JSON line a
model goes to benchmarks/results/zoo.jsonl. Figures are signal-to-noise ratios in dB of the file's
outputs against the float model's on samples that nothing was calibrated with: the least of several
outputs, and that of the worst layer.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks import converter
from benchmarks.rows import in_a_process, record

RESULTS = Path(__file__).parent / "results" / "zoo.jsonl"
#: Samples on which layers are compared, and seconds for a model.
LAYER_SAMPLES, LIMIT = 8, 3000
#: A layer that hardly varies has no ratio: variance as a share of its largest square.
LEAST_VARIANCE = 1e-8


def decibels(wanted: np.ndarray, found: np.ndarray) -> float:
    """Variance of what is wanted over the mean square of what is missed."""
    want, got = wanted.astype(np.float64), found.astype(np.float64)
    noise, signal = float(np.square(want - got).mean()), float(want.var())
    if noise == 0.0 or signal <= LEAST_VARIANCE * float(np.square(want).max(initial=0.0)):
        return float("inf")
    return 10.0 * float(np.log10(signal / noise))


def ours(member: Any, wanted: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of our file; or why it was refused."""
    import tfeptq
    import tflite_export
    from benchmarks.zoo_models import given

    config = tfeptq.QuantizationConfig(rounding="nearest", samples=len(member.calibration[0]))
    begin = time.perf_counter()
    try:
        quantized = tfeptq.quantize(member.model, given(member.calibration), config)
        quantize_seconds = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.tflite"
            result = tflite_export.export(quantized, path)
            # Integers would be taken for the file's codes.
            found = tflite_export.run(path, given([a.astype("float32") for a in member.test]))
    except (ValueError, TypeError, NotImplementedError) as problem:
        return {"refused": f"{type(problem).__name__}: {' '.join(str(problem).split())[:500]}"}
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    quality = quantized.report.quality
    layers = {k: v for k, v in quality.layers.items() if np.isfinite(v)} if quality else {}
    worst = min(layers, key=layers.__getitem__, default=None)
    return {
        "sqnr": min(map(decibels, wanted, found)),
        "worst": None if worst is None else [worst, layers[worst]],
        "bytes": result.size_bytes,
        "verified": result.verification is not None,
        "warnings": len(quantized.report.warnings),
        "seconds": [round(quantize_seconds, 1), round(time.perf_counter() - begin, 1)],
    }


def converters(member: Any, wanted: Sequence[np.ndarray]) -> dict[str, Any]:
    """Of TFLiteConverter's file; or why there is none."""
    result: dict[str, Any] = {}
    begin = time.perf_counter()
    try:
        content = converter.convert(member.model, member.calibration)
    except Exception as problem:
        result["failed"] = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        # Which operators it would leave in float.
        try:
            content = converter.convert(member.model, member.calibration, only_integers=False)
        except Exception:
            return result
    result["bytes"] = len(content)
    result["float operators"] = converter.float_operators(content)
    found = converter.run(content, member.test)
    result["sqnr"] = min(map(decibels, wanted, found))
    layers = {
        name: decibels(want, found)
        for name, want, found in converter.layers(
            converter.convert(member.model, None),
            content,
            [array[:LAYER_SAMPLES] for array in member.calibration],
        )
    }
    worst = min(layers, key=layers.__getitem__, default=None)
    result["worst"] = None if worst is None else [worst, layers[worst]]
    result["seconds"] = round(time.perf_counter() - begin, 1)
    return result


def measure(name: str) -> Iterator[dict[str, Any]]:
    """All figures of one model; first without the converter's, whose file may end the process."""
    from benchmarks.zoo_models import build, given

    warnings.filterwarnings("ignore")
    begin = time.perf_counter()
    member = build(name)
    wanted = member.model.predict(given(member.test), verbose=0)
    wanted = list(wanted.values()) if isinstance(wanted, dict) else wanted
    wanted = wanted if isinstance(wanted, list) else [wanted]
    result: dict[str, Any] = {
        "model": name,
        "parameters": member.model.count_params(),
        "outputs": [list(array.shape[1:]) for array in wanted],
        "built": round(time.perf_counter() - begin, 1),
    }
    result["ours"] = ours(member, wanted)
    yield {**result, "converter": {"failed": "its file ends the process that runs it"}}
    yield {**result, "converter": converters(member, wanted)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown; the last line of each model counts."""
    newest = {row["model"]: row for row in rows}
    lines = [
        "| model | parameters | SQNR | converter | worst layer | converter | remark |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in newest.values():
        if "crash" in row:
            lines.append(f"| {row['model']} | | | | | | crashed: {row['crash']} |")
            continue
        our, theirs = row["ours"], row["converter"]
        remarks = [
            f"refused: {our['refused']}" if "refused" in our else "",
            f"converter: {theirs['failed']}" if "failed" in theirs else "",
        ]
        if theirs.get("float operators"):
            kept = ", ".join(f"{n} {kind}" for kind, n in theirs["float operators"].items())
            remarks.append(f"it leaves in float: {kept}")
        cells = [
            row["model"],
            f"{row['parameters']:,}",
            *(_ratio(each.get("sqnr")) for each in (our, theirs)),
            *(_ratio((each.get("worst") or [None, None])[1]) for each in (our, theirs)),
            "; ".join(filter(None, remarks)).replace("|", "/"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    from benchmarks.zoo_models import names

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=names(), metavar="NAME")
    parser.add_argument("--one", choices=names(), help="in this process, to standard output")
    parser.add_argument("--table", action="store_true", help="of the results that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.one is not None:
        for row in measure(options.one):
            print(json.dumps(row), flush=True)
        return
    if not options.table:
        has_hub = importlib.util.find_spec("keras_hub") is not None
        asked = options.models or [n for n in names() if has_hub or not n.startswith("hub ")]
        for name in asked:
            row = {"model": name, **in_a_process("benchmarks.zoo", name, seconds=LIMIT)}
            record(row, options.results, is_printed=False)
            print(table([row]).splitlines()[-1], flush=True)
    print(table([json.loads(line) for line in options.results.open()]))


if __name__ == "__main__":
    main()
