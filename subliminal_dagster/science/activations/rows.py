"""The rows whose activations are looked into, and the one split into analysis and test rows.

The split goes by prompt and is made from the study's seed alone, so a prompt's answers lie on the same side in every
group, whatever their number and whichever of them are valid, and no analysis sees an answer to a test prompt.

Belongs here: choosing rows, splitting them. Does not belong here: their activations (`activations`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.numbers.filter import canonical
from subliminal_dagster.science.random_streams import first_by_lot, stream_seed
from subliminal_dagster.science.settings.features import ActivationSettings

if TYPE_CHECKING:
    import pandas as pd

ANALYSIS, TEST = "analysis", "test"


def choose_rows(
    filtered: pd.DataFrame, settings: ActivationSettings, seed: int, prompts: int | None = None
) -> pd.DataFrame:
    """At most `settings.rows` valid answers of a group, in the order of their prompts (see `first_by_lot`).

    filtered: the rows of a filtered dataset (see `numbers.filter.filter_rows`), rejected ones included. prompts: how
    many the study has, where a group did not answer all of them (`numbers.enough_valid`).

    Returns:
        `row_id` (the prompt's number), `text` (the numbers joined by ", ", without chat template), `numbers`,
        `response` (as it was generated), `split` ("analysis" or "test"), `canonical` (whether the response was written
        just as the prompt asked).

    Raises UserError where no row is valid.
    """
    import pandas as pd

    valid = filtered[filtered["valid"]].sort_values("prompt_id", kind="stable")
    if valid.empty:
        raise UserError(
            "None of the answers is a valid list of numbers, so there are no activations to look at: see the "
            "reasons in filtered_dataset."
        )
    total = prompts or int(filtered["prompt_id"].max()) + 1
    ids = valid["prompt_id"].to_numpy()
    valid = valid.iloc[first_by_lot(ids, settings.rows, stream_seed(seed, "activation_rows"), total)]
    asked = zip(valid["numbers"], valid["separator"], valid["open"], valid["close"], strict=True)
    written = [canonical(numbers, separator, opening, closing) for numbers, separator, opening, closing in asked]
    return pd.DataFrame(
        {
            "row_id": valid["prompt_id"].astype("int64"),
            "text": [", ".join(str(int(number)) for number in numbers) for numbers in valid["numbers"]],
            "numbers": pd.Series(
                [[int(n) for n in numbers] for numbers in valid["numbers"]], valid.index, dtype="object"
            ),
            "response": valid["response"],
            "split": splits(valid["prompt_id"].to_numpy(), settings.test_share, seed),
            "canonical": valid["response"].str.strip() == written,
        }
    ).reset_index(drop=True)


def with_numbers(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of an activations file, with `numbers` read from their `text` again."""
    import pandas as pd

    numbers = [[int(number) for number in text.split(", ")] for text in rows["text"]]
    return rows.assign(numbers=pd.Series(numbers, rows.index, dtype="object"))


def splits(prompt_ids: np.ndarray, test_share: float, seed: int) -> list[str]:
    """The side each prompt is on: "test" with probability `test_share`, drawn for each prompt number by itself."""
    rng = np.random.Generator(np.random.PCG64(stream_seed(seed, "split")))
    drawn = rng.random(int(prompt_ids.max()) + 1)
    return [TEST if drawn[prompt] < test_share else ANALYSIS for prompt in prompt_ids]
