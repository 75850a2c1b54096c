"""Histories as Python source: what a regression test and a replay line are written with.

An argument may be anything that a mutator takes, and `repr` is source for few of them. So a value
is written by what it is: literals and containers as they look, members of an Enum by their names,
dataclasses and named tuples by their fields, classes and functions by where they stand; anything
else by its `repr` if that is a call which gives an equal value (Decimal, UUID, datetime), and
otherwise pickled. What is named is imported, and kept apart if two modules use one name. What
cannot be imported - it stands inside of a function, or in a script - cannot be written:
`UnwritableError`, and a test then replays the seed.
"""

from __future__ import annotations

import ast
import pickle
import sys
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any

from crdt.errors import CRDTError
from crdt.testing.operation import home_of

_FACES = ("crdt.testing", "crdt")  # what is ours is imported from the outermost that has it
_REPR_NODES = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Attribute,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
)


class UnwritableError(CRDTError, ValueError):
    """A value of which no source makes an equal one."""

    code = "unwritable"
    hint = "define its type at the top level of a module; until then, replay by the seed"


class Source:
    """Writes values as source, and collects what has to be imported for it."""

    def __init__(self) -> None:
        self._names: dict[str, tuple[str, str]] = {}  # as used here -> (module, name there)
        self._modules: set[str] = set()

    def imports(self) -> str:
        """The import statements that everything written so far needs, one a line, in order."""
        lines = [f"import {module}" for module in self._modules]
        by_module: dict[str, list[str]] = {}
        for here, (module, name) in sorted(self._names.items()):
            by_module.setdefault(module, []).append(name if here == name else f"{name} as {here}")
        lines += [f"from {module} import {', '.join(names)}" for module, names in by_module.items()]
        return "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))

    def use_home(self, kind: Any) -> None:
        """Have the module imported that registers a type, unless it is the one that defines it."""
        home = home_of(kind)
        if home not in {"", "__main__", kind.__module__}:
            self._modules.add(home)

    def name(self, item: Any) -> str:
        """A class or function by where it stands. O(depth)."""
        module, path = str(item.__module__), str(item.__qualname__)
        for face in _FACES:
            if module.startswith(f"{face}.") and path in sys.modules[face].__all__:
                module = face
        if _found(module, path) is not item or module == "__main__":
            raise UnwritableError(f"{module}.{path} cannot be imported")
        top, dot, rest = path.partition(".")
        return self._imported(module, top) + dot + rest if module != "builtins" else path

    def _imported(self, module: str, name: str) -> str:
        here, number = name, 1
        while self._names.setdefault(here, (module, name)) != (module, name):
            number += 1
            here = f"{name}_{number}"
        return here

    def write(self, value: Any) -> str:
        """An expression whose value equals this one. O(size)."""
        kind = type(value)
        if value is None or kind in {bool, int, str, bytes}:
            return repr(value)
        if kind is float:
            return repr(value) if isfinite(value) else f'float("{value}")'
        if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
            return self.name(value)
        ways = (self._container, self._by_name, self._by_fields, self._by_repr, self._pickled)
        source = next(filter(None, (way(value) for way in ways)), "")
        if not source:
            raise UnwritableError(f"a {kind.__name__} cannot be written down: {value!r:.80}")
        return source

    def _container(self, value: Any) -> str:
        kind = type(value)
        if kind is dict:
            items = [f"{self.write(key)}: {self.write(item)}" for key, item in value.items()]
            return f"{{{', '.join(items)}}}"
        if kind not in {list, tuple, set, frozenset}:
            return ""
        items = list(map(self.write, value))
        if kind is tuple:
            return f"({', '.join(items)}{',' * (len(items) == 1)})"
        if kind is list:
            return f"[{', '.join(items)}]"
        inner = f"{{{', '.join(sorted(items))}}}" if items else ""
        return inner if items and kind is set else f"{kind.__name__}({inner})"

    def _by_name(self, value: Any) -> str:
        """A member of an Enum; of a Flag, a combination that has no name of its own as well."""
        if not isinstance(value, Enum):
            return ""
        name = self.name(type(value))
        named = str(value.name) in type(value).__members__
        return f"{name}.{value.name}" if named else f"{name}({self.write(value.value)})"

    def _by_fields(self, value: Any) -> str:
        kind = type(value)
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return f"{self.name(kind)}({', '.join(map(self.write, value))})"
        if not is_dataclass(value):
            return ""
        given = [each for each in fields(value) if each.init]
        source = ", ".join(f"{each.name}={self.write(getattr(value, each.name))}" for each in given)
        return f"{self.name(kind)}({source})"

    def _by_repr(self, value: Any) -> str:
        """Its `repr`, if that is a call of its class, bare or with its module, and equal to it."""
        kind, text = type(value), repr(value)
        module = kind.__module__
        try:
            tree = ast.parse(text, mode="eval")
            if not all(isinstance(node, _REPR_NODES) for node in ast.walk(tree)):
                return ""
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            if names == {module.partition(".")[0]}:
                if eval(text, {module: sys.modules[module]}) != value:  # noqa: S307  # a call
                    return ""
                self._modules.add(module)
                return text
            if names != {kind.__name__} or eval(text, {kind.__name__: kind}) != value:  # noqa: S307
                return ""
        except Exception:  # noqa: BLE001  # a repr of people's own may be anything
            return ""
        return text.replace(kind.__name__, self.name(kind), 1)

    def _pickled(self, value: Any) -> str:
        try:
            data = pickle.dumps(value)
            pickle.loads(data)  # noqa: S301  # what was just written
        except Exception:  # noqa: BLE001  # pickle raises what it likes
            return ""
        self._modules.add("pickle")
        return f"pickle.loads({data!r})"


def _found(module: str, path: str) -> Any:
    """What stands at a place that has been imported; None if nothing does."""
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def replay_line(kind: Any, function: str, arguments: str) -> str:
    """One line of Python that calls a function of the kit on a type, its imports included.

    Of a type that cannot be imported it is the call alone, to be pasted where the type is known.
    """
    source = Source()
    call = f"{function}({getattr(kind, '__name__', kind)}, {arguments})"
    try:
        call = f"{function}({source.name(kind)}, {arguments})"
        source.use_home(kind)
    except (UnwritableError, AttributeError):
        return call
    return "; ".join(
        [*source.imports().splitlines(), f"from crdt.testing import {function}; {call}"]
    )
