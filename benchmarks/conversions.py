"""Whole conversions and choices of widths beside TFLiteConverter's, each in a process of its own.

    python -m benchmarks.conversions [--models mobilenetv2@224 mobilenet@128] [--samples 512]

Prints, for each model: seconds, processor seconds (user and system, which other programs on the
machine change least) and the peak of memory of TFLiteConverter's int8 conversion and of ours with
the same samples, as ratios to it; and of choices of widths, as ratios to 500 EPTQ steps of the
model. Models are `keras.applications`', untrained, with statistics of batch normalization as after
training; or those of the assets. With `--environment`, where `python -m benchmarks.peers` has made
it, ai-edge-quantizer stands beside them. `--whole` adds one EPTQ run of ResNet8 at 4 bits, with
1024 samples and 2000 steps, from starting Python to a file that is verified. With `--runs 5`
everything is run five times, in turns; medians are printed, and the least and the most seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import tfeptq
import tflite_export
from benchmarks.models import Task, load
from tfeptq.data.samples import take_samples
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.report.tables import show
from tfeptq.selection.prepare import prepare_choice

_UNTRAINED = {
    "mobilenet": keras.applications.MobileNet,
    "mobilenetv2": keras.applications.MobileNetV2,
    "resnet50": keras.applications.ResNet50,
}
_RECIPES: dict[str, dict[str, Any]] = {
    "W8A8 nearest": {"weight_bits": 8, "rounding": "nearest"},
    "W4A8 nearest": {"weight_bits": 4, "rounding": "nearest"},
    "W4A8 OPTQ": {"weight_bits": 4, "rounding": "optq"},
}
#: Candidates of a choice, and the steps that it may cost as much as.
_CANDIDATES, _STEPS = (2, 3, 4, 8), 500
#: Steps that are measured, after one that compiles.
_MEASURED_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one action in a process of its own; `stages` are seconds of a quantization's stages."""

    seconds: float
    processor: float
    peak_gb: float
    stages: dict[str, float] = dataclasses.field(default_factory=dict)

    def times(self, factor: float) -> Cost:
        return dataclasses.replace(
            self, seconds=factor * self.seconds, processor=factor * self.processor
        )


@dataclasses.dataclass(frozen=True)
class Job:
    """One action of a table: what `alone` is called with, and how often it stands for itself."""

    function: Callable[..., Cost]
    arguments: tuple[Any, ...]
    factor: float = 1.0


def task_of(name: str, samples: int = 64) -> Task:
    """A task of the assets, or an untrained model at a size, such as "mobilenetv2@224"."""
    kind, _, size = name.partition("@")
    if kind not in _UNTRAINED:
        return load(name)
    side = int(size or 224)
    keras.utils.set_random_seed(0)
    model = _UNTRAINED[kind](weights=None, input_shape=(side, side, 3))
    generator = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    noise = generator.uniform(-1, 1, (max(samples, 16), side, side, 3)).astype("float32")
    # Statistics as after training: otherwise the logits all but vanish.
    model(noise[:16], training=True)
    return Task(name, model, noise, noise, np.zeros(len(noise)), keras.layers.Identity())


def converted_by_tflite(name: str, samples: int) -> Cost:
    """TFLiteConverter's full integer conversion with a representative data set."""
    import tensorflow as tf

    task = task_of(name, samples)

    def batches() -> Iterator[list[np.ndarray]]:
        for index in range(samples):
            yield [task.calibration[index : index + 1]]

    def convert() -> None:
        converter = tf.lite.TFLiteConverter.from_keras_model(task.model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = batches
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.convert()

    return cost_of(convert)


def converted_by_us(name: str, samples: int, settings: dict[str, Any]) -> Cost:
    """From the Keras model to a file that is written and not yet verified."""
    task = task_of(name, samples)
    config = tfeptq.QuantizationConfig(samples=samples, **settings)
    stages: dict[str, float] = {}

    def convert() -> None:
        quantized = tfeptq.quantize(task.model, task.calibration[:samples], config)
        stages.update(quantized.report.seconds)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.tflite"
            tflite_export.export(quantized, path, target=config.target, verify=False)

    return dataclasses.replace(cost_of(convert), stages=stages)


def converted_by_ai_edge(name: str, samples: int, bits: int, environment: str) -> Cost:
    """Static quantization by ai-edge-quantizer, from a float file that is there already."""
    import tensorflow as tf

    task = task_of(name, samples)
    with tempfile.TemporaryDirectory() as folder:
        source, data, output = (
            Path(folder) / each for each in ("float.tflite", "samples.npy", "m.tflite")
        )
        source.write_bytes(tf.lite.TFLiteConverter.from_keras_model(task.model).convert())
        np.save(data, task.calibration[:samples])
        script = Path(__file__).with_name("ai_edge.py")
        python = Path(environment) / "bin" / "python"
        return _run([python, script, source, data, str(bits), output])


def whole_run() -> Cost:
    """EPTQ of ResNet8 at 4 bits with 1024 samples and 2000 steps, to a verified file."""
    code = (
        "from benchmarks.models import load; import tfeptq, tflite_export; task = load('resnet8');"
        "config = tfeptq.QuantizationConfig(weight_bits=4, samples=1024, steps=2000);"
        "quantized = tfeptq.quantize(task.model, task.calibration, config);"
        "tflite_export.export(quantized, '{}', target=config.target)"
    )
    with tempfile.TemporaryDirectory() as folder:
        return _run([sys.executable, "-c", code.format(Path(folder) / "m.tflite")])


def _run(command: Sequence[Any]) -> Cost:
    """The cost of a command, with all that it loads."""
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - wall, processor, after.ru_maxrss / 1e6)


def choice_of_widths(name: str, samples: int, sensitivity: str) -> Cost:
    """Sensitivities of all candidates, and the measured moves that improve a choice."""
    task = task_of(name, samples)
    config = tfeptq.QuantizationConfig(
        samples=samples,
        weight_bits=_CANDIDATES,
        rounding="optq",
        first_last_bits=None,
        sensitivity=sensitivity,
        budget=tfeptq.Budget(weight_bytes=0.6 * task.model.count_params()),
    )
    canonical = tfeptq.prepare(task.model)
    arrays = take_samples(task.calibration, canonical.inputs, samples=samples, seed=0)

    def choose() -> None:
        assert config.budget is not None
        plan = QuantizationPlan.of(canonical, config)
        choice = prepare_choice(plan, arrays, config, limits=config.budget.limits)
        choice.within(config.budget.limits)

    return cost_of(choose)


def eptq_step(name: str, batch: int) -> Cost:
    """One EPTQ step, in the mean over those behind the first."""
    task = task_of(name)
    config = tfeptq.QuantizationConfig(
        weight_bits=4,
        steps=_MEASURED_STEPS + 1,
        batch_size=batch,
        samples=max(batch, 32),
        sample_layer_attention=False,
        threshold="mse",
    )
    costs: list[Cost] = []

    class Meter(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.begin = time.perf_counter(), _processor()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            wall, processor = self.begin
            costs.append(Cost(time.perf_counter() - wall, _processor() - processor, _peak()))

    tfeptq.quantize(task.model, task.calibration, config, callbacks=[Meter()])
    later = costs[1:]
    return Cost(
        float(np.mean([each.seconds for each in later])),
        float(np.mean([each.processor for each in later])),
        later[-1].peak_gb,
    )


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def cost_of(action: Callable[[], None]) -> Cost:
    wall, processor = time.perf_counter(), _processor()
    action()
    return Cost(time.perf_counter() - wall, _processor() - processor, _peak())


def _quiet(function: Callable[..., Cost], *arguments: Any) -> Cost:
    warnings.simplefilter("ignore", UserWarning)
    return function(*arguments)


def alone(function: Callable[..., Cost], *arguments: Any) -> Cost:
    """The cost of an action in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(_quiet, function, *arguments).result()
    print(function.__name__, *arguments, found, flush=True)
    return found


def measured(jobs: dict[str, Job], runs: int) -> dict[str, list[Cost]]:
    """The costs of each job. They take turns: what changes on the machine meets all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in jobs}
    for _ in range(runs):
        for name, job in jobs.items():
            costs[name].append(alone(job.function, *job.arguments).times(job.factor))
    return costs


def rows(title: str, costs: dict[str, list[Cost]], beside: str) -> None:
    """A table of medians and of their ratios to one of the rows."""
    base = _median(costs[beside])
    lines = []
    for what, runs in costs.items():
        cost, seconds = _median(runs), sorted(run.seconds for run in runs)
        spread = f" ({seconds[0]:.1f} to {seconds[-1]:.1f})" if len(runs) > 1 else ""
        lines.append(
            (
                what,
                f"{cost.seconds:.1f}{spread}",
                f"{cost.seconds / base.seconds:.2f}",
                f"{cost.processor:.1f}",
                f"{cost.processor / base.processor:.2f}",
                f"{cost.peak_gb:.2f}",
            )
        )
    show(title, ("", "s", "ratio", "processor s", "ratio", "peak GB"), lines)
    for what, runs in costs.items():
        if runs[0].stages:
            stages = {name: [run.stages[name] for run in runs] for name in runs[0].stages}
            medians = ", ".join(f"{name} {np.median(each):.1f}" for name, each in stages.items())
            print(f"{what}, seconds of stages: {medians}")


def _median(runs: Sequence[Cost]) -> Cost:
    return Cost(
        *(
            float(np.median([getattr(run, field) for run in runs]))
            for field in ("seconds", "processor", "peak_gb")
        )
    )


def conversions(name: str, options: argparse.Namespace) -> None:
    """The table of whole conversions of a model."""
    beside = "TFLiteConverter int8"
    jobs = {beside: Job(converted_by_tflite, (name, options.samples))}
    for recipe in options.recipes:
        jobs[recipe] = Job(converted_by_us, (name, options.samples, _RECIPES[recipe]))
    for bits in (8, 4) if options.environment else ():
        settings = (name, options.samples, bits, options.environment)
        jobs[f"ai-edge-quantizer W{bits}A8"] = Job(converted_by_ai_edge, settings)
    rows(f"{name}, {options.samples} samples, to a file", measured(jobs, options.runs), beside)


def choices(name: str, options: argparse.Namespace) -> None:
    """The table of choices of widths of a model."""
    beside = f"{_STEPS} EPTQ steps"
    jobs = {beside: Job(eptq_step, (name, options.batch), factor=_STEPS)}
    for method in options.choices:
        jobs[method] = Job(choice_of_widths, (name, options.samples, method))
    title = f"{name}, {options.samples} samples, choice of widths"
    rows(title, measured(jobs, options.runs), beside)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mobilenetv2@224"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="of an EPTQ step")
    parser.add_argument("--recipes", nargs="*", default=list(_RECIPES), choices=list(_RECIPES))
    parser.add_argument(
        "--choices", nargs="*", default=["label_free", "hawq_v2", "inter_layer"], help="sensitivity"
    )
    parser.add_argument("--environment", help="of ai-edge-quantizer")
    parser.add_argument("--whole", action="store_true", help="EPTQ of ResNet8 to a verified file")
    parser.add_argument("--runs", type=int, default=1, help="of each, in turns")
    options = parser.parse_args(arguments)
    for name in options.models:
        if options.recipes:
            conversions(name, options)
        if options.choices:
            choices(name, options)
    if options.whole:
        jobs = {"from start to file": Job(whole_run, ())}
        title = "ResNet8, W4A8 EPTQ, 1024 samples, 2000 steps"
        rows(title, measured(jobs, options.runs), "from start to file")


if __name__ == "__main__":
    main()
