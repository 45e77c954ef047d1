"""A query in a file; in a template (`.sql.j2`), every value is bound, never pasted into the SQL."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from serving.config.yaml_file import did_you_mean
from serving.errors import DataError
from serving.redaction import first_line

SUFFIXES = (".sql", ".sql.j2")
"""How the names of files with a query end."""


@dataclass(frozen=True)
class Query:
    """A query and the values that are bound to it."""

    text: str
    """SQL; if there are values, in the form of `sqlalchemy.text`: `:NAME` for each of them."""
    name: str
    """For messages, such as its file."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Value of each `:NAME`; a list stands for the values of an `IN`."""


def is_query(name: str) -> bool:
    """Whether the name is that of a file with a query."""
    return name.lower().endswith(SUFFIXES)


def load_query(path: Path, parameters: Mapping[str, Any] | None = None) -> Query:
    """Read a query from a file.

    Args:
        path: a `.sql` file, which is used as it is, or a Jinja template (`.sql.j2`).
        parameters: the variables of the template.

    Raises `DataError` with one sentence that names the file and what is wrong with it.
    """
    text = _read(path)
    if path.suffix.lower() == ".j2":
        return _fill_in(text, str(path), parameters or {})
    if parameters:
        raise DataError(
            f"{path}: is not a template, so it has no parameter '{next(iter(parameters))}'; "
            "name the file .sql.j2 and write {{ NAME }} for each value"
        )
    return Query(text, str(path))


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (looked in {Path.cwd()})") from None
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not UTF-8 text (byte {exc.start})") from None
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}") from None
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    if "\0" in text:
        raise DataError(f"{path}: has a zero byte, which SQL may not have")
    return text


def _fill_in(template: str, name: str, parameters: Mapping[str, Any]) -> Query:
    """Render the template with a mark for each value, and make the marks `:NAME`."""
    from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    values = _Values(name)
    try:
        tree = environment.parse(template)
        used = meta.find_undeclared_variables(tree)
        for one in parameters:
            if one not in used:
                known = ", ".join(sorted(used)) or "none"
                raise DataError(
                    f"{name}: does not use the parameter '{one}'; it uses {known}"
                    f"{did_you_mean(one, used)}"
                )
        for output in tree.find_all(nodes.Output):
            output.nodes = [
                node
                if isinstance(node, nodes.TemplateData)
                else nodes.Call(
                    nodes.Name(_BIND, "load"),
                    [node, nodes.Const(_label(node))],
                    [],
                    None,
                    None,
                    lineno=node.lineno,
                )
                for node in output.nodes
            ]
        code = environment.from_string(tree)
        text = code.render({**parameters, _BIND: values.mark})
    except TemplateSyntaxError as exc:
        raise DataError(f"{name}: line {exc.lineno}: {exc.message}") from None
    except TemplateError as exc:
        reason = first_line(exc)
        hint = ""
        if found := _UNDEFINED.search(reason):
            reason = f"the parameter {found[1]} has no value"
            hint = "; give it in data.loader.parameters of the recipe, or with --params"
        raise DataError(f"{name}: {reason}{hint}") from None
    except (TypeError, ValueError, ArithmeticError, LookupError) as exc:
        raise DataError(f"{name}: {first_line(exc)}") from None
    return _bound(text, name, values)


_BIND = "__bind"
_UNDEFINED = re.compile(r"('.*?') is undefined")


def _label(node: Any) -> str:
    """How messages call the value of an expression of the template."""
    label = getattr(node, "name", None)
    return f"'{label}'" if isinstance(label, str) else f"in line {node.lineno}"


class _Values:
    """The values that a template has printed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.labels: list[str] = []
        self.values: list[Any] = []

    def mark(self, value: Any, label: str) -> str:
        """Keep a value, and return what stands for it in the text."""
        many = value if isinstance(value, list | tuple) else [value]
        if not many:
            raise DataError(f"{self._name}: the parameter {label} is a list without values")
        for one in many:
            if hasattr(one, "_fail_with_undefined_error"):
                str(one)  # raises
            if not isinstance(one, str | int | float | date | datetime | None) or (
                isinstance(one, str) and "\0" in one
            ):
                raise DataError(
                    f"{self._name}: the parameter {label} must be a text, a number, a boolean, "
                    f"a date, null, or a list of these"
                )
        self.labels.append(label)
        self.values.append(list(many) if many is value else value)
        return f"\0{len(self.values) - 1}\0"


_MARK = re.compile("\0(\\d+)\0")

_QUOTED = re.compile(
    r"""(?P<comment>--[^\n]* | /\*.*?\*/)
    | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$""",
    re.VERBOSE | re.DOTALL,
)


def _bound(text: str, name: str, values: _Values) -> Query:
    text = _QUOTED.sub(lambda found: " " if found["comment"] else found[0], text)
    for found in _QUOTED.finditer(text):
        if mark := _MARK.search(found[0]):
            raise DataError(
                f"{name}: the parameter {values.labels[int(mark[1])]} is in quotes; "
                "leave out the quotes, because its value is bound"
            )
    _check_places(_QUOTED.sub("''", text), name, values)
    parameters: dict[str, Any] = {}

    def placeholder(index: str) -> str:
        key = f"parameter_{index}"
        parameters[key] = values.values[int(index)]
        return f":{key}"

    pieces = _MARK.split(text)
    # A colon of the text itself is escaped, so that it does not begin a name.
    text = "".join(
        placeholder(piece) if position % 2 else piece.replace(":", r"\:")
        for position, piece in enumerate(pieces)
    )
    return Query(text, name, parameters) if parameters else Query("".join(pieces), name)


_TOKEN = re.compile(r"\w+|[^\w\s]")
_CLAUSES = {
    *("select", "from", "join", "on", "using", "where", "by", "having", "limit", "offset"),
    *("values", "set", "into", "update", "table", "union", "except", "intersect", "with"),
}
_OF_NAMES = {"from", "join", "by", "into", "update", "table", "using", "with"}
"""Clauses that list names of tables and columns."""


def _check_places(text: str, name: str, values: _Values) -> None:
    """Raise `DataError` for a value in the place of a table, a column or a part of a name.

    A database would refuse the first, but take the second for a constant: every row would have the
    same value, or no order.
    """
    for mark in _MARK.finditer(text):
        before, after = text[: mark.start()], text[mark.end() :]
        label = values.labels[int(mark[1])]
        where = ""
        if re.search(r"[\w.'\0]$", before) or re.match(r"[\w.'(\0]", after):
            where = "is a part of a name"
        else:
            last, clause = _clause(before)
            following = _TOKEN.search(after)
            ends = following is None or following[0].lower() in {",", "from", ")", ";"}
            if clause in _OF_NAMES and last in {clause, ","}:
                where = f"is in the place of a name, in the clause {clause.upper()}"
            elif clause == "select" and last in {clause, ",", "distinct", "all"} and ends:
                where = "is in the place of a column, in the clause SELECT"
        if where:
            raise DataError(
                f"{name}: the parameter {label} {where}; only values can be parameters, "
                "so write the name itself"
            )


def _clause(before: str) -> tuple[str, str]:
    """The last token, and the keyword of the clause that it belongs to; either may be empty."""
    tokens = list(_outside(_TOKEN.findall(before.lower())))
    last = tokens[0] if tokens else ""
    for position, token in enumerate(tokens):
        is_comparison = token == "from" and tokens[position + 1 : position + 2] == ["distinct"]
        if token in _CLAUSES and not is_comparison:
            return last, token
    return last, ""


def _outside(tokens: list[str]) -> Iterator[str]:
    """The tokens from the last one back to the parenthesis around it, without inner ones."""
    depth = 0
    for token in reversed(tokens):
        if token == "(":
            if depth == 0:
                return
            depth -= 1
            continue
        if depth == 0 and token != ")":
            yield token
        if token == ")":
            if depth == 0:
                yield token
            depth += 1
