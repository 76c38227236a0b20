"""Which weights and activations get which width: what can be asked of a choice still to be made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tfeptq.config import QuantizationConfig
from tfeptq.goals import COSTS
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.factor import Table, Variable, Widths, activations, weights
from tfeptq.selection.frontier import Frontier
from tfeptq.selection.frontier_point import FrontierPoint, spread
from tfeptq.selection.memory import STEP
from tfeptq.selection.program import Program
from tfeptq.selection.refinement import refined
from tfeptq.selection.refusals import contradictory, unmet
from tfeptq.selection.skeleton import peak_activation_bytes, skeleton
from tfeptq.selection.variables import of_kind, planned
from tfeptq.sensitivity.method import Sensitivity

#: Layer name -> (weight bits or None, bits of its output).
BitWidths = Mapping[str, tuple[int | None, int]]
#: Of choices that costs alone are asked of.
_UNKNOWN = Sensitivity("", "costs", {}, {})
#: Attempts to meet a bound of activation bytes that the program underestimates.
_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class Choice:
    """Widths of weights, and of activations where these have candidates, still to be chosen.

    Attributes:
        program: losses and costs of all candidates.
        plan: whose widths are chosen; None: of no model, then nothing is asked of files.
        sensitivity: of the weights.
        rivals: losses by other estimates, whose optima are worth measuring.
        measure: loss of a choice by measurement, to improve the predicted one; None: it stays.
        moves: most measurements for that, see `tfeptq.selection.refinement`.
    """

    program: Program
    plan: QuantizationPlan | None = None
    sensitivity: Sensitivity = _UNKNOWN
    rivals: Sequence[Table] = ()
    measure: Callable[[Widths], float] | None = None
    moves: int = 0

    @property
    def source(self) -> str:
        """What predicted losses rest on, in words."""
        return f"{self.sensitivity.method}: {self.sensitivity.source}"

    @property
    def cost_names(self) -> tuple[str, ...]:
        """Costs that a frontier can be drawn against."""
        decided = self.program.decided
        return tuple(cost for cost in COSTS if decided.intersection(self._counted(cost)))

    def within(self, limits: Mapping[str, float]) -> Widths:
        """Widths of least predicted loss under every limit, improved as measured.

        Raises:
            ValueError: a limit that nothing meets, with the smallest possible.
        """
        bounds = dict(limits)
        for _ in range(_ATTEMPTS):
            widths = self._best(self._spread(bounds))
            if widths is None:
                break
            if "activation_bytes" not in limits:
                return widths
            excess = self._peak(widths) - limits["activation_bytes"]
            if excess <= 0:
                return widths
            # The file has more alive at once than the program counts.
            bounds["activation_bytes"] -= excess
        raise self._refusal(limits)

    def frontier(self, cost: str, *, most: int | None = None) -> list[FrontierPoint]:
        """Undominated choices of loss against one cost, the cheapest first.

        Args:
            most: so many at most, spread evenly: of hundreds of layers there are tens of thousands.
        """
        points = self.pareto(cost)
        return [self.point(points.widths(index)) for index in spread(len(points), most)]

    def pareto(self, cost: str) -> Frontier:
        """The same choices, their costs not spelled out."""
        return self.program.pareto(self.names(cost))

    def names(self, cost: str) -> list[str]:
        """The program's costs whose largest is `cost`.

        Raises:
            ValueError: widths do not decide it.
        """
        if cost not in self.cost_names:
            raise ValueError(
                f"{cost!r} is no cost to choose by: the widths that have candidates do not decide "
                f"it, or no latency table is given; there are {', '.join(self.cost_names)}"
            )
        return self._counted(cost)

    def point(self, widths: Mapping[Variable, int]) -> FrontierPoint:
        """Predicted loss of widths, and their costs as the program counts them."""
        totals = self.program.costs(widths)
        counted = {cost: self._counted(cost) for cost in COSTS}
        return FrontierPoint(
            of_kind(widths, "weights"),
            self.program.loss(widths),
            {cost: max(totals[name] for name in names) for cost, names in counted.items() if names},
            int(totals.get("file_bytes", 0)),
            self._by_layer(widths),
        )

    def point_of(self, bit_widths: BitWidths) -> FrontierPoint:
        """The same of a quantized model's `bit_widths`."""
        widths: Widths = {
            weights(name): bits for name, (bits, _) in bit_widths.items() if bits is not None
        }
        chosen = of_kind(self.program.widest(), "activations")
        return self.point(widths | {activations(name): bit_widths[name][1] for name in chosen})

    def configured(
        self, config: QuantizationConfig, widths: Mapping[Variable, int]
    ) -> QuantizationConfig:
        """`config` with these widths instead of candidates and goals."""
        return dataclasses.replace(
            config,
            weight_bits=of_kind(widths, "weights"),
            activation_bits=self._by_layer(widths) or config.activation_bits,
            budget=None,
            accuracy_target=None,
        )

    def _best(self, limits: Mapping[str, float]) -> Widths | None:
        if not self.program.decided.intersection(limits):
            return self.program.widest() if self.program.best(limits) is not None else None
        if self.measure is None:
            return self.program.best(limits)
        rivals = (self.program.with_losses(losses) for losses in self.rivals)
        starts = [program.best(limits) for program in (self.program, *rivals)]
        fitting = [widths for widths in starts if widths is not None]
        if not fitting:
            return None
        return refined(self.program, fitting, limits, self.measure, moves=self.moves)

    def _counted(self, cost: str) -> list[str]:
        if cost == "activation_bytes":
            return [name for name in self.program.names if name.startswith(STEP)]
        return [cost] if cost in self.program.names else []

    def _spread(self, limits: Mapping[str, float]) -> dict[str, float]:
        return {name: limit for cost, limit in limits.items() for name in self._counted(cost)}

    def _by_layer(self, widths: Mapping[Variable, int]) -> dict[str, int]:
        """Layer name -> width of its output, of those that are chosen."""
        groups = self.plan.groups if self.plan is not None else {}
        chosen = of_kind(widths, "activations").items()
        return {layer: bits for name, bits in chosen for layer in groups[name].layers}

    def _peak(self, widths: Widths) -> int:
        """Bytes of activations that are alive at once in a choice's file, where they are chosen."""
        if self.plan is None or not self.plan.chooses_activations:
            return 0
        return peak_activation_bytes(skeleton(planned(self.plan, widths)))

    def _refusal(self, limits: Mapping[str, float]) -> ValueError:
        # What no width can change comes first.
        known = {cost: limit for cost, limit in limits.items() if self._counted(cost)}
        for cost, limit in sorted(known.items(), key=lambda entry: entry[0] in self.cost_names):
            names = self._counted(cost)
            least = self.program.least(names)
            exact = self._peak(least) if cost == "activation_bytes" else 0
            if self.program.largest(least, names) > limit or exact > limit:
                return unmet(self.program, cost, names, limit, least, exact)
        return contradictory(limits)
