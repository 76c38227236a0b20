"""States of a model that is one step of a sequence: outputs that are fed back as inputs.

The caller hands the integers of an output to the input as they are, so both have one quantizer.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfeptq.canonical.layer_graph import Key, LayerGraph
from tfeptq.plan.layer_names import refuse_unknown
from tfeptq.preparation.trace import input_names, output_structure

#: Output of a model, by name or by number, -> the input that it becomes in the next step.
States = Mapping[str | int, str]


def numbered_states(model: keras.Model, states: States | None) -> dict[int, str]:
    """Output number -> input name.

    Args:
        model: functional, as the user wrote it.
        states: outputs by number, by their key where the model returns a dictionary, or by the name
            of the layer that computes one.

    Raises:
        ValueError: a name or number that no output or input has, two outputs of one name, or an
            output of another shape than its input; says what there is.
    """
    if not states:
        return {}
    known = input_names(model)
    inputs = {known.get(id(tensor), tensor.name): tensor for tensor in model.inputs}
    refuse_unknown("states", states.values(), list(inputs), "inputs")
    names = _output_names(model)
    found: dict[int, str] = {}
    for output, name in states.items():
        number = _number(output, names)
        shapes = tuple(model.outputs[number].shape[1:]), tuple(inputs[name].shape[1:])
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"states[{output!r}]={name!r}: the output has shape {(None, *shapes[0])}, the "
                f"input {(None, *shapes[1])}; one is fed into the other, make them equal"
            )
        found[number] = name
    if len(found) < len(states) or len(set(found.values())) < len(states):
        raise ValueError(f"states={dict(states)}: each output and each input may stand there once")
    return found


def _output_names(model: keras.Model) -> list[str]:
    structure = output_structure(model)
    if isinstance(structure, Mapping):
        numbers = keras.tree.pack_sequence_as(structure, list(range(len(model.outputs))))
        by_number = {number: name for name, number in numbers.items() if isinstance(number, int)}
        if len(by_number) == len(model.outputs):
            return [by_number[number] for number in range(len(by_number))]
    return [key[0] for key in LayerGraph.outputs_of(model)]


def _number(output: str | int, names: list[str]) -> int:
    """The number of an output; YAML and JSON have numbers as text."""
    is_number = isinstance(output, int) or (output not in names and output.isdigit())
    if is_number and 0 <= int(output) < len(names):
        return int(output)
    if names.count(str(output)) == 1 and not isinstance(output, int):
        return names.index(output)
    problem = "several outputs have" if str(output) in names else "no output has"
    raise ValueError(
        f"states: {problem} the name or number {output!r}; the model has the outputs "
        f"{dict(enumerate(names))}: give a number, or have the model return a dictionary"
    )


def state_keys(model: keras.Model, original: keras.Model, states: States | None) -> dict[Key, Key]:
    """Output -> input of a canonical model.

    Args:
        original: the model that it was made of, whose outputs have the same order.
    """
    graph = LayerGraph.of(model)
    inputs = {key[0]: key for key in graph.inputs}
    return {
        graph.outputs[number]: inputs[name]
        for number, name in numbered_states(original, states).items()
    }
