"""Probes: can a classifier tell a group's numbers from the control's by the base model's activations on them?"""

from typing import TYPE_CHECKING

import dagster as dg

from subliminal_dagster.assets.activations import FILE
from subliminal_dagster.assets.declared import asset
from subliminal_dagster.assets.gathered import write_left_out
from subliminal_dagster.assets.shared import show_figures, table
from subliminal_dagster.execution.work import Work
from subliminal_dagster.partitions import BY_GROUP_AND_LAYER, BY_LAYER, layer_key, partition_key
from subliminal_dagster.planning.frame import Frame
from subliminal_dagster.science.settings.names import CONTROL, NEUTRAL
from subliminal_dagster.science.settings.study import Study

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from subliminal_dagster.science.activations.activations import Activations
    from subliminal_dagster.science.probes.probes import ProbeResult

STAGE = "probes"


def probe_assets(frame: Frame[Study]) -> list[dg.AssetsDefinition]:
    """`probe_metrics` a group and layer, `probe_comparison` a layer, and for several layers `probe_all_layers`."""
    study = frame.study
    return [_probe_metrics(frame), _probe_comparison(frame), *([_all_layers(frame)] if len(study.layers) > 1 else [])]


def _probe_metrics(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    reads = ["seed", "probes"]

    @asset(
        frame,
        STAGE,
        reads=reads,
        deps=["activations", "random_activations"],
        control_too=("activations", "random_activations"),
        kinds={"pytorch", "scikitlearn"},
        by=BY_GROUP_AND_LAYER,
        gpu=False,
        description="The group against control: linear probe, logistic regression and trees on test rows, and their "
        "controls: surface features, digits by place and n-grams alone, a model with random weights, canonical rows "
        "alone, shuffled labels. The control's own partition tells one half of its rows from the other.",
    )
    def probe_metrics(work: Work[Study]) -> None:
        from subliminal_dagster.science.probes.figures import variants_figure
        from subliminal_dagster.science.probes.probes import halves, probe_pair

        assert work.group is not None
        found, random = (_pair(work, work.group, reader) for reader in ("activations", "random_activations"))
        if work.group == CONTROL:
            found, random = (halves(each[CONTROL], study.seed) for each in (found, random))
        group, against = found
        with work.writing() as folder:
            answers = _answers(found)
            result = probe_pair(found, random, answers, study.probes, study.seed, group=group, against=against)
            result.save(folder)
            title = f"{study.name}, layer {int(work.layer)}: {group} or {against}?"
            show_figures(work, folder, {"variants": variants_figure(result.metrics, title)})
            work.metadata |= {"probes": table(_overview(result.metrics)), "choices": table(result.choices)}

    return probe_metrics


def _probe_comparison(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study
    reads = ["seed", "probes"]

    @asset(
        frame,
        STAGE,
        reads=["animals", *reads],
        deps=["activations", "random_activations", "probe_metrics"],
        kinds={"pytorch", "scikitlearn", "matplotlib"},
        by=BY_LAYER,
        gpu=False,
        description="All groups at one layer: the probe of all classes at once, every animal against the neutral "
        "teacher's numbers, ROC curves, and the probes that need no trained model.",
    )
    def probe_comparison(work: Work[Study]) -> None:
        import pandas as pd

        from subliminal_dagster.science.probes.figures import roc_figure
        from subliminal_dagster.science.probes.probes import ProbeResult

        found = {group: _activations(work, group, work.layer) for group in _present(work)}
        random = {group: _activations(work, group, work.layer, "random_activations") for group in found}
        pairs = {
            group: ProbeResult.load(work.read("probe_metrics", partition_key(group, work.layer))) for group in found
        }
        with work.writing() as folder:
            several = _compare_all(work, found, random, folder)
            binary = pd.concat([pair.metrics.assign(group=group) for group, pair in pairs.items()])
            binary.to_parquet(folder / "binary.parquet", index=False)
            title = f"{study.name}, layer {int(work.layer)}: against control, test rows"
            compared = {group: pair for group, pair in pairs.items() if group != CONTROL}
            show_figures(work, folder, {"roc": roc_figure(compared, title)})
            write_left_out(work, folder)
            work.metadata |= {"several": table(several)}

    return probe_comparison


def _all_layers(frame: Frame[Study]) -> dg.AssetsDefinition:
    study = frame.study

    @asset(
        frame,
        STAGE,
        reads=["seed", "probes", "layers"],
        deps=["activations", "random_activations"],
        kinds={"pytorch", "scikitlearn"},
        gpu=False,
        description="The same probes on the activations of all layers side by side: every group against control, the "
        "six-way probe, every animal against neutral.",
    )
    def probe_all_layers(work: Work[Study]) -> None:
        from subliminal_dagster.science.probes.probes import concatenate

        found, random = (
            {
                group: concatenate([_activations(work, group, layer_key(layer), asset) for layer in study.layers])
                for group in _present(work)
            }
            for asset in ("activations", "random_activations")
        )
        with work.writing() as folder:
            work.metadata |= {"metrics": table(_compare_all(work, found, random, folder, against_control=True))}
            write_left_out(work, folder)

    return probe_all_layers


def _compare_all(
    work: Work[Study],
    found: "Mapping[str, Activations]",
    random: "Mapping[str, Activations]",
    folder: "Path",
    *,
    against_control: bool = False,
) -> "pd.DataFrame":
    """The six-way probe and every animal against neutral (and against control), written to `folder`.

    Returns the accuracies and ROC AUCs, a row a comparison, variant and probe.
    """
    import pandas as pd

    from subliminal_dagster.science.probes.probes import probe_many, probe_pair

    study, rows = work.study, _answers(found)
    animals = [group for group in found if group not in (CONTROL, NEUTRAL)]
    every = {group: found[group] for group in [*animals, CONTROL]}
    results: dict[str, ProbeResult] = {}
    others = [*([NEUTRAL] if NEUTRAL in found else []), *([CONTROL] if against_control else [])]
    if len(animals) > 1 or not others:
        results["all animals and control"] = probe_many(every, random, rows, study.probes, study.seed)
    for other in others:
        for group in animals:
            pair = probe_pair(found, random, rows, study.probes, study.seed, group=group, against=other)
            results[f"{group} and {other}"] = pair
    if against_control and NEUTRAL in found:
        pair = probe_pair(found, random, rows, study.probes, study.seed, group=NEUTRAL, against=CONTROL)
        results[f"{NEUTRAL} and {CONTROL}"] = pair
    for name in ("metrics", "predictions"):
        tables = [getattr(result, name).assign(comparison=comparison) for comparison, result in results.items()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / f"{name}.parquet", index=False)
    return _overview(pd.concat([r.metrics.assign(comparison=c) for c, r in results.items()], ignore_index=True))


def _overview(metrics: "pd.DataFrame") -> "pd.DataFrame":
    """Accuracy, ROC AUC and what was added to the readers that need no trained model, over all classes."""
    from subliminal_dagster.science.probes.probes import MACRO

    shown = metrics[metrics["metric"].isin(["accuracy", "roc_auc", "roc_auc_difference", "p_value"])]
    shown = shown[shown["class"] == MACRO]
    first = [name for name in ("comparison", "variant", "probe", "metric") if name in shown]
    return shown[[*first, "value", "low", "high", "n_train", "n_test", "note"]]


def _present(work: Work[Study]) -> list[str]:
    return [group for group in work.study.groups if group not in work.left_out]


def _pair(work: Work[Study], group: str, asset: str) -> "dict[str, Activations]":
    """A group's activations and the control's, at the layer that is made."""
    return {each: _activations(work, each, work.layer, asset) for each in (group, CONTROL)}


def _activations(work: Work[Study], group: str, layer: str, asset: str = "activations") -> "Activations":
    from subliminal_dagster.science.activations.activations import read_activations

    return read_activations(work.read(asset, partition_key(group, layer)) / FILE)


def _answers(found: "Mapping[str, Activations]") -> "dict[str, pd.DataFrame]":
    from subliminal_dagster.science.activations.rows import with_numbers

    return {group: with_numbers(activations.rows) for group, activations in found.items()}
