#!/usr/bin/env bash
# Reports: what a folder, weight file or video holds, what can be computed on, how fast.
. "$(dirname "$0")/lib.sh"

run inspect "$case_dir/model"
[ "$status" = 0 ] || fail "model: $(cat err)"
for line in '^family: Wan' '^transformer: WanTransformer3DModel' '69 tensors, 29112 parameters' 'F32 69' \
    'diffusion_pytorch_model.safetensors' '^tokenizer: T5TokenizerFast'; do
    grep -qE "$line" out || fail "the report on the model lacks $line"
done
run inspect --json "$case_dir/model"
grep -q '"parameters": 29112' out || fail "the JSON report lacks the parameters"

file=$case_dir/model/transformer/diffusion_pytorch_model.safetensors
run inspect "$file"
[ "$status" = 0 ] && [ "$(grep -c '^F32 ' out)" = 69 ] || fail "tensors of a file: $(wc -l <out) lines"
grep -qE '^F32 +patch_embedding.weight +\[' out || fail "no line for patch_embedding.weight"

grep -q '^  format = pt$' out || fail "no metadata of a file"

layout=$source_dir/tests/data/layouts/wan_t2v_euler
run inspect "$layout"
for line in 'a model without model_index.json' '^family: Wan' '^Wan2.1_VAE.pth' 'F16 194'; do
    grep -qE "$line" out || fail "the report on Wan-AI's own layout lacks $line"
done
run inspect "$layout/Wan2.1_VAE.pth"
grep -qE '^F16 +decoder.conv1.weight +\[' out || fail "tensors of an archive: $(head -n 3 out)"

# What is missing is told, not fatal.
cp -rL "$case_dir/model" model
chmod -R u+w model
rm -r model/vae model/text_encoder/model.safetensors
run inspect model
[ "$status" = 0 ] || fail "incomplete model: $(cat err)"
grep -A 1 '^vae' out | grep -q 'error: .*missing' || fail "the missing folder is not told"
grep -A 1 '^text_encoder' out | grep -q 'error: .*model.safetensors' || fail "the missing file is not told: $(cat out)"
rm -r model
cp -rL "$case_dir/model" model
chmod -R u+w model
sed -i 's/"num_layers": [0-9]*/"num_layers": 3/' model/transformer/config.json
run inspect model
grep -q 'blocks\.2\.' out || fail "missing tensors are not told: $(cat out)"

"$zoe" generate --model "$case_dir/model" --size 48x32 --frames 5 --steps 1 --prompt "Ein Ball läuft" --fps 12.5 -q -o v.mp4
run inspect v.mp4
grep -qE '^v.mp4: 48x32, 5 frames, 12.5 a second, .*h264' out || fail "video: $(head -n 1 out)"
grep -qE '^  prompt +Ein Ball läuft$' out || fail "the stored prompt: $(cat out)"
run inspect --json v.mp4
grep -q '"fps": 12.5' out || fail "video as JSON"

expect 1 'nothing: No such file' inspect nothing
echo "no video" >text.mp4
expect 1 'text.mp4' inspect text.mp4
head -c 100 "$file" >cut.safetensors
expect 1 'cut.safetensors' inspect cut.safetensors

run devices
grep -qE '^cpu: ' out && grep -qE 'memory +[0-9.]+ GiB' out || fail "devices: $(cat out)"
run devices --json --cpu-mask 0
grep -q '"levels"' out && ! grep -q avx out || fail "levels with --cpu-mask 0: $(cat out)"
for part in "denoise --config $case_dir/model --size 48x32 --frames 5" "decode --config $case_dir/model/vae --size 32x32 --frames 1" \
    "text --config $case_dir/model" "linear --tokens 64 --inputs 96 --outputs 80" "linear --dtype f16 --tokens 8" "attention --tokens 100 --heads 2"; do
    run bench $part --repeats 2 --json
    grep -qE '"ratio": [0-9.]+' out || fail "bench $part: $(cat err)"
done
expect 2 'config: a folder' bench denoise
expect 1 'config.json' bench decode --config "$source_dir/src"
expect 1 'no network that "decode" could time' bench decode --config "$case_dir/model/transformer"
finish
