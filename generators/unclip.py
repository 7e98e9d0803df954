"""Pictures through diffusers' `StableUnCLIPImg2ImgPipeline`, conditioned on a joint embedding.

One class drives two kinds of pipeline folder. Which kind it is, `model_index.json` says:

- with a text encoder (`stabilityai/stable-diffusion-2-1-unclip`, 1024-d): the text goes in as
  `prompt`, the embedding before its norm as `image_embeds`;
- without one (nano, 384-d): the text is one cross-attention token, its embedding in the hub, and
  the embedding is normalised, as in training.

Knows nothing of how embeddings come about, of sessions or of files of users.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin, StableUnCLIPImg2ImgPipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image as PILImage

from anybind.content import Embedding, Image, Text
from anybind.contracts import Build, Encoder, Progress
from anybind.errors import ModelError, UserError
from anybind.generators.starts import LateDDIM, Starts


class NoImageEncoder(ModelMixin):
    """Stands where the pipeline asks its image encoder for a dtype. It encodes nothing.

    nano's pictures are encoded elsewhere (the bundle's own image encoder), so its folder has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Never what is wanted."""
        raise ModelError("This pipeline takes embeddings, not pictures.")


class UnclipGenerator:
    """Makes pictures with a latent unCLIP pipeline. See the module for the two kinds."""

    name = "unclip"
    output = "image"

    def __init__(
        self,
        pipeline: StableUnCLIPImg2ImgPipeline,
        *,
        space: str,
        text_encoder: Encoder | None = None,
        starts: Starts | None = None,
        steps: int = 20,
        guidance: float = 10.0,
        noise_level: int = 0,
        strength: float = 1.0,
        top_k: int = 3,
        temperature: float = 30.0,
        size: int = 0,
    ) -> None:
        """Wrap a loaded pipeline.

        Args:
            pipeline: With or without `text_encoder`.
            space: The joint space whose embeddings it was trained on.
            text_encoder: Embeds texts into `space`; without one, texts alone draw nothing (and a
                pipeline without its own text encoder sees no texts).
            starts: Known pictures to begin near; used only if `strength` is below 1.
            steps: Denoising steps of a whole run.
            guidance: Classifier-free guidance; the official pipeline's default is 10.
            noise_level: Noise on embeddings that were measured (picture, sound): what the encoder
                is unsure of becomes the generator's choice. The text's own embedding gets 0.
            strength: Share of the steps that is run, beginning near `starts`.
            top_k: How many known pictures to mix.
            temperature: How sharply the nearest of them prevails.
            size: Side in pixels that the result is enlarged to (Lanczos); 0 keeps it.
        """
        self.space = space
        # Schedulers and results of diffusers are of many classes; its types name the least of them.
        self._pipeline: Any = pipeline
        self._own_text = pipeline.text_encoder is not None
        self._text_encoder = text_encoder
        self._starts = starts
        self._steps, self._guidance, self._noise_level = steps, guidance, noise_level
        self._strength = strength if starts is not None else 1.0
        self._top_k, self._temperature, self._size = top_k, temperature, size
        if text_encoder is not None and text_encoder.space != space:
            raise UserError(
                f"The generator works in the space {space!r}, the text encoder in "
                f"{text_encoder.space!r}."
            )
        if self._strength < 1.0:
            late: Any = LateDDIM.from_config(self._pipeline.scheduler.config)
            late.strength = self._strength
            self._pipeline.scheduler = late
        pipeline.set_progress_bar_config(disable=True)

    @classmethod
    def from_build(cls, build: Build) -> UnclipGenerator:
        """Load the pipeline folder of a bundle entry.

        Weights: `pipeline`, a diffusers folder; it may hold `starts.safetensors` and
        `generator.json`, the options that the weights were made for. Options of the bundle go
        before those: `space` and the keyword arguments of the constructor. Parts: `text_encoder`.

        Raises:
            ModelError: the folder is no such pipeline.
        """
        folder = build.weights["pipeline"]
        options = {**saved_options(folder), **build.options}
        space = options.pop("space", None)
        encoder = build.parts.get("text_encoder")
        if space is None:
            space = encoder.space if encoder is not None else None
        if not isinstance(space, str):
            raise UserError('The generator needs the option "space" or a text encoder.')
        memory = folder / "starts.safetensors"
        return cls(
            load_pipeline(folder, build.device),
            space=space,
            text_encoder=encoder,
            starts=Starts.load(memory) if memory.exists() else None,
            **options,
        )

    def generate(
        self,
        condition: Embedding | None,
        text: str | None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Image:
        """One picture. The same seed, condition and text give the same picture.

        Raises:
            UserError: nothing to go by, or the condition lives in another space.
        """
        text = (text or "").strip()
        said = self._said(text)
        embedding = self._embedding(condition, said)
        measured = said is None or not _same(embedding, said)
        call: dict[str, Any] = {
            "image_embeds": embedding,
            "num_inference_steps": self._steps,
            "guidance_scale": self._guidance,
            "noise_level": self._noise_level if measured else 0,
            "generator": torch.Generator("cpu").manual_seed(seed),
        }
        if self._own_text:
            call["prompt"] = text
        else:
            # One token: the text, or else the embedding itself, which lives in the same space.
            token = (embedding if said is None else said)[:, None]
            call |= {"prompt_embeds": token, "negative_prompt_embeds": torch.zeros_like(token)}
        if self._strength < 1.0:
            call["latents"] = self._start(embedding, call["generator"])
        if progress is not None:
            report, total = progress, max(1, round(self._steps * self._strength))

            def tell(step: int, timestep: int, latents: torch.Tensor) -> None:
                report("drawing", min(1.0, (step + 1) / total))

            call["callback"] = tell
        picture: PILImage.Image = self._pipeline(**call).images[0]
        if self._size:
            wanted = (self._size, round(self._size * picture.height / picture.width))
            picture = picture.resize(wanted, PILImage.Resampling.LANCZOS)
        sources = (condition.name,) if condition is not None and condition.name else ()
        return Image.of(picture, made_by=f"generator:{self.name}", sources=sources)

    def close(self) -> None:
        """Forget the pipeline."""
        del self._pipeline
        self._starts = None

    def _said(self, text: str) -> torch.Tensor | None:
        """The text in the joint space `[1, C]`, if there is a text and an encoder for it."""
        if not text or self._text_encoder is None:
            return None
        encoding = self._text_encoder.encode([Text.of(text)])
        return self._placed(encoding.raw if self._own_text else encoding.unit)

    def _embedding(self, condition: Embedding | None, said: torch.Tensor | None) -> torch.Tensor:
        """What goes in as `image_embeds` `[1, C]`."""
        if condition is None:
            if said is None:
                raise UserError(
                    f"Give an attachment to draw, or a text and a text encoder for {self.space!r}."
                )
            vector = said
        else:
            if condition.space != self.space:
                raise UserError(
                    f"The generator takes embeddings of {self.space!r}, not {condition.space!r}."
                )
            raw = condition.raw if self._own_text else None
            vector = self._placed(np.asarray(condition.data if raw is None else raw)[None])
        wanted = self._pipeline.image_normalizer.config["embedding_dim"]
        if vector.shape[1] != wanted:
            raise UserError(f"The generator takes {wanted} numbers, not {vector.shape[1]}.")
        return vector if self._own_text else torch.nn.functional.normalize(vector, dim=1)

    def _start(self, embedding: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Latents of known pictures near the embedding, noised to where the schedule begins."""
        assert self._starts is not None
        pipeline = self._pipeline
        side = int(pipeline.unet.config["sample_size"])
        near = self._starts.near(embedding.cpu(), (side, side), self._top_k, self._temperature)
        noise = torch.randn(near.shape, generator=generator)
        pipeline.scheduler.set_timesteps(self._steps)
        first = pipeline.scheduler.timesteps[:1]
        return self._placed(pipeline.scheduler.add_noise(near, noise, first).numpy())

    def _placed(self, array: np.ndarray) -> torch.Tensor:
        """An array as a tensor where, and as exact as, the network is."""
        parameter = next(self._pipeline.unet.parameters())
        tensor = torch.from_numpy(np.array(array, dtype=np.float32))
        return tensor.to(parameter.device, parameter.dtype)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two embeddings `[1, C]` point the same way: the condition is the text itself."""
    return bool(torch.cosine_similarity(one.float(), other.float())[0] > 0.98)


def saved_options(folder: Path) -> dict[str, Any]:
    """The options in a folder's `generator.json`; none if there is no such file."""
    file = folder / "generator.json"
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text("utf-8")))
    except ValueError as error:
        raise ModelError(f"{file} can't be read: {error}") from error


def load_pipeline(folder: Path, device: str) -> StableUnCLIPImg2ImgPipeline:
    """The pipeline of a folder, from local safetensors alone: float32 on CPU, else float16.

    Raises:
        ModelError: it is not a latent unCLIP pipeline, or its files don't fit.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{folder} is no diffusers pipeline: it has no model_index.json.")
    parts: dict[str, Any] = json.loads(index.read_text("utf-8"))
    if parts.get("_class_name") != "StableUnCLIPImg2ImgPipeline":
        raise ModelError(
            f"{folder} holds a {parts.get('_class_name')}, not a StableUnCLIPImg2ImgPipeline."
        )
    absent = [name for name, kind in parts.items() if kind == [None, None]]
    instead: dict[str, Any] = dict.fromkeys(absent)
    if "image_encoder" in absent:
        instead["image_encoder"] = NoImageEncoder()
    said = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it warns of every part that is absent on purpose
    bars = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        pipeline = StableUnCLIPImg2ImgPipeline.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, **instead
        )
        return pipeline.to(device, torch.float32 if device == "cpu" else torch.float16)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"The pipeline in {folder} can't be loaded: {error}") from error
    finally:
        diffusers_logging.set_verbosity(said)
        if bars:
            diffusers_logging.enable_progress_bar()
