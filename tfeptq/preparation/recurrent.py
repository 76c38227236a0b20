"""Layers that step through time, unrolled: one call of the cell, or of the inner layer, a step.

Keras runs them by TensorFlow's loops, which take no symbolic tensors. The cell's own `call` says
what a step computes, so that cells of the user's are read like Keras's. The weights of all steps
are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

_L = keras.layers


class UnrolledError(ValueError):
    """A layer whose steps are not known before it runs; the message is the reason."""


def stepwise(layer: keras.Layer) -> Callable[..., Any] | None:
    """What stands for the `call` of a layer that steps through time; None for all others."""
    if isinstance(layer, _L.TimeDistributed) and type(layer).call is _L.TimeDistributed.call:
        return lambda inputs, mask=None, training=None: _distributed(layer, inputs, mask)
    if isinstance(layer, _L.Bidirectional) and type(layer).call is _L.Bidirectional.call:
        return lambda sequences, initial_state=None, mask=None, training=None: _both_ways(
            layer, sequences, initial_state, mask
        )
    is_keras = type(layer).__module__.partition(".")[0] == "keras"
    if isinstance(layer, _L.RNN) and (is_keras or type(layer).call is _L.RNN.call):
        return lambda sequences, initial_state=None, mask=None, training=None: _recurrent(
            layer, sequences, initial_state, mask
        )
    return None


def _recurrent(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> Any:
    _refuse_masks(mask)
    if layer.stateful:
        raise UnrolledError("stateful=True keeps its state between calls, which a file does not")
    # Of one sample: constants meet every sample's values.
    states = layer.get_initial_state(batch_size=1) if initial_state is None else initial_state
    states = list(states) if keras.tree.is_nested(states) else [states]
    inputs = _steps(sequences)
    outputs = []
    for step in reversed(inputs) if layer.go_backwards else inputs:
        output, states = layer.cell.call(step, states)
        states = list(states) if keras.tree.is_nested(states) else [states]
        outputs.append(output)
    result = ops.stack(outputs, axis=1) if layer.return_sequences else outputs[-1]
    return (result, *states) if layer.return_state else result


def _both_ways(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> Any:
    _refuse_masks(mask)
    half = len(initial_state) // 2 if initial_state is not None else 0
    given = (initial_state[:half], initial_state[half:]) if half else (None, None)
    answers = [
        (stepwise(inner) or inner)(sequences, initial_state=state)
        for inner, state in zip((layer.forward_layer, layer.backward_layer), given, strict=True)
    ]
    (forward, *left), (backward, *right) = (
        answer if layer.return_state else (answer,) for answer in answers
    )
    if layer.return_sequences:
        backward = ops.flip(backward, axis=1)
    merged = _MERGES[layer.merge_mode](forward, backward)
    if not layer.return_state:
        return merged
    return (*(merged if layer.merge_mode is None else (merged,)), *left, *right)


_MERGES: dict[str | None, Callable[[Any, Any], Any]] = {
    "concat": lambda forward, backward: ops.concatenate([forward, backward], axis=-1),
    "sum": lambda forward, backward: forward + backward,
    "ave": lambda forward, backward: (forward + backward) / 2,
    "mul": lambda forward, backward: forward * backward,
    None: lambda forward, backward: (forward, backward),
}


def _distributed(layer: Any, inputs: Any, mask: Any) -> Any:
    _refuse_masks(mask)
    inner = layer.layer
    if type(inner) in _POINTWISE:
        return inner(inputs)
    return ops.stack([inner(step) for step in _steps(inputs)], axis=1)


#: Layers that treat every place of a sequence alike by themselves.
_POINTWISE = (_L.Dense, _L.Activation, _L.ReLU, _L.LeakyReLU, _L.Dropout)


def _steps(sequences: Any) -> Sequence[Any]:
    length = sequences.shape[1]
    if length is None:
        raise UnrolledError("the number of its steps is open; give input_shape= with a fixed one")
    return [sequences[:, step] for step in range(length)]


def _refuse_masks(mask: Any) -> None:
    if mask is not None:
        raise UnrolledError("it is called with a mask; pass sequences of the full length")
