#!/usr/bin/env python3
"""Holds the grammars that JSON Schemas become to JSON Schema's own test suite (draft 2020-12).

  check_schemas.py --binary build/user/bin/metal-marlin --suite jsonschema-4.23.0.tar.gz

The suite is in the source distribution of the package jsonschema (json/tests/draft2020-12). Of each schema every
instance that the suite calls valid must be accepted, as compact JSON with members in the order of the schema's
properties and whole numbers without a fraction, and every other one must not; or the schema must be refused by the name
of what it asks for. Random texts of each grammar must be valid, as the package jsonschema has it. Formats are asserted here, so theirs are the suite's optional tests.

Exit codes: 0 all is so, 1 something is not. Needs: jsonschema==4.23.0
"""
import argparse
import decimal
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

import jsonschema

FORMAT_CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER
KEYWORDS = ["type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "enum", "const",
            "anyOf", "oneOf", "allOf", "ref", "anchor", "defs", "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
            "exclusiveMaximum", "multipleOf", "boolean_schema", "default", "infinite-loop-detection", "content", "vocabulary",
            "not", "if-then-else", "contains", "uniqueItems", "patternProperties", "propertyNames", "minProperties", "maxProperties",
            "dependentRequired", "dependentSchemas", "unevaluatedItems", "unevaluatedProperties", "dynamicRef", "minContains", "maxContains"]
FORMATS = ["date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "hostname", "uri", "uri-reference", "json-pointer"]
# Valid instances that are refused on purpose: (file, part of the test's description).
KNOWN = [("format/time", "leap second"), ("format/date-time", "leap second"), ("format/email", "quoted string"), ("format/email", "literal after the @"),
         ("format/hostname", "punycoded")]


def canonical(value, schema):
    """Whole numbers without a fraction; members in the order of the schema's properties."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, list):
        return [canonical(v, None) for v in value]
    if not isinstance(value, dict):
        return value
    order = list(names_of(schema))
    place = {name: i for i, name in enumerate(order)}
    return {k: canonical(v, None) for k, v in sorted(value.items(), key=lambda item: place.get(item[0], len(order)))}


def names_of(schema):
    """Members' names in the order in which a grammar of the schema has them."""
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("properties"), dict):
        yield from schema["properties"]
    if isinstance(schema.get("const"), dict):
        yield from schema["const"]
    for name in schema.get("required") or []:
        yield name
    for part in schema.get("allOf") or []:
        yield from names_of(part)
    for part in (schema.get("anyOf") or []) + (schema.get("oneOf") or []):
        yield from names_of(part)


def ask(binary, folder, schema, texts):
    """Whether each text is of the grammar; or why there is none."""
    (folder / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
    (folder / "lines").write_text("".join(json.dumps(t) + "\n" for t in texts), encoding="utf-8")
    done = subprocess.run([binary, "grammar", "check", "--schema", folder / "schema.json", "--json-lines", folder / "lines"],
                          capture_output=True, text=True, timeout=120)
    if done.returncode in (0, 1):
        return [line == "yes" for line in done.stdout.split()], None
    return None, done.stderr.strip() if done.returncode == 2 else f"EXIT {done.returncode}: {done.stderr.strip()}"


def exact(text):
    """JSON whose fractions are decimal, as its multiples are."""
    return json.loads(text, parse_float=decimal.Decimal)


def invalid_samples(binary, folder, schema):
    """Random texts of the grammar that the judge does not hold for valid."""
    done = subprocess.run([binary, "grammar", "sample", "--schema", folder / "schema.json", "-n", "10"], capture_output=True, text=True, timeout=120, check=True)
    judge = jsonschema.Draft202012Validator(exact(json.dumps(schema)), format_checker=FORMAT_CHECKER)
    texts = [json.loads(line) for line in done.stdout.splitlines()]
    return len(texts), [text for text in texts if not judge.is_valid(exact(text))]


def check_file(binary, folder, name, groups):
    """Counts of a file of the suite, and what is wrong."""
    counts = {"accepted": 0, "not accepted": 0, "refused": 0, "known": 0, "sampled": 0}
    wrong = []
    for group in groups:
        schema = group["schema"]
        texts = [json.dumps(canonical(t["data"], schema), ensure_ascii=False, separators=(",", ":")) for t in group["tests"]]
        answers, why = ask(binary, folder, schema, texts)
        if answers is None:
            named = re.search(r"not supported|is supported|are supported|another document|no text at all|cannot be used here|which is more than|"
                              r"oneOf asks for one|too large|left recursion|does not have|that there is not", why)
            counts["refused"] += len(texts)
            if not named:
                wrong.append(f"{name}: {group['description']}: {why}")
            continue
        sampled, bad = invalid_samples(binary, folder, schema)
        counts["sampled"] += sampled
        wrong += [f"{name}: {group['description']}: the sample {text} is invalid" for text in bad]
        for test, text, answer in zip(group["tests"], texts, answers):
            if answer == test["valid"]:
                counts["accepted" if answer else "not accepted"] += 1
            elif any(name == file and part in test["description"] for file, part in KNOWN):
                counts["known"] += 1
            else:
                wrong.append(f"{name}: {group['description']}: {test['description']}: {text} is {'valid' if test['valid'] else 'invalid'}")
    return counts, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, type=pathlib.Path)
    parser.add_argument("--suite", required=True, type=pathlib.Path, help="the source distribution of jsonschema")
    args = parser.parse_args()
    wrong = []
    print(" " * 24 + " accepted  not accepted  refused by name  known  sampled")
    with tarfile.open(args.suite) as suite, tempfile.TemporaryDirectory() as work:
        members = {m.name.split("draft2020-12/", 1)[1][:-5]: m for m in suite.getmembers()
                   if "json/tests/draft2020-12/" in m.name and m.name.endswith(".json")}
        for name, path in [(k, k) for k in KEYWORDS] + [(f"format/{f}", f"optional/format/{f}") for f in FORMATS]:
            if path not in members:
                wrong.append(f"the suite has no {path}")
                continue
            groups = json.load(suite.extractfile(members[path]))
            counts, bad = check_file(args.binary, pathlib.Path(work), name, groups)
            wrong += bad
            print(f"{name:24} {counts['accepted']:8}  {counts['not accepted']:12}  {counts['refused']:15}  {counts['known']:5}  {counts['sampled']:7}"
                  + (f"  {len(bad)} WRONG" if bad else ""), flush=True)
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
