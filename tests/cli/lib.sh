# Shared by the tests of the command line. Each runs in a folder of its own, which goes away at the end.
# usage of a test: NAME.sh ZOE SOURCE_DIR [COMPARE_CASE]
set -u
zoe=$1
source_dir=$2
compare=${3:-}
case_dir=$source_dir/tests/data/cases/wan21_t2v
failures=0

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# run ARGS...: the program's output in out and err, its exit status in $status
run() {
    "$zoe" "$@" >out 2>err </dev/null
    status=$?
}

# expect STATUS PATTERN ARGS...: runs it; standard error has to match the extended regular expression, in one line that
# begins with "zoe: " for failures
expect() {
    local wanted=$1 pattern=$2
    shift 2
    run "$@"
    [ "$status" = "$wanted" ] || fail "zoe $*: status $status, expected $wanted: $(cat err)"
    grep -qE -- "$pattern" err || fail "zoe $*: expected \"$pattern\" on standard error, found: $(cat err)"
    if [ "$wanted" != 0 ]; then
        [ "$(grep -c '^zoe: ' err)" = 1 ] || fail "zoe $*: expected one complaint, found: $(cat err)"
    fi
}

# no_files PATTERN: nothing of that name, complete or half-written, may be left
no_files() {
    local left
    left=$(find . -name "$1" -not -name out -not -name err)
    [ -z "$left" ] || fail "left behind: $left"
}

finish() {
    [ "$failures" = 0 ] || {
        echo "$failures failed"
        exit 1
    }
    exit 0
}
