#!/usr/bin/env bash
# What a user gets from zoe generate: files, names, records, repetition, and clear words when something cannot be done.
. "$(dirname "$0")/lib.sh"
small=(generate --model "$case_dir/model" --size 48x32 --frames 5 --steps 1)

# ---- results ----

run "${small[@]}" --prompt "A red ball" -o ball.mp4
[ "$status" = 0 ] && [ -s ball.mp4 ] || fail "no video: $(cat err)"
grep -q '^ball.mp4: 48x32, 5 frames' err || fail "no summary: $(cat err)"
grep -qE '^denoise 1/1' err || fail "no progress in plain lines: $(cat err)"
grep -q $'\r' err && fail "a bar where no terminal is"
[ ! -s out ] || fail "text on standard output: $(cat out)"

if command -v script >/dev/null; then # a terminal has one bar
    SHELL=/bin/sh script -qec "$zoe ${small[*]} --prompt a -o bar.mp4" /dev/null >terminal </dev/null
    grep -q $'\rdenoise *\\[=*\\] 1/1' terminal || fail "no bar on a terminal: $(cat -v terminal)"
fi

run "${small[@]}" --prompt "A red ball" -o quiet.mp4 --quiet
[ ! -s err ] || fail "--quiet is not: $(cat err)"

run "${small[@]}" --prompt "Ein Ball, rot!"
[ "$(cat out)" = ein-ball-rot.mp4 ] && [ -s ein-ball-rot.mp4 ] || fail "name from the prompt: $(cat out)"
run "${small[@]}" --prompt "Ein Ball, rot!"
[ "$(cat out)" = ein-ball-rot-2.mp4 ] || fail "second name from the prompt: $(cat out)"

run "${small[@]}" --prompt "A red ball" --json -o record.mp4 --seed 18446744073709551615
for line in '"status": "done"' '"output": "record.mp4"' '"frames": 5' '"width": 48' '"seed": "18446744073709551615"' \
    '"denoise": [0-9]' '"peak_host_bytes": [1-9]'; do
    grep -qE "$line" out || fail "the record lacks $line"
done

# An option that may be given again: all its values count, in the record and in a repetition too.
cases=$source_dir/tests/data/cases
given=(generate --model "$cases/ltx_x_end/model" --prompt fox --size 32x32 --frames 9 --steps 1)
run "${given[@]}" --condition "$cases/ltx_i2v/image.png@0" --condition "$cases/ltx_x_end/last_image.png@8:0.5" --json -o given.y4m
grep -qF '@0\n' out && grep -qF '@8:0.5"' out || fail "the record lacks a condition: $(cat out err)"
run "${given[@]}" --condition "$cases/ltx_i2v/image.png@0" -o first.y4m
cmp -s given.y4m first.y4m && fail "the second condition changes nothing"
expect 2 'FILE@FRAME' "${given[@]}" --condition "$cases/ltx_i2v/image.png@0" --condition nothing -o bad.y4m
no_files 'bad*'

"$zoe" "${small[@]}" --prompt "A red ball" -o - >stream.y4m 2>err </dev/null || fail "-o -: $(cat err)"
[ "$(head -c 9 stream.y4m)" = YUV4MPEG2 ] || fail "-o - is no Y4M"
run "${small[@]}" --prompt "A red ball" -o frames.y4m
cmp -s stream.y4m frames.y4m || fail "-o - and -o FILE.y4m differ"
for name in ball.webm ball.gif; do
    run "${small[@]}" --prompt "A red ball" -o $name
    [ "$status" = 0 ] && [ -s $name ] || fail "$name: $(cat err)"
done
run "${small[@]}" --prompt "A red ball" -o 'ball-%02d.png'
[ "$(find . -name 'ball-0*.png' | wc -l)" = 5 ] || fail "numbered pictures: $(ls)"

# ---- repetition ----

run "${small[@]}" --prompt "A red ball" --seed 5 --negative "" --guidance 2.5 -o first.mp4
run generate --from first.mp4 -o again.mp4 --quiet
[ "$status" = 0 ] || fail "--from: $(cat err)"
cmp -s first.mp4 again.mp4 || fail "--from does not repeat"
run generate --from first.mp4 -o other.mp4 --quiet --seed 6
cmp -s first.mp4 other.mp4 && fail "--seed does not override --from"
expect 1 '--from: "frames.y4m" carries no request' generate --from frames.y4m -o x.mp4
expect 1 'nothing.mp4: No such file' generate --from nothing.mp4 -o x.mp4

# ---- what cannot be done ----

expect 2 '4n\+1.* 5 and 9' "${small[@]}" --prompt a --frames 6 -o x.mp4
expect 2 'nearest .*48x32' "${small[@]}" --prompt a --size 50x32 -o x.mp4
expect 1 '^zoe: --image: .*text' "${small[@]}" --prompt a --image ball-01.png -o x.mp4
expect 1 'attention sage: cpu in F32 has only exact' "${small[@]}" --prompt a --attention sage -o x.mp4
expect 2 'x\.xyz' "${small[@]}" --prompt a -o x.xyz
expect 1 'no/such/x\.mp4' "${small[@]}" --prompt a -o no/such/x.mp4
expect 1 'no/such/d' "${small[@]}" --prompt a -o x.mp4 --dump no/such/d.safetensors
expect 1 'nothing: no such folder' generate --model nothing --prompt a
expect 1 'model_index.json' generate --model "$source_dir/src" --prompt a -o x.mp4
expect 1 'cuda' "${small[@]}" --prompt a --device cuda -o x.mp4
expect 1 'bf16' "${small[@]}" --prompt a --dtype bf16 -o x.mp4
expect 2 'device' "${small[@]}" --prompt a --device gpu -o x.mp4
expect 2 'FILE.safetensors:NAME' "${small[@]}" --prompt a --init-latents x -o x.mp4
expect 2 'no tensor named x' "${small[@]}" --prompt a --init-latents "$case_dir/golden.safetensors:x" -o x.mp4
expect 2 'this size and frame count need' "${small[@]}" --prompt a --init-latents "$case_dir/golden.safetensors:in.latents" \
    -o x.mp4
if [ "$(id -u)" != 0 ]; then
    mkdir closed && chmod a-w closed
    expect 1 'closed' "${small[@]}" --prompt a -o closed/x.mp4
fi
no_files 'x*'
no_files '*.tmp*'

# A full disk, once under the video and once under the dump; "-" has nowhere to go either.
if [ -w /dev/full ]; then
    "$zoe" "${small[@]}" --prompt a -o - --quiet >/dev/full 2>err </dev/null
    [ $? = 1 ] && grep -q '^zoe: ' err || fail "-o - on a full disk: $(cat err)"
fi
before=$(find . | sort)
(
    trap '' XFSZ
    ulimit -f 1
    "$zoe" "${small[@]}" --prompt a --frames 81 --quiet -o x.mp4 >out 2>err </dev/null
    [ $? = 1 ]
) || fail "a full disk under the video: $(cat err)"
(
    trap '' XFSZ
    ulimit -f 20
    "$zoe" "${small[@]}" --prompt a --quiet --dump x.safetensors -o x.mp4 >out 2>err </dev/null
    [ $? = 1 ]
) || fail "a full disk under the dump: $(cat err)"
[ "$before" = "$(find . | sort)" ] || fail "a full disk left files: $(ls)"

# ---- damaged models ----

damaged() {
    rm -rf model
    cp -rL "$case_dir/model" model
    chmod -R u+w model
}
broken=(generate --model model --size 48x32 --frames 5 --steps 1 --prompt a -o x.mp4)
damaged
truncate -s -100 model/transformer/diffusion_pytorch_model.safetensors
expect 1 'transformer/diffusion_pytorch_model.safetensors' "${broken[@]}"
damaged
truncate -s 4 model/vae/diffusion_pytorch_model.safetensors
expect 1 'vae/diffusion_pytorch_model.safetensors' "${broken[@]}"
damaged
rm model/text_encoder/model.safetensors
expect 1 'text_encoder' "${broken[@]}"
damaged
sed -i 's/"_class_name": "WanPipeline"/"_class_name": "OtherPipeline"/' model/model_index.json
expect 1 'OtherPipeline is not supported' "${broken[@]}"
damaged
echo '{' >model/transformer/config.json
expect 1 'transformer/config.json' "${broken[@]}"
damaged
sed -i 's/"num_layers": [0-9]*/"num_layers": 9/' model/transformer/config.json
expect 1 'blocks\.[0-9]' "${broken[@]}"
no_files 'x*'
finish
