"""Removal of logins, keys and tokens from addresses and errors before they are shown."""

import re
import socket
from collections.abc import Iterator

_LOGIN = re.compile(r"://(?=[^\s/@]*@|[^\s/]*:)(\S*)@")
"""User name and password of a URI. They may hold `/` and `@`, so they end at the last `@`."""

_SECRET = re.compile(
    r"(?<![\w.%-])"
    r"([\w.%-]*(?:sig|signature|token|pass|passwd|password|pwd|secret|key|key_?id|credentials?)=)"
    r"([^\s&]*?)"
    r"(?=[\"',:;.)\]]*(?:[\s&]|$))",  # punctuation at the end stays
    re.IGNORECASE,
)
"""A value whose name marks it as secret, in the query of a URI or elsewhere."""

_MOST_CHARACTERS = 2_000
"""Longer texts are cut, because the patterns take quadratic time and callers' texts may be long."""

_SHORTEST = 4
"""Shorter parts of a password are not searched for, because they are part of many words."""


def redact(text: str, *addresses: str) -> str:
    """Replace logins in URIs, and values such as that of `token=`, by `***`.

    In doubt it replaces too much.

    Args:
        text: the text to be shown.
        addresses: URIs that the text is about. Every part of their logins is replaced, because
            libraries that split a URI at a `/` or `@` in its password quote parts of it.
    """
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}..."
    text = _LOGIN.sub("://***@", _SECRET.sub(_without_value, text))
    for part in sorted(_parts_of_logins(addresses), key=len, reverse=True):
        text = text.replace(part, "***")
    return text


def first_line(exc: BaseException, *addresses: str) -> str:
    """The first line of an error's message, redacted, or its type if the message is empty.

    For a failed connection it is the message of the cause, because the others fill a screen.

    Args:
        exc: the error.
        addresses: URIs that the error is about; see `redact`.
    """
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return redact(cause.strerror, *addresses)
        cause = cause.__cause__ or cause.__context__
    lines = redact(str(exc), *addresses).strip().splitlines()
    return lines[0].removesuffix(".") if lines else type(exc).__name__


def _without_value(found: re.Match[str]) -> str:
    # Keep the `@`, because it may end a login whose password looks like a query.
    return found[1] + ("***@***" if "@" in found[2] else "***")


def _parts_of_logins(addresses: tuple[str, ...]) -> Iterator[str]:
    for address in addresses:
        for login in _LOGIN.findall(address):
            user, colon, password = login.partition(":")
            for part in re.split(r"[/@:?#]", password if colon else user):
                if len(part) >= _SHORTEST:
                    yield part
