"""ImageBind and Point-BERT against numbers of the public reference code on tiny random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from anybind.content import Embedding
from anybind.core_model.encoders.imagebind import ImageBind, Outputs
from anybind.core_model.encoders.imagebind_sizes import infer_config
from anybind.core_model.encoders.point_bert import farthest_points, neighbourhoods
from anybind.core_model.encoders.point_hierarchy import HierarchyConfig, PointHierarchy
from anybind.core_model.mixing import mix
from anybind.errors import UserError
from tests.core_model.imagebind_files import FOLDER, TINY_SETTINGS, arrays, drawn, hierarchy, tiny

torch.set_num_threads(1)
DATA = Path(__file__).parent.parent / "data"
TOLERANCE = 3e-5
"""As a fraction of the largest expected number."""

CASES = {
    "vision": "vision", "vision_clips": "vision", "vision_168": "vision", "text": "text",
    "audio": "audio", "depth": "depth", "thermal": "thermal", "imu": "imu",
}  # fmt: skip


@cache
@torch.inference_mode(False)
def model(dtype: torch.dtype = torch.float32) -> ImageBind:
    state = tiny()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    with torch.device("meta"):
        made = ImageBind(infer_config(shapes, TINY_SETTINGS, TINY_SETTINGS))
    made.load_state_dict({k: v.clone() for k, v in state.items()}, strict=True, assign=True)
    return made.eval().requires_grad_(False).to(dtype)


def given(name: str) -> Tensor:
    return torch.from_numpy(arrays()[name])


def near(found: Tensor, wanted: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found.float().numpy() - wanted).max() <= tolerance * np.abs(wanted).max()


# ---------------------------------------------------------------- six modalities


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_the_reference(case: str) -> None:
    out = model()(CASES[case], given(f"in.{case}"))
    near(out.scaled, arrays()[f"out.{case}"])
    near(out.raw, arrays()[f"prenorm.{case}"])
    near(out.unit.norm(dim=-1), np.ones(len(out.unit), np.float32))


def test_a_set_of_pictures_is_averaged_and_never_taken_for_a_film() -> None:
    out = model()("vision", given("in.vision")[None])
    near(out.scaled, arrays()["out.vision_multi"])
    near(out.raw, arrays()["prenorm.vision_multi"])


def test_one_clip_of_sound_without_the_axis_of_clips() -> None:
    out = model()("audio", given("in.audio")[:, 0])
    near(out.scaled, arrays()["out.audio_4d"])
    near(out.raw, arrays()["prenorm.audio_4d"])


@pytest.mark.parametrize("modality", ["vision", "audio", "imu", "text", "depth", "thermal"])
def test_tokens_before_and_after_the_transformer(modality: str) -> None:
    x = given(f"in.{modality}")
    tokens = model().modality_preprocessors[modality](x[:, 0] if modality == "audio" else x)
    trunk = model().modality_trunks[modality]
    # The reference norms vision's tokens inside the transformer, as we do.
    near(tokens[:, :8], arrays()[f"tokens_head.{modality}"])
    whole = trunk(tokens)
    near(whole[:, :8], arrays()[f"trunk_head.{modality}"])
    if modality != "text":
        near(trunk(tokens, first=True), whole[:, :1].numpy(), 1e-6)


def test_three_outputs_and_how_they_hang_together() -> None:
    one = model()("thermal", given("in.thermal"))
    assert torch.allclose(one.scaled, 100 * one.unit, atol=1e-4)  # log 150, cut at 100
    assert torch.allclose(one.raw / one.raw.norm(dim=-1, keepdim=True), one.unit, atol=1e-6)
    clips = model()("audio", given("in.audio"))
    lengths = clips.scaled.norm(dim=-1)
    assert bool((lengths < 19).all())  # the mean of clips is not brought back to the scale 20
    assert torch.allclose(clips.scaled / lengths[:, None], clips.unit, atol=1e-6)


def test_unit_is_what_the_language_model_mixes() -> None:
    """From pixels, sound and points to the mix that the reference feeds its bind network."""
    unit = [
        model()("vision", given("in.vision")[:1]).unit,
        model()("audio", given("in.audio")[:1]).unit,
        model()("point", given("point.in.points")[:1]).unit,
    ]
    mixed = mix([Embedding.of(u[0].numpy()) for u in unit], [1.0, 0.5, 0.25]).data
    wanted = np.load(FOLDER / "llm_tiny_io.npz")["end_to_end.mix"]
    near(torch.from_numpy(mixed)[None], wanted)


def test_text_whose_end_was_cut_off_is_always_the_same() -> None:
    ids = given("in.text")
    cut = ids[4].clone()
    cut[5:9] = torch.tensor([7, 8, 9, 10])
    out = model()("text", torch.stack((ids[4], cut, ids[3]))).unit
    assert torch.allclose(out[0], out[1], atol=1e-6)
    assert not torch.allclose(out[0], out[2], atol=1e-2)


def test_texts_may_be_cut_behind_their_end() -> None:
    ids = given("in.text")[:2]
    short = ids[:, : int(ids.argmax(-1).max()) + 1]
    assert short.shape[1] < 20
    near(model()("text", short).raw, arrays()["prenorm.text"][:2])


def test_rows_of_a_batch_do_not_touch() -> None:
    for modality in ("vision", "text", "audio", "imu"):
        x = given(f"in.{modality}")
        both = model()(modality, x).raw
        alone = torch.cat([model()(modality, x[i : i + 1]).raw for i in range(len(x))])
        near(both, alone.numpy(), 1e-5)


def test_pictures_of_another_shape() -> None:
    wide = torch.nn.functional.interpolate(given("in.vision"), (168, 280))
    unit = model()("vision", wide).unit
    assert unit.shape == (2, 40)
    assert float(unit[0] @ unit[1]) < 0.9999


@pytest.mark.parametrize(
    ("modality", "shape", "words"),
    [
        ("vision", (1, 3, 2, 224, 224), "One film is"),
        ("vision", (1, 1, 3, 3, 224, 224), "2 frames"),
        ("vision", (3, 224, 224), "takes 4 axes"),
        ("vision", (1, 3, 8, 224), "smaller than a patch"),
        ("audio", (1, 2, 128, 204), "1 channels"),
        ("imu", (1, 6, 1999), "2000 steps"),
        ("text", (1, 78), "77 ids"),
        ("point", (1, 15, 3), "at least 16 points"),
        ("point", (1, 64, 4), "[batch, points, 3]"),
        ("smell", (1, 3), "not loaded"),
    ],
)
def test_wrong_shapes_are_told(modality: str, shape: tuple[int, ...], words: str) -> None:
    kind = torch.int64 if modality == "text" else torch.float32
    with pytest.raises(UserError) as caught:
        model()(modality, torch.zeros(shape, dtype=kind))
    assert words in str(caught.value)


# ---------------------------------------------------------------- points


@pytest.mark.parametrize("start", [0, 123])
def test_centres_and_neighbours_are_those_of_the_reference(start: int) -> None:
    found = neighbourhoods(given("point.in.points"), 64, 16, start)
    wanted = arrays()
    assert np.array_equal(found.center_idx, wanted[f"point.start{start}.center_idx"])
    assert np.array_equal(found.centers, wanted[f"point.start{start}.centers"])
    assert np.array_equal(found.group_idx.sort(-1)[0], wanted[f"point.start{start}.group_idx"])
    if start == 0:
        order = found.group_idx.argsort(-1)[..., None].expand(-1, -1, -1, 3)
        offsets = found.offsets.gather(2, order)[:, :4]
        near(offsets, wanted["point.start0.group_offsets_sorted_first4"], 1e-6)


def test_sampling_at_the_released_size() -> None:
    found = neighbourhoods(given("point.in.points_8192"), 512, 32)
    assert np.array_equal(found.center_idx, arrays()["point.full.center_idx"])
    assert np.array_equal(found.group_idx.sort(-1)[0], arrays()["point.full.group_idx"])


@pytest.mark.parametrize("start", [0, 123])
def test_point_encoder_is_that_of_the_reference(start: int) -> None:
    trunk = model().point_trunk
    groups = trunk.group(given("point.in.points"), start)
    wanted = {k: arrays()[f"point.start{start}.{k}"] for k in
              ("group_tokens", "encoder_out", "trunk_out", "prenorm", "out")}  # fmt: skip
    near(trunk.point_encoder.encoder(groups.offsets), wanted["group_tokens"])
    near(trunk.point_encoder(groups.offsets, groups.centers), wanted["encoder_out"])
    near(trunk.grouped(groups.offsets, groups.centers), wanted["trunk_out"])
    out = model()("point", groups)
    near(out.raw, wanted["prenorm"])
    near(out.scaled, wanted["out"])


def test_groups_of_points_are_for_the_transformer_of_points_alone() -> None:
    config = model().config
    assert config.point is not None
    groups = model().point_trunk.group(given("point.in.points"))
    with pytest.raises(UserError, match="Groups of points"):
        model()("depth", groups)
    with torch.device("meta"):
        hierarchy_of_points = replace(config, point=HierarchyConfig())
        others = [ImageBind(replace(config, point=None)), ImageBind(hierarchy_of_points)]
    for other in others:
        with pytest.raises(UserError, match="as a tensor"):
            other("point", groups)


def test_points_start_at_the_first_row() -> None:
    points = given("point.in.points")
    out = model()("point", points)
    near(out.scaled, arrays()["point.start0.out"])
    twice = model()("point", torch.stack((points, points), 1))
    near(twice.scaled, out.scaled.numpy(), 1e-5)


def test_farthest_points_of_fewer_points_than_asked() -> None:
    rows = farthest_points(torch.tensor([[[0.0, 0, 0], [1, 0, 0], [5, 0, 0]]]), 5)
    assert rows.tolist() == [[0, 2, 1, 0, 0]]


def test_hierarchical_encoder_is_that_of_the_reference() -> None:
    """Expected: the public forward pass of I2P-MAE in float64 with the first centre fixed to row 0."""
    widths, blocks = (12, 24, 48), (2, 1, 2)
    config = HierarchyConfig(widths, blocks, 6, (64, 32, 16), (16, 8, 8))
    encoder = PointHierarchy(config).eval()
    state = drawn(hierarchy("x", widths, blocks))
    encoder.load_state_dict({name.removeprefix("x."): value for name, value in state.items()})
    points = np.random.default_rng(3).normal(0, 1, (2, 300, 3))
    points /= np.sqrt((points**2).sum(-1)).max(-1)[:, None, None]
    wanted = np.load(DATA / "i2pmae_tiny.npz")["out"]
    with torch.no_grad():
        near(encoder(torch.from_numpy(points.astype(np.float32))), wanted)
        encoder.h_encoder.config = replace(config, radius=(9.0, 9.0, 9.0))
        unmasked = encoder(torch.from_numpy(points.astype(np.float32))).numpy()
    assert np.abs(unmasked - wanted).max() > 1e-2  # the radii matter


# ---------------------------------------------------------------- precision, compiling


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_points_the_same_way(dtype: torch.dtype) -> None:
    for modality in ("vision", "text", "audio", "depth", "thermal", "imu", "point"):
        x = given("point.in.points" if modality == "point" else f"in.{modality}")
        out = model(dtype)(modality, x)
        assert out.unit.dtype == torch.float32
        cosine = (out.unit * model()(modality, x).unit).sum(-1)
        assert float(cosine.min()) > (0.9995 if dtype == torch.float16 else 0.99)


@pytest.mark.parametrize("modality", ["vision", "text", "audio", "imu"])  # depth: as audio
def test_compiles_without_a_break(modality: str) -> None:
    made = model()
    run = torch.compile(lambda x: tuple(made(modality, x)), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        out = Outputs(*run(given(f"in.{modality}")))
    near(out.scaled, arrays()[f"out.{modality}"])


def test_point_transformer_compiles_without_a_break() -> None:
    trunk = model().point_trunk
    groups = trunk.group(given("point.in.points"))
    run = torch.compile(trunk.grouped, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        near(run(groups.offsets, groups.centers), arrays()["point.start0.trunk_out"])


def test_a_changed_tensor_is_noticed() -> None:
    """The comparison above can fail: five per cent on one matrix is far beyond the tolerance."""
    state = {k: v.clone() for k, v in tiny().items()}
    state["modality_trunks.imu.blocks.1.attn.bias_v"] *= 1.05
    changed = ImageBind(model().config)
    changed.load_state_dict(state)
    out = changed.eval()("imu", given("in.imu")).raw.detach().numpy()
    wanted = arrays()["prenorm.imu"]
    assert np.abs(out - wanted).max() > TOLERANCE * np.abs(wanted).max()
