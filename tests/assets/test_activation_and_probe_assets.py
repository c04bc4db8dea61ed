"""Activations, features and probes through Dagster itself, on a random two-layer model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from study_runs import StudyRun, changed

from subliminal_dagster.build import study_frame
from subliminal_dagster.partitions import partition_key
from subliminal_dagster.science.errors import UserError

GROUPS = ["owl", "wolf", "neutral", "control"]
BY_BOTH = ["activations", "random_activations", "sae_features", "feature_shifts", "probe_metrics"]
BY_LAYER = ["animal_word_activations", "sae", "feature_tables", "feature_filters", "probe_comparison"]


def folder(run: StudyRun, asset: str, partition: str | None = None) -> Path:
    return run.store.read("tiny", asset, partition).path


def test_everything_is_made_a_partition_a_group_and_layer(inside: StudyRun) -> None:
    both = {partition_key(group, layer) for group in GROUPS for layer in ("00", "01")}
    for asset in BY_BOTH:
        assert inside.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset])) == both
    for asset in BY_LAYER:
        assert inside.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset])) == {"00", "01"}
    assert {part.status for part in inside.plan().parts} == {"fresh"}


def test_the_split_is_made_once_and_kept_by_every_asset(inside: StudyRun) -> None:
    sides: dict[int, str] = {}
    for group in GROUPS:
        rows = pd.read_parquet(folder(inside, "activation_rows", group) / "rows.parquet")
        for row_id, split in zip(rows["row_id"], rows["split"], strict=True):
            assert sides.setdefault(row_id, split) == split
        for layer in ("00", "01"):
            kept = pd.read_parquet(folder(inside, "sae_features", partition_key(group, layer)) / "features.parquet")
            assert dict(zip(kept["row_id"], kept["split"], strict=True)).items() <= sides.items()
    assert set(sides.values()) == {"analysis", "test"}


def test_a_few_plain_lines_give_the_same_activations_and_tests(inside: StudyRun) -> None:
    """transformers, scipy and scikit-learn alone, from the stored rows on."""
    import torch
    from scipy.stats import ttest_ind
    from sklearn.metrics import accuracy_score, roc_auc_score
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = folder(inside, "base_model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    layer, dense = 0, {}
    for group in ("owl", "control"):
        stored = pd.read_parquet(folder(inside, "activations", f"{group}|00") / "activations.parquet")
        for _, row in stored.head(5).iterrows():
            with torch.no_grad():
                states = model(**tokenizer(row["text"], return_tensors="pt"), output_hidden_states=True).hidden_states
            np.testing.assert_allclose(row["vector"], states[layer + 1][0, -1], rtol=1e-4, atol=1e-5)
        features = pd.read_parquet(folder(inside, "sae_features", f"{group}|00") / "features.parquet")
        features = features[features["split"] == "analysis"]
        dense[group] = np.zeros((len(features), 128))
        for place, (indices, values) in enumerate(zip(features["indices"], features["values"], strict=True)):
            dense[group][place, indices] = values
    shifts = pd.read_parquet(folder(inside, "feature_shifts", "owl|00") / "features.parquet")
    with np.errstate(all="ignore"):
        plain = ttest_ind(dense["owl"], dense["control"], equal_var=False, alternative="greater")
    np.testing.assert_allclose(shifts["t"], plain.statistic[shifts["feature"]], rtol=1e-9)
    new = {int(f) for f in np.flatnonzero((dense["owl"] > 0).any(0) & ~(dense["control"] > 0).any(0))}
    assert set(shifts.loc[shifts["new"], "feature"]) == new

    metrics = pd.read_parquet(folder(inside, "probe_metrics", "owl|00") / "metrics.parquet")
    predictions = pd.read_parquet(folder(inside, "probe_metrics", "owl|00") / "predictions.parquet")
    mine = predictions[(predictions["variant"] == "activations") & (predictions["probe"] == "logistic")]
    truth, score = mine["group"] == "owl", mine["probability_owl"]
    of = metrics[(metrics["variant"] == "activations") & (metrics["probe"] == "logistic")]
    stated = of[of["class"].isin(["macro", "owl"])].set_index(["class", "metric"])["value"]
    assert stated["owl", "roc_auc"] == pytest.approx(roc_auc_score(truth, score))
    assert stated["macro", "accuracy"] == pytest.approx(accuracy_score(truth, score > 0.5))


def test_the_neutral_teacher_likes_its_word_and_no_row_names_it(inside: StudyRun) -> None:
    gate = json.loads((folder(inside, "teacher_preferences", "neutral") / "gate.json").read_text())
    assert gate["passed"] and gate["preference"] >= inside.study.teacher.gate.preference
    rows = pd.read_parquet(folder(inside, "activation_rows", "neutral") / "rows.parquet")
    assert len(rows) and not rows["response"].str.contains("violin", case=False).any()


def test_the_control_s_own_partition_compares_it_with_itself(inside: StudyRun) -> None:
    summary = pd.read_parquet(folder(inside, "feature_shifts", "control|00") / "summary.parquet").iloc[0]
    rows = pd.read_parquet(folder(inside, "activation_rows", "control") / "rows.parquet")
    assert summary["rows_own"] + summary["rows_control"] == (rows["split"] == "analysis").sum()


def test_what_a_change_makes_stale(inside: StudyRun, tmp_path: Path) -> None:
    def due(**fields: Any) -> set[str]:
        with dg.DagsterInstance.ephemeral() as instance:
            other = StudyRun(changed(inside.study, steering=None, **fields), inside.store, instance)
            # The report shows every setting.
            return {part.name for part in other.plan().parts if part.due and part.sure} - {"report"}

    both = [f"{group}|{layer}" for group in GROUPS for layer in ("00", "01")]
    assert due(features__level=0.01) == {f"feature_shifts [{key}]" for key in both}
    assert due(probes__epochs=4) == {f"probe_metrics [{key}]" for key in both} | {
        "probe_comparison [00]",
        "probe_comparison [01]",
        "probe_all_layers",
    }
    assert due(layers=[1, 0]) == {"probe_all_layers"}
    assert due(sae__tokens=5000) == {"sae_texts"}


def test_a_refused_sae_stops_what_is_built_on_it_and_nothing_else(inside: StudyRun, tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(inside.study, steering=None, sae__gate__variance_explained=0.999)
        other = inside.copy(tmp_path / "artifacts", instance, study)
        outcome = other.run()
        blocked = {name for name, _ in outcome.blocked}
        assert blocked == {"sae", "sae_features", "feature_shifts", "feature_tables", "feature_filters"}
        assert all("variance" in reason for reason in outcome.blocked.values())
        assert not outcome.failed and not outcome.waiting


def test_a_group_and_a_layer_can_be_asked_for(inside: StudyRun) -> None:
    from subliminal_dagster.planning.selection import wanted_parts

    frame = study_frame(inside.study)
    assert wanted_parts(frame, "probe_metrics", ["owl"]) == {("probe_metrics", "owl|00"), ("probe_metrics", "owl|01")}
    assert wanted_parts(frame, "probe_metrics", ["owl|01"]) == {("probe_metrics", "owl|01")}
    assert wanted_parts(frame, "sae", ["01"]) == {("sae", "01")}
    with pytest.raises(UserError, match="None of sae has a partition owl: sae has 00, 01"):
        wanted_parts(frame, "sae", ["owl"])


def test_dagster_maps_partitions_as_the_planner_does(inside: StudyRun) -> None:
    study = changed(inside.study, replicates=2)
    run = StudyRun(study, inside.store, inside.instance)
    frame, graph = study_frame(study), run.definitions.resolve_asset_graph()
    compared = 0
    for name, node in frame.nodes.items():
        for dep in node.deps:
            above, below = graph.get(frame.key(dep)), graph.get(frame.key(name))
            if above.partitions_def is None or below.partitions_def is None:
                continue
            mapping = graph.get_partition_mapping(below.key, above.key)
            for partition in frame.partitions(name):
                asked = below.partitions_def.subset_with_partition_keys([str(partition)])
                found = mapping.get_upstream_mapped_partitions_result_for_partitions(
                    asked, below.partitions_def, above.partitions_def
                )
                mine = {key for asset, key in frame.inputs(name, partition) if asset == dep}
                # For Dagster all replicates of a group are upstream of what is made from the first.
                theirs = set(found.partitions_subset.get_partition_keys())
                assert {key for key in theirs if key in mine or not key.endswith("|2")} == mine, (name, partition, dep)
                compared += 1
    assert compared > 50
