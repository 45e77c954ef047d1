"""MLflow's scoring protocol: what `POST /invocations` accepts and returns.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/#inference-server-specification

Values follow the rules of `/predict`. So it is stricter than `mlflow models serve`, which casts 1.7
to 1 and "false" to true. It returns null where `mlflow models serve` returns `NaN`, which is not
JSON.
"""

import csv
import io
import itertools
from http import HTTPStatus
from typing import Any

from serving.api.body import JSON, parse_json
from serving.api.problem import Location, ProblemError, invalid_values
from serving.api.validation import Collect, Locate, validated, validated_samples
from serving.contract.columns import MISSING
from serving.model.served import ServedModel

CSV = "text/csv"
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def parse(model: ServedModel, media_type: str, collect: Collect, body: bytes) -> list[Any]:
    """Return what `collect` makes of the validated rows of a body.

    Raises `ProblemError`: 415 for media types other than JSON and CSV, 422 for invalid content.
    """
    most = model.schemas.max_batch_rows
    if media_type == JSON:
        rows, locate = _rows_of_json(parse_json(body, model.schemas.most_values), most)
    elif media_type == CSV:
        rows, locate = _rows_of_csv(body, most)
    else:
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON} or {CSV}")
    many: Any = validated(
        model.invocation_form, {"rows": rows}, lambda location: locate(location[1:])
    )
    # Text has no types: in CSV, "1.5" is a number if the column is numeric.
    is_strict = media_type == JSON
    return validated_samples(
        model.invocation_schema,
        many.rows,
        collect,
        locate,
        about_unknown=model.schemas.about,
        strict=is_strict,
    )


def _rows_of_json(content: Any, most: int) -> tuple[Any, Locate]:
    given = [name for name in FORMATS if isinstance(content, dict) and name in content]
    if len(given) != 1:
        raise _wrong((), f"must be an object with exactly one of {', '.join(FORMATS)}")
    [name] = given
    for key in content:
        if key == "params" and content[key]:
            raise _wrong((key,), "parameters are not supported")
        if key not in (name, "params"):
            raise _wrong((key,), "unknown field")
    rows = content[name]
    if name == "dataframe_split":
        return _rows_of_split(rows, most)
    if name == "inputs" and isinstance(rows, dict):
        return _rows_of_columns(rows, most)
    return rows, lambda location: (name, *location)


def _rows_of_split(split: Any, most: int) -> tuple[Any, Locate]:
    name = "dataframe_split"
    if not isinstance(split, dict):
        raise _wrong((name,), "must be an object")
    columns, data = split.get("columns"), split.get("data")
    if not isinstance(columns, list) or not all(isinstance(one, str) for one in columns):
        raise _wrong((name, "columns"), "must be a list of names")
    if len(set(columns)) < len(columns):
        raise _wrong((name, "columns"), "must not name a column twice")
    if not isinstance(data, list):
        raise _wrong((name, "data"), "must be a list of rows")
    _limit(len(data), most, (name, "data"))
    for index, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise _wrong((name, "data", index), f"must be a list of {len(columns)} values")

    def locate(location: Location) -> Location:
        if len(location) < 2:
            return (name, "data", *location)
        row, column, *rest = location
        if column not in columns:
            return (name, "columns")
        return (name, "data", row, columns.index(column), *rest)

    return [dict(zip(columns, row, strict=True)) for row in data], locate


def _rows_of_columns(columns: dict[str, Any], most: int) -> tuple[Any, Locate]:
    name = "inputs"
    counts = set()
    for column, values in columns.items():
        if not isinstance(values, list):
            raise _wrong((name, column), "must be a list of values")
        _limit(len(values), most, (name, column))
        counts.add(len(values))
    if len(counts) > 1:
        raise _wrong((name,), "must have lists of equal length")

    def locate(location: Location) -> Location:
        if len(location) < 2:
            return (name,)
        row, column, *rest = location
        return (name, column, row, *rest)

    rows = zip(*columns.values(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows], locate


def _rows_of_csv(body: bytes, most: int) -> tuple[Any, Locate]:
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")  # lets csv split the lines
        lines = (row for row in csv.reader(text, strict=True) if row)
        header, *rows = itertools.islice(lines, most + 2)
    except UnicodeDecodeError as exc:
        raise _wrong((), f"not UTF-8 text (byte {exc.start})") from None
    except csv.Error as exc:
        raise _wrong((), f"invalid CSV: {exc}") from None
    except ValueError:
        raise _wrong((), "must have a header") from None
    _limit(len(rows), most, ())
    if len(set(header)) < len(header):
        raise _wrong((), "the header must not name a column twice")
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise _wrong((number,), f"must have {len(header)} fields, like the header")
    values = [
        {name: None if text in MISSING else text for name, text in zip(header, row, strict=True)}
        for row in rows
    ]
    return values, lambda location: location


def _limit(rows: int, most: int, location: Location) -> None:
    """Refuse too many rows before they are converted."""
    if rows > most:
        raise _wrong(location, f"must have at most {most} items")


def _wrong(location: Location, rule: str) -> ProblemError:
    return invalid_values([(location, rule)])
