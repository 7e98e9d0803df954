"""SmolLM2 from its GGUF against transformers, both with the same dequantised weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from anybind.assembly import Assembly
from anybind.contracts import Build
from anybind.core_model.factory import build
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.llama import Llama
from anybind.core_model.prompts import chatml

torch.set_num_threads(1)

PROMPTS = (
    chatml([("user", "What is the capital of France?")]),
    chatml([("system", "Answer in one word."), ("user", "Which animal barks? Dog or cat?")]),
    "Once upon a time, in 1987, there lived a naïve old fox who",
)


def _plain(nano: Assembly, precision: str) -> InjectedLanguageModel:
    """The decoder of the file alone, without what nano tuned of it."""
    weights = {"decoder": nano.weight(nano.bundle.model.weights["decoder"])}
    return build(Build(weights=weights, options={"chat": "chatml", "precision": precision}))


@pytest.fixture(scope="module")
def shipped(nano: Assembly) -> InjectedLanguageModel:
    """In 4 bits, as the file."""
    return _plain(nano, "int4")


@pytest.fixture(scope="module")
def model(nano: Assembly) -> InjectedLanguageModel:
    """The same in float32."""
    return _plain(nano, "float32")


@pytest.fixture(scope="module")
def theirs(model: InjectedLanguageModel) -> Iterator[Any]:
    """transformers' model, filled with the tensors of the file; q and k in HF's row order."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config, state = model.decoder.config, model.decoder.state_dict()
    with torch.device("meta"):
        other = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size, hidden_size=config.dim,
                intermediate_size=config.ffn_dim, num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads, num_key_value_heads=config.n_kv_heads,
                rms_norm_eps=config.norm_eps, max_position_embeddings=config.context_length,
                rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
                tie_word_embeddings=True,
            )
        )  # fmt: skip
    named: dict[str, torch.Tensor] = {
        "model.embed_tokens.weight": state["tok_embeddings.weight"],
        "model.norm.weight": state["norm.weight"],
        "lm_head.weight": state["tok_embeddings.weight"],
    }
    parts = {
        "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
        "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj",
    }  # fmt: skip
    for i in range(config.n_layers):
        for mine, name in parts.items():
            tensor = state[f"layers.{i}.{mine}.weight"]
            if mine in ("attention.wq", "attention.wk"):
                # Neighbouring pairs (2j, 2j+1) become halves (j, j + head_dim / 2).
                heads = tensor.shape[0] // config.head_dim
                pairs = tensor.view(heads, config.head_dim // 2, 2, config.dim)
                tensor = pairs.transpose(1, 2).reshape(tensor.shape)
            named[f"model.layers.{i}.{name}.weight"] = tensor
    other.load_state_dict(named, assign=True, strict=True)
    other.model.rotary_emb = type(other.model.rotary_emb)(other.config)
    other.tie_weights()
    yield other.eval().requires_grad_(False)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.inference_mode()
def test_logits_are_those_of_transformers(
    model: InjectedLanguageModel, theirs: Any, prompt: str
) -> None:
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    expected = theirs(ids).logits
    got = model.decoder(ids)
    assert expected.std() > 1
    # fp32 noise of 30 layers; the logits reach about 30.
    torch.testing.assert_close(got, expected, atol=5e-4, rtol=1e-4)
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@torch.inference_mode()
def test_greedy_replies_are_those_of_transformers(
    model: InjectedLanguageModel, theirs: Any
) -> None:
    from anybind.contracts import Delta, Finish, Sampling

    prompt = PROMPTS[0]
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    out = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        pad_token_id=0, eos_token_id=model.tokenizer.eos,
    )[0, ids.shape[1] :].tolist()  # fmt: skip
    said = list(model.stream(prompt, None, Sampling(max_tokens=12)))
    text = "".join(d.text for d in said if isinstance(d, Delta))
    assert text == model.tokenizer.decode(out)
    assert "Paris" in text
    end = said[-1]
    assert isinstance(end, Finish) and end.prompt_tokens == ids.shape[1]


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.inference_mode()
def test_in_four_bits_it_says_the_same(
    model: InjectedLanguageModel, shipped: InjectedLanguageModel, prompt: str
) -> None:
    """The weights are equal to the bit; only activations are rounded (to 16 bits)."""
    state, packed = model.decoder.state_dict(), shipped.decoder.state_dict()
    name = "layers.7.feed_forward.w2.weight"
    assert torch.equal(state[name], packed[name])
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    expected, got = model.decoder(ids)[0], shipped.decoder(ids)[0]
    assert torch.equal(got.argmax(-1), expected.argmax(-1))
    loss = torch.nn.functional.kl_div(
        got.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert loss < 1e-4


def test_the_sizes_are_those_of_the_file(model: InjectedLanguageModel) -> None:
    decoder: Llama = model.decoder
    c = decoder.config
    assert (c.n_layers, c.dim, c.n_heads, c.n_kv_heads, c.vocab_size) == (30, 576, 9, 3, 49152)
    assert c.tied and decoder.output.weight is decoder.tok_embeddings.weight
