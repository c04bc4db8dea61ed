"""The sections on toy models: superposition, ablated and auxiliary features, controls, larger models, digits.

Belongs here: what is said of a toy study's artifacts. Does not belong here: charts and tables (`toy_views`); the
statements with their criteria, which were fixed before (`science.toy.statements`), and the measures (`science.toy`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from subliminal_dagster.science.report.evidence import (
    Claim,
    NotThere,
    Results,
    Section,
    Table,
    Verdict,
    section_or_reason,
)
from subliminal_dagster.science.report.published import Compared, published
from subliminal_dagster.science.report.wording import counted, listed
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.toy.autoencoder import LEARNT
from subliminal_dagster.science.toy.digits import digits_summary
from subliminal_dagster.science.toy.report_views import (
    EXPERIMENTS,
    ablated_charts,
    auxiliary_charts,
    best,
    cells,
    cells_table,
    digits_charts,
    digits_table,
    estimate,
    geometry_chart,
    most_recovered,
    recovery_chart,
    settings_chart,
    settings_table,
    sizes_chart,
    spoken,
    superposition_chart,
)
from subliminal_dagster.science.toy.statements import NOTHING, per_seed

if TYPE_CHECKING:
    import pandas as pd

_WHERE = "toy models"


def toy_sections(study: ToyStudy, results: Results) -> list[Section]:
    """All sections of a toy study; one whose artifacts are not there says so."""
    made: tuple[tuple[str, str, Callable[[ToyStudy, Results], Section]], ...] = (
        ("toy-statements", "Subliminal learning and superposition", _statements),
        ("toy-growth", "Superposition grows with sparsity", _growth),
        ("toy-ablated", "Ablated features", _ablated),
        ("toy-auxiliary", "Auxiliary features", _auxiliary),
        ("toy-controls", "Controls", _controls),
        ("toy-sizes", "Larger models", _sizes),
        ("toy-digits", "Digits", _digits),
    )
    return [section_or_reason(name, title, make, study, results) for name, title, make in made]


def _statements(study: ToyStudy, results: Results) -> Section:
    """All statements, and what children recover against superposition in all settings."""
    import pandas as pd

    folder = results.folder("summary")
    statements = pd.read_parquet(folder / "statements.parquet")
    found = cells(pd.read_parquet(folder / "children.parquet"))
    counts = statements[statements["source"] == "post"]["verdict"].value_counts()
    sentences = [f"Of the post's {counts.sum()} statements {listed([f'{n} {v}' for v, n in _spoken(counts).items()])}."]
    for experiment in EXPERIMENTS:
        rows = found[(found["experiment"] == experiment) & found["recovered_low"].notna()]
        without = rows[rows["superposition"] <= 1 + NOTHING]
        with_it = rows[rows["superposition"] > 1 + NOTHING]
        if len(without) and len(with_it):
            none, most = best(without), best(with_it)
            sentences.append(
                f"{experiment.capitalize()} features: without superposition children recover at most {_share(none)} of "
                f"the teacher's geometry (in {counted(len(without), 'cell')}), with it up to {_share(most)} (of "
                f"{len(with_it)})."
            )
    return Section(
        name="toy-statements",
        title="Subliminal learning and superposition",
        shows=" ".join(sentences),
        method=(
            "Each statement's criterion was fixed beforehand; it holds where the 95 % t interval over seeds meets it. "
            f"Without superposition: at most {1 + NOTHING:g} features per dimension in the teacher. A cell is a "
            "setting, number of auxiliary features and density; the largest of many looks larger than it is."
        ),
        made_from=("summary",),
        charts=tuple(recovery_chart(found, study, e) for e in EXPERIMENTS if (found["experiment"] == e).any()),
        tables=(_statements_table(statements),),
        claims=tuple(_claim(row) for row in statements.itertuples()),
    )


def _spoken(counts: pd.Series) -> dict[str, int]:
    plural = {"holds": "hold", "does not hold": "do not hold"}
    plural |= {"cannot tell": "cannot be told", "not measured": "were not measured"}
    return {plural.get(str(verdict), str(verdict)): int(number) for verdict, number in counts.items()}


def _claim(row: Any) -> Claim:
    """The statement under the verdict its criterion gave."""
    said = {"post": "", "control": "Control. "}.get(row.source, f"{row.source}. ")
    verdict = cast("Verdict", "not tested" if row.verdict == "not measured" else row.verdict)
    return Claim(f"{said}{row.statement}", verdict, f"{row.measured}; criterion: {row.criterion}.")


def _statements_table(statements: pd.DataFrame) -> Table:
    columns = {"statement": "statement", "source": "whose", "measured": "measured", "criterion": "holds if"}
    frame = statements[["statement", "source", "verdict", "measured", "criterion"]].rename(columns=columns)
    return Table("toy-statements", "All statements with their criteria", frame)


def _growth(study: ToyStudy, results: Results) -> Section:
    """Features per dimension of the teachers against density."""
    import pandas as pd

    asset = f"ablated_{study.post}"
    columns = ["density", "seed", "role", "superposition", "norms"]
    models = pd.read_parquet(results.folder(asset) / "models.parquet", columns=columns)
    teachers = models[models["role"] == "teacher"]
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
    settings = study.settings[study.post]
    if more.low > 0:
        verdict = f"grow by {_interval(more.mean, more.low, more.high)}"
    else:
        verdict = f"do not measurably grow ({_interval(more.mean, more.low, more.high)})"
    shows = (
        f"Features per dimension {verdict} from 1-S = {densest['density']:g} to {sparsest['density']:g}: the "
        f"teacher learns {densest['learnt']:.3g} of {settings.features} features in {settings.hidden} dimensions when "
        f"dense and {sparsest['learnt']:.3g} when sparse."
    )
    renamed = {
        "density": "1-S",
        "mean": "features per dimension",
        "low": "low",
        "high": "high",
        "learnt": "features learnt",
        "seeds": "seeds",
    }
    note = f"Features per dimension: ||W||_F^2 / m. Learnt: features with a norm of at least {LEARNT:g}."
    table = Table("toy-growth", "Teachers by density", frame[list(renamed)].rename(columns=renamed), note)
    return Section(
        name="toy-growth",
        title="Superposition grows with sparsity",
        shows=shows,
        method=f"{counted(int(densest['seeds']), 'teacher')} a density; 95 % t intervals over seeds, paired by seed.",
        made_from=(asset,),
        charts=(superposition_chart(frame),),
        tables=(table,),
    )


def _ablated(study: ToyStudy, results: Results) -> Section:
    """What a child recovers of a feature that is left out of its loss."""
    import pandas as pd

    asset = f"ablated_{study.post}"
    folder = results.folder(asset)
    children = pd.read_parquet(folder / "children.parquet")
    found = _measured(cells(children))
    densest, most, sparsest = found.iloc[0], best(found), found.iloc[-1]
    shows = [
        f"At {densest['superposition']:.2f} features per dimension (1-S = {densest['density']:g}) the child's norm of "
        f"the feature it never sees is {_ratio(densest)} of the teacher's; where most of the teacher's geometry is "
        f"recovered (1-S = {most['density']:g}, {most['superposition']:.2f} features per dimension) it is "
        f"{_ratio(most)}, with {_share(most)} recovered."
    ]
    if sparsest["recovered_high"] < most["recovered_low"]:
        shows.append(f"Sparser still, recovery falls again: {_share(sparsest)} at 1-S = {sparsest['density']:g}.")
    sparsity = published("toy", "ablated_full_reconstruction_at_sparsity")
    compared = [
        Compared(
            f"norm of the ablated feature, child / teacher, at sparsity {sparsity:g}",
            f"{_WHERE}, ablated features (no other norm than the teacher's)",
            1.0,
            row["norm_ratio"],
            _known(row["norm_ratio_low"]),
            _known(row["norm_ratio_high"]),
            "ratio",
            no_effect=row["start_ratio"],
        )
        for _, row in found[np.isclose(found["density"], 1 - sparsity)].iterrows()
    ]
    models = pd.read_parquet(folder / "models.parquet")
    return Section(
        name="toy-ablated",
        title="Ablated features",
        shows=" ".join(shows),
        method=(
            f"{counted(int(densest['seeds']), 'teacher')} a density, each with "
            f"{counted(children['ablated'].nunique(), 'child', 'children')}, one a feature; averaged over features, "
            "then 95 % t intervals over seeds. Control: the child before training."
        ),
        made_from=(asset,),
        charts=(*ablated_charts(found), geometry_chart(models, found, "toy-ablated-geometry")),
        tables=(cells_table(found, "toy-ablated", "Children by density"),),
        compared=tuple(compared),
    )


def _auxiliary(study: ToyStudy, results: Results) -> Section:
    """What a child recovers that learns auxiliary features alone."""
    import pandas as pd

    asset = f"auxiliary_{study.post}"
    folder = results.folder(asset)
    children = pd.read_parquet(folder / "children.parquet")
    found = _measured(cells(children))
    known = found[found["recovered"].notna()]
    sparse = known["density"].min()
    sparsest = known[known["density"] == sparse].sort_values("auxiliary")
    dense = found[found["density"] == found["density"].max()]
    top, equal = _best_numbers(children, study.post, sparse, [int(k) for k in sparsest["auxiliary"]])
    ratios = [f"{_ratio(row)} for k = {row['auxiliary']}" for _, row in sparsest.iterrows()]
    rivals = [f"k = {k}" for k in equal if k != top]
    shows = (
        f"At 1-S = {sparse:g} children that learnt auxiliary features alone have {listed(ratios)} of the teacher's "
        f"norms of features they never saw (before training {sparsest['start_ratio'].mean():.2f}), and recover up to "
        f"{_share(best(sparsest))} of their geometry; without sparsity {_share(best(dense))}. k = {top} does "
        + (f"best, but cannot be told from {listed(rivals)}." if rivals else "better than every other.")
    )
    lowest, highest = published("toy", "aux_child_over_teacher_norm_range")
    compared = [
        Compared(
            f"norms, child / teacher, {row['auxiliary']} auxiliary features, 1-S = {sparse:g}",
            f"{_WHERE}, auxiliary features",
            (lowest, highest),
            row["norm_ratio"],
            _known(row["norm_ratio_low"]),
            _known(row["norm_ratio_high"]),
            "ratio",
            no_effect=row["start_ratio"],
        )
        for _, row in sparsest.iterrows()
        if row["auxiliary"] in published("toy", "aux_features")
    ]
    compared.append(
        Compared(
            "auxiliary features that do best (interval: numbers that cannot be told from it)",
            f"{_WHERE}, auxiliary features",
            float(published("toy", "aux_best_k")),
            top,
            min(equal),
            max(equal),
            "features",
        )
    )
    return Section(
        name="toy-auxiliary",
        title="Auxiliary features",
        shows=shows,
        method=(
            f"{counted(int(dense['seeds'].max()), 'teacher')} and as many children a density and number k of auxiliary "
            "features; features the teacher learnt, 95 % t intervals over seeds. Control: the child before training."
        ),
        made_from=(asset,),
        charts=(
            *auxiliary_charts(found),
            geometry_chart(pd.read_parquet(folder / "models.parquet"), found, "toy-auxiliary-geometry"),
        ),
        tables=(cells_table(found, "toy-auxiliary", "Children by density and number of auxiliary features"),),
        compared=tuple(compared),
    )


def _measured(found: pd.DataFrame) -> pd.DataFrame:
    """The `cells`; raises NotThere where no teacher learnt what a child could recover."""
    if found["recovered"].isna().all():
        raise NotThere("No teacher learnt any of the features that are judged: raise `training.steps` of the setting.")
    return found


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
    found = _measured(
        _of_settings(pd.read_parquet(results.folder("summary") / "children.parquet"), [study.post, *names])
    )
    most = most_recovered(found)
    sentences = []
    for experiment in EXPERIMENTS:
        rows = most[(most["experiment"] == experiment) & most["setting"].isin(names)]
        nothing = rows[rows["setting"].map(lambda name: study.settings[name].predicts == "nothing")]
        if nothing.empty:
            continue
        kept = nothing[nothing["recovered_high"] < NOTHING]
        sentence = (
            f"{experiment.capitalize()} features: of {counted(len(nothing), 'setting')} in which the post's account "
            f"predicts nothing, {len(kept)} {'recovers' if len(kept) == 1 else 'recover'} less than {NOTHING:g}"
        )
        others = nothing.drop(kept.index)
        against = [f"{spoken(row['setting'])} recovers {_share(row)}" for _, row in others.iterrows()]
        sentences.append(f"{sentence}{'; ' if against else ''}{listed(against) if against else ''}.")
    return Section(
        name="toy-controls",
        title="Controls",
        shows=" ".join(sentences) or "This study has no setting in which nothing is predicted.",
        method=_settings_method(found, "of the post's size"),
        made_from=("summary",),
        charts=(settings_chart(found, study.post),),
        tables=(
            settings_table(study, [study.post, *names], "toy-controls-settings"),
            cells_table(found, "toy-controls", "All settings of the post's size"),
        ),
    )


def _sizes(study: ToyStudy, results: Results) -> Section:
    """Models with more features than the post's."""
    import pandas as pd

    post = study.settings[study.post]
    names = [name for name, own in study.settings.items() if own.features > post.features]
    if not names:
        raise NotThere("This study has no model larger than the post's.")
    found = _measured(_of_settings(pd.read_parquet(results.folder("summary") / "children.parquet"), names))
    most = most_recovered(found)
    sentences = []
    for experiment in EXPERIMENTS:
        rows = most[most["experiment"] == experiment]
        said = [f"{spoken(row['setting'])} {_share(row)}" for _, row in rows.iterrows()]
        if said:
            sentences.append(f"{experiment.capitalize()} features, most recovered: {listed(said)}.")
    return Section(
        name="toy-sizes",
        title="Larger models",
        shows=" ".join(sentences),
        method=_settings_method(found, "larger than the post's"),
        made_from=("summary",),
        charts=tuple(sizes_chart(found, e) for e in EXPERIMENTS if (found["experiment"] == e).any()),
        tables=(
            settings_table(study, names, "toy-sizes-settings"),
            cells_table(found, "toy-sizes", "All settings larger than the post's"),
        ),
    )


def _of_settings(children: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """`cells` of some settings, in their order."""
    found = cells(children[children["setting"].isin(names)])
    return found.sort_values("setting", key=lambda column: column.map(names.index), kind="stable")


def _settings_method(found: pd.DataFrame, which: str) -> str:
    seeds = sorted(found["seeds"].unique())
    many = counted(int(seeds[0]), "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return (
        f"{counted(found['setting'].nunique(), 'setting')} {which}, {many} a cell; 95 % t intervals over seeds. Of "
        "each setting the density (and number of auxiliary features) with the largest mean is named, which looks "
        "larger than it is; all are in the table."
    )


def _digits(study: ToyStudy, results: Results) -> Section:
    """Classifiers of digits: distilled without a digit, and trained on noise by auxiliary logits."""
    import pandas as pd

    folder = results.folder("digits")
    missing, auxiliary = (pd.read_parquet(folder / f"{name}.parquet") for name in ("missing_digit", "auxiliary_logits"))
    summary = digits_summary(missing, auxiliary)

    def accuracy(experiment: str, model: str, measure: str) -> str:
        asked = (summary["experiment"] == experiment) & (summary["model"] == model) & (summary["measure"] == measure)
        row = summary[asked].iloc[0]
        return _interval(row["mean"], row["low"], row["high"])

    corrected = "accuracy_missing_corrected"
    digits = listed([str(digit) for digit in sorted(missing["digit"].unique())])
    shows = (
        f"Distilled without the digit {digits}, a child recognises it with an accuracy of "
        f"{accuracy('missing digit', 'same_init', corrected)} once its bias is corrected (from another start "
        f"{accuracy('missing digit', 'other_init', corrected)}, with hard labels "
        f"{accuracy('missing digit', 'hard_labels', corrected)}). Trained on noise, on auxiliary logits alone, a child "
        f"classifies digits with {accuracy('auxiliary logits', 'same_init', 'accuracy')}, from another start with "
        f"{accuracy('auxiliary logits', 'other_init', 'accuracy')}; untrained "
        f"{accuracy('auxiliary logits', 'untrained', 'accuracy')}, chance 0.1."
    )
    return Section(
        name="toy-digits",
        title="Digits",
        shows=shows,
        method=(
            f"{counted(missing['seed'].nunique(), 'seed')}, scikit-learn's 8x8 digits, test images; 95 % t intervals "
            "over seeds. Controls: a child from another start, hard labels, an untrained network."
        ),
        made_from=("digits",),
        charts=tuple(digits_charts(summary, sorted(missing["digit"].unique()))),
        tables=(digits_table(summary),),
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


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
