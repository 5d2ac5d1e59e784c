#!/usr/bin/env bash
# The reference case through the program: from its latents to its video, at every level of CPU kernels.
. "$(dirname "$0")/lib.sh"
json_value() { sed -nE "s/^ *\"$1\": \"?([^\"]*[^\",])\"?,?$/\1/p" "$case_dir/case.json"; }

request=(--model "$case_dir/model" --prompt "$(json_value prompt)" --negative "$(json_value negative_prompt)"
    --size "$(json_value width)x$(json_value height)" --frames "$(json_value num_frames)"
    --steps "$(json_value num_inference_steps)" --guidance "$(json_value guidance_scale)")

for mask in 0 1 3; do
    run generate "${request[@]}" --init-latents "$case_dir/golden.safetensors:in.latents" --cpu-mask $mask \
        --dump dump.safetensors -o "video$mask.mp4"
    [ "$status" = 0 ] || fail "level $mask: $(cat err)"
    echo "cpu mask $mask"
    "$compare" "$case_dir/golden.safetensors" dump.safetensors || fail "level $mask is not close enough"
done

# A seed stands for the reference's noise: the case's latents were drawn with 11.
run generate "${request[@]}" --seed 11 --dump seeded.safetensors -o seeded.mp4
[ "$status" = 0 ] || fail "seed 11: $(cat err)"
echo "seed 11"
"$compare" "$case_dir/golden.safetensors" seeded.safetensors || fail "seed 11 draws other noise"
run generate "${request[@]}" --seed 12 --dump other.safetensors -o other.mp4
"$compare" "$case_dir/golden.safetensors" other.safetensors >/dev/null && fail "seed 12 is like seed 11"
finish
