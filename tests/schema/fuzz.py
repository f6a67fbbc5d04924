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

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--examples", type=int, default=50, help="inputs tried an operation")
    examples = options.parse_args().examples
    program = shutil.which("schemathesis", path=os.path.dirname(sys.executable)) or shutil.which("schemathesis")
    if program is None:
        print("schemathesis is not installed: pip install schemathesis", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", "--data", folder],
            env={k: v for k, v in os.environ.items() if not k.startswith("IMPASTO_")}
            | {"IMPASTO_MODEL_PIPELINE": "fake", "IMPASTO_SERVER_DRAIN_SECONDS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert server.stdout is not None
            url = next(found[1] for line in server.stdout if (found := re.search(r"serving (http://\S+)", line)))
            command = [program, "run", f"{url}/openapi.json", "--url", url, "--checks", CHECKS, "-n", str(examples)]
            command += ["-H", "Authorization: Key local:local", "--request-timeout", "60", "--workers", "2"]
            return subprocess.run([*command, "--phases", "examples,coverage,fuzzing"], check=False).returncode
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


if __name__ == "__main__":
    sys.exit(main())
