"""Time of one inference on this computer: an order of magnitude for phones, none for boards."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

from tflite_export.file.ends import zeros
from tflite_export.file.reader import content_of, parse
from tflite_export.runtimes.isolation import guarded
from tflite_export.runtimes.sessions import NATIVE, open_session

_WARM_UP_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Latency:
    """Wall-clock times of single inferences on one thread, in milliseconds.

    Attributes:
        minimum: the figure to compare on a busy computer.
    """

    runtime: str
    runs: int
    median: float
    minimum: float


def latency(
    model: str | Path | bytes, *, runtime: str = "litert", runs: int = 50, seconds: float = 5.0
) -> Latency:
    """Times a `.tflite` file on zeros, with the copies of inputs and outputs.

    Args:
        runtime: "litert", "litert-reference" or "tflm".
        runs: at most so many inferences,
        seconds: and not many longer than this in all.
    """
    if runtime not in NATIVE:
        raise ValueError(f"latency of {runtime!r} is not measured; allowed are {NATIVE}")
    content = content_of(model)
    return guarded(content, runtime, _timed, content, runtime, runs, seconds)


def _timed(content: bytes, runtime: str, runs: int, seconds: float) -> Latency:
    inputs = zeros(parse(content))
    session = open_session(content, runtime)
    for _ in range(_WARM_UP_RUNS):
        session(inputs)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < runs and (not times or time.perf_counter() < end):
        begin = time.perf_counter()
        session(inputs)
        times.append(1000 * (time.perf_counter() - begin))
    return Latency(runtime, len(times), statistics.median(times), min(times))
