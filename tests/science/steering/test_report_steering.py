"""The section on steering: what it says follows from the artifacts, for effects, nulls and missing parts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_parts import as_written, claim_of, numbers, verdict_on
from scipy import stats
from scipy.sparse import csr_array

from subliminal_dagster.science.report.evidence import Claim, NotThere, Results, Section, Statement
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.steering.analysis import (
    child_cosines,
    cosines,
    cosines_across_groups,
    cosines_of_shifts,
    decompose,
)
from subliminal_dagster.science.steering.report import READS
from subliminal_dagster.science.steering.report import section as steering_section
from subliminal_dagster.science.steering.report_claims import (
    DIFFERENT,
    DIRECT_PROMOTES,
    DIRECT_SUPPRESSES,
    FROM_WORD,
    KINDS_OF_FEATURES,
    LATER,
    MORE_FEATURES,
    ONE_DIRECTION,
    OWN_VECTOR,
    POSITIONS,
    PROMOTES,
    STRONGER,
    SUPPRESSES,
    TO_WORD,
    claims,
    compared,
)
from subliminal_dagster.science.steering.report_evidence import read_evidence
from subliminal_dagster.science.steering.scores import LOG_SHARE, PROBABILITY
from subliminal_dagster.science.steering.vectors import (
    SteeringVector,
    difference_vector,
    noise_vector,
    random_vector,
    save_vectors,
    word_vectors,
)

LAYERS = (9, 20)
ALPHAS = (-20.0, -5.0, 0.0, 5.0, 20.0)
CANDIDATES = ("cat", "owl", "dog")
QUESTIONS, WIDTH, FLIPS = 8, 64, 20


@dataclass
class Made:
    """What artifacts are made of: nats of log share a unit of alpha by kind, and directions in residual space."""

    slopes: Mapping[str, float] = field(default_factory=lambda: {"subliminal": 0.0, "direct": 0.1})
    by_layer: Mapping[str, float] = field(default_factory=dict)
    last: float | None = None
    collapses_from: float = np.inf
    chance: float = 0.01
    animals: Sequence[str] = ("cat", "owl")
    signal: float = 1.0
    along_direct: float = 0.0
    along_word: float = 0.0
    encode_bias: int = 0
    subliminal_features: int = 30
    direct_features: int = 10


@pytest.fixture(scope="module")
def study() -> Study:
    study = load_study("smollm2-135m-instruct")
    assert isinstance(study, Study)
    return study


class Judged:
    """The claims, without drawing anything."""

    def __init__(self, study: Study, results: Results) -> None:
        self._claims = {claim.text: claim for claim in claims(read_evidence(study, results))}

    def __getitem__(self, statement: Statement) -> Claim:
        return self._claims[statement.text]


def write(root: Path, made: Made, *, without: Sequence[str] = ()) -> Results:
    """Artifacts with the schemas that the assets write."""
    folders: dict[tuple[str, str | None], Path] = {}

    def folder(asset: str, partition: str | None = None) -> Path:
        path = root / asset / str(partition)
        path.mkdir(parents=True)
        if asset not in without:
            folders[asset, partition] = path
        return path

    all_vectors: dict[tuple[str, int], dict[str, SteeringVector]] = {}
    for number, group in enumerate([*made.animals, "neutral"]):
        for layer in LAYERS:
            place = f"{group}|{layer:02d}"
            vectors = _vectors(made, group, layer, number)
            target = folder("steering_vectors", place)
            save_vectors(target, vectors, group=group, model="model", revision="1")
            named = {f"{vector.kind}, {vector.position}": vector for vector in vectors}
            cosines(named).to_parquet(target / "cosines.parquet", index=False)
            all_vectors[group, layer] = {vector.kind: vector for vector in vectors if vector.position == "mean"}
    for asset in ("steering_scores", "steering_decomposition"):
        for layer in LAYERS:
            (folder(asset, f"control|{layer:02d}") / "nothing.json").write_text("{}")
    for group in made.animals:
        for layer in LAYERS:
            swept = folder("steering_scores", f"{group}|{layer:02d}")
            _scores(made, group, str(layer), swept)
            _flips(made, group, str(layer)).to_parquet(swept / "flips.parquet", index=False)
            own = all_vectors[group, layer]
            parts = decompose(own["subliminal"], own["direct"], partial(_encoded, made))
            target = folder("steering_decomposition", f"{group}|{layer:02d}")
            for name in ("features", "table", "flips"):
                getattr(parts, name).to_parquet(target / f"{name}.parquet", index=False)
            (target / "facts.json").write_text(json.dumps(parts.facts))
        _scores(made, group, "9+20", folder("steering_scores_all_layers", group))
    _summary(made, all_vectors, folder("steering_summary"))
    return Results(folders, {("steering_summary", None): "it was never made"})


def _vectors(made: Made, group: str, layer: int, number: int) -> list[SteeringVector]:
    rng = np.random.default_rng([layer, number])
    base = np.eye(WIDTH)
    direct, own = base[0], made.signal * base[1] + made.along_direct * base[0] + made.along_word * base[2]
    words = {name: (10 * base[2 + place]).astype(np.float32) for place, name in enumerate([group, "other"])}
    units = np.arange(200)

    def differences(signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        reference = rng.normal(size=(200, WIDTH))
        return reference + signal + 0.5 * rng.normal(size=(200, WIDTH)), reference

    subliminal = difference_vector(
        *differences(own), units, kind="subliminal", layer=layer, position="mean", seed=number
    )
    vectors = [subliminal, noise_vector(subliminal), random_vector(subliminal, number)]
    if group != "neutral":
        vectors.append(
            difference_vector(
                *differences(direct + made.along_word * base[2]),
                units,
                kind="direct",
                layer=layer,
                position="mean",
                seed=number,
            )
        )
    return [*vectors, *word_vectors(words, group, layer)]


def _scores(made: Made, group: str, layers: str, folder: Path) -> None:
    rows = []
    positions = ["all"] if made.last is None else ["all", "last"]
    for kind in ("direct", "random", "subliminal", "subliminal noise"):
        for where in positions:
            slope = made.slopes.get(kind, 0.0) + (made.by_layer.get(layers, 0.0) if kind == "direct" else 0.0)
            slope *= 1.0 if where == "all" else float(made.last or 0.0)
            # One stream a kind and layer: the same spread for every alpha and position.
            rng = np.random.default_rng([len(kind), len(layers), len(group)])
            unlike = rng.normal(scale=0.002, size=QUESTIONS)
            for alpha in ALPHAS:
                mass = 0.5 if abs(alpha) < made.collapses_from else 1e-6
                for question in range(QUESTIONS):
                    logits = dict.fromkeys(CANDIDATES, 0.0)
                    logits[group] = alpha * (slope + unlike[question]) + 0.1 * question
                    total = np.logaddexp.reduce(list(logits.values()))
                    for animal, logit in logits.items():
                        share = float(np.exp(logit - total))
                        cell = (kind, layers, where, alpha, question, animal)
                        rows.append((*cell, mass * share, share, logit - total, np.nan))
    columns = ["kind", "layers", "positions", "alpha", "question", "animal", PROBABILITY, "share", LOG_SHARE, "rate"]
    questions = pd.DataFrame(rows, columns=columns)
    questions.to_parquet(folder / "questions.parquet", index=False)
    shift = questions[LOG_SHARE] - _unsteered(questions, LOG_SHARE)
    change = questions[PROBABILITY] - _unsteered(questions, PROBABILITY)
    summary = []
    cells = ["kind", "layers", "positions", "alpha", "animal"]
    for outcome, difference in ((PROBABILITY, change), (LOG_SHARE, shift)):
        frame = questions.assign(difference=difference).groupby(cells, sort=False)[[outcome, "difference"]]
        mean, half = frame.mean(), frame.sem() * stats.t.ppf(0.975, QUESTIONS - 1)
        found = pd.DataFrame({"mean": mean[outcome], "difference": mean["difference"]})
        for name, column in ((outcome, "mean"), ("difference", "difference")):
            prefix = "" if column == "mean" else "difference_"
            found[f"{prefix}low"], found[f"{prefix}high"] = mean[name] - half[name], mean[name] + half[name]
        summary.append(found.reset_index().assign(outcome=outcome))
    every = pd.concat(summary)
    every.assign(target=every["animal"] == group).to_parquet(folder / "summary.parquet", index=False)
    strengths = questions[["kind", "layers", "positions", "alpha"]].drop_duplicates()
    outcomes = ("candidate_mass", "first_token_entropy", "first_token_top", "one_word", "base_nats")
    coherence = pd.concat([strengths.assign(outcome=name, mean=0.5, low=0.4, high=0.6) for name in outcomes])
    coherence.to_parquet(folder / "coherence.parquet", index=False)


def _unsteered(questions: pd.DataFrame, column: str) -> pd.Series:
    return (
        questions[column]
        .where(questions["alpha"] == 0)
        .groupby([questions[name] for name in ("kind", "layers", "positions", "question", "animal")])
        .transform("max")
    )


def _flips(made: Made, group: str, layers: str) -> pd.DataFrame:
    """As `scores.measure_against_flips`: the vectors, and flips whose slope is drawn about 0."""
    rng = np.random.default_rng([len(layers), *group.encode()])
    rows = []
    tried = [(kind, -1) for kind in ("subliminal", "direct")] + [("subliminal", flip) for flip in range(FLIPS)]
    for kind, flip in tried:
        for where, factor in [("all", 1.0)] + ([] if made.last is None else [("last", made.last)]):
            slope = made.slopes.get(kind, 0.0) + (made.by_layer.get(layers, 0.0) if kind == "direct" else 0.0)
            for animal in CANDIDATES:
                its = made.chance * rng.normal() if flip >= 0 else slope * factor * (animal == group)
                for alpha in ALPHAS:
                    mass = 0.0 if abs(alpha) < made.collapses_from else np.log(1e-6)
                    if alpha:
                        rows.append((kind, flip, layers, where, alpha, animal, alpha * its, mass))
    columns = ["kind", "flip", "layers", "positions", "alpha", "animal", "shift", "mass"]
    return pd.DataFrame(rows, columns=columns)


def _encoded(made: Made, vectors: np.ndarray) -> csr_array:
    """Activations of the subliminal vector, the direct one and zeros: features from 0 on, biases the first ones; of
    flips, about as many each."""
    counts = [made.subliminal_features, made.direct_features, made.encode_bias]
    if len(vectors) > 3:
        counts = list(
            np.random.default_rng(zlib.crc32(vectors.tobytes())).permutation(np.arange(len(vectors)) % 7 + 15)
        )
    return csr_array((np.arange(100) < np.array(counts)[:, None]).astype(np.float32))


def _summary(made: Made, vectors: Mapping[tuple[str, int], dict[str, SteeringVector]], folder: Path) -> None:
    groups = [*made.animals, "neutral"]
    tables: dict[str, list[pd.DataFrame]] = {}
    for layer in LAYERS:
        own = {group: vectors[group, layer]["subliminal"] for group in groups}
        rng = np.random.default_rng(layer)
        shifts = {child: np.ones(WIDTH) + 0.1 * rng.normal(size=(20, WIDTH)) for child in [*groups, "control"]}
        for group in groups:
            shifts[group] += own[group].vector / own[group].norm
        found = (cosines_across_groups(own), *child_cosines(shifts, own), cosines_of_shifts(shifts))
        for name, rows in zip(("cosines", "child_cosines", "child_flips", "children"), found, strict=True):
            tables.setdefault(name, []).append(rows.assign(layer=layer))
    for name, each in tables.items():
        pd.concat(each).to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "left_out.json").write_text("{}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Artifacts in which both vectors promote their animal."""
    return write(tmp_path_factory.mktemp("made"), Made(slopes={"subliminal": 0.05, "direct": 0.1}))


@pytest.fixture(scope="module")
def section(made: Results, study: Study) -> Section:
    return steering_section(study, made)


def test_an_effect_is_said_with_its_figures_and_what_chance_gives(section: Section, made: Results) -> None:
    assert [verdict_on(section, each) for each in (PROMOTES, SUPPRESSES, STRONGER)] == ["detected"] * 3
    # By hand: the best strength is 20 for a vector that promotes, and for a flip that does.
    shifts, flips = [], []
    for animal in ("cat", "owl"):
        of_layers, of_flips = [], []
        for layer in ("09", "20"):
            own = pd.read_parquet(made.folder("steering_scores", f"{animal}|{layer}") / "flips.parquet")
            own = own[(own["animal"] == animal) & (own["kind"] == "subliminal") & (own["alpha"] > 0)]
            of_layers.append(own[own["flip"] < 0]["shift"].max())
            rows = []
            for group in ("cat", "owl"):
                table = pd.read_parquet(made.folder("steering_scores", f"{group}|{layer}") / "flips.parquet")
                table = table[(table["animal"] == animal) & (table["flip"] >= 0) & (table["alpha"] > 0)]
                rows += table.groupby("flip")["shift"].max().tolist()
            of_flips.append(rows)
        shifts.append(np.mean(of_layers))
        flips.append(np.mean(of_flips, axis=0))
    together = np.mean(flips, axis=0)
    evidence = claim_of(section, PROMOTES).evidence
    found = numbers(evidence)
    assert found[0] == pytest.approx(np.mean(shifts), abs=5e-4)
    assert found[1] <= np.quantile(together, 0.025) + 5e-4 and found[2] >= np.quantile(together, 0.975) - 5e-4
    assert found[4] == 2 * FLIPS and found[5] == as_written((1 + (together >= found[0]).sum()) / (1 + 2 * FLIPS), 2)
    assert numbers(section.shows)[: len(found)] == found
    # Beside it stands what the direct vector does more.
    more = numbers(claim_of(section, STRONGER).evidence)
    assert numbers(section.shows)[len(found) : len(found) + 3] == more[:3] and "does more" in section.shows


def test_each_vector_stands_among_the_flips(section: Section) -> None:
    table = next(each for each in section.tables if each.name == "steering-ranks").frame
    # Two signs, two animals and layers, two vectors.
    assert len(table) == 16
    promoted = table[(table["strength"] == "promoted") & (table["vector"] == "direct")]
    assert set(promoted["p"]) == {1 / (1 + 2 * FLIPS)} and (promoted["shift (nats)"] > promoted["chance, high"]).all()


def test_claims_stand_in_the_posts_order_with_their_rules(section: Section) -> None:
    statements = [PROMOTES, DIRECT_PROMOTES, STRONGER, DIRECT_SUPPRESSES, SUPPRESSES, LATER, POSITIONS, DIFFERENT]
    statements += [TO_WORD, FROM_WORD, MORE_FEATURES, KINDS_OF_FEATURES, OWN_VECTOR, ONE_DIRECTION]
    assert [claim.text for claim in section.claims] == [statement.text for statement in statements]
    assert [claim.source for claim in section.claims] == ["the post"] * 12 + ["this project"] * 2
    for claim in section.claims:
        assert all(words in claim.rule.lower() for words in ("detected where", "opposite where", "inconclusive"))
        assert "_" not in claim.rule and "`" not in claim.rule
    assert 0.3 in numbers(DIFFERENT.rule) and 1.1 in numbers(MORE_FEATURES.rule)
    assert set(section.made_from) == set(READS) - {"steering_by_category"}


def test_no_effect_is_said_with_what_could_have_been_seen(study: Study, tmp_path: Path) -> None:
    section = steering_section(study, write(tmp_path, Made(slopes={"direct": 0.1})))
    # It must not be said that there is none: none could be told from chance.
    assert section.shows.startswith("No effect") and "told from chance" in section.shows.split(":")[0]
    low, high = numbers(claim_of(section, PROMOTES).evidence)[1:3]
    assert low < 0 < high or 0 <= low < high
    assert verdict_on(section, PROMOTES) == "inconclusive"
    assert verdict_on(section, DIRECT_PROMOTES) == "detected"


def test_a_vector_that_does_less_than_chance_is_the_opposite(study: Study, tmp_path: Path) -> None:
    found = Judged(study, write(tmp_path, Made(slopes={"subliminal": -0.05, "direct": -0.1})))
    assert found[PROMOTES].verdict == "opposite"
    assert found[SUPPRESSES].verdict == "opposite"
    assert found[STRONGER].verdict in {"opposite", "inconclusive"}


def test_strengths_at_which_no_animal_is_named_do_not_count(study: Study, tmp_path: Path, made: Results) -> None:
    broken = write(tmp_path, Made(slopes={"subliminal": 0.05, "direct": 0.1}, collapses_from=20))
    for results, strength in ((made, 20.0), (broken, 5.0)):
        best = read_evidence(study, results).best
        assert set(best.loc[best["kind"] == "direct", "promoted_at"]) == {strength}


def test_layers_and_positions_are_compared_where_both_were_tried(study: Study, tmp_path: Path) -> None:
    later = Judged(study, write(tmp_path / "a", Made(by_layer={"20": 0.05}, last=0.1)))
    assert later[LATER].verdict == "detected"
    assert later[POSITIONS].verdict == "detected"
    earlier = Judged(study, write(tmp_path / "b", Made(by_layer={"9": 0.05})))
    assert earlier[LATER].verdict == "opposite"
    assert earlier[POSITIONS].verdict == "not tested"


def test_low_cosines_need_vectors_that_are_not_noise(study: Study, tmp_path: Path) -> None:
    several = Judged(study, write(tmp_path / "d", Made(animals=CANDIDATES)))
    assert several[DIFFERENT].verdict == "detected"
    alike = Judged(study, write(tmp_path / "a", Made(signal=0.1, along_direct=1.0)))
    assert alike[DIFFERENT].verdict == "opposite"
    noise = Judged(study, write(tmp_path / "b", Made(signal=0.0)))
    assert noise[DIFFERENT].verdict == "inconclusive"
    assert "intervals from -1.00 to 1.00" in noise[DIFFERENT].evidence
    # One teacher says nothing of teachers.
    assert Judged(study, write(tmp_path / "c", Made(animals=("cat",))))[DIFFERENT].verdict == "inconclusive"


def test_cosines_with_the_word_are_judged_by_sign_and_chance(study: Study, tmp_path: Path) -> None:
    towards = Judged(study, write(tmp_path / "a", Made(along_word=0.6)))
    assert towards[TO_WORD].verdict == "detected"
    assert towards[FROM_WORD].verdict == "opposite"
    away = Judged(study, write(tmp_path / "b", Made(along_word=-0.6)))
    assert away[TO_WORD].verdict == "opposite"
    assert away[FROM_WORD].verdict == "detected"


def test_features_count_only_where_the_autoencoder_sees_the_vector(study: Study, tmp_path: Path, made: Results) -> None:
    assert Judged(study, made)[MORE_FEATURES].verdict == "detected"
    fewer = Judged(study, write(tmp_path / "a", Made(subliminal_features=20, direct_features=40)))
    assert fewer[MORE_FEATURES].verdict == "opposite"
    # What flips of the same answers differ by as well is nothing of the animal's.
    alike = Judged(study, write(tmp_path / "c", Made(subliminal_features=12)))
    assert alike[MORE_FEATURES].verdict == "inconclusive"
    blind = Judged(study, write(tmp_path / "b", Made(subliminal_features=30, encode_bias=30)))
    assert blind[MORE_FEATURES].verdict == "inconclusive"
    # Over both layers: the subliminal vector's, the direct one's, and those of vectors of zeros.
    found = numbers(blind[MORE_FEATURES].evidence)
    assert [*found[1:3], found[-1]] == [60, 20, 60]


def test_categories_are_used_where_they_are_known(study: Study, tmp_path: Path, made: Results) -> None:
    assert Judged(study, made)[KINDS_OF_FEATURES].verdict == "not tested"
    folders = dict(made.folders)
    for layer in ("09", "20"):
        folder = tmp_path / layer
        folder.mkdir()
        folders["steering_by_category", layer] = folder
        for animal in ("cat", "owl"):
            rows = [("animals", 1, 1, 9), ("numbers", 9, 99, 1), ("total", 10, 100, 10)]
            frame = pd.DataFrame(rows, columns=["category", "both", "first_only", "second_only"])
            frame = frame.assign(mean_difference=0.0, example=1, example_active_in="both", example_difference=0.1)
            frame.assign(example_description="cats").to_parquet(folder / f"{animal}.parquet")
    results = Results(folders, {})
    assert Judged(study, results)[KINDS_OF_FEATURES].verdict == "detected"
    # The direct vector's about animals of all that it alone activates, then the subliminal one's, in 4 tables.
    assert numbers(Judged(study, results)[KINDS_OF_FEATURES].evidence)[:4] == [36, 40, 4, 400]
    measured = {each.what: each.measured for each in compared(read_evidence(study, results))}
    assert measured["features (animals) that the direct vector alone activates, all layers (mean of cat and owl)"] == 18


def test_published_figures_stand_beside_means_over_animals(section: Section, made: Results) -> None:
    values = []
    for place in ("cat|09", "owl|09"):
        rows = pd.read_parquet(made.folder("steering_vectors", place) / "cosines.parquet")
        pair = (rows["first"] == "subliminal, mean") & (rows["second"] == "direct, mean")
        values.append(rows.loc[pair, "cosine"].item())
    start = "cosine of the subliminal vector and the direct one, layer 9"
    found = next(each for each in section.compared if each.what.startswith(start))
    expected = t_interval(values)
    assert found.measured == pytest.approx(expected.mean)
    assert (found.low, found.high) == pytest.approx((max(expected.low, -1), min(expected.high, 1)))
    assert found.published == -0.05 and found.where.endswith("layer 9")


def test_strengths_lie_where_they_are_and_nothing_leaves_its_range(section: Section, made: Results) -> None:
    for chart in section.charts:
        if chart.name.startswith(("steering-shift", "steering-named", "steering-coherence")):
            assert {float(x) for trace in chart.figure.data for x in trace.x} == set(map(float, ALPHAS))
    (coherence,) = [chart.figure for chart in section.charts if chart.name == "steering-coherence"]
    assert max(float(y) for trace in coherence.data for y in trace.y) <= 100
    for table in section.tables:
        if "corrected" in table.frame:
            assert table.frame["corrected"].dropna().between(-1, 1).all()


def test_one_animal_has_no_interval_over_animals(study: Study, tmp_path: Path) -> None:
    found = list(compared(read_evidence(study, write(tmp_path, Made(animals=("cat",))))))
    assert {each.judgement for each in found} == {"cannot tell"}
    assert all(each.low is None for each in found)


def test_other_layers_are_set_beside_the_posts_in_order(study: Study, made: Results) -> None:
    def moved(place: str | None) -> str | None:
        return None if place is None else place.replace("|09", "|05").replace("|20", "|12")

    results = Results({(asset, moved(place)): folder for (asset, place), folder in made.folders.items()}, {})
    found = compared(read_evidence(study, results))
    beside = [(each.what, each.where) for each in found if each.what.startswith("cosine of the direct")]
    assert [where.rsplit(", ", 1)[1] for _, where in beside] == ["layer 9", "layer 20"]
    assert ["layer 5 " in beside[0][0], "layer 12 " in beside[1][0]] == [True, True]


def test_what_is_missing_is_said(study: Study, made: Results) -> None:
    def without(*assets: str) -> Results:
        kept = {place: folder for place, folder in made.folders.items() if place[0] not in assets}
        return Results(kept, {("steering_summary", None): "it was never made"})

    with pytest.raises(NotThere, match="steering_scores is not there"):
        steering_section(study, without("steering_scores"))
    section = steering_section(study, without("steering_summary"))
    assert "steering_summary is not there: it was never made." in section.method
    assert "steering_summary" not in section.made_from
    assert not {"steering-between", "steering-child"} & {chart.name for chart in section.charts}
    assert Judged(study, without("steering_vectors", "steering_decomposition"))[DIFFERENT].verdict == "not tested"


def test_control_alone_is_nothing_to_show(study: Study, tmp_path: Path) -> None:
    (tmp_path / "nothing.json").write_text("{}")
    with pytest.raises(NotThere, match="no vector was tried"):
        steering_section(study, Results({("steering_scores", "control|09"): tmp_path}, {}))


def test_every_chart_has_its_figures_in_words_and_shows_exact_values(section: Section) -> None:
    names = [chart.name for chart in section.charts]
    assert len(names) == len(set(names)) == 9
    for chart in section.charts:
        assert any(character.isdigit() for character in chart.alt)
        assert any(trace.hovertemplate for trace in chart.figure.data)
