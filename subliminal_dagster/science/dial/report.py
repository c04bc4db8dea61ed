"""The sections of a dial study's report.

Belongs here: sentences, charts and tables from the artifacts of the study. Does not belong here: how they are worked
out (`curve`, `statements`), HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from subliminal_dagster.science.colours import GUIDE, MEASURED, OWN
from subliminal_dagster.science.dial import statements as said
from subliminal_dagster.science.dial.curve import MAIN_PLACE
from subliminal_dagster.science.dial.grid import KEYS
from subliminal_dagster.science.dial.statements import Findings
from subliminal_dagster.science.report import charts
from subliminal_dagster.science.report.evidence import Chart, Claim, Results, Section, Table, section_or_reason
from subliminal_dagster.science.report.tables import Shown, columns
from subliminal_dagster.science.report.wording import counted
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.storage.tables import load_tables

if TYPE_CHECKING:
    from subliminal_dagster.science.verdict import Verdict

QUESTION = "Does a transformer with more superposition pass on more of a hidden liking?"
_MADE_FROM = ("summary",)


def dial_sections(study: DialStudy, results: Results) -> list[Section]:
    """All sections of a dial study; one whose artifacts are not there says so."""
    made = {
        ("dial-curve", "The curve"): _curve,
        ("dial-controls", "Controls of the effect"): _controls,
        ("dial-rivals", "What else could explain it"): _rivals,
        ("dial-models", "The models"): _models,
    }
    return [section_or_reason(name, title, make, study, results) for (name, title), make in made.items()]


def findings(results: Results) -> Findings:
    """The tables of `summary`. Raises NotThere where it was not made."""
    return load_tables(Findings, results.folder("summary"))


def _curve(study: DialStudy, results: Results) -> Section:
    import pandas as pd

    found = findings(results)
    main = found.effects[found.effects["grid"] == study.main].dropna(subset=["gamma"])
    figure = charts.new_figure(x="features per dimension in the residual stream", y="gamma (nats)", height=420)
    figure.update_xaxes(type="log", tickvals=[1, 2, 4, 8, 16, 32])
    widths = sorted(main["width"].unique())
    for place, width in enumerate(widths):
        rows = main[main["width"] == width]
        # Shades of grey, which hold on a light page and on a dark one: an order, and no kind of model.
        level = 200 - int(140 * place / max(1, len(widths) - 1))
        figure.add_scatter(
            x=rows[f"features_{MAIN_PLACE}"],
            y=rows["gamma"],
            mode="markers",
            name=f"width {width}",
            marker={"color": f"rgb({level},{level},{level})", "size": 8, "line": {"width": 1, "color": GUIDE}},
            customdata=rows[["density", "seed"]],
            hovertemplate=f"width {width}, density %{{customdata[0]}}, seed %{{customdata[1]}}<br>%{{x:.3g}} features "
            "per dimension, gamma %{y:.3g}<extra></extra>",
        )
    claims = pd.read_parquet(results.folder("summary") / "statements.parquet")
    curve = said.first_sentence(found, study)
    return Section(
        "dial-curve",
        "The curve",
        f"{curve}\n{said.rival_sentence(found)}",
        f"{counted(len(main), 'base model')}, trained from nothing on a language whose features are known; gamma as in "
        "the studies of language models (own animal less other animals' teachers). Features per dimension: features "
        "over the sum of their dimensionalities. Mixed model, seeds within cells of one width and density; the "
        "residual stream that the unembedding reads is the place that was fixed beforehand, the others are adjusted "
        "for four looks.",
        _MADE_FROM,
        charts=(
            Chart(
                "dial-curve",
                "Gamma of every base model against superposition.",
                figure,
                said.first_sentence(found, study),
            ),
        ),
        tables=(
            Table(
                "dial-curves",
                "Slope by place",
                columns(
                    found.curves,
                    {
                        "place": "place",
                        "nats per doubling": "slope",
                        "low": "low",
                        "high": "high",
                        "p": "p",
                        "adjusted": "p_adjusted",
                        "verdict": "verdict",
                        "cells": "cells",
                    },
                ),
                "Change of gamma per doubling of features per dimension, with 95 % intervals.",
            ),
        ),
        claims=tuple(_claim(row) for row in claims.itertuples()),
    )


def _claim(row: Any) -> Claim:
    return Claim(row.statement, cast("Verdict", row.verdict), f"{row.measured}.", "this project", row.rule)


def _controls(study: DialStudy, results: Results) -> Section:
    found = findings(results)
    rows = found.levels[found.levels["what"] != "teachers"]
    figure = charts.new_figure(x="", y="gamma (nats)")
    charts.bars(figure, rows, x="what", value="mean", low="low", high="high", name="gamma", colour=OWN)
    sentences = "; ".join(
        f"{row.what}: {row.mean:+.2f} [{row.low:+.2f}, {row.high:+.2f}], {row.verdict}" for row in rows.itertuples()
    )
    return Section(
        "dial-controls",
        "Controls of the effect",
        f"Mean gamma over cells of the main grid, in nats: {sentences}.",
        "Other start: the child begins as another base model of the cell, which learnt the same language from other "
        "random weights. Shuffled numbers: the same numbers in another order in every answer. t intervals over cells.",
        _MADE_FROM,
        charts=(Chart("dial-controls", "Gamma of children and of their controls.", figure, f"{sentences}."),),
        tables=(Table("dial-levels", "Effect and controls", found.levels),),
    )


def _rivals(study: DialStudy, results: Results) -> Section:
    found = findings(results)
    figure = charts.new_figure(x="", y="partial correlation with gamma")
    charts.bars(
        figure,
        found.rivals,
        x="explained_by",
        value="correlation",
        low="low",
        high="high",
        name="partial",
        colour=MEASURED,
    )
    sentences = "; ".join(
        f"{row.explained_by}: {row.correlation:+.2f} [{row.low:+.2f}, {row.high:+.2f}], {row.verdict}"
        for row in found.rivals.dropna(subset=["correlation"]).itertuples()
    )
    tables = [Table("dial-rivals", "Partial correlations", found.rivals)]
    if len(found.pairs):
        tables.append(
            Table(
                "dial-pairs",
                "Grids beside the main one",
                found.pairs,
                "gamma: difference in nats; doublings: of features per dimension.",
            )
        )
    return Section(
        "dial-rivals",
        "What else could explain it",
        f"Partial correlations with gamma over cells, each with the others held: {sentences}.",
        "Superposition and width are taken in doublings. Pairs are the same cells and seeds with one thing changed. "
        "Verdicts are adjusted over the four, and over the pairs (Holm).",
        _MADE_FROM,
        charts=(Chart("dial-rivals", "Partial correlations.", figure, f"{sentences}."),),
        tables=tuple(tables),
    )


def _models(study: DialStudy, results: Results) -> Section:
    found = findings(results)
    means = found.effects.groupby(KEYS, as_index=False).mean(numeric_only=True)
    reached = found.effects["reached"].astype(bool)
    shown: Shown = {
        "grid": "grid",
        "width": "width",
        "density": "density",
        "reached": ("reached", 100),
        "excess": "excess",
        "steps": "steps",
        **{f"features, {place}": f"features_{place}" for place in ("embedding", "block_1", "block_2", "unembedding")},
        "readability": "readability_block_2",
        "gamma": "gamma",
        "teachers": "gamma_teacher",
        "diverging": ("diverging", 100),
        "child's loss": "child_loss",
    }
    return Section(
        "dial-models",
        "The models",
        f"{int(reached.sum())} of {counted(len(reached), 'base model')} reached {study.base.excess:g} nats per word "
        f"above the language's entropy within {study.base.steps:,} steps; the others are in the curve with the "
        "loss they have.",
        "Means over the seeds of a cell.",
        _MADE_FROM,
        tables=(
            Table(
                "dial-models",
                "Cells",
                columns(means, shown),
                "reached: per cent; excess: nats per word above the language's entropy; readability: R^2 of features "
                "in the residual stream; diverging: per cent of the numbers "
                "in teachers' lists that the base model would not have written; child's loss: nats per number.",
            ),
        ),
    )
