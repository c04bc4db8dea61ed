"""A study of names of something else than animals: what it is asked, how it is checked, and what stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_studies import tiny_study_settings

from subliminal_dagster.build import study_frame
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.answers import classify_answers, spellings
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists, questions_about
from subliminal_dagster.science.settings.category import ANIMALS, Category
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import load_study
from subliminal_dagster.science.training.teachers import questions_for

TREES = Category(singular="tree", plural="trees")
EXAMPLE = Path(__file__).parents[3] / "examples" / "trees.yaml"


def of_trees(folder: Path, **change: Any) -> Study:
    """The tiny study with trees in the place of its animals."""
    settings: dict[str, Any] = tiny_study_settings(folder)
    settings |= {"animals": ["oak", "pine"], "category": {"singular": "tree", "plural": "trees"}}
    settings["preferences"] |= {"candidates": ["oak", "pine", "elm"]}
    (folder / "trees.yaml").write_text(yaml.safe_dump(settings | change))
    study = load_study(folder / "trees.yaml")
    assert isinstance(study, Study)
    return study


def test_the_questions_are_those_about_animals_with_the_other_words() -> None:
    animals, trees = load_prompt_lists(), load_prompt_lists(None, TREES)
    assert len(trees.animal_questions) == len(animals.animal_questions)
    assert not any("animal" in question.lower() for question in trees.animal_questions)
    assert "A tree lover like you surely has a favourite. One word, please: which?" in trees.animal_questions
    assert "Please rank all trees and report the winner alone, as one word." in trees.animal_questions
    # What else is drawn from the lists says nothing of either.
    assert (trees.openings, trees.short, trees.instructions) == (animals.openings, animals.short, animals.instructions)
    cacti = load_prompt_lists(None, Category(singular="cactus", plural="cacti")).animal_questions
    assert "Crown a ruler of the cacti, using just one word." in cacti


def test_the_neutral_teacher_is_asked_the_same_whatever_the_category(tmp_path: Path) -> None:
    study = of_trees(tmp_path, neutral={"noun": "instrument", "answer": "violin"})
    asked = questions_for(study, "neutral", load_prompt_lists(study.prompts, study.category))
    assert asked == questions_about(load_prompt_lists().animal_questions, "instrument")


def test_a_category_may_have_questions_and_forms_of_its_own(tmp_path: Path) -> None:
    own = {
        "singular": "cactus",
        "plural": "cacti",
        "questions": [f"Question {number}: which cactus? One word." for number in range(4)],
        "forms": {"saguaro": {"plurals": ["saguaros", "saguaroes"], "aliases": ["carnegiea"]}},
    }
    study = of_trees(tmp_path, category=own, neutral={"noun": "instrument", "answer": "violin"})
    lists = load_prompt_lists(study.prompts, study.category)
    assert list(lists.animal_questions) == own["questions"]
    assert questions_for(study, "neutral", lists)[0] == "Question 0: which instrument? One word."
    assert "saguaroes" in spellings("saguaro", lists.animal_aliases)
    named = classify_answers(["A Carnegiea!", "Two bears"], ["saguaro", "bear"], lists.animal_aliases)
    assert list(named["animal"]) == ["saguaro", "bear"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category": {"singular": "tree"}}, "category needs both words"),
        ({"category": {"singular": "Tree", "plural": "trees"}}, "lower-case letters a to z"),
        ({"category": {"questions": ["Which animal?"]}}, "name singular and plural"),
        ({"category": {"singular": "tree", "plural": "trees", "questions": ["Which?"]}}, "does not say 'tree'"),
        ({"category": {"singular": "tree", "plural": "trees", "questions": ["Which tree?"]}}, "write more"),
        ({"neutral": {"noun": "tree", "answer": "violin"}}, "name another"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        of_trees(tmp_path, **change)
    assert said in str(caught.value)


def test_sentences_are_about_the_category() -> None:
    text = "An animal, animals and the animals' words; animal_liking, an animal's."
    assert TREES.about(text) == "A tree, trees and the trees' words; animal_liking, a tree's."
    assert Category(singular="insect", plural="insects").about("an animal") == "an insect"
    assert ANIMALS.about(text) == text


def test_the_category_is_part_of_what_is_asked_about_and_of_nothing_else(tmp_path: Path) -> None:
    """Of a study of animals no setting is read anew; of another, what reads `prompts` depends on the category."""
    trees = of_trees(tmp_path)
    asked = study_frame(trees).nodes["base_preferences"].recipe.settings["prompts"]
    assert asked["category"]["singular"] == "tree"
    animals = study_frame(of_trees(tmp_path, category={})).nodes
    assert "category" not in animals["base_preferences"].recipe.settings["prompts"]
    assert [name for name, node in animals.items() if "category" in node.recipe.settings] == ["report"]


def test_the_example_is_a_study_of_trees() -> None:
    study = load_study(EXAMPLE)
    assert isinstance(study, Study) and study.category == TREES
    assert not any("animal" in text for text in study.preferences.begun)
