"""Changing a module of another package at the moment it is imported, and not before."""

import functools
import importlib.abc
import importlib.machinery
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

Execute = Callable[[ModuleType], None]
Hook = Callable[[Execute, ModuleType], None]


class ExecutionFinder(importlib.abc.MetaPathFinder):
    """Finds the named modules as Python does, and executes each through its hook.

    Args:
        hooks: by module name; a hook gets the function that executes the module, and the module.
    """

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self.hooks = hooks

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of a named module, with another execution; None for any other name."""
        if fullname not in self.hooks:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        # On the loader itself, so that it still answers for the module's source.
        execute = functools.partial(self.hooks[fullname], spec.loader.exec_module)
        vars(spec.loader)["exec_module"] = execute
        return spec
