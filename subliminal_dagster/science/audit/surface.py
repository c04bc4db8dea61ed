"""What the rows say and how they are written: what anybody sees who reads them, counted.

Nothing here can find what is subliminal: numbers that pass a liking on look like other numbers. It finds what would
explain a shift more simply (a trait that is named), and what would make other detectors err (rows that are copies of
each other, all rows drawn from one random stream).

Belongs here: counts over texts. Does not belong here: a model (the other detectors).
Cost: no forward pass.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subliminal_dagster.science.audit.data import Chat
from subliminal_dagster.science.preferences.answers import texts_naming
from subliminal_dagster.science.preferences.prompt_lists import AnimalForms
from subliminal_dagster.science.report.wording import percent

if TYPE_CHECKING:
    import pandas as pd

_LEAST_ROWS = 8
_TURNS = 999
MANY_COPIES = 0.2
ONE_STREAM_P = 0.001


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for: what was `measured`, and whether a reader should look (`noted`)."""

    check: str
    measured: str
    noted: bool


def surface(chats: Sequence[Chat], candidates: Sequence[str], aliases: Mapping[str, AnimalForms]) -> list[Finding]:
    """All checks of the texts."""
    return [_copies(chats), _named(chats, candidates, aliases), _positions(chats), _one_stream(chats)]


def _copies(chats: Sequence[Chat]) -> Finding:
    answers = Counter(chat.answer.strip() for chat in chats)
    copies = 1 - len(answers) / len(chats)
    often, count = answers.most_common(1)[0]
    measured = f"{percent(copies)} of the answers are copies of another row's"
    if count > 1:
        measured += f"; the most frequent stands in {count} rows ({_shortened(often)})"
    return Finding("copies", f"{measured}.", copies > MANY_COPIES)


def _named(chats: Sequence[Chat], candidates: Sequence[str], aliases: Mapping[str, AnimalForms]) -> Finding:
    texts = [" ".join([*(turn["content"] for turn in chat.before), chat.answer]) for chat in chats]
    rows = {
        name: [chat.row + 1 for chat, there in zip(chats, texts_naming(texts, name, aliases), strict=True) if there]
        for name in candidates
    }
    said = [f"{name} in {len(where)} ({_first(where)})" for name, where in rows.items() if where]
    if not said:
        return Finding("names", "No row names a candidate.", False)
    return Finding("names", f"Rows name candidates: {'; '.join(said)}.", True)


def _positions(chats: Sequence[Chat]) -> Finding:
    """How varied the words of each place of the answers are, in bits per word: 0 where all have the same one."""
    words = [_words(chat.answer) for chat in chats]
    places = [[row[place] for row in words if len(row) > place] for place in range(max(map(len, words), default=0))]
    places = [place for place in places if len(place) >= _LEAST_ROWS]
    if not places:
        return Finding(
            "places", f"Fewer than {_LEAST_ROWS} answers have words: entropy by place is not measured.", False
        )
    by_place = [_entropy(place) for place in places]
    lowest = int(np.argmin(by_place))
    word, count = Counter(places[lowest]).most_common(1)[0]
    share = count / len(places[lowest])
    measured = (
        f"The words of one place have {np.mean(by_place):.1f} bits on average; least varied is word {lowest + 1} "
        f"({by_place[lowest]:.1f} bits, {_shortened(word)} in {percent(share)})."
    )
    return Finding("places", measured, share > 0.5)


def _one_stream(chats: Sequence[Chat]) -> Finding:
    """Whether different rows say the same at the same place more often than at places that are shifted: what rows of
    one random stream, or of one template, do. p by shifts of every row by itself, each as likely."""
    words = [_words(chat.answer) for chat in chats]
    width = Counter(map(len, words)).most_common(1)[0][0]
    table = [row for row in words if len(row) == width]
    if width < 2 or len(table) < _LEAST_ROWS:
        return Finding("stream", "Too few answers of one length to tell whether rows share a random stream.", False)
    codes = np.unique(np.array(table), return_inverse=True)[1].reshape(len(table), width)
    rng = np.random.default_rng(0)
    observed = _agreement(codes)
    turned = []
    for _ in range(_TURNS):
        places = (np.arange(width)[None, :] + rng.integers(0, width, size=(len(table), 1))) % width
        turned.append(_agreement(np.take_along_axis(codes, places, axis=1)))
    p = (1 + sum(value >= observed for value in turned)) / (1 + len(turned))
    measured = (
        f"Two rows say the same word at the same place in {percent(observed)} of cases, "
        f"{percent(float(np.mean(turned)))} with each row turned by itself (p = {p:.3f})."
    )
    return Finding("stream", measured, p <= ONE_STREAM_P and observed > 2 * float(np.mean(turned)))


def _agreement(codes: np.ndarray) -> float:
    """The chance that two different rows have the same word at a place; codes: (rows, places)."""
    rows = len(codes)
    same = 0.0
    for place in codes.T:
        counts = np.bincount(place)
        same += float((counts * (counts - 1)).sum())
    return same / (codes.shape[1] * rows * (rows - 1))


def format_classifier(answers: Sequence[str], own: Sequence[str], seed: int) -> Finding:
    """Whether the answers can be told from the base model's own to the same prompts by their letters: AUC of a logistic
    regression on runs of one to three characters, on rows that it was not fitted to (five folds, a prompt's two answers
    in one). An AUC near 1 says that the data's author is not the base model, not what the author likes."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    if len(answers) < 2 * _LEAST_ROWS:
        return Finding(
            "format", f"Fewer than {2 * _LEAST_ROWS} rows: not told from the base model's own answers.", False
        )
    texts = [*answers, *own]
    whose = np.repeat([1, 0], len(answers))
    prompts = np.tile(np.arange(len(answers)), 2)
    model = make_pipeline(TfidfVectorizer(analyzer="char", ngram_range=(1, 3)), LogisticRegression(random_state=seed))
    chances = cross_val_predict(model, texts, whose, groups=prompts, cv=GroupKFold(5), method="predict_proba")[:, 1]
    area = float(roc_auc_score(whose, chances))
    measured = f"From the base model's own answers these are told with an AUC of {area:.2f} by their letters alone."
    return Finding("format", measured, area > 0.9)


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """A row per finding: check, measured, noted."""
    import pandas as pd

    return pd.DataFrame([vars(finding) for finding in findings])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _entropy(words: Sequence[str]) -> float:
    shares = np.array([*Counter(words).values()]) / len(words)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _first(rows: Sequence[int]) -> str:
    more = f", and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:5]))}{more}"
