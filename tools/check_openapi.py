#!/usr/bin/env python3
"""Asks `metal-marlin serve` what its own /openapi.json allows, and what it forbids, with schemathesis: no answer may be a
5xx, every answer must be what the document says, what it allows is answered and what it forbids is refused.

  check_openapi.py --binary PROGRAM --model FOLDER [--examples N] [--seed N]

The requests are of a fixed seed. The context is small, so that an answer without a limit is short.
Exit codes: 0 nothing found, 1 something was. Needs: openai==3.57.0 schemathesis==4.32.5
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server"))
from served import Server  # noqa: E402

KEY = "secret-1"
# A request that is right may be refused for what a schema cannot say; tools/openapi_hooks.py looks at the reasons.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "404"]
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--examples", type=int, default=25, help="requests of a route, of each kind")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        Server.program, Server.work = args.binary, pathlib.Path(work)
        server = Server("--context", "128", "--parallel", "64", models=[args.model], environment={"METAL_MARLIN_API_KEY": KEY})
        config = pathlib.Path(work) / "schemathesis.toml"
        config.write_text(CONFIG)
        tools = str(pathlib.Path(__file__).resolve().parent)
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color", "run", f"{server.url}/openapi.json", "--checks", "all",
                   "--header", f"Authorization: Bearer {KEY}", "--seed", str(args.seed), "--max-examples", str(args.examples), "--request-timeout", "120", "--max-response-time", "60",
                   "--generation-database", "none", "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"]
        path = os.pathsep.join(filter(None, [tools, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": path}
        with subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if work not in line:  # a folder of this run alone
                    print(line, end="", flush=True)
        code = process.returncode
        ended = server.stop()
        if ended != 0:
            print(f"the server ended with {ended}: {server.errors}")
            code = code or 1
    print(f"schemathesis: {'nothing found' if code == 0 else f'exit code {code}'}")
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
