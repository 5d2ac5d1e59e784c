#!/bin/sh
# Makes the cases tests/data/cases/wan_*: shapes, types and schedules that the larger set of cases leaves out; and
# tests/data/layouts: some of their models again, in Wan-AI's own layout, for which the autoencoder has the published structure.
# PYTHON names an interpreter with torch, diffusers, transformers and sentencepiece.
set -e
cd "$(dirname "$0")/../data/cases"
make() {
    name=$1
    shift
    rm -rf "$name"
    "${PYTHON:-python3}" ../../reference/wan_case.py "$name" "$@"
}

published="--vae-base 2 --vae-multiples 1,2,4,4 --vae-resnets 2"
layout() {
    rm -rf "../layouts/$1"
    "${PYTHON:-python3}" ../../reference/original_layout.py "$1/model" "../layouts/$1"
}

# Another shape of every part, weights in bf16 and in shards, more steps.
make wan_t2v_shards --variant t2v --size 64x48 --frames 13 --heads 3 --head-dim 20 --layers 3 --ffn 56 --text-width 24 \
    --text-heads 3 --text-head-dim 10 --text-ffn 40 --text-layers 3 --dtype bf16 --shard-size 60KB --flow-shift 5 --steps 5 \
    --seed 21
# The published size of a head, and more tokens than a tile of attention has.
make wan_t2v_head128 --variant t2v --size 96x64 --frames 9 --heads 1 --head-dim 128 --layers 1 --ffn 64 --dtype bf16 --steps 3 \
    --seed 30
# Euler steps, weights in f16, an autoencoder with the published number of residual blocks, a tall video.
make wan_t2v_euler --variant t2v --size 32x80 --frames 5 --heads 2 --head-dim 16 --layers 2 --ffn 36 --dtype f16 \
    $published --scheduler euler --flow-shift 2.5 --steps 6 --guidance 4 --seed 22
# One frame, no guidance, a prompt of more tokens than are read.
long=$(for i in $(seq 80); do printf 'Ball %d rolls across the wooden table. ' "$i"; done)
make wan_t2v_still --variant t2v --size 48x48 --frames 1 --steps 2 --guidance 1 --dtype bf16 --seed 23 --prompt "$long"
# Two experts with a scale each.
make wan_t2v_experts --variant t2v-a14b --size 48x32 --frames 5 --dtype bf16 $published --guidance 4 --guidance-2 2.5 --flow-shift 8 \
    --steps 5 --seed 24
make wan_i2v_experts --variant i2v-a14b --size 32x48 --frames 5 --image 51x50 --dtype bf16 --guidance 3.5 --guidance-2 2 \
    --seed 25
# Pictures far from the video's shape.
make wan_i2v_wide --variant i2v --size 64x32 --frames 9 --image 90x40 --dtype bf16 --seed 26
make wan_flf2v_tall --variant flf2v --size 32x64 --frames 9 --image 37x101 --last-image 60x45 --dtype bf16 $published \
    --clip-width 80 --clip-heads 1 --clip-layers 2 --seed 27
# The second autoencoder.
make wan_ti2v --variant ti2v --size 64x96 --frames 5 --dtype bf16 $published --vae-decoder-base 4 --seed 28
make wan_ti2v_image --variant ti2v --size 96x64 --frames 9 --image 30x77 --dtype bf16 --seed 29

layout wan_t2v_euler
layout wan_t2v_experts
layout wan_flf2v_tall
layout wan_ti2v
