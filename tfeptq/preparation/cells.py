"""Cells of recurrent layers: what they do to a whole sequence before it steps, and one step.

What Keras's own cells make of their inputs does not depend on the state: it is one matrix product
with the whole sequence. Any other cell is read from its `call`, and does everything in its steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

#: (inputs of one step, states) -> (output, new states); states are flat.
StepFunction = Callable[[Any, Sequence[Any]], tuple[Any, Sequence[Any]]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """How a cell goes through a sequence.

    Attributes:
        project: what is done to the sequence (samples, steps, ...) at once.
        step: of what `project` returns, one step.
        gives_state: the output is the first new state.
    """

    project: Callable[[Any], Any]
    step: StepFunction
    gives_state: bool


def read_cell(cell: Any) -> Cell:
    """A cell of Keras in the fewest operations, or any other from its `call`."""
    kind = _KINDS.get(type(cell))
    if kind is None:
        return Cell(lambda sequence: sequence, lambda x, states: _called(cell, x, states), False)
    return Cell(lambda sequence: _projected(cell, sequence), kind(cell), True)


def _called(cell: Any, inputs: Any, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
    output, new = cell.call(inputs, list(states))
    return output, keras.tree.flatten(new)


def _projected(cell: Any, sequence: Any) -> Any:
    """Inputs times the kernel, with the bias that belongs to them."""
    made = ops.matmul(sequence, cell.kernel)
    if not cell.use_bias:
        return made
    # Of a GRU with reset_after there is one bias for inputs and one for states.
    bias = cell.bias if len(cell.bias.shape) == 1 else cell.bias[0]
    return ops.add(made, bias)


def _lstm(cell: Any) -> StepFunction:
    def step(projected: Any, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        hidden, carry = states
        gates = ops.add(projected, ops.matmul(hidden, cell.recurrent_kernel))
        entry, forget, candidate, exit_ = ops.split(gates, 4, axis=1)
        kept = ops.multiply(cell.recurrent_activation(forget), carry)
        added = ops.multiply(cell.recurrent_activation(entry), cell.activation(candidate))
        carry = ops.add(kept, added)
        hidden = ops.multiply(cell.recurrent_activation(exit_), cell.activation(carry))
        return hidden, [hidden, carry]

    return step


def _gru(cell: Any) -> StepFunction:
    def step(projected: Any, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        (hidden,) = states
        recurrent = _after(cell, hidden) if cell.reset_after else _before(cell, hidden)
        update, reset, candidate = ops.split(projected, 3, axis=1)
        update_state, reset_state, proposed = recurrent
        update = cell.recurrent_activation(ops.add(update, update_state))
        reset = cell.recurrent_activation(ops.add(reset, reset_state))
        candidate = cell.activation(ops.add(candidate, proposed(reset)))
        # update * hidden + (1 - update) * candidate in one multiplication.
        moved = ops.multiply(update, ops.subtract(hidden, candidate))
        hidden = ops.add(candidate, moved)
        return hidden, [hidden]

    return step


def _after(cell: Any, hidden: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    made = ops.matmul(hidden, cell.recurrent_kernel)
    if cell.use_bias:
        made = ops.add(made, cell.bias[1])
    update, reset, candidate = ops.split(made, 3, axis=1)
    return update, reset, lambda gate: ops.multiply(gate, candidate)


def _before(cell: Any, hidden: Any) -> tuple[Any, Any, Callable[[Any], Any]]:
    kernel, gates = cell.recurrent_kernel, 2 * cell.units
    update, reset = ops.split(ops.matmul(hidden, kernel[:, :gates]), 2, axis=1)
    candidate = kernel[:, gates:]
    return update, reset, lambda gate: ops.matmul(ops.multiply(gate, hidden), candidate)


def _simple(cell: Any) -> StepFunction:
    def step(projected: Any, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        made = ops.add(projected, ops.matmul(states[0], cell.recurrent_kernel))
        hidden = cell.activation(made) if cell.activation is not None else made
        return hidden, [hidden]

    return step


#: By exact class: what is derived from one may compute otherwise.
_KINDS: dict[type, Callable[[Any], StepFunction]] = {
    keras.layers.LSTMCell: _lstm,
    keras.layers.GRUCell: _gru,
    keras.layers.SimpleRNNCell: _simple,
}
