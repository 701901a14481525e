"""What the transformer of a VQGAN's dalle is conditioned on: the texts of a request, or nothing."""

import torch

from models.clip import TextTooLong
from models.networks.autoregressive import Conditions, Told, guided
from models.networks.shared_networks import Networks
from models.networks.vqgan import read_card
from models.requests.generator import GenerationError
from models.requests.request import GenerationRequest


def condition_on_text(request: GenerationRequest, guidance: float, networks: Networks) -> Told:
    """The conditioning of the VQGAN's dalle on the texts of a request.

    Args:
        request: one of its texts has a weight above 0.
        guidance: as of `models.networks.autoregressive.guided`.

    Raises:
        GenerationError: a text is too long, or the VQGAN has no dalle or no prior.
    """
    dalle, prior, card = (
        networks.dalle(),
        networks.prior(),
        read_card(networks.names.vqgan, networks.names.weights).dalle,
    )
    if dalle is None or prior is None or card is None:
        raise GenerationError("this VQGAN has no dalle, or no prior for it")
    clip = networks.clip(card.clip)
    prompts = [prompt for prompt in request.prompts if prompt.text is not None and prompt.weight_at(0)]
    weights = torch.tensor([prompt.weight_at(0) for prompt in prompts], device=networks.device)
    try:
        with torch.no_grad():
            embeddings = clip.encode_text([prompt.text or "" for prompt in prompts])
            words = clip.word_vectors([prompt.text or "" for prompt in prompts])
            told = dalle.conditions(words, embeddings, prior.logits(embeddings))
    except TextTooLong as error:
        raise GenerationError(f"the prompt is too long for {clip.name}: {error}") from error
    nothing = unconditioned(networks).conditions
    mix = guided(weights, guidance)
    counted = mix.nonzero()[:, 0]  # a guidance of 1 leaves out the row without a text
    both = (torch.cat([getattr(nothing, part), getattr(told, part)]) for part in ("before", "beside", "bias"))
    return Told(dalle.transformer, Conditions(*(part[counted] for part in both)), mix[counted])


def unconditioned(networks: Networks) -> Told:
    """No conditioning: any image that the transformer knows.

    Raises:
        GenerationError: the VQGAN has no dalle.
    """
    dalle = networks.dalle()
    if dalle is None:
        raise GenerationError("this VQGAN has no dalle")
    device, codes = networks.device, len(dalle.transformer.tokens.weight)
    with torch.no_grad():
        known = dalle.conditions(
            [torch.empty(0, dalle.word.in_features, device=device)],
            torch.zeros(1, dalle.whole.in_features, device=device),
            torch.zeros(1, codes, dalle.side, dalle.side, device=device),
        )
    return Told(dalle.transformer, known, torch.ones(1, device=device))
