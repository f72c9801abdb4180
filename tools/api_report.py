"""What the checks of the server's APIs share: how one is run and told of, what is compared, chat templates for a model that speaks."""
import argparse
import json
import pathlib
import tempfile
import time
import traceback

# ChatML with thoughts: what the model is asked to go on with ends inside of one where enable_thinking is true.
TEMPLATE = """{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>
{% endif %}{% endif %}{# </think> #}"""


def same(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: {found!r}, expected {expected!r}")


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


class Report:
    """`checks`: functions by the kind of server that they are for; each is given what `make_api` makes of a server and a key."""

    def __init__(self, checks, make_api, only, quiet):
        self.checks, self.make_api, self.only, self.quiet, self.results = checks, make_api, only, quiet, []

    def run(self, server, key="none"):
        """The checks of one server, then its end, which is one too."""
        for check in self.checks[server.kind]:
            if self.only in check.__name__:
                self.one(server.kind, check.__name__, check.__doc__, lambda check=check: check(self.make_api(server, key)))
        self.one(server.kind, "stop", "the server ends with exit code 0", lambda: same(server.stop(), 0))

    def one(self, kind, name, says, check):
        start = time.monotonic()
        error = None
        try:
            check()
        except Exception as failure:  # noqa: BLE001 whatever is wrong is a check that failed
            place = traceback.extract_tb(failure.__traceback__)
            lines = [f"{frame.lineno}" for frame in place if pathlib.Path(frame.filename).stem.endswith("_checks")]
            error = f"{type(failure).__name__}: {failure} {failure.__cause__ or ''} (lines {' '.join(lines)})"
        self.results.append({"server": kind, "check": name, "says": says, "seconds": round(time.monotonic() - start, 1), "error": error})
        if not self.quiet:
            print(f"{'FAILED' if error else 'ok    '} {kind}.{name}: {says}" + (f"\n  {error[:600]}" if error else ""), flush=True)

    def failed(self):
        return [result for result in self.results if result["error"]]


def main(doc, checks, make_api, run):
    """A script of checks: its arguments, `run` of them, a folder to work in and the report, and what it found. Returns its exit code."""
    parser = argparse.ArgumentParser(description=doc.split("\n", maxsplit=1)[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--only", default="", help="checks whose names have this in them")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    report = Report(checks, make_api, args.only, args.json)
    with tempfile.TemporaryDirectory() as work:
        run(args, pathlib.Path(work), report)
    failed = report.failed()
    if args.json:
        print(json.dumps({"checks": report.results, "failed": len(failed)}, indent=2))
    else:
        print(f"{len(report.results) - len(failed)} of {len(report.results)} checks hold")
    return 1 if failed else 0
