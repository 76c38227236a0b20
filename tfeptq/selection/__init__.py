"""Costs, frontiers and the choice of widths."""
