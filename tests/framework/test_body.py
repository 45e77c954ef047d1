"""The structure of a body is counted before it is parsed."""

import json
import random
from typing import Any

import pytest
from serving.api import body
from serving.api.problem import ProblemError

TEXTS = ["", "a", '"', "\\", '\\"', '[{"', "]},", "é\U0001f427", "\\\\", '"\\']


def document(dice: random.Random, depth: int) -> Any:
    """A value with text that looks like structure."""
    kind = dice.randrange(4) if depth else 3
    children = [document(dice, depth - 1) for _ in range(dice.randrange(1, 4))] if kind < 2 else []
    if kind == 0:
        return children
    if kind == 1:
        return {dice.choice(TEXTS) + str(index): one for index, one in enumerate(children)}
    return dice.choice([*TEXTS, 1, None])


def size(value: Any) -> tuple[int, int]:
    """The number of arrays, objects and commas in a value, and its depth."""
    if not isinstance(value, list | dict):
        return 0, 0
    sizes = [size(one) for one in (value.values() if isinstance(value, dict) else value)]
    return sum(count for count, _ in sizes) + len(sizes), 1 + max(depth for _, depth in sizes)


def is_refused(content: bytes, most_values: int) -> bool:
    try:
        body.check_structure(content, most_values)
    except ProblemError:
        return True
    return False


@pytest.mark.parametrize("scanned", [1, 7, 65_536])
def test_values_and_depth_are_counted_as_a_parser_does(
    scanned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "_SCANNED_BYTES", scanned)
    dice = random.Random(scanned)
    for _ in range(300):
        value = document(dice, 5)
        values, depth = size(value)
        content = json.dumps(value, ensure_ascii=dice.random() < 0.5).encode()
        assert not is_refused(content, values)
        assert values == 0 or is_refused(content, values - 1)
        monkeypatch.setattr(body, "MOST_DEPTH", depth)
        assert not is_refused(content, values)
        monkeypatch.setattr(body, "MOST_DEPTH", depth - 1)
        assert depth == 0 or is_refused(content, values)
        monkeypatch.undo()
        monkeypatch.setattr(body, "_SCANNED_BYTES", scanned)
