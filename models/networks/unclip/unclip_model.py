"""An unCLIP as tensors: what is to be drawn becomes a picture's embedding, a small picture, and a large one.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125. The networks and the schedule of the noise are those of
diffusers; the loop is ours, because its pipelines cannot be stopped, watched or gone on with. What is drawn
from the generator has their order, so that a seed gives their picture: see `test_unclip_model.py`.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from models.networks.unclip import NETWORKS, Network
from models.weights_io import WeightsUnusable, recorded_sha256, verify

_CLASSES: dict[Network, Any] = {
    "prior": PriorTransformer,
    "decoder": UNet2DConditionModel,
    "text_proj": UnCLIPTextProjModel,
    "super_res_first": UNet2DModel,
    "super_res_last": UNet2DModel,
    "text_encoder": transformers.CLIPTextModelWithProjection,
    "image_encoder": transformers.CLIPVisionModelWithProjection,
}
_SCHEDULERS: dict[Network, str] = {
    "prior": "prior_scheduler",
    "decoder": "decoder_scheduler",
    "super_res_first": "super_res_scheduler",
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TextTooLong(ValueError):
    """A text has more tokens than the text encoder reads."""


@dataclass(frozen=True)
class Plan:
    """How many steps each part takes, and how far guidance goes beyond what is likely without the prompt."""

    prior_steps: int
    decoder_steps: int
    upscaling_steps: int
    prior_guidance: float
    decoder_guidance: float


@dataclass(frozen=True)
class UnclipConditioning:
    """What the networks draw. With guidance there are two rows, of no text and of the text; else one."""

    texts: Tensor  # (1 | 2, D) embeddings
    words: Tensor  # (1 | 2, L, D)
    mask: Tensor  # (1 | 2, L) where there are words
    picture: Tensor | None = None  # (1, D) embedding; none: the prior makes it of the text


@dataclass(frozen=True)
class State:
    """A drawing between two steps: all that the rest of it depends on, beside what is to be drawn."""

    stage: int  # 0 …
    done: int  # steps of that stage: 1 …
    latents: Tensor  # (1, D) or (1, 3, h, w)
    given: Tensor  # what the stage before it made, in the same shapes; empty: nothing
    random: Tensor  # the state of the generator: uint8
    picture: Tensor | None = None  # as it will probably be: (1, 3, h, w) in [-1, 1]; none: nobody knows yet


Predict = Callable[[Tensor, Tensor, bool], Tensor]
"""What a network makes of latents, their timestep, and whether it is the last."""


@dataclass(frozen=True)
class _Stage:
    """Noise becomes what the next stage is given."""

    scheduler: Any
    steps: int
    shape: tuple[int, ...]  # of the latents
    predictor: Callable[[Tensor], Predict]  # for what the stage before it made
    finish: Callable[[Tensor], Tensor]


class Unclip:
    """The networks of one or several models that go together."""

    def __init__(self, parts: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        self._parts, self._device, self.dtype = parts, device, dtype
        self._reading = threading.Lock()  # tokenizers refuse to be used by two threads at once

    @classmethod
    def read(cls, folders: Mapping[Network, Path], device: str, dtype: str) -> "Unclip":
        """Load each network, and what goes with it, from the folder of the model that it is of.

        Raises:
            models.weights_io.WeightsCorrupt, models.weights_io.WeightsUnusable
        """
        place = torch.device(device)
        with (
            _quiet(),
            torch.random.fork_rng(devices=[]),
        ):  # weights are drawn at random before they are loaded
            parts: dict[str, Any] = {
                part: _network(part, folder / part, _DTYPES[dtype]).to(place)
                for part, folder in folders.items()
            }
            for part, scheduler in _SCHEDULERS.items():
                if part in folders:
                    parts[scheduler] = _beside(UnCLIPScheduler, folders[part] / scheduler)
            parts["tokenizer"] = _beside(transformers.CLIPTokenizer, folders["text_encoder"] / "tokenizer")
            if "image_encoder" in folders:
                parts["feature_extractor"] = _beside(
                    transformers.CLIPImageProcessor, folders["image_encoder"] / "feature_extractor"
                )
        return cls(parts, place, _DTYPES[dtype])

    def condition_on_text(self, text: str, plan: Plan) -> UnclipConditioning:
        """The conditioning on a text.

        Raises:
            TextTooLong
        """
        return self._encode_text(text, guided=plan.prior_guidance > 1 or plan.decoder_guidance > 1)

    def condition_on_image(self, picture: Image.Image, plan: Plan) -> UnclipConditioning:
        """The conditioning on an RGB image: a variation of it, without a text."""
        with torch.no_grad():
            pixels = self._parts["feature_extractor"](images=picture, return_tensors="pt").pixel_values
            embedding = self._parts["image_encoder"](self._here(pixels)).image_embeds
        return replace(self._encode_text("", guided=plan.decoder_guidance > 1), picture=embedding)

    def _encode_text(self, text: str, *, guided: bool) -> UnclipConditioning:
        tokenizer, encoder = self._parts["tokenizer"], self._parts["text_encoder"]
        longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        with self._reading:
            if (count := len(tokenizer(text).input_ids)) > longest:
                raise TextTooLong(f"{count} tokens, and {longest} are read")
            rows = ["", text] if guided else [text]
            tokens = tokenizer(rows, padding="max_length", max_length=longest, return_tensors="pt")
        with torch.no_grad():
            # each row by itself, as the pipelines do: both at once would give other last bits
            encoded = [encoder(row[None].to(self._device)) for row in tokens.input_ids]
        return UnclipConditioning(
            texts=torch.cat([row.text_embeds for row in encoded]),
            words=torch.cat([row.last_hidden_state for row in encoded]),
            mask=tokens.attention_mask.bool().to(self._device),
        )

    def steps(
        self, conditioning: UnclipConditioning, plan: Plan, seed: int, state: State | None = None
    ) -> Iterator[State]:
        """Draw, a step of denoising after the other; the last one's `picture` is the picture.

        Args:
            state: of an earlier run of the same; this one goes on where it ended, bit for bit.
        """
        random = torch.Generator().manual_seed(seed)  # on the CPU, so that devices agree
        given = torch.empty(0) if conditioning.picture is None else conditioning.picture
        if state is not None:
            random.set_state(state.random)
            given = self._here(state.given)
        stages = self._stages(conditioning, plan)
        for number in range(0 if state is None else state.stage, len(stages)):
            stage, done = stages[number], 0
            with torch.no_grad():
                predict = stage.predictor(given)
            if state is not None and number == state.stage:
                latents, done = self._here(state.latents), state.done
            else:
                latents = self._here(torch.randn(stage.shape, generator=random, dtype=self.dtype))
            scheduler = copy.copy(stage.scheduler)  # it keeps the timesteps, and others draw beside us
            scheduler.set_timesteps(stage.steps, device=self._device)
            times = scheduler.timesteps
            for index in range(done, stage.steps):
                is_last = index + 1 == stage.steps
                with torch.no_grad():
                    found = scheduler.step(
                        predict(latents, times[index], is_last),
                        times[index],
                        latents,
                        prev_timestep=None if is_last else times[index + 1],
                        generator=random,
                    )
                latents = found.prev_sample
                # a prior's latents are no picture
                picture = None if latents.ndim == 2 else latents if is_last else found.pred_original_sample
                yield State(number, index + 1, latents, given, random.get_state(), picture)
            given = stage.finish(latents)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self.dtype)

    def _stages(self, conditioning: UnclipConditioning, plan: Plan) -> list[_Stage]:
        """The prior, unless the embedding of a picture stands in for what it makes; decoder and upscaler."""
        parts = self._parts
        stages = [] if conditioning.picture is not None else [self._prior(conditioning, plan)]
        small, large = parts["decoder"].config, parts["super_res_first"].config
        decoder = _Stage(
            parts["decoder_scheduler"],
            plan.decoder_steps,
            (1, small.in_channels, small.sample_size, small.sample_size),
            lambda embedding: self._decode(conditioning, embedding, plan.decoder_guidance),
            lambda latents: latents.clamp(-1, 1),
        )
        upscaler = _Stage(
            parts["super_res_scheduler"],
            plan.upscaling_steps,
            (1, large.in_channels // 2, large.sample_size, large.sample_size),
            self._upscale,
            lambda latents: latents,
        )
        return [*stages, decoder, upscaler]

    def _prior(self, conditioning: UnclipConditioning, plan: Plan) -> _Stage:
        prior = self._parts["prior"]

        def predict(latents: Tensor, time: Tensor, is_last: bool) -> Tensor:
            embeddings = prior(
                latents.expand(len(conditioning.texts), -1),
                timestep=time,
                proj_embedding=conditioning.texts,
                encoder_hidden_states=conditioning.words,
                attention_mask=conditioning.mask,
            ).predicted_image_embedding
            return _guided(embeddings, plan.prior_guidance)

        shape = (1, prior.config.embedding_dim)
        scheduler = self._parts["prior_scheduler"]
        return _Stage(scheduler, plan.prior_steps, shape, lambda given: predict, prior.post_process_latents)

    def _decode(self, conditioning: UnclipConditioning, embedding: Tensor, guidance: float) -> Predict:
        decoder, project = self._parts["decoder"], self._parts["text_proj"]
        words, conditions = project(
            image_embeddings=embedding,
            prompt_embeds=conditioning.texts,
            text_encoder_hidden_states=conditioning.words,
            do_classifier_free_guidance=len(conditioning.texts) == 2,
        )
        mask = F.pad(conditioning.mask, (project.clip_extra_context_tokens, 0), value=True)

        def predict(latents: Tensor, time: Tensor, is_last: bool) -> Tensor:
            found = decoder(
                sample=latents.expand(len(conditioning.texts), -1, -1, -1),
                timestep=time,
                encoder_hidden_states=words,
                class_labels=conditions,
                attention_mask=mask,
            ).sample
            noise, variance = found.split(latents.shape[1], 1)
            return torch.cat([_guided(noise, guidance), variance[-1:]], 1)  # the variance is the text's own

        return predict

    def _upscale(self, small: Tensor) -> Predict:
        side = self._parts["super_res_first"].config.sample_size
        # a CPU cannot in half precision
        enlarged = F.interpolate(small.float(), size=(side, side), mode="bicubic", antialias=True).to(small)

        def predict(latents: Tensor, time: Tensor, is_last: bool) -> Tensor:
            # the last network was trained to make the details sharp
            network = self._parts["super_res_last" if is_last else "super_res_first"]
            found: Tensor = network(sample=torch.cat([latents, enlarged], 1), timestep=time).sample
            return found

        return predict


def _guided(found: Tensor, guidance: float) -> Tensor:
    """Of what was found without the text, and with it: beyond the latter, away from the former.

    Classifier-free guidance: Ho and Salimans 2022, https://arxiv.org/abs/2207.12598.
    """
    if len(found) == 1:
        return found
    without, within = found.chunk(2)
    return without + guidance * (within - without)


def _network(part: Network, folder: Path, dtype: torch.dtype) -> Any:
    """One network, checked; a pickle is never read."""
    weights = folder / NETWORKS[part][-1]
    if (sha256 := recorded_sha256(weights)) is not None:
        verify(weights, sha256)
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    if not issubclass(_CLASSES[part], transformers.PreTrainedModel):
        options["low_cpu_mem_usage"] = False  # which takes the package accelerate
    try:
        network, report = _CLASSES[part].from_pretrained(folder, torch_dtype=dtype, **options)
    except Exception as error:  # of two libraries, which raise many kinds
        raise WeightsUnusable(f"{folder} cannot be read: {error}") from error
    wrong = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    # older versions saved the numbers 0 … of a text's places
    strange = [key for key in sorted(report["unexpected_keys"]) if not key.endswith("position_ids")]
    wrong += [f"{key} is not expected" for key in strange]
    if wrong:
        raise WeightsUnusable(f"{weights} is not what its configuration says: {'; '.join(wrong[:8])}")
    return network.eval().requires_grad_(False)


def _beside(kind: Any, folder: Path) -> Any:
    """A scheduler, a tokenizer or a preprocessing, of its configuration."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # likewise
        raise WeightsUnusable(f"{folder} cannot be read: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and the advice of the libraries that load."""
    before = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(before[0])
        transformers_logging.set_verbosity(before[1])
        if bars:
            transformers_logging.enable_progress_bar()
