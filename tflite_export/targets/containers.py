"""In which container a target's files hold every weight tensor."""

from __future__ import annotations

from tflite_export import targets
from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.graph.kinds import weights_of
from tflite_export.graph.structure import IntegerGraph, Operator, Tensor, parameters


def plan_storage(graph: IntegerGraph, target: str) -> dict[str, str]:
    """Weight tensor -> container, after checking every operator against the target's table.

    Raises:
        ValueError: names the layer, what it needs and what the target allows.
    """
    storage: dict[str, str] = {}
    for operator in graph.operators:
        dtype = graph.tensors[operator.inputs[0]].dtype
        try:
            if problem := targets.rank_problem(target, operator.kind, _rank(graph, operator)):
                raise ValueError(problem)
            if problem := targets.inputs_problem(target, operator.kind, len(operator.inputs)):
                raise ValueError(problem)
            weights = weights_of(operator, graph.tensors)
            if weights is not None:
                container = _container(weights, operator.kind, target, dtype)
                # A shared tensor has one container: the widest that its operators need.
                storage[weights.name] = max(
                    storage.get(weights.name, container), container, key=CONTAINER_BITS.__getitem__
                )
            elif problem := targets.check_operator(
                target,
                operator.kind,
                activation_dtype=dtype,
                rescales=_rescales(graph, operator),
            ):
                raise ValueError(problem)
        except ValueError as error:
            raise ValueError(f"layer {operator.layer!r}: {error}") from error
    return storage


def _rank(graph: IntegerGraph, operator: Operator) -> int:
    names = (*operator.inputs, *operator.outputs)
    return max(len(graph.tensors[name].shape) for name in names)


def _rescales(graph: IntegerGraph, operator: Operator) -> bool:
    given, made = (graph.tensors[name] for name in (operator.inputs[0], operator.outputs[0]))
    return parameters(given) != parameters(made)


def _container(weights: Tensor, kind: str, target: str, dtype: str) -> str:
    return targets.storage(
        target,
        kind,
        bits=weights.bits,
        per_channel=weights.quantization.per_channel,
        activation_dtype=dtype,
    )
