"""Language models that are asked about features: which category a description belongs to.

The categories are the post's. A judge is either of two. `OpenAiJudge` asks a model behind any OpenAI-compatible
endpoint to name the category, as the post does. `LocalJudge` is a loaded model that is asked nothing: it says how
probable each description is in each category. Both are shown the same examples (`judge_prompt.yaml`, wording of this
project).

What was paid for is kept: `ChatApi` writes every answer to a file before it looks at the next one, and asks nothing
twice, in whatever run or study. The key is in no message, log or file. A model may reason before it answers; what it
thinks does not belong to its answer, and an empty answer is not kept.

Cost: a prompt has about 620 tokens and its answer one or two, so 16,384 descriptions are 10 million tokens. The local
judge reads every description four times, and with each thousand tokens of those the 450 of the examples.

Belongs here: asking models, and reading their answers. Does not belong here: whether a judge is any good, and what the
categories say of a group (`categories`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
import yaml

from subliminal_dagster.science.descriptions.chat_api import (
    REASONING_TOKENS,
    UNREADABLE_LIMIT,
    ChatApi,
    one_line,
    without_reasoning,
)
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.models.protocol import Session

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Category = Literal["animals", "numbers", "opinion", "other"]

CATEGORIES: tuple[Category, ...] = get_args(Category)

JUDGE_PROMPT = Path(__file__).with_name("judge_prompt.yaml")

_ANSWER_TOKENS = 16
"""Enough for any category, however a tokenizer writes it; a judge that answers in prose is cut off here."""

_TOKENS_A_PASS = 1024
"""Description tokens that the local judge scores at once: with 49,152 tokens in the vocabulary 200 MB of logits."""


@dataclass(frozen=True)
class JudgePrompt:
    """What judges are told: `instructions`, `examples` of descriptions with their category, and `describe`, the request
    for a description, which holds `{contexts}` and `{tokens}`."""

    instructions: str
    examples: tuple[tuple[str, Category], ...]
    describe: str

    def question(self, description: str) -> str:
        """The few-shot prompt that ends where the category of `description` is to be named."""
        shown = "\n\n".join(f"Description: {example}\nCategory: {category}" for example, category in self.examples)
        return f"{self.instructions}\n\n{shown}\n\nDescription: {one_line(description)}\nCategory:"

    def opening(self, category: Category) -> str:
        """The few-shot text that ends where a description of `category` is to follow."""
        shown = "\n\n".join(f"Category: {named}\nDescription: {example}" for example, named in self.examples)
        return f"{shown}\n\nCategory: {category}\nDescription:"


@functools.cache
def load_judge_prompt() -> JudgePrompt:
    """The project's own prompt."""
    content = yaml.safe_load(JUDGE_PROMPT.read_text(encoding="utf-8"))
    examples = tuple((text, category) for pair in content["examples"] for category, text in pair.items())
    return JudgePrompt(content["instructions"], examples, content["describe"])


class Judge(Protocol):
    """Anything that sorts descriptions of features into categories."""

    @property
    def name(self) -> str: ...

    def categorise(self, descriptions: Sequence[str]) -> list[Category | None]:
        """A category a description, in their order; None where the judge's answer was not to be read."""
        ...


class OpenAiJudge:
    """A model behind an endpoint that names the category of each description, shown a few examples."""

    def __init__(self, api: ChatApi) -> None:
        self._api = api

    @property
    def name(self) -> str:
        return self._api.endpoint.model

    def expected(self, descriptions: Sequence[str]) -> str:
        """What judging these would take (see `ChatApi.expected`)."""
        prompt = load_judge_prompt()
        return self._api.expected([prompt.question(text) for text in descriptions], max_tokens=_ANSWER_TOKENS)

    def categorise(self, descriptions: Sequence[str]) -> list[Category | None]:
        """See `Judge`. None for an answer that is not a category, such as a refusal.

        Raises UserError where more than one answer in twenty is none, and as `ChatApi.answers` does.
        """
        prompt = load_judge_prompt()
        answers = self._api.answers([prompt.question(text) for text in descriptions], max_tokens=_ANSWER_TOKENS)
        categories = [read_category(answer) for answer in answers]
        prose = [answer for answer, category in zip(answers, categories, strict=True) if category is None]
        if len(prose) > UNREADABLE_LIMIT * len(answers):
            raise UserError(
                f"The judge {self.name} was asked for one of {', '.join(CATEGORIES)} and gave {len(prose)} of "
                f"{len(answers)} answers that are none, such as {one_line(prose[0])[:80]!r}: choose another model, "
                f"or, for one that reasons before it answers, raise {REASONING_TOKENS}."
            )
        return categories


class LocalJudge:
    """A loaded model that judges by Bayes' rule: the category under which the description is most probable.

    Asked the other way round, for the category behind a description, small models name one and the same whatever the
    description says: SmolLM2-135M-Instruct agrees with the labelled descriptions at kappa 0.00, and at 0.09 where each
    category's probability is divided by what it is behind no description. This way it agrees at 0.71, which is the
    "noisy channel" of Min et al. (2022, arXiv 2108.04106). With GPT-4o-mini's categories of the 34 descriptions that
    the post shows it agrees at 0.41 only. All categories are equally probable beforehand.
    """

    def __init__(self, session: Session, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.name = name
        self._session = session
        self._tokenizer = tokenizer

    def categorise(self, descriptions: Sequence[str]) -> list[Category | None]:
        """See `Judge`; there is always a category."""
        prompt = load_judge_prompt()
        openings = [list(self._tokenizer.encode(prompt.opening(category))) for category in CATEGORIES]
        tokens = {
            text: self._tokenizer.encode(" " + one_line(text), add_special_tokens=False)
            for text in dict.fromkeys(descriptions)
        }
        best: dict[str, Category | None] = {}
        for texts in _passes(tokens):
            # A category a pass: their logits together would be four times as large.
            scores = [self._session.score([opening], [tokens[text] for text in texts])[0] for opening in openings]
            best.update((text, CATEGORIES[i]) for text, i in zip(texts, np.argmax(scores, axis=0), strict=True))
            self._session.progress(f"{len(best)}/{len(tokens)} descriptions judged")
        return [best[text] for text in descriptions]


def read_category(answer: str) -> Category | None:
    """The category that an answer consists of, whatever its case, punctuation, number and wrapping; None for any other.

    "Animals.", "Category: **opinion**", "The answer is other", JSON, a block of code, a tag, \\boxed{} and an answer
    after which the model goes on with the next example are read; a sentence in which a category occurs is not, since
    it may as well deny it.
    """
    text = without_reasoning(answer)
    text = re.sub(r"^```[a-z]*\s*\n?(.*?)\n?\s*```$", r"\1", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"\\(boxed|text|textbf|mathrm)\s*\{", "{", text)
    text = re.sub(r"</?(answer|category|final|output|response|label)>", " ", text, flags=re.IGNORECASE)
    text = re.split(r"\n\s*Description\s*:", text, maxsplit=1)[0]
    named = re.fullmatch(
        r"\W*((the\W+)?((final|best|right|correct)\W+)?(category|answer|label)(\W+is)?\W+)*"
        r"(animal|number|opinion|other)s?\W*",
        _json_value(text).strip().lower(),
    )
    return next((category for category in CATEGORIES if named and category.startswith(named[7])), None)


def _json_value(text: str) -> str:
    """The category of a JSON object that says more than that; any other text as it is."""
    try:
        said = json.loads(text)
    except ValueError:
        return text
    return str(said["category"]) if isinstance(said, dict) and "category" in said else text


def _passes(tokens: Mapping[str, list[int]]) -> Iterator[list[str]]:
    """The texts in portions of at most `_TOKENS_A_PASS` tokens, or of one text."""
    portion: list[str] = []
    size = 0
    for text, ids in tokens.items():
        if portion and size + len(ids) > _TOKENS_A_PASS:
            yield portion
            portion, size = [], 0
        portion.append(text)
        size += len(ids)
    if portion:
        yield portion
