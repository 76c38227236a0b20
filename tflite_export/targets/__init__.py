"""What each target executes, as data: one TOML file a target, read by `capabilities`.

Allowed rows are those that a runtime of the target computes correctly, which the tests measure.
Much more loads and runs and returns garbage; what is not in the tables is refused.
"""

from tflite_export.targets.capabilities import (
    TARGETS,
    Capabilities,
    WeightRow,
    able,
    allowed_weight_bits,
    capabilities,
    check_operator,
    inputs_problem,
    rank_problem,
    requantization,
    storage,
    weight_granularity,
)

__all__ = [
    "TARGETS",
    "Capabilities",
    "WeightRow",
    "able",
    "allowed_weight_bits",
    "capabilities",
    "check_operator",
    "inputs_problem",
    "rank_problem",
    "requantization",
    "storage",
    "weight_granularity",
]
