"""Make other people's text safe to show: in a log line, in a terminal. The one place where characters are escaped.

In: any text. Out: the same text without a character that moves the cursor, starts a line, changes a colour or turns the
direction of reading, and URLs without what is secret in them.
"""

import re
import unicodedata

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # controls, formats (bidi), surrogates, unassigned, separators
_JOINERS = "\u200c\u200d"  # join the parts of emoji and of some scripts; they move nothing
_URL = re.compile(r"([a-z][a-z0-9+.-]{0,31}://)([^\s/?#]*@)?([^\s?#]*)([?#]\S*)?", re.IGNORECASE)
_CLOSING = re.compile(r"[.,:;!)\]}>'\"]*$")


def printable(text: str, *, lines: bool = False) -> str:
    """Return `text` with every control, format and separator character written as `\\x1b`, `\\n`, `\\u202e`.

    `lines`: keep line breaks, for text whose parts have been through this already.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character, lines) for character in text)


def _shown(character: str, lines: bool) -> str:
    if character.isprintable() or character in _JOINERS or (lines and character == "\n"):
        return character
    if unicodedata.category(character) not in _UNSEEN:  # a wide or narrow space
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def bare_urls(text: str) -> str:
    """Return `text` with `?***` instead of the query and fragment of every URL, and without user names in them."""
    return _URL.sub(_bare, text) if "://" in text else text


def bare_url(text: str) -> str:
    """Return what is one URL and nothing else without its query, fragment and user name, blanks in them included."""
    scheme, colon, rest = text.partition("://")
    if not colon:
        return text
    place, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def _bare(found: re.Match[str]) -> str:
    scheme, user, rest, query = found.groups()
    if not query:
        return f"{scheme}{'***@' if user else ''}{rest}"
    closing = _CLOSING.search(query)
    return f"{scheme}{'***@' if user else ''}{rest}?***{'' if closing is None else closing[0]}"
