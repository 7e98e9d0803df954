"""Readings of an inertial sensor for the IMU tower: 2,000 steps over 5 seconds.

No loader was released with ImageBind and its normalisation is not published: the readings go in
with the units that they have. Ego4D, on which the tower was trained, gives m/s^2 and rad/s.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from anybind.content import Motion
from anybind.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 2000
SECONDS = 5.0


def imu_tensor(
    samples: Motion | NDArray[np.float32],
    *,
    rate: float | None = None,
    start: float | None = None,
    seconds: float = SECONDS,
) -> Tensor:
    """Readings as the IMU encoder of ImageBind takes them.

    With a rate (of the `Motion`, or given), a window of `seconds` is resampled linearly to 2,000
    steps: the middle of a longer recording, or what begins at `start`. A shorter recording keeps
    its pace; its last reading is held for the rest. Without a rate the recording is taken to last
    `seconds`, so the whole of it becomes 2,000 steps; 2,000 readings come through unchanged.

    Args:
        samples: [T, 6], accelerometer x y z, gyroscope x y z.
        rate: Readings a second; overrides that of a `Motion`.
        start: Where the window begins, in seconds; only with a rate.
        seconds: Length of the window.

    Returns:
        float32 [6, 2000].

    Raises:
        UserError: another shape, one reading, numbers that are not finite, or a `start` that is
            not in the recording.
    """
    if isinstance(samples, Motion):
        rate = samples.rate if rate is None else rate
        samples = samples.samples
    readings = np.asarray(samples, np.float64)
    if readings.ndim != 2 or readings.shape[1] != 6 or len(readings) < 2:
        raise UserError(
            f"IMU readings are [steps, 6] with two steps or more, not {list(readings.shape)}."
        )
    if not np.isfinite(readings).all():
        raise UserError("The IMU readings hold numbers that are not finite.")
    if rate is None:
        if start is not None:
            raise UserError("Where a window starts can be said only if the rate is known.")
        at = np.arange(STEPS) * ((len(readings) - 1) / (STEPS - 1))
    else:
        if not 0 < rate < math.inf:
            raise UserError(f"The rate of IMU readings is above 0 a second, not {rate}.")
        total = len(readings) / rate
        begin = max((total - seconds) / 2, 0.0) if start is None else start
        if not 0 <= begin < total:
            raise UserError(f"The recording lasts {total:.2f} s; it has no window at {begin} s.")
        at = (begin + np.arange(STEPS) * (seconds / STEPS)) * rate
    known = np.arange(len(readings))
    out = np.stack([np.interp(at, known, column) for column in readings.T])
    return torch.from_numpy(out.astype(np.float32))
