"""Read a YAML file into a Pydantic model; `${VAR}` and `${VAR:default}` take the environment."""

import os
import re
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving.errors import ServingError

Model = TypeVar("Model", bound=BaseModel)

_REFERENCE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}")


def load(path: Path, model: type[Model], error: type[ServingError]) -> Model:
    """Return the file's content as `model`.

    Raises `error` with one sentence that names the file, the key and the rule.
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
        line = f" in line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise error(f"{path}: not valid YAML{line}: {exc.problem}") from None
    except (yaml.YAMLError, ValueError) as exc:  # a ValueError: the 45th of a month
        raise error(f"{path}: not valid YAML: {exc}") from None
    except RecursionError:
        raise error(f"{path}: nested too deeply") from None
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise error(f"{path}: must be a mapping of keys to values, not {_kind(content)}")

    try:
        return model.model_validate(_expand(content))
    except _VariableError as exc:
        raise error(f"{path}: {exc}") from None
    except RecursionError:
        raise error(f"{path}: refers to itself") from None
    except ValidationError as exc:
        raise error(f"{path}: {first_problem(exc, model)}") from None


def first_problem(exc: ValidationError, model: type[BaseModel]) -> str:
    """Say in one sentence which keys break which rules: the first three, and how many more."""
    problems = sorted(exc.errors(include_url=False), key=is_other_than_unknown)
    said = "; ".join(_sentence(problem, model) for problem in problems[:3])
    return said + (f" (and {len(problems) - 3} more)" if len(problems) > 3 else "")


def is_other_than_unknown(problem: ErrorDetails) -> bool:
    """Sort key: unknown names first, because they explain why others are missing."""
    return problem["type"] != "extra_forbidden"


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    match problem["type"]:
        case "extra_forbidden":
            rule = f"unknown key; known here: {', '.join(_known_keys(model, problem['loc'][:-1]))}"
        case "missing":
            rule = "is required"
        case "value_error":
            rule = str(problem["ctx"]["error"])
        case "model_type":
            rule = "must be a mapping of keys to values"
        case _:
            rule = problem["msg"][0].lower() + problem["msg"][1:].partition(", unable to parse")[0]
            if isinstance(problem["input"], str | int | float | bool | None):
                rule += f" (is {problem['input']!r})"
    return f"{key}: {rule}" if key else rule


def _known_keys(model: type[BaseModel], location: Iterable[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        annotation: Any = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return [field.alias or name for name, field in model.model_fields.items()]


class _VariableError(Exception):
    """A `${VAR}` has no value, or one that cannot be read."""


def _expand(value: Any) -> Any:
    """Replace references in every string; one that is the whole string takes its value's type."""
    if isinstance(value, Mapping):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        text = _lookup(whole)
        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            raise _VariableError(f"the value of {value} is not valid YAML") from None
    return _REFERENCE.sub(_lookup, value)


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
    """A key given twice is a mistake; plain YAML would silently keep the last."""

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
