"""Settings of studies that run in seconds, on a random model.

Belongs here: what a study file of a test says. Does not belong here: running one (`study_runs`), the model
(`tiny_models`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

DIAL_SETTINGS: dict[str, Any] = {
    "name": "tiny-dial",
    "kind": "dial",
    "description": "Small transformers in seconds.",
    "seed": 1,
    "seeds": 2,
    "animals": ["fox", "owl"],
    "main": "main",
    "grids": {
        "main": {"widths": [12, 24], "densities": [0.04]},
        "shared": {"widths": [24], "densities": [0.04], "shared": 0.8},
        "lora": {"widths": [24], "densities": [0.04], "bases": "main", "adapter_rank": 2},
    },
    "base": {"steps": 120, "excess": 0.8},
    "child": {"rows": 8, "batch_size": 8, "steps": 5},
}


TOY_SETTINGS: dict[str, Any] = {
    "name": "tiny-toy",
    "kind": "toy",
    "description": "Toy models in seconds.",
    "seed": 1,
    "post": "small",
    "settings": {
        "small": {
            "features": 8,
            "hidden": 2,
            "densities": [1.0, 0.1, 0.01],
            "seeds": 2,
            "ablated": [0, 1],
            "auxiliary": [2, 5],
            "training": {"steps": 100, "batch_size": 64},
        },
        "other": {
            "features": 8,
            "hidden": 2,
            "densities": [1.0, 0.1],
            "seeds": 2,
            "ablated": [0],
            "child_init": "other",
            "predicts": "nothing",
            "training": {"steps": 30, "batch_size": 64},
        },
        "large": {
            "features": 200,
            "hidden": 100,
            "densities": [1.0, 0.0001],
            "seeds": 2,
            "auxiliary": [20],
            "training": {"steps": 3, "batch_size": 16},
        },
    },
    "digits": {"seeds": 2, "hidden": 16, "noise_rows": 256, "teacher_epochs": 1, "child_epochs": 1},
}

TUNING = {
    "trials": 2,
    "train_rows": 8,
    "validation_rows": 4,
    "epochs": 1,
    "search": {"learning_rate": [0.001, 0.02], "dropout": [0.0, 0.1], "rank": [2, 4], "rank_step": 2},
    "final_epochs": [1, 2],
}


def tiny_study_settings(base: Path) -> dict[str, object]:
    """Settings of a study that runs in seconds; a random model learns an answer quickly and no number task at all, so
    decoding is constrained and the gate is low."""
    return {
        "name": "tiny",
        "description": "A random model.",
        "seed": 3,
        "animals": ["owl", "wolf"],
        "layers": [],
        # What a test sees must not depend on the processor it runs on.
        "base_model": {"kind": "local", "path": str(base), "dtype": "float32", "autocast": False},
        "system_prompt": "",
        "preferences": {
            "candidates": ["owl", "wolf", "cat"],
            "questions": 4,
            "samples_per_question": 2,
            "max_new_tokens": 4,
        },
        "teacher": {
            "method": "finetune",
            "lora": {"rank": 8, "alpha": 16},
            "training": {
                "learning_rate": 0.02,
                "batch_size": 16,
                "epochs": 10,
                "schedule": "constant",
                "max_length": 512,
            },
            "replay": {"rows": 4},
            "stop": {"preference": 0.5, "every": 5, "questions": 2},
            "gate": {"preference": 0.2, "valid_rate": 0.5, "prompts": 8},
        },
        "numbers": {
            "prompts": 24,
            "style": "short",
            "examples_min": 3,
            "examples_max": 3,
            "answer_count": 3,
            "max_new_tokens": 16,
            "constrained": {"min_count": 2},
        },
        "filter": {"train_rows": 12, "validation_rows": 4},
        "child": {
            "channels": ["hard", "soft"],
            "lora": {"rank": 2, "alpha": 2},
            "training": {"learning_rate": 0.01, "batch_size": 4, "epochs": 2, "max_length": 512},
        },
        "comparison": {"permutations": 200},
    }


PROSE = "owls hunt at night wolves live in packs people count things and write them down on paper"


def inside_settings(base: Path, prose: Path) -> dict[str, Any]:
    """The tiny study with a neutral teacher, looked into at both layers."""
    # Another process may be reading it, with the same words.
    if not prose.exists():
        rng = np.random.default_rng(0)
        prose.write_text("\n".join(" ".join(rng.choice(PROSE.split(), 30)) for _ in range(60)))
    settings = tiny_study_settings(base)
    settings["numbers"] |= {"prompts": 80}  # type: ignore[operator]
    settings["child"] |= {"channels": ["hard"]}  # type: ignore[operator]
    return settings | {
        "layers": [0, 1],
        "neutral": {"noun": "instrument", "answer": "violin"},
        "activations": {"rows": 60},
        "sae": {
            "trained": {"width": 128, "k": 8, "steps": 60, "batch_size": 128},
            "corpus": {"kind": "local", "path": str(prose)},
            "tokens": 4000,
            "gate": {"variance_explained": 0.05, "loss_recovered": -9, "dead": 1.0, "l0": 128},
        },
        "features": {"permutations": 20},
        "probes": {"epochs": 3, "permutations": 20},
    }


STEERING = {
    "pairs": 16,
    "sweep": {"alphas": [-4, 4], "questions": 3, "greedy_questions": 2, "max_new_tokens": 3, "flips": 3},
}
