#!/usr/bin/env bash
# Every Wan case through the program: from its latents, with its pictures, to its video.
. "$(dirname "$0")/lib.sh"

for case_dir in "$source_dir"/tests/data/cases/wan*; do
    json_value() { sed -nE "s/^ *\"$1\": \"?([^\"]*[^\",])\"?,?$/\1/p" "$case_dir/case.json"; }
    request=(--model "$case_dir/model" --prompt "$(json_value prompt)" --negative "$(json_value negative_prompt)"
        --size "$(json_value width)x$(json_value height)" --frames "$(json_value num_frames)"
        --steps "$(json_value num_inference_steps)" --guidance "$(json_value guidance_scale)")
    second=$(json_value guidance_scale_2)
    [ -z "$second" ] || request+=(--guidance-2 "$second")
    [ ! -e "$case_dir/image.png" ] || request+=(--image "$case_dir/image.png")
    [ ! -e "$case_dir/last_image.png" ] || request+=(--last-image "$case_dir/last_image.png")
    echo "${case_dir##*/}"
    run generate "${request[@]}" --init-latents "$case_dir/golden.safetensors:in.latents" --dump dump.safetensors -o video.mp4
    [ "$status" = 0 ] || fail "${case_dir##*/}: $(cat err)"
    "$compare" "$case_dir/golden.safetensors" dump.safetensors || fail "${case_dir##*/} is not close enough"
    rm -f dump.safetensors video.mp4
done
finish
