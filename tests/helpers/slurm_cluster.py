"""A Slurm of a test's own: munged, slurmctld and two slurmd on this machine, as root, in a folder of its own.

Belongs here: starting and ending it, and what an operator does to it. Does not belong here: anything of this project.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
_STARTS_WITHIN_SECONDS = 60
NODES = ("node1", "node2")

# No cgroups, accounting or mail, which a container lacks. A node is one core, so that a job has one for itself, with a
# GPU that Slurm believes in. What is sent to the partition `urgent` puts other jobs back into the queue.
_SETTINGS = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=200000
ReturnToService=2
SlurmdTimeout=300
MinJobAge=120
KillWait=2
JobRequeue=1
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=urgent Nodes={names} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=off
PartitionName=cpu Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A Slurm that runs; its programs find it by the environment variable SLURM_CONF."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        done = subprocess.run(command, env=os.environ | self.environment, capture_output=True, text=True, check=True)
        return done.stdout

    def jobs(self) -> dict[str, str]:
        """The state of every job in the queue, by its number."""
        lines = self.call("squeue", "--noheader", "--format", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def node_of(self, job: str) -> str:
        return self.call("squeue", "--noheader", "--format", "%N", "--jobs", job).strip()

    def start_now(self) -> None:
        """Slurm lets a job that came back to the queue wait for two minutes. Not here."""
        for line in self.call("squeue", "--noheader", "--states", "PENDING", "--format", "%i %r").splitlines():
            job, reason = line.split(maxsplit=1)
            if reason == "BeginTime":
                self.call("scontrol", "update", f"jobid={job}", "starttime=now")

    def take_down(self, node: str) -> None:
        """As in a power cut: the node's daemon and all that it started are killed, and the controller told."""
        daemon = psutil.Process(int((self.folder / f"slurmd-{node}.pid").read_text()))
        for process in [daemon, *_steps(node)]:
            # One that has ended by now, with the daemon or by itself, is what is wanted.
            with suppress(psutil.NoSuchProcess):
                for each in [*process.children(recursive=True), process]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def bring_up(self, node: str) -> None:
        self._start_node(node)

    def _start_node(self, node: str) -> None:
        subprocess.run(["slurmd", "-N", node], env=os.environ | self.environment, check=True, capture_output=True)


def _steps(node: str) -> list[psutil.Process]:
    """The processes that carry out jobs of a node: they outlive its daemon, and are no children of it."""
    found = []
    for process in psutil.process_iter(["name", "environ"]):
        environment = process.info["environ"] or {}
        if environment.get("SLURMD_NODENAME") == node:
            found.append(process)
    return found


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of two nodes with a core each, gone afterwards with all that it ran.

    Skips the test where Slurm is not installed or this is not root.
    """
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    if absent:
        pytest.skip(f"Slurm is not installed here: there is no {', '.join(absent)}")
    if os.geteuid() != 0:
        pytest.skip(f"a Slurm of one's own takes root, and this is {getpass.getuser()}")
    found = Cluster(folder)
    ports = _free_ports(1 + len(NODES))
    nodes = [
        f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=20000 "
        "Gres=gpu:1"
        for name, port in zip(NODES, ports[1:], strict=True)
    ]
    (folder / "state").mkdir()
    settings = _SETTINGS.format(
        host=socket.gethostname(), port=ports[0], folder=folder, nodes="\n".join(nodes), names=",".join(NODES)
    )
    (folder / "slurm.conf").write_text(settings)
    # Any device does: nothing opens it.
    (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File=/dev/zero\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    munged = subprocess.Popen(
        [
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    controller = None
    try:
        _wait_for(lambda: (folder / "munge.socket").exists(), "munged did not start", folder / "munged.log")
        controller = subprocess.Popen(
            ["slurmctld", "-D", "-c"],
            env=os.environ | found.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for node in NODES:
            found._start_node(node)
        _wait_for(lambda: _idle(found) == len(NODES), "no node became idle", folder / "slurmctld.log")
        yield found
    finally:
        for node in NODES:
            with suppress(OSError, ValueError, psutil.NoSuchProcess):
                psutil.Process(int((folder / f"slurmd-{node}.pid").read_text())).kill()
            for process in _steps(node):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        for daemon in (controller, munged):
            if daemon is not None:
                daemon.kill()
                daemon.wait()


def _idle(found: Cluster) -> int:
    with suppress(subprocess.CalledProcessError):
        return found.call("sinfo", "--noheader", "--Node", "--partition=cpu", "--format", "%T").split().count("idle")
    return 0


def _wait_for(condition: object, what: str, log: Path) -> None:
    assert callable(condition)
    until = time.monotonic() + _STARTS_WITHIN_SECONDS
    while not condition():
        if time.monotonic() > until:
            said = log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
            raise RuntimeError(f"{what}: {said}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    listening = [socket.socket() for _ in range(count)]
    for each in listening:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in listening]
    for each in listening:
        each.close()
    return ports
