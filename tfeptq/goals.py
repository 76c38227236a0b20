"""What the user asks of a selection of widths: a budget, or an accuracy."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from tfeptq.host_latency import HOST
from tfeptq.settings import NamedSettings, member, real, shown, switch, whole

#: Costs that a budget can bound and a frontier can be drawn against.
COSTS = ("weight_bytes", "activation_bytes", "bit_operations", "latency_ms")
#: Of widths that hold an accuracy.
SEARCHES = ("frontier", "layers")


@dataclasses.dataclass(frozen=True)
class Budget(NamedSettings):
    """Upper bounds of what a model may cost on its target; all that are given hold.

    Attributes:
        weight_bytes: weights with their scales as the target stores them, see
            `tfeptq.selection.costs`.
        activation_bytes: peak of the activations that are alive at once.
        bit_operations: sum over layers of multiplications x weight bits (or those of the other
            operand, where both are computed) x bits of what the kernel reads: 8 at most, but for
            kernels that compute in int16, which read 16.
        latency_ms: sum over layers of the times in `latency_table`, and of other operators'.
            Without a table that of "host" is taken.
        compressed: count weights as `tflite_export.packaging.compression.compress` stores them for
            microcontrollers, in tables of 2 to 6 bits an index, instead of as exported. Alone it
            bounds nothing either.
        latency_table: CSV file with the columns operator, bits and ms, as `tfeptq latency` measures
            it; see `tfeptq.selection.latency_table`. "host", for target android: times by kind of
            operator, measured in LiteRT on an x86 processor, see `tfeptq.host_latency`. Alone it
            bounds nothing: it prices choices.

    Example:
        >>> tfeptq.Budget(weight_bytes=60_000, bit_operations=2e9).limits
        {'weight_bytes': 60000, 'bit_operations': 2000000000}
    """

    weight_bytes: int | None = None
    activation_bytes: int | None = None
    bit_operations: int | None = None
    latency_ms: float | None = None
    latency_table: str | None = None
    compressed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "compressed", switch("Budget: compressed", self.compressed))
        if not self.limits and self.latency_table is None and not self.compressed:
            raise ValueError(f"Budget() bounds nothing; give one of {', '.join(COSTS)}")
        for name, value in self.limits.items():
            object.__setattr__(self, name, _bound(name, value))
        if self.latency_table is not None:
            object.__setattr__(self, "latency_table", _path(self.latency_table))
        if self.latency_ms is not None and self.latency_table is None:
            object.__setattr__(self, "latency_table", HOST)

    @property
    def limits(self) -> dict[str, float]:
        """Cost name -> its bound, for the costs that are bounded."""
        values = {name: getattr(self, name) for name in COSTS}
        return {name: value for name, value in values.items() if value is not None}

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Budget:
        return cls(**config)


def timed(budget: Budget | None) -> Budget:
    """A budget that can tell milliseconds: the same with the table of "host" if it has none."""
    if budget is None:
        return Budget(latency_table=HOST)
    return budget if budget.latency_table else dataclasses.replace(budget, latency_table=HOST)


def _bound(name: str, value: Any) -> float:
    """A positive number; whole ones stay whole."""
    number = real(f"Budget: {name}", value)
    return int(number) if number.is_integer() else number


def _path(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(
            f"Budget: latency_table={shown(value)} must be the path of a CSV file, or {HOST!r}"
        )
    return os.fspath(value)


@dataclasses.dataclass(frozen=True)
class AccuracyTarget(NamedSettings):
    """The least that the quantized model must score; among those the cheapest is taken.

    Attributes:
        metric: Keras model -> score on a fixed labelled set, higher is better; either a number or
            one value a sample, whose mean is the score. Values of samples make paired standard
            errors possible: without them nothing can warn that a target is finer than the noise.
        relative: least score as a fraction of the float model's.
        search_steps: length of the optimisation before each evaluation of the search. 0 leaves it
            out: seconds instead of minutes, but it may ask for more bits than the whole recipe.
        cost: what is made small: "weight_bytes", "bit_operations", "latency_ms" by
            `Budget.latency_table`, or "activation_bytes", which needs candidates of activations.
        search: "frontier" bisects the Pareto frontier of predicted loss; "layers" bisects, width by
            width, how many layers (and groups of activations that have candidates) in the order of
            their sensitivities can take it.

    Example:
        >>> def is_right(model):
        ...     return model.predict(samples, verbose=0).argmax(1) == labels
        >>> goal = tfeptq.AccuracyTarget(is_right, relative=0.95)
        >>> config = tfeptq.QuantizationConfig(
        ...     weight_bits=(4, 8), rounding="nearest", accuracy_target=goal, samples=64
        ... )
        >>> quantized = tfeptq.quantize(model, samples, config)
        >>> quantized.accuracy_search.comparison.holds
        True
    """

    metric: Callable[[Any], Any]
    relative: float = 0.99
    search_steps: int = 0
    search: str = "frontier"
    cost: str = "weight_bytes"

    def __post_init__(self) -> None:
        if not callable(self.metric):
            raise ValueError(
                f"AccuracyTarget: metric={self.metric!r} must be a function from a Keras model to "
                "a number or to one value a sample, higher is better"
            )
        relative = real("AccuracyTarget: relative", self.relative)
        if relative > 1.0:
            raise ValueError(
                f"AccuracyTarget: relative={relative:g} must lie in (0, 1], a fraction of the "
                "float model's score"
            )
        object.__setattr__(self, "relative", relative)
        steps = whole("AccuracyTarget: search_steps", self.search_steps, 0)
        object.__setattr__(self, "search_steps", steps)
        member("AccuracyTarget: search", self.search, SEARCHES)
        member("AccuracyTarget: cost", self.cost, COSTS)

    def get_config(self) -> dict[str, Any]:
        """The metric is a function of the user's program and stays there: its name is kept."""
        name = getattr(self.metric, "__qualname__", type(self.metric).__qualname__)
        return {**vars(self), "metric": name}
