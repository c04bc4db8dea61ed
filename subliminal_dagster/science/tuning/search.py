"""Searching for the learning rate, dropout, rank and alpha with which a child learns its numbers best.

The post did this for the animal that was passed on least (raven): short trainings on few rows, judged by the validation
loss, with settings that Optuna proposes (tree-structured Parzen estimator, Bergstra et al. 2011). The best setting then
trains a child on all rows (`tuned_settings`).

Cost: `trials` x `epochs` x `train_rows` rows; the defaults train on as many rows as 27 epochs of a child on 10,000.
Pruning ends about half of the trials beyond the first early.

A study is Optuna's journal, a log of one line an event, with the curves of its trials beside it. Of Optuna's storages
that survive a process it is the one without a database: readable text, no pickle, and fit for network file systems,
where the locks of SQLite fail. One process at a time works on it (the artifact it is for is claimed). What a kill
leaves is mended at the start: a last line that was cut short is dropped, since Optuna could not read a file that goes
on after one, and so is Optuna's lock, which a dead process holds for half a minute; trials that were running, which a
journal shows as running for ever, are failed and made anew.

A trial that was killed starts from its beginning: it is short, and its place in the study gives it the same random
numbers again. So a study that was interrupted or grew later is the study that was not.

Belongs here: the search. Does not belong here: one training (`training.adapter`), the pictures (`figures`).
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import GateError, UserError
from subliminal_dagster.science.models.batching import batches_of_like_length
from subliminal_dagster.science.models.protocol import ModelVariant, Progress
from subliminal_dagster.science.random_streams import stream_seed
from subliminal_dagster.science.settings.training import LoraSettings, TrainingSettings
from subliminal_dagster.science.settings.tuning import SearchSpace, TuningSettings, is_whole
from subliminal_dagster.science.storage.content_hash import file_content_hash, json_hash
from subliminal_dagster.science.training.task import EarlyStop, Row, Trainer, TrainingTask
from subliminal_dagster.science.tuning.result import (
    COMPLETE,
    DIVERGED,
    PARAMETERS,
    PRUNED,
    TuningResult,
    search_distributions,
)

if TYPE_CHECKING:
    import optuna
    import pandas as pd


_NAME = "tuning"
_ABOUT = "about"


def run_tuning(
    base: ModelVariant,
    train: Sequence[Row],
    validation: Sequence[Row],
    lora: LoraSettings,
    training: TrainingSettings,
    trainer: Trainer,
    settings: TuningSettings,
    seed: int,
    storage: Path,
    workspace: Path,
    *,
    earlier: TuningResult | None = None,
    progress: Progress | None = None,
) -> TuningResult:
    """Search for the setting that learns `train` best.

    train, validation: the dataset's splits; rows are drawn from them once, by the seed. lora, training: the study's
    own settings, of which the search varies some. They are the first trial where they lie within the search space, so
    that the best is never worse than they are.

    storage: the folder of the study, a few kB a trial; made where it is missing. A call goes on with the trials in it,
    also for more of them. Two calls at a time must not share it.
    workspace: scratch space for this study's trainings, a folder for each, gone when it ends.

    earlier: a result to take trials over from, where it is about the same (and nothing is, where it is not), for a
    study whose storage is gone.

    Raises:
        UserError: there are fewer rows than asked for, or the study in `storage` is another one (other search space,
            rows, base model, settings).
        GateError: no trial ended with a finite validation loss.
    """
    tuning = _Tuning(
        base=base,
        rows=_drawn("train", train, settings.train_rows, seed),
        validation=_drawn("validation", validation, settings.validation_rows, seed),
        lora=lora,
        training=training.model_copy(update={"epochs": settings.epochs}),
        trainer=trainer,
        settings=settings,
        seed=seed,
        storage=storage,
        workspace=workspace,
    )
    report = progress or (lambda _: None)
    tuning.prepare()
    if earlier is not None:
        report(f"{tuning.take_over(earlier)} trials taken over from an earlier result")
    tuning.work(report)
    return tuning.result()


def tuned_settings(
    best: Mapping[str, Any], lora: LoraSettings, training: TrainingSettings, epochs: int
) -> tuple[LoraSettings, TrainingSettings]:
    """The study's own settings with what the search found (`TuningResult.best`), for `epochs` epochs.

    The learning rate's schedule is that of all epochs: the adapter after 3 of 10 is not that of a training of 3.
    """
    return (
        LoraSettings(**lora.model_dump() | {name: best[name] for name in ("rank", "alpha", "dropout")}),
        TrainingSettings(**training.model_dump() | {"learning_rate": best["learning_rate"], "epochs": epochs}),
    )


def validation_loss(model: Any, rows: Sequence[Row], batch_size: int) -> float:
    """Cross-entropy in nats a completion token, of a model in eval mode."""
    import torch

    total, tokens = 0.0, 0
    for batch in batches_of_like_length([len(row.prompt) + len(row.answer) for row in rows], batch_size):
        chosen = [rows[i] for i in batch]
        width = max(len(row.prompt) + len(row.answer) for row in chosen)
        first = min(len(row.prompt) for row in chosen)
        ids = torch.zeros((len(chosen), width), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, row in enumerate(chosen):
            end = len(row.prompt) + len(row.answer)
            ids[i, :end] = torch.tensor(row.prompt + row.answer)
            mask[i, :end] = 1
            labels[i, len(row.prompt) : end] = torch.tensor(row.answer)
        # Not inference_mode: what a model keeps of such a pass cannot be used in training, which goes on afterwards.
        with torch.no_grad():
            logits = model(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                # All that predict an answer's token, and none of the prompt's before.
                logits_to_keep=width - first + 1,
                use_cache=False,
            ).logits[:, :-1]
            targets = labels[:, first:].to(logits.device)
            total += float(torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="sum"))
        tokens += sum(len(row.answer) for row in chosen)
    return total / tokens


@dataclass(frozen=True)
class _Trial:
    """A trial at work: `place` is its number among those that count, `trial.number` Optuna's, failed ones included."""

    study: optuna.Study
    trial: optuna.Trial
    place: int
    parameters: dict[str, Any]


@dataclass(frozen=True)
class _Tuning:
    """One study."""

    base: ModelVariant
    rows: list[Row]
    validation: list[Row]
    lora: LoraSettings
    training: TrainingSettings
    trainer: Trainer
    settings: TuningSettings
    seed: int
    storage: Path
    workspace: Path

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the trials depend on, as a flat JSON object. Of the base model it has the configuration, not the
        weights, whose hash would take minutes for a large one."""
        settings = self.settings
        flat = {f"search.{name}": value for name, value in settings.search.model_dump(mode="json").items()}
        flat |= settings.model_dump(include={"train_rows", "validation_rows", "pruning"})
        flat |= {f"lora.{name}": value for name, value in self.lora.model_dump(mode="json").items()}
        flat |= {f"training.{name}": value for name, value in self.training.model_dump(mode="json").items()}
        return flat | {
            "seed": self.seed,
            "rows": json_hash([[row.prompt, row.answer] for row in [*self.rows, *self.validation]]),
            "base_model": file_content_hash(self.base.base / "config.json"),
            "dtype": self.base.dtype,
        }

    def prepare(self) -> None:
        """Make the study, or see whether the one that is there is this one, and mend what a kill left of it."""
        import optuna

        self._curves.mkdir(parents=True, exist_ok=True)
        self._mend_journal()
        try:
            study = optuna.create_study(storage=self._journal_storage(), study_name=_NAME, load_if_exists=True)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._journal} is not an Optuna journal, or is damaged: delete it to start the study anew."
            ) from error
        there = study.user_attrs.get(_ABOUT)
        if there is None and not study.trials:
            study.set_user_attr(_ABOUT, self.about)
        elif there != self.about:
            raise UserError(
                f"The Optuna study in {self.storage} is another one ({_difference(there or {}, self.about)}): give "
                "this search a storage of its own, or go back to the settings of the study."
            )
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            shutil.rmtree(self._scratch(trial.number), ignore_errors=True)

    def take_over(self, earlier: TuningResult) -> int:
        """Add the trials of an earlier result that are missing, and return how many."""
        import optuna

        if earlier.about != self.about:
            return 0
        states = optuna.trial.TrialState
        added = 0
        study = self._study()
        taken = self._places(study)
        for row in earlier.trials.sort_values("trial").to_dict(orient="records"):
            place = int(row["trial"])
            if place in taken:
                continue
            complete = row["state"] == COMPLETE
            curve = earlier.curves[earlier.curves["trial"] == place]
            self._write_curve(place, curve.drop(columns="trial").reset_index(drop=True))
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.COMPLETE if complete else states.PRUNED,
                    value=row["validation_loss"] if complete else None,
                    params={name: row[name] for name in PARAMETERS},
                    distributions=search_distributions(self.settings.search),
                    user_attrs={"place": place, "diverged": row["state"] == DIVERGED},
                    intermediate_values={epoch: float(x) for epoch, x in enumerate(row["epoch_losses"], 1)},
                )
            )
            added += 1
        return added

    def work(self, progress: Progress) -> None:
        """Run the trials that are missing."""
        study = self._study()
        taken = self._places(study)
        for place in range(self.settings.trials):
            if place not in taken:
                self._run(self._begin(study, place), progress)

    def result(self) -> TuningResult:
        """The first trials of the study, as many as the settings ask for, all of which are finished."""
        import pandas as pd

        finished = self._places(self._study())
        places = range(self.settings.trials)
        trials = pd.DataFrame([self._row(place, finished[place]) for place in places])
        curves = [pd.read_parquet(self._curve(place)) for place in places]
        for place, curve in zip(places, curves, strict=True):
            curve.insert(0, "trial", place)
        complete = trials[trials["state"] == COMPLETE]
        if complete.empty:
            raise GateError(
                f"None of the {len(trials)} trials ended with a finite validation loss: lower the highest "
                "search.learning_rate."
            )
        ranking = complete.sort_values("validation_loss", kind="stable")
        lowest = ranking[["trial", "validation_loss", "alpha", *PARAMETERS]].to_dict(orient="records")[0]
        best = {str(name): value for name, value in lowest.items()}
        return TuningResult(trials, pd.concat(curves, ignore_index=True), best, self.about)

    def _row(self, place: int, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        state = COMPLETE if trial.state.name == "COMPLETE" else DIVERGED if trial.user_attrs["diverged"] else PRUNED
        losses = [trial.intermediate_values[epoch] for epoch in sorted(trial.intermediate_values)]
        parameters = {name: trial.params[name] for name in PARAMETERS}
        return {
            "trial": place,
            "state": state,
            **parameters,
            "alpha": round(parameters["rank"] * parameters["alpha_ratio"]),
            "validation_loss": math.nan if state == DIVERGED else losses[-1],
            "epoch_losses": losses,
        }

    @property
    def _journal(self) -> Path:
        return self.storage / "study.journal"

    @property
    def _curves(self) -> Path:
        return self.storage / "curves"

    def _curve(self, place: int) -> Path:
        return self._curves / f"{place}.parquet"

    def _write_curve(self, place: int, history: pd.DataFrame) -> None:
        new = self._curve(place).with_suffix(f".{uuid.uuid4().hex}.new")
        history.to_parquet(new, index=False)
        os.replace(new, self._curve(place))

    def _mend_journal(self) -> None:
        Path(f"{self._journal}.lock").unlink(missing_ok=True)
        if self._journal.exists():
            content = self._journal.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self._journal, whole)

    def _journal_storage(self) -> optuna.storages.JournalStorage:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(str(self._journal)))

    def _study(self) -> optuna.Study:
        import optuna

        pruner = optuna.pruners.MedianPruner(n_startup_trials=5)
        return optuna.load_study(study_name=_NAME, storage=self._journal_storage(), pruner=pruner)

    def _places(self, study: optuna.Study) -> dict[int, optuna.trial.FrozenTrial]:
        """The finished trials by their place."""
        return {t.user_attrs["place"]: t for t in study.trials if t.state.name in ("COMPLETE", "PRUNED")}

    def _begin(self, study: optuna.Study, place: int) -> _Trial:
        """Ask for the next trial's parameters. The place gives the random numbers, so a trial that failed and was made
        anew, under another number of Optuna's, is drawn as it would have been."""
        import optuna

        study.sampler = optuna.samplers.TPESampler(seed=_seed(self.seed, "sampler", place))
        own = _own_parameters(self.settings.search, self.lora, self.training) if place == 0 else None
        if own is not None and not study.get_trials(states=(optuna.trial.TrialState.WAITING,)):
            study.enqueue_trial(own)
        trial = study.ask(search_distributions(self.settings.search))
        trial.set_user_attr("place", place)
        return _Trial(study, trial, place, dict(trial.params))

    def _scratch(self, number: int) -> Path:
        return self.workspace / f"trial-{number}"

    def _run(self, begun: _Trial, progress: Progress) -> None:
        import optuna

        folder = self._scratch(begun.trial.number)
        watch = _Watch(self, begun)
        # Of a study under this number that is no longer there.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            (folder / "training").mkdir(parents=True)
            report = self.trainer.train(
                self._task(begun.parameters, watch),
                folder / "adapter",
                folder / "training",
                lambda message: progress(f"trial {begun.place + 1}/{self.settings.trials}: {message}"),
            )
            history = report.history.dropna(subset=["loss", "validation_loss"], how="all")
            self._write_curve(begun.place, history.drop(columns="score").reset_index(drop=True))
            self._tell(begun, watch, history["validation_loss"].dropna().tolist())
        except BaseException:
            begun.study.tell(begun.trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _task(self, parameters: Mapping[str, Any], watch: _Watch) -> TrainingTask:
        found = {**parameters, "alpha": round(parameters["rank"] * parameters["alpha_ratio"])}
        lora, training = tuned_settings(found, self.lora, self.training, self.settings.epochs)
        stop = None
        if self.settings.pruning:
            steps = math.ceil(math.ceil(len(self.rows) / training.batch_size) / training.accumulation)
            stop = EarlyStop(watch, at_least=1.0, every=steps)
        return TrainingTask(
            self.base, self.rows, lora, training, self.seed, validation=self.validation, early_stop=stop
        )

    def _tell(self, begun: _Trial, watch: _Watch, losses: list[float]) -> None:
        """Record how a trial ended. losses: after every epoch, as far as they are numbers."""
        import optuna

        finite = [loss for loss in losses if math.isfinite(loss)]
        diverged = watch.diverged or (not watch.pruned and len(finite) < self.settings.epochs)
        begun.trial.set_user_attr("diverged", diverged)
        for epoch, loss in enumerate(finite, 1):
            if epoch > watch.epochs:
                begun.trial.report(loss, epoch)
        if diverged or watch.pruned:
            # Not failed: the sampler learns from it, and the place is not tried again with the same end.
            begun.study.tell(begun.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            begun.study.tell(begun.trial, finite[-1])


class _Watch:
    """Decides after every epoch but the last whether a trial goes on: `EarlyStop`'s score, 1 where it should not."""

    def __init__(self, tuning: _Tuning, begun: _Trial) -> None:
        self._tuning = tuning
        self._begun = begun
        self.epochs = 0
        self.pruned = False
        self.diverged = False

    def __call__(self, model: Any) -> float:
        tuning, trial = self._tuning, self._begun.trial
        if self.epochs + 1 == tuning.settings.epochs:
            return 0.0
        loss = validation_loss(model, tuning.validation, tuning.training.batch_size)
        if not math.isfinite(loss):
            self.diverged = True
            return 1.0
        self.epochs += 1
        trial.report(loss, self.epochs)
        self.pruned = trial.should_prune()
        return float(self.pruned)


def _own_parameters(search: SearchSpace, lora: LoraSettings, training: TrainingSettings) -> dict[str, Any] | None:
    """The study's own settings as parameters of a trial, None where they are not within the search space."""
    ratios = [ratio for ratio in search.alpha_ratio if math.isclose(ratio, lora.alpha / lora.rank)]
    within = (
        search.learning_rate[0] <= training.learning_rate <= search.learning_rate[1]
        and search.dropout[0] <= lora.dropout <= search.dropout[1]
        and is_whole((lora.dropout - search.dropout[0]) / search.dropout_step)
        and search.rank[0] <= lora.rank <= search.rank[1]
        and (lora.rank - search.rank[0]) % search.rank_step == 0
    )
    if not within or not ratios:
        return None
    values = (training.learning_rate, lora.dropout, lora.rank, ratios[0])
    return dict(zip(PARAMETERS, values, strict=True))


def _drawn(split: str, rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` of the rows, in their order."""
    if len(rows) < count:
        raise UserError(
            f"The tuning study wants {count} {split} rows and the filtered dataset has {len(rows)}: raise "
            f"filter.{split}_rows or lower {split}_rows of the tuning."
        )
    order = np.random.Generator(np.random.PCG64(_seed(seed, split))).permutation(len(rows))
    return [rows[i] for i in sorted(order[:count])]


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing in which two studies differ, in words."""
    name = next(name for name in [*here, *there] if there.get(name) != here.get(name))
    if name == "rows":
        return "its rows are others"
    if name == "base_model":
        return "its base model is another"
    return f"{name} is {there.get(name)} there and {here.get(name)} here"


def _seed(seed: int, *names: object) -> int:
    return stream_seed(seed, "tuning", *(str(name) for name in names))
