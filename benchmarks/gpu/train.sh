#!/usr/bin/env bash
# Train the embedded model on one GPU, from the sprites to both checkpoints. 24 minutes; run it detached
# (`setsid nohup`), its log is $1/log.
#
#     benchmarks/gpu/train.sh WORK [SUFFIX]
#
# WORK holds sprites.npz (`impasto train default-model data --recipe gpu`). Minutes of every part come from the
# environment: AUTOENCODER, TRANSFORMER, GUIDED, LEAPS. SUFFIX: of other recipes (`-rehearsal`), for a try on a CPU.
set -eu
work=$(realpath "$1") suffix=${2:-} device=${DEVICE:-cuda}
root=$(realpath "$(dirname "$0")/../..")
export PYTHONPATH=$root/src PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=$work/inductor
recipes=$root/src/impasto/training/recipes

train() { python3 -c 'from impasto.training.cli import train; train()' default-model "$@"; }
say() { echo "== $(date +%T) $*" >>"$work/log"; }

gpu=${suffix:+$root/benchmarks/gpu/gpu$suffix.toml} gpu=${gpu:-$recipes/gpu.toml}
# the recipes as they stand, each behind the one before it
recipe() { printf 'name = "%s"\nbase = "%s"\n' "$1" "$2" >"$work/$1.toml"; }
behind() { # NAME SHIPPED BASE START WHOLE
    recipe "$1" "$3"
    printf 'start = "%s"\nwhole = %s\n' "$4" "$5" >>"$work/$1.toml"
    sed -n '/^\[transformer\]/,$p' "$recipes/$2.toml" >>"$work/$1.toml"
}
recipe run "$gpu"
recipe warm "$gpu"
sed -n '/^\[\[buckets/,$p' "$gpu" | sed 's/^count.*/count = 768/' >>"$work/warm.toml"
behind guided gpu-guided "$work/run.toml" "$work/one" true
behind leaps gpu-leaps "$work/guided.toml" "$work/guided" false
behind warm-guided gpu-guided "$work/warm.toml" "$work/warm/one" true
behind warm-leaps gpu-leaps "$work/warm-guided.toml" "$work/warm/guided" false

# a few steps of every kind, for the compiler's cache; the first kind decides whether blocks are compiled at all
warm() { train transformer --work "$work/warm" --recipe "$work/$1.toml" --device "$device" --steps "${WARM:-12}" --report-minutes 0; }
warm_behind() {
    mkdir -p "$work/warm/$2" && cp "$work/one/"* "$work/warm/$2/"
    train export --work "$work/warm" --recipe "$work/$1.toml" --version 0 --out "$work/warm/$2"
    mv "$work/warm/transformer" "$work/warm/transformer-$1"
    warm "$3"
}

mkdir -p "$work/one" "$work/guided" "$work/warm"
for folder in one guided; do cp "$root"/src/impasto/weights/impasto-mini/{text_encoder.safetensors,upscaler.safetensors,tokenizer.json} "$work/$folder/"; done
ln -sf "$work/sprites.npz" "$work/warm/"
ln -sfn "$work/autoencoder" "$work/warm/autoencoder"

say data, compiler, decoder
train autoencoder --work "$work" --recipe "$gpu" --device "$device" --minutes "${AUTOENCODER:-7.5}" >>"$work/autoencoder.log" 2>&1 &
autoencoder=$!
until [ -s "$work/autoencoder/pca.safetensors" ]; do kill -0 $autoencoder; sleep 1; done
{ renice -n 5 $BASHPID && train transformer --work "$work" --recipe "$gpu" --device "$device" --steps 0 --report-minutes 0; } >>"$work/data.log" 2>&1 &
data=$!
if warm warm >>"$work/warm.log" 2>&1; then
    say compiled
    { warm_behind warm one warm-guided && warm_behind warm-guided guided warm-leaps; } >>"$work/warm.log" 2>&1 || say one pass and four steps not compiled ahead
else
    say not compiled
    printf '[transformer]\ncompile = false\n' >>"$work/run.toml"
fi
wait $data
say data done

say transformer
train transformer --work "$work" --recipe "$work/run.toml" --device "$device" --minutes "${TRANSFORMER:-13}" --report-minutes 0 >>"$work/transformer.log" 2>&1
wait $autoencoder
train export --work "$work" --recipe "$work/run.toml" --version 0.8 --out "$work/one" >>"$work/log" 2>&1
mv "$work/transformer" "$work/transformer-two-passes"

say guided
train transformer --work "$work" --recipe "$work/guided.toml" --device "$device" --minutes "${GUIDED:-2.6}" --report-minutes 0 >>"$work/guided.log" 2>&1
train export --work "$work" --recipe "$work/guided.toml" --version 0.8 --out "$work/guided" >>"$work/log" 2>&1
mv "$work/transformer" "$work/transformer-one-pass"
say guided exported

say leaps
train transformer --work "$work" --recipe "$work/leaps.toml" --device "$device" --minutes "${LEAPS:-3.3}" --report-minutes 0 >>"$work/leaps.log" 2>&1
cp -r "$work/guided" "$work/final"
train export --work "$work" --recipe "$work/leaps.toml" --version 0.8 --out "$work/final" >>"$work/log" 2>&1
say finished
