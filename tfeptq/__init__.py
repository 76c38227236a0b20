"""Post-training quantization of Keras models: EPTQ, with a bit-width for every layer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfeptq.backend import require_tensorflow

if TYPE_CHECKING:
    from tfeptq.callbacks.quantization import QuantizationCallback
    from tfeptq.config import QuantizationConfig
    from tfeptq.distributed.cluster import distribute
    from tfeptq.goals import AccuracyTarget, Budget
    from tfeptq.loading import load_model
    from tfeptq.model import QuantizedModel
    from tfeptq.pareto import pareto_frontier
    from tfeptq.pipeline import quantize
    from tfeptq.preparation import UnsupportedLayerError, prepare, register_layer
    from tfeptq.report.comparison import LayerComparison, ModelComparison, Restoration, compare
    from tfeptq.report.html import write_report
    from tfeptq.selection.frontier_point import FrontierPoint
    from tfeptq.stage_samples import StageSamples

__version__ = "0.1.0"

_HOMES = {
    "AccuracyTarget": "goals",
    "Budget": "goals",
    "FrontierPoint": "selection.frontier_point",
    "LayerComparison": "report.comparison",
    "ModelComparison": "report.comparison",
    "QuantizationCallback": "callbacks.quantization",
    "QuantizationConfig": "config",
    "QuantizedModel": "model",
    "Restoration": "report.comparison",
    "StageSamples": "stage_samples",
    "UnsupportedLayerError": "preparation",
    "compare": "report.comparison",
    "distribute": "distributed.cluster",
    "load_model": "loading",
    "pareto_frontier": "pareto",
    "prepare": "preparation",
    "quantize": "pipeline",
    "register_layer": "preparation",
    "write_report": "report.html",
}

__all__ = [
    "AccuracyTarget",
    "Budget",
    "FrontierPoint",
    "LayerComparison",
    "ModelComparison",
    "QuantizationCallback",
    "QuantizationConfig",
    "QuantizedModel",
    "Restoration",
    "StageSamples",
    "UnsupportedLayerError",
    "__version__",
    "compare",
    "distribute",
    "load_model",
    "pareto_frontier",
    "prepare",
    "quantize",
    "register_layer",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Loads public names on first use: TensorFlow is imported when it is needed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_tensorflow()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
