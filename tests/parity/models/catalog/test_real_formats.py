"""Checkpoints in the layouts of the wild come through `pull` or `convert`, draw and are served."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import XLMRobertaConfig

from models.catalog import download
from models.catalog.__main__ import main as catalog
from models.generators import complete, find
from models.networks.min_dalle import ENCODER, FILES
from models.networks.min_dalle import load as load_min_dalle
from models.networks.shared_networks import Networks
from models.networks.unclip import load as load_unclip
from models.networks.vqgan import load, read_card
from models.requests.generator import Drawing
from models.requests.network_names import NetworkNames
from models.requests.prompts import parse
from models.weights_io import WeightsCorrupt
from tests.support.images import plain
from tests.support.live_api import live_api
from tests.support.redis_server import RedisServer
from tests.support.weights import wild
from tests.support.weights.clip_families import FAMILIES, save_tokenizer
from tests.support.weights.server import WeightsServer, weights_server
from tests.support.weights.unclip_folders import write_unclip

pytestmark = pytest.mark.timeout(240)

Run = Callable[..., tuple[int, Any, str]]

CARD = """description = "A small VQGAN."
license = "MIT"
source = "a test"
kind = "{kind}"
config = "model.yaml"

[weights]
file = "tiny/model.safetensors"

[[downloads]]
url = "{url}"
{sha256}
[drawing]
width = 32
height = 32
steps = 2
"""


@pytest.fixture(scope="module")
def server() -> Iterator[WeightsServer]:
    with weights_server() as running:
        yield running


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


@pytest.fixture
def run(
    weights: Path, server: WeightsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """What `clipcanvas models …` runs: its exit status, its result, and its error."""
    # as HF_ENDPOINT, which the hub's client reads once, when it is imported
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)

    def call(*words: str, **settings: str) -> tuple[int, Any, str]:
        with monkeypatch.context() as environment:
            for name, value in settings.items():
                environment.setenv(name, value)
            code = catalog([f"--weights={weights}", *words])
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        return code, last.get("result"), last.get("error", "")

    return call


@pytest.fixture
def cli(weights: Path) -> Run:
    """`clipcanvas models …` as somebody types it: exit code, its JSON, and what it says on standard error."""
    environment = os.environ | {"CLIPCANVAS_WEIGHTS": str(weights)}

    def call(*words: str, **settings: str) -> tuple[int, Any, str]:
        command = [sys.executable, "-m", "clipcanvas", "models", *words, "--json"]
        ended = subprocess.run(
            command, env=environment | settings, capture_output=True, text=True, timeout=200
        )
        return ended.returncode, json.loads(ended.stdout) if ended.stdout else None, ended.stderr

    return call


def draws(vqgan: str, weights: Path) -> None:
    """The VQGAN draws a picture, guided by a small CLIP; its two steps differ."""
    wild.write_hub_folder(weights / "guide")
    names = NetworkNames(
        vqgan=vqgan, clips=(f"local-dir:{weights / 'guide'}",), weights=weights, device="cpu"
    )
    request = complete(
        names,
        generator="vqgan_clip",
        prompts=parse("a red heart"),
        width=32,
        height=32,
        steps=2,
        seed=1,
        options={"cutouts": 2, "start": "random", "learning_rate": 2.0},
    )
    steps = find("vqgan_clip").load(Networks(names))(Drawing(request, seed=1))
    first, second = ([step.render(), step.loss()] for step in islice(steps, 2))
    assert first[0].shape == (32, 32, 3)
    assert np.isfinite([first[1], second[1]]).all()
    assert not np.array_equal(first[0], second[0])


def serves(name: str, weights: Path, redis: RedisServer, tmp_path: Path) -> np.ndarray[Any, Any]:
    """The API answers with the CLIP; returns the embedding of a red picture."""
    store = (tmp_path / "store").as_uri()
    settings = {"clip_models": (name,), "weights": weights, "device": "cpu", "clip_dtype": "fp32"}
    with live_api(redis.url, store, None, **settings) as api:
        api.ready(120)
        picture = [("image", ("red.png", plain("red"), "image/png"))]
        labels = {"labels": ["a red square", "a blue car"]}
        answer = api.http.post("/v1/classify", files=picture, data=labels)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"][0]["labels"]) == 2
        answer = api.http.post("/v1/embeddings", files=picture)
        assert answer.status_code == 200, answer.text
        return np.array(answer.json()["data"][0]["embedding"])


def embedding_of(network: Any) -> np.ndarray[Any, Any]:
    """What open_clip itself makes of a red picture."""
    config = wild.PREPROCESSING
    picture = np.asarray(Image.new("RGB", (32, 32), "red"), np.float32) / 255
    pixels = (picture - np.array(config["mean"])) / np.array(config["std"])
    with torch.no_grad():
        row = network.encode_image(torch.from_numpy(pixels).float().permute(2, 0, 1)[None], normalize=True)
    return row[0].numpy()


@pytest.mark.parametrize("layout", ["lightning", "before torch 1.6", "net2net", "gumbel"])
def test_a_vqgan_is_pulled_over_a_bad_line_and_draws(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path, layout: str
) -> None:
    kind = "GumbelVQ" if layout == "gumbel" else "VQModel"
    state = wild.vqgan_state(kind)
    source = tmp_path / "last.ckpt"
    if layout == "net2net":
        wild.write_net2net(source, state)
    else:
        wild.write_lightning(source, state, legacy=layout == "before torch 1.6")
    content = source.read_bytes()
    server.put("/last.ckpt", content, breaks_after=[len(content) // 3])
    (weights / "tiny").mkdir()
    wild.write_taming_yaml(weights / "tiny/model.yaml", net2net=layout == "net2net", kind=kind)
    pinned = f'sha256 = "{hashlib.sha256(content).hexdigest()}"\n' if layout == "lightning" else ""
    card = CARD.format(url=f"{server.url}/last.ckpt", kind=kind, sha256=pinned)
    (weights / "tiny/vqgan.toml").write_text(card)
    server.asked.clear()

    code, report, said = run("pull", "tiny")
    assert code == 0, said
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    assert report["sha256_was_known"] == bool(pinned)
    assert server.bytes_sent_for("/last.ckpt") == [None, f"bytes={len(content) // 3}-"]
    assert {path.name for path in (weights / "tiny").iterdir()} == {
        *("model.safetensors", "SHA256SUMS", "model.yaml", "vqgan.toml")
    }
    loaded = load("tiny", weights).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in state.items())
    draws("tiny", weights)

    assert run("verify", "tiny")[1]["tiny"][0]["state"] == "ok"
    assert run("pull", "tiny")[1]["fetched"] is False
    (weights / "tiny/model.safetensors").write_bytes(b"something else")
    assert run("verify", "tiny")[1]["tiny"][0]["state"] == "corrupt"


def test_a_checkpoint_of_ones_own_becomes_a_card_that_draws(run: Run, weights: Path, tmp_path: Path) -> None:
    wild.write_lightning(tmp_path / "last.ckpt", wild.vqgan_state())
    wild.write_taming_yaml(tmp_path / "model.yaml")
    words = ("convert", str(tmp_path / "last.ckpt"), "mine", "--config", str(tmp_path / "model.yaml"))
    code, report, said = run(*words, "--dtype", "fp16")
    assert (code, report["kind"]) == (0, "VQModel"), said
    assert (read_card("mine", weights).config.n_embed, read_card("mine", weights).kind) == (64, "VQModel")
    assert "mine" in {item["name"] for item in run("list")[1] if item["here"]}
    draws("mine", weights)


def test_a_checkpoint_of_another_network_is_refused_and_leaves_nothing(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    source = str(tmp_path / "last.ckpt")
    wild.write_lightning(tmp_path / "last.ckpt", wild.vqgan_state())
    assert "64 codes of 16 numbers" in run("convert", source, "imagenet-f16-16384")[2]
    assert "a CLIP was expected" in run("convert", source, "ViT-B-32")[2]
    assert "--config" in run("convert", source, "new")[2]
    wild.write_taming_yaml(tmp_path / "model.yaml")
    text = (tmp_path / "model.yaml").read_text().replace("num_res_blocks: 1", "num_res_blocks: 2")
    (tmp_path / "model.yaml").write_text(text)
    said = run("convert", source, "new", "--config", str(tmp_path / "model.yaml"))[2]
    assert "68 tensors differ" in said
    assert list(weights.iterdir()) == []


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("was-here",)


def test_a_malicious_file_is_refused_by_the_name_of_what_it_calls(
    cli: Run, server: WeightsServer, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": wild.vqgan_state(), "callbacks": Hostile()}, tmp_path / "evil.ckpt")
    server.put("/evil.ckpt", (tmp_path / "evil.ckpt").read_bytes())
    code, _, said = cli("pull", "imagenet-f16-1024", "--url", f"{server.url}/evil.ckpt")
    assert code == 4
    assert "posix.mkdir" in said
    assert f"{server.url}/evil.ckpt" in said
    assert not (tmp_path / "was-here").exists()
    assert not any(weights.rglob("*.safetensors"))


def test_a_conversion_that_takes_too_much_is_ended(run: Run, weights: Path, tmp_path: Path) -> None:
    wild.write_taming_yaml(tmp_path / "model.yaml")
    torch.save(
        {"state_dict": {"a": torch.zeros(80_000_000)}},
        tmp_path / "large.ckpt",
        _use_new_zipfile_serialization=False,
    )
    words = ("convert", str(tmp_path / "large.ckpt"), "mine", "--config", str(tmp_path / "model.yaml"))
    code, _, said = run(*words, "--memory", str(2**27))
    assert code == 1
    assert "large.ckpt" in said
    assert "memory" in said or "GiB" in said
    assert list(weights.iterdir()) == []


def test_a_conversion_that_computes_too_long_is_ended_at_its_limit(
    cli: Run, weights: Path, tmp_path: Path
) -> None:
    wild.write_taming_yaml(tmp_path / "model.yaml")
    with (tmp_path / "endless.ckpt").open("wb") as endless:
        endless.truncate(2**36)  # takes no room on the disk, and half a minute to be read
    words = ("convert", str(tmp_path / "endless.ckpt"), "mine", "--config", str(tmp_path / "model.yaml"))
    code, _, said = cli(*words, "--seconds", "1")
    assert code == 4
    assert "endless.ckpt was not converted: it took more than 1 s" in said
    assert list(weights.iterdir()) == []


def test_a_conversion_that_hangs_as_it_writes_is_ended_by_the_clock_and_leaves_nothing(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    wild.write_taming_yaml(tmp_path / "model.yaml")
    state = wild.vqgan_state() | {"decoder.large": torch.zeros(40_000_000)}
    torch.save({"state_dict": state}, tmp_path / "large.ckpt")
    words = ("convert", str(tmp_path / "large.ckpt"), "mine", "--config", str(tmp_path / "model.yaml"))
    with ThreadPoolExecutor(1) as beside:
        stopped = beside.submit(stop_as_it_writes, weights / "mine", limit_s=30)
        code, _, said = run(*words, "--seconds", "6")
        assert stopped.result(), "it ended before it began to write, or had written all"
    assert code == 1
    assert "large.ckpt was not converted: it took more than 6 s" in said
    assert list(weights.iterdir()) == []


def stop_as_it_writes(folder: Path, limit_s: float) -> bool:
    """Stop the process that converts into a folder as it writes, as a disk that hangs does."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        for part in folder.glob(".convert-*/.model.safetensors-*"):
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
            [converting] = [pid for pid, command in commands.items() if str(folder) in command]
            os.kill(converting, signal.SIGSTOP)
            return part.is_file()  # not yet under the name of a whole one
        time.sleep(0.001)
    return False


@pytest.mark.parametrize("layout", ["OpenAI's archive", "open_clip's training", "safetensors"])
def test_a_clip_is_converted_and_served(
    run: Run, weights: Path, tmp_path: Path, redis_server: RedisServer, layout: str
) -> None:
    match layout:
        case "OpenAI's archive":
            source = tmp_path / "ViT.pt"
            network = wild.write_openai_archive(source)
        case "open_clip's training":
            source = tmp_path / "epoch_32.pt"
            network = wild.write_open_clip_training(source)
        case _:
            network = wild.write_hub_folder(tmp_path / "repository")
            source = tmp_path / "repository/open_clip_model.safetensors"
    wild.write_open_clip_config(tmp_path / "open_clip_config.json")
    code, report, said = run(
        "convert", str(source), "mine", "--config", str(tmp_path / "open_clip_config.json")
    )
    assert (code, report["kind"]) == (0, "CLIP"), said
    served = serves("mine", weights, redis_server, tmp_path)
    np.testing.assert_allclose(embedding_of(network), served, atol=1e-4)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin only"])
def test_a_clip_of_the_hub_is_pulled_and_served(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path, redis_server: RedisServer, pickled: bool
) -> None:
    repository = f"somebody/tiny-{pickled}"
    network = wild.write_hub_folder(tmp_path / "repository")
    config = (tmp_path / "repository/open_clip_config.json").read_bytes()
    server.put_on_hub(repository, "open_clip_config.json", config)
    if pickled:
        torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
        file = "open_clip_pytorch_model.bin"
        content = (tmp_path / file).read_bytes()
    else:
        file = "open_clip_model.safetensors"
        content = (tmp_path / "repository" / file).read_bytes()
    server.put_on_hub(repository, file, content, breaks_after=[len(content) // 2])
    name = f"hf-hub:{repository}"
    code, report, said = run("pull", name)
    assert code == 0, said
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    served = serves(name, weights, redis_server, tmp_path)
    np.testing.assert_allclose(embedding_of(network), served, atol=1e-4)


def test_a_pull_from_the_hub_that_broke_off_goes_on_with_the_next(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PAUSE_S", 0.01)
    repository, file = "somebody/breaks", "open_clip_model.safetensors"
    wild.write_hub_folder(tmp_path / "repository")
    config = (tmp_path / "repository/open_clip_config.json").read_bytes()
    content = (tmp_path / "repository" / file).read_bytes()
    half = len(content) // 2
    server.put_on_hub(repository, "open_clip_config.json", config)
    served = server.put_on_hub(repository, file, content, breaks_after=[half, *[0] * download.ATTEMPTS])
    name = f"hf-hub:{repository}"

    code, _, said = run("pull", name)
    assert code == 1
    assert "run it again, it goes on from there" in said
    assert not any(weights.rglob("*.safetensors")), "no part has the name of the whole"
    assert name not in {item["name"] for item in run("list")[1] if item["here"]}

    served.breaks_after.clear()
    server.asked.clear()
    code, report, said = run("pull", name)
    assert (code, report and report["fetched"]) == (0, True), said
    assert f"bytes={half}-" in [asked for _, _, asked in server.asked]
    assert report["sha256"] == hashlib.sha256(content).hexdigest()
    states = {Path(item["path"]).name: item["state"] for item in run("verify", name)[1][name]}
    assert states[file] == "ok"
    assert not any(weights.rglob(".pull")), "nothing of the first lies about"


def test_a_file_of_the_hub_that_is_not_what_the_hub_says_is_thrown_away(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path
) -> None:
    wild.write_hub_folder(tmp_path / "repository")
    for file in ("open_clip_config.json", "open_clip_model.safetensors"):
        served = server.put_on_hub("somebody/lies", file, (tmp_path / "repository" / file).read_bytes())
    server.files["/somebody/lies/resolve/main/open_clip_model.safetensors"] = type(served)(
        b"x" * len(served.content)
    )
    code, _, said = run("pull", "hf-hub:somebody/lies")
    assert code == 1
    assert "thrown away" in said
    assert not any(weights.rglob("*.safetensors"))


def test_a_clip_with_another_tokenizer_brings_it_along(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path, redis_server: RedisServer
) -> None:
    """As SigLIP, whose tokenizer is in the repository of its weights."""
    folder = tmp_path / "repository"
    wild.write_hub_folder(folder, json.loads(json.dumps(FAMILIES["siglip-style"])))
    save_tokenizer(folder)
    for path in folder.iterdir():
        server.put_on_hub("somebody/siglip", path.name, path.read_bytes())
    code, _, said = run("pull", "hf-hub:somebody/siglip")
    assert code == 0, said
    assert serves("hf-hub:somebody/siglip", weights, redis_server, tmp_path).shape == (96,)


@pytest.mark.parametrize("how", ["pulled", "pulled, bin only", "converted"])
def test_a_clip_of_many_languages_comes_with_its_text_tower(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path, redis_server: RedisServer, how: str
) -> None:
    """As xlm-roberta-base-ViT-B-32: transformers build its tower by another repository's configuration."""
    folder, tower = tmp_path / "repository", tmp_path / "tower"
    tower.mkdir()
    save_tokenizer(tower)
    XLMRobertaConfig(
        vocab_size=11,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        pad_token_id=0,
    ).save_pretrained(tower)
    text = {"hf_model_name": str(tower), "hf_model_pretrained": False, "hf_pooler_type": "mean_pooler"}
    network = wild.write_hub_folder(folder, wild.CLIP | {"custom_text": True, "text_cfg": text})
    text = {
        "hf_model_name": "somebody/tower",
        "hf_tokenizer_name": "somebody/tower",
        "hf_pooler_type": "mean_pooler",
        "context_length": 16,
    }
    wild.write_open_clip_config(folder / "open_clip_config.json", wild.CLIP | {"text_cfg": text})
    repository = f"somebody/many-{how.split()[-1]}"
    if how == "pulled, bin only":
        (folder / "open_clip_model.safetensors").unlink()
        torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    for path in folder.iterdir():
        server.put_on_hub(repository, path.name, path.read_bytes())
    for path in tower.iterdir():
        server.put_on_hub("somebody/tower", path.name, path.read_bytes())
    name = f"hf-hub:{repository}"
    words = ["pull", name]
    if how == "converted":
        name = "mine"
        wild.write_open_clip_config(tower / "open_clip_config.json", wild.CLIP | {"text_cfg": text})
        words = ["convert", str(folder / "open_clip_model.safetensors"), name]
        words += ["--config", str(tower / "open_clip_config.json")]
    code, _, said = run(*words)
    assert code == 0, said
    served = serves(name, weights, redis_server, tmp_path)
    np.testing.assert_allclose(embedding_of(network), served, atol=1e-4)


def test_a_min_dalle_is_pulled_file_by_file_over_a_bad_line(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path
) -> None:
    wild.write_min_dalle(tmp_path / "repository", "_mini")
    for path in (tmp_path / "repository").iterdir():
        content = path.read_bytes()
        breaks = [len(content) // 2] if path.suffix == ".pt" else []
        server.put_on_hub("somebody/min-dalle", path.name, content, breaks_after=breaks)
    wild.write_min_dalle_card(weights, suffix="_mini", downloads='[[downloads]]\nhub = "somebody/min-dalle"')
    whole = server.files.pop("/somebody/min-dalle/resolve/main/detoker.pt")
    assert "detoker.pt is not there" in run("pull", "tiny")[2]
    assert [item["here"] for item in run("list")[1] if item["name"] == "tiny"] == [False]
    server.files["/somebody/min-dalle/resolve/main/detoker.pt"] = whole
    server.asked.clear()
    code, report, said = run("pull", "tiny")
    assert (code, report["kind"]) == (0, "min-dalle"), said
    fetched = {path.rpartition("/")[2] for method, path, _ in server.asked if method == "GET"}
    assert fetched == {"detoker.pt"}, "what is here is not fetched again"
    assert {path.name for path in (weights / "tiny").iterdir()} == {*FILES, "SHA256SUMS", "min-dalle.toml"}
    assert {file["state"] for file in run("verify", "tiny")[1]["tiny"]} == {"ok"}
    assert load_min_dalle("tiny", weights).condition_on_texts(["a red heart"], [1], 16).mix.tolist() == [
        -15,
        16,
    ]
    assert run("pull", "tiny")[1]["fetched"] is False
    (weights / "tiny/encoder.safetensors").write_bytes(b"something else")
    states = {Path(file["path"]).name: file["state"] for file in run("verify", "tiny")[1]["tiny"]}
    assert [name for name, state in states.items() if state != "ok"] == [ENCODER]
    assert states[ENCODER] == "corrupt"
    with pytest.raises(WeightsCorrupt, match=r"encoder\.safetensors"):
        load_min_dalle("tiny", weights)


def test_a_min_dalle_is_made_of_the_folders_that_min_dalle_keeps(
    run: Run, weights: Path, tmp_path: Path
) -> None:
    wild.write_min_dalle(tmp_path / "dalle_bart_mini")
    (tmp_path / "vqgan").mkdir()
    (tmp_path / "dalle_bart_mini/detoker.pt").rename(tmp_path / "vqgan/detoker.pt")
    wild.write_min_dalle_card(weights)
    code, report, said = run("convert", str(tmp_path / "dalle_bart_mini"), "tiny")
    assert (code, report) == (0, {"kind": "min-dalle"}), said
    assert run("show", "tiny")[1]["here"]


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("absent", "is no folder with encoder.pt"),
        ("swapped", "is a DalleBartDecoder, and a DalleBartEncoder was expected"),
        ("pickle", "posix.mkdir"),
        ("vocabulary", "does not number tokens from 0 to 59"),
        ("merges", "is not of pairs"),
        ("other", "tensors differ: embed_positions.weight is [16, 32], expected [64, 1024]"),
        ("own config", "a file is expected"),
        ("clip", "is made of one file"),
    ],
)
def test_what_is_no_such_min_dalle_is_refused(
    run: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, name, words = tmp_path / "repository", "tiny", []
    wild.write_min_dalle(folder)
    wild.write_min_dalle_card(weights)
    match spoiled:
        case "absent":
            (folder / "encoder.pt").unlink()
        case "swapped":
            (folder / "decoder.pt").replace(folder / "encoder.pt")
            wild.write_min_dalle(tmp_path / "again")
            (tmp_path / "again/decoder.pt").replace(folder / "decoder.pt")
        case "pickle":
            torch.save({"layers.0.glu.fc0.weight": torch.zeros(1), "x": Hostile()}, folder / "encoder.pt")
        case "vocabulary":
            (folder / "vocab.json").write_text('{"<s>": 0, "</s>": 2, "<unk>": 60}')
        case "merges":
            (folder / "merges.txt").write_text("#version\na b c\n")
        case "other":
            name = "min-dalle-mini"
        case "own config":
            wild.write_taming_yaml(tmp_path / "model.yaml")
            name, words = "new", ["--config", str(tmp_path / "model.yaml")]
        case "clip":
            name = "ViT-B-32"
    code, _, error = run("convert", str(folder), name, *words)
    assert (code, said in error) == (1, True), error
    assert not (tmp_path / "was-here").exists()
    assert not any(weights.rglob("encoder.safetensors"))
    assert "clipcanvas models convert" in run("pull", "tiny", "--url", "https://example.com/encoder.pt")[2]


def test_an_unclip_is_pulled_file_by_file_over_a_bad_line(
    run: Run, server: WeightsServer, weights: Path, tmp_path: Path
) -> None:
    write_unclip(tmp_path / "karlo", "text")
    for path in (tmp_path / "karlo").rglob("*.*"):
        content, file = path.read_bytes(), str(path.relative_to(tmp_path / "karlo"))
        breaks = [len(content) // 2] if path.suffix == ".safetensors" else []
        server.put_on_hub("somebody/karlo", file, content, breaks_after=breaks)
    card = (tmp_path / "karlo/unclip.toml").read_text()
    (weights / "tiny").mkdir()
    (weights / "tiny/unclip.toml").write_text(f'{card}\n[[downloads]]\nhub = "somebody/karlo"\n')
    decoder = "decoder/diffusion_pytorch_model.safetensors"
    whole = server.files.pop(f"/somebody/karlo/resolve/main/{decoder}")
    server.put_on_hub("somebody/karlo", decoder.replace("safetensors", "bin"), b"a pickle")
    assert f"{decoder} is not there" in run("pull", "tiny")[2]
    assert run("show", "tiny")[1]["here"] is False
    server.files[f"/somebody/karlo/resolve/main/{decoder}"] = whole
    server.asked.clear()
    code, report, said = run("pull", "tiny")
    assert (code, report["kind"]) == (0, "unclip"), said
    fetched = {path.rpartition("/main/")[2] for method, path, _ in server.asked if method == "GET"}
    assert "prior/config.json" not in fetched, "what is here is not fetched again"
    assert not list(weights.rglob("*.bin"))
    assert {file["state"] for file in run("verify", "tiny")[1]["tiny"]} == {"ok"}
    assert load_unclip(["tiny"], weights)
    assert run("pull", "tiny")[1]["fetched"] is False
    (weights / "tiny" / decoder).write_bytes(b"something else")
    with pytest.raises(WeightsCorrupt, match="decoder"):
        load_unclip(["tiny"], weights)


def test_an_unclip_is_copied_out_of_a_folder(run: Run, weights: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "karlo", weights / "tiny"):
        write_unclip(place, "image")
    for folder in (weights / "tiny").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    (weights / "tiny/model_index.json").unlink()
    text_encoder = tmp_path / "karlo/text_encoder/model.safetensors"
    content = text_encoder.read_bytes()
    text_encoder.write_bytes(b"a pickle")
    assert "cannot be read as safetensors" in run("convert", str(tmp_path / "karlo"), "tiny")[2]
    text_encoder.unlink()
    assert (
        "is no folder with text_encoder/model.safetensors"
        in run("convert", str(tmp_path / "karlo"), "tiny")[2]
    )
    assert run("show", "tiny")[1]["here"] is False
    text_encoder.write_bytes(content)
    code, report, said = run("convert", str(tmp_path / "karlo"), "tiny")
    assert (code, report) == (0, {"kind": "unclip"}), said
    assert run("show", "tiny")[1]["here"]
    assert load_unclip(["tiny"], weights)
    assert "is made of a folder" in run("convert", str(text_encoder), "tiny")[2]
    assert "clipcanvas models convert" in run("pull", "karlo-v1-alpha", "--url", "https://example.com/x")[2]


def test_offline_nothing_is_fetched_and_demo_models_come_along(
    cli: Run, run: Run, server: WeightsServer, weights: Path
) -> None:
    server.asked.clear()
    code, _, said = cli("pull", "ViT-B-32", CLIPCANVAS_OFFLINE="1")
    assert (code, "CLIPCANVAS_OFFLINE" in said) == (3, True)
    assert run("pull", "ViT-B-32", HF_HUB_OFFLINE="1")[0] == 1
    assert server.asked == []
    code, _, said = cli("pull", "demo", "demo-icons", CLIPCANVAS_OFFLINE="1")
    assert code == 0, said
    code, found, _ = cli("verify")
    assert (code, set(found)) == (0, {"demo", "demo-icons"})
    (weights / "vqgan/model.safetensors").write_bytes(b"something else")
    assert cli("verify", "demo")[0] == 1


def test_a_model_that_no_place_has_says_what_else_there_is(cli: Run) -> None:
    code, _, said = cli("pull", "faceshq")
    assert code == 3
    assert "--url" in said
    assert "clipcanvas models convert" in said
    assert cli("pull", "nothing-like-it")[0] == 2
