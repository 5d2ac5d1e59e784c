#!/bin/sh
# Makes the cases of CogVideoX and LTX-Video whose names begin with cogvideox_x and ltx_x: sizes, frame counts and variants
# that the others leave out. PYTHON names an interpreter with torch, diffusers, transformers and sentencepiece.
set -e
cd "$(dirname "$0")/../data/cases"
make() {
    name=$1
    shift
    rm -rf "$name"
    "${PYTHON:-python3}" ../../reference/family_case.py "$name" "$@"
}

# Rotary positions spread over another size, an even number of latent frames: 16 frames in chunks of two.
make cogvideox_x_even --variant cogvideox-5b --size 64x48 --frames 16 --seed 31
# Additive positions for another size and length, chunks of three and two latent frames, even timesteps from end to end.
make cogvideox_x_long --variant cogvideox-2b --size 32x48 --frames 17 --scheduler ddim --spacing linspace --seed 32
# A learned table of positions that does not fit the length; timesteps from 0 on.
make cogvideox_x_learned --variant cogvideox-5b-i2v --size 48x32 --frames 17 --image 40x30 --scheduler ddim --spacing leading \
    --seed 33
# 1.5 without and with a latent frame in front; a picture that is scaled the other way.
make cogvideox15_x_even --variant cogvideox15 --size 48x32 --frames 16 --seed 34
make cogvideox15_x_picture --variant cogvideox15-i2v --size 32x48 --sample 10x8 --frames 17 --image 31x50 --seed 35
# No guidance, one frame.
make cogvideox_x_still --variant cogvideox-5b --size 48x32 --frames 1 --guidance 1 --steps 2 --seed 36

make ltx_x_long --variant ltx-0.9.0 --size 64x96 --frames 25 --fps 24 --image 40x61 --seed 41
make ltx_x_still --variant ltx-0.9.0 --size 64x64 --frames 1 --steps 3 --guidance 1 --seed 42
# The decoder that adds noise in its layers.
make ltx_x_noise --variant ltx-0.9.1 --size 96x64 --frames 17 --steps 3 --seed 43
# Pictures at both ends, and at the end alone.
make ltx_x_ends --variant ltx-0.9.5 --size 64x96 --frames 17 --fps 30 --image 50x70 --last-image 33x80 --steps 5 --seed 44
make ltx_x_end --variant ltx-0.9.5 --size 96x32 --frames 9 --last-image 90x31 --steps 3 --seed 45
# Steps as distilled models take them: with fresh noise, and at given timesteps.
make ltx_x_stochastic --variant ltx-0.9.0 --size 64x32 --frames 9 --steps 3 --guidance 1 --stochastic --seed 48
make ltx_x_timesteps --variant ltx-0.9.5 --model ltx_x_end --size 32x64 --frames 9 --timesteps 1000,993,909.5,725 --steps 4 --guidance 1 --seed 49

# Autoencoders of the published structure, for the original layouts.
make ltx_x_first --variant ltx-0.9.0 --published --size 64x32 --frames 9 --steps 2 --seed 46
make ltx_x_second --variant ltx-0.9.1 --published --size 32x32 --frames 9 --image 30x40 --steps 2 --seed 47

layout() {
    rm -rf "../layouts/$1"
    "${PYTHON:-python3}" "../../reference/$2" "$1/model" "../layouts/$1$3"
}
for name in ltx_x_first ltx_x_second ltx_x_end; do layout $name ltx_file.py /model.safetensors; done

# Pictures and clips from any frame on: strengths that let latents move late, in place and in front of the video's, clips that
# are cut to 8n+1 frames and to the video's end, and noise on what is given.
make ltx_x_pictures --variant ltx-0.9.5 --model ltx_x_end --size 64x32 --frames 17 --steps 4 --timesteps 1000,700,450,200 \
    --condition 70x40x1@0:0.6 --condition 30x20x1@5:1 --condition 64x32x1@16:0.5 --condition-noise 0.15 --seed 50
make ltx_x_clips --variant ltx-0.9.5 --model ltx_x_end --size 32x32 --frames 33 --steps 3 --condition 40x32x12@0:1 \
    --condition 32x32x17@16:0.7 --seed 51
make ltx_x_clip --variant ltx-0.9.5 --model ltx_x_end --size 32x32 --frames 25 --steps 3 --guidance 1 \
    --condition 32x32x9@8:1 --condition-noise 0.1 --seed 52

# Two passes with the latent upsampler: plain, and with statistics matched, large values drawn in, and what is given.
make ltx_x_passes --variant ltx-0.9.5 --model ltx_x_end --size 64x64 --frames 9 --steps 3 --upsampler 5,0.4,0,0 --seed 53
make ltx_x_passes_given --variant ltx-0.9.5 --model ltx_x_end --size 128x64 --frames 9 --steps 2 --guidance 1 \
    --upsampler 4,0.75,0.7,0.6 --condition 61x40x1@0:1 --condition 50x33x1@8:0.5 --condition-noise 0.1 --seed 54

# CogVideoX in its authors' own layout.
make cogvideox_x_sat_2b --variant cogvideox-2b --sat --size 32x32 --frames 9 --steps 2 --seed 61
make cogvideox_x_sat_5b --variant cogvideox-5b --sat --size 48x32 --frames 9 --steps 2 --seed 62
make cogvideox_x_sat_15 --variant cogvideox15-i2v --sat --size 32x48 --frames 9 --image 31x50 --steps 2 --seed 63
for name in cogvideox_x_sat_2b cogvideox_x_sat_5b cogvideox_x_sat_15; do layout $name sat_layout.py; done
