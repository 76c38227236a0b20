"""The canonical model: its layers as a graph, the walk through it, the weighted primitives."""
