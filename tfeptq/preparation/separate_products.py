"""Products of a tensor with a constant matrix for each place of an axis."""

from __future__ import annotations

import numpy as np

from tfeptq.preparation.convolutions import Window, convolve_depthwise
from tfeptq.preparation.nodes import Node, Weights, reshape
from tfeptq.preparation.permutes import permute


def multiplied_separately(name: str, node: Node, kernel: np.ndarray) -> Node:
    """Rows of each place times the matrix of that place: a depthwise convolution.

    The places are its channels, and its window is as wide as what is summed over.

    Args:
        node: (places, rows, terms), without the batch.
        kernel: (places, terms, columns).

    Returns:
        (places, rows, columns).
    """
    places, terms, columns = kernel.shape
    image = permute(node, f"{name}_order", (1, 2, 0))
    weights = Weights([np.swapaxes(kernel, 0, 1)[None], np.zeros(places * columns)])
    window = Window((1, terms), (1, 1), (1, 1), "valid")
    sums = convolve_depthwise(name, image, weights, window)
    split = reshape(sums, f"{name}_columns", (node.shape[1], places, columns))
    return permute(split, f"{name}_result", (1, 0, 2))
