"""What each call of a shared layer counts where one kernel has to suit them all.

Its results have a quantizer of their own at each place, and are read at their own scale: what is
small beside a loud call's result may be all of a quiet one's. Errors therefore count relative to
the power of a call's results. Steps of a sequence are one place, and count alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from tfeptq.canonical import linear
from tfeptq.canonical.layer_graph import Call
from tfeptq.canonical.topology import Topology
from tfeptq.rounding.input_moments import InputMoments

#: Share of the loudest call's power from which on a call counts no more: its results are zeros.
_SILENT = 1e-12


def call_weights(
    topology: Topology, calls: Sequence[Call], moments: Sequence[InputMoments]
) -> list[float]:
    """Weights of the calls of one layer, one over the mean square of what each computes.

    Args:
        topology: of the float model.
        calls: in the float model.
        moments: of the inputs of each, centered.
    """
    if len(calls) == 1:
        return [1.0]
    places = [topology.place_in_time(call) or call.output for call in calls]
    powers = np.array([_power(call.layer, part) for call, part in zip(calls, moments, strict=True)])
    sharing = [[each == place for each in places] for place in places]
    by_call = [float(np.mean(powers, where=same)) for same in sharing]
    least = _SILENT * max(by_call) or 1.0
    return [1.0 / max(power, least) for power in by_call]


def _power(layer: keras.Layer, moments: InputMoments) -> float:
    """Mean square of the results of a layer whose inputs have these moments."""
    weights = linear.by_group(layer, np.asarray(layer.kernel)).astype(np.float64)
    variance = np.sum(weights * (moments.covariance @ weights), axis=1)
    means = (moments.float_mean @ weights)[:, 0].reshape(-1)
    return float(variance.mean() + np.square(means + np.asarray(layer.bias, np.float64)).mean())
