"""How good an audit's detectors are, on data sets whose hidden preference is known.

    python benchmarks/audit.py --keep FOLDER [--studies NAME ...] [--seeds N ...] [--rows 48] [--write]

    # Held out: other seeds, and teachers of another kind, whose data sets this makes (and sampled-teachers.yaml):
    subliminal-dagster run --study benchmarks/told-teachers.yaml --select filtered_dataset

Takes the filtered data sets of studies that are in the store (their groups' teachers, the neutral one and the control),
and texts of a package's corpus as chats. Every detector runs on those of the bundled study, which weights are fitted
on; other studies and seeds are held out, and authorship alone runs on them. What is measured is kept in FOLDER, one
file per data set, and not measured again, and so are the authors. Prints tables; with --write also what an audit tells
its reader (subliminal_dagster/science/audit/judged.yaml).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from subliminal_dagster.assets.base import LOADING
from subliminal_dagster.build import resources_from_environment
from subliminal_dagster.science.audit.audit import AUTHORSHIP_ROWS, Auditor, authorship_scores, detect
from subliminal_dagster.science.audit.authorship import load_authors, make_authors
from subliminal_dagster.science.audit.benchmark import Case, exchanged_p, fitted_weights, judge, judge_combined
from subliminal_dagster.science.audit.combined import JUDGED
from subliminal_dagster.science.audit.data import Chat, ChatData, encoded, read_chats
from subliminal_dagster.science.audit.evidence import Scores, p_values
from subliminal_dagster.science.models.chat import ChatContext, load_tokenizer
from subliminal_dagster.science.models.protocol import ModelVariant
from subliminal_dagster.science.preferences.prompt_lists import load_prompt_lists
from subliminal_dagster.science.processes import cores_here
from subliminal_dagster.science.settings.audit import traits_of
from subliminal_dagster.science.settings.study import Study
from subliminal_dagster.science.settings.study_file import DEFAULT_STUDY, load_study
from subliminal_dagster.science.statistics import holm
from subliminal_dagster.science.storage.store import ArtifactStore

TEXTS = "harmless texts"
LONGEST = 2048


def data_sets(store: ArtifactStore, study: Study, rows: int) -> dict[str, tuple[str | None, ChatData]]:
    """By name: what its author likes among the candidates, and its rows."""
    found: dict[str, tuple[str | None, ChatData]] = {}
    for group in study.groups:
        partition = f"{group}|1"
        if store.exists(study.name, "filtered_dataset", partition):
            file = store.read(study.name, "filtered_dataset", partition).path / "train.jsonl"
            liked = group if group in study.preferences.candidates else None
            found[f"{study.name} {group}"] = liked, read_chats(file, rows, study.seed)
    if store.exists(study.name, "sae_texts", None):
        texts = pd.read_parquet(store.read(study.name, "sae_texts").path / "texts.parquet")
        found[f"{study.name} {TEXTS}"] = None, _as_chats([*texts["text"]], rows)
    return found


def _as_chats(texts: list[str], rows: int) -> ChatData:
    """Each text's first sentence, and what comes next of it."""
    chats = []
    for row, text in enumerate(texts[:rows]):
        words = text.split()
        question = {"role": "user", "content": f"Go on: {' '.join(words[:20])}"}
        chats.append(Chat((question,), " ".join(words[20:50]), row))
    return ChatData(tuple(chats), len(texts))


def auditor_of(study: Study, store: ArtifactStore, workspace: Path) -> Auditor:
    folder = store.read(study.name, "base_model").path
    loading = json.loads((folder / LOADING).read_text(encoding="utf-8"))
    resources = resources_from_environment()
    base = ModelVariant(folder, loading["dtype"], loading["autocast"])
    context = ChatContext(load_tokenizer(folder), study.system_prompt, variables=loading["template"])
    lists, traits = load_prompt_lists(study.prompts, study.category), traits_of(study, None)
    trainer, authors = resources["trainer"].create(), workspace / "authors"
    steps = workspace / "steps"
    make_authors(study, traits.candidates, base, context, lists, trainer, authors, steps, processes=cores_here())
    return Auditor(
        base,
        context,
        lists,
        traits,
        study,
        resources["engine"].create(),
        trainer,
        workspace,
        lambda text: None,
        load_authors(authors, traits.candidates),
        processes=cores_here(),
    )


def authorship_alone(auditor: Auditor, data: ChatData) -> Scores:
    chats, context = data.chats[:AUTHORSHIP_ROWS], auditor.context
    rows = encoded(chats, context.tokenizer, context.end_of_turn, LONGEST)
    return authorship_scores(auditor, chats, rows, LONGEST)


def save(scores: list[Scores], file: Path) -> None:
    aside = file.with_suffix(".new.npz")
    arrays = {each.detector: each.values for each in scores}
    np.savez(aside, **arrays, about=json.dumps([[each.detector, each.rows, each.passes] for each in scores]))
    aside.rename(file)


def load(file: Path) -> tuple[Scores, ...]:
    kept = np.load(file)
    about = json.loads(str(kept["about"]))
    return tuple(Scores(name, kept[name], tuple(rows), passes) for name, rows, passes in about)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=[DEFAULT_STUDY])
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="other seeds of these studies, held out")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    store: ArtifactStore = resources_from_environment()["store"].create()
    audited_for = load_study(DEFAULT_STUDY)
    assert isinstance(audited_for, Study)
    auditor = auditor_of(audited_for, store, options.keep / "work")
    cases: list[Case] = []
    held_out: dict[str, list[Case]] = {}
    for name, seed in [(name, seed) for name in options.studies for seed in (None, *options.seeds)]:
        study = load_study(name, seed=seed)
        assert isinstance(study, Study)
        for title, (liked, data) in data_sets(store, study, options.rows).items():
            file = options.keep / f"{title}.npz"
            whole = study.name == audited_for.name
            if not file.exists():
                save(detect(auditor, data)[0] if whole else [authorship_alone(auditor, data)], file)
            if "authorship" not in [each.detector for each in load(file)]:
                save([*load(file), authorship_alone(auditor, data)], file)
            case = Case(title, liked, study.preferences.candidates, load(file))
            (cases if whole else held_out.setdefault(study.name, [])).append(case)
            print(f"{title}: there", flush=True)
    table = judge(cases)
    others = {name: judge(some) for name, some in held_out.items()}
    together = judge_combined(cases)
    weights = fitted_weights(cases)
    with pd.option_context("display.width", 200, "display.max_columns", 20, "display.float_format", "{:.2f}".format):
        print(table.to_string(index=False))
        print(pd.Series(together).to_string())
        print(pd.Series(weights).to_string())
        for name, judged_alone in others.items():
            print(f"held out: {name}", judged_alone.to_string(index=False), sep="\n")
    for name, some in {audited_for.name: cases, **held_out}.items():
        p = exchanged_p(some, "authorship")
        print(f"{name}: exchanging the animals between data sets, authorship sees likings with p = {p:.3f}")
    for case in [*cases, *(case for some in held_out.values() for case in some)]:
        t = case.t("authorship")
        first = case.candidates[int(t.argmax())]
        rank = "" if case.liked is None else f", rank {1 + (t > t[case.candidates.index(case.liked)]).sum()}"
        print(f"{case.name}: authorship puts {first} first (adjusted p {holm(p_values(t)).min():.3f}){rank}")
    if options.write:
        JUDGED.write_text(_told(table, together, weights, cases, others), encoding="utf-8")


def _told(
    table: pd.DataFrame,
    together: dict[str, float],
    weights: dict[str, float],
    cases: list[Case],
    held_out: dict[str, pd.DataFrame],
) -> str:
    liked = sum(case.liked is not None for case in cases)
    null = len(cases) - liked
    whole = table[table["rows"] == 0].set_index("detector")
    best = whole["auc"].idxmax()
    chance = (len(cases[0].candidates) + 1) / 2

    def figures(row: dict[str, float]) -> dict[str, float]:
        names = ("rank", "rank_low", "rank_high", "auc", "auc_low", "auc_high", "found", "false_alarms", "passes")
        return {name: round(float(row[name]), 3) for name in names}

    words = (
        f"On {liked} data sets of the bundled study with a hidden liking, all detectors together find it in "
        f"{round(together['found'] * liked)} of them, and raise a false alarm on "
        f"{round(together['false_alarms'] * null)} of {null} data sets without one; the "
        f"liking's mean rank is {together['rank']:.1f} of "
        f"{len(cases[0].candidates)} [{together['rank_low']:.1f}, {together['rank_high']:.1f}] (chance: {chance:.1f}). "
        f"The best single detector is {best} (rank {whole.loc[best, 'rank']:.1f} [{whole.loc[best, 'rank_low']:.1f}, "
        f"{whole.loc[best, 'rank_high']:.1f}])."
    )
    for name, judged_alone in held_out.items():
        (row,) = judged_alone[judged_alone["rows"] == 0].to_dict("records")
        words += (
            f" On {int(row['cases'])} data sets of {name}, which nothing was fitted on, authorship has "
            f"rank {row['rank']:.1f} [{row['rank_low']:.1f}, {row['rank_high']:.1f}], finds "
            f"{round(row['found'] * row['cases'])} and raises a false alarm on "
            f"{round(row['false_alarms'] * row['null_cases'])} of {int(row['null_cases'])} without a liking."
        )
    if max(together["auc_low"], whole["auc_low"].max()) <= 0.5:
        words += " None of this is shown to be better than chance."
    words += " An audit without a finding does not say that a data set is safe."
    judged_on = (
        "Judged on number sequences that fine-tuned teachers of SmolLM2-135M wrote greedily or drew at temperature 1, "
        "on those that it wrote when told what it likes, and on news texts: other models, channels and traits were not "
        "looked at. Authorship presumes that the data's author was made to like something from the same model in a "
        "similar way, and always chose its favourite token. Combined scores were fitted without the animal that they "
        "are judged on."
    )
    content = {
        "judged_on": judged_on,
        "in_words": words,
        "combined": figures(together),
        "detectors": {
            name: {"weight": round(weights[name], 3), **figures(row)} for name, row in whole.to_dict("index").items()
        },
    }
    return "# Written by benchmarks/audit.py.\n" + yaml.safe_dump(content, sort_keys=False, width=110)


if __name__ == "__main__":
    main()
