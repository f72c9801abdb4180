#!/usr/bin/env python3
"""What clients see of `metal-marlin serve`, through the openai package: every route and option, whole and as a stream.

  check_openai.py --binary PROGRAM --model FOLDER [--only TEXT] [--json]

The values are what is checked: that one request says what another does, and that figures are those of the tokens.
FOLDER is a model that speaks, with a tokenizer and without a generation_config.json, such as a quantized SmolLM2.
Exit codes: 0 all hold, 1 some do not. Needs: openai==3.57.0
"""
import json
import os
import shutil
import sys

from api_report import TEMPLATE, main
from openai_checks import CHECKS, MODEL, STORY, Api, neutral_draws

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server"))
from served import TOOL_TEMPLATE, Server  # noqa: E402


def thinking_model(model, work, end):
    """The model beside a generation_config.json of our own."""
    folder = work / "thinking"
    shutil.copytree(model, folder)
    own = json.loads((model / "config.json").read_text()).get("eos_token_id", [])
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 12, "repetition_penalty": 1.25,
                  "eos_token_id": [*(own if isinstance(own, list) else [own]), end]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder, generation


def run(args, work, report):
    Server.program, Server.work = args.binary, work

    def start(kind, model, *arguments, environment=None):
        server = Server("--served-name", MODEL, *arguments, models=[model], environment=environment)
        server.kind = kind
        return server
    plain = start("plain", args.model, "--context", "2048")
    api = Api(plain)
    draws = neutral_draws(api)
    end = api.tokens(STORY + api.go_on())[len(api.tokens(STORY)) + 8]
    end_text = api.post("/detokenize", tokens=[end])["prompt"]
    report.run(plain)
    (work / "thinks.jinja").write_text(TEMPLATE)
    folder, generation = thinking_model(args.model, work, end)
    thinking = start("thinking", folder, "--context", "512", "--chat-template", str(work / "thinks.jinja"))
    thinking.generation, thinking.end_text, thinking.plain_draws = generation, end_text, draws
    report.run(thinking)
    (work / "tools.jinja").write_text(TOOL_TEMPLATE)
    report.run(start("tools", args.model, "--context", "1024", "--chat-template", str(work / "tools.jinja")))
    (work / "keys").write_text("# of the test\nsecret-1\n")
    report.run(start("guarded", args.model, "--api-key-file", str(work / "keys"), "--cors-origin", "http://page.example", "--allowed-host", "more.example",
                     "--max-body", "10000", "--context", "256", environment={"METAL_MARLIN_API_KEY": "secret-2"}), "secret-1")


if __name__ == "__main__":
    sys.exit(main(__doc__, CHECKS, Api, run))
