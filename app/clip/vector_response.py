"""Vectors as they are answered: numbers or base64 in JSON, or a NumPy file."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from app.clip.schemas import VectorOptions
from app.http.body import NPY
from app.http.errors import Fault
from models.clip import Embeddings

_DTYPES = {"float32": "<f4", "float16": "<f2"}


def json_answer(said: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """JSON; of a float32 it has as many digits as tell it from its neighbors."""
    content = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, headers=dict(headers), media_type="application/json")


def vector_answer(
    rows: Embeddings,
    options: VectorOptions,
    *,
    model: str,
    tokens: int,
    npy: bool,
    headers: Mapping[str, str],
    refused: Mapping[int, Fault] | None = None,
) -> Response:
    """Rows (N, D) of unit length, as the request wants them.

    Args:
        refused: the items that have no vector; their rows are NaN.
    """
    refused = refused or {}
    if options.dimensions is not None:
        rows = rows[:, : options.dimensions]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    numbers = rows.astype(_DTYPES[options.dtype])
    if npy:
        file = io.BytesIO()
        np.save(file, numbers, allow_pickle=False)
        if refused:
            headers = {**headers, "X-Refused-Items": ",".join(map(str, sorted(refused)[:1000]))}
        return Response(file.getvalue(), headers=dict(headers), media_type=NPY)
    data = [
        {"object": "embedding", "index": index, "embedding": None, "error": refused[index].model_dump()}
        if index in refused
        else {"object": "embedding", "index": index, "embedding": _written(row, options.encoding_format)}
        for index, row in enumerate(numbers)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "model": model, "data": data, "usage": usage}, headers)


def _written(row: NDArray[Any], encoding_format: str) -> str | NDArray[Any]:
    return base64.b64encode(row.tobytes()).decode() if encoding_format == "base64" else row
