"""The heartbeat of a run: every process sees within seconds that another one has failed or is gone.

A thread of each process writes a beat into the launcher's key-value store once a second, reads whether some process
has failed, and looks whether the beat of its neighbour (the next rank, in a ring) goes on. It needs no process group
and no collective: it also learns of a failure while this process waits in one, or has not joined its peers yet. The
first failure written is the cause that everyone names.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch.distributed as dist

BEAT_S = 1.0
SEARCH_S = 5.0  # silence that shows who is missing, once a collective has failed
GRACE_S = 10.0  # from learning of a failure to exiting by force
SILENCE_S = (
    120.0  # silence that shows it without one; some writers of large files stop all threads for that long
)
EXIT_WAIT_S = (
    3.0  # for the others to read what is in the store, before the process that wrote or keeps it leaves
)
CAUSE, BEAT, IDENTITY = "cause", "beat", "identity"
FAILURE_SEEN, FINISHED = "failure seen", "finished"  # instead of the number of a beat
LAUNCHER_IS_GONE = "the launcher or the first process is gone: the store they keep does not answer"
NEVER_CAME = "never came: it was not started, or is stuck before it could join the others"


@dataclass(frozen=True)
class Cause:
    """Why a run ends.

    Attributes:
        rank: the process that failed, or is missing.
        message: one line.
        code: exit code of every process.
    """

    rank: int
    message: str
    code: int


class Heartbeat:
    """This process's beats, and its eye on its neighbour's; `start` it once, `close` it when the run ended well."""

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        exit_by_force: Callable[[Cause], None],
        *,
        keeps_store: bool,
    ) -> None:
        """Announce this process.

        Args:
            store: a connection of its own to the store that all processes share.
            rank: of this process.
            world_size: number of processes.
            exit_by_force: called in the thread when this process still runs GRACE_S after a failure; ends it.
            keeps_store: whether the store dies with this process.
        """
        self.rank = rank
        self._store = dist.PrefixStore("scal3r_heartbeat", store)
        self._ranks = range(world_size)
        self._exit_by_force = exit_by_force
        self._keeps_store = keeps_store
        self._next = (rank + 1) % world_size
        self._next_beat, self._num_silent = "", 0
        self._num_beats = 0
        self._cause: Cause | None = None
        self._cause_is_known, self._lock = threading.Event(), threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._store.set(_key(IDENTITY, rank), f"process {os.getpid()} on {socket.gethostname()}")
        self._store.set(_key(BEAT, rank), "0")

    def start(self) -> None:
        """Begin to beat and to look."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and report that this process finished in order; the keeper of the store exits last."""
        self._stopped.set()
        self._thread.join()
        try:
            self._store.set(_key(BEAT, self.rank), FINISHED)
            if self._keeps_store:
                self._wait_for_all(FINISHED, [])
        except dist.DistError:
            return  # the store went first: nobody is there to report to

    def report(self, cause: Cause) -> Cause:
        """Write why this process fails; return the run's cause, which is another if some process was first.

        Returns once all processes have read it: the store may go when this process does.
        """
        try:
            answer = self._store.compare_set(CAUSE, "", json.dumps(asdict(cause)))
            self._note_cause(Cause(**json.loads(answer)))
            if self._cause == cause:
                self._wait_for_all(FAILURE_SEEN, [cause.rank, self.rank])
        except dist.DistError:
            self._note_cause(cause)
        assert self._cause is not None
        return self._cause

    def find_cause(self) -> Cause | None:
        """Return why a collective failed here: another's report, else a process that is silent for SEARCH_S.

        None when all processes are there and none has reported.
        """
        try:
            before = self._beats()
            if not self._cause_is_known.wait(SEARCH_S):
                pairs = enumerate(zip(before, self._beats(), strict=True))
                silent = [rank for rank, (first, last) in pairs if first == last and last.isdecimal()]
                absent = [rank for rank, beat in enumerate(before) if not beat]
                if silent:
                    self.report(self._missing(silent[0]))
                elif absent:
                    self.report(Cause(absent[0], NEVER_CAME, 1))
        except dist.DistError:
            self._note_cause(Cause(0, LAUNCHER_IS_GONE, 1))
        return self._cause

    def _note_cause(self, cause: Cause) -> None:
        """Note the run's cause; the first one stays."""
        with self._lock:
            self._cause = self._cause or cause
        self._cause_is_known.set()

    def _wait_for_all(self, state: str, others_than: list[int]) -> None:
        """Return when all processes, with exceptions, have come to `state` or finished, or after EXIT_WAIT_S."""
        deadline = time.monotonic() + EXIT_WAIT_S
        while time.monotonic() < deadline:
            beats = [beat for rank, beat in enumerate(self._beats()) if rank not in others_than]
            if all(beat in (state, FINISHED) for beat in beats):
                return
            time.sleep(BEAT_S / 10)

    def _beats(self) -> list[str]:
        """Return every process's beat; empty for one that has not come yet, for which the store would wait."""
        keys = [_key(BEAT, rank) for rank in self._ranks]
        if self._store.check(keys):
            return [beat.decode() for beat in self._store.multi_get(keys)]
        return [self._store.get(key).decode() if self._store.check([key]) else "" for key in keys]

    def _missing(self, rank: int) -> Cause:
        identity = self._store.get(_key(IDENTITY, rank)).decode()
        line = f"{identity} is gone without a word: killed from outside, often for lack of memory (`dmesg` tells)"
        return Cause(rank, line, 1)

    def _run(self) -> None:
        while not self._cause_is_known.is_set():
            if self._stopped.wait(BEAT_S):
                return
            try:
                self._beat()
            except dist.DistError:
                self._note_cause(Cause(0, LAUNCHER_IS_GONE, 1))
        assert self._cause is not None
        with suppress(dist.DistError):
            self._store.set(_key(BEAT, self.rank), FAILURE_SEEN)
        # The process now has to leave by itself; whatever it waits for will not come.
        if not self._stopped.wait(GRACE_S):
            self._exit_by_force(self._cause)

    def _beat(self) -> None:
        self._num_beats += 1
        self._store.set(_key(BEAT, self.rank), str(self._num_beats))
        if self._store.check([CAUSE]):
            self._note_cause(Cause(**json.loads(self._store.get(CAUSE))))
        elif self._store.check([_key(BEAT, self._next)]):  # it may not have started yet
            beat = self._store.get(_key(BEAT, self._next)).decode()
            # Counted in own beats, not by the clock: a suspended run must not wake up to accuse somebody.
            is_silent = beat == self._next_beat and beat != FINISHED
            self._next_beat, self._num_silent = beat, self._num_silent + 1 if is_silent else 0
            if self._num_silent * BEAT_S > SILENCE_S:
                self.report(self._missing(self._next))


def _key(kind: str, rank: int) -> str:
    return f"{kind}/{rank}"
