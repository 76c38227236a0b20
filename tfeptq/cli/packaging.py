"""`tfeptq package`: a file with the tools of its target."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfeptq.config import TARGETS
from tfeptq.options import add_choice
from tflite_export.file.atomic import require_folder, write_atomically

if TYPE_CHECKING:
    from tflite_export.packaging import CSource, VelaReport

DONE, NO = 0, 1
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


def add_package(commands: Any) -> None:
    """Adds the command to a parser's subcommands."""
    parser = commands.add_parser(
        "package", help="C++ sources, look-up tables, Vela: a file with its target's tools"
    )
    parser.add_argument("file", type=Path, metavar="F.tflite")
    add_choice(parser, "--target", TARGETS, required=True)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for what is written")
    parser.add_argument(
        "--compress", action="store_true", help="microcontroller: weights as look-up tables"
    )
    parser.add_argument("--accelerator", default="ethos-u55-128", metavar="NAME", help="ethos-u")
    parser.add_argument("--system-config", metavar="NAME", help="ethos-u: of Vela's configuration")
    parser.add_argument("--memory-mode", metavar="NAME", help="ethos-u: of Vela's configuration")
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="L.txt",
        help="android, coral: class names, one a line; writes an image classifier with metadata",
    )
    for name, default in (("mean", 0.0), ("std", 1.0)):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar="R",
            help=f"with --labels: of the pixels that the model was trained on ({default:g})",
        )
    parser.add_argument("--json", action="store_true")
    defaults = {name: parser.get_default(name) for name in _TAKEN_BY}
    parser.set_defaults(command=_package, defaults=defaults)


def _package(options: argparse.Namespace) -> int:
    _require_taken(options)
    if options.output is not None:
        require_folder("--output", options.output)
        options.output.mkdir(parents=True, exist_ok=True)
    return _BY_TARGET[options.target](options)


def _require_taken(options: argparse.Namespace) -> None:
    """Refuses options that the target would ignore."""
    defaults = options.defaults.items()
    given = [name for name, default in defaults if getattr(options, name) != default]
    for name in given:
        if options.target not in _TAKEN_BY[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --target {' or '.join(_TAKEN_BY[name])}, "
                f"received --target {options.target}"
            )
    if options.labels is None:
        unused = [f"--{name}" for name in _WITH_LABELS if name in given]
        if unused and options.target in _TAKEN_BY["labels"]:
            raise ValueError(
                f"--target {options.target} writes nothing without --labels, which "
                f"{' and '.join(unused)} would be for: give both or neither"
            )


def _for_android(options: argparse.Namespace) -> int:
    from tflite_export.targets.android import android_report

    if options.labels is not None:
        return _classifier(options)
    report = android_report(options.file)
    if options.json:
        _print_json(report)
        return DONE
    delegation, latency = report.delegation, report.latency
    print(
        f"XNNPACK takes {delegation.delegated} of {delegation.operators} operators in "
        f"{delegation.partitions} parts; left: {', '.join(delegation.left) or 'none'}"
    )
    print(f"{latency.minimum:.3f} ms (median {latency.median:.3f}) on one thread of this computer")
    for obstacle in report.tflite_runtime_obstacles or ("no known obstacle",):
        print(f"tflite-runtime 2.14: {obstacle}")
    for warning in report.warnings:
        print(f"warning: {warning}")
    return DONE


def _classifier(options: argparse.Namespace) -> int:
    from tflite_export.packaging import write_image_classifier

    if options.output is None:
        raise ValueError("--labels writes a file: give --output DIR")
    if not options.labels.is_file():
        raise ValueError(f"{options.labels}: no such file")
    labels = options.labels.read_text("utf-8").splitlines()
    stem = options.file.stem
    path = options.output / f"{stem}_classifier.tflite"
    made = write_image_classifier(
        options.file, path, labels=labels, mean=options.mean, std=options.std
    )
    beside = None
    if options.target == "coral":
        beside = options.output / f"{stem}_labels.txt"
        write_atomically(beside, "".join(f"{label}\n" for label in labels).encode("utf-8"))
    if options.json:
        _print_json(made)
        return DONE
    print(f"{made.path}: {made.size_bytes} bytes, uint8 pixels in, {made.labels} labels")
    if beside is not None:
        print(
            f"{beside}: the same labels for PyCoral; edgetpu_compiler writes the file anew, so do "
            "not rely on it to keep the metadata"
        )
    return DONE


def _for_boards(options: argparse.Namespace) -> int:
    from tflite_export.packaging import compress, write_c_source

    if options.output is None:
        raise ValueError("--target microcontroller writes sources: give --output DIR")
    source = options.file
    if options.compress:
        source = options.output / "model.tflite"
        packed = compress(options.file, source)
    package = write_c_source(source, options.output)
    if options.json:
        _print_json(package)
    else:
        if options.compress:
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


def _for_ethos_u(options: argparse.Namespace) -> int:
    from tflite_export.packaging import vela_report

    compiled = options.output / f"{options.file.stem}_vela.tflite" if options.output else None
    report = vela_report(
        options.file,
        accelerator=options.accelerator,
        system_config=options.system_config,
        memory_mode=options.memory_mode,
        output=compiled,
    )
    if options.json:
        _print_json(report)
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


def _for_coral(options: argparse.Namespace) -> int:
    if options.labels is not None:
        return _classifier(options)
    raise ValueError(
        "--target coral takes the file as it is: compile it with edgetpu_compiler; `tfeptq check "
        "--target coral` lists known blockers, --labels writes an image classifier"
    )


def _print_json(report: Any) -> None:
    print(json.dumps(dataclasses.asdict(report), default=os.fspath))


_BY_TARGET = {
    "android": _for_android,
    "coral": _for_coral,
    "ethos-u": _for_ethos_u,
    "microcontroller": _for_boards,
}
