"""Results of the road that are kept: what they depend on, and how they come back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfeptq.checkpoint.steps import Checkpoint, numbered
from tfeptq.config import QuantizationConfig

if TYPE_CHECKING:
    from tfeptq.model import QuantizedModel
    from tfeptq.plan.quantization_plan import QuantizationPlan


def decisive(
    plan: QuantizationPlan, samples: Sequence[np.ndarray], config: QuantizationConfig
) -> dict[str, Any]:
    """What a result depends on: of the request what neither widths nor samples hold already."""
    recipe = dataclasses.replace(
        config,
        weight_bits=8,
        activation_bits=8,
        budget=None,
        accuracy_target=None,
        augmentation=None,
    )
    widths = dict(plan.weight_bits), dict(plan.activation_bits)
    return {"model": plan.model, "samples": samples, "config": recipe, "widths": widths}


def changed_or_kept(
    checkpoint: Checkpoint,
    name: str,
    change: Callable[..., None],
    quantized: QuantizedModel,
    **inputs: Any,
) -> None:
    """Changes a model's weights and its report, or gives it what an earlier run made of it.

    Args:
        change: called with the model and `inputs`, and nothing else may enter its result.
    """

    def changed(*, quantized: QuantizedModel, **others: Any) -> dict[str, np.ndarray]:
        change(quantized, **others)
        report = np.array(quantized.report.stated())
        return {"report": report, **numbered(quantized.get_weights())}

    arrays = checkpoint.arrays(name, changed, quantized=quantized, **inputs)
    report, *weights = arrays.values()
    quantized.set_weights(weights)
    quantized.report.restate(str(report))


def measured_or_kept(
    checkpoint: Checkpoint,
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    metric: Callable[..., Any],
    float_values: np.ndarray,
    measure: Callable[[], np.ndarray],
) -> np.ndarray:
    """What a metric measures with fixed widths; its own data show in the float model's values."""
    return checkpoint.arrays(
        "evaluation",
        lambda **_: {"values": measure()},
        **decisive(plan, samples, config),
        metric=metric,
        float_values=float_values,
    )["values"]
