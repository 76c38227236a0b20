"""What a request chooses by name: implementations, each imported when somebody asks for it.

The names are known, and checked, before TensorFlow is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping
from typing import Generic, TypeVar

from tfeptq.settings import member

T = TypeVar("T")


class Registry(Collection[str], Generic[T]):
    """Names, in the order in which they are told to users, and what they stand for.

    Args:
        setting: of the request, in whose words a name is refused.
        homes: name -> `module:attribute`.

    Example:
        >>> from tfeptq.config import SENSITIVITIES
        >>> "hawq_v2" in SENSITIVITIES
        True
    """

    def __init__(self, setting: str, homes: Mapping[str, str]) -> None:
        self.setting = setting
        self._homes = dict(homes)
        self._others: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter((*self._homes, *self._others))

    def __len__(self) -> int:
        return len(self._homes) + len(self._others)

    def __contains__(self, name: object) -> bool:
        return name in self._homes or name in self._others

    def find(self, name: str) -> T:
        """What a name stands for. Raises ValueError for an unknown one."""
        member(self.setting, name, self)
        if name in self._others:
            return self._others[name]
        module, _, attribute = self._homes[name].partition(":")
        found: T = getattr(importlib.import_module(module), attribute)
        return found

    def register(self, name: str, entry: T) -> None:
        """Makes a name known for as long as the process lasts.

        Raises:
            ValueError: somebody has it already.
        """
        if name in self:
            raise ValueError(f"{self.setting}={name!r} is registered already; take another name")
        self._others[name] = entry

    def forget(self, name: str) -> None:
        """Takes back what `register` did."""
        del self._others[name]
