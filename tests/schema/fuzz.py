"""Schemathesis over our own OpenAPI document: no 5xx, no status that the document does not name. Not part of the suite.

    python tests/schema/fuzz.py [--examples 50]

It needs `pip install schemathesis` (kept out of the test group: it is a long check), starts a server with test pictures
on a free loopback port, prints what schemathesis found and exits with its status.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--phases", default="examples,coverage,fuzzing", help="phases of schemathesis")
    options.add_argument("--examples", type=int, default=50, help="inputs tried an operation")
    chosen = options.parse_args()
    program = shutil.which("schemathesis", path=os.path.dirname(sys.executable)) or shutil.which("schemathesis")
    if program is None:
        print("schemathesis is not installed: pip install schemathesis", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", folder],
            env={k: v for k, v in os.environ.items() if not k.startswith("IMPASTO_")}
            | {
                "IMPASTO_MODEL_PIPELINE": "fake",
                "IMPASTO_SAFETY_ENABLED": "false",  # thousands of pictures, and none of them is the point
                "IMPASTO_QUEUE_SLOTS": "8",
                "IMPASTO_SERVER_DRAIN_SECONDS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\S+)", line)))
            while not _ready(url):
                time.sleep(0.2)
            command = [program, "run", f"{url}/openapi.json", "--url", url, "--checks", CHECKS]
            # A picture that could not begin within 0.1 s is a 504, as it should be; here nobody is in a hurry.
            command += ["-H", "X-Fal-Request-Timeout: 3600", "-n", str(chosen.examples), "--phases", chosen.phases]
            command += ["-H", "Authorization: Key local:local", "--request-timeout", "60", "--workers", "2"]
            return subprocess.run(command, check=False).returncode
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10):
            return True
    except urllib.error.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
