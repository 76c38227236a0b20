"""How much the loss is expected to rise when a layer gets a width: three estimates.

All are additive over layers, so that selection can be exact. The products with the Jacobian of
"inter_layer" take the errors that ship without training. The two estimates of a diagonal take those
of nearest rounding, since OPTQ's are larger and correlated so that they cancel, and multiply by
what OPTQ leaves of them in the layer's output. Against measured divergences of single layers of
ResNet8 and DS-CNN at 2, 3 and 4 bits, that raised rank correlations from 0.57 to 0.63 on average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.checkpoint.steps import Checkpoint
from tfeptq.config import QuantizationConfig
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.labelled import LabelledLoss
from tfeptq.hessian.pairs import Candidate, PairTerms, RoundingError, pair_terms
from tfeptq.hessian.traces import Traces, as_arrays, average_traces, from_arrays
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.rounding.layerwise import fitting_samples
from tfeptq.rounding.thresholds import looks_at
from tfeptq.sensitivity import rounding_errors as rounding
from tfeptq.sensitivity.rounding_errors import WeightErrors

Losses = dict[str, dict[int, float]]


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Predicted losses of all candidates.

    Attributes:
        method: "label_free", "hawq_v2" or "inter_layer".
        source: the Hessian behind it, in words, to be reported with results.
        losses: layer name -> width -> predicted rise of the loss, zero or more.
        curvature: layer name -> average curvature, for HAWQ-V2's ordering rule.
        pairs: terms of all candidates in the order of `candidates`, with "inter_layer".
        errors: what each candidate adds to its layer's weights without training.
        rivals: losses by simpler estimates that came for free; their optima are worth measuring.
    """

    method: str
    source: str
    losses: Losses
    curvature: dict[str, float]
    candidates: tuple[Candidate, ...] = ()
    pairs: PairTerms | None = None
    errors: Mapping[Candidate, RoundingError] = dataclasses.field(default_factory=dict)
    rivals: tuple[Losses, ...] = ()

    @property
    def order(self) -> list[str]:
        """Layers by rising curvature."""
        return sorted(self.curvature, key=self.curvature.__getitem__)


def sensitivity(
    plan: QuantizationPlan,
    samples: Sequence[np.ndarray],
    config: QuantizationConfig,
    checkpoint: Checkpoint,
    scores: FloatScores,
    labelled: LabelledLoss | None = None,
) -> Sensitivity:
    """Predicted loss of every layer at every candidate width, by `config.sensitivity`.

    Args:
        samples: one array a model input, float32 (N, ...).
        checkpoint: where traces and pair terms are kept.
        scores: of the plan's model.
        labelled: the loss whose traces "hawq_v2" takes; None: self-distillation.
    """
    model = plan.model
    widths = {bits for of_layer in plan.candidates.values() for bits in of_layer}
    needs_scores = any(looks_at(config.clipping, bits) == "scores" for bits in widths)
    shaping = scores.weights if needs_scores else {}
    scores.note("rounding errors", config.stages.rounding_errors)
    if config.untrained_rounding == "optq" or config.clipping == "output":
        count = fitting_samples(model, samples, config.stages.covariances)
        scores.note("rounding errors", count)
    errors = rounding.from_arrays(
        checkpoint.arrays(
            "rounding_errors",
            _rounding_errors,
            model=model,
            samples=samples,
            candidates={
                name: tuple(plan.storage(name, bits) for bits in widths)
                for name, widths in plan.candidates.items()
            },
            scores=shaping,
            # What is asked of a choice does not change what it is made of.
            config=dataclasses.replace(
                config, budget=None, accuracy_target=None, augmentation=None
            ),
        )
    )
    found = _estimated(model, samples, errors, scores, config, checkpoint, labelled)
    rivals = []
    if found.method != "label_free" and config.moves:
        rivals.append(label_free(errors, scores.weights).losses)
    if found.pairs is not None:
        own = 0.5 * np.diag(found.pairs.terms)
        rivals.append(_nested(dict(zip(errors.shipped, own.tolist(), strict=True))))
    return dataclasses.replace(found, errors=errors.shipped, rivals=tuple(rivals))


def _estimated(
    model: keras.Model,
    samples: Sequence[np.ndarray],
    errors: WeightErrors,
    scores: FloatScores,
    config: QuantizationConfig,
    checkpoint: Checkpoint,
    labelled: LabelledLoss | None,
) -> Sensitivity:
    if config.sensitivity == "label_free":
        return label_free(errors, scores.weights)
    if config.sensitivity == "hawq_v2":
        scores.note("Hessian traces")
        # Only the noise of the double backward pass depends on them.
        rough = {name: float(s.mean()) for name, s in scores.weights.items()} if labelled else {}
        arrays = checkpoint.arrays(
            "traces",
            _traces,
            model=model,
            samples=samples,
            curvatures=rough,
            loss=labelled,
            seed=config.seed,
        )
        loss = f"{labelled.name} with labels" if labelled else "self-distillation"
        return hawq_v2(errors, from_arrays(arrays), loss)
    count = config.stages.pair_terms
    scores.note("pair terms", count)
    pairs = checkpoint.arrays(
        "pairs",
        _pairs,
        model=model,
        samples=samples,
        errors=errors.shipped,
        count=count,
        seed=config.seed,
    )
    return inter_layer(errors.shipped, PairTerms(**pairs))


def _rounding_errors(**inputs: Any) -> dict[str, np.ndarray]:
    return rounding.as_arrays(rounding.weight_errors(**inputs))


def _traces(*, loss: LabelledLoss | None, **inputs: Any) -> dict[str, np.ndarray]:
    labels = loss.labels if loss else None
    return as_arrays(average_traces(**inputs, loss=loss, labels=labels))


def _pairs(**inputs: Any) -> dict[str, np.ndarray]:
    return dataclasses.asdict(pair_terms(**inputs))


def label_free(errors: WeightErrors, scores: Mapping[str, np.ndarray]) -> Sensitivity:
    """Half the sum over weights of h_w * e_w^2, h_w = mean ||J_w||^2 (EPTQ, section 3).

    An upper bound of the diagonal of the loss Hessian up to a constant; it leaves out that the
    errors of a channel add up or cancel.
    """
    losses = {
        (name, bits): 0.5
        * errors.shares[name, bits]
        * float(np.sum(scores[name] * np.square(error.kernel, dtype=np.float64)))
        for (name, bits), error in errors.nearest.items()
    }
    curvature = {name: float(scores[name].mean()) for name, _ in errors.nearest}
    return Sensitivity("label_free", "squared Jacobian of the logits", _nested(losses), curvature)


def hawq_v2(errors: WeightErrors, traces: Traces, loss: str = "self-distillation") -> Sensitivity:
    """Omega = 1/2 * average trace * ||Q(W) - W||^2 (HAWQ-V2, eq. 6; its constant 1/2 made plain).

    The Hessian is taken to be the same in every direction of a layer's weights. With labels its
    trace can be negative, away from a minimum: such a layer counts as flat.
    """
    losses = {
        (name, bits): 0.5
        * errors.shares[name, bits]
        * max(traces.mean[name], 0.0)
        * error.squared_norm
        for (name, bits), error in errors.nearest.items()
    }
    curvature = {name: traces.mean[name] for name, _ in errors.nearest}
    source = (
        f"{loss}, traces by Hutchinson in {traces.draws} draws, standard error of a "
        f"layer at most {traces.relative_error:.0%}"
    )
    return Sensitivity("hawq_v2", source, _nested(losses), curvature)


def inter_layer(errors: Mapping[Candidate, RoundingError], pairs: PairTerms) -> Sensitivity:
    """S_i(b) = 1/2 e_i'H e_i + 1/2 sum_{j != i} max(0, e_i'H e_j), all layers at b.

    The augmented score of "Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879) in
    a form of our own: the layer's own term is taken along the error that it makes, instead of from
    the trace, since the products with J give it as well; and half of every pair term goes to each
    of its two layers, so that the scores of all layers at b add up to the second-order loss, but
    for negative terms, which are left out: a layer must not look harmless because others, that may
    yet get another width, happen to cancel it. A layer without the width b enters at its nearest.
    """
    candidates, terms = tuple(errors), pairs.terms
    index = {candidate: position for position, candidate in enumerate(candidates)}
    losses = augmented(candidates, terms)
    narrowest = {name: (name, min(options)) for name, options in _widths(candidates).items()}
    curvature = {
        name: terms[index[c], index[c]] / max(errors[c].squared_norm, 1e-30)
        for name, c in narrowest.items()
    }
    return Sensitivity(
        "inter_layer",
        "self-distillation, products with the Jacobian, standard error of a layer's own term at "
        f"most {_relative_error(pairs):.0%}",
        _nested(losses),
        curvature,
        candidates,
        pairs,
    )


def _relative_error(pairs: PairTerms) -> float:
    """The largest standard error of an own term as a fraction of it."""
    own, errors = np.diag(pairs.terms), np.diag(pairs.errors)
    return float(np.max(errors / np.maximum(own, 1e-30)))


def augmented(candidates: Sequence[Candidate], terms: np.ndarray) -> dict[Candidate, float]:
    """Half of each candidate's own term and of its positive terms with all others at its width.

    Args:
        candidates: in the order of `terms`, (candidates, candidates). One without the width of
            another enters at its nearest.
    """
    index = {candidate: position for position, candidate in enumerate(candidates)}
    widths, positive = _widths(candidates), np.maximum(terms, 0.0)
    return {
        (name, bits): 0.5 * terms[index[name, bits], index[name, bits]]
        + 0.5 * _sum_over_others(name, bits, widths, index, positive)
        for name, bits in candidates
    }


def _widths(candidates: Sequence[Candidate]) -> dict[str, list[int]]:
    widths: dict[str, list[int]] = {}
    for name, bits in candidates:
        widths.setdefault(name, []).append(bits)
    return widths


def _sum_over_others(
    name: str,
    bits: int,
    widths: Mapping[str, Sequence[int]],
    index: Mapping[Candidate, int],
    terms: np.ndarray,
) -> float:
    """Terms of a candidate with every other layer at the same width."""
    others = [
        index[other, min(options, key=lambda width: abs(width - bits))]
        for other, options in widths.items()
        if other != name
    ]
    return float(terms[index[name, bits], others].sum())


def _nested(losses: Mapping[Candidate, float]) -> Losses:
    result: Losses = {}
    for (name, bits), loss in losses.items():
        result.setdefault(name, {})[bits] = float(loss)
    return result
