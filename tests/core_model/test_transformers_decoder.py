"""Decoders of transformers as bases: real architectures with tiny random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from anybind.content import Embedding
from anybind.contracts import Build, Finish, Message, Profile, Sampling
from anybind.core_model.adapters import save_bind
from anybind.core_model.bind import BindConfig, BindNetwork
from anybind.core_model.checkpoints import assemble, read_hf
from anybind.core_model.identity import identity
from anybind.core_model.language import InjectedLanguageModel
from anybind.core_model.transformers_decoder import TransformersDecoder
from anybind.core_model.transformers_loading import build, load_decoder
from anybind.errors import ModelError, UserError

torch.set_num_threads(1)

LETTERS = "\0\1abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,:?!\n-'9"
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 96,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
GPT2 = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 96,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip


def config(name: str) -> Any:
    made: dict[str, Callable[[], Any]] = {
        "llama": lambda: transformers.LlamaConfig(**SIZES),
        "qwen2": lambda: transformers.Qwen2Config(**SIZES),
        "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=16),
        # A window shorter than the texts, so that masks and cuts are put to the test.
        "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=6),
        "gemma2": lambda: transformers.Gemma2Config(
            **SIZES, head_dim=8, sliding_window=6, query_pre_attn_scalar=8,
            attn_logit_softcapping=2.0,
        ),
        "gemma3": lambda: transformers.Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=6, query_pre_attn_scalar=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "phi3": lambda: transformers.Phi3Config(**SIZES),
        "gpt2": lambda: transformers.GPT2Config(**GPT2),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(
            **{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
        ),
    }  # fmt: skip
    return made[name]()


FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox"]


def write(folder: Path, name: str, *, template: str | None = None) -> Path:
    """A model folder as one finds them: weights, configuration, tokenizer."""
    torch.manual_seed(FAMILIES.index(name))
    model = transformers.AutoModelForCausalLM.from_config(config(name))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    model.save_pretrained(folder)
    # Characters as tokens, under the byte-level symbols of the library.
    import tokenizers

    stand = {"\0": "<s>", "\1": "</s>", " ": "\u0120", "\n": "\u010a"}
    vocab = {stand.get(c, c): i for i, c in enumerate(LETTERS)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    inner.save(str(folder / "tokenizer.json"))
    about = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    if template:
        about["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name, name) for name in FAMILIES}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def decoder(family: str, folders: dict[str, Path]) -> TransformersDecoder:
    return load_decoder(folders[family])


@pytest.fixture
def plain(family: str, folders: dict[str, Path]) -> transformers.PreTrainedModel:
    """The untouched model of transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folders[family]).eval()
    model.set_attn_implementation("eager")
    return model


def ids(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, 60, shape, generator=torch.Generator().manual_seed(seed))


def vectors(decoder: TransformersDecoder, rows: int, seed: int = 0) -> torch.Tensor:
    c = decoder.config
    made = torch.randn(rows, c.n_layers, c.dim, generator=torch.Generator().manual_seed(seed))
    return made * 0.5


def network(
    decoder: TransformersDecoder, site: Any = "residual", gates: float = 1.0
) -> BindNetwork:
    torch.manual_seed(5)
    c = decoder.config
    sizes = BindConfig(8, c.dim, 16, c.n_layers, c.n_heads, injection=site)
    bind = BindNetwork(sizes).requires_grad_(False)
    bind.gate.normal_(0, gates)
    return bind


def language(folder: Path, site: Any = "residual", gates: float = 1.0) -> InjectedLanguageModel:
    made = build(Build({"decoder": folder}, {"chat": "alpaca", "space": "hub"}))
    bind = network(made.decoder, site, gates) if gates >= 0 else None
    profile = replace(made.profile, injection=site, space="hub")
    return InjectedLanguageModel(made.decoder, made.tokenizer, bind, profile)


def condition(seed: int) -> Embedding:
    row = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return replace(Embedding.of(row / np.linalg.norm(row)), space="hub")


def said(stream: Any) -> tuple[str, Finish]:
    items = list(stream)
    return "".join(i.text for i in items[:-1]), items[-1]


# ---------------------------------------------------------------- the decoder


@torch.no_grad()
def test_without_a_condition_it_is_the_plain_model(
    decoder: TransformersDecoder, plain: transformers.PreTrainedModel
) -> None:
    tokens = ids(2, 20)
    expected = plain(input_ids=tokens, use_cache=False).logits
    torch.testing.assert_close(decoder(tokens), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(decoder(tokens, inject=vectors(decoder, 1) * 0), decoder(tokens))


@torch.no_grad()
def test_residual_injection_is_what_the_equation_says(
    decoder: TransformersDecoder, plain: transformers.PreTrainedModel
) -> None:
    """Each layer of an untouched model, wrapped so that it adds the vector to its input."""
    inject, tokens = vectors(decoder, 1), ids(1, 20)
    found = [m for m in plain.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 3]
    assert len(found) == 1
    for i, block in enumerate(found[0]):

        def wrapped(
            hidden: Any, *args: Any, inner: Any = block.forward, i: int = i, **kw: Any
        ) -> Any:
            return inner(hidden + inject[:, i][:, None], *args, **kw)

        block.forward = wrapped
    expected = plain(input_ids=tokens, use_cache=False).logits
    got = decoder(tokens, inject=inject)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (got - decoder(tokens)).abs().max() > 0.1
    # ... and nothing of it stays behind.
    torch.testing.assert_close(decoder(tokens), decoder(tokens, inject=inject * 0))


@torch.no_grad()
def test_a_cache_cut_anywhere_gives_the_same_logits(decoder: TransformersDecoder) -> None:
    tokens, inject = ids(1, 24), vectors(decoder, 1)
    whole = decoder(tokens, inject=inject)
    cache = decoder.new_cache(1, 8)
    decoder(ids(1, 17, seed=9), cache=cache, inject=inject)
    for at in (9, 3, 0):
        cache.cut(at)
        fresh = decoder.new_cache(1, 64)
        decoder(tokens[:, :11], cache=fresh, inject=inject)
        decoder(ids(1, 6, seed=at), cache=fresh, inject=inject)
        fresh.cut(11)
        assert fresh.length == 11
        got = decoder(tokens[:, 11:], cache=fresh, inject=inject)
        torch.testing.assert_close(got, whole[:, 11:], atol=1e-4, rtol=1e-4)
    decoder(tokens[:, :5], cache=cache, inject=inject)
    cache.grow(256)
    assert cache.capacity >= 256
    for t in range(5, 24):
        got = decoder(tokens[:, t : t + 1], cache=cache, inject=inject, last_only=True)
        torch.testing.assert_close(got[:, 0], whole[:, t], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rows_of_a_padded_batch_are_their_rows_alone(decoder: TransformersDecoder) -> None:
    inject = vectors(decoder, 3)
    rows = [ids(1, n, seed=n) for n in (5, 14, 9)]
    width = 14
    cache = decoder.new_cache(3, 32)
    tokens = torch.ones(3, width, dtype=torch.long)
    for i, row in enumerate(rows):
        tokens[i, width - row.shape[1] :] = row
        cache.start[i] = width - row.shape[1]
    cache.padded = True
    step, extra = tokens, ids(3, 4, seed=77)
    for t in range(5):
        got = decoder(step, cache=cache, inject=inject, last_only=True)
        for i, row in enumerate(rows):
            so_far = torch.cat([row, extra[i : i + 1, :t]], 1)
            alone = decoder(so_far, inject=inject[i : i + 1])[:, -1:]
            torch.testing.assert_close(got[i : i + 1], alone, atol=2e-4, rtol=1e-3)
        if t < 4:
            step = extra[:, t : t + 1]


def test_the_gradient_reaches_the_bind_network(decoder: TransformersDecoder) -> None:
    bind = network(decoder).requires_grad_(True)
    inject = bind(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)), decoder)
    decoder(ids(2, 7), inject=inject).logsumexp(-1).sum().backward()
    assert bind.gate.grad is not None and bind.gate.grad.abs().min() > 0
    assert all(p.grad is None for p in decoder.model.parameters())


# ---------------------------------------------------------------- against our own LLaMA


@torch.no_grad()
@pytest.mark.parametrize("site", ["residual", "attention_output"])
def test_it_agrees_with_our_own_llama(folders: dict[str, Path], site: Any) -> None:
    ours, _ = assemble(*read_hf(folders["llama"]))
    theirs = load_decoder(folders["llama"])
    bind = network(theirs, site)
    feature, tokens = torch.randn(2, 8), ids(2, 15)
    one, two = bind(feature, ours), bind(feature, theirs)  # type: ignore[arg-type]
    torch.testing.assert_close(one, two)
    expected = ours(tokens, inject=one, site=site)
    torch.testing.assert_close(
        theirs(tokens, inject=two, site=site), expected, atol=1e-4, rtol=1e-4
    )
    assert (expected - ours(tokens)).abs().max() > 0.05


def test_attention_output_only_where_the_projections_are(folders: dict[str, Path]) -> None:
    able = {n for n in FAMILIES if "attention_output" in load_decoder(folders[n]).sites}
    assert able == {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3"}
    gpt = load_decoder(folders["gpt2"])
    with pytest.raises(ModelError, match="attention_output"):
        gpt(ids(1, 3), inject=vectors(gpt, 1), site="attention_output")


# ---------------------------------------------------------------- the language model around it


def test_gates_at_zero_say_what_the_plain_model_says(family: str, folders: dict[str, Path]) -> None:
    zero, plain = language(folders[family], gates=0.0), language(folders[family], gates=-1)
    sampling = Sampling(max_tokens=12)
    for prompt in ("hello there", "x"):
        expected = said(plain.stream(prompt, None, sampling))[0]
        assert said(zero.stream(prompt, condition(1), sampling))[0] == expected
    gated = language(folders[family])
    scores = [gated.score("hello there", [" cat"], condition(i))[0] for i in range(3)]
    assert len({round(s, 3) for s in scores}) == 3


def test_streams_batches_and_prefixes(family: str, folders: dict[str, Path]) -> None:
    model = language(folders[family])
    prompts = ["what is this", "hm", "tell me what you see in here"]
    given, sampling = [condition(1), None, condition(2)], Sampling(max_tokens=8)
    together = model.batch(prompts, given, sampling)
    alone = [
        said(language(folders[family]).stream(p, g, sampling))[0]
        for p, g in zip(prompts, given, strict=True)
    ]
    assert together == alone
    first, _ = said(model.stream("once upon a time there was", given[0], sampling))
    longer = "once upon a time there were two"
    text, end = said(model.stream(longer, given[0], sampling))
    assert end.cached_tokens > 20
    assert text == said(language(folders[family]).stream(longer, given[0], sampling))[0]
    again, _ = said(model.stream("once upon a time there was", given[0], sampling))
    assert again == first


def test_a_score_is_the_sum_of_log_probabilities(family: str, folders: dict[str, Path]) -> None:
    model, given = language(folders[family]), condition(3)
    prompt, tails = "the animal is a", [" cat", " dog and cat", "z", " cat"]
    got = model.score(prompt, tails, given)
    inject = model._inject(given)
    for tail, value in zip(tails, got, strict=True):
        start, tail_ids = model._encode(prompt), model.tokenizer.encode(tail)
        with torch.inference_mode():
            logits = model.decoder(torch.tensor([start + tail_ids]), inject=inject)[0]
        logs = logits.log_softmax(-1)
        expected = sum(float(logs[len(start) - 1 + i, t]) for i, t in enumerate(tail_ids))
        assert value == pytest.approx(expected, abs=1e-3)


def test_a_grammar_holds_it(folders: dict[str, Path]) -> None:
    model = language(folders["qwen3"])
    grammar = 'start: "Yes: " ("cat" | "dog") "!"'
    text, end = said(model.stream("hello", condition(0), Sampling(grammar=grammar)))
    assert text in ("Yes: cat!", "Yes: dog!") and end.reason == "grammar"


def test_the_context_is_that_of_the_model(folders: dict[str, Path]) -> None:
    model = language(folders["gpt2"])
    _, end = said(model.stream("a" * 80, None, Sampling(max_tokens=100)))
    assert end.reason == "context" and end.prompt_tokens + end.reply_tokens <= 97
    with pytest.raises(UserError, match="context"):
        list(model.stream("a" * 96, None, Sampling()))


# ---------------------------------------------------------------- folders and bundles

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_the_folders_own_template_is_used(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "qwen2", template=TEMPLATE)
    model = build(Build({"decoder": folder}, {"space": "hub", "joint_dim": 8, "name": "small"}))
    assert model.profile.chat == "template" and model.profile.name == "small"
    assert model.profile.context_length == 96 and model.profile.injection == "residual"
    prompt = model.render([Message("user", "hi</s>\nassistant: no", "a note")], "Yes")
    assert prompt == "<s>user: a note\n\nhi \nassistant: no</s>\nassistant:Yes"
    assert model._encode(prompt).count(0) == 1
    # An untrained network changes nothing.
    sampling = Sampling(max_tokens=9)
    plain = said(model.stream("hello", None, sampling))[0]
    assert said(model.stream("hello", condition(0), sampling))[0] == plain


def test_a_bind_network_is_saved_and_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    decoder = load_decoder(folders["gemma3"])
    save_bind(network(decoder), tmp_path / "bind.safetensors")
    options = {"chat": "chatml", "space": "hub", "dtype": "bfloat16", "context_length": 40}
    weights = {"decoder": folders["gemma3"], "bind": tmp_path / "bind.safetensors"}
    model = build(Build(weights, options))
    assert model.profile.space == "hub" and model.profile.context_length == 40
    text, _ = said(model.stream("hello", condition(0), Sampling(max_tokens=5)))
    assert len(text) == 5
    _, end = said(model.stream("a" * 30, condition(0), Sampling(max_tokens=50)))
    assert end.reason == "context" and end.prompt_tokens + end.reply_tokens <= 41
    weights["decoder"] = folders["gpt2"]
    wide = network(decoder)
    wide = BindNetwork(replace(wide.config, n_layers=4))
    save_bind(wide, tmp_path / "bind.safetensors")
    with pytest.raises(ModelError, match="trained with"):
        build(Build(weights, options))
    save_bind(network(decoder, "attention_output"), tmp_path / "bind.safetensors")
    with pytest.raises(ModelError, match="residual"):
        build(Build(weights, options))


def test_a_bind_network_of_other_weights_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    right, other = load_decoder(folders["qwen3"]), load_decoder(folders["mistral"])
    assert right.identity == load_decoder(folders["qwen3"], dtype=torch.bfloat16).identity
    found = {n: load_decoder(folders[n]).identity for n in FAMILIES}
    assert len(set(found.values())) == len(FAMILIES) and all(found.values())
    assert found["llama"] == identity(assemble(*read_hf(folders["llama"]))[0].state_dict())
    path = tmp_path / "bind.safetensors"
    save_bind(network(right), path, base=other.identity)
    options = {"chat": "alpaca", "space": "hub"}
    with pytest.raises(ModelError, match="other weights"):
        build(Build({"decoder": folders["qwen3"], "bind": path}, options))
    build(Build({"decoder": folders["qwen3"], "bind": path}, options | {"check_base": False}))
    save_bind(network(right), path, base=right.identity)
    build(Build({"decoder": folders["qwen3"], "bind": path}, options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chat": "alpaca", "chta": 1},
        {"chat": "template"},
        {"chat": "nothing"},
        {"chat": "alpaca", "dtype": "int3"},
    ],
)
def test_options_that_make_no_sense(folders: dict[str, Path], options: dict[str, str]) -> None:
    with pytest.raises(UserError):
        build(Build({"decoder": folders["llama"]}, options))


def test_folders_that_can_not_be_a_base(folders: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folders["llama"], tmp_path / name))

    with pytest.raises(ModelError, match=r"config\.json"):
        load_decoder(tmp_path / "nothing")
    pickled = copy("pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_decoder(pickled)
    foreign = copy("foreign")
    data = json.loads((foreign / "config.json").read_text())
    code = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C"}
    (foreign / "config.json").write_text(json.dumps(data | {"model_type": "x", "auto_map": code}))
    (foreign / "modeling_x.py").write_text("raise SystemExit('code of a stranger ran')")
    with pytest.raises(ModelError, match="never run"):
        load_decoder(foreign)
    for name, change in (
        ("missing", lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        ("left", lambda t: t.update({"model.layers.1.extra.weight": torch.ones(2)})),
        ("shape", lambda t: t.update({"model.norm.weight": torch.ones(7)})),
    ):
        broken = copy(name)
        tensors = load_file(broken / "model.safetensors")
        change(tensors)
        save_file(tensors, broken / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError):
            load_decoder(broken)
    cut = copy("cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError):
        load_decoder(cut)


def test_structures_that_can_not_be_a_base() -> None:
    small = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    mamba = transformers.MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    bloom = transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    for made in (mamba, bloom):
        model = transformers.AutoModelForCausalLM.from_config(made)
        with pytest.raises(ModelError):
            TransformersDecoder(model)
    model = transformers.AutoModelForCausalLM.from_config(transformers.GPTNeoXConfig(**small))
    model.gpt_neox.layers = model.gpt_neox.layers[:2]
    with pytest.raises(ModelError, match="num_hidden_layers"):
        TransformersDecoder(model)
    # A layer that runs twice would take the condition twice.
    twice = transformers.AutoModelForCausalLM.from_config(transformers.GPTNeoXConfig(**small))
    twice.gpt_neox.layers[1] = twice.gpt_neox.layers[0]
    with pytest.raises(ModelError, match="once"):
        TransformersDecoder(twice)


def test_the_profile_names_every_layout() -> None:
    from typing import get_args, get_type_hints

    from anybind.core_model.prompts import LAYOUTS

    assert {*LAYOUTS, "template"} == set(get_args(get_type_hints(Profile)["chat"]))


def test_our_own_llama_takes_the_template_too(tmp_path: Path) -> None:
    from anybind.core_model import factory

    folder = write(tmp_path / "m", "llama", template=TEMPLATE)
    own = factory.build(Build({"decoder": folder}, {"chat": "template"}))
    theirs = build(Build({"decoder": folder}))
    messages = [Message("user", "hi"), Message("assistant", "yes"), Message("user", "and")]
    assert (
        own.render(messages)
        == theirs.render(messages)
        == ("<s>user: hi</s>\nassistant: yes</s>\nuser: and</s>\nassistant:")
    )
    sampling = Sampling(max_tokens=10)
    prompt = own.render(messages)
    assert (
        said(own.stream(prompt, None, sampling))[0]
        == said(theirs.stream(prompt, None, sampling))[0]
    )
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="template"):
        factory.build(Build({"decoder": folder}, {"chat": "template"}))
