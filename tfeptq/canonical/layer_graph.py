"""A functional Keras model as a list of layer calls, and its execution with every tensor at hand.

Read from `Model.get_config()`, which is public and holds the whole topology. One execution
serves calibration, scores, training and freezing: each needs intermediate tensors.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import tensorflow as tf

#: A tensor of a model: (layer name, index of the layer's call).
Key = tuple[str, int]
Hook = Callable[["Call", list[Any], Any], Any]
#: Of a call, what makes its output from its inputs.
Runner = Callable[["Call"], Callable[[list[Any]], Any]]


def as_it_is(call: Call) -> Call:
    """The runner that changes nothing."""
    return call


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer: which tensors it reads and which it writes.

    Attributes:
        takes_list: the layer takes its inputs as one list (merge layers), not one tensor.
        options: what the layer is told beside its inputs, e.g. which of its calls this is.
    """

    layer: keras.Layer
    inputs: tuple[Key, ...]
    output: Key
    takes_list: bool
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __call__(self, tensors: Sequence[Any]) -> Any:
        """What the layer makes of the values of `inputs`."""
        # Within a scope layers may have names with which none begins in TensorFlow, such as "_x".
        with tf.name_scope("layers"):
            return self.layer(list(tensors) if self.takes_list else tensors[0], **self.options)


@dataclasses.dataclass(frozen=True)
class LayerGraph:
    """Calls in execution order.

    Attributes:
        inputs, outputs: keys in the order of the model's inputs and outputs.
    """

    calls: tuple[Call, ...]
    inputs: tuple[Key, ...]
    outputs: tuple[Key, ...]

    @classmethod
    def of(cls, model: keras.Model) -> LayerGraph:
        """Reads the topology of a functional model whose layers have one output each.

        Once for each model, whose topology never changes: every stage asks for it.
        """
        known = _KNOWN.get(model)
        if known is None:
            known = _KNOWN[model] = cls._read(model)
        return known

    @classmethod
    def _read(cls, model: keras.Model) -> LayerGraph:
        config = model.get_config()
        layers = {layer.name: layer for layer in model.layers}
        calls = [
            call
            for entry in config["layers"]
            for call in _layer_calls(layers[entry["name"]], entry)
        ]
        inputs = _keys(config["input_layers"])
        return cls(_in_order(calls, inputs), inputs, _keys(config["output_layers"]))

    @functools.cached_property
    def layers(self) -> Mapping[str, keras.Layer]:
        """What is called, by name: Keras's `get_layer` looks through all layers each time."""
        return {call.layer.name: call.layer for call in self.calls}

    @staticmethod
    def outputs_of(model: keras.Model) -> tuple[Key, ...]:
        """Who computes the outputs of any functional model, whatever its layers."""
        return _keys(model.get_config()["output_layers"])

    def consumers(self) -> dict[Key, list[Call]]:
        result: dict[Key, list[Call]] = {}
        for call in self.calls:
            for key in call.inputs:
                result.setdefault(key, []).append(call)
        return result

    def execute(self, inputs: Sequence[Any], *, hook: Hook | None = None) -> dict[Key, Any]:
        """Runs every call on `inputs` (one tensor a model input) and returns all tensors.

        `hook(call, call_inputs, output)` may replace an output, e.g. to watch or correct it.
        """
        tensors: dict[Key, Any] = dict(zip(self.inputs, inputs, strict=True))
        for call in self.calls:
            arguments = [tensors[key] for key in call.inputs]
            output = call(arguments)
            tensors[call.output] = hook(call, arguments, output) if hook else output
        return tensors

    def compute(
        self, inputs: Sequence[Any], wanted: Sequence[Key], *, run: Runner = as_it_is
    ) -> list[Any]:
        """The wanted tensors of `execute`; others are gone when their last reader has read them."""
        readers = Counter([*wanted, *(key for call in self.calls for key in call.inputs)])
        tensors: dict[Key, Any] = dict(zip(self.inputs, inputs, strict=True))
        for call in self.calls:
            arguments = [tensors[key] for key in call.inputs]
            readers.subtract(call.inputs)
            for key in call.inputs:
                if not readers[key]:
                    tensors.pop(key, None)
            output = run(call)(arguments)
            if readers[call.output]:
                tensors[call.output] = output
        return [tensors[key] for key in wanted]

    def shapes(self, model: keras.Model) -> dict[Key, tuple[int, ...]]:
        """Shape of every tensor of `model` at batch 1; nothing is computed or traced."""
        inputs = [(1, *tensor.shape[1:]) for tensor in model.inputs]
        shapes: dict[Key, tuple[int, ...]] = dict(zip(self.inputs, inputs, strict=True))
        for call in self.calls:
            given = [shapes[key] for key in call.inputs]
            made = call.layer.compute_output_shape(given if call.takes_list else given[0])
            shapes[call.output] = tuple(made)
        return shapes


#: Graphs of the models that are alive.
_KNOWN: MutableMapping[keras.Model, LayerGraph] = weakref.WeakKeyDictionary()


def _layer_calls(layer: keras.Layer, entry: Mapping[str, Any]) -> list[Call]:
    calls = []
    for index, node in enumerate(entry["inbound_nodes"]):
        arguments = node["args"][0]
        takes_list = isinstance(arguments, (list, tuple))
        inputs = [_history(item) for item in (arguments if takes_list else [arguments])]
        output = (layer.name, index)
        calls.append(Call(layer, tuple(inputs), output, takes_list, dict(node["kwargs"])))
    return calls


def _history(serialized: Mapping[str, Any]) -> Key:
    layer, node, _ = serialized["config"]["keras_history"]
    return (layer, node)


def _keys(endpoints: Any) -> tuple[Key, ...]:
    """Of the inputs or outputs in Keras's order: dictionaries by their sorted keys."""
    if isinstance(endpoints, Mapping):
        endpoints = [endpoints[name] for name in sorted(endpoints)]
    elif len(endpoints) == 3 and isinstance(endpoints[0], str):
        layer, node, _ = endpoints
        return ((layer, node),)
    return tuple(key for item in endpoints for key in _keys(item))


def _in_order(calls: Sequence[Call], inputs: Sequence[Key]) -> tuple[Call, ...]:
    """Calls behind what they read: by the longest way from an input, then in the given order."""
    producers = {call.output: call for call in calls}
    depths = dict.fromkeys(inputs, 0)
    for call in calls:
        waiting = [call]
        while waiting:
            current = waiting[-1]
            unknown = [key for key in current.inputs if key not in depths]
            missing = [key for key in unknown if key not in producers]
            if missing:
                raise ValueError(f"layer {current.layer.name!r} reads missing tensors {missing}")
            if unknown:
                waiting.extend(producers[key] for key in unknown)
                continue
            waiting.pop()
            depths[current.output] = 1 + max((depths[key] for key in current.inputs), default=0)
    return tuple(sorted(calls, key=lambda call: depths[call.output]))
