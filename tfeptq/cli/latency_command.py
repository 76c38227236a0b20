"""`tfeptq latency`: a table of layer times, to choose widths by."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tfeptq.cli.exit_codes import DONE
from tfeptq.cli.own_files import require_kept
from tfeptq.cli.source import source_model
from tfeptq.cli.values import Model, one_of, sizes, typed, widths
from tfeptq.config import TARGETS, QuantizationConfig
from tfeptq.foreign.files import require_model_file
from tflite_export.file.atomic import destination


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(bits) for bits in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not WIDTH,WIDTH") from None


def latency(
    model: Model,
    /,
    *,
    output: Annotated[Path, Parameter(metavar="T.csv")],
    weight_bits: Annotated[
        Sequence[int],
        typed(_widths, metavar="N,N,...", show_default=lambda bits: ",".join(map(str, bits))),
    ] = (2, 3, 4, 8),
    activation_bits: Annotated[Any, typed(widths, metavar="N|N,N,...")] = 8,
    input_shape: Annotated[Any, typed(sizes, metavar="N,N,...|INPUT=N,N,...")] = None,
    target: Annotated[
        str, one_of(TARGETS, "Vela's estimates for ethos-u, for others LiteRT on this computer:")
    ] = QuantizationConfig.target,
    accelerator: Annotated[str, Parameter(metavar="NAME")] = "ethos-u55-128",
) -> int:
    """Times of every layer at every width, for --latency-table.

    Args:
        output: The table to write.
        weight_bits: Widths to measure; 8 bits are always measured.
        activation_bits: Widths of the activations that a choice is to have: 8,16 for both types.
        input_shape: Sizes of inputs that the model leaves open, without the batch.
        accelerator: Of ethos-u.
    """
    # Every layer at every width: the table then serves whatever --first-last-bits is.
    config = QuantizationConfig(
        weight_bits=(*weight_bits, 8),
        activation_bits=activation_bits,
        input_shape=input_shape,
        target=target,
        first_last_bits=None,
    )
    destination(output, suffix=".csv")
    require_model_file(model)
    require_kept((model,), {"--output": output})
    source = source_model(model)
    from tfeptq.preparation import as_functional, prepare
    from tfeptq.report.tables import show_latencies
    from tfeptq.selection.latency import measure_latencies
    from tfeptq.selection.latency_table import write_latencies
    from tflite_export.packaging.vela import vela_times
    from tflite_export.targets import capabilities

    times = None
    if capabilities(target).compiler == "vela":
        times = functools.partial(vela_times, target=target, accelerator=accelerator)
    canonical = prepare(as_functional(source, config.input_shape), config)
    table = measure_latencies(canonical, config, times=times)
    write_latencies(table, output)
    show_latencies(table)
    return DONE
