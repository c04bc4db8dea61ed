"""Descriptions, a judge behind an endpoint and what groups' features are made of, through Dagster itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from chat_endpoint import KEY, ChatEndpoint, chat_endpoint, knows_the_labels
from study_runs import StudyRun, changed

from subliminal_dagster.assets.descriptions import expected_costs
from subliminal_dagster.build import study_frame
from subliminal_dagster.planning.planner import Part
from subliminal_dagster.planning.selection import wanted_parts
from subliminal_dagster.resources import JudgeResource
from subliminal_dagster.science.descriptions.chat_api import KEY as KEY_VARIABLE
from subliminal_dagster.science.descriptions.chat_api import MODEL, URL
from subliminal_dagster.science.descriptions.judges import CATEGORIES


@pytest.fixture(scope="module")
def endpoint() -> Iterator[ChatEndpoint]:
    with chat_endpoint(knows_the_labels) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(URL, server.url)
        patch.setenv(MODEL, "a-judge")
        patch.setenv(KEY_VARIABLE, KEY)
        yield server


@pytest.fixture(scope="module")
def judged(inside: StudyRun, endpoint: ChatEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyRun]:
    """The study looked into, at one of its layers, with descriptions and a judge."""
    folder = tmp_path_factory.mktemp("judged")
    descriptions = {"source": {"kind": "made", "contexts": 2, "tokens": 2}, "judge": {"kind": "openai"}}
    with dg.DagsterInstance.ephemeral() as instance:
        study = inside.copy(
            folder / "artifacts", instance, changed(inside.study, layers=[1], descriptions=descriptions)
        )
        study.resources = {
            "judge": JudgeResource(cache=str(folder / "answers.sqlite"), prompt_price=2.0, answer_price=8.0)
        }
        outcome = study.run(wanted_parts(study_frame(study.study), "feature_composition,steering_by_category", None))
        assert outcome.complete, outcome
        yield study


def folder(run: StudyRun, asset: str) -> Path:
    return run.store.read("tiny", asset, "01").path


def test_every_firing_feature_is_described_and_judged_once(judged: StudyRun, endpoint: ChatEndpoint) -> None:
    described = pd.read_parquet(folder(judged, "feature_descriptions") / "descriptions.parquet")
    categories = pd.read_parquet(folder(judged, "feature_categories") / "categories.parquet")
    assert len(described) and set(categories["feature"]) == set(described["feature"])
    assert all(
        CATEGORIES[len(d) % 4] == c for d, c in zip(categories["description"], categories["category"], strict=True)
    )
    assert set(endpoint.answered.values()) == {1}


def test_the_plan_tells_what_a_judge_will_cost(judged: StudyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(run: StudyRun) -> str | None:
        due = [Part(run.study.name, name, "01", "missing") for name in ("feature_composition", "feature_categories")]
        costs = expected_costs(run.study, due, run.store, run.resources["judge"])
        assert set(costs) <= {"feature_categories [01]"}
        return costs.get("feature_categories [01]")

    assert str(told(judged)).startswith("0 questions to a-judge")
    other = StudyRun(changed(judged.study, name="other"), judged.store, judged.instance, resources=judged.resources)
    assert told(other) == "what its judge will cost is known once feature_descriptions is there"
    assert (
        told(StudyRun(changed(judged.study, descriptions=None), judged.store, judged.instance, [], judged.resources))
        is None
    )
    monkeypatch.delenv(KEY_VARIABLE)
    assert KEY_VARIABLE in str(told(judged))


def test_a_model_words_the_descriptions(judged: StudyRun, endpoint: ChatEndpoint, tmp_path: Path) -> None:
    worded = changed(
        judged.study, descriptions__source={"kind": "made", "contexts": 2, "tokens": 2, "writer": "a-writer"}
    )
    with dg.DagsterInstance.ephemeral() as instance:
        other = judged.copy(tmp_path / "artifacts", instance, worded)
        assert other.materialize("feature_descriptions", "01").success
        path = other.store.read("tiny", "feature_descriptions", "01").path / "descriptions.parquet"
        before = pd.read_parquet(folder(judged, "feature_descriptions") / "descriptions.parquet")
        after = pd.read_parquet(path)
    assert list(after["feature"]) == list(before["feature"])
    assert (after["description"] != before["description"]).all()
    assert "a-writer" in {request["model"] for request in endpoint.requests}


def test_the_judge_s_agreement_and_cost_are_shown_and_its_key_nowhere(judged: StudyRun) -> None:
    agreement = json.loads((folder(judged, "feature_categories") / "agreement.json").read_text())
    assert (agreement["judge"], agreement["kappa"]) == ("a-judge", 1.0)
    key = dg.AssetKey(["tiny", "feature_categories"])
    event = judged.instance.get_latest_materialization_event(key)
    assert event is not None and event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert float(str(metadata["cost"].value)) > 0
    logs = str(judged.instance.all_logs(event.run_id)) if hasattr(event, "run_id") else str(metadata)
    assert KEY not in logs and KEY not in "".join(judged.lines)


def test_the_composition_s_base_rates_are_those_of_all_features(judged: StudyRun) -> None:
    composition = pd.read_parquet(folder(judged, "feature_composition") / "composition.parquet")
    categories = pd.read_parquet(folder(judged, "feature_categories") / "categories.parquet")
    expected = categories["category"].value_counts(normalize=True)
    base = composition[composition["group"] == "all features"].set_index("category")["share"]
    np.testing.assert_allclose(base.loc[expected.index], expected)
    assert {"owl", "wolf", "control"} <= set(composition["group"])


def test_vectors_are_shown_by_category(judged: StudyRun) -> None:
    table = pd.read_parquet(folder(judged, "steering_by_category") / "owl.parquet")
    assert table.iloc[-1]["category"] == "total"
    assert table.iloc[:-1]["both"].sum() == table.iloc[-1]["both"]


def test_a_judge_at_chance_is_refused_and_nothing_is_built_on_it(judged: StudyRun, tmp_path: Path) -> None:
    """The base model itself, which is random here."""
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(judged.study, descriptions__judge={"kind": "local"})
        other = judged.copy(tmp_path / "artifacts", instance, study)
        outcome = other.run(wanted_parts(study_frame(study), "feature_composition", None))
        assert {name for name, _ in outcome.blocked} == {"feature_categories", "feature_composition"}
        assert all("no better than chance" in reason or "kappa" in reason for reason in outcome.blocked.values())
