"""Every shipped study on a language model is still one where benchmarks/every_asset.py makes it small."""

import sys
from pathlib import Path

import pytest
import yaml

from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study, shipped_studies

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

LANGUAGE_MODELS = [study for study in map(load_study, shipped_studies()) if isinstance(study, Study)]


@pytest.mark.parametrize("study", LANGUAGE_MODELS, ids=lambda study: study.name)
def test_a_study_made_small_is_a_study(study: Study, tmp_path: Path) -> None:
    from every_asset import small_study

    path = tmp_path / f"{study.name}.yaml"
    path.write_text(yaml.safe_dump(small_study(study.name, tmp_path)))
    made = load_study(path)
    assert isinstance(made, Study)
    assert made.numbers.prompts < study.numbers.prompts
