"""Budgets, accuracy targets and candidates are checked before any work."""

from __future__ import annotations

import pytest

import tfeptq
from tfeptq.config import QuantizationConfig
from tfeptq.goals import AccuracyTarget, Budget


def metric(model):
    return 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one of weight_bytes, activation_bytes, bit_operations, latency_ms"),
        ({"weight_bytes": 0}, "weight_bytes=0 must be a positive number"),
        ({"bit_operations": True}, "bit_operations=True"),
        ({"weight_bytes": float("nan")}, "weight_bytes=nan"),
        ({"weight_bytes": float("inf")}, "weight_bytes=inf"),
        ({"weight_bytes": -5}, "weight_bytes=-5"),
        ({"activation_bytes": "64k"}, "activation_bytes='64k'.*not text"),
        ({"latency_table": 3}, "latency_table=3 must be the path"),
        ({"weight_bytes": 9, "compressed": "yes"}, "compressed='yes' must be True or False"),
    ],
)
def test_bad_budgets(settings, message):
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


@pytest.mark.parametrize("relative", [0.0, 1.1, True, "0.99", float("nan"), -0.5, 99])
def test_bad_accuracy_targets(relative):
    with pytest.raises(ValueError, match="relative="):
        AccuracyTarget(metric, relative)


@pytest.mark.parametrize(
    "settings", [{"search": "random"}, {"search_steps": -1}, {"search_steps": 1.5}, {"cost": "ram"}]
)
def test_bad_searches(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AccuracyTarget(metric, **settings)


def test_a_metric_must_be_a_function():
    with pytest.raises(ValueError, match="function from a Keras model"):
        AccuracyTarget("accuracy")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": ()}, "holds no candidate"),
        ({"weight_bits": (2, 9)}, r"weight_bits\[1\]=9"),
        ({"weight_bits": 4, "budget": Budget(weight_bytes=9)}, "budget needs widths to choose"),
        ({"weight_bits": {"a": 4}, "accuracy_target": AccuracyTarget(metric)}, "accuracy_target"),
        (
            {"weight_bits": (2, 4), "target": "coral", "budget": Budget(latency_ms=2.0)},
            r"latency_ms needs the times of layers.*target 'coral' \(only for android\)",
        ),
        (
            {
                "weight_bits": (2, 4),
                "target": "ethos-u",
                "accuracy_target": AccuracyTarget(metric, 0.9, cost="latency_ms"),
            },
            "latency_ms needs the times of layers.*target 'ethos-u'",
        ),
        ({"weight_bits": (2, 4), "budget": 60_000}, r"budget=60000 must be a tfeptq\.Budget"),
        (
            {"weight_bits": (2, 4), "budget": Budget(weight_bytes=9, compressed=True)},
            "target 'microcontroller' only, not 'android'",
        ),
        ({"sensitivity": "magic"}, "allowed are label_free, hawq_v2, inter_layer"),
    ],
)
def test_bad_configurations(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**settings)


def test_candidates_are_ascending_without_repeats():
    assert QuantizationConfig(weight_bits=[8, 2, 4, 2]).weight_bits == (2, 4, 8)


def test_a_budget_survives_serialization():
    config = QuantizationConfig(weight_bits=(2, 4), budget=tfeptq.Budget(weight_bytes=60_000))
    assert QuantizationConfig.from_config(config.get_config()) == config


def test_the_metric_of_an_accuracy_target_is_stored_by_name_and_asked_for_again():
    config = QuantizationConfig(weight_bits=(2, 4), accuracy_target=AccuracyTarget(metric, 0.98))
    stored = config.get_config()
    assert stored["accuracy_target"] == {
        "metric": "metric",
        "relative": 0.98,
        "search_steps": 0,
        "search": "frontier",
        "cost": "weight_bytes",
    }
    with pytest.raises(ValueError, match="pass a new AccuracyTarget"):
        QuantizationConfig.from_config(stored)


def test_milliseconds_without_a_table_are_those_of_the_package():
    assert Budget(latency_ms=2.0).latency_table == "host"
    assert Budget(latency_ms=2.0, latency_table="t.csv").latency_table == "t.csv"
    goal = AccuracyTarget(metric, 0.9, cost="latency_ms")
    for budget in (None, Budget(weight_bytes=9)):
        config = QuantizationConfig(weight_bits=(2, 4), budget=budget, accuracy_target=goal)
        assert config.budget.latency_table == "host"
        assert config.budget.limits == ({"weight_bytes": 9} if budget else {})
