"""Proof that a file holds what was learned and that runtimes compute what it means.

Every integer and scale is read back (`tflite_export.read_back`); every operator is run on the
runtime's own inputs and compared with the integer reference. Agreement of the final output alone
proves nothing: operators that return garbage are often hidden by a ReLU or an argmax.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.case import Case
from tflite_export.graph.codes import is_narrow, lowest_code
from tflite_export.graph.kinds import tolerance
from tflite_export.graph.structure import IntegerGraph, Operator
from tflite_export.read_back import VerificationError, read_back
from tflite_export.runtimes import reference
from tflite_export.runtimes.culprit import culprit
from tflite_export.runtimes.input_ranges import random_samples
from tflite_export.runtimes.sessions import RuntimeUnavailableError, open_session
from tflite_export.targets import capabilities
from tflite_export.targets.left_out import beside, left_out

#: Random samples that a file is run on where the caller has none.
RANDOM_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class OperatorDifference:
    """How far one runtime's operator is from the integer reference on the same inputs, in LSB."""

    tensor: str
    kind: str
    dtype: str
    maximum: int
    mean: float


@dataclasses.dataclass(frozen=True)
class RuntimeReport:
    """One runtime's verdict.

    Attributes:
        skipped: why the runtime was not run, or None.
        operators: differences, one an operator, in execution order.
        exact_operators: how many of them were bit-identical.
        output_agreement: share of output integers equal to those of the whole-net reference.
        left_out: layers that this runtime did not run: it has no right kernel, or one that ends the
            program for some inputs. Another runtime of the target ran them, and this one what
            follows, on the integers that the reference has for them.
    """

    runtime: str
    skipped: str | None = None
    operators: tuple[OperatorDifference, ...] = ()
    output_agreement: float | None = None
    left_out: tuple[str, ...] = ()

    @property
    def exact_operators(self) -> int:
        return sum(difference.maximum == 0 for difference in self.operators)

    @property
    def maximum(self) -> int:
        return max((difference.maximum for difference in self.operators), default=0)

    def sentence(self) -> str:
        """What matters of it: differences beyond a kernel's rounding would have been an error."""
        if self.skipped:
            return f"{self.runtime}: skipped, {self.skipped}"
        others = f", the others {self.maximum} LSB (steps) off at most" if self.maximum else ""
        left_out = f"; without {', '.join(self.left_out)}" if self.left_out else ""
        return (
            f"{self.runtime}: every operator within its kernel's rounding; {self.exact_operators} "
            f"of {len(self.operators)} bit-identical to the integer reference{others}{left_out}"
        )


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was proven: constants compared, samples run, and each runtime's differences."""

    constants: int
    samples: int
    runtimes: tuple[RuntimeReport, ...]

    def summary(self) -> str:
        """What was proven, one line for the file and one for each runtime."""
        lines = [f"{self.constants} constants read back equal, {self.samples} samples run"]
        return "\n".join([*lines, *(report.sentence() for report in self.runtimes)])


def verify(
    content: bytes,
    graph: IntegerGraph,
    *,
    storage: Mapping[str, str],
    target: str,
    samples: Sequence[np.ndarray] | None = None,
) -> Verification:
    """Reads a file back, runs it in the target's runtimes and compares every operator.

    Args:
        content: the file.
        graph: what it must hold.
        storage: tensor name -> container, for constants stored narrower than their dtype.
        target: whose runtimes prove it; those that are not installed are reported as skipped.
        samples: integer inputs (N, ...), one array a graph input; random integers by default.

    Raises:
        VerificationError: names the tensor or the operator and what differs.
    """
    stored = parse(content)
    inputs = list(samples) if samples is not None else random_inputs(graph)
    names = capabilities(target).runtimes
    runner = ThreadPoolExecutor(len(names))
    try:
        # Workers run the file while this process reads it and computes what it should give.
        runs = [runner.submit(_run, name, content, graph, storage, inputs) for name in names]
        constants = read_back(stored, graph, storage=storage)
        expected = reference.run(graph, inputs)
        reports = [
            _report(name, run.result(), expected) for name, run in zip(names, runs, strict=True)
        ]
    finally:
        runner.shutdown(wait=False, cancel_futures=True)
    _check_all_are_proven(graph, reports)
    return Verification(constants, len(inputs[0]), tuple(reports))


def _check_all_are_proven(graph: IntegerGraph, reports: Sequence[RuntimeReport]) -> None:
    """An operator that one runtime leaves out has been run by another."""
    proven = {difference.tensor for report in reports for difference in report.operators}
    for operator in graph.operators:
        if operator.outputs[0] not in proven:
            skipped = [f"{each.runtime}: {each.skipped}" for each in reports if each.skipped]
            raise VerificationError(
                f"{operator.where} was run by no runtime; skipped are {'; '.join(skipped)}"
            )


def random_inputs(graph: IntegerGraph, *, count: int = RANDOM_SAMPLES) -> list[np.ndarray]:
    """Integers over the whole range of each graph input, the same in every run."""
    return random_samples(graph, count, np.random.default_rng(0))


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a runtime computed: the file's outputs, and every activation by tensor name.

    Attributes:
        graph: the part of the file's graph that it can execute for any input.
        left_out: layers of the operators that it cannot.
    """

    graph: IntegerGraph
    left_out: tuple[str, ...]
    outputs: Sequence[np.ndarray]
    tensors: Mapping[str, np.ndarray]


def _run(
    runtime: str,
    content: bytes,
    graph: IntegerGraph,
    storage: Mapping[str, str],
    inputs: list[np.ndarray],
) -> _Run | RuntimeUnavailableError:
    try:
        session = open_session(content, runtime)
    except RuntimeUnavailableError as error:
        return error
    lost = left_out(graph, storage, runtime)
    layers = tuple(operator.layer for operator in lost)
    if lost:
        known = reference.run(graph, inputs)
        own = len(graph.inputs)
        graph = beside(graph, lost)
        inputs = [*inputs, *(known[name] for _, name in graph.inputs[own:])]
        session = open_session(write(graph, storage), runtime)
    given = {name: array for (_, name), array in zip(graph.inputs, inputs, strict=True)}
    if lost and not graph.operators:
        return _Run(graph, layers, [], {})
    try:
        # A file that gives its inputs back has nothing to be witnessed.
        tensors = witness_tensors(graph, storage, runtime, inputs) if graph.operators else given
        return _Run(graph, layers, session(inputs), tensors)
    except ValueError as error:
        raise _named(error, runtime, graph, storage, inputs) from error


def _report(
    runtime: str,
    run: _Run | RuntimeUnavailableError,
    expected: Mapping[str, np.ndarray],
) -> RuntimeReport:
    """Compares what a runtime computed with the integer reference."""
    if isinstance(run, RuntimeUnavailableError):
        return RuntimeReport(runtime, str(run))
    graph = run.graph
    _compare_witness(graph, run.outputs, run.tensors, runtime)
    _check_narrow(graph, run.tensors, runtime)
    differences = tuple(compare_operators(graph, run.tensors, expected))
    for operator, difference in zip(graph.operators, differences, strict=True):
        allowed = tolerance(runtime, Case.of(operator, graph.tensors))
        _check_difference(operator, difference, runtime, allowed)
    equal = [
        np.mean(output == expected[name])
        for output, (_, name) in zip(run.outputs, graph.outputs, strict=True)
    ]
    agreement = float(np.mean(equal)) if equal else None
    return RuntimeReport(runtime, None, differences, agreement, run.left_out)


def _named(
    error: ValueError,
    runtime: str,
    graph: IntegerGraph,
    storage: Mapping[str, str],
    inputs: list[np.ndarray],
) -> VerificationError:
    """The error of a runtime with the layer where it happens."""
    found = culprit(graph, storage, runtime, inputs)
    if found is None:
        return VerificationError(f"{runtime}: {error}")
    operator, error = found
    return VerificationError(f"{runtime}: {operator.where} cannot be executed: {error}")


def witness_tensors(
    graph: IntegerGraph, storage: Mapping[str, str], runtime: str, inputs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Every activation that a runtime computes, by tensor name.

    Taken from a twin of the file whose outputs are all its activations, because no runtime gives
    access to the tensors inside a delegate.
    """
    names = [operator.outputs[0] for operator in graph.operators]
    twin = dataclasses.replace(graph, outputs=tuple((name, name) for name in names))
    session = open_session(write(twin, storage), runtime)
    tensors = dict(zip(names, session(inputs), strict=True))
    tensors.update({name: array for (_, name), array in zip(graph.inputs, inputs, strict=True)})
    return tensors


def _compare_witness(
    graph: IntegerGraph,
    outputs: Sequence[np.ndarray],
    tensors: Mapping[str, np.ndarray],
    runtime: str,
) -> None:
    for output, (public, name) in zip(outputs, graph.outputs, strict=True):
        difference = np.abs(output.astype(np.int64) - tensors[name]).max(initial=0)
        if difference > 1:
            raise VerificationError(
                f"{runtime}: output {public!r} changes by {difference} LSB when the file's inner "
                "tensors are read; the runtime overwrites memory it still needs"
            )


def _check_narrow(graph: IntegerGraph, tensors: Mapping[str, np.ndarray], runtime: str) -> None:
    """Activations of fewer than 8 bits keep to their codes in the runtime too."""
    for name, values in tensors.items():
        tensor = graph.tensors[name]
        if is_narrow(tensor) and values.min(initial=127) < lowest_code(tensor.bits):
            raise VerificationError(
                f"{runtime}: tensor {name!r} has the code {values.min()}, {tensor.bits} bits start "
                f"at {lowest_code(tensor.bits)}"
            )


def compare_operators(
    graph: IntegerGraph,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray] | None = None,
) -> list[OperatorDifference]:
    """Difference of each operator's output from the reference on the same inputs, in LSB.

    Args:
        tensors: what a runtime computed, by tensor name.
        expected: what the reference computed in the whole net, if it is known: where a runtime's
            inputs are the same it need not compute again.
    """
    constants = {name: t.data for name, t in graph.tensors.items() if t.data is not None}
    values = {**constants, **tensors}
    known = expected or {}
    equal = {
        name for name in tensors if name in known and np.array_equal(values[name], known[name])
    }
    equal.update(constants)
    differences = []
    for operator in graph.operators:
        output = operator.outputs[0]
        if output in known and equal.issuperset(operator.inputs):
            wanted = known[output]
        else:
            inputs = [values[name] for name in operator.inputs]
            wanted = reference.run_operator(operator, graph.tensors, inputs)
        error = np.abs(values[output].astype(np.int64) - wanted.astype(np.int64))
        differences.append(
            OperatorDifference(
                output,
                operator.kind,
                graph.tensors[output].dtype,
                int(error.max(initial=0)),
                float(error.mean()),
            )
        )
    return differences


def _check_difference(
    operator: Operator, difference: OperatorDifference, runtime: str, allowed: int
) -> None:
    if difference.maximum > allowed:
        raise VerificationError(
            f"{runtime}: {operator.where} is "
            f"{difference.maximum} LSB away from the integer reference on the same inputs, "
            f"allowed are {allowed}"
        )
