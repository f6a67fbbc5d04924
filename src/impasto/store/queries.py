"""The loader of a named-SQL file: `-- name: x`, a sentence in comments, one statement (or several, for settings).

Before the first statement, `-- part: x` and a sentence name text that statements repeat: they hold `{x}` in its place.
"""

from dataclasses import dataclass
from importlib import resources

from impasto.errors import StoreError


@dataclass(frozen=True, slots=True)
class Query:
    name: str
    sentence: str
    sql: str


def load(file: str) -> dict[str, Query]:
    """name → query of a file beside this module. Raises `StoreError`: a statement without a sentence, a name twice."""
    return parse(resources.files("impasto.store").joinpath(file).read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Query]:
    """name → query. A block ends at the next name; comments after its statement belong to the file, not to it."""
    head, *blocks = text.split("-- name:")
    parts = {f"{{{name}}}": part for name, _, part in map(_read, head.split("-- part:")[1:])}
    queries: dict[str, Query] = {}
    for name, sentence, sql in map(_read, blocks):
        for mark, part in parts.items():
            sql = sql.replace(mark, part)
        if not sentence or not sql.endswith(";"):
            raise StoreError(f"query {name!r} needs a sentence and a statement that ends in a semicolon")
        if name in queries:
            raise StoreError(f"query {name!r} is there twice")
        queries[name] = Query(name, sentence, sql)
    return queries


def _read(block: str) -> tuple[str, str, str]:
    """Split a block into its name, its sentence and its text without comments."""
    name, _, rest = block.partition("\n")
    lines = rest.splitlines()
    sentence: list[str] = []
    while lines and lines[0].startswith("--"):
        sentence.append(lines.pop(0).removeprefix("--").strip())
    return name.strip(), " ".join(sentence), "\n".join(line for line in lines if not line.startswith("--")).strip()
