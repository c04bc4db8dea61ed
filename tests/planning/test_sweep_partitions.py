"""What the variants of a sweep are made from: cells share all that no swept setting affects, for Dagster as for us."""

from __future__ import annotations

from typing import Any

import pytest
from study_runs import changed

from subliminal_dagster.build import build_defs, study_frame
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.sweep import SWEEPABLE, value_at

CHILD = ("child_lora", "preference_scores", "soft_child_lora", "soft_preference_scores")
TEACHER = ("teacher_lora", "teacher_preferences")


def swept(study: Study, values: dict[str, Any], **more: Any) -> Study:
    found: Study = changed(study, sweep=values, **more)
    return found


def per_group(frame: Frame) -> dict[str, int]:
    """How many variants of each asset a group has."""
    return {
        name.removeprefix("variant_"): len(node.variants.keys)
        for name, node in frame.nodes.items()
        if node.variants is not None
    }


@pytest.mark.parametrize(
    ("values", "replicates_from", "expected"),
    [
        ({"child.lora.rank": [2, 4, 8]}, "numbers", {"filtered_dataset": 2} | dict.fromkeys(CHILD, 6)),
        (
            {"child.lora.rank": [2, 4], "filter.train_rows": [8, 9, 10]},
            "numbers",
            {"teacher_preferences": 3, "filtered_dataset": 6} | dict.fromkeys(CHILD, 12),
        ),
        (
            {"child.soft.support": ["numbers", "vocabulary"]},
            "numbers",
            {"filtered_dataset": 2} | dict.fromkeys(CHILD[:2], 2) | dict.fromkeys(CHILD[2:], 4),
        ),
        (
            {"teacher.lora.rank": [4, 8], "numbers.temperature": [0.5, 1], "child.lora.rank": [2, 4]},
            "numbers",
            {"teacher_lora": 2, "teacher_preferences": 4, "number_set": 4, "filtered_dataset": 8}
            | dict.fromkeys(CHILD, 16),
        ),
        (
            {"teacher.lora.rank": [4, 8]},
            "teacher",
            dict.fromkeys((*TEACHER, "number_set", "filtered_dataset", *CHILD), 4),
        ),
        ({"child.lora.rank": [2]}, "teacher", {"filtered_dataset": 2} | dict.fromkeys(CHILD, 2)),
    ],
)
def test_cells_share_what_they_have_in_common(
    tiny_study: Study, values: dict[str, Any], replicates_from: str, expected: dict[str, int]
) -> None:
    study = swept(tiny_study, values | {"replicates": 2}, replicates=2, replicates_from=replicates_from)
    frame = study_frame(study)
    assert per_group(frame) == expected
    graph = build_defs(studies=[study]).resolve_asset_graph()
    for name in [f"variant_{asset}" for asset in expected]:
        for dep in frame.nodes[name].deps:
            above, below = graph.get(frame.key(dep)), graph.get(frame.key(name))
            for partition in frame.partitions(name):
                mine = {key for asset, key in frame.inputs(name, partition) if asset == dep}
                assert len(mine) == 1
                if above.partitions_def is None:
                    continue
                found = graph.get_partition_mapping(
                    below.key, above.key
                ).get_upstream_mapped_partitions_result_for_partitions(
                    below.partitions_def.subset_with_partition_keys([str(partition)]),
                    below.partitions_def,
                    above.partitions_def,
                )
                assert set(found.partitions_subset.get_partition_keys()) == mine, (name, partition, dep)


def test_a_variant_has_the_recipe_of_the_study_that_has_its_settings(tiny_study: Study) -> None:
    study = swept(tiny_study, {"child.lora.rank": [2, 4], "filter.train_rows": [8, 12]})
    frame = study_frame(study)
    alone = study_frame(changed(tiny_study, child__lora__rank=4, filter__train_rows=8))
    variant = "owl|train_rows=8+replicate=1"
    assert frame.recipe("variant_filtered_dataset", variant) == alone.recipe("filtered_dataset", "owl|1")
    key = "owl|rank=4+train_rows=8+replicate=1"
    assert frame.recipe("variant_child_lora", key) == alone.recipe("child_lora", "owl|1")
    assert frame.inputs("variant_child_lora", key) == [("base_model", None), ("variant_filtered_dataset", variant)]
    assert frame.inputs("variant_filtered_dataset", variant) == [
        ("number_set", "owl"),
        ("variant_teacher_preferences", "owl|train_rows=8"),
    ]
    # What Dagster shows of all variants is no cell's, and the study's own assets know of no sweep.
    assert frame.nodes["variant_child_lora"].recipe.settings["child.lora"]["rank"] == "swept"
    own = study_frame(tiny_study)
    assert all(frame.recipe(name, None) == node.recipe for name, node in own.nodes.items() if name != "report")


def test_what_may_be_swept_is_what_the_chain_reads_and_nothing_above_it(tiny_study: Study) -> None:
    frame = study_frame(tiny_study)
    content = tiny_study.model_dump(mode="json")
    chain = (*TEACHER, "number_set", "filtered_dataset", *CHILD)

    def read_by(field: str) -> set[str]:
        def meets(read: str) -> bool:
            return f"{field}.".startswith(f"{read}.") or f"{read}.".startswith(f"{field}.")

        return {name for name, node in frame.nodes.items() if any(map(meets, node.reads))}

    for field in SWEEPABLE:
        value_at(content, field)
        found = read_by(field)
        assert found & set(chain), field
        # `replay_set` reads how numbers are drawn, and stays the study's own.
        assert not found & {"base_model", "base_preferences"}, field
