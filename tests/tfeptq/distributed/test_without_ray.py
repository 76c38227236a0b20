"""Ray is an extra: what says so, and what does without it."""

from __future__ import annotations

import os
import sys

import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.cli import main
from tfeptq.data.shares import mapped, shares, worker_count
from tfeptq.distributed import cluster


@pytest.fixture
def no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)


def test_what_to_install_is_said(no_ray):
    with pytest.raises(ModuleNotFoundError, match=r"pip install '\.\[distributed\]'"):
        tfeptq.distribute(workers=2)


def test_the_command_line_says_it_in_one_line(no_ray, tmp_path, capsys):
    model, samples = tmp_path / "m.keras", tmp_path / "x.npz"
    small_models.residual_network().save(model)
    samples.touch()
    command = ["quantize", str(model), "--calibration", str(samples), "--workers", "2"]
    assert main([*command, "--output", str(tmp_path / "m.tflite")]) == 2
    error = capsys.readouterr().err
    assert error == "tfeptq: error: tfeptq.distribute needs Ray: pip install '.[distributed]'\n"


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_workers_are_a_positive_number(workers, tmp_path, capsys):
    model, samples = tmp_path / "m.keras", tmp_path / "x.npz"
    small_models.residual_network().save(model)
    samples.touch()
    command = ["quantize", str(model), "--calibration", str(samples), "--workers", workers]
    assert main([*command, "--output", str(tmp_path / "m.tflite")]) == 2
    assert "whole number" in capsys.readouterr().err


def test_one_process_builds_once_and_goes_on_as_far_as_it_is_asked():
    built = []

    def build(first):
        built.append(first)
        return lambda item: first + item

    assert worker_count() == 1
    assert shares(7) == [range(7)]
    assert shares(0) == []
    assert list(mapped(build, {"first": 10}, range(3), "parts")) == [10, 11, 12]
    assert next(mapped(build, {"first": 20}, range(10**9), "parts")) == 20
    assert built == [10, 20]


@pytest.mark.parametrize("before", [None, "7"])
def test_the_environment_is_left_as_it_was(monkeypatch, before):
    """Ray that is started afterwards reads it too."""
    name = "TFEPTQ_TEST_VARIABLE"
    if before is not None:
        monkeypatch.setenv(name, before)
    with cluster._environment(name, "3"):
        assert os.environ[name] == "3"
    assert os.environ.get(name) == before
