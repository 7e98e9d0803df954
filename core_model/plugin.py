"""Offers the encoders, language models and converters of this room. Listing them imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anybind.contracts import Build, EncoderSpec, ModelSpec
from anybind.hooks import hookimpl


def _text(build: Build) -> Any:
    from anybind.core_model.encoders import minilm

    return minilm.build(build)


def _image(build: Build) -> Any:
    from anybind.core_model.encoders import image_hub

    return image_hub.build(build)


def _audio(build: Build) -> Any:
    from anybind.core_model.encoders import audio_events

    return audio_events.build(build)


def _imagebind(build: Build) -> Any:
    from anybind.core_model.encoders import imagebind_encoder

    return imagebind_encoder.build(build)


def _llama(build: Build) -> Any:
    from anybind.core_model import factory

    return factory.build(build)


def _transformers(build: Build) -> Any:
    from anybind.core_model import transformers_loading

    return transformers_loading.build(build)


@hookimpl
def register_encoders() -> Iterable[EncoderSpec]:
    """The encoders of nano, and ImageBind."""
    return [
        EncoderSpec(
            name="minilm",
            description="Sentences by all-MiniLM-L6-v2; its space is the hub of nano's joint space.",
            factory=_text,
            needs=("torch", "tokenizers"),
            extra="model",
            weights=("model", "tokenizer"),
            footprint=95 << 20,
            modalities=frozenset({"text"}),
        ),
        EncoderSpec(
            name="image-hub",
            description="Pictures by EfficientNet-lite, projected into the hub.",
            factory=_image,
            needs=("torch",),
            extra="model",
            weights=("backbone", "projection"),
            footprint=40 << 20,
            modalities=frozenset({"image"}),
        ),
        EncoderSpec(
            name="audio-events",
            description="Sounds by Whisper tiny.en's encoder, projected into the hub.",
            factory=_audio,
            needs=("torch", "whisper"),
            extra="speech",
            weights=("whisper", "projection"),
            footprint=40 << 20,
            modalities=frozenset({"audio"}),
        ),
        EncoderSpec(
            name="imagebind",
            description="ImageBind and Point-Bind: eight kinds of parts in one space, each loaded when it is met.",
            factory=_imagebind,
            needs=("torch", "safetensors", "soxr", "ftfy", "regex"),
            extra="imagebind",
            weights=("model",),
            footprint=4900 << 20,
            modalities=frozenset(
                {"image", "video", "text", "audio", "depth", "thermal", "imu", "point"}
            ),
        ),
    ]


@hookimpl
def register_models() -> Iterable[ModelSpec]:
    """The injected LLaMA, and decoders of transformers."""
    return [
        ModelSpec(
            name="llama",
            description="A LLaMA decoder (GGUF file or Hugging Face folder) with a bind network.",
            factory=_llama,
            needs=("torch", "gguf", "llguidance", "tokenizers"),
            extra="model",
            weights=("decoder",),
            footprint=600 << 20,
        ),
        ModelSpec(
            name="transformers",
            description="Any decoder of transformers (Hugging Face folder) with a bind network.",
            factory=_transformers,
            needs=("torch", "transformers", "llguidance", "tokenizers", "jinja2"),
            extra="transformers",
            weights=("decoder",),
        ),
    ]


@hookimpl
def register_converters() -> Iterable[tuple[str, str]]:
    """Foreign weight formats that nano's parents come in."""
    return [
        ("whisper-ct2", "anybind.core_model.convert.whisper_ct2:convert"),
        ("efficientnet", "anybind.core_model.convert.efficientnet:convert"),
        ("llama-meta", "anybind.core_model.convert.llama_meta:convert"),
        ("imagebind-llm", "anybind.core_model.convert.imagebind_llm:convert"),
        ("imagebind", "anybind.core_model.convert.imagebind:convert"),
        ("pointbind", "anybind.core_model.convert.imagebind:convert_pointbind"),
    ]
