"""The configuration of a model of Keras 2 in the terms of Keras 3."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfeptq.foreign.errors import ForeignModelError
from tfeptq.foreign.stripping import TFMOT_PYTHON, WrappedModelError

_MODELS = ("Functional", "Model", "Sequential")
#: Stands for a layer where an argument is no tensor.
_CONSTANT = "_CONSTANT_VALUE"
_FUNCTION_LAYERS = ("TFOpLambda", "SlicingOpLambda")
#: Settings that Keras 3 does not have, and the value of Keras 2 that says nothing.
_GONE: dict[str, Any] = {
    "groups": 1,
    "ragged": False,
    "sparse": False,
    "renorm": False,
    "time_major": False,
    "virtual_batch_size": None,
}
#: Settings that say nothing of what is computed in inference.
_SILENT = ("implementation", "rng_type")
_RENAMED = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "GRUV2": "GRU",
    "LSTMV2": "LSTM",
    "Model": "Functional",
    "SyncBatchNormalization": "BatchNormalization",
}
#: Wrappers of tensorflow-model-optimization and the function that takes them off.
_WRAPPERS = {
    "PruneLowMagnitude": "tfmot.sparsity.keras.strip_pruning(model)",
    "ClusterWeights": "tfmot.clustering.keras.strip_clustering(model)",
}
#: What it puts around layers for training with fake quantization, and what to pass instead.
_TRAINED_QUANTIZERS = {
    "QuantizeWrapper": "the float model that tfmot.quantization.keras.quantize_model was given",
    "QuantizeWrapperV2": "the float model that tfmot.quantization.keras.quantize_model was given",
    "QuantizeLayer": "the float model that tfmot.quantization.keras.quantize_model was given",
}


def translated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's `{"class_name", "config"}` of Keras 2 as Keras 3 reads it.

    Raises:
        ForeignModelError: it holds a layer that Keras 3 cannot have; names it.
    """
    return _object(_without_tuples(config))


def _without_tuples(value: Any) -> Any:
    """Lists in the place of what SavedModels write for tuples."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__":
            return [_without_tuples(item) for item in value["items"]]
        return {key: _without_tuples(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_tuples(item) for item in value]
    return value


def _object(entry: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(entry["class_name"]).rpartition(">")[2]
    inner = entry["config"]
    if kind in _WRAPPERS:
        raise WrappedModelError(
            f"layer {inner.get('name')!r} is {kind} of tensorflow-model-optimization; save "
            f"{_WRAPPERS[kind]} instead, or set {TFMOT_PYTHON} to a Python that has the package"
        )
    if kind in _TRAINED_QUANTIZERS:
        raise ForeignModelError(
            f"layer {inner.get('name')!r} is {kind} of tensorflow-model-optimization; save "
            f"{_TRAINED_QUANTIZERS[kind]} instead"
        )
    if kind == "Lambda" and not isinstance(inner.get("function"), str):
        raise ForeignModelError(
            f"layer {inner.get('name')!r} is a Lambda of Python code, which is not run from files; "
            "pass the model itself to tfeptq.quantize, or save it as a SavedModel"
        )
    kind = _RENAMED.get(kind, kind)
    if kind in _MODELS and isinstance(inner, Mapping) and "layers" in inner:
        inner = _graph(inner) if kind != "Sequential" else _stack(inner)
    elif kind == "Sequential" and isinstance(inner, list):
        inner = {"name": "sequential", "layers": [_object(layer) for layer in inner]}
    elif isinstance(inner, Mapping):
        inner = _settings(kind, inner)
    kept = {key: value for key, value in entry.items() if key in ("name", "inbound_nodes")}
    return {"class_name": kind, "config": inner, **kept}


def _stack(config: Mapping[str, Any]) -> dict[str, Any]:
    first, *others = [_object(layer) for layer in config["layers"]] or [{}]
    return {**config, "layers": [first, *map(_without_shape, others)]}


def _without_shape(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer that Keras 2 told the shape of its inputs, which come from other layers."""
    if layer["class_name"] == "InputLayer" or not isinstance(layer["config"], Mapping):
        return layer
    config = {key: value for key, value in layer["config"].items() if key != "batch_input_shape"}
    return {**layer, "config": config}


def _settings(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Of one layer."""
    found = {name: _value(name, value) for name, value in config.items() if name not in _SILENT}
    for name, silent in _GONE.items():
        if name not in found or (name == "groups" and kind in _GROUPED):
            continue
        if kind == "InputLayer" and name in ("sparse", "ragged"):
            continue
        value = found.pop(name)
        if value not in (silent, None):
            raise ForeignModelError(f"layer {config.get('name')!r} has {name}={value!r}")
    return _OWN_RULES.get(kind, dict)(found)


_GROUPED = ("Conv1D", "Conv2D", "Conv3D", "GroupNormalization")


def _value(name: str, value: Any) -> Any:
    if name.endswith("activation") and _is_hard_sigmoid(value):
        return "keras2_hard_sigmoid"
    if name.endswith(("initializer", "regularizer", "constraint")):
        # Only training asks for them.
        return None if not name.endswith("initializer") else "zeros"
    if name == "dtype" and isinstance(value, Mapping):
        return value["config"]["name"]
    if isinstance(value, Mapping) and {"class_name", "config"} <= set(value):
        return {"module": "keras.layers", "registered_name": None, **_object(value)}
    if isinstance(value, list):
        return [_value("", item) for item in value]
    return value


def _is_hard_sigmoid(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.get("config")
    return isinstance(value, str) and value == "hard_sigmoid"


def _without(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda config: {name: config[name] for name in config if name not in names}


def _input(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("ragged"):
        raise ForeignModelError(f"input {config.get('name')!r} is ragged")
    return {name: config[name] for name in config if name not in ("ragged", "optional")}


#: Settings by layer that Keras 3 takes otherwise or not at all.
_OWN_RULES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "BatchNormalization": _without("fused", "renorm_clipping", "renorm_momentum", "adjustment"),
    "Embedding": _without("input_length", "activity_regularizer"),
    "InputLayer": _input,
    "MultiHeadAttention": _without(
        "query_shape", "key_shape", "value_shape", "softmax_robust_masking"
    ),
    "SeparableConv1D": _without("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
    "SeparableConv2D": _without("kernel_initializer", "kernel_regularizer", "kernel_constraint"),
}


def _graph(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a functional model: its layers, and its calls with their arguments by name."""
    layers = [_without_shape(_object(layer)) for layer in config["layers"]]
    kinds = {layer["name"]: layer["class_name"] for layer in layers}
    for layer in layers:
        nodes = layer["inbound_nodes"]
        if layer["class_name"] in _FUNCTION_LAYERS:
            calls = [_call_of_function(layer, node, kinds) for node in nodes]
        else:
            calls = [_call(node, kinds) for node in nodes]
        layer["inbound_nodes"] = calls
    ends = {name: _only(_ends(config[name], kinds)) for name in ("input_layers", "output_layers")}
    return {"name": config.get("name"), "trainable": True, "layers": layers, **ends}


def _call(node: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of one call of a layer, as Keras 3 writes them."""
    if isinstance(node, Mapping) and "args" in node:
        return dict(node)
    if isinstance(node, Mapping):
        first: Any = {key: _tensor(leaf, kinds) for key, leaf in node.items()}
        return {"args": [first], "kwargs": {}}
    leaves = list(node)
    given = [_tensor(leaf, kinds) for leaf in leaves]
    arguments = [given] if len(given) > 1 else given
    return {"args": arguments, "kwargs": _keywords(leaves, kinds)}


def _keywords(leaves: Sequence[Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    keywords = leaves[0][3] if leaves and len(leaves[0]) > 3 else {}
    return {name: _argument(value, kinds) for name, value in keywords.items()}


def _call_of_function(layer: dict[str, Any], node: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """The same of a function of TensorFlow, which has its one argument without a list around it.

    A constant in front of the tensor moves into the layer: Keras 3 calls layers with tensors first.
    """
    is_one = isinstance(node[0], str)
    leaves = [node] if is_one else list(node)
    keywords = _keywords(leaves, kinds)
    if keywords.get("name", "") is None:
        del keywords["name"]
    given = [_tensor(leaf, kinds) for leaf in leaves]
    if is_one and node[0] == _CONSTANT:
        parameter = next(name for name, value in keywords.items() if _is_tensor(value))
        layer["config"] = {**layer["config"], "first": given[0], "parameter": parameter}
        given = [keywords.pop(parameter)]
    return {"args": given if is_one else [given], "kwargs": keywords}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__"


def _argument(value: Any, kinds: Mapping[str, str]) -> Any:
    """A keyword's value: a constant, or a tensor of another layer."""
    if _is_place(value, kinds):
        return _tensor(value, kinds)
    if isinstance(value, list):
        return [_argument(item, kinds) for item in value]
    return value


def _is_place(value: Any, kinds: Mapping[str, str]) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and (value[0] in kinds or value[0] == _CONSTANT)
    )


def _tensor(place: Sequence[Any], kinds: Mapping[str, str]) -> Any:
    name, call, output = place[:3]
    if name == _CONSTANT:
        return output
    history = [name, _call_index(name, call, kinds), output]
    config = {"shape": [None], "dtype": "float32", "keras_history": history}
    return {"class_name": "__keras_tensor__", "config": config}


def _call_index(name: str, call: int, kinds: Mapping[str, str]) -> int:
    """Keras 2 counts the making of a nested model as its first call."""
    return call - 1 if kinds[name] in _MODELS else call


def _only(ends: Any) -> Any:
    """One input or output without the list that Keras 2 puts around it."""
    return ends[0] if isinstance(ends, list) and len(ends) == 1 else ends


def _ends(ends: Any, kinds: Mapping[str, str]) -> Any:
    """Inputs or outputs, in the structure that they have."""
    if isinstance(ends, Mapping):
        return {key: _ends(value, kinds) for key, value in ends.items()}
    if _is_place(ends, kinds):
        return [ends[0], _call_index(ends[0], ends[1], kinds), ends[2]]
    return [_ends(value, kinds) for value in ends]
