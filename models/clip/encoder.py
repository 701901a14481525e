"""CLIP over open_clip: the tensor face that keeps gradients, and the numpy face that serves requests."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose

from models.clip import Embeddings, Pixels
from models.clip.attention import replace_self_attention
from models.clip.cards import CONFIG, ClipCard, find_card
from models.clip.folding import fold_batch_norms, fold_paddings, keep_clamped
from models.clip.parts import assemble
from models.clip.precision import DTYPES, Precision, convert, pick_precision
from models.clip.preprocessing import Preprocessing
from models.clip.tokens import Tokens, alike
from models.runtime.compile import Padded, Prepare, compiled
from models.weights_io import WeightsMissing, WeightsUnusable, read_sums, verify
from models.weights_io.card import how_to_fetch

# Pictures and texts that one forward takes; more go through in pieces. On a CPU more gain nothing
# (`benchmarks.clip.clip_speed`), take memory, and let others wait.
MAX_IMAGES_CPU = 8
MAX_TEXTS_CPU = 64
MAX_BATCH = 256


class NoWordVectors(LookupError):
    """A CLIP's text tower has no vectors of byte-pair tokens."""


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name such as cpu, cuda:1 or mps; `auto` is the first there is of cuda, mps and cpu."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class ClipNetwork:
    """A frozen CLIP on tensors; gradients pass through to the pictures, but not in int8.

    Made by `load_network`. Weights of linear and convolution layers have the `precision`; norms, and what
    comes out, stay fp32.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Any, device: torch.device, precision: Precision
    ) -> None:
        self.name = name
        self.device = device
        self.precision = precision
        self.dtype = DTYPES[precision]
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.logit_bias = None if model.logit_bias is None else float(model.logit_bias.detach())
        preprocess = model.visual.preprocess_cfg
        size = preprocess["size"]
        self._sides = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.image_size = max(self._sides)  # R
        # a tower of transformers' has more places than its tokenizer gives it
        self.context_length = min(int(model.context_length), int(tokenizer.context_length))
        self.mean = torch.tensor(preprocess["mean"], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocess["std"], device=device).view(1, 3, 1, 1)
        replace_self_attention(model)
        convert(model.eval(), precision)
        # convolutions run a fifth to a half faster so on a CPU; weights of other layers ignore it
        model.to(device, memory_format=torch.channels_last)
        self._model = model.requires_grad_(False)
        self._text = getattr(model, "text", model)  # the text tower, a module of its own in some models
        self.trims_texts = _is_causal(self._text)
        self.tokens = Tokens(tokenizer, self.context_length)
        self._image_tower = Padded(model.encode_image)
        self._text_tower = Padded(partial(_trimmed, self._text) if self.trims_texts else model.encode_text)
        with torch.inference_mode():
            self.dimension = int(self.encode_text([""]).shape[-1])  # D

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (K, 3, R, R) in [0, 1] -> (K, D) of unit length, fp32, differentiable in the pictures.

        Where the network reads rectangles, squares are squashed to them.
        """
        if images.shape[2:] != self._sides:
            images = F.interpolate(images, size=self._sides, mode="bilinear", antialias=True)
        return self._see((images.to(self.device, torch.float32) - self.mean) / self.std)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pictures (N, 3, R, R) uint8 -> (N, D) of unit length, fp32."""
        if pixels.shape[2:] != self._sides:
            return self.encode_image(pixels / 255)
        images = pixels.to(self.device, non_blocking=True).float()  # a quarter of the bytes to move
        return self._see(images.div_(255).sub_(self.mean).div_(self.std))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (P, D) of unit length, fp32.

        Raises:
            models.clip.TextTooLong: one has more than `context_length` tokens; none is cut silently.
        """
        return self.encode_tokens(self.tokens(texts))

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """What `tokens` makes of texts -> (P, D) of unit length, fp32."""
        # what comes after a text's end cannot reach it through a causal mask: padding would be wasted work
        length = max(map(len, rows)) if self.trims_texts else self.context_length
        tokens = torch.zeros(len(rows), length, dtype=torch.long)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        tokens = tokens.to(self.device)
        with self._autocast():
            features = self._text_tower(tokens)
        return F.normalize(features.float(), dim=-1)

    def word_vectors(self, texts: Sequence[str]) -> list[Tensor]:
        """What the text tower first makes of each token of each text, without the end tokens: (L, width)

        Raises:
            NoWordVectors: the tower is not CLIP's own.
        """
        if not self.trims_texts:
            raise NoWordVectors(f"{self.name} has no token vectors of CLIP's own kind")
        rows = [torch.tensor(row[1:-1], dtype=torch.long, device=self.device) for row in self.tokens(texts)]
        return [self._text.token_embedding(row).float() for row in rows]

    def compile(self, batches: Sequence[int], prepare: Prepare) -> None:
        """Compile both towers for batches of these sizes, or neither, for what is asked without gradients.

        Texts of any length take part: they are padded to one of three.
        """
        lengths = sorted({min(length, self.context_length) for length in (16, 32, self.context_length)})
        pixels = [torch.zeros(size, 3, *self._sides, device=self.device) for size in batches]
        texts = [
            torch.zeros(size, length, dtype=torch.long, device=self.device)
            for size in batches
            for length in (lengths if self.trims_texts else lengths[-1:])
        ]
        with torch.inference_mode(), self._autocast():
            try:
                self._image_tower.compile(pixels, prepare)
                self._text_tower.compile(texts, prepare)
            except Exception:
                self._image_tower.compile([], prepare)
                raise

    def _see(self, normalized: Tensor) -> Tensor:
        with self._autocast():
            features = self._image_tower(normalized)
        return F.normalize(features.float(), dim=-1)

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


class OpenClipEncoder:
    """A CLIP ready to serve; see `models.clip.ClipEncoder`."""

    def __init__(self, network: ClipNetwork, transform: Compose, *, draft: int) -> None:
        self.network = network
        self.name = network.name
        self.dimension = network.dimension
        self.image_size = network.image_size
        self.context_length = network.context_length
        self.logit_scale = network.logit_scale
        self.logit_bias = network.logit_bias
        self.draft_size = draft * network.image_size or None
        self.on_cpu = network.device.type == "cpu"
        self.max_images = MAX_IMAGES_CPU if self.on_cpu else MAX_BATCH
        self.max_texts = MAX_TEXTS_CPU if self.on_cpu else MAX_BATCH
        self._preprocessing = Preprocessing(transform)

    @classmethod
    def load(cls, name: str, weights: Path, device: str = "auto", dtype: str = "fp32") -> Self:
        """Load a CLIP; as `models.clip.load`."""
        return cls(*_load(name, weights, device, dtype), draft=find_card(name, weights).draft)

    def preprocess(self, image: Image.Image, *, exact: bool = True) -> Pixels:
        return self._preprocessing(image, exact=exact)

    def count_tokens(self, text: str) -> int:
        return self.network.tokens.count(text)

    def encode_images(self, pixels: Pixels) -> Embeddings:
        starts = range(0, len(pixels), self.max_images)
        pieces = [range(start, min(start + self.max_images, len(pixels))) for start in starts]
        return self._by_pieces(
            len(pixels), pieces, lambda piece: self._encode_pixels(pixels[piece[0] : piece[-1] + 1])
        )

    def encode_texts(self, texts: Sequence[str]) -> Embeddings:
        rows = self.network.tokens(texts)
        # a text that is not trimmed takes the time of the whole context, however short it is
        lengths = [len(row) if self.network.trims_texts else self.context_length for row in rows]
        pieces = alike(lengths, self.max_texts)
        return self._by_pieces(
            len(rows), pieces, lambda piece: self.network.encode_tokens([rows[index] for index in piece])
        )

    def compile(self, batches: Sequence[int], *, graphs: bool) -> None:
        self.network.compile(batches, partial(compiled, graphs=graphs))

    def _encode_pixels(self, pixels: Pixels) -> Tensor:
        tensor = torch.from_numpy(np.require(pixels, np.uint8, ["C", "W"]))  # of others torch warns
        return self.network.encode_pixels(
            tensor.pin_memory() if self.network.device.type == "cuda" else tensor
        )

    def _by_pieces(
        self, count: int, pieces: Iterable[Sequence[int]], encode: Callable[[Sequence[int]], Tensor]
    ) -> Embeddings:
        """Rows of all pieces, each in the place that its index names."""
        rows = np.empty((count, self.dimension), np.float32)
        with torch.inference_mode():
            for piece in pieces:
                rows[piece] = encode(piece).cpu().numpy()
        return rows


def load_network(
    name: str, weights: Path, device: str = "auto", dtype: str = "fp32", *, fold: bool = True
) -> ClipNetwork:
    """Load a CLIP to compute with tensors; arguments and errors as `models.clip.load`.

    Args:
        fold: its batch norms into its convolutions. That saves a fifth of the time, a third of that forth and
            back, and moves an embedding by no more than the rounding of fp32 does.
    """
    return _load(name, weights, device, dtype, fold=fold)[0]


def _load(
    name: str, weights: Path, device: str, dtype: str, *, fold: bool = True
) -> tuple[ClipNetwork, Compose]:
    """The network, and open_clip's own transform of pictures for it."""
    card = find_card(name, weights)
    place = pick_device(device)
    precision = pick_precision(dtype, place, needs_fp32=card.needs_fp32)
    folder = card.folder(weights)
    _check_folder(folder, card, weights)
    source = f"local-dir:{folder}"
    try:
        tokenizer = open_clip.get_tokenizer(source)
        with torch.random.fork_rng(devices=[]):  # weights are drawn at random before they are loaded
            # fp32 first: converted any earlier, a logit scale of 100 would become 98.5 in bf16
            if parts := card.parts(weights):
                model, transform = assemble(folder, parts)
            else:
                model, transform = open_clip.create_model_from_pretrained(
                    source, precision="fp32", device="cpu", **text_tower(folder)
                )
    except ImportError as error:
        remedy = "; install clipcanvas[siglip]" if error.name == "transformers" else ""
        raise WeightsUnusable(f"{name} needs a package that is not installed: {error}{remedy}") from error
    except Exception as error:  # open_clip and timm raise many kinds
        raise WeightsUnusable(f"{name} cannot be built of the files in {folder}: {error}") from error
    if fold:
        size = model.visual.preprocess_cfg["size"]
        sides = (size, size) if isinstance(size, int) else size
        fold_batch_norms(model.visual.eval(), torch.zeros(1, 3, *sides))
        fold_paddings(model.visual, torch.zeros(1, 3, *sides))
        keep_clamped(model.visual)
    return ClipNetwork(name, model, tokenizer, place, precision), transform


def _check_folder(folder: Path, card: ClipCard, weights: Path) -> None:
    """Raises WeightsMissing or WeightsCorrupt unless all is there, and what the card says it is."""
    remedy = f"; {how_to_fetch(card.name)}" if card.name != card.source or card.scheme != "local-dir" else ""
    if not (folder / CONFIG).is_file():
        raise WeightsMissing(f"weights file {folder / CONFIG} of {card.name} is not there{remedy}")
    known = card.paths(weights) or {folder / file: sha256 for file, sha256 in read_sums(folder).items()}
    for path, sha256 in known.items():
        verify(path, sha256)
    # open_clip would take a pickle in its place
    if not any(folder.glob("*.safetensors")):
        raise WeightsMissing(
            f"no .safetensors file in {folder}; `clipcanvas models convert` makes one of a .pt or .bin"
        )


def text_tower(folder: Path, tower: Path | None = None) -> dict[str, Any]:
    """For open_clip, how to build a text tower of transformers': by a config.json here, not on the hub.

    Args:
        tower: the folder that has it; none: the same.
    """
    text: dict[str, Any] = open_clip.get_model_config(f"local-dir:{folder}").get("text_cfg", {})
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": text | {"hf_model_name": str(tower or folder), "hf_model_pretrained": False}}


def _trimmed(tower: Any, tokens: Tensor) -> Tensor:
    """CLIP's own text tower on tokens shorter than its context, which its own forward does not take."""
    length = tokens.shape[1]
    x = tower.token_embedding(tokens) + tower.positional_embedding[:length]  # (P, L, width)
    x = x.to(tower.transformer.get_cast_dtype())
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(-1)]  # the end token has the highest id
    if tower.text_projection is None:
        return cast(Tensor, x)
    if isinstance(tower.text_projection, torch.nn.Linear):
        return cast(Tensor, tower.text_projection(x))
    return cast(Tensor, x @ tower.text_projection)


def _is_causal(tower: Any) -> bool:
    """Whether a text tower reads left to right and answers with the state at the end of the text."""
    mask = getattr(tower, "attn_mask", None)
    if mask is None or getattr(tower, "text_pool_type", getattr(tower, "pool_type", None)) != "argmax":
        return False
    if getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False):
        return False
    return torch.equal(mask, torch.full_like(mask, -torch.inf).triu(1))
