"""Candidates, budgets, accuracy targets and the frontier as a user types them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.tfeptq import small_models
from tfeptq.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    model = small_models.chain()
    model.save(folder / "m.keras")
    images = small_models.images(120)
    np.savez(folder / "data.npz", x=images, y=model.predict(images, verbose=0).argmax(1))
    return folder


def arguments(folder, command, *options):
    data = str(folder / "data.npz")
    common = ["--calibration", data, "--samples", "32", "--target", "ethos-u"]
    return [command, str(folder / "m.keras"), *common, *options]


def quantize(folder, *options):
    output = ["--output", str(folder / "m.tflite"), "--rounding", "nearest", "--json"]
    return main(arguments(folder, "quantize", *output, *options))


def test_a_budget_gives_layers_their_own_widths(folder, capsys):
    options = ("--weight-bits", "2,3,4,8", "--max-weight-bytes", "200", "--first-last-bits", "none")
    assert quantize(folder, *options, "--sensitivity", "label_free") == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    widths = {layer["weight_bits"] for layer in layers if layer["weight_bits"]}
    assert len(widths) > 1


def test_a_minimal_accuracy_is_held(folder, capsys):
    validation = ("--validation", str(folder / "data.npz"))
    assert quantize(folder, "--weight-bits", "4,8", "--min-accuracy", "0.9", *validation) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["quantized Keras"]["value"] >= 0.9 * scores["float Keras"]["value"]


GOAL = ("--max-weight-bytes", "9999")
TRACES = ("--sensitivity", "hawq_v2", "--trace-loss")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weight-bits", "2,4"), "add --max-weight-bytes or --min-accuracy"),
        (("--weight-bits", "4", "--min-accuracy", "0.9"), "--min-accuracy needs candidates"),
        (("--weight-bits", "2,4", "--min-accuracy", "0.9"), "needs labelled data"),
        (("--weight-bits", "4", *GOAL), "budget needs widths to choose from"),
        (
            ("--weight-bits", "2,4", "--max-latency-ms", "9", "--target", "ethos-u"),
            "latency_ms needs the times",
        ),
        (("--weight-bits", "2,4", "--max-weight-bytes", "9"), "the smallest possible is"),
        (("--weight-bits", "2,4", *GOAL, "--trace-loss", "huber"), "'hawq_v2' alone"),
        (("--weight-bits", "2,4", *GOAL, *TRACES, "cats"), "cats"),
        (("--weight-bits", "2,4", *GOAL, *TRACES, "huber", "--label-key", "z"), "no array ['z']"),
        (("--weight-bits", "2;4", "--max-weight-bytes", "9"), "nor WIDTH,WIDTH"),
    ],
)
def test_bad_goals_are_one_line(folder, capsys, options, message):
    try:
        code = quantize(folder, *options)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("tfeptq: error: ")
    assert message in error


def test_the_search_steps_are_those_of_the_target(folder, capsys):
    goal = ("--min-accuracy", "0.9", "--validation", str(folder / "data.npz"))
    assert quantize(folder, "--weight-bits", "2,4", *goal, "--search-steps", "-1") == 2
    assert "search_steps=-1 must be a whole number of at least 0" in capsys.readouterr().err


def test_labels_of_the_calibration_data_choose_by_a_loss(folder, capsys):
    common = arguments(folder, "frontier", "--weight-bits", "2,8", "--sensitivity", "hawq_v2")
    losses = []
    for options in ((), ("--trace-loss", "sparse_categorical_crossentropy")):
        assert main([*common, *options, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)[0]["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_the_frontier_as_a_table_and_as_json(folder, capsys):
    common = arguments(folder, "frontier", "--weight-bits", "2,4,8", "--sensitivity", "label_free")
    assert main(common) == 0
    assert "undominated choices" in capsys.readouterr().out
    assert main([*common, "--cost", "bit_operations", "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert points[0]["costs"]["bit_operations"] < points[-1]["costs"]["bit_operations"]
    assert points[0]["loss"] > points[-1]["loss"]
    assert points[0]["widths"]["stem"] == 8


def test_the_frontier_against_measured_latencies(folder, capsys):
    table = folder / "ms.csv"
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    rows = [f"{kind},{bits},{10 - bits}" for kind in kinds for bits in (2, 8)]
    table.write_text("\n".join(["operator,bits,ms", *rows]))
    common = arguments(folder, "frontier", "--weight-bits", "2,8", "--cost", "latency_ms")
    assert main([*common, "--latency-table", str(table), "--json"]) == 0
    # Here narrow layers are slower: only the widest choice is undominated.
    points = json.loads(capsys.readouterr().out)
    assert [set(point["widths"].values()) for point in points] == [{8}]
    assert main(common) == 2
    assert "latency_ms needs the times" in capsys.readouterr().err
    # The package's own table: convolutions of 2 bits leave the fast kernels.
    on_android = ["android" if word == "ethos-u" else word for word in common]
    assert main([*on_android, "--json"]) == 0
    points = json.loads(capsys.readouterr().out)
    assert points[-1]["widths"] == dict.fromkeys(points[-1]["widths"], 8)
