"""Texts in plots: short ones, in fonts that have their characters."""

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any

# Without a writable home directory, matplotlib would say that it keeps its cache elsewhere.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

from matplotlib.font_manager import FontProperties, findfont, fontManager  # noqa: E402  # after the line above
from matplotlib.ft2font import FT2Font  # noqa: E402  # after the line above

LONGEST = 24
"""Characters of a label; longer ones are cut."""

_FONTS = (
    "DejaVu Sans",  # comes with matplotlib
    *("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo"),
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Arial Unicode MS"),
)
"""Preferred fonts; for each character, matplotlib takes the first one that has it."""


@cache
def fonts() -> list[str]:
    """Those of the preferred fonts that are installed."""
    installed = set(fontManager.get_font_names())
    return [font for font in _FONTS if font in installed]


@cache
def _characters() -> frozenset[int]:
    files = (findfont(FontProperties(family=[font])) for font in fonts())
    return frozenset().union(*(FT2Font(file).get_charmap() for file in files))


def _label(value: Any, position: int) -> str:
    """A short text for a value; `#POSITION`, counted from 1, if no font has its characters."""
    text = " ".join(str(value).split()) or "(blank)"
    if not _characters().issuperset(map(ord, text)):
        return f"#{position + 1}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def labels(values: Iterable[Any]) -> tuple[list[str], dict[str, str]]:
    """Labels for distinct values, and the texts of those that are numbered or cut."""
    texts = [str(value) for value in values]
    short = [_label(text, position) for position, text in enumerate(texts)]
    # Names with the same beginning need their numbers.
    short = [
        f"#{position + 1}" if short.count(one) > 1 else one for position, one in enumerate(short)
    ]
    told = {one: text for one, text in zip(short, texts, strict=True) if one.startswith("#")}
    return short, {one: text for one, text in told.items() if one != text}
