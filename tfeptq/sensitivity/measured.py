"""How far the outputs move when layers are rounded, measured by a forward pass.

No prediction: the float model with some layers' weights replaced by what rounding without training
makes of them. Activations stay float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.data.memory import WholeBatches, fitting_forward_batch
from tfeptq.hessian.distillation import SelfDistillation
from tfeptq.hessian.pairs import Candidate, RoundingError
from tfeptq.stage_samples import first


class MeasuredDivergence:
    """Mean divergence of the outputs from the float model's; each choice is measured once.

    Args:
        model: canonical float model; its weights are changed during a call, and restored.
        samples: one array a model input, float32 (N, ...); the first `count` are used.
        errors: (layer name, width) -> what rounding adds to its weights.
    """

    def __init__(
        self,
        model: keras.Model,
        samples: Sequence[np.ndarray],
        errors: Mapping[Candidate, RoundingError],
        *,
        count: int | None = None,
    ) -> None:
        self._model, self._errors = model, errors
        graph, self._distillation = LayerGraph.of(model), SelfDistillation(model)
        count = first(count, len(samples[0]))
        self._batches = WholeBatches(samples, count, fitting_forward_batch(model, count))

        @tf.function
        def logits(inputs: list[tf.Tensor]) -> list[tf.Tensor]:
            tensors = graph.execute(inputs)
            return [tensors[key] for key in self._distillation.keys]

        self._logits = logits
        self._reference = self._outputs()
        self._known: dict[frozenset[Candidate], float] = {}

    def __call__(self, widths: Mapping[str, int]) -> float:
        """Of layer name -> width; layers left out stay float."""
        key = frozenset(widths.items())
        if key not in self._known:
            self._known[key] = self._measured(widths)
        return self._known[key]

    def _measured(self, widths: Mapping[str, int]) -> float:
        old = {name: self._model.get_layer(name).get_weights() for name in widths}
        try:
            for name, (kernel, bias) in old.items():
                error = self._errors[name, widths[name]]
                self._model.get_layer(name).set_weights([kernel + error.kernel, bias + error.bias])
            moved = self._outputs()
        finally:
            for name, values in old.items():
                self._model.get_layer(name).set_weights(values)
        return float(tf.reduce_mean(self._distillation.divergence(self._reference, moved)))

    def _outputs(self) -> dict[tuple[str, int], tf.Tensor]:
        found = [
            [tensor[repeated:] for tensor in self._logits(batch)]
            for batch, repeated in zip(self._batches, self._batches.repeats, strict=True)
        ]
        outputs = [tf.concat(parts, axis=0) for parts in zip(*found, strict=True)]
        return dict(zip(self._distillation.keys, outputs, strict=True))
