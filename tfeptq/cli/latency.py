"""`tfeptq latency`: a table of layer times, to choose widths by."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

from tfeptq.config import TARGETS, QuantizationConfig
from tfeptq.options import add_choice, require_file
from tflite_export.file.atomic import destination

DONE = 0


def add_latency(commands: Any) -> None:
    """Adds the command to a parser's subcommands."""
    parser = commands.add_parser(
        "latency", help="times of every layer at every width, for --latency-table"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=".keras or .h5")
    parser.add_argument("--weight-bits", type=_widths, default=(2, 3, 4, 8), metavar="N,N,...")
    add_choice(
        parser,
        "--target",
        TARGETS,
        default="android",
        help="ethos-u: Vela's estimates; others: LiteRT on this computer",
    )
    parser.add_argument("--accelerator", default="ethos-u55-128", metavar="NAME", help="ethos-u")
    parser.add_argument("--output", type=Path, required=True, metavar="T.csv")
    parser.set_defaults(command=_latency)


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(bits) for bits in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTH,WIDTH") from None


def _latency(options: argparse.Namespace) -> int:
    # Every layer at every width: the table then serves whatever --first-last-bits is.
    config = QuantizationConfig(
        weight_bits=(*options.weight_bits, 8), target=options.target, first_last_bits=None
    )
    destination(options.output)
    require_file(options.model)

    from tfeptq.cli.startup import load_tensorflow

    load_tensorflow()
    from tfeptq.loading import load_model
    from tfeptq.preparation import prepare
    from tfeptq.report.tables import show_latencies
    from tfeptq.selection.latency import measure_latencies, write_latencies
    from tflite_export.packaging.vela import vela_times

    times = None
    if options.target == "ethos-u":
        times = functools.partial(
            vela_times, target=options.target, accelerator=options.accelerator
        )
    table = measure_latencies(prepare(load_model(options.model)), config, times=times)
    write_latencies(table, options.output)
    show_latencies(table)
    return DONE
