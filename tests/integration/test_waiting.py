"""A wait ends when it should, however many begin at once."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.integration.conftest import StartApi


def test_no_wait_is_forgotten(start_api: StartApi) -> None:
    api = start_api(images_wait_s=0.05, max_queued=1000, max_queued_per_key=1000)

    def ask(number: int) -> int:
        body = {"prompt": str(number), "model": "gradient"}
        return httpx.post(f"{api.url}/v1/images/generations", json=body, timeout=40).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(64))) == {202}
