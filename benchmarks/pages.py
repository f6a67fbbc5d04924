"""How soon the pages show something, and how much they transfer, on loopback with an empty cache.

    python benchmarks/pages.py [--runs 5]

Starts a server with test pictures on a free port and opens each page in headless Chromium, a fresh profile every time.
Prints a table and writes results/pages.json. Figures to reach (issue 6): first paint under 300 ms, under 150 KB.
"""

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

PAGES = (
    "/", "/models", "/models/fal-ai/flux-pro/api", "/models/fal-ai/flux/dev/api", "/models/fal-ai/flux-lora",
    "/history", "/compare", "/dashboard",
)  # fmt: skip
RESULT = Path(__file__).parent / "results" / "pages.json"
MEASURE = """() => {
  const paint = performance.getEntriesByType("paint").find((entry) => entry.name === "first-contentful-paint");
  const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const bytes = all.reduce((sum, entry) => sum + entry.transferSize, 0);
  return { paint: paint?.startTime ?? null, bytes, files: all.length };
}"""


def measure(browser: Browser, url: str) -> dict[str, float]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    found, before = page.evaluate(MEASURE), -1
    while found["files"] != before:  # on a busy machine a module that is still being read looks like an idle network
        before = found["files"]
        page.wait_for_timeout(700)
        found = page.evaluate(MEASURE)
    context.close()
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5)
    runs = options.parse_args().runs
    program = next(found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", folder],
            env={k: v for k, v in os.environ.items() if not k.startswith("IMPASTO_")}
            | {"IMPASTO_MODEL_PIPELINE": "fake"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\S+)", line)))
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
                rows = {path: [measure(browser, url + path) for _ in range(runs)] for path in PAGES}
                browser.close()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    table = {
        path: {
            "first_paint_ms": round(statistics.median(row["paint"] for row in found)),
            "transferred_kb": round(max(row["bytes"] for row in found) / 1000, 1),
            "files": int(found[0]["files"]),
        }
        for path, found in rows.items()
    }
    print(f"{'page':32} {'first paint':>12} {'transferred':>12} {'files':>6}")
    for path, row in table.items():
        print(f"{path:32} {row['first_paint_ms']:>9} ms {row['transferred_kb']:>9} KB {row['files']:>6}")
    RESULT.write_text(json.dumps({"runs": runs, "pages": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()
