"""What people see of training on a real terminal, and what Ctrl-C does."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from serving.training import progress
from sklearn.datasets import load_breast_cancer

RECIPE: dict[str, Any] = {
    "name": "biopsies",
    "task_choice": "classification",
    "data": {
        "loader": {"source_uri": "biopsies.csv"},
        "data_interface": {"target_column": "target"},
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
    },
    "model": {
        "class_path": "sklearn.ensemble.RandomForestClassifier",
        "hyperparameters": {
            "tuning_enabled": True,
            "n_trials": 500,
            "tunable": {"n_estimators": {"type": "int", "range": [100, 200]}},
        },
    },
    "evaluation": {"metrics": ["accuracy"]},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with data and a recipe; all tests of this module share its store."""
    directory = tmp_path_factory.mktemp("project")
    load_breast_cancer(as_frame=True).frame.to_csv(directory / "biopsies.csv", index=False)
    (directory / "config.yaml").write_text("environment: {name: local}\n")
    (directory / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return directory


COMMAND = [sys.executable, "-m", "serving", "train", "-r", "recipe.yaml", "-c", "config.yaml"]


def train_on_terminal(project: Path, stop_at: str) -> tuple[int, str, str]:
    """Press Ctrl-C when the terminal shows a text; return the status, stdout and the terminal."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        COMMAND,
        cwd=project,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        process_group=0,
    )
    os.close(theirs)
    shown, stopped = "", False
    try:
        while data := _read(ours):
            shown += data
            if not stopped and stop_at in shown:
                os.killpg(command.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
                stopped = True
        answer, _ = command.communicate(timeout=60)
    finally:
        os.close(ours)
        command.kill()
    return command.returncode, answer, shown


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # the command has ended
        return ""


def test_ctrl_c_in_a_trial_goes_on_with_the_best(project: Path) -> None:
    status, answer, shown = train_on_terminal(project, "trial 3 of 500, best accuracy 0.9")
    assert status == 0
    steps = ["starting", "checking the columns of 569 rows"]
    steps += [
        "opening the MLflow store",
        "trial 1 of 500",
        "━━━",
        "trial 2 of 500, best accuracy 0.9",
    ]
    steps += ["the best trial so far is used"]
    steps += ["fitting RandomForestClassifier on 341 rows", "logging the model"]
    rest = shown
    for step in steps:
        assert step in rest
        rest = rest.partition(step)[2]
    assert "━" not in answer
    assert answer.startswith("column ")
    assert "\n\nrecipe: biopsies (recipe.yaml)\n" in answer
    assert "\ntest accuracy: 0.9" in answer
    assert "(always the most frequent class: 0.6316)" in answer


def test_a_bar_shows_how_much_of_a_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_bytes(b"1,2\n" * 250_000)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.shown(), progress.opened(tmp_path / "rows.csv") as file:
            progress.step("reading the rows")
            assert len(file.read(500_000)) == 500_000
        shown = _read(ours)
    os.close(ours)
    filled = shown.rpartition("reading the rows")[2]
    assert "━━━" in filled  # about half of it is in another colour
    assert "╸" in filled or "╺" in filled


def test_ctrl_c_ends_with_one_sentence(project: Path) -> None:
    status, answer, shown = train_on_terminal(project, "starting")
    assert (status, answer) == (130, "")
    assert shown.endswith("mmp: training was stopped before it logged anything\r\n")
    assert "Traceback" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is shown again
