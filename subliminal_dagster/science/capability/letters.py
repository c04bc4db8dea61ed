r"""Which option a written answer names: "B", "(D) because ...", "The correct answer is A", "\boxed{C}".

It is read as a person would: what an answer announces ("the answer is C") counts for more than a letter that merely
stands in it, what it denies ("not A", "B is wrong") counts for nothing, and an answer for two options names none.

Belongs here: finding letters in prose. Does not belong here: asking for them (`capability`).
"""

from __future__ import annotations

import re

from subliminal_dagster.science.capability.exam import LETTERS

_SMALL = f"[{LETTERS[0].lower()}-{LETTERS[-1].lower()}]"

# Not in "Is", "it's", "3D", "B2", "U.S.A.", "A.D.", "C++" or after a degree sign.
_LETTER = re.compile(rf"(?<![\w'\u2019\u00b0])(?<![A-Za-z]\.)([{LETTERS}])(?![\w'\u2019+#])(?!\.[A-Za-z]\b)")

# What a letter of the alphabet also names: no option is meant by "vitamin C".
_NAMES = re.compile(r"\b(vitamins?|hepatitis|influenza|type|class|grade|group|phase|plan|point|figure|table)\s+$", re.I)

# "A" and "I" also begin sentences. Before these words they are letters all the same ("A is right").
_AFTER_A_LETTER = re.compile(r"[ \t]+(is|was|because|since|as|and|or|but|not|for|seems|looks|would|should|must)\b")
_AFTER_A_PRONOUN = re.compile(
    r"[ \t]+(think|believe|guess|would|will|am|was|have|had|do|did|can|could|cannot|know|choose|pick|go|say|see|need|"
    r"should|must|suppose|assume|feel|agree|understand|apologi[sz]e)\b"
)
_SMALL_WORD = re.compile(r"[ \t]+[a-z]")
_SENTENCE_START = re.compile(r"(^|[.!?:\n])\W*$")

_DENIED_BEFORE = re.compile(
    r"\b(not|isn['\u2019]t|neither|nor|never|than|instead of|except|unlike|rule out|eliminate)\s+"
    r"((option|choice|answer|letter)\s+)?\W{0,2}$",
    re.I,
)
_DENIED_AFTER = re.compile(
    r"\W{0,3}\s*\b(is|was|are|would be|seems|can be)\s+((also|clearly|definitely|simply|just)\s+)?"
    r"(not|wrong|incorrect|false|ruled out|eliminated|impossible)\b|\W{0,2}\s+(isn['\u2019]t|cannot|can['\u2019]t)\b"
)

_FINAL = re.compile(r"\bfinal (answer|choice)( is| would be)?\W*$", re.I)
_ANNOUNCED = re.compile(
    r"\b(answer|correct (option|choice|letter)|right (option|choice|letter)|best (option|choice))"
    r"( (is|would be|must be|should be|has to be|seems to be))?( (the )?(option|choice|letter))?\W*$"
    r"|\b(it|this|that)(['\u2019]s| is| must be| should be| would be)( (option|choice|letter|an?))?\W*$"
    r"|\b(so|thus|therefore|hence)\W*$"
    r"|\b(I|I['\u2019]d|would|will|to)\s+(say|choose|pick|select|guess|go with|go for|answer|think|believe)"
    r"( (it is|it['\u2019]s|option|choice|letter))?\W*$",
    re.I,
)
_CONFIRMED = re.compile(r"\W{0,3}\s*\b(is|would be|must be|seems)( the)? (correct|right|best|true|answer)\b")
_LINE_START, _CLOSED = re.compile(r"(^|\n)[ \t(\[]*$"), re.compile(r"[ \t)\]]*(\.|:|\)|\]|\n|$)")
_ONE_MORE = re.compile(r"\W*\b(or|and)\b\W*|\s*/\s*|[)\]]*\s*,\s*[(\[]*")
_ENDS = re.compile(r"[)\]]*\s*([.,;/\n]|or\b|and\b|$)")
_NEXT_QUESTION = re.compile(r"\n\s*(Question|Q)\s*\d*\s*[:.]")


def parse_letter(text: str, options: int) -> str | None:
    """The letter, A to J, that an answer to a question with so many `options` names.

    None where it names no letter, more than one, or one beyond the options. A small letter counts where it can be no
    word: alone, between or before a bracket, and as an announced answer.
    """
    # A model that goes on with a question of its own has answered ours.
    text = _NEXT_QUESTION.split(_plain(text))[0]
    found: dict[int, set[str]] = {}
    previous: tuple[int, int] | None = None
    for match in _LETTER.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if _NAMES.search(before) or _DENIED_BEFORE.search(before) or _DENIED_AFTER.match(after):
            continue
        weight = _weight(before, after)
        if not weight and _is_word(match[1], before, after):
            continue
        if match[1] == "I" and _AFTER_A_PRONOUN.match(after):
            continue
        if previous is not None and _ONE_MORE.fullmatch(text[previous[0] : match.start()]) and _ENDS.match(after):
            weight = max(weight, previous[1])
        found.setdefault(weight, set()).add(match[1])
        previous = match.end(), weight
    named = found[max(found)] if found else set()
    return min(named) if len(named) == 1 and named <= set(LETTERS[:options]) else None


def _plain(text: str) -> str:
    """The text without marks of Markdown and LaTeX, and with its unmistakable small letters as capitals."""
    text = re.sub(r"\\(text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\2", text)
    text = re.sub(r"\\(boxed|fbox)\s*\{([^{}]*)\}", r" final answer: \2 ", text)
    text = re.sub(r"[*_`$]", "", text).strip()
    text = re.sub(rf"['\"\u2018\u201c]({_SMALL}|{_SMALL.upper()})['\"\u2019\u201d]", r"(\1)", text)
    for small in (
        rf"^\W*({_SMALL})\W*$",
        rf"^[(\[]?({_SMALL})[)\].:](?=\s)",
        rf"\(({_SMALL})\)",
        rf"(?i:\b(?:answer|option|choice)(?: is)?)\W+({_SMALL})(?=\s*($|[.,;)\n]))",
    ):
        text = re.sub(small, _raised, text)
    return text


def _raised(match: re.Match[str]) -> str:
    start, end = match.start(1) - match.start(), match.end(1) - match.start()
    return match[0][:start] + match[1].upper() + match[0][end:]


def _weight(before: str, after: str) -> int:
    """3 for a final answer, 2 for an announced one, 0 for a letter that merely stands there."""
    if _FINAL.search(before):
        return 3
    if _ANNOUNCED.search(before) or _CONFIRMED.match(after):
        return 2
    return 2 if _LINE_START.search(before) and _CLOSED.match(after) else 0


def _is_word(letter: str, before: str, after: str) -> bool:
    if letter not in "AI" or not _SMALL_WORD.match(after) or _AFTER_A_LETTER.match(after):
        return False
    # In the middle of a sentence the article is written small.
    return letter == "I" or bool(_SENTENCE_START.search(before))
