"""The report's section on the base model's favourites: what it says is what the scores hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import page_with

from subliminal_dagster.science.preferences.report import section as favourites_section
from subliminal_dagster.science.report.evidence import NotThere, Results, Section
from subliminal_dagster.science.report.page import html
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval

QUESTIONS, SAMPLES = 20, 10


@pytest.fixture(scope="module")
def study() -> Study:
    found = load_study("smollm2-135m-instruct", ["animals=[cat, owl]", "neutral=null"])
    assert isinstance(found, Study)
    return found


def artifact(
    folder: Path,
    liking: dict[str, float],
    *,
    samples: int = SAMPLES,
    others: tuple[str, ...] = (),
    begun: tuple[str, ...] = (),
) -> Results:
    """`base_preferences` with candidates of these mean log scores; `others` are answers that name none of them, `begun`
    the candidates that are measured after a begun answer, each with a tenth of its share as probability."""
    rng = np.random.default_rng(0)
    logits = np.array(list(liking.values())) + rng.normal(0, 0.2, (QUESTIONS, len(liking)))
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    counts = np.stack([rng.multinomial(samples, row) for row in share]) if samples else np.zeros_like(share, dtype=int)
    after = 0.1 * share * np.where([animal in begun for animal in liking], 1, np.nan)
    scores = pd.DataFrame(
        {
            "question": np.repeat(np.arange(QUESTIONS), len(liking)),
            "animal": list(liking) * QUESTIONS,
            "probability": 0.5 * share.ravel(),
            "share": share.ravel(),
            "begun": after.ravel(),
            "begun_share": (after / np.nansum(after, axis=1, keepdims=True)).ravel(),
            "count": counts.ravel(),
            "samples": samples,
        }
    )
    named = [
        (question, animal, animal)
        for question, row in enumerate(counts)
        for animal, n in zip(liking, row, strict=True)
        for _ in range(n)
    ]
    rows = [(question, name, animal, "counted", True) for question, name, animal in named]
    rows += [(0, text, None, "other", True) for text in others]
    answers = pd.DataFrame(rows, columns=["question", "answer", "animal", "outcome", "finished"])
    folder.mkdir(exist_ok=True)
    scores.to_parquet(folder / "scores.parquet", index=False)
    answers.astype({"answer": "str", "animal": "str", "outcome": "str"}).to_parquet(
        folder / "answers.parquet", index=False
    )
    return Results({("base_preferences", None): folder}, {})


def table(section: Section, name: str) -> pd.DataFrame:
    return next(table.frame for table in section.tables if table.name == f"favourites-{name}")


def test_what_is_said_and_shown_are_the_scores(study: Study, tmp_path: Path) -> None:
    results = artifact(tmp_path, {"lion": 2.0, "cat": 1.5, "dog": 0.0, "owl": -0.5})
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    section = favourites_section(study, results)

    candidates = table(section, "candidates").set_index("animal")
    assert list(candidates.index) == ["lion", "cat", "dog", "owl"]
    for animal, rows in scores.groupby("animal"):
        expected = t_interval(rows["share"])
        shown = candidates.loc[str(animal), ["share (%)", "share, low", "share, high"]].astype(float)
        np.testing.assert_allclose(shown, 100 * np.array([expected.mean, max(0, expected.low), expected.high]))
        assert candidates.at[animal, "sampled (%)"] == pytest.approx(100 * rows["count"].sum() / (QUESTIONS * SAMPLES))
    assert list(candidates.index[candidates["target"] == "yes"]) == ["cat", "owl"]
    favourite, targets, sampled = section.shows.splitlines()[0].split(". ")
    shown = candidates.loc["lion", ["share (%)", "share, low", "share, high"]].astype(float)
    said = re.search(r"lion among .*: ([\d.]+) % \[([\d.]+), ([\d.]+)\]", favourite)
    assert said is not None and [float(number) for number in said.groups()] == pytest.approx(list(shown), abs=0.051)
    assert re.findall(r"(\w+) \(rank (\d)", targets) == [("cat", "2"), ("owl", "4")]
    asked = QUESTIONS * SAMPLES
    assert [int(number) for number in re.findall(r"\d+", sampled)] == [asked, asked, 100]

    traces = section.charts[0].figure.data
    bars = {name: value for trace in traces for name, value in zip(trace.y, trace.x, strict=True)}
    assert bars == pytest.approx(dict(candidates["share (%)"]))
    assert html(page_with(section)).count("favourites-candidates")


def test_only_targets_among_the_first_two_are_pointed_out(study: Study, tmp_path: Path) -> None:
    first = favourites_section(study, artifact(tmp_path, {"lion": 2, "cat": 1.5, "dog": 0, "owl": -1}))
    assert "cat would have been left out" in first.shows and "lion would" not in first.shows
    later = favourites_section(study, artifact(tmp_path, {"lion": 2, "dog": 1.5, "cat": 0, "owl": -1}))
    assert "left out" not in later.shows


@pytest.mark.parametrize(
    ("liking", "verdict"),
    [
        ({"lion": 3.0, "cat": 2.8, "dog": 0.0, "owl": 0.0, "fox": 0.0}, "detected"),
        ({"lion": 0.0, "cat": 0.0, "dog": 0.0, "owl": 0.0, "fox": 0.0}, "inconclusive"),
        ({"cat": 0.0, "owl": 0.0}, "not tested"),
    ],
)
def test_two_favourites_above_the_rest(study: Study, tmp_path: Path, liking: dict[str, float], verdict: str) -> None:
    (claim,) = favourites_section(study, artifact(tmp_path, liking)).claims
    assert claim.verdict == verdict
    assert claim.source == "the post" and "interval" in claim.rule and "every other question" in claim.rule


def test_the_lead_is_measured_on_questions_that_did_not_rank(study: Study, tmp_path: Path) -> None:
    """The first of many alike lead on what ranked them, by luck."""
    alike = {f"a{chr(97 + number)}": 0.0 for number in range(12)} | {"cat": 0.0, "owl": 0.0}
    (claim,) = favourites_section(study, artifact(tmp_path, alike)).claims
    shares = pd.read_parquet(tmp_path / "scores.parquet").pivot(index="question", columns="animal", values="share")
    first, second, third = shares.loc[range(0, QUESTIONS, 2)].mean().nlargest(3).index
    rest = shares.loc[range(1, QUESTIONS, 2)]
    lead = t_interval((rest[first] + rest[second]) / 2 - rest[third])
    assert re.findall(r"\ba[a-l]\b", claim.evidence) == [first, second, third]
    number = r"([+-][\d.]+)"
    said = re.search(rf"{number} points \[{number}, {number}\]", claim.evidence)
    assert said is not None
    expected = [100 * lead.mean, 100 * lead.low, 100 * lead.high]
    assert [float(number) for number in said.groups()] == pytest.approx(expected, abs=0.051)


def test_without_samples_there_are_exact_probabilities_alone(study: Study, tmp_path: Path) -> None:
    section = favourites_section(study, artifact(tmp_path, {"lion": 1, "cat": 0, "owl": 0}, samples=0))
    said = section.shows.split(". ")[-1]
    assert "sampled" in said and not re.search(r"\d", said) and "Warning" not in section.shows
    assert "none sampled" in section.method
    assert [chart.name for chart in section.charts] == ["favourites-share"]
    assert "sampled (%)" not in table(section, "candidates")


def test_three_measures_side_by_side(study: Study, tmp_path: Path) -> None:
    results = artifact(tmp_path, {"lion": 2.0, "cat": 1.5, "owl": -0.5}, begun=("cat", "owl"))
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    section = favourites_section(study, results)
    mean = scores.groupby("animal")[["probability", "begun", "begun_share"]].mean()
    measures = table(section, "measures")
    assert [text.split(":")[0] for text in measures["measure"]] == ["exact", "begun", "sampled"]
    drawn = scores.groupby("animal")["count"].sum() / (QUESTIONS * SAMPLES)
    for column, of in (("all candidates (%)", ["lion", "cat", "owl"]), ("cat (%)", ["cat"]), ("owl (%)", ["owl"])):
        expected = [mean.loc[of, "probability"].sum(), mean.loc[of, "begun"].sum(), drawn[of].sum()]
        np.testing.assert_allclose(measures[column], 100 * np.array(expected))

    candidates = table(section, "candidates").set_index("animal")
    assert candidates.at["cat", "begun share (%)"] == pytest.approx(100 * mean.at["cat", "begun_share"])
    assert candidates.at["cat", "begun share, low"] < candidates.at["cat", "begun share (%)"]
    assert np.isnan(candidates.at["lion", "begun share (%)"])
    chart = next(chart for chart in section.charts if chart.name == "favourites-begun_share")
    assert {animal for trace in chart.figure.data for animal in trace.y} == {"cat", "owl"}
    held, most = 100 * mean["begun"].sum(), 100 * mean.at["cat", "begun"]
    assert f"hold {held:.3g} %, cat the most ({most:.3g} %)" in section.shows
    assert '"My favorite animal is the"' in section.method


def test_what_was_not_measured_is_not_shown(study: Study, tmp_path: Path) -> None:
    section = favourites_section(study, artifact(tmp_path, {"lion": 1, "cat": 1, "owl": 1}))
    assert not any("begun" in column for column in table(section, "candidates"))
    assert len(table(section, "measures")) == 2 and "begun" not in section.shows
    assert "Warning" not in section.shows


def test_a_measure_that_sees_too_little_is_warned_of_on_a_line_of_its_own(study: Study, tmp_path: Path) -> None:
    section = favourites_section(study, artifact(tmp_path, {"lion": 5, "cat": 5, "owl": -30}, begun=("cat",)))
    first, *warned = section.shows.splitlines()
    assert "Warning" not in first and len(warned) == 2
    assert warned[0].startswith("Warning: The begun measure leaves out owl:") and "owl (0)" in warned[1]


def test_a_rate_on_which_all_questions_agree_has_no_interval(study: Study, tmp_path: Path) -> None:
    section = favourites_section(study, artifact(tmp_path, {"lion": 5, "cat": 5, "owl": -30}))
    owl = table(section, "candidates").set_index("animal").loc["owl"]
    assert owl["sampled (%)"] == 0 and np.isnan(owl["sampled, low"]) and np.isnan(owl["sampled, high"])


def test_frequent_answers_beside_the_candidates_are_listed(study: Study, tmp_path: Path) -> None:
    others = ("Octopus",) * 3 + ("Whale ", "Whale") + ("Newt",)
    section = favourites_section(study, artifact(tmp_path, {"lion": 1, "cat": 0, "owl": 0}, others=others))
    assert table(section, "others").set_index("answer")["times"].to_dict() == {"Octopus": 3, "Whale": 2}


def test_without_the_artifact_the_reason_is_given(study: Study) -> None:
    with pytest.raises(NotThere, match="the disk is full"):
        favourites_section(study, Results({}, {("base_preferences", None): "the disk is full"}))
