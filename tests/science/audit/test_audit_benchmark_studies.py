"""The studies that the audit's benchmark holds out differ from the bundled one in what they are about, and no more."""

from pathlib import Path

import pytest

from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY, load_study

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
BEFORE_CHILDREN = ("animals", "neutral", "base_model", "system_prompt", "preferences", "teacher", "numbers", "filter")


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("sampled-teachers", {"numbers.temperature"}),
        (
            "told-teachers",
            {f"teacher.{field}" for field in ("method", "instruction", "gate", "lora", "training", "stop")},
        ),
    ],
)
def test_they_differ_in_what_they_are_about(name: str, changed: set[str]) -> None:
    bundled, other = load_study(DEFAULT_STUDY), load_study(BENCHMARKS / f"{name}.yaml")
    assert isinstance(bundled, Study) and isinstance(other, Study)
    # Another seed, so that no teacher and no prompt of the bundled study is held out from itself.
    assert bundled.seed != other.seed
    found = set()
    for part in BEFORE_CHILDREN:
        one, two = (study.model_dump()[part] for study in (bundled, other))
        if isinstance(one, dict):
            found |= {f"{part}.{field}" for field in one if one[field] != two[field]}
        elif one != two:
            found.add(part)
    assert found == changed
