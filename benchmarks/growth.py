"""How seconds and memory grow with a model and its data: exponents, fitted by family.

    python -m benchmarks.growth [--families samples depth ...] [--recipes optq eptq mixed]
        [--table] [--plot growth.svg] [--predict resnet50@224 mobilenetv2@224] [--samples 512]

In each family one thing grows: samples, layers (of residual networks and of transformers), width
or size of MobileNetV2 (multiplications), logits. Each run is a process of its own. Printed are
processor seconds (what other programs change least), the seconds of every stage and the peak of
memory, and of each the slope of its logarithm over that of what grows: 1 is proportional, 0 does
not grow. Models are untrained; accuracy is not looked at. Rows are appended to
benchmarks/results/growth.jsonl, `--table` prints what is there. From all rows of a recipe seconds
are fitted as a sum, see `benchmarks.growth_fit`; `--predict` says from it what other models take,
and "bert-base" is twelve blocks of width 768 on 128 tokens.
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
from benchmarks.conversions import Cost, alone, cost_of, task_of
from benchmarks.growth_fit import TERMS, Properties, draw, fit, properties_of
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


def transformer(*, blocks: int, tokens: int = 32, width: int = 64, inner: int = 128) -> keras.Model:
    """Blocks of attention of 4 heads and two dense layers, the first of which gives `inner`."""
    inputs = keras.Input((tokens, width))
    x: Any = inputs
    for _ in range(blocks):
        attended = layers.MultiHeadAttention(4, width // 4)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        y = layers.Dense(width)(layers.Dense(inner, activation="relu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


MODELS = {"resnet": residual_network, "mobilenetv2": mobilenet, "transformer": transformer}

#: Millions of multiplications: of residual networks of 8, 20 and 56 layers (the first and the last
#: cost next to nothing), of MobileNetV2 by its width and by the side of its images.
_BY_BLOCKS = {3: 15, 9: 43, 27: 128}
_BY_WIDTH = {0.35: 11, 0.5: 18, 1.0: 56}
_BY_SIDE = {64: 8, 96: 18, 160: 51}

FAMILIES: dict[str, tuple[Subject, ...]] = {
    "samples": tuple(
        Subject("samples", n, "resnet", {"blocks": 3}, samples=n) for n in (64, 256, 1024)
    ),
    "depth": tuple(
        Subject("depth", work, "resnet", {"blocks": n}) for n, work in _BY_BLOCKS.items()
    ),
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


def model_of(name: str) -> keras.Model:
    """A model to predict: one of `benchmarks.conversions`, or "bert-base"."""
    if name == "bert-base":
        return transformer(blocks=12, tokens=128, width=768, inner=3072)
    return task_of(name).model


def predictions(rows: Sequence[dict[str, Any]], names: Sequence[str], samples: int) -> None:
    """Prints the fitted sums, and what they say of other models.

    Seconds only: memory is no sum, batches are as large as a limit lets them be.
    """
    wanted = {name: properties_of(model_of(name), samples) for name in names}
    known = {
        (each.family, each.size): properties_of(MODELS[each.model](**each.settings), each.samples)
        for family in FAMILIES.values()
        for each in family
    }
    fits, lines = [], []
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == recipe]
        points: list[Properties] = [known[row["family"], row["size"]] for row in own]
        found = fit(points, [row["cost"]["processor"] for row in own])
        errors = " / ".join(f"{error:.0%}" for error in found.error)
        fits.append((recipe, *(f"{each:.3g}" for each in found.coefficients), errors))
        lines.append((recipe, *(f"{found(properties):.3g}" for properties in wanted.values())))
    show("Processor seconds as a sum", ("recipe", *TERMS, "error, median / most"), fits)
    if names:
        show(f"Predicted processor seconds, {samples} samples", ("recipe", *names), lines)


def plotted(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Processor seconds of all families and recipes as one figure."""
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for row in sorted(rows, key=lambda row: row["size"]):
        sizes, seconds = series.setdefault(row["family"], {}).setdefault(row["recipe"], ([], []))
        sizes.append(row["size"])
        seconds.append(row["cost"]["processor"])
    draw(series, path)


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
    """The last row of each family, size and recipe."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    rows = map(json.loads, lines)
    return list({(row["family"], row["size"], row["recipe"]): row for row in rows}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--table", action="store_true", help="print recorded results instead")
    parser.add_argument("--plot", type=Path, help="an SVG of all recorded results")
    parser.add_argument("--predict", nargs="*", default=[], help="models to predict")
    parser.add_argument("--samples", type=int, default=512, help="of the predicted models")
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
    rows = kept()
    table(rows)
    predictions(rows, arguments.predict, arguments.samples)
    if arguments.plot:
        plotted(rows, arguments.plot)


if __name__ == "__main__":
    main()
