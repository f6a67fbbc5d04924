"""What it costs to decode callers' pictures in processes of their own: beside the same code in a thread of the gateway.

python benchmarks/decoding.py [--count 20] [--write]
"""

import argparse
import asyncio
import io
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.fleet import decoder
from impasto.fleet.decoders import Decoders

RESULTS = Path(__file__).parent / "results/decoding.json"


def picture(width: int, height: int, format_: str) -> bytes:
    noise = Image.effect_noise((width // 8, height // 8), 80).resize((width, height)).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, format_)
    return buffer.getvalue()


async def median(read: Callable[[], Awaitable[Any]], count: int) -> float:
    """Milliseconds."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await read()
        took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 1)


async def measure(count: int) -> dict[str, Any]:
    decoders = Decoders()
    pictures = {
        "JPEG 1 MP": picture(1024, 1024, "JPEG"),
        "PNG 1 MP": picture(1024, 1024, "PNG"),
        "JPEG 12 MP": picture(4000, 3000, "JPEG"),
    }
    began = time.perf_counter()
    await decoders.decode(pictures["JPEG 1 MP"])
    rows: dict[str, Any] = {
        "first picture, with the start of its process, ms": round((time.perf_counter() - began) * 1000, 1)
    }
    for name, data in pictures.items():
        thread = await median(lambda data=data: asyncio.to_thread(decoder.decode, data), count)
        process = await median(lambda data=data: decoders.decode(data), count)
        rows[name] = {"thread, ms": thread, "process, ms": process, "ratio": round(process / thread, 2)}
    await decoders.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    text = json.dumps(asyncio.run(measure(arguments.count)), indent=2)
    print(text)
    if arguments.write:
        RESULTS.write_text(text + "\n")


if __name__ == "__main__":
    main()
