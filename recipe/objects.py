"""What the small world holds: objects with plain English names, of which a few are held out, and art styles,
of which one is held out. Whatever is held out never enters training of the diffusion model: those are the
concepts to invert.

Objects are emoji, so that one codepoint finds the same thing in every style. Chosen are chunky ones that can
be told apart at 64 pixels and look alike in all styles; people, faces of people, hands, flags, clocks, signs
and lettering are not. Names are countable ("a hotdog") and single words but for a few, so that every template
reads well. Animals whose bodies differ too much between the styles appear as their heads.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

SEEN_STYLES = ("cartoon", "flat", "glossy")     # Noto, Twemoji, Fluent 3D
HELD_OUT_STYLE = "inked"                        # Noto's monochrome font: black lines, filled with white
STYLES = (*SEEN_STYLES, HELD_OUT_STYLE)


@dataclass(frozen=True)
class Thing:
    """An object of the world."""
    name: str
    code: str           # its codepoint in hexadecimal, without variation selector
    kind: str
    init: str = ""      # held-out objects only: a seen object from which an inversion may start


_SEEN = {
    "animal": """
        cat 1f431, dog 1f436, wolf 1f43a, lion 1f981, tiger 1f42f, bear 1f43b, koala 1f428,
        monkey 1f435, mouse 1f42d, rabbit 1f430, pig 1f437, cow 1f42e, frog 1f438, horse 1f40e,
        elephant 1f418, hippo 1f99b, camel 1f42b, llama 1f999, giraffe 1f992, sheep 1f411,
        squirrel 1f43f, kangaroo 1f998, unicorn 1f984, hen 1f414, chick 1f424, bird 1f426,
        penguin 1f427, duck 1f986, owl 1f989, flamingo 1f9a9, crocodile 1f40a, turtle 1f422,
        snake 1f40d, dinosaur 1f995, whale 1f433, dolphin 1f42c, fish 1f41f, shark 1f988, crab 1f980,
        squid 1f991, jellyfish 1fabc, snail 1f40c, butterfly 1f98b, bee 1f41d, ladybug 1f41e""",
    "food": """
        apple 1f34e, banana 1f34c, lemon 1f34b, pear 1f350, peach 1f351, mango 1f96d, strawberry 1f353,
        watermelon 1f349, kiwi 1f95d, tomato 1f345, eggplant 1f346, carrot 1f955, pepper 1fad1,
        broccoli 1f966, loaf 1f35e, croissant 1f950, pretzel 1f968, pancake 1f95e, waffle 1f9c7,
        cheese 1f9c0, hamburger 1f354, pizza 1f355, hotdog 1f32d, sandwich 1f96a, taco 1f32e, egg 1f95a,
        doughnut 1f369, cookie 1f36a, cake 1f382, candy 1f36c, lollipop 1f36d, ice cream 1f366,
        cup 2615, beer 1f37a""",
    "plant": """
        tree 1f333, pine 1f332, palm 1f334, tulip 1f337, rose 1f339, sunflower 1f33b, flower 1f33a,
        clover 1f340, leaf 1f341, bouquet 1f490, log 1fab5, rock 1faa8""",
    "vehicle": """
        car 1f697, taxi 1f695, ambulance 1f691, fire engine 1f692, bus 1f68c, van 1f690, truck 1f69a,
        motorcycle 1f3cd, locomotive 1f682, train 1f68b, helicopter 1f681, airplane 2708, rocket 1f680,
        flying saucer 1f6f8, boat 1f6a4, ship 1f6a2, skateboard 1f6f9""",
    "building": """
        house 1f3e0, church 26ea, factory 1f3ed, tent 26fa, volcano 1f30b""",
    "thing": """
        ghost 1f47b, snowman 26c4, pumpkin 1f383, violin 1f3bb, drum 1f941, bell 1f514,
        television 1f4fa, laptop 1f4bb, camera 1f4f7, crown 1f451, diamond 1f48e, hat 1f3a9,
        shirt 1f455, dress 1f457, boot 1f462, sneaker 1f45f, handbag 1f45c, suitcase 1f9f3,
        umbrella 2602, gift 1f381, balloon 1f388, ball 26bd, basketball 1f3c0, trophy 1f3c6,
        magnet 1f9f2, bomb 1f4a3, bucket 1faa3, sofa 1f6cb, chair 1fa91, book 1f4d5, box 1f4e6,
        fire 1f525, star 2b50, shield 1f6e1, barrel 1f6e2""",
}

# Nothing seen is a near twin of one of these: no raccoon beside the panda, no second guitar. After each
# codepoint stands the seen object from which an inversion may start.
_HELD_OUT = {
    "animal": "fox 1f98a wolf, panda 1f43c bear, parrot 1f99c bird, octopus 1f419 squid",
    "food": "cupcake 1f9c1 cake, pineapple 1f34d mango, avocado 1f951 pear",
    "plant": "mushroom 1f344 strawberry, cactus 1f335 tree",
    "vehicle": "tractor 1f69c truck, sailboat 26f5 boat",
    "building": "castle 1f3f0 house",
    "thing": "teapot 1fad6 cup, guitar 1f3b8 violin, backpack 1f392 handbag, robot 1f916 television",
}


def _read(table: dict[str, str], with_init: bool) -> dict[str, Thing]:
    things = {}
    for kind, rows in table.items():
        for row in rows.split(","):
            *name, code, init = [*row.split(), *([] if with_init else [""])]
            things[" ".join(name)] = Thing(" ".join(name), code, kind, init)
    return things


SEEN = _read(_SEEN, with_init=False)
HELD_OUT = _read(_HELD_OUT, with_init=True)
OBJECTS = {**SEEN, **HELD_OUT}


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it, by its first sound as far as letters tell."""
    return f"{'an' if re.match(r'[aeio]|u(?!ni)', phrase) else 'a'} {phrase}"
