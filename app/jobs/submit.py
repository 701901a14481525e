"""New jobs of every type: what their requests have in common, and how they get into the queue."""

import json
import re
from dataclasses import dataclass, replace
from typing import Annotated, Any

import structlog
from fastapi import Depends, Header, Response

from app.dependencies import Caller, Resources
from app.http.body import InvalidBody, check_limit
from app.http.errors import Answer, HttpProblem, MalformedHeader
from app.jobs.schemas import AnyJobRequest, WebhookRequest
from app.settings import ApiSettings
from jobs.job_response import view
from jobs.queue import Idempotency, IdempotencyConflict, NewJob, QueueFull, TenantQueueFull, draft
from jobs.record.record import JobMissing, Webhook
from storage.net.safe_http import AddressRefused, check_url, port_of

log = structlog.stdlib.get_logger(__name__)

IDEMPOTENCY_KEY = r'^"?([\x21\x23-\x7e]{1,255})"?$'
POLL_S = 1


class WebhooksOff(HttpProblem):
    """The service has no secret to sign webhooks with."""

    answer = Answer(422, "webhooks_not_configured", "Webhooks are not configured")


async def _repeat_key(
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="a request sent twice makes one job",
            json_schema_extra={"pattern": IDEMPOTENCY_KEY},
        ),
    ] = None,
) -> str | None:
    match = re.fullmatch(IDEMPOTENCY_KEY, key or "")
    if key is not None and match is None:
        raise MalformedHeader(
            "an Idempotency-Key is 1 to 255 visible ASCII characters, with or without quotes"
        )
    return match and match[1]


RepeatKey = Annotated[str | None, Depends(_repeat_key)]
"""The Idempotency-Key without its quotes. Raises MalformedHeader."""


@dataclass(frozen=True)
class Prepared:
    """A job to queue, and the files that it needs in the store first."""

    job: NewJob
    files: dict[str, bytes]  # by their keys in the store; those of an archive are there already
    fingerprint: str  # of all that the client said


def in_common(body: AnyJobRequest, caller: Caller, settings: ApiSettings) -> dict[str, Any]:
    """The fields of a `NewJob` that requests of every type say.

    Raises:
        app.dependencies.Forbidden: the priority is not this key's to ask for.
        app.http.body.InvalidBody, app.http.body.LimitExceeded
        WebhooksOff: none are sent here.
    """
    if body.priority == "high":
        caller.require("priority")
    check_limit("#/start_timeout_s", body.start_timeout_s or 0, int(settings.max_start_timeout_s), "seconds")
    check_limit("#/run_timeout_s", body.run_timeout_s or 0, int(settings.longest_run_s(body.type)), "seconds")
    return {
        "tenant": caller.name,
        "type": body.type,
        "priority": body.priority,
        "metadata": body.metadata,
        "webhook": _webhook(body.webhook, settings) if body.webhook else None,
        "start_timeout_s": body.start_timeout_s,
        "run_timeout_s": body.run_timeout_s,
    }


async def submit(
    prepared: Prepared,
    kind: str,
    idempotency_key: str | None,
    resources: Resources,
    *,
    anew_if_broken_off: bool = False,
) -> Response:
    """Keep the files, queue the job, and answer; or answer as the first time, if this is a repetition.

    Args:
        kind: the generator, or what else the metrics tell apart.
        anew_if_broken_off: make another job if that of the first time came to nothing, and may yet succeed.

    Raises:
        jobs.queue.QueueFull, jobs.queue.TenantQueueFull, jobs.queue.IdempotencyConflict
    """
    new = prepared.job
    answer = view(draft(new)).model_dump_json()
    repeat = None
    if idempotency_key is not None:
        repeat = Idempotency(idempotency_key, prepared.fingerprint, answer)
    earlier = await _create(prepared, repeat, resources)
    while anew_if_broken_off and repeat and earlier and await _broke_off(_id(earlier), new.tenant, resources):
        # whoever repeats it next comes the same way; no key of a client's has a blank
        repeat = replace(repeat, key=f"{repeat.key} {_id(earlier)}")
        earlier = await _create(prepared, repeat, resources)
    # after a lost answer from Redis the same create is asked again, and finds itself
    replayed = earlier is not None and _id(earlier) != new.id
    if replayed:
        resources.metrics.replays.inc()
    else:
        resources.metrics.jobs_submitted.labels(kind, new.priority).inc()
        log.info("job queued", job_id=new.id, kind=kind)
    text = earlier or answer
    headers = {"Location": f"/v1/jobs/{_id(text)}", "Retry-After": str(POLL_S)}
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(text, 202, headers, media_type="application/json")


async def _create(prepared: Prepared, repeat: Idempotency | None, resources: Resources) -> str | None:
    """Queue it -> None, or the answer that the same request was given first."""
    for key, data in prepared.files.items():
        await resources.keep(key, data)
    try:
        earlier = await resources.ask(resources.queue.create, prepared.job, repeat)
    except (QueueFull, TenantQueueFull, IdempotencyConflict):
        # after other errors nobody knows whether the job was made: the janitor finds files without one
        await resources.forget(prepared.job.id)
        raise
    if earlier is not None and _id(earlier) != prepared.job.id:
        await resources.forget(prepared.job.id)
    return earlier


async def _broke_off(job_id: str, tenant: str, resources: Resources) -> bool:
    try:
        job = await resources.ask(resources.queue.get, job_id, tenant)
    except JobMissing:  # deleted
        return True
    return job.error is not None and job.error.retryable


def _id(answer: str) -> str:
    return str(json.loads(answer)["id"])


def _webhook(asked: WebhookRequest, settings: ApiSettings) -> Webhook:
    if not settings.webhook_secrets:
        raise WebhooksOff("this service signs what it sends, and has no secret for it")
    try:
        url = check_url(asked.url, settings.webhook_rules)
    except AddressRefused as error:
        raise InvalidBody.at("#/webhook/url", "webhook_url_refused", str(error)) from None
    events = tuple(dict.fromkeys(asked.events))
    return Webhook(asked.url, events, f"{url.raw_host.decode()}:{port_of(url)}")
