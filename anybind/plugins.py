"""The registry: what all installed plugins, built-in and foreign, have on offer.

Every entry point is loaded in isolation: one that breaks is reported with its distribution and
name and never stops the program. `ANYBIND_PLUGINS=a,b` narrows the loading to these entry
points ("" loads none); `ANYBIND_STRICT=1` turns a broken plugin into an error.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from anybind.contracts import (
    EncoderSpec,
    ExpertSpec,
    GeneratorSpec,
    ModelSpec,
    Spec,
    Tool,
)
from anybind.errors import PluginError, UserError
from anybind.hooks import ENTRY_POINT_GROUP, PROJECT, Hooks

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One entry point and how it fared."""

    name: str
    value: str
    distribution: str
    version: str
    error: str = ""
    offers: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.name!r} ({self.value}) of {self.distribution} {self.version}"


@dataclass
class Registry:
    """Everything on offer, by name."""

    encoders: dict[str, EncoderSpec] = field(default_factory=dict[str, EncoderSpec])
    models: dict[str, ModelSpec] = field(default_factory=dict[str, ModelSpec])
    tools: dict[str, Tool] = field(default_factory=dict[str, Tool])
    experts: dict[str, ExpertSpec] = field(default_factory=dict[str, ExpertSpec])
    generators: dict[str, GeneratorSpec] = field(default_factory=dict[str, GeneratorSpec])
    converters: dict[str, str] = field(default_factory=dict[str, str])
    plugins: list[PluginInfo] = field(default_factory=list[PluginInfo])
    manager: pluggy.PluginManager = field(default_factory=lambda: _manager())

    def spec(self, room: str, name: str) -> Spec:
        """The spec registered under `name` in a room ("encoders", "models" ...).

        Raises:
            UserError: nothing of that name is on offer.
        """
        table: dict[str, Spec] = getattr(self, room)
        if name not in table:
            broken = "".join(f" Broken plugin: {p.label}." for p in self.plugins if p.error)
            raise UserError(
                f"No {room[:-1]} is registered under {name!r}; on offer: "
                f"{', '.join(sorted(table)) or 'nothing'}.{broken}"
            )
        return table[name]

    def add_plugin(self, plugin: object, info: PluginInfo) -> None:
        """Take in one loaded plugin; a broken one leaves nothing behind but its report."""
        staged = Registry(manager=_manager())
        try:
            staged.manager.register(plugin, name=info.name)
            staged.manager.check_pending()
            offers = staged.collect(info)
            for room in ("encoders", "models", "tools", "experts", "generators", "converters"):
                clash = set(getattr(staged, room)) & set(getattr(self, room))
                if clash:
                    raise PluginError(f"{room[:-1]} {sorted(clash)[0]!r} is registered already")
            # Entry points of two distributions may share a name.
            self.manager.register(plugin, name=f"{info.distribution}:{info.name}")
        except Exception as error:
            self._report(info, error)
            return
        for room in ("encoders", "models", "tools", "experts", "generators", "converters"):
            getattr(self, room).update(getattr(staged, room))
        self.plugins.append(
            PluginInfo(info.name, info.value, info.distribution, info.version, offers=offers)
        )

    def collect(self, info: PluginInfo) -> tuple[str, ...]:
        """Call the hooks of the only plugin of this registry's manager and check the answers."""
        hook = self.manager.hook
        offers: list[str] = []

        def take(room: str, batches: Iterable[Iterable[Any]], expected: type[Any]) -> None:
            table: dict[str, Any] = getattr(self, room)
            for item in (item for batch in batches for item in batch):
                if not isinstance(item, expected):
                    raise PluginError(
                        f"register_{room} gave {type(item).__name__}, not {expected.__name__}"
                    )
                if item.name in table:
                    raise PluginError(f"register_{room} gave {item.name!r} twice")
                table[item.name] = item
                offers.append(f"{room[:-1]}:{item.name}")

        take("encoders", hook.register_encoders(), EncoderSpec)
        take("models", hook.register_models(), ModelSpec)
        take("tools", hook.register_tools(), Tool)
        take("experts", hook.register_experts(), ExpertSpec)
        take("generators", hook.register_generators(), GeneratorSpec)
        for name, target in (pair for batch in hook.register_converters() for pair in batch):
            self.converters[name] = target
            offers.append(f"converter:{name}")
        return tuple(offers)

    def _report(self, info: PluginInfo, error: BaseException) -> None:
        message = "".join(traceback.format_exception_only(error)).strip()
        if os.environ.get("ANYBIND_STRICT") == "1":
            raise PluginError(f"The plugin {info.label} is broken: {message}") from error
        self.plugins.append(
            PluginInfo(info.name, info.value, info.distribution, info.version, error=message)
        )


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Hooks)
    return manager


def _info(entry: EntryPoint) -> PluginInfo:
    dist = entry.dist
    return PluginInfo(
        entry.name,
        entry.value,
        dist.name if dist is not None else "?",
        dist.version if dist is not None else "?",
    )


@cache
def registry() -> Registry:
    """The registry of this process, loaded on first use from the installed entry points."""
    found = Registry()
    wanted = os.environ.get("ANYBIND_PLUGINS")
    names = None if wanted is None else {n.strip() for n in wanted.split(",") if n.strip()}
    unique = {(e.name, e.value): e for e in entry_points(group=ENTRY_POINT_GROUP)}
    # Built-ins first, so that a stranger who takes a built-in's name is the one reported.
    for entry in sorted(
        unique.values(), key=lambda e: (not e.value.startswith("anybind."), e.name)
    ):
        if names is not None and entry.name not in names:
            continue
        info = _info(entry)
        try:
            plugin = entry.load()
        except (Exception, SystemExit) as error:
            found._report(info, error)  # pyright: ignore[reportPrivateUsage]
            continue
        found.add_plugin(plugin, info)
    return found
