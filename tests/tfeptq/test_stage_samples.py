"""Every stage looks at as many samples as its setting says, and at no hidden number of them."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import tfeptq
from tests.tfeptq import small_models
from tfeptq.checkpoint.steps import open_checkpoint
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.preparation import prepare
from tfeptq.stage_samples import DEFAULT_STAGES, StageSamples, first

ROOT = Path(tfeptq.__file__).parent
#: Different from each other, and fewer than there are samples.
FEW = StageSamples(**{f.name: 3 + i for i, f in enumerate(dataclasses.fields(StageSamples))})
BOUNDED = {
    "weight_bits": (2, 8),
    "first_last_bits": None,
    "budget": tfeptq.Budget(weight_bytes=10_000, activation_bytes=10**6),
}


def test_defaults_are_those_of_the_readme():
    expected = {
        "weight_scores": 64,
        "bias_correction": 256,
        "layer_by_layer": 1024,
        "rounding_errors": 256,
        "covariances": 512,
        "pair_terms": 512,
        "activation_traces": 256,
        "measured_moves": 256,
        "quality": 32,
    }
    assert dataclasses.asdict(DEFAULT_STAGES) == expected
    page = (ROOT.parent / "docs" / "guide" / "samples.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for name, count in expected.items():
        row = next(row for row in rows if f"`{name}`" in row)
        names = [part.strip(" `") for part in row.split("|")[1].split(",")]
        counts = [part.strip() for part in row.split("|")[-2].split(",")]
        assert dict(zip(names, counts, strict=True))[name] == str(count)


def test_some_stages_may_be_changed_and_the_others_stay():
    config = tfeptq.QuantizationConfig(stage_samples={"covariances": 9})
    assert config.stages == dataclasses.replace(DEFAULT_STAGES, covariances=9)
    assert tfeptq.QuantizationConfig.from_config(config.get_config()) == config
    assert tfeptq.QuantizationConfig(stage_samples=FEW).stages is FEW
    assert first(None, 5) == 5
    assert first(9, 5) == 5
    assert first(2, 5) == 2


@pytest.mark.parametrize(
    ("settings", "used"),
    [
        (
            {"rounding": "optq", **BOUNDED},
            {
                "weight scores": "weight_scores",
                "layer by layer": "layer_by_layer",
                "rounding errors": "covariances",
                "pair terms": "pair_terms",
                "measured moves": "measured_moves",
            },
        ),
        (
            {"rounding": "nearest", "sensitivity": "hawq_v2", **BOUNDED}
            | {"activation_bits": (4, 8)},
            {
                "bias correction": "bias_correction",
                "quality": "quality",
                "rounding errors": "covariances",
                "activation traces": "activation_traces",
            },
        ),
        (
            {"rounding": "nearest", "threshold": "hmse", "sensitivity": "hawq_v2", **BOUNDED},
            {"weight scores": "weight_scores", "rounding errors": "rounding_errors"},
        ),
    ],
)
def test_every_stage_follows_its_setting(settings, used):
    config = tfeptq.QuantizationConfig(samples=16, stage_samples=FEW, **settings)
    quantized = tfeptq.quantize(small_models.residual_network(), small_models.images(16), config)
    found = quantized.report.samples
    assert {stage: found[stage] for stage in used} == {
        stage: getattr(FEW, name) for stage, name in used.items()
    }
    assert found["ranges"] == 16


def test_what_is_kept_of_other_numbers_of_samples_is_not_taken(tmp_path):
    canonical = prepare(small_models.residual_network())
    samples = [small_models.images(8)]
    with open_checkpoint(tmp_path) as checkpoint:
        found = [
            FloatScores(canonical, samples, 0, checkpoint, stages=StageSamples(count)).weights
            for count in (4, 8, 4)
        ]
    for name in found[0]:
        assert not np.array_equal(found[0][name], found[1][name])
        np.testing.assert_array_equal(found[0][name], found[2][name])


def test_no_function_hides_a_limit():
    """Batches are computed one by one and change nothing; a `count` would.

    Comparing is no stage: how many samples it looks at is an argument of its own.
    """
    hidden = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.Lambda)):
                arguments = node.args
                named = [*arguments.posonlyargs, *arguments.args]
                pairs = [
                    *zip(reversed(named), reversed(arguments.defaults), strict=False),
                    *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
                ]
                hidden += [
                    f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'lambda')}"
                    for argument, default in pairs
                    if argument.arg in ("count", "samples", "limit_samples")
                    and isinstance(default, ast.Constant)
                    and isinstance(default.value, int)
                    and default.value > 2
                ]
    assert not [place for place in hidden if not place.endswith(": compare")]
