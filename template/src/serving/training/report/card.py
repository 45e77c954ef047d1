"""The model card: what the model is for, in Markdown.

Its headings are those of "Model Cards for Model Reporting", https://arxiv.org/abs/1810.03993
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from serving.contract.recipe import Task
from serving.training.report import tables
from serving.training.report.tables import Table

if TYPE_CHECKING:
    from serving.training.report import Facts

_SECTIONS = ("description", "intended_use", "limitations")
"""Keys of the recipe's metadata that have a place of their own in the card."""


def card(facts: "Facts") -> str:
    """The card. What only a person can know comes from the recipe's `metadata`."""
    return "\n".join(_lines(facts)) + "\n"


def _lines(facts: "Facts") -> Iterator[str]:
    told = tables.metadata(facts)
    yield f"# {_plain(facts.recipe.name)}"
    yield ""
    if "description" in told:
        yield f"{_plain(told['description'])}\n"
    yield f"{_task(facts)} It is a {_code(facts.recipe.model.class_path)}."

    yield "\n## Intended use\n"
    yield _plain(told.get("intended_use", "")) or (
        "The recipe does not say it; `metadata.intended_use` does."
    )
    yield "\n## Data and training\n"
    yield from (f"- {name}: {_plain(text)}" for name, text in tables.about(facts)[2:])
    yield from (
        f"- {_plain(name)}: {_plain(text)}" for name, text in told.items() if name not in _SECTIONS
    )
    yield "\n## Metrics\n"
    yield from _table(tables.metrics(facts.metrics))
    yield "\n## Columns\n"
    yield from _table(tables.columns(facts))

    yield "\n## Limits\n"
    if "limitations" in told:
        yield f"{_plain(told['limitations'])}\n"
    yield (
        "- The metrics hold for data like that of the training. "
        'Values outside of the column "seen" are extrapolated.'
    )
    if facts.recipe.task_choice is Task.CLASSIFICATION:
        yield f"- The model knows only these classes: {_classes(facts)}."
    if "test" not in facts.parts:
        yield "- No rows were kept for a test, so the metrics may be too good."
    yield "\n## How to serve it\n"
    yield "```sh"
    yield f"uv run mmp serve-api --run-id {facts.run_id}"
    yield "```"


def _task(facts: "Facts") -> str:
    target = _code(str(facts.recipe.data.data_interface.target_column))
    match facts.recipe.task_choice:
        case Task.CLASSIFICATION:
            return f"The model predicts the class of {target} from the columns below."
        case Task.CLUSTERING:
            return "The model divides rows into clusters by the columns below."
        case Task.CAUSAL:
            treatment = _code(str(facts.recipe.data.data_interface.treatment_column))
            return (
                f"The model predicts by how much {treatment} changes {target}, from the columns "
                "below."
            )
        case Task.TIMESERIES:
            plan, interface = facts.recipe.forecasting, facts.recipe.data.data_interface
            if facts.recipe.is_forecaster:
                return _forecaster(facts)
            steps = f"the next {plan.horizon} values" if plan.horizon > 1 else "the next value"
            past = f"the {plan.history} values before" if plan.history else "the columns below"
            return (
                f"The model predicts {steps} of {target}, from {past}; "
                f"the time is in {_code(str(interface.timestamp_column))}."
            )
        case _:
            return f"The model predicts the number {target} from the columns below."


def _forecaster(facts: "Facts") -> str:
    data, interface = facts.data, facts.recipe.data.data_interface
    assert data.time is not None
    keys = " and ".join(map(_code, interface.entity_columns))
    each = f"of each {keys} " if keys else ""
    return (
        f"The model knows the values of {_code(str(interface.target_column))} {each}up to "
        f"{data.time.max()}, and forecasts the {facts.recipe.forecasting.horizon} that follow "
        f"(frequency {data.frequency}). After that, it must be trained again. "
        f"{'The metrics are those of a backtest. ' if facts.backtests else ''}"
        f"The time is in {_code(str(interface.timestamp_column))}."
    )


def _classes(facts: "Facts") -> str:
    classes = [_code(str(one)) for one in getattr(facts.pipeline, "classes_", [])]
    more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    return ", ".join(classes[:20]) + more


def _table(table: Table) -> Iterator[str]:
    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    yield line(table.heading)
    yield line("---" for _ in table.heading)
    yield from (line(map(_plain, row)) for row in table.rows)


def _plain(text: str) -> str:
    """A text in one line, in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*|<>\[\]#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"
