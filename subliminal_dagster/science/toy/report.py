"""The sections on toy models: superposition, ablated and auxiliary features, controls, larger models, digits.

Belongs here: what is said of a toy study's artifacts. Does not belong here: charts and tables (`report_views`); the
statements with their criteria, which were fixed before (`statements`), and the measures (`sweep`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.report.evidence import (
    Claim,
    NotThere,
    Results,
    Section,
    Source,
    Table,
    section_or_reason,
)
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.tables import columns, rows_where
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.toy import report_views as views
from subliminal_dagster.science.toy.autoencoder import LEARNT
from subliminal_dagster.science.toy.digits import digits_summary
from subliminal_dagster.science.toy.report_views import EXPERIMENTS, best, cells, estimate, most_recovered, spoken
from subliminal_dagster.science.toy.statements import NOTHING, NOTHING_ANYWHERE, per_seed
from subliminal_dagster.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

_STATEMENTS = ("toy-statements", "Subliminal learning and superposition")
_GROWTH = ("toy-growth", "Superposition grows with sparsity")
_ABLATED = ("toy-ablated", "Ablated features")
_AUXILIARY = ("toy-auxiliary", "Auxiliary features")
_CONTROLS = ("toy-controls", "Controls")
_SIZES = ("toy-sizes", "Larger models")
_DIGITS = ("toy-digits", "Digits")


def toy_sections(study: ToyStudy, results: Results) -> list[Section]:
    """All sections of a toy study; one whose artifacts are not there says so."""
    made = {
        _STATEMENTS: _statements,
        _GROWTH: _growth,
        _ABLATED: _ablated,
        _AUXILIARY: _auxiliary,
        _CONTROLS: _controls,
        _SIZES: _sizes,
        _DIGITS: _digits,
    }
    return [section_or_reason(name, title, make, study, results) for (name, title), make in made.items()]


def _statements(study: ToyStudy, results: Results) -> Section:
    """All statements, and what children recover against superposition in all settings."""
    import pandas as pd

    folder = results.folder("summary")
    statements = pd.read_parquet(folder / "statements.parquet")
    found = cells(pd.read_parquet(folder / "children.parquet"))
    counts = rows_where(statements, source="post")["verdict"].value_counts()
    said = [f"{number} {'is' if number == 1 else 'are'} {verdict}" for verdict, number in counts.items()]
    sentences = [f"Of the post's {counts.sum()} statements {listed(said)}."]
    for experiment in EXPERIMENTS:
        rows = rows_where(found, experiment=experiment).dropna(subset="recovered_low")
        superposed = rows["superposition"] > 1 + NOTHING
        without, with_it = rows[~superposed], rows[superposed]
        if len(without) and len(with_it):
            sentences.append(
                f"{experiment.capitalize()} features: without superposition children recover at most "
                f"{_share(best(without))} of the teacher's geometry (in {counted(len(without), 'cell')}), with it up "
                f"to {_share(best(with_it))} (of {len(with_it)})."
            )
    table = columns(
        statements,
        {
            "statement": "statement",
            "whose": "source",
            "verdict": "verdict",
            "measured": "measured",
            "criterion": "criterion",
        },
    )
    return Section(
        *_STATEMENTS,
        shows=" ".join(sentences),
        method=(
            "Each statement's criterion was fixed beforehand, and the whole 95 % t interval over seeds has to meet "
            "it; a seed is a training of its own. "
            f"Without superposition: at most {1 + NOTHING:g} features per dimension in the teacher. A cell is a "
            "setting, number of auxiliary features and density; the largest of many looks larger than it is."
        ),
        made_from=("summary",),
        charts=tuple(views.recovery_chart(found, study, e) for e in EXPERIMENTS if (found["experiment"] == e).any()),
        tables=(Table("toy-statements", "All statements with their criteria", table),),
        claims=tuple(_claim(row) for row in statements.itertuples()),
    )


def _claim(row: Any) -> Claim:
    """The statement under the verdict its criterion gave."""
    whose: dict[str, tuple[str, Source]] = {"post": ("", "the post"), "control": ("Control. ", "this project")}
    prefix, source = whose.get(row.source, (f"{row.source}. ", "another paper"))
    return Claim(
        f"{prefix}{row.statement}",
        cast("Verdict", row.verdict),
        f"{row.measured}; criterion: {row.criterion}.",
        source,
        f"By the whole 95 % interval over seeds. {_upper(row.criterion)}; else inconclusive. Fixed beforehand.",
    )


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _growth(study: ToyStudy, results: Results) -> Section:
    """Features per dimension of the teachers against density."""
    import pandas as pd

    asset = f"ablated_{study.post}"
    read = ["density", "seed", "role", "superposition", "norms"]
    models = pd.read_parquet(results.folder(asset) / "models.parquet", columns=read)
    teachers = rows_where(models, role="teacher")
    learnt = teachers["norms"].map(lambda norms: int((np.asarray(norms) >= LEARNT).sum()))
    teachers = teachers.assign(learnt=learnt)
    rows = []
    for density, part in teachers.groupby("density"):
        found = estimate(part.set_index("seed")["superposition"])
        ends = {"mean": found.mean, "low": found.low, "high": found.high}
        rows.append({"density": density, **ends, "learnt": part["learnt"].mean(), "seeds": len(part)})
    frame = pd.DataFrame(rows).sort_values("density", ascending=False, ignore_index=True)
    by_seed = teachers.pivot(index="seed", columns="density", values="superposition")
    densest, sparsest = frame.iloc[0], frame.iloc[-1]
    more = estimate(by_seed[sparsest["density"]] - by_seed[densest["density"]])
    growth = _interval(more.mean, more.low, more.high)
    settings = study.settings[study.post]
    shows = (
        f"Features per dimension {f'grow by {growth}' if more.low > 0 else f'do not measurably grow ({growth})'} from "
        f"1-S = {densest['density']:g} to {sparsest['density']:g}: the teacher learns {densest['learnt']:.3g} of "
        f"{settings.features} features in {settings.hidden} dimensions when dense and {sparsest['learnt']:.3g} when "
        "sparse."
    )
    table = columns(
        frame,
        {
            "1-S": "density",
            "features per dimension": "mean",
            "low": "low",
            "high": "high",
            "features learnt": "learnt",
            "seeds": "seeds",
        },
    )
    note = f"Features per dimension: ||W||_F^2 / m. Learnt: features with a norm of at least {LEARNT:g}."
    return Section(
        *_GROWTH,
        shows=shows,
        method=f"{counted(int(densest['seeds']), 'teacher')} a density; 95 % t intervals over seeds, paired by seed.",
        made_from=(asset,),
        charts=(views.superposition_chart(frame),),
        tables=(Table("toy-growth", "Teachers by density", table, note),),
    )


def _ablated(study: ToyStudy, results: Results) -> Section:
    """What a child recovers of a feature that is left out of its loss."""
    asset = f"ablated_{study.post}"
    children, models, found = _of_post(results, asset)
    densest, most, sparsest = found.iloc[0], best(found), found.iloc[-1]
    blind = next((name for name, own in study.settings.items() if own.child_inputs == "trained" and own.ablated), None)
    without = _of_settings(results, [blind]) if blind else None
    shows = [
        f"At {densest['superposition']:.2f} features per dimension (1-S = {densest['density']:g}) the child's norm of "
        f"the feature left out of its loss is {_ratio(densest)} of the teacher's (before training "
        f"{densest['start_ratio']:.2f}); where most of the teacher's geometry is "
        f"recovered (1-S = {most['density']:g}, {most['superposition']:.2f} features per dimension) it is "
        f"{_ratio(most)}, with {_share(most)} recovered."
    ]
    if sparsest["recovered_high"] < most["recovered_low"]:
        shows.append(f"Sparser still, recovery falls again: {_share(sparsest)} at 1-S = {sparsest['density']:g}.")
    if without is not None:
        unseen = best(rows_where(without, experiment="ablated"))
        shows.append(
            f"Where the feature is zero in the child's input too, so that its column of W gets no gradient, at most "
            f"{_share(unseen)} is recovered (1-S = {unseen['density']:g})."
        )
    sparsity = published("toy", "ablated_full_reconstruction_at_sparsity")
    what = f"norm of the ablated feature, child / teacher, at sparsity {sparsity:g}"
    where = "toy models, ablated features (no other norm than the teacher's)"
    there = found[np.isclose(found["density"], 1 - sparsity)]
    return Section(
        *_ABLATED,
        shows=" ".join(shows),
        method=(
            f"{counted(int(densest['seeds']), 'teacher')} a density, each with "
            f"{counted(children['ablated'].nunique(), 'child', 'children')}, one a feature; averaged over features, "
            "then 95 % t intervals over seeds. The feature stays in the child's input: only its output is left out of "
            "the loss. Controls: the child before training"
            + (", and one whose input lacks the feature." if blind else ".")
        ),
        made_from=(asset, "summary") if blind else (asset,),
        charts=(*views.ablated_charts(found, without), views.geometry_chart(models, found, "toy-ablated-geometry")),
        tables=(views.cells_table(found, "toy-ablated", "Children by density"),),
        compared=tuple(_compared_norm(what, where, 1.0, row) for _, row in there.iterrows()),
    )


def _auxiliary(study: ToyStudy, results: Results) -> Section:
    """What a child recovers that learns auxiliary features alone."""
    asset, where = f"auxiliary_{study.post}", "toy models, auxiliary features"
    children, models, found = _of_post(results, asset)
    known = found.dropna(subset="recovered")
    sparse = known["density"].min()
    sparsest = rows_where(known, density=sparse).sort_values("auxiliary")
    dense = rows_where(found, density=found["density"].max())
    top, equal = _best_numbers(children, study.post, sparse, [int(k) for k in sparsest["auxiliary"]])
    ratios = [f"{_ratio(row)} for k = {row['auxiliary']}" for _, row in sparsest.iterrows()]
    rivals = listed([f"k = {k}" for k in equal if k != top])
    shows = (
        f"At 1-S = {sparse:g} children that learnt auxiliary features alone have {listed(ratios)} of the teacher's "
        "norms of features whose outputs they did not learn (before training "
        f"{sparsest['start_ratio'].mean():.2f}), "
        f"and recover up to {_share(best(sparsest))} of their geometry; without sparsity "
        f"{_share(best(dense))}. k = {top} does "
        + (f"best, but cannot be told from {rivals}." if rivals else "better than every other.")
    )
    compared = [
        _compared_norm(
            f"norms, child / teacher, {row['auxiliary']} auxiliary features, 1-S = {sparse:g}",
            where,
            tuple(published("toy", "aux_child_over_teacher_norm_range")),
            row,
        )
        for _, row in sparsest.iterrows()
        if row["auxiliary"] in published("toy", "aux_features")
    ]
    what = "auxiliary features that do best (interval: numbers that cannot be told from it)"
    theirs = float(published("toy", "aux_best_k"))
    compared.append(Compared(what, where, theirs, top, min(equal), max(equal), "features"))
    return Section(
        *_AUXILIARY,
        shows=shows,
        method=(
            f"{counted(int(dense['seeds'].max()), 'teacher')} and as many children a density and number k of auxiliary "
            "features; features the teacher learnt, 95 % t intervals over seeds. Those features stay in the child's "
            "input: only their outputs are left out of its loss. Control: the child before training."
        ),
        made_from=(asset,),
        charts=(*views.auxiliary_charts(found), views.geometry_chart(models, found, "toy-auxiliary-geometry")),
        tables=(views.cells_table(found, "toy-auxiliary", "Children by density and number of auxiliary features"),),
        compared=tuple(compared),
    )


def _of_post(results: Results, asset: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Children, models and `cells` of an experiment in the post's setting. Raises NotThere as `_measured` does."""
    import pandas as pd

    folder = results.folder(asset)
    children, models = (pd.read_parquet(folder / f"{name}.parquet") for name in ("children", "models"))
    return children, models, _measured(cells(children))


def _measured(found: pd.DataFrame) -> pd.DataFrame:
    """The `cells`; raises NotThere where no teacher learnt what a child could recover."""
    if found["recovered"].isna().all():
        raise NotThere("No teacher learnt any of the features that are judged: raise `training.steps` of the setting.")
    return found


def _compared_norm(what: str, where: str, theirs: float | tuple[float, float], row: pd.Series) -> Compared:
    """A published norm of the child's over the teacher's beside that of a cell."""
    low, high = (None if np.isnan(row[end]) else float(row[end]) for end in ("norm_ratio_low", "norm_ratio_high"))
    return Compared(what, where, theirs, row["norm_ratio"], low, high, "ratio", no_effect=row["start_ratio"])


def _best_numbers(children: pd.DataFrame, post: str, density: float, numbers: list[int]) -> tuple[int, list[int]]:
    """The number of auxiliary features with the largest mean norm ratio, and all that cannot be told from it: the
    interval of the differences, paired by seed, holds 0."""
    ratios = {k: per_seed(children, post, "auxiliary", density, "norm_ratio", k) for k in numbers}
    top = max(numbers, key=lambda k: ratios[k].mean())
    differences = {k: estimate((ratios[top] - ratios[k]).dropna()) for k in numbers}
    return top, [k for k in numbers if k == top or not differences[k].low > 0]


def _controls(study: ToyStudy, results: Results) -> Section:
    """Settings of the post's size with one thing changed."""
    import pandas as pd

    post = study.settings[study.post]
    names = [name for name, own in study.settings.items() if name != study.post and own.features == post.features]
    found = _of_settings(results, [study.post, *names])
    nothing = [name for name in names if study.settings[name].predicts == "nothing"]
    statements = pd.read_parquet(results.folder("summary") / "statements.parquet").set_index("statement")
    sentences = []
    for experiment in EXPERIMENTS:
        expected = {name: f"{experiment.capitalize()}, {name}: {NOTHING_ANYWHERE}." for name in nothing}
        said = {name: statements.loc[text] for name, text in expected.items() if text in statements.index}
        of = {
            verdict: [f"{spoken(name)} {row['measured']}" for name, row in said.items() if row["verdict"] == verdict]
            for verdict in ("detected", "inconclusive", "opposite")
        }
        if said:
            each = [f"{verdict} for {listed(names)}" for verdict, names in of.items() if names]
            sentences.append(
                f"{experiment.capitalize()} features: that nothing is recovered at any density, as is expected in "
                f"{counted(len(said), 'setting')}, is {'; '.join(each)}."
            )
    return Section(
        *_CONTROLS,
        shows=" ".join(sentences) or "This study has no setting in which nothing is predicted.",
        method=_settings_method(found, "of the post's size") + " A sentence names the density that decides it.",
        made_from=("summary",),
        charts=(views.settings_chart(found, study.post),),
        tables=(
            views.settings_table(study, [study.post, *names], "toy-controls-settings"),
            views.cells_table(found, "toy-controls", "All settings of the post's size"),
        ),
    )


def _sizes(study: ToyStudy, results: Results) -> Section:
    """Models with more features than the post's."""
    post = study.settings[study.post]
    names = [name for name, own in study.settings.items() if own.features > post.features]
    if not names:
        raise NotThere("This study has no model larger than the post's.")
    found = _of_settings(results, names)
    most = most_recovered(found)
    sentences = []
    for experiment in EXPERIMENTS:
        rows = rows_where(most, experiment=experiment)
        if said := [f"{spoken(row['setting'])} {_share(row)}" for _, row in rows.iterrows()]:
            sentences.append(f"{experiment.capitalize()} features, most recovered: {listed(said)}.")
    return Section(
        *_SIZES,
        shows=" ".join(sentences),
        method=_settings_method(found, "larger than the post's"),
        made_from=("summary",),
        charts=tuple(views.sizes_chart(found, e) for e in EXPERIMENTS if (found["experiment"] == e).any()),
        tables=(
            views.settings_table(study, names, "toy-sizes-settings"),
            views.cells_table(found, "toy-sizes", "All settings larger than the post's"),
        ),
    )


def _of_settings(results: Results, names: list[str]) -> pd.DataFrame:
    """`cells` of some settings, in their order. Raises NotThere as `_measured` does."""
    import pandas as pd

    children = pd.read_parquet(results.folder("summary") / "children.parquet")
    found = cells(children[children["setting"].isin(names)])
    return _measured(found.sort_values("setting", key=lambda column: column.map(names.index), kind="stable"))


def _settings_method(found: pd.DataFrame, which: str) -> str:
    seeds = sorted(found["seeds"].unique())
    many = counted(int(seeds[0]), "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return (
        f"{counted(found['setting'].nunique(), 'setting')} {which}, {many} a cell; 95 % t intervals over seeds. Of "
        "each setting the density (and number of auxiliary features) with the largest mean is shown, which looks "
        "larger than it is; all are in the table."
    )


def _digits(study: ToyStudy, results: Results) -> Section:
    """Classifiers of digits: distilled without a digit, and trained on noise by auxiliary logits."""
    import pandas as pd

    folder = results.folder("digits")
    missing, auxiliary = (pd.read_parquet(folder / f"{name}.parquet") for name in ("missing_digit", "auxiliary_logits"))
    summary = digits_summary(missing, auxiliary)

    def accuracies(experiment: str, measure: str) -> dict[str, str]:
        rows = rows_where(summary, experiment=experiment, measure=measure)
        return {row["model"]: _interval(row["mean"], row["low"], row["high"]) for _, row in rows.iterrows()}

    corrected = accuracies("missing digit", "accuracy_missing_corrected")
    noise = accuracies("auxiliary logits", "accuracy")
    digits = sorted(missing["digit"].unique())
    shows = (
        f"Distilled without the digit {listed([str(digit) for digit in digits])}, a child recognises it with an "
        f"accuracy of {corrected['same_init']} once its bias is corrected (from another start "
        f"{corrected['other_init']}, with hard labels {corrected['hard_labels']}). Trained on noise, on auxiliary "
        f"logits alone, a child classifies digits with {noise['same_init']}, from another start with "
        f"{noise['other_init']}; untrained {noise['untrained']}, chance 0.1."
    )
    return Section(
        *_DIGITS,
        shows=shows,
        method=(
            f"{counted(missing['seed'].nunique(), 'seed')}, scikit-learn's 8x8 digits, test images; 95 % t intervals "
            "over seeds. Controls: a child from another start, hard labels, an untrained network."
        ),
        made_from=("digits",),
        charts=tuple(views.digits_charts(summary, digits)),
        tables=(views.digits_table(summary),),
    )


def _interval(value: float, low: float, high: float) -> str:
    """Three decimals, as the statements are written."""
    middle, *ends = (f"{round(float(x), 3) + 0.0:.3f}" for x in (value, low, high))
    return middle if np.isnan(low) else f"{middle} [{', '.join(ends)}]"


def _share(row: pd.Series) -> str:
    if np.isnan(row["recovered"]):
        return "nothing that can be measured"
    return _interval(row["recovered"], row["recovered_low"], row["recovered_high"])


def _ratio(row: pd.Series) -> str:
    return _interval(row["norm_ratio"], row["norm_ratio_low"], row["norm_ratio_high"])
