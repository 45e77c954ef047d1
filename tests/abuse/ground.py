"""Shared by honest and hostile clients: a forest of the penguins, and its known answers."""

from pathlib import Path
from typing import Any

from helpers import ROOT, run
from serving import logged_model, train

HERE = Path(__file__).parent
REPORTS = ROOT / "build"


def forest(project: Path, directory: Path) -> Path:
    """Train a forest on the example's data and return the directory of the model.

    The example's own model accepts any number. A forest refuses numbers beyond a 32-bit float, so
    some samples make a shared call fail.
    """
    recipe = (project / "recipes/penguins.yaml").read_text()
    for example, forest in (
        ("linear_model.LogisticRegression", "ensemble.RandomForestClassifier"),
        ("{max_iter: 1000, random_state: 42}", "{n_estimators: 20, random_state: 42}"),
    ):
        assert example in recipe
        recipe = recipe.replace(example, forest)
    path = directory / "forest.yaml"
    path.write_text(recipe)
    return logged_model(project, train(project, "--recipe-path", path))


def known_answers(project: Path, model: Path, directory: Path) -> Path:
    """A file of samples with the model's own answers, predicted without a server."""
    script = (project / ".venv/bin/python", HERE / "known_answers.py", model)
    answers = run(*script, project / "data/penguins.csv", cwd=project).stdout
    path = directory / "known.json"
    path.write_text(answers)
    return path


def assert_unharmed(report: dict[str, Any]) -> None:
    """All honest requests got right answers, and no work of the others is left."""
    for name, tally in report["honest"].items():
        assert tally["sent"] == tally["answered"], (name, tally)
        assert (tally["wrong"], tally["lost"]) == (0, {}), (name, tally)
        assert tally["sent"], name
    assert report["unexpected"] == {}
    assert set(report["at_rest"].values()) == {0}, report["at_rest"]
    assert report["ready"] == 200


def write_report(name: str, lines: list[str]) -> None:
    """Print lines, and write them into build/ for quoting."""
    text = "\n".join(lines) + "\n"
    print(text)
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / name).write_text(text)
