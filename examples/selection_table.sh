#!/usr/bin/env bash
# Compares how centers are chosen, at equal number, kernel and bandwidth: trace error, test error and seconds by selection and seed.
#
#     examples/selection_table.sh FOLDER [SET ...]
#
# FOLDER holds the development datasets (kin40k.train.parquet, kin40k.test.parquet, ..., beijing_air/train/, beijing_air/test/). The sets
# friedman1, sines, mixtures and twoclass are made: 44,000 rows of 8 features, the last eleventh for testing.
# The bandwidth of a set is tuned once, on the first seed. Environment: NYSTREAM (the program), CENTERS, SEEDS, SELECTIONS, RIDGE, PRECISION.
# Columns: set, selection, seed, trace error, test error (standardised root mean square error; share of wrong answers where
# the target is a class), log loss (classes), ridge, seconds of the dictionary stage, seconds in all.
set -euo pipefail
data=$1
shift
[ $# -gt 0 ] || set -- kin40k protein keggdirected beijing_air acs_income
program=${NYSTREAM:-nystream}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# The number after "name": in a report.
number() { sed -n "s/^ *\"$2\": \([-+0-9.eE]*\),*$/\1/p" "$1" | head -n 1; }

for set in "$@"; do
    train=$data/$set.train.parquet test=$data/$set.test.parquet task=auto
    case $set in
        kin40k | keggdirected) target=y ;;
        protein) target=log1p_rmsd ;;
        beijing_air) target=PM2.5 train=$data/beijing_air/train/*.parquet test=$data/beijing_air/test/*.parquet ;;
        acs_income) target=income_gt_50k task=classification ;;
        friedman1 | sines | mixtures | twoclass)
            target=y train=$folder/$set/train/*.parquet test=$folder/$set/test.parquet
            [ $set = twoclass ] && task=classification
            mkdir -p "$folder/$set/train"
            "$program" datasets make $set --rows 44000 --features 8 --noise 0.1 --seed 1 --files 11 --out "$folder/$set/train" >/dev/null 2>&1
            mv "$folder/$set/train/part-00010.parquet" "$test"
            ;;
        *) echo "unknown set $set" >&2 && exit 2 ;;
    esac
    bandwidth=auto
    for seed in ${SEEDS:-0 1 2}; do
        for select in ${SELECTIONS:-uniform auto squeak rpcholesky}; do
            model=$folder/model.nys report=$folder/report.json score=$folder/score.json
            rm -f "$model" "$report"
            "$program" fit --data "$train" --target "$target" --task "$task" --kernel gaussian --bandwidth "$bandwidth" \
                --ridge "${RIDGE:-auto}" --centers "${CENTERS:-1000}" --select "$select" --seed "$seed" --precision "${PRECISION:-f32}" --split none \
                --out "$model" --report "$report" --format json >/dev/null 2>"$folder/log" || { cat "$folder/log" >&2 && exit 1; }
            "$program" evaluate --model "$model" --data "$test" --format json >"$score" 2>/dev/null
            bandwidth=$(number "$report" bandwidth)
            error=$(number "$score" standardized_rmse)
            [ -n "$error" ] || error=$(number "$score" accuracy | awk '{ print 1 - $1 }')
            printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$set" "$select" "$seed" "$(number "$report" trace_error)" "$error" \
                "$(number "$score" log_loss)" "$(number "$report" ridge)" "$(number "$report" dictionary)" \
                "$(number "$report" total)"
        done
    done
done
