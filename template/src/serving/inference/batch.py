"""Predict every row of a CSV or Parquet file."""

from pathlib import Path

import pandas as pd

from serving.data.tables import check_format, is_csv, read_table, to_table, write_table
from serving.errors import DataError, ServingError
from serving.model.served import ServedModel


def predict_file(model: ServedModel, data_path: Path, output_path: Path) -> int:
    """Write the file's rows, in order and with all their columns, with the predictions added.

    Added are `prediction` and, where the model gives probabilities, `confidence` and
    `probability_<class>` for each class. Entity columns are required, as in a request; the target
    may be there and stays.

    Returns the number of rows.

    Raises `DataError` naming the file, the column, the row and the rule. Nothing is written then.
    """
    check_format(output_path)
    if output_path.resolve() == data_path.resolve():
        raise DataError(f"{output_path}: is the file that is read; name another one to write")
    schemas = model.schemas
    columns = schemas.columns
    frame = read_table(
        data_path, as_text=[column.name for column in columns if column.type != "any"]
    )
    table = to_table(frame, columns, data_path, from_text=is_csv(data_path))
    try:
        predictions = model.predict({c.name: table[c.name] for c in schemas.inputs})
    except Exception as exc:
        raise ServingError(f"the model failed on {data_path}: {exc}") from exc

    answers = pd.DataFrame(list(model.answers(predictions)))
    answers = answers.drop(columns=["model_version", "model_id"])
    if "probabilities" in answers:
        probabilities = pd.DataFrame(answers.pop("probabilities").tolist())
        answers = answers.join(probabilities.add_prefix("probability_"))
    for name in answers:
        if name in frame.columns:
            raise DataError(
                f"{data_path}: has a column '{name}' already; rename it, the predictions go there"
            )
    if not is_csv(output_path):  # a CSV file keeps the text that came, 007 and all
        frame = frame.assign(**{name: table[name] for name in table if name in frame.columns})
    write_table(frame.join(answers), output_path)
    return len(frame)
