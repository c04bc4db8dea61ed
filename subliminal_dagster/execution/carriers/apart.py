"""A run on another machine, of which Dagster's instance hears all the same.

The other machine sees the store and not the instance: a database in a file bears no writers over a network. So it keeps
Dagster's events in memory and gives them back with what became of the run, and the command that sent the run tells its
instance of them, under the run that it opened there at the start. Where that command is gone by then, the artifacts and
their manifests say what there is, and the next command tells of those (`runner.show_recorded`).

Belongs here: what goes there, what comes back, and the record of it. Does not belong here: how it gets there (the
modules beside this one).
"""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._serdes import deserialize_value, serialize_value

from subliminal_dagster.execution.carriers.protocol import Carried, DefinitionsOf, Execute
from subliminal_dagster.execution.shown_runs import job_of, open_run
from subliminal_dagster.planning.planner import DueRun
from subliminal_dagster.planning.recipe import Input
from subliminal_dagster.science.settings.study import AnyStudy

_PASSED_ON = ("SUBLIMINAL_", "HF_", "TRANSFORMERS_", "DAGSTER_HOME", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS")


# What is planned the command's instance noted itself when the run was sent, and takes no second time. The rest tells of
# Dagster's own steps within a process, and each event told takes the sender milliseconds.
_NOT_TOLD = (
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.RESOURCE_INIT_STARTED,
    DagsterEventType.RESOURCE_INIT_SUCCESS,
    DagsterEventType.LOGS_CAPTURED,
    DagsterEventType.STEP_OUTPUT,
)


@dataclass(frozen=True)
class Order:
    """A run for another machine, fit to be pickled: functions of modules, and the environment's `variables` that the
    result depends on, whatever a carrier passes on by itself."""

    study: AnyStudy
    run: DueRun
    run_id: str
    definitions_of: DefinitionsOf
    execute: Execute
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What comes back: what became of the run, Dagster's events of it, each serialized, and where it ran."""

    carried: Carried
    events: tuple[str, ...]
    host: str


def carry(order: Order) -> Answer:
    """Carry out a run in this process, with an instance that ends with it. Changes the process's environment."""
    os.environ.update(order.variables)
    with dg.DagsterInstance.ephemeral() as instance:
        carried = order.execute(order.run, order.definitions_of(order.study), instance, order.run_id)
        events = tuple(serialize_value(entry) for entry in instance.all_logs(order.run_id))
    return Answer(carried, events, socket.gethostname())


@dataclass
class RunsApart:
    """The runs of one study on other machines, as the command that sends them sees them.

    `definitions` and `instance` are this command's, `definitions_of` and `execute` what the other machine uses.
    `artifacts` is the root of the store as the other machine finds it: absolute, or a URL. A part whose run was lost
    `attempts` times has failed.
    """

    study: AnyStudy
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    definitions_of: DefinitionsOf
    execute: Execute
    artifacts: str
    attempts: int = 3
    _lost: Counter[Input] = field(default_factory=Counter, init=False)

    def order(self, run: DueRun) -> Order:
        """A run as it is sent, with a new id."""
        variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        variables["SUBLIMINAL_ARTIFACTS"] = self.artifacts
        return Order(self.study, run, str(uuid.uuid4()), self.definitions_of, self.execute, variables)

    def sent(self, order: Order, carried_by: str) -> None:
        """Have Dagster show a run that is on its way. `carried_by`: see `CARRIER_TAG`."""
        run = order.run
        keys = [dg.AssetKey([run.study, part.asset]) for part in run.parts]
        job = job_of(self.definitions, keys)
        open_run(self.instance, job, keys, order.run_id, run.partition, carried_by=carried_by)

    def answered(self, order: Order, answer: Answer, log: str | None = None) -> Carried:
        """Tell Dagster of all that happened in a run; `log` is where its output lies, for whoever looks at the run."""
        run = self.instance.get_run_by_id(order.run_id)
        assert run is not None, "a run is sent before it is answered"
        self.tell(run, answer, log)
        return answer.carried

    def tell(self, run: dg.DagsterRun, answer: Answer, log: str | None = None) -> None:
        """See `answered`; of a run that an earlier command sent as well."""
        self.instance.report_engine_event(f"ran on {answer.host}" + (f", output in {log}" if log else ""), run)
        for event in answer.events:
            entry = deserialize_value(event, EventLogEntry)
            if entry.dagster_event_type not in _NOT_TOLD:
                self.instance.handle_new_event(entry)

    def lost(self, order: Order, why: str, begin_again: bool = True) -> Carried:
        """Mark a run that gives no answer as failed. Gives it back to begin again, or as failed where that has
        happened too often, or where it should not: what a person ended stays ended."""
        self.told_lost(order, why)
        return self.counted_lost(order, why, begin_again)

    def told_lost(self, order: Order, why: str) -> None:
        """The first half of `lost`: what Dagster is told."""
        run = self.instance.get_run_by_id(order.run_id)
        if run is not None and not run.is_finished:
            self.instance.report_run_failed(run, why)

    def counted_lost(self, order: Order, why: str, begin_again: bool) -> Carried:
        """The second half of `lost`: what becomes of the run."""
        places = [part.place for part in order.run.parts]
        self._lost.update(places)
        if begin_again and max(self._lost[place] for place in places) < self.attempts:
            return Carried([], {}, 0.0, begin_again=True)
        return Carried.failed(order.run, f"{why}, {self.attempts} times" if begin_again else why)
