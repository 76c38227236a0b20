"""LiteRT's interpreter, with and without XNNPACK; for worker processes, see `isolation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Session:
    """One file in one interpreter; called with one sample, an array (1, ...) a model input.

    Raises:
        ValueError: LiteRT refuses the file.
    """

    def __init__(self, content: bytes, *, reference_kernels: bool = False) -> None:
        self._interpreter = interpreter(content, reference_kernels=reference_kernels)
        self._inputs = [entry["index"] for entry in self._interpreter.get_input_details()]
        self._outputs = [entry["index"] for entry in self._interpreter.get_output_details()]

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            for index, array in zip(self._inputs, arrays, strict=True):
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._outputs]
        except (RuntimeError, ValueError) as error:
            raise refusal(error) from error


def interpreter(content: bytes, *, reference_kernels: bool = False, **options: Any) -> Any:
    """A LiteRT interpreter on one thread, ready to invoke.

    Args:
        options: further ones of its class.

    Raises:
        ValueError: LiteRT refuses the file.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_REF if reference_kernels else OpResolverType.AUTO
    try:
        made = Interpreter(
            model_content=content, experimental_op_resolver_type=resolver, num_threads=1, **options
        )
        made.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise refusal(error) from error
    return made


def refusal(error: Exception) -> ValueError:
    """An error of the interpreter in one sentence."""
    return ValueError(f"LiteRT refuses the file: {' '.join(str(error).split())}")
