"""One operator of TensorFlow Lite, described once; and the register of those that are known.

The modules of `tflite_export.operators` describe and register one family each. Everyone else asks
here: what an operator is called stands nowhere else but in the tables of the targets.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tflite_export.graph.activations import NONE

if TYPE_CHECKING:
    import numpy as np

    from tflite_export.graph.case import Case
    from tflite_export.graph.structure import Operator, Tensor

#: Shape of an output; see `tflite_export.graph.shapes`.
Shape = tuple[int, ...]
#: Runtime whose tolerance holds in all of them.
ANY_RUNTIME = "any"
#: Role of the learned weights of a weighted operator, and of the bias that is added to its sums.
WEIGHTS, BIAS = "weights", "bias"
#: Attribute of operators that an activation function joins.
ACTIVATION = "activation"


@dataclasses.dataclass(frozen=True)
class Attribute:
    """How a file stores one attribute of an operator.

    Attributes:
        field: of the operator's options table; None: a constant int32 operand.
        enumeration: of the schema, whose codes the field holds; None: a number.
        names: of the enumeration, those that the integer graph has words for.
    """

    field: str | None = None
    enumeration: str | None = None
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far a runtime's kernel may be from the integer reference.

    Attributes:
        lsb: largest difference in steps of the output.
        reason: why there is one.
        drift: more, of an operator at hand.
    """

    lsb: int
    reason: str
    drift: Callable[[Case], int] | None = None


@dataclasses.dataclass(frozen=True)
class InputScale:
    """Bounds of an input's scale: kernels count their input in units of their own.

    Attributes:
        tflm_only: other runtimes take any scale.
    """

    low: float
    high: float
    tflm_only: bool = False


@dataclasses.dataclass(frozen=True)
class OperatorKind:
    """What there is to know about one operator.

    Rules get a `Case`: the operator with its tensors. Types are those of activations, "int8" and
    "int16".

    Attributes:
        name: of the builtin operator in the schema.
        kernel: output integers of `tflite_export.operators.operands.Operands`.
        shape: of the output; raises by `tflite_export.graph.shapes.require`.
        versions: that introduced the types at hand, for int8 and int16; or a function of type and
            attributes. Runtimes refuse versions newer than they know, none reads them to choose a
            kernel: packed weights keep the version of int8.
        options: table of the schema, None where the operator has none.
        attributes: that the operator carries, all of them required.
        written: fields of the options that are always written the same.
        required: fields of the options whose other values the integer graph has no words for.
        roles: names of the operands, activations first.
        repeats: the last role may be there any number of times.
        optional: the last role may be absent.
        layout: order of roles and of attributes that are operands in a file, where that is not
            roles first.
        own_types: roles whose tensors have a type of their own, which `operands` examines; the
            others are activations of the output's type.
        operands: more that the kernels demand of operands, a sentence for each fault.
        indexes: role whose integers choose entries -> role of the table, and its axis.
        positive: roles in which kernels refuse negative numbers while they run.
        bias_reason: why there must be a bias.
        channel_axis: of the weights, in the file's layout; None for operators without weights.
        keeps_sign: of numbers none of which is negative it makes none that is.
        squares: nor of any numbers that it is given twice.
        ties: what it writes lies between its inputs' integers: all have the output's parameters.
        fixes: type -> scale and zero point of the output that kernels demand.
        converts: the input may have another type than the output.
        makes_indices: it writes int32 numbers of places, which nothing reads as activations.
        counts: it also moves, or computes with, int32 numbers of places, as they are.
        makes_shares: its int16 results of int8 are `tflite_export.graph.structure.SHARES`.
        clamp: activation function that the operator itself is.
        keeps_codes: whether results are not below a code, see `tflite_export.graph.codes`.
        overflow: what the kernel cannot hold, a sentence each; see `tflite_export.graph.proofs`.
        input_scales: type -> bounds of the input's scale.
        most_values: types of input and output -> values along the last axis beyond which kernels
            end the program, see `tflite_export.targets.wide_softmax`.
        multiplications: of one sample; None: one an element.
        scratch: elements of the largest array that the reference makes beside its operands.
        tolerances: runtime (or `ANY_RUNTIME`) and type of the output -> how far it may be from the
            reference. What is not listed is bit-identical.
    """

    name: str
    kernel: Callable[[Any], np.ndarray]
    shape: Callable[[Case], Shape]
    versions: tuple[int, int] | Callable[[str, Mapping[str, Any]], int]
    options: str | None = None
    attributes: Mapping[str, Attribute] = dataclasses.field(default_factory=dict)
    written: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    required: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    roles: tuple[str, ...] = ("input",)
    repeats: bool = False
    optional: bool = False
    layout: tuple[str, ...] = ()
    own_types: tuple[str, ...] = ()
    operands: Callable[[Case], Iterator[str]] | None = None
    indexes: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    positive: tuple[str, ...] = ()
    bias_reason: str = ""
    channel_axis: int | None = None
    keeps_sign: bool = False
    squares: bool = False
    ties: bool = False
    fixes: Mapping[str, tuple[float, int]] = dataclasses.field(default_factory=dict)
    converts: bool = False
    makes_indices: bool = False
    counts: bool = False
    makes_shares: bool = False
    clamp: str = NONE
    keeps_codes: Callable[[Case, int], bool] | None = None
    overflow: Callable[[Case], Iterator[str]] | None = None
    input_scales: Mapping[str, InputScale] = dataclasses.field(default_factory=dict)
    most_values: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    multiplications: Callable[[Case], int] | None = None
    scratch: Callable[[Case], int] | None = None
    tolerances: Mapping[tuple[str, str], Tolerance] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_weighted != (WEIGHTS in self.roles):
            raise ValueError(f"{self.name}: weights need a channel axis, and a role {WEIGHTS!r}")
        if self.layout and set(self.layout) != {*self.roles, *self.constants}:
            raise ValueError(
                f"{self.name}: the layout {self.layout} is not of {self.roles} and {self.constants}"
            )

    @property
    def is_weighted(self) -> bool:
        return self.channel_axis is not None

    @property
    def fuses(self) -> bool:
        """Whether an activation function joins it."""
        return ACTIVATION in self.attributes

    @property
    def constants(self) -> tuple[str, ...]:
        """Attributes that are stored as int32 operands, in order."""
        return tuple(name for name, stored in self.attributes.items() if stored.field is None)

    @property
    def fewest_inputs(self) -> int:
        return len(self.roles) - self.optional

    @property
    def most_inputs(self) -> float:
        return float("inf") if self.repeats else len(self.roles)

    def version(self, activation_dtype: str, attributes: Mapping[str, Any] | None = None) -> int:
        """Version stamped on an operator whose first input is `activation_dtype`."""
        if callable(self.versions):
            return self.versions(activation_dtype, attributes or {})
        return self.versions[activation_dtype == "int16"]

    def order(self, count: int) -> tuple[str, ...]:
        """Roles and constants of an operator with `count` operands, in the order of a file."""
        if self.layout:
            return self.layout[:count]
        # Old files may keep constants in the options.
        given = max(count - len(self.constants), min(count, self.fewest_inputs))
        repeated = (self.roles[-1],) * (given - len(self.roles)) if self.repeats else ()
        return (*self.roles[:given], *repeated, *self.constants)[:count]


_KINDS: dict[str, OperatorKind] = {}


@functools.cache
def _kinds() -> Mapping[str, OperatorKind]:
    """All descriptions: the modules of operators make theirs known when they are imported.

    On the first question, so that the package itself imports without NumPy, as launchers of
    programs do.
    """
    importlib.import_module("tflite_export.operators")
    return _KINDS


def register(kind: OperatorKind) -> OperatorKind:
    """Makes an operator known; returns it.

    Raises:
        ValueError: it is known already.
    """
    if kind.name in _KINDS:
        raise ValueError(f"operator {kind.name} is described twice")
    _KINDS[kind.name] = kind
    return kind


def is_known(name: str) -> bool:
    return name in _kinds()


def known() -> tuple[str, ...]:
    """Names of the operators that an integer graph may hold."""
    return tuple(_kinds())


def kind_of(name: str) -> OperatorKind:
    """The description of an operator.

    Raises:
        ValueError: it is unknown.
    """
    if not is_known(name):
        raise ValueError(f"unknown operator {name}; known are {', '.join(sorted(known()))}")
    return _kinds()[name]


def is_weighted(name: str) -> bool:
    """Whether an operator is known and has learned weights."""
    return is_known(name) and kind_of(name).is_weighted


def operand(operator: Operator, role: str) -> str | None:
    """Name of the operand with a role, of an operator of a graph; None where it has none."""
    roles = kind_of(operator.kind).roles if is_known(operator.kind) else ()
    if role not in roles:
        return None
    index = roles.index(role)
    return operator.inputs[index] if index < len(operator.inputs) else None


def weights_of(operator: Operator, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor of a weighted operator's weights; None for others."""
    name = operand(operator, WEIGHTS)
    return None if name is None else tensors[name]


def clamp_of(operator: Operator) -> str:
    """Activation function that bounds what an operator writes, fused or its own."""
    own = kind_of(operator.kind).clamp
    return own if own != NONE else operator.attributes.get(ACTIVATION, NONE)


def tolerance(runtime: str, case: Case) -> int:
    """Largest difference in LSB that a runtime's operator may have from the integer reference."""
    tolerances = kind_of(case.operator.kind).tolerances
    found = [tolerances.get((name, case.dtype)) for name in (ANY_RUNTIME, runtime)]
    given = [each for each in found if each is not None]
    drift = sum(each.drift(case) for each in given if each.drift is not None)
    return max((each.lsb for each in given), default=0) + drift
