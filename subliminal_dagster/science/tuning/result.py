"""What a search found: its trials, the best of them, and what mattered.

Belongs here: reading the tables of a search. Does not belong here: searching (`search`), drawing (`figures`).
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.settings.tuning import SearchSpace

if TYPE_CHECKING:
    import optuna
    import pandas as pd

PARAMETERS = ("learning_rate", "dropout", "rank", "alpha_ratio")
"""What is searched for."""

COMPLETE, PRUNED, DIVERGED = "complete", "pruned", "diverged"


@dataclass(frozen=True)
class TuningResult:
    """A study and what came out.

    trials: a row per trial: `trial` (0 is the first), `state` ("complete", "pruned", or "diverged": a validation loss
        that was no number), `learning_rate`, `dropout`, `rank`, `alpha_ratio`, `alpha`, `validation_loss` (nats a
        token, after the last epoch it was trained for; NaN where it diverged), `epoch_losses` (the same after every
        epoch; with pruning as computed by `validation_loss`, all but the last).
    curves: every trial's history (see `TrainingReport`): `trial`, `step`, `epoch`, `loss`, `validation_loss`,
        `learning_rate`.
    best: the complete trial with the lowest validation loss: `trial`, `validation_loss`, `alpha` and the `PARAMETERS`.
    about: what the study depends on, besides the number of trials.
    """

    trials: pd.DataFrame
    curves: pd.DataFrame
    best: dict[str, Any]
    about: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write `trials.parquet`, `curves.parquet` and `study.json` (best, about) to `folder`."""
        self.trials.to_parquet(folder / "trials.parquet", index=False)
        self.curves.to_parquet(folder / "curves.parquet", index=False)
        (folder / "study.json").write_text(json.dumps({"best": self.best, "about": self.about}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> TuningResult:
        """What `write` wrote."""
        import pandas as pd

        return cls(
            pd.read_parquet(folder / "trials.parquet"),
            pd.read_parquet(folder / "curves.parquet"),
            **json.loads((folder / "study.json").read_text()),
        )

    def facts(self) -> dict[str, Any]:
        """JSON-able figures for the metadata of an asset."""
        states = self.trials["state"].value_counts()
        counts = {state: int(states.get(state, 0)) for state in (COMPLETE, PRUNED, DIVERGED)}
        return {"trials": len(self.trials)} | counts | {f"best_{name}": value for name, value in self.best.items()}


def parameter_importance(trials: pd.DataFrame, search: SearchSpace, seed: int) -> pd.DataFrame:
    """How much of the variance of the validation loss each parameter explains alone (fANOVA, Hutter, Hoos and
    Leyton-Brown 2014), of a random forest fitted to the complete trials.

    The shares do not add up to 1: the rest are interactions. With few trials they say little, least of all about the
    regions that TPE leaves early. The learning rate counts on its logarithmic scale.

    Returns:
        A row a parameter, the most important first: `parameter`, `importance` (0 for one that is not varied). No row
        where fewer than two trials are complete or all losses are the same.
    """
    import optuna
    import pandas as pd

    complete = trials[trials["state"] == COMPLETE]
    if complete["validation_loss"].nunique() < 2:
        return pd.DataFrame({"parameter": pd.Series(dtype=str), "importance": pd.Series(dtype=float)})
    distributions = search_distributions(search)
    low, high = np.log(search.learning_rate)
    # Optuna's fANOVA weighs all values between the bounds alike, and knows no logarithmic scale.
    distributions["learning_rate"] = optuna.distributions.FloatDistribution(low, high)
    study = optuna.create_study()
    for row in complete.to_dict(orient="records"):
        parameters = {name: row[name] for name in PARAMETERS}
        parameters["learning_rate"] = min(max(math.log(row["learning_rate"]), low), high)
        study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=distributions, value=row["validation_loss"])
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    with warnings.catch_warnings():
        # It warns of `normalize`, whose default deals the interactions out among the parameters.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, normalize=False)
    frame = pd.DataFrame({"parameter": list(found), "importance": list(found.values())})
    return frame.sort_values("importance", ascending=False, kind="stable").reset_index(drop=True)


def search_distributions(search: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(*search.learning_rate, log=True),
        "dropout": FloatDistribution(*search.dropout, step=search.dropout_step),
        "rank": IntDistribution(*search.rank, step=search.rank_step),
        "alpha_ratio": CategoricalDistribution(search.alpha_ratio),
    }
