#!/usr/bin/env python3
"""What clients see of `metal-marlin serve`, through the anthropic package: messages with every option, whole and as a stream.

  check_anthropic.py --binary PROGRAM --model FOLDER [--only TEXT] [--json]

FOLDER is a model that speaks, with a tokenizer and without a generation_config.json, such as a quantized SmolLM2.
Exit codes: 0 all hold, 1 some do not. Needs: anthropic==2.14.0
"""
import os
import sys

from anthropic_checks import CHECKS, MODEL, Api
from api_report import TEMPLATE, main

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server"))
from served import TOOL_TEMPLATE, Server  # noqa: E402


def run(args, work, report):
    Server.program, Server.work = args.binary, work

    def check(kind, *arguments, template=None, key="none"):
        if template:
            (work / f"{kind}.jinja").write_text(template)
            arguments += ("--chat-template", str(work / f"{kind}.jinja"))
        server = Server("--served-name", MODEL, *arguments, models=[args.model])
        server.kind = kind
        report.run(server, key)
    check("plain", "--context", "512")
    check("thinking", "--context", "512", template=TEMPLATE)
    check("tools", "--context", "1024", template=TOOL_TEMPLATE)
    (work / "keys").write_text("secret-1\n")
    check("guarded", "--api-key-file", str(work / "keys"), "--max-body", "10000", "--context", "256", key="secret-1")


if __name__ == "__main__":
    sys.exit(main(__doc__, CHECKS, Api, run))
