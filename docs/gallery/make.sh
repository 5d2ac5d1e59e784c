#!/bin/sh
# Makes the pictures of the gallery with the demo model: a strip of six frames for each prompt, and one video from a picture.
#   docs/gallery/make.sh [zoe] [folder for the strips]
set -eu
zoe=${1:-build/release/zoe}
out=${2:-$(dirname "$0")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

strip() { # strip NAME SEED PROMPT [OPTION...]
    name=$1 seed=$2 prompt=$3
    shift 3
    "$zoe" generate --prompt "$prompt" --seed "$seed" --quiet -o "$work/$name.mp4" "$@"
    ffmpeg -v error -y -i "$work/$name.mp4" -vf "select='not(mod(n,6))',tile=6x1:padding=2:color=white" -frames:v 1 -update 1 "$out/$name.png"
}

strip 1 1 "A red ball rolls to the left on a wooden floor."
strip 2 2 "A green cone spins while a yellow ring rises on white ground."
strip 3 3 "A blue cube bounces on a checkered floor in front of a cream wall."
strip 4 4 "A purple star comes nearer against a night sky."
strip 5 5 "A cyan cylinder grows on a black floor with a grey wall behind."
strip 6 6 "A red ball and a blue cube slide right before a bright sky."

# Image to video: the first frame of the bouncing cube, told to spin.
"$zoe" generate --prompt "A blue cube bounces on a checkered floor in front of a cream wall." --seed 3 --quiet -o "$work/first.mp4"
ffmpeg -v error -y -i "$work/first.mp4" -frames:v 1 -update 1 "$out/first.png"
strip image 8 "A blue cube spins around on a checkered floor in front of a cream wall." --image "$out/first.png"
