"""How values travel to other processes: Keras models as what they are, everything else by Ray."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import keras

# Every layer of a canonical and of a quantized model is registered when it is unpacked.
from tfeptq import loading as _loading  # noqa: F401
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.distributed.errors import WorkerError


@dataclasses.dataclass(frozen=True)
class PackedModel:
    """A canonical or quantized model in the format of a `.keras` file.

    Attributes:
        calls: by which everyone names tensors: those of the copy must be called the same.
    """

    data: bytes
    calls: tuple[Any, ...]

    @classmethod
    def of(cls, model: keras.Model) -> PackedModel:
        # Without the optimizer and what it remembers, which nobody computes with elsewhere.
        return cls(pickle.dumps(model, protocol=pickle.HIGHEST_PROTOCOL), _calls(model))

    def unpacked(self) -> keras.Model:
        model = pickle.loads(self.data)
        if _calls(model) != self.calls:
            raise WorkerError(
                f"the model {model.name!r} has other calls in a worker than here: quantize it "
                "without tfeptq.distribute, and report this"
            )
        return model


def _calls(model: keras.Model) -> tuple[Any, ...]:
    graph = LayerGraph.of(model)
    calls = [(call.layer.name, call.inputs, call.output) for call in graph.calls]
    return (*calls, graph.inputs, graph.outputs)


def packed(value: Any) -> Any:
    return PackedModel.of(value) if isinstance(value, keras.Model) else value


def unpacked(value: Any) -> Any:
    return value.unpacked() if isinstance(value, PackedModel) else value
