"""The chat context: how a question becomes token ids, and an answer after it.

Belongs here: the one encoding that training, generation and evaluation share (a child trained under one context and
asked under another hides the effect: 48 % against 3 %, literature on Qwen2.5-7B). Does not belong here: the texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subliminal_dagster.science.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "7"


def load_tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved with a base model; raises UserError where it has no chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    if not tokenizer.chat_template:
        raise UserError(f"The tokenizer in {model_dir} has no chat template: use an instruction-tuned model.")
    return tokenizer


@dataclass(frozen=True)
class ChatContext:
    """A tokenizer with the system prompt that stands before every question.

    `system_prompt` None sends no system message, so a template that inserts a default one does so everywhere alike.
    `instruction` is what a prompted teacher is told besides ("you love owls"): it joins the system message, or the
    front of the user turn where the template has no system role (Gemma 2). `variables` are given to the template.

    Raises UserError where the template reads no such variable, and where what it writes depends on the day: teacher,
    numbers and child are made on different ones.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None = None
    instruction: str | None = None
    variables: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        template = str(self.tokenizer.chat_template)
        reserved = set(signature(self.tokenizer.apply_chat_template).parameters)
        for name in self.variables:
            if name in reserved:
                raise UserError(f"`base_model.template` sets {name!r}, which is given to every template: leave it out.")
            if not re.search(rf"\b{re.escape(name)}\b", template):
                raise UserError(
                    f"`base_model.template` sets {name!r}, which the model's chat template does not read: correct the "
                    "name, or leave it out."
                )
        if "strftime_now" in template and self._on_day(1) != self._on_day(2):
            raise UserError(
                "The chat template writes today's date into every prompt, so what is made on two days would differ: "
                "set the variable it reads in the study's `base_model.template`, such as {date_string: 26 Jul 2024}, "
                "or use a model without one."
            )

    def _on_day(self, day: int) -> str:
        """What a prompt is on a day; two days differ in year, month, day and hour."""
        return self._rendered(_PROBE, strftime_now=datetime(2020 + day, day, day, day).strftime)

    def render(self, question: str) -> str:
        """The text up to where the model's answer starts."""
        return self._rendered(question)

    def _rendered(self, question: str, **more: Any) -> str:
        parts = [part for part in (self.system_prompt, self.instruction) if part]
        if self.system_prompt is None and not parts:
            return self._apply([{"role": "user", "content": question}], **more)
        if self._has_system_role():
            # An empty system message too: it keeps the template's default one away.
            system = {"role": "system", "content": "\n\n".join(parts)}
            return self._apply([system, {"role": "user", "content": question}], **more)
        return self._apply([{"role": "user", "content": "\n\n".join([*parts, question])}], **more)

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids up to where the answer starts, special tokens (BOS included) as the template writes them."""
        return self.tokenizer.encode(self.render(question), add_special_tokens=False)

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of the answer, closed by the end of the turn."""
        return [*self.tokenizer.encode(answer, add_special_tokens=False), self.end_of_turn]

    @property
    def end_of_turn(self) -> int:
        """The id of the token that the template puts behind an assistant's answer."""
        question = {"role": "user", "content": _PROBE}
        answer = {"role": "assistant", "content": _PROBE}
        given: dict[str, Any] = dict(self.variables)
        full = str(self.tokenizer.apply_chat_template([question, answer], tokenize=False, **given))
        tail = full[full.rindex(_PROBE) + len(_PROBE) :].strip()
        if not tail:
            raise UserError(
                "The chat template writes nothing after an answer, so no end of turn can be learnt: "
                "use a tokenizer whose template closes the assistant's turn."
            )
        ids = self.tokenizer.encode(tail, add_special_tokens=False)
        added = {token for text, token in self.tokenizer.get_added_vocab().items() if text.strip()}
        special = set(self.tokenizer.all_special_ids) | added
        closing = next((token for token in ids if token in special), ids[0] if len(ids) == 1 else None)
        if closing is None:
            raise UserError(
                f"The chat template closes an answer with {tail!r}, which is {len(ids)} tokens and none of them "
                "special: use a tokenizer that has one token for the end of a turn."
            )
        return closing

    def _apply(self, messages: list[dict[str, str]], **more: Any) -> str:
        given: dict[str, Any] = {**self.variables, **more}
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **given))

    def _has_system_role(self) -> bool:
        from jinja2.exceptions import TemplateError

        try:
            rendered = self._apply([{"role": "system", "content": _PROBE * 9}, {"role": "user", "content": "?"}])
        except TemplateError:
            return False
        return _PROBE * 9 in rendered


def number_token_ids(tokenizer: PreTrainedTokenizerBase, end_of_turn: int) -> list[int]:
    """Ids of the tokens a number answer may consist of, ascending: digits, white space, commas, semicolons, brackets
    and mixtures of them, and the end of the turn (the support of the soft channel)."""
    marks = set("0123456789, ;\n\t()[]")
    return sorted({i for i, text in token_texts(tokenizer).items() if text and set(text) <= marks} | {end_of_turn})


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What each token adds to an answer, by id; special tokens are left out."""
    # Decoded behind another token: alone, a tokenizer of SentencePiece's kind (Llama 2, Mistral) drops the space.
    before = tokenizer.encode(_PROBE, add_special_tokens=False)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    start = len(decode(before))
    special = set(tokenizer.all_special_ids)
    return {i: decode([*before, i])[start:] for i in range(len(tokenizer)) if i not in special}
