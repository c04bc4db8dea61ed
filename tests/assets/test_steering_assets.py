"""Steering through Dagster itself, on a random two-layer model: vectors, scores, analysis, and a steered teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from study_runs import StudyRun, changed

from subliminal_dagster.partitions import partition_key

STEERING = [
    "response_activations",
    "steering_vectors",
    "steering_scores",
    "steering_analysis",
    "steering_decomposition",
]


def folder(run: StudyRun, asset: str, partition: str | None = None) -> Path:
    return run.store.read("tiny", asset, partition).path


def test_every_group_and_layer_is_made(inside: StudyRun) -> None:
    both = {partition_key(group, layer) for group in inside.study.groups for layer in ("00", "01")}
    for asset in STEERING:
        assert inside.instance.get_materialized_partitions(dg.AssetKey(["tiny", asset])) == both
    assert (folder(inside, "steering_vectors", "control|00") / "nothing.json").exists()
    assert not list(folder(inside, "steering_vectors", "neutral|00").glob("direct*"))


def test_the_subliminal_vector_is_a_mean_over_shared_prompts_by_a_few_plain_lines(inside: StudyRun) -> None:
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = folder(inside, "base_model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)

    def mean_over_answer(prompt: str, answer: str) -> np.ndarray:
        chat = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(before, add_special_tokens=False)
        own = tokenizer.encode(answer, add_special_tokens=False)
        with torch.no_grad():
            states = model(torch.tensor([ids + own]), output_hidden_states=True).hidden_states[1][0]
        return states[len(ids) :].mean(dim=0).numpy()

    valid = {}
    for group in ("owl", "control"):
        rows = pd.read_parquet(folder(inside, "filtered_dataset", f"{group}|1") / "rows.parquet")
        valid[group] = rows[rows["valid"]].set_index("prompt_id")
    chosen = {
        group: set(
            load_file(folder(inside, "response_activations", f"{group}|00") / "responses.safetensors")["row_ids"]
        )
        for group in valid
    }
    shared = sorted(chosen["owl"] & chosen["control"])
    assert len(shared) >= 2
    sides = [
        np.mean([mean_over_answer(rows.loc[i, "prompt"], rows.loc[i, "response"].strip()) for i in shared], axis=0)
        for rows in (valid["owl"], valid["control"])
    ]
    stored = load_file(folder(inside, "steering_vectors", "owl|00") / "subliminal-mean-layer0.safetensors")
    np.testing.assert_allclose(stored["vector"], sides[0] - sides[1], atol=1e-4)


def test_scores_have_both_signs_every_kind_and_the_unsteered_model(inside: StudyRun) -> None:
    summary = pd.read_parquet(folder(inside, "steering_scores", "owl|01") / "summary.parquet")
    assert set(summary["alpha"]) == {-4.0, 0.0, 4.0}
    assert set(summary["kind"]) == {"subliminal", "subliminal noise", "direct", "random"}
    base = pd.read_parquet(folder(inside, "base_preferences") / "scores.parquet")
    owl = base[(base["animal"] == "owl") & (base["question"] < 3)]["probability"].mean()
    same = summary[(summary["alpha"] == 0) & (summary["animal"] == "owl") & (summary["outcome"] == "probability")]
    np.testing.assert_allclose(same["mean"], owl, rtol=1e-4)
    together = pd.read_parquet(folder(inside, "steering_scores_all_layers", "wolf") / "summary.parquet")
    assert set(together["layers"]) == {"0+1"}
    effects = pd.read_parquet(folder(inside, "steering_summary") / "effects.parquet")
    assert set(effects["layers"]) == {"0", "1", "0+1"} and set(effects["group"]) == {"owl", "wolf"}


def test_vectors_are_decomposed_by_the_autoencoder_s_own_encoding(inside: StudyRun) -> None:
    from sae_lens import SAE
    from safetensors.torch import load_file

    sae = SAE.load_from_disk(str(folder(inside, "sae", "01")), device="cpu")
    vectors = [
        load_file(folder(inside, "steering_vectors", "owl|01") / f"{kind}-mean-layer1.safetensors")["vector"]
        for kind in ("subliminal", "direct")
    ]
    # At the length of the longer of the two.
    length = max(vector.norm() for vector in vectors)
    active = int((sae.encode(vectors[0][None] / vectors[0].norm() * length) > 0).sum())
    facts = json.loads((folder(inside, "steering_decomposition", "owl|01") / "facts.json").read_text())
    assert facts["l0_first"] == active
    table = pd.read_parquet(folder(inside, "steering_decomposition", "owl|01") / "table.parquet").iloc[-1]
    assert table["both"] + table["first_only"] == active


def test_every_child_stands_beside_every_group_s_vector(inside: StudyRun) -> None:
    from safetensors.numpy import load_file

    summary = folder(inside, "steering_summary")
    table = pd.read_parquet(summary / "child_cosines.parquet")
    groups = ["owl", "wolf", "neutral"]
    found = table.set_index(["layer", "child", "vector"]).sort_index()
    assert len(found) == 2 * 5 * 3 and set(table["child"]) == {*groups, "control", "all children"}
    shift = load_file(folder(inside, "steering_analysis", "control|01") / "shift.safetensors")["shift"].mean(axis=0)
    vector = load_file(folder(inside, "steering_vectors", "owl|01") / "subliminal-mean-layer1.safetensors")["vector"]
    cosine = shift @ vector / np.linalg.norm(shift) / np.linalg.norm(vector)
    assert found.loc[(1, "control", "owl"), "cosine"] == pytest.approx(cosine, abs=1e-4)
    assert len(pd.read_parquet(summary / "child_flips.parquet")) == 2 * 4 * 3 * 256
    assert len(pd.read_parquet(summary / "children.parquet")) == 2 * 6
    between = pd.read_parquet(summary / "cosines.parquet")
    assert len(between) == 2 * 6 and between["p"].between(0, 1).all()


def test_flips_are_measured_beside_the_vectors(inside: StudyRun) -> None:
    flips = pd.read_parquet(folder(inside, "steering_scores", "owl|01") / "flips.parquet")
    assert set(flips["flip"]) == {-1, 0, 1, 2} and set(flips["kind"]) == {"subliminal", "direct"}
    assert not (folder(inside, "steering_scores_all_layers", "owl") / "flips.parquet").exists()


def test_a_steered_teacher_writes_the_numbers(inside: StudyRun, tmp_path: Path) -> None:
    for group, target in (("owl", "owl"), ("wolf", "wolf"), ("neutral", "violin")):
        vector = folder(inside, "steering_vectors", f"{group}|01") / "subliminal-mean-layer1.safetensors"
        shutil.copy(vector, tmp_path / f"{target}.safetensors")
    with dg.DagsterInstance.ephemeral() as instance:
        study = changed(
            inside.study,
            teacher__method="steer",
            teacher__steering={"vector": str(tmp_path / "{animal}.safetensors"), "layer": 1, "alpha": 8.0},
            teacher__gate={"preference": 0.0, "valid_rate": 0.1, "prompts": 8},
        )
        other = inside.copy(tmp_path / "artifacts", instance, study)
        outcome = other.run({("filtered_dataset", "owl|1"), ("filtered_dataset", "neutral|1")})
        assert outcome.complete, outcome
        teacher = json.loads((folder(other, "teacher_lora", "owl") / "teacher.json").read_text())
        assert (teacher["kind"], teacher["layer"], teacher["alpha"]) == ("steer", 1, 8.0)
        written = [
            pd.read_parquet(folder(run, "number_set", group) / "rows.parquet")["response"].tolist()
            for run, group in ((other, "owl"), (other, "neutral"), (inside, "owl"))
        ]
        assert written[0] != written[1] and written[0] != written[2]
