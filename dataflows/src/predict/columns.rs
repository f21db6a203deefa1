//! The columns of the output: kept input columns, predictions, scores, variances.

use super::function::Function;
use crate::error::StageError;
use crate::evaluate::argmax;
use crate::job::Loss;
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use nystream_datasets::kept::KeptColumns;
use std::sync::Arc;

/// How the predicted class is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Labels {
    /// Every label is an integer in its plain form.
    Integers(Vec<i64>),
    /// Anything else.
    Text(Vec<String>),
}

/// The columns of the output.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub kept: KeptColumns,
    schema: SchemaRef,
    /// For classes.
    labels: Option<Labels>,
    variance: bool,
}

impl Columns {
    /// The columns that `function` writes after the kept ones.
    ///
    /// # Errors
    /// [`StageError::Usage`] when a kept column has the name of a predicted one.
    pub fn new(function: &Function, kept: KeptColumns, variance: bool) -> Result<Self, StageError> {
        let code = &function.code;
        let mut fields = kept.fields();
        let input = fields.len();
        let number = |name: String| Field::new(name, DataType::Float64, true);
        let named = |stem: &str| -> Vec<String> {
            match code.names.as_slice() {
                [_] => vec![stem.to_owned()],
                names => names.iter().map(|name| format!("{stem}_{name}")).collect(),
            }
        };
        let labels = code.is_classification().then(|| Labels::new(&code.classes));
        match &labels {
            None => fields.extend(named("prediction").into_iter().map(number)),
            Some(labels) => {
                fields.push(Field::new("prediction", labels.data_type(), true));
                let stem = if function.loss == Loss::Logistic { "probability" } else { "score" };
                fields.extend(code.classes.iter().map(|label| number(format!("{stem}_{label}"))));
            }
        }
        if variance {
            fields.extend(named("variance").into_iter().map(number));
        }
        if let Some(taken) = fields[..input].iter().find(|f| fields[input..].iter().any(|o| o.name() == f.name())) {
            return Err(StageError::Usage(format!(
                "--keep: the data has a column '{0}', which is also the name of a predicted column: rename it in the data or do not keep it",
                taken.name()
            )));
        }
        Ok(Columns { kept, schema: Arc::new(Schema::new(fields)), labels, variance })
    }

    /// The schema of the output.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Names, in order.
    pub fn names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    /// The output rows of one batch of `rows` input rows.
    ///
    /// `places[i]` is the position in the batch of predicted row i; `outputs` has `width` values a predicted row (numbers, or one per class) and
    /// `variances` one per target where they are asked for. Rows without a place get nulls.
    ///
    /// # Errors
    /// [`StageError::Internal`] when the columns do not fit together.
    pub fn batch(
        &self,
        rows: usize,
        kept: Vec<ArrayRef>,
        places: &[usize],
        outputs: &[f64],
        width: usize,
        variances: &[f64],
    ) -> Result<RecordBatch, StageError> {
        let mut columns = kept;
        if let Some(labels) = &self.labels {
            let mut best: Vec<Option<usize>> = vec![None; rows];
            for (place, scores) in places.iter().zip(outputs.chunks_exact(width)) {
                best[*place] = Some(argmax(scores));
            }
            columns.push(labels.array(&best));
        }
        let mut spread = |values: &[f64], width: usize| {
            for k in 0..width {
                let mut column: Vec<Option<f64>> = vec![None; rows];
                for (place, values) in places.iter().zip(values.chunks_exact(width)) {
                    column[*place] = Some(values[k]);
                }
                columns.push(Arc::new(Float64Array::from(column)) as ArrayRef);
            }
        };
        spread(outputs, width);
        if self.variance {
            spread(variances, width);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema(), columns, &options)
            .map_err(|e| StageError::Internal(format!("predictions do not fit their columns: {e}")))
    }
}

impl Labels {
    fn new(classes: &[String]) -> Self {
        let plain = |label: &String| label.parse::<i64>().ok().filter(|value| value.to_string() == *label);
        match classes.iter().map(plain).collect() {
            Some(integers) => Labels::Integers(integers),
            None => Labels::Text(classes.to_vec()),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Labels::Integers(_) => DataType::Int64,
            Labels::Text(_) => DataType::Utf8,
        }
    }

    fn array(&self, best: &[Option<usize>]) -> ArrayRef {
        match self {
            Labels::Integers(labels) => Arc::new(Int64Array::from_iter(best.iter().map(|k| k.map(|k| labels[k])))),
            Labels::Text(labels) => {
                Arc::new(StringArray::from_iter(best.iter().map(|k| k.map(|k| labels[k].as_str()))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_integers_only_when_nothing_is_lost() {
        let labels = |given: &[&str]| Labels::new(&given.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        assert_eq!(labels(&["-1", "10"]), Labels::Integers(vec![-1, 10]));
        for given in [&["01", "2"][..], &["+1", "2"], &["1.0", "2.0"], &["true", "false"], &["1", "no"]] {
            assert!(matches!(labels(given), Labels::Text(_)), "{given:?}");
        }
    }
}
