"""Read a YAML file into a Pydantic model, replacing `${VAR}` and `${VAR:default}`."""

import contextlib
import difflib
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving.errors import ServingError
from serving.redaction import redact

Model = TypeVar("Model", bound=BaseModel)

Location = tuple[Any, ...]
"""The keys and positions that lead to a value."""

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}")

_UNQUOTED = re.compile(r"""(?<!["'\w])(\$\{[^}"']*\})(?!["'])""")

_SHOULD = re.compile(r"^\w+ should ")
"""How Pydantic's messages begin: "Input should be", "String should have"."""


@dataclass(frozen=True)
class Reference:
    """A text that contains `${VAR}`."""

    text: str
    """The text as written in the file."""
    value: Any
    """The text with the values of its variables."""


@dataclass(frozen=True)
class Document:
    """A YAML file."""

    path: Path
    content: Mapping[Any, Any]
    """The content with the values of its variables."""
    references: Mapping[Location, Reference]

    def validate(self, model: type[Model], error: type[ServingError]) -> Model:
        """Return the content as `model`.

        Raises `error` with one sentence that names the file, the key and the rule.
        """
        try:
            return model.model_validate(self.content)
        except ValidationError as exc:
            problem = first_problem(exc, model, self.references)
            raise error(f"{self.path}: {problem}") from None


def load(path: Path, model: type[Model], error: type[ServingError]) -> Model:
    """Return the file's content as `model`.

    Raises `error` with one sentence that names the file, the key and the rule.
    """
    return read(path, error).validate(model, error)


def read(path: Path, error: type[ServingError]) -> Document:
    """Read a file whose content is a mapping, and replace environment variables.

    Raises `error` with one sentence that names the file and the rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file (looked in {Path.cwd()})") from None
    except IsADirectoryError:
        raise error(f"{path}: is a directory, not a YAML file") from None
    except UnicodeDecodeError as exc:
        raise error(f"{path}: not UTF-8 text (byte {exc.start})") from None
    except OSError as exc:
        raise error(f"{path}: {exc.strerror}") from None

    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as exc:
        raise error(f"{path}: not valid YAML{_where_and_why(exc, text)}") from None
    except (yaml.YAMLError, ValueError) as exc:  # a ValueError: for example, day 45 of a month
        raise error(f"{path}: not valid YAML: {exc}") from None
    except RecursionError:
        raise error(f"{path}: nested too deeply") from None
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise error(f"{path}: must be a mapping of keys to values, not {_kind(content)}")

    references: dict[Location, Reference] = {}
    try:
        return Document(path, _expand(content, (), references), references)
    except _VariableError as exc:
        raise error(f"{path}: {exc}") from None
    except RecursionError:
        raise error(f"{path}: refers to itself") from None


def _where_and_why(exc: yaml.MarkedYAMLError, text: str) -> str:
    """The line and the problem, in plain words for the most common mistakes."""
    mark = exc.problem_mark
    if mark is None:
        return f": {exc.problem}"
    line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
    where, problem = f" in line {mark.line + 1}", str(exc.problem)
    if "\t" in line and "'\\t'" in problem:
        return f"{where}: it is indented with a tab; use spaces"
    if exc.context_mark and "quoted scalar" in str(exc.context):
        return f" in line {exc.context_mark.line + 1}: a quoted text has no closing quote"
    if found := _UNQUOTED.search(line):
        problem += f'; put {found[1]} in quotes inside braces and brackets: "{found[1]}"'
    return f"{where}: {problem}"


def fill_in(text: str) -> str:
    """Replace references in a text; return it unchanged if a variable has no value."""
    try:
        return str(_value_of(text))
    except _VariableError:
        return text


def filled_in(content: Mapping[str, Any]) -> dict[str, Any]:
    """Replace references in all values; return them unchanged if a variable has no value."""
    try:
        return dict(_expand(content, (), {}))
    except _VariableError:
        return dict(content)


@contextlib.contextmanager
def hidden_values(texts: Iterable[str]) -> Iterator[None]:
    """Replace values of variables by `${VAR}` in the messages of errors.

    Args:
        texts: the texts that refer to these variables.

    Raises each `ServingError` again, with the changed message.
    """
    try:
        yield
    except ServingError as exc:
        raise type(exc)(hide_values(str(exc), texts)) from exc


def hide_values(message: str, texts: Iterable[str]) -> str:
    """Replace the value of each variable that the texts refer to by `${VAR}`.

    Values of fewer than four characters stay, because they are part of many words.
    """
    names = {found["name"] for text in texts for found in _REFERENCE.finditer(text)}
    values = {
        line.strip(" \t'\""): name
        for name in names
        for line in os.environ.get(name, "").splitlines()
    }
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST_HIDDEN:
            message = message.replace(value, f"${{{values[value]}}}")
    return message


_SHORTEST_HIDDEN = 4


def first_problem(
    exc: ValidationError,
    model: type[BaseModel],
    references: Mapping[Location, Reference] | None = None,
) -> str:
    """Describe in one sentence the first three errors, and say how many more there are.

    Args:
        exc: the error of Pydantic.
        model: the model that was validated against.
        references: the values that come from the environment; they are not shown.
    """
    problems = sorted(exc.errors(include_url=False), key=is_other_than_unknown)
    said = "; ".join(_sentence(problem, model, references or {}) for problem in problems[:3])
    return said + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def is_other_than_unknown(problem: ErrorDetails) -> bool:
    """Sort key: unknown names first, because they explain why others are missing."""
    return problem["type"] != "extra_forbidden"


def _sentence(
    problem: ErrorDetails, model: type[BaseModel], references: Mapping[Location, Reference]
) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            meant = did_you_mean(str(problem["loc"][-1]), known)
            rule = f"unknown key; known keys: {', '.join(known)}{meant}"
        case "missing":
            rule = "is required"
        case "value_error":
            rule = str(problem["ctx"]["error"])
        case "model_type":
            rule = "must be a mapping of keys to values"
        case _:
            rule = rule_of(problem)
            shown = _as_written(problem, references)
            if isinstance(shown, str | int | float | bool | None):
                rule += f" (is {redact(repr(shown))})"
    return f"{key}: {rule}" if key else rule


def rule_of(problem: ErrorDetails) -> str:
    """Pydantic's message as the predicate of a sentence: "must be a valid integer"."""
    message = _SHOULD.sub("must ", problem["msg"].partition(", unable to parse")[0], count=1)
    return message[0].lower() + message[1:]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion of the closest known name, to be appended to a sentence; may be empty."""
    nearest = difflib.get_close_matches(name[:_MOST_COMPARED], list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


_MOST_COMPARED = 100
"""Most characters of a mistyped name that are compared."""


def _as_written(problem: ErrorDetails, references: Mapping[Location, Reference]) -> Any:
    """The invalid value, or the reference that it came from."""
    location = problem["loc"]
    parents = (location[:length] for length in range(1, len(location) + 1))
    found = next((references[parent] for parent in parents if parent in references), None)
    return found.text if found else problem["input"]


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    for part in location:
        if part not in model.model_fields:  # a position in a list, or a key of the user's own
            continue
        annotation: Any = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]


class _VariableError(Exception):
    """A `${VAR}` has no value, or one that cannot be read."""


def _expand(value: Any, location: Location, references: dict[Location, Reference]) -> Any:
    """Replace references in every string, and record them."""
    if isinstance(value, Mapping):
        return {key: _expand(item, (*location, key), references) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, (*location, i), references) for i, item in enumerate(value)]
    if not isinstance(value, str) or not _REFERENCE.search(value):
        return value
    references[location] = Reference(value, _value_of(value))
    return references[location].value


def _value_of(text: str) -> Any:
    """Replace references in a text; a text that is one reference takes its value's type."""
    whole = _REFERENCE.fullmatch(text)
    if whole is None:
        return _REFERENCE.sub(_lookup, text)
    try:
        return yaml.safe_load(_lookup(whole))
    except (yaml.YAMLError, ValueError):
        raise _VariableError(f"the value of {text} is not valid YAML") from None


def _lookup(reference: re.Match[str]) -> str:
    name, default = reference["name"], reference["default"]
    value = os.environ.get(name, default)
    if value is None:
        raise _VariableError(
            f"the environment variable {name} is not set; set it, or write ${{{name}:a default}}"
        )
    return value


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"the single value {value!r}"


class _UniqueKeyLoader(yaml.SafeLoader):
    """Reports a duplicate key as an error; plain YAML would silently keep the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a single value", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, in which `1e-3` is text. https://yaml.org/spec/1.2.2/#1032-tag-resolution
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
