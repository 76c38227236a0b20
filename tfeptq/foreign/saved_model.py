"""SavedModels: by the structure that Keras 2 left in them, otherwise by what they compute."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.function_model import FunctionModel
from tfeptq.foreign.rebuilding import rebuilt

#: File beside the graph where Keras 2.5 and later describes its objects.
METADATA = "keras_metadata.pb"
_ROOT = "root"


def load_saved_model(path: Path) -> keras.Model:
    """The Keras model of a SavedModel, or a model that computes what its signature does.

    Raises:
        ForeignModelError: it has neither.
    """
    loaded = tf.saved_model.load(str(path))
    served = _served(path, loaded)
    try:
        model = _rebuilt(path, loaded)
        return model if _agree(model, served) else served
    except Exception:
        # Custom layers, what Keras 3 does not have, or inputs by other names: what it computes is
        # there all the same.
        return served


def _rebuilt(path: Path, loaded: Any) -> keras.Model:
    if not (path / METADATA).is_file():
        raise ForeignModelError("it has no Keras structure")
    nodes = _metadata((path / METADATA).read_bytes())
    described = {node.node_path: json.loads(node.metadata) for node in nodes}
    root = described[_ROOT]
    model = rebuilt(root.get("model_config") or root)
    _set_weights(model, loaded, described, _ROOT)
    return model


def _metadata(data: bytes) -> Sequence[Any]:
    """Objects of `keras_metadata.pb`, by the fields of its published schema that are needed."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tfeptq/keras_metadata.proto", package="tfeptq")
    saved_object = file.message_type.add(name="SavedObject")
    for name, number in (("node_path", 3), ("identifier", 4), ("metadata", 5)):
        saved_object.field.add(
            name=name, number=number, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL
        )
    saved = file.message_type.add(name="SavedMetadata")
    saved.field.add(
        name="nodes",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tfeptq.SavedObject",
        label=field.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("tfeptq.SavedMetadata"))
    return message.FromString(data).nodes


def _set_weights(
    model: keras.Model, loaded: Any, described: Mapping[str, Mapping[str, Any]], place: str
) -> None:
    """Copies the weights of the layers, by their names and in their order.

    Args:
        loaded: the object of the model in the SavedModel; those of layers are its attributes.
        described: objects of the SavedModel by their places, which begin with the model's.

    Raises:
        ForeignModelError: a layer has other weights than the one of its name.
    """
    children = {
        entry.get("name"): name
        for name, entry in described.items()
        if name.rpartition(".")[0] == place
    }
    for layer in model.layers:
        if not layer.weights:
            continue
        if layer.name not in children:
            raise ForeignModelError(f"layer {layer.name!r} has no weights in the SavedModel")
        inside = children[layer.name]
        source = getattr(loaded, inside.rpartition(".")[2])
        if isinstance(layer, keras.Model):
            _set_weights(layer, source, described, inside)
        else:
            _assign(layer, _variables(layer, source))


def _variables(layer: keras.Layer, source: Any) -> Sequence[Any]:
    """Of one layer, in its order; Keras 2 lists those of normalizations by their names alone."""
    if isinstance(layer, keras.layers.Normalization):
        found = (("adapt_mean", "mean"), ("adapt_variance", "variance"), ("count",))
        return [next(getattr(source, n) for n in names if hasattr(source, n)) for names in found]
    return source.variables


def _assign(layer: keras.Layer, variables: Sequence[Any]) -> None:
    own = [*layer.trainable_weights, *layer.non_trainable_weights]
    if [tuple(v.shape) for v in own] != [tuple(v.shape) for v in variables]:
        raise ForeignModelError(f"layer {layer.name!r} has other weights in Keras 3")
    for variable, source in zip(own, variables, strict=True):
        variable.assign(source.numpy())
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def _served(path: Path, loaded: Any) -> FunctionModel:
    signatures = dict(loaded.signatures)
    if not signatures:
        raise ForeignModelError(
            "it has neither a Keras structure nor a signature; save it with "
            "signatures={'serving_default': ...}"
        )
    name = "serving_default" if "serving_default" in signatures else next(iter(signatures))
    signature = signatures[name]
    specs = dict(signature.structured_input_signature[1])

    def function(inputs: Any) -> Any:
        given = inputs if isinstance(inputs, Mapping) else {next(iter(specs)): inputs}
        outputs = signature(**given)
        return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)

    return FunctionModel(function, specs, keeps=loaded, name=path.name)


def _agree(model: keras.Model, served: FunctionModel) -> bool:
    """Whether both compute the same on samples drawn at random."""
    if any(None in tensor.shape[1:] for tensor in model.inputs):
        return True
    names = [tensor.name for tensor in model.inputs]
    inputs = list(_samples(model))
    given: Any = dict(zip(names, inputs, strict=True)) if len(inputs) > 1 else inputs[0]
    found = keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return _are_equal(found, keras.tree.flatten(served(given)), _tolerance(model))


def _tolerance(model: keras.Model) -> float:
    """Of the largest value, by the coarsest type that a layer computes in."""
    types = {str(layer.compute_dtype) for layer in model.layers}
    return 1e-2 if types & {"float16", "bfloat16"} else 1e-4


def _samples(model: keras.Model) -> Iterator[Any]:
    generator = np.random.default_rng(0)
    for tensor in model.inputs:
        shape = (2, *tensor.shape[1:])
        is_integer = "int" in str(tensor.dtype)
        values = generator.integers(0, 2, shape) if is_integer else generator.normal(size=shape)
        yield tf.constant(values, tensor.dtype)


def _are_equal(found: Sequence[Any], wanted: Sequence[Any], tolerance: float) -> bool:
    """Whether each has its equal: a signature orders its outputs by their names."""
    left = [np.asarray(value) for value in wanted]
    for value in found:
        equal = [i for i, other in enumerate(left) if _near(np.asarray(value), other, tolerance)]
        if not equal:
            return False
        del left[equal[0]]
    return not left


def _near(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    if left.shape != right.shape:
        return False
    scale = float(np.abs(right).max(initial=0.0))
    return bool(np.abs(left - right).max(initial=0.0) <= tolerance * scale)
