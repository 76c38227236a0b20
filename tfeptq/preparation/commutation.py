"""Which layers scale * x + offset can change places with, and what becomes of it."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfeptq.canonical.primitives import Passes
from tfeptq.preparation.nodes import Node


@dataclasses.dataclass(frozen=True)
class AffineMap:
    """scale * x + offset, each a number (rank 0) or one value a channel (rank 1)."""

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def of(cls, node: Node) -> AffineMap:
        """The map of an `Affine` node."""
        return cls(node.options["scale"], node.options["offset"])

    @property
    def is_pure_scale(self) -> bool:
        return not np.any(self.offset)

    @property
    def is_positive(self) -> bool:
        return bool(np.all(self.scale > 0.0))

    @property
    def is_uniform(self) -> bool:
        """The same for all channels."""
        return self.scale.ndim == self.offset.ndim == 0

    def behind(self, layer: Node) -> AffineMap | None:
        """The map behind `layer` that does what this one does before it, or None."""
        row = layer.row
        if row is None or row.passes is Passes.NONE:
            return None
        if row.passes is Passes.RESHAPED:
            return self._behind_reshape(layer)
        moves = {
            Passes.ANY: True,
            Passes.POSITIVE: self.is_positive,
            Passes.WITHOUT_OFFSET: self.is_pure_scale,
            Passes.UNIFORM: self.is_uniform,
        }
        return self if moves[row.passes] else None

    def goes_before_relu(self, layer: Node) -> bool:
        """Whether `layer` is like a ReLU, and the map may precede instead of following it.

        The bound of a ReLU, which is one number, then needs the same scale.
        """
        if not (self.is_pure_scale and self.is_positive):
            return False
        bounded = layer.options.get("max_value") is not None
        row = layer.row
        return row is not None and row.is_homogeneous and (self.is_uniform or not bounded)

    def _behind_reshape(self, layer: Node) -> AffineMap | None:
        """Channels repeat along the new last axis when that holds whole sets of them."""
        if self.is_uniform:
            return self
        channels, width = layer.inputs[0].shape[-1], layer.shape[-1]
        if width % channels:
            return None
        scale, offset = (np.broadcast_to(value, (channels,)) for value in (self.scale, self.offset))
        repeats = width // channels
        return AffineMap(np.tile(scale, repeats), np.tile(offset, repeats))
