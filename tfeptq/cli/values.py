"""What is typed on a command line, as values; a bad one is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tfeptq.config import TARGETS
from tflite_export.near_names import require_known


def typed(parse: Callable[[str], Any], **settings: Any) -> Parameter:
    """An option of one word, which `parse` reads or refuses by ValueError."""
    return Parameter(converter=lambda _, tokens: parse(tokens[0].value), n_tokens=1, **settings)


def one_of(allowed: Sequence[str], said: str, **settings: Any) -> Parameter:
    """An option with a known set of names, which its help lists.

    An unknown one gets the name that was meant.
    """

    def known(text: str) -> str:
        require_known("name", text, allowed)
        return text

    names = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
    return typed(known, metavar="NAME", help=f"{said} {names}.", **settings)


def number(kind: type[int] | type[float], *, may_be_none: bool = False) -> Callable[[str], Any]:
    """What reads a number, or the word none."""
    name = "whole number" if kind is int else "number"

    def parse(text: str) -> Any:
        if may_be_none and text.lower() == "none":
            return None
        try:
            return kind(text)
        except ValueError:
            wanted = f"neither a {name} nor none" if may_be_none else f"no {name}"
            raise ValueError(f"{text!r} is {wanted}") from None

    return parse


def _verbosity(text: str) -> int:
    if text not in ("0", "1", "2"):
        raise ValueError(f"{text!r} is neither 0, 1 nor 2")
    return int(text)


def widths(text: str) -> int | tuple[int, ...] | dict[str, int]:
    """One width, candidates, or widths by layer name."""
    try:
        if "=" not in text:
            candidates = tuple(int(bits) for bits in text.split(","))
            return candidates if len(candidates) > 1 else candidates[0]
        pairs = [entry.rsplit("=", 1) for entry in text.split(",")]
        found = {name: int(bits) for name, bits in pairs}
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a width, nor WIDTH,WIDTH, nor LAYER=WIDTH,LAYER=WIDTH"
        ) from None
    _require_once(pairs)
    return found


def _require_once(pairs: Sequence[Sequence[str]]) -> None:
    """Refuses names that are given twice, of which the last would be taken."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is named twice; give it one value")


def named_numbers(text: str) -> dict[str, int]:
    """Whole numbers by name."""
    try:
        pairs = [entry.split("=") for entry in text.split(",")]
        found = {name: int(value) for name, value in pairs}
    except ValueError:
        raise ValueError(f"{text!r} is not NAME=NUMBER,NAME=NUMBER") from None
    _require_once(pairs)
    return found


def named_names(text: str) -> dict[str, str]:
    """Names by name."""
    try:
        pairs = [entry.rsplit("=", 1) for entry in text.split(",")]
        found = dict(pairs)
    except ValueError:
        raise ValueError(f"{text!r} is not NAME=NAME,NAME=NAME") from None
    _require_once(pairs)
    return found


def layer_names(text: str) -> tuple[str, ...] | str:
    """Names of layers, or the word "parts"."""
    return text if text == "parts" else tuple(text.split(","))


def sizes(text: str) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    """Sizes of the one input, or of several by name."""
    try:
        if "=" not in text:
            return tuple(int(size) for size in text.split(","))
        pairs = [entry.rsplit("=", 1) for entry in text.split(";")]
        found = {name: tuple(int(size) for size in rest.split(",")) for name, rest in pairs}
    except ValueError:
        raise ValueError(
            f"{text!r} is neither SIZE,SIZE,... nor INPUT=SIZE,SIZE,...;INPUT=SIZE,..."
        ) from None
    _require_once(pairs)
    return found


def require_file(path: Path) -> None:
    """Raises ValueError where there is no such file, before anything slow is loaded."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file is needed")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")


#: Options that several commands have.
Model = Annotated[
    Path, Parameter(help="The float model: .keras, .h5 or a SavedModel.", metavar="MODEL")
]
File = Annotated[Path, Parameter(help="A TensorFlow Lite file.", metavar="F.tflite")]
InputKey = Annotated[
    str | None,
    Parameter(
        help="Array of inputs in .npz files; by default the first that is not the labels.",
        metavar="NAME",
    ),
]
LabelKey = Annotated[
    str | None, Parameter(help="Array of labels in .npz files; by default y.", metavar="NAME")
]
Json = Annotated[bool, Parameter(help="Print the result as JSON.", show_default=False)]
Target = Annotated[str, one_of(TARGETS, "Where the file is to run:")]

Verbose = Annotated[
    int,
    typed(
        _verbosity,
        metavar="0|1|2",
        help="0: say nothing but results and warnings; 1: bars for what takes long; 2: a line a "
        "stage, for logs.",
    ),
]
