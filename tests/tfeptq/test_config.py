"""Configuration is checked before any work."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tfeptq.config import QuantizationConfig
from tfeptq.goals import Budget


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
        ({"threshold": "best"}, "allowed are output, hmse, mse, max"),
        ({"rounding": "up"}, "allowed are eptq, optq, nearest"),
        ({"steps": 0}, "steps=0"),
        ({"samples": 2.5}, "samples=2.5"),
        ({"stage_samples": 64}, r"stage_samples=64 must be a tfeptq.StageSamples or \{stage"),
        ({"stage_samples": {"pairterms": 4}}, "did you mean 'pair_terms'"),
        ({"stage_samples": {"pair_terms": 0}}, "stage_samples: pair_terms=0 must be a whole"),
        ({"weight_bits": "4"}, "weight_bits='4' is not a width.*not text"),
        ({"weight_bits": {2, 4}}, "neither a width, nor a tuple of candidates"),
        ({"weight_bits": np.zeros(3)}, r"an array of shape \(3,\) and dtype float64 is neither"),
        ({"weight_bits": {0: 4}}, "key 0: keys are names of layers"),
        ({"weight_bits": 4.0}, "weight_bits=4.0"),
        ({"first_last_bits": "none"}, "first_last_bits='none'"),
        ({"target": "edgetpu"}, "did you mean 'coral'"),
        ({"target": "Edge TPU"}, "did you mean 'coral'"),
        ({"target": "esp32-s3"}, "did you mean 'microcontroller'"),
        ({"target": "tflm"}, "did you mean 'microcontroller'"),
        ({"target": "microcontroler"}, "did you mean 'microcontroller'"),
        ({"target": "ethos_u"}, "did you mean 'ethos-u'"),
        ({"target": "Ethos-U55"}, "did you mean 'ethos-u'"),
        ({"target": "iOS"}, "did you mean 'android'"),
        ({"target": ["android"]}, r"target=\['android'\] is unknown"),
        ({"target": np.array(["android", "coral"])}, "target=an array of shape"),
        ({"rounding": "gptq"}, "did you mean 'optq'"),
        ({"steps": "2000"}, "steps='2000' must be a whole number of at least 1, not text"),
        ({"batch_size": -3}, "batch_size=-3"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number from 0 to 2147483647"),
        ({"seed": None}, "seed=None"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"bias_correction": "no"}, "bias_correction='no' must be True or False"),
        ({"train_scales": 1}, "train_scales=1 must be True or False"),
        ({"ordered_widths": None}, "ordered_widths=None must be True or False"),
        ({"learning_rate": 0}, "learning_rate=0 must be a positive number"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"learning_rate": float("nan")}, "learning_rate=nan"),
        ({"rounding_learning_rate": float("inf")}, "rounding_learning_rate=inf"),
        ({"rounding_learning_rate": "0.1"}, "rounding_learning_rate='0.1'.*not text"),
        ({"regularization": -1.0}, "regularization=-1.0 must be a number of at least 0"),
        ({"output_loss": float("nan")}, "output_loss=nan"),
        ({"augmentation": lambda x: x}, "must be a Keras layer"),
        ({"measured_moves": -1}, "measured_moves=-1"),
        ({"budget": {"weight_bytes": 3}}, r"must be a tfeptq\.Budget, or None"),
        ({"accuracy_target": 0.99}, r"accuracy_target=0.99 must be a tfeptq\.AccuracyTarget"),
    ],
)
def test_bad_settings_are_named_with_what_is_allowed(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizationConfig(**settings)


def test_numbers_of_numpy_are_numbers_and_become_plain_ones():
    config = QuantizationConfig(
        weight_bits=(np.int64(4), np.uint8(2)),
        activation_bits=np.int32(16),
        first_last_bits=np.int64(8),
        steps=np.int64(10),
        batch_size=np.int8(4),
        samples=np.uint16(60),
        stage_samples={"pair_terms": np.int64(7)},
        seed=np.int64(3),
        learning_rate=np.float32(0.5),
        output_loss=np.int64(0),
        bias_correction=np.bool_(False),
        budget=Budget(weight_bytes=np.int64(9_000), latency_ms=None),
    )
    assert config.weight_bits == (2, 4)
    assert json.loads(json.dumps(config.get_config()))["budget"]["weight_bytes"] == 9_000
    assert QuantizationConfig.from_config(config.get_config()) == config


def test_stored_settings_of_another_version_are_named():
    with pytest.raises(ValueError, match=r"setting='step' is unknown.*did you mean 'steps'"):
        QuantizationConfig.from_config({"step": 3})


def test_configuration_round_trips():
    config = QuantizationConfig(
        weight_bits={"conv": 3}, activation_bits={"conv": 16}, target="coral", first_last_bits=None
    )
    assert QuantizationConfig.from_config(config.get_config()) == config
