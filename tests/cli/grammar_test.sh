#!/usr/bin/env bash
# What --grammar, --regex, --choice and --schema make of a generation, what `grammar check` says, and what is refused.
# Usage: TEST_DATA=folder grammar_test.sh [EMULATOR] METAL_MARLIN
# shellcheck source=tests/cli/common.sh
source "$(dirname "$0")/common.sh"
characters "$work/text"
cat > "$work/place.json" << 'END'
{"type": "object", "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{2,5}$"}, "n": {"type": "integer", "minimum": 1, "maximum": 99}},
 "required": ["city", "n"], "additionalProperties": false}
END
cat > "$work/list.gbnf" << 'END'
root ::= item ("," item){1,3}
item ::= [a-c]+ "-" [0-9]
END

# text_of ARGS...: what is generated behind the prompt; the closing line is left in $work/err.
text_of() {
  run generate "$work/text" -p hi -n 80 --temperature 1.5 --seed 4 "$@" > "$work/out" 2> "$work/err" || fail "generate $*: $(cat "$work/err")"
  tail -c +3 "$work/out" | head -1
}
# matches PATTERN ARGS...: the generated text is of the pattern, and ended by itself.
matches() {
  local pattern=$1 text
  shift
  text=$(text_of "$@")
  [[ $text =~ $pattern ]] || fail "generate $* gave '$text', expected $pattern"
  grep -q "ended by end$" "$work/err" || fail "generate $*: $(cat "$work/err")"
}
matches '^[0-9]{3}-(x|yy)$' --regex '[0-9]{3}-(x|yy)'
matches '^(left|right)$' --choice left --choice right
matches '^\{"city":"[A-Z][a-z]{2,5}","n":[1-9][0-9]?\}$' --schema "$work/place.json"
matches '^[0-9]{3}$' --regex '[0-9]{3}' --stop '-' --repeat-penalty 1.5
text=$(text_of --grammar "$work/list.gbnf")
expect 0 yes grammar check --grammar "$work/list.gbnf" --text <(printf '%s' "$text")
matches '^\{"city"' --schema - < "$work/place.json"
# A limit cuts it off, and says so.
expect 0 '"stop_reason": "length"' generate "$work/text" -p hi -n 2 --regex '[0-9]{9}' --json
expect 0 '"stop_reason": "end"' generate "$work/text" -p hi -n 9 --regex '[0-9]{9}' --json

# check [ARGS...] with the text on standard input: "yes" or "no", by the exit code too.
check() { expect "$1" "$2" grammar check "${@:4}" --text <(printf '%s' "$3"); }
check 0 yes '{"city":"Oslo","n":7}' --schema "$work/place.json"
check 1 no '{"city":"Oslo","n":70}x' --schema "$work/place.json"
check 1 no '{"n":7,"city":"Oslo"}' --schema "$work/place.json"
check 0 yes 'a-1,bc-2' --grammar "$work/list.gbnf"
check 1 no $'a-1,bc-2\n' --grammar "$work/list.gbnf"
check 0 yes right --choice left --choice right
check 0 yes é --regex .
printf '%s\n' '"a"' '"aé\n"' '"b"' > "$work/lines"
expect 1 $'yes\nyes\nno' grammar check --regex 'a(é\n)?' --json-lines "$work/lines"
[ "$(cat "$work/out")" = $'yes\nyes\nno' ] || fail "--json-lines: $(cat "$work/out")"
head -2 "$work/lines" > "$work/two" && expect 0 yes grammar check --regex 'a(é\n)?' --json-lines "$work/two"
expect 0 "masks, again: 3 of 3 tokens of a vocabulary of 94" grammar check --regex 'a+' --text <(printf aaa) --model "$work/text"
expect 2 "first token is not of the grammar" grammar check --regex 'b' --text <(printf a) --model "$work/text"

# Random texts are of the grammar, and those of a seed the same.
echo '{"type": "object"}' > "$work/object.json"
for schema in "$work/place.json" "$work/object.json"; do
  expect 0 '"' grammar sample --schema "$schema" -n 40 --seed 3
  cp "$work/out" "$work/samples"
  [ "$(wc -l < "$work/samples")" = 40 ] || fail "not 40 samples"
  expect 0 yes grammar check --schema "$schema" --json-lines "$work/samples"
  run grammar sample --schema "$schema" -n 40 --seed 3 | cmp - "$work/samples" || fail "a seed draws twice in other ways"
done
expect 2 "give one of --grammar, --regex, --choice and --schema" grammar sample

# What is refused, by name.
generate=(generate "$work/text" -p hi)
expect 2 "give one of --grammar, --regex, --choice and --schema, not several" "${generate[@]}" --regex a --choice b
expect 2 "give one of --grammar, --regex, --choice and --schema" grammar check --text "$work/lines"
expect 2 "give one of --text and --json-lines" grammar check --regex a
expect 2 "give one of --text and --json-lines" grammar check --regex a --text "$work/lines" --json-lines "$work/lines"
expect 2 "--model needs --text" grammar check --regex a --json-lines "$work/lines" --model "$work/text"
expect 2 "line 2 is no JSON string" grammar check --regex a --json-lines <(printf '"a"\n7\n')
printf 'root ::= a\na ::= )\n' > "$work/bad.gbnf"
expect 2 "$work/bad.gbnf: line 2" "${generate[@]}" --grammar "$work/bad.gbnf"
expect 2 "line 2: the rule a is used and not defined" "${generate[@]}" --grammar <(echo 'root ::= a')
expect 2 "left recursion" "${generate[@]}" --grammar <(echo 'root ::= root "a" | "b"')
expect 2 "lookahead" "${generate[@]}" --regex 'a(?=b)'
echo '{"properties": {"a": {"not": {}}}}' > "$work/bad.json"
expect 2 "$work/bad.json: /properties/a: the keyword not is not supported" "${generate[@]}" --schema "$work/bad.json"
expect 2 "not valid JSON" "${generate[@]}" --schema <(echo '{')
expect 3 "$work/none" "${generate[@]}" --schema "$work/none"
expect 3 "$work/none" "${generate[@]}" --grammar "$work/none"
echo '[5, 17]' > "$work/ids.json"
expect 3 "has no tokenizer" generate "$model" --prompt-ids "$work/ids.json" --regex a
# Characters that the model has no tokens for.
expect 2 "no text at all" "${generate[@]}" --choice 'größe'
expect 0 "Example" grammar check --help
