"""What a session works with: the built parts of a bundle, and which tools are on offer.

Parts are built on first use. A `Runtime` may serve several sessions; it holds no conversation.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from anybind.agent.choice import Chooser, PriorConfig
from anybind.assembly import Assembly
from anybind.bundles import Component
from anybind.contracts import (
    ContextExpert,
    Generator,
    GeneratorSpec,
    GroundingExpert,
    MultimodalModel,
    NounExpert,
    Progress,
    Tool,
)
from anybind.core_model.tool_matcher import load_tool_matcher
from anybind.errors import AnybindError, ModelError, ToolError, UserError
from anybind.weights import local_path


class SharedEncoders(Mapping[str, Any]):
    """The encoders of a runtime's model as `image_encoder` ...; each built when it is taken."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __getitem__(self, role: str) -> Any:
        modality = role.removesuffix("_encoder")
        if role == modality or modality not in self._runtime.model.modalities:
            raise KeyError(role)
        return self._runtime.model.encoder(modality)

    def __iter__(self) -> Iterator[str]:
        return (f"{m}_encoder" for m in self._runtime.model.modalities)

    def __len__(self) -> int:
        return len(self._runtime.model.modalities)


class Runtime:
    """The parts of one bundle."""

    def __init__(self, bundle: Any = "nano", *, progress: Progress | None = None) -> None:
        self.assembly = (
            bundle if isinstance(bundle, Assembly) else Assembly(bundle, progress=progress)
        )
        self.bundle = self.assembly.bundle
        self.lock = threading.RLock()

    @cached_property
    def model(self) -> MultimodalModel:
        """Encoders and decoder."""
        from anybind.core_model import ImageBindLLM

        return ImageBindLLM.from_bundle(self.assembly)

    @cached_property
    def chooser(self) -> Chooser:
        """Ranks tools.

        Raises:
            ModelError: the bundle's matcher can't be read or is for another space.
        """
        config, matcher = PriorConfig(**self.bundle.tool_prior), None
        if self.bundle.tool_chooser is not None:
            path, *encoder = (
                self.assembly.weight(self.bundle.tool_chooser[role])
                for role in ("matcher", "encoder", "tokenizer")
            )
            from anybind.core_model.encoders.minilm import load_text_encoder

            matcher = load_tool_matcher(path, load_text_encoder(*encoder))
            if matcher.space != self.bundle.space:
                raise ModelError(
                    f"{path} matches tools in the space {matcher.space!r}; the bundle "
                    f"{self.bundle.name!r} has {self.bundle.space!r}."
                )
        return Chooser(self.model, config, matcher)

    @property
    def nouns(self) -> NounExpert | None:
        """The noun parser, if the bundle has one."""
        return self._expert(self.bundle.nouns)

    @property
    def grounder(self) -> GroundingExpert | None:
        """The grounding expert, if the bundle has one."""
        return self._expert(self.bundle.grounding)

    def context_experts(self, kind: str) -> list[ContextExpert]:
        """Experts that look at parts of a kind."""
        every: list[ContextExpert] = [self._expert(c) for c in self.bundle.experts]
        return [e for e in every if kind in e.kinds]

    def generator(self, kind: str) -> Generator:
        """The generator for a kind of content.

        Raises:
            UserError: the bundle has none.
        """
        for component in self.bundle.generators:
            spec = self.assembly.registry.spec("generators", component.use)
            if isinstance(spec, GeneratorSpec) and spec.output == kind:
                return self.assembly.build("generators", component, self._shared())
        made = sorted(self.generator_kinds()) or ["nothing"]
        raise UserError(
            f"Bundle {self.bundle.name!r} can't make {kind}; it makes {', '.join(made)}."
        )

    def generator_kinds(self) -> set[str]:
        """What the bundle's generators make."""
        found: set[str] = set()
        for component in self.bundle.generators:
            spec = self.assembly.registry.spec("generators", component.use)
            if isinstance(spec, GeneratorSpec):
                found.add(spec.output)
        return found

    def tools(self) -> list[tuple[Tool, str]]:
        """Every tool of the bundle with why it is not available ("" if it is)."""
        wanted = self.bundle.tools
        registered = self.assembly.registry.tools
        names = list(registered) if "*" in wanted else wanted
        out: list[tuple[Tool, str]] = []
        for name in names:
            if name not in registered:
                raise UserError(
                    f"Bundle {self.bundle.name!r} names the tool {name!r}; none is registered."
                )
            tool = registered[name]
            reasons = (self._why_not(need) for need in tool.requires)
            out.append((tool, next((why for why in reasons if why), "")))
        return out

    def available_tools(self) -> list[Tool]:
        """The tools that can be offered to the model."""
        return [tool for tool, why in self.tools() if not why]

    def tool_weights(self, role: str) -> Path:
        """The file that the bundle names for a role of its tools."""
        key = self.bundle.tool_weights.get(role)
        if key is None:
            raise ToolError(f"The bundle names no weights for {role!r}.")
        try:
            return self.assembly.weight(key)
        except AnybindError as error:
            raise ToolError(str(error)) from error

    def close(self) -> None:
        """Give back everything that was built."""
        if "model" in self.__dict__:
            self.model.close()  # type: ignore[attr-defined]
        self.assembly.close()

    def _expert(self, component: Component | None) -> Any:
        if component is None:
            return None
        return self.assembly.build("experts", component, self._shared())

    def _shared(self) -> Mapping[str, Any]:
        """Encoders that experts and generators may use instead of loading their own."""
        return SharedEncoders(self)

    def _why_not(self, need: str) -> str:
        what, _, name = need.partition(":")
        bundle = self.bundle
        if what == "library":
            return "" if importlib.util.find_spec(name) else f"{name} is not installed"
        if what == "generator":
            if name in self.generator_kinds():
                return ""
            return f"bundle {bundle.name!r} has no generator for {name}"
        if what == "expert":
            component = getattr(bundle, name, None) if name in ("grounding", "nouns") else None
            named = any(c.use == name for c in bundle.experts)
            return "" if component or named else f"bundle {bundle.name!r} has no expert {name!r}"
        if what == "weights":
            key = bundle.tool_weights.get(name)
            if key is None:
                return f"bundle {bundle.name!r} names no weights for {name!r}"
            missing = local_path(bundle.weights[key], bundle.base) is None
            return f"the weights {name!r} are not fetched" if missing else ""
        return f"it needs {need!r}, which this version of anybind does not know"
