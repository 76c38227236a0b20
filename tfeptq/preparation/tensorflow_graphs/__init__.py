"""Functions of TensorFlow as graphs of Keras layers and `keras.ops`.

What computes with TensorFlow itself takes no symbolic Keras tensors. It is traced by
`tf.function`, and the graph is read operator by operator.
"""

from tfeptq.preparation.tensorflow_graphs.reading import UnreadableGraphError, read
from tfeptq.preparation.tensorflow_graphs.scope import NAMELESS
from tfeptq.preparation.tensorflow_graphs.symbolic_calls import read_by
from tfeptq.preparation.tensorflow_graphs.values import BATCH

__all__ = ["BATCH", "NAMELESS", "UnreadableGraphError", "read", "read_by"]
