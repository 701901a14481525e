"""Drawings as jobs: a body checked into a job to queue, and the generators as the client sees them."""

import asyncio
import hashlib
import io
import re
from functools import cache
from typing import Any

from PIL import Image
from pydantic import ValidationError

from app.dependencies import Caller, Resources
from app.http.body import InvalidBody, check_limit, faults_of
from app.http.errors import Answer, HttpProblem
from app.http.image_input import Source, decode
from app.jobs.memory_check import check_memory
from app.jobs.schemas import DeliveryAnswer, GeneratorAnswer, JobRequest
from app.jobs.submit import Prepared, in_common
from app.settings import ApiSettings
from jobs.queue import NewJob, new_id
from jobs.record.outbox import Delivery, DeliveryMissing
from jobs.record.record import JobMissing, Output
from models.generators import UnknownGenerator, complete, describe, find, preset_changes
from models.requests.prompts import parse
from models.requests.request import GenerationRequest, InvalidRequest, Presets, Prompt, SaveOptions

JOB_ID = "^job_[0-9a-v]{26}$"


class JobIsFinal(HttpProblem):
    """The job has ended and cannot be canceled."""

    answer = Answer(409, "job_final", "The job is final")


class OutputMissing(HttpProblem):
    """The job has no file of that name."""

    answer = Answer(404, "output_not_found", "No such output")


async def accept(asked: JobRequest, caller: Caller, resources: Resources) -> Prepared:
    """Check a request whole, and that a worker has the memory for it.

    Raises:
        app.dependencies.QueueUnavailable, and what `prepare` and `app.jobs.memory_check.check_memory` raise.
    """
    loop = asyncio.get_running_loop()
    prepared = await loop.run_in_executor(resources.pool, prepare, asked, caller, resources.settings)
    assert isinstance(prepared.job.request, GenerationRequest)
    await resources.ask(check_memory, prepared.job.request, resources.settings, resources.queue)
    return prepared


def prepare(body: JobRequest, caller: Caller, settings: ApiSettings) -> Prepared:
    """Check a request whole, and give it an id. Decodes pictures, so it may take a second; touches nothing.

    Raises:
        app.http.body.InvalidBody, app.http.body.LimitExceeded, app.http.image_input.ImageRefused
        models.generators.UnknownGenerator
        app.dependencies.Forbidden, app.jobs.submit.WebhooksOff
    """
    fields = in_common(body, caller, settings)
    if body.generator not in settings.generators:
        served = ", ".join(settings.generators)
        raise UnknownGenerator(f"no generator {body.generator!r} is served; there are {served}")
    sources: dict[str, Source] = {}  # by names of their own, in place of the pictures
    prompts = _prompts(body, settings, sources)
    options = _options(body, sources)
    check_limit("#", len(sources), settings.max_images, "images in one request")
    request = _complete(body, prompts, options, settings)
    cost = request.width * request.height * request.steps * request.num_images
    check_limit("#/steps", cost, settings.max_pixel_steps, "pixels times steps times images")
    if request.save.video != "none":
        frames = -(-request.steps // request.save.frame_every) * request.num_images
        film = request.width * request.height * frames
        check_limit("#/save/frame_every", film, settings.max_film_pixels, "pixels times frames times images")
    job_id = new_id()
    # what is stretched to the drawing's size is worth as many pixels as that has
    side = max(settings.input_side, request.width, request.height)
    pictures = {name: _bounded(source, side, settings) for name, source in sources.items()}
    inputs = tuple(
        Output(name, f"{job_id}/{name}", "image/png", picture.width, picture.height)
        for name, picture in pictures.items()
    )
    return Prepared(
        job=NewJob(id=job_id, request=request, inputs=inputs, **fields),
        files={item.key: _png(pictures[item.name]) for item in inputs},
        fingerprint=hashlib.sha256(body.model_dump_json().encode()).hexdigest(),
    )


def view_generator(name: str, settings: ApiSettings) -> GeneratorAnswer:
    """A generator, with what it does where a request says nothing."""
    module = find(name)
    profile = module.profile(settings.network_names)
    options = profile.options.model_dump(mode="json")
    return GeneratorAnswer(
        name=name,
        description=describe(name),
        defaults={
            "width": profile.width,
            "height": profile.height,
            "steps": profile.steps,
            "num_images": 1,
            "options": options,
            "save": SaveOptions().model_dump(mode="json"),
        },
        presets=preset_changes(module, settings.network_names),
        limits={
            "size_multiple": profile.size_multiple,
            "max_prompts": settings.max_prompts,
            "max_pixel_steps": settings.max_pixel_steps,
            "max_film_pixels": settings.max_film_pixels,
        },
        model=profile.model,
        options=_with_defaults(module.Options.model_json_schema(), options),
    )


def _with_defaults(schema: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """A schema whose defaults are these, which depend on the networks that are loaded."""
    properties = {
        name: {**field, "default": options[name]} for name, field in schema.get("properties", {}).items()
    }
    return {**schema, "properties": properties}


def view_delivery(delivery: Delivery) -> DeliveryAnswer:
    """A webhook's delivery, as the client sees it."""
    return DeliveryAnswer(
        id=delivery.id,
        event=delivery.event,
        status=delivery.state,
        attempts=delivery.attempts,
        created_at=delivery.created_at,
        last_attempt_at=delivery.last_at,
        next_attempt_at=delivery.next_at,
        response_status=delivery.last_status,
        error=delivery.last_error,
    )


def check_delivery_id(text: str) -> str:
    """The id itself. Raises DeliveryMissing: no delivery can have it."""
    if not re.fullmatch("msg_[0-9a-v]{26}_[0-9]{1,12}", text):
        raise DeliveryMissing("the job has no delivery of that id")
    return text


def check_job_id(text: str) -> str:
    """The id itself. Raises JobMissing: no job can have it."""
    if not re.fullmatch(JOB_ID, text):
        raise JobMissing(text)
    return text


def _prompts(body: JobRequest, settings: ApiSettings, sources: dict[str, Source]) -> tuple[Prompt, ...]:
    """Those of the line, then those of the list."""
    line, listed = _line(body.prompt), body.prompts or []
    pointer = "#/prompts" if listed else "#/prompt"
    check_limit(pointer, len(line) + len(listed), settings.max_prompts, "prompts")
    named = (_with_names(prompt, f"#/prompts/{index}", sources) for index, prompt in enumerate(listed))
    return (*line, *named)


def _line(text: str | None) -> tuple[Prompt, ...]:
    if text is None:
        return ()
    try:
        return parse(text)
    except ValidationError as error:
        detail = "; ".join(fault.detail for fault in faults_of(error))
    except ValueError as error:
        detail = str(error)
    raise InvalidBody.at("#/prompt", "invalid_prompt", detail)


def _with_names(prompt: Prompt, pointer: str, sources: dict[str, Source]) -> Prompt:
    names = {
        kind: _named(sources, picture, f"{pointer}/{kind}")
        for kind, picture in (("image", prompt.image), ("target", prompt.target))
        if picture is not None
    }
    return prompt.model_copy(update=names)


def _options(body: JobRequest, sources: dict[str, Source]) -> dict[str, Any]:
    options = dict(body.options)
    for field in _image_options(body.generator):
        picture = options.get(field)
        if isinstance(picture, str):  # what is nothing of the sort, the generator's own schema refuses
            options[field] = _named(sources, picture, f"#/options/{field}")
    return options


@cache
def _image_options(generator: str) -> list[str]:
    """The options that take a picture: by their format, perhaps beside null."""
    return [
        name
        for name, kind in find(generator).Options.model_json_schema().get("properties", {}).items()
        if any(choice.get("format") == "image" for choice in (kind, *kind.get("anyOf", ())))
    ]


def _named(sources: dict[str, Source], picture: str, pointer: str) -> str:
    name = f"input-{len(sources)}.png"
    sources[name] = Source(picture, pointer)
    return name


def _complete(
    body: JobRequest, prompts: tuple[Prompt, ...], options: dict[str, Any], settings: ApiSettings
) -> GenerationRequest:
    try:
        return complete(
            settings.network_names,
            generator=body.generator,
            prompts=prompts,
            width=body.width,
            height=body.height,
            steps=body.steps,
            seed=body.seed,
            num_images=body.num_images,
            presets=Presets(quality=body.quality, aspect=body.aspect, compat=body.compat),
            options=options,
            save=body.save,
        )
    except ValidationError as error:
        at = "#" if error.title == GenerationRequest.__name__ else "#/options"
        raise InvalidBody(faults_of(error, at)) from None
    except InvalidRequest as error:
        pointer = _as_written(error.pointer, in_line=len(prompts) - len(body.prompts or ()))
        raise InvalidBody.at(pointer, error.code, str(error)) from None


def _as_written(pointer: str, *, in_line: int) -> str:
    """A place in a request as the place in the body that said it.

    Args:
        in_line: how many of the request's prompts came from the one-line form; they are the first.
    """
    match = re.fullmatch("/prompts/([0-9]+)(/.*)", pointer)
    if match is None:
        return f"#{pointer.removeprefix('/presets')}"  # which a body has at its top
    index = int(match[1]) - in_line
    return "#/prompt" if index < 0 else f"#/prompts/{index}{match[2]}"


def _bounded(source: Source, side: int, settings: ApiSettings) -> Image.Image:
    picture = decode(source, settings.image_limits)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _png(picture: Image.Image) -> bytes:
    # encoded anew from the pixels: nothing else of the client's file is kept
    file = io.BytesIO()
    clean = Image.new("RGB", picture.size)
    clean.paste(picture)
    clean.save(file, "PNG")
    return file.getvalue()
