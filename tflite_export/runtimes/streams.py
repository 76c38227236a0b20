"""Runs the file of one step through sequences: states are fed back as their integers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.file.ends import dequantized, element_type, taken
from tflite_export.file.reader import content_of, parse
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.runtimes.sessions import Session, with_session


def run_steps(
    model: str | Path | bytes,
    sequences: np.ndarray | Mapping[str, np.ndarray],
    states: Mapping[int | str, str],
    *,
    runtime: str = "litert",
) -> list[np.ndarray]:
    """Runs the file of one step through whole sequences, as firmware would.

    States begin as the codes of zero. What the file writes as a state is the input of the next
    step, integer by integer.

    Args:
        model: path or content of a `.tflite` file with batch 1.
        sequences: of the inputs that are no states, (n, steps, ...); by name where there are
            several. Floats are quantized with the file's own parameters, integers of the file's
            type are fed as they are.
        states: output, by number or by its name in the file, -> the input that it becomes.
        runtime: see `tflite_export.run`.

    Returns:
        One array (n, steps, ...) an output, states included: float32 if the sequences were floats.

    Raises:
        ValueError: names that the file does not have, sequences of unequal lengths, or a state
            whose output and input differ in type, scale, zero point or shape.

    Example:
        >>> sequences = np.zeros((2, 5, 4), np.float32)
        >>> outputs = tflite_export.run_steps("m.tflite", sequences, states={})
        >>> outputs[0].shape
        (2, 5, 2)
    """
    content = content_of(model)
    stored = parse(content)
    fed_back = _numbers(states, stored)
    given = _given(sequences, set(fed_back.values()), stored)
    _require_sizes(given)
    tensors = dict(zip(stored.input_names, (stored.tensors[i] for i in stored.inputs), strict=True))
    read = [taken(array, tensors[name]) for name, array in given.items()]
    zeros = {name: _zero(tensors[name]) for name in fed_back.values()}
    steps = _Steps(tuple(stored.input_names), tuple(given), zeros, fed_back)
    columns = with_session(steps, content, runtime, read)
    if not any(np.issubdtype(array.dtype, np.floating) for array in given.values()):
        return columns
    outputs = (stored.tensors[index] for index in stored.outputs)
    return [dequantized(column, tensor) for column, tensor in zip(columns, outputs, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Calls a session for one step after the other, where the session is: it is opened once.

    Attributes:
        inputs: all names, in the file's order.
        given: names of the sequences.
        zeros: state -> its codes of zero, (1, ...).
        fed_back: output number -> state.
    """

    inputs: tuple[str, ...]
    given: tuple[str, ...]
    zeros: Mapping[str, np.ndarray]
    fed_back: Mapping[int, str]

    def __call__(self, session: Session, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One array (n, steps, ...) an output."""
        count, steps = sequences[0].shape[:2]
        now = {name: np.repeat(zero, count, axis=0) for name, zero in self.zeros.items()}
        rows: list[list[np.ndarray]] = []
        for step in range(steps):
            now.update(zip(self.given, (array[:, step] for array in sequences), strict=True))
            rows.append(session([now[name] for name in self.inputs]))
            now.update((name, rows[-1][number]) for number, name in self.fed_back.items())
        return [np.stack(column, axis=1) for column in zip(*rows, strict=True)]


def _numbers(states: Mapping[int | str, str], stored: StoredModel) -> dict[int, str]:
    """Output number -> input name; of each pair the caller may feed one into the other."""
    names, found = list(stored.output_names), dict[int, str]()
    for output, name in states.items():
        number = names.index(output) if output in names else output
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise ValueError(f"states: no output {output!r}; the file has {dict(enumerate(names))}")
        if name not in stored.input_names:
            raise ValueError(f"states: no input {name!r}; the file has {list(stored.input_names)}")
        made = stored.tensors[stored.outputs[number]]
        read = stored.tensors[stored.inputs[stored.input_names.index(name)]]
        if _form(made) != _form(read):
            raise ValueError(
                f"states: output {output!r} is {_form(made)}, input {name!r} is {_form(read)}: the "
                "one is not the other; name the pair in QuantizationConfig(states=...)"
            )
        found[number] = name
    return found


def _form(tensor: StoredTensor) -> tuple[Any, ...]:
    """Type, scale, zero point and shape."""
    scale = None if tensor.scale is None else float(tensor.scale[0])
    return tensor.type, scale, tensor.offset, tuple(tensor.shape)


def _given(
    sequences: np.ndarray | Mapping[str, np.ndarray], states: set[str], stored: StoredModel
) -> dict[str, np.ndarray]:
    names = [name for name in stored.input_names if name not in states]
    given = sequences if isinstance(sequences, Mapping) else dict.fromkeys(names[:1], sequences)
    if set(given) != set(names):
        raise ValueError(f"sequences are of {sorted(given)}, the file takes those of {names}")
    return {name: np.asarray(given[name]) for name in names}


def _require_sizes(given: Mapping[str, np.ndarray]) -> None:
    sizes = {array.shape[:2] for array in given.values()}
    if len(sizes) != 1 or len(size := sizes.pop()) != 2 or 0 in size:
        raise ValueError(
            "sequences are "
            f"{ {name: array.shape for name, array in given.items()} }, need (n, steps, ...), equal"
        )


def _zero(tensor: StoredTensor) -> np.ndarray:
    return np.full((1, *tensor.shape[1:]), tensor.offset, element_type(tensor))
