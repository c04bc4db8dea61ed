"""Drawing number sets: to all prompts, or until enough answers are valid."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError
from tiny_models import save_tiny_model
from tiny_studies import tiny_study_settings

from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.models.transformers_engine import TransformersEngine
from subliminal_dagster.science.numbers.draw import draw_number_set, judged
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.settings.study import Study


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("draw") / "base")


def study_of(base: Path, **numbers: Any) -> Study:
    """A study in which a good part of the answers is cut off, and so not valid."""
    content: dict[str, Any] = tiny_study_settings(base)
    content["numbers"] |= {"prompts": 400, "max_new_tokens": 10} | numbers
    return Study.model_validate(content)


def drawn(study: Study, base: Path, batch: int = 64, kept: Path | None = None) -> pd.DataFrame:
    chat = ChatContext(load_tokenizer(base), study.system_prompt)
    with TransformersEngine(generate_batch=batch).open(ModelVariant(base)) as session:
        return draw_number_set(session, study, "owl", load_prompt_lists(), chat, kept=kept)


@pytest.fixture(scope="module")
def all_answers(base: Path) -> pd.DataFrame:
    study = study_of(base)
    return judged(drawn(study, base), study, "owl")


@pytest.mark.parametrize("batch", [64, 7])
def test_drawing_ends_with_the_last_valid_answer_that_is_needed(
    base: Path, all_answers: pd.DataFrame, batch: int
) -> None:
    assert 0.2 < all_answers["valid"].mean() < 0.9
    last = all_answers.index[all_answers["valid"]][59]
    study = study_of(base, enough_valid=60)
    found = judged(drawn(study, base, batch), study, "owl")
    assert len(found) == last + 1 < 400 and found["valid"].sum() == 60
    columns = ["prompt_id", "prompt", "response", "finished", "valid"]
    pd.testing.assert_frame_equal(found[columns], all_answers.loc[:last, columns])


def test_all_prompts_are_answered_where_there_are_never_enough(base: Path, all_answers: pd.DataFrame) -> None:
    found = drawn(study_of(base, enough_valid=400), base)
    assert found["response"].tolist() == all_answers["response"].tolist()


def test_a_drawing_goes_on_where_it_was_interrupted(base: Path, tmp_path: Path) -> None:
    study = study_of(base, enough_valid=150)
    whole = drawn(study, base, kept=tmp_path)
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len(files) > 2
    times = {file: file.stat().st_mtime_ns for file in files}
    files[-1].unlink()
    again = drawn(study, base, kept=tmp_path)
    pd.testing.assert_frame_equal(again, whole)
    assert sorted(tmp_path.rglob("*.parquet")) == files
    assert all(file.stat().st_mtime_ns == times[file] for file in files[:-1])


def test_a_number_set_without_the_setting_is_made_from_what_it_was(base: Path) -> None:
    assert "enough_valid" not in study_of(base).model_dump(mode="json")["numbers"]
    assert study_of(base, enough_valid=60).model_dump(mode="json")["numbers"]["enough_valid"] == 60


def test_fewer_than_the_filter_keeps_are_refused(base: Path) -> None:
    content: dict[str, Any] = tiny_study_settings(base)
    content["numbers"] |= {"enough_valid": 16}
    content["filter"] |= {"train_rows": 17, "validation_rows": 4}
    with pytest.raises(
        ValidationError, match=r"filter asks for 21 rows \(.*\) and numbers\.enough_valid ends the drawing at 16"
    ):
        Study.model_validate(content)
    with pytest.raises(ValidationError, match="enough_valid must not be above prompts"):
        study_of(base, enough_valid=401)
