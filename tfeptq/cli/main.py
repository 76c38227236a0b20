"""The command `tfeptq`. Exit codes: 0 done, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TextIO

from cyclopts import App, CycloptsError, MissingArgumentError, Parameter, UnusedCliTokensError

from tfeptq import __version__
from tfeptq.cli.compare_command import compare
from tfeptq.cli.demo_command import demo
from tfeptq.cli.exit_codes import BAD_INPUT, DONE, STOPPED
from tfeptq.cli.export_command import export
from tfeptq.cli.file_commands import check, evaluate, inspect
from tfeptq.cli.frontier_command import frontier
from tfeptq.cli.latency_command import latency
from tfeptq.cli.package_command import package
from tfeptq.cli.quantize_command import quantize
from tfeptq.cli.typed import running

_ROAD = """\
Example:

  tfeptq quantize model.keras --calibration x.npz --weight-bits 4 --output m.tflite
  tfeptq inspect m.tflite
  tfeptq evaluate m.tflite --data test.npz
  tfeptq check m.tflite --target coral

`tfeptq COMMAND --help` explains the options of a command."""

#: Command -> lines that show its use.
_COMMANDS: dict[Callable[..., int], str] = {
    demo: "tfeptq demo --weight-bits 3 --steps 100",
    quantize: """\
  tfeptq quantize m.keras --calibration x.npz --weight-bits 4 --output m.tflite

Widths chosen for every layer, by a budget or by an accuracy to hold:

  tfeptq quantize m.keras --calibration x.npz --weight-bits 2,3,4,8 \\
    --max-weight-bytes 40000 --target microcontroller --output m.tflite
  tfeptq quantize m.keras --calibration x.npz --weight-bits 2,3,4,8 \\
    --min-accuracy 0.99 --validation v.npz --resume run --output m.tflite

Settings of a file, one of them overridden (F.yaml: `weight_bits: [2, 4, 8]`, a line each):

  tfeptq quantize m.keras --calibration x.npz --config F.yaml --steps 500 --output m.tflite""",
    export: "tfeptq export q.keras --input-type uint8 --output m.tflite",
    inspect: "tfeptq inspect m.tflite --json",
    evaluate: "tfeptq evaluate m.tflite --data test.npz --runtime tflm",
    check: "tfeptq check m.tflite --target coral",
    package: "tfeptq package m.tflite --target microcontroller --compress --output firmware",
    compare: "tfeptq compare m.keras quantized.keras --data x.npz",
    frontier: "tfeptq frontier m.keras --calibration x.npz --weight-bits 2,3,4,8",
    latency: "tfeptq latency m.keras --target ethos-u --output t.csv",
}


def app() -> App:
    """All commands, without TensorFlow."""
    found = App(
        name="tfeptq",
        help="Keras models to fully integer TensorFlow Lite files.",
        version=__version__,
        help_format="plaintext",
        help_epilogue=_ROAD,
        # Only settings are switched off, and the last of several wins.
        default_parameter=Parameter(negative=(), allow_repeating=True),
        suppress_keyboard_interrupt=False,
    )
    for place, (command, example) in enumerate(_COMMANDS.items()):
        lines = example if "\n" in example else f"  {example}"
        found.command(command, help_epilogue=f"Example:\n\n{lines}", sort_key=place)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    with running(tokens), warnings.catch_warnings():
        warnings.showwarning = _warn
        try:
            return _run(tokens)
        except KeyboardInterrupt:
            return _stopped(tokens)
        except BrokenPipeError:
            # The reader has seen enough; Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        except OSError as error:
            place = "" if error.filename is None else f"{error.filename}: "
            return _complain(f"{place}{error.strerror or error}")
        except UnusedCliTokensError as error:
            return _complain(f"unexpected arguments: {' '.join(error.unused_tokens or ())}")
        except MissingArgumentError as error:
            return _complain(_missing(error))
        except CycloptsError as error:
            return _complain(" ".join(str(error).split()))
        except (ValueError, RuntimeError) as error:
            return _complain(_sentence(error))


def _run(tokens: list[str]) -> int:
    if not tokens:
        names = ", ".join(command.__name__ for command in _COMMANDS)
        raise ValueError(f"a command is needed: {names}; `tfeptq --help` explains them")
    code = app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    return DONE if code is None else code


def _missing(error: MissingArgumentError) -> str:
    command = " ".join(error.command_chain or ())
    name = error.keyword or (error.argument.name if error.argument is not None else "an argument")
    if error.argument is not None and error.tokens_so_far:
        wanted, _ = error.argument.token_count()
        given = " ".join(error.tokens_so_far)
        return f"{name} takes {wanted} values, received {len(error.tokens_so_far)}: {given}"
    return f"{name} is missing, or has no value; `tfeptq {command} --help` explains it"


def _sentence(error: Exception) -> str:
    """The first line; what others raise may begin with a heading and end with the reason."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[-1].strip()}" if lines[0].endswith(":") and lines[1:] else lines[0]


def _stopped(tokens: Sequence[str]) -> int:
    words = [token.partition("=")[0] for token in tokens]
    if "--resume" in words:
        way = "the same command goes on from the steps that --resume kept"
    else:
        way = "with --resume DIR a run keeps its finished steps, and the same command goes on there"
    print(f"\ntfeptq: stopped: {way}", file=sys.stderr)
    return STOPPED


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Stands in for `warnings.showwarning`."""
    if issubclass(category, UserWarning):
        print(f"tfeptq: warning: {str(message).splitlines()[0]}", file=sys.stderr)


def _complain(message: str) -> int:
    print(f"tfeptq: error: {message}", file=sys.stderr)
    return BAD_INPUT
