"""Where the clips of a film or a sound lie: evenly from its beginning to its end."""

from __future__ import annotations

from fractions import Fraction


def clip_times(
    duration: float | Fraction, seconds: float | Fraction, clips: int
) -> list[tuple[Fraction, Fraction]]:
    """Beginning and end of each clip, in exact seconds.

    Clip `i` of `n` begins at `i * max(duration - seconds, 0) / (n - 1)`. What is shorter than a
    clip gives `n` times the same clip, whose end lies behind the end of the material.

    Raises:
        ValueError: no clip, or no length.
    """
    if clips < 1 or seconds <= 0 or duration < 0:
        raise ValueError(f"no clips: {clips} of {seconds} s in {duration} s")
    length = Fraction(seconds)
    # Taken as a float first, which is what the durations that the released code knows are.
    room = Fraction(max(float(duration) - float(seconds), 0.0))
    step = room / max(clips - 1, 1)
    return [(i * step, i * step + length) for i in range(clips)]
