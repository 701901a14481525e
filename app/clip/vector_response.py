"""Vectors as answers: numbers or base64 in JSON, or a NumPy file."""

import base64
import io
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from fastapi import Response
from numpy.typing import NDArray

from app.clip.schemas import Embedding, EmbeddingsAnswer, EmbeddingsUsage, VectorOptions
from app.http.body import NPY, json_answer
from app.http.errors import Fault
from models.clip import Embeddings

_DTYPES = {"float32": "<f4", "float16": "<f2"}


def vector_answer(
    rows: Embeddings,
    options: VectorOptions,
    *,
    model: str,
    tokens: int,
    npy: bool,
    headers: Mapping[str, str] = MappingProxyType({}),
    refused: Mapping[int, Fault] = MappingProxyType({}),
) -> Response:
    """Rows (N, D) of unit length, in the form that the request asks for.

    Args:
        refused: the items that have no vector; their rows are NaN.
    """
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
    data: list[Embedding] = [
        {"object": "embedding", "index": index, "embedding": None, "error": refused[index]}
        if index in refused
        else {"object": "embedding", "index": index, "embedding": _encode(row, options.encoding_format)}
        for index, row in enumerate(numbers)
    ]
    usage = EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens)
    return json_answer(EmbeddingsAnswer.model_construct(model=model, data=data, usage=usage), headers)


def _encode(row: NDArray[Any], encoding_format: str) -> Any:
    return base64.b64encode(row.tobytes()).decode() if encoding_format == "base64" else row
