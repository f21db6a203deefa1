#!/usr/bin/env bash
# The main job end to end on data it makes itself: Parquet in, a model, predictions, held-out error.
#
#     examples/first_model.sh [FOLDER]
#
# Needs Rust and a C compiler. FOLDER (default: first_model, in the current folder) receives the data, the model and the predictions.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-first_model}

target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
(cd "$root" && CARGO_TARGET_DIR=$target cargo build --release --locked)
nystream="$target/release/nystream"

say() {
    printf '\n$ nystream'
    printf ' %q' "$@"
    printf '\n'
    "$nystream" "$@"
}

mkdir -p "$folder"
say datasets make friedman1 --rows 200000 --features 10 --noise 1 --seed 1 --files 4 --overwrite --out "$folder/train"
say datasets make friedman1 --rows 20000 --features 10 --noise 1 --seed 2 --overwrite --out "$folder/test"
say fit --data "$folder/train" --target y --centers 500 --out "$folder/model.nys" --report "$folder/report.json"
say predict --model "$folder/model.nys" --data "$folder/test" --keep y --out "$folder/predictions.parquet"
say evaluate --model "$folder/model.nys" --data "$folder/test"

printf '\nThe noise has standard deviation 1: no model can have a smaller rmse. Files written:\n'
ls -l "$folder"/model.nys "$folder"/report.json "$folder"/predictions.parquet
