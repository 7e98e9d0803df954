"""Tools that need large weights: picture editing and drawing by diffusion, depth.

The weights are local folders in the layout of diffusers or transformers, named by the bundle's
`tool_weights`; where it names none, the tools are not on offer. Nothing is fetched here, and only
safetensors are read. One data table describes the whole ControlNet family.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anybind.content import Image
from anybind.contracts import ToolContext
from anybind.errors import AnybindError, ToolError
from anybind.optional import require
from anybind.tooling import FunctionTool, tool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image as PILImage

DIFFUSION = "stable-diffusion"
"""Role of the base model of the ControlNet family (a Stable Diffusion 1.5 pipeline folder)."""
PIX2PIX = "instruct-pix2pix"
DEPTH = "depth"

_LIBRARIES = ("library:diffusers", "library:transformers")
_SIDE = 512
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Control:
    """One member of the ControlNet family."""

    name: str
    role: str
    """Role of its ControlNet folder."""
    description: str


CONTROLS = (
    Control(
        "Generate Image Condition On Canny Image", "controlnet-canny",
        "Generate a new real picture from a canny edge map and a text that says what it shows.",
    ),
    Control(
        "Generate Image Condition On Line Image", "controlnet-mlsd",
        "Generate a new real picture from a picture of straight lines and a text.",
    ),
    Control(
        "Generate Image Condition On Soft Hed Boundary Image", "controlnet-hed",
        "Generate a new real picture from a soft hed boundary map and a text.",
    ),
    Control(
        "Generate Image Condition On Sketch Image", "controlnet-scribble",
        "Generate a new real picture from a sketch or scribble and a text that says what it is.",
    ),
    Control(
        "Generate Image Condition On Pose Image", "controlnet-openpose",
        "Generate a new picture of a person in the pose of a human pose image, and a text.",
    ),
    Control(
        "Generate Image Condition On Depth", "controlnet-depth",
        "Generate a new real picture with the depth of a depth map, and a text.",
    ),
    Control(
        "Generate Image Condition On Normal Map", "controlnet-normal",
        "Generate a new real picture with the surfaces of a normal map, and a text.",
    ),
    Control(
        "Generate Image Condition On Segmentations", "controlnet-seg",
        "Generate a new real picture from a map of coloured segments and a text.",
    ),
)  # fmt: skip


@tool(
    "Instruct Image Using Text",
    requires=(*_LIBRARIES, f"weights:{PIX2PIX}"),
)
def instruct(context: ToolContext, image: Image, instruction: str) -> Image:
    """Change the style or look of a picture by an instruction: make it a painting, make it winter.

    Args:
        image: The picture to change.
        instruction: What to do with it.
    """
    pipeline = _load("diffusers.StableDiffusionInstructPix2PixPipeline", context.weights(PIX2PIX))
    drawn = _draw(
        pipeline, instruction, image.data, context.seed,
        num_inference_steps=40, guidance_scale=7.5, image_guidance_scale=1.2,
    )  # fmt: skip
    return _part(drawn, "Instruct Image Using Text", image)


def _controlled(control: Control) -> FunctionTool:
    def draw(context: ToolContext, image: Image, text: str) -> Image:
        pipeline = _load(
            "diffusers.StableDiffusionControlNetPipeline",
            context.weights(DIFFUSION),
            context.weights(control.role),
        )
        drawn = _draw(
            pipeline, text, image.data, context.seed,
            num_inference_steps=20, guidance_scale=9.0,
        )  # fmt: skip
        return _part(drawn, control.name, image)

    draw.__doc__ = (
        f"{control.description}\n\nArgs:\n"
        "    image: The picture to follow.\n    text: What the new picture shows."
    )
    requires = (*_LIBRARIES, f"weights:{DIFFUSION}", f"weights:{control.role}")
    return tool(control.name, requires=requires)(draw)


@tool("Predict Depth On Image", requires=("library:transformers", f"weights:{DEPTH}"))
def depth(context: ToolContext, image: Image) -> Image:
    """Predict or estimate the depth of a picture: a depth map, near is bright and far is dark.

    Args:
        image: The picture.
    """
    import numpy as np
    from PIL import Image as pil

    near = _nearness(context.weights(DEPTH), image.data)
    shown = pil.fromarray(np.rint(255 * near).astype(np.uint8)).convert("RGB")
    return _part(shown, "Predict Depth On Image", image)


@tool(
    "Predict Normal Map On Image",
    requires=("library:cv2", "library:transformers", f"weights:{DEPTH}"),
)
def normals(context: ToolContext, image: Image) -> Image:
    """Predict the normal map of a picture: which way every surface faces, as colours.

    Args:
        image: The picture.
    """
    import numpy as np
    from PIL import Image as pil

    from anybind.tools.pixels import opencv

    cv2 = opencv()
    near = cv2.GaussianBlur(_nearness(context.weights(DEPTH), image.data), (0, 0), 1.0)
    # Slopes per pixel, against a depth range of a quarter of the picture's short side.
    reach = 0.25 * min(near.shape)
    slope_x = cv2.Sobel(near, cv2.CV_32F, 1, 0) / 8 * reach
    slope_y = cv2.Sobel(near, cv2.CV_32F, 0, 1) / 8 * reach
    normal = np.stack([-slope_x, slope_y, np.ones_like(near)], axis=2)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    shown = pil.fromarray(np.rint(127.5 * (normal + 1)).astype(np.uint8))
    return _part(shown, "Predict Normal Map On Image", image)


def _nearness(folder: Path, picture: PILImage) -> NDArray[np.float32]:
    """Relative inverse depth [height, width], 1 nearest, 0 farthest.

    The model must give inverse depth, as DPT and Depth Anything do (metric models don't).
    """
    import numpy as np

    torch: Any = require("torch", "model")
    processor, model = _load_depth(folder)
    with _lock, torch.inference_mode():
        inputs = processor(images=picture, return_tensors="pt").to(model.device, model.dtype)
        found = model(**inputs).predicted_depth[:, None].float()
        found = torch.nn.functional.interpolate(
            found, size=(picture.height, picture.width), mode="bicubic", align_corners=False
        )
    values = found[0, 0].cpu().numpy()
    if not np.isfinite(values).all():
        raise ToolError("The depth model gave values that are not numbers.")
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-9)).astype(np.float32)


def _draw(pipeline: Any, text: str, picture: PILImage, seed: int, **options: Any) -> PILImage:
    """Run a pipeline near 512 pixels and bring the result back to the picture's size."""
    torch: Any = require("torch", "model")
    shown = picture.convert("RGB").resize(_working_size(picture.size))
    generator = torch.Generator("cpu").manual_seed(seed)
    # Pipelines keep state while they run (scheduler, attention), so one at a time.
    with _lock:
        result = pipeline(prompt=text, image=shown, generator=generator, **options)
    return result.images[0].resize(picture.size)


def _working_size(size: tuple[int, int]) -> tuple[int, int]:
    """At most 512 a side, multiples of 64, never 0 (the rule of GPT4Tools)."""
    ratio = min(_SIDE / size[0], _SIDE / size[1])
    width, height = (max(64, round(side * ratio / 64) * 64) for side in size)
    return width, height


def _part(picture: PILImage, name: str, source: Image) -> Image:
    sources = [source.name] if source.name else []
    return Image.of(picture, made_by=f"tool:{name}", sources=sources)


@lru_cache(maxsize=1)
def _load(pipeline: str, folder: Path, controlnet: Path | None = None) -> Any:
    """A diffusers pipeline from local folders; the last one used is kept.

    Raises:
        ToolError: the folder doesn't hold such a pipeline.
    """
    diffusers: Any = require("diffusers", "diffusion")
    device, kind = _device()
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    try:
        parts = dict(options)
        if controlnet is not None:
            parts["controlnet"] = diffusers.ControlNetModel.from_pretrained(controlnet, **options)
        made = getattr(diffusers, pipeline.rpartition(".")[2]).from_pretrained(
            folder, safety_checker=None, requires_safety_checker=False, **parts
        )
    except AnybindError:
        raise
    except Exception as error:  # diffusers reports wrong folders through many exception types.
        raise ToolError(f"The weights in {folder.name} can't be used: {error}") from error
    made.set_progress_bar_config(disable=True)
    return made.to(device, kind)


@lru_cache(maxsize=1)
def _load_depth(folder: Path) -> tuple[Any, Any]:
    transformers: Any = require("transformers", "diffusion")
    device, kind = _device()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=kind
        )
    except Exception as error:  # transformers reports wrong folders through many exception types.
        raise ToolError(f"The weights in {folder.name} can't be used: {error}") from error
    return processor, model.to(device).eval()


def _device() -> tuple[str, Any]:
    torch: Any = require("torch", "model")
    return ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)


TOOLS = (instruct, *(_controlled(control) for control in CONTROLS), depth, normals)
