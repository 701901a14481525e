"""The official OpenAI client works against `/v1/embeddings` as it is."""

import json
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from app.dependencies import new_key
from tests.support.live_api import LiveApi, StartApi


@pytest.fixture
def client(demo_api: LiveApi) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demo_api.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_it_gets_embeddings_in_its_default_encoding(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(input=["a photo of a cat.", "a photo of a rocket."], model="demo-photo")
    rows = np.array([entry.embedding for entry in answer.data])
    assert rows.shape[0] == 2
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert rows[0] @ rows[1] < 0.9
    assert answer.usage.prompt_tokens > 4


def test_floats_and_dimensions_agree_with_it(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(input="a cat", model="demo-photo").data[0].embedding
    floats = client.embeddings.create(input="a cat", model="demo-photo", encoding_format="float").data[0]
    assert floats.embedding == pytest.approx(packed, abs=1e-6)
    short = client.embeddings.create(input="a cat", model="demo-photo", dimensions=16).data[0].embedding
    head = np.array(packed[:16])
    assert short == pytest.approx(head / np.linalg.norm(head), abs=1e-5)


def test_its_errors_are_those_of_openai(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(input="a cat", model="text-embedding-3-small")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError):
        client.embeddings.create(input="", model="demo-photo")


def test_a_wrong_key_is_its_authentication_error(start_api: StartApi) -> None:
    key, entry = new_key("shop")
    api = start_api(api_keys=[json.loads(entry)]).ready()
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.embeddings.create(input="a cat", model="demo-photo")
        assert refused.value.response.headers["content-type"] == "application/problem+json"
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key=key, max_retries=0) as shop:
        assert shop.embeddings.create(input="a cat", model="demo-photo").data
