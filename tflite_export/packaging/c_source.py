"""A file as C++ sources for TensorFlow Lite Micro: bytes, operators, memory, scales.

`model.h` and `model.cc` need nothing but a compiler; `ops.h` needs TFLM's headers.
"""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tflite_export.file.atomic import write_atomically
from tflite_export.file.damage import names_damage
from tflite_export.file.reader import content_of, parse
from tflite_export.file.stored import StoredModel, StoredTensor
from tflite_export.packaging import templates
from tflite_export.packaging.memory import MemoryBudget, memory_budget
from tflite_export.runtimes.programs import run_program
from tflite_export.targets import capabilities

#: Compilers in the order of preference: the target's own, then this computer's.
_COMPILERS = ("arm-none-eabi-g++", "arm-none-eabi-gcc", "g++", "clang++")
_COMPILER_SECONDS = 300
_BYTES_PER_LINE = 12
_ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class CSource:
    """Written sources.

    Attributes:
        files: model.h, model.cc, ops.h, README.md.
        operators: resolver methods that the model needs, e.g. "AddConv2D".
        arena_bytes: tensor arena measured in TFLM on this computer, aligned.
        flash_bytes: of the model array; the code of the operators comes on top.
        memory: both, part by part.
        compiled_by: compiler that accepted model.cc, or None where none is installed.
    """

    folder: Path
    files: tuple[Path, ...]
    operators: tuple[str, ...]
    arena_bytes: int
    flash_bytes: int
    memory: MemoryBudget
    compiled_by: str | None


@names_damage
def write_c_source(
    model: str | Path | bytes, folder: str | Path, *, namespace: str = "model"
) -> CSource:
    """Writes a C++ source package of a `.tflite` file.

    Args:
        model: path or content of the file.
        folder: created if needed; files of the same names are replaced.
        namespace: C++ namespace of all names.

    Raises:
        ValueError: TFLM does not run the file, an operator has no resolver method, `namespace` is
            not a C++ name, or the compiler refuses the sources.
        RuntimeUnavailableError: TFLM, which measures the arena, is not installed.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", namespace):
        raise ValueError(f"namespace {namespace!r} is not a C++ name; use letters, digits and _")
    content = content_of(model)
    stored = parse(content)
    operators = resolver_methods(stored)
    memory = memory_budget(content)
    arena = -(-memory.arena.total // _ALIGNMENT) * _ALIGNMENT
    texts = {
        "model.h": _header(stored, namespace, arena),
        "model.cc": _array(content, namespace),
        "ops.h": _operators_header(operators, namespace),
        "README.md": _readme(stored, operators, namespace, arena, len(content)),
    }
    compiler = _checked(texts)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / name for name in texts)
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text.encode("utf-8"))
    return CSource(folder, files, operators, arena, len(content), memory, compiler)


def resolver_methods(model: StoredModel) -> tuple[str, ...]:
    """Methods of TFLM's MicroMutableOpResolver that register a model's operators, sorted."""
    return tuple(sorted({_method(operator.kind) for operator in model.operators}))


def _method(kind: str) -> str:
    methods = capabilities("microcontroller").resolver_methods
    if kind in methods:
        return f"Add{methods[kind]}"
    if kind.startswith("CUSTOM"):
        raise ValueError(
            f"operator {kind} is a custom one that TFLM does not bring; "
            f"known are {', '.join(name for name in methods if name.startswith('CUSTOM'))}"
        )
    return "Add" + "".join(_camel_case(kind.split("_")))


def _camel_case(parts: Iterable[str]) -> list[str]:
    """CONV_2D is Conv2D, RELU6 is Relu6."""
    return [part if part[0].isdigit() else part.capitalize() for part in parts]


def _checked(texts: Mapping[str, str]) -> str | None:
    """Compiles the sources that need no headers of others, before anything is written."""
    with tempfile.TemporaryDirectory() as name:
        for file, text in texts.items():
            Path(name, file).write_text(text, encoding="utf-8")
        return check_syntax(Path(name, "model.cc"))


def check_syntax(source: Path) -> str | None:
    """Name of the compiler that accepted a source, None where there is no compiler.

    Raises:
        ValueError: the compiler refuses it.
    """
    compiler = next((name for name in _COMPILERS if shutil.which(name)), None)
    if compiler is None:
        return None
    # Freestanding: the compiler's own headers are enough, a C++ library may be missing.
    command = [compiler, "-fsyntax-only", "-ffreestanding", "-std=c++17", "-Wall", "-Wextra"]
    command += ["-Werror", str(source)]
    finished = run_program(
        command,
        name=compiler,
        seconds=_COMPILER_SECONDS,
        file_bytes=source.stat().st_size,
    )
    if finished.returncode:
        raise ValueError(f"{compiler} refuses {source}: {finished.stderr.strip()[:300]}")
    return compiler


def _array(content: bytes, namespace: str) -> str:
    rows = [
        ", ".join(f"0x{byte:02x}" for byte in content[start : start + _BYTES_PER_LINE])
        for start in range(0, len(content), _BYTES_PER_LINE)
    ]
    data = ",\n".join(f"    {row}" for row in rows)
    return templates.SOURCE.format(namespace=namespace, alignment=_ALIGNMENT, data=data)


def _header(model: StoredModel, namespace: str, arena: int) -> str:
    return templates.HEADER.format(
        namespace=namespace,
        guard=f"{namespace.upper()}_MODEL_H_",
        arena=arena,
        inputs=_endpoints(model, model.inputs, model.input_names),
        input_count=len(model.inputs),
        outputs=_endpoints(model, model.outputs, model.output_names),
        output_count=len(model.outputs),
    )


def _endpoints(model: StoredModel, indices: Sequence[int], names: Sequence[str]) -> str:
    lines = [
        f'    {{"{_escaped(name)}", {_scale(tensor)}f, {tensor.offset}, {math.prod(tensor.shape)}}}'
        for name, tensor in zip(names, (model.tensors[i] for i in indices), strict=True)
    ]
    return ",\n".join(lines)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')


def _scale(tensor: StoredTensor) -> str:
    """Nine digits are any float32 exactly; 0 says that the tensor is not quantized."""
    return "0.0" if tensor.scale is None else f"{float(tensor.scale[0]):.9e}"


def _operators_header(operators: Sequence[str], namespace: str) -> str:
    calls = "\n".join(templates.CALL.format(method=method) for method in operators)
    return templates.OPERATORS.format(
        namespace=namespace,
        guard=f"{namespace.upper()}_OPS_H_",
        count=len(operators),
        calls=textwrap.indent(calls, "  "),
    )


def _readme(
    model: StoredModel, operators: Sequence[str], namespace: str, arena: int, size: int
) -> str:
    rows = [
        f"| {role} | {name} | {tensor.type} | {'x'.join(map(str, tensor.shape))} "
        f"| {_scale(tensor)} | {tensor.offset} |"
        for role, indices, names in (
            ("input", model.inputs, model.input_names),
            ("output", model.outputs, model.output_names),
        )
        for name, tensor in zip(names, (model.tensors[i] for i in indices), strict=True)
    ]
    return templates.README.format(
        namespace=namespace,
        size=size,
        arena=arena,
        operators=", ".join(operators),
        endpoints="\n".join(rows),
    )
