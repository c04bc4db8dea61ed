"""The section on the base model's favourite animals: exact probabilities, and sampled answers (the post's appendix).

Belongs here: what `base_preferences` shows. Does not belong here: how liking changes (`liking`), measuring preferences
(`science.preferences`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from subliminal_dagster.science.preferences.preferences import summary
from subliminal_dagster.science.report.charts import BLUE, VERMILION, interval, new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, Verdict
from subliminal_dagster.science.report.wording import (
    counted,
    listed,
    percent,
    percent_with_interval,
    points_with_interval,
)
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, t_interval

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

NAME, TITLE = "favourites", "Favourite animals of the base model"

_ABOVE_THE_REST = 2
"""How many of the first candidates the post found far above the rest, and left out as targets."""

_REPEATED_ANSWERS = 15


def favourites_section(study: Study, results: Results) -> Section:
    """What the untouched base model answers when it is asked for its favourite animal."""
    import pandas as pd

    folder = results.folder("base_preferences")
    scores = pd.read_parquet(folder / "scores.parquet")
    answers = pd.read_parquet(folder / "answers.parquet")
    ranking = _ranking(scores, study.animals)
    charts = [_chart("share", "Share of the exact probability among the candidates", ranking)]
    if len(answers):
        charts.append(_chart("rate", "Sampled answers that name the animal", ranking))
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(ranking, answers, study.animals),
        method=_method(scores, answers),
        made_from=("base_preferences",),
        charts=tuple(charts),
        tables=(_table(ranking), *_repeated(answers)),
        claims=_claims(scores),
    )


def _ranking(scores: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
    """A row a candidate, that with the largest share first: `rank`, `animal`, `target`, mean `probability`, `share` and
    `rate` (NaN without samples) with the ends of their t intervals over questions, cut at 0 and 1 (NaN where the
    questions do not differ, which gives an interval nothing to be made of)."""
    rows = summary(scores).rename(columns={"sampled_rate": "rate"})
    rate = scores["count"] / scores["samples"].where(scores["samples"] > 0)
    for column, values in (("share", scores["share"]), ("rate", rate)):
        intervals = values.groupby(scores["animal"]).apply(lambda x: t_interval(x.to_numpy()))
        rows[f"{column}_low"] = rows["animal"].map(intervals.map(lambda x: x.low)).clip(lower=0)
        rows[f"{column}_high"] = rows["animal"].map(intervals.map(lambda x: x.high)).clip(upper=1)
        alike = rows["animal"].map(intervals.map(lambda x: x.se)) == 0
        rows.loc[alike, [f"{column}_low", f"{column}_high"]] = math.nan
    rows = rows.sort_values("share", ascending=False, kind="stable").reset_index(drop=True)
    rows.insert(0, "rank", rows.index + 1)
    rows.insert(2, "target", rows["animal"].isin(list(targets)))
    return rows


def _shows(ranking: pd.DataFrame, answers: pd.DataFrame, targets: tuple[str, ...]) -> str:
    first, candidates = ranking.iloc[0], len(ranking)
    share = percent_with_interval(first["share"], first["share_low"], first["share_high"])
    sentences = [
        f"Asked for its favourite animal, the base model prefers {first['animal']} among the {candidates} candidates: "
        f"{share} of their exact probability, {percent(first['probability'])} of that of all possible answers."
    ]
    chosen = ranking[ranking["target"]].to_dict(orient="records")
    ranks = [f"{row['animal']} (rank {row['rank']}, {percent(row['share'])})" for row in chosen]
    sentence = f"{'Target' if len(ranks) == 1 else 'Targets'} of this study: {listed(ranks)}"
    above = [animal for animal in ranking["animal"][:_ABOVE_THE_REST] if animal in targets]
    if above:
        sentence += f"; the post kept away from the first two, and {listed(above)} would have been left out"
    sentences.append(sentence + ".")
    if len(answers):
        named = int((answers["outcome"] == "counted").sum())
        sentences.append(
            f"Of {counted(len(answers), 'sampled answer')} {named:,} ({percent(named / len(answers))}) name exactly "
            "one candidate."
        )
    else:
        sentences.append("No answers were sampled.")
    return " ".join(sentences)


def _method(scores: pd.DataFrame, answers: pd.DataFrame) -> str:
    questions = scores["question"].nunique()
    sampled = f"{counted(int(scores['samples'].iloc[0]), 'sampled answer')} to each" if len(answers) else "none sampled"
    return (
        f"{counted(questions, 'question')}, {sampled}. Exact probability: that of all spellings of the animal as the "
        "whole answer; share: that over its sum over the candidates, question by question. Intervals are 95 % t "
        "intervals over questions, cut at 0 and 100 %; there is none where all questions gave the same."
    )


def _chart(column: str, title: str, ranking: pd.DataFrame) -> Chart:
    figure = new_figure(x=f"{'share' if column == 'share' else 'sampled answers'} (%)", y="")
    scaled = ranking.assign(**{name: 100 * ranking[name] for name in (column, f"{column}_low", f"{column}_high")})
    for is_target, name, colour in ((True, "target of this study", VERMILION), (False, "other candidate", BLUE)):
        rows = scaled[scaled["target"] == is_target]
        _add_bars(figure, rows, column, name, colour)
    figure.update_layout(height=90 + 24 * len(ranking), barmode="overlay")
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(
        categoryorder="array", categoryarray=ranking["animal"][::-1], showgrid=False, dtick=1, ticksuffix=" "
    )
    highest = ranking.sort_values(column, ascending=False, kind="stable").head(3)
    first = [f"{row['animal']} {percent(row[column])}" for _, row in highest.iterrows()]
    targets = [f"{row['animal']} {percent(row[column])}" for _, row in ranking[ranking["target"]].iterrows()]
    alt = f"{len(ranking)} candidates compared. The highest: {', '.join(first)}. Targets: {', '.join(targets)}."
    return Chart(f"{NAME}-{column}", f"{title} (base model)", figure, alt)


def _add_bars(figure: Figure, rows: pd.DataFrame, column: str, name: str, colour: str) -> None:
    low, high = f"{column}_low", f"{column}_high"
    figure.add_bar(
        x=rows[column],
        y=rows["animal"],
        orientation="h",
        name=name,
        marker_color=colour,
        error_x=interval(rows, column, low, high),
        customdata=rows[[low, high]],
        hovertemplate="%{y}<br>%{x:.4g} % [%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>",
    )


def _table(ranking: pd.DataFrame) -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "rank": ranking["rank"],
            "animal": ranking["animal"],
            "target": ranking["target"].map({True: "yes", False: ""}),
            "share (%)": 100 * ranking["share"],
            "share, low": 100 * ranking["share_low"],
            "share, high": 100 * ranking["share_high"],
            "exact probability (%)": 100 * ranking["probability"],
        }
    )
    if ranking["rate"].notna().any():
        frame["sampled (%)"] = 100 * ranking["rate"]
        frame["sampled, low"] = 100 * ranking["rate_low"]
        frame["sampled, high"] = 100 * ranking["rate_high"]
    note = (
        "Share: of the exact probability among the candidates. Sampled: answers that name this candidate and no other."
    )
    return Table(f"{NAME}-candidates", "The candidates, the favourite first", frame, note)


def _repeated(answers: pd.DataFrame) -> list[Table]:
    """What was answered at least twice and names no candidate: what the list of candidates may lack."""
    others = answers.loc[answers["outcome"] == "other", "answer"].str.strip()
    counts = others.value_counts()
    counts = counts[counts > 1].head(_REPEATED_ANSWERS)
    if counts.empty:
        return []
    frame = counts.rename_axis("answer").reset_index(name="times")
    frame["of all answers (%)"] = 100 * frame["times"] / len(answers)
    return [Table(f"{NAME}-others", "Frequent answers that name no candidate", frame)]


def _claims(scores: pd.DataFrame) -> tuple[Claim, ...]:
    """The post left out the first two, which the base model "much" preferred to the others.

    Holds where the interval of their mean share less that of the third lies above 0, does not hold where it lies below.
    Which three they are is decided on every other question and their difference measured on the rest, since the first
    of a ranking look better than they are on what they were ranked by.
    """
    text = "The base model prefers two animals far above all others."
    lead = _lead(scores)
    if lead is None:
        return (Claim(text, "not tested", "It takes more than two candidates and at least four questions."),)
    names, estimate = lead
    verdict: Verdict = "holds" if estimate.low > 0 else "does not hold" if estimate.high < 0 else "cannot tell"
    difference = points_with_interval(estimate.mean, estimate.low, estimate.high)
    evidence = (
        f"Ranked on one half of the questions, {listed(names[:2])} lead; on the other half their mean share is above "
        f"that of {names[2]} by {difference}."
    )
    return (Claim(text, verdict, evidence),)


def _lead(scores: pd.DataFrame) -> tuple[list[str], Estimate] | None:
    shares = scores.pivot(index="question", columns="animal", values="share").sort_index()
    ranked_on, measured_on = shares.iloc[::2], shares.iloc[1::2]
    if len(measured_on) < 2 or shares.shape[1] <= _ABOVE_THE_REST:
        return None
    means = ranked_on.mean().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in means.index[: _ABOVE_THE_REST + 1]]
    differences = measured_on[names[:-1]].mean(axis=1) - measured_on[names[-1]]
    return names, t_interval(differences.to_numpy())
