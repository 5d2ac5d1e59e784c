#!/usr/bin/env bash
# Builds the fuzzers and runs each for some seconds (5 unless told) from its seeds. Inputs that fail are kept in build/fuzz.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-5}
build=build/fuzz
[ -f $build/build.ninja ] || cmake --preset fuzz >/dev/null
targets=$(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//')
cmake --build $build --target $targets

for target in $targets; do
    name=${target#fuzz_}
    found=$build/corpus/$name
    mkdir -p "$found" $build/failures
    echo "$target: $seconds s"
    # A prompt or header of more than a few KiB only makes the search slower.
    $build/tests/fuzz/$target -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len=8192 -verbosity=0 \
        -artifact_prefix="$build/failures/$name-" "$found" tests/fuzz/corpus/"$name"
done
