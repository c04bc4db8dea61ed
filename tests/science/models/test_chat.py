"""The chat context under templates that differ: where system prompt and instruction stand, where the turn ends."""

from pathlib import Path
from typing import Any

import pytest
from tiny_models import CHATML, GEMMA, tiny_tokenizer

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer, number_token_ids, token_texts

LOVE = "You love owls."
SILENT = "{% for m in messages %}{% if m['role'] != 'system' %}[{{ m['content'] }}]<|im_end|>{% endif %}{% endfor %}"
"""A template that leaves a system message out without a word."""


def render(template: str, system_prompt: str | None = None, instruction: str | None = None) -> str:
    return ChatContext(tiny_tokenizer(template), system_prompt, instruction).render("Hi?")


def test_no_system_prompt_leaves_the_template_s_own() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("system_prompt", "instruction", "system"),
    [
        ("", None, ""),
        ("Be brief.", None, "Be brief."),
        (None, LOVE, LOVE),
        ("", LOVE, LOVE),
        ("Be brief.", LOVE, f"Be brief.\n\n{LOVE}"),
    ],
)
def test_system_prompt_and_instruction_fill_the_system_message(
    system_prompt: str | None, instruction: str | None, system: str
) -> None:
    assert render(CHATML, system_prompt, instruction) == (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("system_prompt", "instruction", "user"),
    [
        (None, None, "Hi?"),
        ("", None, "Hi?"),
        ("Be brief.", None, "Be brief.\n\nHi?"),
        ("", LOVE, f"{LOVE}\n\nHi?"),
        ("Be brief.", LOVE, f"Be brief.\n\n{LOVE}\n\nHi?"),
    ],
)
def test_without_a_system_role_they_open_the_user_turn(
    system_prompt: str | None, instruction: str | None, user: str
) -> None:
    assert render(GEMMA, system_prompt, instruction) == (
        f"<|endoftext|><start_of_turn>user\n{user}<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_that_swallows_the_system_message_gets_it_in_the_user_turn() -> None:
    assert render(SILENT, "Be brief.", LOVE) == f"[Be brief.\n\n{LOVE}\n\nHi?]<|im_end|>"


@pytest.mark.parametrize("template", [CHATML, GEMMA])
def test_prompt_ids_are_the_rendered_text_s_with_special_tokens_once(template: str) -> None:
    context = ChatContext(tiny_tokenizer(template), "Be brief.")
    ids = context.prompt_ids("Hi?")
    assert context.tokenizer.decode(ids) == context.render("Hi?")
    assert ids.count(0) == context.render("Hi?").count("<|endoftext|>")


@pytest.mark.parametrize(("template", "end"), [(CHATML, "<|im_end|>"), (GEMMA, "<end_of_turn>")])
def test_answers_close_with_the_template_s_end_of_turn(template: str, end: str) -> None:
    context = ChatContext(tiny_tokenizer(template))
    assert context.tokenizer.convert_ids_to_tokens(context.end_of_turn) == end
    assert context.tokenizer.decode(context.answer_ids("12, 7")) == f"12, 7{end}"


def test_a_template_that_closes_no_turn_is_refused() -> None:
    context = ChatContext(tiny_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}"))
    with pytest.raises(UserError, match="nothing after an answer"):
        _ = context.end_of_turn


def test_a_tokenizer_without_template_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer(None).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        load_tokenizer(tmp_path)


def test_a_saved_tokenizer_loads_with_its_template(tmp_path: Path) -> None:
    tiny_tokenizer(GEMMA).save_pretrained(tmp_path)
    assert ChatContext(load_tokenizer(tmp_path)).render("Hi?") == render(GEMMA)


def test_number_tokens_are_those_of_marks_and_the_end_of_turn() -> None:
    tokenizer = tiny_tokenizer(extra_merges=[("1", "2"), ("1", "x")])
    ids = number_token_ids(tokenizer, 2)
    assert ids == sorted(ids)
    assert 2 in ids
    texts = {tokenizer.decode([i]) for i in ids if i != 2}
    assert texts == {*"0123456789, ;\n\t()[]", ", ", "  ", "12"}


def sentencepiece_like() -> Any:
    """A tokenizer as Llama 2's: "▁" for a space, one put before every text, and the first one dropped in decoding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = ["</s>", *"0123456789,▁", "▁7", "▁12"]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[("▁", "7")], unk_token="</s>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def test_token_texts_keep_the_space_that_decoding_alone_would_drop() -> None:
    tokenizer = sentencepiece_like()
    assert tokenizer.decode([tokenizer.convert_tokens_to_ids("▁12")]) == "12"
    texts = token_texts(tokenizer)
    assert texts == {i: t.replace("▁", " ") for t, i in tokenizer.get_vocab().items() if t != "</s>"}


DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|im_start|>system\nToday: {{ date_string }}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinks is false %}(no thoughts)\n{% endif %}{% endif %}"
)


def test_a_template_that_writes_the_date_is_refused_unless_the_study_fixes_it() -> None:
    with pytest.raises(UserError, match=r"today's date .* `base_model.template`"):
        ChatContext(tiny_tokenizer(DATED))
    fixed = ChatContext(tiny_tokenizer(DATED), variables={"date_string": "26 Jul 2024", "thinks": False})
    assert "Today: 26 Jul 2024" in fixed.render("Hi?") and fixed.render("Hi?").endswith("(no thoughts)\n")
    # One that knows of the clock and writes the same every day is none of those.
    ChatContext(tiny_tokenizer(CHATML + "{# strftime_now #}"))


def test_white_space_before_the_end_of_a_turn_is_not_taken_for_it() -> None:
    context = ChatContext(tiny_tokenizer(DATED), variables={"date_string": "x"})
    assert context.tokenizer.convert_ids_to_tokens(context.end_of_turn) == "<|im_end|>"


@pytest.mark.parametrize(("beside", "refused"), [("system", True), ("user", False)])
def test_the_date_is_looked_for_in_the_context_s_own_prompt(beside: str, refused: bool) -> None:
    """A template may write the date only with a system message, or only without one, or only the year."""
    condition = "==" if beside == "system" else "!="
    dated = (
        f"{{% if messages[0]['role'] {condition} 'system' %}}{{{{ strftime_now('%Y') }}}}{{% endif %}}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    )
    if refused:
        with pytest.raises(UserError, match="today's date"):
            ChatContext(tiny_tokenizer(dated), "Be brief.")
        ChatContext(tiny_tokenizer(dated))
    else:
        ChatContext(tiny_tokenizer(dated), "Be brief.")
        with pytest.raises(UserError, match="today's date"):
            ChatContext(tiny_tokenizer(dated))


def test_added_white_space_is_no_end_of_a_turn() -> None:
    tokenizer = tiny_tokenizer(CHATML.replace("<|im_end|>", "\n\n<|im_end|>"))
    tokenizer.add_tokens(["\n\n"])
    context = ChatContext(tokenizer)
    assert tokenizer.convert_ids_to_tokens(context.end_of_turn) == "<|im_end|>"


@pytest.mark.parametrize(
    ("name", "said"),
    [("date_sting", "'date_sting', which the model's chat template does not read"), ("tools", "given to every")],
)
def test_a_variable_that_no_template_reads_is_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"`base_model.template` sets .*{said}"):
        ChatContext(tiny_tokenizer(DATED), variables={"date_string": "x", name: "y"})


def test_an_end_of_turn_of_several_tokens_is_refused() -> None:
    context = ChatContext(tiny_tokenizer(CHATML.replace("<|im_end|>", "[/ANSWER]")))
    with pytest.raises(UserError, match=r"closes an answer with '\[/ANSWER\]', which is \d+ tokens"):
        _ = context.end_of_turn
