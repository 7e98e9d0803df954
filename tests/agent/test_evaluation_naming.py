"""The naming score, on a WordNet of a few synsets made up here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from anybind.agent.evaluation.naming import accepted_names, mentions, names_object, related


@dataclass(eq=False)
class FakeSynset:
    """A synset with lemmas and hypernyms."""

    lemmas: Sequence[str]
    up: Sequence[FakeSynset] = field(default_factory=tuple)
    instance_up: Sequence[FakeSynset] = field(default_factory=tuple)

    def lemma_names(self) -> Sequence[str]:
        return self.lemmas

    def hypernyms(self) -> Sequence[FakeSynset]:
        return self.up

    def instance_hypernyms(self) -> Sequence[FakeSynset]:
        return self.instance_up


class FakeWordNet:
    """Two small trees: carnivore > feline > cat > tabby, and a dog that has two parents."""

    def __init__(self) -> None:
        carnivore = FakeSynset(["carnivore"])
        feline = FakeSynset(["feline", "felid"], [carnivore])
        cat = FakeSynset(["cat", "true_cat"], [feline])
        tabby = FakeSynset(["tabby", "tabby_cat"], [cat])
        animal = FakeSynset(["animal", "beast"])
        domestic = FakeSynset(["domestic_animal"], [animal])
        canine = FakeSynset(["canine"], [carnivore])
        dog = FakeSynset(["dog"], [canine, domestic])
        aircraft = FakeSynset(["lighter-than-air_craft"])
        balloon = FakeSynset(["hot-air_balloon"], [aircraft])
        goose = FakeSynset(["goose"])
        earphone = FakeSynset(["earphone", "headphone"])
        tower = FakeSynset(["tower"])
        eiffel = FakeSynset(["Eiffel_Tower"], (), [tower])
        self.synsets = {
            "tabby.n.01": tabby,
            "cat.n.01": cat,
            "dog.n.01": dog,
            "hot-air_balloon.n.01": balloon,
            "goose.n.01": goose,
            "earphone.n.01": earphone,
            "eiffel_tower.n.01": eiffel,
        }
        self.base = {"geese": "goose", "cats": "cat", "dogs": "dog", "balloons": "balloon"}
        self.base |= {"headphones": "headphone", "beasts": "beast"}
        self.base |= {base: base for base in self.base.values()}

    def synset(self, name: str) -> FakeSynset:
        return self.synsets[name]

    def morphy(self, form: str, pos: str | None = None) -> str | None:
        assert pos == "n"
        return self.base.get(form)


WORDNET = FakeWordNet()


@pytest.mark.parametrize(
    ("answer", "synset", "expected"),
    [
        ("This is a cat.", "cat.n.01", True),
        ("A CAT!", "cat.n.01", True),
        ("Three cats on a wall", "cat.n.01", True),
        ("the cat's tail", "cat.n.01", True),
        ("the cat\N{RIGHT SINGLE QUOTATION MARK}s tail", "cat.n.01", True),
        ("a caterpillar", "cat.n.01", False),
        ("a bobcat in a cattery", "cat.n.01", False),
        ("a dog", "cat.n.01", False),
        ("", "cat.n.01", False),
        ("?!", "cat.n.01", False),
        ("a small feline", "cat.n.01", True),
        ("a carnivore", "cat.n.01", True),
        ("a carnivore", "tabby.n.01", False),
        ("a tabby", "cat.n.01", False),
        ("a tabby-cat", "tabby.n.01", True),
        ("a cat", "tabby.n.01", True),
        ("some animal", "dog.n.01", True),
        ("wild beasts", "dog.n.01", True),
        ("a carnivore", "dog.n.01", True),
        ("hot air balloons over a valley", "hot-air_balloon.n.01", True),
        ("a balloon", "hot-air_balloon.n.01", False),
        ("an air balloon", "hot-air_balloon.n.01", False),
        ("hot air", "hot-air_balloon.n.01", False),
        ("a hot, red air balloon", "hot-air_balloon.n.01", False),
        ("geese", "goose.n.01", True),
        ("black headphones", "earphone.n.01", True),
        ("a tower", "eiffel_tower.n.01", True),
        ("the eiffel tower", "eiffel_tower.n.01", True),
    ],
)
def test_one_synset(answer: str, synset: str, expected: bool) -> None:
    assert names_object(answer, [synset], WORDNET) is expected


def test_any_of_several_synsets_is_enough() -> None:
    assert names_object("a dog", ["cat.n.01", "dog.n.01"], WORDNET)
    assert not names_object("a goose", ["cat.n.01", "dog.n.01"], WORDNET)


def test_no_synset_is_never_named() -> None:
    assert not names_object("a cat", [], WORDNET)


def test_an_unknown_synset_is_an_error() -> None:
    with pytest.raises(KeyError):
        names_object("a cat", ["unicorn.n.09"], WORDNET)


def test_every_path_is_followed_two_levels_and_no_further() -> None:
    assert accepted_names(["dog.n.01"], WORDNET) == {
        "dog",
        "canine",
        "carnivore",
        "domestic animal",
        "animal",
        "beast",
    }
    assert "carnivore" not in accepted_names(["tabby.n.01"], WORDNET)


def test_names_beside_wordnet_fold_case_and_plural() -> None:
    assert mentions("I hear a Thumb Piano", {"thumb piano"}, WORDNET)
    assert mentions("two dogs", {"dog"}, WORDNET)
    assert not mentions("a thumb on a piano", {"thumb piano"}, WORDNET)
    assert not mentions("a dog", set(), WORDNET)


def test_things_are_related_when_one_could_count_as_the_other() -> None:
    assert related(["cat.n.01"], ["tabby.n.01"], WORDNET)
    assert related(["tabby.n.01"], ["cat.n.01"], WORDNET)
    assert not related(["cat.n.01"], ["goose.n.01"], WORDNET)
    assert not related(["cat.n.01"], ["dog.n.01"], WORDNET)
