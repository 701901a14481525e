"""A VQGAN's own transformer: draws a class, or anything it knows, or the lower part of a picture of yours."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from PIL import Image
from pydantic import Field

from models.networks.vqgan import read_card
from models.requests.generator import ImageGenerator, Profile, Step
from models.requests.options import CompletingOptions
from models.requests.prompts import check_prompts
from models.requests.request import GenerationRequest, InvalidRequest, Presets
from models.sampling import profile as sampled

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks
    from models.requests.network_names import NetworkNames


class Options(CompletingOptions, frozen=True, extra="forbid"):
    """Which class is drawn; the prompts only say which of the candidates is kept."""

    label: int = Field(
        0, ge=0, le=65_535, description="number of the class to draw, where the transformer knows classes"
    )


def profile(names: "NetworkNames", presets: Presets = Presets()) -> Profile:
    """One size, that of the pictures it was trained on, and a step for each of their codes."""
    card = read_card(names.vqgan, names.weights)
    options = Options(templates=card.drawing.get("templates", ("{prompt}",)))
    file = card.transformer or card.dalle  # without one, nothing can be drawn
    return sampled.profile_of(
        card.config,
        options,
        presets,
        weight_bytes=file.weight_bytes if file else 0,
        bytes_per_candidate=file.cache_bytes if file else 0,
    )


def check(request: GenerationRequest, names: "NetworkNames") -> None:
    """The VQGAN has a transformer, which knows the class."""
    card = read_card(names.vqgan, names.weights)
    if card.transformer is None and card.dalle is None:
        raise InvalidRequest("/generator", "no_transformer", f"the VQGAN {names.vqgan} has no transformer")
    sampled.check(request, profile(names))
    classes = card.transformer.classes if card.transformer is not None else 0
    label = request.options["label"]
    if label >= max(1, classes):
        there_are = f"there are {classes}, from 0" if classes else "this transformer knows none, so it is 0"
        raise InvalidRequest("/options/label", "unknown_label", f"no class {label}; {there_are}")
    check_prompts(request, names)


def load(networks: "Networks") -> ImageGenerator:
    """Load the transformer, or where the VQGAN has one for texts only, that, and the CLIPs that rank."""
    networks.vqgan(), networks.guides()
    _ = networks.transformer() or networks.dalle()
    return TransformerGenerator(networks)


class TransformerGenerator:
    """Draws with a transformer over the codes of a VQGAN, and no text."""

    def __init__(self, networks: "Networks") -> None:
        self._networks = networks

    def generate(
        self,
        request: GenerationRequest,
        *,
        seed: int,
        pictures: Mapping[str, Image.Image],
        checkpoint: bytes | None = None,
        frugal: bool = False,
    ) -> Iterator[Step]:
        """See `ImageGenerator`."""
        from models.networks.autoregressive import told_class
        from models.sampling.candidates import Candidates
        from models.sampling.conditioning import unconditioned

        options = Options.model_validate(request.options)
        transformer = self._networks.transformer()
        told = (
            unconditioned(self._networks) if transformer is None else told_class(transformer, options.label)
        )
        vqgan = self._networks.vqgan()
        return Candidates(told, vqgan, request, options, seed, self._networks, pictures).steps(checkpoint)
