"""The training of the VQGAN, on four pictures and a tiny network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.vqgan import Ddconfig, VqganConfig
from models.vqgan.network import Vqgan
from training import loop, trunk, vqgan
from training.batches import Album

TINY = VqganConfig(
    embed_dim=8,
    n_embed=16,
    ddconfig=Ddconfig(
        z_channels=8, resolution=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(8,)
    ),
)


def network() -> Vqgan:
    torch.manual_seed(0)
    return Vqgan(TINY, "VQModel", channels_per_group=32)


def trainer(start: Vqgan) -> vqgan.Trainer:
    torch.manual_seed(0)
    looking = timm.create_model("tf_efficientnet_lite0").eval()
    return vqgan.Trainer(start, trunk.Likeness(looking), "cpu", "fp32")


def drawing(album: Album, rng: torch.Generator) -> Callable[[], Tensor]:
    return lambda: vqgan.drawn(album, 4, 16, rng)


def error(tensors: dict[str, Tensor], images: Tensor) -> float:
    """Mean error of reconstructions, as the service makes them."""
    chosen = network()
    chosen.read(tensors)
    with torch.inference_mode():
        return float((chosen.decode(chosen.encode(images)) - images).abs().mean())


def test_it_learns_to_reconstruct(album: Album, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    start = network()
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    trainer(start).train(drawing(album, rng), tmp_path, rng, steps=60, gan_from=0.8)
    images = vqgan.drawn(album, 8, 16, torch.Generator().manual_seed(1)) / 2 + 0.5
    after = load_file(tmp_path / vqgan.WEIGHTS)
    assert error(after, images) < 0.8 * error(before, images)
    log = (tmp_path / loop.LOG).read_text().splitlines()
    assert log[0].startswith("step,l1,l2,")
    assert log[0].endswith("critic")
    assert len(log) == 3  # 25 and 50


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SAVE_EVERY", 4)

    def run(folder: Path, dies_at: int | None = None) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(0)
        draw, drawn = drawing(album, rng), 0

        def dying() -> Tensor:
            nonlocal drawn
            drawn += 1
            if drawn == dies_at:
                raise KeyboardInterrupt
            return draw()

        trainer(network()).train(dying, folder, rng, steps=10, gan_from=0.3)
        return load_file(folder / vqgan.WEIGHTS)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", dies_at=vqgan._BANK + 7)
    assert not (tmp_path / "broken" / vqgan.WEIGHTS).exists()
    resumed = run(tmp_path / "broken")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_decoder_alone_can_learn(album: Album, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    start = network()
    before = {name: tensor.clone().half() for name, tensor in start.state_dict().items()}
    trainer(start).train(drawing(album, rng), tmp_path, rng, steps=6, has_codes=True, keep_codes=True)
    after = load_file(tmp_path / vqgan.WEIGHTS)
    changed = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "post_quant_conv"}


def test_a_missing_package_is_named() -> None:
    with pytest.raises(trunk.PackageNotInstalled, match=r"training/requirements\.txt"):
        trunk.packaged("not_a_package", "file")
