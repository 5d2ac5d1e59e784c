#!/usr/bin/env bash
# zoe plan: the same options as generate, nothing written, and a budget that cannot be met is refused with one that can.
. "$(dirname "$0")/lib.sh"
small=(--model "$case_dir/model" --size 48x32 --frames 5 --steps 2 --prompt "A red ball")

run plan "${small[@]}"
[ "$status" = 0 ] || fail "plan: $(cat err)"
for line in '^48x32, 5 frames' '^text +1 ' '^denoise +2 ' '^decode +5 ' '^Host memory at most [0-9.]+ MiB'; do
    grep -qE "$line" out || fail "the plan lacks $line: $(cat out)"
done
run plan "${small[@]}" --json -o x.mp4
grep -qE '"peak_host_bytes": [1-9]' out || fail "plan as JSON: $(cat out err)"
no_files '*.mp4'

expect 1 '--ram: 2.00 MiB is not enough; the smallest budget that works is [0-9.]+ MiB' plan "${small[@]}" --ram 2M
expect 1 'the smallest budget that works is [0-9.]+ MiB' generate "${small[@]}" --ram 2M -o x.mp4
told() { sed -nE 's/.*budget that works is ([0-9.]+) ([MG])iB.*/\1\2/p' err; } # in the words in which it can be given
expect 0 '^x.mp4' generate "${small[@]}" --ram "$(told)" -o x.mp4
rm -f x.mp4

# A device is planned without one being there.
run plan "${small[@]}" --device cuda --vram 2G
[ "$status" = 0 ] || fail "plan of a device: $(cat err)"
grep -qE '^Device memory at most [0-9.]+ MiB' out || fail "the plan lacks the device: $(cat out)"
expect 1 '--vram: 512.00 MiB is not enough; the smallest budget that works is [0-9.]+ MiB' \
    plan "${small[@]}" --device cuda --vram 512M
expect 1 '[(]phase [a-z]+, of which .*: --offload auto, a smaller --size' plan "${small[@]}" --ram 2M --offload none
expect 1 '[(]phase decode, .*: --vae-tiling auto, a smaller --size' \
    plan "${small[@]}" --size 1280x720 --vae-tiling none --device cuda --vram 1G
for size in 48x32 480x320 1280x720; do # also where two decimals of a GiB are many bytes
    for offload in auto model block; do
        large=(plan "${small[@]}" --size $size --frames 81 --vae-tiling none --device cuda --offload $offload)
        expect 1 'smallest budget' "${large[@]}" --vram 512M
        least=$(told)
        run "${large[@]}" --vram "$least"
        [ "$status" = 0 ] || fail "$size, $offload: $least does not do: $(cat err)"
    done
done

# Both prompts go through a block together where guidance has two and blocks come and go.
streamed=(plan "${small[@]}" --model "$source_dir/models/demo" --guidance 4 --device cuda --vram 2G)
together() { # together true|false ARGS...
    local wanted=$1
    shift
    run "${streamed[@]}" "$@" --json
    grep -q '"branches_together": '"$wanted" out || fail "plan $*: expected branches_together $wanted: $(cat out err)"
}
together false
together true --offload block
together false --offload block --guidance 1
run "${streamed[@]}" --offload block
grep -q '^To move fewer weights, both prompts go through each block' out || fail "the plan lacks the branches: $(cat out err)"

# Times by the rates of another machine: half the rates, twice the time.
rates() {
    echo '{"devices": [{"name": "cpu"}, {"name": "cuda:0", "measured": {"product_gflops": '"$1"', "attention_gflops": '"$1"',
        "conv_gflops": '"$1"', "memory_gbytes": '"$1"'}}]}' >rates.json
    run plan "${small[@]}" --device cuda --vram 2G --rates rates.json --json
    [ "$status" = 0 ] || fail "plan by rates: $(cat err)"
    grep -q '"from": "file"' out || fail "plan by rates: $(cat out)"
    seconds=$(sed -nE 's/.*"compute_seconds": ([0-9.e-]+).*/\1/p' out | sort -g | tail -1)
}
rates 2
quick=$seconds
rates 1
awk -v a="$quick" -v b="$seconds" 'BEGIN { exit !(a > 0 && b > 1.99 * a && b < 2.01 * a) }' ||
    fail "half the rates: $quick and $seconds seconds"
# A disk of half the rate takes twice the time for what is read.
disk() {
    sed "s/\"memory_gbytes\"/\"disk_gbytes\": $1, &/" rates.json >disk.json
    run plan "${small[@]}" --device cuda --vram 2G --rates disk.json --json
    [ "$status" = 0 ] || fail "plan by the rate of a disk: $(cat err)"
    total=$(sed -n 's/.*"disk_seconds": \([0-9.e-]*\).*/\1/p' out | awk '{ sum += $1 } END { print sum }')
}
disk 2
quick=$total
disk 1
awk "BEGIN { exit !($total > 1.99 * $quick && $total < 2.01 * $quick && $quick > 0) }" ||
    fail "half the rate of a disk: $quick and $total seconds"
expect 1 'rates.json: cpu was not measured' plan "${small[@]}" --device cpu --rates rates.json
expect 1 'rates.json: has nothing about cuda:1, only about cpu, cuda:0' \
    plan "${small[@]}" --device cuda:1 --vram 2G --rates rates.json
expect 1 'absent.json' plan "${small[@]}" --rates absent.json
echo '{"devices": [' >rates.json
expect 1 'rates.json' plan "${small[@]}" --rates rates.json
run devices --measure --json
cp out rates.json
run plan "${small[@]}" --device cpu --rates rates.json
grep -q '^Time at the rates in the file' out || fail "plan by measured rates: $(cat out err)"

expect 2 'expected cuda or cuda:N' plan "${small[@]}" --device cuda:x
expect 2 '4n\+1' plan "${small[@]}" --frames 6
expect 2 '--prompt TEXT' plan --model "$case_dir/model"
no_files '*.mp4'
finish
