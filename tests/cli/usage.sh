#!/usr/bin/env bash
# Wrong usage: exit status 2, one line that says what was wrong and what is right, nothing written.
. "$(dirname "$0")/lib.sh"

expect 2 'no command "genrate"; did you mean "zoe generate"\?' genrate
expect 2 'no command "xyzzy"; "zoe help" lists them' xyzzy
expect 2 'a command comes first' --prompt fox
expect 2 'no option "--promt" in "zoe generate"; did you mean --prompt\?' generate --promt fox
expect 2 'did you mean --frames\?' generate --farmes=5
expect 2 'did you mean --guidance\?' generate --guidence 5
expect 2 'did you mean --negative\?' generate --neg x
expect 2 'no option "--xyzzy" in "zoe generate"; "zoe generate --help" lists them' generate --xyzzy
expect 2 'no option "-x"' generate -x
expect 2 '^zoe: --prompt needs a value: --prompt TEXT' generate --prompt
expect 2 '--json takes no value, found "--json=yes"' generate --json=yes
expect 2 'takes options only, found "fox"' generate fox
expect 2 'needs a PATH' inspect
expect 2 'takes one PATH, found "a" and "b"' inspect a b
expect 2 'needs a PART' bench
expect 2 'no benchmark "everything"' bench everything

model=(--model "$case_dir/model")
expect 2 'what should the video show\? --prompt TEXT' generate "${model[@]}"
expect 2 '^zoe: --size: found "832", expected width x height .* such as 832x480' generate "${model[@]}" --prompt a --size 832
expect 2 '^zoe: --frames: found "many"' generate "${model[@]}" --prompt a --frames many
expect 2 '^zoe: --seed: found "-1"' generate "${model[@]}" --prompt a --seed -1
expect 2 '^zoe: --guidance: found "nan"' generate "${model[@]}" --prompt a --guidance nan
expect 2 '^zoe: --sampler: found "plms", expected one of unipc\|euler' generate "${model[@]}" --prompt a --sampler plms
expect 2 '^zoe: --vram: found "8GB", .* such as 8G' generate "${model[@]}" --prompt a --vram 8GB
expect 2 '^zoe: --threads: found "0"' generate "${model[@]}" --prompt a --threads 0
expect 2 '^zoe: --cpu-mask: found "8"' devices --cpu-mask 8
expect 2 '^zoe: --repeats: found "0"' bench linear --repeats 0
expect 2 '--json and -o - both write to standard output' generate "${model[@]}" --prompt a --json -o -
expect 2 'prompt.*UTF-8' generate "${model[@]}" --prompt $'caf\xe9'
expect 2 'UTF-8' generate "${model[@]}" --prompt a --negative $'\xff'
no_files '*.mp4'

# Both spellings of a value, short options, the end of options, the last of several.
run generate "${model[@]}" --prompt a --size=832
grep -q 'found "832"' err || fail "--size=832 was not read"
run generate -h
[ "$status" = 0 ] && grep -q -- '--prompt TEXT' out || fail "generate -h"
run inspect -- --nothing
grep -q -- '^zoe: --nothing: ' err || fail "inspect -- --nothing: $(cat err)"
run generate "${model[@]}" --prompt a --steps 0 --steps 0x --frames 9
grep -q -- '--steps: found "0x"' err || fail "the last of two values counts: $(cat err)"
finish
