"""The report of a run: plots, a page that opens offline, and a model card."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from serving.contract.recipe import Recipe
from serving.training.data import Dataset
from serving.training.provenance import Provenance

REPORT = "report"
"""The directory among the run's artifacts."""
PAGE = "report.html"
CARD = "model_card.md"


@dataclass(frozen=True)
class Facts:
    """What is reported."""

    recipe: Recipe
    data: Dataset
    parts: Mapping[str, "pd.Index[Any]"]
    pipeline: Any
    """Fitted on the part `train`; a forecaster on all rows."""
    tuned: Mapping[str, Any]
    """The hyperparameters that were found by tuning."""
    metrics: Mapping[str, float]
    """As logged: `test_accuracy`, `baseline_accuracy`, `cv_accuracy_mean`, ..."""
    provenance: Provenance
    run_id: str
    trained: datetime
    """With a time zone."""
    backtests: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Those of a forecaster and its baseline in the part that is held out: `model`, `baseline`."""


def write_report(facts: Facts, directory: Path) -> None:
    """Write `report.html`, `model_card.md` and the plots as PNG files.

    They have no rows of the data, and only values that the profile lists. A plot that cannot be
    made is left out, and the page says why.
    """
    from serving.training.report import card, html, plots

    drawn, left_out = plots.draw(facts)
    for plot in drawn:
        (directory / f"{plot.name}.png").write_bytes(plot.png)
    (directory / PAGE).write_text(html.page(facts, drawn, left_out), encoding="utf-8")
    (directory / CARD).write_text(card.card(facts), encoding="utf-8")


def now() -> datetime:
    """The time, in UTC and without fractions of a second."""
    return datetime.now(UTC).replace(microsecond=0)
