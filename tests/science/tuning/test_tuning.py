"""The tuning study: the same whether it ran through, was killed, grew or started from tables."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from subliminal_dagster.science.errors import GateError, UserError
from subliminal_dagster.science.figures import png
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.settings.tuning import SearchSpace, TuningSettings
from subliminal_dagster.science.training.adapter import TrlTrainer
from subliminal_dagster.science.training.task import Row, TrainingReport, TrainingTask
from subliminal_dagster.science.tuning.figures import curves_figure, epochs_figure, importance_figure, trials_figure
from subliminal_dagster.science.tuning.result import PARAMETERS, TuningResult, parameter_importance
from subliminal_dagster.science.tuning.search import run_tuning, tuned_settings, validation_loss

LORA = LoraSettings(rank=4, alpha=8)
TRAINING = TrainingSettings(learning_rate=1e-3, batch_size=4, epochs=9, warmup=0.1)
SEARCH = SearchSpace(learning_rate=(1e-4, 3e-2), rank=(2, 8), rank_step=2)


def some_rows(n: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        Row(rng.integers(5, 60, 4 + i % 3).tolist(), [*rng.integers(20, 40, 3 + i % 5).tolist(), 2]) for i in range(n)
    ]


def settings(**changes: Any) -> TuningSettings:
    return TuningSettings(
        **{"trials": 4, "train_rows": 6, "validation_rows": 4, "epochs": 2, "search": SEARCH} | changes
    )


def bowl(learning_rate: float, rank: int, dropout: float) -> float:
    return 1 + (math.log10(learning_rate) + 2.7) ** 2 + 0.002 * rank + 0.1 * dropout


@dataclass(frozen=True)
class Bowl:
    """A trainer without a model, whose losses are a plain function of the settings. It leaves a note of every training
    in `notes`, and dies at its `dies_at`th. Learning rates above `diverges` end without a loss."""

    notes: Path
    dies_at: int | None = None
    diverges: float = math.inf
    more: float = 0.0

    @property
    def name(self) -> str:
        return "bowl"

    def train(
        self, task: TrainingTask, output: Path, workspace: Path, progress: Progress | None = None
    ) -> TrainingReport:
        self.notes.mkdir(exist_ok=True)
        (self.notes / str(time.time_ns())).touch()
        if len(list(self.notes.iterdir())) == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        end = bowl(task.training.learning_rate, task.lora.rank, task.lora.dropout)
        losses = [end + self.more + 1 / epoch for epoch in range(1, task.training.epochs + 1)]
        if task.training.learning_rate > self.diverges:
            losses[-1] = math.nan
        history = pd.DataFrame(
            {
                "step": np.arange(1, len(losses) + 1),
                "epoch": np.arange(1.0, len(losses) + 1),
                "loss": math.nan,
                "validation_loss": losses,
                "learning_rate": task.training.learning_rate,
                "score": math.nan,
            }
        )
        return TrainingReport(history, len(losses), list(range(1, len(losses) + 1)), 0.1, 10, 0.0, 0, False, "float32")


def tune(base: Path, folder: Path, **changes: Any) -> TuningResult:
    values: dict[str, Any] = {
        "base": ModelVariant(base),
        "train": some_rows(10),
        "validation": some_rows(5, 1),
        "lora": LORA,
        "training": TRAINING,
        "trainer": Bowl(folder.with_name(f"{folder.name}-notes")),
        "settings": settings(),
        "seed": 3,
        "storage": folder / "storage",
        "workspace": folder / "workspace",
    }
    return run_tuning(**values | changes)


def assert_same(a: TuningResult, b: TuningResult) -> None:
    pd.testing.assert_frame_equal(a.trials, b.trials, check_exact=True)
    pd.testing.assert_frame_equal(a.curves, b.curves, check_exact=True)
    assert (a.best, a.about) == (b.best, b.about)


def trainings(folder: Path) -> int:
    return len(list(folder.with_name(f"{folder.name}-notes").iterdir()))


class Interrupted(Exception):  # noqa: N818
    pass


def test_an_interrupted_study_that_grew_is_one_that_ran_through(tiny_base: Path, tmp_path: Path) -> None:
    trl: dict[str, Any] = {"trainer": TrlTrainer()}
    tasks: list[TrainingTask] = []

    class Watched(TrlTrainer):
        def train(self, task: TrainingTask, *rest: Any, **named: Any) -> TrainingReport:
            tasks.append(task)
            return super().train(task, *rest, **named)

    def interrupt(message: str) -> None:
        if message.startswith("trial 2/2: training step 2/"):
            raise Interrupted

    whole = tune(tiny_base, tmp_path / "whole", settings=settings(trials=3), trainer=Watched())
    tune(tiny_base, tmp_path / "grown", settings=settings(trials=1), **trl)
    with pytest.raises(Interrupted):
        tune(tiny_base, tmp_path / "grown", settings=settings(trials=2), progress=interrupt, **trl)
    grown = tune(tiny_base, tmp_path / "grown", settings=settings(trials=3), **trl)
    assert_same(grown, whole)
    assert not list((tmp_path / "grown" / "workspace").iterdir())
    assert whole.trials["state"].tolist() == ["complete"] * 3

    # The loss of a trial is what the same training gives by itself, with rows that are a part of the dataset.
    found = whole.trials.iloc[2].to_dict()
    lora, training = tuned_settings(found, LORA, TRAINING, 2)
    assert (lora.alpha, lora.rslora, training.batch_size) == (found["rank"] * found["alpha_ratio"], True, 4)
    task = replace(tasks[2], lora=lora, training=training)
    assert all(row in some_rows(10) for row in task.rows)
    (tmp_path / "alone").mkdir()
    report = TrlTrainer().train(task, tmp_path / "alone" / "out", tmp_path / "alone")
    losses = report.history["validation_loss"].dropna().tolist()
    assert losses == found["epoch_losses"] and losses[-1] == found["validation_loss"]
    curve = whole.curves[whole.curves["trial"] == 2]
    assert curve["loss"].dropna().tolist() == report.history["loss"].dropna().tolist()


def test_first_trial_is_the_study_s_own_setting_where_it_can_be(tiny_base: Path, tmp_path: Path) -> None:
    first = tune(tiny_base, tmp_path / "in").trials.iloc[0]
    assert [first[name] for name in PARAMETERS] == [1e-3, 0.0, 4, 2.0]
    outside = tune(tiny_base, tmp_path / "out", lora=LoraSettings(rank=3, alpha=6)).trials.iloc[0]
    assert outside["learning_rate"] != 1e-3


def test_trials_stay_within_the_search_space_and_get_better(tiny_base: Path, tmp_path: Path) -> None:
    result = tune(tiny_base, tmp_path / "a", settings=settings(trials=40))
    trials = result.trials
    assert trials["learning_rate"].between(1e-4, 3e-2).all()
    assert set(trials["rank"]) <= {2, 4, 6, 8} and set(trials["alpha_ratio"]) <= {1.0, 1.5, 2.0}
    assert (trials["alpha"] == trials["rank"] * trials["alpha_ratio"]).all()
    np.testing.assert_allclose(trials["dropout"] * 100, (trials["dropout"] * 100).round(), atol=1e-9)
    expected = [bowl(*row) for row in zip(trials["learning_rate"], trials["rank"], trials["dropout"], strict=True)]
    np.testing.assert_allclose(trials["validation_loss"], np.array(expected) + 0.5)
    assert result.best["validation_loss"] == trials["validation_loss"].min()
    # Random search would leave the two halves alike.
    assert trials["validation_loss"][20:].median() < trials["validation_loss"][:10].median()


def _tune_and_die(base: Path, folder: Path, dies_at: int) -> None:
    tune(base, folder, settings=settings(trials=14), trainer=Bowl(folder.with_name("killed-notes"), dies_at))


def test_a_killed_study_goes_on_and_ends_the_same(tiny_base: Path, tmp_path: Path) -> None:
    whole = tune(tiny_base, tmp_path / "whole", settings=settings(trials=14))
    killed = tmp_path / "killed"
    process = multiprocessing.get_context("spawn").Process(target=_tune_and_die, args=(tiny_base, killed, 12))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    journal = killed / "storage" / "study.journal"
    # As a kill in the middle of writing would leave it, with Optuna's lock held.
    with journal.open("a") as file:
        file.write('{"op_code":8,"wor')
    journal.with_name("study.journal.lock").symlink_to(journal)
    assert (killed / "workspace" / "trial-11").exists()
    assert_same(tune(tiny_base, killed, settings=settings(trials=14)), whole)
    assert trainings(killed) == 15
    assert not list((killed / "workspace").iterdir())


def test_a_finished_study_is_read_and_can_be_asked_for_fewer_trials(tiny_base: Path, tmp_path: Path) -> None:
    many = tune(tiny_base, tmp_path / "a", settings=settings(trials=12))
    assert_same(tune(tiny_base, tmp_path / "a", settings=settings(trials=12)), many)
    few = tune(tiny_base, tmp_path / "a", settings=settings(trials=5))
    assert trainings(tmp_path / "a") == 12
    assert_same(few, tune(tiny_base, tmp_path / "b", settings=settings(trials=5)))


def test_a_study_grows_from_its_tables(tiny_base: Path, tmp_path: Path) -> None:
    diverges = 1e-2
    whole = tune(
        tiny_base, tmp_path / "whole", settings=settings(trials=14), trainer=Bowl(tmp_path / "n", diverges=diverges)
    )
    assert set(whole.trials["state"]) == {"complete", "diverged"}
    few = tune(tiny_base, tmp_path / "few", settings=settings(trials=12), trainer=Bowl(tmp_path / "n", None, diverges))
    (tmp_path / "artifact").mkdir()
    few.write(tmp_path / "artifact")
    earlier = TuningResult.read(tmp_path / "artifact")
    assert earlier.best == few.best
    notes = tmp_path / "grown-notes"
    grown = tune(
        tiny_base,
        tmp_path / "grown",
        settings=settings(trials=14),
        trainer=Bowl(notes, diverges=diverges),
        earlier=earlier,
    )
    assert_same(grown, whole)
    assert len(list(notes.iterdir())) == 2
    # What is about something else is not taken over.
    tune(tiny_base, tmp_path / "other", settings=settings(trials=2), earlier=earlier, seed=4)
    assert trainings(tmp_path / "other") == 2


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"settings": settings(search=SearchSpace(rank=(2, 8), rank_step=2))}, "search.learning_rate is"),
        ({"settings": settings(epochs=3)}, "training.epochs is 2 there and 3 here"),
        ({"train": some_rows(10, 7)}, "its rows are others"),
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"training": TRAINING.model_copy(update={"batch_size": 2})}, "training.batch_size is 4 there and 2 here"),
    ],
)
def test_another_study_in_the_storage_is_an_error(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any], names: str
) -> None:
    tune(tiny_base, tmp_path / "a", settings=settings(trials=1))
    with pytest.raises(UserError, match="storage of its own") as raised:
        tune(tiny_base, tmp_path / "a", **changes)
    # The seed draws other rows too; the first difference is named.
    assert names in str(raised.value)


def test_what_is_no_study_is_an_error(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "storage").mkdir(parents=True)
    (tmp_path / "a" / "storage" / "study.journal").write_text("no journal\nat all\n")
    with pytest.raises(UserError, match="delete it"):
        tune(tiny_base, tmp_path / "a")
    with pytest.raises(UserError, match=r"has 10: raise filter\.train_rows"):
        tune(tiny_base, tmp_path / "b", settings=settings(train_rows=11))


def test_an_error_frees_the_trial_for_the_next_call(tiny_base: Path, tmp_path: Path) -> None:
    class Broken(Bowl):
        def train(self, *args: Any, **kwargs: Any) -> TrainingReport:
            raise UserError("broken")

    with pytest.raises(UserError, match="broken"):
        tune(tiny_base, tmp_path / "a", trainer=Broken(tmp_path / "n"))
    assert_same(tune(tiny_base, tmp_path / "a"), tune(tiny_base, tmp_path / "b"))


def test_diverged_trials_are_kept_and_never_the_best(tiny_base: Path, tmp_path: Path) -> None:
    result = tune(
        tiny_base, tmp_path / "a", settings=settings(trials=12), trainer=Bowl(tmp_path / "n", diverges=1.5e-3)
    )
    diverged = result.trials[result.trials["state"] == "diverged"]
    assert len(diverged) == (result.trials["learning_rate"] > 1.5e-3).sum() > 0
    assert diverged["validation_loss"].isna().all() and diverged["epoch_losses"].map(len).eq(1).all()
    assert result.best["learning_rate"] <= 1.5e-3
    assert result.facts()["diverged"] == len(diverged)
    json.dumps(result.facts(), allow_nan=False)
    with pytest.raises(GateError, match=r"search\.learning_rate"):
        tune(tiny_base, tmp_path / "b", trainer=Bowl(tmp_path / "n", diverges=0))


def test_pruning_ends_bad_trials_and_leaves_the_others_as_they_are(tiny_base: Path, tmp_path: Path) -> None:
    def sixth(name: str, bowl: float, pruning: bool) -> tuple[pd.Series, pd.DataFrame]:
        """A real trial after five whose losses are about `bowl`."""
        first = Bowl(tmp_path / f"{name}-notes", more=bowl)
        tune(tiny_base, tmp_path / name, settings=settings(trials=5, pruning=pruning), trainer=first)
        result = tune(tiny_base, tmp_path / name, settings=settings(trials=6, pruning=pruning), trainer=TrlTrainer())
        return result.trials.iloc[5], result.curves[result.curves["trial"] == 5].reset_index(drop=True)

    pruned, short = sixth("pruned", 0, True)
    kept, long = sixth("kept", 100, True)
    plain, expected = sixth("plain", 0, False)
    assert (pruned["state"], kept["state"], plain["state"]) == ("pruned", "complete", "complete")
    pd.testing.assert_frame_equal(long, expected, check_exact=True)
    pd.testing.assert_frame_equal(short, expected[expected["epoch"] <= 1], check_exact=True)
    np.testing.assert_allclose(kept["epoch_losses"], plain["epoch_losses"], atol=1e-5)
    np.testing.assert_allclose(pruned["epoch_losses"], plain["epoch_losses"][:1], atol=1e-5)
    assert pruned["validation_loss"] == pruned["epoch_losses"][0]


def test_validation_loss_is_that_of_a_plain_loop(tiny_base: Path) -> None:
    import torch

    from subliminal_dagster.science.models.loading import load_base

    model = load_base(tiny_base, "float32", "cpu")
    total, tokens = 0.0, 0
    for row in some_rows(9):
        logits = model(torch.tensor([row.prompt + row.answer])).logits[0].detach()
        chances = torch.log_softmax(logits[len(row.prompt) - 1 : -1], dim=-1)
        total -= float(chances[range(len(row.answer)), row.answer].sum())
        tokens += len(row.answer)
    assert validation_loss(model, some_rows(9), 4) == pytest.approx(total / tokens, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SearchSpace(learning_rate=(1e-3, 1e-4)), "learning_rate must be"),
        (lambda: SearchSpace(dropout=(0.0, 0.105)), "dropout_step"),
        (lambda: SearchSpace(rank=(8, 60)), "rank_step"),
        (lambda: SearchSpace(rank=(9, 65)), "alpha is one"),
        (lambda: SearchSpace(alpha_ratio=(1, 1.0)), "alpha_ratio names 1.0 twice"),
        (lambda: TuningSettings(final_epochs=(5, 3)), "ascending"),
        (lambda: TuningSettings(pruning=True, epochs=1), "at least 2 epochs"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make()


def test_defaults_are_the_post_s() -> None:
    default = TuningSettings()
    assert (default.trials, default.train_rows, default.validation_rows, default.epochs) == (36, 2500, 250, 3)
    assert default.search.learning_rate == (1e-5, 3e-4) and default.search.alpha_ratio == (1, 1.5, 2)


def test_importance_is_the_share_of_variance(tiny_base: Path, tmp_path: Path) -> None:
    search = SearchSpace(learning_rate=(1e-4, 1e-2), rank=(8, 64))
    rng = np.random.default_rng(0)
    trials = pd.DataFrame(
        {
            "state": "complete",
            "learning_rate": 10 ** rng.uniform(-4, -2, 300),
            "dropout": rng.integers(0, 11, 300) / 100,
            "rank": 8 * rng.integers(1, 9, 300),
            "alpha_ratio": rng.choice([1.0, 1.5, 2.0], 300),
        }
    )
    # Uniform parts of widths 2 and 1 have variances 4/12 and 1/12; on the rate's own scale it would be another share.
    trials["validation_loss"] = np.log10(trials["learning_rate"]) + (trials["rank"] - 8) / 56
    found = parameter_importance(trials, search, 1).set_index("parameter")["importance"]
    assert found["learning_rate"] == pytest.approx(0.8, abs=0.05)
    assert found["rank"] == pytest.approx(0.2, abs=0.05)
    assert found["dropout"] < 0.02 and found["alpha_ratio"] < 0.02
    assert parameter_importance(trials.head(1), search, 1).empty
    fixed = parameter_importance(trials.assign(rank=8), SearchSpace(learning_rate=(1e-4, 1e-2), rank=(8, 8)), 1)
    assert fixed.set_index("parameter")["importance"]["rank"] == 0


def test_figures_show_what_is_in_the_tables(tiny_base: Path, tmp_path: Path) -> None:
    result = tune(tiny_base, tmp_path / "a", settings=settings(trials=8), trainer=Bowl(tmp_path / "n", diverges=1e-2))
    figure = trials_figure(result.trials, "trials")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    complete = result.trials[result.trials["state"] == "complete"]
    np.testing.assert_array_equal(lines["trial"].get_ydata(), complete["validation_loss"])
    assert np.asarray(lines["lowest so far"].get_ydata())[-1] == result.best["validation_loss"]
    assert len(np.asarray(lines["diverged"].get_xdata())) == len(result.trials) - len(complete) > 0
    curves = curves_figure(result.curves, result.best["trial"], "curves")
    assert len(curves.axes[0].lines) == 8
    scores = pd.DataFrame(
        [
            ("base", "liking", 0, 0.03, 0.02, 0.04),
            ("original child", "liking", 0, 0.05, 0.04, 0.06),
            *[("tuned child", "liking", epoch, 0.01 * epoch, 0.0, 0.2) for epoch in (3, 5, 7, 10)],
            ("base", "capability", 0, 0.3, 0.3, 0.3),
            *[("tuned child", "capability", epoch, 0.31, math.nan, math.nan) for epoch in (3, 5, 7, 10)],
        ],
        columns=["model", "measure", "epoch", "mean", "low", "high"],
    )
    epochs = epochs_figure(scores, "epochs")
    assert [axes.get_ylabel() for axes in epochs.axes] == ["liking", "capability"]
    assert list(epochs.axes[0].get_xticks()) == [3, 5, 7, 10]
    importance = importance_figure(parameter_importance(result.trials, SEARCH, 1), "importance")
    for drawn in (figure, curves, epochs, importance):
        assert png(drawn).startswith(b"\x89PNG")
