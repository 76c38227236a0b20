"""`tfeptq package`: a file with the tools of its target."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tfeptq.cli.exit_codes import DONE, NO
from tfeptq.cli.own_files import require_kept
from tfeptq.cli.results import print_json
from tfeptq.cli.values import File, Json, Target, require_file
from tfeptq.config import TARGETS
from tflite_export.file.atomic import require_folder
from tflite_export.file.text import text_of

if TYPE_CHECKING:
    from tflite_export.packaging import CSource, VelaReport

#: Option -> targets that do something with it.
_TAKEN_BY = {
    "compress": ("microcontroller",),
    "accelerator": ("ethos-u",),
    "system_config": ("ethos-u",),
    "memory_mode": ("ethos-u",),
    "labels": ("android", "coral"),
    "mean": ("android", "coral"),
    "std": ("android", "coral"),
    "output": TARGETS,
}
#: Of these, what only says something about labels or what they make.
_WITH_LABELS = ("output", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a target's tools are told.

    Attributes:
        output: Folder for what is written.
        compress: For microcontroller: weights as look-up tables.
        accelerator: For ethos-u: its name, as Vela has it.
        system_config: For ethos-u: of Vela's configuration.
        memory_mode: For ethos-u: of Vela's configuration.
        labels: For android and coral: class names, one a line; writes an image classifier that
            takes pixels as bytes, for android with metadata.
        mean: With --labels: of the pixels that the model was trained on.
        std: With --labels: standard deviation of these pixels.
    """

    output: Annotated[Path | None, Parameter(metavar="DIR")] = None
    compress: bool = False
    accelerator: Annotated[str, Parameter(metavar="NAME")] = "ethos-u55-128"
    system_config: Annotated[str | None, Parameter(metavar="NAME")] = None
    memory_mode: Annotated[str | None, Parameter(metavar="NAME")] = None
    labels: Annotated[Path | None, Parameter(metavar="L.txt")] = None
    mean: Annotated[float, Parameter(metavar="R")] = 0.0
    std: Annotated[float, Parameter(metavar="R")] = 1.0


@dataclasses.dataclass(frozen=True)
class _Job:
    file: Path
    target: str
    options: Options
    json: bool


def package(
    file: File,
    /,
    *,
    target: Target,
    options: Annotated[Options | None, Parameter(name="*")] = None,
    json: Json = False,
) -> int:
    """C++ sources, look-up tables, Vela, metadata: a file with its target's tools."""
    job = _Job(file, target, options or Options(), json)
    _require_taken(job)
    if job.options.output is not None:
        require_folder("--output", job.options.output)
        job.options.output.mkdir(parents=True, exist_ok=True)
    return _BY_TARGET.get(target, _as_it_is)(job)


def _require_taken(job: _Job) -> None:
    """Refuses options that the target would ignore."""
    fields = dataclasses.fields(Options)
    given = [f.name for f in fields if getattr(job.options, f.name) != f.default]
    for name in given:
        if job.target not in _TAKEN_BY[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --target {' or '.join(_TAKEN_BY[name])}, "
                f"received --target {job.target}"
            )
    if job.options.labels is None:
        unused = [f"--{name}" for name in _WITH_LABELS if name in given]
        if unused and job.target in _TAKEN_BY["labels"]:
            raise ValueError(
                f"--target {job.target} writes nothing without --labels, which "
                f"{' and '.join(unused)} would be for: give both or neither"
            )


def _new(job: _Job, name: str) -> Path:
    """The path of a file to write, which is none of those that are read."""
    assert job.options.output is not None
    path = job.options.output / name
    require_kept((job.file, job.options.labels), {"--output": path})
    return path


def _for_android(job: _Job) -> int:
    from tflite_export.targets.android import android_report

    if job.options.labels is not None:
        return _classifier(job)
    report = android_report(job.file)
    if job.json:
        print_json(report)
        return DONE
    delegation, latency = report.delegation, report.latency
    print(
        f"XNNPACK takes {delegation.delegated} of {delegation.operators} operators in "
        f"{delegation.partitions} parts; left: {', '.join(delegation.left) or 'none'}"
    )
    print(f"{latency.minimum:.3f} ms (median {latency.median:.3f}) on one thread of this computer")
    if report.latency_in_bytes is not None:
        print(
            f"{report.latency_in_bytes.minimum:.3f} ms with a byte a weight: packed 4-bit weights "
            f"make it {report.slower_by:.1f} times slower; bound --max-latency-ms to avoid that"
        )
    for obstacle in report.tflite_runtime_obstacles or ("no known obstacle",):
        print(f"tflite-runtime 2.14: {obstacle}")
    for warning in report.warnings:
        print(f"warning: {warning}")
    return DONE


def _classifier(job: _Job) -> int:
    from tflite_export.packaging import write_image_classifier
    from tflite_export.packaging.image_classifier import LabelsError

    assert job.options.labels is not None
    if job.options.output is None:
        raise ValueError("--labels writes a file: give --output DIR")
    require_file(job.options.labels)
    labels = text_of(job.options.labels).rstrip().splitlines()
    path = _new(job, f"{job.file.stem}_classifier.tflite")
    with_metadata = job.target == "android"
    if not with_metadata:
        _new(job, f"{path.stem}.labels.txt")
    try:
        made = write_image_classifier(
            job.file,
            path,
            labels=labels,
            mean=job.options.mean,
            std=job.options.std,
            metadata=with_metadata,
        )
    except LabelsError as error:
        raise ValueError(f"{job.options.labels}: {error}") from error
    if job.json:
        print_json(made)
        return DONE
    print(f"{made.path}: {made.size_bytes} bytes, uint8 pixels in, {made.labels} labels")
    if not with_metadata:
        print(f"{path.with_suffix('.labels.txt')}: the labels, which edgetpu_compiler would drop")
    return DONE


def _for_boards(job: _Job) -> int:
    from tflite_export.packaging import compress, write_c_source

    if job.options.output is None:
        raise ValueError("--target microcontroller writes sources: give --output DIR")
    source = job.file
    if job.options.compress:
        source = _new(job, "model.tflite")
        packed = compress(job.file, source)
    package = write_c_source(source, job.options.output)
    if job.json:
        print_json(package)
    else:
        if job.options.compress:
            print(f"look-up tables for {len(packed.tensors)} tensors")
            print(f"flash {packed.size_bytes_before} to {packed.size_bytes} bytes")
            print(f"arena {packed.arena_bytes_before} to {packed.arena_bytes} bytes")
        _show_sources(package)
    return DONE


def _show_sources(package: CSource) -> None:
    print(f"{package.folder}: {', '.join(file.name for file in package.files)}")
    memory = package.memory
    print(
        f"flash: {package.flash_bytes} bytes: weights {memory.weights}, biases {memory.biases}, "
        f"scales and zero points {memory.parameters}, structure {memory.structure}"
    )
    print(f"and the code of {len(package.operators)} operators: {', '.join(package.operators)}")
    print(
        f"RAM: tensor arena of {package.arena_bytes} bytes: activations and scratch "
        f"{memory.arena.reused}, persistent {memory.arena.persistent}"
    )
    if package.compiled_by:
        print(f"model.cc compiles with {package.compiled_by}; ops.h needs TFLM's headers")
    else:
        print("no C++ compiler on the PATH: the sources were not compiled")


def _for_ethos_u(job: _Job) -> int:
    from tflite_export.packaging import vela_report

    compiled = _new(job, f"{job.file.stem}_vela.tflite") if job.options.output else None
    report = vela_report(
        job.file,
        accelerator=job.options.accelerator,
        system_config=job.options.system_config,
        memory_mode=job.options.memory_mode,
        output=compiled,
    )
    if job.json:
        print_json(report)
    else:
        _show_vela(report)
    return DONE if report.ok else NO


def _show_vela(report: VelaReport) -> None:
    print(f"{report.accelerator}, {report.system_config}, {report.memory_mode}")
    print(f"flash {report.flash_bytes} bytes, SRAM {report.sram_bytes} bytes")
    milliseconds = 1000 * (report.inference_seconds or 0)
    print(f"{report.cycles} cycles, {milliseconds:.3f} ms by Vela's estimate")
    for warning in report.assumptions:
        print(f"Vela: {warning}")
    for finding in report.cpu_operators:
        print(f"{finding.operator}: {finding.rule}; {finding.advice}")
    if report.ok:
        print("all operators run on the NPU")


def _for_coral(job: _Job) -> int:
    if job.options.labels is not None:
        return _classifier(job)
    raise ValueError(
        "--target coral takes the file as it is: compile it with edgetpu_compiler; `tfeptq check "
        "--target coral` lists known blockers, --labels writes an image classifier"
    )


def _as_it_is(job: _Job) -> int:
    raise ValueError(f"--target {job.target} has no tools of its own: it takes the file as it is")


#: Targets with tools of their own.
_BY_TARGET = {
    "android": _for_android,
    "coral": _for_coral,
    "ethos-u": _for_ethos_u,
    "microcontroller": _for_boards,
}
