"""Options follow the dataclasses: each field has one, with its help, default and meaning."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml

from tests.tfeptq import small_models
from tfeptq.cli.fields import attribute_docs
from tfeptq.cli.main import app, main
from tfeptq.cli.request import request
from tfeptq.config import WEIGHT_GRIDS, QuantizationConfig
from tfeptq.goals import COSTS, AccuracyTarget, Budget
from tfeptq.stage_samples import StageSamples

COMMANDS = (
    "demo",
    "quantize",
    "export",
    "inspect",
    "evaluate",
    "check",
    "package",
    "compare",
    "frontier",
    "latency",
)
#: Fields whose options are those of their own dataclass.
NESTED = {"budget": Budget, "accuracy_target": AccuracyTarget}
#: Option of a field that is not called like it.
FLAGS = {cost: f"--max-{cost.replace('_', '-')}" for cost in COSTS}
FLAGS |= {"relative": "--min-accuracy", "cost": "--minimize"}
FIELDS = [
    (kind, field)
    for kind in (QuantizationConfig, Budget, AccuracyTarget)
    for field in dataclasses.fields(kind)
    # A metric is a function: the command line has accuracy on --validation.
    if field.name not in {*NESTED, "metric"}
]
NAMES = [f"{kind.__name__}.{field.name}" for kind, field in FIELDS]


def flag(field: dataclasses.Field) -> str:
    return FLAGS.get(field.name, f"--{field.name.replace('_', '-')}")


@pytest.fixture(scope="module")
def options():
    arguments = app()["quantize"].assemble_argument_collection()
    return {name: argument for argument in arguments for name in argument.names}


@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=NAMES)
def test_every_field_has_an_option_with_its_help_and_default(kind, field, options):
    help_text = options[flag(field)].parameter.help
    said = attribute_docs(kind)[field.name]
    assert len(said) > 10
    assert said[1:] in help_text
    default = {True: "yes", False: "no", None: "none"}.get(
        field.default if isinstance(field.default, (bool, type(None))) else "", field.default
    )
    assert field.name == "relative" or f"Default: {default}." in help_text


def test_every_option_of_every_command_has_a_help_text():
    for command in COMMANDS:
        for argument in app()[command].assemble_argument_collection(parse_docstring=True):
            if argument.parse and argument.show and argument.names:
                text = argument.parameter.help or ""
                assert len(text) > 5, (command, argument.names)


@pytest.fixture
def _another_grid():
    """There is one, and a value that is not the default is needed."""
    WEIGHT_GRIDS.register("another", object)
    yield
    WEIGHT_GRIDS.forget("another")


def other(field: dataclasses.Field, tmp_path) -> tuple[list[str], object]:
    """A value that is not the default, as it is typed and as it arrives."""
    special = {
        "weight_bits": (["2,4,8"], (2, 4, 8)),
        "activation_bits": (["stem=16"], {"stem": 16}),
        "outputs": (["boxes,scores"], ("boxes", "scores")),
        "input_shape": (["9,7,3"], (9, 7, 3)),
        "states": (["h=hidden,1=carry"], {"h": "hidden", "1": "carry"}),
        "input_range": (["-4", "4.5"], (-4.0, 4.5)),
        "target": (["microcontroller"], "microcontroller"),
        "threshold": (["mse"], "mse"),
        "rounding": (["optq"], "optq"),
        "initial_rounding": (["optq"], "optq"),
        "sensitivity": (["label_free"], "label_free"),
        "weight_grid": (["another"], "another"),
        "search": (["layers"], "layers"),
        "cost": (["bit_operations"], "bit_operations"),
        "relative": (["0.5"], 0.5),
        "first_last_bits": (["none"], None),
        "stage_samples": (
            ["pair_terms=7,covariances=9"],
            StageSamples(pair_terms=7, covariances=9),
        ),
    }
    if field.name in special:
        return special[field.name]
    if field.name in ("augmentation", "latency_table"):
        path = tmp_path / "file"
        path.touch()
        return [str(path)], path if field.name == "augmentation" else str(path)
    if isinstance(field.default, bool):
        return [], not field.default
    if isinstance(field.default, float):
        return ["0.25"], 0.25
    return ["7"], 7


def asked(tokens: list[str]):
    """What a command line asks for, up to the point where Keras is needed."""
    common = ["quantize", "m.keras", "--calibration", "x.npz", "--output", "m.tflite"]
    _, bound, _ = app().parse_args([*common, *tokens], exit_on_error=False, print_error=False)
    given = bound.arguments
    budget = {**(given.get("limits") or {}), **(given.get("prices") or {})}
    return request(given.get("config"), given.get("settings"), budget, given.get("goal"))


def around(kind: type, field: dataclasses.Field) -> list[str]:
    """Options without which one of a kind would be refused, or not be looked at."""
    candidates = [] if field.name == "weight_bits" else ["--weight-bits", "2,4"]
    if kind is Budget:
        budget = [] if field.name == "weight_bytes" else ["--max-weight-bytes", "9"]
        table = ["--latency-table", __file__] if field.name == "latency_ms" else []
        board = ["--target", "microcontroller"] if field.name == "compressed" else []
        return [*candidates, *budget, *table, *board]
    if kind is AccuracyTarget:
        return [*candidates, *([] if field.name == "relative" else ["--min-accuracy", "0.9"])]
    return []


def found_in(kind: type, field: dataclasses.Field, request_):
    if field.name == "augmentation":
        return request_.augmentation
    if kind is AccuracyTarget:
        return getattr(request_.with_metric(len).accuracy_target, field.name)
    config = request_.config
    return getattr(config if kind is QuantizationConfig else config.budget, field.name)


@pytest.mark.usefixtures("_another_grid")
@pytest.mark.parametrize(("kind", "field"), FIELDS, ids=NAMES)
def test_what_is_typed_arrives_and_a_file_says_the_same(kind, field, tmp_path):
    words, value = other(field, tmp_path)
    assert value != field.default
    negated = field.default is True
    option = f"--no-{flag(field)[2:]}" if negated else flag(field)
    rest = around(kind, field)
    assert found_in(kind, field, asked([*rest, option, *words])) == value

    written = list(value) if isinstance(value, tuple) else value
    written = dataclasses.asdict(written) if isinstance(written, StageSamples) else written
    content = {field.name: str(written) if field.name == "augmentation" else written}
    if kind is not QuantizationConfig:
        content = {"budget" if kind is Budget else "accuracy_target": content}
    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump(content))
    assert found_in(kind, field, asked([*rest, "--config", str(file)])) == value


def test_options_override_the_file_wherever_they_stand(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(
        "weight-bits: [2, 4]\nsteps: 7\nlearning_rate: 3e-4\nbudget: {weight_bytes: 9, "
        "activation_bytes: 8}\naccuracy_target: {relative: 0.5, search_steps: 3}\n"
    )
    config = ["--config", str(file)]
    options = ["--steps", "9", "--max-weight-bytes", "5", "--min-accuracy", "0.7"]
    for tokens in ([*config, *options], [*options, *config]):
        found = asked(tokens)
        assert found.config == QuantizationConfig(
            weight_bits=(2, 4),
            steps=9,
            learning_rate=3e-4,
            budget=Budget(weight_bytes=5, activation_bytes=8),
        )
        assert found.goal == {"relative": 0.7, "search_steps": 3}


def test_the_last_of_several_wins():
    found = asked(
        ["--steps", "3", "--steps=4", "--input-range", "0", "1", "--input-range", "0", "2"]
    )
    assert (found.config.steps, found.config.input_range) == (4, (0.0, 2.0))


FILES = {
    "weight_bites: 4": "setting='weight_bites' is unknown; .* did you mean 'weight_bits'",
    "budget: {bytes: 4}": "budget: setting='bytes' is unknown",
    "accuracy_target: {metric: accuracy}": "setting='metric' is unknown",
    "- weight_bits": "settings are needed",
    "budget: 4": "budget: settings are needed",
    "weight_bits: [": "is no YAML file: .* line 1",
    "weight_bits: '4'": "not text",
    "steps: 1.5": "steps=1.5 must be a whole number",
    "seed: true": "seed=True must be a whole number",
    "target: edgetpu": "did you mean 'coral'",
    "1: 2": "setting=1 is unknown",
    "augmentation: 4": "must be the path of a file",
}


@pytest.mark.parametrize("text", FILES)
def test_a_mistake_in_a_file_is_one_line(text, tmp_path, capsys):
    file = tmp_path / "f.yaml"
    file.write_text(text)
    common = ["quantize", "m.keras", "--calibration", "x.npz", "--output", "m.tflite"]
    assert main([*common, "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tfeptq: error: ")
    with pytest.raises(ValueError, match=FILES[text]):
        raise ValueError(line)


HELP = """
import sys
from tfeptq.cli.main import main
for command in sys.argv[1:]:
    assert main([command, "--help"]) == 0
assert main(["--help"]) == main(["--version"]) == 0
assert main(["quantize", "m.keras", "--steps", "x"]) == 2
assert main(["quantize", "m.keras", "--calibration", "x", "--output", "m.tflite"]) == 2
model, output, report = sys.executable, ["--output", "m.tflite"], ["--report", "r.pdf"]
assert main(["quantize", model, "--calibration", model, *output, *report]) == 2
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_help_teaches_by_example_and_loads_nothing_slow():
    command = [sys.executable, "-c", HELP, *COMMANDS]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(result.stderr.splitlines()[-1].split())
    assert not loaded & {"tensorflow", "keras", "scipy", "sklearn", "ai_edge_litert"}
    assert "numpy" in loaded
    for name in COMMANDS:
        assert result.stdout.count(f"  tfeptq {name} ") >= 1, name


@pytest.mark.parametrize("words", [[], ["--resume", "run"], ["--resume=run"]])
def test_an_interrupt_is_one_line_that_names_resume(words, tmp_path, monkeypatch, capsys, request):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal did not come")

    monkeypatch.chdir(tmp_path)
    # Whoever runs the tests in the background has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr("tfeptq.pipeline.quantize", interrupted)
    small_models.residual_network().save("m.keras")
    np.savez("x.npz", x=small_models.images(4))
    common = ["quantize", "m.keras", "--calibration", "x.npz", "--output", "m.tflite"]
    assert main([*common, *words]) == 130
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("tfeptq: stopped: ")
    assert "--resume" in line
    assert ("DIR" in line) == (not words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and data that nobody can read."""
    folder = tmp_path_factory.mktemp("unread")
    small_models.residual_network().save(folder / "m.keras")
    (folder / "x.npz").write_text("no data")
    return folder


EARLY = {
    "quantize m.keras --output m.tflite --weight-bits stam=4": "did you mean 'stem'",
    "quantize m.keras --output m.tflite --weight-bits 4 --target coral": "Edge TPU",
    "quantize m.keras --output m.tflite --weight-bits 2,4 --max-weight-bytes 9": "cannot be met",
    "quantize m.keras --output m.tflite --weight-bits 2,4 --max-weight-bytes 9 "
    "--sensitivity hawq_v2 --trace-loss mse": "cannot be met",
    "quantize m.keras --output m.tflite --weight-bits 2,4 --min-accuracy 0.9 --minimize latency_ms "
    "--target coral --validation x.npz": "coral",
    "quantize m.keras --output m.tflite --activation-bits sam=4 --weight-bits 2,4 --min-accuracy "
    "0.9 --validation x.npz": "did you mean 'sum'",
    "frontier m.keras --weight-bits 2,4 --activation-bits haed=4": "haed",
    "frontier m.keras --weight-bits 2,4 --cost latency_ms --target microcontroller": "needs the "
    "times of layers",
    "evaluate m.keras --data x.npz": "not a TensorFlow Lite file",
    # The sum of all: what is right but for its data comes to them.
    "quantize m.keras --output m.tflite --weight-bits 4": "x.npz: not an .npz file",
    "quantize m.keras --output m.tflite --weight-bits 2,4 --min-accuracy 0.9 --validation "
    "x.npz": "x.npz: not an .npz file",
    "frontier m.keras --weight-bits 2,4": "x.npz: not an .npz file",
}


@pytest.mark.parametrize("command", EARLY)
def test_data_are_read_after_what_needs_none(command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    words = command.split()
    calibration = [] if words[0] == "evaluate" else ["--calibration", "x.npz"]
    assert main([*words, *calibration]) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if "warning" not in text]
    assert EARLY[command] in line


def test_a_saved_layer_makes_the_copies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_models.residual_network().save("m.keras")
    np.savez("x.npz", x=small_models.images(8))
    flip = keras.Sequential([keras.Input((9, 7, 3)), keras.layers.RandomFlip("horizontal")])
    flip.save("flip.keras")
    files = []
    for words in (["--augmentation", "flip.keras"], ["--random-flip", "horizontal"], []):
        common = ["quantize", "m.keras", "--calibration", "x.npz", "--rounding", "nearest"]
        common += ["--threshold", "max", "--samples", "16", "--output", "m.tflite"]
        assert main([*common, *words]) == 0
        files.append((tmp_path / "m.tflite").read_bytes())
    assert files[0] == files[1] != files[2]


def test_sizes_that_a_model_leaves_open_are_options_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    layers = [keras.Input((None, None, 2)), keras.layers.Conv2D(3, 3, name="only")]
    keras.Sequential(layers).save("open.keras")
    command = ["latency", "open.keras", "--output", "t.csv", "--weight-bits", "8"]
    assert main(command) == 2
    assert "fixed sizes" in capsys.readouterr().err
    assert main([*command, "--input-shape", "6,5,2"]) == 0
    assert "only" in capsys.readouterr().out
