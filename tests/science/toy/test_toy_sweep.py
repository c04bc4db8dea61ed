"""Sweeps of toy models: their settings, what is trained on what, going on after a kill, and what they find."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from subliminal_dagster.science.figures import png
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.settings.toy import FUSED_UP_TO, AutoencoderSettings, ToyStudy, ToyTraining
from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.toy import figures, statements, sweep
from subliminal_dagster.science.toy.sweep import Sweep, Unit, run_sweep, train_unit


def small(**changes: Any) -> AutoencoderSettings:
    settings = {
        "features": 8,
        "hidden": 3,
        "densities": (1.0, 0.2),
        "seeds": 2,
        "ablated": (0, 2),
        "auxiliary": (1, 2),
        "training": ToyTraining(steps=30, batch_size=64),
    }
    return AutoencoderSettings(**(settings | changes))


LONG = ToyTraining(steps=20_000, batch_size=64)


def assert_same(one: Sweep, other: Sweep) -> None:
    for name in ("models", "history", "children"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"densities": (0.0,)}, "greater than 0"),
        ({"densities": (1.5,)}, "less than or equal to 1"),
        ({"densities": (0.1, 0.1)}, "densities names 0.1 twice"),
        ({"ablated": (8,)}, r"ablated features \[8\] do not exist: the indices are 0 to 7"),
        ({"ablated": (-1,)}, "greater than or equal to 0"),
        ({"auxiliary": (0,)}, "greater than or equal to 1"),
        ({"hidden": 9}, "hidden 9 is above features 8"),
        ({"ablated": (), "auxiliary": ()}, "give ablated features, numbers of auxiliary features, or both"),
        ({"penalise_child": True}, "needs an interference_penalty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        small(**changes)


@pytest.mark.parametrize("experiment", ["ablated", "auxiliary"])
def test_same_inputs_same_tables_whatever_the_threads(experiment: sweep.Experiment) -> None:
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(run_sweep("small", small(), experiment, 5))
    torch.set_num_threads(threads)
    assert_same(*found)
    other = run_sweep("small", small(), experiment, 6)
    assert not np.allclose(np.stack(other.models["b"][0]), np.stack(found[0].models["b"][0]))


def test_tables_hold_every_model() -> None:
    found = run_sweep("small", small(init_norm=0.1), "ablated", 5)
    assert len(found.models) == 2 * 2 * 3
    assert len(found.children) == 2 * 2 * 2
    assert set(found.history.groupby([*sweep.KEYS, "role"], dropna=False).size()) == {30}
    for model in found.models.itertuples():
        w = model.w.reshape(model.hidden, -1)
        assert model.norms == pytest.approx(np.linalg.norm(w, axis=0), rel=1e-5)
        assert model.superposition == pytest.approx((w**2).sum() / 3, rel=1e-5)
    child = found.children.iloc[0]
    models = found.models[(found.models["density"] == child["density"]) & (found.models["seed"] == child["seed"])]
    teacher = models[models["role"] == "teacher"].iloc[0]
    own = models[models["ablated"] == child["ablated"]].iloc[0]
    assert child["child_norm"] == pytest.approx(own["norms"][child["ablated"]])
    assert child["teacher_norm"] == pytest.approx(teacher["norms"][child["ablated"]])
    assert np.isnan(child["recovered"]), "thirty steps teach nothing that could be recovered"


def test_a_killed_sweep_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Unit] = []

    def counted(settings: AutoencoderSettings, unit: Unit, seed: int, device: str) -> sweep.Trained:
        trained.append(unit)
        return train_unit(settings, unit, seed, device)

    monkeypatch.setattr(sweep, "train_unit", counted)
    whole = run_sweep("small", small(), "ablated", 5, kept=tmp_path)
    assert len(trained) == 4
    files = sorted(tmp_path.iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-200])
    files[2].with_name(files[2].name + ".7.new").write_bytes(files[2].read_bytes()[:100])
    damaged = bytearray(files[3].read_bytes())
    damaged[len(damaged) // 3] ^= 255
    files[3].write_bytes(damaged)
    trained.clear()
    said: list[str] = []
    again = run_sweep("small", small(), "ablated", 5, kept=tmp_path, progress=said.append)
    assert len(trained) == 3
    assert said[0] == "1/4 teachers with their children taken over from before the interruption"
    assert_same(again, whole)


def test_a_sweep_killed_outright_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of a real sweep, in a process of its own."""
    code = (
        "from pathlib import Path; from test_toy_sweep import *; "
        f"run_sweep('small', small(training=LONG), 'ablated', 5, kept=Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent)
    while not list(tmp_path.glob("*.npz")):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npz")}
    assert 0 < len(before) < 4
    again = run_sweep("small", small(training=LONG), "ablated", 5, kept=tmp_path)
    assert all(file.stat().st_mtime_ns == when for file, when in before.items())
    assert_same(again, run_sweep("small", small(training=LONG), "ablated", 5))


def test_an_error_ends_the_sweep_and_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(settings: AutoencoderSettings, unit: Unit, seed: int, device: str) -> sweep.Trained:
        if unit.density == 0.2:
            raise MemoryError("no room")
        return train_unit(settings, unit, seed, device)

    monkeypatch.setattr(sweep, "train_unit", breaks)
    with pytest.raises(MemoryError, match="no room"):
        run_sweep("small", small(), "ablated", 5, kept=tmp_path)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["ablated-0-1.0-0.npz", "ablated-0-1.0-1.npz"]


def test_an_ablated_feature_gets_no_gradient_from_its_own_output() -> None:
    # Dense and alone in its dimension, feature 2 can be learnt from its own output only.
    long = ToyTraining(steps=3000, batch_size=64)
    settings = small(features=3, hidden=3, ablated=(2,), auxiliary=(), init_norm=0.1, training=long)
    result = train_unit(settings, Unit("ablated", 0, 0.2, 0), 1)
    assert result.finals.b[1, 2] == 0
    assert np.linalg.norm(result.finals.w[0, :, 2]) == pytest.approx(1, abs=0.1)
    assert np.linalg.norm(result.finals.w[1, :, 2]) < 0.2


def test_an_auxiliary_child_gets_no_gradient_but_from_auxiliary_outputs() -> None:
    result = train_unit(small(), Unit("auxiliary", 2, 0.2, 0), 1)
    teacher, child = result.finals.b
    assert (teacher[:8] != 0).any()
    assert (teacher[8:] == 0).all()
    assert (child[:8] == 0).all()


def test_starts() -> None:
    for experiment, extra in (("ablated", 0), ("auxiliary", 2)):
        same = train_unit(small(), Unit(experiment, extra, 0.2, 0), 1).starts.w
        other = train_unit(small(child_init="other"), Unit(experiment, extra, 0.2, 0), 1).starts.w
        assert np.array_equal(same[0], same[1])
        assert np.array_equal(same[0], other[0])
        assert not np.isclose(other[0], other[1]).any()
    assert np.sqrt((same[0] ** 2).sum(axis=0).mean()) == pytest.approx(np.sqrt(2 * 3 / (3 + 10)), rel=0.3)
    near_zero = train_unit(small(init_norm=0.1), Unit("ablated", 0, 0.2, 0), 1).starts.w
    assert np.sqrt((near_zero[0] ** 2).sum(axis=0).mean()) == pytest.approx(0.1, rel=0.3)


@pytest.mark.parametrize(("experiment", "extra"), [("ablated", 0), ("auxiliary", 2)])
def test_a_child_blind_to_what_it_is_not_asked_for_leaves_it_as_it_began(
    experiment: sweep.Experiment, extra: int
) -> None:
    """But for the weight decay; with those features in its input they are learnt."""
    trained = ToyTraining(steps=200, batch_size=64, weight_decay=0)
    unit = Unit(experiment, extra, 0.2, 0)
    for inputs in ("all", "trained"):
        result = train_unit(small(child_inputs=inputs, training=trained), unit, 1)
        for number, feature in enumerate((0, 2) if experiment == "ablated" else (slice(0, 8),), 1):
            began, ended = (models.w[number][:, feature] for models in (result.starts, result.finals))
            assert np.array_equal(began, ended) == (inputs == "trained")


def test_with_equal_activations_sparser_batches_are_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, int]] = []
    train = sweep._train

    def noted(lesson: sweep.Lesson, *rest: Any) -> Any:
        drawn.append((lesson.draws.density, lesson.draws.batch_size))
        return train(lesson, *rest)

    monkeypatch.setattr(sweep, "_train", noted)
    for equal, batch in ((True, 320), (False, 64)):
        drawn.clear()
        run_sweep("small", small(equal_activations=equal), "auxiliary", 1)
        assert set(drawn) == {(1.0, 64), (0.2, batch)}


def test_a_large_setting_goes_through_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    large = small(features=200, hidden=100, training=ToyTraining(steps=2, batch_size=8))
    assert large.features * large.hidden >= FUSED_UP_TO
    assert not large.is_small
    monkeypatch.setattr("subliminal_dagster.science.toy.fused.train", None)
    found = run_sweep("large", large, "auxiliary", 1)
    assert len(found.children) == 8


POST = AutoencoderSettings(
    densities=(1.0, 0.1, 0.05, 0.01),
    seeds=3,
    ablated=(0, 2),
    auxiliary=(5,),
    training=ToyTraining(steps=10_000, batch_size=256),
)
LINEAR = POST.model_copy(update={"relu": False, "auxiliary": (), "predicts": "nothing"})


@pytest.fixture(scope="module")
def tables() -> dict[str, Sweep]:
    """The post's sizes at five of its densities, three seeds and a third of its steps."""
    return {
        "ablated": run_sweep("post", POST, "ablated", 1),
        "auxiliary": run_sweep("post", POST, "auxiliary", 1),
        "linear": run_sweep("linear", LINEAR, "ablated", 1),
    }


def mean(found: Sweep, density: float, column: str) -> float:
    return float(found.children.loc[found.children["density"] == density, column].mean())


def test_no_superposition_no_recovery_and_recovery_with_it(tables: dict[str, Sweep]) -> None:
    """Tolerances: over five seeds the means at full size have standard deviations of at most 0.1."""
    found = tables["ablated"]
    assert mean(found, 1.0, "teacher_superposition") == pytest.approx(1, abs=0.05)
    assert mean(found, 0.01, "teacher_superposition") > 2
    assert mean(found, 1.0, "norm_ratio") < 0.15
    assert mean(found, 0.05, "norm_ratio") == pytest.approx(1, abs=0.25)
    assert mean(found, 0.05, "recovered") > 0.7
    assert mean(tables["linear"], 0.05, "teacher_superposition") == pytest.approx(1, abs=0.05)
    assert mean(tables["linear"], 0.05, "recovered") < 0.1


def test_statements_say_what_the_tables_say(tables: dict[str, Sweep]) -> None:
    children = pd.concat([found.children for found in tables.values()], ignore_index=True)
    models = pd.concat([found.models for found in tables.values()], ignore_index=True)
    said = statements.post_statements(children, models, "post")
    verdicts = {s.statement: s.verdict for s in said}
    # Three seeds exclude no growth, but not a fall on the way.
    assert verdicts["Features per dimension grow with sparsity."] in ("detected", "inconclusive")
    by_seed = children[(children["setting"] == "post") & (children["experiment"] == "ablated")]
    by_seed = by_seed[by_seed["density"] == 1.0].groupby("seed")["norm_ratio"].mean()
    dense = next(s for s in said if "does not learn the ablated" in s.statement)
    assert f"{by_seed.mean():.3f}" in dense.measured
    assert dense.verdict == ("detected" if t_interval(by_seed).high < 0.1 else "inconclusive")
    own = {"post": POST, "linear": LINEAR}
    controls = statements.setting_statements(children, "post", own)
    assert [s.source for s in controls] == ["control"]
    shares = tables["linear"].children.groupby(["density", "seed"])["recovered"].mean()
    intervals = [t_interval(of_seeds) for _, of_seeds in shares.groupby("density")]
    assert controls[0].measured.startswith(f"{max(intervals, key=lambda found: found.high).mean:.3f} ")
    absent = statements.post_statements(children[children["density"] != 0.01], models, "post")
    assert {s.verdict for s in absent if "0.01" in s.statement} == {"not tested"}


@pytest.mark.parametrize("name", ["ablated", "auxiliary"])
def test_figures(tables: dict[str, Sweep], name: str) -> None:
    drawn = figures.sweep_figures(tables[name])
    assert set(drawn) == {"figure", "geometry", "superposition", "history"}
    for figure in drawn.values():
        assert png(figure)[:4] == b"\x89PNG"
    left = drawn["figure"].axes[0]
    assert left.get_xlim()[0] > left.get_xlim()[1], "no superposition must be on the left"
    column = "child_norm" if name == "ablated" else "norm_ratio"
    children = tables[name].children
    line = next(line for line in left.get_lines() if line.get_label() in ("child", "k = 5"))
    assert line.get_ydata() == pytest.approx(children.groupby("density")[column].mean().to_numpy())
    again = figures.sweep_figures(tables[name])
    assert png(again["geometry"]) == png(figures.sweep_figures(tables[name])["geometry"])


def test_summary_figure_shows_every_setting(tables: dict[str, Sweep]) -> None:
    children = pd.concat([found.children for found in tables.values()], ignore_index=True)
    children.loc[0, ["recovered", "norm_ratio"]] = np.nan
    figure = figures.summary_figure(children)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["post", "linear"]
    png(figure)


def test_the_shipped_study() -> None:
    study = load_study("toy")
    assert isinstance(study, ToyStudy)
    post = study.settings["post"]
    assert (post.features, post.hidden, post.importance) == (20, 5, 0.7)
    assert (post.training.steps, post.training.batch_size, post.training.learning_rate) == (10_000, 1024, 1e-3)
    assert (post.init_norm, post.auxiliary_weights, post.batch_loss) == ("xavier", "importance", "sum")
    assert post.ablated == (0, 1, 2, 3, 4)
    assert post.auxiliary == (3, 5, 10)
    assert all(settings.seeds >= 5 for settings in study.settings.values())
    assert {settings.features for settings in study.settings.values()} >= {20, 400, 1000}
    # The summary's figure has a colour and a marker for each.
    assert len(study.settings) <= len(figures._STYLES)
    assert min(min(settings.densities) for settings in study.settings.values()) == 1e-4
