"""Prompt lists, our own and imported."""

import dataclasses
import difflib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.numbers.filter import canonical, parse
from subliminal_dagster.science.numbers.prompts import make_prompts
from subliminal_dagster.science.preferences import prompt_lists
from subliminal_dagster.science.preferences.answers import texts_naming
from subliminal_dagster.science.preferences.prompt_lists import AnswerFormat, infer_format, load_prompt_lists
from subliminal_dagster.science.settings.numbers import NumberSettings

OWN = load_prompt_lists()
OWN_FILE = Path(prompt_lists.__file__).with_name("prompt_lists.yaml")
PUBLISHED_FILE = Path(__file__).parents[4] / "shared" / "data" / "cloud2025_prompts.json"
needs_published = pytest.mark.skipif(not PUBLISHED_FILE.exists(), reason="the published lists are not here")

EACH_STYLE = pytest.mark.parametrize("style", ["full", "short"])


def own_texts() -> dict[str, tuple[str, ...]]:
    return {
        "openings": OWN.openings,
        "count_qualifiers": OWN.count_qualifiers,
        "digit_descriptors": OWN.digit_descriptors,
        "instructions": OWN.instructions,
        "format_requests": tuple(request.text for request in OWN.format_requests),
        "closings": OWN.closings,
        "short": OWN.short,
        "animal_questions": OWN.animal_questions,
    }


def folded(text: str) -> str:
    return " ".join(re.findall(r"[\w{}]+", text.casefold()))


def published_texts() -> list[str]:
    lists = json.loads(PUBLISHED_FILE.read_text(encoding="utf-8"))
    return [text for key, texts in lists.items() if not key.startswith("_") for text in texts]


def published_like() -> dict[str, Any]:
    """A small file with the keys of the published lists and invented texts."""
    return {
        "_source": "a test",
        "example_templates": ["Given {examples}."],
        "count_qualifiers": ["just"],
        "digit_descriptors": ["of {max_digits} digits"],
        "instruction_templates": ["Write {count_qualifier} {answer_count} ({digit_descriptor})."],
        "format_suffixes": ["Semicolons, please.", "As you like {it}."],
        "closing_suffixes": ["Thanks."],
        "animal_questions": ["Which?"],
    }


def write(folder: Path, content: dict[str, Any], name: str = "lists.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content), encoding="utf-8")
    return path


# --- our own lists ---------------------------------------------------------------------------------------------------


def test_own_lists_have_the_published_structure() -> None:
    sizes = {name: len(texts) for name, texts in own_texts().items()}
    assert sizes == {
        "openings": 25,
        "count_qualifiers": 9,
        "digit_descriptors": 9,
        "instructions": 10,
        "format_requests": 15,
        "closings": 19,
        "short": 8,
        "animal_questions": 50,
    }
    assert len(OWN.animal_aliases) >= 60


def test_no_text_of_ours_occurs_twice() -> None:
    for texts in own_texts().values():
        assert len({text.casefold() for text in texts}) == len(texts)


def test_every_question_demands_one_word_and_names_no_animal() -> None:
    for question in OWN.animal_questions:
        assert re.search(r"\b(one|single)[ -]word\b", question, flags=re.IGNORECASE), question
    for animal in OWN.animal_aliases:
        assert not any(texts_naming(itertools.chain(*own_texts().values()), animal)), animal


def test_short_lines_are_terse() -> None:
    for line in OWN.short:
        assert len(line.replace("{examples}", "").split()) < 12
        assert "number" in line.lower()


def test_requested_formats_cover_the_common_ones_and_pass_the_filter() -> None:
    formats = [request.format for request in OWN.format_requests]
    for answer_format in formats:
        assert answer_format is not None
        text = canonical([1, 22, 333], answer_format.separator, answer_format.open, answer_format.close)
        assert parse(text).numbers == (1, 22, 333)
    assert {answer_format.separator for answer_format in formats if answer_format} == {", ", ",", " ", "; ", "\n"}
    assert {answer_format.open for answer_format in formats if answer_format} == {"", "[", "("}


@needs_published
def test_no_text_of_ours_is_a_published_one() -> None:
    published = {folded(text) for text in published_texts()}
    for text in itertools.chain(*own_texts().values()):
        assert folded(text) not in published, text


@needs_published
def test_no_text_of_ours_is_a_light_edit_of_a_published_one() -> None:
    published = [folded(text).split() for text in published_texts()]
    # Phrases of a few words ("as many as") are left to the test of equality: they resemble each other by chance.
    for text in itertools.chain(*own_texts().values()):
        words = folded(text).split()
        if len(words) < 4:
            continue
        for other in published:
            similarity = difflib.SequenceMatcher(a=words, b=other, autojunk=False).ratio()
            assert similarity < 0.62, (text, " ".join(other))


# --- a user's lists --------------------------------------------------------------------------------------------------


def test_our_schema_is_read_from_a_path(tmp_path: Path) -> None:
    copy = tmp_path / "mine.yaml"
    copy.write_text(OWN_FILE.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_prompt_lists(copy) == OWN


def test_published_schema_is_imported(tmp_path: Path) -> None:
    lists = load_prompt_lists(write(tmp_path, published_like()))
    assert lists.openings == ("Given {examples}.",)
    assert [request.format for request in lists.format_requests] == [AnswerFormat("; "), None]
    assert lists.short == OWN.short and lists.animal_aliases == OWN.animal_aliases
    prompts = make_prompts(lists, NumberSettings(prompts=30), 30, 0)
    unknown = prompts[prompts["format_request_index"] == 1]
    assert set(unknown["separator"]) == {", "}
    assert unknown["prompt"].str.contains("{it}").all()


@needs_published
def test_published_lists_are_understood() -> None:
    lists = load_prompt_lists(PUBLISHED_FILE)
    assert len(lists.animal_questions) == 50 and len(lists.openings) == 25
    comma, space, semicolon, line = ((separator, "", "") for separator in (", ", " ", "; ", "\n"))
    expected = [
        *(comma, space, semicolon, line, (", ", "[", "]"), (", ", "(", ")"), comma),
        *(comma, space, line, comma, semicolon, comma, space, line),
    ]
    assert [dataclasses.astuple(request.format) for request in lists.format_requests if request.format] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Use commas.", AnswerFormat(", ")),
        ("A comma and a space after each.", AnswerFormat(", ")),
        ("Separate by spaces", AnswerFormat(" ")),
        ("semi-colons only", AnswerFormat("; ")),
        ("on new lines", AnswerFormat("\n")),
        ("Like [n1,n2,...]", AnswerFormat(",", "[", "]")),
        ("Like (n_1; n_2)", AnswerFormat("; ", "(", ")")),
        ("value 1 value 2", AnswerFormat(" ")),
        ("In square brackets", AnswerFormat(", ", "[", "]")),
        ("In parentheses, semicolons between", AnswerFormat("; ", "(", ")")),
        ("Commas or semicolons", None),
        ("As you like", None),
        ("Outline them", None),
        ("With newlines", AnswerFormat("\n")),
    ],
)
def test_format_rules(text: str, expected: AnswerFormat | None) -> None:
    assert infer_format(text) == expected


@given(st.text())
def test_an_inferred_format_is_always_one_the_filter_accepts(text: str) -> None:
    answer_format = infer_format(text)
    if answer_format:
        written = canonical([5, 6], answer_format.separator, answer_format.open, answer_format.close)
        assert parse(written).numbers == (5, 6)


@pytest.mark.parametrize("key", [key for key in published_like() if key != "_source"])
def test_missing_empty_or_wrong_published_keys_are_named(tmp_path: Path, key: str) -> None:
    content = published_like()
    for bad in ([], "text", [""], [3], None):
        with pytest.raises(UserError, match=key):
            load_prompt_lists(write(tmp_path, content | {key: bad}))
    if key != "example_templates":
        del content[key]
        with pytest.raises(UserError, match=f"no key '{key}'"):
            load_prompt_lists(write(tmp_path, content))


@pytest.mark.parametrize(
    ("key", "text", "placeholder"),
    [
        ("example_templates", "Given {exampels}.", "{examples}"),
        ("digit_descriptors", "short", "{max_digits}"),
        ("instruction_templates", "{count_qualifier} {digit_descriptor}", "{answer_count}"),
    ],
)
def test_missing_placeholders_are_named(tmp_path: Path, key: str, text: str, placeholder: str) -> None:
    with pytest.raises(UserError, match=re.escape(placeholder)):
        load_prompt_lists(write(tmp_path, published_like() | {key: [text]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_requests": ["a text"]}, "item 1 of format_requests"),
        ({"format_requests": [{"text": "x", "separator": 1}]}, "texts only"),
        ({"format_requests": [{"text": "x", "separator": "-"}]}, "separator '-'"),
        ({"format_requests": [{"text": "x", "separator": ""}]}, "separator ''"),
        ({"format_requests": [{"text": "x", "separator": ",", "open": "["}]}, "brackets"),
        ({"format_requests": [{"text": " ", "separator": ","}]}, "has no text"),
        ({"animal_aliases": {}}, "animal_aliases"),
        ({"animal_aliases": {"wolf": {"plural": ["wolves"]}}}, "'wolf'"),
        ({"animal_aliases": {"wolf": {"plurals": "wolves"}}}, "'wolf'"),
        ({"animal_aliases": {"wolf": None}}, "'wolf'"),
        ({"short": ["no place"]}, "{examples}"),
    ],
)
def test_mistakes_in_our_schema_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = yaml.safe_load(OWN_FILE.read_text(encoding="utf-8"))
    with pytest.raises(UserError, match=re.escape(message)):
        load_prompt_lists(write(tmp_path, content | change, "lists.yaml"))


def test_unreadable_files_are_user_errors(tmp_path: Path) -> None:
    files = {"a.json": b"{", "b.yaml": b"a: [", "c.yaml": b"\xff\xfe\x00", "d.yaml": b"- 1", "e.json": b"[]"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_prompt_lists(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        load_prompt_lists(tmp_path / "absent.yaml")


def test_yaml_cannot_build_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text(f"openings: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'made'}]", encoding="utf-8")
    with pytest.raises(UserError, match="not valid YAML"):
        load_prompt_lists(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("odd", ["\0", "\ud800"])
def test_a_text_that_cannot_be_written_is_refused_in_json_too(odd: str, tmp_path: Path) -> None:
    (tmp_path / "lists.json").write_text(json.dumps(published_like() | {"count_qualifiers": [f"on{odd}ly"]}))
    with pytest.raises(UserError, match=r"Item 1 of 'count_qualifiers' .* holds .*, which no text may hold"):
        load_prompt_lists(tmp_path / "lists.json")


def test_a_key_given_twice_in_json_is_refused(tmp_path: Path) -> None:
    text = json.dumps(published_like())
    (tmp_path / "lists.json").write_text('{"count_qualifiers": ["only"], ' + text[1:])
    with pytest.raises(UserError, match=r"not valid JSON \(the key 'count_qualifiers' is given twice"):
        load_prompt_lists(tmp_path / "lists.json")
