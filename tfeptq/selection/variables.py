"""The variables of a plan: weights of layers, and activations, chosen in groups or fixed."""

from __future__ import annotations

from collections.abc import Mapping

from tfeptq.canonical.layer_graph import Key
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.selection.factor import Variable, Widths, activations, weights


class Variables:
    """What decides the costs of a plan, with the widths that each may take.

    Attributes:
        widths: variable -> candidates, ascending. Weights of every layer; groups of activations
            where these are chosen, otherwise every tensor with the width that it has.
        fixed: the activations that the request fixes.
    """

    def __init__(self, plan: QuantizationPlan) -> None:
        self._plan = plan
        self.widths = {weights(name): widths for name, widths in plan.candidates.items()}
        self.fixed: Widths = {}
        if plan.chooses_activations:
            self.widths |= {activations(name): g.widths for name, g in plan.groups.items()}
            return
        by_tensor = (tensor.quantizer for tensor in plan.tensors.values())
        self.fixed = {activations(name): bits for name, bits in plan.activation_bits.items()}
        self.fixed |= {activations(quantizer.name): quantizer.bits for quantizer in by_tensor}
        self.widths |= {variable: (bits,) for variable, bits in self.fixed.items()}

    def of_tensor(self, key: Key) -> Variable:
        """Whose width a tensor of the file has."""
        if self.fixed:
            return activations(self._plan.tensors[key].quantizer.name)
        return activations(self._plan.group_of(key))

    def of_layer(self, name: str) -> Variable:
        """Whose width the output of a layer has, which has one of its own."""
        return activations(name if self.fixed else self._plan.group_of_layer(name))


def of_kind(widths: Mapping[Variable, int], kind: str) -> dict[str, int]:
    """Name -> width of the variables of one kind."""
    return {name: bits for (each, name), bits in widths.items() if each == kind}


def planned(plan: QuantizationPlan, widths: Mapping[Variable, int]) -> QuantizationPlan:
    """The plan with the widths of a choice."""
    of_weights, of_activations = (of_kind(widths, kind) for kind in ("weights", "activations"))
    return plan.with_widths(weights=of_weights, activations=of_activations)
