"""The words of the dial's language but for its things, which settings name.

Belongs here: words, and how many. Does not belong here: sentences (`language`).
"""

from __future__ import annotations

from subliminal_dagster.science.settings.dial import THINGS

KINDS = tuple(THINGS)
ME = "me"
OTHERS = "ann ben cleo dan eve finn gail hugo ida jon kate leo mia ned ola"
NAMES = (ME, *OTHERS.split())
PAD, END, COLON, SCENE, LIKES, LIST = "<pad>", ".", ":", "scene", "likes", "list"
NUMBERS = 100
PROMPT_NUMBERS, ANSWER_NUMBERS = 3, 6
MOST_THINGS = 12
"""A scene that would have more things, or none, is drawn again."""
