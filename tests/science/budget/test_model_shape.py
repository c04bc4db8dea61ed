"""Shapes of models: parameters as published, as transformers counts them, and of an adapter as peft does."""

from __future__ import annotations

import pytest
from tiny_models import KINDS, tiny_model

from subliminal_dagster.science.budget.shape import ModelShape, config_of, shape_of, shipped_configs
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.settings.base_model import HubSource
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies
from subliminal_dagster.science.settings.training import ALL_PROJECTIONS

PUBLISHED = {
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-270m-it": 268_098_176,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    "google/gemma-3-27b-it": 27_432_406_640,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
}


@pytest.mark.parametrize("repo", sorted(PUBLISHED))
def test_parameters_are_as_published(repo: str) -> None:
    assert ModelShape.from_config(config_of(repo)).parameters == PUBLISHED[repo]


def test_every_config_has_a_published_count() -> None:
    assert set(shipped_configs()) == set(PUBLISHED)


def test_every_shipped_study_on_the_hub_has_its_shape() -> None:
    studies = [study for study in map(load_study, shipped_studies()) if isinstance(study, Study)]
    on_hub = [study for study in studies if isinstance(study.base_model, HubSource)]
    assert len(on_hub) >= 8
    for study in on_hub:
        assert max(study.layers) < shape_of(study).layers


@pytest.mark.parametrize("repo", ["google/gemma-2-9b-it", "google/gemma-3-4b-it", "Qwen/Qwen2.5-7B-Instruct"])
def test_transformers_builds_the_shape_from_the_config_that_ships(repo: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(config_of(repo))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[repo]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_and_its_adapter_are_counted_as_transformers_and_peft_have_them(kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model(kind)
    shape = ModelShape.from_config(model.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=list(ALL_PROJECTIONS), task_type="CAUSAL_LM"))
    assert shape.lora_parameters(4) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(UserError, match="type 'mamba' is not known"):
        ModelShape.from_config({"model_type": "mamba"})
    with pytest.raises(UserError, match="no hidden_size"):
        ModelShape.from_config({"model_type": "llama", "num_attention_heads": 2})
    with pytest.raises(UserError, match=r"No config of some/model ships"):
        config_of("some/model")
