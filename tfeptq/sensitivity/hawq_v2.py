"""HAWQ-V2: half the average Hessian trace times the squared error (Dong et al., eq. 6, sec. 3.3).

The Hessian is taken to be the same in every direction of a layer's weights. With labels its trace
can be negative, away from a minimum: such a layer counts as flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.hessian.activations import Grid
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.hessian.pairs import Candidate
from tfeptq.hessian.traces import as_arrays, average_traces, from_arrays, tensor_name
from tfeptq.sensitivity.activation_moments import moments
from tfeptq.sensitivity.label_free import free_bound
from tfeptq.sensitivity.method import Facts, Method, Sensitivity, nested
from tfeptq.sensitivity.rounding_errors import WeightErrors

NAME = "hawq_v2"


class HawqV2(Method):
    """Omega = 1/2 * average trace * ||Q(W) - W||^2, the constant 1/2 made plain.

    Of activations: half the average trace of a sample's Hessian times E||Q(a) - a||^2.
    """

    takes_labels = True

    def of_weights(self, errors: WeightErrors) -> Sensitivity:
        facts, scores = self.facts, self.facts.scores
        scores.note("Hessian traces")
        # Only the noise of the double backward pass depends on them.
        known = scores.weights if facts.labelled else {}
        rough = {name: float(score.mean()) for name, score in known.items()}
        arrays = facts.checkpoint.arrays(
            "traces",
            _traces,
            model=facts.model,
            samples=facts.samples,
            curvatures=rough,
            loss=facts.labelled,
            seed=facts.config.seed,
        )
        traces = from_arrays(arrays)
        losses = {
            (name, bits): 0.5
            * errors.shares[name, bits]
            * max(traces.mean[name], 0.0)
            * error.squared_norm
            for (name, bits), error in errors.nearest.items()
        }
        labelled = facts.labelled
        loss = f"{labelled.name} with labels" if labelled else "self-distillation"
        source = (
            f"{loss}, traces by Hutchinson in {traces.draws} draws, standard error of a "
            f"layer at most {traces.relative_error:.0%}"
        )
        return Sensitivity(
            NAME,
            source,
            nested(losses),
            {name: traces.mean[name] for name, _ in errors.nearest},
            rivals=free_bound(facts, errors),
        )

    def of_activations(self, grids: Mapping[Candidate, Grid]) -> dict[Candidate, float]:
        found = moments(self.facts, grids, is_whitened=True)
        average = found["traces"] / found["sizes"]
        if self.facts.labelled is not None:
            average = _labelled(self.facts, self.facts.labelled, grids, average)
        losses = 0.5 * (average * found["squares"])
        return dict(zip(grids, losses.tolist(), strict=True))


def _labelled(
    facts: Facts, loss: LabelledLoss, grids: Mapping[Candidate, Grid], rough: np.ndarray
) -> np.ndarray:
    """Average traces of every grid's tensors in the loss of labels; zero where it is negative.

    Args:
        rough: the same in self-distillation, to take the noise from the probes.
    """
    by_key = {key: float(t) for g, t in zip(grids.values(), rough, strict=True) for key in g.keys}
    arrays = facts.checkpoint.arrays(
        "labelled_activation_traces",
        _traces,
        model=facts.model,
        samples=facts.samples,
        keys=list(by_key),
        curvatures={tensor_name(key): value for key, value in by_key.items()},
        loss=loss,
        seed=facts.config.seed,
    )
    found, shapes = from_arrays(arrays).mean, LayerGraph.of(facts.model).shapes(facts.model)
    sizes = {key: int(np.prod(shapes[key][1:])) for key in by_key}
    sums = [sum(found[tensor_name(k)] * sizes[k] for k in grid.keys) for grid in grids.values()]
    whole = [sum(sizes[key] for key in grid.keys) for grid in grids.values()]
    return np.maximum(np.array(sums) / np.array(whole), 0.0)


def _traces(*, loss: LabelledLoss | None, **inputs: Any) -> dict[str, np.ndarray]:
    labels = loss.labels if loss else None
    return as_arrays(average_traces(**inputs, loss=loss, labels=labels))
