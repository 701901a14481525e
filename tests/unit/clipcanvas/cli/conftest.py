"""What the tests of the command line share: a service that answers as the contract has it."""

import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.contract_server import DONE, JOB


class Service:
    """Answers what the commands ask, as the contract has it."""

    def __init__(self, final: dict[str, Any] = DONE) -> None:
        self.final = final
        self.asked: list[tuple[str, Any]] = []
        self.app = Starlette(
            routes=[
                Route("/v1/classify", self.classify, methods=["POST"]),
                Route("/v1/rank", self.rank, methods=["POST"]),
                Route("/v1/embeddings", self.embed, methods=["POST"]),
                Route("/v1/jobs", self.create, methods=["POST"]),
                Route("/v1/jobs", self.list),
                Route("/v1/jobs/job_1", self.show),
                Route("/v1/jobs/job_1/cancel", self.cancel, methods=["POST"]),
                Route("/v1/jobs/job_1/events", self.events),
                Route("/v1/jobs/job_1/outputs/{name}", self.output),
            ]
        )

    async def _read(self, request: Request) -> None:
        self.asked.append((request.url.path, await request.json()))

    async def classify(self, request: Request) -> Response:
        await self._read(request)
        labels = [
            {"label": "cat", "probability": 0.9, "similarity": 0.3},
            {"label": "dog", "probability": 0.1, "similarity": 0.2},
        ]
        return JSONResponse({"model": "demo", "data": [{"index": 0, "labels": labels}], "usage": {}})

    async def rank(self, request: Request) -> Response:
        await self._read(request)
        data = [{"index": 1, "similarity": 0.5}, {"index": 0, "similarity": 0.1}]
        return JSONResponse({"model": "demo", "data": data})

    async def embed(self, request: Request) -> Response:
        await self._read(request)
        return JSONResponse({"model": "demo", "data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": {}})

    async def create(self, request: Request) -> Response:
        await self._read(request)
        return JSONResponse(JOB, 202)

    async def list(self, request: Request) -> Response:
        return JSONResponse({"data": [DONE], "has_more": True, "last_id": "job_1"})

    async def show(self, request: Request) -> Response:
        return JSONResponse(self.final)

    async def cancel(self, request: Request) -> Response:
        self.asked.append((request.url.path, None))
        return JSONResponse(JOB | {"status": "running"}, 202)

    async def events(self, request: Request) -> Response:
        lines = [
            'id: 1-0\nevent: status\ndata: {"status": "running"}\n\n',
            'id: 2-0\nevent: progress\ndata: {"step": 2, "steps": 4, "loss": 0.75, "eta_s": 3}\n\n',
            'id: 3-0\nevent: preview\ndata: {"name": "preview-0.jpg", "url": "", "content_type": ""}\n\n',
            f"id: 4-0\nevent: completed\ndata: {json.dumps(self.final)}\n\n",
        ]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    async def output(self, request: Request) -> Response:
        return Response(f"bytes of {request.path_params['name']}".encode())
