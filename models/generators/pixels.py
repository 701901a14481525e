"""Pixel art: a grid of square or hexagonal cells, moved until CLIP finds the prompt in it; needs no VQGAN."""

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from models.optimize.drawer import Drawer, DrawerInit
from models.requests import presets as known
from models.requests.generator import Generate, Profile
from models.requests.network_names import NetworkNames
from models.requests.options import DrawingOptions
from models.requests.prompts import check_prompts
from models.requests.request import GenerationRequest, InvalidRequest, Presets

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from models.networks.shared_networks import Networks


_BYTES_PER_PIXEL = 120.0
"""Peak memory of a step."""

_FINE = 0.2
"""Learning rate of single cells, as a share of the washes'."""


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """How the grid is drawn."""

    grid: Literal["rect", "hex"] = Field(
        "rect", description="rect: rectangles in rows; hex: hexagons, each row half a cell beside the last"
    )
    columns: int = Field(32, ge=2, le=512, description="cells from left to right")
    rows: int = Field(
        0, ge=0, le=512, description="cells from top to bottom; 0: as many as make each as high as it is wide"
    )


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """Cells of 8 pixels."""
    options = Options(
        cutouts=12,
        learning_rate=0.015,
        smoothness=5,
        contrast=0.3,
        **known.SKETCH,
    )
    plain = Profile(
        width=256, height=256, steps=80, size_multiple=1, options=options, bytes_per_pixel=_BYTES_PER_PIXEL
    )
    return known.apply(plain, presets)


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """The guides can read the prompts, and no cell is smaller than a pixel."""
    check_prompts(request, options, names)
    for option, side in (("columns", "width"), ("rows", "height")):
        cells, pixels = getattr(options, option), getattr(request, side)
        if cells > pixels:
            raise InvalidRequest(
                f"/options/{option}",
                "too_many_cells",
                f"{cells} {option} do not fit into a {side} of {pixels} pixels",
            )


def load(networks: "Networks") -> Generate:
    """Load the CLIPs that guide."""
    from models.optimize.objective import load_guided

    return load_guided(networks, Options, Grid)


class Grid(Drawer):
    """Cells of one color each, as a drawer: the sum of their own (cells, 3) and of some smooth washes.

    The washes are coarse grids, interpolated: a step changes large areas and single cells alike, as with the
    pyramids of Lucid, https://github.com/tensorflow/lucid. Without washes the result is noise.
    """

    def __init__(self, options: Options, init: DrawerInit) -> None:
        import torch

        rows = options.rows or _regular_rows(options, init.size)
        self._cells = {
            share: cells_of(options.grid, (rows, options.columns), init.size, share).to(init.device)
            for share in (0.5, 1.0)
        }
        self._number = 1 + int(self._cells[1.0].max())
        self._pixels = self._sums(torch.ones(*init.size, 1, device=init.device)).clamp(min=1)
        self._centers = self._centers_of(init.size, init.device)
        self._washes = _wash_sizes(rows, options.columns)
        self.rates = {"colors": _FINE}
        if init.start is not None:
            self.init_from(init.start)
        else:
            self._hold((0.8 + 0.1 * torch.rand(self._number, 3, generator=init.rng)).to(init.device))
        self._start = self._colors().detach()

    def render(self) -> "Tensor":
        from torch.nn.functional import embedding

        from models.runtime.autograd import clamp_to_range

        # embedding sums its gradients in a fixed order on all devices
        colored = embedding(self._cells[self.resolution], clamp_to_range(self._colors()))  # (H, W, 3)
        return colored.permute(2, 0, 1)[None]

    def init_from(self, image: "Tensor") -> None:
        self._hold(self._sums(image[0].permute(1, 2, 0)) / self._pixels)

    def from_start(self) -> "Tensor":
        return (self._colors() - self._start).pow(2).mean()

    def _colors(self) -> "Tensor":
        """Of each cell: (cells, 3)"""
        from torch.nn.functional import grid_sample

        colors = self.latents["colors"]
        for size in self._washes:
            wash = self.latents[f"wash {size[0]}x{size[1]}"]
            washed = grid_sample(wash, self._centers, padding_mode="border", align_corners=False)
            colors = colors + washed[0, :, 0].T
        return colors

    def _centers_of(self, size: tuple[int, int], device: "torch.device") -> "Tensor":
        """Where each cell's pixels are in the mean: (1, 1, cells, 2) in [-1, 1], right and down"""
        import torch

        down, right = ((torch.arange(side, device=device) * 2 + 1) / side - 1 for side in size)
        places = torch.stack(torch.meshgrid(right, down, indexing="xy"), -1)  # (H, W, 2)
        return (self._sums(places) / self._pixels)[None, None]

    def _sums(self, image: "Tensor") -> "Tensor":
        """Sums over each cell: (H, W, C) -> (cells, C)"""
        sums = image.new_zeros(self._number, image.shape[2])
        return sums.index_add_(0, self._cells[1.0].flatten(), image.flatten(0, 1))

    def _hold(self, colors: "Tensor") -> None:
        washes = {f"wash {rows}x{columns}": (rows, columns) for rows, columns in self._washes}
        self.hold(colors=colors, **{name: colors.new_zeros(1, 3, *size) for name, size in washes.items()})


def _wash_sizes(rows: int, columns: int) -> list[tuple[int, int]]:
    """Halves, quarters and so on of the grid, as long as two cells are left."""
    halves = range(1, max(1, min(rows, columns).bit_length() - 1))
    return [(rows >> half, columns >> half) for half in halves]


def _regular_rows(options: Options, size: tuple[int, int]) -> int:
    # rows of hexagons reach into one another
    pitch = size[1] / options.columns * (math.sqrt(0.75) if options.grid == "hex" else 1)
    return max(1, round(size[0] / pitch))


def cells_of(
    grid: Literal["rect", "hex"], cells: tuple[int, int], size: tuple[int, int], share: float = 1.0
) -> "Tensor":
    """Which cell each pixel belongs to: the one whose center is nearest to the pixel's.

    Args:
        cells: rows and columns; half hexagons at the edges come on top of them.
        size: (H, W) of the image.
        share: of that size, at which the same cells are shown.

    Returns:
        (share · H, share · W), long, from 0.
    """
    import torch

    rows, columns = cells
    height, width = (round(side * share) for side in size)
    # in widths and heights of a cell
    down = (torch.arange(height, dtype=torch.float64)[:, None] + 0.5) * rows / height
    right = (torch.arange(width, dtype=torch.float64)[None] + 0.5) * columns / width
    if grid == "rect":
        return down.long() * columns + right.long()
    # a hexagon is all that is nearer to its center than to others: of two rows, the nearer row's nearest one
    upper = (down - 0.5).floor()
    best = torch.full((height, width), torch.inf, dtype=torch.float64)
    index = torch.zeros(height, width, dtype=torch.long)
    for row in (upper, upper + 1):
        shift = 0.5 * (1 - row.remainder(2))  # centers of even rows lie half a cell to the right
        column = (right - shift).round()
        distance = (right - shift - column) ** 2 + 0.75 * (down - 0.5 - row) ** 2
        is_nearer = distance < best
        best = torch.where(is_nearer, distance, best)
        index = torch.where(is_nearer, ((row + 1) * (columns + 1) + column).long(), index)
    return index
