"""The call path of the tools with large weights, on tiny random models of the same classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil

from anybind.content import Image
from anybind.contracts import Tool
from anybind.errors import ToolError

from .conftest import KnownContext, Scene, array, make_scene

pytest.importorskip("diffusers")
Tools = dict[str, Tool]


def _components(channels: int) -> dict[str, Any]:
    import torch
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.manual_seed(0)
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=8, norm_num_groups=2,
        in_channels=channels, out_channels=4, cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1,
            vocab_size=len(vocab), max_position_embeddings=16,
            bos_token_id=vocab["<|startoftext|>"], eos_token_id=vocab["<|endoftext|>"],
        )
    )  # fmt: skip
    return {
        "unet": unet, "vae": vae, "text_encoder": text,
        "tokenizer": CLIPTokenizer(vocab=vocab, merges=[], model_max_length=16),
        "scheduler": EulerAncestralDiscreteScheduler(),
        "safety_checker": None, "feature_extractor": None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    import torch
    from diffusers import (
        ControlNetModel,
        StableDiffusionInstructPix2PixPipeline,
        StableDiffusionPipeline,
    )
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("weights")
    pix2pix = StableDiffusionInstructPix2PixPipeline(
        **_components(8), requires_safety_checker=False
    )
    pix2pix.save_pretrained(root / "instruct-pix2pix")
    base = StableDiffusionPipeline(**_components(4), requires_safety_checker=False)
    base.save_pretrained(root / "stable-diffusion")
    control = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(4, 4, 4, 4))
    # Fresh ControlNets end in zeros and do nothing; let this one speak.
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    control.save_pretrained(root / "controlnet-canny")
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=["stage1", "stage2"], reshape_hidden_states=False,
    )  # fmt: skip
    depth = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(
            backbone_config=backbone, patch_size=14, reassemble_hidden_size=16,
            reassemble_factors=[4, 2], neck_hidden_sizes=[8, 8], fusion_hidden_size=8,
            head_hidden_size=4,
        )
    )  # fmt: skip
    depth.save_pretrained(root / "depth")
    (root / "depth" / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "DPTImageProcessor", "do_resize": True,
                "size": {"height": 56, "width": 56}, "ensure_multiple_of": 14,
                "keep_aspect_ratio": True, "do_rescale": True, "do_normalize": True,
                "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            }
        )
    )  # fmt: skip
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture
def heavy(folders: dict[str, Path]) -> KnownContext:
    return KnownContext(folders=folders)


CANNY = "Generate Image Condition On Canny Image"


@pytest.mark.parametrize(
    ("name", "argument"), [("Instruct Image Using Text", "instruction"), (CANNY, "text")]
)
def test_diffusion_follows_picture_seed_and_keeps_the_size(
    tools: Tools, heavy: KnownContext, name: str, argument: str
) -> None:
    # Long and low, so that it is few pixels also at the working size of 512.
    scene = make_scene((256, 32), (100, 16), 10)

    def run(image: Image, seed: int = 0) -> np.ndarray:
        heavy.seed = seed
        (part,) = tools[name].run(heavy, {"image": image, argument: "a cat"}).parts
        assert part.data.size == image.data.size
        return array(part).astype(int)

    other = Image.of(pil.new("RGB", scene.image.data.size, "black"))
    first = run(scene.image)
    assert (first == run(scene.image)).all()
    assert (first != run(scene.image, seed=1)).any()
    assert (first != run(other)).any()


def test_depth_spans_black_to_white(tools: Tools, heavy: KnownContext, scene: Scene) -> None:
    (part,) = tools["Predict Depth On Image"].run(heavy, {"image": scene.image}).parts
    pixels = array(part)
    assert pixels.shape == scene.pixels.shape
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_normals_are_unit_vectors_facing_the_viewer(
    tools: Tools, heavy: KnownContext, scene: Scene
) -> None:
    (part,) = tools["Predict Normal Map On Image"].run(heavy, {"image": scene.image}).parts
    normal = array(part).astype(float) / 127.5 - 1
    assert np.abs(np.linalg.norm(normal, axis=2) - 1).max() < 0.02
    assert (normal[..., 2] > 0).all()
    assert normal[..., :2].std() > 0.01


def test_missing_or_wrong_weights_are_tool_errors(
    tools: Tools, folders: dict[str, Path], scene: Scene, tmp_path: Path
) -> None:
    arguments = {"image": scene.image, "text": "a cat"}
    with pytest.raises(ToolError, match="controlnet-canny"):
        tools[CANNY].run(
            KnownContext(folders={"stable-diffusion": folders["stable-diffusion"]}), arguments
        )
    empty = KnownContext(folders={"stable-diffusion": tmp_path, "controlnet-canny": tmp_path})
    with pytest.raises(ToolError, match=tmp_path.name):
        tools[CANNY].run(empty, arguments)
    with pytest.raises(ToolError, match=tmp_path.name):
        tools["Predict Depth On Image"].run(
            KnownContext(folders={"depth": tmp_path}), {"image": scene.image}
        )


def test_requirements_name_every_weight(tools: Tools) -> None:
    assert "weights:controlnet-canny" in tools[CANNY].requires
    assert "weights:stable-diffusion" in tools[CANNY].requires
    conditioned = [tool for name, tool in tools.items() if "Condition On" in name]
    assert len({tool.requires for tool in conditioned}) == len(conditioned) == 8
