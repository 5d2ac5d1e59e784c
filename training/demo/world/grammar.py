"""The captions: a small grammar from scenes to sentences.

docs/demo-model.md lists what it can say. A sentence belongs to training or to evaluation by a hash of its words, so a sentence
of the evaluation was never seen in training.
"""
import random
import re
import zlib

import numpy as np

from .motion import BACKDROPS, COLOURS, FLOORS, KINDS, MOTIONS

KIND_WORDS = {
    "ball": ["ball", "ball", "sphere", "orb"],
    "cube": ["cube", "cube", "box", "block"],
    "cylinder": ["cylinder", "cylinder", "drum", "can"],
    "cone": ["cone"],
    "ring": ["ring", "ring", "torus", "donut", "hoop"],
    "star": ["star", "star", "star prism"],
}
COLOUR_WORDS = {
    "red": ["red", "red", "red", "crimson", "scarlet"],
    "orange": ["orange"],
    "yellow": ["yellow", "yellow", "golden"],
    "green": ["green", "green", "emerald"],
    "cyan": ["cyan", "cyan", "turquoise", "teal"],
    "blue": ["blue"],
    "purple": ["purple", "purple", "violet"],
    "pink": ["pink", "pink", "rose"],
}
FLOOR_WORDS = {
    "wooden": ["a wooden floor", "wooden planks", "a wood floor", "a parquet floor"],
    "checkered": ["a checkered floor", "a tiled floor", "a chessboard floor", "grey tiles"],
    "white": ["a white floor", "a bright white floor", "white ground"],
    "black": ["a black floor", "a dark floor", "black ground"],
}
BACKDROP_WORDS = {
    "grey": ["a grey wall", "a gray wall", "a grey backdrop", "a grey background"],
    "night": ["a dark blue wall", "a night sky", "a night backdrop", "a dark blue background"],
    "sky": ["a pale blue sky", "a bright sky", "a light blue sky", "a clear sky"],
    "cream": ["a cream wall", "a beige wall", "a cream backdrop", "a beige background"],
}
# (verb as "it ...s", "they ...", "...ing"), then what follows the verb.
_GO = [("slides", "slide", "sliding"), ("moves", "move", "moving"), ("glides", "glide", "gliding"),
       ("travels", "travel", "travelling"), ("goes", "go", "going"), ("drifts", "drift", "drifting")]
_ROLL = [("rolls", "roll", "rolling"), ("tumbles", "tumble", "tumbling")]
MOTION_WORDS = {
    "left": [(_GO, ["left", "to the left", "to the left", "towards the left", "leftwards", "from right to left", "to the left side"])],
    "right": [(_GO, ["right", "to the right", "to the right", "towards the right", "rightwards", "from left to right", "to the right side"])],
    "nearer": [([("comes", "come", "coming"), ("moves", "move", "moving"), ("slides", "slide", "sliding"), ("gets", "get", "getting")],
                ["nearer", "closer"]),
               ([("comes", "come", "coming"), ("moves", "move", "moving"), ("glides", "glide", "gliding")],
                ["towards the camera", "towards us", "nearer to the camera", "forward"]),
               ([("approaches", "approach", "approaching")], ["", "the camera"])],
    "away": [([("goes", "go", "going"), ("moves", "move", "moving"), ("slides", "slide", "sliding"), ("drifts", "drift", "drifting")],
              ["away", "away from the camera", "into the distance", "away from us", "back", "backwards"]),
             ([("recedes", "recede", "receding")], ["", "into the distance"])],
    "bounce": [([("bounces", "bounce", "bouncing"), ("hops", "hop", "hopping"), ("jumps", "jump", "jumping")],
                ["", "up and down", "on the spot", "in place"]),
               ([("keeps bouncing", "keep bouncing", "bouncing")], [""])],
    "rise": [([("rises", "rise", "rising"), ("floats", "float", "floating")], ["up", "upwards", "into the air"]),
             ([("rises", "rise", "rising"), ("ascends", "ascend", "ascending"), ("lifts off", "lift off", "lifting off")], [""])],
    "sink": [([("sinks", "sink", "sinking"), ("floats", "float", "floating"), ("comes", "come", "coming")],
              ["down", "downwards", "down to the floor"]),
             ([("sinks", "sink", "sinking"), ("descends", "descend", "descending"), ("lands", "land", "landing")], [""])],
    "spin": [([("spins", "spin", "spinning"), ("turns", "turn", "turning"), ("rotates", "rotate", "rotating")],
              ["", "around", "in place", "on the spot", "around its axis"]),
             ([("twirls", "twirl", "twirling")], [""])],
    "circle": [([("circles", "circle", "circling")], ["", "around", "on the floor"]),
               ([("moves", "move", "moving"), ("goes", "go", "going"), ("slides", "slide", "sliding"), ("travels", "travel", "travelling")],
                ["in a circle", "in circles", "around in a circle"])],
    "grow": [([("grows", "grow", "growing")], ["", "bigger", "larger"]),
             ([("gets", "get", "getting"), ("becomes", "become", "becoming")], ["bigger", "larger"]),
             ([("expands", "expand", "expanding"), ("swells", "swell", "swelling")], [""])],
    "shrink": [([("shrinks", "shrink", "shrinking")], ["", "smaller", "down"]),
               ([("gets", "get", "getting"), ("becomes", "become", "becoming")], ["smaller", "tinier"]),
               ([("contracts", "contract", "contracting")], [""])],
    "still": [([("stays", "stay", "staying"), ("stands", "stand", "standing")], ["still", "in place", "put"]),
              ([("rests", "rest", "resting"), ("sits", "sit", "sitting")], ["", "still", "quietly"]),
              ([("does not move", "do not move", "not moving")], [""])],
}
_SLOW = ["slowly", "steadily", "smoothly", "gently"]
_SIDES = [("on the left", "on the right"), ("on the left", "on the right"), ("on the left side", "on the right side")]
_OPENINGS = ["a video of ", "a clip of ", "a short video of ", "a scene with ", "an animation of "]
_AMONG = ["on {floor}", "over {floor}", "on {floor} in front of {wall}", "on {floor} against {wall}", "in front of {wall}",
          "against {wall}", "before {wall}", "on {floor} with {wall} behind", "on {floor} and {wall} behind"]


def _article(words, rng):
    if rng.random() < 0.12:
        return ("one " if rng.random() < 0.4 else "the ") + words
    return ("an " if words[0] in "aeiou" else "a ") + words


def _noun(kind, colour, rng):
    return rng.choice(COLOUR_WORDS[colour]) + " " + rng.choice(KIND_WORDS[kind])


def _verb(motion, rolls, form, plural_body, rng):
    verbs, tails = rng.choice(MOTION_WORDS[motion])
    if rolls and rng.random() < 0.7:
        verbs = _ROLL
    verb, tail = rng.choice(verbs)[form], rng.choice(tails)
    if plural_body:
        tail = tail.replace("its axis", "their axes")
    if motion not in ("still", "bounce") and rng.random() < 0.1:
        slow = rng.choice(_SLOW)
        return " ".join(filter(None, [slow, verb, tail] if rng.random() < 0.5 else [verb, tail, slow]))
    return " ".join(filter(None, [verb, tail]))


def _place(floor, backdrop, rng):
    return rng.choice(_AMONG).format(floor=rng.choice(FLOOR_WORDS[floor]), wall=rng.choice(BACKDROP_WORDS[backdrop]))


def _act(motion, rolls, many, rng):
    """A finite verb phrase: "rolls left" or "is rolling left"."""
    if rng.random() < 0.3 and motion != "still":
        return ("are " if many else "is ") + _verb(motion, rolls, 2, many, rng)
    return _verb(motion, rolls, 1 if many else 0, many, rng)


def _sentence(floor, backdrop, solids, rng):
    place = _place(floor, backdrop, rng) if rng.random() < 0.6 else ""
    if len(solids) == 1:
        kind, colour, motion, rolls = solids[0]
        noun = _noun(kind, colour, rng)
        form = rng.random()
        if form < 0.40:
            body = _article(noun, rng) + " " + _act(motion, rolls, False, rng)
        elif form < 0.60:
            body = rng.choice(_OPENINGS) + _article(noun, rng) + " " + _verb(motion, rolls, 2, False, rng)
        elif form < 0.75:
            body = _article(noun, rng) + " " + _verb(motion, rolls, 2, False, rng)
        elif form < 0.88:
            body = noun + ", " + _verb(motion, rolls, 2, False, rng)
            return ", ".join(filter(None, [body, place]))
        else:
            body = _verb(motion, rolls, 2, False, rng) + ", " + _article(noun, rng)
    else:
        (k0, c0, m0, r0), (k1, c1, m1, r1) = solids
        n0, n1 = _noun(k0, c0, rng), _noun(k1, c1, rng)
        if rng.random() < 0.55:
            sides = rng.choice(_SIDES)
            n0, n1 = n0 + " " + sides[0], n1 + " " + sides[1]
        if m0 == m1 and rng.random() < 0.75:
            both = _article(n0, rng) + " and " + _article(n1, rng)
            rolls = r0 and r1
            form = rng.random()
            if form < 0.5:
                body = both + " " + _act(m0, rolls, True, rng)
            elif form < 0.65:
                body = "both " + both + " " + _act(m0, rolls, True, rng)
            else:
                body = (rng.choice(_OPENINGS) if rng.random() < 0.6 else "") + both + " " + _verb(m0, rolls, 2, True, rng)
        else:
            form = rng.random()
            if form < 0.6:
                link = rng.choice([" while ", " while ", " and ", " as ", ", and ", "; "])
                body = (_article(n0, rng) + " " + _act(m0, r0, False, rng) + link
                        + _article(n1, rng) + " " + _act(m1, r1, False, rng))
            elif form < 0.85:
                body = ((rng.choice(_OPENINGS) if rng.random() < 0.6 else "") + _article(n0, rng) + " " + _verb(m0, r0, 2, False, rng)
                        + " and " + _article(n1, rng) + " " + _verb(m1, r1, 2, False, rng))
            else:
                body = (n0 + " " + _verb(m0, r0, 2, False, rng) + ", " + n1 + " " + _verb(m1, r1, 2, False, rng))
                return ", ".join(filter(None, [body, place]))
    if not place:
        return body
    return body + " " + place if rng.random() < 0.75 else place + ", " + body


def words_of(sentence):
    """Lower-case words; what tells one sentence from another."""
    return re.findall(r"[a-z]+", sentence.lower())


def held_out(sentence):
    """Whether a sentence is kept for evaluation (one in ten)."""
    return zlib.crc32(" ".join(words_of(sentence)).encode()) % 10 == 0


def describe(scenes, index, rng, evaluation=False):
    """One sentence for scene `index`, from the training or the evaluation half; rng is a random.Random. Of two solids the left
    one is named first, and often the sides too: were they free, a sampler would have to settle at once, out of nothing, which is
    where."""
    count = int(scenes["solids"][index])
    solids = [(KINDS[scenes["kind"][index, k]], COLOURS[scenes["colour"][index, k]], MOTIONS[scenes["motion"][index, k]],
               bool(scenes["rolls"][index, k])) for k in np.argsort(scenes["lane"][index, :count])]
    floor, backdrop = FLOORS[scenes["floor"][index]], BACKDROPS[scenes["backdrop"][index]]
    while True:
        sentence = _sentence(floor, backdrop, solids, rng)
        if held_out(sentence) == evaluation:
            break
    if rng.random() < 0.5:
        sentence = sentence[0].upper() + sentence[1:]
    return sentence + ("." if rng.random() < 0.4 else "")


def vocabulary():
    """Every word that a sentence can hold, sorted."""
    found = set("a an the one and both while as is are their axes".split())
    for table in (KIND_WORDS, COLOUR_WORDS, FLOOR_WORDS, BACKDROP_WORDS):
        for wordings in table.values():
            for wording in wordings:
                found.update(words_of(wording))
    for groups in MOTION_WORDS.values():
        for verbs, tails in groups:
            for text in [form for verb in verbs for form in verb] + tails:
                found.update(words_of(text))
    for text in [form for verb in _ROLL for form in verb] + _SLOW + _OPENINGS + _AMONG + [side for pair in _SIDES for side in pair]:
        found.update(words_of(text.replace("{floor}", "").replace("{wall}", "")))
    return sorted(found)
