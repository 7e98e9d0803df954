"""Tiny random pipelines of both kinds, saved to disk the way real ones are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anybind.content import AnyPart
from anybind.contracts import Encoding

WIDTH = 16

# Threads that wait for each other cost far more than they bring at this size.
torch.set_num_threads(1)


def _common(width: int, text_width: int) -> dict[str, Any]:
    """The parts that both kinds of pipeline have."""
    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=2,
        norm_num_groups=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * width,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    normalizer = StableUnCLIPImageNormalizer(width)
    with torch.no_grad():
        normalizer.mean.fill_(0.01)
        normalizer.std.fill_(0.2)
    return {
        "image_normalizer": normalizer,
        "image_noising_scheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        "unet": unet,
        "scheduler": DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            clip_sample=False,
        ),
        "vae": vae,
    }


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nano's kind: no text encoder, no image encoder."""
    from diffusers import StableUnCLIPImg2ImgPipeline

    folder = tmp_path_factory.mktemp("hub") / "pipeline"
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=None,
        tokenizer=None,
        text_encoder=None,
        **_common(WIDTH, WIDTH),
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def official_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kind of stable-diffusion-2-1-unclip: its component types, tiny and random."""
    from diffusers import StableUnCLIPImg2ImgPipeline
    from transformers import (
        CLIPImageProcessor,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    folder = tmp_path_factory.mktemp("official")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16
    )
    torch.manual_seed(1)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1,
        )
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=WIDTH,
        )
    )
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
        image_encoder=image_encoder,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        **_common(WIDTH, 24),
    )
    pipeline.save_pretrained(str(folder / "pipeline"), safe_serialization=True)
    return folder / "pipeline"


class LetterEncoder:
    """A real, if crude, text encoder: random directions of letters, summed and normalised."""

    modalities = frozenset({"text"})
    space = "letters"
    dim = WIDTH

    def __init__(self) -> None:
        self._table = np.random.default_rng(0).normal(size=(128, WIDTH)).astype(np.float32)

    def encode(self, parts: Sequence[AnyPart]) -> Encoding:
        """One row a text."""
        raw = np.stack([self._table[[ord(c) % 128 for c in p.data]].sum(0) for p in parts])
        return Encoding(unit=raw / np.linalg.norm(raw, axis=1, keepdims=True), raw=raw)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def text_encoder() -> LetterEncoder:
    """An encoder of texts into the space "letters"."""
    return LetterEncoder()
