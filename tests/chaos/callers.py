"""Clients of a service that keeps dying: they ask until they have an answer, and remember what they heard."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from clipcanvas.client.event_stream import EventFeed
from tests.chaos.processes import Diary

CALL_S = 4.0
PAUSE_S = 0.15
FINAL = {"succeeded", "failed", "canceled", "expired"}


@dataclass
class Ticket:
    """One job that a client wants, and what it has heard of it."""

    name: str  # its Idempotency-Key
    template: int
    request: dict[str, Any]
    id: str | None = None  # from a 202
    asked: int = 0  # times the create was sent
    cancel_asked: bool = False
    last: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] | None = None
    heard: list[str] | None = None  # ids of the events of its stream, if somebody listens


class Callers:
    """Threads that create jobs, cancel some, listen to some, and watch all of them."""

    def __init__(
        self, url: str, templates: list[dict[str, Any]], dice: random.Random, diary: Diary, in_flight: int
    ) -> None:
        self.tickets: list[Ticket] = []
        self._templates, self._dice, self._diary, self._in_flight = templates, dice, diary, in_flight
        self._url = url
        self._lock = threading.Lock()
        self._no_more, self._leave = threading.Event(), threading.Event()
        works = (self._submit, self._submit, self._watch)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def wind_up(self) -> None:
        """Ask for nothing new; what was begun is asked until it is answered."""
        self._no_more.set()

    def unfinished(self) -> list[Ticket]:
        """What has no end yet as far as the clients know."""
        with self._lock:
            return [
                ticket
                for ticket in self.tickets
                if ticket.final is None or (ticket.heard is not None and ticket.heard[-1:] != ["end"])
            ]

    def leave(self) -> None:
        """End all threads."""
        self._no_more.set()
        self._leave.set()
        for thread in self._threads:
            thread.join(2 * CALL_S)

    def _submit(self) -> None:
        with httpx.Client(base_url=self._url, timeout=CALL_S, trust_env=False) as http:
            while not self._no_more.wait(0.02):
                with self._lock:
                    if sum(ticket.final is None for ticket in self.tickets) >= self._in_flight:
                        continue
                    ticket = self._new_ticket()
                    twice, cancel, listen = (self._dice.random() < share for share in (0.2, 0.1, 0.2))
                    cancel_after_s = self._dice.uniform(0, 2)
                if twice:
                    other = threading.Thread(target=self._create, args=(ticket,), daemon=True)
                    other.start()
                self._create(ticket, http)
                if listen:
                    ticket.heard = []
                    listener = threading.Thread(target=self._listen, args=(ticket,), daemon=True)
                    listener.start()
                    self._threads.append(listener)
                if cancel:
                    self._leave.wait(cancel_after_s)
                    ticket.cancel_asked = True
                    self._diary.say(f"{ticket.id} is to be canceled")
                    self._insist(http, "POST", f"/v1/jobs/{ticket.id}/cancel", {200, 202, 409})

    def _new_ticket(self) -> Ticket:
        number = len(self.tickets)
        template = self._dice.randrange(len(self._templates))
        name = f"chaos-{number}"
        priority = self._dice.choice(["high", "normal", "normal", "low"])
        ticket = Ticket(
            name,
            template,
            {**self._templates[template], "priority": priority, "metadata": {"chaos": name}},
        )
        self.tickets.append(ticket)
        return ticket

    def _create(self, ticket: Ticket, http: httpx.Client | None = None) -> None:
        client = http or httpx.Client(base_url=self._url, timeout=CALL_S, trust_env=False)
        try:
            answer = self._insist(
                client, "POST", "/v1/jobs", {202}, headers={"Idempotency-Key": ticket.name}, ticket=ticket
            )
        finally:
            if http is None:
                client.close()
        if answer is None:
            return
        job_id = answer.json()["id"]
        with self._lock:
            if ticket.id is None:
                ticket.id = job_id
                self._diary.say(f"{job_id} accepted as {ticket.name}", "jobs accepted")
            elif ticket.id != job_id:
                self._diary.blame(f"{ticket.name} was accepted twice: {ticket.id} and {job_id}")

    def _insist(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        answers: set[int],
        headers: dict[str, str] | None = None,
        ticket: Ticket | None = None,
    ) -> httpx.Response | None:
        """Ask until there is an answer; None if the driver ends first."""
        while not self._leave.is_set():
            try:
                if ticket:
                    ticket.asked += 1
                body = ticket.request if ticket else None
                answer = http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                self._diary.say(f"{method} {path}: {type(error).__name__}", "requests without an answer")
                self._leave.wait(PAUSE_S)
                continue
            if answer.status_code in answers:
                return answer
            if answer.status_code == 503:
                self._diary.say(f"{method} {path}: 503 {answer.text[:120]}", "requests answered 503")
                if "retry-after" not in answer.headers:
                    self._diary.blame(f"{method} {path}: a 503 without Retry-After")
            else:
                self._diary.blame(f"{method} {path} was answered {answer.status_code}: {answer.text[:300]}")
            self._leave.wait(PAUSE_S)
        return None

    def _watch(self) -> None:
        with httpx.Client(base_url=self._url, timeout=CALL_S, trust_env=False) as http:
            while not self._leave.wait(0.1):
                for ticket in [each for each in list(self.tickets) if each.id and each.final is None]:
                    answer = self._insist(http, "GET", f"/v1/jobs/{ticket.id}", {200})
                    if answer is None:
                        return
                    self._hear(ticket, answer.json())

    def _hear(self, ticket: Ticket, job: dict[str, Any]) -> None:
        if job["seq"] < ticket.last.get("seq", 0):
            self._diary.blame(f"{ticket.id} went back in time: {ticket.last} and then {job}")
        ticket.last = job
        if job["status"] in FINAL:
            ticket.final = job
            self._diary.say(f"{ticket.id} {job['status']}, attempt {job['attempt']}", f"jobs {job['status']}")

    def _listen(self, ticket: Ticket) -> None:
        """Follow the events of a job across every restart."""
        feed = EventFeed(self._url, None)
        with httpx.Client(base_url=self._url, timeout=CALL_S, trust_env=False) as http:
            while not feed.ended and not self._leave.is_set():
                try:
                    with http.stream(
                        "GET", f"/v1/jobs/{ticket.id}/events", headers=feed.headers()
                    ) as response:
                        if response.status_code != 200:
                            raise httpx.ReadError(f"status {response.status_code}")
                        for chunk in response.iter_bytes():
                            assert ticket.heard is not None
                            ticket.heard += [event.id for event in feed.read(chunk)]
                except httpx.TransportError:
                    self._diary.say(f"stream of {ticket.id} broke off", "event streams resumed")
                    self._leave.wait(PAUSE_S)
        assert ticket.heard is not None
        ticket.heard.append("end")


def wait_until(promise: Callable[[], bool], seconds: float) -> bool:
    """Whether it held within so long."""
    deadline_s = time.monotonic() + seconds
    while not promise():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.1)
    return True
