"""The training of the VQGAN, on four pictures and a tiny network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from models.networks.vqgan import Ddconfig, VqganConfig
from models.networks.vqgan.vqgan_model import Vqgan
from models.weights_io.card import WEIGHTS
from training import vqgan
from training.data import textures
from training.data.batches import Album
from training.nets import loop, trunk

TINY = VqganConfig(
    embed_dim=8,
    n_embed=16,
    ddconfig=Ddconfig(
        z_channels=8, resolution=16, ch=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(8,)
    ),
)


def network(codes: int = 16) -> Vqgan:
    torch.manual_seed(0)
    return Vqgan(TINY.model_copy(update={"n_embed": codes}), "VQModel", channels_per_group=32)


def trainer(start: Vqgan, earlier: Vqgan | None = None) -> vqgan.Trainer:
    torch.manual_seed(0)
    looking = timm.create_model("tf_efficientnet_lite0").eval()
    return vqgan.Trainer(start, trunk.Likeness(looking), "cpu", "fp32", earlier)


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


def test_more_codes_reconstruct_better_and_those_there_were_stay(album: Album, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    trainer(network()).train(drawing(album, rng), tmp_path / "few", rng, steps=60)
    few = load_file(tmp_path / "few" / vqgan.WEIGHTS)
    earlier = network()
    earlier.read(few)
    images = vqgan.drawn(album, 16, 16, torch.Generator().manual_seed(1)) / 2 + 0.5
    with torch.inference_mode():
        codes = earlier.codes(images)
        painted = float((earlier.decode(earlier.lookup(codes)) - images).abs().mean())

    trainer(network(48), earlier).train(drawing(album, rng), tmp_path / "more", rng, steps=40)

    more = load_file(tmp_path / "more" / vqgan.WEIGHTS)
    assert torch.equal(more["quantize.embedding.weight"][:16], few["quantize.embedding.weight"])
    wide = network(48)
    wide.read(more)
    with torch.inference_mode():
        made = wide.decode(wide.encode(images))
        repainted = wide.decode(wide.lookup(codes))  # by who knows the first codes alone
    assert wide.codes(images).max() >= 16
    assert float((made - images).abs().mean()) < 0.9 * painted
    assert float((repainted - images).abs().mean()) < 1.05 * painted


def test_codes_that_stay_are_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = str(WEIGHTS / "vqgan" / vqgan.WEIGHTS)
    monkeypatch.setattr("sys.argv", ["vqgan", str(tmp_path), "--start", start, "--codes", "1024"])
    with pytest.raises(SystemExit):
        vqgan.main()
    assert "has 4096 codes, which stay" in capsys.readouterr().err


def test_a_discriminator_does_not_see_the_first_of_a_batch(album: Album, tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    batches: list[Tensor] = []
    seen: list[Tensor] = []

    def draw() -> Tensor:
        batches.append(vqgan.drawn(album, 4, 16, rng))
        return batches[-1]

    learner = trainer(network())
    learner.discriminator.register_forward_pre_hook(lambda module, images: seen.append(images[0].detach()))
    learner.train(draw, tmp_path, rng, steps=10, gan_from=0.5, unjudged=3)
    assert len(seen) == 5 * 3
    for batch, real in zip(batches[-5:], seen[1::3], strict=True):
        assert torch.equal(real, batch[3:])


def test_textures_have_the_spectrum_of_nature() -> None:
    rng = torch.Generator().manual_seed(0)
    found = textures.noise(64, 64, torch.ones(64), rng)
    power = torch.fft.rfft2(found).abs().pow(2).mean(0)
    assert float(power[0, 4] / power[0, 16]) == pytest.approx(16, rel=0.4)
    assert found.std((1, 2)).tolist() == pytest.approx([1] * 64)


def test_some_of_the_pictures_have_textures(album: Album) -> None:
    plain, worn = (
        vqgan.drawn(album, 8, 32, torch.Generator().manual_seed(0), photos=share) for share in (0, 0.5)
    )
    same = [torch.equal(one, other) for one, other in zip(plain, worn, strict=True)]
    assert same == [False] * 4 + [True] * 4
    assert worn.min() >= -1
    assert worn.max() <= 1


def test_a_missing_package_is_named() -> None:
    with pytest.raises(trunk.PackageNotInstalled, match=r"training/data/requirements\.txt"):
        trunk.packaged("not_a_package", "file")
