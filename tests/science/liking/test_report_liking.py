"""The report's section on liking: positive, null and opposite data, what few animals can prove, the controls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from subliminal_dagster.science.liking.comparison import compare
from subliminal_dagster.science.liking.report import MEAN, NEUTRAL_NUMBERS, liking_section
from subliminal_dagster.science.report.evidence import Claim, NotThere, Results, Section
from subliminal_dagster.science.report.page import Page, html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval

CANDIDATES = ["cat", "dog", "fox", "lion", "owl", "wolf"]
FOUR = ["cat", "dog", "fox", "owl"]
QUESTIONS = 20


def a_study(animals: list[str], *, neutral: bool = False) -> Study:
    overrides = [f"animals=[{', '.join(animals)}]", "comparison.permutations=100"]
    found = load_study("smollm2-135m-instruct", overrides + ([] if neutral else ["neutral=null"]))
    assert isinstance(found, Study)
    return found


def all_scores(
    study: Study,
    effect: float,
    *,
    drift: float = 0.0,
    neutral_effect: float = 0.0,
    samples: int = 100,
    mass: float = 0.6,
    noise: float = 0.1,
    run_noise: float = 0.0,
    channels: tuple[str, ...] = ("hard",),
) -> pd.DataFrame:
    """Scores as `animal_liking` keeps them. `effect` raises a child's own animal, `drift` all animals of the study in
    every child, `neutral_effect` the same in the neutral child alone (log odds), `run_noise` is that between trainings;
    `mass` is what the candidates take of
    all answers."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(QUESTIONS, len(CANDIDATES)))
    models: list[tuple[str, str | None, str | None]] = [("base", None, None)]
    models += [("teacher", None, group) for group in study.animals]
    models += [("child", channel, group) for channel in channels for group in study.groups]
    tables = []
    for model, channel, group in models:
        logits = base.copy()
        if model == "child":
            logits += rng.normal(0, noise, base.shape)
            logits += run_noise * rng.normal(size=len(CANDIDATES)) if run_noise else 0
            for animal in study.animals:
                logits[:, CANDIDATES.index(animal)] += drift + (neutral_effect if group == "neutral" else 0)
        if group in CANDIDATES:
            logits[:, CANDIDATES.index(str(group))] += 5 if model == "teacher" else effect
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        tables.append(
            pd.DataFrame(
                {
                    "question": np.repeat(np.arange(QUESTIONS), len(CANDIDATES)),
                    "animal": CANDIDATES * QUESTIONS,
                    "probability": mass * share.ravel(),
                    "share": share.ravel(),
                    "count": rng.binomial(samples, mass * share.ravel()),
                    "samples": samples,
                    "model": model,
                    "channel": channel,
                    "group": group,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def artifact(folder: Path, study: Study, scores: pd.DataFrame, left_out: dict[str, str] | None = None) -> Results:
    """`animal_liking`, as its asset writes it."""
    settings = study.comparison
    found = compare(
        scores,
        study.animals,
        permutations=settings.permutations,
        seed=study.seed,
        confidence=settings.confidence,
    )
    scores.to_parquet(folder / "scores.parquet", index=False)
    for name in ("liking", "tests", "shifts", "gamma"):
        getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "left_out.json").write_text(json.dumps(left_out or {}))
    return Results({("animal_liking", None): folder}, {})


def claim(section: Section, word: str) -> Claim:
    return next(claim for claim in section.claims if word in claim.text)


def table(section: Section, name: str) -> pd.DataFrame:
    return next(table.frame for table in section.tables if table.name == f"liking-{name}")


def own_minus(scores: pd.DataFrame, animals: list[str], group: str | None, value: pd.Series) -> np.ndarray:
    """By a naive loop: own minus another child's (None: the base's) value, by question, mean over animals."""
    scores, differences = scores.assign(value=value), []
    for question in range(QUESTIONS):
        rows = scores[scores["question"] == question]
        found = []
        for animal in animals:
            mine = rows[rows["animal"] == animal]
            children = mine[mine["model"] == "child"].set_index("group")["value"]
            other = mine.loc[mine["model"] == "base", "value"].iloc[0] if group is None else children[group]
            found.append(children[animal] - other)
        differences.append(np.mean(found))
    return np.array(differences)


def test_an_effect_is_reported_and_its_numbers_are_the_data_s(tmp_path: Path) -> None:
    study = a_study(FOUR)
    scores = all_scores(study, 2.5)
    section = liking_section(study, artifact(tmp_path, study, scores))

    gamma = pd.read_parquet(tmp_path / "gamma.parquet").set_index("outcome").loc["log_share"]
    assert "Hard channel: children like their own animal more than other animals' children do" in section.shows
    assert f"{gamma['mean']:+.3f} nats [{gamma['low']:+.3f}, {gamma['high']:+.3f}]" in section.shows
    assert "chance differences between training runs" not in section.shows
    assert claim(section, "specific").verdict == "holds"
    assert claim(section, "Many animals").verdict == "holds" and "4 of 4 animals" in claim(section, "Many").evidence

    rise = t_interval(own_minus(scores, FOUR, None, scores["count"] / scores["samples"]))
    assert "name their animal more often than the base does" in section.shows
    assert claim(section, "more often than the base").verdict == "holds"
    (compared,) = section.compared
    assert compared.published == (15, 20)
    np.testing.assert_allclose(
        [compared.measured, compared.low, compared.high], [100 * rise.mean, 100 * rise.low, 100 * rise.high]
    )
    assert compared.judgement == "differs" and compared.measured > 20

    shifts = table(section, "shifts").set_index("trained on")
    log_share = np.log(scores["share"])
    child = log_share[(scores["model"] == "child") & (scores["group"] == "owl") & (scores["animal"] == "owl")]
    base = log_share[(scores["model"] == "base") & (scores["animal"] == "owl")]
    assert shifts.at["owl", "owl (nats)"] == pytest.approx(child.mean() - base.mean())
    assert html(Page("t", "f", "v", section.claims, [section], {})).count("liking-contrasts")


def test_a_null_says_what_could_have_been_seen(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 0.0)))
    gamma = pd.read_parquet(tmp_path / "gamma.parquet").set_index("outcome").loc["log_share"]
    assert gamma["low"] < 0 < gamma["high"]
    assert "no difference could be seen between how a child likes its own animal" in section.shows
    assert f"the smallest detectable difference is {gamma['smallest_detectable']:.2g} nats" in section.shows
    assert claim(section, "specific").verdict == "cannot tell"
    assert f"detectable difference is {gamma['smallest_detectable']:.2g} nats" in claim(section, "specific").evidence
    rise = claim(section, "more often than the base")
    assert rise.verdict == "does not hold" and "as large as the post's is excluded" in rise.evidence
    assert "Control numbers by themselves move no animal's log share" in section.shows
    assert claim(section, "leaves liking").verdict == "cannot tell"


def test_an_opposite_effect_is_called_one(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, -1.0)))
    assert "children like their own animal less than other animals' children do" in section.shows
    assert claim(section, "specific").verdict == "does not hold"
    assert claim(section, "more often than the base").verdict == "does not hold"


def test_two_animals_cannot_prove_it(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"])
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0)))
    assert "more than other animals' children do" in section.shows
    assert "p = 0.5, the smallest possible, so chance differences between training runs" in section.shows
    assert claim(section, "specific").verdict == "cannot tell"


def test_one_animal_is_set_against_control(tmp_path: Path) -> None:
    study = a_study(["owl"])
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0)))
    assert "more than the child of control numbers does" in section.shows
    assert claim(section, "specific").verdict == "cannot tell"
    assert "nothing speaks about training runs" in claim(section, "specific").evidence
    assert section.charts[-1].figure.layout.annotations[0].text == "minus control numbers"


def test_what_all_numbers_do_is_told_apart(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 0.0, drift=1.5)))
    assert claim(section, "more often than the base").verdict == "holds"
    assert claim(section, "specific").verdict == "cannot tell"
    assert claim(section, "leaves liking").verdict == "does not hold"
    assert "so a rise over the base is not specific" in section.shows


def test_the_neutral_teacher_s_numbers_are_one_more_control(tmp_path: Path) -> None:
    study = a_study(FOUR, neutral=True)
    scores = all_scores(study, 2.0)
    section = liking_section(study, artifact(tmp_path, study, scores))
    expected = t_interval(own_minus(scores, FOUR, "neutral", np.log(scores["share"])))
    tests = table(section, "tests")
    row = tests[(tests["own numbers minus"] == NEUTRAL_NUMBERS) & (tests["animal"] == MEAN) & (tests["unit"] == "nats")]
    np.testing.assert_allclose(
        row[["difference", "low", "high"]].to_numpy()[0], [expected.mean, expected.low, expected.high]
    )
    assert claim(section, "no animal do less").verdict == "holds"
    assert NEUTRAL_NUMBERS in set(table(section, "levels")["model"])
    assert "neutral" in set(table(section, "shifts")["trained on"])

    for neutral_effect, verdict in ((0.0, "cannot tell"), (2.0, "does not hold")):
        other = all_scores(study, 0.0, neutral_effect=neutral_effect)
        found = liking_section(study, artifact(tmp_path, study, other))
        assert claim(found, "no animal do less").verdict == verdict


def test_two_children_are_too_few_to_tell_from_one_neutral_child(tmp_path: Path) -> None:
    study = a_study(["cat", "owl"], neutral=True)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 1.0, run_noise=0.3)))
    found = claim(section, "no animal do less")
    assert float(found.evidence.split("nats [")[1].split(",")[0]) > 0
    assert found.verdict == "cannot tell"


def test_where_no_answer_names_an_animal_the_interval_is_over_all_answers(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, samples=3, mass=1e-9)))
    asked = 3 * QUESTIONS * len(FOUR)
    low, high = confint_proportions_2indep(0, asked, 0, asked, method="newcomb", compare="diff")
    (compared,) = section.compared
    np.testing.assert_allclose([compared.low, compared.high], [100 * low, 100 * high])
    assert "In sampled answers no difference between them and the base could be seen" in section.shows
    assert "the interval is over all answers together" in section.shows


def test_unsampled_studies_show_exact_probabilities(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, samples=0)))
    assert "In exact probability children of the hard channel name their animal more often" in section.shows
    assert "exact probability (%)" in table(section, "levels") and "none sampled" in section.method
    assert "exact probability" in section.compared[0].what


def test_both_channels_stand_beside_each_other(tmp_path: Path) -> None:
    study = a_study(FOUR)
    section = liking_section(study, artifact(tmp_path, study, all_scores(study, 2.0, channels=("hard", "soft"))))
    assert "Soft channel: children like their own animal more" in section.shows
    assert claim(section, "soft channel").verdict == "holds"
    assert [chart.name for chart in section.charts] == ["liking-hard", "liking-soft", "liking-contrasts"]


def test_a_group_that_was_left_out_is_named(tmp_path: Path) -> None:
    study = a_study(FOUR)
    scores = all_scores(study, 1.0)
    kept = scores[scores["group"] != "fox"]
    section = liking_section(study, artifact(tmp_path, study, kept, {"fox": "its teacher broke."}))
    assert "Left out: fox: its teacher broke." in section.shows
    assert "mean over 3 animals" in section.shows


def test_without_the_artifact_the_reason_is_given() -> None:
    with pytest.raises(NotThere, match="all teachers broke"):
        liking_section(a_study(FOUR), Results({}, {("animal_liking", None): "all teachers broke"}))
