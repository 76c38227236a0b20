"""TensorFlow's operators as Keras layers and `keras.ops`, one module a family."""

from tfeptq.preparation.tensorflow_graphs.operators import (
    arithmetic,
    convolutions,
    products,
    reductions,
    shapes,
)
from tfeptq.preparation.tensorflow_graphs.operators.handler import Handler

#: Type of the operator -> function of the operator, what it reads, and the layers made so far.
OPERATORS: dict[str, Handler] = {
    **arithmetic.HANDLERS,
    **convolutions.HANDLERS,
    **products.HANDLERS,
    **reductions.HANDLERS,
    **shapes.HANDLERS,
}
