#!/usr/bin/env bash
# Help, man page, README and shell completion are made from one table, and say the same.
. "$(dirname "$0")/lib.sh"

run --version
[ "$status" = 0 ] && grep -qE '^zoe [0-9]+\.[0-9]+\.[0-9]+$' out || fail "--version: $(cat out err)"
run
[ "$status" = 0 ] && grep -q '^Usage: zoe COMMAND' out || fail "zoe alone explains itself"
cp out overview
run --help
cmp -s out overview || fail "--help and no command at all differ"

commands=$(sed -n 's/^  \([a-z]*\) .*/\1/p' overview)
[ "$(wc -w <<<"$commands")" -ge 5 ] || fail "commands in the overview: $commands"
"$zoe" help --man >man
"$zoe" help --completion bash >bash
"$zoe" help --completion zsh >zsh
"$zoe" help --completion fish >fish
for command in $commands; do
    run help "$command"
    [ "$status" = 0 ] || fail "help $command"
    cp out by_name
    run "$command" --help
    cmp -s out by_name || fail "zoe $command --help and zoe help $command differ"
    awk 'length > 110' by_name | grep -v '^Example' && fail "help $command has long lines"
    for option in $(sed -nE 's/^  (-[a-z], )?--([a-z0-9-]+).*/\2/p' by_name); do
        grep -qF -- "${option//-/\\-}" man || fail "the man page lacks --$option"
        grep -qF -- "--$option" bash || fail "bash's completion lacks --$option"
        grep -qE -- "'--$option(=|\[)" zsh || fail "zsh's completion lacks --$option"
        grep -qF -- "seen_subcommand_from $command' -l $option" fish || fail "fish's completion lacks --$option of $command"
    done
done

# What the contract promises to scripts.
run help generate
for option in model prompt negative image last-image size frames fps steps guidance guidance-2 seed device dtype vram ram \
    output init-latents dump json from quiet threads cpu-mask; do
    grep -qE -- "--$option( |$)" out || fail "generate has no --$option"
done

"$zoe" help --markdown >markdown
sed -n '/^<!-- options: made by zoe help --markdown -->$/,/^<!-- end of options -->$/p' "$source_dir/README.md" |
    sed '1d;$d' >readme
diff readme markdown >&2 || fail "README.md is behind the tables; run scripts/update-readme"

if command -v man >/dev/null; then
    MANWIDTH=100 man --warnings -l man >page 2>warnings || fail "man cannot show the page"
    [ ! -s warnings ] || fail "man warns: $(cat warnings)"
fi

# The bash script works: it completes commands, options and values.
complete_with() {
    bash -c 'source ./bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _zoe; echo "${COMPREPLY[*]}"' complete "$@"
}
[ "$(complete_with zoe gen)" = generate ] || fail "bash: zoe gen"
[ "$(complete_with zoe generate --pro)" = --prompt ] || fail "bash: zoe generate --pro"
[ "$(complete_with zoe generate --sampler eu)" = euler ] || fail "bash: --sampler eu"
[ "$(complete_with zoe bench li)" = linear ] || fail "bash: zoe bench li"
[ "$(complete_with zoe help de)" = devices ] || fail "bash: zoe help de"

expect 2 '--completion: found "tcsh", expected one of bash\|zsh\|fish' help --completion tcsh
expect 2 'no command "genrate"; did you mean "generate"\?' help genrate
if command -v zsh >/dev/null; then zsh -n zsh || fail "zsh's completion does not parse"; fi
if command -v fish >/dev/null; then fish -n fish || fail "fish's completion does not parse"; fi
[ -w /dev/full ] && { "$zoe" help generate >/dev/full 2>err && fail "a full disk is success"; grep -q '^zoe: standard output' err || fail "full disk: $(cat err)"; }
finish
