"""From pixels, sound and points to a reply: the whole chain against the public reference code."""

from __future__ import annotations

import numpy as np
import torch

from anybind.content import Embedding
from anybind.core_model.encoders.imagebind import ImageBind
from anybind.core_model.encoders.imagebind_weights import infer_config
from anybind.core_model.mixing import mix
from tests.core_model import test_parity_llm as llm
from tests.core_model.imagebind_files import TINY_SETTINGS, tiny
from tests.core_model.imagebind_files import arrays as inputs

torch.set_num_threads(1)


@torch.inference_mode()
def test_a_picture_a_sound_and_a_cloud_become_a_reply() -> None:
    state = tiny()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    with torch.device("meta"):
        encoder = ImageBind(infer_config(shapes, TINY_SETTINGS, TINY_SETTINGS))
    encoder.load_state_dict(state, strict=True, assign=True)
    encoder.eval()
    places = {"Image": ("vision", "in.vision"), "Audio": ("audio", "in.audio")}
    places["Point"] = ("point", "point.in.points")
    embeddings: list[Embedding] = []
    weights: list[float] = []
    for kind, _, weight in llm.case("end_to_end")["inputs"]:
        modality, name = places[kind]
        row = encoder(modality, torch.from_numpy(inputs()[name][:1])).unit[0]
        embeddings.append(Embedding.of(row.numpy()))
        weights.append(weight)
    mixed = mix(embeddings, weights).data
    expected = llm.arrays()
    np.testing.assert_allclose(mixed, expected["end_to_end.mix"][0], atol=1e-5)
    network, model = llm.bind("adapter"), llm.decoder("adapter")
    feature = torch.from_numpy(mixed)[None]
    np.testing.assert_allclose(
        network.bind(feature).numpy(), expected["end_to_end.bind"][0], atol=1e-4
    )
    inject = network(feature, model)
    ids = torch.from_numpy(expected[llm.case("end_to_end")["tokens"]])
    logits = model(ids, inject=inject, site="attention_output")
    np.testing.assert_allclose(logits.numpy(), expected["end_to_end.logits"], atol=5e-4)
    assert llm.greedy(model, ids, inject) == expected["end_to_end.greedy"].tolist()
