"""One of this machine's GPUs for the calling process, and no other process on the same.

Dagster's pools say how many GPU steps run at once, not on which GPU. This hands each process one GPU of those it may
use, by setting CUDA_VISIBLE_DEVICES.

Belongs here: choosing a GPU and holding it. Does not belong here: how many steps run at once (the pool `gpu`), and
anything that uses the GPU; torch is never imported.
https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from subliminal_dagster.science.errors import UserError

# Not tempfile.gettempdir(): TMPDIR is often a job's own folder, and two jobs would not see each other's locks there.
LOCK_FOLDER = Path("/tmp/subliminal-dagster-gpus")
"""Where the locks of this machine's GPUs lie, unless SUBLIMINAL_GPU_LOCKS names another folder."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ORDER = "CUDA_DEVICE_ORDER"
_POLL_SECONDS = 0.5
# An index, or the UUID of a GPU or of a slice of one (MIG). Anything else ("-1", "NoDevFiles") ends the list for CUDA.
_DEVICE = re.compile(r"\d+|(GPU|MIG)-[A-Za-z0-9/-]+")


@contextmanager
def leased_gpu(share: int = 1, wait_message: Callable[[str], None] | None = None) -> Iterator[str | None]:
    """Take one GPU for this process, and point CUDA_VISIBLE_DEVICES at it until the block ends.

    Yields the GPU's UUID, or its index where nvidia-smi cannot tell the UUID; None on a machine without NVIDIA GPUs and
    where CUDA_VISIBLE_DEVICES is set to none, with nothing changed. Waits until a GPU is free, and says so once through
    `wait_message`. The GPU is one of those in CUDA_VISIBLE_DEVICES, else any that nvidia-smi lists.

    `share` is how many processes may hold one GPU; give the same number everywhere. All users of a machine have to
    use the same folder of locks: `LOCK_FOLDER`, or the one SUBLIMINAL_GPU_LOCKS names. The operating system frees a
    lock when its process dies, however it dies; a process it forked keeps the GPU until that one has ended as well.

    CUDA reads the variable once, when it starts in a process, and cannot be pointed to another GPU afterwards. So take
    the GPU before anything asks CUDA (`torch.cuda.is_available()` does); blocks inside blocks get the same GPU without
    waiting; once torch has started CUDA, the GPU stays held until the process ends, because its memory and context are
    in use until then, whatever block has ended; and a later block takes the first block's GPU again. A process started
    within a block must not take a GPU of its own: it sees only this one, which is held, and would wait for its parent.

    Raises ValueError for a `share` below 1, UserError where the locks cannot be written.
    """
    if share < 1:
        raise ValueError(f"share is {share}, and at least one process has to hold a GPU")
    gpu = _process.enter(share, wait_message)
    if gpu is None:
        yield None
        return
    try:
        yield gpu
    finally:
        _process.leave()


class _Process:
    """What this process holds: one GPU at most, for as many blocks as there are."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._blocks = 0
        self._gpu: str | None = None
        self._descriptor: int | None = None
        self._environment: dict[str, str | None] = {}
        self.to_the_end = False

    @property
    def has_held_gpu(self) -> bool:
        return self._gpu is not None

    def enter(self, share: int, wait_message: Callable[[str], None] | None) -> str | None:
        with self._guard:
            if self._blocks == 0:
                gpus = usable_gpus()
                if not gpus:
                    return None
                if self._descriptor is None:
                    if self._gpu in gpus:
                        # CUDA may have read the variable then, even where torch does not say so.
                        gpus = [self._gpu]
                    elif _cuda_has_started():
                        # Too late to choose: it works on the first one.
                        gpus = gpus[:1]
                    self._gpu, self._descriptor = _wait_for_one(gpus, share, wait_message)
                assert self._gpu is not None
                self._point_to(self._gpu)
            self._blocks += 1
            return self._gpu

    def leave(self) -> None:
        with self._guard:
            self._blocks -= 1
            if self._blocks:
                return
            for variable, value in self._environment.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
            if self._descriptor is not None and not self.to_the_end and not _cuda_has_started():
                # Closing alone would leave it locked where a forked process has the descriptor too.
                unlock_descriptor(self._descriptor)
                os.close(self._descriptor)
                self._descriptor = None

    def _point_to(self, gpu: str) -> None:
        # An index where there is one: vLLM reads the variable itself and fails on UUIDs (vllm issue 13815).
        name = next((index for index, uuid in _uuids().items() if uuid == gpu), gpu)
        # By default CUDA counts from the fastest GPU, nvidia-smi and schedulers by the slot.
        settings = {_VISIBLE: name} | ({_ORDER: "PCI_BUS_ID"} if name.isdecimal() else {})
        self._environment = {variable: os.environ.get(variable) for variable in settings}
        os.environ.update(settings)


_process = _Process()


def hold_to_the_end() -> None:
    """Keep the GPU that this process takes until it ends, whatever block has ended: for a process that may leave
    something running there which is no part of torch."""
    _process.to_the_end = True


def has_held_gpu() -> bool:
    """Whether this process has held a GPU, and so cannot be pointed at another for sure."""
    return _process.has_held_gpu


def _cuda_has_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def usable_gpus() -> list[str]:
    """UUIDs, else indices, of the GPUs this process may use; each once."""
    named = os.environ.get(_VISIBLE)
    if named is not None and not named.strip():
        return []
    uuids = _uuids()
    if named is None:
        return list(uuids.values())
    gpus = []
    for entry in named.split(","):
        name = entry.strip()
        if not _DEVICE.fullmatch(name) or (uuids and name.isdecimal() and name not in uuids):
            break
        # Two jobs may call the same GPU by different names, and a UUID may be cut short.
        name = uuids.get(name, name)
        gpus.append(next((uuid for uuid in uuids.values() if uuid.startswith(name)), name))
    return list(dict.fromkeys(gpus))


def _uuids() -> dict[str, str]:
    """UUIDs of this machine's GPUs by index, as nvidia-smi tells; empty where it is not there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    listed = subprocess.run(
        [program, "--query-gpu=index,uuid", "--format=csv,noheader"], capture_output=True, text=True, check=False
    ).stdout
    # Its exit code is not asked: one GPU of many that is lost makes it fail, and the others are fine. A line that is
    # not a GPU is an error message ("No devices were found").
    return dict(re.findall(r"^\s*(\d+)\s*,\s*(GPU-\S+)\s*$", listed, re.MULTILINE))


def _wait_for_one(gpus: list[str], share: int, wait_message: Callable[[str], None] | None) -> tuple[str, int]:
    """The first of the GPUs that has a place free, with the locked descriptor that holds it."""
    folder = _lock_folder()
    has_told = False
    while True:
        # All GPUs before the second place of any: processes spread before they share.
        for place in range(share):
            for gpu in gpus:
                descriptor = _locked(folder / f"{gpu.replace('/', '_')}.{place}.lock")
                if descriptor is not None:
                    return gpu, descriptor
        if wait_message is not None and not has_told:
            wait_message(f"waiting for a GPU: {', '.join(gpus)} {'is' if len(gpus) == 1 else 'are all'} in use")
            has_told = True
        time.sleep(_POLL_SECONDS)


def _lock_folder() -> Path:
    folder = Path(os.environ.get("SUBLIMINAL_GPU_LOCKS") or LOCK_FOLDER)
    try:
        folder.mkdir(parents=True)
        # Apart from mkdir, whose mode the umask cuts. Sticky: a lock that another user deletes protects nothing.
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(folder, error) from error
    return folder


def _locked(path: Path) -> int | None:
    """An open descriptor that holds the lock, None where another process holds it.

    The library's own FileLock refuses files of other users in a sticky folder, and here those are the point; hence its
    lock on a descriptor.
    """
    try:
        descriptor = _opened(path)
        if descriptor is None:
            return None
        # Something that cleans up old files may have deleted it before it was locked.
        if lock_descriptor(descriptor, blocking=False) and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
    except OSError as error:
        raise _unusable(path.parent, error) from error
    return None


def _opened(path: Path) -> int | None:
    """A descriptor of the lock file, made where it is missing; None where another process made it this moment."""
    # O_NOFOLLOW: in a folder where everyone writes, a link is somebody's trick.
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        # Without O_CREAT, which Linux refuses on other users' files in a sticky folder (fs.protected_regular).
        return os.open(path, flags)
    except FileNotFoundError:
        pass
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None
    os.fchmod(descriptor, 0o666)
    return descriptor


def _unusable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The GPU locks in {folder} cannot be used ({error.strerror}): let everyone write there (mode 1777), or name "
        "another folder, the same for all users of this machine, in SUBLIMINAL_GPU_LOCKS."
    )
