"""What of a study is missing, out of date or refused, why, in which order to make it, and what that will take.

An artifact records what it was made from: the settings its asset reads, the code it uses, the content of everything
upstream (`work.Work`). It is fresh while all of that is still so and its files are what was written. A rerun
that makes the same content again therefore leaves everything downstream fresh.

The artifacts are asked and not Dagster's event log: an asset's own status there is always fresh once it has
partitions, looks one hop up, and knows nothing of a file that was changed or of an edge with 100 partitions.

Belongs here: reading the state of the artifacts, and choosing what can run next. Does not belong here: running it
(`runner`, `schedules`), printing it (`cli`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

from subliminal_dagster.planning.frame import Frame, label, shown
from subliminal_dagster.planning.gates import nothing_to_compare, refusal_within
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.errors import UserError
from subliminal_dagster.science.storage.claims import Holder
from subliminal_dagster.science.storage.content_hash import json_hash
from subliminal_dagster.science.storage.records import DamagedArtifact, Manifest, MissingArtifact
from subliminal_dagster.science.storage.snapshot import StoreSnapshot
from subliminal_dagster.science.storage.store import ArtifactStore

Status = Literal["fresh", "stale", "missing", "blocked"]


@dataclass(frozen=True)
class Part:
    """One asset of a study in one partition (None where it has none).

    `reasons` say why it is not fresh. `waits_for` are inputs to be made before it. `sure` is False where it has to be
    made only if one of those comes out different. `seconds` and `device` are those of an earlier run, None where
    there was none. `state` is a hash of everything that the verdict rests on. One that
    `takes_what_there_is` goes on without inputs that failed. `claimed` says which process is making it, if one is.
    `files_for` are the due parts that miss its files, where it was imported without them.
    """

    study: str
    asset: str
    partition: str | None
    status: Status
    reasons: tuple[str, ...] = ()
    waits_for: tuple[Input, ...] = ()
    sure: bool = True
    seconds: float | None = None
    device: str | None = None
    state: str = ""
    takes_what_there_is: bool = False
    claimed: str | None = None
    files_for: tuple[Input, ...] = ()

    @property
    def place(self) -> Input:
        return self.asset, self.partition

    @property
    def due(self) -> bool:
        """Whether it has to be made, or may have to be."""
        return self.status in ("missing", "stale")

    @property
    def name(self) -> str:
        return shown(self.asset, self.partition)

    def as_json(self) -> dict[str, Any]:
        """A JSON-able record of it."""
        places = {"waits_for": self.waits_for, "files_for": self.files_for}
        return asdict(self) | {name: [label(*place) for place in each] for name, each in places.items()}


@dataclass(frozen=True)
class DueRun:
    """Assets of a study that can be made now, in one Dagster run (which has one partition), upstream first."""

    study: str
    partition: str | None
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        """The same for the same work on the same inputs, whoever plans it."""
        return json_hash([(part.study, part.asset, part.partition, part.state) for part in self.parts])[:16]


@dataclass(frozen=True)
class Plan:
    """The parts of one study, upstream first."""

    study: str
    parts: tuple[Part, ...]

    def of(self, status: Status) -> list[Part]:
        return [part for part in self.parts if part.status == status]

    @property
    def due(self) -> list[Part]:
        return [part for part in self.parts if part.due]

    def next_runs(self, busy: Collection[Input] = (), failed: Collection[Input] = ()) -> list[DueRun]:
        """What can start now, one run per partition.

        A run holds parts whose inputs are fresh, and behind them in the same partition those that have to be made
        whatever becomes of their inputs. A part that has to be made only if an input comes out different waits for
        the next plan. `busy` parts (in the making, or made before) and `failed` ones are left alone, and what needs
        them waits; what takes what there is does not wait for what failed.
        """
        lost = self._lost(failed)
        chosen: dict[str | None, list[Part]] = {}
        for part in self.parts:
            if not part.due or part.place in busy or part.place in lost:
                continue
            waits_for = _still_awaited(part, lost)
            before = {earlier.place for earlier in chosen.get(part.partition, [])}
            if not waits_for or (part.sure and before.issuperset(waits_for)):
                chosen.setdefault(part.partition, []).append(part)
        return [DueRun(self.study, partition, tuple(parts)) for partition, parts in chosen.items()]

    def ready(
        self, busy: Collection[Input] = (), failed: Collection[Input] = (), made: Collection[Input] = ()
    ) -> list[Part]:
        """The parts that can start now, since all they need is made: of `next_runs` those that wait for no other.

        `made` are parts made since there was something to do, which are left alone like `busy` ones. What takes what
        there is does not wait for one that is still due, as what was made without something that failed is.
        """
        lost = self._lost(failed)
        none_of, settled = {*busy, *made, *lost}, {*made, *lost}
        return [
            part for part in self.parts if part.due and part.place not in none_of and not _still_awaited(part, settled)
        ]

    def _lost(self, failed: Collection[Input]) -> set[Input]:
        """What failed, and what cannot be made for want of it."""
        lost = set(failed)
        for part in self.parts:
            if part.due and not part.takes_what_there_is and not lost.isdisjoint(part.waits_for):
                lost.add(part.place)
        return lost

    def limited_to(self, wanted: Collection[Input], frame: Frame) -> Plan:
        """The parts wanted and everything they are made from."""
        needed: set[Input] = set()
        for part in reversed(self.parts):
            if part.place in wanted or part.place in needed:
                needed |= {part.place, *frame.awaited(*part.place)}
        chosen = [_for_these(part, needed) for part in self.parts if part.place in needed]
        due = {part.place for part in chosen if part.due}
        return Plan(self.study, tuple(_waiting_for(part, due, frame) for part in chosen))


def _for_these(part: Part, wanted: set[Input]) -> Part:
    """A part as it is for those wanted: files that only others need are not missed."""
    if part.files_for and wanted.isdisjoint(part.files_for):
        return replace(part, status="fresh", reasons=(), files_for=())
    return part


def _waiting_for(part: Part, due: Collection[Input], frame: Frame) -> Part:
    """A part that takes what there is, waiting for its inputs on request too where these are to be made as well."""
    if not part.takes_what_there_is:
        return part
    more = [place for place in frame.inputs(*part.place) if place in due and place not in part.waits_for]
    return replace(part, waits_for=(*part.waits_for, *more))


def _still_awaited(part: Part, settled: Collection[Input]) -> list[Input]:
    return [i for i in part.waits_for if not (part.takes_what_there_is and i in settled)]


def make_plan(frame: Frame, store: ArtifactStore, claims: Mapping[Input, Holder] | None = None) -> Plan:
    """Look at every (asset, partition) of a study; one pass over the artifacts, each looked at once.

    `claims`: what the store said of who is making what, for who has asked already.
    """
    survey = _Survey(frame, store.snapshot(frame.study.name))
    for name in frame.nodes:
        for partition in frame.partitions(name):
            survey.examine(name, partition)
    survey.ask_for_left_out()
    claims = store.claims(frame.study.name) if claims is None else claims
    claimed = {place: holder.shown for place, holder in claims.items()}
    parts = [replace(p, claimed=claimed[p.place]) if p.place in claimed else p for p in survey.with_estimates()]
    return Plan(frame.study.name, tuple(parts))


class _Survey:
    """The state of a study's artifacts, filled upstream first."""

    def __init__(self, frame: Frame, store: ArtifactStore | StoreSnapshot) -> None:
        self.frame = frame
        self.store = store
        self.parts: dict[Input, Part] = {}
        self.content: dict[Input, str] = {}
        self.earlier: dict[Input, Manifest] = {}
        self.left_out: set[Input] = set()

    def examine(self, name: str, partition: str | None) -> None:
        part = self._part(name, partition)
        self.parts[part.place] = part

    def _part(self, name: str, partition: str | None) -> Part:
        study, open_to_all = self.frame.study.name, self.frame.nodes[name].takes_what_there_is
        inputs = self.frame.inputs(name, partition)
        awaited = set(self.frame.awaited(name, partition) if open_to_all else inputs)
        manifest, problem = self._manifest(name, partition)
        shut = None if open_to_all else self._shut(name, inputs)
        if shut:
            return Part(study, name, partition, "blocked", (shut,))
        if open_to_all or self.frame.gathers(name):
            inputs = [i for i in inputs if self.parts[i].status != "blocked" and (i in awaited or i in self.content)]
        waits_for = tuple(i for i in inputs if i in awaited and self.parts[i].due)
        recipe = self.frame.recipe(name, partition)
        refusal = self.store.refusal(study, name, partition) or (refusal_within(manifest) if manifest else None)
        made_from = refusal.made_from if refusal else manifest.info if manifest else None
        if made_from is None:
            own, upstream = [problem], []
        else:
            own = [] if refusal else [problem] if problem else []
            own += recipe.changes_since(made_from)
            upstream = self._changed(made_from, inputs)
        state = json_hash(
            [
                recipe.version,
                {label(*i): self.content.get(i) for i in inputs},
                manifest.version if manifest else None,
                refusal.created.isoformat() if refusal else None,
            ]
        )
        if not own and not upstream and not waits_for:
            if refusal is not None:
                return Part(study, name, partition, "blocked", (refusal.reason,), state=state)
            return Part(study, name, partition, "fresh", state=state)
        settled = [text for i, text in upstream if i not in waits_for]
        reasons = [*own, *settled] or self._roots(waits_for)
        status: Status = "missing" if manifest is None and refusal is None else "stale"
        return Part(
            study,
            name,
            partition,
            status,
            tuple(reasons),
            waits_for,
            bool(own or settled),
            state=state,
            takes_what_there_is=open_to_all,
        )

    def _manifest(self, name: str, partition: str | None) -> tuple[Manifest | None, str]:
        """The artifact's manifest, and what is wrong with the artifact: a phrase, empty where nothing is."""
        place, study = (name, partition), self.frame.study.name
        try:
            manifest = self.store.check(study, name, partition)
        except MissingArtifact:
            return None, "never made, or deleted"
        except DamagedArtifact as error:
            try:
                self.earlier[place] = self.store.manifest(study, name, partition)
            except UserError:
                return None, str(error)
            return self.earlier[place], str(error)
        self.content[place] = manifest.content_hash
        self.earlier[place] = manifest
        if manifest.left_out:
            self.left_out.add(place)
        return manifest, ""

    def _shut(self, name: str, inputs: list[Input]) -> str | None:
        """The refusal that keeps this part from being made."""
        blocked = [i for i in inputs if self.parts[i].status == "blocked"]
        if not blocked:
            return None
        if self.frame.gathers(name):
            groups = {self.frame.group_of(*i) for i in blocked}
            if None not in groups and not nothing_to_compare(groups, self.frame.study):
                return None
        above = self.parts[blocked[0]]
        inherited = any(self.parts[i].status == "blocked" for i in self.frame.inputs(*above.place))
        return above.reasons[0] if inherited else f"{above.name} was refused: {above.reasons[0]}"

    def _changed(self, made_from: dict[str, Any], inputs: Iterable[Input]) -> list[tuple[Input, str]]:
        """Inputs whose content is not what was read then, each with a sentence."""
        recorded: dict[str, str] = made_from.get("upstream", {})
        now = {label(*i): i for i in inputs}
        found = []
        for text, place in now.items():
            current = self.content.get(place)
            if text not in recorded:
                found.append((place, f"{shown(*place)} is new to it"))
            elif current is not None and current != recorded[text]:
                change = f"from {recorded[text][:8]} to {current[:8]}"
                found.append((place, f"the content of {shown(*place)} changed {change}"))
        gone = sorted(set(recorded) - set(now))
        found += [((text, None), f"it was made with {text}, which is left out now") for text in gone]
        return found

    def ask_for_left_out(self) -> None:
        """What was imported without its files is as good as any as long as nobody reads it: have it made where
        something due is made from it, and that wait for it."""
        asked_for = {place for place in self.left_out if not self.parts[place].due}
        for place in reversed(self.parts):
            part = self.parts[place]
            needed = [i for i in self.frame.inputs(*place) if i in self.left_out] if part.due else []
            for each in asked_for.intersection(needed):
                reason = f"imported without its files, which {part.name} is made from"
                readers = (*self.parts[each].files_for, place)
                self.parts[each] = replace(self.parts[each], status="missing", reasons=(reason,), files_for=readers)
            more = tuple(i for i in needed if i not in part.waits_for)
            self.parts[place] = replace(part, waits_for=(*part.waits_for, *more))

    def _roots(self, waits_for: Iterable[Input]) -> list[str]:
        """Why the inputs have to be made: their own reasons, or those further up."""
        found: dict[str, None] = {}
        for place in waits_for:
            part = self.parts[place]
            for reason in part.reasons:
                found[reason if not part.sure else f"{part.name} is to be made: {reason}"] = None
        return list(found)

    def with_estimates(self) -> Iterable[Part]:
        """The parts, those that are due with the time they took before, else the median of their asset's others."""
        of_asset: dict[str, list[Manifest]] = {}
        for (name, _), manifest in self.earlier.items():
            of_asset.setdefault(name, []).append(manifest)
        usual = {name: _estimate(manifests) for name, manifests in of_asset.items()}
        for place, part in self.parts.items():
            if not part.due:
                yield part
                continue
            known = _estimate([self.earlier[place]]) if place in self.earlier else usual.get(part.asset, (None, None))
            yield replace(part, seconds=known[0], device=known[1])


def _estimate(manifests: list[Manifest]) -> tuple[float | None, str | None]:
    """The median of the seconds that these took, and their devices."""
    times = [float(m.info["wall_seconds"]) for m in manifests if "wall_seconds" in m.info]
    devices = {str(m.info["device"]) for m in manifests if "device" in m.info}
    return median(times) if times else None, ", ".join(sorted(devices)) or None
