"""Moments of rounding errors of activations and curvatures, kept for every later choice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.pairs import Candidate
from tfeptq.sensitivity.method import Facts


def moments(
    facts: Facts, grids: Mapping[Candidate, Grid], *, is_whitened: bool
) -> dict[str, np.ndarray]:
    """See `tfeptq.hessian.activations.activation_moments`; one row a grid."""
    stages = facts.config.stages
    facts.scores.note("activation traces", stages.activation_traces)
    return facts.checkpoint.arrays(
        "activation_moments",
        _moments,
        model=facts.model,
        samples=facts.samples,
        grids=list(grids.values()),
        is_whitened=is_whitened,
        count=stages.activation_traces,
        seed=facts.config.seed,
    )


def _moments(**inputs: Any) -> dict[str, np.ndarray]:
    return dataclasses.asdict(activation_moments(**inputs))
