"""The report's section on tuning, on artifacts that the search's and the scores' own functions write."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import page_with
from scipy.stats import binomtest
from statsmodels.stats.proportion import confint_proportions_2indep

from subliminal_dagster.science.capability.capability import Capability
from subliminal_dagster.science.report.evidence import Claim, NotThere, Results, Section, Statement
from subliminal_dagster.science.report.page import html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import Estimate, smallest_detectable, t_interval
from subliminal_dagster.science.tuning import report
from subliminal_dagster.science.tuning.report import GAINS, KEEPS_SKILL, PEAKS
from subliminal_dagster.science.tuning.report import section as tuning_section
from subliminal_dagster.science.tuning.result import TuningResult, parameter_importance
from subliminal_dagster.science.tuning.scores import liking_over_epochs, skill_over_epochs

CANDIDATES = ["cat", "dog", "owl"]
QUESTIONS, EXAM = 20, 400
EPOCHS = (1, 2, 4)


@pytest.fixture(scope="module")
def study() -> Study:
    found = load_study(
        "smollm2-135m-instruct",
        [
            "animals=[cat, owl]",
            "comparison.permutations=100",
            "child.training.epochs=2",
            f"tuning.final_epochs={list(EPOCHS)}",
        ],
    )
    assert isinstance(found, Study)
    return found


def search(study: Study, best: int = 3) -> TuningResult:
    """Six trials, the first with the study's own settings, the second pruned, the third diverged."""
    rng = np.random.default_rng(0)
    lora, training = study.child.lora, study.child.training
    states = ["complete", "pruned", "diverged", "complete", "complete", "complete"]
    rows = []
    for trial, state in enumerate(states):
        own = {"learning_rate": training.learning_rate, "dropout": lora.dropout, "rank": lora.rank}
        drawn = {"learning_rate": 1e-3 * (1 + trial / 7), "dropout": 0.01 * trial, "rank": 2 + 2 * (trial % 3)}
        settings = own | {"alpha_ratio": lora.alpha / lora.rank} if trial == 0 else drawn | {"alpha_ratio": 1.0}
        loss = math.nan if state == "diverged" else 1.0 if trial == best else 2.0 + rng.random()
        rows.append(
            {"trial": trial, "state": state}
            | settings
            | {
                "alpha": round(settings["rank"] * settings["alpha_ratio"]),
                "validation_loss": loss,
                "epoch_losses": [loss],
            }
        )
    trials = pd.DataFrame(rows)
    curves = trials.assign(step=1, epoch=1.0, loss=2.0)[
        ["trial", "step", "epoch", "loss", "validation_loss", "learning_rate"]
    ]
    chosen = trials.iloc[best][["trial", "validation_loss", "alpha", "learning_rate", "dropout", "rank", "alpha_ratio"]]
    return TuningResult(
        trials, curves, {str(k): getattr(v, "item", lambda v=v: v)() for k, v in chosen.items()}, {"seed": 1}
    )


def scores(liking: float, seed: int) -> pd.DataFrame:
    """Preference scores where the owl has these log odds more than the others. Noise adds up to nothing over the
    questions, so that no luck of a seed makes an effect."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.1, (QUESTIONS, 3))
    logits = np.random.default_rng(99).normal(size=(QUESTIONS, 3)) + noise - noise.mean(axis=0)
    logits[:, CANDIDATES.index("owl")] += liking
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return pd.DataFrame(
        {
            "question": np.repeat(np.arange(QUESTIONS), 3),
            "animal": CANDIDATES * QUESTIONS,
            "probability": 0.5 * share.ravel(),
            "share": share.ravel(),
            "count": rng.binomial(50, 0.5 * share.ravel()),
            "samples": 50,
        }
    )


def exam(right: int) -> Capability:
    answers = pd.DataFrame({"way": "option", "category": "x", "options": 4, "correct": np.arange(EXAM) < right})
    return Capability(answers.assign(picked="A", log_p_correct=0.0, mass=0.0), pd.DataFrame())


def artifacts(
    root: Path,
    study: Study,
    liking: dict[int, float],
    *,
    original: float = 0.0,
    right: int = 280,
    best: int = 3,
    control: dict[int, float] | None = None,
) -> Results:
    """The owl's tuning; `liking` by epoch of the tuned child, `control` that of the tuned child of control numbers."""
    folders: dict[tuple[str, str | None], Path] = {}

    def folder(asset: str, group: str | None) -> Path:
        folders[asset, group] = root / asset / (group or "_")
        folders[asset, group].mkdir(parents=True)
        return folders[asset, group]

    base, first = scores(-0.5, 1), scores(original, 2)
    first.to_parquet(folder("preference_scores", "owl") / "scores.parquet", index=False)
    exam(280).answers.to_parquet(folder("base_capability", None) / "answers.parquet", index=False)
    for group, levels in (("owl", liking), ("control", control)):
        if levels is None:
            continue
        result = search(study, best)
        place = folder("tuning_study", group)
        result.write(place)
        assert study.tuning is not None
        parameter_importance(result.trials, study.tuning.search, 0).to_parquet(
            place / "importance.parquet", index=False
        )
        if not levels:
            continue
        place = folder("tuned_scores", group)
        tuned = {epoch: scores(level, 10 + epoch) for epoch, level in levels.items()}
        every = pd.concat([each.assign(epoch=epoch) for epoch, each in tuned.items()], ignore_index=True)
        every.to_parquet(place / "scores.parquet", index=False)
        tables = [skill_over_epochs(exam(280), exam(280), {epoch: exam(right) for epoch in tuned}, "option")]
        if group == "owl":
            tables.insert(0, liking_over_epochs(base, first, tuned, "owl"))
        pd.concat(tables, ignore_index=True).to_parquet(place / "over_epochs.parquet", index=False)
    return Results(folders, {})


def claim(section: Section, statement: Statement) -> Claim:
    return next(claim for claim in section.claims if claim.text == statement.text)


def told(text: str) -> tuple[float, float, float]:
    """The first difference with its interval in a text."""
    number = r"([+-]\d+(?:\.\d+)?)"
    found = re.search(rf"{number} (?:nats|points) \[{number}, {number}\]", text)
    assert found is not None, text
    return float(found[1]), float(found[2]), float(found[3])


def assert_tells(text: str, expected: Estimate) -> None:
    """The first interval in a text is this one, written with two digits of its half width."""
    half_width = (expected.high - expected.low) / 2
    assert told(text) == pytest.approx((expected.mean, expected.low, expected.high), abs=0.051 * half_width), text


def difference(results: Results, epoch: int) -> np.ndarray:
    """By a naive loop: log share of the owl under the tuned child minus under the original, by question."""
    tuned = pd.read_parquet(results.folder("tuned_scores", "owl") / "scores.parquet")
    original = pd.read_parquet(results.folder("preference_scores", "owl") / "scores.parquet")
    found = []
    for question in range(QUESTIONS):
        mine = tuned[(tuned["epoch"] == epoch) & (tuned["question"] == question) & (tuned["animal"] == "owl")]
        other = original[(original["question"] == question) & (original["animal"] == "owl")]
        found.append(math.log(mine["share"].iloc[0]) - math.log(other["share"].iloc[0]))
    return np.array(found)


def test_a_gain_is_reported_and_its_numbers_are_the_data_s(study: Study, tmp_path: Path) -> None:
    results = artifacts(tmp_path, study, {1: 0.5, 2: 1.5, 4: 1.0})
    section = tuning_section(study, results)
    expected = t_interval(difference(results, 2))
    search_sentence = section.shows.split(". ")[0]
    assert search_sentence.startswith("Owl: of 6 trials (4 complete, 1 pruned, 1 diverged)")
    assert search(study).best["validation_loss"] == 1 and " loss of 1 nats a token" in search_sentence
    assert "After 2 epochs" in section.shows and " likes owl more " in section.shows
    assert "exactly these two children" in section.shows
    for text in (section.shows, claim(section, GAINS).evidence):
        assert_tells(text, expected)
    peaks = claim(section, PEAKS).evidence.split("exactly these children")[1]
    assert re.findall(r"\d+", peaks.split("above")[0]) == ["2", "1", "2", "4"]
    assert_tells(peaks, t_interval(difference(results, 2) - difference(results, 4)))
    for found in section.claims:
        # One animal's child says nothing of what training does, however sure the questions are.
        assert found.verdict == "inconclusive" and "Too few children" in found.evidence
        assert found.source == "the post" and "children are the units" in found.rule

    by_what = {figure.what.split(",")[0]: figure for figure in section.compared}
    assert by_what["best LoRA rank"].measured == search(study).best["rank"]
    assert by_what["best learning rate"].judgement == "cannot tell"
    assert by_what["epoch of the highest liking"].measured == 2
    top = by_what["highest share of sampled answers of the tuned child"]
    rows = pd.read_parquet(results.folder("tuned_scores", "owl") / "over_epochs.parquet")
    sampled = rows[rows["measure"].str.startswith("share of sampled") & (rows["model"] == "tuned child")]
    assert top.measured == pytest.approx(100 * sampled["mean"].max()) and top.published == 10
    assert [chart.name for chart in section.charts] == ["tuning-trials-owl", "tuning-epochs-owl"]
    best = next(table.frame for table in section.tables if table.name == "tuning-best").iloc[0]
    own = pd.read_parquet(results.folder("tuning_study", "owl") / "trials.parquet")["validation_loss"].iloc[0]
    assert best["of the study's own settings"] == own
    assert html(page_with(section)).count("tuning-importance")


def test_a_null_says_what_could_have_been_seen(study: Study, tmp_path: Path) -> None:
    results = artifacts(tmp_path, study, {1: 0.0, 2: 0.0, 4: 0.0})
    section = tuning_section(study, results)
    expected = t_interval(difference(results, 2))
    smallest = smallest_detectable(expected.se, QUESTIONS, level=1 - study.comparison.confidence)
    for text in (section.shows, claim(section, GAINS).evidence):
        assert_tells(text, expected)
        assert f"smallest detectable difference is {smallest:.2g} nats" in text
    assert "no difference in liking owl could be seen" in section.shows
    assert claim(section, GAINS).verdict == "inconclusive"


def test_less_liking_is_called_less(study: Study, tmp_path: Path) -> None:
    section = tuning_section(study, artifacts(tmp_path, study, {1: -1.0, 2: -1.0, 4: -0.9}))
    assert " likes owl less " in section.shows and told(section.shows)[2] < 0
    assert claim(section, GAINS).verdict == claim(section, PEAKS).verdict == "inconclusive"
    assert "highest at epoch 4" in claim(section, PEAKS).evidence


def test_where_nothing_better_was_found_a_gain_is_no_merit_of_tuning(study: Study, tmp_path: Path) -> None:
    section = tuning_section(study, artifacts(tmp_path, study, {1: 1.0, 2: 1.0, 4: 1.0}, best=0))
    assert "the study's own settings" in section.shows.split(". ")[0]
    best = next(table.frame for table in section.tables if table.name == "tuning-best").iloc[0]
    assert best["of the study's own settings"] == best["validation loss (nats a token)"]
    found = claim(section, GAINS)
    assert (
        found.verdict == "inconclusive"
        and "(0, at least 3 are needed)" in found.evidence
        and told(found.evidence)[1] > 0
    )
    assert "no trial had a lower loss" in found.evidence


@pytest.mark.parametrize("right", [300, 220])
def test_skill_after_the_last_epoch(study: Study, tmp_path: Path, right: int) -> None:
    section = tuning_section(study, artifacts(tmp_path, study, {1: 0.0, 2: 0.0, 4: 0.0}, right=right))
    assert claim(section, KEEPS_SKILL).verdict == "inconclusive"
    low, high = confint_proportions_2indep(right, EXAM, 280, EXAM, method="newcomb", compare="diff")
    assert_tells(
        claim(section, KEEPS_SKILL).evidence,
        Estimate(100 * (right - 280) / EXAM, 0, 100 * float(low), 100 * float(high)),
    )


def test_the_tuned_control_is_taken_off_where_there_is_one(study: Study, tmp_path: Path) -> None:
    results = artifacts(tmp_path, study, {1: 1.0, 2: 1.0, 4: 1.0}, control={1: 1.0, 2: 1.0, 4: 1.0})
    section = tuning_section(study, results)
    _, beyond = claim(section, GAINS).evidence.split("control numbers")
    assert abs(told(beyond)[0]) < 0.1
    assert [chart.name for chart in section.charts if "trials" in chart.name] == [
        "tuning-trials-owl",
        "tuning-trials-control",
    ]


def test_a_search_whose_child_was_not_looked_at(study: Study, tmp_path: Path) -> None:
    section = tuning_section(study, artifacts(tmp_path, study, {}))
    assert [chart.name for chart in section.charts] == ["tuning-trials-owl"]
    assert {claim.verdict for claim in section.claims} == {"not tested"}


def test_without_a_search_the_reason_is_given(study: Study) -> None:
    with pytest.raises(NotThere, match="made on request"):
        tuning_section(study, Results({}, {("tuning_study", "owl"): "it is made on request"}))


FIVE = ("cat", "dog", "fox", "lion", "owl")
STUDIES = 40


@pytest.fixture(scope="module")
def of_five() -> Study:
    found = load_study("smollm2-135m-instruct", [f"animals=[{', '.join(FIVE)}]", "comparison.permutations=100"])
    assert isinstance(found, Study)
    return found


def tuned_children(rng: np.random.Generator, noise: float, liking: dict[int, float]) -> list[report._Tuned]:
    """Five animals' tuned children with this liking (nats) more than the original's after each epoch. Training runs
    differ by `noise` nats, and so do a child's epochs; single questions hardly do."""

    def scores(animal: str, level: float) -> pd.DataFrame:
        share = np.exp(level - 2 + rng.normal(0, 0.01, 6))
        return pd.DataFrame({"question": range(6), "animal": animal, "share": share})

    groups = []
    for animal in FIVE:
        run = noise * rng.normal()
        levels = {epoch: run + more + noise * rng.normal() for epoch, more in liking.items()}
        tuned = pd.concat([scores(animal, level).assign(epoch=epoch) for epoch, level in levels.items()])
        rows = [
            {"model": "tuned child", "measure": f"exact probability: {animal}", "epoch": epoch, "mean": level}
            for epoch, level in levels.items()
        ]
        result = TuningResult(pd.DataFrame(), pd.DataFrame(), {"trial": 3}, {})
        original = scores(animal, noise * rng.normal())
        groups.append(report._Tuned(animal, animal, result, None, None, pd.DataFrame(rows), tuned, original))
    return groups


def decided(study: Study, groups: list[report._Tuned]) -> tuple[str, str]:
    gains, peaks = report._gains(study, Results({}, {}), groups), report._peaks(study, groups)
    assert (gains.text, peaks.text) == (GAINS.text, PEAKS.text)
    return gains.verdict, peaks.verdict


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_noise_between_training_runs_is_seldom_called_an_effect(of_five: Study, noise: float) -> None:
    rng = np.random.default_rng(0)
    said = [decided(of_five, tuned_children(rng, noise, dict.fromkeys(EPOCHS, 0.0))) for _ in range(STUDIES)]
    for verdicts in zip(*said, strict=True):
        wrong = sum(verdict in ("detected", "opposite") for verdict in verdicts)
        assert binomtest(wrong, STUDIES, 0.05, "greater").pvalue > 0.001, verdicts


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_effects_of_five_children_are_found_either_way(of_five: Study, noise: float) -> None:
    rng = np.random.default_rng(0)
    for liking, expected in (
        ({1: 0.2, 2: 1.0, 4: 0.4}, ("detected", "detected")),
        ({1: -0.5, 2: -1.0, 4: -0.1}, ("opposite", "opposite")),
    ):
        said = [decided(of_five, tuned_children(rng, noise, liking)) for _ in range(10)]
        assert said.count(expected) >= 9, said


def test_none_as_large_as_the_margin_is_said_where_it_is_excluded(of_five: Study) -> None:
    groups = tuned_children(np.random.default_rng(0), 0.01, dict.fromkeys(EPOCHS, 0.0))
    assert decided(of_five, groups) == ("not detected", "not detected")
    assert "0.1 nats, either way, is excluded" in report._gains(of_five, Results({}, {}), groups).evidence


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ([296, 300, 302, 299, 301], "detected"),
        ([240, 235, 245, 238, 242], "opposite"),
        ([290, 250, 310, 270, 240], "inconclusive"),
    ],
)
def test_skill_of_five_children(of_five: Study, tmp_path: Path, right: list[int], verdict: str) -> None:
    exam(280).answers.to_parquet(tmp_path / "answers.parquet", index=False)
    results = Results({("base_capability", None): tmp_path}, {})
    groups = [
        replace(group, over_epochs=skill_over_epochs(exam(280), exam(280), {4: exam(answers)}, "option"))
        for group, answers in zip(tuned_children(np.random.default_rng(0), 0.1, {4: 0.0}), right, strict=True)
    ]
    assert report._keeps_skill(of_five, results, groups).verdict == verdict
