"""What may be shown of an address or an error: all but logins, keys and tokens."""

import re
import socket
from collections.abc import Iterator

_LOGIN = re.compile(r"://(?=[^\s/@]*@|[^\s/]*:)(\S*)@")
"""User name and password of a URI. They may hold `/` and `@`, so they end at the last `@`."""

_SECRET = re.compile(
    r"(?<![\w.%-])"
    r"([\w.%-]*(?:sig|signature|token|pass|passwd|password|pwd|secret|key|key_?id|credentials?)=)"
    r"([^\s&]*?)"
    r"(?=[\"',:;.)\]]*(?:[\s&]|$))",  # what ends a sentence stays
    re.IGNORECASE,
)
"""A value that its name calls secret, in the query of a URI or elsewhere."""

_MOST_CHARACTERS = 2_000
"""Longer texts are cut: a caller's may be megabytes, and the patterns take time by its square."""

_SHORTEST = 4
"""Parts of a password that are shorter are not looked for: they are part of many words."""


def redact(text: str, *addresses: str) -> str:
    """Replace logins of URIs, and values such as that of `token=`, by `***`.

    In doubt too much is replaced.

    Args:
        text: what is to be shown.
        addresses: URIs that the text is about. No part of their logins is left: libraries that
            split a URI at a `/` or `@` of its password quote parts of it.
    """
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[:_MOST_CHARACTERS]}..."
    text = _LOGIN.sub("://***@", _SECRET.sub(_without_value, text))
    for part in sorted(_parts_of_logins(addresses), key=len, reverse=True):
        text = text.replace(part, "***")
    return text


def first_line(exc: BaseException, *addresses: str) -> str:
    """The first line of an error's message, fit to be shown, or its type when it has none.

    A failed connection is told by its cause: the messages around it fill a screen.

    Args:
        exc: the error.
        addresses: URIs that it is about; see `redact`.
    """
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return redact(cause.strerror, *addresses)
        cause = cause.__cause__ or cause.__context__
    lines = redact(str(exc), *addresses).strip().splitlines()
    return lines[0].removesuffix(".") if lines else type(exc).__name__


def _without_value(found: re.Match[str]) -> str:
    # The `@` stays: it may be the one that ends a login whose password looks like a query.
    return found[1] + ("***@***" if "@" in found[2] else "***")


def _parts_of_logins(addresses: tuple[str, ...]) -> Iterator[str]:
    for address in addresses:
        for login in _LOGIN.findall(address):
            user, colon, password = login.partition(":")
            for part in re.split(r"[/@:?#]", password if colon else user):
                if len(part) >= _SHORTEST:
                    yield part
