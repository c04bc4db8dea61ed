"""A child's update as a vector: how far it points the way its teacher's does, block by block.

Cloud et al. 2025 (arXiv 2507.14805, theorem 1) show that one small step on a teacher's outputs moves a student that
started like the teacher the teacher's way: the inner product of their updates is not negative. That is about any
output, so children of other teachers' numbers are the control for what is specific, and children that start from other
random matrices for what the common start does. An update is what an adapter adds to the base's weights, s B A.

Belongs here: those cosines. Does not belong here: what they are made of (`training`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subliminal_dagster.science.statistics import t_interval
from subliminal_dagster.science.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd
    import torch

ALL_BLOCKS = -1
"""In the place of a block's number: all of them together."""

Factors = Mapping[str, tuple["torch.Tensor", "torch.Tensor"]]


def update_factors(adapter: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The update of every matrix with an adapter, as (B times the scale, A): by the module's name, float64."""
    from safetensors.torch import load_file

    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {
        name: (
            tensors[f"{name}.lora_B.weight"].double() * scale,
            tensors[f"{name}.lora_A.weight"].double(),
        )
        for name in names
    }


def inner_products(one: Factors, other: Factors) -> dict[int, float]:
    """The inner product of two updates by block, summed over the block's matrices that both have. The updates
    themselves are never formed: <B A, D C> is the sum of the elements of (B'D) * (A C')."""
    found: dict[int, float] = {}
    for name in one.keys() & other.keys():
        (b, a), (d, c) = one[name], other[name]
        block = int(re.findall(r"\.layers\.(\d+)\.", f".{name}.")[-1])
        found[block] = found.get(block, 0.0) + float(((b.T @ d) * (a @ c.T)).sum())
    return found


def cosines(child: Factors, teacher: Factors) -> dict[int, float]:
    """Cosine of two updates by block, and of all together under `ALL_BLOCKS`; NaN where one of them is zero."""
    both, of_child, of_teacher = (inner_products(*pair) for pair in ((child, teacher), (child,) * 2, (teacher,) * 2))
    sums = {block: (both[block], of_child[block], of_teacher[block]) for block in sorted(both)}
    sums[ALL_BLOCKS] = tuple(sum(each.values()) for each in (both, of_child, of_teacher))  # type: ignore[assignment]
    return {
        block: inner / math.sqrt(own * theirs) if own > 0 and theirs > 0 else math.nan
        for block, (inner, own, theirs) in sums.items()
    }


def update_table(children: Mapping[tuple[str, str, int], Path], teachers: Mapping[str, Path]) -> pd.DataFrame:
    """Every child's update against every teacher's.

    children: adapters by (arm, group, replicate); teachers: adapters by group.
    Returns a row per child, teacher and block: arm, group, replicate, teacher, block (`ALL_BLOCKS` for all), cosine.
    """
    import pandas as pd

    of_teachers = {group: update_factors(folder) for group, folder in teachers.items()}
    rows: list[dict[str, Any]] = []
    for (arm, group, replicate), folder in children.items():
        own = update_factors(folder)
        for teacher, factors in of_teachers.items():
            facts = {"arm": arm, "group": group, "replicate": replicate, "teacher": teacher}
            rows += [facts | {"block": block, "cosine": value} for block, value in cosines(own, factors).items()]
    return pd.DataFrame(rows)


def own_teacher(table: pd.DataFrame, animals: Sequence[str], confidence: float) -> pd.DataFrame:
    """Cosine with the own teacher's update, and what it is above those with the other animals' teachers'.

    table: of `update_table`. Children of one group are averaged; the interval is over groups, so that teachers, rows
    and training runs are in it.

    Returns a row per arm, block and measure ("own", "own minus others"): arm, block, measure, groups, mean, low, high,
    verdict.
    """
    import pandas as pd

    rows = []
    about = table[table["group"].isin(list(animals)) & table["teacher"].isin(list(animals))]
    for (arm, block), found in about.groupby(["arm", "block"], sort=False):
        square = found.groupby(["group", "teacher"])["cosine"].mean().unstack("teacher")
        groups = [animal for animal in animals if animal in square.index and animal in square.columns]
        cells = square.loc[groups, groups].to_numpy(dtype=float)
        if len(groups) < 2 or np.isnan(cells).any():
            continue
        own = np.diagonal(cells)
        others = (cells.sum(axis=1) - own) / (len(groups) - 1)
        for measure, values in (("own", own), ("own minus others", own - others)):
            estimate = t_interval(values, confidence)
            ends = {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}
            facts = {"arm": arm, "block": block, "measure": measure, "groups": len(groups)}
            rows.append(facts | ends | {"verdict": verdict(estimate.low, estimate.high)})
    return pd.DataFrame(rows)
