"""KV prefixes: what is taken over, and what never is."""

from __future__ import annotations

from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from anybind.core_model.llama import KVCache, LlamaConfig
from anybind.core_model.prefix import PrefixStore, Slot

CONFIG = LlamaConfig(10, 4, 1, 1, 1, 4, context_length=1024)


def run(store: PrefixStore, condition: str, tokens: list[int]) -> int:
    """Take, "compute" and give back; how much was taken over."""
    slot, cached = store.take(condition, tokens, len(tokens))
    _fill(slot, tokens)
    store.give(slot)
    return cached


def _fill(slot: Slot, tokens: list[int]) -> None:
    slot.cache.length = len(tokens)
    slot.tokens = list(tokens)


def test_a_growing_prompt_is_taken_over() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    prompt = list(range(40))
    assert run(store, "a", prompt) == 0
    assert run(store, "a", [*prompt, 1, 2, 3]) == 40
    # The same again: the logits of the last token are wanted, so that one is computed.
    assert run(store, "a", [*prompt, 1, 2, 3]) == 42


def test_another_condition_takes_nothing_over() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    run(store, "a", list(range(40)))
    assert run(store, "b", list(range(40))) == 0
    assert run(store, "", list(range(40))) == 0


def test_a_conversation_keeps_its_slot_beside_another() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    first, second = list(range(100)), list(range(500, 600))
    run(store, "a", first)
    run(store, "a", second)
    assert run(store, "a", [*first, 7]) == 100
    assert run(store, "a", [*second, 7]) == 100


def test_a_slot_in_use_is_nobody_elses() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    run(store, "a", list(range(40)))
    one, cached = store.take("a", list(range(50)), 50)
    two, other = store.take("a", list(range(50)), 50)
    assert one is not two and one.cache is not two.cache
    assert (cached, other) == (40, 0)


def test_a_slot_left_half_done_is_dropped() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    slot, _ = store.take("a", list(range(40)), 40)
    slot.cache.length = 7
    store.give(slot)
    assert run(store, "a", list(range(40))) == 0


def test_clear_forgets() -> None:
    store = PrefixStore(partial(KVCache, CONFIG))
    run(store, "a", list(range(40)))
    store.clear()
    assert run(store, "a", list(range(40))) == 0


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b", "c", "d"]),
            st.lists(st.integers(0, 2), min_size=1, max_size=30),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_what_is_taken_over_was_computed_under_that_condition(
    calls: list[tuple[str, list[int], bool]],
) -> None:
    store = PrefixStore(partial(KVCache, CONFIG), slots=3)
    done: set[tuple[str, tuple[int, ...]]] = set()
    for condition, tokens, finish in calls:
        slot, cached = store.take(condition, tokens, len(tokens))
        assert 0 <= cached < len(tokens)
        assert slot.condition == condition
        assert slot.tokens == tokens[:cached] and slot.cache.length == cached
        assert slot.cache.capacity >= len(tokens)
        assert cached == 0 or (condition, tuple(tokens[:cached])) in done
        if finish:
            _fill(slot, tokens)
            done |= {(condition, tuple(tokens[:n])) for n in range(1, len(tokens) + 1)}
        store.give(slot)
        assert len(store._kept) <= 3
