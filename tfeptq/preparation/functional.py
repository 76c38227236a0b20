"""Subclassed models and models of free size as functional models of fixed size."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfeptq.config import InputShape, Outputs
from tfeptq.preparation.chosen_outputs import with_outputs
from tfeptq.preparation.expansion import (
    UnreadableCallError,
    called,
    functional,
    of_any_batch,
)
from tfeptq.preparation.proof import nearly_equal
from tfeptq.preparation.received import require_model
from tfeptq.preparation.trace import input_names, shows_its_graph, symbolic_endpoints

#: Of the largest value: half precision and long sums included, another function is not.
_SHARE = 1e-2
#: Most inputs of which some are tried as integers and others as floats.
_MIXED = 3


def as_functional(
    model: keras.Model, input_shape: InputShape | None = None, outputs: Outputs | None = None
) -> keras.Model:
    """The model itself where it is functional, or a functional model over the same layers.

    Args:
        model: any Keras model that has its weights.
        input_shape: sizes without the batch of the one input, such as (224, 224, 3); of several
            inputs, a list in their order or a dictionary by name. None: the sizes that the model
            was built with.
        outputs: where the functional model ends, see `with_outputs`; None: where `model` does.

    Returns:
        A functional model; the weights are those of `model`, which keeps its own graph.

    Raises:
        ValueError: the model was never built, its `call` does not run on symbolic tensors,
            `input_shape` does not fit its inputs, or it has no layer that `outputs` names.
    """
    require_model(model)
    return with_outputs(_as_functional(model, input_shape), outputs)


def _as_functional(model: keras.Model, input_shape: InputShape | None) -> keras.Model:
    has_graph = shows_its_graph(model)
    if has_graph and input_shape is None:
        return model
    try:
        found = _of_any_types(model, input_shape, has_graph=has_graph)
        # What leaves a size open cannot be called on samples, nor will it get into a file.
        if not has_graph and not open_inputs(found):
            _require_equal(model, found)
        return found
    except UnreadableCallError as error:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) is no functional model, and its call "
            f"cannot be read as a graph of layers ({error}); write call with layers and keras.ops, "
            "or rebuild it as a functional model"
        ) from error
    except ValueError as error:
        if input_shape is None:
            raise
        raise ValueError(
            f"model {model.name!r} does not take inputs of input_shape={input_shape!r} "
            f"({' '.join(str(error).split())[:200]}); give the size that you deploy"
        ) from error


def _require_equal(model: keras.Model, functional: keras.Model) -> None:
    """Compares what was read from a `call` with the call itself, on samples drawn at random.

    Raises:
        UnreadableCallError: they differ.
    """
    generator = np.random.default_rng(0)

    def sample(tensor: keras.KerasTensor) -> np.ndarray:
        shape = (tensor.shape[0] or 2, *tensor.shape[1:])
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        values = generator.normal(size=shape) if is_float else generator.integers(0, 2, shape)
        return values.astype(tensor.dtype)

    inputs = keras.tree.map_structure(sample, functional.input)
    wanted = _arrays(model(inputs, training=False))
    if _are_equal(wanted, _arrays(functional(inputs, training=False))):
        return
    if not _are_equal(wanted, _arrays(model(inputs, training=False))):
        raise UnreadableCallError(
            "it computes other values from the same samples each time, as random numbers do: make "
            "what is drawn an input of the model"
        )
    raise UnreadableCallError("what was read of it computes other values")


def _are_equal(wanted: list[np.ndarray], found: list[np.ndarray]) -> bool:
    pairs = zip(wanted, found, strict=True)
    return all(nearly_equal(left, right, _SHARE) for left, right in pairs)


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def open_inputs(model: keras.Model) -> list[tuple[int | None, ...]]:
    """Shapes of the inputs, without the batch, where the model leaves a size open; else none."""
    known, _ = symbolic_endpoints(model)
    shapes: list[Any] = [tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(known or [])]
    if not shapes:
        _map_shapes(shapes.append, _built_shapes(model) or [])
    return shapes if any(None in shape for shape in shapes) else []


def _of_any_types(
    model: keras.Model, input_shape: InputShape | None, *, has_graph: bool
) -> keras.Model:
    """What is read of floats, or of int32 where a `call` takes no floats, as `tf.gather` does.

    Raises:
        UnreadableCallError: nothing can be read; says why not of floats.
    """

    def read(types: Sequence[str] | None) -> keras.Model:
        return of_any_batch(
            lambda batch: _read(model, input_shape, batch, types, has_graph=has_graph)
        )

    try:
        return read(None)
    except UnreadableCallError:
        for types in _other_types(model, input_shape):
            with contextlib.suppress(UnreadableCallError):
                return read(types)
        raise


def _other_types(model: keras.Model, input_shape: InputShape | None) -> Iterator[tuple[str, ...]]:
    """Types of the inputs to try where Keras, which keeps shapes, does not know them."""
    if symbolic_endpoints(model)[0] or getattr(model, "input_specs", None) is not None:
        return
    count = len(keras.tree.flatten(_inputs(model, input_shape, None)))
    choices = ("int32", "float32") if count <= _MIXED else ("int32",)
    for types in itertools.product(choices, repeat=count):
        if "int32" in types:
            yield types


def _typed(inputs: Any, types: Sequence[str]) -> Any:
    """Inputs in other types, in their order."""
    made = [
        keras.Input(batch_shape=leaf.shape, dtype=dtype, name=leaf.name)
        for leaf, dtype in zip(keras.tree.flatten(inputs), types, strict=True)
    ]
    return keras.tree.pack_sequence_as(inputs, made)


def _read(
    model: keras.Model,
    input_shape: InputShape | None,
    batch: int | None,
    types: Sequence[str] | None,
    *,
    has_graph: bool,
) -> keras.Model:
    inputs = _inputs(model, input_shape, batch)
    inputs = inputs if types is None else _typed(inputs, types)
    # A functional model may be called; what is inside any other would be hidden by that.
    outputs = model(inputs, training=False) if has_graph else called(model, inputs)
    return functional(inputs, outputs, model)


def _inputs(model: keras.Model, input_shape: InputShape | None, batch: int | None) -> Any:
    """Symbolic inputs in the structure that the model's `call` takes."""
    known, _ = symbolic_endpoints(model)
    if known:
        # Keras knows the structure of what was called, which a Sequential need not have been.
        structure = known[0] if isinstance(model, keras.Sequential) else model.input
        fitted = None if input_shape is None else _fitted(model, structure, input_shape)
        return _symbols(model, structure, fitted, batch)
    specs = getattr(model, "input_specs", None)
    if specs is not None:
        return _of_specs(model, specs, input_shape, batch)
    shapes = _built_shapes(model) if input_shape is None else input_shape
    if shapes is None:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) was never built, so that the shape of "
            "its inputs is not known; call it once on a sample, or give input_shape="
        )
    return _named_inputs("input", shapes, batch)


def _of_specs(
    model: keras.Model,
    specs: Mapping[str, keras.KerasTensor],
    input_shape: InputShape | None,
    batch: int | None,
) -> Any:
    """Inputs of a model that describes them itself: one, or a dictionary where there are more."""
    fitted = [tuple(spec.shape[1:]) for spec in specs.values()]
    if input_shape is not None:
        fitted = _by_name(model, list(specs), input_shape)
    made = {
        name: keras.Input(shape, batch, dtype=spec.dtype, name=name)
        for (name, spec), shape in zip(specs.items(), fitted, strict=True)
    }
    return made if len(made) > 1 else made.popitem()[1]


def _fitted(model: keras.Model, structure: Any, input_shape: InputShape) -> list[tuple[int, ...]]:
    """One shape a leaf of the structure, in the order of the leaves."""
    known = input_names(model)
    leaves = keras.tree.flatten(structure)
    return _by_name(model, [known.get(id(leaf), leaf.name) for leaf in leaves], input_shape)


def _by_name(
    model: keras.Model, names: Sequence[str], input_shape: InputShape
) -> list[tuple[int, ...]]:
    """One shape for each of the inputs."""
    if isinstance(input_shape, Mapping):
        missing = [name for name in names if name not in input_shape]
        if missing:
            raise ValueError(
                f"input_shape has no entry for the inputs {missing} of model {model.name!r}; it "
                f"has {sorted(input_shape)}"
            )
        return [tuple(input_shape[name]) for name in names]
    shapes: list[Any] = [input_shape] if is_shape(input_shape) else list(input_shape)
    if len(shapes) != len(names):
        raise ValueError(
            f"input_shape={input_shape!r} has {len(shapes)} shapes, model {model.name!r} has "
            f"{len(names)} inputs; give one shape for each"
        )
    return [tuple(shape) for shape in shapes]


def _symbols(
    model: keras.Model,
    structure: Any,
    shapes: Sequence[tuple[int, ...]] | None,
    batch: int | None,
) -> Any:
    leaves = keras.tree.flatten(structure)
    wanted = [tuple(leaf.shape[1:]) for leaf in leaves] if shapes is None else shapes
    names = input_names(model)
    made = [
        keras.Input(shape, batch, dtype=leaf.dtype, name=names.get(id(leaf), leaf.name))
        for leaf, shape in zip(leaves, wanted, strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, made)


def _named_inputs(name: str, shapes: Any, batch: int | None) -> Any:
    """Inputs that are named after their places: Keras would count them through the process."""
    if is_shape(shapes):
        return keras.Input(shapes, batch, name=name)
    if isinstance(shapes, Mapping):
        return {key: _named_inputs(str(key), value, batch) for key, value in shapes.items()}
    return [_named_inputs(f"{name}_{index}", value, batch) for index, value in enumerate(shapes)]


def _built_shapes(model: keras.Model) -> Any:
    """What `call` was given when the model was built, without the batch; None if it never was."""
    shapes = (model.get_build_config() or {}).get("input_shape")
    return None if shapes is None else _map_shapes(lambda shape: tuple(shape[1:]), shapes)


def _map_shapes(function: Callable[[Any], Any], shapes: Any) -> Any:
    """Applies a function to every shape of a structure of shapes."""
    if is_shape(shapes):
        return function(shapes)
    if isinstance(shapes, Mapping):
        return {key: _map_shapes(function, value) for key, value in shapes.items()}
    return [_map_shapes(function, value) for value in shapes]


def is_shape(value: Any) -> bool:
    """Whether a value is one shape, and no structure of shapes."""
    return isinstance(value, (tuple, list)) and all(
        size is None or isinstance(size, int) for size in value
    )
