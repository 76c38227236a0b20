"""Reads the capability tables and answers which container, width and granularity a target takes."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources

from tflite_export.file.packing import CONTAINER_BITS
from tflite_export.near_names import require_known

#: Of each there is a TOML file here, and a module of the same name with its own `findings`.
TARGETS = ("android", "coral", "ethos-u", "microcontroller")
GRANULARITIES = ("per_channel", "per_tensor")
#: Attributes of `Capabilities` that are as they stand in the file, where they do.
_FACTS = ("compiler", "only_own_rules", "entropy_codes", "reads_tables", "takes_float_ends")


@dataclasses.dataclass(frozen=True)
class WeightRow:
    """One combination of weights and activations that a weighted operator executes correctly.

    Attributes:
        rounding: how the accumulator becomes an int8 result, measured: "once", or in fixed-point
            arithmetic "twice" (the product with a fraction, then the division by a power of two,
            ties away from zero) or "twice_up" (ties upwards).
    """

    kind: str
    activations: str
    container: str
    granularity: str
    rounding: str = "twice"
    remark: str = ""
    is_written: bool = True


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """The table of one target.

    Attributes:
        runtimes: names of the runtimes (see `tflite_export.runtimes.sessions`) that prove a file.
        lowest_weight_bits: learned widths below this gain nothing there and are refused.
        advice: what to do about refused widths.
        weights: rows of the weighted operators.
        operators: weightless operator -> activation types it executes.
        rounding: weightless operator -> how it rounds an int8 result, see `WeightRow`, where that
            is not once.
        same_parameters: operators that are right only where the input and the output have the
            same scale and zero point.
        remarks: operator -> limit or trap to know.
        ranks: operator -> most dimensions of its tensors; "any" for those that are not named.
        most_inputs: operator -> most tensors that it reads, where that has a bound.
        compiled: operators that the target's own processor has and its runtime has not: its
            compiler must take them all.
        excluded: operator or type that the target's vendor or tool rules out -> reason.
        resolver_methods: operator -> what registers it in the target's runtime, where that is not
            its name in camel case.
        slower_when_packed: operators that run slower with weights below 8 bits.
        compiler: of the vendor, which may leave operators of a right file on the CPU: "edgetpu",
            "vela" or "", for none.
        only_own_rules: whether foreign files are judged by its module alone, not by this table.
        entropy_codes: whether its compiler stores weights in about their learned width.
        reads_tables: whether its runtime expands weights from look-up tables.
        takes_float_ends: whether files may convert floats at their ends there.
    """

    target: str
    title: str
    runtimes: tuple[str, ...]
    lowest_weight_bits: int
    advice: str
    weights: tuple[WeightRow, ...]
    operators: Mapping[str, tuple[str, ...]]
    rounding: Mapping[str, str]
    same_parameters: tuple[str, ...]
    remarks: Mapping[str, str]
    ranks: Mapping[str, int]
    most_inputs: Mapping[str, int]
    compiled: tuple[str, ...]
    excluded: Mapping[str, str]
    resolver_methods: Mapping[str, str]
    slower_when_packed: tuple[str, ...]
    compiler: str = ""
    only_own_rules: bool = False
    entropy_codes: bool = False
    reads_tables: bool = False
    takes_float_ends: bool = False

    @property
    def computes_16_bits(self) -> bool:
        """Whether any of its operators takes activations of 16 bits."""
        rows = {row.activations for row in self.weights}
        return "int16" in rows.union(*self.operators.values())


def granularity_of(*, per_channel: bool) -> str:
    """One of `GRANULARITIES`."""
    return GRANULARITIES[0] if per_channel else GRANULARITIES[1]


def module_name(target: str) -> str:
    """Of its files."""
    return target.replace("-", "_")


def able(fact: str) -> list[str]:
    """Targets of which an attribute of `Capabilities` holds."""
    return [target for target in TARGETS if getattr(capabilities(target), fact)]


def capabilities(target: str) -> Capabilities:
    """The table of `target`. Raises ValueError for an unknown name."""
    require_known("target", target, TARGETS)
    return _capabilities(target)


@functools.cache
def _capabilities(target: str) -> Capabilities:
    name = f"{module_name(target)}.toml"
    table = tomllib.loads(resources.files(__package__).joinpath(name).read_text("utf-8"))
    rows = [row for entry in table["weights"] for row in _rows(entry)]
    return Capabilities(
        target=target,
        title=table["title"],
        runtimes=tuple(table["runtimes"]),
        lowest_weight_bits=table["lowest_weight_bits"],
        advice=table["advice"],
        weights=tuple(rows),
        operators={kind: tuple(dtypes) for kind, dtypes in table["operators"].items()},
        rounding=table.get("rounding", {}),
        same_parameters=tuple(table.get("same_parameters", ())),
        remarks=table.get("remarks", {}),
        ranks=table.get("ranks", {}),
        most_inputs=table.get("most_inputs", {}),
        compiled=tuple(table.get("compiled", ())),
        excluded=table.get("excluded", {}),
        resolver_methods=table.get("resolver_methods", {}),
        slower_when_packed=tuple(table.get("slower_when_packed", ())),
        **{name: table[name] for name in _FACTS if name in table},
    )


def _rows(entry: Mapping[str, object]) -> list[WeightRow]:
    """An entry of the file may list several kinds and granularities: their product."""
    return [
        WeightRow(
            kind,
            str(entry["activations"]),
            str(entry["container"]),
            granularity,
            str(entry.get("rounding", "twice")),
            str(entry.get("remark", "")),
            bool(entry.get("written", True)),
        )
        for kind in _strings(entry["kinds"])
        for granularity in _strings(entry.get("granularities", GRANULARITIES))
    ]


def _strings(value: object) -> Sequence[str]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"expected a list of names, received {value!r}")
    return [str(item) for item in value]


def storage(target: str, kind: str, *, bits: int, per_channel: bool, activation_dtype: str) -> str:
    """Narrowest container of `bits`-wide weights that serves in the target's runtime.

    Args:
        kind: weighted operator.
        bits: learned width, 2 to 8.
        activation_dtype: "int8" or "int16".

    Returns:
        "int8", "int4" or "int2".

    Raises:
        ValueError: nothing fits; says what is allowed.
    """
    table = capabilities(target)
    if bits < table.lowest_weight_bits:
        raise ValueError(
            f"target {target!r} stores weights of {table.lowest_weight_bits} to 8 bits, "
            f"received {bits}; {table.advice}"
        )
    granularity = granularity_of(per_channel=per_channel)
    fitting = [
        row.container
        for row in _written_rows(table, kind, activation_dtype)
        if row.granularity == granularity and CONTAINER_BITS[row.container] >= bits
    ]
    if not fitting:
        raise ValueError(
            f"target {target!r} has no {kind} with {bits}-bit {granularity} weights and "
            f"{activation_dtype} activations; allowed are {_described(table, kind)}"
        )
    return min(fitting, key=CONTAINER_BITS.__getitem__)


def weight_granularity(target: str, kind: str, *, bits: int, activation_dtype: str = "int8") -> str:
    """ "per_channel" or "per_tensor": what the quantizer must learn for the narrowest container.

    Per-channel wherever it costs no wider container.
    """
    rows = _written_rows(capabilities(target), kind, activation_dtype)

    def narrowest(granularity: str) -> int:
        widths = (CONTAINER_BITS[row.container] for row in rows if row.granularity == granularity)
        return min((width for width in widths if width >= bits), default=64)

    return min(GRANULARITIES, key=narrowest)


def requantization(target: str, kind: str, *, container: str | None) -> str:
    """How the kernel that the target runs at int8 activations rounds; see `WeightRow.rounding`.

    Args:
        container: type of the weights of a weighted operator as stored, otherwise None.
    """
    if container is None:
        return capabilities(target).rounding.get(kind, "once")
    rows = _weight_rows(capabilities(target), kind, "int8")
    return next(row.rounding for row in rows if row.container == container)


def allowed_weight_bits(target: str) -> tuple[int, ...]:
    """Learned widths that can be stored for the target."""
    return tuple(range(capabilities(target).lowest_weight_bits, 9))


def check_operator(
    target: str,
    kind: str,
    *,
    activation_dtype: str,
    container: str | None = None,
    per_channel: bool = False,
    rescales: bool = False,
    rank: int = 0,
    inputs: int = 0,
) -> str | None:
    """Why the target does not execute an operator correctly, or None when it does.

    Args:
        rank: most dimensions of its inputs and outputs.
        inputs: tensors that it reads.
        container: type of the weights of a weighted operator as stored.
        rescales: input and output differ in scale or zero point.
    """
    table = capabilities(target)
    problem = rank_problem(target, kind, rank) or inputs_problem(target, kind, inputs)
    if problem is not None:
        return problem
    rows = [row for row in table.weights if row.kind == kind]
    if not rows:
        return _check_weightless(table, kind, activation_dtype, rescales)
    granularity = granularity_of(per_channel=per_channel)
    wanted = (activation_dtype, container, granularity)
    if any((row.activations, row.container, row.granularity) == wanted for row in rows):
        return None
    return (
        f"{kind} with {container} {granularity} weights and {activation_dtype} activations is not "
        f"executed correctly; allowed are {_described(table, kind)}"
    )


def rank_problem(target: str, kind: str, rank: int) -> str | None:
    """Why an operator on tensors of so many dimensions is not executed, or None when it is."""
    ranks = capabilities(target).ranks
    most = ranks.get(kind, ranks.get("any", rank))
    if rank <= most:
        return None
    return (
        f"{kind} has {rank} dimensions, the batch among them; target {target!r} executes at most "
        f"{most}: reshape around it"
    )


def inputs_problem(target: str, kind: str, count: int) -> str | None:
    """Why an operator that reads so many tensors is not executed, or None when it is."""
    most = capabilities(target).most_inputs.get(kind, count)
    if count <= most:
        return None
    return f"{kind} reads {count} tensors; target {target!r} executes at most {most}: join in steps"


def _check_weightless(
    table: Capabilities, kind: str, activation_dtype: str, rescales: bool
) -> str | None:
    allowed = table.operators.get(kind)
    remark = table.remarks.get(kind, "")
    if allowed is None:
        elsewhere = _targets_with(kind, activation_dtype)
        return f"{kind} is not available on target {table.target!r}{elsewhere}. {remark}".strip()
    if rescales and kind in table.same_parameters:
        return f"{kind} has an input and an output of different scales. {remark}".strip()
    if activation_dtype in allowed:
        return None
    dtypes = " or ".join(allowed)
    elsewhere = _targets_with(kind, activation_dtype)
    return (
        f"{kind} is correct with {dtypes} only, not {activation_dtype}{elsewhere}. {remark}".strip()
    )


def _targets_with(kind: str, activation_dtype: str) -> str:
    tables = [capabilities(target) for target in TARGETS]
    found = [table.target for table in tables if activation_dtype in table.operators.get(kind, ())]
    return f", but with {activation_dtype} on {', '.join(found)}" if found else ""


def _weight_rows(table: Capabilities, kind: str, activation_dtype: str) -> list[WeightRow]:
    return [row for row in table.weights if (row.kind, row.activations) == (kind, activation_dtype)]


def _written_rows(table: Capabilities, kind: str, activation_dtype: str) -> list[WeightRow]:
    return [row for row in _weight_rows(table, kind, activation_dtype) if row.is_written]


def _described(table: Capabilities, kind: str) -> str:
    rows = [row for row in table.weights if row.kind == kind]
    return (
        ", ".join(f"{row.container} {row.granularity} under {row.activations}" for row in rows)
        or "no widths: the target does not execute this operator"
    )
