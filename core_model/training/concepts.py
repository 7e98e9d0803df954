"""Everyday words for the nouns that the bind network learns to say, from WordNet.

Where people would use one, a noun has a basic-level word above it (dog for beagle). Answers say the
basic word first and the precise one second, so that a wrong breed still leaves a right animal.

Source: WordNet 3.0 (WordNet licence), read from its dict folder by NLTK.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

# Basic-level words and the WordNet noun synsets they stand for. The nearest one above a concept
# is used. A word may differ from the synset's own name ("cow" for cattle.n.01).
_BASIC = """
dog cat bear fox wolf lion:lion.n.01 tiger:tiger.n.02 leopard:leopard.n.02 monkey ape elephant
horse:horse.n.01 donkey:domestic_ass.n.01 zebra pig:swine.n.01 sheep:sheep.n.01 goat:goat.n.01
cow:cattle.n.01 buffalo:buffalo.n.02 bison antelope deer:deer.n.01 camel giraffe rabbit:leporid.n.01
squirrel hamster mouse:mouse.n.01 rat:rat.n.01 beaver porcupine:porcupine.n.01 hedgehog:hedgehog.n.02
kangaroo koala whale:whale.n.02 dolphin:dolphin.n.02 seal:seal.n.09 otter:otter.n.02 weasel badger:badger.n.02
skunk bat:bat.n.01 parrot owl:owl.n.01 eagle:eagle.n.01 duck:duck.n.01 goose:goose.n.01 swan
chicken:chicken.n.02 turkey:turkey.n.01 penguin peacock:peafowl.n.01 pigeon:pigeon.n.01 bird:bird.n.01 snake lizard:lizard.n.01
turtle:turtle.n.02 crocodile:crocodilian_reptile.n.01 frog:frog.n.01 salamander:salamander.n.01
shark:shark.n.01 ray:ray.n.07 fish:fish.n.01 crab:crab.n.01 lobster:lobster.n.02 spider:spider.n.01 scorpion:scorpion.n.03
beetle:beetle.n.01 butterfly:butterfly.n.01 moth:moth.n.01 bee:bee.n.01 ant:ant.n.01 fly:fly.n.01
grasshopper:grasshopper.n.01 dragonfly:dragonfly.n.01 snail:snail.n.01 slug:slug.n.07 insect:insect.n.01
car:car.n.01 truck:truck.n.01 bus:bus.n.01 van:van.n.05 train:train.n.01 locomotive:locomotive.n.01
airplane:airplane.n.01 helicopter boat:boat.n.01 ship:ship.n.01 bicycle:bicycle.n.01 motorcycle:motorcycle.n.01
tractor:tractor.n.01 chair:chair.n.01 table:table.n.02 bed:bed.n.01 sofa:sofa.n.01 lamp:lamp.n.01
clock:clock.n.01 watch:watch.n.01 bottle:bottle.n.01 cup:cup.n.01 bowl:bowl.n.03 plate:plate.n.04
pot:pot.n.01 pan:pan.n.01 knife:knife.n.01 fork:fork.n.01 spoon:spoon.n.01 guitar:guitar.n.01
violin:violin.n.01 piano:piano.n.01 drum:drum.n.01 trumpet:cornet.n.01 flute:flute.n.01 organ:organ.n.05
saxophone:sax.n.02 computer:computer.n.01 phone:telephone.n.01 camera:camera.n.01 television:television_receiver.n.01
gun:gun.n.01 hat:hat.n.01 cap:cap.n.01 shoe:shoe.n.01 boot:boot.n.01 shirt:shirt.n.01 dress:dress.n.01
coat:coat.n.01 trousers:trouser.n.01 skirt:skirt.n.02 glove:glove.n.02 sock:sock.n.01 bag:bag.n.04 bag:bag.n.01
book:book.n.02 box:box.n.01 basket:basket.n.01 ball:ball.n.01 bridge:bridge.n.01 house:house.n.01
church:church.n.02 tower:tower.n.01 castle:castle.n.02 fence:fence.n.01 tree:tree.n.01 flower:flower.n.01
mushroom:mushroom.n.05 fungus:fungus.n.01 apple:apple.n.01 orange:orange.n.01 lemon:lemon.n.01
cabbage:cabbage.n.01 squash:squash.n.02 pepper:pepper.n.04 bread:bread.n.01 cake:cake.n.03 pizza:pizza.n.01
sandwich:sandwich.n.01 hammer:hammer.n.02 saw:saw.n.02 scissors:scissors.n.01 umbrella:umbrella.n.01
mountain:mountain.n.01 boat:sailing_vessel.n.01 person:person.n.01 dinosaur:dinosaur.n.01 cheese:cheese.n.01
rose:rose.n.01 tomato:tomato.n.01 potato:potato.n.01 onion:onion.n.03 bean:bean.n.01 mug:mug.n.04 jar:jar.n.01
sunglasses:sunglasses.n.01 helmet:helmet.n.02 pen:pen.n.01 pencil:pencil.n.01 wheel:wheel.n.01
"""


def basic_level(reader: Any) -> dict[str, str]:
    """Synset offset id -> basic-level word, for the anchors themselves."""
    table: dict[str, str] = {}
    for entry in _BASIC.split():
        word, _, synset = entry.partition(":")
        found = reader.synset(synset or f"{word}.n.01")
        table.setdefault(offset_id(found), word)
    return table


def offset_id(synset: Any) -> str:
    """ "n02123045" of an NLTK synset."""
    return f"n{synset.offset():08d}"


def nearest_basic(synset: Any, anchors: dict[str, str]) -> str:
    """The basic-level word of the closest anchor at or above a synset."""
    level = [synset]
    seen: set[str] = set()
    while level:
        for candidate in level:
            if offset_id(candidate) in anchors:
                return anchors[offset_id(candidate)]
        seen.update(offset_id(s) for s in level)
        above = [h for s in level for h in (*s.hypernyms(), *s.instance_hypernyms())]
        level = [h for h in above if offset_id(h) not in seen]
    return ""


def wordnet(dict_folder: Path) -> Any:
    """NLTK's reader on a WordNet dict folder (offline, no nltk_data)."""
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    # NLTK reads only below folders that were named to it.
    if str(dict_folder) not in nltk.data.path:
        nltk.data.path.append(str(dict_folder))

    counts: dict[str, int] = {}
    for line in (dict_folder / "index.sense").read_text("utf-8").splitlines():
        key, _, _, count = line.split()
        if count != "0":
            counts[key] = int(count)

    class Reader(WordNetCorpusReader):  # type: ignore[misc]
        def map_wn(self, version: str = "wordnet") -> None:
            """No mapping between WordNet versions: that would need a second corpus."""

        def lemma_count(self, lemma: Any) -> int:
            """From `index.sense`, which every release has; NLTK wants `cntlist.rev`."""
            return counts.get(lemma.key(), 0)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The multilingual functions", UserWarning)
        return Reader(str(dict_folder), omw_reader=None)
