"""How seconds and memory grow with a model and its data: exponents, fitted by family.

    python -m benchmarks.growth [--families samples depth ...] [--recipes optq eptq mixed]

In each family one thing grows: samples, layers (of residual networks and of transformers), width
or size of MobileNetV2 (multiplications), logits. Each run is a process of its own. Printed are
processor seconds (what other programs change least), the seconds of every stage and the peak of
memory, and of each the slope of its logarithm over that of what grows: 1 is proportional, 0 does
not grow. Models are untrained; accuracy is not looked at. Rows are appended to
benchmarks/results/growth.jsonl, `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers

import tfeptq
from benchmarks.conversions import Cost, alone, cost_of
from tfeptq.report.tables import show

RESULTS = Path(__file__).parent / "results" / "growth.jsonl"
_SAMPLES = 128


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and data, by numbers that another process can make them of.

    Attributes:
        size: what grows in the family.
        settings: arguments of the family's model.
    """

    family: str
    size: int
    model: str
    settings: dict[str, Any]
    samples: int = _SAMPLES


def residual_network(*, blocks: int, classes: int = 10) -> keras.Model:
    """2 * blocks + 2 layers with weights, 32 x 32 pixels, 16 channels."""
    inputs = keras.Input((32, 32, 3))
    x = _block(inputs, "relu")
    for _ in range(blocks):
        y = _block(_block(x, "relu"), None)
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def _block(x: keras.KerasTensor, activation: str | None) -> keras.KerasTensor:
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def mobilenet(*, alpha: float, side: int) -> keras.Model:
    return keras.applications.MobileNetV2(
        input_shape=(side, side, 3), alpha=alpha, weights=None, classes=100
    )


def transformer(*, blocks: int, tokens: int = 32, width: int = 64) -> keras.Model:
    """Blocks of attention of 4 heads and two dense layers."""
    inputs = keras.Input((tokens, width))
    x: Any = inputs
    for _ in range(blocks):
        attended = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        y = layers.Dense(width)(layers.Dense(2 * width, activation="relu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


MODELS = {"resnet": residual_network, "mobilenetv2": mobilenet, "transformer": transformer}

#: Millions of multiplications of MobileNetV2, which grow with alpha and with the side.
_BY_WIDTH = {0.35: 11, 0.5: 18, 1.0: 56}
_BY_SIDE = {64: 8, 96: 18, 160: 51}

FAMILIES: dict[str, tuple[Subject, ...]] = {
    "samples": tuple(
        Subject("samples", n, "resnet", {"blocks": 3}, samples=n) for n in (64, 256, 1024)
    ),
    "depth": tuple(Subject("depth", 2 * n + 2, "resnet", {"blocks": n}) for n in (3, 9, 27)),
    "attention": tuple(Subject("attention", n, "transformer", {"blocks": n}) for n in (2, 4, 8)),
    "width": tuple(
        Subject("width", work, "mobilenetv2", {"alpha": alpha, "side": 96})
        for alpha, work in _BY_WIDTH.items()
    ),
    "size": tuple(
        Subject("size", work, "mobilenetv2", {"alpha": 0.5, "side": side})
        for side, work in _BY_SIDE.items()
    ),
    "logits": tuple(
        Subject("logits", n, "resnet", {"blocks": 3, "classes": n}) for n in (10, 100, 1000)
    ),
}

RECIPES: dict[str, dict[str, Any]] = {
    "optq": {"weight_bits": 4, "rounding": "optq"},
    "eptq": {"weight_bits": 4, "rounding": "eptq", "steps": 40},
    "mixed": {"weight_bits": (2, 4, 8), "rounding": "optq", "sensitivity": "inter_layer"},
}


def quantization(subject: Subject, recipe: str) -> Cost:
    """Of a whole quantization, without the file."""
    keras.utils.set_random_seed(0)
    model = MODELS[subject.model](**subject.settings)
    shape = model.inputs[0].shape[1:]
    samples = np.random.default_rng(0).uniform(-1, 1, (subject.samples, *shape)).astype("float32")
    settings = dict(RECIPES[recipe])
    if recipe == "mixed":
        settings["budget"] = tfeptq.Budget(weight_bytes=int(0.75 * model.count_params()))
    config = tfeptq.QuantizationConfig(samples=subject.samples, first_last_bits=None, **settings)
    stages: dict[str, float] = {}

    def quantize() -> None:
        stages.update(tfeptq.quantize(model, samples, config, verbose=0).report.seconds)

    return dataclasses.replace(cost_of(quantize), stages=stages)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of log(values) over log(sizes), by least squares.

    Example:
        >>> round(exponent([1, 2, 4], [3, 6, 12]), 6)
        1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-3)), 1)[0])


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Exponents of each family and recipe: of all, of each stage, of memory."""
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["recipe"]), {})[row["size"]] = row
    lines = []
    for (family, recipe), of_size in groups.items():
        sizes = sorted(of_size)
        costs = [of_size[size]["cost"] for size in sizes]
        for what, values in _series(costs):
            shown = " ".join(f"{value:.1f}" for value in values)
            slope = f"{exponent(sizes, values):.2f}" if len(sizes) > 1 else ""
            lines.append((family, recipe, what, " ".join(map(str, sizes)), shown, slope))
    columns = ("family", "recipe", "what", "sizes", "values", "exponent")
    show("Growth: seconds, GB and their exponents", columns, lines)


def _series(costs: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[float]]]:
    yield "processor s", [cost["processor"] for cost in costs]
    yield "peak GB", [cost["peak_gb"] for cost in costs]
    for stage in costs[-1]["stages"]:
        values = [cost["stages"].get(stage, 0.0) for cost in costs]
        if max(values) > 1.0:
            yield f"{stage}, s", values


def kept() -> list[dict[str, Any]]:
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    arguments = parser.parse_args()
    if not arguments.table:
        RESULTS.parent.mkdir(exist_ok=True)
        for recipe in arguments.recipes:
            for subject in (each for name in arguments.families for each in FAMILIES[name]):
                cost = alone(quantization, subject, recipe)
                row = {
                    "family": subject.family,
                    "size": subject.size,
                    "recipe": recipe,
                    "cost": dataclasses.asdict(cost),
                }
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    table(kept())


if __name__ == "__main__":
    main()
