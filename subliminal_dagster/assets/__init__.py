"""The assets of a study, one module a stage.

Belongs here: how an asset is declared (`declared`), and thin functions that are handed their work, read what they need
from the store, call one function of the science library and write. Does not belong here: the science, what an asset is
made of (`planning`), how it is made (`execution`).
https://docs.dagster.io/guides/build/assets
"""

from subliminal_dagster.assets.activations import activation_assets
from subliminal_dagster.assets.arms import arm_assets
from subliminal_dagster.assets.audit import audit_assets
from subliminal_dagster.assets.base import base_assets
from subliminal_dagster.assets.capability import capability_assets
from subliminal_dagster.assets.checkpoints import checkpoint_assets
from subliminal_dagster.assets.child import child_assets
from subliminal_dagster.assets.comparison import COMPARISON, comparison_asset
from subliminal_dagster.assets.descriptions import description_assets
from subliminal_dagster.assets.dial import dial_assets
from subliminal_dagster.assets.entanglement import entanglement_assets
from subliminal_dagster.assets.features import feature_assets
from subliminal_dagster.assets.interference import interference_assets
from subliminal_dagster.assets.liking import liking_assets
from subliminal_dagster.assets.null_causes import null_cause_assets
from subliminal_dagster.assets.numbers import number_assets
from subliminal_dagster.assets.probes import probe_assets
from subliminal_dagster.assets.report import report_assets
from subliminal_dagster.assets.steering import steering_assets
from subliminal_dagster.assets.superposition import SUPERPOSITION, superposition_asset
from subliminal_dagster.assets.sweep import sweep_assets
from subliminal_dagster.assets.teacher import teacher_assets
from subliminal_dagster.assets.toy import toy_assets
from subliminal_dagster.assets.tuning import tuning_assets

__all__ = [
    "COMPARISON",
    "SUPERPOSITION",
    "activation_assets",
    "arm_assets",
    "audit_assets",
    "base_assets",
    "capability_assets",
    "checkpoint_assets",
    "child_assets",
    "comparison_asset",
    "description_assets",
    "dial_assets",
    "entanglement_assets",
    "feature_assets",
    "interference_assets",
    "liking_assets",
    "null_cause_assets",
    "number_assets",
    "probe_assets",
    "report_assets",
    "steering_assets",
    "superposition_asset",
    "sweep_assets",
    "teacher_assets",
    "toy_assets",
    "tuning_assets",
]
