"""Builds the components of a bundle: resolves weights, checks libraries, calls factories.

Each component is built at most once, on first use. Knows the registry and the weights, and no
room: what a component is, only its users know.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anybind.bundles import Bundle, Component, load
from anybind.contracts import Build, Progress, Spec
from anybind.errors import AnybindError, MissingExtra, MissingWeights, UserError
from anybind.plugins import Registry, registry
from anybind.weights import WeightRef, ensure, local_path


def has_library(module: str) -> bool:
    """Whether a module can be imported; finds out without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent of a dotted name is missing, or a bare stand-in
        return False


class Assembly:
    """The components of one bundle, built lazily and shared."""

    def __init__(
        self,
        bundle: Bundle | str | Path,
        *,
        offers: Registry | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load(bundle)
        self.registry = offers or registry()
        self.progress = progress
        self._built: dict[tuple[str, int], Any] = {}
        self._lock = threading.RLock()

    def components(self) -> Iterator[tuple[str, Component]]:
        """Every component of the bundle with the room it is registered in."""
        bundle = self.bundle
        yield "models", bundle.model
        for component in bundle.encoders:
            yield "encoders", component
        for component in (bundle.nouns, bundle.grounding, *bundle.experts):
            if component is not None:
                yield "experts", component
        for component in bundle.generators:
            yield "generators", component

    def build(self, room: str, component: Component, parts: Mapping[str, Any] | None = None) -> Any:
        """The component, built now if this is the first call.

        Raises:
            MissingExtra, MissingWeights: what to install or to fetch.
            ModelError: the weights don't fit.
        """
        key = (room, id(component))
        with self._lock:
            if key not in self._built:
                spec = self.registry.spec(room, component.use)
                self._check_libraries(spec)
                missing = set(spec.weights) - set(component.weights)
                if missing:
                    raise UserError(
                        f"Bundle {self.bundle.name!r} names no weights for {component.use}: "
                        f"{', '.join(sorted(missing))}."
                    )
                build = Build(
                    weights={role: self.weight(name) for role, name in component.weights.items()},
                    options=component.options,
                    device=component.device,
                    parts=parts or {},
                )
                self._built[key] = spec.factory(build)
            return self._built[key]

    def weight(self, key: str) -> Path:
        """The local file of one of the bundle's weights; fetched if need be."""
        if key not in self.bundle.weights:
            raise UserError(f"Bundle {self.bundle.name!r} lists no weights {key!r}.")
        return ensure(
            self.bundle.weights[key],
            self.bundle.base,
            converters=self.registry.converters,
            progress=self.progress,
        )

    def missing_weights(self) -> dict[str, WeightRef]:
        """The bundle's weights that are not on this machine yet."""
        return {
            key: weight
            for key, weight in self.bundle.weights.items()
            if local_path(weight, self.bundle.base) is None
        }

    def why_not(self, room: str, component: Component) -> str:
        """Why a component can't be built now, or "" if it can. Loads nothing."""
        try:
            spec = self.registry.spec(room, component.use)
            self._check_libraries(spec)
            for key in component.weights.values():
                weight = self.bundle.weights[key]
                if local_path(weight, self.bundle.base) is None:
                    how = "brought" if weight.ref.startswith("own:") else "fetched"
                    raise MissingWeights(
                        f"{weight.ref} is not {how} (anybind doctor --bundle "
                        f"{self.bundle.reference})"
                    )
        except AnybindError as error:
            return str(error)
        return ""

    def close(self) -> None:
        """Close every component that was built."""
        with self._lock:
            try:
                for part in self._built.values():
                    close = getattr(part, "close", None)
                    if callable(close):
                        close()
            finally:
                self._built.clear()

    @staticmethod
    def _check_libraries(spec: Spec) -> None:
        for module in spec.needs:
            if not has_library(module):
                how = (
                    f'pip install "anybind[{spec.extra}]"'
                    if spec.extra
                    else f"pip install {module}"
                )
                raise MissingExtra(f"{spec.name} needs {module}. Install it with: {how}")
