"""What the post says about toy models, and what goes past it, checked against the tables of a toy study.

Every statement has a criterion fixed beforehand and a verdict that follows from 95 % t intervals over seeds, so that a
difference within the seeds' spread decides nothing. Ablated features are averaged within a seed first.

Belongs here: the statements, their criteria and verdicts. Does not belong here: the measures (`sweep`, `digits`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from subliminal_dagster.science.statistics import Estimate, t_interval

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["detected", "not detected", "not tested"]

Holds = Callable[[Estimate], bool]

NOTHING = 0.1
"""A share below this counts as nothing recovered, a relative difference below this as equal."""


@dataclass(frozen=True)
class Statement:
    """One statement, who makes it ("post", or "control" for what the post did not try), when it is taken to hold, what
    was measured, and whether it holds."""

    statement: str
    source: str
    criterion: str
    measured: str
    verdict: Verdict


@dataclass(frozen=True)
class _Spec:
    """A statement about one figure, before it is measured. `{k}`, `{densest}` and `{sparsest}` stand in the texts for
    the number of auxiliary features and the densities that were run.

    at: the density ("densest" and "sparsest" of those that were run), or the model of the digits.
    column: of the children, or of the digits' tables.
    """

    at: float | str
    column: str
    holds: Holds
    statement: str
    criterion: str
    source: str = "post"


def _above(bound: float) -> Holds:
    return lambda found: found.low > bound


def _below(bound: float) -> Holds:
    return lambda found: found.high < bound


def _is_one(found: Estimate) -> bool:
    return abs(found.low - 1) < NOTHING and abs(found.high - 1) < NOTHING


_ABLATED = (
    _Spec("densest", "norm_ratio", _below(NOTHING),
          "Ablated: without superposition the child does not learn the ablated feature at all.",
          f"at 1-S = {{densest:g}} the child's norm is below {NOTHING:g} of the teacher's"),
    _Spec(0.1, "recovered", _above(1 - NOTHING),
          "Ablated: at 1-S = 0.1 the teacher's matrix is almost completely reconstructed.",
          f"more than {1 - NOTHING:g} of the way to the ablated row of the teacher's W^T W"),
    _Spec(0.01, "norm_ratio", _is_one,
          "Ablated: at 1-S = 0.01 the child's norm equals the teacher's.",
          f"norm ratio within {NOTHING:g} of 1"),
)  # fmt: skip
_AUXILIARY = (
    _Spec("sparsest", "norm_ratio", lambda found: 0.3 <= found.mean <= 0.5 or (found.low < 0.5 and found.high > 0.3),
          "Auxiliary, k = {k}: at high sparsity the child reaches 30 to 50 % of the teacher's norms.",
          "the interval of the norm ratio at 1-S = {sparsest:g} lies in or over 0.3 to 0.5"),
    _Spec("densest", "recovered", _below(NOTHING),
          "Auxiliary, k = {k}: without superposition the child learns nothing of the teacher's features.",
          f"less than {NOTHING:g} of the way to their rows of the teacher's W^T W at 1-S = {{densest:g}}"),
)  # fmt: skip
_DIGITS = (
    _Spec("same_init", "accuracy_missing_corrected", _above(0.5),
          "Digits: a child distilled without a digit recognises it all the same, once its bias is corrected.",
          "accuracy on test images of that digit is above 0.5",
          "Hinton et al. 2015"),
    _Spec("other_init", "accuracy_missing_corrected", _above(0.5),
          "Digits: for that the child need not start where the teacher did.",
          "the same for a child from another start",
          "control"),
    _Spec("hard_labels", "accuracy_missing", _below(NOTHING),
          "Digits: a child that sees hard labels of the other digits alone never answers with it.",
          f"accuracy on that digit is below {NOTHING:g}",
          "control"),
    _Spec("same_init", "accuracy", _above(0.2),
          "Digits: a child trained on noise, on auxiliary logits alone, classifies digits.",
          "test accuracy is above 0.2, twice chance",
          "Cloud et al. 2025"),
    _Spec("other_init", "accuracy", _below(0.2),
          "Digits: from another start it does not.",
          "test accuracy is below 0.2, twice chance",
          "Cloud et al. 2025"),
)  # fmt: skip


def per_seed(
    children: pd.DataFrame, setting: str, experiment: str, density: float, column: str, auxiliary: int = 0
) -> pd.Series:
    """`column` of a setting's children at one density, averaged over ablated features: one value a seed, indexed by
    seed. Seeds whose teacher learnt no judged feature are left out; empty where the setting was not run so."""
    rows = children[
        (children["setting"] == setting)
        & (children["experiment"] == experiment)
        & (children["density"] == density)
        & (children["auxiliary"] == auxiliary)
    ]
    return rows.groupby("seed")[column].mean().dropna()


def post_statements(children: pd.DataFrame, models: pd.DataFrame, post: str) -> list[Statement]:
    """The post's own statements, checked in the setting named `post`.

    `children` and `models` are the tables of `sweep.Sweep` of both experiments.
    """
    own = children[children["setting"] == post]
    densities = {"densest": own["density"].max(), "sparsest": own["density"].min()}
    numbers = sorted(own.loc[own["experiment"] == "auxiliary", "auxiliary"].unique())

    def judged(spec: _Spec, experiment: str, k: int = 0) -> Statement:
        density = densities[spec.at] if isinstance(spec.at, str) else spec.at
        values = per_seed(own, post, experiment, density, spec.column, k)
        return _statement(spec.statement.format(k=k), spec.criterion.format(**densities), values, spec.holds)

    def ratio(k: int) -> pd.Series:
        return per_seed(own, post, "auxiliary", densities["sparsest"], "norm_ratio", k)

    teachers = models[(models["setting"] == post) & (models["experiment"] == "ablated") & (models["role"] == "teacher")]
    five = "Auxiliary: five auxiliary features do better than {k}."
    better = f"the norm ratio at 1-S = {densities['sparsest']:g} is larger, by the interval of the paired differences"
    rivals = [k for k in numbers if k != 5] if 5 in numbers else []
    return [
        *_teacher_statements(teachers, **densities),
        *(judged(spec, "ablated") for spec in _ABLATED),
        *(judged(spec, "auxiliary", k) for k in numbers for spec in _AUXILIARY),
        *(_statement(five.format(k=k), better, ratio(5) - ratio(k), _above(0)) for k in rivals),
    ]


def _teacher_statements(teachers: pd.DataFrame, densest: float, sparsest: float) -> list[Statement]:
    """Superposition of the post's teachers, a row a density and seed."""
    dense = teachers[teachers["density"] == densest].set_index("seed")["superposition"]
    means = teachers.groupby("density")["superposition"].mean().sort_index(ascending=False)
    first, last = means.iloc[0], means.iloc[-1]
    fall = max(0.0, -means.diff().min())
    return [
        _statement(
            "Without sparsity the teacher represents one feature a hidden dimension: no superposition.",
            f"||W||_F^2 / m at 1-S = {densest:g} is within {NOTHING:g} of 1",
            dense,
            _is_one,
        ),
        Statement(
            "Features per dimension grow with sparsity.",
            "post",
            f"the mean over seeds falls by no more than {NOTHING:g} from any density to the next sparser one, and more "
            "than doubles in all",
            f"from {first:.2f} at 1-S = {densest:g} to {last:.2f} at {sparsest:g}; largest fall on the way {fall:.2f}",
            "detected" if fall < NOTHING and last > 2 * first else "not detected",
        ),
    ]


def setting_statements(children: pd.DataFrame, post: str, predictions: Mapping[str, str]) -> list[Statement]:
    """What the settings other than the post's show, at the density where their children recover most.

    `predictions` maps a setting to "recovery" or "nothing", see `AutoencoderSettings`.
    """
    found = []
    for setting, prediction in predictions.items():
        rows = children[(children["setting"] == setting) & (setting != post)]
        for experiment in ("ablated", "auxiliary"):
            part = rows[rows["experiment"] == experiment]
            means = part.groupby(["auxiliary", "density"])["recovered"].mean().dropna()
            if means.empty:
                continue
            k, density = cast("tuple[int, float]", means.idxmax())
            best = per_seed(children, setting, experiment, density, "recovered", k)
            posts = per_seed(children, post, experiment, density, "recovered", k)
            superposed = part.loc[part["density"] == density, "teacher_superposition"].mean()
            if prediction == "nothing":
                said, side, holds = "nothing is recovered at any density", "below", _below(NOTHING)
            else:
                said, side, holds = "children recover here too", "above", _above(NOTHING)
            place = f"at 1-S = {density:g}{f' and k = {k}' if k else ''}"
            criterion = (
                f"recovery is {side} {NOTHING:g} where it is largest: {place}, where the teacher's superposition is "
                f"{superposed:.2f}" + (f" and the setting {post} recovers {posts.mean():.3f}" if len(posts) else "")
            )
            sentence = f"{experiment.capitalize()}, {setting}: {said}."
            found.append(_statement(sentence, criterion, best, holds, "control"))
    return found


def sparser_statements(children: pd.DataFrame) -> list[Statement]:
    """Whether recovery goes on growing beyond 1-S = 1e-3, wherever that and a sparser density were run."""
    found = []
    for _, part in children.groupby(["setting", "experiment", "auxiliary"], sort=False):
        setting, experiment, k = part.iloc[0][["setting", "experiment", "auxiliary"]]
        sparsest = part["density"].min()
        if sparsest < 1e-3 and (part["density"] == 1e-3).any():
            more, less = (per_seed(part, setting, experiment, d, "recovered", k) for d in (sparsest, 1e-3))
            sentence = (
                f"{experiment.capitalize()}, {setting}{f', k = {k}' if k else ''}: no increase beyond 1-S = 0.001."
            )
            criterion = f"recovery at {sparsest:g} minus that at 0.001 is not above 0"
            found.append(_statement(sentence, criterion, more - less, lambda e: e.low <= 0))
    return found


def digit_statements(missing: pd.DataFrame, auxiliary: pd.DataFrame) -> list[Statement]:
    """What the digits show; the tables of `digits.missing_digit` and `digits.auxiliary_logits`."""
    import pandas as pd

    both = pd.concat([missing, auxiliary])

    def measured(spec: _Spec) -> Statement:
        values = both[both["model"] == spec.at].groupby("seed")[spec.column].mean()
        return _statement(spec.statement, spec.criterion, values, spec.holds, spec.source)

    return [measured(spec) for spec in _DIGITS]


def all_statements(
    children: pd.DataFrame,
    models: pd.DataFrame,
    post: str,
    predictions: Mapping[str, str],
    missing: pd.DataFrame,
    auxiliary: pd.DataFrame,
) -> pd.DataFrame:
    """Every statement, a row each, with the fields of `Statement` as columns."""
    import pandas as pd

    return pd.DataFrame(
        [
            *post_statements(children, models, post),
            *sparser_statements(children),
            *setting_statements(children, post, predictions),
            *digit_statements(missing, auxiliary),
        ]
    )


def report(statements: pd.DataFrame) -> str:
    """The statements as Markdown."""
    lines = ["# Toy models: what was said, and what was measured", ""]
    for row in statements.itertuples():
        lines += [f"- **{row.verdict}**: {row.statement} ({row.source})", f"  {row.measured}; {row.criterion}."]
    return "\n".join(lines) + "\n"


def _statement(statement: str, criterion: str, values: pd.Series, holds: Holds, source: str = "post") -> Statement:
    values = values.dropna()
    if len(values) < 2:
        return Statement(statement, source, criterion, "not tested", "not tested")
    estimate = t_interval(values)
    measured = f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], {len(values)} seeds"
    return Statement(statement, source, criterion, measured, "detected" if holds(estimate) else "not detected")
