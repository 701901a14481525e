"""Pen strokes or filled shapes on paper, moved until CLIP finds the prompt; as SVG, too; needs no VQGAN."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from models.optimize.drawer import Drawer, DrawerInit
from models.requests import presets as known
from models.requests.generator import Generate, Profile
from models.requests.network_names import NetworkNames
from models.requests.options import Color, DrawingOptions
from models.requests.prompts import check_prompts
from models.requests.request import Presets

if TYPE_CHECKING:
    from torch import Tensor

    from models.generators._rasterizer import Strokes
    from models.networks.shared_networks import Networks
    from models.optimize.motion import Motion

_BYTES_PER_PIXEL = 2400.0
"""Peak memory of a step, with the largest number of strokes."""

_REACH = 1.2
"""Largest distance of a point from the middle, in half images: strokes outside have no gradient."""

_FIT_STEPS = 50
_FIT_SIDE = 64


class Options(DrawingOptions, frozen=True, extra="forbid"):
    """What is drawn with, and on what."""

    stroke_kind: Literal["line", "curve", "shape"] = Field(
        "curve",
        description="line: straight; curve: cubic Bezier curves; shape: closed and filled curves",
    )
    strokes: int = Field(48, ge=1, le=512, description="how many there are")
    stroke_width: float = Field(
        0.03, gt=0, le=0.5, description="of the pen at first, in shorter sides of the image"
    )
    paper: Color = Field("#ffffff", description="color of the paper")


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """A pen's strokes on white."""
    options = Options(
        cutouts=10,
        learning_rate=0.04,
        contrast=0.1,
        whole=0.5,
        **known.SKETCH,
    )
    plain = Profile(
        width=224, height=224, steps=120, size_multiple=1, options=options, bytes_per_pixel=_BYTES_PER_PIXEL
    )
    return known.apply(plain, presets)


check = check_prompts


def load(networks: "Networks") -> Generate:
    """Load the CLIPs that guide."""
    from models.optimize.objective import load_guided

    return load_guided(networks, Options, StrokeDrawer)


class StrokeDrawer(Drawer):
    """Strokes, as a drawer: points (S, K, 2), widths (S), colors (S, 3), opacities (S) as in `Strokes`."""

    def __init__(self, options: Options, init: DrawerInit) -> None:
        import torch

        from models.generators._rasterizer import POINTS

        self._kind, self._paper_color = options.stroke_kind, options.paper
        paper = bytes.fromhex(options.paper[1:])
        self._paper = torch.tensor(list(paper), device=init.device).float().div(255)
        self._size = init.size
        self.rates = {"widths": 0.1, "opacities": 0.7}

        number, corners = options.strokes, POINTS[options.stroke_kind]
        middles = torch.rand(number, 1, 2, generator=init.rng) * 1.2 - 0.6
        if options.stroke_kind == "shape":
            turns = (torch.arange(corners) + torch.rand(number, 1, generator=init.rng)) / corners
            angles = turns * 2 * torch.pi
            offsets = 0.25 * torch.stack([angles.cos(), angles.sin()], -1)
        else:
            offsets = 0.2 * torch.randn(number, corners, 2, generator=init.rng).cumsum(1)
        # equal lengths in pixels, to the right and downwards
        narrow = torch.tensor([min(init.size) / init.size[1], min(init.size) / init.size[0]])
        self.hold(
            points=(middles + offsets * narrow).to(init.device),
            widths=torch.full([number], options.stroke_width, device=init.device),
            colors=torch.rand(number, 3, generator=init.rng).to(init.device),
            opacities=torch.full([number], 0.8, device=init.device),
        )
        with torch.no_grad():
            self.project()
        if init.start is not None:
            self.init_from(init.start)
        self._start = {name: self.latents[name].detach().clone() for name in ("points", "colors")}

    def render(self) -> "Tensor":
        height, width = (max(1, round(side * self.resolution)) for side in self._size)
        return self._rendered((height, width))

    def svg(self) -> str:
        from models.generators._rasterizer import svg_of

        return svg_of(self._strokes(), self._paper_color, self._size)

    def project(self) -> None:
        self.latents["points"].clamp_(-_REACH, _REACH)
        self.latents["widths"].clamp_(0.004, 0.5)
        self.latents["colors"].clamp_(0, 1)
        self.latents["opacities"].clamp_(0, 1)

    def init_from(self, image: "Tensor") -> None:
        """Strokes take the colors under them; then an optimizer fits all their tensors to a small copy."""
        import torch
        from torch.nn.functional import grid_sample, interpolate

        share = min(1, _FIT_SIDE / max(self._size))
        height, width = (max(1, round(side * share)) for side in self._size)
        small = interpolate(image.detach(), size=(height, width), mode="area")
        places = self.latents["points"].detach()[None]
        under = grid_sample(small, places, padding_mode="border", align_corners=False)  # (1, 3, S, K)
        self.hold(**{**self.latents, "colors": under[0].mean(2).T})
        groups = [
            {"params": [latents], "lr": 0.03 * self.rates.get(name, 1)}
            for name, latents in self.latents.items()
        ]
        optimizer = torch.optim.Adam(groups)
        for _ in range(_FIT_STEPS):
            with torch.enable_grad():
                difference = (self._rendered((height, width)) - small).square().mean()
            optimizer.zero_grad(set_to_none=True)
            difference.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
            with torch.no_grad():
                self.project()
        self.hold(**self.latents)

    def move(self, motion: "Motion") -> None:
        import torch

        matrix = motion.matrix(self._size[1] / self._size[0]).to(self._paper)  # (2, 3)
        points = self.latents["points"].detach() @ matrix[:, :2].T + matrix[:, 2]
        # strokes that leave the image are reflected at its edge
        middles = points.mean(1, keepdim=True)
        points = torch.where(middles.abs() > 1, 2 * middles.sign() - points, points)
        widths = self.latents["widths"].detach() * motion.zoom
        self.hold(**{**self.latents, "points": points, "widths": widths})
        with torch.no_grad():
            self.project()

    def from_start(self) -> "Tensor":
        import torch

        distances = [(self.latents[name] - start).square().flatten() for name, start in self._start.items()]
        return torch.cat(distances).mean()

    def _rendered(self, size: tuple[int, int]) -> "Tensor":
        from models.generators._rasterizer import rasterize

        return rasterize(self._strokes(), self._paper, size)

    def _strokes(self) -> "Strokes":
        from models.generators._rasterizer import Strokes

        return Strokes(self._kind, **self.latents)
