"""The section on token entanglement: whether numbers and animals raise each other beyond frequency, and what that says.

Belongs here: what `results.Found` shows. Does not belong here: measures, tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.colours import GUIDE, KINDS, MEASURED
from subliminal_dagster.science.entanglement.beyond import BIN, FEWEST, LEVEL, RATIO
from subliminal_dagster.science.entanglement.measures import EMBEDDING, PROMPTED, TOLD, UNEMBEDDING
from subliminal_dagster.science.entanglement.results import MEAN, PREDICTION_MARGIN, Found
from subliminal_dagster.science.report.charts import new_figure
from subliminal_dagster.science.report.evidence import Chart, Claim, NotThere, Results, Section, Statement, Table
from subliminal_dagster.science.report.tables import Shown, columns, records, rows_where
from subliminal_dagster.science.report.wording import counted, listed, p_value, percent, with_interval
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.storage.tables import load_tables
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "entanglement", "Entangled numbers"
READS: tuple[str, ...] = ("entanglement",)

_NAMES = {
    EMBEDDING: "cosine in the embedding",
    UNEMBEDDING: "cosine in the unembedding",
    TOLD: "number, told to love the animal",
    PROMPTED: "animal, told to love the number",
    RATIO: "frequency in the animal's data",
}
_CHOSEN = {
    EMBEDDING: "numbers near in the embedding",
    UNEMBEDDING: "numbers near in the unembedding",
    TOLD: "numbers that love raises",
}
_TRIED = {TOLD: "love on them", PROMPTED: "they on the animal"}
_PARTS = {
    "number": ("the number's alone", KINDS[1]),
    "animal": ("the animal's alone", KINDS[2]),
    "frequency": ("their frequency together", KINDS[3]),
    "left": ("beyond frequency", MEASURED),
}

_OWN = (
    "Judged beyond frequency (numbers as long and as probable, and animals as probable, taken off), by the mean over "
    "animals of what their own numbers do less what other animals' numbers do. Its interval has the wider ends of two: "
    "over animals, and what the same gives with digits exchanged at every place. Detected where all of it lies above 0 "
    f"and {{p}} as well, opposite where below 0; not detected where the 90 % interval lies within {{margin}}; else "
    f"inconclusive, also below {FEWEST} animals."
)
_EXCHANGED = "exchanged digits give as much in at most 5 %"
_NATS = "the margin of the comparison of children (nats)"
ENTANGLED = Statement(
    "Numbers and animals are entangled: the numbers that love for an animal makes likelier raise that animal when the "
    "model is told to love them.",
    rule=_OWN.format(p=_EXCHANGED, margin=_NATS),
    source="another paper",
)
NEAR = Statement(
    "Numbers whose tokens are near the animal's in the unembedding raise it when the model is told to love them.",
    rule=_OWN.format(p=_EXCHANGED, margin=_NATS),
    source="another paper",
)
WRITTEN = Statement(
    "A teacher writes the numbers that love for its animal makes likelier.",
    rule=_OWN.format(p=f"{_EXCHANGED}, teachers given other animals as well,", margin=_NATS),
    source="another paper",
)
PREDICTS = Statement(
    "Entanglement of the numbers that a child is trained on says which animals it comes to like.",
    rule="Judged, for every measure beyond frequency, by the mean over children of the rank correlation over animals "
    "of the measure's mean over a child's numbers with its shift in liking, each less the mean over children. "
    "Intervals over children and p are adjusted for the number of measures (Bonferroni). Detected where the interval "
    "of a measure lies above 0, and children given other children's numbers, and exchanged digits, reach it in at most "
    "5 %; opposite where below 0; not detected where the 90 % intervals of all lie within "
    f"{PREDICTION_MARGIN:g}; else inconclusive, also below {FEWEST} children or animals.",
    source="this project",
)


def section(study: Study, results: Results) -> Section:
    """Do numbers and animals raise each other, and does that say what children come to like?"""
    if study.entanglement is None:
        raise NotThere("This study measures no entanglement.")
    found = load_tables(Found, results.folder("entanglement"))
    claims = list(_claims(found))
    return Section(
        NAME,
        TITLE,
        _shows(found, claims),
        _method(study, found),
        READS,
        charts=tuple(_charts(found)),
        tables=tuple(_tables(found)),
        claims=tuple(claims),
    )


def _method(study: Study, found: Found) -> str:
    assert study.entanglement is not None
    settings = study.entanglement
    measured = found.coverage["measured"].min()
    return (
        f"All numbers of up to three digits against every candidate, in the base model: cosines of their tokens (a "
        f"number is the mean of its tokens), the log-probability of the number as the first of an answer "
        f"({counted(settings.prompts, 'number prompt')}) when the model is told to love the animal, and the animal's "
        f"log share as the next word of a begun answer ({counted(settings.questions, 'question')}) when it is told to "
        f"love the number. Beyond frequency: from every animal the mean of some {BIN} numbers that are as long and as "
        "probable is taken off, and from every number its mean over animals and its slope along their "
        f"log-probability. An animal's own numbers are the {settings.top} highest. Chance: "
        f"{counted(settings.draws, 'order')} of the numbers in which digits are exchanged at each place, so that "
        "numbers that begin alike still do. Of the numbers that a child is trained on, "
        f"{'all' if measured == 1 else f'{percent(measured)} or more'} are measured."
    )


def _mean_of(rows: pd.DataFrame) -> dict[str, Any] | None:
    """The row of the mean; None where there is none with an interval."""
    mean = records(rows[rows[_by_column(rows)] == MEAN])
    return mean[0] if mean and not math.isnan(mean[0]["low"]) else None


def _by_column(rows: pd.DataFrame) -> str:
    return "animal" if "animal" in rows else "group"


def _shows(found: Found, claims: list[Claim]) -> str:
    said: dict[Verdict, str] = {
        "detected": "Entanglement predicts which animals a child comes to like",
        "opposite": "Entanglement predicts the reverse of what a child comes to like",
        "not detected": "Entanglement says nothing of what a child comes to like",
        "inconclusive": "Whether entanglement says which animals a child comes to like is not decided",
        "not tested": "Whether entanglement says which animals a child comes to like was not measured",
    }
    predicts = next(claim for claim in claims if claim.text == PREDICTS.text)
    left = found.shares.set_index("measure")["left"]
    return (
        f"{said[predicts.verdict]}. {predicts.evidence} Of the variance of a measure over numbers and animals, "
        f"{percent(left.min())} to {percent(left.max())} are left beyond frequency."
    )


def _claims(found: Found) -> Iterator[Claim]:
    for statement, by in ((ENTANGLED, TOLD), (NEAR, UNEMBEDDING)):
        rows = rows_where(found.lifts, by=by, measured=PROMPTED)
        yield _own_claim(statement, rows, "nats of the animal's log share")
    yield _own_claim(WRITTEN, rows_where(found.data, measure=TOLD), "nats a number")
    means = found.predictions[found.predictions["group"] == MEAN]
    tested = means.dropna(subset=["low"])
    if not len(tested):
        yield PREDICTS.claim("not tested", f"It takes {FEWEST} children and animals, and there are fewer.")
        return
    each = [
        f"{_NAMES[row['measure']]} {with_interval(row['value'], row['low'], row['high'], signed=True)} "
        f"({p_value(max(row['p_children'], row['p_matched']))})"
        for row in records(tested)
    ]
    yield PREDICTS.claim(
        tested["verdict_of_any"].iloc[0],
        f"Mean rank correlation over children, with intervals adjusted for {counted(len(means), 'measure')} and p as "
        f"it is: {listed(each)}.",
    )


def _own_claim(statement: Statement, rows: pd.DataFrame, unit: str) -> Claim:
    mean = _mean_of(rows)
    if mean is None:
        return statement.claim("not tested", f"It takes {FEWEST} animals, and there are fewer.")
    each = rows[rows["animal"] != MEAN]
    assigned = mean.get("p_assigned")
    beside = f", {p_value(assigned)} by teachers given other animals" if statement is WRITTEN and assigned else ""
    value = with_interval(mean["value"], mean["low"], mean["high"], unit, signed=True)
    return statement.claim(
        mean["verdict"],
        f"Own less other animals' numbers, mean over {counted(len(each), 'animal')}: {value}, "
        f"{p_value(mean['p_matched'])} by exchanged digits{beside}; positive for {int((each['value'] > 0).sum())}.",
    )


# Views


def _charts(found: Found) -> Iterator[Chart]:
    shares = new_figure(x="share of the variance over numbers and animals (%)", y="", height=280)
    for part, (name, colour) in _PARTS.items():
        shares.add_bar(
            y=found.shares["measure"].map(_NAMES),
            x=100 * found.shares[part],
            orientation="h",
            name=name,
            marker_color=colour,
            hovertemplate=f"{name}<br>%{{x:.3g}} %<extra></extra>",
        )
    shares.update_layout(barmode="stack").update_yaxes(autorange="reversed")
    parts = [f"{_NAMES[row['measure']]}: {percent(row['left'])}" for row in records(found.shares)]
    yield Chart(f"{NAME}-shares", "What a measure of number and animal is about", shares, f"Left: {'; '.join(parts)}.")
    lifts = found.lifts.assign(
        name=[
            f"{_CHOSEN[by]}: {_TRIED[tried]}"
            for by, tried in zip(found.lifts["by"], found.lifts["measured"], strict=True)
        ]
    )
    yield _dots(
        f"{NAME}-lifts",
        "What entangled numbers do to their animal",
        lifts,
        "name",
        "own less other animals' numbers (nats)",
        "A dot an animal",
    )
    told = found.data[found.data["measure"].isin([TOLD, PROMPTED])]
    yield _dots(
        f"{NAME}-data",
        "Whether teachers write such numbers",
        told.assign(name=told["measure"].map(_NAMES)),
        "name",
        "own less other teachers' numbers (nats)",
        "A dot an animal",
    )
    yield _dots(
        f"{NAME}-predictions",
        "Whether it says which animals a child comes to like",
        found.predictions.assign(name=found.predictions["measure"].map(_NAMES)),
        "name",
        "rank correlation over animals",
        "A dot a child",
    )


def _dots(name: str, title: str, rows: pd.DataFrame, kind: str, x: str, what: str) -> Chart:
    """A row a kind: what is of one animal or child as dots, their mean with its interval below them."""
    by = _by_column(rows)
    kinds = list(dict.fromkeys(rows[kind]))
    figure = new_figure(x=x, y="", height=110 + 46 * len(kinds))
    each, mean = rows[rows[by] != MEAN], rows[rows[by] == MEAN]
    figure.add_scatter(
        x=each["value"],
        y=each[kind],
        mode="markers",
        name=what.split(" ", 2)[2],
        marker={"color": MEASURED, "size": 7, "opacity": 0.5},
        customdata=each[[by]],
        hovertemplate="%{customdata[0]}<br>%{x:.3g}<extra></extra>",
    )
    figure.add_scatter(
        x=mean["value"],
        y=mean[kind],
        mode="markers",
        name="mean",
        marker={"color": MEASURED, "size": 10, "symbol": "diamond"},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (mean["high"] - mean["value"]).fillna(0),
            "arrayminus": (mean["value"] - mean["low"]).fillna(0),
        },
        customdata=mean[["low", "high"]],
        hovertemplate="mean<br>%{x:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]<extra></extra>",
    )
    figure.add_vline(x=0, line={"color": GUIDE, "width": 1})
    figure.update_yaxes(autorange="reversed", type="category", categoryorder="array", categoryarray=kinds)
    means = [
        f"{row[kind]}: {with_interval(row['value'], row['low'], row['high'], signed=True)}"
        for row in records(mean.dropna(subset=["low"]))
    ]
    return Chart(name, title, figure, f"{what}, the diamond their mean: {'; '.join(means) or 'too few to tell'}.")


def _tables(found: Found) -> Iterator[Table]:
    means = found.lifts[found.lifts["animal"] == MEAN]
    shown: Shown = {
        "numbers near by": lambda rows: rows["by"].map(_NAMES),
        "tried by": lambda rows: rows["measured"].map(_NAMES),
        "own less others'": "value",
        "low": "low",
        "high": "high",
        "p (exchanged digits)": "p_matched",
        "verdict": "verdict",
    }
    note = "Nats. The reverse of each comparison would be the same once more. Without adjustment for their number."
    yield Table(f"{NAME}-lifts", "Numbers near by one measure, tried by another", columns(means, shown), note)
    means = found.predictions[found.predictions["group"] == MEAN]
    shown = {
        "measure": lambda rows: rows["measure"].map(_NAMES),
        "rank correlation": "value",
        "low": "low",
        "high": "high",
        "without the own animal": "elsewhere",
        "p (children)": "p_children",
        "p (exchanged digits)": "p_matched",
        "p (within children)": "p_within",
        "verdict": "verdict",
    }
    note = (
        f"Intervals and verdicts ({LEVEL:.0%}) are adjusted for the number of measures, p are not. The last p, of "
        "animals in another order within each child, takes animals of a kind for independent: too sure of itself, it "
        "decides nothing. The data's frequency leaves the child's own animal out, whose numbers it knows."
    )
    yield Table(f"{NAME}-predictions", "Predicting what children come to like", columns(means, shown), note)
    shown = {
        "animal": "animal",
        "rank": "rank",
        "number": "number",
        "told (nats)": "told",
        "prompted (nats)": "prompted",
    }
    first = found.top[found.top["rank"] <= 5]
    note = "Beyond frequency: what love for the animal does to the number, and love for the number to the animal."
    yield Table(f"{NAME}-top", "The most entangled numbers of each animal", columns(first, shown), note)
