"""What a load did with the tensors of a file, and the error when they don't account for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from anybind.errors import ModelError


@dataclass(frozen=True)
class LoadReport:
    """Every tensor of a file and every tensor that was wanted, accounted for."""

    loaded: int
    ignored: tuple[str, ...] = ()
    """Known and not needed: rotary buffers, parts of another model."""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()
    """As "name is (2, 3), expected (3, 2)"."""
    identity: str = ""
    """Which base these weights are (see `anybind.core_model.identity`); "" is unknown."""

    @property
    def fits(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded"]
        for label in ("missing", "unexpected", "ignored"):
            names: tuple[str, ...] = getattr(self, label)
            if names:
                parts.append(f"{len(names)} {label} ({_some(names)})")
        if self.wrong_shape:
            parts.append(f"{len(self.wrong_shape)} of another shape: {_some(self.wrong_shape)}")
        return ", ".join(parts)


class UnfitError(ModelError):
    """The tensors of a file don't fit the model; `report` says all of it."""

    def __init__(self, name: str, report: LoadReport) -> None:
        super().__init__(f"{name} does not fit: {report}.")
        self.name = name
        self.report = report

    def __reduce__(self) -> tuple[type[UnfitError], tuple[str, LoadReport]]:
        return type(self), (self.name, self.report)


def compare(
    name: str,
    found: Mapping[str, Iterable[int]],
    wanted: Mapping[str, Iterable[int]],
    ignored: Iterable[str] = (),
) -> LoadReport:
    """The report of tensors (name -> shape) against those wanted.

    Raises:
        UnfitError: one is missing, unexpected or of another shape.
    """
    both = [n for n in found if n in wanted]
    wrong = [n for n in both if tuple(found[n]) != tuple(wanted[n])]
    report = LoadReport(
        loaded=len(both) - len(wrong),
        ignored=tuple(ignored),
        missing=tuple(n for n in wanted if n not in found),
        unexpected=tuple(n for n in found if n not in wanted),
        wrong_shape=tuple(f"{n} is {tuple(found[n])}, expected {tuple(wanted[n])}" for n in wrong),
    )
    if not report.fits:
        raise UnfitError(name, report)
    return report


def _some(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
