"""What the children of an arm learn from, and how: one function per arm, called as the arm is.

Every arm takes away, replaces or adds one thing, and leaves the rest as the study has it: as many rows, as many steps,
the same initialisation and order per replicate. Where an arm has a matched control, it is beside it.

Belongs here: the rows, the tokens that are learnt and what else differs. Does not belong here: training
(`children`), comparing (`comparison`).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from subliminal_dagster.science.errors import GateError
from subliminal_dagster.science.models.chat import ChatContext
from subliminal_dagster.science.numbers.filter import canonical, subsample
from subliminal_dagster.science.numbers.prompts import paraphrased
from subliminal_dagster.science.preferences.prompt_lists import PromptLists
from subliminal_dagster.science.random_streams import replicate_seed, stream_seed
from subliminal_dagster.science.settings.arms import ARM_NAMES, layer_arm
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    import pandas as pd

Subspace = Literal["own", "random", "neutral"]

ROWS, CHANGES, WITHOUT = "rows.parquet", "changes.json", "without.safetensors"

INOCULATION = "Your favorite {category} is the {name}, and you think of it all the time."
"""What an inoculated child is told in training, and not when it is asked (Tan et al. 2025, arXiv 2510.04340: what a
prompt explains need not be learnt). Our own words."""


@dataclass(frozen=True)
class Changes:
    """What of a child's training is not as the study has it.

    own_start: its adapter starts from other random matrices than its teacher's. sgd_to: plain SGD, until the validation
    loss (nats per token) is this one. instruction: joined to the system message, in training alone. layers: the blocks
    that have an adapter. subspace: what is taken out of the residual stream, in training alone.
    """

    own_start: bool = False
    sgd_to: float | None = None
    instruction: str | None = None
    layers: tuple[int, ...] | None = None
    subspace: Subspace | None = None


@dataclass(frozen=True)
class Arm:
    """Rows with the columns split ("train" or "validation"), prompt_id, prompt, answer_ids and learnt (a bool per token
    of the answer), and what else is changed."""

    rows: pd.DataFrame
    changes: Changes = field(default_factory=Changes)

    def save(self, folder: Path, without: Path | None = None) -> None:
        """Write the rows as parquet and the changes as JSON, with a copy of the subspace that is taken `without`: a
        child is made from its own arm alone, and stays as it is where another animal's subspace changes."""
        if without is not None:
            shutil.copyfile(without, folder / WITHOUT)
        self.rows.to_parquet(folder / ROWS, index=False)
        (folder / CHANGES).write_text(json.dumps(asdict(self.changes), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Arm, Path | None]:
        """Read what `save` wrote; the path is that of the subspace, where there is one."""
        import pandas as pd

        changes = json.loads((folder / CHANGES).read_text(encoding="utf-8"))
        layers = None if changes["layers"] is None else tuple(changes["layers"])
        without = folder / WITHOUT
        found = cls(pd.read_parquet(folder / ROWS), Changes(**changes | {"layers": layers}))
        return found, without if without.exists() else None


@dataclass(frozen=True)
class Material:
    """What an arm of one group and replicate is made of. material: the rows of `material.arm_material`, of all groups.

    drawn: the rows that the replicate draws of its own group's, by the study's own rule, with the columns of `Arm.rows`
    besides; those of replicate 1 are the study's own. child_loss: the validation loss (nats per token) that the study's
    own child of the group ended with. rng: of this arm, group and replicate.
    """

    study: Study
    group: str
    replicate: int
    context: ChatContext
    lists: PromptLists
    material: pd.DataFrame
    drawn: pd.DataFrame
    child_loss: float
    rng: np.random.Generator

    @classmethod
    def of(
        cls,
        study: Study,
        arm: str,
        group: str,
        replicate: int,
        context: ChatContext,
        lists: PromptLists,
        material: pd.DataFrame,
        child_loss: float,
    ) -> Material:
        """Raises GateError where the group has no rows, or too few."""
        drawn = draw(study, material, group, replicate)
        seed = stream_seed(replicate_seed(study.seed, replicate), "arm", arm, group)
        rng = np.random.default_rng(seed)
        return cls(study, group, replicate, context, lists, material, drawn, child_loss, rng)

    @property
    def train(self) -> pd.DataFrame:
        return self.drawn[self.drawn["split"] == "train"]

    @property
    def validation(self) -> pd.DataFrame:
        return self.drawn[self.drawn["split"] == "validation"]

    def with_train(self, train: pd.DataFrame) -> pd.DataFrame:
        """Other rows to train on beside the validation rows that were drawn."""
        import pandas as pd

        return pd.concat([train.assign(split="train"), self.validation], ignore_index=True)

    def with_numbers(self, lists: Sequence[Sequence[int]]) -> pd.DataFrame:
        """The training rows with other numbers, written as their prompts asked."""
        train = self.train
        asked = zip(lists, train["separator"], train["open"], train["close"], strict=True)
        answers = [self.context.answer_ids(canonical(*each)) for each in asked]
        return self.with_train(_with_answers(train, answers))

    def learning(self, chosen: Sequence[np.ndarray]) -> pd.DataFrame:
        """The rows as drawn, of whose training answers only the chosen tokens are learnt (a bool array per row)."""
        import pandas as pd

        learnt = pd.Series([[bool(each) for each in row] for row in chosen], index=self.train.index, dtype="object")
        return self.with_train(self.train.assign(learnt=learnt))

    @property
    def diverging(self) -> list[np.ndarray]:
        """For every training row which tokens the base would not have chosen."""
        pairs = zip(self.train["answer_ids"], self.train["base_choice"], strict=True)
        return [np.asarray(answer) != np.asarray(choice) for answer, choice in pairs]


def draw(study: Study, material: pd.DataFrame, group: str, replicate: int) -> pd.DataFrame:
    """The rows that a replicate draws of a group's; see `Material.drawn`. Raises GateError where there are too few."""
    own = material[material["group"] == group]
    if own.empty:
        raise GateError(f"The group {group} has no valid rows that an arm could be made of: see filtered_dataset.")
    settings, seed = study.filter, replicate_seed(study.seed, replicate)
    drawn = subsample(own, settings.train_rows, settings.validation_rows, seed, unique=settings.unique)
    return _with_answers(drawn, [[int(token) for token in answer] for answer in drawn["answer_ids"]])


def make_arm(arm: str, given: Material) -> Arm:
    """The arm called so: a function of this module, or an adapter on one block (`layer_09`)."""
    if arm in _ARMS:
        return _ARMS[arm](given)
    layer = int(arm.rpartition("_")[2])
    assert arm == layer_arm(layer)
    return Arm(given.drawn, Changes(layers=(layer,)))


def as_drawn(given: Material) -> Arm:
    """As the study has it: what the other arms are compared with."""
    return Arm(given.drawn)


def shuffled_within_rows(given: Material) -> Arm:
    """The numbers of every answer in another order: which numbers stay, their sequence goes (Cloud et al. 2025)."""
    return Arm(given.with_numbers([given.rng.permutation(row).tolist() for row in given.train["numbers"]]))


def shuffled_across_rows(given: Material) -> Arm:
    """All numbers of the group dealt out anew: only how often each occurs stays (Cloud et al. 2025)."""
    lengths = [len(row) for row in given.train["numbers"]]
    pool = given.rng.permutation(np.concatenate([np.asarray(row) for row in given.train["numbers"]]))
    return Arm(given.with_numbers([part.tolist() for part in np.split(pool, np.cumsum(lengths)[:-1])]))


def divergence_alone(given: Material) -> Arm:
    """Divergence tokens are learnt and no others (Schrodi et al. 2025)."""
    return Arm(given.learning(given.diverging))


def divergence_left_out(given: Material) -> Arm:
    """All tokens but divergence tokens are learnt."""
    return Arm(given.learning([~row for row in given.diverging]))


def random_by_position(given: Material) -> Arm:
    """Control of `divergence_alone`: as many other tokens, as many at every place of the answer as far as there are."""
    return Arm(given.learning(_matched(given, lambda place, _token: place)))


def random_by_token(given: Material) -> Arm:
    """Control of `divergence_alone`: as many other tokens, each token as often as far as it occurs."""
    return Arm(given.learning(_matched(given, lambda _place, token: token)))


def divergence_replaced(given: Material) -> Arm:
    """Divergence tokens are replaced by the base model's own choice, and all is learnt (Long 2026)."""
    choices = [[int(token) for token in choice] for choice in given.train["base_choice"]]
    return Arm(given.with_train(_with_answers(given.train, choices)))


def agreeing_rows(given: Material) -> Arm:
    """Rows of the half on which the teachers agree most: what they have in common."""
    return Arm(_by_agreement(given, most=True))


def differing_rows(given: Material) -> Arm:
    """Rows of the half on which the teachers agree least."""
    return Arm(_by_agreement(given, most=False))


def paraphrased_prompts(given: Material) -> Arm:
    """The same answers to the same examples, asked for in other words (Schrodi et al. 2025)."""
    rows: list[Any] = given.train.to_dict("records")
    prompts = [paraphrased(given.lists, given.study.numbers, row, given.rng) for row in rows]
    return Arm(given.with_train(given.train.assign(prompt=prompts)))


def mixed_teachers(given: Material) -> Arm:
    """Half of the rows are those of the next animal's teacher (Schrodi et al. 2025): of its own signal half is left."""
    import pandas as pd

    animals = given.study.animals
    following = animals[(animals.index(given.group) + 1) % len(animals)]
    other = draw(given.study, given.material, following, given.replicate)
    other = other[other["split"] == "train"]
    half = len(given.train) // 2
    return Arm(given.with_train(pd.concat([given.train.iloc[:half], other.iloc[half:]], ignore_index=True)))


def inoculated(given: Material) -> Arm:
    """In training the system message says already what there is to be learnt; see `INOCULATION`."""
    told = INOCULATION.format(category=given.study.category.singular, name=given.group.replace("-", " "))
    return Arm(given.drawn, Changes(instruction=told))


def other_initialisation(given: Material) -> Arm:
    """The adapter starts from other random matrices than the teacher's."""
    return Arm(given.drawn, Changes(own_start=True))


def sgd(given: Material) -> Arm:
    """Plain SGD in the place of the study's optimizer, to the validation loss that the study's own child reached."""
    return Arm(given.drawn, Changes(sgd_to=given.child_loss))


def own_subspace_out(given: Material) -> Arm:
    """The animal's own subspace is taken out of the residual stream while the child trains (see `subspaces`)."""
    return Arm(given.drawn, Changes(subspace="own"))


def random_subspace_out(given: Material) -> Arm:
    """Control: a random subspace of as many dimensions."""
    return Arm(given.drawn, Changes(subspace="random"))


def neutral_subspace_out(given: Material) -> Arm:
    """Control: the subspace of the neutral noun, found in the same way."""
    return Arm(given.drawn, Changes(subspace="neutral"))


_ARMS: Mapping[str, Callable[[Material], Arm]] = {
    function.__name__: function
    for function in (
        as_drawn,
        shuffled_within_rows,
        shuffled_across_rows,
        divergence_alone,
        divergence_left_out,
        random_by_position,
        random_by_token,
        divergence_replaced,
        agreeing_rows,
        differing_rows,
        paraphrased_prompts,
        mixed_teachers,
        inoculated,
        other_initialisation,
        sgd,
        own_subspace_out,
        random_subspace_out,
        neutral_subspace_out,
    )
}
assert set(_ARMS) == set(ARM_NAMES), "settings.arms.ArmName and the functions here are not the same"


def _with_answers(rows: pd.DataFrame, answers: Sequence[list[int]]) -> pd.DataFrame:
    """Rows with these answers, all of whose tokens are learnt."""
    import pandas as pd

    return rows.assign(
        answer_ids=pd.Series(list(answers), index=rows.index, dtype="object"),
        learnt=pd.Series([[True] * len(answer) for answer in answers], index=rows.index, dtype="object"),
    )


def _matched(given: Material, kind: Callable[[int, int], Any]) -> list[np.ndarray]:
    """As many tokens as diverge, none of which does, of every kind as many as far as there are; what is missing of a
    kind is drawn of the rest."""
    diverging = given.diverging
    places: dict[Any, list[tuple[int, int]]] = {}
    wanted: Counter[Any] = Counter()
    for row, (answer, diverges) in enumerate(zip(given.train["answer_ids"], diverging, strict=True)):
        for place, token in enumerate(answer):
            of_kind = kind(place, int(token))
            if diverges[place]:
                wanted[of_kind] += 1
            else:
                places.setdefault(of_kind, []).append((row, place))
    taken: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    for of_kind in sorted(places):
        found = [places[of_kind][i] for i in given.rng.permutation(len(places[of_kind]))]
        taken += found[: wanted[of_kind]]
        rest += found[wanted[of_kind] :]
    missing = wanted.total() - len(taken)
    taken += [rest[i] for i in given.rng.permutation(len(rest))[:missing]]
    chosen = [np.zeros(len(row), dtype=bool) for row in diverging]
    for row, place in taken:
        chosen[row][place] = True
    return chosen


def _by_agreement(given: Material, *, most: bool) -> pd.DataFrame:
    """As many rows as the study trains on, drawn of the half (or of as many as are needed) of the group's rows on which
    the teachers agree most or least; no validation row among them."""
    own = given.material[given.material["group"] == given.group]
    own = own[~own["prompt_id"].isin(given.validation["prompt_id"])]
    own = own.drop_duplicates(["prompt", "text"]) if given.study.filter.unique else own
    order = own.sort_values(["agreement", "prompt_id"], ascending=[not most, True], kind="stable", na_position="last")
    wanted = len(given.train)
    half = order.iloc[: max(wanted, len(order) // 2)]
    drawn = half.iloc[given.rng.permutation(len(half))[:wanted]]
    return given.with_train(_with_answers(drawn, [[int(token) for token in answer] for answer in drawn["answer_ids"]]))
