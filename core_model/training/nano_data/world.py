"""The things that nano's training data speak of: names, kinds, glosses, and what is not what.

Made from WordNet 3.0's nouns, the ImageNet classes and the labels of drawings; kept as JSON so that
it is read in a moment. Knows no features and no pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from anybind.core_model.training.concepts import basic_level, nearest_basic, offset_id, wordnet
from anybind.core_model.training.nano_data.english import article, is_plural
from anybind.errors import UserError

PHYSICAL = frozenset(
    "noun.animal noun.artifact noun.food noun.plant noun.object noun.person noun.phenomenon".split()
)
"""WordNet's lexicographer files of what can be seen."""

KINDS = {
    "animal.n.01": "animal", "bird.n.01": "bird", "fish.n.01": "fish", "insect.n.01": "insect",
    "reptile.n.01": "reptile", "mammal.n.01": "mammal", "dog.n.01": "dog", "food.n.01": "food",
    "food.n.02": "food", "edible_fruit.n.01": "fruit", "vegetable.n.01": "vegetable",
    "beverage.n.01": "drink", "vehicle.n.01": "vehicle", "motor_vehicle.n.01": "motor vehicle",
    "vessel.n.02": "boat or ship", "aircraft.n.01": "aircraft",
    "musical_instrument.n.01": "musical instrument", "tool.n.01": "tool",
    "furniture.n.01": "piece of furniture", "clothing.n.01": "piece of clothing",
    "headdress.n.01": "thing to wear on the head", "footwear.n.02": "thing to wear on the foot",
    "building.n.01": "building", "plant.n.02": "plant", "flower.n.01": "flower", "tree.n.01": "tree",
    "person.n.01": "person", "container.n.01": "container", "weapon.n.01": "weapon",
    "machine.n.01": "machine", "plaything.n.01": "toy", "kitchen_utensil.n.01": "kitchen utensil",
    "sports_equipment.n.01": "piece of sports equipment", "computer.n.01": "computer",
    "geological_formation.n.01": "part of a landscape", "body_of_water.n.01": "body of water",
    "instrument.n.01": "instrument", "timepiece.n.01": "timepiece",
}  # fmt: skip
_BROAD = (
    ("animal", "animal"), ("plant", "plant"), ("food", "food"), ("person", "person"),
    ("vehicle", "vehicle"), ("building", "building"),
)  # fmt: skip
_SHOWN = frozenset("rainbow lightning fire flame fog tornado rain smoke storm cyclone".split())
"""The phenomena among them that a picture is of."""
_SENSES = {"turtle": "turtle.n.02", "seal": "seal.n.09", "ray": "ray.n.07", "ram": "ram.n.05",
           "crane": "crane.n.04", "kite": "kite.n.03", "nail": "nail.n.02", "bow": "bow.n.04"}  # fmt: skip
"""What a picture means by a word whose first sense is something else."""
# Words that name a sign or an idea more often than a thing, whatever WordNet has.
_NOT_THESE = frozenset(
    """adult female male friend enemy leader head stranger crown cross bug party club line spring
    board set match bar press service post point stage order letter character figure view field
    side top bottom front back middle left right part end sign mark place space time one two three
    four five six seven eight nine ten face hand foot finger body individual lover native black
    white jack dash bank key cell web net target cast home security settings setting user account
    wind air earth light color shadow heart arrow star circle square triangle button switch file
    share comment link tag code data search protection system network storage monitor folder
    release market center down up new picture effect plus minus date edit history map print
    working row matrix archive leg down current guest member expert worker boss partner beginner object thing page block
    filter plan column row source trunk world tab import export intersection area shape form piece way chip pin volume case base
    stop start pause play next previous remove add copy paste insert delete undo redo alphabet
    fork branch commit merge deposit transfer exchange reload level rest touch drag print scan""".split()
)
Label = tuple[str, str]
"""What a drawing is called, and how that is to be read: "emoji" (Unicode's name: right as a whole),
"whole" (a noun or nothing) or "tail" (a title that ends in a noun)."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that can be seen or heard."""

    id: str
    """WordNet offset "n02084071", or "label:..." for a label of drawings."""
    name: str
    names: tuple[str, ...]
    basic: str
    """What people would call it ("dog" for a beagle); "" if its name is that already."""
    kinds: tuple[str, ...]
    """Words for the kinds it belongs to, nearest first."""
    above: tuple[str, ...]
    """Offsets of every synset above it, and its own."""
    gloss: str
    common: int
    """How often WordNet's tagged corpora use it."""
    group: str
    """Broad kind: animal, plant, food, person, vehicle, building or thing."""
    eye: int = -1
    """ImageNet class, or -1."""
    drawn: bool = False
    """Whether drawings show it."""
    zh: str = ""

    @property
    def said(self) -> tuple[str, ...]:
        """Every word that is right for it."""
        return tuple(dict.fromkeys([self.name, *self.names, self.basic, *self.kinds]))


class World:
    """Things by id and by name."""

    def __init__(self, things: Sequence[Thing], labels: dict[str, str] | None = None) -> None:
        self.things = list(things)
        self.labels = labels or {}
        """Thing of a label, as "rule:label"."""
        self.by_id = {t.id: t for t in self.things}
        self.by_name: dict[str, Thing] = {}
        for t in sorted(self.things, key=lambda t: (t.name != t.names[0], -t.common)):
            for name in (t.name, *t.names):
                self.by_name.setdefault(name.lower(), t)
        self.eye = sorted((t for t in self.things if t.eye >= 0), key=lambda t: t.eye)

    def save(self, path: Path) -> None:
        """Write as JSON lines."""
        rows = (json.dumps(asdict(t), ensure_ascii=False) + "\n" for t in self.things)
        head = json.dumps({"labels": self.labels}, ensure_ascii=False) + "\n"
        path.write_text(head + "".join(rows), encoding="utf-8")

    def labelled(self, label: str, rule: str) -> Thing | None:
        """The thing that a label of drawings means, if it means one."""
        return self.by_id.get(self.labels.get(f"{rule}:{label}", ""))

    @classmethod
    def load(cls, path: Path) -> World:
        """Read what `save` wrote.

        Raises:
            UserError: it can't be read.
        """
        try:
            head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            for row in rows:
                for name in ("names", "kinds", "above"):
                    row[name] = tuple(row[name])
            return cls([Thing(**row) for row in rows], head["labels"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} holds no things ({error}); remove it to have it made."
            ) from error


def related(a: Thing, b: Thing) -> bool:
    """Whether one may rightly be called the other, or they share a word."""
    if a.id in b.above or b.id in a.above:
        return True
    words_a, words_b = {w.lower() for w in a.said}, {w.lower() for w in b.said}
    return bool({a.name.lower(), a.basic.lower()} & words_b - {""}) or bool(
        {b.name.lower(), b.basic.lower()} & words_a - {""}
    )


def phrase(thing: Thing, *, sure: bool = True) -> str:
    """How to speak of it: "a dog, probably a beagle"; less if unsure: "a dog"."""
    if not thing.basic or thing.basic in re.split(r"[\s-]", thing.name):
        return article(thing.name)
    return (
        f"{article(thing.basic)}, probably {article(thing.name)}" if sure else article(thing.basic)
    )


def called(thing: Thing) -> str:
    """The word that most people would use."""
    if thing.basic and thing.basic not in re.split(r"[\s-]", thing.name):
        return thing.basic
    return thing.name


def words_of(*things: Thing) -> str:
    """What an embedding of them is of: the word that most people would use and the exact one of
    each, with commas between things."""
    said = [t.name if called(t) == t.name else f"{called(t)} {t.name}" for t in things]
    return ", ".join(s.replace(",", " ") for s in said)


# ---------------------------------------------------------------- making


class Builder:
    """Makes things out of WordNet."""

    def __init__(self, dict_folder: Path) -> None:
        self.reader: Any = wordnet(dict_folder)
        self.anchors = basic_level(self.reader)
        self.kinds = {offset_id(self.reader.synset(n)): word for n, word in KINDS.items()}

    def thing(self, synset: Any, name: str = "") -> Thing:
        """The thing of an NLTK synset."""
        names = tuple(str(n).replace("_", " ") for n in synset.lemma_names())
        order = [synset, *sorted(synset.closure(lambda s: s.hypernyms() + s.instance_hypernyms()),
                                 key=lambda s: -s.min_depth())]  # fmt: skip
        above = tuple(dict.fromkeys(offset_id(s) for s in order))
        kinds = tuple(dict.fromkeys(self.kinds[a] for a in above if a in self.kinds))
        basic = nearest_basic(synset, self.anchors)
        own = name or (basic if basic in names else str(names[0]))
        basic = "" if basic in names else basic
        lex = synset.lexname().removeprefix("noun.")
        group = next((g for word, g in _BROAD if word in kinds or lex == word), "thing")
        kinds = tuple(k for k in kinds if k not in (own, basic))
        return Thing(
            offset_id(synset), own, names, "" if basic == own else basic, kinds, above,
            str(synset.definition()), sum(int(m.count()) for m in synset.lemmas()), group,
        )  # fmt: skip

    def of_offset(self, offset: str) -> Thing:
        """The thing of an ImageNet id."""
        return self.thing(self.reader.synset_from_pos_and_offset("n", int(offset[1:])))

    def lexname(self, offset: str) -> str:
        """WordNet's lexicographer file of an ImageNet id."""
        return str(self.reader.synset_from_pos_and_offset("n", int(offset[1:])).lexname())

    def of_label(self, label: str, rule: str) -> Thing | None:
        """The thing that a drawing with this label shows, if it can be told and seen."""
        words = label.split()
        if rule == "emoji" and words[:1] and words[0] in _PERSONS:
            words = words[1:]
        sizes = range(min(3, len(words)), 0, -1)
        for size in [n for n in sizes if rule != "whole" or n == len(words)]:
            found = self.of_noun("_".join(words[-size:]), persons=rule != "whole")
            if found is not None:
                return found
        return None

    def of_noun(self, word: str, *, persons: bool = True) -> Thing | None:
        """The thing that a WordNet noun names, if it can be seen."""
        if word in _NOT_THESE or len(word) < 3 or not re.fullmatch(r"[a-z][a-z'_-]+", word):
            return None
        fits = [s for s in self.reader.synsets(word, "n")[:3] if s.lexname() in PHYSICAL]
        fits = [s for s in fits if s.lexname() != "noun.phenomenon" or word in _SHOWN]
        # Signs are seldom of persons: a hard hat, not who wears it.
        fits = [s for s in fits if s.lexname() != "noun.person"] or (fits if persons else [])
        if not fits:
            return None
        sense = self.reader.synset(_SENSES[word]) if word in _SENSES else fits[0]
        if sense.lexname() == "noun.plant":  # a lemon, not its tree
            sense = next((s for s in fits if s.lexname() == "noun.food"), sense)
        spelt = [str(n) for n in sense.lemma_names()]
        if word in spelt:
            return self.thing(sense, word.replace("_", " "))
        if word in [n.lower() for n in spelt]:  # only as a proper name
            return None
        return self.thing(sense, spelt[0].replace("_", " "))  # a plural: the first lemma says it


_PERSONS = ("man", "woman", "person", "men", "women", "people")


def build(
    dict_folder: Path,
    imagenet: Path,
    labels: Iterable[Label] = (),
    chinese: dict[str, str] | None = None,
) -> World:
    """The things of ImageNet's classes, of its common nouns and of drawings' labels.

    Args:
        dict_folder: WordNet 3.0.
        imagenet: Folder with `imagenet_synsets.txt` and `imagenet_synset_to_lemma.txt` (timm).
        labels: What drawings are called.
        chinese: Chinese names by English label.
    """
    made = Builder(dict_folder)
    things: dict[str, Thing] = {}
    for number, offset in enumerate((imagenet / "imagenet_synsets.txt").read_text().split()):
        things[offset] = replace(made.of_offset(offset), eye=number)
    lines = (imagenet / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    for offset in (line.split("\t")[0] for line in lines):
        if offset not in things:
            thing = made.of_offset(offset)
            lex = made.lexname(offset)
            seen = lex in PHYSICAL - {"noun.person", "noun.phenomenon"}
            if seen and thing.common > 0 and len(thing.name) < 24 and thing.name not in _NOT_THESE:
                things[offset] = thing
    meant: dict[str, str] = {}
    for label, rule in dict.fromkeys(labels):
        thing = made.of_label(label, rule)
        if thing is None:
            continue
        things[thing.id] = replace(things.get(thing.id, thing), drawn=True)
        meant[f"{rule}:{label}"] = thing.id
        words = label.split()
        if (
            rule == "emoji" and label not in (thing.name, *thing.names) and 1 < len(words) < 4
            and words[0] not in _PERSONS and not is_plural(label) and thing.group != "person"
            and re.fullmatch(r"[a-z' -]+", label)
        ):  # fmt: skip
            # "delivery truck": a thing of its own below the noun it ends in.
            own = f"label:{label}"
            things[own] = replace(
                thing, id=own, name=label, names=(label,), basic=thing.basic or thing.name,
                above=(own, *thing.above), gloss="", common=0, drawn=True, eye=-1,
            )  # fmt: skip
            meant[f"{rule}:{label}"] = own
    if chinese:
        for key, thing in things.items():
            found = next(
                (chinese[n.lower()] for n in (thing.name, *thing.names) if n.lower() in chinese), ""
            )
            things[key] = replace(thing, zh=found)
    return World(list(things.values()), meant)


def chinese_labels(folder: Path) -> dict[str, str]:
    """Chinese names of emoji by their English label (emojibase-data, MIT).

    Args:
        folder: Holds `en/data.json` and `zh/data.json`.
    """
    tables = [
        {row["hexcode"]: row["label"] for row in json.loads((folder / lang / "data.json").read_text("utf-8"))}
        for lang in ("en", "zh")
    ]  # fmt: skip
    return {
        label.lower(): tables[1][code] for code, label in tables[0].items() if code in tables[1]
    }
