"""What a quantization costs, as a sum: fixed, a layer, a multiplication, a weight.

Coefficients are not negative and minimise squares of relative errors, so that small models count as
much as large ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from scipy.optimize import nnls

import tfeptq
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.costs import layer_multiplications


@dataclasses.dataclass(frozen=True)
class Properties:
    """Of a model and its data.

    Attributes:
        layers: with weights.
        multiplications: of the layers with weights, one sample.
        weights: numbers in their kernels.
        logits: of all outputs.
        samples: calibration samples.
    """

    layers: int
    multiplications: float
    weights: float
    logits: int
    samples: int

    def terms(self) -> list[float]:
        """What each coefficient is multiplied with."""
        work = self.multiplications * self.samples
        return [1.0, float(self.layers), work / 1e9, self.weights / 1e6]


#: Names of `Properties.terms`.
TERMS = ("fixed", "a layer", "10^9 multiplications of all samples", "10^6 weights")


def properties_of(model: keras.Model, samples: int) -> Properties:
    plan = QuantizationPlan.of(tfeptq.prepare(model), tfeptq.QuantizationConfig())
    return Properties(
        layers=len(plan.weights),
        multiplications=float(sum(layer_multiplications(plan).values())),
        weights=float(
            sum(plan.model.get_layer(name).kernel.shape.num_elements() for name in plan.weights)
        ),
        logits=sum(int(np.prod(output.shape[1:])) for output in model.outputs),
        samples=samples,
    )


@dataclasses.dataclass(frozen=True)
class Fit:
    """Coefficients of `TERMS`, and how far the fit is from what it was made of.

    Attributes:
        error: the median and the largest relative error.
    """

    coefficients: tuple[float, ...]
    error: tuple[float, float]

    def __call__(self, properties: Properties) -> float:
        return float(np.dot(self.coefficients, properties.terms()))


def fit(properties: Sequence[Properties], values: Sequence[float]) -> Fit:
    """Nonnegative least squares of relative errors.

    Example:
        >>> models = [Properties(n, 1e6 * n**2, 1e4, 10, 100) for n in (2, 4, 8, 16, 32)]
        >>> found = fit(models, [3 + 2 * model.layers for model in models])
        >>> [round(each, 4) for each in found.coefficients[1:3]]
        [2.0, 0.0]
    """
    terms, wanted = np.array([each.terms() for each in properties]), np.array(values, np.float64)
    coefficients, _ = nnls(terms / wanted[:, None], np.ones(len(wanted)))
    errors = np.abs(terms @ coefficients / wanted - 1)
    return Fit(tuple(map(float, coefficients)), (float(np.median(errors)), float(errors.max())))


def draw(series: dict[str, dict[str, tuple[list[float], list[float]]]], path: Path) -> None:
    """One panel a family: seconds against what grows, one line a recipe; dotted: proportional.

    Args:
        series: family -> recipe -> sizes and seconds.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "tfeptq"
    import matplotlib.pyplot as plt

    columns = 3
    rows = -(-len(series) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(11, 3.2 * rows), squeeze=False)
    for axis, (family, recipes) in zip(axes.flat, series.items(), strict=False):
        for recipe, (sizes, seconds) in recipes.items():
            (line,) = axis.loglog(sizes, seconds, marker="o", label=recipe)
            proportional = [seconds[0] * size / sizes[0] for size in sizes]
            axis.loglog(sizes, proportional, linestyle=":", alpha=0.5, color=line.get_color())
        axis.set(title=family, ylabel="processor seconds")
        axis.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
