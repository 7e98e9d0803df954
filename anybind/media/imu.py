"""Readings of an inertial sensor: tables of text, npy and npz, to [steps, 6].

Columns are accelerometer x y z, gyroscope x y z, in whatever units the file has (nothing is
converted), with an optional column of time before them. A heading may give another order by name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anybind.content import Motion
from anybind.errors import UserError
from anybind.media.arrays import as_float, fields, is_array, read_array, read_lines, read_table
from anybind.media.caps import CAPS, Caps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_JITTER = 0.02
"""Share of a step by which times may be uneven before the readings are interpolated."""


def decode_imu(data: bytes, label: str, caps: Caps = CAPS) -> Motion:
    """Decode readings to a `Motion`: float32 [steps, 6], and the rate if there is a time column.

    Six columns are the readings; seven are time and readings. Time is in seconds, unless the
    heading says otherwise (`time_ms`, `t (us)`, `timestamp_ns`). Where the times are uneven the
    readings are interpolated linearly to as many even steps.

    Raises:
        UserError: damaged, over the caps, of another shape, not finite, or time that does not
            rise; says what is wrong.
    """
    import numpy as np

    names: list[str] = []
    if is_array(data):
        table = as_float(read_array(data, label, caps.imu_steps * 8))
    else:
        lines = read_lines(data, label, caps.imu_steps)
        if lines and re.search(r"[A-DF-Za-df-z]", re.sub(r"(?i)nan|inf(inity)?", "", lines[0])):
            names, lines = _heading(lines[0]), lines[1:]
        table = read_table(lines, label, 1, 1 + bool(names))
    _check_shape(table, names, label, caps)
    order, clock, unit = _order(names, table.shape[1], label)
    readings, time = table[:, order], None if clock is None else table[:, clock] * unit
    if not np.isfinite(table).all():
        bad = int((~np.isfinite(table)).any(axis=1).sum())
        raise UserError(f"{label}: {bad} of {len(table)} rows hold NaN or infinite numbers.")
    with np.errstate(over="ignore"):
        if not np.isfinite(readings.astype(np.float32)).all():
            raise UserError(f"{label} holds numbers that are too large for readings of a sensor.")
    if time is None:
        return Motion(np.ascontiguousarray(readings, dtype=np.float32), None)
    return _timed(readings, time, label)


def _check_shape(table: NDArray[np.float64], names: list[str], label: str, caps: Caps) -> None:
    wanted = "IMU readings are [steps, 6]: accelerometer x y z, gyroscope x y z (time before them)"
    if table.ndim and len(table) < 2:
        raise UserError(f"{label} holds {len(table)} readings; two or more are needed.")
    if table.ndim != 2 or table.shape[1] not in (6, 7):
        turned = table.ndim == 2 and table.shape[0] in (6, 7)
        hint = " It seems to lie on its side: transpose it." if turned else ""
        if table.ndim == 2 and table.shape[1] == 3:
            hint = " These may be one sensor's x y z; both sensors are needed."
        raise UserError(f"{label} has the shape {list(table.shape)}. {wanted}.{hint}")
    if names and len(names) != table.shape[1]:
        raise UserError(
            f"{label} has {len(names)} headings over {table.shape[1]} columns; give one for each."
        )
    if len(table) > caps.imu_steps:
        raise UserError(f"{label} has {len(table)} readings; the limit is {caps.imu_steps}.")


def _heading(line: str) -> list[str]:
    """Names of columns; those with blanks in them are told apart by commas."""
    cells = line.split(",") if "," in line else line.split(";") if ";" in line else fields(line)
    return [c.strip().strip("\"'").lower() for c in cells]


def _order(names: list[str], columns: int, label: str) -> tuple[list[int], int | None, float]:
    """Columns in our order, the column of time, and its unit in seconds."""
    if not names:
        return (list(range(columns - 6, columns)), 0 if columns == 7 else None, 1.0)
    clock = next((i for i, n in enumerate(names) if re.match(r"t$|t[\W_]|time|sec", n)), None)
    rest = [i for i in range(columns) if i != clock]
    if len(rest) != 6:
        raise UserError(
            f"{label}: of the columns {', '.join(names)}, six must be readings and at most one "
            "time (called time, t or timestamp)."
        )
    unit = 1.0
    if clock is not None:
        said = re.search(r"[\W_](ns|us|ms|s|sec|seconds)\W*$", names[clock])
        unit = _UNITS[said[1]] if said else 1.0
    known = {_channel(names[i]): i for i in rest}
    wanted = [s + axis for s in "ag" for axis in "xyz"]
    if set(known) == set(wanted):
        rest = [known[w] for w in wanted]
    return rest, clock, unit


def _channel(name: str) -> str:
    """ "ax" for the accelerometer's x, "gz" for the gyroscope's z; "" if the name does not say."""
    bare = re.sub(r"\(.*\)|\[.*\]", "", name)
    found = re.fullmatch(r"(a|acc\w*?|lin\w*?|g|gyr\w*?|w|omega|ang\w*?)[\W_]*([xyz])[\W_]*", bare)
    if found is None:
        return ""
    return ("a" if found[1][0] in "al" and not found[1].startswith("ang") else "g") + found[2]


def _timed(readings: NDArray[np.float64], time: NDArray[np.float64], label: str) -> Motion:
    import numpy as np

    steps = np.diff(time)
    if not (steps > 0).all():
        at = int(np.argmin(steps > 0)) + 2
        raise UserError(f"{label}: the time does not rise at row {at}; sort the rows by time.")
    step = float(time[-1] - time[0]) / len(steps)
    rate = 1.0 / step
    if not 0.1 <= rate <= 100_000:
        raise UserError(
            f"{label}: {rate:.3g} readings a second can't be; time is in seconds, or head its "
            "column time_ms, time_us or time_ns."
        )
    even = time[0] + step * np.arange(len(time))
    if float(np.abs(time - even).max()) > _JITTER * step:
        columns: list[NDArray[np.float64]] = [np.interp(even, time, c) for c in readings.T]
        readings = np.stack(columns, axis=1)
    return Motion(np.ascontiguousarray(readings, dtype=np.float32), rate)
