"""The data of the batch benchmark: run with a rendered project's Python.

python batch_data.py make SAMPLE ROWS FILE      writes a file of ROWS rows (CSV or Parquet)
python batch_data.py answer MODEL FILE ANSWERS  writes the pipeline's own answers for some rows
python batch_data.py check ANSWERS ROWS OUTPUT  compares a system's output with them

SAMPLE is a table of real rows (CSV), which are drawn with replacement. Parquet files have pandas'
own row groups, of 2**20 rows.
"""

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 2**20
KEY = "penguin_id"
TARGETS = ["species", "diagnosis"]
CHECKED = 1000
"""How many answers of a system are compared with the pipeline's own."""
TOLERANCE = 1e-6


def make(sample: Path, rows: int, file: Path) -> None:
    """Write rows drawn from the sample, without its target, in constant memory.

    The sample's key gets the number of the row, so that it is unique. Numbers of a sample without
    a key (it is synthetic) get some noise.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    blocks = _draw(pd.read_csv(sample).drop(columns=TARGETS, errors="ignore"), rows)
    first = next(blocks)
    if file.suffix == ".csv":
        first.to_csv(file, index=False)
        for block in blocks:
            block.to_csv(file, mode="a", header=False, index=False)
        return
    schema = pa.Schema.from_pandas(first, preserve_index=False).remove_metadata()
    with pq.ParquetWriter(file, schema) as writer:
        for block in (first, *blocks):
            writer.write_table(pa.Table.from_pandas(block, schema, preserve_index=False))


def _draw(sample: pd.DataFrame, rows: int) -> Iterator[pd.DataFrame]:
    random = np.random.default_rng(0)
    for start in range(0, rows, ROW_GROUP):
        count = min(ROW_GROUP, rows - start)
        drawn = sample.iloc[random.integers(len(sample), size=count)].reset_index(drop=True)
        if KEY in drawn:
            numbers = pd.Series(range(start, start + count)).astype(str).str.zfill(8)
            drawn[KEY] = drawn[KEY].str.cat(numbers, sep="-")
        else:
            columns = drawn.select_dtypes("number").columns
            drawn[columns] *= random.normal(1, 0.05, (count, len(columns)))
        yield drawn


def answer(model: Path, file: Path, answers: Path) -> None:
    """Write the answers of the logged pipeline, called directly, for the first, the last and
    random rows of a Parquet file.
    """
    pipeline = pickle.loads((model / "model.pkl").read_bytes())
    content = pq.ParquetFile(file)
    count = content.metadata.num_rows
    inner = np.random.default_rng(1).choice(count - 2, min(CHECKED, count) - 2, replace=False)
    positions = np.concatenate([[0], np.sort(inner) + 1, [count - 1]])
    parts, start = [], 0
    for batch in content.iter_batches():
        here = positions[(positions >= start) & (positions < start + len(batch))]
        parts.append(batch.take(pa.array(here - start)))
        start += len(batch)
    rows = pa.Table.from_batches(parts).to_pandas()
    found = pd.DataFrame({"prediction": pipeline.predict(rows)})
    probabilities = pipeline.predict_proba(rows)
    for index, name in enumerate(pipeline.classes_):
        found[f"probability_{name}"] = probabilities[:, index]
    if KEY in rows:
        found.insert(0, KEY, rows[KEY])
    found.set_index(pd.Index(positions)).to_parquet(answers)


def check(answers: Path, rows: int, output: Path) -> None:
    """Print which answers the output has; exit with a sentence if one is missing or wrong."""
    expected = pd.read_parquet(answers)
    found = _read(output, list(expected))
    if len(found) != rows:
        sys.exit(f"it wrote {len(found)} rows of {rows}")
    if missing := [name for name in found if found[name].isna().any()]:
        sys.exit(f"{missing[0]} is missing in {found[missing[0]].isna().sum()} rows")
    if output.is_dir():  # written by Spark, which keeps no order
        if not found[KEY].is_unique:
            sys.exit(f"it wrote a {KEY} twice")
        found = found.set_index(KEY).reindex(expected[KEY]).reset_index()
    else:
        found = found.loc[expected.index]
    for name in found:
        there, own = found[name].to_numpy(), expected[name].to_numpy()
        is_number = name.startswith("probability_")
        wrong = ~(abs(there - own) <= TOLERANCE) if is_number else there != own
        if wrong.any():
            sys.exit(f"{name} is wrong in {wrong.sum()} of {len(expected)} rows")
    probabilities = [name for name in expected if name.startswith("probability_")]
    print(json.dumps({"probabilities": set(probabilities) <= set(found)}))


def _read(output: Path, columns: list[str]) -> pd.DataFrame:
    """Those of the columns that a CSV file, a Parquet file or directory, or MLflow's JSON has."""
    if output.suffix == ".json":
        return pd.DataFrame({"prediction": json.loads(output.read_text())["predictions"]})
    if output.suffix == ".csv":
        return pd.read_csv(output, usecols=lambda name: name in columns)
    files = output.glob("*.parquet") if output.is_dir() else [output]
    there = set(pq.read_schema(next(iter(files))).names)
    return pd.read_parquet(output, columns=[name for name in columns if name in there])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", sample, rows, file]:
            make(Path(sample), int(rows), Path(file))
        case ["answer", model, file, answers]:
            answer(Path(model), Path(file), Path(answers))
        case ["check", answers, rows, output]:
            check(Path(answers), int(rows), Path(output))
