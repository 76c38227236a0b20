"""Hashes of exported files over about 30 configurations: what a change of structure may not move.

    python -m benchmarks.fingerprints --write before.json
    python -m benchmarks.fingerprints --compare before.json

Same seed, inputs, versions and number of threads give the same bytes; a difference is a defect or a
deliberate change of results, which its commit names.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Sums of gradients depend on how the work is shared.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.models import load
from benchmarks.random_graphs import random_case

Data = tuple[keras.Model, Any]


def _task(name: str, count: int) -> Data:
    task = load(name)
    return task.model, task.calibration[:count]


def _digits() -> Data:
    from tfeptq.cli.demo import digits, small_cnn, trained

    keras.utils.set_random_seed(0)
    data = digits()
    return trained(small_cnn(), data, epochs=2), data[0][:200]


def _random(seed: int) -> Data:
    # Keras counts the names of models through the process, and a file holds its model's.
    keras.utils.clear_session()
    case = random_case(seed)
    return case.model, case.samples


MODELS: dict[str, Callable[[], Data]] = {
    "digits": _digits,
    "resnet8": functools.partial(_task, "resnet8", 128),
    "dscnn": functools.partial(_task, "dscnn", 128),
    **{f"random{seed}": functools.partial(_random, seed) for seed in (1, 2, 4, 11, 17, 23)},
}
_Budget = tfeptq.Budget
_QUICK = {"rounding": "nearest"}
_OPTQ = {"rounding": "optq"}
_EPTQ = {"rounding": "eptq", "steps": 100}


def _agreement(model: keras.Model, images: Any, float_classes: np.ndarray) -> float:
    outputs = model.predict(images, verbose=0)
    return float(np.mean(np.argmax(outputs, axis=-1) == float_classes))


#: Name -> model, settings. `accuracy` asks for a share of agreement with the float model.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "digits 8 nearest android": ("digits", {**_QUICK}),
    "digits 4 nearest microcontroller": (
        "digits",
        {**_QUICK, "weight_bits": 4, "target": "microcontroller"},
    ),
    "digits 4 optq ethos-u": ("digits", {**_OPTQ, "weight_bits": 4, "target": "ethos-u"}),
    "digits 8 optq coral": ("digits", {**_OPTQ, "target": "coral"}),
    "digits 3 eptq": ("digits", {**_EPTQ, "weight_bits": 3}),
    "digits 2 eptq from optq": (
        "digits",
        {**_EPTQ, "weight_bits": 2, "initial_rounding": "optq", "first_last_bits": None},
    ),
    "digits 8 a16": ("digits", {**_QUICK, "activation_bits": 16, "target": "microcontroller"}),
    "digits 4 a4": ("digits", {**_QUICK, "weight_bits": 4, "activation_bits": 4}),
    "digits mixed by name": (
        "digits",
        {**_OPTQ, "weight_bits": {"conv": 3, "pointwise": 2}, "activation_bits": {"depthwise": 16}},
    ),
    "digits budget label_free": (
        "digits",
        {
            **_QUICK,
            "weight_bits": (2, 4, 8),
            "first_last_bits": None,
            "sensitivity": "label_free",
            "budget": _Budget(weight_bytes=8000),
        },
    ),
    "digits budget hawq_v2 a(8,16)": (
        "digits",
        {
            **_QUICK,
            "weight_bits": (4, 8),
            "activation_bits": (8, 16),
            "sensitivity": "hawq_v2",
            "budget": _Budget(bit_operations=9_000_000),
            "target": "microcontroller",
        },
    ),
    "digits budget inter_layer": (
        "digits",
        {
            **_OPTQ,
            "weight_bits": (2, 3, 4, 8),
            "budget": _Budget(weight_bytes=9000),
            "target": "ethos-u",
        },
    ),
    "digits accuracy": ("digits", {**_OPTQ, "weight_bits": (2, 4, 8), "accuracy": 0.97}),
    "digits without parts": (
        "digits",
        {**_EPTQ, "weight_bits": 4, "sample_layer_attention": False, "threshold": "mse"},
    ),
    **{
        f"resnet8 {bits} {name}": ("resnet8", {**recipe, "weight_bits": bits})
        for bits in (8, 4)
        for name, recipe in (("nearest", _QUICK), ("optq", _OPTQ))
    },
    "resnet8 3 eptq": ("resnet8", {**_EPTQ, "weight_bits": 3}),
    "resnet8 a16 microcontroller": (
        "resnet8",
        {**_QUICK, "weight_bits": 8, "activation_bits": 16, "target": "microcontroller"},
    ),
    "dscnn 4 optq": ("dscnn", {**_OPTQ, "weight_bits": 4, "target": "microcontroller"}),
    "dscnn 2 nearest": ("dscnn", {**_QUICK, "weight_bits": 2, "target": "ethos-u"}),
    "dscnn 4 eptq": ("dscnn", {**_EPTQ, "weight_bits": 4}),
    "dscnn budget": (
        "dscnn",
        {
            **_OPTQ,
            "weight_bits": (2, 3, 4, 8),
            "sensitivity": "hawq_v2",
            "budget": _Budget(weight_bytes=12_000),
        },
    ),
    **{
        f"{model} {bits} {name}": (model, {**recipe, "weight_bits": bits, "target": target})
        for model, bits, (name, recipe), target in (
            ("random1", 8, ("nearest", _QUICK), "android"),
            ("random2", 4, ("optq", _OPTQ), "microcontroller"),
            ("random4", 4, ("nearest", _QUICK), "ethos-u"),
            ("random11", 3, ("optq", _OPTQ), "android"),
            ("random17", 8, ("eptq", {**_EPTQ, "steps": 20}), "coral"),
            ("random23", 4, ("nearest", {**_QUICK, "activation_bits": 16}), "microcontroller"),
        )
    },
}


def fingerprint(data: Data, settings: Mapping[str, Any]) -> str:
    """SHA-256 of the exported file, or what was refused."""
    model, samples = data
    settings = dict(settings)
    share = settings.pop("accuracy", None)
    if share is not None:
        classes = np.argmax(model.predict(samples, verbose=0), axis=-1)
        metric = functools.partial(_agreement, images=samples, float_classes=classes)
        settings["accuracy_target"] = tfeptq.AccuracyTarget(metric, relative=share)
    first = samples[0] if isinstance(samples, list) else samples
    config = tfeptq.QuantizationConfig(samples=len(first), **settings)
    try:
        quantized = tfeptq.quantize(model, samples, config)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.tflite"
            tflite_export.export(quantized, path, target=config.target, verify=False)
            return hashlib.sha256(path.read_bytes()).hexdigest()
    except ValueError as error:
        return f"refused: {error}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    known = json.loads(options.compare.read_text()) if options.compare else {}
    found: dict[str, str] = {}
    loaded: dict[str, Data] = {}
    for name, (model, settings) in CASES.items():
        if options.only not in name:
            continue
        if model not in loaded:
            loaded = {model: MODELS[model]()}
        found[name] = fingerprint(loaded[model], settings)
        verdict = "" if not known else "same" if known.get(name) == found[name] else "DIFFERS"
        print(f"{name}: {found[name][:60]} {verdict}", flush=True)
        if options.write:
            options.write.write_text(json.dumps(found, indent=1))
    if known:
        same = sum(known.get(name) == value for name, value in found.items())
        print(f"{same} of {len(found)} the same")


if __name__ == "__main__":
    main()
