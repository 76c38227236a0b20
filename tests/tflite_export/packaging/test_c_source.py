"""The C++ source package: it compiles, holds the file's bytes, and registers its operators."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess

import numpy as np
import pytest

from tests.tflite_export.random_operators import random_graph
from tests.tflite_export.weighted_layers import convolution
from tflite_export.file.reader import parse
from tflite_export.file.writer import write
from tflite_export.graph.kinds import known
from tflite_export.packaging import c_source, write_c_source

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tflite_micro") is None,
    reason="tflite-micro is not installed (extra 'microcontroller')",
)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on the PATH")
#: Stands in for TFLM's header: the same interface, no operators.
RESOLVER = """
#pragma once
enum TfLiteStatus {{ kTfLiteOk, kTfLiteError }};
namespace tflite {{
template <unsigned int> struct MicroMutableOpResolver {{
{methods}
}};
}}
"""
PROGRAM = """
#include <cstdint>
#include <cstdio>
#include "model.h"
#include "ops.h"
int main() {
  model::Resolver resolver;
  if (model::RegisterOperators(resolver) != kTfLiteOk) return 1;
  for (std::size_t i = 0; i < model::kModelBytes; ++i) std::putchar(model::kModel[i]);
  std::fprintf(stderr, "%zu %.9g %d %zu %.9g %d", model::kArenaBytes,
               double(model::kInputs[0].scale), int(model::kInputs[0].zero_point),
               model::kOutputs[0].elements, double(model::kOutputs[0].scale),
               int(reinterpret_cast<std::uintptr_t>(model::kModel) % 16));
}
"""


@needs_compiler
def test_a_program_made_of_the_sources_holds_the_model(tmp_path):
    content = write(convolution(), {"w": "int4"})
    package = write_c_source(content, tmp_path)
    assert {file.name for file in package.files} == {"model.h", "model.cc", "ops.h", "README.md"}
    assert package.operators == ("AddConv2D",)
    assert package.flash_bytes == len(content)
    assert package.compiled_by in ("arm-none-eabi-g++", "arm-none-eabi-gcc", "g++")
    header = tmp_path / "tensorflow" / "lite" / "micro" / "micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    methods = "\n".join(f"TfLiteStatus {m}() {{ return kTfLiteOk; }}" for m in package.operators)
    header.write_text(RESOLVER.format(methods=methods))
    (tmp_path / "main.cc").write_text(PROGRAM)
    program = tmp_path / "program"
    sources = [str(tmp_path / name) for name in ("main.cc", "model.cc")]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path}"]
    subprocess.run(["g++", *flags, *sources, "-o", str(program)], check=True)
    finished = subprocess.run([program], capture_output=True, check=True)
    assert finished.stdout == content
    arena, scale, zero_point, elements, output_scale, offset = finished.stderr.decode().split()
    assert int(arena) == package.arena_bytes
    assert np.float32(scale) == np.float32(0.04)
    assert np.float32(output_scale) == np.float32(0.05)
    assert (int(zero_point), int(elements), int(offset)) == (3, 4 * 6 * 5, 0)


@needs_compiler
def test_the_sources_need_no_cpp_library(tmp_path):
    write_c_source(write(convolution(8)), tmp_path)
    command = ["g++", "-fsyntax-only", "-ffreestanding", "-nostdinc++", "-std=c++17"]
    subprocess.run([*command, str(tmp_path / "model.cc")], check=True)


def test_the_readme_says_what_the_board_needs(tmp_path):
    package = write_c_source(write(random_graph("SOFTMAX", "int8", 0)), tmp_path, namespace="net")
    text = (tmp_path / "README.md").read_text()
    assert f"{package.flash_bytes} bytes" in text
    assert f"{package.arena_bytes} bytes" in text
    assert "AddSoftmax" in text
    assert "net::kArenaBytes" in text


#: As TFLM's micro_mutable_op_resolver.h spells them.
METHODS = {
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "MAX_POOL_2D": "AddMaxPool2D",
    "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor",
    "RELU6": "AddRelu6",
    "PRELU": "AddPrelu",
    "LEAKY_RELU": "AddLeakyRelu",
    "HARD_SWISH": "AddHardSwish",
    "TRANSPOSE_CONV": "AddTransposeConv",
}


@pytest.mark.parametrize("kind", METHODS)
def test_operators_become_resolver_methods(kind):
    model = parse(write(random_graph(kind, "int8", 0)))
    assert c_source.resolver_methods(model) == (METHODS[kind],)


def test_the_names_of_all_operators_are_c_names():
    for kind in known():
        assert c_source._method(kind).isidentifier()


@needs_compiler
def test_a_compiler_that_refuses_is_quoted(tmp_path):
    source = tmp_path / "broken.cc"
    source.write_text("int x = ;")
    with pytest.raises(ValueError, match=r"refuses .*broken.cc"):
        c_source.check_syntax(source)


@needs_compiler
def test_sources_that_do_not_compile_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(c_source.templates, "SOURCE", "int {namespace}{alignment} = ;{data}")
    with pytest.raises(ValueError, match="refuses"):
        write_c_source(write(random_graph("ADD", "int8", 0)), tmp_path / "board")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(c_source.shutil, "which", lambda name: None)
    package = write_c_source(write(random_graph("ADD", "int8", 0)), tmp_path)
    assert package.compiled_by is None


@pytest.mark.parametrize("namespace", ["", "1x", "a-b", "a::b"])
def test_namespaces_that_are_no_names_are_refused(tmp_path, namespace):
    with pytest.raises(ValueError, match="not a C"):
        write_c_source(write(random_graph("ADD", "int8", 0)), tmp_path, namespace=namespace)
    assert list(tmp_path.iterdir()) == []
