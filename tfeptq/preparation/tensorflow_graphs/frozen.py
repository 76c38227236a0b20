"""One flat graph of a TensorFlow function, variables in it as constants.

TensorFlow has no public name for this; every converter of TensorFlow models calls this one.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants


def frozen(function: Any) -> tf.Graph:
    """The graph of a `tf.types.experimental.ConcreteFunction`; its inputs keep their order."""
    return convert_to_constants.convert_variables_to_constants_v2(
        function, lower_control_flow=False
    )
