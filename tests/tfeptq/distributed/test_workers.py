"""Parts of the work in other processes: in order, again where one dies, and with the same bits."""

from __future__ import annotations

import contextvars
import dataclasses
import os
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import tfeptq
from tfeptq.calibrate.bias_correction import correct_biases
from tfeptq.calibrate.ranges import tensor_histograms
from tfeptq.canonical.layer_graph import LayerGraph
from tfeptq.cli import main
from tfeptq.data import memory
from tfeptq.data.shares import mapped, shares, worker_count
from tfeptq.distributed.errors import WorkerError
from tfeptq.hessian.activations import Grid, activation_moments
from tfeptq.hessian.float_scores import FloatScores
from tfeptq.hessian.label_free import channel_attention, weight_scores
from tfeptq.hessian.pairs import RoundingError, pair_terms
from tfeptq.hessian.traces import average_traces
from tfeptq.plan.quantization_plan import QuantizationPlan
from tfeptq.preparation import prepare
from tfeptq.rounding.shared_step import parts_of
from tfeptq.rounding.thresholds import set_thresholds
from tfeptq.sensitivity.rounding_errors import weight_errors
from tflite_export.file.writer import write

pytest.importorskip("ray", reason="ray is not installed (extra distributed)")

#: As many threads as TensorFlow takes here: in which order it sums gradients depends on them.
CORES = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One start of Ray for all tests: those that ask for fewer workers use it too."""
    with tfeptq.distribute(workers=3, cores=CORES) as found:
        yield found


def powers(exponent):
    return lambda number: (number**exponent, os.getpid())


def failing(layer):
    def run(number):
        raise ValueError(f"layer {layer!r} is no good at {number}")

    return run


def dying(mark, deaths):
    """A worker that ends as long as there are fewer marks than deaths."""

    def run(number):
        if number == 2:
            made = len(list(Path(mark).iterdir()))
            if made < deaths:
                (Path(mark) / str(made)).touch()
                os._exit(1)
        return number

    return run


def test_results_come_in_order_from_other_processes():
    found = list(mapped(powers, {"exponent": 2}, range(20), "powers"))
    assert [value for value, _ in found] == [number**2 for number in range(20)]
    assert os.getpid() not in {process for _, process in found}
    assert worker_count() == 3
    assert [len(share) for share in shares(10)] == [3, 3, 4]


def test_whoever_has_enough_stops():
    found = mapped(powers, {"exponent": 3}, range(1000), "powers")
    assert [next(found)[0] for _ in range(3)] == [0, 1, 8]
    found.close()
    assert [value for value, _ in mapped(powers, {"exponent": 1}, range(3), "powers")] == [0, 1, 2]


def test_what_a_part_raises_is_raised_here():
    with pytest.raises(ValueError, match=r"^layer 'dense' is no good at 0$"):
        list(mapped(failing, {"layer": "dense"}, range(4), "parts"))


def test_a_worker_that_dies_is_replaced(tmp_path):
    inputs = {"mark": str(tmp_path), "deaths": 1}
    assert list(mapped(dying, inputs, range(6), "parts")) == list(range(6))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_part_whose_workers_always_die_ends_the_run(tmp_path):
    inputs = {"mark": str(tmp_path), "deaths": 99}
    with (
        tfeptq.distribute(workers=2, cores=CORES, retries=1),
        pytest.raises(
            WorkerError, match=r"parts: 2 workers, one after the other, ended .* checkpoint_dir"
        ),
    ):
        list(mapped(dying, inputs, range(6), "parts"))
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_travel_is_computed_here():
    lock = threading.Lock()
    with pytest.warns(UserWarning, match="parts: this process computes them alone"):
        found = list(
            mapped(lambda lock: lambda number: (number, lock), {"lock": lock}, [1, 2], "parts")
        )
    assert found == [(1, lock), (2, lock)]


def test_map_takes_any_function(cluster):
    base = 10
    assert cluster.map(lambda number: number + base, [1, 2, 3]) == [11, 12, 13]


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"workers": "2"}, {"cores": 0}, {"retries": -1}]
)
def test_settings_are_whole_numbers(settings):
    name = next(iter(settings))
    with pytest.raises(ValueError, match=f"^{name}=.* must be a whole number of at least"):
        tfeptq.distribute(**settings)


def test_more_cores_than_a_machine_has(cluster):
    with (
        pytest.raises(ValueError, match="cores=512: no machine of the cluster has so many"),
        tfeptq.distribute(workers=1, cores=512),
    ):
        pass


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if hasattr(left, "__dataclass_fields__"):
        return same(vars(left), vars(right))
    return np.array_equal(left, right)


CONFIG = tfeptq.QuantizationConfig(weight_bits=3, rounding="nearest", samples=32)


def tiny():
    """A network that every worker traces in no time, with names that are always the same."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 5, 2), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = keras.layers.DepthwiseConv2D(2, name="middle")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(x), name="tiny")


def images(count=32, seed=1):
    return np.random.default_rng(seed).normal(size=(count, 6, 5, 2)).astype("float32")


@pytest.fixture(scope="module")
def alone():
    """Calls a function in this process alone: in a context that knows no workers."""
    return contextvars.Context().run


@pytest.fixture(scope="module")
def network(alone):
    """A canonical model, samples, and its copy with activations quantized."""
    config = dataclasses.replace(CONFIG, bias_correction=False, threshold="max")
    return prepare(tiny()), [images(41)], alone(tfeptq.quantize, tiny(), images(), config)


def errors(model):
    generator = np.random.default_rng(3)
    return {
        (layer.name, bits): RoundingError(
            *(
                generator.normal(size=w.shape).astype("float32") / 2**bits
                for w in layer.get_weights()
            )
        )
        for layer in model.layers
        if hasattr(layer, "kernel")
        for bits in (2, 4)
    }


def grids(model):
    outputs = [call.output for call in LayerGraph.of(model).calls]
    return [Grid((key,), 0.05, 3, 8) for key in outputs[:4]]


def thresholds(model, samples, quantized, method):
    config = dataclasses.replace(CONFIG, threshold=method)
    set_thresholds(quantized, model, samples, FloatScores(model, samples, 0), config)
    return [layer.scales() for layer in quantized.weighted_layers]


def width_errors(model, samples):
    config = tfeptq.QuantizationConfig(weight_bits=(2, 4), rounding="optq", samples=32)
    plan = QuantizationPlan.of(model, config)
    candidates = {
        name: tuple(plan.storage(name, bits) for bits in widths)
        for name, widths in plan.candidates.items()
    }
    ones = {layer.name: np.ones(layer.kernel.shape) for layer in plan.model.layers if layer.weights}
    return vars(weight_errors(model, samples, candidates, ones, config))


def corrections(model, samples, quantized):
    """Shifts, which are taken back: the next call finds the same."""
    weights = quantized.get_weights()
    with pytest.MonkeyPatch.context() as patch:
        # Of inputs of 240 bytes, four arrays each.
        patch.setattr(memory, "BATCH_BYTES", 5 * 4 * 240)
        shifts = correct_biases(quantized, model, samples)
    quantized.set_weights(weights)
    return shifts


STAGES = {
    "thresholds by scores": lambda m, x, q: thresholds(m, x, q, "hmse"),
    "thresholds by outputs": lambda m, x, q: thresholds(m, x, q, "output"),
    "errors of candidate widths": lambda m, x, _: width_errors(m, x),
    "ranges": lambda m, x, _: tensor_histograms(
        m, x, [call.output for call in LayerGraph.of(m).calls], batch_size=3
    ),
    "attention": lambda m, x, _: channel_attention(m, x, batch_size=5),
    "weight scores": lambda m, x, _: weight_scores(m, x, batch_size=6, count=40),
    "activation traces": lambda m, x, _: activation_moments(
        m, x, grids(m), is_whitened=True, batch_size=6
    ),
    "pair terms": lambda m, x, _: vars(pair_terms(m, x, errors(m), batch_size=6)),
    "traces": lambda m, x, _: average_traces(m, x, batch_size=8, tolerance=0.5, draws=(5, 40)),
    "bias correction": corrections,
}


def found(network):
    """Of every stage, with several parts each."""
    return {name: stage(*network) for name, stage in STAGES.items()}


@pytest.fixture(scope="module")
def found_alone(network, alone):
    return alone(found, network)


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_workers_gives_the_bits_of_one_process(count, network, found_alone):
    with tfeptq.distribute(workers=count, cores=CORES):
        shared = found(network)
    assert [name for name in STAGES if not same(shared[name], found_alone[name])] == []
    assert max(np.abs(shift).max() for shift in shared["bias correction"].values()) > 0.0


@dataclasses.dataclass
class Agreement:
    """Metric: whether samples keep the class that the float model gives them.

    Attributes:
        deaths: so often the worker that computes it ends instead, as marks in a folder count.
    """

    images: np.ndarray
    labels: np.ndarray
    process: int
    marks: Path | None = None
    deaths: int = 0
    lock: Any = None

    @classmethod
    def of(cls, **options):
        scored = images(64, seed=5)
        return cls(scored, tiny().predict(scored, verbose=0).argmax(-1), os.getpid(), **options)

    @property
    def digest_parts(self):
        return [self.images, self.labels]

    def __call__(self, model):
        if self.deaths and os.getpid() != self.process:
            made = len(list(self.marks.iterdir()))
            if made < self.deaths:
                (self.marks / str(made)).touch()
                os._exit(1)
        return model.predict(self.images, verbose=0).argmax(-1) == self.labels


def searched(metric, **options):
    config = dataclasses.replace(
        CONFIG,
        weight_bits=(2, 4, 8),
        first_last_bits=None,
        accuracy_target=tfeptq.AccuracyTarget(metric, relative=0.9, search="layers"),
        sensitivity="label_free",
    )
    quantized = tfeptq.quantize(tiny(), images(), config, **options)
    return quantized, write(quantized.freeze())


@pytest.fixture(scope="module")
def by_one_process(alone):
    return alone(searched, Agreement.of())


@pytest.fixture
def marks(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def test_a_search_gives_the_bytes_of_one_process_though_a_worker_dies(
    by_one_process, marks, cluster
):
    """With three workers; two, behind others that died, give them too: see below."""
    quantized, file = searched(Agreement.of(marks=marks, deaths=1))
    expected, its_file = by_one_process
    assert file == its_file
    assert quantized.bit_widths == expected.bit_widths
    assert quantized.accuracy_search.comparison == expected.accuracy_search.comparison
    assert quantized.accuracy_search.evaluations >= expected.accuracy_search.evaluations > 2
    assert len(list(marks.iterdir())) == 1


def test_a_search_that_its_workers_ended_goes_on_from_its_checkpoint(
    by_one_process, marks, tmp_path
):
    metric = Agreement.of(marks=marks, deaths=99)
    folder = tmp_path / "run"
    with tfeptq.distribute(workers=2, cores=CORES, retries=0):
        with pytest.raises(WorkerError, match="candidates: a worker ended while"):
            searched(metric, checkpoint_dir=folder)
        assert list(marks.iterdir())
        assert list(folder.glob("ranges-*.npz"))
        metric.deaths = 0
        _, file = searched(metric, checkpoint_dir=folder)
    assert file == by_one_process[1]


def test_a_metric_that_cannot_travel_is_measured_here(by_one_process):
    metric = Agreement.of(lock=threading.Lock())
    with (
        tfeptq.distribute(workers=2, cores=CORES),
        pytest.warns(UserWarning, match="candidates: this process computes them alone"),
    ):
        assert searched(metric)[1] == by_one_process[1]


def trained(**options):
    config = dataclasses.replace(CONFIG, rounding="eptq", steps=4, batch_size=32)
    return tfeptq.quantize(tiny(), images(), config, **options)


class Start(keras.callbacks.Callback):
    """Scales of weights that a training starts from."""

    def on_train_begin(self, logs=None):
        self.scales = scales(self.model)


def test_workers_share_a_training(alone, tmp_path):
    """All samples are in every batch: their order does not matter, only that of sums."""
    models, start = [], Start()
    # Each of them traces the step: two are as good as four here.
    for count in (1, 2):
        with tfeptq.distribute(workers=count, cores=CORES, training=True):
            models.append(trained(checkpoint_dir=tmp_path if count == 2 else None))
    one, two = (write(quantized.freeze()) for quantized in models)
    assert one == two
    expected = alone(lambda: trained(callbacks=[start]))
    apart = distance(scales(models[0]), scales(expected))
    assert apart < 1e-3 * distance(start.scales, scales(expected))
    assert len(models[0].report.training) == len(expected.report.training)
    assert list(tmp_path.glob("training-*.npz"))


def scales(model):
    return np.concatenate([layer.scales().ravel() for layer in model.weighted_layers])


def distance(left, right):
    """Mean relative difference of scales."""
    return float(np.abs(left / right - 1.0).mean())


def test_parts_of_a_batch_depend_on_its_size_alone():
    assert [len(part) for part in parts_of(np.arange(32))] == [8] * 4
    assert [len(part) for part in parts_of(np.arange(256))] == [16] * 16
    assert [len(part) for part in parts_of(np.arange(3))] == [1] * 3


def test_the_command_line(tmp_path, alone):
    tiny().save(tmp_path / "m.keras")
    np.savez(tmp_path / "x.npz", x=images())
    command = ["quantize", str(tmp_path / "m.keras"), "--calibration", str(tmp_path / "x.npz")]
    command += ["--weight-bits", "4", "--rounding", "nearest", "--verbose", "0", "--output"]
    assert alone(main, [*command, str(tmp_path / "alone.tflite")]) == 0
    assert alone(main, [*command, str(tmp_path / "two.tflite"), "--workers", "2"]) == 0
    assert (tmp_path / "two.tflite").read_bytes() == (tmp_path / "alone.tflite").read_bytes()
