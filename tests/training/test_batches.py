"""What batches are made of."""

import torch

from training.data.batches import COLORS, Album, color_names, hues_turned, moved, over


def test_only_pictures_of_training_are_drawn(album: Album) -> None:
    drawn = album.draw(64, torch.Generator().manual_seed(0))
    assert {album.vendors[number] for number in drawn} == {"noto"}
    assert {album.captions[number].name for number in drawn} == {
        "red circle",
        "blue square",
        "green bar",
        "yellow triangle",
    }


def test_a_pictures_color_is_named(album: Album) -> None:
    images = album.read(list(range(4)))
    assert color_names(images) == [album.captions[number].name.split()[0] for number in range(4)]


def test_a_turned_hue_has_another_name_and_the_same_shape(album: Album) -> None:
    images = album.read([0])
    turned = hues_turned(images, torch.tensor([2 * torch.pi / 3]))
    assert color_names(turned) == ["green"]
    torch.testing.assert_close(turned[:, 3], images[:, 3])
    torch.testing.assert_close(hues_turned(images, torch.zeros(1)), images, atol=1e-6, rtol=0)


def test_colors_have_their_own_names() -> None:
    swatches = torch.tensor(list(COLORS.values()))[:, :, None, None].expand(-1, -1, 8, 8)
    assert color_names(torch.cat([swatches, torch.ones(len(COLORS), 1, 8, 8)], 1)) == list(COLORS)


def test_pictures_stay_pictures_when_moved_and_set_on_a_background(album: Album) -> None:
    rng = torch.Generator().manual_seed(0)
    images = moved(album.read([0, 1]), 32, rng, scales=(0.5, 1.5), turn=0.3, shift=0.1)
    shown = over(images, torch.ones(3, 1, 1))
    assert shown.shape == (2, 3, 32, 32)
    assert shown.min() >= 0
    assert shown.max() <= 1 + 1e-6
    assert color_names(images) == ["red", "blue"]
