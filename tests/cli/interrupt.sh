#!/usr/bin/env bash
# Ctrl-C: exit status 130 within a step; what was decoded stays playable, what was not leaves nothing. Weights that are cut
# off while they are in use: one clear error.
. "$(dirname "$0")/lib.sh"

# wait_for PATTERN FILE: up to 60 s
wait_for() {
    for _ in $(seq 600); do
        grep -qE "$1" "$2" && return
        sleep 0.1
    done
    fail "never saw \"$1\": $(tail -n 3 "$2")"
}

"$zoe" generate --model "$case_dir/model" --size 96x64 --frames 33 --steps 1000 --threads 1 --prompt a -o denoise.mp4 2>err &
job=$!
wait_for '^denoise [1-9]' err
kill -INT $job
wait $job
[ $? = 130 ] || fail "interrupted while denoising: $(tail -n 1 err)"
grep -q '^zoe: interrupted before the first frame' err || fail "no word of it: $(tail -n 1 err)"
no_files 'denoise*'

"$zoe" generate --model "$case_dir/model" --size 192x128 --frames 401 --steps 1 --guidance 1 --threads 1 --prompt a -o decode.mp4 --json \
    >out 2>err &
job=$!
wait_for '^decode [1-9]' err
kill -TERM $job
wait $job
[ $? = 130 ] || fail "interrupted while decoding: $(tail -n 1 err)"
grep -q '"status": "interrupted"' out || fail "no record of it: $(cat out)"
frames=$(sed -nE 's/^ *"frames": ([0-9]+),/\1/p' out)
run inspect --json decode.mp4
[ "$status" = 0 ] || fail "what was kept cannot be read: $(cat err)"
[ "${frames:-0}" -gt 0 ] && [ "$frames" -lt 401 ] && grep -q "\"frames\": $frames" out ||
    fail "kept ${frames:-no} frames: $(grep frames out)"

cp -rL "$case_dir/model" model
chmod -R u+w model
weights=model/transformer/diffusion_pytorch_model.safetensors
for way in cut kill; do
    "$zoe" generate --model model --size 96x64 --frames 33 --steps 1000 --prompt a -o lost.mp4 2>err &
    job=$!
    wait_for '^denoise [1-9]' err
    caught=$(sed -nE 's/^SigCgt:\s*[0-9a-f]{14}([0-9a-f]{2})$/\1/p' /proc/$job/status)
    ((0x$caught & 0x40)) || fail "SIGBUS is not looked after: $caught"
    if [ $way = cut ]; then truncate -s 0 $weights; else kill -BUS $job; fi
    wait $job 2>/dev/null
    ended=$?
    if [ $way = cut ]; then
        [ $ended = 1 ] || fail "weights that were cut off: $ended: $(tail -n 1 err)"
        grep -qE "^zoe: $weights is shorter than when it was opened" err || fail "no word of it: $(tail -n 1 err)"
        no_files 'lost*'
        cp -L "$case_dir/$weights" $weights
    else
        [ $ended = 135 ] || grep -q AddressSanitizer err || fail "a SIGBUS that was sent: $ended"
    fi
done
finish
