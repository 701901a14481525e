"""The heartbeat of a worker: one thread shows the worker to others and renews the leases of its jobs."""

import json
import os
import socket
import threading
import time

import redis
import structlog

from jobs.record.lease import Lease, LeaseLost
from jobs.record.record import call
from workers.runner.pacing import Signals

log = structlog.get_logger(__name__)


class Heartbeat(threading.Thread):
    """Beats every `period_s` seconds until `stop`, and learns of cancels and lost leases.

    The thread goes on while the thread of a job hangs in a kernel: the attempt's hard limit bounds a hang.

    Args:
        connection: one that fails fast; the next beat follows a beat that failed.
        details: what others may know of the worker, such as its device.
    """

    def __init__(
        self, connection: redis.Redis, name: str, *, period_s: float, details: dict[str, str]
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._connection, self._worker, self._period_s = connection, name, period_s
        self._details = {**details, "host": socket.gethostname(), "pid": os.getpid()}
        self._state = "loading"
        self._since = time.time()
        self._held: dict[Lease, Signals] = {}
        self._changed = threading.Event()
        self._stopped = False
        self._lock = threading.Lock()

    def show(self, state: str, **details: str | int) -> None:
        """Show a state of the worker: loading, idle, busy or failed."""
        with self._lock:
            if state != self._state:
                self._since = time.time()
            self._state = state
            self._details.update(details)
        self._changed.set()

    def hold(self, lease: Lease, signals: Signals) -> None:
        """Renew this lease from now on. If it is lost, `signals.cancel` is set: nobody wants the result."""
        with self._lock:
            self._held[lease] = signals
        self._show_jobs()

    def release(self, lease: Lease) -> None:
        """Stop renewing the lease: the job has ended."""
        with self._lock:
            self._held.pop(lease, None)
        self._show_jobs()

    def _show_jobs(self) -> None:
        with self._lock:
            jobs = " ".join(lease.job_id for lease in self._held)
        self.show("busy" if jobs else "idle", job=jobs)

    def stop(self) -> None:
        """End the thread, and remove the worker from the list."""
        self._stopped = True
        self._changed.set()
        self.join(5)

    def run(self) -> None:
        while not self._stopped:
            try:
                self._beat()
            except redis.RedisError as error:
                log.warning("heartbeat failed", error=type(error).__name__)
            self._changed.wait(self._period_s)
            self._changed.clear()
        try:
            call(self._connection, "worker", name=self._worker)
        except redis.RedisError:
            return  # its entry expires

    def _beat(self) -> None:
        with self._lock:
            held = dict(self._held)
            details = {"state": self._state, "since": self._since, **self._details}
        call(
            self._connection,
            "worker",
            name=self._worker,
            details=json.dumps(details),
            ttl_ms=round(self._period_s * 5000),
        )
        for lease, signals in held.items():
            try:
                if lease.report():
                    signals.cancel.set()
            except LeaseLost:
                if lease in self._held:
                    log.warning("lease lost", job_id=lease.job_id)
                    signals.cancel.set()
