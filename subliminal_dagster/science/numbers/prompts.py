"""Number prompts: "here are some integers, write more of them", drawn from the prompt lists.

Belongs here: composing and drawing the prompts of a study. Does not belong here: the texts themselves
(`prompt_lists`) and reading the model's answers (`filter`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.preferences.prompt_lists import AnswerFormat, PromptLists
from subliminal_dagster.science.settings.numbers import NumberSettings

if TYPE_CHECKING:
    import pandas as pd

# What a canonical completion is written in where the prompt's own request is unknown or absent.
_PLAIN_FORMAT = AnswerFormat(", ")

# Redraws of one prompt before the lists count as used up. Near the end of a small supply most draws repeat an earlier
# prompt, so this is far more than ordinary lists ever need.
_MOST_REDRAWS = 1000


def make_prompts(lists: PromptLists, settings: NumberSettings, n: int, seed: int) -> pd.DataFrame:
    """The first n prompts of the endless list that belongs to (lists, seed, settings); no two have the same text.

    Make them once and give the same prompts to all groups of a study, control included: steering compares the answers
    of two groups to the same prompt. Prompt i depends on the seed and i alone, so a larger n extends the list and
    changes nothing in it.

    Of the settings, `style` "full" is opening, instruction, format request and closing (after Cloud et al. 2025,
    arXiv 2507.14805), and "short" one line for small models, in which answer_count and max_digits do not appear. All
    bounds of the examples are included.

    Columns: prompt_id (int, 0 to n - 1), prompt (str), examples (list[int]), separator, open, close (str: the format
    asked for, ", " without brackets if the prompt asks for none), and the place in `lists` of each text used: for full
    opening_index, count_qualifier_index, digit_descriptor_index, instruction_index, format_request_index and
    closing_index, for short short_index.

    Raises UserError when the lists cannot give n different prompts.
    """
    import pandas as pd

    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name} is {value} for the number prompts; it must be {least} or more.")

    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for prompt_id in range(n):
        random = np.random.Generator(np.random.PCG64([seed, prompt_id]))
        for _ in range(_MOST_REDRAWS):
            count = int(random.integers(settings.examples_min, settings.examples_max, endpoint=True))
            low, high = settings.example_value_min, settings.example_value_max
            examples = random.integers(low, high, size=count, endpoint=True).tolist()
            if settings.style == "full":
                row = _full_prompt(lists, settings, examples, random)
            else:
                row = _short_prompt(lists, examples, random)
            if row["prompt"] not in seen:
                break
        else:
            raise UserError(
                f"Only {prompt_id} different prompts were found where {n} are wanted; widen the range of the examples' "
                "values or of their count, or ask for fewer prompts."
            )
        seen.add(row["prompt"])
        rows.append({"prompt_id": prompt_id, "prompt": row.pop("prompt"), "examples": examples, **row})
    return pd.DataFrame(rows)


def paraphrased(
    lists: PromptLists, settings: NumberSettings, row: Mapping[str, Any], random: np.random.Generator
) -> str:
    """A prompt of `make_prompts`, given as its row, in other words: with the same examples, asking for the same format.

    Raises UserError where the lists have no other words.
    """
    examples = [int(number) for number in row["examples"]]
    changed = ("opening_index", "instruction_index") if settings.style == "full" else ("short_index",)
    for _ in range(_MOST_REDRAWS):
        if settings.style == "full":
            made = _full_prompt(lists, settings, examples, random)
        else:
            made = _short_prompt(lists, examples, random)
        same_format = all(made[name] == row[name] for name in ("separator", "open", "close"))
        if same_format and all(made[name] != row[name] for name in changed):
            return str(made["prompt"])
    raise UserError(
        f"The prompt lists have no other words for {row['prompt']!r}: add a second "
        f"{'opening and instruction' if settings.style == 'full' else 'line to `short`'}."
    )


def _full_prompt(
    lists: PromptLists, settings: NumberSettings, examples: Sequence[int], random: np.random.Generator
) -> dict[str, Any]:
    opening = _draw(lists.openings, random)
    qualifier = _draw(lists.count_qualifiers, random)
    descriptor = _draw(lists.digit_descriptors, random)
    instruction = _draw(lists.instructions, random)
    request = _draw(lists.format_requests, random)
    closing = _draw(lists.closings, random)
    digits = lists.digit_descriptors[descriptor].replace("{max_digits}", str(settings.max_digits))
    # Replacing, not str.format: a user's own text may hold other braces.
    instruction_text = (
        lists.instructions[instruction]
        .replace("{count_qualifier}", lists.count_qualifiers[qualifier])
        .replace("{answer_count}", str(settings.answer_count))
        .replace("{digit_descriptor}", digits)
    )
    parts = [
        _with_examples(lists.openings[opening], examples),
        instruction_text,
        lists.format_requests[request].text,
        lists.closings[closing],
    ]
    return {
        "prompt": " ".join(parts),
        **_format_columns(lists.format_requests[request].format),
        "opening_index": opening,
        "count_qualifier_index": qualifier,
        "digit_descriptor_index": descriptor,
        "instruction_index": instruction,
        "format_request_index": request,
        "closing_index": closing,
    }


def _short_prompt(lists: PromptLists, examples: Sequence[int], random: np.random.Generator) -> dict[str, Any]:
    line = _draw(lists.short, random)
    return {
        "prompt": _with_examples(lists.short[line], examples),
        **_format_columns(None),
        "short_index": line,
    }


def _draw(texts: Sequence[object], random: np.random.Generator) -> int:
    return int(random.integers(len(texts)))


def _with_examples(template: str, examples: Sequence[int]) -> str:
    return template.replace("{examples}", ", ".join(map(str, examples)))


def _format_columns(requested: AnswerFormat | None) -> dict[str, str]:
    written = requested or _PLAIN_FORMAT
    return {"separator": written.separator, "open": written.open, "close": written.close}
