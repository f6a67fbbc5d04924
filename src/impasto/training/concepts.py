"""The concepts that the embedded model learns, and the words that name them.

A concept is one familiar thing. Its icons are found by the emoji's code point in every icon package, so that a style
is a package and never a second list of names. The colour is the word for how the icon looks as drawn; the palette
lists the colours that the icon may be shifted to without becoming something else.
"""

from dataclasses import dataclass

HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
"""Colours that a hue shift alone reaches."""
TONES = ("white", "black")
"""Colours that need saturation taken away as well."""
OBJECT_COLOURS = HUES + TONES


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing: its name, emoji code point (lower-case hexadecimal), other singular names, colour and palette."""

    name: str
    codepoint: str
    synonyms: tuple[str, ...] = ()
    colour: str | None = None
    palette: tuple[str, ...] = ()
    animal: bool = False


def _animal(name: str, codepoint: str, *synonyms: str, colour: str | None = None) -> Concept:
    return Concept(name, codepoint, synonyms, colour=colour, animal=True)


def _thing(
    name: str, codepoint: str, *synonyms: str, colour: str | None = None, palette: tuple[str, ...] = ()
) -> Concept:
    return Concept(name, codepoint, synonyms, colour=colour, palette=palette)


ALL = OBJECT_COLOURS

CONCEPTS: tuple[Concept, ...] = (
    # food
    _thing("apple", "1f34e", colour="red", palette=("green", "yellow")),
    _thing("banana", "1f34c", colour="yellow"),
    _thing("orange", "1f34a", "tangerine", "mandarin"),
    _thing("strawberry", "1f353", colour="red"),
    _thing("watermelon", "1f349", "slice of watermelon"),
    _thing("pineapple", "1f34d"),
    _thing("pizza", "1f355", "slice of pizza", "pizza slice"),
    _thing("hamburger", "1f354", "burger", "cheeseburger"),
    _thing("ice cream", "1f366", "ice cream cone", "soft ice cream"),
    _thing("birthday cake", "1f382", "cake"),
    _thing("donut", "1f369", "doughnut"),
    # animals
    _animal("cat", "1f431", "kitten", "kitty", "cat face"),
    _animal("dog", "1f436", "puppy", "doggy", "dog face"),
    _animal("panda", "1f43c", "panda bear"),
    _animal("fox", "1f98a", "fox face", colour="orange"),
    _animal("lion", "1f981", "lion face"),
    _animal("bear", "1f43b", "brown bear", "teddy bear"),
    _animal("frog", "1f438", "toad", colour="green"),
    _animal("rabbit", "1f430", "bunny", "rabbit face"),
    _animal("pig", "1f437", "piglet", colour="pink"),
    _animal("penguin", "1f427"),
    _animal("owl", "1f989"),
    _thing("fish", "1f41f", colour="blue", palette=("red", "orange", "green", "purple", "pink")),
    _animal("whale", "1f433", colour="blue"),
    _animal("turtle", "1f422", "tortoise", colour="green"),
    _thing("butterfly", "1f98b", palette=("red", "orange", "green", "purple", "pink")),
    _animal("chick", "1f424", "baby chick", colour="yellow"),
    # plants and sky
    _thing("tree", "1f333", "deciduous tree", "oak tree", colour="green"),
    _thing("pine tree", "1f332", "fir tree", "evergreen tree", "conifer", colour="green"),
    _thing("palm tree", "1f334", "palm"),
    _thing("cactus", "1f335", colour="green"),
    _thing("sunflower", "1f33b"),
    _thing("tulip", "1f337", "flower", colour="pink", palette=("red", "orange", "yellow", "blue", "purple")),
    _thing("mushroom", "1f344", "toadstool", colour="red"),
    _thing("sun", "2600", "sunshine", colour="yellow"),
    _thing("crescent moon", "1f319", "moon", colour="yellow"),
    _thing("cloud", "2601", colour="white"),
    _thing("rainbow", "1f308"),
    # shapes
    _thing("star", "2b50", colour="yellow", palette=ALL),
    _thing("heart", "2764", "love heart", colour="red", palette=ALL),
    _thing("circle", "1f534", "disc", colour="red", palette=ALL),
    _thing("square", "1f7e5", colour="red", palette=ALL),
    _thing("triangle", "1f53a", colour="red", palette=ALL),
    # things that move
    _thing("car", "1f697", "automobile", colour="red", palette=ALL),
    _thing("bus", "1f68c"),
    _thing("rocket", "1f680", "spaceship", "space rocket"),
    _thing("airplane", "2708", "plane", "aeroplane"),
    _thing("sailboat", "26f5", "boat", "sailing boat"),
    _thing("balloon", "1f388", "party balloon", colour="red", palette=ALL),
    # things
    _thing("house", "1f3e0", "home"),
    _thing("book", "1f4d5", "closed book", colour="red", palette=ALL),
    _thing("umbrella", "2602", "parasol"),
    _thing("cap", "1f9e2", "baseball cap", "hat", colour="blue", palette=ALL),
    _thing("crown", "1f451", "golden crown"),
    _thing("gift", "1f381", "present", "wrapped gift", "gift box"),
    _thing("guitar", "1f3b8", "electric guitar"),
    _thing("soccer ball", "26bd", "football"),
    _thing("basketball", "1f3c0"),
    _thing("camera", "1f4f7"),
    _thing("coffee", "2615", "cup of coffee", "coffee cup", "hot drink"),
    # characters
    _thing("smiling face", "1f642", "smiley", "smiley face", "happy face", colour="yellow"),
    _thing("robot", "1f916", "robot face"),
    _thing("ghost", "1f47b"),
    _thing("snowman", "26c4"),
    # newer than version 0.2, in the order of how soon they are wanted
    _animal("horse", "1f434", "pony", "horse face"),
    _animal("cow", "1f42e", "cow face"),
    _animal("tiger", "1f42f", "tiger face"),
    _animal("monkey", "1f435", "ape", "monkey face"),
    _animal("koala", "1f428", "koala bear"),
    _animal("mouse", "1f42d", "mouse face"),
    _animal("elephant", "1f418"),
    _animal("unicorn", "1f984", "unicorn face"),
    _thing("octopus", "1f419", "squid", palette=("red", "orange", "green", "blue", "purple", "pink")),
    _thing("crab", "1f980", colour="red", palette=("orange", "green", "blue", "purple")),
    _thing("ladybug", "1f41e", "ladybird", "beetle", colour="red", palette=("orange", "green", "blue", "purple")),
    _animal("duck", "1f986"),
    _thing("dinosaur", "1f995", "brontosaurus", colour="green", palette=("red", "orange", "blue", "purple", "pink")),
    _thing("bird", "1f426", palette=("red", "orange", "yellow", "green", "blue", "purple")),
    _animal("bee", "1f41d", "honeybee", "bumblebee"),
    _animal("snail", "1f40c"),
    _thing("carrot", "1f955", colour="orange"),
    _thing("lemon", "1f34b", colour="yellow"),
    _thing("cherries", "1f352", "pair of cherries", colour="red"),
    _thing("grapes", "1f347", "bunch of grapes", colour="purple"),
    _thing("pear", "1f350", colour="green", palette=("red", "yellow")),
    _thing("cheese", "1f9c0", "piece of cheese", colour="yellow"),
    _thing("cupcake", "1f9c1", "muffin"),
    _thing("t-shirt", "1f455", "shirt", "tee", palette=ALL),
    _thing("dress", "1f457", "gown", colour="blue", palette=("red", "orange", "yellow", "green", "purple", "pink")),
    _thing("backpack", "1f392", "rucksack", "school bag", colour="red", palette=ALL),
    _thing("bell", "1f514", colour="yellow"),
    _thing("key", "1f511", colour="yellow"),
    _thing("light bulb", "1f4a1", "lightbulb", "bulb", colour="yellow"),
    _thing("gem", "1f48e", "diamond", "jewel", colour="blue", palette=("red", "green", "purple", "pink")),
    _thing("teapot", "1fad6", "kettle", palette=("red", "orange", "yellow", "green", "blue", "purple")),
    _thing("bicycle", "1f6b2", "bike"),
    _thing("truck", "1f69a", "lorry", "delivery truck"),
    _thing("fire", "1f525", "flame"),
    _thing("castle", "1f3f0", "fortress"),
    _thing("pumpkin", "1f383", "jack-o-lantern", "halloween pumpkin", colour="orange"),
    _thing("alien", "1f47d", "extraterrestrial", colour="green"),
    # for a longer run
    _animal("wolf", "1f43a", "wolf face"),
    _animal("giraffe", "1f992"),
    _animal("dragon", "1f432", "dragon head", colour="green"),
    _animal("shark", "1f988"),
    _thing("dolphin", "1f42c", colour="blue", palette=("green", "purple", "pink")),
    _animal("chicken", "1f414", "hen", "rooster"),
    _thing("tomato", "1f345", colour="red"),
    _thing("avocado", "1f951"),
    _thing("bread", "1f35e", "loaf of bread", "toast"),
    _thing("cookie", "1f36a", "biscuit", "chocolate chip cookie"),
    _thing("lollipop", "1f36d", "candy"),
    _thing("french fries", "1f35f", "chips", "fries"),
    _thing("bell pepper", "1fad1", "sweet pepper", "capsicum", colour="green", palette=("red", "orange", "yellow")),
    _thing("ribbon", "1f380", "bow", palette=("red", "orange", "yellow", "green", "blue", "purple")),
    _thing("alarm clock", "23f0", "clock", colour="red"),
    _thing("trophy", "1f3c6", "golden cup"),
    _thing("chair", "1fa91", "wooden chair"),
    _thing("scissors", "2702", "pair of scissors"),
    _thing("pencil", "270f"),
    _thing("drum", "1f941"),
    _thing("bucket", "1faa3", "pail", colour="blue", palette=("red", "orange", "yellow", "green", "purple", "pink")),
    _thing("telephone", "260e", "phone", "old telephone", colour="red", palette=ALL),
    _thing("train", "1f686", "railway train"),
    _thing("helicopter", "1f681", "chopper"),
    _thing("snowflake", "2744", "snow crystal", colour="blue"),
    _thing("rose", "1f339", colour="red"),
    _thing("tent", "26fa", "camping tent"),
    _thing("earth", "1f30d", "globe", "planet earth"),
    _thing("christmas tree", "1f384", "xmas tree", "decorated tree"),
)

FIRST = 64
"""How many of the concepts version 0.2 knew. They keep place and palette, so that its figures stay comparable."""

_SKINS = {"light": "1f3fb", "medium": "1f3fd", "dark": "1f3ff"}
_PERSONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    # name, code points before and after the skin tone, synonyms
    ("man", "1f468", "", ("guy",)),
    ("woman", "1f469", "", ("lady",)),
    ("baby", "1f476", "", ("infant", "newborn baby")),
    ("girl", "1f467", "", ("young girl",)),
    ("old man", "1f474", "", ("grandfather", "elderly man", "grandpa")),
    ("boy", "1f466", "", ("young boy",)),
    ("old woman", "1f475", "", ("grandmother", "elderly woman", "grandma")),
    ("woman with red hair", "1f469", "-200d-1f9b0", ("red-haired woman", "ginger woman")),
    ("woman with curly hair", "1f469", "-200d-1f9b1", ("curly-haired woman",)),
    ("bald man", "1f468", "-200d-1f9b2", ("man with a bald head",)),
    ("blond woman", "1f471", "-200d-2640", ("woman with blond hair", "blonde woman")),
    ("man with a beard", "1f9d4", "-200d-2642", ("bearded man",)),
    ("astronaut", "1f468", "-200d-1f680", ("man astronaut", "spaceman")),
    ("doctor", "1f469", "-200d-2695", ("woman doctor", "physician")),
    ("cook", "1f468", "-200d-1f373", ("chef", "man cook")),
    ("firefighter", "1f469", "-200d-1f692", ("fireman", "woman firefighter")),
    ("police officer", "1f46e", "-200d-2642", ("policeman", "cop")),
)


def _person(name: str, before: str, after: str, synonyms: tuple[str, ...], skin: str | None) -> Concept:
    if skin is None:
        return Concept(name, before + after, synonyms)
    tone = f"{before}-{_SKINS[skin]}{after}"
    joined = "and" if " with " in name else "with"
    said = (f"{name} {joined} a {skin} skin tone", f"{skin}-skinned {name}")
    return Concept(f"{name} {joined} {skin} skin", tone, said)


PEOPLE: tuple[Concept, ...] = tuple(_person(*person, skin) for person in _PERSONS for skin in (None, *_SKINS))
"""Persons by age, hair and work, each as the yellow emoji that an unsaid skin means and in three skin tones."""

BY_NAME = {concept.name: concept for concept in (*CONCEPTS, *PEOPLE)}

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    (concept.name, colour)
    for place, concept in enumerate(one for one in CONCEPTS[FIRST:] if one.palette)
    for colour in concept.palette[place % 2 :: 2]
)
"""(concept, colour) pairs that no training picture shows: every other colour of every concept that is new since 0.2."""


def trained_palette(concept: Concept) -> tuple[str, ...]:
    """The colours that training may shift a concept to."""
    return tuple(colour for colour in concept.palette if (concept.name, colour) not in HELD_OUT)


_NO_PLURAL = {
    *("sun", "crescent moon", "rainbow", "earth", "fire", "ice cream", "coffee", "pizza", "bread", "cheese"),
    *("french fries", "scissors", "cherries", "grapes"),
}
_PLURALS = {"mouse": "mice", "fish": "fish", "gift": "gifts", "wolf": "wolves", "octopus": "octopuses"}


def plural(concept: Concept) -> str | None:
    """The plural of a concept's name, or None for what is not counted."""
    name = concept.name
    if name in _NO_PLURAL:
        return None
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh", "tomato")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2] not in "aeiou" else f"{name}s"


COUNTED: tuple[Concept, ...] = tuple(concept for concept in CONCEPTS if plural(concept) is not None)
"""What groups are made of."""
