"""The science of subliminal learning: everything a notebook needs, without Dagster."""

import os

# Training and model loading report usage to a hub unless told not to; nothing here leaves the machine unasked.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
