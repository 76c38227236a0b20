"""What the user asks for, validated before any work starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfeptq.precision.goals import AccuracyTarget, Budget

if TYPE_CHECKING:
    import keras

WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8)
ACTIVATION_BITS = (4, 5, 6, 7, 8, 16)
TARGETS = ("android", "coral", "ethos-u", "microcontroller")
THRESHOLDS = ("hmse", "mse", "max")
ROUNDINGS = ("eptq", "optq", "nearest")
INITIAL_ROUNDINGS = ("optq", "nearest")
SENSITIVITIES = ("label_free", "hawq_v2", "inter_layer")
#: Measurements that improve predicted widths which are not trained afterwards.
DEFAULT_MOVES = 32


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """How a model is quantized. Every part of the recipe can be switched off for an ablation.

    Attributes:
        weight_bits: width of the weights: one integer for all layers, `{layer name: bits}`, where
            layers left out get 8 bits, or a tuple of candidates, from which every layer gets its
            own by `budget` or `accuracy_target`. 2 to 8.
        activation_bits: width of the activations, 4 to 8 or 16: one integer for all layers,
            `{layer name: bits}`, where layers left out get 8, or a tuple of candidates, chosen
            together with the weights'. It is the width of a layer's output, see
            `tfeptq.precision.activations`. Candidates need a budget (or a target's cost) that
            feels them, of activation_bytes or bit_operations: the widest lose least.
        target: "android", "coral", "ethos-u" or "microcontroller"; decides which widths and
            granularities can be stored and executed.
        first_last_bits: weights of the first and last weighted layers; None: as the others. A
            layer named in a `weight_bits` mapping keeps the width given there.
        sensitivity: what tells how much a layer's width matters when candidates are given:
            "label_free" (Jacobian bound), "hawq_v2" (average Hessian trace) or "inter_layer" (the
            same with pair terms between layers).
        measured_moves: improves the widths that are predicted to be best within a budget by so
            many measurements of single changes, each a forward pass, and compares them with uniform
            widths; 0 keeps the prediction. Widths of weights only. None: 32 where rounding is not
            learned, for they measure what is there before, and 0 where it is.
        budget: what the chosen widths may cost.
        accuracy_target: what the quantized model must score; the smallest such widths are taken.
        ordered_widths: HAWQ-V2's rule: a layer with a larger average trace never gets fewer bits.
        threshold: where weights are clipped: "hmse" (Hessian-weighted squared error), "mse", "max".
        rounding: "eptq" learns the rounding by network-wise distillation. Without training, in
            seconds: "optq" rounds layer by layer and makes up for the errors that are made, by
            least squares; "nearest" does not.
        initial_rounding: what "eptq" starts from: "optq", within the two integers around each
            weight, or "nearest".
        steps, batch_size: length of the optimisation and samples a step.
        samples: calibration samples used.
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
        learning_rate: peak learning rate of scales and biases, in relative units.
        rounding_learning_rate: peak learning rate of the rounding variables.
        regularization: weight of the rounding regularizer.
        output_loss: extra weight of the squared error of the logits in the distillation loss.
    """

    weight_bits: int | tuple[int, ...] | Mapping[str, int] = 8
    activation_bits: int | tuple[int, ...] | Mapping[str, int] = 8
    target: str = "android"
    first_last_bits: int | None = 8
    threshold: str = "hmse"
    rounding: str = "eptq"
    initial_rounding: str = "nearest"
    steps: int = 2000
    batch_size: int = 32
    samples: int = 1024
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
        for name, allowed in (("weight_bits", WEIGHT_BITS), ("activation_bits", ACTIVATION_BITS)):
            widths = getattr(self, name)
            if isinstance(widths, (tuple, list)):
                object.__setattr__(self, name, _candidates(name, widths, allowed))
            else:
                _check_widths(name, widths, allowed)
        if self.first_last_bits is not None:
            _check_bits("first_last_bits", self.first_last_bits, WEIGHT_BITS)
        _check_member("target", self.target, TARGETS)
        _check_member("threshold", self.threshold, THRESHOLDS)
        _check_member("rounding", self.rounding, ROUNDINGS)
        _check_member("initial_rounding", self.initial_rounding, INITIAL_ROUNDINGS)
        _check_member("sensitivity", self.sensitivity, SENSITIVITIES)
        self._check_goals()
        for name in ("steps", "batch_size", "samples"):
            _check_count(name, getattr(self, name), 1)
        if self.augmentation is not None:
            _check_layer("augmentation", self.augmentation)
        if self.measured_moves is not None:
            _check_count("measured_moves", self.measured_moves, 0)

    @property
    def has_candidates(self) -> bool:
        """Whether the widths are still to be chosen."""
        return isinstance(self.weight_bits, tuple) or isinstance(self.activation_bits, tuple)

    @property
    def moves(self) -> int:
        """`measured_moves`, or what stands for None."""
        if self.measured_moves is not None:
            return self.measured_moves
        return 0 if self.rounding == "eptq" else DEFAULT_MOVES

    @property
    def untrained_rounding(self) -> str:
        """How weights are rounded where they are not trained, or not yet: "optq" or "nearest"."""
        return self.initial_rounding if self.rounding == "eptq" else self.rounding

    @property
    def quick_rounding(self) -> str:
        """What stands for the recipe where training would take too long."""
        return "nearest" if self.rounding == "nearest" else "optq"

    def _check_goals(self) -> None:
        _check_type("budget", self.budget, Budget)
        _check_type("accuracy_target", self.accuracy_target, AccuracyTarget)
        if self.budget is not None and self.budget.compressed and self.target != "microcontroller":
            raise ValueError(
                f"budget: compressed files run on target 'microcontroller' only, not "
                f"{self.target!r}"
            )
        for name in ("budget", "accuracy_target"):
            if getattr(self, name) is not None and not self.has_candidates:
                raise ValueError(
                    f"{name} needs widths to choose from: give weight_bits (or activation_bits) a "
                    f"tuple of candidates, for example (2, 3, 4, 8), received {self.weight_bits!r}"
                )

        target = self.accuracy_target
        if target is None:
            return
        if target.cost == "latency_ms" and (self.budget is None or not self.budget.latency_table):
            raise ValueError(
                "accuracy_target: cost='latency_ms' needs the times of layers: give "
                "budget=Budget(latency_table=...), which `tfeptq latency` measures"
            )
        if target.cost == "activation_bytes" and not isinstance(self.activation_bits, tuple):
            raise ValueError(
                "accuracy_target: cost='activation_bytes' needs a tuple of candidates for "
                f"activation_bits, received {self.activation_bits!r}"
            )

    def get_config(self) -> dict[str, Any]:
        """Settings as plain values; the metric of an accuracy target by its name."""
        config = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("weight_bits", "activation_bits"):
            if isinstance(config[name], Mapping):
                config[name] = dict(config[name])
        for name in ("budget", "accuracy_target"):
            if config[name] is not None:
                config[name] = config[name].get_config()
        if self.augmentation is not None:
            import keras

            config["augmentation"] = keras.saving.serialize_keras_object(self.augmentation)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> QuantizationConfig:
        """Inverse of `get_config`. An accuracy target cannot come back: its metric is code."""
        settings = dict(config)
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


def _check_widths(name: str, widths: Any, allowed: tuple[int, ...]) -> None:
    """One width, or widths by layer name."""
    if isinstance(widths, Mapping):
        for layer, bits in widths.items():
            _check_bits(f"{name}[{layer!r}]", bits, allowed)
    else:
        _check_bits(name, widths, allowed)


def _check_bits(name: str, value: Any, allowed: tuple[int, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        raise ValueError(
            f"{name}={value!r} is not a width that can be executed; "
            f"allowed are {', '.join(map(str, allowed))}"
        )


def _candidates(name: str, widths: Sequence[Any], allowed: tuple[int, ...]) -> tuple[int, ...]:
    """Candidate widths, checked, ascending and without repeats."""
    if not widths:
        raise ValueError(f"{name}=() holds no candidate; for example {allowed[-3:]}")
    for index, bits in enumerate(widths):
        _check_bits(f"{name}[{index}]", bits, allowed)
    return tuple(sorted(set(widths)))


def _check_type(name: str, value: Any, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name}={value!r} must be a tfeptq.{kind.__name__}, or None")


def _check_layer(name: str, value: Any) -> None:
    # The command line reads settings, and refuses bad ones, before it waits for TensorFlow.
    import keras

    if not isinstance(value, keras.Layer):
        raise ValueError(f"{name}={value!r} must be a Keras layer or model, or None")


def _check_member(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; allowed are {', '.join(allowed)}")


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
