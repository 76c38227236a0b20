"""What the user asks for: a YAML file of settings, and options that override it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import yaml
from cyclopts import Group, Parameter

from tfeptq.cli.fields import options
from tfeptq.cli.values import require_file
from tfeptq.config import QuantizationConfig
from tfeptq.goals import COSTS, AccuracyTarget, Budget
from tfeptq.host_latency import latency_file
from tfeptq.settings import member

#: Cost -> the option that bounds it.
_LIMIT_FLAGS = {cost: f"--max-{cost.replace('_', '-')}" for cost in COSTS}
_GOAL_FLAGS = {"relative": "--min-accuracy", "cost": "--minimize"}
#: Fields that price a choice of widths and bound nothing.
_PRICES = ("latency_table", "compressed")
_GROUP = Group("Settings", help="Those of tfeptq.QuantizationConfig.", sort_key=1)
_BUDGET = Group("Budget", help="With candidate widths; all that are given hold.", sort_key=2)
_GOAL = Group(
    "Accuracy target", help="With candidate widths, of accuracy on --validation.", sort_key=3
)


def _typed(kind: type, **about: Any) -> Any:
    """What was typed of a dataclass's fields, and nothing else: defaults stay the dataclass's."""
    make: Any = TypedDict
    return Annotated[
        make(kind.__name__, options(kind, **about), total=False) | None, Parameter(name="*")
    ]


if TYPE_CHECKING:
    Settings = dict[str, Any] | None
    Limits = dict[str, Any] | None
    Prices = dict[str, Any] | None
    Goal = dict[str, Any] | None
else:
    Settings = _typed(QuantizationConfig, group=_GROUP)
    Limits = _typed(Budget, group=_BUDGET, flags=_LIMIT_FLAGS, only=COSTS)
    Prices = _typed(
        Budget,
        group=_BUDGET,
        only=_PRICES,
        metavars={"latency_table": "T.csv|host"},
    )
    Goal = _typed(AccuracyTarget, group=_GOAL, flags=_GOAL_FLAGS, without_default=("relative",))

ConfigFile = Annotated[
    Path | None,
    Parameter(
        help="YAML file of settings by the names of QuantizationConfig's fields, with mappings "
        "`budget` and `accuracy_target`; options override it.",
        metavar="F.yaml",
    ),
]


@dataclasses.dataclass(frozen=True)
class Request:
    """A configuration, but for what needs Keras or data.

    Attributes:
        config: everything else.
        goal: settings of an accuracy target without its metric, if one is asked for.
        augmentation: file of the layer that makes copies.
    """

    config: QuantizationConfig
    goal: Mapping[str, Any] | None = None
    augmentation: Path | None = None

    @property
    def files(self) -> tuple[Path | None, ...]:
        """What is read besides the model and data."""
        return self.augmentation, _latency_table(self.config)

    def with_metric(self, metric: Callable[[Any], Any]) -> QuantizationConfig:
        """The configuration with its accuracy target. Raises ValueError for a bad target."""
        assert self.goal is not None
        return dataclasses.replace(self.config, accuracy_target=AccuracyTarget(metric, **self.goal))


def request(
    file: Path | None,
    settings: Mapping[str, Any] | None,
    budget: Mapping[str, Any],
    goal: Mapping[str, Any] | None = None,
) -> Request:
    """The file's settings, overridden by options.

    Raises:
        ValueError: an unknown setting, or a value that is not allowed.
    """
    written = _read(file) if file is not None else {}
    whole_budget = {**written.pop("budget", {}), **budget}
    is_asked = "accuracy_target" in written or "relative" in (goal or {})
    whole_goal = {**written.pop("accuracy_target", {}), **(goal or {})}
    if whole_goal and not is_asked:
        raise ValueError(
            f"{', '.join(map(_goal_flag, whole_goal))}: these say how an accuracy is held; "
            "--min-accuracy says which"
        )
    whole = {**written, **(settings or {})}
    augmentation = whole.pop("augmentation", None)
    bounds = Budget(**whole_budget) if whole_budget else None
    config = QuantizationConfig(**whole, budget=bounds)
    _require_files(config)
    return Request(
        config,
        whole_goal if is_asked else None,
        None if augmentation is None else _existing("augmentation", augmentation),
    )


def _goal_flag(name: str) -> str:
    return _GOAL_FLAGS.get(name, f"--{name.replace('_', '-')}")


def _require_files(config: QuantizationConfig) -> None:
    table = _latency_table(config)
    if table is not None:
        require_file(table)


def _latency_table(config: QuantizationConfig) -> Path | None:
    if config.budget is None or config.budget.latency_table is None:
        return None
    return latency_file(config.budget.latency_table, config.target)


def _existing(name: str, path: Any) -> Path:
    if not isinstance(path, (str, Path)):
        raise ValueError(f"{name}={path!r} must be the path of a file")
    require_file(Path(path))
    return Path(path)


def _read(file: Path) -> dict[str, Any]:
    """Settings of a YAML file by field name, unchecked but for their names."""
    require_file(file)
    try:
        content = yaml.load(file.read_text("utf-8"), _Once)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file: {' '.join(str(error).split())}") from None
    known = {"": QuantizationConfig, "budget": Budget, "accuracy_target": AccuracyTarget}
    found = _mapping(file, "", content, known[""])
    for name in ("budget", "accuracy_target"):
        if found.get(name) is None:
            found.pop(name, None)
        else:
            found[name] = _mapping(file, f"{name}: ", found[name], known[name])
    return found


class _Once(yaml.SafeLoader):
    """Refuses settings that are given twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _mapping(file: Path, place: str, content: Any, kind: type) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{file}: {place}settings are needed, one `name: value` a line")
    # A metric is a function; the command line has its own.
    fields = [f for f in dataclasses.fields(kind) if f.name != "metric"]
    names = [field.name for field in fields]
    settings = {}
    for key, value in content.items():
        name = member(f"{file}: {place}setting", _as_field(key), names)
        settings[name] = _as_number(value, next(f for f in fields if f.name == name))
    return settings


def _as_field(key: Any) -> Any:
    return key.replace("-", "_") if isinstance(key, str) else key


def _as_number(value: Any, field: dataclasses.Field[Any]) -> Any:
    """YAML takes 3e-3 for text, because it lacks a dot."""
    if isinstance(value, str) and isinstance(field.default, float):
        try:
            return float(value)
        except ValueError:
            return value
    return value
