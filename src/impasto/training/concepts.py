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
)

BY_NAME = {concept.name: concept for concept in CONCEPTS}
