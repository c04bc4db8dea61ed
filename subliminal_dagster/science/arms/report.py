"""The section on the arms: which of the things that could carry the effect do.

Belongs here: what `arm_liking` and `arm_updates` show, and the statements that they decide. Does not belong here: their
tables (`comparison`, `updates`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from subliminal_dagster.science.arms.updates import ALL_BLOCKS
from subliminal_dagster.science.colours import GUIDE, KINDS, MEASURED, OWN
from subliminal_dagster.science.report.charts import (
    band_line,
    interval,
    new_figure,
    panels,
)
from subliminal_dagster.science.report.evidence import (
    Chart,
    Claim,
    NotThere,
    Results,
    Section,
    Source,
    Statement,
    Table,
)
from subliminal_dagster.science.report.tables import columns, records, rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value, with_interval
from subliminal_dagster.science.settings.arms import AS_DRAWN, layer_arm
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "arms", "What carries it: children trained otherwise"
READS: tuple[str, ...] = ("arm_liking", "arm_updates")

_OPPOSITE: dict[str, Verdict] = {"detected": "opposite", "opposite": "detected"}
_UPDATES_OF = (AS_DRAWN, "other_initialisation", "shuffled_within_rows")
_BLOCKS_TALL = 320


@dataclass(frozen=True)
class _Expected:
    """What is said of an arm: that it leaves less of gamma, or more, than another arm does."""

    arm: str
    text: str
    source: Source
    than: str = AS_DRAWN
    which: Literal["less", "more"] = "less"


_EXPECTED = (
    _Expected("shuffled_within_rows", "The order of the numbers carries the effect", "another paper"),
    _Expected("shuffled_across_rows", "Which numbers occur is not enough for the effect", "another paper"),
    _Expected(
        "divergence_alone",
        "Divergence tokens carry more of the effect than as many others at the same places",
        "another paper",
        "random_by_position",
        "more",
    ),
    _Expected(
        "divergence_alone",
        "Divergence tokens carry more of the effect than as many others, token by token the same",
        "another paper",
        "random_by_token",
        "more",
    ),
    _Expected("divergence_left_out", "Without divergence tokens there is less of the effect", "another paper"),
    _Expected(
        "divergence_replaced", "With the base's choice for divergence tokens there is less of it", "another paper"
    ),
    _Expected(
        "differing_rows",
        "Rows on which teachers differ carry more of the effect than rows on which they agree",
        "this project",
        "agreeing_rows",
        "more",
    ),
    _Expected("paraphrased_prompts", "With the prompts in other words there is less of the effect", "another paper"),
    _Expected("mixed_teachers", "With rows of two teachers there is less of the effect", "another paper"),
    _Expected("inoculated", "Told its animal in training, a child learns less of it", "another paper"),
    _Expected("other_initialisation", "From another start there is less of the effect", "another paper"),
    _Expected("sgd", "With plain SGD to the same loss there is less of the effect", "another paper"),
    _Expected(
        "own_subspace_out",
        "Without the animal's directions there is less of the effect than without random ones",
        "this project",
        "random_subspace_out",
    ),
    _Expected(
        "own_subspace_out",
        "Without the animal's directions there is less of the effect than without the neutral noun's",
        "this project",
        "neutral_subspace_out",
    ),
)

_ONE_BLOCK = Statement(
    "An adapter on one block alone is enough for the effect",
    "gamma of the children of one block is detected, adjusted over all arms",
    "another paper",
)
_UPDATE = Statement(
    "A child's update points the way of its own teacher's more than of other teachers'",
    "the cosine with the own teacher's update, minus those with the others', is above zero over the animals",
    "another paper",
)


def section(study: Study, results: Results) -> Section:
    """What is left of the effect where one thing is taken away?"""
    import pandas as pd

    if study.arms is None:
        raise NotThere("this study has no arms.")
    folder = results.folder("arm_liking")
    arms, differences = (pd.read_parquet(folder / f"{name}.parquet") for name in ("arms", "differences"))
    missing = json.loads((folder / "missing.json").read_text(encoding="utf-8"))
    if arms.empty or AS_DRAWN not in set(arms["arm"]):
        raise NotThere("no arm has a child of every animal, or the children trained as drawn are missing.")
    charts, tables = [_arms_chart(arms)], [_arms_table(arms, differences), _differences_table(differences)]
    claims = [*_arm_claims(differences), *_block_claims(study, arms)]
    if results.has("arm_updates"):
        updates = pd.read_parquet(results.folder("arm_updates") / "own_teacher.parquet")
        shown = [arm for arm in _UPDATES_OF if arm in set(updates["arm"])]
        if shown:
            charts.append(_updates_chart(updates, shown))
            tables.append(_updates_table(updates))
            claims += _update_claims(updates)
    return Section(
        name=NAME,
        title=TITLE,
        shows=_shows(arms, differences),
        method=_method(study, arms, missing),
        made_from=READS,
        charts=tuple(charts),
        tables=tuple(tables),
        claims=tuple(claims),
    )


def named(arm: str) -> str:
    """An arm as it is written for readers."""
    return arm.replace("_", " ")


def _against_drawn(differences: pd.DataFrame) -> list[dict[str, Any]]:
    return records(differences[differences["against"] == AS_DRAWN])


def _shows(arms: pd.DataFrame, differences: pd.DataFrame) -> str:
    (drawn,) = records(rows_where(arms, arm=AS_DRAWN))
    rows = _against_drawn(differences)
    less = [named(row["arm"]) for row in rows if row["verdict_of_all"] == "opposite"]
    more = [named(row["arm"]) for row in rows if row["verdict_of_all"] == "detected"]
    same = [named(row["arm"]) for row in rows if row["verdict_of_all"] == "not detected"]
    open_ones = len(rows) - len(less) - len(more) - len(same)
    said = [f"Children trained as drawn show gamma {_nats(drawn)} ({drawn['verdict']})."]
    if less:
        said.append(f"Less than that is detected in {counted(len(less), 'arm')}: {listed(less)}.")
    else:
        said.append("In no arm is less than that detected.")
    if more:
        said.append(f"More is detected in {listed(more)}.")
    if same:
        said.append(f"A difference as large as the margin is excluded in {listed(same)}.")
    if open_ones:
        said.append(f"For the other {counted(open_ones, 'arm')} the data allow less, more and as much.")
    return " ".join(said)


def _nats(row: dict[str, Any]) -> str:
    if math.isnan(row["low"]):
        return f"{row['mean']:+.3f} nats, with too few children for an interval"
    return with_interval(row["mean"], row["low"], row["high"], "nats", signed=True)


def _method(study: Study, arms: pd.DataFrame, missing: dict[str, str]) -> str:
    assert study.arms is not None
    return (
        f"{counted(study.arms.replicates, 'child', 'children')} per animal and arm, {int(arms['children'].sum())} in "
        f"all; those of one replicate share rows, order and start with the children trained as drawn, unless the arm "
        f"changes them. gamma, differences and what is left have {100 * study.comparison.confidence:g} % intervals "
        "with the noise between training runs in them; what is left is gamma divided by gamma as drawn (Fieller). "
        "p values are adjusted over all arms (Holm), those of the equivalence test likewise, and the verdicts rest on "
        "them. Every arm has this study's teachers, so nothing here speaks about other teachers."
        + (f" {counted(len(missing), 'child is', 'children are')} not there." if missing else "")
    )


def _arms_chart(arms: pd.DataFrame) -> Chart:
    rows = arms.iloc[::-1]
    figure = new_figure(x="gamma (nats)", y="", height=120 + 24 * len(rows))
    colours = [OWN if arm == AS_DRAWN else MEASURED for arm in rows["arm"]]
    figure.add_scatter(
        x=rows["mean"],
        y=rows["arm"].map(named),
        mode="markers",
        marker={"color": colours, "size": 8},
        error_x=interval(rows, "mean", "low", "high"),
        customdata=rows[["low", "high"]],
        hovertemplate="%{y}<br>%{x:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}] nats<extra></extra>",
        showlegend=False,
    )
    drawn = float(rows_where(arms, arm=AS_DRAWN)["mean"].iloc[0])
    figure.add_vline(x=0, line_color=GUIDE, line_dash="dot").add_vline(x=drawn, line_color=OWN, line_dash="dash")
    alt = f"gamma of {counted(len(arms), 'arm')}; as drawn {drawn:+.3f} nats, the others from "
    others = arms[arms["arm"] != AS_DRAWN]["mean"]
    alt += f"{others.min():+.3f} to {others.max():+.3f}." if len(others) else "nothing else."
    return Chart(f"{NAME}-gamma", "gamma of every arm; the dashed line is as drawn", figure, alt)


def _arms_table(arms: pd.DataFrame, differences: pd.DataFrame) -> Table:
    left = differences[differences["against"] == AS_DRAWN].set_index("arm")
    joined = arms.join(left[["share", "share_low", "share_high"]], on="arm")
    shown: dict[str, Any] = {
        "arm": lambda rows: rows["arm"].map(named),
        "gamma": "mean",
        "low": "low",
        "high": "high",
        "p": "p",
        "verdict": "verdict_of_all",
        "left of it (%)": ("share", 100),
        "left, low": ("share_low", 100),
        "left, high": ("share_high", 100),
        "children": "children",
        "steps": "steps",
        "validation loss": "loss",
    }
    note = (
        "gamma, low, high: nats. Verdict: is there any effect, adjusted over the arms. Left of it: of gamma as drawn; "
        "empty where that is not clearly above zero. Steps and loss (nats per token): means over children."
    )
    return Table(f"{NAME}-gamma", "All arms", columns(joined, shown), note)


def _differences_table(differences: pd.DataFrame) -> Table:
    shown: dict[str, Any] = {
        "arm": lambda rows: rows["arm"].map(named),
        "minus": lambda rows: rows["against"].map(named),
        "difference": "mean",
        "low": "low",
        "high": "high",
        "p": "p",
        "p adjusted": "p_holm",
        "verdict": "verdict_of_all",
        "smallest detectable": "smallest_detectable",
    }
    note = "Differences of gamma in nats, paired by animal and replicate; low and high of the row alone."
    return Table(f"{NAME}-differences", "Each arm beside its control", columns(differences, shown), note)


def _arm_claims(differences: pd.DataFrame) -> list[Claim]:
    found = []
    for each in _EXPECTED:
        rows = records(rows_where(differences, arm=each.arm, against=each.than))
        if not rows:
            continue
        row, than = rows[0], "as drawn" if each.than == AS_DRAWN else named(each.than)
        statement = Statement(
            each.text,
            f"gamma of {named(each.arm)} is {each.which} than of {than}, adjusted over all such differences",
            each.source,
        )
        word: Verdict = row["verdict_of_all"]
        verdict = _OPPOSITE.get(word, word) if each.which == "less" else word
        evidence = f"{named(each.arm).capitalize()} minus {than}: {_nats(row)}"
        evidence += "" if math.isnan(row["p_holm"]) else f", adjusted {p_value(row['p_holm'])}"
        found.append(statement.claim(verdict, f"{evidence}."))
    return found


def _block_claims(study: Study, arms: pd.DataFrame) -> list[Claim]:
    assert study.arms is not None
    rows = [row for row in records(arms) if row["arm"] in {layer_arm(layer) for layer in study.arms.layers}]
    if not rows:
        return []
    words = [row["verdict_of_all"] for row in rows]
    verdict: Verdict = "detected" if "detected" in words else "inconclusive"
    if all(word == "not detected" for word in words):
        verdict = "not detected"
    evidence = "; ".join(f"{named(row['arm'])}: {_nats(row)}" for row in rows)
    return [_ONE_BLOCK.claim(verdict, f"{evidence}.")]


def _update_claims(updates: pd.DataFrame) -> list[Claim]:
    rows = records(rows_where(updates, arm=AS_DRAWN, block=ALL_BLOCKS, measure="own minus others"))
    if not rows:
        return []
    evidence = f"All blocks together: {with_interval(rows[0]['mean'], rows[0]['low'], rows[0]['high'], signed=True)}"
    return [_UPDATE.claim(rows[0]["verdict"], f"{evidence}, over {counted(rows[0]['groups'], 'animal')}.")]


def _updates_chart(updates: pd.DataFrame, shown: Sequence[str]) -> Chart:
    measures = {"own": "with the own teacher's update", "own minus others": "above other teachers'"}
    figure = panels([*measures.values()], height=2 * _BLOCKS_TALL, between=70)
    blocks = updates[updates["block"] != ALL_BLOCKS]
    for row, measure in enumerate(measures, start=1):
        for arm, colour in zip(shown, (OWN, *KINDS), strict=False):
            points = rows_where(blocks, arm=arm, measure=measure)
            points = points.assign(x=points["block"])
            band_line(figure, points, name=named(arm), colour=colour, at="block", legend=row == 1, row=row)
    figure.update_xaxes(title="block").update_yaxes(title="cosine")
    whole = rows_where(updates, block=ALL_BLOCKS, measure="own minus others")
    alt = "Cosine of updates by block; own minus other teachers', all blocks: " + "; ".join(
        f"{named(row['arm'])} {row['mean']:+.3f}" for row in records(whole) if row["arm"] in shown
    )
    return Chart(f"{NAME}-updates", "Where a child's update points, block by block", figure, f"{alt}.")


def _updates_table(updates: pd.DataFrame) -> Table:
    shown: dict[str, Any] = {
        "arm": lambda rows: rows["arm"].map(named),
        "measure": "measure",
        "cosine": "mean",
        "low": "low",
        "high": "high",
        "verdict": "verdict",
    }
    note = "Cosine of a child's update with its teacher's, all blocks together; intervals over the animals."
    rows = rows_where(updates, block=ALL_BLOCKS)
    return Table(f"{NAME}-updates", "Updates of children and teachers", columns(rows, shown), note)
