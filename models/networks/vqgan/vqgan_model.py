"""The VQGAN: pictures to codes of a codebook and back, built of taming-transformers' own modules.

Esser, Rombach and Ommer, Taming Transformers for High-Resolution Image Synthesis, https://arxiv.org/abs/2012.09841
"""

import contextlib
import io
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from taming.modules.diffusionmodules.model import Decoder, Encoder
from taming.modules.vqvae.quantize import GumbelQuantize, VectorQuantizer2
from torch import Tensor, nn

from models.networks.vqgan import VqganConfig
from models.networks.vqgan.decoder import decode, prepare
from models.weights_io import differences


class WeightsMismatch(ValueError):
    """A checkpoint has not the tensors that the config asks for."""


class EncoderMissing(RuntimeError):
    """A checkpoint is of the decoder only."""


class Vqgan(nn.Module):
    """A frozen VQGAN.

    Attributes:
        codebook: (n_embed, D)
        low, high: (1, D, 1, 1), the codebook's range per channel
        factor: pixels along the side of one code
    """

    def __init__(
        self, config: VqganConfig, kind: Literal["VQModel", "GumbelVQ"], channels_per_group: int | None = None
    ) -> None:
        super().__init__()
        self.factor = config.factor
        channels, dimension = config.ddconfig.z_channels, config.embed_dim
        with contextlib.redirect_stdout(io.StringIO()):  # taming's decoder prints its size
            self.encoder: nn.Module | None = Encoder(**config.ddconfig.model_dump())
            self.decoder = Decoder(**config.ddconfig.model_dump())
        self.quant_conv: nn.Module | None = nn.Conv2d(channels, dimension, 1)
        self.post_quant_conv = nn.Conv2d(dimension, channels, 1)
        self.quantize: nn.Module
        if kind == "GumbelVQ":
            self.quantize = GumbelQuantize(dimension, dimension, config.n_embed)
        else:
            self.quantize = VectorQuantizer2(config.n_embed, dimension, beta=0.25)
        if channels_per_group is not None:
            for module in self.modules():
                if isinstance(module, nn.GroupNorm):
                    module.num_groups = max(1, module.num_channels // channels_per_group)
        self.eval().requires_grad_(False)
        self.register_buffer("half_norms", torch.empty(config.n_embed), persistent=False)
        self.half_norms: Tensor
        self._measure()

    def read(self, weights: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's tensors, as fp32. Those of the training loss are passed over.

        A checkpoint without any of the encoder's can draw, but not start from a picture.

        Raises:
            WeightsMismatch: a tensor is missing, unexpected or of another shape.
        """
        tensors = {key: value.float() for key, value in weights.items() if not key.startswith("loss.")}
        if not any(key.startswith("encoder.") for key in tensors):
            self.encoder = self.quant_conv = None
        if problems := differences(tensors, self.state_dict()):
            raise WeightsMismatch(problems)
        self.load_state_dict(tensors)
        self._measure()

    @property
    def codebook(self) -> Tensor:
        """(n_embed, D)"""
        table = self.quantize.embed if isinstance(self.quantize, GumbelQuantize) else self.quantize.embedding
        assert isinstance(table, nn.Embedding)
        return table.weight

    @property
    def low(self) -> Tensor:
        """The least value of each channel: (1, D, 1, 1)"""
        return self.codebook.amin(0)[None, :, None, None]

    @property
    def high(self) -> Tensor:
        """The greatest value of each channel: (1, D, 1, 1)"""
        return self.codebook.amax(0)[None, :, None, None]

    def encode(self, images: Tensor) -> Tensor:
        """Pictures to the latents of their codes: (N, 3, H, W) in [0, 1] -> (N, D, h, w)

        Raises:
            EncoderMissing: the checkpoint was of the decoder only.
        """
        return self.lookup(self.codes(images))

    def codes(self, images: Tensor, first: int | None = None) -> Tensor:
        """Pictures to codes: (N, 3, H, W) in [0, 1] -> (N, h, w)

        Args:
            first: so many of the codebook's codes are to be had; none: all.

        Raises:
            EncoderMissing: the checkpoint was of the decoder only.
        """
        if self.encoder is None or self.quant_conv is None:
            raise EncoderMissing("this VQGAN's weights have no encoder: it cannot start from a picture")
        latents = self.quant_conv(self.encoder(images * 2 - 1))
        if isinstance(self.quantize, GumbelQuantize):
            # the likeliest code; the noise that training adds is of no use here
            chances: Tensor = self.quantize.proj(latents)[:, :first]
            return chances.argmax(1)
        return self.nearest(latents, first)

    def nearest(self, latents: Tensor, first: int | None = None) -> Tensor:
        """The codes that are nearest to latents: (N, D, h, w) -> (N, h, w)

        argmin |x - c|² = argmax x·c - |c|²/2; in fp32, because coarser numbers flip ties.
        """
        rows = latents.float().permute(0, 2, 3, 1)
        with torch.autocast(rows.device.type, enabled=False):
            return (rows @ self.codebook[:first].float().T - self.half_norms[:first]).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The latents of codes: (N, h, w) -> (N, D, h, w)"""
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def quantized(self, latents: Tensor) -> Tensor:
        """The latents of the nearest codes: (N, D, h, w) -> (N, D, h, w)"""
        return self.lookup(self.nearest(latents))

    def decode(self, latents: Tensor, *, seamless: bool = False, low_memory: bool = False) -> Tensor:
        """Latents to pictures, not clamped: (N, D, h, w) -> (N, 3, H, W), about [0, 1]

        Args:
            seamless: as if the latents went on around the edges, so that those of the picture meet.
            low_memory: keep less for the backward pass, and compute it again there.
        """
        hidden = self.post_quant_conv(latents.to(self.post_quant_conv.weight.dtype))
        images = decode(self.decoder, hidden, seamless=seamless, low_memory=low_memory)
        return images.to(latents.dtype).add(1).div(2)

    def halve(self) -> None:
        """Decode in bf16 from now on: half the memory, and half the time where there are units for it.

        In fp16 the decoder overflows. What latents are compared and moved with stays fp32.
        """
        self.post_quant_conv.bfloat16()
        self.decoder.bfloat16()

    def _measure(self) -> None:
        self.half_norms.copy_(self.codebook.float().pow(2).sum(1) / 2)
        prepare(self.decoder)
