"""The success rates of GPT4Tools, as its public evaluation script computes them.

Pure text in, numbers out: knows the marker lines of the protocol and BLEU-1, nothing of tools or
models. Source: Yang et al. 2023 (GPT4Tools), section 4, and the behaviour of `eval/evaluate_result.py`
(only figures were compared: the quirks below are its, the code is ours).

What it forgives and what not, so that nobody reads more into the figures:
- a wrong file name is right as long as both have `.png`; an argument is right from a mean of 0.5;
- an extra or missing comma makes all arguments of the call wrong; names are compared as written;
- the words of an answer without a tool are not looked at.
`exact` beside it asks for the very calls.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

_THOUGHT = re.compile(r"Thought: Do I need to use a tool\? (.*)")
_ACTION = re.compile(r"Action: (.*)")
_INPUT = re.compile(r"Action Input: (.*)")
_ANSWER = re.compile(r"AI: (.*)")
_TINY, _SMALL = 1e-15, 1e-9
"""The guards against division by zero of pycocoevalcap, part of the expected figures."""


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one item or, averaged, of a set; each in 0..1."""

    thought: float
    """SR_t: whether a tool is to be used."""
    action: float
    """SR_act: which."""
    arguments: float
    """SR_args: with what."""
    success: float
    """SR: all thoughts and actions right, arguments at least 0.5."""
    overlap: float
    """What GPT4Tools calls IoU; extra steps cost nothing."""


def bleu1(reference: str, candidate: str) -> float:
    """BLEU with words alone, brevity penalty included (pycocoevalcap's, n = 1)."""
    wanted, said = reference.split(), candidate.split()
    counts = Counter(wanted)
    common = sum(min(n, counts[word]) for word, n in Counter(said).items())
    value = (common + _TINY) / (len(said) + _SMALL)
    ratio = (len(said) + _TINY) / (len(wanted) + _SMALL)
    return value * math.exp(1 - 1 / ratio) if ratio < 1 else value


def score(gold: str, prediction: str) -> Score:
    """Compare a predicted trace with the right one, call by call, in order.

    Args:
        gold: The right continuation of the prompt.
        prediction: The model's, without the prompt.
    """
    actions, inputs = _found(_ACTION, gold), _found(_INPUT, gold)
    said = _found(_THOUGHT, prediction)
    if not (actions and inputs):
        return _without_tool(_found(_THOUGHT, gold), said, bool(_ANSWER.search(prediction)))
    said_actions = _found(_ACTION, prediction)
    if said and said[-1] == "No" and len(said) == len(said_actions) + 1:
        said = said[:-1]
    thoughts = _found(_THOUGHT, gold)[: len(actions)]
    calls = _matches(thoughts, said), _matches(actions, said_actions)
    parts = [*calls, _arguments(inputs, _found(_INPUT, prediction))]
    thought, action, arguments = (_mean(values) for values in parts)
    success = float(thought == 1 and action == 1 and arguments >= 0.5)
    lengths = len(thoughts), len(actions), len(inputs)
    return Score(thought, action, arguments, success, _overlap(parts, lengths))


def exact(gold: str, prediction: str) -> bool:
    """Whether the calls are the right ones to the letter (case and outer blanks aside), no more
    and no fewer; without a call in `gold`, whether there is none.
    """

    def calls(text: str) -> list[tuple[str, str]]:
        pairs = zip(_found(_ACTION, text), _found(_INPUT, text), strict=False)
        return [(a.lower(), re.sub(r"\s*,\s*", ",", i).lower()) for a, i in pairs]

    return calls(gold) == calls(prediction)


def score_records(
    gold: Iterable[Mapping[str, object]], predictions: Iterable[Mapping[str, object]]
) -> tuple[Score, dict[int, Score]]:
    """Scores of files as GPT4Tools has them, and their mean.

    Args:
        gold: Records with `id`, `instruction` (the prompt) and `output`.
        predictions: Records with `id` and `output`, the whole text, prompt included, or a list
            whose first element that is; ids without gold are skipped.
    """
    right = {int(str(r["id"])): (str(r["instruction"]), str(r["output"])) for r in gold}
    scores: dict[int, Score] = {}
    for record in predictions:
        number, text = int(str(record["id"])), record["output"]
        if number not in right:
            continue
        whole = str(text[0]) if isinstance(text, list) else str(text)
        prompt, answer = right[number]
        # The original drops as many characters as the prompt has, whatever they are.
        scores[number] = score(answer, whole[len(prompt) :])
    return mean(list(scores.values())), scores


def mean(scores: Sequence[Score]) -> Score:
    """The average of scores; all zero of none."""
    rows = [asdict(s) for s in scores]
    return Score(**{f.name: _mean([row[f.name] for row in rows]) for f in fields(Score)})


def _found(pattern: re.Pattern[str], text: str) -> list[str]:
    return [found.strip() for found in pattern.findall(text)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _matches(right: Sequence[str], said: Sequence[str]) -> list[float]:
    """1 where both have the same at the same place; as long as the longer one."""
    length = max(len(right), len(said))
    return [float(i < len(right) and i < len(said) and right[i] == said[i]) for i in range(length)]


def _arguments(right: Sequence[str], said: Sequence[str]) -> list[float]:
    length = max(len(right), len(said))
    return [
        _call(right[i], said[i]) if i < len(right) and i < len(said) else 0.0 for i in range(length)
    ]


def _call(right: str, said: str) -> float:
    wanted, given = right.split(","), said.split(",")
    if len(wanted) != len(given):
        return 0.0
    values: list[float] = []
    for one, other in zip(wanted, given, strict=True):
        if ".png" in one:
            if ".png" not in other:
                return 0.0
            values.append(1.0)
        else:
            values.append(bleu1(one, other))
    return _mean(values)


def _without_tool(right: Sequence[str], said: Sequence[str], answered: bool) -> Score:
    matches = _matches(right, said)
    overlap = _overlap([matches], (len(right),))
    thought = _mean(matches) if said and said[0] == "No" and answered else 0.0
    rest = float(thought == 1)
    return Score(thought, rest, rest, rest, overlap)


def _overlap(parts: Sequence[Sequence[float]], lengths: Sequence[int]) -> float:
    shared = total = 0.0
    for values, length in zip(parts, lengths, strict=True):
        shared += sum(values[:length])
        total += sum(max(v, float(i < length)) for i, v in enumerate(values))
    return shared / max(total, 1.0)
