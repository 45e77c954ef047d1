"""Reading CSV files of any form, and what training says about their columns."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE
from serving.commands._columns import MOST_SHOWN, table_of
from serving.contract.recipe import Loader, Recipe
from serving.data.tables import read_table
from serving.errors import DataError
from serving.training.data import load_dataset
from serving.training.inspection import inspect, quoted, written
from sklearn.datasets import load_breast_cancer, load_diabetes

PENGUINS = Path(__file__).parents[3] / "template" / "data" / "penguins.csv"
ONE_HOT = {"type": "one_hot_encoder"}
TYPED: dict[str, Any] = {
    "types": {"총구매액": "long", "할인율": "double", "우편번호": "string", "방문횟수": "string"},
    "date_format": {"가입일": "%Y.%m.%d"},
}


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_crm(delimiter: str = ";", encoding: str = "cp949") -> Path:
    """An export of a customer database, as a Korean spreadsheet writes it."""
    seeded = random.Random(0)
    head = ["고객번호", "가입일", "총구매액", "할인율", "우편번호", "방문횟수", "등급", "국가"]
    rows = [[*head, "이탈"]]
    for n in range(300):
        visits = seeded.randint(0, 40)
        rows.append(
            [
                f"C{n:05}",
                f"20{seeded.randint(19, 24)}.{seeded.randint(1, 12):02}.{seeded.randint(1, 28):02}",
                f"{seeded.randint(1000, 90000):,}",
                f"{seeded.randint(0, 400) / 10}%",
                f"{seeded.randint(1000, 63000):05}",
                "미상" if n == 137 else str(visits),
                seeded.choice(["일반", "우수", "최우수"]),
                "KR",
                "Y" if visits + seeded.randint(-8, 8) < 12 else "N",
            ]
        )
    quote = '"' if delimiter == "," else ""
    lines = [delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    path = Path("crm.csv")
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def plan(
    loader: dict[str, Any] | None = None, task: str = "classification", **interface: Any
) -> Recipe:
    return Recipe.model_validate(
        RECIPE
        | {
            "task_choice": task,
            "data": {"loader": loader or {}, "data_interface": interface},
            "preprocessor": {"steps": [ONE_HOT]},
        }
    )


CRM: dict[str, Any] = {"entity_columns": ["고객번호"], "target_column": "이탈"}
CP949: dict[str, Any] = {"encoding": "cp949", "delimiter": ";"}


def test_an_export_of_a_korean_crm_is_questioned() -> None:
    found = load_dataset(plan(CP949, **CRM), write_crm()).inspection
    told = {warning.partition("'")[2].partition("'")[0]: warning for warning in found.warnings}
    assert len(told) == len(found.warnings)
    assert list(told) == ["가입일", "총구매액", "할인율", "우편번호", "방문횟수", "국가"]
    for column, remedy in {
        "가입일": 'data.loader.date_format: {가입일: "%Y.%m.%d"}',
        "총구매액": "data.loader.types: {총구매액: long}",
        "할인율": "data.loader.types: {할인율: double}",
        "우편번호": "data.loader.types: {우편번호: string}",
        "방문횟수": '1 of 300, such as "미상"',
        "국가": "has the same value in all 300 rows",
    }.items():
        assert remedy in told[column]


@pytest.mark.parametrize("delimiter", [";", ",", "\t"])
def test_what_the_warnings_ask_for_is_read(delimiter: str) -> None:
    form = {"encoding": "cp949", "delimiter": delimiter}
    data = load_dataset(plan({**form, **TYPED}, **CRM), write_crm(delimiter))
    assert {column.name: column.type for column in data.feature_columns} == {
        "가입일": "datetime",
        "총구매액": "long",
        "할인율": "double",
        "우편번호": "string",
        "방문횟수": "string",
        "등급": "string",
        "국가": "string",
    }
    raw = pd.read_csv("crm.csv", sep=delimiter, encoding="cp949", dtype=str)
    features = data.features
    assert features["우편번호"].tolist() == raw["우편번호"].tolist()
    assert features["총구매액"].tolist() == [int(v.replace(",", "")) for v in raw["총구매액"]]
    assert features["할인율"].tolist() == [float(v.rstrip("%")) for v in raw["할인율"]]
    dates = pd.to_datetime(raw["가입일"].str.replace(".", "-"))
    assert (features["가입일"].to_numpy() == dates.to_numpy()).all()


def test_an_encoding_that_is_not_named_is_guessed() -> None:
    path = write_crm()
    with pytest.raises(DataError, match=r"Excel writes it in Korea: set data.loader.encoding: cp9"):
        load_dataset(plan(**CRM), path)
    with pytest.raises(DataError, match=r'set data.loader.delimiter: ";", or separate'):
        load_dataset(plan({"encoding": "cp949"}, **CRM), path)
    path.write_bytes("x,y\n1,Träume\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"or name its encoding in data.loader.encoding$"):
        read_table(path)
    path.write_bytes("x,y\n1,꿈\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"set data.loader.encoding: utf-16"):
        read_table(path)
    assert read_table(path, loader=Loader(encoding="utf-16"))["y"].tolist() == ["꿈"]
    path.write_bytes(b"x,y\n1,\xff\xff\n")
    with pytest.raises(DataError, match=r"not cp949 text .* data.loader.encoding names"):
        read_table(path, loader=Loader(encoding="cp949"))


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ({"types": {"n": "long"}}, "row 2, column 'n': must be a 64-bit integer, is '1.5'"),
        ({"types": {"w": "double"}}, "row 2, column 'w': must be a finite number, is '2,34'"),
        ({"types": {"w": "boolean"}}, "row 2, column 'w': must be a boolean, is '2,34'"),
        ({"types": {"d": "datetime"}}, "row 1, column 'd': must be an RFC 3339 date-time or a"),
        (
            {"date_format": {"d": "%d/%m/%Y"}},
            "row 2, column 'd': must be a date-time in the format %d/%m/%Y, is '02/14/2024'",
        ),
        ({"types": {"m": "long"}}, "has no column 'm' (named in data.loader.types); it has n, w"),
    ],
)
def test_a_value_that_breaks_its_declared_type_is_named(
    loader: dict[str, Any], message: str
) -> None:
    path = Path("odd.csv")
    path.write_text('n,w,d\n1,1,03/04/2024\n1.5,"2,34",02/14/2024\n"1,000",few,\n')
    with pytest.raises(DataError) as caught:
        read_table(path, loader=Loader.model_validate(loader))
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ({"encoding": "cp94"}, "'cp94' is no text encoding of Python"),
        ({"encoding": "base64"}, "'base64' is no text encoding of Python"),
        ({"delimiter": ";;"}, "must be one ASCII character"),
        ({"delimiter": ""}, "must be one ASCII character"),
        ({"delimiter": "a"}, "must not be a letter"),
        ({"types": {"a": "text"}}, "'boolean', 'long', 'double', 'string' or 'datetime'"),
        ({"date_format": {"a": "%Y.%m"}}, "'%Y.%m' of the column 'a' is no format of a date"),
        ({"date_format": {"a": "YYYY"}}, "is no format of a date"),
        ({"date_format": {"a": "%Y%m%d"}, "types": {"a": "string"}}, "remove one of them"),
    ],
)
def test_a_wrong_key_of_the_loader_is_refused(loader: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loader.model_validate(loader)


def test_declared_types_are_for_csv() -> None:
    pd.DataFrame({"a": [1, 2]}).to_parquet("t.parquet")
    with pytest.raises(DataError, match=r"data.loader.types is for CSV files only"):
        read_table(Path("t.parquet"), loader=Loader(types={"a": "string"}))


def test_declared_text_stays_text_and_gaps_stay_gaps() -> None:
    path = Path("days.csv")
    path.write_text("zip,day,n,y\n" + "01089,2024-01-01,1,a\nNA,2024-01-02,,b\n" * 3, "utf-8-sig")
    types = {"zip": "string", "day": "string", "n": "long"}
    data = load_dataset(plan({"types": types}, target_column="y"), path)
    assert [(c.name, c.type, c.required) for c in data.feature_columns] == [
        ("zip", "string", False),
        ("day", "string", True),
        ("n", "double", False),
    ]
    assert data.features["zip"].tolist()[0] == "01089"
    assert pd.isna(data.features["zip"][1])


@pytest.mark.parametrize(
    ("values", "kind", "formats"),
    [
        (["02/04/2024", "03/05/2024"], "dates", ("%d/%m/%Y", "%m/%d/%Y")),
        (["02/14/2024", "03/05/2024"], "dates", ("%m/%d/%Y",)),
        (["2024년 4월 2일", "2023년 12월 31일"], "dates", ("%Y년 %m월 %d일",)),
        (["2024.04.02 13:45", "2023.01.31 00:00"], "dates", ("%Y.%m.%d %H:%M",)),
        (["23,164", "5", "-1,000.5"], "thousands", ()),
        (["22.3%", "7 %"], "percentages", ()),
        (["1", "2", "3", "4", "none"], "numbers", ()),
        (["1.234,5", "2", "0,123"], "decimal commas", ()),
        (["gold", "silver", "12"], None, ()),
        (["010-1234-5678", "02-123-4567"], None, ()),
    ],
)
def test_forms_of_text(values: list[str], kind: str | None, formats: tuple[str, ...]) -> None:
    found = written(pd.Series(values))
    assert (found.kind if found else None) == kind
    assert (found.formats if found else ()) == formats


def test_clean_data_has_no_warnings() -> None:
    cancer = load_breast_cancer(as_frame=True).frame
    diabetes = load_diabetes(as_frame=True).frame
    for frame, task in ((cancer, "classification"), (diabetes, "regression")):
        frame.to_csv("clean.csv", index=False)
        data = load_dataset(plan(None, task, target_column="target"), Path("clean.csv"))
        assert data.inspection.warnings == []
    penguins = plan(None, entity_columns=["penguin_id"], target_column="species")
    assert load_dataset(penguins, PENGUINS).inspection.warnings == []


def test_columns_that_a_model_should_not_learn_from_are_told() -> None:
    frame = pd.read_csv(PENGUINS)
    frame["row"] = range(len(frame))
    frame["label"] = frame["species"].str[:3]
    frame["day"] = 20240101 + frame.index % 28
    frame["nest"] = [f"nest {n % 90}" for n in frame.index]
    frame.to_csv("p.csv", index=False)
    found = load_dataset(plan(target_column="species"), Path("p.csv")).inspection.warnings
    expected = {
        "penguin_id": "identifier",
        "row": "identifier",
        "label": "gives the target away: on its own it predicts 'species' with a balanced accur",
        "day": 'all 344 values are dates such as "20240101"',
        "nest": "is text with 90 different values",
    }
    assert len(found) == len(expected)
    for column, rule in expected.items():
        assert any(w.startswith(f"column '{column}': ") and rule in w for w in found), column


def test_a_target_that_is_listed_as_a_feature_is_told() -> None:
    listed = plan(feature_columns=["species", "island"], target_column="species")
    [warning] = load_dataset(listed, PENGUINS).inspection.warnings
    assert "is the target and is listed as a feature" in warning


def test_the_time_of_a_split_is_a_feature_only_if_it_is_listed() -> None:
    def features(**interface: Any) -> list[str]:
        recipe = plan(target_column="species", entity_columns=["penguin_id"], **interface)
        split = {"strategy": "temporal", "temporal_column": "year"}
        content = recipe.model_dump()
        content["data"]["split"] = split
        data = load_dataset(Recipe.model_validate(content), PENGUINS)
        roles = {one.name: one.role for one in data.inspection.columns}
        assert roles["year"] == ("feature" if interface else "temporal")
        return list(data.features.columns)

    assert "year" not in features()
    assert features(feature_columns=["year", "island"]) == ["year", "island"]


def test_the_table_is_readable_and_names_nobody() -> None:
    found = load_dataset(plan(CP949, **CRM), write_crm()).inspection
    lines = list(table_of(found))
    assert len(lines) == 1 + len(found.columns)
    assert "C00" not in "".join(lines)
    # Korean characters are two columns wide, so the roles begin at the same place.
    starts = {
        sum(1 + (ord(char) >= 0xAC00) for char in line[: line.index(role)])
        for line, role in zip(lines[1:], (one.role for one in found.columns), strict=True)
    }
    assert len(starts) == 1

    wide = pd.DataFrame(np.eye(200), columns=[f"c{n}" for n in range(200)])
    lines = list(table_of(inspect(plan(target_column="c0"), wide, {}, {})))
    assert lines[-1] == f"and {200 - MOST_SHOWN} more columns"
    assert len(lines) == MOST_SHOWN + 2


@pytest.mark.parametrize("name", ["a: b", "#1", "yes", "1st", "빈 칸", "등급", "a,b", "null", "x"])
def test_names_are_quoted_as_yaml_needs(name: str) -> None:
    import yaml

    assert yaml.safe_load(f"{{{quoted(name)}: string}}") == {name: "string"}
