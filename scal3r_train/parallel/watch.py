"""Every process of a run watches the others, so that the failure of one is known to all within seconds.

A thread of each process writes a beat into the launcher's key-value store once a second, reads whether some process
has failed, and looks whether the beat of its neighbour (the next rank, in a ring) goes on. It needs no process group
and no collective: it also hears of a failure while this process waits in one, or has not joined its peers yet. The
first failure written is the cause that everyone names.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.distributed as dist

BEAT_S = 1.0
SEARCH_S = 5.0  # silence that tells who is missing, once a collective has failed
GRACE_S = 10.0  # from hearing of a failure to leaving by force
SILENCE_S = (
    120.0  # silence that tells it without one; some writers of large files stop all threads for that long
)
FAREWELL_S = 3.0  # how long the process that keeps the store waits for its readers
CAUSE, BEAT, IDENTITY = "cause", "beat", "identity"
LEFT = "left"
LAUNCHER_IS_GONE = "the launcher or the first process is gone: the store they keep does not answer"


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


class PeerWatch:
    """This process's watch over its peers; `start` it once, `close` it when the run ended well."""

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        leave: Callable[[Cause], None],
        *,
        keeps_store: bool,
    ) -> None:
        """Announce this process.

        Args:
            store: a connection of its own to the store that all processes share.
            rank: of this process.
            world_size: number of processes.
            leave: called in the watching thread when this process has not left GRACE_S after a failure; ends it.
            keeps_store: whether the store dies with this process.
        """
        self.rank = rank
        self._store = dist.PrefixStore("scal3r_watch", store)
        self._ranks = range(world_size)
        self._leave = leave
        self._keeps_store = keeps_store
        self._next = (rank + 1) % world_size
        self._next_beat, self._next_beat_at = "", time.monotonic()
        self._num_beats = 0
        self._cause: Cause | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peer watch", daemon=True)
        self._store.set(_key(IDENTITY, rank), f"process {os.getpid()} on {socket.gethostname()}")
        self._store.set(_key(BEAT, rank), "0")

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching and tell the peers that this process left in order."""
        self._stopped.set()
        self._thread.join()
        self.say_farewell()

    def say_farewell(self) -> None:
        """Mark this process as leaving; the process that keeps the store stays until the others read it."""
        try:
            self._store.set(_key(BEAT, self.rank), LEFT)
            deadline = time.monotonic() + FAREWELL_S
            while self._keeps_store and time.monotonic() < deadline:
                if all(beat == LEFT for beat in self._beats()):
                    return
                time.sleep(BEAT_S / 10)
        except dist.DistError:
            return  # the store went first: nobody is left to tell

    def report(self, cause: Cause) -> Cause:
        """Write why this process fails; return the run's cause, which is another if some process was first."""
        try:
            answer = self._store.compare_set(CAUSE, "", json.dumps(asdict(cause)))
        except dist.DistError:
            return cause
        self._cause = Cause(**json.loads(answer))
        return self._cause

    def find_cause(self) -> Cause | None:
        """Return why a collective failed here: another's report, else a process that is silent for SEARCH_S.

        None when all processes are there and none has reported.
        """
        try:
            before, deadline = self._beats(), time.monotonic() + SEARCH_S
            while time.monotonic() < deadline:
                if self._store.check([CAUSE]):
                    return self._read_cause()
                time.sleep(BEAT_S / 10)
            pairs = zip(before, self._beats(), strict=True)
            silent = [rank for rank, (first, last) in enumerate(pairs) if first == last != LEFT]
            return self.report(self._missing(silent[0])) if silent else None
        except dist.DistError:
            return Cause(0, LAUNCHER_IS_GONE, 1)

    def _beats(self) -> list[str]:
        beats = self._store.multi_get([_key(BEAT, rank) for rank in self._ranks])
        return [beat.decode() for beat in beats]

    def _read_cause(self) -> Cause:
        return Cause(**json.loads(self._store.get(CAUSE)))

    def _missing(self, rank: int) -> Cause:
        identity = self._store.get(_key(IDENTITY, rank)).decode()
        line = f"{identity} is gone without a word: killed from outside, often for lack of memory (`dmesg` tells)"
        return Cause(rank, line, 1)

    def _run(self) -> None:
        while self._cause is None:
            if self._stopped.wait(BEAT_S):
                return
            try:
                self._beat()
            except dist.DistError:
                self._cause = Cause(0, LAUNCHER_IS_GONE, 1)
        # The process now has to leave by itself; whatever it waits for will not come.
        if not self._stopped.wait(GRACE_S):
            self._leave(self._cause)

    def _beat(self) -> None:
        self._num_beats += 1
        self._store.set(_key(BEAT, self.rank), str(self._num_beats))
        if self._store.check([CAUSE]):
            self._cause = self._read_cause()
        elif self._store.check([_key(BEAT, self._next)]):  # it may not have started yet
            beat, now = self._store.get(_key(BEAT, self._next)).decode(), time.monotonic()
            if beat != self._next_beat or beat == LEFT:
                self._next_beat, self._next_beat_at = beat, now
            elif now - self._next_beat_at > SILENCE_S:
                self.report(self._missing(self._next))


def _key(kind: str, rank: int) -> str:
    return f"{kind}/{rank}"
