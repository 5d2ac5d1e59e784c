#!/usr/bin/env bash
# Every file that the documents link to is there.
# usage: docs.sh SOURCE_DIR
set -u
cd "$1" || exit 1
fail=0
for document in README.md docs/*.md bench/results/*.md training/demo/*.md; do
    [ -f "$document" ] || continue
    for link in $(grep -oE '\]\([^)#: ]+' "$document" | cut -c3-); do
        [ -e "$(dirname "$document")/$link" ] || {
            echo "$document links to $link, which is not there"
            fail=1
        }
    done
done
exit $fail
