"""Encodings of CSV files: which one a text probably has, and what is said of a wrong one."""

import codecs
import re


def is_utf8(encoding: str) -> bool:
    """Whether a codec is UTF-8, with or without a byte order mark."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def guess_encoding(content: bytes) -> str | None:
    """The encoding of a text that is not UTF-8: UTF-16 with its mark, or CP949 with Korean text.

    None if neither fits.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    try:
        others = re.sub(r"[\x00-\x7f]", "", content.decode("cp949"))
    except UnicodeDecodeError:
        return None
    korean = len(re.findall("[\uac00-\ud7a3]", others))
    return "cp949" if korean > len(others) / 2 else None  # bytes of other encodings are rare signs


def described(encoding: str) -> str:
    """The name of an encoding that was guessed, and where it comes from."""
    names = {"utf-8": "UTF-8", "utf-16": "UTF-16", "cp949": "CP949, as Excel writes it in Korea"}
    return names[encoding]


def looks_like_utf8(content: bytes) -> bool:
    """Whether the beginning of a text has characters beyond ASCII, all of them in UTF-8.

    Text in another encoding hardly ever does. The last character may be cut off.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content)
    except UnicodeDecodeError:
        return False
    return not text.isascii()
