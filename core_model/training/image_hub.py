"""Makes the class mixture of the eye's mapping (`image_hub.safetensors`).

The class embeddings come from words alone: WordNet's lemmas, the nearest telling hypernym and the
gloss of each ImageNet class, through the sentence encoder. What label smoothing spreads over all
classes is taken out of them. Nothing is learnt by gradient; the same inputs give the same file. The
head that the file holds as well is added by `anybind.core_model.training.image_head`.

    python -m anybind.core_model.training.image_hub hub --help
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from anybind.core_model.encoders.image_hub import FORMAT, HubConfig
from anybind.core_model.encoders.minilm import SPACE, TextEncoder, load_text_encoder

VAGUE = frozenset(
    "entity, physical entity, object, whole, artifact, instrumentality, organism, living thing, "
    "matter, substance, thing, abstraction, causal agent, vertebrate, chordate, placental, "
    "commodity, covering, unit, mammal, domestic animal, causal agency".split(", ")
)
"""Hypernyms that say too little to tell a class by."""

EMPTY = frozenset(
    "entity, physical entity, object, physical object, whole, unit, matter, thing, abstraction, "
    "abstract entity, causal agent, cause, causal agency, substance, part, piece, machine".split(
        ", "
    )
)
"""Names that are no use even to ask for."""


class Nouns:
    """WordNet's nouns, read from its `data.noun`."""

    def __init__(self, data_noun: Path) -> None:
        self.lemmas: dict[str, list[str]] = {}
        self.glosses: dict[str, str] = {}
        self.above: dict[str, list[str]] = {}
        for line in data_noun.read_text("utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            facts, _, gloss = line.partition("|")
            words = facts.split()
            synset, count = "n" + words[0], int(words[3], 16)
            self.lemmas[synset] = [words[4 + 2 * i].replace("_", " ") for i in range(count)]
            # Quoted examples in the gloss are about the word, not the thing.
            self.glosses[synset] = re.sub(r';? ?".*', "", gloss.strip())
            first = 5 + 2 * count
            pointers = [
                words[first + 4 * i : first + 4 * i + 3] for i in range(int(words[first - 1]))
            ]
            self.above[synset] = [
                "n" + p[1] for p in pointers if p[0] in ("@", "@i") and p[2] == "n"
            ]

    def hypernyms(self, synset: str) -> Iterator[str]:
        """First lemmas of the synsets above, nearest first, without the vague ones."""
        seen, level = {synset}, [synset]
        while level:
            level = [up for low in level for up in self.above[low] if up not in seen]
            level = list(dict.fromkeys(level))
            seen.update(level)
            yield from (self.lemmas[up][0] for up in level if self.lemmas[up][0] not in VAGUE)


def class_sentences(nouns: Nouns, synset: str) -> list[str]:
    """What the hub is told about a class: its names, its kind, its gloss."""
    names = nouns.lemmas[synset]
    kind = next(nouns.hypernyms(synset), "")
    return [", ".join(names), f"{names[0]}, {kind}", f"{names[0]}: {nouns.glosses[synset]}"]


def class_embeddings(encoder: TextEncoder, nouns: Nouns, synsets: list[str]) -> Tensor:
    """Unit-norm embedding [K, C] of every class: the direction of its sentences' mean."""
    sentences = [class_sentences(nouns, synset) for synset in synsets]
    flat = encoder.unit([text for texts in sentences for text in texts])
    return F.normalize(flat.view(len(synsets), -1, encoder.dim).mean(1), dim=-1)


def kinds(nouns: Nouns, synsets: list[str]) -> tuple[list[str], list[tuple[int, int]]]:
    """Every name that some class may be called by, its own and those of the kinds above it.

    Returns:
        The names, and the pairs (class, name).
    """
    places: dict[str, int] = {}
    pairs: set[tuple[int, int]] = set()
    for row, synset in enumerate(synsets):
        seen, level = {synset}, [synset]
        while level:
            for name in (name for one in level for name in nouns.lemmas[one]):
                if name not in EMPTY:
                    pairs.add((row, places.setdefault(name, len(places))))
            level = [up for low in level for up in nouns.above[low] if up not in seen]
            seen.update(level)
    return list(places), sorted(pairs)


def in_bytes(name: str, scale_name: str, rows: Tensor) -> dict[str, Tensor]:
    """Rows [N, C] in eight bits and their scales, which keeps every cosine to about 0.002."""
    scale = rows.abs().amax(1, keepdim=True) / 127
    return {name: (rows / scale).round().to(torch.int8), scale_name: scale[:, 0].half()}


def write_hub(
    encoder: TextEncoder, nouns: Nouns, synsets: list[str], out: Path, pedestal: float
) -> None:
    """Write the mapping and, beside it, the class names as JSON."""
    classes = class_embeddings(encoder, nouns, synsets)
    # With shares that sum to one, taking the mean out of every class takes it out of the mixture.
    classes = classes - pedestal * classes.mean(0)
    names = [nouns.lemmas[synset][0] for synset in synsets]
    config = HubConfig(space=SPACE, views=("centre", "centre-flip"))
    data = {"format": FORMAT, "config": json.dumps(asdict(config)), "names": json.dumps(names)}
    called, pairs = kinds(nouns, synsets)
    tensors = {
        **in_bytes("classes", "class_scale", classes),
        **in_bytes("kinds", "kind_scale", encoder.unit(called)),
        "kind_of": torch.tensor(pairs, dtype=torch.int16),
    }
    save_file({k: v.contiguous() for k, v in tensors.items()}, out, metadata=data)
    listing = [
        {"class": i, "synset": s, "names": nouns.lemmas[s], "gloss": nouns.glosses[s]}
        for i, s in enumerate(synsets)
    ]
    text = "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in listing) + "\n]\n"
    out.with_suffix(".json").write_text(text, "utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True)
    hub = commands.add_parser("hub", help="class embeddings from WordNet")
    hub.add_argument("--minilm", type=Path, required=True)
    hub.add_argument("--tokenizer", type=Path, required=True)
    hub.add_argument("--wordnet", type=Path, required=True, help="data.noun of WordNet 3.0")
    hub.add_argument("--synsets", type=Path, required=True, help="the 1,000 in class order")
    hub.add_argument("--pedestal", type=float, default=0.3)
    hub.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    encoder = load_text_encoder(given.minilm, given.tokenizer)
    synsets = given.synsets.read_text("utf-8").split()
    write_hub(encoder, Nouns(given.wordnet), synsets, given.out, given.pedestal)


if __name__ == "__main__":
    main()
