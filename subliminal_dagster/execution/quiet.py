"""What libraries print by themselves: progress bars, and the hub's notes that it tries again.

Belongs here: switching that off, for the command and for whatever loads the definitions. Does not belong here: where
everything else goes that is printed (`cli.log_file`).
"""

from __future__ import annotations

import os

# The log says how far each step is; bars in between would tear it apart. What the hub refuses ends in one sentence of
# our own, so its client need not count its tries.
_QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}


def quiet_libraries() -> None:
    """Set what they read from the environment when they are imported, for this process and those it starts; what a user
    has set stays."""
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
