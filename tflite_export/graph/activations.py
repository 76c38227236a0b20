"""Activation functions that join an operator, by their names in the schema."""

from __future__ import annotations

NONE, RELU, RELU6 = "NONE", "RELU", "RELU6"
#: Those that an integer graph has words for.
FUSED = (NONE, RELU, RELU6)
#: Those that bound results from below by the integer of zero.
RELUS = (RELU, RELU6)
