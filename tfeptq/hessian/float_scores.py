"""Facts of the float model, which are the same whatever widths are tried."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from tfeptq.calibrate.histograms import Histogram, as_arrays, from_arrays
from tfeptq.calibrate.ranges import calibration_histograms
from tfeptq.canonical.layer_graph import Key
from tfeptq.checkpoint.steps import Checkpoint, numbered
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.plan.sharing import Ranges
from tfeptq.stage_samples import DEFAULT_STAGES, StageSamples, first


class FloatScores:
    """Computed when first asked for, then remembered: a search for widths asks many times.

    Args:
        model: canonical float model.
        samples: one array a model input, float32 (N, ...).
        seed: of the random probes.
        checkpoint: where scores are kept, for every configuration with this seed.
        stages: how many samples weight scores look at.
        known: what another object of these inputs has computed, see `known`.

    Attributes:
        used: what was computed from the float model -> how many samples it looked at.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[np.ndarray],
        seed: int,
        checkpoint: Checkpoint | None = None,
        *,
        stages: StageSamples = DEFAULT_STAGES,
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._inputs = {"model": model, "samples": samples, "seed": seed}
        self._checkpoint = checkpoint or Checkpoint()
        self._total = len(samples[0])
        self._stages = stages
        self.used: dict[str, int] = {}
        vars(self).update(known)

    @property
    def known(self) -> dict[str, Any]:
        """What was computed so far, by name."""
        names = ("histograms", "weights", "attention")
        return {name: vars(self)[name] for name in names if name in vars(self)}

    def note(self, stage: str, count: int | None = None) -> None:
        """Says that a stage looks at the first `count` samples; None: at all."""
        self.used[stage] = first(count, self._total)

    @functools.cached_property
    def histograms(self) -> dict[Key, Histogram]:
        """See `tfeptq.calibrate.ranges.calibration_histograms`."""
        inputs = {name: self._inputs[name] for name in ("model", "samples")}
        arrays = self._checkpoint.arrays("ranges", _named_histograms, **inputs)
        keys = zip(map(str, arrays["names"]), arrays["calls"].tolist(), strict=True)
        return dict(zip(keys, from_arrays(arrays), strict=True))

    @property
    def ranges(self) -> Ranges:
        """Smallest and largest value of the same tensors."""
        return {key: (found.minimum, found.maximum) for key, found in self.histograms.items()}

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """See `tfeptq.hessian.label_free.weight_scores`."""
        count = self._stages.weight_scores
        self.note("weight scores", count)
        arrays = self._checkpoint.arrays(
            "weight_scores", _named_weight_scores, **self._inputs, count=count
        )
        names, *scores = arrays.values()
        return dict(zip(map(str, names), scores, strict=True))

    @functools.cached_property
    def attention(self) -> list[np.ndarray]:
        """See `tfeptq.hessian.label_free.channel_attention`."""
        self.note("attention")
        arrays = self._checkpoint.arrays("attention", _numbered_attention, **self._inputs)
        return list(arrays.values())


def _named_histograms(**inputs: Any) -> dict[str, np.ndarray]:
    found = calibration_histograms(**inputs)
    names, calls = zip(*found, strict=True)
    return {
        "names": np.array(names),
        "calls": np.array(calls),
        **as_arrays(list(found.values())),
    }


def _named_weight_scores(**inputs: Any) -> dict[str, np.ndarray]:
    scores = weight_scores(**inputs)
    return {"names": np.array(list(scores)), **numbered(list(scores.values()))}


def _numbered_attention(**inputs: Any) -> dict[str, np.ndarray]:
    return numbered(channel_attention(**inputs))
