"""Which episodes: by their numbers, or by an expression over what is known about them.

An expression is `and`, `or`, `not`, comparisons and `in` over names, numbers, strings, true or false or None, and lists of
these. It is parsed and walked here, node by node, never evaluated by Python: it may come from a config of a stranger.
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from robolearn.core.errors import UserError

LONGEST = 2000  # characters of an expression
DEEPEST = 50  # expressions in one another; the stack is finite
LANGUAGE = "and, or, not, == != < <= > >=, in, names, meta.<key>, numbers, 'text', lists"
_ORDERED: dict[type, Callable[[Any, Any], bool]] = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_CONSTANTS = {"true": True, "false": False, "null": None}  # as YAML and JSON spell them


def episode_numbers(field: str, text: str, total: int) -> list[int]:
    """ "24-33,40" -> each of these once, in this order. UserError: no numbers, or not below `total`."""
    numbers: dict[int, None] = {}
    for piece in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,12})\s*(?:-\s*([0-9]{1,12})\s*)?", piece)
        if not found or (found[2] and int(found[2]) < int(found[1])):
            raise UserError(f"{field}: {piece.strip()!r} is not valid; expected episode numbers such as 24-33,40")
        first, last = int(found[1]), int(found[2] or found[1])
        if last >= total:
            raise UserError(f"{field}: episode {last} does not exist; valid: 0-{total - 1}")
        numbers |= dict.fromkeys(range(first, last + 1))
    return list(numbers)


def as_text(numbers: Collection[int]) -> str:
    """[24, 25, 26, 40] -> "24-26,40"; the order stays."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


class Expression:
    """A question about one episode."""

    def __init__(self, field: str, text: str) -> None:
        """UserError: not an expression, or one that does more than ask. `field` opens every error."""
        self._where = f"{field}: {text!r}" if len(text) <= 200 else f"{field}: {text[:200]!r}..."
        self.names: dict[str, None] = {}  # every name it uses; meta.<key> among them
        if len(text) > LONGEST:
            raise UserError(f"{self._where}: {len(text)} characters; expected at most {LONGEST}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on style
                self._tree = ast.parse(text.strip(), mode="eval").body
            self._check(self._tree)
        except SyntaxError as error:
            raise UserError(f"{self._where} is not an expression: {error.msg} at character {error.offset or 0}") from error
        except ValueError as error:  # a NUL
            raise UserError(f"{self._where} is not an expression: {error}") from error
        except (MemoryError, RecursionError) as error:
            raise UserError(f"{self._where} is not an expression: nested too deeply") from error

    def require_known(self, known: Collection[str]) -> None:
        """UserError lists the valid names where the expression uses another. known: `meta.<key>` among them."""
        for name in self.names:
            if name not in known:
                raise UserError(f"{self._where}: {name!r} is not known; valid: {', '.join(known)}")

    def __call__(self, values: Mapping[str, Any]) -> bool:
        """values: every name of `names`. What an episode does not know is None: equal to None only, above and below nothing."""
        return bool(self._value(self._tree, values))

    def _check(self, node: ast.AST, depth: int = 0) -> None:
        if depth > DEEPEST:
            raise RecursionError
        match node:
            case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                for part in parts:
                    self._check(part, depth + 1)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                self._check(inner, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
                pass
            case ast.Compare(left=left, ops=ops, comparators=others):
                for op in ops:
                    if not isinstance(op, (ast.Eq, ast.NotEq, ast.In, ast.NotIn, *_ORDERED)):
                        raise UserError(f"{self._where}: {type(op).__name__} is not part of the language: {LANGUAGE}")
                for part in (left, *others):
                    self._check(part, depth + 1)
            case ast.Constant(value=bool() | int() | float() | str() | None):
                pass
            case ast.Name() | ast.Attribute() if (name := _dotted(node)) is not None:
                if name not in _CONSTANTS:
                    self.names[name] = None
            case _:
                raise UserError(f"{self._where}: {type(node).__name__} is not part of the language: {LANGUAGE}")

    def _value(self, node: ast.AST, values: Mapping[str, Any]) -> Any:
        match node:
            case ast.BoolOp(op=op, values=parts):
                return (all if isinstance(op, ast.And) else any)(self._value(part, values) for part in parts)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                return [self._value(part, values) for part in parts]
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                return not self._value(inner, values)
            case ast.UnaryOp(operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Constant(value=value):
                return value
            case ast.Compare(left=left, ops=ops, comparators=others):
                ends = [self._value(part, values) for part in (left, *others)]
                return all(self._holds(op, a, b) for op, a, b in zip(ops, ends, ends[1:], strict=False))
        name = _dotted(node)
        assert name is not None
        return _CONSTANTS[name] if name in _CONSTANTS else values[name]

    def _holds(self, op: ast.cmpop, left: Any, right: Any) -> bool:
        if isinstance(op, ast.Eq | ast.NotEq):
            return bool(left == right) is isinstance(op, ast.Eq)
        try:
            if isinstance(op, ast.In | ast.NotIn):
                return right is not None and (left in right) is isinstance(op, ast.In)
            return left is not None and right is not None and bool(_ORDERED[type(op)](left, right))
        except TypeError as error:
            raise UserError(f"{self._where}: {left!r} and {right!r} cannot be compared: {error}") from error


def _dotted(node: ast.AST) -> str | None:
    """`name`, or `meta.key.key`; attributes of anything else are none."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{inner}.{node.attr}" if inner and inner.split(".")[0] == "meta" and isinstance(node, ast.Attribute) else None
