"""VQGAN+CLIP: a VQGAN's latents, optimized until CLIP finds the prompts in the decoded image."""

from functools import partial
from typing import TYPE_CHECKING

from models.networks.footprint import decoder_bytes
from models.networks.vqgan import read_card
from models.requests import presets as known
from models.requests.generator import Generate, Profile
from models.requests.network_names import NetworkNames
from models.requests.options import VqganClipOptions
from models.requests.prompts import check_prompts
from models.requests.request import GenerationRequest, InvalidRequest, Presets

if TYPE_CHECKING:
    from models.networks.shared_networks import Networks


Options = VqganClipOptions


def profile(names: NetworkNames, presets: Presets = Presets()) -> Profile:
    """The defaults of the VQGAN's card, where it has some, or those of a program that the presets name."""
    card = read_card(names.vqgan, names.weights)
    drawing = dict(card.drawing)
    sizes = {key: drawing.pop(key) for key in ("width", "height", "steps")}
    sides = drawing.pop("sides", None)
    options = Options.model_validate(drawing)
    plain = Profile(
        **sizes,
        size_multiple=card.config.factor,
        options=options,
        bytes_per_pixel=decoder_bytes(card.config, names.dtype),
        low_memory_bytes_per_pixel=decoder_bytes(card.config, names.dtype, low_memory=True),
        weight_bytes=card.dalle.weight_bytes if card.dalle is not None else 0,
        bytes_per_candidate=card.dalle.cache_bytes if card.dalle is not None else 0,
    )
    return known.apply(plain, presets, sides=sides, programs=known.PROGRAMS)


def check(request: GenerationRequest, options: Options, names: NetworkNames) -> None:
    """The guides can read the prompts, and the VQGAN has the network that the start needs."""
    check_prompts(request, options, names)
    start, card = options.start, read_card(names.vqgan, names.weights)
    if options.init_image is None and start in ("prior", "dalle") and getattr(card, start) is None:
        raise InvalidRequest(
            "/options/start", f"no_{start}", f"the VQGAN {names.vqgan} has no {start}; use start=random"
        )


def load(networks: "Networks") -> Generate:
    """Load the VQGAN, its prior and dalle, and the CLIPs that guide."""
    from models.generators import _vqgan_latents

    networks.vqgan(), networks.prior(), networks.dalle(), networks.guides()
    return partial(_vqgan_latents.generate, networks)
