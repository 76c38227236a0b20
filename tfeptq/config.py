"""What the user asks for, validated before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tfeptq.goals import AccuracyTarget, Budget, timed
from tfeptq.host_latency import latency_file
from tfeptq.registry import Registry
from tfeptq.settings import (
    NamedSettings,
    bounds,
    layer_names,
    member,
    real,
    shapes,
    shown,
    state_names,
    switch,
    whole,
    width,
    widths,
)
from tfeptq.stage_samples import DEFAULT_STAGES, StageSamples, stage_samples
from tflite_export.targets import TARGETS, able

if TYPE_CHECKING:
    import keras

    from tfeptq.quantized.weight_grid import WeightGrid
    from tfeptq.sensitivity.method import Method

WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8)
ACTIVATION_BITS = (4, 5, 6, 7, 8, 16)
THRESHOLDS = ("output", "hmse", "mse", "max")
ROUNDINGS = ("eptq", "optq", "nearest")
INITIAL_ROUNDINGS = ("optq", "nearest")
#: One line a method; what it is asked: `tfeptq.sensitivity.method`.
SENSITIVITIES: Registry[type[Method]] = Registry(
    "sensitivity",
    {
        "label_free": "tfeptq.sensitivity.label_free:LabelFree",
        "hawq_v2": "tfeptq.sensitivity.hawq_v2:HawqV2",
        "inter_layer": "tfeptq.sensitivity.inter_layer:InterLayer",
    },
)
#: One line a grid; what it is asked: `tfeptq.quantized.weight_grid`.
WEIGHT_GRIDS: Registry[type[WeightGrid]] = Registry(
    "weight_grid", {"uniform": "tfeptq.quantized.uniform_grid:UniformGrid"}
)
#: Measurements that improve predicted widths which are not trained afterwards.
DEFAULT_MOVES = 32


#: Sizes without the batch: of one input, of several in their order, or by name.
InputShape = tuple[int, ...] | list[tuple[int, ...]] | Mapping[str, tuple[int, ...]]
#: Names of layers, or `PARTS`.
Outputs = tuple[str, ...] | str
#: Every part of what an output joins along its last axis.
PARTS = "parts"


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(NamedSettings):
    """How a model is quantized. Every part of the recipe can be switched off for an ablation.

    Attributes:
        weight_bits: width of the weights: one integer for all layers, `{layer name: bits}`, where
            layers left out get 8 bits, or a tuple of candidates, from which every layer gets its
            own by `budget` or `accuracy_target`. 2 to 8.
        activation_bits: width of the activations, 4 to 8 or 16: one integer for all layers,
            `{layer name: bits}`, where layers left out get 8, or a tuple of candidates, chosen
            together with the weights'. It is the width of a layer's output, see
            `tfeptq.plan.activations`. Candidates need a budget (or a target's cost) that
            feels them, of activation_bytes, bit_operations or latency_ms: the widest lose least.
        target: "android", "coral", "ethos-u" or "microcontroller"; decides which widths and
            granularities can be stored and executed.
        input_range: fixes scale and zero point of the model's inputs, which are then never
            learned: (low, high) for all of them or `{input name: (low, high)}`, as they reach the
            model. (0, 255) gives scale 1 and zero point -128. The range is widened to hold zero.
        input_shape: fixes the sizes of inputs that the model leaves open, without the batch:
            (224, 224, 3) of the one input, a list in the order of the inputs, or
            `{input name: sizes}`. None: the sizes that the model was built with.
        states: of a model that is one step of a sequence, `{output: input}`: the state that an
            output is becomes the input in the next step, fed back by the caller. Both have one
            scale and zero point in the file. An output is given by its number, its key in the
            dictionary that the model returns, or the name of its layer. Calibration samples are
            then sequences of the other inputs, (n, steps, ...), through which the float model runs
            from states of zeros; or arrays of all inputs, one row a step.
        outputs: where the file ends, by names of layers, in the order of its outputs: what comes
            behind them, such as the decoding of boxes, stays outside. A layer that is called
            several times gives an output for every call, in the order of Keras's walk through the
            graph; name what comes behind each call for another order. "parts": where an output is a
            concatenation along its last axis, every part is an output with a scale of its own.
            None: the model's outputs.
        weight_grid: which values weights may have: "uniform", the integers of their width times
            a scale.
        first_last_bits: weights of the first and last weighted layers; None: as the others. A
            layer named in a `weight_bits` mapping keeps the width given there.
        sensitivity: what tells how much a layer's width matters when candidates are given:
            "label_free" (Jacobian bound), "hawq_v2" (average Hessian trace) or "inter_layer" (the
            same with pair terms between layers).
        measured_moves: improves the widths that are predicted to be best within a budget by so
            many measurements of single changes, each a forward pass, and compares them with uniform
            widths; 0 keeps the prediction. None: 32 where rounding is not learned, for they measure
            what is there before, activations have no candidates and `ordered_widths` is off;
            otherwise 0.
        budget: what the chosen widths may cost.
        accuracy_target: what the quantized model must score; the smallest such widths are taken.
        ordered_widths: HAWQ-V2's rule: a layer with a larger average trace never gets fewer bits.
            It orders weights; activations with candidates are free.
        threshold: where weights are clipped: where the squared error of the layer's output is least
            ("output"), or that of its weights, each weighted by its effect on the model's outputs
            ("hmse") or not ("mse"), or nowhere ("max"). None: "output" with rounding="nearest",
            otherwise "hmse". Weights of 8 bits take "mse" for the first two.
        rounding: "eptq" learns the rounding by network-wise distillation. Without training, in
            seconds: "optq" rounds layer by layer and makes up for the errors that are made, by
            least squares; "nearest" does not.
        initial_rounding: what "eptq" starts from: "optq", within the two integers around each
            weight, or "nearest".
        steps: length of the optimisation.
        batch_size: samples a step.
        samples: calibration samples used.
        stage_samples: how many of them each stage looks at, see `StageSamples`; `{stage: number}`
            changes some.
        augmentation: a Keras layer or model that changes samples at random without making them
            harder to recognize, such as `keras.layers.RandomFlip`: where there are fewer than
            `samples`, copies made by it fill them up. Every stage uses them all.
        seed: of every random choice; the same seed, data and versions give the same bytes.
        bias_correction: move biases by the mean shift that rounding causes, before training.
        sample_layer_attention: weigh the distillation by SLA scores; otherwise all equally.
        channel_attention: keep SLA's score of every channel, which EPTQ reduces to their maximum.
        gradual_activations: quantize activations gradually during training.
        gradual_rounding: harden the rounding gradually during training.
        train_scales: learn the weight scales (and activation scales) together with the rounding.
        train_biases: learn the biases.
        learning_rate: peak learning rate of scales and biases, in relative units, smaller ones for
            scales of more than 4 bits.
        rounding_learning_rate: peak learning rate of the rounding variables.
        regularization: weight of the rounding regularizer.
        output_loss: extra weight of the squared error of the logits in the distillation loss.

    Example:
        >>> config = tfeptq.QuantizationConfig(
        ...     weight_bits=(8, 2, 4), budget=tfeptq.Budget(weight_bytes=60_000)
        ... )
        >>> config.weight_bits, config.activation_bits
        ((2, 4, 8), 8)
        >>> tfeptq.QuantizationConfig(target="edgetpu")
        Traceback (most recent call last):
            ...
        ValueError: target='edgetpu' is unknown; allowed are ...; did you mean 'coral'?
    """

    weight_bits: int | tuple[int, ...] | Mapping[str, int] = 8
    activation_bits: int | tuple[int, ...] | Mapping[str, int] = 8
    target: str = "android"
    input_range: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None
    input_shape: InputShape | None = None
    states: Mapping[str | int, str] | None = None
    outputs: Outputs | None = None
    weight_grid: str = "uniform"
    first_last_bits: int | None = 8
    threshold: str | None = None
    rounding: str = "eptq"
    initial_rounding: str = "nearest"
    steps: int = 2000
    batch_size: int = 32
    samples: int = 1024
    stage_samples: StageSamples | Mapping[str, int] = DEFAULT_STAGES
    augmentation: keras.Layer | None = None
    seed: int = 0
    bias_correction: bool = True
    sample_layer_attention: bool = True
    channel_attention: bool = True
    gradual_activations: bool = True
    gradual_rounding: bool = True
    train_scales: bool = True
    train_biases: bool = True
    learning_rate: float = 3e-3
    rounding_learning_rate: float = 4e-2
    regularization: float = 1.0
    output_loss: float = 10.0
    sensitivity: str = "inter_layer"
    measured_moves: int | None = None
    budget: Budget | None = None
    accuracy_target: AccuracyTarget | None = None
    ordered_widths: bool = False

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if self.accuracy_target is not None and self.accuracy_target.cost == "latency_ms":
            object.__setattr__(self, "budget", timed(self.budget))
        self._check_goals()

    @property
    def has_candidates(self) -> bool:
        """Whether the widths are still to be chosen."""
        return isinstance(self.weight_bits, tuple) or isinstance(self.activation_bits, tuple)

    @property
    def stages(self) -> StageSamples:
        """`stage_samples`, with every stage in it."""
        assert isinstance(self.stage_samples, StageSamples)
        return self.stage_samples

    @property
    def moves(self) -> int:
        """`measured_moves`, or what stands for None."""
        if self.measured_moves is not None:
            return self.measured_moves
        is_trained, has_more = self.rounding == "eptq", isinstance(self.activation_bits, tuple)
        return 0 if is_trained or has_more or self.ordered_widths else DEFAULT_MOVES

    @property
    def clipping(self) -> str:
        """`threshold`, or what stands for None: what suits the rounding best.

        What is rounded to nearest loses least where its errors are seen together in the layer's
        output. OPTQ and training make up for errors later, and gain nothing from that.
        """
        if self.threshold is not None:
            return self.threshold
        return "output" if self.rounding == "nearest" else "hmse"

    @property
    def untrained_rounding(self) -> str:
        """How weights are rounded where they are not trained, or not yet: "optq" or "nearest"."""
        return self.initial_rounding if self.rounding == "eptq" else self.rounding

    @property
    def quick_rounding(self) -> str:
        """What stands for the recipe where training would take too long."""
        return "nearest" if self.rounding == "nearest" else "optq"

    def _check_goals(self) -> None:
        is_compressed = self.budget is not None and self.budget.compressed
        if is_compressed and self.target not in (readers := able("reads_tables")):
            raise ValueError(
                f"budget: compressed files run on target {' or '.join(map(repr, readers))} only, "
                f"not {self.target!r}"
            )
        if self.budget is not None and self.budget.latency_table is not None:
            latency_file(self.budget.latency_table, self.target)
        for name in ("budget", "accuracy_target"):
            if getattr(self, name) is not None and not self.has_candidates:
                raise ValueError(
                    f"{name} needs widths to choose from: give weight_bits (or activation_bits) a "
                    f"tuple of candidates, for example (2, 3, 4, 8), received {self.weight_bits!r}"
                )

        target = self.accuracy_target
        if target is None:
            return
        if target.cost == "activation_bytes" and not isinstance(self.activation_bits, tuple):
            raise ValueError(
                "accuracy_target: cost='activation_bytes' needs a tuple of candidates for "
                f"activation_bits, received {self.activation_bits!r}"
            )

    def get_config(self) -> dict[str, Any]:
        """Settings as plain values; the metric of an accuracy target by its name."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("weight_bits", "activation_bits", "input_range", "input_shape", "states"):
            if isinstance(config[name], Mapping):
                config[name] = dict(config[name])
        for name in ("budget", "accuracy_target"):
            if config[name] is not None:
                config[name] = config[name].get_config()
        config["stage_samples"] = dataclasses.asdict(self.stages)
        if self.augmentation is not None:
            import keras

            config["augmentation"] = keras.saving.serialize_keras_object(self.augmentation)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuantizationConfig:
        """Inverse of `get_config`. An accuracy target cannot come back: its metric is code."""
        settings = dict(config)
        for name in settings:
            member("setting", name, list(_CHECKS))
        if settings.get("accuracy_target") is not None:
            raise ValueError(
                "accuracy_target was stored without its metric; set it to None in the stored "
                "configuration and pass a new AccuracyTarget(metric, relative)"
            )
        if isinstance(settings.get("budget"), Mapping):
            settings["budget"] = Budget.from_config(settings["budget"])
        if isinstance(settings.get("augmentation"), Mapping):
            import keras

            settings["augmentation"] = keras.saving.deserialize_keras_object(
                settings["augmentation"]
            )
        return cls(**settings)


def _instance(kind: type) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{name}={shown(value)} must be a tfeptq.{kind.__name__}, or None")
        return value

    return check


def _layer(name: str, value: Any) -> Any:
    if value is None:
        return None
    # The command line reads settings, and refuses bad ones, before it waits for TensorFlow.
    import keras

    if not isinstance(value, keras.Layer):
        raise ValueError(f"{name}={shown(value)} must be a Keras layer or model, or None")
    return value


def _or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


#: Name of a setting -> what returns it as a plain value, or refuses it.
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "weight_bits": partial(widths, allowed=WEIGHT_BITS),
    "activation_bits": partial(widths, allowed=ACTIVATION_BITS),
    "target": partial(member, allowed=TARGETS),
    "input_range": _or_none(bounds),
    "input_shape": _or_none(shapes),
    "states": _or_none(state_names),
    "outputs": _or_none(layer_names),
    "weight_grid": partial(member, allowed=WEIGHT_GRIDS),
    "first_last_bits": _or_none(partial(width, allowed=WEIGHT_BITS)),
    "threshold": _or_none(partial(member, allowed=THRESHOLDS)),
    "rounding": partial(member, allowed=ROUNDINGS),
    "initial_rounding": partial(member, allowed=INITIAL_ROUNDINGS),
    "steps": partial(whole, least=1),
    "batch_size": partial(whole, least=1),
    "samples": partial(whole, least=1),
    "stage_samples": stage_samples,
    "augmentation": _layer,
    "seed": partial(whole, least=0, most=2**31 - 1),
    "bias_correction": switch,
    "sample_layer_attention": switch,
    "channel_attention": switch,
    "gradual_activations": switch,
    "gradual_rounding": switch,
    "train_scales": switch,
    "train_biases": switch,
    "learning_rate": real,
    "rounding_learning_rate": real,
    "regularization": partial(real, may_be_zero=True),
    "output_loss": partial(real, may_be_zero=True),
    "sensitivity": partial(member, allowed=SENSITIVITIES),
    "measured_moves": _or_none(partial(whole, least=0)),
    "budget": _instance(Budget),
    "accuracy_target": _instance(AccuracyTarget),
    "ordered_widths": switch,
}
