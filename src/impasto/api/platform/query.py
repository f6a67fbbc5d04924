"""The query string of the platform API: lists, pages, times. What makes no sense is a 400 that names the parameter."""

import binascii
import itertools
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.datastructures import QueryParams

from impasto.api.bodies import whole_number
from impasto.endpoints.base import Endpoint
from impasto.errors import BadRequest

T = TypeVar("T")

MAX_ENDPOINTS = 50
MAX_SEARCH = 200  # characters
MAX_BUCKETS = 10_000
YEARS = (1970, 2200)
DAY = timedelta(days=1)
TIMEFRAMES = ("minute", "hour", "day", "week", "month")
_SUITS = (("minute", timedelta(hours=2)), ("hour", 2 * DAY), ("day", 64 * DAY), ("week", 183 * DAY))
_STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": DAY, "week": 7 * DAY}


def many(query: QueryParams, name: str) -> list[str]:
    """All values of a parameter that may be repeated or hold commas."""
    return [part for value in query.getlist(name) for part in value.split(",") if part]


def endpoint_ids(query: QueryParams) -> list[str]:
    """`endpoint_id`, at most fifty; [] when there is none."""
    ids = [id_.strip("/") for id_ in many(query, "endpoint_id")]
    if len(ids) > MAX_ENDPOINTS:
        raise BadRequest(f"endpoint_id: at most {MAX_ENDPOINTS} ids at a time, not {len(ids)}.")
    return ids


def choice(query: QueryParams, name: str, allowed: Sequence[str], default: str | None = None) -> str | None:
    word = query.get(name, default)
    if word is not None and word not in allowed:
        raise BadRequest(f"{name} is one of {', '.join(allowed)}, not {word[:80]!r}.")
    return word


def expands(query: QueryParams, allowed: Sequence[str], default: Sequence[str] = ()) -> list[str]:
    words = many(query, "expand") or list(default)
    for word in words:
        if word not in allowed:
            raise BadRequest(f"expand takes {', '.join(allowed)}, not {word[:80]!r}.")
    return words


def words(query: QueryParams, name: str) -> tuple[str, ...]:
    """The different words of a search, in lower case. Raises `BadRequest` for a search of more than `MAX_SEARCH`."""
    text = query.get(name, "")
    if len(text) > MAX_SEARCH:
        raise BadRequest(f"{name}: at most {MAX_SEARCH} characters, not {len(text)}.")
    return tuple(dict.fromkeys(text.lower().split()))


def has_words(endpoint: Endpoint, searched: Sequence[str]) -> bool:
    """Whether the endpoint's id, title and description have all of the words."""
    text = f"{endpoint.id} {endpoint.title} {endpoint.description}".lower() if searched else ""
    return all(word in text for word in searched)


def number(query: QueryParams, name: str, *, default: int, most: int) -> int:
    """A whole number from 0 to `most`."""
    text = query.get(name)
    found = default if text is None else whole_number(text)
    if found is None or found > most:
        raise BadRequest(f"{name} is a whole number from 0 to {most}, not {str(text)[:80]!r}.")
    return found


def limit(query: QueryParams, *, default: int = 50, most: int = 100) -> int:
    text = query.get("limit")
    if text is None:
        return default
    number = whole_number(text)
    if number is None or not 1 <= number <= most:
        raise BadRequest(f"limit is a whole number from 1 to {most}, not {text[:80]!r}.")
    return number


def cursor(query: QueryParams) -> str | None:
    """What the last page's `next_cursor` stands for."""
    text = query.get("cursor")
    if not text:
        return None
    try:
        return urlsafe_b64decode(text.encode("ascii") + b"==").decode("utf-8")
    except (ValueError, binascii.Error):
        raise foreign_cursor() from None


def foreign_cursor() -> BadRequest:
    return BadRequest("cursor is not one that this server gave; take next_cursor of the page before.")


def place(query: QueryParams) -> int | None:
    """`cursor`, where it is a number: a place that stays what it is when rows before it go."""
    text = cursor(query)
    number = None if text is None else whole_number(text)
    if text is not None and number is None:
        raise foreign_cursor()
    return number


def page(name: str, items: Sequence[Any], *, next_: str | None) -> dict[str, Any]:
    """The envelope of every list."""
    text = None if next_ is None else urlsafe_b64encode(next_.encode("utf-8")).decode("ascii").rstrip("=")
    return {name: items, "next_cursor": text, "has_more": next_ is not None}


def slice_page(query: QueryParams, items: Sequence[T], *, most: int = 100) -> tuple[Sequence[T], str | None]:
    """A page of a list that lies in memory and loses nothing between pages, and what its cursor stands for."""
    start = place(query) or 0
    end = start + limit(query, most=most)
    return items[start:end], str(end) if end < len(items) else None


def zone(query: QueryParams) -> tzinfo:
    name = query.get("timezone", "UTC")
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadRequest(f"timezone is a name such as Europe/Berlin, not {name[:80]!r}.") from None


def moment(query: QueryParams, name: str, where: tzinfo) -> datetime | None:
    """An ISO 8601 date or time; one without an offset is of the zone `where`."""
    text = query.get(name)
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or not YEARS[0] <= at.year <= YEARS[1]:
        raise BadRequest(f"{name} is a date or time such as 2026-01-31T00:00:00Z, not {text[:80]!r}.")
    return at if at.tzinfo is not None else at.replace(tzinfo=where)


def span(query: QueryParams, where: tzinfo) -> tuple[datetime, datetime]:
    """(start, end), by default the last 24 hours."""
    end = moment(query, "end", where) or datetime.now(where)
    start = moment(query, "start", where) or end - DAY
    if start >= end:
        raise BadRequest("start has to lie before end.")
    return start.astimezone(where), end.astimezone(where)


def buckets(query: QueryParams, start: datetime, end: datetime) -> list[datetime]:
    """Starts of the buckets of `timeframe` (by default one that suits the span); the first is whole, too, unless
    `bound_to_timeframe` is false.
    """
    suits = next((name for name, longest in _SUITS if end - start <= longest), "month")
    timeframe = choice(query, "timeframe", TIMEFRAMES, suits) or suits
    bound = choice(query, "bound_to_timeframe", ("true", "false"), "true") == "true"
    starts: list[datetime] = []
    for at in itertools.islice(_starts(_floor(start, timeframe), timeframe), MAX_BUCKETS + 1):
        if at >= end:
            break
        starts.append(at)
    if len(starts) > MAX_BUCKETS:
        raise BadRequest(f"timeframe {timeframe} makes more than {MAX_BUCKETS} buckets; take a larger one.")
    return starts if bound else [max(start, starts[0]), *starts[1:]]


def _floor(at: datetime, timeframe: str) -> datetime:
    at = at.replace(second=0, microsecond=0)
    if timeframe == "minute":
        return at
    at = at.replace(minute=0)
    if timeframe == "hour":
        return at
    at = at.replace(hour=0)
    if timeframe == "week":
        return at - at.weekday() * DAY
    return at.replace(day=1) if timeframe == "month" else at


def _starts(first: datetime, timeframe: str) -> Iterator[datetime]:
    """`first` and what follows, by the wall clock of its zone for days and longer."""
    at = first
    while True:
        yield at
        if timeframe in ("minute", "hour"):  # by the real clock: an hour that the summer repeats counts twice
            at = (at.astimezone(UTC) + _STEPS[timeframe]).astimezone(at.tzinfo)
        elif timeframe == "month":
            at = (at + 32 * DAY).replace(day=1)
        else:
            at += _STEPS[timeframe]


def shown(at: float, where: tzinfo = UTC) -> str:
    """Unix seconds as ISO 8601."""
    return datetime.fromtimestamp(at, where).isoformat(timespec="milliseconds" if at % 1 else "seconds")
