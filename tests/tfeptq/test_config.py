"""Configuration is checked before any work."""

from __future__ import annotations

import pytest

from tfeptq.config import QuantizationConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 1}, "weight_bits=1"),
        ({"weight_bits": True}, "weight_bits=True"),
        ({"weight_bits": {"conv": 9}}, r"weight_bits\['conv'\]=9"),
        ({"activation_bits": 9}, r"activation_bits=9.*allowed are 4, 5, 6, 7, 8, 16"),
        ({"activation_bits": 3}, "activation_bits=3"),
        ({"activation_bits": {"conv": 12}}, r"activation_bits\['conv'\]=12"),
        ({"first_last_bits": 1}, "first_last_bits=1"),
        ({"target": "phone"}, "allowed are android, coral, ethos-u, microcontroller"),
        ({"threshold": "best"}, "allowed are hmse, mse, max"),
        ({"rounding": "up"}, "allowed are eptq, optq, nearest"),
        ({"steps": 0}, "steps=0"),
        ({"samples": 2.5}, "samples=2.5"),
    ],
)
def test_bad_settings_are_named_with_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**settings)


def test_configuration_round_trips():
    config = QuantizationConfig(
        weight_bits={"conv": 3}, activation_bits={"conv": 16}, target="coral", first_last_bits=None
    )
    assert QuantizationConfig.from_config(config.get_config()) == config
