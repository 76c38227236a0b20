"""The report as its reader gets it: one file, every layer, every proof."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import importlib.util
import json
import re

import keras
import numpy as np
import pytest

import tfeptq
import tflite_export
from tests.tfeptq import small_models
from tfeptq.cli.main import main
from tfeptq.quantization_report import QuantizationReport
from tfeptq.report.html import write_scored_report
from tfeptq.report.layer_facts import layer_facts

pytest.importorskip("jinja2", reason="extra 'report' is missing")
pytest.importorskip("plotly", reason="extra 'report' is missing")

BUDGET = 850


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A float model, what became of it within a budget, and its file."""
    model = small_models.residual_network()
    images = small_models.images(40)
    config = tfeptq.QuantizationConfig(
        weight_bits=(2, 4, 8),
        target="microcontroller",
        first_last_bits=None,
        rounding="nearest",
        sensitivity="label_free",
        samples=48,
        augmentation=keras.layers.RandomFlip("horizontal"),
        budget=tfeptq.Budget(weight_bytes=BUDGET),
    )
    quantized = tfeptq.quantize(model, images, config)
    path = tmp_path_factory.mktemp("report") / "m.tflite"
    return model, quantized, tflite_export.export(quantized, path, target=config.target)


@pytest.fixture(scope="module")
def text(work):
    model, quantized, result = work
    images = small_models.images(30, seed=2)
    labels = model.predict(images, verbose=0).argmax(1)
    path = tfeptq.write_report(
        result.path.with_suffix(".html"),
        quantized,
        result,
        model=model,
        validation_data=(images, labels),
    )
    return path.read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of every table row, without markup."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)
    cells = (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in found)
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells]


def test_every_operator_is_listed_with_its_width_and_its_proof(work, text):
    _, quantized, result = work
    header = next(row for row in rows(text) if row[:2] == ["layer", "operator"])
    by_name = {row[0]: row for row in rows(text) if len(row) == len(header)}
    assert set(by_name) == {"layer", *(layer.name for layer in result.layers)}
    for name, (bits, _) in quantized.bit_widths.items():
        if bits is not None:
            assert by_name[name][2] == str(bits)
    runtimes = [report for report in result.verification.runtimes if not report.skipped]
    assert header[-len(runtimes) :] == [report.runtime for report in runtimes]
    identical = sum(row[-len(runtimes)] == "identical" for row in by_name.values())
    assert identical == runtimes[0].exact_operators


def test_every_operator_has_its_range_and_its_distance_from_float(work, text):
    _, quantized, result = work
    quality = quantized.report.quality
    facts = {each.name: each for each in layer_facts(quantized, result)}
    assert set(facts) == {layer.name for layer in result.layers}
    lost = [each.lost or 0.0 for each in facts.values()]
    assert lost == sorted(lost, reverse=True)
    graph = quantized.freeze()
    for name, each in facts.items():
        tensor = graph.tensors[name]
        scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zero_point
        assert each.low == pytest.approx(scale * (-128 - zero_point))
        assert each.high == pytest.approx(scale * (127 - zero_point))
        assert each.sqnr == quality.layers.get(name)
        assert each.cosine is None or 0.5 < each.cosine <= 1.0 + 1e-6
    assert sum(each.cosine is not None for each in facts.values()) >= len(facts) - 1
    for layer in quantized.weighted_layers:
        assert np.abs(layer.integer_kernel()).max() <= facts[layer.name].threshold * (1 + 1e-6)
        bits = quantized.bit_widths[layer.name][0]
        assert (
            facts[layer.name].sensitivity == quantized.choice.sensitivity.losses[layer.name][bits]
        )


def test_the_json_file_says_the_same(work, text, tmp_path):
    _, quantized, result = work
    path = tfeptq.write_report(tmp_path / "r.json", quantized, result)
    found = json.loads(path.read_text("utf-8"))
    table = text[text.index('<table class="sortable"') :]
    names = [row[0] for row in rows(table[: table.index("</table>")])]
    assert ["layer", *(layer["name"] for layer in found["layers"])] == names
    assert found["size_bytes"] == result.size_bytes
    assert found["samples"] == quantized.report.samples
    assert len(found["frontier"]) == len(quantized.choice.frontier("weight_bytes"))
    with pytest.raises(ValueError, match=r"must end in .html or .json"):
        tfeptq.write_report(tmp_path / "r.pdf", quantized, result)


def test_a_layer_may_have_operators_that_clamp_its_output(tmp_path):
    config = tfeptq.QuantizationConfig(activation_bits=6, rounding="nearest", samples=16)
    images = small_models.images(16)
    quantized = tfeptq.quantize(small_models.residual_network(), images, config)
    result = tflite_export.export(quantized, tmp_path / "m.tflite", verify=False)
    names = [layer.name for layer in result.layers]
    assert len(set(names)) < len(names)
    assert tfeptq.write_report(tmp_path / "r.json", quantized, result).exists()


def test_accuracies_sizes_seconds_and_settings_are_told(work, text):
    model, quantized, result = work
    found = {row[0]: row[1:] for row in rows(text)}
    assert found["float Keras"] == ["100.0 % +- 0.0", "accuracy", "30"]
    images = small_models.images(30, seed=2)
    kept = quantized.predict(images, verbose=0).argmax(1) == model.predict(images).argmax(1)
    assert found["quantized Keras"][0].startswith(f"{100 * kept.mean():.1f} % +- ")
    assert found["file m.tflite"] == [f"{result.size_bytes:,}"]
    elements = sum(np.prod(q.float_kernel.shape) for q in quantized.weighted_layers)
    assert found["weights in float32"] == [f"{4 * elements:,}"]
    assert set(quantized.stage_seconds) <= set(found)
    assert found["weight_bits"] == ["(2, 4, 8)"]
    assert found["augmentation"] == ["RandomFlip"]
    assert '<tr class="set"><td>weight_bits</td>' in text
    assert "<tr><td>seed</td>" in text


def test_nearness_to_float_is_told_with_what_it_means(work, text):
    _, quantized, _ = work
    (output,) = quantized.report.quality.outputs
    found = next(row for row in rows(text) if len(row) == 6 and row[0] == output.name)
    assert found[1:] == [
        f"{output.sqnr:.1f}",
        f"{min(output.channel_sqnr):.1f}",
        f"{output.cosine:.4f}",
        f"{100 * output.agreement:.1f} %",
        str(output.codes),
    ]
    assert f"Nearness to the float model on {quantized.report.samples['quality']} " in text
    assert "No samples were given beside those" in text
    assert "signal-to-quantization-noise ratio" in text


def test_warnings_and_repairs_are_told(work, tmp_path):
    _, quantized, result = work
    kept = quantized.report
    quantized.report = QuantizationReport(warnings=["layer <b>: hot"], repairs=["layer 'c': wide"])
    text = write_scored_report(tmp_path / "r.html", quantized, result, {}).read_text("utf-8")
    quantized.report = kept
    assert "<li>layer &lt;b&gt;: hot</li>" in text
    assert "<li>layer &#39;c&#39;: wide</li>" in text
    assert "Nearness" not in text


def test_flash_and_ram_of_a_microcontroller_are_told(work, text):
    pytest.importorskip("tflite_micro", reason="extra 'microcontroller' is missing")
    found = {row[0]: row[1] for row in rows(text) if len(row) == 2}
    arena = tflite_export.packaging.memory_budget(work[2].path).arena.total
    assert found["flash"] == f"{work[2].size_bytes:,} bytes, and the code of the operators"
    assert found["RAM: tensor arena"] == f"{arena:,} bytes"
    assert "AddDepthwiseConv2D" in found["operators"]
    assert any(name.startswith("with look-up tables") for name in found)


def test_the_frontier_is_drawn_without_a_network(work, text):
    _, quantized, _ = work
    assert not re.search(r"(src|href)\s*=", text)
    plotly = re.search(r'<script id="plotly" type="text/plain">(.*?)</script>', text).group(1)
    assert b"newPlot" in gzip.decompress(base64.b64decode(plotly))
    assert len(text) < 2_500_000
    pattern = r'<script class="drawn" data-place="frontier" type="application/json">(.*?)</script>'
    drawn = re.search(pattern, text, re.S)
    frontier, chosen = json.loads(drawn.group(1))["data"]
    points = quantized.choice.frontier("weight_bytes")
    assert frontier["x"] == [point.costs["weight_bytes"] for point in points]
    assert frontier["y"] == [point.loss for point in points]
    # The best within the budget is the last point of the frontier that the budget allows.
    affordable = [point for point in points if point.costs["weight_bytes"] <= BUDGET]
    assert chosen["x"] == [affordable[-1].costs["weight_bytes"]]
    assert chosen["y"] == pytest.approx([affordable[-1].loss])


def test_a_difference_is_told_and_names_cannot_break_the_page(work, tmp_path):
    _, quantized, result = work
    report = result.verification.runtimes[0]
    odd = dataclasses.replace(report.operators[0], maximum=3, mean=0.25)
    changed = dataclasses.replace(report, operators=(odd, *report.operators[1:]))
    layers = (dataclasses.replace(result.layers[0], name="<script>x"), *result.layers[1:])
    proof = dataclasses.replace(result.verification, runtimes=(changed,))
    result = dataclasses.replace(result, layers=layers, verification=proof)
    text = write_scored_report(tmp_path / "r.html", quantized, result, {}).read_text("utf-8")
    assert "<script>x" not in text
    by_name = {row[0]: row for row in rows(text) if row}
    assert by_name["<script>x"][-1] == "3 LSB at most, 0.25 on average"
    assert "Accuracy" not in text


def test_names_in_figures_are_shown_as_they_are(tmp_path):
    """Plotly takes text for markup, and a page takes what stands in its scripts."""
    inputs = keras.Input((6, 5, 2), name="in <b>x")
    outputs = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    images = small_models.images(16)[:, :6, :5, :2]
    config = tfeptq.QuantizationConfig(rounding="nearest", samples=16)
    quantized = tfeptq.quantize(keras.Model(inputs, outputs), images, config)
    result = tflite_export.export(quantized, tmp_path / "m.tflite")
    text = write_scored_report(tmp_path / "r.html", quantized, result, {}).read_text("utf-8")
    assert "<b>x" not in text
    pattern = (
        r'<script class="drawn" data-place="activations" type="application/json">(.*?)</script>'
    )
    drawn = json.loads(re.search(pattern, text, re.S).group(1))
    buttons = drawn["layout"]["updatemenus"][0]["buttons"]
    assert "in &lt;b&gt;x, 8 bits" in [button["label"] for button in buttons]


def test_a_reloaded_model_has_a_report_without_what_it_forgot(work, tmp_path):
    _, quantized, _ = work
    quantized.save(tmp_path / "q.keras")
    reloaded = tfeptq.load_model(tmp_path / "q.keras")
    result = tflite_export.export(reloaded, tmp_path / "q.tflite", target="android", verify=False)
    text = tfeptq.write_report(tmp_path / "r.html", reloaded, result).read_text("utf-8")
    assert "The file was not verified." in text
    assert "operators that XNNPACK takes" in text
    assert "What was asked" not in text
    assert "Training" not in text


def test_a_failing_report_leaves_no_file(work, tmp_path):
    _, quantized, result = work
    missing = dataclasses.replace(result, path=tmp_path / "absent.tflite")
    labels = np.zeros(3)
    with pytest.raises(ValueError, match="no such file"):
        tfeptq.write_report(
            tmp_path / "r.html",
            quantized,
            missing,
            validation_data=(small_models.images(3), labels),
        )
    with pytest.raises(ValueError, match="does not exist"):
        tfeptq.write_report(tmp_path / "absent" / "r.html", quantized, result)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_it_with_the_accuracies(work, tmp_path, capsys):
    work[0].save(tmp_path / "m.keras")
    images = small_models.images(40)
    np.savez(tmp_path / "d.npz", x=images, y=work[0].predict(images, verbose=0).argmax(1))
    data, report = str(tmp_path / "d.npz"), tmp_path / "r.html"
    arguments = [
        "quantize", str(tmp_path / "m.keras"), "--calibration", data, "--validation", data,
        "--rounding", "nearest", "--samples", "32", "--target", "coral",
        "--output", str(tmp_path / "m.tflite"), "--report", str(report),
    ]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"report: {report}" in printed
    assert "no known blocker" in printed
    text = report.read_text("utf-8")
    assert "No known blocker." in text
    assert "it alone knows" in text
    assert {"float Keras", "quantized Keras", "file in LiteRT"} < {row[0] for row in rows(text)}


def test_a_missing_extra_is_one_line_before_any_work(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "plotly" else found(name)
    )
    model, samples = tmp_path / "m.keras", tmp_path / "x.npz"
    model.write_bytes(b"nobody reads this before the extra is found")
    np.savez(samples, x=np.zeros((1, 2), np.float32))
    arguments = ["quantize", str(model), "--calibration", str(samples)]
    files = ["--output", str(tmp_path / "m.tflite"), "--report", str(tmp_path / "r.html")]
    assert main([*arguments, *files]) == 2
    assert "a report needs plotly: install the extra 'report'" in capsys.readouterr().err
