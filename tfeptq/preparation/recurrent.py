"""Layers that step through time, unrolled: one call of the cell, or of the inner layer, a step.

Keras runs them by TensorFlow's loops, which take no symbolic tensors. The cell says what a step
computes (`tfeptq.preparation.cells`), so that cells of the user's are read like Keras's. All steps
are calls of the same layers: the weights are the same ones, and a state has one quantizer.

A mask is a tensor of ones and zeros. Where it is zero, a step leaves the states and repeats its
output, or gives zeros, as Keras does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from tfeptq.preparation.cells import Cell, read_cell
from tfeptq.preparation.steps import Step

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
    if type(layer) in (_L.LSTMCell, _L.GRUCell, _L.SimpleRNNCell):
        return lambda inputs, states, training=None: _one_step(layer, inputs, states)
    return None


def _one_step(cell: Any, inputs: Any, states: Any) -> Any:
    """A cell that the model calls itself."""
    read = read_cell(cell)
    output, new = read.step(read.project(inputs), keras.tree.flatten(states))
    return output, keras.tree.pack_sequence_as(states, list(new))


def _recurrent(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> Any:
    if layer.stateful:
        raise UnrolledError(
            "stateful=True keeps its state between calls, which a file does not; make the state an "
            "input and an output of the model (`states` of the configuration)"
        )
    # Of one sample: constants meet every sample's values.
    states = layer.get_initial_state(batch_size=1) if initial_state is None else initial_state
    states = list(states) if keras.tree.is_nested(states) else [states]
    stacked = type(layer.cell) is _L.StackedRNNCells
    # Cells on top of each other are layers one behind the other.
    cells = layer.cell.cells if stacked else [layer.cell]
    given = states if stacked else [states]
    masks = None if mask is None else _Masks(mask, backwards=layer.go_backwards)
    steps: list[Any] = []
    finals = []
    for index, (cell, state) in enumerate(zip(cells, given, strict=True)):
        is_last = index == len(cells) - 1
        unrolled = _Unrolled(
            read_cell(cell),
            _name(layer, cell if stacked else None),
            masks,
            starts_at_zero=initial_state is None,
            gives_zeros=is_last and layer.zero_output_for_mask,
        )
        sequence = sequences if index == 0 else ops.stack(steps, axis=1)
        backwards = index == 0 and layer.go_backwards
        steps, final = unrolled(sequence, keras.tree.flatten(state), backwards=backwards)
        finals.append(keras.tree.pack_sequence_as(state, final))
    result = ops.stack(steps, axis=1) if layer.return_sequences else steps[-1]
    return (result, *(finals if stacked else finals[0])) if layer.return_state else result


def _name(layer: Any, cell: Any) -> str:
    return f"{layer.name}_recurrent" if cell is None else f"{layer.name}_{cell.name}_recurrent"


class _Masks:
    """Which steps count, (samples, 1) a step, and which do not."""

    def __init__(self, mask: Any, *, backwards: bool) -> None:
        seen = ops.cast(mask, "float32")
        steps = _steps(ops.expand_dims(seen, -1)), _steps(ops.expand_dims(1.0 - seen, -1))
        self.pairs = list(zip(*(each[::-1] if backwards else each for each in steps), strict=True))


class _Unrolled:
    """One cell through a sequence.

    Args:
        masks: None: every step counts.
        starts_at_zero: the states do, so that an output that is the state starts there, too.
        gives_zeros: outputs of steps that do not count are zeros, otherwise those before.
    """

    def __init__(
        self,
        cell: Cell,
        name: str,
        masks: _Masks | None,
        *,
        starts_at_zero: bool,
        gives_zeros: bool,
    ) -> None:
        self._cell, self._name, self._masks = cell, name, masks
        self._follows_state = cell.gives_state and starts_at_zero
        self._gives_zeros = gives_zeros

    def __call__(
        self, sequence: Any, states: Sequence[Any], *, backwards: bool
    ) -> tuple[list[Any], list[Any]]:
        """Outputs of all steps in their order, and the last states."""
        steps = _steps(self._cell.project(sequence))
        steps = steps[::-1] if backwards else steps
        step: Step | None = None
        outputs: list[Any] = []
        output: Any = None
        for index, inputs in enumerate(steps):
            tensors = [inputs, *states]
            if self._masks is not None:
                if output is None:
                    output = self._before_all(tensors)
                tensors = [*self._masks.pairs[index], output, *tensors]
            step = step or Step(self._compute, tensors, self._name)
            shown, output, *states = step(*tensors)
            outputs.append(shown)
        return outputs, list(states)

    def _before_all(self, tensors: Sequence[Any]) -> Any:
        """What the first step repeats where it does not count: zeros, in the output's shape."""
        probe = Step(self._plain, tensors, self._name)
        return ops.zeros((1, *probe.trace.outputs[0].shape[1:]))

    def _plain(self, inputs: Any, *states: Any) -> list[Any]:
        output, new = self._cell.step(inputs, states)
        return [output, output, *new]

    def _compute(self, *tensors: Any) -> list[Any]:
        """What is shown of the output, the output that a later step repeats, and the states."""
        if self._masks is None:
            return self._plain(*tensors)
        seen, unseen, before, inputs, *states = tensors
        _, output, *new = self._plain(inputs, *states)
        new = [_where(seen, unseen, *pair) for pair in zip(new, states, strict=True)]
        shown = output = new[0] if self._follows_state else _where(seen, unseen, output, before)
        if self._gives_zeros:
            shown = ops.multiply(_like(seen, output), output)
        return [shown, output, *new]


def _where(seen: Any, unseen: Any, new: Any, old: Any) -> Any:
    """The new values where a step counts, the old ones elsewhere."""
    kept = ops.multiply(_like(unseen, old), old)
    return ops.add(ops.multiply(_like(seen, new), new), kept)


def _like(mask: Any, tensor: Any) -> Any:
    """A mask (samples, 1) with as many axes as a tensor."""
    missing = len(tensor.shape) - len(mask.shape)
    return ops.reshape(mask, (-1, *(1,) * (missing + 1))) if missing else mask


def _both_ways(layer: Any, sequences: Any, initial_state: Any, mask: Any) -> Any:
    half = len(initial_state) // 2 if initial_state is not None else 0
    given = (initial_state[:half], initial_state[half:]) if half else (None, None)
    masked = {} if mask is None else {"mask": mask}
    answers = [
        inner(sequences, initial_state=state, **masked)
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
    inner = layer.layer
    if mask is not None and "mask" in inspect.signature(inner.call).parameters:
        raise UnrolledError("it hands a mask to its inner layer; pass sequences of the full length")
    if type(inner) in _POINTWISE:
        return inner(inputs)
    return ops.stack([inner(step) for step in _steps(inputs)], axis=1)


#: Layers that treat every place of a sequence alike by themselves.
_POINTWISE = (_L.Dense, _L.Activation, _L.ReLU, _L.LeakyReLU, _L.Dropout)


def _steps(sequences: Any) -> list[Any]:
    length = sequences.shape[1]
    if length is None:
        raise UnrolledError("the number of its steps is open; give input_shape= with a fixed one")
    return [sequences[:, step] for step in range(length)]
