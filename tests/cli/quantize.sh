#!/usr/bin/env bash
# zoe quantize: what it writes loads and makes the same video; whatever stops it leaves nothing that looks like a model.
. "$(dirname "$0")/lib.sh"
demo=$source_dir/models/demo
small=(--prompt "A red ball" --size 48x32 --frames 5 --steps 1 --quiet)

for form in int8 nvfp4; do
    run quantize --model "$case_dir/model" --linear $form -o $form
    [ "$status" = 0 ] && grep -q '^text_encoder/model.safetensors: .* KiB, was ' out || fail "$form: $(cat out err)"
    run generate --model "$case_dir/model" --linear $form "${small[@]}" -o loaded.y4m
    run generate --model $form "${small[@]}" -o written.y4m
    cmp loaded.y4m written.y4m || fail "$form: what was written makes another video than what is quantised on load"
done
run quantize --model "$case_dir/model" --linear fp8 -o ./fp8/ --json
[ "$status" = 0 ] && [ -e fp8/model_index.json ] && grep -q '"error": 0\.' out || fail "fp8: $(cat out err)"
expect 2 'text_encoder.*is quantised already, in int8' generate --model int8 --linear fp8 "${small[@]}" -o x.y4m
expect 2 'is quantised already, in int8' quantize --model int8 --linear int8 -o x

# ---- what cannot be done ----

mkdir empty
cp -rL "$case_dir/model" model
chmod -R u+w model
before=$(find . | sort)
expect 2 'are needed' quantize --model model --linear int8
expect 2 'are needed' quantize --model model --linear int8 -o ''
expect 2 'linear: found "int9", expected one of int8\|fp8\|int4\|nvfp4$' quantize --model model --linear int9 -o x
expect 2 'linear: found "native", expected one of int8' quantize --model model --linear native -o x
expect 1 'nothing: no such folder' quantize --model nothing --linear int8 -o x
expect 1 'int8: cannot be made: File exists' quantize --model model --linear int8 -o int8
expect 1 'empty: cannot be made: File exists' quantize --model model --linear int8 -o empty
expect 1 'model: cannot be made: File exists' quantize --model model --linear int8 -o model
expect 1 'no/such: cannot be made' quantize --model model --linear int8 -o no/such
expect 2 'model/vae/q lies inside the model ./model' quantize --model ./model --linear int8 -o model/vae/q
expect 1 'model.safetensors is a file; only models in the diffusers layout' quantize \
    --model model/text_encoder/model.safetensors --linear int8 -o x
truncate -s -100 model/vae/diffusion_pytorch_model.safetensors
expect 1 'vae/diffusion_pytorch_model.safetensors' quantize --model model --linear int8 -o x
(
    trap '' XFSZ
    ulimit -f 2000
    "$zoe" quantize --model "$demo" --linear int8 -o full >out 2>err
    [ $? = 1 ] && grep -q '^zoe: cannot write full.*diffusion_pytorch_model.safetensors: File too large' err
) || fail "a full disk: $(cat err)"
[ "$before" = "$(find . | sort)" ] || fail "something was left: $(find . | sort | diff - <(echo "$before"))"

# Ctrl-C in the middle: nothing is left. A run may be over before the signal comes, so it is tried again.
for try in $(seq 20); do
    "$zoe" quantize --model "$demo" --linear nvfp4 -o stopped >out 2>err &
    job=$!
    until compgen -G 'stopped.part-*/*' >/dev/null || ! kill -0 $job 2>/dev/null; do sleep 0.01; done
    [ ! -e stopped/model_index.json ] || [ ! -e stopped.part-$job ] || fail "the folder is there before it is complete"
    kill -INT $job 2>/dev/null
    wait $job
    ended=$?
    [ $ended = 0 ] || break
    rm -r stopped
done
[ $ended = 130 ] && grep -q '^zoe: interrupted; nothing was written' err || fail "Ctrl-C: status $ended: $(cat err)"
no_files 'stopped*'
finish
