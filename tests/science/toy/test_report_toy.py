"""The sections on toy models: figures and verdicts follow from the artifacts, whatever they show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import numbers

from subliminal_dagster.science.report.evidence import Results, Section
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.toy import ToyStudy
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.toy.report import toy_sections
from subliminal_dagster.science.toy.report_views import cells
from subliminal_dagster.science.toy.statements import all_statements

SEEDS = 4
DENSITIES = (1.0, 0.1, 0.01, 0.001)
SETTINGS = ("post", "unseen_input", "other_start", "no_relu", "mean_loss", "n400", "n400_sparser")

Recovered = Callable[[str, str, int, float], float]


@pytest.fixture(scope="module")
def study() -> ToyStudy:
    study = load_study("toy")
    assert isinstance(study, ToyStudy)
    return study


def as_the_post(setting: str, experiment: str, k: int, density: float) -> float:
    """Nothing when dense, blind or without ReLU; ten auxiliary features do best; most at 1-S = 0.01."""
    if density == 1 or setting in ("unseen_input", "no_relu"):
        return 0.0
    return {0.1: 0.5, 0.01: 0.95, 0.001: 0.4, 0.0001: 0.3}[density] * (0.5 + 0.05 * k if k else 1)


def nothing(setting: str, experiment: str, k: int, density: float) -> float:
    return 0.0


def write(root: Path, study: ToyStudy, recovered: Recovered, *, grows: bool = True) -> Results:
    """Artifacts with the schemas that the assets write."""
    rng = np.random.default_rng(0)
    folders: dict[tuple[str, str | None], Path] = {}
    every_child: list[pd.DataFrame] = []
    every_model: list[pd.DataFrame] = []
    for setting in SETTINGS:
        own = study.settings[setting]
        densities = DENSITIES if setting != "n400_sparser" else own.densities
        for experiment in ("ablated", "auxiliary"):
            children, models = [], []
            for k in own.auxiliary if experiment == "auxiliary" else (0,):
                for density in densities:
                    for seed in range(SEEDS):
                        keys: dict[str, object] = {"setting": setting, "experiment": experiment}
                        keys |= {"features": own.features, "hidden": own.hidden, "auxiliary": k}
                        keys |= {"density": density, "seed": seed}
                        superposition = (1 - np.log10(density) if grows else 1.0) + 0.01 * rng.normal()
                        features = own.features + k
                        teacher = _model(rng, own.hidden, features, density)
                        models.append({**keys, "ablated": pd.NA, "role": "teacher", **teacher})
                        models[-1]["superposition"] = superposition
                        for feature in own.ablated if experiment == "ablated" else (pd.NA,):
                            share = recovered(setting, experiment, k, density) + 0.01 * rng.normal()
                            keys["ablated"], keys["role"] = feature, "child"
                            models.append({**keys, **_model(rng, own.hidden, features, density)})
                            children.append({**keys, **_measures(share, superposition)})
            folder = root / f"{experiment}_{setting}"
            folder.mkdir(parents=True)
            folders[f"{experiment}_{setting}", None] = folder
            for name, rows, kept in (("children", children, every_child), ("models", models, every_model)):
                frame = pd.DataFrame(rows).astype({"ablated": "Int64"})
                frame.to_parquet(folder / f"{name}.parquet", index=False)
                kept.append(frame)
    missing, auxiliary = _digits()
    for name in ("summary", "digits"):
        folders[name, None] = root / name
        (root / name).mkdir()
    missing.to_parquet(root / "digits" / "missing_digit.parquet", index=False)
    auxiliary.to_parquet(root / "digits" / "auxiliary_logits.parquet", index=False)
    own = {name: study.settings[name] for name in SETTINGS}
    children = pd.concat(every_child, ignore_index=True)
    found = all_statements(children, pd.concat(every_model), study.post, own, missing, auxiliary)
    children.to_parquet(root / "summary" / "children.parquet", index=False)
    found.to_parquet(root / "summary" / "statements.parquet", index=False)
    return Results(folders, {("digits", None): "it is being made"})


def _model(rng: np.random.Generator, hidden: int, features: int, density: float) -> dict[str, object]:
    # Larger models are drawn by no section: their numbers are left out.
    size = features if features < 50 else 0
    w = rng.normal(scale=0.3, size=hidden * size).tolist()
    learnt = [1.0] * (hidden if density == 1 else 2 * hidden) + [0.0] * features
    return {
        "superposition": 1.0,
        "interference": 0.1,
        "loss": 0.1,
        "norms": learnt[:features],
        "w": w,
        "b": [0.1] * size,
    }


def _measures(share: float, superposition: float) -> dict[str, float]:
    return {
        "teacher_superposition": superposition,
        "teacher_interference": 0.1,
        "judged": int(not np.isnan(share)),
        "teacher_norm": 1.0,
        "child_norm": 0.08 + share,
        "start_norm": 0.08,
        "norm_ratio": 0.08 + share,
        "start_ratio": 0.08,
        "cosine": 0.9,
        "recovered": share,
    }


def _digits() -> tuple[pd.DataFrame, pd.DataFrame]:
    accuracies = {"teacher": 0.98, "same_init": 0.9, "other_init": 0.8, "hard_labels": 0.0}
    spread = [0.01 * seed for seed in range(SEEDS)]
    missing = [
        {"digit": 3, "seed": seed, "model": model, "accuracy_missing": accuracy, "accuracy_others": 0.9}
        | {"accuracy_missing_corrected": accuracy + spread[seed] / 10}
        for model, accuracy in accuracies.items()
        for seed in range(SEEDS)
    ]
    accuracies = {"teacher": 0.95, "same_init": 0.4, "other_init": 0.1, "untrained": 0.1}
    auxiliary = [
        {"seed": seed, "model": model, "accuracy": accuracy + spread[seed] / 10}
        for model, accuracy in accuracies.items()
        for seed in range(SEEDS)
    ]
    return pd.DataFrame(missing), pd.DataFrame(auxiliary)


@pytest.fixture(scope="module")
def results(study: ToyStudy, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write(tmp_path_factory.mktemp("toy"), study, as_the_post)


@pytest.fixture(scope="module")
def sections(study: ToyStudy, results: Results) -> dict[str, Section]:
    return {section.name: section for section in toy_sections(study, results)}


@pytest.fixture(scope="module")
def empty(study: ToyStudy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Section]:
    """The sections of models in which nothing grows and nothing is recovered."""
    results = write(tmp_path_factory.mktemp("empty"), study, nothing, grows=False)
    return {section.name: section for section in toy_sections(study, results)}


def test_where_no_teacher_learnt_anything_there_is_nothing_to_say(study: ToyStudy, tmp_path: Path) -> None:
    results = write(tmp_path, study, lambda *_: np.nan, grows=False)
    said = {section.name: section for section in toy_sections(study, results)}
    assert said.keys() >= {"toy-statements", "toy-ablated", "toy-auxiliary", "toy-controls", "toy-sizes"}
    assert "nan" not in " ".join(section.shows for section in said.values())
    assert "no share could be measured" in said["toy-statements"].charts[0].alt
    claims = said["toy-statements"].claims
    about = [claim.verdict for claim in claims if "feature" in claim.text and "child" in claim.text]
    assert about and "detected" not in about


def of_seeds(children: pd.DataFrame, column: str) -> list[float]:
    """Mean over seeds with its interval, of one cell's children, after averaging over features."""
    found = t_interval(children.groupby("seed")[column].mean())
    return [found.mean, found.low, found.high]


def sentences(section: Section) -> list[str]:
    return section.shows.removesuffix(".").split(". ")


def written(*values: float) -> object:
    """Numbers with three decimals, as sentences have them."""
    return pytest.approx(list(values), abs=5.1e-4)


def test_means_and_intervals_are_over_seeds_after_averaging_over_features(results: Results) -> None:
    children = pd.read_parquet(results.folder("ablated_post") / "children.parquet")
    found = cells(children).set_index("density")
    assert list(found.index) == list(DENSITIES)
    row = found.loc[0.01]
    ends = [row["recovered"], row["recovered_low"], row["recovered_high"]]
    assert ends == pytest.approx(of_seeds(children[children["density"] == 0.01], "recovered"))
    assert row["seeds"] == SEEDS


def test_every_statement_is_a_claim_with_its_verdict_and_criterion(
    sections: dict[str, Section], results: Results
) -> None:
    statements = pd.read_parquet(results.folder("summary") / "statements.parquet")
    claims = sections["toy-statements"].claims
    assert [claim.verdict for claim in claims] == list(statements["verdict"])
    sources = {"post": "the post", "control": "this project"}
    for claim, (_, row) in zip(claims, statements.iterrows(), strict=True):
        assert row["statement"] in claim.text
        assert row["measured"] in claim.evidence and row["criterion"] in claim.evidence
        assert row["criterion"][1:] in claim.rule and "inconclusive" in claim.rule
        assert claim.source == sources.get(row["source"], "another paper")
        # Whoever else said it is named.
        assert row["source"] in sources or claim.text.startswith(row["source"])
    assert {claim.source for claim in claims} == {"the post", "another paper", "this project"}
    counted = statements.loc[statements["source"] == "post", "verdict"].value_counts()
    assert numbers(sentences(sections["toy-statements"])[0]) == [counted.sum(), *counted]


def test_recovery_is_said_apart_with_and_without_superposition(
    sections: dict[str, Section], empty: dict[str, Section], results: Results
) -> None:
    children = pd.read_parquet(results.folder("summary") / "children.parquet")
    said = sentences(sections["toy-statements"])[1:]
    for sentence, experiment in zip(said, ("ablated", "auxiliary"), strict=True):
        own = children[children["experiment"] == experiment]
        by_cell = [cell for _, cell in own.groupby(["setting", "auxiliary", "density"])]
        assert sentence.lower().startswith(experiment)
        expected: list[float] = []
        for superposed in (False, True):
            side = [cell for cell in by_cell if (cell["teacher_superposition"].mean() > 1.1) == superposed]
            expected += [*max(of_seeds(cell, "recovered") for cell in side), len(side)]
        assert numbers(sentence) == written(*expected)
    # Where no teacher has superposition there is nothing to set apart.
    assert len(sentences(empty["toy-statements"])) == 1


def test_growth_is_said_where_there_is_any(
    sections: dict[str, Section], empty: dict[str, Section], results: Results
) -> None:
    models = pd.read_parquet(results.folder("ablated_post") / "models.parquet")
    teachers = models[models["role"] == "teacher"].pivot(index="seed", columns="density", values="superposition")
    growth = t_interval(teachers[0.001] - teachers[1.0])
    found = numbers(sections["toy-growth"].shows)
    assert found[:3] == written(growth.mean, growth.low, growth.high)
    # From 1-S = 1 to 0.001, the teacher learns 5 of 20 features in 5 dimensions, and when sparse 10.
    assert found[3:] == [1, 1, 0.001, 5, 20, 5, 10]
    assert "do not measurably grow" in empty["toy-growth"].shows
    assert "measurably" not in sections["toy-growth"].shows


def test_the_ablated_features_norm_stands_beside_the_published_one(
    sections: dict[str, Section], empty: dict[str, Section], results: Results
) -> None:
    children = pd.read_parquet(results.folder("ablated_post") / "children.parquet")
    at = {density: children[children["density"] == density] for density in DENSITIES}
    (found,) = sections["toy-ablated"].compared
    assert [found.measured, found.low, found.high] == pytest.approx(of_seeds(at[0.01], "norm_ratio"))
    assert found.published == 1 and found.no_effect == pytest.approx(0.08)
    assert empty["toy-ablated"].compared[0].judgement == "differs"
    most, sparser, blind = sentences(sections["toy-ablated"])
    assert numbers(most)[-6:] == written(*of_seeds(at[0.01], "norm_ratio"), *of_seeds(at[0.01], "recovered"))
    assert numbers(sparser) == written(*of_seeds(at[0.001], "recovered"), 1, 0.001)
    # Where nothing is recovered, nothing falls again.
    assert len(sentences(empty["toy-ablated"])) == 2
    children = pd.read_parquet(results.folder("ablated_unseen_input") / "children.parquet")
    shares = {density: of_seeds(part, "recovered") for density, part in children.groupby("density")}
    density = max(shares, key=lambda d: shares[d][0])
    assert numbers(blind) == written(*shares[density], 1, density)
    curves = [trace.name for trace in sections["toy-ablated"].charts[1].figure.data]
    assert "child" in curves and "input without it" in curves


def test_the_best_number_of_auxiliary_features_is_named_with_its_rivals(
    sections: dict[str, Section], empty: dict[str, Section]
) -> None:
    assert numbers(sentences(sections["toy-auxiliary"])[-1]) == [10]
    best = sections["toy-auxiliary"].compared[-1]
    assert (best.published, best.measured, best.low, best.high, best.judgement) == (5, 10, 10, 10, "differs")
    best_of_none = sentences(empty["toy-auxiliary"])[-1]
    assert "cannot be told from" in best_of_none and sorted(numbers(best_of_none)) == [3, 5, 10]
    assert empty["toy-auxiliary"].compared[-1].judgement == "agrees"
    ratios = {each.what: each for each in sections["toy-auxiliary"].compared[:-1]}
    # At 1-S = 0.001: 0.08 + 0.4 * (0.5 + 0.05 * 5).
    assert ratios["norms, child / teacher, 5 auxiliary features, 1-S = 0.001"].measured == pytest.approx(0.38, abs=0.02)


def test_controls_that_recover_against_the_prediction_are_named(
    sections: dict[str, Section], empty: dict[str, Section], results: Results
) -> None:
    children = pd.read_parquet(results.folder("ablated_other_start") / "children.parquet")
    most = of_seeds(children[children["density"] == 0.01], "recovered")
    for said, experiment in zip(sentences(sections["toy-controls"]), ("ablated", "auxiliary"), strict=True):
        # Of three settings two recover nothing, and which is the other.
        assert said.lower().startswith(experiment) and numbers(said)[0] == 3
        nothing, other = said.split("opposite for")
        assert "detected for unseen input" in nothing and "no relu" in nothing and "other start" in other
    assert numbers(sentences(sections["toy-controls"])[0].split("other start")[1])[:3] == written(*most)
    assert all("opposite" not in said and "detected for" in said for said in sentences(empty["toy-controls"]))
    settings = sections["toy-controls"].tables[0].frame.set_index("setting")
    assert settings.loc["other start", "differs from the post's in"] == "child init: other"
    assert settings.loc["post", "differs from the post's in"] == ""


def test_larger_models_have_a_section_of_their_own(
    sections: dict[str, Section], study: ToyStudy, results: Results
) -> None:
    children = pd.read_parquet(results.folder("ablated_n400") / "children.parquet")
    most = of_seeds(children[children["density"] == 0.01], "recovered")
    assert numbers(sentences(sections["toy-sizes"])[0])[:4] == written(400, *most)
    assert set(sections["toy-sizes"].tables[1].frame["setting"]) == {"n400", "n400 sparser"}
    small = study.model_copy(update={"settings": {"post": study.settings["post"]}})
    found = {section.name: section for section in toy_sections(small, Results({}, {}))}
    assert found["toy-sizes"].missing == "This study has no model larger than the post's."


def test_digits_are_said_with_their_controls(sections: dict[str, Section]) -> None:
    expected: list[float] = [3]
    for table, column, models in zip(
        _digits(),
        ("accuracy_missing_corrected", "accuracy"),
        (("same_init", "other_init", "hard_labels"), ("same_init", "other_init", "untrained")),
        strict=True,
    ):
        for model in models:
            expected += of_seeds(table[table["model"] == model], column)
    found = numbers(sections["toy-digits"].shows)
    assert found == written(*expected, 0.1)


def test_geometry_is_w_transposed_w_with_the_bias_beside(sections: dict[str, Section], results: Results) -> None:
    models = pd.read_parquet(results.folder("auxiliary_post") / "models.parquet")
    model = models[(models["auxiliary"] == 5) & (models["seed"] == 0) & (models["density"] == 1.0)].iloc[0]
    w = np.asarray(model["w"]).reshape(5, 25)
    chart = next(chart for chart in sections["toy-auxiliary"].charts if chart.name == "toy-auxiliary-geometry")
    drawn = np.asarray(chart.figure.data[0].z, dtype=float)
    np.testing.assert_allclose(drawn[:, :25], w.T @ w)
    np.testing.assert_allclose(drawn[:, -1], 0.1)


def test_a_section_without_its_artifacts_says_why(study: ToyStudy, results: Results) -> None:
    kept = {place: folder for place, folder in results.folders.items() if place[0] not in ("digits", "ablated_post")}
    found = {section.name: section for section in toy_sections(study, Results(kept, results.missing))}
    assert found["toy-digits"].missing == "digits is not there: it is being made."
    assert "ablated_post is not there" in str(found["toy-ablated"].missing)
    assert found["toy-auxiliary"].missing is None


def test_every_chart_has_its_figures_in_words_and_names_of_its_own(sections: dict[str, Section]) -> None:
    charts = [chart for section in sections.values() for chart in section.charts]
    assert len({chart.name for chart in charts}) == len(charts) == 14
    for chart in charts:
        assert any(character.isdigit() for character in chart.alt)
        assert any(trace.hovertemplate for trace in chart.figure.data)
