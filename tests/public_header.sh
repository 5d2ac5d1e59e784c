#!/usr/bin/env bash
# The public header compiles alone, as C and as C++, and the shared library exports what it declares and nothing else.
# usage: public_header.sh HEADER LIBRARY
set -eu
header=$1 library=$2
fail=0

flags="-fsyntax-only -Wall -Wextra -Werror -pedantic-errors"
${CC:-cc} -std=c11 $flags -Wstrict-prototypes -x c "$header" || fail=1
${CXX:-c++} -std=c++17 $flags -x c++ "$header" || fail=1

declared=$(grep -oE '^ZOE_API [^(]*[ *](zoe_[a-z0-9_]+)\(' "$header" | grep -oE 'zoe_[a-z0-9_]+\($' | tr -d '(' | sort)
exported=$(nm -D --defined-only "$library" | awk '{print $3}' | grep -vE '^__(odr_)?asan|^__start_|^__stop_' | sort)
[ "$(grep -c '^ZOE_API' "$header")" = "$(wc -l <<<"$declared")" ] || {
    echo "a declaration in the header is not understood by this test" >&2
    fail=1
}
diff <(echo "$declared") <(echo "$exported") || {
    echo "declared (<) and exported (>) symbols differ" >&2
    fail=1
}

# Inside a static library everything else needs the prefix too.
if [ $# -gt 2 ]; then
    foreign=$(nm --defined-only --extern-only "$3" 2>/dev/null | awk '$2 ~ /^[TDBRC]$/ {print $3}' | grep -vE '^zoe_|^_Z|^__(odr_)?asan' || true)
    [ -z "$foreign" ] || {
        echo "symbols without the prefix zoe_: $foreign" >&2
        fail=1
    }
fi
exit $fail
