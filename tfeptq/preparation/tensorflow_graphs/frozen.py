"""One flat graph of a TensorFlow function, variables in it as constants.

TensorFlow has no public name for this; every converter of TensorFlow models calls this one.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

#: Of functions that XLA compiles, as Keras's convolutions of groups are: they are not inlined.
_APART = ("_XlaMustCompile", "_noinline")
_RENAMED = "_uncompiled"
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def frozen(function: Any) -> Any:
    """A `tf.types.experimental.ConcreteFunction` of one graph; its inputs keep their order."""
    found = _frozen(function)
    if not any(operation.type in _CALLS for operation in found.graph.get_operations()):
        return found
    return _frozen(_uncompiled(found))


def _frozen(function: Any) -> Any:
    return convert_to_constants.convert_variables_to_constants_v2(
        function, lower_control_flow=False
    )


def _uncompiled(function: Any) -> Any:
    """The same function, nothing in it compiled by XLA."""
    definition = function.graph.as_graph_def()
    functions = definition.library.function
    nodes = [*definition.node, *(node for each in functions for node in each.node_def)]
    for each in functions:
        # TensorFlow still knows the compiled one by its name.
        each.signature.name += _RENAMED
    for each in (*nodes, *functions):
        for attribute in _APART:
            each.attr.pop(attribute, None)
    for node in nodes:
        for value in node.attr.values():
            if value.HasField("func"):
                value.func.name += _RENAMED
    wrapped = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(definition, name=""), []
    )
    ends = ([tensor.name for tensor in ends] for ends in (function.inputs, function.outputs))
    inputs, outputs = (list(map(wrapped.graph.as_graph_element, names)) for names in ends)
    return wrapped.prune(inputs, outputs)
