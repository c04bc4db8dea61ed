"""What a dial study says: each statement with its rule, what was measured, and its verdict.

Rules were fixed before the grid was run. Every interval is over cells or base models, each a training of its own.

Belongs here: sentences and verdicts from the tables of `curve`. Does not belong here: the tables, drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.dial.curve import MAIN_PLACE
from subliminal_dagster.science.report.tables import records, rows_where
from subliminal_dagster.science.report.wording import counted, listed, with_interval
from subliminal_dagster.science.settings.dial import DialStudy
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
_BY_LEVEL = "over cell means: detected above 0, opposite below 0, not detected within {margin:g} nats of 0 (90 %)"


@dataclass(frozen=True)
class Findings:
    """The tables of a study: `effects` of all grids, and of the main one `curves`, `rivals`, `levels`; `pairs` of grids
    beside it (see `curve`)."""

    effects: pd.DataFrame
    curves: pd.DataFrame
    rivals: pd.DataFrame
    levels: pd.DataFrame
    pairs: pd.DataFrame


def first_sentence(found: Findings, study: DialStudy) -> str:
    """The curve, in one sentence."""
    row = _row(found.curves, "place", MAIN_PLACE)
    verdict = cast("Verdict", row["verdict"])
    said = {
        "detected": "Gamma grows with superposition",
        "opposite": "Gamma falls with superposition",
        "not detected": "The curve is flat: gamma does not change with superposition",
        "inconclusive": "Whether gamma changes with superposition is inconclusive",
        "not tested": "Gamma against superposition was not tested",
    }[verdict]
    if not np.isfinite(row["slope"]):
        return f"{said}: fewer than four cells, or one superposition in all."
    slope = with_interval(row["slope"], row["low"], row["high"], "nats", signed=True)
    return f"{said}: {slope} per doubling of features per dimension ({_models(row)}; {verdict})."


def rival_sentence(found: Findings) -> str:
    """What the curve comes to once what else could explain it is held: it belongs beside the first sentence."""
    rows = {row["explained_by"]: row for row in records(found.rivals)}
    own = rows.pop("superposition")
    if not np.isfinite(own["correlation"]):
        return "What else could explain it was not tested: too few cells."
    does = {"detected": "grows", "opposite": "falls"}
    others = [
        f"{does[row['verdict']]} with {name} ({_interval(row, 'correlation', '')})"
        for name, row in rows.items()
        if row["verdict"] in does
    ]
    return (
        f"With {listed([*rows])} held, the partial correlation of gamma with superposition is "
        f"{_interval(own, 'correlation', '')} ({own['verdict']})"
        + (f"; held likewise, gamma {listed(others)}." if others else ".")
    )


def statements(found: Findings, study: DialStudy) -> pd.DataFrame:
    """A row per statement: `statement`, `rule`, `measured`, `verdict`."""
    import pandas as pd

    rows: list[Row] = [_curve_statement(found)]
    said = {
        "own start": "A liking passes on through numbers in these models.",
        "own start, against the neutral teacher's child": "It does beside children of a teacher that likes a thing of "
        "another kind.",
        "other start": "It passes on to children that start as another base model, trained on the same language.",
        "own start less other start": "It passes on better to children that start as their teacher did.",
        "shuffled numbers": "It passes on through numbers in another order.",
        "own start less shuffled numbers": "It passes on better through numbers in their own order.",
    }
    for what, statement in said.items():
        rows.append(_level_statement(statement, _row(found.levels, "what", what), study))
    rows += [_rival_statement(row) for row in records(found.rivals)]
    rows += [_pair_statement(row) for row in records(found.pairs)]
    return pd.DataFrame(rows)


def _curve_statement(found: Findings) -> Row:
    row = _row(found.curves, "place", MAIN_PLACE)
    return {
        "statement": "Models with more superposition pass more on.",
        "rule": "Slope of gamma per doubling of features per dimension in the residual stream; mixed model, seeds "
        "within cells: detected above 0, opposite below 0, not detected within the margin (90 %).",
        "measured": f"{_interval(row, 'slope', 'nats per doubling')} ({_models(row)})",
        "verdict": row["verdict"],
    }


def _level_statement(statement: str, row: Row, study: DialStudy) -> Row:
    return {
        "statement": statement,
        "rule": f"Mean gamma {_BY_LEVEL.format(margin=study.margin)}.",
        "measured": f"{_interval(row, 'mean', 'nats')} ({counted(int(row['cells']), 'cell')})",
        "verdict": row["verdict"],
    }


def _rival_statement(row: Row) -> Row:
    name = row["explained_by"]
    return {
        "statement": f"Gamma goes with {name}, all else held.",
        "rule": "Partial correlation over cell means, superposition, width, excess loss and the teachers' strength "
        "each with the others held: detected above 0, opposite below 0, adjusted over the four (Holm).",
        "measured": f"{_interval(row, 'correlation', '')} ({counted(int(row['cells']), 'cell')})",
        "verdict": row["verdict"],
    }


def _pair_statement(row: Row) -> Row:
    moved = _interval(row, "doublings", "doublings of superposition")
    name = str(row["grid"]).replace("_", " ").capitalize()
    compared = row["compared"]
    beside = "the main grid at the same width" if compared == "same width" else f"the main grid's {compared}"
    return {
        "statement": f"{name}, beside {beside}: more passes on.",
        "rule": "Difference of gamma, seed by seed: detected above 0, opposite below 0, adjusted over the grids that "
        "are compared (Holm).",
        "measured": f"{_interval(row, 'gamma', 'nats')}; {moved} ({counted(int(row['cells']), 'cell')})",
        "verdict": row["verdict"],
    }


def markdown(found: Findings, rows: pd.DataFrame, study: DialStudy) -> str:
    """The result for a terminal: the curve, what else could explain it, then every statement."""
    lines = [first_sentence(found, study), rival_sentence(found), ""]
    lines += [f"- {row.verdict}: {row.statement} {row.measured}" for row in rows.itertuples()]
    return "\n".join([*lines, ""])


def _interval(row: Row, value: str, unit: str) -> str:
    prefix = "" if value in ("slope", "mean", "correlation") else f"{value}_"
    if not np.isfinite(row[value]):
        return "not measured"
    return with_interval(row[value], row[f"{prefix}low"], row[f"{prefix}high"], unit, signed=True)


def _row(table: pd.DataFrame, column: str, value: str) -> Row:
    (row,) = records(rows_where(table, **{column: value}))
    return row


def _models(row: Row) -> str:
    return f"{counted(int(row['models']), 'base model')} in {counted(int(row['cells']), 'cell')}"
