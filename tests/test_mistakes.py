"""The mistakes that newcomers make, and the answer to each of them.

An answer is one sentence that names what is wrong, the rule, and what to do instead. The tables
below have the full answers, so that whoever changes one reads it as a newcomer would.
"""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import ROOT, run
from serving import free_port, logged_model, serve

pytestmark = pytest.mark.slow

# ------------------------------------------------------------------------------ command line


@dataclass(frozen=True)
class Command:
    """A command with a mistake.

    In the texts `{here}` is the case's own directory, `{run}` the run of the example, `{used}` a
    port that is in use and `{closed}` a port that nothing listens on.
    """

    what: str
    command: str
    answer: str
    """The text on stderr after `mmp: `; `{any}` is text that varies with library versions."""
    environment: dict[str, str] = field(default_factory=dict)
    recipe: tuple[str, str] | str | None = None
    """Old and new text in the example's recipe, or the whole recipe; written to recipe.yaml."""
    data: Callable[[bytes], bytes] | None = None
    """Changes the example's data; the result is written to data.csv."""
    before: Callable[[Path], object] = lambda _: None
    """Other preparations in the directory."""


TRAIN = "train -r {here}/recipe.yaml"
TRAIN_ON = "train -r recipes/penguins.yaml -d {here}/data.csv"
BATCH = "batch-inference --run-id {run}"
OTHER_CLASSES = re.compile(rb",(Chinstrap|Gentoo),")


def edited(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Make a function that replaces a text in the data."""
    return lambda content: content.replace(old, new)


def without_signature(here: Path) -> None:
    """Log a model without a signature and without a recipe."""
    file = here / "model/MLmodel"
    text = re.sub(r"^(signature|metadata):\n(?:  .*\n)+", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(text)


OPTIONS = [
    Command(
        "mistypes an option",
        "serve-api --prot 8001",
        "there is no option --prot; did you mean --port?",
    ),
    Command(
        "mistypes a command", "serv-api", "no such command 'serv-api'; did you mean 'serve-api'?"
    ),
    Command(
        "forgets the command",
        "--run-id {run}",
        "--run-id must follow the command: mmp COMMAND --run-id",
    ),
    Command(
        "forgets the value of an option",
        "serve-api --run-id",
        "option '--run-id' requires an argument",
    ),
    Command(
        "forgets the name of an option",
        "train recipes/penguins.yaml",
        "got unexpected extra argument(s) (recipes/penguins.yaml); 'mmp train --help' "
        "shows its options",
    ),
    Command(
        "writes the option of another command",
        "serve-api --data-path data/penguins.csv",
        "no such option: --data-path; 'mmp serve-api --help' shows its options",
    ),
    Command(
        "names no model",
        "serve-api",
        "no model is given; use --run-id RUN_ID (MODEL_RUN_ID), which 'mmp train' "
        "prints and 'mmp runs' lists, --run-id latest, or --model-uri URI (MODEL_URI), for example "
        "models:/name@champion",
    ),
    Command(
        "names two models",
        "serve-api --run-id {run} --model-uri {here}",
        "--run-id and --model-uri both name a model; give one",
    ),
    Command(
        "gives a port that is not a number",
        "serve-api --run-id {run} --port http",
        "invalid value for '--port': must be a valid integer; 'mmp serve-api --help' "
        "shows its options",
    ),
    Command(
        "gives a port that does not exist",
        "serve-api --run-id {run} --port 99999",
        "invalid value for '--port': must be less than or equal to 65535; 'mmp serve-api "
        "--help' shows its options",
    ),
    Command(
        "sets a port that does not exist",
        "serve-api --run-id {run}",
        "environment variable PORT: must be less than or equal to 65535 (is '99999')",
        {"PORT": "99999"},
    ),
    Command(
        "sets workers that are not a number",
        "serve-api --run-id {run}",
        "environment variable WORKERS: must be a valid integer (is 'abc')",
        {"WORKERS": "abc"},
    ),
    Command(
        "mistypes the engine",
        "serve-api --run-id {run} --engine onx",
        "invalid value for '--engine': 'onx' is not one of 'auto', 'native', 'onnx'; 'mmp"
        " serve-api --help' shows its options",
    ),
    Command(
        "gives parameters for a query without any",
        BATCH + ' --query SELECT(1) -o {here}/out.csv --params={{"since":1}}',
        "--params (PARAMS) is only for a query in a template (.sql.j2)",
    ),
    Command(
        "starts a second server",
        "serve-api --run-id {run} --port {used}",
        "cannot listen on 127.0.0.1 port {used}: Address already in use; choose another "
        "port with --port (PORT)",
    ),
    Command(
        "listens on another machine's address",
        "serve-api --run-id {run} --host 192.0.2.1",
        "cannot listen on 192.0.2.1 port 8000: Cannot assign requested address; choose "
        "another address with --host (HOST)",
    ),
    Command(
        "takes too short a key",
        "serve-api --run-id {run}",
        "environment variable API_KEY: must be text of at least 16 characters",
        {"API_KEY": "secret"},
    ),
    Command(
        "mistypes the log level",
        "serve-api --run-id {run}",
        "environment variable LOG_LEVEL: must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR' "
        "(is 'VERBOSE')",
        {"LOG_LEVEL": "verbose"},
    ),
    Command(
        "names a config file that does not exist",
        "serve-api --run-id {run} -c configs/prod.yaml",
        "configs/prod.yaml: no such file (looked in {project})",
    ),
]

CONFIGS = [
    Command(
        "mistypes a key of the config",
        "serve-api --run-id {run} -c {here}/recipe.yaml",
        "{here}/recipe.yaml: serving.prot: unknown key; known keys: {any}, host, port, "
        "workers, {any}; did you mean port?",
        recipe="serving: {prot: 8001}",
    ),
    Command(
        "mistypes a section of the config",
        "serve-api --run-id {run} -c {here}/recipe.yaml",
        "{here}/recipe.yaml: server: unknown key; known keys: environment, mlflow, "
        "serving, logging, data_source, custom; did you mean serving?",
        recipe="server: {port: 8001}",
    ),
    Command(
        "forgets a variable of the config",
        "serve-api --run-id {run} -c {here}/recipe.yaml",
        "{here}/recipe.yaml: the environment variable TRACKING is not set; set it, or "
        "write ${TRACKING:a default}",
        recipe='mlflow: {tracking_uri: "${TRACKING}"}',
    ),
]

_HEAD = (
    "task_choice: {}\n\ndata:\n  loader:\n    source_uri: data/penguins.csv\n"
    "  data_interface:\n    {}entity_columns"
)
"""The beginning of the example's recipe."""

RECIPES = [
    Command(
        "names a recipe that does not exist",
        "train -r recipes/penguin.yaml",
        "recipes/penguin.yaml: no such file (looked in {project})",
    ),
    Command(
        "names a directory as recipe",
        "train -r recipes",
        "recipes: is a directory, not a YAML file",
    ),
    Command(
        "indents with a tab",
        TRAIN,
        "{here}/recipe.yaml: not valid YAML in line 6: it is indented with a tab; use spaces",
        recipe=("  loader:", "\tloader:"),
    ),
    Command(
        "does not close a quote",
        TRAIN,
        "{here}/recipe.yaml: not valid YAML in line 2: a quoted text has no closing quote",
        recipe=("name: penguins", 'name: "penguins'),
    ),
    Command(
        "gives a key twice",
        TRAIN,
        "{here}/recipe.yaml: not valid YAML in line 3: key 'name' is given twice",
        recipe=("name: penguins", "name: penguins\nname: birds"),
    ),
    Command(
        "puts a variable in braces",
        TRAIN,
        "{here}/recipe.yaml: not valid YAML in line 31: expected ',' or '}', but got '{';"
        ' put ${MAX_ITER:1000} in quotes inside braces and brackets: "${MAX_ITER:1000}"',
        recipe=("{max_iter: 1000,", "{max_iter: ${MAX_ITER:1000},"),
    ),
    Command(
        "mistypes a key",
        TRAIN,
        "{here}/recipe.yaml: data.data_interface.features_columns: unknown key; known "
        "keys: entity_columns, feature_columns, target_column, timestamp_column, "
        "treatment_column, sequence_length; did you mean feature_columns?",
        recipe=("feature_columns", "features_columns"),
    ),
    Command(
        "forgets a key",
        TRAIN,
        "{here}/recipe.yaml: task_choice: is required",
        recipe=("task_choice: classification\n", ""),
    ),
    Command(
        "mistypes the task",
        TRAIN,
        "{here}/recipe.yaml: task_choice: must be 'classification', 'regression', "
        "'timeseries', 'clustering' or 'causal' (is 'classify')",
        recipe=("task_choice: classification", "task_choice: classify"),
    ),
    Command(
        "divides a time series at random",
        TRAIN,
        "{here}/recipe.yaml: data.split.strategy: a time series is split by time, never random; "
        "leave it out, or set it to temporal",
        recipe=(
            _HEAD.format("classification", ""),
            _HEAD.format("timeseries", "timestamp_column: date\n    "),
        ),
    ),
    Command(
        "chooses the wrong task",
        TRAIN,
        "data/penguins.csv: the target column 'species' is a string; regression needs numbers",
        recipe=("task_choice: classification", "task_choice: regression"),
    ),
    Command(
        "lists a column twice",
        TRAIN,
        "{here}/recipe.yaml: data.data_interface.feature_columns: column 'sex' is listed twice",
        recipe=("- sex", "- sex\n      - sex"),
    ),
    Command(
        "lists the entity as a feature",
        TRAIN,
        "{here}/recipe.yaml: data.data_interface: column 'penguin_id' is in "
        "entity_columns and in feature_columns; it can identify a row or be a "
        "feature, not both",
        recipe=("- sex", "- sex\n      - penguin_id"),
    ),
    Command(
        "names a column that the data lack",
        TRAIN,
        "data/penguins.csv: has no column 'bill_lenght_mm' (named in the recipe's "
        "feature_columns); it has penguin_id, species, island, bill_length_mm, "
        "bill_depth_mm, flipper_length_mm, body_mass_g, sex, year; did you mean "
        "bill_length_mm?",
        recipe=("- bill_length_mm", "- bill_lenght_mm"),
    ),
    Command(
        "names a target that the data lack",
        TRAIN,
        "data/penguins.csv: has no column 'specie' (named in the recipe's "
        "data_interface); it has penguin_id, species, island, bill_length_mm, "
        "bill_depth_mm, flipper_length_mm, body_mass_g, sex, year; did you mean species?",
        recipe=("target_column: species", "target_column: specie"),
    ),
    Command(
        "splits into more than everything",
        TRAIN,
        "{here}/recipe.yaml: data.split: train, validation and test must add up to 1, not 1.1",
        recipe=("train: 0.8, test: 0.2", "train: 0.8, test: 0.3"),
    ),
    Command(
        "splits in percent",
        TRAIN,
        "{here}/recipe.yaml: data.split.train: must be less than or equal to 1 (is 80); "
        "data.split.test: must be less than 1 (is 20)",
        recipe=("train: 0.8, test: 0.2", "train: 80, test: 20"),
    ),
    Command(
        "mistypes a step",
        TRAIN,
        "{here}/recipe.yaml: preprocessor.steps.3.type: must be 'simple_imputer', "
        "'constant_fill', 'one_hot_encoder', 'ordinal_encoder', 'catboost_encoder', "
        "'forward_fill', 'standard_scaler', 'min_max_scaler', 'robust_scaler', "
        "'kbins_discretizer', 'polynomial_features' or 'transformer' (is 'standard_scalar')",
        recipe=("type: standard_scaler", "type: standard_scalar"),
    ),
    Command(
        "forgets to encode text",
        TRAIN,
        "sklearn.linear_model.LogisticRegression could not be fitted: could not convert "
        "string to float: 'Dream'; the column 'island' is text that no preprocessor step "
        "encodes: add a step such as {type: one_hot_encoder}",
        recipe=("    - {type: one_hot_encoder}\n", ""),
    ),
    Command(
        "leaves out a class's path",
        TRAIN,
        "{here}/recipe.yaml: model.class_path: 'LogisticRegression' must be the full path"
        " of a class: sklearn.linear_model.LogisticRegression",
        recipe=("sklearn.linear_model.LogisticRegression", "LogisticRegression"),
    ),
    Command(
        "mistypes a class",
        TRAIN,
        "{here}/recipe.yaml: model.class_path: the module 'sklearn.linear_model' has no "
        "class 'LogisticRegresion'; did you mean sklearn.linear_model.LogisticRegression?",
        recipe=("linear_model.LogisticRegression", "linear_model.LogisticRegresion"),
    ),
    Command(
        "mistypes a module",
        TRAIN,
        "{here}/recipe.yaml: model.class_path: 'sklearn.linear.LogisticRegression' cannot"
        " be imported: there is no module 'sklearn.linear'; did you mean "
        "sklearn.linear_model.LogisticRegression?",
        recipe=("linear_model.LogisticRegression", "linear.LogisticRegression"),
    ),
    Command(
        "names a class whose package is not installed",
        TRAIN,
        "{here}/recipe.yaml: model.class_path: 'xgboost.XGBClassifier' cannot be "
        "imported: there is no module 'xgboost'; add its package with 'uv add --group "
        "native'",
        recipe=("sklearn.linear_model.LogisticRegression", "xgboost.XGBClassifier"),
    ),
    Command(
        "mistypes a hyperparameter",
        TRAIN,
        "{here}/recipe.yaml: model.hyperparameters.values.max_itr: LogisticRegression has"
        " no such hyperparameter; it has {any}, max_iter, {any}; did you mean max_iter?",
        recipe=("max_iter: 1000", "max_itr: 1000"),
    ),
    Command(
        "gives a hyperparameter a wrong value",
        TRAIN,
        "{here}/recipe.yaml: model.hyperparameters.values: The 'max_iter' parameter of "
        "LogisticRegression must be an int in the range [0, inf). Got 'many' instead",
        recipe=("max_iter: 1000", "max_iter: many"),
    ),
]

DATA = [
    Command(
        "names data that do not exist",
        "train -r recipes/penguins.yaml -d data/penguin.csv",
        "data/penguin.csv: no such file (looked in {project})",
    ),
    Command(
        "names a directory as data",
        "train -r recipes/penguins.yaml -d data",
        "data: has CSV files, but only Parquet files are read together",
    ),
    Command(
        "names a directory like a file",
        TRAIN_ON,
        "{here}/data.csv: has no Parquet files",
        before=lambda here: (here / "data.csv").mkdir(),
    ),
    Command(
        "gives a spreadsheet",
        "train -r recipes/penguins.yaml -d data/penguins.xlsx",
        "data/penguins.xlsx: the file name must end in .csv or .parquet; spreadsheet "
        "programs read and write CSV",
    ),
    Command(
        "gives an empty file", TRAIN_ON, "{here}/data.csv: the file is empty", data=lambda _: b""
    ),
    Command(
        "gives a header without rows",
        TRAIN_ON,
        "{here}/data.csv: has no rows",
        data=lambda content: content.splitlines()[0],
    ),
    Command(
        "separates by semicolons",
        TRAIN_ON,
        "{here}/data.csv: the columns are separated by semicolons; set "
        'data.loader.delimiter: ";", or separate them by commas',
        data=edited(b",", b";"),
    ),
    Command(
        "renames a spreadsheet",
        TRAIN_ON,
        "{here}/data.csv: not UTF-8 text (byte 9); save it as CSV in UTF-8, or name its "
        "encoding in data.loader.encoding",
        data=lambda _: b"PK\x03\x04\x14\x00\x06\x00\x08\xd0\x00\x00\x00!\x00\xff",
    ),
    Command(
        "saves in another encoding",
        TRAIN_ON,
        "{here}/data.csv: not UTF-8 text (byte 1860); save it as CSV in UTF-8, or name its "
        "encoding in data.loader.encoding",
        data=edited(b"Dream", "Träume".encode("latin-1")),
    ),
    Command(
        "leaves out a column",
        TRAIN_ON,
        "{here}/data.csv: has no column 'bill_length_mm' (named in the recipe's "
        "feature_columns); it has penguin_id, species, island, bill_length, "
        "bill_depth_mm, flipper_length_mm, body_mass_g, sex, year; did you mean "
        "bill_length?",
        data=edited(b"bill_length_mm", b"bill_length"),
    ),
    Command(
        "has only one class",
        TRAIN_ON,
        "{here}/data.csv: the target column 'species' has the same value in every row; "
        "classification needs two classes or more",
        data=lambda content: OTHER_CLASSES.sub(b",Adelie,", content),
    ),
    Command(
        "has a column without values",
        TRAIN_ON,
        "{here}/data.csv: column 'sex' has no values; leave it out, or add values",
        data=lambda content: re.sub(
            rb",(MALE|FEMALE|male|female|Male|Female)?,(?=[^,]*$)",
            b",,",
            content,
            flags=re.MULTILINE,
        ),
    ),
    Command(
        "has a line with too many values",
        TRAIN_ON,
        "{here}/data.csv: not a readable csv file: Expected 9 fields in line 346, saw 10",
        data=lambda content: content + b"N1,Adelie,Dream,39,18,181,3750,male,2007,2008\n",
    ),
    Command(
        "names no output",
        f"{BATCH} -d data/penguins.csv",
        "no output is given; use --output-path FILE (OUTPUT_PATH) or "
        "--output-table TABLE (OUTPUT_TABLE)",
    ),
    Command(
        "names no data",
        f"{BATCH} -o {{here}}/out.csv",
        "no data is given; use --data-path FILE (DATA_PATH) or --query SELECT (QUERY)",
    ),
    Command(
        "writes a spreadsheet",
        f"{BATCH} -d data/penguins.csv -o {{here}}/out.xlsx",
        "{here}/out.xlsx: the file name must end in .csv or .parquet; spreadsheet "
        "programs read and write CSV",
    ),
    Command(
        "writes into a read-only directory",
        f"{BATCH} -d data/penguins.csv -o /proc/out.csv",
        "/proc/out.csv: cannot be written: No such file or directory",
    ),
    Command(
        "writes over the data",
        f"{BATCH} -d {{here}}/data.csv -o {{here}}/data.csv",
        "{here}/data.csv: is the input file, or one of them; name another file for the output",
        data=lambda content: content,
    ),
    Command(
        "predicts data without a column",
        f"{BATCH} -d {{here}}/data.csv -o {{here}}/out.csv",
        "{here}/data.csv: has no column 'penguin_id' (which the model needs); it has "
        "penguin, species, island, bill_length_mm, bill_depth_mm, flipper_length_mm, "
        "body_mass_g, sex, year; did you mean penguin?",
        data=edited(b"penguin_id", b"penguin"),
    ),
    Command(
        "predicts text instead of a number",
        f"{BATCH} -d {{here}}/data.csv -o {{here}}/out.csv",
        "{here}/data.csv: row 1: column 'bill_length_mm': must be a finite number, is '39 mm'",
        data=edited(b"39.1", b"39 mm"),
    ),
]

# Runs that do not exist are in test_operation.py.
MODELS = [
    Command(
        "names a directory that does not exist",
        "check --model-uri penguins@champion",
        "cannot load the model penguins@champion: there is no such directory; for a "
        "registered model write models:/NAME@ALIAS",
    ),
    Command(
        "names a directory without a model",
        "check --model-uri data",
        "cannot load the model data: MLmodel: there is no such file in the directory, so "
        "it is not a saved MLflow model",
    ),
    Command(
        "names a model that is not registered",
        "check --model-uri models:/penguins@champion",
        "the registry in {any}/mlflow.db has no model 'penguins' with the alias 'champion'",
    ),
    Command(
        "mistypes the scheme",
        "check --model-uri model:/penguins/1",
        "cannot load the model model:/penguins/1 from sqlite:///mlflow.db: MLflow does "
        "not support model: addresses; write models:/NAME@ALIAS, "
        "models:/NAME/VERSION or runs:/RUN_ID/model",
    ),
    Command(
        "asks a tracking server that is down",
        "check --model-uri models:/penguins/1",
        "cannot load the model models:/penguins/1 from http://127.0.0.1:{closed}: "
        "Connection refused",
        {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:{closed}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        },
    ),
    Command(
        "trains with a tracking server that is down",
        "train -r recipes/penguins.yaml",
        "mlflow.tracking_uri: http://127.0.0.1:{closed} cannot be used: Connection refused",
        {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:{closed}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        },
    ),
    Command(
        "mistypes the tracking URI",
        "train -r recipes/penguins.yaml",
        "mlflow.tracking_uri: htp://mlflow:5000 cannot be used: {any}unsupported URI "
        "'htp://mlflow:5000'{any}",
        {"MLFLOW_TRACKING_URI": "htp://mlflow:5000"},
    ),
    Command(
        "serves a model without a signature",
        "check --model-uri {here}/model",
        "model {here}/model: the model has neither a signature nor a recipe, so its "
        "columns are unknown; log it with a signature (mlflow.models.infer_signature)",
        before=without_signature,
    ),
]

# Mistakes that still work; here the answer is the output. A target that is listed as a feature is
# in framework/test_recipe.py.
HARMLESS = [
    Command(
        "saves CSV as spreadsheet programs do",
        f"{BATCH} -d {{here}}/data.csv -o {{here}}/out.csv",
        "344 rows predicted: {here}/out.csv",
        data=lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
    ),
]

MISTAKES = [*OPTIONS, *CONFIGS, *RECIPES, *DATA, *MODELS]
COMMANDS = [*MISTAKES, *HARMLESS]


@pytest.fixture(scope="module")
def answers(
    project: Path, penguins: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """The answer to each command, with the placeholders of `Command` for names of this run."""
    recipe = (project / "recipes/penguins.yaml").read_text(encoding="utf-8")
    data = (project / "data/penguins.csv").read_bytes()
    model = logged_model(project, penguins)
    with socket.create_server(("127.0.0.1", 0)) as used:
        places = {"run": penguins, "used": str(used.getsockname()[1]), "closed": str(free_port())}
        commands = []
        for case in COMMANDS:
            here = tmp_path_factory.mktemp("case")
            if isinstance(case.recipe, str):
                (here / "recipe.yaml").write_text(case.recipe)
            elif case.recipe:
                assert case.recipe[0] in recipe, case.what
                (here / "recipe.yaml").write_text(recipe.replace(*case.recipe))
            if case.data:
                (here / "data.csv").write_bytes(case.data(data))
            if "{here}/model" in case.command:
                shutil.copytree(model, here / "model")
            case.before(here)
            known = places | {"here": str(here)}
            commands.append(
                {
                    "arguments": case.command.format(**known).split(),
                    "environment": {
                        name: value.format(**known) for name, value in case.environment.items()
                    },
                    "here": str(here),
                }
            )
        script = ROOT / "tests/command_lines.py"
        found = subprocess.run(
            [project / ".venv/bin/python", "-P", script],  # tests/serving.py has the same name
            cwd=project,
            env={**os.environ, "HOST": "127.0.0.1"},
            input=json.dumps(commands),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    told = {}
    for case, command, answer in zip(COMMANDS, commands, json.loads(found.stdout), strict=True):
        for place, value in {**places, "here": command["here"], "project": str(project)}.items():
            for channel in ("output", "error"):
                answer[channel] = answer[channel].replace(value, f"{{{place}}}")
        told[case.what] = answer
    return told


PROGRESS = re.compile(r"^.* INFO serving\.training\.progress: .*\n", re.MULTILINE)
"""What training logs before it finds the mistake."""


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case.what)
def test_a_command_says_in_one_sentence_what_is_wrong(
    answers: dict[str, dict[str, Any]], case: Command
) -> None:
    answer = answers[case.what]
    expected = re.escape(f"mmp: {case.answer}\n").replace(re.escape("{any}"), ".*")
    error = PROGRESS.sub("", answer["error"])
    assert re.fullmatch(expected, error), error
    assert answer["status"] == 2
    # Training shows the columns of data that it can read.
    assert answer["output"] == "" or answer["output"].startswith("column ")


@pytest.mark.parametrize("case", HARMLESS, ids=lambda case: case.what)
def test_a_command_works_despite_the_mistake(
    answers: dict[str, dict[str, Any]], case: Command
) -> None:
    answer = answers[case.what]
    assert answer["status"] == 0, answer["error"]
    assert case.answer in answer["output"].splitlines()


def test_no_two_commands_are_the_same() -> None:
    assert len({case.what for case in COMMANDS}) == len(COMMANDS)


# -------------------------------------------------------------------------------------- HTTP


KEY = "a-key-of-a-newcomer"
SAMPLE: dict[str, Any] = {
    "penguin_id": "N1A1",
    "island": "Dream",
    "bill_length_mm": 39.1,
    "bill_depth_mm": 18.7,
    "flipper_length_mm": 181,
    "body_mass_g": 3750,
    "sex": "male",
}


@dataclass(frozen=True)
class Request:
    """A request with a mistake; `body` is JSON unless it is bytes."""

    what: str
    status: int
    answer: str
    """The `detail`."""
    body: Any = None
    path: str = "/predict"
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def but(**values: Any) -> dict[str, Any]:
    """The sample with other values; `...` removes one."""
    return {name: value for name, value in (SAMPLE | values).items() if value is not ...}


BATCH_PATH = "/predict/batch"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
REQUESTS = [
    Request(
        "forgets the key",
        401,
        "the header X-API-Key must hold the API key",
        SAMPLE,
        headers={"X-API-Key": ""},
    ),
    Request(
        "sends the key in another header",
        401,
        "the header X-API-Key must hold the API key",
        SAMPLE,
        headers={"X-API-Key": "", "Authorization": f"Bearer {KEY}"},
    ),
    Request("asks with GET", 405, "this path does not accept this method; use POST", method="GET"),
    Request(
        "ends the path in a slash",
        404,
        "there is no such path; /docs lists all paths, and none of them ends with /",
        SAMPLE,
        "/predict/",
    ),
    Request(
        "mistypes the path",
        404,
        "there is no such path; /docs lists all paths, and none of them ends with /",
        SAMPLE,
        "/predictions",
    ),
    Request(
        "sends a form, as curl -d does",
        415,
        "the body must be JSON, with the header Content-Type: application/json",
        json.dumps(SAMPLE).encode(),
        headers=FORM,
    ),
    Request("sends nothing", 422, "the body is empty; it must be JSON", b""),
    Request(
        "sends what is not JSON",
        422,
        "invalid JSON: key must be a string at line 1 column 2",
        b"{'island': 'Dream'}",
    ),
    Request(
        "ends an object in a comma",
        422,
        "invalid JSON: trailing comma at line 1 column 20",
        b'{"island": "Dream",}',
    ),
    Request(
        "sends NaN",
        422,
        "invalid JSON: expected value at line 1 column 131",
        json.dumps(but(body_mass_g=float("nan"))).encode(),
    ),
    Request(
        "names a column twice",
        422,
        'invalid JSON: Detected duplicate key "island" at line 1 column 30',
        b'{"island": "Dream", "island": "Biscoe"}',
    ),
    Request("sends text", 422, "must be an object", "Adelie"),
    Request(
        "sends a list",
        422,
        'must be an object, one sample; several samples go to /predict/batch as {"samples": [...]}',
        [SAMPLE],
    ),
    Request(
        "sends a batch to /predict",
        422,
        'samples: unknown field; several samples go to /predict/batch as {"samples": '
        "[...]} (and 2 more)",
        {"samples": [SAMPLE]},
    ),
    Request(
        "sends a list to /predict/batch",
        422,
        'must be an object of the form {"samples": [...]}',
        [SAMPLE],
        BATCH_PATH,
    ),
    Request(
        "sends a sample to /predict/batch",
        422,
        'samples: is required; the body must have the form {"samples": [...]}; one sample'
        " goes to /predict",
        SAMPLE,
        BATCH_PATH,
    ),
    Request("sends an empty batch", 422, "samples: must not be empty", {"samples": []}, BATCH_PATH),
    Request(
        "sends a batch that is an object",
        422,
        "samples: must be an array",
        {"samples": SAMPLE},
        BATCH_PATH,
    ),
    Request(
        "misspells a column",
        422,
        "bill_lenght_mm: unknown field; did you mean bill_length_mm?",
        but(bill_lenght_mm=39.1, bill_length_mm=...),
    ),
    Request(
        "misspells a column in a batch",
        422,
        "samples/1/Island: unknown field; did you mean island?",
        {"samples": [SAMPLE, but(Island="Dream")]},
        BATCH_PATH,
    ),
    Request(
        "sends the target",
        422,
        "species: is the target, which the model predicts; leave it out",
        but(species="Adelie"),
    ),
    Request("leaves out the entity", 422, "penguin_id: is required", but(penguin_id=...)),
    Request(
        "sends null for what is required", 422, "penguin_id: must not be null", but(penguin_id=None)
    ),
    Request(
        "sends a number as text",
        422,
        "body_mass_g: must be a valid number",
        but(body_mass_g="3750"),
    ),
    Request("sends a number instead of text", 422, "island: must be a valid string", but(island=1)),
    Request(
        "sends a list as a value",
        422,
        "body_mass_g: must be a valid number",
        but(body_mass_g=[3750]),
    ),
    Request(
        "sends samples to /invocations",
        422,
        "must be an object with exactly one of dataframe_split, dataframe_records, "
        "instances, inputs",
        {"samples": [SAMPLE]},
        "/invocations",
    ),
]


@pytest.fixture(scope="module")
def http(project: Path, penguins: str) -> Iterator[httpx.Client]:
    """A server with an API key."""
    with serve(project, "--run-id", penguins, API_KEY=KEY) as client:
        client.headers["X-API-Key"] = KEY
        yield client


def send(http: httpx.Client, case: Request) -> httpx.Response:
    content = case.body if isinstance(case.body, bytes) else json.dumps(case.body)
    headers = {"Content-Type": "application/json"} | case.headers
    return http.request(case.method, case.path, content=content, headers=headers)


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.what)
def test_a_request_is_told_what_is_wrong(http: httpx.Client, case: Request) -> None:
    answer = send(http, case)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == case.answer
    assert answer.status_code == answer.json()["status"] == case.status


def test_mistakes_that_do_no_harm_are_answered(http: httpx.Client) -> None:
    """A body without a media type is JSON; integers may have a decimal point."""
    body = json.dumps(but(body_mass_g=3750.0))
    assert http.post("/predict", content=body).json()["prediction"] == "Adelie"


def test_a_server_without_tls_lets_https_fail_at_once(http: httpx.Client) -> None:
    with pytest.raises(httpx.ConnectError, match="SSL"):
        httpx.get(f"https://127.0.0.1:{http.base_url.port}/health", verify=False, trust_env=False)
    assert http.get("/health").status_code == 200


# ------------------------------------------------------------------------------------ Docker


@pytest.mark.docker
@pytest.mark.parametrize(
    ("variable", "value", "answer"),
    [
        ("API_PORT", "http", "Invalid hostPort: http"),
        ("API_PORT", "99999", "Invalid hostPort: 99999"),
        ("BIND_ADDRESS", "localhost", "Invalid ip address: localhost"),
        ("CPUS", "many", ".cpus: failed to cast"),
    ],
)
def test_compose_refuses_a_wrong_setting_before_anything_starts(
    project: Path, variable: str, value: str, answer: str
) -> None:
    command = ("docker", "compose", "config", "--quiet")
    refused = run(*command, cwd=project, env={variable: value}, check=False)
    assert refused.returncode != 0
    assert answer in refused.stderr


@pytest.mark.docker
def test_compose_names_a_service_that_is_not_there(project: Path) -> None:
    refused = run("docker", "compose", "run", "trian", cwd=project, check=False)
    assert refused.returncode != 0
    assert refused.stderr.strip().endswith("no such service: trian")
