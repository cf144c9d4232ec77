"""Pickles, read without running them.

Python's own unpickler imports and calls whatever a file names. This one is an interpreter of the pickle machine (PEP 307, 3154, 574)
for the few things that data need: numbers, text, plain containers, numpy arrays. Names are looked up in a table (`_pickle_makers`),
anything else is refused by its name. It does not recurse, and arrays are views of the file's bytes, so that a large one opens quickly.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._pickle_makers import WHAT_IS_READ, Name, Pending, described, dictionary, key, named
from robolearn.data.formats._pickle_stream import Buffer, file_bytes, operations
from robolearn.data.formats._reader import require_memory

MAX_OPERATIONS = 1 << 23  # one byte can ask for an object of 200; TOTO's 1.2 M file names take 2.5 M operations
MAX_COPIED = 1 << 28  # bytes, beside four times the file: a file can ask a million times for a copy of one list
PEEK_BYTES, PEEK_OPERATIONS = 1 << 24, 20_000  # enough for the first trajectory of a list, its keys among it
PEEK_TEXT = 256  # characters; a key is shorter
_DAMAGE = (struct.error, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def load(path: Path, label: str | None = None) -> Any:
    """The object in a pickle of any protocol, Python 2's (latin1) among them. Arrays are read-only views, bytes memoryviews, of the file.

    UserError, which begins with `label` or the file's name: anything but data, by its name; damaged; more than MAX_OPERATIONS.
    """
    label = label or path.name
    try:
        return _Machine(file_bytes(path)).run()
    except UserError as error:
        raise UserError(f"{label}: {error}") from error
    except _DAMAGE as error:
        raise UserError(f"{label}: damaged pickle ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """What a pickle that stops making sense does: Python's own words for these would be a bare number."""
    if isinstance(error, KeyError):
        return f"{error} is no operation or was never kept: it is cut, changed, or no pickle"
    if isinstance(error, IndexError):
        return "an operation lacks its values: it is cut, changed, or no pickle"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def trajectories(path: Path, keys: Sequence[str]) -> list[dict[Any, Any]]:
    """A pickle that is a list with one dict per trajectory. UserError: it is not, or one of them lacks one of `keys`."""
    found = load(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UserError(f"{path.name}: is {described(found)}; expected a list with one dict per trajectory")
    for index, one in enumerate(found):
        if missing := [name for name in keys if name not in one]:
            listed = ", ".join(str(name)[:40] for name in list(one)[:12]) or "nothing"
            raise UserError(f"{path.name}: trajectory {index} has no {', '.join(missing)}; it has {listed}")
    return found


def texts(path: Path) -> frozenset[str]:
    """The short texts at the beginning of a pickle, keys among them: tells what it is about and builds nothing. Empty: no pickle."""
    found: set[str] = set()
    try:
        for count, (_, argument) in enumerate(operations(file_bytes(path, PEEK_BYTES), PEEK_TEXT)):
            if type(argument) is str:
                found.add(argument)
            if count == PEEK_OPERATIONS:
                break
    except (OSError, UserError, *_DAMAGE):
        pass  # what came before the cut or the damage tells enough; whoever loads it says what is wrong
    return frozenset(found)


def numbers(value: Any, what: str) -> np.ndarray:
    """An array, a list of numbers, or a list of such rows as one numeric array. UserError names `what`."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value or not all(isinstance(v, np.ndarray | list | tuple) for v in value):
        return _flat(value, what)
    rows: dict[int, np.ndarray] = {}
    for row in value:
        if id(row) not in rows:  # a file can refer to one list a million times
            rows[id(row)] = _flat(row, f"{what}: a row")
    shapes = {row.shape for row in rows.values()}
    if len(shapes) > 1:
        raise UserError(f"{what} has rows of different shapes: {', '.join(map(str, sorted(shapes)[:4]))}")
    require_memory(what, (len(value), *shapes.pop()), 8)
    return np.stack([rows[id(row)] for row in value])


def _flat(value: Any, what: str) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value
    if isinstance(value, list | tuple) and all(isinstance(v, int | float | np.number | np.bool_) for v in value):
        return np.array([float(v) for v in value])
    raise UserError(f"{what} is {described(value)}; expected numbers")


_NOT_PUSHED = {"GLOBAL", "INST", "GET", "BINGET", "LONG_BINGET", "PERSID", "EXT1", "EXT2", "EXT4"}
_PUSHED = {op.name for op in pickletools.opcodes if op.arg and not op.stack_before and len(op.stack_after) == 1} - _NOT_PUSHED
_FRESH: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Machine:
    """A stack, a memo, and the operations on them."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks that MARKs have covered
        self.memo: dict[int, Any] = {}
        self.copies_left = MAX_COPIED + 4 * len(data)

    def run(self) -> Any:
        for count, (name, argument) in enumerate(operations(self.data)):
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _FRESH:
                self.stack.append(_FRESH[name]())
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name == "STOP":
                break
            else:
                self._do(name, argument)
            if count == MAX_OPERATIONS:
                raise UserError(f"has more than {MAX_OPERATIONS} pickle operations; refused")
        return self.stack.pop()

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "MEMOIZE" | "PUT" | "BINPUT" | "LONG_BINPUT":
                index = len(self.memo) if name == "MEMOIZE" else argument
                self.memo[index] = stack[-1]
                if isinstance(stack[-1], Pending):
                    stack[-1].memo_keys.append(index)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP" if stack:
                stack.pop()
            case "POP" | "POP_MARK":
                self._since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                if len(stack) < count:
                    raise ValueError(f"{name} of {len(stack)} values")
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                values = tuple(self._since_mark())
                self.stack.append(values)
            case "LIST":
                values = self._since_mark()
                self.stack.append(values)
            case "DICT":
                values = self._since_mark()
                self.stack.append(dictionary(_pairs(values)))
            case "FROZENSET":
                values = self._since_mark()
                self.stack.append(frozenset(key(v) for v in values))
            case "APPEND":
                value = stack.pop()
                self._top(list).append(value)
            case "APPENDS":
                values = self._since_mark()
                self._top(list).extend(values)
            case "SETITEM":
                value, label = stack.pop(), stack.pop()
                self._top(dict)[key(label)] = value
            case "SETITEMS":
                values = self._since_mark()
                self._top(dict).update(dictionary(_pairs(values)))
            case "ADDITEMS":
                values = self._since_mark()
                self._top(set).update(key(v) for v in values)
            case "GLOBAL" | "INST":
                known = named(*argument)
                if name == "INST":
                    raise UserError(f"makes an instance of {known.name}; {WHAT_IS_READ}")
                stack.append(known)
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(named(module, attribute))
            case "REDUCE":
                arguments, maker = stack.pop(), stack.pop()
                if not isinstance(maker, Name) or maker.make is None or type(arguments) is not tuple:
                    raise UserError(f"calls {described(maker)}; {WHAT_IS_READ}")
                self._count_copies(arguments)
                stack.append(maker.make(*arguments))
            case "BUILD":
                state, pending = stack.pop(), stack.pop()
                if not isinstance(pending, Pending) or type(state) is not tuple:
                    raise UserError(f"sets the state of {described(pending)}; {WHAT_IS_READ}")
                self._count_copies(state)
                stack.append(pending.build(state))
                self.memo.update(dict.fromkeys(pending.memo_keys, stack[-1]))
            case _:
                raise UserError(f"uses the pickle operation {name}; {WHAT_IS_READ}")

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise UserError(f"fills {described(self.stack[-1])}; {WHAT_IS_READ}")
        return self.stack[-1]

    def _count_copies(self, arguments: tuple[Any, ...]) -> None:
        self.copies_left -= sum(len(a) * (64 if isinstance(a, list | tuple) else 1) for a in arguments if hasattr(a, "__len__"))
        if self.copies_left < 0:
            raise UserError("asks for more copies of its parts than it is worth; refused")


def _pairs(values: list[Any]) -> list[tuple[Any, Any]]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return list(zip(values[::2], values[1::2], strict=True))
