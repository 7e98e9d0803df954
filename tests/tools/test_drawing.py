"""Boxes and the strip of what was not found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as pil

from anybind.content import Box
from anybind.drawing import draw_boxes


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (255, 99, 71), (0, 158, 255)])
def test_a_box_can_be_seen_on_any_ground(ground: tuple[int, int, int]) -> None:
    """Along the frame some pixel differs clearly from the ground, whatever that is."""
    drawn = np.asarray(
        draw_boxes(pil.new("RGB", (200, 150), ground), [Box("cat", (50, 40, 150, 120), 0.5)])
    ).astype(int)
    away = np.abs(drawn - ground).max(axis=2)
    for y in range(60, 110, 7):
        assert away[y, 48:58].max() > 60
    assert away[130:, :].max() == 0


def test_the_input_is_not_changed_and_size_is_kept() -> None:
    picture = pil.new("RGB", (100, 80), "grey")
    drawn = draw_boxes(picture, [Box("cat", (10, 10, 60, 60), 0.5)])
    assert np.asarray(picture).std() == 0
    assert drawn.size == picture.size
    assert np.asarray(drawn).std() > 0


def test_labels_have_their_own_colours() -> None:
    boxes = [Box("cat", (10, 40, 60, 90), 0.5), Box("dog", (120, 40, 170, 90), 0.5)]
    drawn = np.asarray(draw_boxes(pil.new("RGB", (200, 120), "white"), boxes)).astype(int)
    cat, dog = drawn[35, 14], drawn[35, 124]  # on the plates, left of the text
    assert np.abs(cat - dog).max() > 60


def test_what_was_not_found_is_listed_in_red_below() -> None:
    picture = pil.new("RGB", (200, 120), "white")
    drawn = draw_boxes(picture, [], ["a dog", "snow", "a long tennis racket", "a boat"])
    assert drawn.width == 200
    assert drawn.height > 140
    pixels = np.asarray(drawn).astype(int)
    assert (pixels[:120] == 255).all()
    strip = pixels[120:]
    red = (strip[..., 0] - strip[..., 1] > 100).sum()
    assert red > 100
    runs = (strip[..., 0] - strip[..., 1] > 100).sum(axis=1)
    assert runs.max() > 20  # struck through: a line in red


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.lists(
        st.builds(
            Box,
            st.text(max_size=30),
            st.tuples(*[st.floats(-50, 150, allow_nan=False)] * 4),
            st.floats(0, 1),
        ),
        max_size=4,
    ),
    st.lists(st.text(max_size=30), max_size=3),
)
def test_any_boxes_and_words_can_be_drawn(
    size: tuple[int, int], boxes: list[Box], words: list[str]
) -> None:
    drawn = draw_boxes(pil.new("RGB", size, "grey"), boxes, words)
    assert drawn.width == size[0]
    assert drawn.height >= size[1]
    assert (drawn.height > size[1]) == bool(words)
