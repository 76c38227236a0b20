"""Proof on values that a canonical model computes what the original does.

Every quantization runs it on a few calibration samples: what prepare misunderstood would otherwise
be learned, written and verified without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.preparation.canonical import canonical_model, graph_of
from tfeptq.preparation.errors import UnsupportedLayerError
from tfeptq.preparation.execution import ValuesOfCall, call_values, outputs_of
from tfeptq.preparation.lookups import require_rows
from tfeptq.preparation.nodes import Constant, Graph, Node
from tfeptq.preparation.operations.axes import batch_axis, in_front
from tfeptq.preparation.trace import Trace, flat_functional, trace

#: Samples that are compared.
SAMPLES = 8
#: Allowed difference of float32 models, as a share of an output's largest value.
TOLERANCE = 1e-4
#: Roundings that a difference may have, in units of the type's: the whole model's, not one sum's.
_ROUNDINGS = 32.0
#: How far a model's answer may go with roundings that large, in answers to draws of them.
_DRAWS = 2
_NOISE_FACTOR = 4.0
#: Of an output's largest value.
_LENT_SHARE = 0.02


def prove(model: keras.Model, canonical: keras.Model, samples: Sequence[np.ndarray]) -> None:
    """Compares the outputs of both models, in inference mode.

    A difference counts where it is larger than what moving inputs and weights by some units in
    their last place makes of either model's outputs.

    Args:
        model: the original.
        canonical: what `prepare` made of it.
        samples: calibration samples, one array (N, ...) a model input.

    Raises:
        UnsupportedLayerError: they differ; names the first layer at which they part, or which the
            original answers otherwise each time.
        ValueError: the model cannot compute its samples, gives NaN or infinity for them, or they
            number rows that it has not.
    """
    require_rows(canonical, samples)
    flat = flat_functional(model)
    inputs = _inputs(flat, samples, _sizes(flat) | _sizes(canonical))
    wanted, found = outputs_of(flat, inputs), outputs_of(canonical, inputs)
    if not all(np.isfinite(values).all() for values in wanted):
        raise _unbounded(model, inputs)
    tolerance = _tolerance(flat)
    if _first_apart(wanted, found, tolerance) is None:
        return
    if _first_apart(wanted, outputs_of(flat, inputs), tolerance) is not None:
        raise _undetermined(model, inputs, tolerance)
    # One of them may give exact zeros, where the other's roundings do not cancel.
    # Integers have no last place: the next one is another value, or another word.
    is_moved = ["float" in str(tensor.dtype) for tensor in flat.inputs]
    own = _noise(flat, inputs, wanted, is_moved)
    others = _noise(canonical, inputs, found, is_moved)
    noise = [
        max(left, min(right, _lent(values)))
        for left, right, values in zip(own, others, wanted, strict=True)
    ]
    output = _first_apart(wanted, found, tolerance, noise)
    if output is None:
        return
    left, right = wanted[output], found[output]
    problem = (
        f"differs from the model once prepared: output {output} is off by "
        f"{np.abs(left - right).max():.3g} where its values reach {np.abs(left).max():.3g}"
    )
    culprit = _culprit(model, inputs, tolerance)
    raise UnsupportedLayerError(culprit, problem, _advice(culprit))


def _lent(values: np.ndarray) -> float:
    """What roundings of the canonical model may add to an output, if not those of the original.

    A canonical model of nothing but roundings, of sums that cancel, would excuse itself.
    """
    return _LENT_SHARE * float(np.abs(values).max(initial=0.0)) or np.inf


def _unbounded(model: keras.Model, inputs: Sequence[np.ndarray]) -> ValueError:
    """What to say of a model that itself gives NaN or infinity, at the first layer that does."""
    calls, _ = _calls(trace(model), inputs)
    found = [call for call in calls if not all(np.isfinite(values).all() for values in call.values)]
    name = (found or calls)[0].operation.name
    return ValueError(
        f"layer {name!r} computes NaN or infinity from calibration samples in the float model: "
        "keep its inputs where it is defined, as keras.ops.maximum(x, 1e-6) does"
    )


def _undetermined(
    model: keras.Model, inputs: Sequence[np.ndarray], tolerance: float
) -> UnsupportedLayerError:
    """What to say of a model that gives other values for the same samples, at the first layer."""
    traced = trace(model)
    calls, inputs = _calls(traced, inputs)
    again, _ = _calls(traced, inputs)
    changed = [
        first.operation
        for first, second in zip(calls, again, strict=True)
        if _first_apart(first.values, second.values, tolerance) is not None
    ]
    return UnsupportedLayerError(
        (changed or [calls[-1].operation])[0],
        "computes other values from the same samples each time, as random numbers do",
        "make what is drawn an input of the model, or end the file in front of it (outputs=...)",
    )


def _advice(culprit: Any) -> str:
    if "query_mask" in inspect.signature(culprit.call).parameters:
        return (
            "masks that Keras hands on unseen, as those of Embedding(mask_zero=True), are not "
            "read: give it attention_mask=keras.ops.not_equal(tokens, 0)[:, None] instead"
        )
    return "replace this layer by others, and please report it with its options"


def _inputs(
    model: keras.Model, samples: Sequence[np.ndarray], sizes: Collection[int]
) -> list[np.ndarray]:
    """Some of the samples, from all over them, in whole batches and in the inputs' types."""
    fixed = [tensor.shape[0] for tensor in model.inputs if tensor.shape[0]]
    batch = max(fixed, default=1)
    count = max(min(SAMPLES, len(samples[0])) // batch, 1) * batch
    count = count if fixed else _unlike(count, sizes)
    chosen = np.linspace(0, len(samples[0]) - 1, count).astype(int)
    return [
        _typed(array[chosen], str(tensor.dtype))
        for array, tensor in zip(samples, model.inputs, strict=True)
    ]


def _unlike(count: int, sizes: Collection[int]) -> int:
    """At most that many samples, 2 at least, of a number that no axis has.

    Keras takes some tensors for biases where the batch is one sample, or as long as an axis
    (`tfeptq.canonical.add_layer`); models are trained with others, or with unknown ones.
    """
    return next((n for n in range(max(count, 2), 1, -1) if n not in sizes), max(count, 2))


def _sizes(model: keras.Model) -> set[int]:
    """Of all axes of all tensors, without the batch."""
    tensors = keras.tree.flatten([layer.output for layer in model.layers])
    return {size for tensor in tensors for size in tensor.shape[1:]}


def _typed(array: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values that the type of the input can hold."""
    if dtype == "bool":
        return (array != 0).astype(np.float32)
    if "int" in dtype:
        limits = np.iinfo(dtype)
        return np.clip(np.round(array), limits.min, limits.max).astype(np.float32)
    return array.astype(np.float32)


def _tolerance(model: keras.Model) -> float:
    """Of the coarsest type that a layer computes in."""
    types = {str(layer.compute_dtype) for layer in _layers(model)} | {"float32"}
    epsilons = [_epsilon(dtype) for dtype in types if keras.backend.is_float_dtype(dtype)]
    return max(TOLERANCE, _ROUNDINGS * max(epsilons))


def _layers(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _epsilon(dtype: str) -> float:
    return 2.0**-7 if dtype == "bfloat16" else float(np.finfo(dtype).eps)


def _first_apart(
    wanted: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    tolerance: float,
    noise: Sequence[float] | None = None,
) -> int | None:
    """Index of the first array that differs."""
    for index, (left, right) in enumerate(zip(wanted, found, strict=True)):
        allowed = noise[index] if noise else 0.0
        if not nearly_equal(left, right, tolerance, allowed):
            return index
    return None


def nearly_equal(left: np.ndarray, right: np.ndarray, tolerance: float, noise: float = 0.0) -> bool:
    """Whether arrays differ by no more than a share of the largest value of the first."""
    if left.shape != right.shape:
        return False
    known = np.isfinite(left)
    if not np.array_equal(known, np.isfinite(right)):
        return False
    scale = np.abs(left[known]).max(initial=0.0)
    difference = np.abs(left[known] - right[known]).max(initial=0.0)
    return bool(difference <= tolerance * scale + noise)


def _noise(
    model: keras.Model,
    inputs: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    is_moved: Sequence[bool],
) -> list[float]:
    """How far each output goes when inputs and weights move by some units in the last place.

    Args:
        is_moved: of each input; a canonical model takes whole numbers as floats.
    """
    size = _tolerance(model) / TOLERANCE * 16.0 * _epsilon("float32")
    generator = np.random.default_rng(0)
    largest = [0.0] * len(wanted)
    for _ in range(_DRAWS):
        moved = [
            _moved(array, size, generator) if moves else array
            for array, moves in zip(inputs, is_moved, strict=True)
        ]
        variables = [
            [_moved(keras.ops.convert_to_numpy(v), size, generator) for v in group]
            for group in (model.trainable_variables, model.non_trainable_variables)
        ]
        found = outputs_of(model, moved, variables)
        for index, (left, right) in enumerate(zip(wanted, found, strict=True)):
            shift = float(np.abs(left - right).max(initial=0.0))
            largest[index] = max(largest[index], _NOISE_FACTOR * shift)
    return largest


def _moved(array: np.ndarray, size: float, generator: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    return array * (1.0 + size * generator.choice([-1.0, 1.0], array.shape)).astype(array.dtype)


def _culprit(model: keras.Model, inputs: Sequence[np.ndarray], tolerance: float) -> Any:
    """The operation whose call is the first that prepare computes differently.

    First every tensor is asked for, which leaves nothing to fold; if all are right, the fault is in
    a fold, and the tensors are asked for one by one.
    """
    traced = trace(model)
    calls, inputs = _calls(traced, inputs)
    everything = _prepared(model, traced, calls, inputs)
    for call, found in zip(calls, everything, strict=True):
        if _first_apart(call.values, found, tolerance) is not None:
            return call.operation
    for call in calls:
        (found,) = _prepared(model, traced, [call], inputs)
        if _first_apart(call.values, found, tolerance) is not None:
            return call.operation
    return calls[-1].operation


def _calls(
    traced: Trace, inputs: Sequence[np.ndarray]
) -> tuple[list[ValuesOfCall], list[np.ndarray]]:
    """Values of all calls, and the samples that they were computed from."""
    try:
        return list(call_values(traced, inputs)), list(inputs)
    except Exception:
        # A model that takes one sample at a time, which `outputs_of` gave it.
        inputs = [array[:1] for array in inputs]
        return list(call_values(traced, inputs)), inputs


def _prepared(
    model: keras.Model,
    traced: Trace,
    calls: Sequence[ValuesOfCall],
    inputs: Sequence[np.ndarray],
) -> list[list[np.ndarray]]:
    """Outputs of some calls, in the order of the model, as a canonical model gives them."""
    graph, nodes_of = graph_of(model, traced)
    nodes = [[nodes_of[symbol] for symbol in call.symbols] for call in calls]
    tensors = [in_front(node) for made in nodes for node in made if node.kind is not Constant]
    count = len(inputs[0])
    found: list[np.ndarray] = []
    if tensors:
        found = outputs_of(canonical_model(Graph(graph.name, graph.inputs, tensors)), inputs)
    values = iter(found)
    return [
        [
            _repeated(node, count)
            if node.kind is Constant
            else np.moveaxis(next(values), 0, batch_axis(node))
            for node in made
        ]
        for made in nodes
    ]


def _repeated(node: Node, count: int) -> np.ndarray:
    return np.broadcast_to(node.options["value"], (count, *node.shape))
