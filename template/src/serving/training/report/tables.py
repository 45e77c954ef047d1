"""What the page and the model card both show as tables, as text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.redaction import redact

if TYPE_CHECKING:
    from serving.training.report import Facts

Row = tuple[str, ...]

_GROUPS = ("test", "validation", "calibration", "train", "cv", "baseline")
_HEADINGS = {"cv": "cross-validation"}
_NAMES = re.compile(rf"({'|'.join(_GROUPS)})_(.+)")


@dataclass(frozen=True)
class Table:
    """Texts in columns."""

    heading: Row
    rows: list[Row]


def metrics(values: Mapping[str, float]) -> Table:
    """One row for each metric, and one column for each part, the cross-validation, the baseline."""
    cells: dict[str, dict[str, str]] = {}
    for name, value in values.items():
        found = _NAMES.fullmatch(name)
        group, metric = found.groups() if found else ("value", name)
        if group == "cv" and metric.endswith("_std"):
            continue
        text = f"{value:.4g}"
        if group == "cv":
            metric = metric.removesuffix("_mean")
            spread = values.get(f"cv_{metric}_std")
            text += f" ± {spread:.2g}" if spread is not None else ""
        cells.setdefault(metric, {})[group] = text
    used = {group for row in cells.values() for group in row}
    groups = [group for group in (*_GROUPS, "value") if group in used]
    return Table(
        ("metric", *(_HEADINGS.get(group, group) for group in groups)),
        [(metric, *(row.get(group, "") for group in groups)) for metric, row in cells.items()],
    )


def columns(facts: "Facts") -> Table:
    """Entities, features and the target, with what the profile lists of them."""
    data = facts.data
    rows: list[Row] = [(c.name, "entity", c.type, "", "", "") for c in data.entity_columns]
    history = facts.recipe.history_columns
    if history:
        lows, highs = zip(*((_limits(data.seen[name])) for name in history), strict=True)
        name = f"{history[0]} to {history[-1]}" if len(history) > 1 else history[0]
        rows.append((name, "history", "double", "", "", f"{min(lows):.6g} to {max(highs):.6g}"))
    for column in data.feature_columns:
        if column.name in history or column.name in data.entities:
            continue
        seen = data.seen.get(column.name, {})
        missing = data.features[column.name].isna().mean()
        rows.append(
            (
                column.name,
                "feature",
                column.type,
                f"{missing:.1%}" if missing else "",
                _short(seen["typical"]) if "typical" in seen else "not listed",
                _range(seen),
            )
        )
    if data.target_column is not None:
        rows.append((data.target_column.name, "target", data.target_column.type, "", "", ""))
    if data.treatment is not None:
        rows.append((str(data.treatment.name), "treatment", "long", "", "", ""))
    return Table(("column", "role", "type", "missing", "typical", "seen"), rows)


def about(facts: "Facts") -> list[tuple[str, str]]:
    """When and from what the model was trained."""
    made = facts.provenance
    parts = ", ".join(f"{len(rows):,} {name}" for name, rows in facts.parts.items())
    dropped = f"; {facts.data.dropped:,} without target left out" if facts.data.dropped else ""
    if made.commit is None:
        commit = "not in a git repository"
    else:
        changed = " and changes that are not committed" if made.commit.is_dirty else ""
        commit = f"{made.commit.id}{changed}"
    return [
        ("Task", str(facts.recipe.task_choice)),
        ("Model", facts.recipe.model.class_path),
        ("Trained", f"{facts.trained:%Y-%m-%d %H:%M:%S} UTC"),
        ("Run", facts.run_id),
        ("Data", redact(made.source)),
        ("Rows", f"{made.rows:,} ({parts}{dropped})"),
        ("SHA-256 of the data", made.sha256),
        ("Commit", commit),
    ]


def parameters(facts: "Facts") -> list[tuple[str, str]]:
    """The estimator's arguments as in the recipe, with `${VAR}` for values of variables."""
    written = facts.recipe.as_written()["model"].get("hyperparameters") or {}
    given = (written.get("values") or {}) | (written.get("fixed") or {})
    return [
        *((name, str(value)) for name, value in given.items()),
        *((f"{name} (tuned)", str(value)) for name, value in facts.tuned.items()),
    ]


def metadata(facts: "Facts") -> dict[str, str]:
    """The recipe's own texts about the model: `description`, `intended_use`, ..."""
    written = facts.recipe.as_written().get("metadata") or {}
    return {str(key): str(value) for key, value in written.items() if value not in (None, "")}


def _limits(seen: Mapping[str, Any]) -> tuple[float, float]:
    return float(seen["minimum"]), float(seen["maximum"])


def _range(seen: Mapping[str, Any]) -> str:
    """What the profile lists of a column."""
    if "values" in seen:
        return ", ".join(seen["values"])
    if "minimum" in seen:
        return f"{_short(seen['minimum'])} to {_short(seen['maximum'])}"
    return ""


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
