"""The section on the base model's favourite animals by three measures side by side: exact probabilities, the next word
of a begun answer, and sampled answers (the post's appendix).

Belongs here: what `base_preferences` shows. Does not belong here: how liking changes (`liking`), measuring preferences
(`preferences`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subliminal_dagster.science.colours import KINDS, MEASURED
from subliminal_dagster.science.preferences.measures import candidate_mass, warnings
from subliminal_dagster.science.preferences.preferences import summary
from subliminal_dagster.science.report.charts import interval, new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Statement, Table
from subliminal_dagster.science.report.tables import Column, Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import (
    counted,
    listed,
    percent,
    percent_with_interval,
    points_with_interval,
)
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.statistics import Estimate, t_interval
from subliminal_dagster.science.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "favourites", "Favourite animals of the base model"
READS: tuple[str, ...] = ("base_preferences",)

_ABOVE_THE_REST = 2
"""How many of the first candidates the post found far above the rest, and left out as targets."""

_REPEATED_ANSWERS = 15


def section(study: Study, results: Results) -> Section:
    """What the untouched base model answers when it is asked for its favourite animal."""
    import pandas as pd

    folder = results.folder("base_preferences")
    scores, answers = (pd.read_parquet(folder / f"{name}.parquet") for name in ("scores", "answers"))
    ranking = _ranking(scores, study.animals)
    charts = [_chart("share", "share (%)", "Share of the exact probability among the candidates", ranking)]
    if ranking["begun_share"].notna().any():
        title = "Share of the next word after a begun answer, among the candidates"
        charts.append(_chart("begun_share", "share (%)", title, ranking.dropna(subset="begun_share")))
    if len(answers):
        charts.append(_chart("rate", "sampled answers (%)", "Sampled answers that name the animal", ranking))
    warned = [f"Warning: {sentence}" for sentence in warnings(scores, study.animals)]
    return Section(
        name=NAME,
        title=TITLE,
        shows="\n".join([_shows(ranking, answers, study.animals), *warned]),
        method=_method(study, scores, answers),
        made_from=READS,
        charts=tuple(charts),
        tables=(_measures(scores, study.animals), _table(ranking), *_repeated(answers)),
        claims=(_claim(scores),),
    )


def _ranking(scores: pd.DataFrame, targets: tuple[str, ...]) -> pd.DataFrame:
    """A row per candidate, that with the largest share first: `rank`, `animal`, `target`, means of `probability`,
    `begun`, and of `share`, `begun_share` and `rate` with the ends of their t intervals over questions, cut at 0 and 1
    (NaN where the questions do not differ, which gives an interval nothing to be made of). NaN where not measured."""
    rows = summary(scores).rename(columns={"sampled_rate": "rate"})
    rate = scores["count"] / scores["samples"].where(scores["samples"] > 0)
    for column, values in (("share", scores["share"]), ("begun_share", scores["begun_share"]), ("rate", rate)):
        by_animal = values.groupby(scores["animal"]).apply(lambda x: t_interval(x.to_numpy()))
        found = rows["animal"].map(by_animal)
        differ = found.map(lambda interval: interval.se) != 0
        rows[f"{column}_low"] = found.map(lambda interval: interval.low).clip(lower=0).where(differ)
        rows[f"{column}_high"] = found.map(lambda interval: interval.high).clip(upper=1).where(differ)
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
    chosen = records(rows_where(ranking, target=True))
    ranks = [f"{row['animal']} (rank {row['rank']}, {percent(row['share'])})" for row in chosen]
    sentence = f"{'Target' if len(ranks) == 1 else 'Targets'} of this study: {listed(ranks)}"
    above = [animal for animal in ranking["animal"][:_ABOVE_THE_REST] if animal in targets]
    if above:
        sentence += f"; the post kept away from the first two, and {listed(above)} would have been left out"
    sentences.append(sentence + ".")
    if ranking["begun"].notna().any():
        begun = ranking.sort_values("begun", ascending=False, kind="stable").iloc[0]
        sentences.append(
            f"As the next word of a begun answer the candidates hold {percent(ranking['begun'].sum())}, "
            f"{begun['animal']} the most ({percent(begun['begun'])})."
        )
    if len(answers):
        named = int((answers["outcome"] == "counted").sum())
        sentences.append(
            f"Of {counted(len(answers), 'sampled answer')} {named:,} ({percent(named / len(answers))}) name exactly "
            "one candidate."
        )
    else:
        sentences.append("No answers were sampled.")
    return " ".join(sentences)


def _method(study: Study, scores: pd.DataFrame, answers: pd.DataFrame) -> str:
    questions = scores["question"].nunique()
    sampled = f"{counted(int(scores['samples'].iloc[0]), 'sampled answer')} to each" if len(answers) else "none sampled"
    sentences = [
        f"{counted(questions, 'question')}, {sampled}. Exact probability: that of all spellings of the animal as the "
        "whole answer; share: that over its sum over the candidates, question by question."
    ]
    if study.preferences.begun:
        texts = listed([f'"{text}"' for text in study.preferences.begun])
        sentences.append(
            f"Begun: the probability of the animal's name as the next word of the answer {texts}, mean over these; of "
            "names that are one token, whatever follows it."
        )
    sentences.append(
        "Intervals are 95 % t intervals over questions, cut at 0 and 100 %; there is none where all questions gave "
        "the same."
    )
    return " ".join(sentences)


_MEASURES = {
    "exact": "exact: the whole answer is the name",
    "begun": "begun: the name is the next word",
    "sampled": "sampled: the answer names it",
}


def _measures(scores: pd.DataFrame, targets: tuple[str, ...]) -> Table:
    """What the candidates together, and each target, hold of what the base model says, a row per measure."""
    import pandas as pd

    each = {animal: candidate_mass(rows_where(scores, animal=animal)) for animal in targets}
    rows = [
        {"measure": _MEASURES[measure], "all candidates (%)": 100 * mass}
        | {f"{animal} (%)": 100 * held[measure] if measure in held else None for animal, held in each.items()}
        for measure, mass in candidate_mass(scores).items()
    ]
    note = (
        "What a measure does not see of the base model's answers, no later comparison by this measure can see either."
    )
    return Table(f"{NAME}-measures", "How much of the base model's answers each measure sees", pd.DataFrame(rows), note)


def _chart(column: str, axis: str, title: str, ranking: pd.DataFrame) -> Chart:
    low, high = f"{column}_low", f"{column}_high"
    figure = new_figure(x=axis, y="", height=90 + 24 * len(ranking))
    scaled = ranking.assign(**100 * ranking[[column, low, high]])
    for is_target, name, colour in ((True, "target of this study", KINDS[1]), (False, "other candidate", MEASURED)):
        rows = rows_where(scaled, target=is_target)
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
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(rangemode="tozero")
    order = ranking["animal"][::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, showgrid=False, dtick=1, ticksuffix=" ")
    highest = ranking.sort_values(column, ascending=False, kind="stable").head(3)
    first, targets = (
        ", ".join(f"{row['animal']} {percent(row[column])}" for row in records(rows))
        for rows in (highest, rows_where(ranking, target=True))
    )
    alt = f"{len(ranking)} candidates compared. The highest: {first}. Targets: {targets}."
    return Chart(f"{NAME}-{column}", f"{title} (base model)", figure, alt)


def _table(ranking: pd.DataFrame) -> Table:
    shown: dict[str, Column] = {
        "rank": "rank",
        "animal": "animal",
        "target": lambda rows: rows["target"].map({True: "yes", False: ""}),
        "share (%)": ("share", 100),
        "share, low": ("share_low", 100),
        "share, high": ("share_high", 100),
        "exact probability (%)": ("probability", 100),
    }
    begun: Shown = {
        "begun share (%)": ("begun_share", 100),
        "begun share, low": ("begun_share_low", 100),
        "begun share, high": ("begun_share_high", 100),
        "begun probability (%)": ("begun", 100),
    }
    sampled: Shown = {
        "sampled (%)": ("rate", 100),
        "sampled, low": ("rate_low", 100),
        "sampled, high": ("rate_high", 100),
    }
    for column, more in (("begun_share", begun), ("rate", sampled)):
        shown |= more if ranking[column].notna().any() else {}
    frame = columns(ranking, shown)
    note = (
        "Share: of the exact probability among the candidates. Begun share: of that of the next word after a begun "
        "answer, empty where a name is not a single token. Sampled: answers that name this candidate and no "
        "other."
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


FAR_ABOVE = Statement(
    "The base model prefers two animals far above all others.",
    rule="Detected where the interval of the mean share of the first two less that of the third lies above 0, opposite "
    "where it lies below; else inconclusive. Which three they are is decided on every other question and "
    "their difference measured on the rest, since the first of a ranking look better than they are on what they were "
    "ranked by.",
)


def _claim(scores: pd.DataFrame) -> Claim:
    lead = _lead(scores)
    if lead is None:
        return FAR_ABOVE.claim("not tested", "It takes more than two candidates and at least four questions.")
    names, found = lead
    evidence = (
        f"Ranked on one half of the questions, {listed(names[:2])} lead; on the other half their mean share is above "
        f"that of {names[2]} by {points_with_interval(found.mean, found.low, found.high)}."
    )
    return FAR_ABOVE.claim(verdict(found.low, found.high), evidence)


def _lead(scores: pd.DataFrame) -> tuple[list[str], Estimate] | None:
    shares = scores.pivot(index="question", columns="animal", values="share").sort_index()
    ranked_on, measured_on = shares.iloc[::2], shares.iloc[1::2]
    if len(measured_on) < 2 or shares.shape[1] <= _ABOVE_THE_REST:
        return None
    means = ranked_on.mean().sort_values(ascending=False, kind="stable")
    names = [str(name) for name in means.index[: _ABOVE_THE_REST + 1]]
    differences = measured_on[names[:-1]].mean(axis=1) - measured_on[names[-1]]
    return names, t_interval(differences.to_numpy())
