"""The contents of the small world: objects with plain English names, a few of them held out, and art styles,
one of them held out. Held-out things never enter the training of the diffusion model: they are the concepts
to invert.

Objects are emoji, so that one codepoint finds the same thing in every style. They are chunky ones that can be
told apart at 64 pixels and look alike in all styles; people, faces of people, hands, flags, clocks, signs and
lettering are excluded. Names are countable ("a hotdog") and, with a few exceptions, single words, so that
every template reads well. Animals whose bodies differ too much between the styles appear as heads.
"""
from __future__ import annotations

import re
from dataclasses import dataclass

# The categories that some captions name instead of the object, and how often each then shows which object:
# lopsided on purpose, so that there is a bias for a fairer word to correct (Gal et al. 2022, section 4.5).
# The other members of the category share the rest.
CATEGORIES = {
    "animal": {"dog": 0.45, "cat": 0.25, "horse": 0.1},
    "vehicle": {"car": 0.6, "bus": 0.15, "truck": 0.1},
    "building": {"house": 0.7, "church": 0.1},
    "plant": {"tree": 0.5, "rose": 0.2, "tulip": 0.1},
}

SEEN_STYLES = ("cartoon", "flat", "glossy")     # Noto, Twemoji, Fluent 3D
HELD_OUT_STYLE = "inked"                        # Noto's monochrome font: black lines, filled with white
STYLES = (*SEEN_STYLES, HELD_OUT_STYLE)


@dataclass(frozen=True)
class Thing:
    """An object of the world."""
    name: str
    code: str           # its codepoint in hexadecimal, without variation selector
    kind: str
    init: str = ""      # held-out objects only: a seen object that an inversion may start from


_SEEN = {
    "animal": """
        cat 1f431, dog 1f436, wolf 1f43a, lion 1f981, tiger 1f42f, bear 1f43b, koala 1f428,
        monkey 1f435, mouse 1f42d, rabbit 1f430, pig 1f437, cow 1f42e, frog 1f438, horse 1f40e,
        elephant 1f418, hippo 1f99b, camel 1f42b, llama 1f999, giraffe 1f992, sheep 1f411,
        squirrel 1f43f, kangaroo 1f998, unicorn 1f984, hen 1f414, chick 1f424, bird 1f426,
        penguin 1f427, duck 1f986, owl 1f989, flamingo 1f9a9, crocodile 1f40a, turtle 1f422,
        snake 1f40d, dinosaur 1f995, whale 1f433, dolphin 1f42c, fish 1f41f, shark 1f988, crab
        1f980, squid 1f991, jellyfish 1fabc, snail 1f40c, butterfly 1f98b, bee 1f41d, ladybug
        1f41e, rat 1f400, ox 1f402, leopard 1f406, goat 1f410, ram 1f40f, rooster 1f413, boar
        1f417, poodle 1f429, hamster 1f439, bat 1f987, deer 1f98c, gorilla 1f98d, rhino 1f98f,
        zebra 1f993, hedgehog 1f994, mammoth 1f9a3, sloth 1f9a5, otter 1f9a6, skunk 1f9a8,
        beaver 1f9ab, moose 1face, dragon 1f409, lizard 1f98e, shell 1f41a, pufferfish 1f421,
        shrimp 1f990, lobster 1f99e, oyster 1f9aa, seal 1f9ad, coral 1fab8, caterpillar 1f41b,
        ant 1f41c, spider 1f577, scorpion 1f982, cricket 1f997, fly 1fab0, worm 1fab1, dove
        1f54a, turkey 1f983, eagle 1f985, peacock 1f99a, swan 1f9a2, dodo 1f9a4, feather 1fab6,
        goose 1fabf""",
    "food": """
        apple 1f34e, banana 1f34c, lemon 1f34b, pear 1f350, peach 1f351, mango 1f96d, strawberry
        1f353, watermelon 1f349, kiwi 1f95d, tomato 1f345, eggplant 1f346, carrot 1f955, pepper
        1fad1, broccoli 1f966, loaf 1f35e, croissant 1f950, pretzel 1f968, pancake 1f95e, waffle
        1f9c7, cheese 1f9c0, hamburger 1f354, pizza 1f355, hotdog 1f32d, sandwich 1f96a, taco
        1f32e, egg 1f95a, doughnut 1f369, cookie 1f36a, cake 1f382, candy 1f36c, lollipop 1f36d,
        icecream 1f366, cup 2615, beer 1f37a, grape 1f347, melon 1f348, tangerine 1f34a, cherry
        1f352, coconut 1f965, blueberry 1fad0, olive 1fad2, corncob 1f33d, cucumber 1f952,
        potato 1f954, peanut 1f95c, lettuce 1f96c, garlic 1f9c4, onion 1f9c5, chestnut 1f330,
        chili 1f336, burrito 1f32f, steak 1f969, drumstick 1f357, popcorn 1f37f, baguette 1f956,
        salad 1f957, bagel 1f96f, dumpling 1f95f, sushi 1f363, ramen 1f35c, chocolate 1f36b,
        custard 1f36e, honeypot 1f36f, pie 1f967, milk 1f95b, wine 1f377, cocktail 1f378, juice
        1f9c3, soda 1f964, vase 1f3fa, can 1f96b""",
    "plant": """
        tree 1f333, pine 1f332, palm 1f334, tulip 1f337, rose 1f339, sunflower 1f33b, flower
        1f33a, clover 1f340, leaf 1f341, bouquet 1f490, log 1fab5, rock 1faa8, sprout 1f331,
        daisy 1f33c, lotus 1fab7, hyacinth 1fabb, nest 1faba, houseplant 1fab4, wheat 1f33e""",
    "vehicle": """
        car 1f697, taxi 1f695, ambulance 1f691, firetruck 1f692, bus 1f68c, van 1f690, truck
        1f69a, motorcycle 1f3cd, locomotive 1f682, train 1f68b, helicopter 1f681, airplane 2708,
        rocket 1f680, ufo 1f6f8, boat 1f6a4, ship 1f6a2, skateboard 1f6f9, racecar
        1f3ce, tram 1f68a, lorry 1f69b, bicycle 1f6b2, scooter 1f6f4, moped 1f6f5, rickshaw
        1f6fa, pickup 1f6fb, rollerskate 1f6fc, canoe 1f6f6, ferry 26f4, satellite 1f6f0,
        parachute 1fa82, wheelchair 1f9bd, sled 1f6f7, gondola 1f6a0""",
    "building": """
        house 1f3e0, church 26ea, factory 1f3ed, tent 26fa, volcano 1f30b, stadium 1f3df,
        hospital 1f3e5, bank 1f3e6, school 1f3eb, mosque 1f54c, temple 1f6d5, hut 1f6d6, tower
        1f5fc, fountain 26f2, carousel 1f3a0""",
    "thing": """
        ghost 1f47b, snowman 26c4, pumpkin 1f383, violin 1f3bb, drum 1f941, bell 1f514,
        television 1f4fa, laptop 1f4bb, camera 1f4f7, crown 1f451, diamond 1f48e, hat 1f3a9,
        shirt 1f455, dress 1f457, boot 1f462, sneaker 1f45f, handbag 1f45c, suitcase 1f9f3,
        umbrella 2602, gift 1f381, balloon 1f388, ball 26bd, basketball 1f3c0, trophy 1f3c6,
        magnet 1f9f2, bomb 1f4a3, bucket 1faa3, sofa 1f6cb, chair 1fa91, book 1f4d5, box 1f4e6,
        fire 1f525, star 2b50, shield 1f6e1, barrel 1f6e2, jigsaw 1f9e9, teddy 1f9f8, yoyo
        1fa80, kite 1fa81, pinata 1fa85, doll 1fa86, pawn 265f, target 1f3af, joystick 1f579,
        gamepad 1f3ae, dice 1f3b2, cloud 2601, sun 2600, rainbow 1f308, bolt 26a1, comet 2604,
        tornado 1f32a, planet 1fa90, droplet 1f4a7, globe 1f30d, ribbon 1f380, firecracker
        1f9e8, medal 1f3c5, lantern 1f3ee, lightbulb 1f4a1, candle 1f56f, flashlight 1f526,
        headphone 1f3a7, microphone 1f3a4, radio 1f4fb, saxophone 1f3b7, trumpet 1f3ba, piano
        1f3b9, accordion 1fa97, palette 1f3a8, mask 1f3ad, yarn 1f9f6, tie 1f454, kimono 1f458,
        ring 1f48d, cap 1f9e2, scarf 1f9e3, glove 1f9e4, coat 1f9e5, sock 1f9e6, heel 1f460,
        sandal 1f461, lipstick 1f484, helmet 26d1, football 1f3c8, volleyball 1f3d0, baseball
        26be, frisbee 1f94f, hammer 1f528, axe 1fa93, saw 1fa9a, ladder 1fa9c, gear 2699, brick
        1f9f1, scroll 1f4dc, envelope 2709, mailbox 1f4eb, pencil 270f, briefcase 1f4bc,
        telephone 260e, smartphone 1f4f1, printer 1f5a8, floppy 1f4be, battery 1f50b, plug
        1f50c, microscope 1f52c, syringe 1f489, pill 1f48a, megaphone 1f4e3, key 1f511, lock
        1f512, coin 1fa99, door 1f6aa, toilet 1f6bd, bathtub 1f6c1, bed 1f6cf, cart 1f6d2, broom
        1f9f9, basket 1f9fa, soap 1f9fc, mirror 1fa9e, anchor 2693, buoy 1f6df, coffin 26b0,
        statue 1f5ff, heart 2764, skull 1f480, alien 1f47d, hourglass 231b""",
}

# No seen object is a near twin of one of these: no raccoon to go with the panda, no second guitar. Each
# codepoint is followed by the seen object that an inversion may start from.
_HELD_OUT = {
    "animal": "fox 1f98a wolf, panda 1f43c bear, parrot 1f99c bird, octopus 1f419 squid",
    "food": "cupcake 1f9c1 cake, pineapple 1f34d mango, avocado 1f951 pear",
    "plant": "mushroom 1f344 strawberry, cactus 1f335 tree",
    "vehicle": "tractor 1f69c truck, sailboat 26f5 boat",
    "building": "castle 1f3f0 house",
    "thing": "teapot 1fad6 cup, guitar 1f3b8 violin, backpack 1f392 handbag, robot 1f916 television",
}


# Sprites without a name, by codepoint: twins of named things, things that differ between the styles, things
# few people would name at 64 pixels. Captions refer to them only by their code of appearance (codes.py). Left
# out are clocks, skies, scenes that contain other objects, and near twins of held-out objects.
NAMELESS = """
    1f004 1f0cf 1f338 1f33f 1f342 1f343 1f34f 1f356 1f358 1f359 1f35a 1f35b 1f35d 1f35f 1f360
    1f361 1f362 1f364 1f365 1f367 1f368 1f370 1f371 1f372 1f373 1f374 1f375 1f376 1f379 1f37b
    1f37c 1f37d 1f37e 1f384 1f389 1f38a 1f38e 1f38f 1f390 1f396 1f397 1f399 1f39a 1f39b 1f39e
    1f39f 1f3a1 1f3a2 1f3a3 1f3a5 1f3aa 1f3ab 1f3ac 1f3b0 1f3b1 1f3b3 1f3b4 1f3b5 1f3b6 1f3bc
    1f3bd 1f3be 1f3bf 1f3c9 1f3cf 1f3d1 1f3d2 1f3d3 1f3d7 1f3d8 1f3da 1f3db 1f3e1 1f3e2 1f3e3
    1f3e4 1f3e8 1f3e9 1f3ea 1f3ec 1f3f5 1f3f7 1f3f8 1f3f9 1f401 1f403 1f404 1f405 1f407 1f408
    1f40b 1f412 1f415 1f416 1f420 1f423 1f425 1f42a 1f432 1f434 1f43d 1f43e 1f452 1f453 1f456
    1f459 1f45a 1f45b 1f45d 1f45e 1f47e 1f488 1f48c 1f492 1f494 1f499 1f49a 1f49b 1f49c 1f4a5
    1f4a9 1f4ae 1f4b0 1f4b3 1f4b4 1f4b5 1f4b6 1f4b7 1f4b8 1f4b9 1f4ba 1f4bd 1f4bf 1f4c0 1f4c1
    1f4c2 1f4c3 1f4c4 1f4c5 1f4c6 1f4c7 1f4c8 1f4c9 1f4ca 1f4cb 1f4cc 1f4cd 1f4ce 1f4cf 1f4d0
    1f4d1 1f4d2 1f4d3 1f4d4 1f4d6 1f4d7 1f4d8 1f4d9 1f4da 1f4dd 1f4de 1f4df 1f4e0 1f4e1 1f4e2
    1f4e4 1f4e5 1f4e7 1f4e8 1f4e9 1f4ea 1f4ec 1f4ed 1f4ee 1f4ef 1f4f0 1f4f2 1f4f8 1f4f9 1f4fc
    1f4fd 1f4ff 1f507 1f508 1f509 1f50a 1f50d 1f50e 1f50f 1f510 1f513 1f515 1f516 1f517 1f527
    1f529 1f52a 1f52b 1f52d 1f52e 1f54b 1f54d 1f576 1f578 1f587 1f58a 1f58b 1f58c 1f58d 1f5a5
    1f5b1 1f5b2 1f5bc 1f5c2 1f5c3 1f5c4 1f5d1 1f5d2 1f5d3 1f5dc 1f5dd 1f5de 1f5e1 1f5f3 1f5fd
    1f683 1f684 1f685 1f686 1f687 1f688 1f689 1f68d 1f68e 1f68f 1f693 1f694 1f696 1f698 1f699
    1f69d 1f69e 1f69f 1f6a1 1f6a5 1f6a6 1f6a7 1f6a8 1f6ac 1f6bf 1f6cd 1f6ce 1f6d1 1f6d7 1f6dd
    1f6de 1f6e0 1f6e3 1f6e4 1f6e5 1f6e9 1f6eb 1f6ec 1f6f3 1f93f 1f940 1f942 1f943 1f944 1f945
    1f947 1f948 1f949 1f94a 1f94b 1f94c 1f94d 1f94e 1f953 1f958 1f959 1f960 1f961 1f962 1f963
    1f96e 1f97b 1f97c 1f97d 1f97e 1f97f 1f996 1f99f 1f9a0 1f9a7 1f9ac 1f9ae 1f9af 1f9ba 1f9bc
    1f9c2 1f9c6 1f9c8 1f9c9 1f9ca 1f9cb 1f9e7 1f9ea 1f9eb 1f9ec 1f9ee 1f9ef 1f9f0 1f9f4 1f9f5
    1f9f7 1f9fb 1f9fd 1f9fe 1f9ff 1fa70 1fa71 1fa72 1fa73 1fa74 1fa78 1fa79 1fa7a 1fa7b 1fa7c
    1fa83 1fa84 1fa87 1fa88 1fa92 1fa94 1fa96 1fa98 1fa9b 1fa9d 1fa9f 1faa0 1faa1 1faa2 1faa4
    1faa5 1faa6 1faa7 1faa9 1faaa 1faab 1faac 1faad 1faae 1fab2 1fab3 1fab9 1fabd 1facf 1fad3
    1fad4 1fad5 1fad7 1fad8 1fad9 1fada 1fadb 1fae7 2328 2618 2660 2663 2665 2666 2668 2692 2694
    2696 2697 26b1 26cf 26d3 26e9 26f3 26f8 26fd 2702 2712 2728
""".split()


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


def codepoint(name: str) -> str:
    """The codepoint of an object, given its name; a nameless object is named by its codepoint."""
    return OBJECTS[name].code if name in OBJECTS else name


def article(phrase: str) -> str:
    """The phrase with "a" or "an" in front, by its first sound as far as spelling reveals it: "a ufo"."""
    return f"{'an' if re.match(r'[aeio]|u(?!ni|fo)|hour', phrase) else 'a'} {phrase}"
