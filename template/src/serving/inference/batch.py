"""Predict every row of a CSV or Parquet file."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from serving.config.yaml_file import first_problem
from serving.contract.columns import Table
from serving.data.tables import check_format, is_csv, read_table, to_table, write_table
from serving.errors import DataError, Refused, RowError, ServingError
from serving.model.hooks import Record
from serving.model.served import ServedModel
from serving.redaction import first_line


def predict_file(model: ServedModel, data_path: Path, output_path: Path) -> int:
    """Write the file's rows, in order and with all their columns, with the predictions added.

    The added columns are `prediction`, the fields of the user's hooks and, if the model gives
    probabilities, `confidence` and `probability_<class>` for each class. Entity columns are
    required, as in a request. A target column is kept.

    Returns the number of rows.

    Raises `DataError` naming the file, the column, the row and the rule; then nothing is written.
    """
    check_format(output_path)
    if output_path.resolve() == data_path.resolve():
        raise DataError(f"{output_path}: is the input file; name another file for the output")
    schemas = model.schemas
    columns = schemas.columns
    typed = [column.name for column in columns if column.type != "any"]
    frame = read_table(data_path, as_text=[*typed, *schemas.request_fields.values()])
    table = to_table(frame, columns, data_path, from_text=is_csv(data_path))
    try:
        answers = pd.DataFrame(_answers(model, frame, table))
    except RowError as exc:
        cause = exc.__cause__
        reason = first_line(cause) if cause else "the model cannot predict from its values"
        raise DataError(f"{data_path}: row {exc.index + 1}: {reason}") from exc
    except (ServingError, Refused) as exc:
        raise DataError(f"{data_path}: {exc}") from exc
    except Exception as exc:
        raise ServingError(f"the model failed on {data_path}: {first_line(exc)}") from exc

    answers = answers.drop(columns=["model_version", "model_id"])
    if answers["confidence"].isna().all():
        answers = answers.drop(columns="confidence")  # the model gives none
    if "probabilities" in answers:
        probabilities = pd.DataFrame(answers.pop("probabilities").tolist())
        answers = answers.join(probabilities.add_prefix("probability_"))
    own = set(schemas.response_fields.values())
    answers = answers[sorted(answers, key=own.__contains__)]  # the hooks' columns come last
    for name in answers:
        if name in frame.columns:
            raise DataError(
                f"{data_path}: already has a column '{name}'; rename it, the predictions need it"
            )
    if not is_csv(output_path):  # a CSV file keeps the original text, such as 007
        frame = frame.assign(**{name: table[name] for name in table if name in frame.columns})
    write_table(frame.join(answers), output_path)
    return len(frame)


def _answers(model: ServedModel, frame: pd.DataFrame, table: Table) -> list[Record]:
    if model.hooks is None:
        inputs = {column.name: table[column.name] for column in model.schemas.inputs}
        predictions = model.predict(inputs)
        if (index := predictions.first_refused) is not None:
            raise RowError(index)
        return list(model.bare_answers(predictions))
    columns = {name: _python_values(values) for name, values in table.items()}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for record, further in zip(records, _request_fields(model, frame), strict=True):
        record |= further
    found = model.answer_records(records, model.hooks)
    schema = model.response_schema  # checks and completes the answers, as in the API
    answers = [schema.model_validate(answer).model_dump(by_alias=True) for answer in found]
    for answer in answers:
        answer.pop("entities", None)  # the row already has them
    return answers


def _python_values(values: np.ndarray) -> list[Any]:
    """The values as in a request; None is a missing value."""
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")  # nanoseconds would become integers
    return [None if value is None or value != value else value for value in values.tolist()]


def _request_fields(model: ServedModel, frame: pd.DataFrame) -> list[Record]:
    """Each row's values of the fields that the user's code adds to a request.

    Raises `DataError` for the first value that breaks a rule.
    """
    fields = model.hooks.request_fields if model.hooks else None
    if fields is None:
        return [{}] * len(frame)
    names = [name for name in model.schemas.request_fields.values() if name in frame.columns]
    found: list[Record] = []
    for number, row in enumerate(frame[names].to_dict(orient="records"), start=1):
        given = {name: value for name, value in row.items() if value == value}
        try:
            found.append(fields.model_validate(given).model_dump(by_alias=True))
        except ValidationError as exc:
            raise DataError(f"row {number}: {first_problem(exc, fields)}") from None
    return found
