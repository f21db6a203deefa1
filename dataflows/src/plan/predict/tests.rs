//! What the plan counts, and that it counts any number.

use super::*;

const MODEL: ModelSize = ModelSize {
    file_bytes: 72_000_000,
    header_bytes: 4000,
    centers: 3000,
    numeric: 10,
    mapped: 10,
    codes: 0,
    targets: 1,
    classes: 0,
    rank: 2970,
    precision: Precision::Single,
    sparse: false,
    shared_by: 1,
};
const READING: Reading = Reading { rows: 8192, decoded: 88, pages: 0, fetched: 0, targets: 0 };
const WRITING: Writing = Writing { kept: 88, columns: 13, text: 0, group_rows: 131_072, rows: 1_000_000 };

fn bytes(plan: &ApplyPlan, name: &str) -> u64 {
    plan.memory.consumers.iter().filter(|c| c.name.contains(name)).map(|c| c.bytes).sum()
}

#[test]
fn loading_holds_the_file_twice() {
    let plan = MODEL.predicting(READING, Writing::default(), true, 1);
    assert_eq!(bytes(&plan, "the model file"), 2 * MODEL.file_bytes);
    let message = plan.check(100 << 20).unwrap_err().to_string();
    for part in ["Largest: the model file and what is read from it (137.3 MiB)", "fewer --centers", "--variance"] {
        assert!(message.contains(part), "{message}");
    }
    // Workers read no model.
    assert_eq!(plan, MODEL.predicting(Reading::default(), Writing::default(), true, 1));
}

#[test]
fn workers_and_columns_and_variances_count() {
    let total = |writing, variance, workers| MODEL.predicting(READING, writing, variance, workers).memory.total();
    let model = ModelSize { file_bytes: 1 << 20, ..MODEL };
    let plan = model.predicting(READING, WRITING, true, 4);
    assert_eq!(bytes(&plan, "variance factor"), 8 * 3001 * 2970 + 4 * 16 * 256 * 3008);
    assert_eq!(bytes(&plan, "row groups being written") % 4, 0);
    let message = plan.check(1 << 20).unwrap_err().to_string();
    assert!(message.ends_with("or use fewer --workers, fewer columns with --keep, no --variance"), "{message}");
    assert!(total(WRITING, false, 8) > total(WRITING, false, 4));
    assert!(total(WRITING, true, 8) > total(WRITING, false, 8));
    let wide = Writing { columns: 600, kept: 4800, ..WRITING };
    let plan = model.predicting(READING, wide, false, 1);
    // The writer ends a group of wide rows by its bytes, whose tables take several times as much.
    let group = bytes(&plan, "row groups being written");
    assert!(4 * TABLE_GROUP_BYTES < group && group < 20 * TABLE_GROUP_BYTES, "{group}");
    assert!(plan.check(plan.memory.total()).is_ok() && plan.check(plan.memory.total() - 1).is_err());
}

#[test]
fn only_classes_have_ranks() {
    let model = ModelSize { file_bytes: 1 << 20, rank: 0, ..MODEL };
    assert_eq!(bytes(&model.evaluating(READING, 3), "ranks"), 0);
    assert_eq!(
        bytes(&ModelSize { classes: 2, ..model }.evaluating(READING, 3), "ranks"),
        3 * (RANK_BYTES + RANK_PARCEL_BYTES)
    );
    let double = ModelSize { precision: Precision::Double, ..model };
    assert!(bytes(&double.evaluating(READING, 1), "packed") > bytes(&model.evaluating(READING, 1), "packed"));
}

#[test]
fn sparse_products_count() {
    let model = ModelSize { file_bytes: 1 << 20, rank: 0, ..MODEL };
    let sparse = ModelSize { sparse: true, ..model };
    let [dense, four] = [model, sparse].map(|model| model.predicting(READING, WRITING, false, 4));
    assert!(bytes(&four, "packed centers") > bytes(&dense, "packed centers"));
    // 8,192 rows keep at most 47 blocks each.
    assert!(bytes(&four, "rows by blocks") > 4 * 4 * 8192 * 47 && bytes(&dense, "rows by blocks") == 0);
    assert!(sparse.evaluating(READING, 1).memory.total() > model.evaluating(READING, 1).memory.total());
    // Variances need all entries.
    assert_eq!(sparse.predicting(READING, WRITING, true, 4), model.predicting(READING, WRITING, true, 4));
}

#[test]
fn shared_centers_take_their_share() {
    // 200,000 centers, thirty columns: 26 MB of model and as much packed.
    let size = ModelSize { file_bytes: 25_600_000, centers: 200_000, numeric: 30, mapped: 30, rank: 0, ..MODEL };
    let four = ModelSize { shared_by: 4, ..size };
    let [whole, part] = [size, four].map(|size| size.evaluating(Reading { rows: 2048, ..READING }, 1));
    let packed = |plan: &ApplyPlan| bytes(plan, "packed centers");
    // 49 blocks: 13 at most in each.
    assert!(packed(&part) * 49 <= packed(&whole) * 14 && packed(&part) * 49 >= packed(&whole) * 13);
    assert_eq!(bytes(&part, "rows of all workers") > 0, bytes(&whole, "rows of all workers") == 0);
    assert!(part.memory.total() < whole.memory.total());
    // The largest consumers are named: of a hundred times as many, 1,221 of 4,883 blocks.
    let large = ModelSize { centers: 20_000_000, ..four };
    let message = large.predicting(READING, WRITING, false, 1).check(1 << 20).unwrap_err().to_string();
    assert!(message.contains("5001216 of 20000000 centers"), "{message}");
    // One block is never divided.
    let small = ModelSize { centers: 4096, ..size };
    assert_eq!(ModelSize { shared_by: 4, ..small }.own(), 4096);
}

/// What a damaged file says must not end the program.
#[test]
fn any_number_can_be_planned_for() {
    let all = u64::MAX;
    let reading = Reading { rows: all, decoded: all, pages: all, fetched: all, targets: 1 };
    let writing = Writing { kept: all, columns: 3, text: all, group_rows: all, rows: all };
    let model = ModelSize { file_bytes: all, header_bytes: all, ..MODEL };
    assert_eq!(model.predicting(reading, writing, true, 2).memory.total(), all);
    assert!(model.evaluating(reading, 2).check(8 << 30).is_err());
    let vast = ModelSize { centers: all, numeric: all, mapped: all, codes: all, targets: all, sparse: true, ..model };
    assert_eq!(vast.evaluating(reading, 2).memory.total(), all);
    assert!(ModelSize::default().predicting(Reading::default(), Writing::default(), false, 2).check(1 << 30).is_ok());
}
