"""Measures how good a photograph is technically: sharpness, light, contrast, noise, size.

Plain figures of the pixels with fixed limits; nothing about what is shown. Knows no tool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anybind.tools.pixels import Rgb, opencv, shrink

# The limits were set on clean photographs and on copies of them blurred (sigma 2 pixels), darkened
# to a quarter, and with noise of sigma 15 added.
BLURRED, SOFT = 0.30, 0.45
DARK, BRIGHT = 0.22, 0.80
FLAT = 0.10
NOISY = 6.0
CLIPPED = 0.2


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one picture."""

    width: int
    height: int
    sharpness: float
    """Share of edge strength that a small blur takes away, 0 (blurred) .. 1 (crisp)."""
    brightness: float
    """Mean lightness, 0..1."""
    contrast: float
    """Spread of lightness (5th to 95th percentile), 0..1."""
    noise: float
    """Standard deviation of the noise, in grey levels of 255."""
    clipped: float
    """Share of pixels that are pure black or pure white."""

    def faults(self) -> list[str]:
        """What a person would complain about, worst first."""
        found: list[str] = []
        if self.sharpness < BLURRED:
            found.append("blurred")
        elif self.sharpness < SOFT:
            found.append("slightly soft")
        if self.brightness < DARK:
            found.append("too dark")
        elif self.brightness > BRIGHT:
            found.append("too bright")
        if self.contrast < FLAT:
            found.append("flat")
        if self.noise > NOISY:
            found.append("noisy")
        if self.clipped > CLIPPED:
            found.append("shadows or highlights are lost")
        if min(self.width, self.height) < 256:
            found.append("small")
        return found

    def text(self) -> str:
        """The figures and the verdict in one line."""
        faults = self.faults()
        verdict = ", ".join(faults) if faults else "no fault found"
        return (
            f"Quality: {verdict}. {self.width} x {self.height} pixels, "
            f"sharpness {self.sharpness:.2f}, brightness {self.brightness:.2f}, "
            f"contrast {self.contrast:.2f}, noise {self.noise:.1f}, "
            f"lost tones {self.clipped:.0%}."
        )


def measure(pixels: Rgb) -> Quality:
    """The figures of a picture."""
    cv2 = opencv()
    height, width = pixels.shape[:2]
    grey = cv2.cvtColor(shrink(pixels, 1024), cv2.COLOR_RGB2GRAY).astype(np.float32)
    low, high = np.quantile(grey, (0.05, 0.95)) / 255
    noise = _noise(grey)
    return Quality(
        width=width,
        height=height,
        sharpness=_sharpness(grey, noise),
        brightness=float(grey.mean()) / 255,
        contrast=float(high - low),
        noise=noise,
        clipped=float(((grey <= 1) | (grey >= 254)).mean()),
    )


def _noise(grey: np.ndarray) -> float:
    """Immerkaer's estimate: a mask blind to edges and slopes, on the calmer half of the blocks."""
    cv2 = opencv()
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    inner = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel))[1:-1, 1:-1]
    if inner.size == 0:
        return 0.0
    blocks = cv2.resize(inner, (max(1, inner.shape[1] // 16), max(1, inner.shape[0] // 16)),
                        interpolation=cv2.INTER_AREA)  # fmt: skip
    calm = np.sort(blocks.ravel())[: max(1, blocks.size // 4)]
    return float(np.sqrt(np.pi / 2) / 6 * calm.mean())


def _sharpness(grey: np.ndarray, noise: float) -> float:
    """Crete's idea: blurring a sharp picture changes its steps much, a blurred one's little.

    Only steps well above the noise count; a picture without any is not sharp: 0.
    """
    cv2 = opencv()
    shares: list[float] = []
    for axis, size in ((1, (7, 1)), (0, (1, 7))):
        step = np.abs(np.diff(grey, axis=axis))
        blurred = np.abs(np.diff(cv2.blur(grey, size), axis=axis))
        counts = step > max(4.0, 4 * noise)
        if counts.sum() < 20:
            continue
        strongest = counts & (step >= np.quantile(step[counts], 0.8))
        lost = np.maximum(step - blurred, 0)[strongest].sum()
        shares.append(float(lost / step[strongest].sum()))
    return float(np.mean(shares)) if shares else 0.0
