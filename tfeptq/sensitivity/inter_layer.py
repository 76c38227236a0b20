"""Layers' own second-order terms along their errors, augmented by their positive pair terms.

After "Augmenting Hessians with Inter-Layer Dependencies" (arXiv 2306.04879).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfeptq.hessian.activations import Grid
from tfeptq.hessian.pairs import Candidate, PairTerms, pair_terms
from tfeptq.sensitivity.label_free import free_bound
from tfeptq.sensitivity.method import Method, Sensitivity, nested
from tfeptq.sensitivity.rounding_errors import WeightErrors

NAME = "inter_layer"


class InterLayer(Method):
    """S_i(b) = 1/2 e_i'H e_i + 1/2 sum_{j != i} max(0, e_i'H e_j), all layers at b.

    The augmented score in a form of our own: the layer's own term is taken along the error that it
    makes, instead of from the trace, since the products with J give it as well; and half of every
    pair term goes to each of its two layers, so that the scores of all layers at b add up to the
    second-order loss, but for negative terms, which are left out: a layer must not look harmless
    because others, that may yet get another width, happen to cancel it. A layer without the width b
    enters at its nearest.

    Activations have pairs among each other; terms between weights and activations are left out.
    """

    def of_weights(self, errors: WeightErrors) -> Sensitivity:
        pairs = self._pairs("pairs", errors.shipped)
        candidates, terms = tuple(errors.shipped), pairs.terms
        index = {candidate: position for position, candidate in enumerate(candidates)}
        narrowest = {name: (name, min(options)) for name, options in _widths(candidates).items()}
        curvature = {
            name: terms[index[c], index[c]] / max(errors.shipped[c].squared_norm, 1e-30)
            for name, c in narrowest.items()
        }
        own = dict(zip(candidates, (0.5 * np.diag(terms)).tolist(), strict=True))
        return Sensitivity(
            NAME,
            "self-distillation, products with the Jacobian, standard error of a layer's own term "
            f"at most {_relative_error(pairs):.0%}",
            nested(augmented(candidates, terms)),
            curvature,
            candidates,
            pairs,
            rivals=(*free_bound(self.facts, errors), nested(own)),
        )

    def of_activations(self, grids: Mapping[Candidate, Grid]) -> dict[Candidate, float]:
        return augmented(tuple(grids), self._pairs("activation_pairs", grids).terms)

    def _pairs(self, kept_as: str, errors: Mapping[Candidate, Any]) -> PairTerms:
        facts, count = self.facts, self.facts.config.stages.pair_terms
        facts.scores.note("pair terms", count)
        inputs = {"model": facts.model, "samples": facts.samples, "errors": errors, "count": count}
        arrays = facts.checkpoint.arrays(kept_as, _terms, **inputs, seed=facts.config.seed)
        return PairTerms(**arrays)


def _terms(**inputs: Any) -> dict[str, np.ndarray]:
    return dataclasses.asdict(pair_terms(**inputs))


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
