"""The making of one conversation with tools: names of files, words of the request, calls, answer.

Each method of `Maker` makes one kind. Everything random comes from the source it is given.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from anybind.core_model.training import toolchat_words as words
from anybind.core_model.training.nano_data.english import capital, listed, sentences
from anybind.core_model.training.toolchat import (
    Step,
    ToolChat,
    ToolConversation,
    ToolInfo,
    as_written,
    fill,
    input_map,
    makes_picture,
    wrapped,
)
from anybind.core_model.training.toolchat_talk import talk

_FOLDERS = ("image/", "images/", "examples/", "cache/", "")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for one tool, its arguments behind the picture, and what it would say."""

    text: str
    args: tuple[str, ...]
    said: str = ""
    """The observation of a tool that answers in words."""


class Maker:
    """Makes conversations of one random source."""

    def __init__(self, chat: ToolChat, rng: random.Random, key: str) -> None:
        self.chat, self.rng, self.key = chat, rng, key
        # The session's own names mostly; GPT4Tools' sets have letters and other folders.
        self.hexed = rng.random() < 0.75
        self.folder = "image/" if self.hexed else rng.choice(_FOLDERS)
        self.used: set[str] = set()

    # ------------------------------------------------------------ kinds

    def single(self) -> ToolConversation:
        """One call."""
        tool = self.rng.choice(list(self.chat.tools))
        file, history, here = self._given(tool)
        ask = self._ask(tool, here)
        request = self._prefixed(ask.text, file, here)
        step = self._step(tool, file, ask, request)
        return self._made("single", [tool], history, request, [step], self._answer([step]))

    def chain(self) -> ToolConversation:
        """Two calls, sometimes three."""
        # A question ends with its mark; nothing can be joined to it.
        firsts = [
            t for t in self.chat.tools
            if self.chat.chains(t) and not input_map(t) and t != "Answer Question About The Image"
        ]  # fmt: skip
        tools = [self.rng.choice(firsts)]
        for _ in range(1 if self.rng.random() < 0.85 else 2):
            left = [t for t in self.chat.chains(tools[-1]) if t not in tools]
            if left and tools[-1] != "Answer Question About The Image":
                tools.append(self.rng.choice(left))
        file, history, here = self._given(tools[0])
        asks = [self._ask(tools[0], here, bare=True)]
        for tool in tools[1:]:
            asks.append(self._ask(tool, self.rng.choice(self.chat.phrases["it"]), bare=True))
        request = self._joined([a.text for a in asks])
        steps: list[Step] = []
        current = file
        for tool, ask in zip(tools, asks, strict=True):
            steps.append(self._step(tool, current, ask, request))
            if makes_picture(tool):
                current = _file_in(steps[-1].observation)
        return self._made("chain", tools, history, request, steps, self._answer(steps))

    def follow(self) -> ToolConversation:
        """A call on what an earlier turn was about or made."""
        firsts = [t for t in self.chat.tools if self.chat.chains(t) and makes_picture(t)]
        first = self.rng.choice(firsts)
        second = self.rng.choice(self.chat.chains(first))
        file, history, here = self._given(first)
        before = self._ask(first, here)
        made = self._step(first, file, before, before.text)
        history = [*history, f"Human: {before.text}\nAI: {self._answer([made])}"]
        result, source = _file_in(made.observation), made.args[0]
        if (
            makes_picture(second)
            and not input_map(second)
            and "/" in source
            and self.rng.random() < 0.25
        ):
            target, called = source, self.rng.choice(["the original", "the first picture"])
        else:
            target = result
            called = self.rng.choice(["the result", "the new picture", "that one", result, "it"])
        ask = self._ask(second, called)
        step = self._step(second, target, ask, ask.text)
        return self._made(
            "follow", [second, first], history, ask.text, [step], self._answer([step])
        )

    def none(self) -> ToolConversation:
        """Nothing that needs a tool."""
        tools = self._listed([])
        history: list[str] = []
        files: list[str] = []
        for _ in range(self.rng.choice([0, 1, 1, 2])):
            files.append(self._file())
            history.append(self._uploaded(files[-1], ""))
        if self.chat.replies and self.rng.random() < 0.4:
            request, answer = self.rng.choice(self.chat.replies)
            answer = " ".join(answer.split())  # an answer is one line of the protocol
        else:
            request, answer = talk(self.rng, [t.name for t in tools], files)
        return ToolConversation(self.key, "none", tools, tuple(history), request, (), answer)

    def missing(self) -> ToolConversation:
        """A tool is wanted that is not listed."""
        tool = self.rng.choice(list(self.chat.tools))
        file, history, here = self._given(tool)
        ask = self._ask(tool, here)
        tools = self._listed([], without=self.chat.family(tool) | {tool})
        if any(t.name == "Instruct Image Using Text" for t in tools):
            tools = tuple(t for t in tools if t.name != "Instruct Image Using Text")
        answer = self.rng.choice(self.chat.phrases["missing"])
        request = self._prefixed(ask.text, file, here)
        return ToolConversation(self.key, "missing", tools, tuple(history), request, (), answer)

    def failed(self) -> ToolConversation:
        """A thing is asked for that the picture does not hold."""
        tool = self.rng.choice(self.chat.finders())
        file, history, here = self._given(tool)
        ask = self._ask(tool, here)
        thing = as_written(ask.args[0], ask.text)
        why = f'No "{thing}" was found in the picture. Name something that is in it.'
        if tool == "Segment the given object" and self.rng.random() < 0.3:
            why = f'The "{thing}" was found, but its outline does not stand out.'
        request = self._prefixed(ask.text, file, here)
        args = (file, *(as_written(a, request) for a in ask.args))
        step = Step(tool, args, why)
        answer = self.rng.choice(self.chat.phrases["failed"]).format(why=f"{why.split('.')[0]}.")
        if "outline" not in why and self.rng.random() < 0.5:
            answer = self.rng.choice(
                [f"There is no {thing} in the picture.", f"I found no {thing} there.",
                 f"Sorry, no {thing} was found in {file}."]
            )  # fmt: skip
        return self._made("failed", [tool], history, request, [step], answer)

    # ------------------------------------------------------------ pieces

    def _file(self) -> str:
        """A name that did not occur yet."""
        while True:
            stem = (
                f"{self.rng.getrandbits(32):08x}"
                if self.hexed
                else "".join(self.rng.choices(string.ascii_lowercase, k=8))
            )
            name = f"{self.folder}{stem}.png"
            if name not in self.used:
                self.used.add(name)
                return name

    def _uploaded(self, file: str, tool: str) -> str:
        about = input_map(tool) if tool else ""
        if not about:
            # The agent itself writes "a picture"; GPT4Tools a caption.
            told = words.description(self.rng).rstrip(".")
            about = "a picture" if self.rng.random() < 0.5 else told
        return self.chat.protocol.upload(file, about)

    def _given(self, tool: str) -> tuple[str, list[str], str]:
        """The picture that a request is about: its name, the history, how the request calls it."""
        if not self._takes_picture(tool):
            history = [self._uploaded(self._file(), "")] if self.rng.random() < 0.4 else []
            return "", history, ""
        file = self._file()
        if input_map(tool):  # these requests say what the file is, so they name it
            return file, [self._uploaded(file, tool)] if self.rng.random() < 0.6 else [], file
        roll = self.rng.random()
        if roll < 0.25:
            return file, [], file
        if roll < 0.45:
            return file, [self._uploaded(file, tool)], file
        if roll < 0.60:
            other = self._file()
            lines = [self._uploaded(file, tool), self._uploaded(other, "")]
            first = self.rng.random() < 0.5
            place = "first" if first else self.rng.choice(["second", "last"])
            called = self.rng.choice([file, f"the {place} picture", f"the {place} image"])
            return file, lines if first else lines[::-1], called
        return file, [self._uploaded(file, tool)], self.rng.choice(self.chat.phrases["here"])

    def _takes_picture(self, tool: str) -> bool:
        return any(kind == "image" for _, kind in self.chat.tools[tool].arguments)

    def _ask(self, tool: str, here: str, *, bare: bool = False) -> Ask:
        """Words that ask for a tool; `bare` gives a command that can stand in a chain."""
        requests = self.chat.requests[tool]
        from_do = bare or self.rng.random() < 0.6
        pattern = self.rng.choice(requests["do" if from_do else "say"])
        qualified = "the {obj}" in pattern or "the {old}" in pattern
        slots, said = {"img": here}, ""
        names: list[str] = []
        for name, kind in self.chat.tools[tool].arguments:
            if kind == "image":
                continue
            if name in ("object", "old"):
                slots["obj" if name == "object" else "old"] = words.thing(
                    self.rng, qualified=qualified
                )
                names.append(slots["obj" if name == "object" else "old"])
            elif name == "new":
                slots["new"] = words.new_thing(self.rng)
                names.append(slots["new"])
            elif name == "question":
                slots["q"], said = words.question(self.rng)
                names.append(slots["q"])
            elif name == "instruction":
                slots["how"] = self.rng.choice(words.CHANGES)
                names.append(slots["how"])
            else:
                slots["text"] = words.scene(self.rng, person="Pose" in tool)
                names.append(slots["text"])
        if tool == "Get Photo Description":
            said = words.description(self.rng)
        text = fill(pattern, slots)
        if from_do and bare:
            text = text if text.startswith(here) and here else text[:1].lower() + text[1:]
        elif from_do:
            command = text if here and text.startswith(here) else text[:1].lower() + text[1:]
            wrap = (
                "{Do}"
                if command.endswith(("?", "."))
                else self.rng.choice(self.chat.phrases["wrap"])
            )
            text = wrapped(wrap, command)
        if self.rng.random() < 0.1 and not bare:
            text = text.lower().rstrip(".!")
        return Ask(text, tuple(names), said)

    def _joined(self, commands: Sequence[str]) -> str:
        """Commands as one request."""
        if len(commands) == 2:
            a, b = commands
            pattern = self.rng.choice(self.chat.phrases["join"])
            for mark, text in (("{A}", capital(a)), ("{a}", a), ("{b}", b)):
                pattern = pattern.replace(mark, text)
            return _one_mark(sentences(pattern))
        *front, last = commands
        if self.rng.random() < 0.5:
            return _one_mark(sentences(f"{capital(', then '.join(front))}, and finally {last}."))
        return _one_mark(sentences(f"{capital('. Then '.join(front))}. At last {last}."))

    def _prefixed(self, text: str, file: str, here: str) -> str:
        """Some people write the file in front, as GPT4Tools' page does for them."""
        if file and here != file and file not in text and self.rng.random() < 0.1:
            return f"{file} {text}"
        return text

    def _step(self, tool: str, file: str, ask: Ask, request: str) -> Step:
        args = tuple(as_written(a, request) for a in ask.args)
        args = (file, *args) if self._takes_picture(tool) else args
        if not makes_picture(tool):
            return Step(tool, args, ask.said)
        made = self._file()
        return Step(tool, args, made if self.rng.random() < 0.15 else f"Result saved as {made}")

    def _answer(self, steps: Sequence[Step]) -> str:
        """The last word, made of what the tools gave."""
        pictures = [_file_in(s.observation) for s in steps if makes_picture(s.tool)]
        told = [s.observation for s in steps if not makes_picture(s.tool)]
        if not pictures:
            return " ".join(told)
        if len(pictures) == 1:
            saved = self.rng.choice(self.chat.phrases["saved"])
        elif len(pictures) == 2:
            saved = self.rng.choice(self.chat.phrases["chained"])
        else:
            saved = "All steps are done. The pictures are {all}."
        saved = saved.format(first=pictures[0], file=pictures[-1], all=listed(pictures))
        return " ".join([*told, saved])

    def _listed(
        self, needed: Sequence[str], without: frozenset[str] = frozenset()
    ) -> tuple[ToolInfo, ...]:
        """The tools that the prompt lists: those needed and others, in any order."""
        roll = self.rng.random()
        size = self.rng.randint(2, 5) if roll < 0.8 else self.rng.randint(6, 10)
        if roll > 0.96:
            size = len(self.chat.tools)
        near = sorted({t for n in needed for t in self.chat.family(n)} - set(needed) - without)
        self.rng.shuffle(near)
        others = sorted(set(self.chat.tools) - set(needed) - set(near) - without)
        self.rng.shuffle(others)
        # Half of the others are the ones that are easily mistaken.
        more: list[str] = []
        while len(needed) + len(more) < size and (near or others):
            pool = near if near and (not others or self.rng.random() < 0.5) else others
            more.append(pool.pop())
        names = [*dict.fromkeys(needed), *more]
        self.rng.shuffle(names)
        return tuple(self.chat.tools[n] for n in names)

    def _made(
        self, kind: str, tools: Sequence[str], history: Sequence[str], request: str,
        steps: Sequence[Step], answer: str,
    ) -> ToolConversation:  # fmt: skip
        return ToolConversation(
            self.key, kind, self._listed(tools), tuple(history), request, tuple(steps), answer
        )


def _one_mark(text: str) -> str:
    """A sentence that ends with its own question mark needs no other."""
    return text[:-1] if text[-2:] in ("?.", "??") else text


def _file_in(observation: str) -> str:
    """The file that an observation names."""
    return observation.rpartition(" ")[2]
