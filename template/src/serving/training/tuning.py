"""Search for hyperparameters with Optuna."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from serving.config.yaml_file import hide_values
from serving.contract.recipe import Recipe, Tunable
from serving.errors import TrainingError
from serving.redaction import first_line
from serving.training import progress
from serving.training.metrics import is_loss, optimized_metric

logger = logging.getLogger(__name__)

_TRIALS = 10
"""As in Modern ML Pipeline, if the recipe says nothing."""


@dataclass(frozen=True)
class Tuned:
    """The best trial."""

    values: dict[str, Any]
    """Hyperparameter -> value."""
    score: float
    complete: int
    """How many trials have a score."""


def tune(
    recipe: Recipe, attempt: Callable[[int, Mapping[str, Any]], float], hint: str = ""
) -> Tuned:
    """Try one set of hyperparameters after the other, and return the best.

    Ctrl-C ends the search, and the best trial so far counts.

    Args:
        recipe: what to search for, and how long.
        attempt: called with the number of a trial and its hyperparameters; returns the metric of a
            model with these.
        hint: what makes all trials fail, if they do; it follows the reason.

    Raises `TrainingError` with the reason if all trials fail, and `KeyboardInterrupt` if no trial
    is complete.
    """
    plan = recipe.model.hyperparameters
    name, _ = optimized_metric(recipe)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="minimize" if is_loss(recipe.task_choice, name) else "maximize",
        sampler=optuna.samplers.TPESampler(seed=recipe.evaluation.random_state),
    )
    distributions = {key: _distribution(one) for key, one in plan.tunable.items()}
    count = plan.n_trials or _TRIALS
    end = time.monotonic() + (plan.timeout or math.inf)
    reason = ""
    for number in range(1, count + 1):
        if number > 1 and time.monotonic() > end:
            logger.info("tuning has reached its timeout after %d of %d trials", number - 1, count)
            break
        best = f", best {name} {study.best_value:.4f}" if _complete(study) else ""
        progress.step(f"trial {number} of {count}{best}", number - 1, count)
        trial = study.ask(distributions)
        try:
            study.tell(trial, attempt(number, trial.params))
        except KeyboardInterrupt:
            if not _complete(study):
                raise
            logger.warning(
                "tuning was stopped in trial %d of %d; the best trial so far is used", number, count
            )
            break
        except Exception as exc:
            logger.debug("a trial failed", exc_info=True)
            study.tell(trial, state=TrialState.FAIL)
            reason = hide_values(first_line(exc), recipe.texts_with_variables)
            logger.warning("trial %d of %d failed and is skipped: %s", number, count, reason)
    complete = _complete(study)
    if not complete:
        raise TrainingError(f"model.hyperparameters.tunable: all trials failed: {reason}{hint}")
    return Tuned(study.best_params, study.best_value, complete)


def _complete(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def _distribution(tunable: Tunable) -> BaseDistribution:
    if tunable.type == "categorical":
        return CategoricalDistribution(tunable.range)
    low, high = tunable.limits
    if tunable.type == "int":
        return IntDistribution(int(low), int(high), log=tunable.log)
    return FloatDistribution(low, high, log=tunable.log)
