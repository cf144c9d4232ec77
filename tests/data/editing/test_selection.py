"""Episode numbers and the expression language: what holds, what is unknown, and that nothing is ever executed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.core.errors import UserError
from robolearn.data.editing.selection import LONGEST, Expression, as_text, episode_numbers

EPISODE = {"length": 120, "index": 7, "success": True, "frozen_camera": 3.0, "meta.task": "lift", "meta.score": None, "meta.who": "anna"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("success", True),
        ("not success", False),
        ("success and not frozen_camera", False),
        ("success and frozen_camera < 5", True),
        ("length > 200 or meta.task == 'lift'", True),
        ("100 <= length < 120", False),
        ("100 <= length <= 120", True),
        ("index in [3, 7]", True),
        ("index not in (3, 7)", False),
        ("meta.who in {'anna', 'bert'}", True),
        ("'ift' in meta.task", True),
        ("frozen_camera > -1", True),
        ("frozen_camera > -1.5 and true", True),
        ("success == True and success == true", True),
        ("success != false", True),
        ("meta.score == None", True),
        ("meta.score == null", True),
        ("meta.score > 0", False),
        ("meta.score <= 0", False),  # unknown is neither above nor below
        ("'x' in meta.score", False),
        ("'x' not in meta.score", False),
        ("  length\n", True),
    ],
)
def test_what_holds(text: str, expected: bool) -> None:
    expression = Expression("keep", text)
    expression.require_known(EPISODE)
    assert expression(EPISODE) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keep: '' is not an expression"),
        ("success and", "is not an expression: invalid syntax at character"),
        ("a = 1", "is not an expression"),
        ("import os", "is not an expression"),
        ("success\0", "is not an expression"),
        ("print('x')", "Call is not part of the language: and, or, not"),
        ("__import__('os').system('false')", "Call is not part of the language"),
        ("length + 1 > 3", "BinOp is not part"),
        ("9**9**9", "BinOp is not part"),
        ("-length", "UnaryOp is not part"),
        ("~1", "UnaryOp is not part"),
        ("meta['task']", "Subscript is not part"),
        ("success.__class__", "Attribute is not part"),
        ("'x'.join", "Attribute is not part"),
        ("[x for x in meta]", "ListComp is not part"),
        ("(lambda: 1)", "Lambda is not part"),
        ("f'{length}'", "JoinedStr is not part"),
        ("(a := 1)", "NamedExpr is not part"),
        ("success is None", "Is is not part"),
        ("1 if success else 2", "IfExp is not part"),
        ("{'a': 1}", "Dict is not part"),
        ("b'x' == 1", "Constant is not part"),
        ("[*length]", "Starred is not part"),
        ("...", "Constant is not part"),
        ("1j", "Constant is not part"),
        ("length > 3" + " " * LONGEST, f"expected at most {LONGEST}"),
        ("(" * 900 + "1" + ")" * 900, "is not an expression: too many nested parentheses"),
        ("not " * 400 + "1", "is not an expression: nested too deeply"),
        ("[" * 90 + "]" * 90, "is not an expression: nested too deeply"),
        ("not " * 40 + "1", None),
    ],
)
def test_only_questions_are_asked(text: str, message: str | None) -> None:
    """message None: deep, but fine."""
    if message is None:
        assert Expression("keep", text)({}) is True
        return
    with pytest.raises(UserError, match="^keep: ") as caught:
        Expression("keep", text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_names_list_the_valid_ones() -> None:
    with pytest.raises(UserError, match="'frozen' is not known; valid: length, index, success, frozen_camera, meta.task"):
        Expression("keep", "success and frozen").require_known(EPISODE)
    with pytest.raises(UserError, match="'meta.tusk' is not known; valid: .*meta.task"):
        Expression("keep", "meta.tusk == 1").require_known(EPISODE)
    assert list(Expression("keep", "a or meta.b.c > d and true").names) == ["a", "meta.b.c", "d"]


def test_apples_are_not_compared_with_pears() -> None:
    for text in ("meta.task > 3", "3 in length"):
        with pytest.raises(UserError, match="cannot be compared"):
            Expression("keep", text)(EPISODE)


@given(st.text(max_size=60) | st.text("()[]{}'\".,=<>! \nabcmetandorti0123456789:*+-", max_size=60))
def test_any_text_is_an_expression_or_one_line(text) -> None:
    try:
        expression = Expression("keep", text)
        expression(dict.fromkeys(expression.names, 1))
    except UserError as error:
        assert str(error).startswith("keep: ")


def test_numbers() -> None:
    assert episode_numbers("episodes", "24-26,40, 3 - 4,25", 41) == [24, 25, 26, 40, 3, 4]
    assert episode_numbers("episodes", "0", 1) == [0]
    for text in ("", "a", "3-", "-3", "5-3", "1,,2", "1.5", "1;2", "1-2-3", "９"):
        with pytest.raises(UserError, match="episodes: .* is not valid; expected episode numbers such as 24-33,40"):
            episode_numbers("episodes", text, 10)
    for text in ("10", "3-999999999999"):
        with pytest.raises(UserError, match="does not exist; valid: 0-9"):
            episode_numbers("episodes", text, 10)


@given(st.lists(st.integers(0, 30), unique=True, min_size=1))
def test_numbers_as_text_and_back(numbers) -> None:
    assert episode_numbers("e", as_text(numbers), 31) == numbers


def test_runs_are_written_short() -> None:
    assert as_text([24, 25, 26, 40, 42, 43]) == "24-26,40,42-43" and as_text([]) == ""
