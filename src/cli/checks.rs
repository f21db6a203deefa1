//! What single values cannot show: combinations of options that cannot be meant. All are usage errors (exit 2),
//! found before any data is opened.

use super::groups::{DictionaryArgs, HoldoutArgs, InputArgs, KernelArgs, ResourceArgs, SolveArgs};
use super::values::{AutoOr, ClassWeight, Loss, Preconditioner, Ridge, Select, Solver, Task};
use super::{DictionaryCommandArgs, EvaluateArgs, FitArgs, PredictArgs, TuneArgs};
use crate::exit::Failure;
use std::path::Path;

/// Options that can be checked before anything is read.
pub trait Check {
    /// `Err` with exit code 2 and a remedy where the options contradict each other.
    fn check(&self) -> Result<(), Failure>;
}

impl Check for FitArgs {
    fn check(&self) -> Result<(), Failure> {
        if self.out.is_none() && !self.explain && !self.dry_run {
            return usage("--out FILE is missing: name the model file to write (or use --dry-run or --explain)");
        }
        if self.config_from.is_none() {
            need_target(&self.input)?;
        }
        self.input.check()?;
        self.holdout.check()?;
        self.resources.check()?;
        self.checkpoint.check()?;
        on_a_disk(&[("--out", self.out.as_deref()), ("--report", self.report.as_deref())])?;
        check_solve(&self.solve, &self.kernel, &self.dictionary, &self.input)?;
        if self.variance {
            check_variance(&self.solve, &self.input)?;
        }
        check_products(self)
    }
}

impl Check for TuneArgs {
    fn check(&self) -> Result<(), Failure> {
        need_target(&self.input)?;
        self.input.check()?;
        self.holdout.check()?;
        self.resources.check()?;
        on_a_disk(&[("--report", self.report.as_deref())])?;
        check_solve(&self.solve, &self.kernel, &self.dictionary, &self.input)
    }
}

impl Check for DictionaryCommandArgs {
    fn check(&self) -> Result<(), Failure> {
        need_target(&self.input)?;
        self.input.check()?;
        if matches!(self.dictionary.select, Select::File(_)) {
            return usage("--select file:PATH chooses nothing; give it to `fit`");
        }
        on_a_disk(&[("--out", Some(&self.out)), ("--report", self.report.as_deref())])?;
        self.resources.check()
    }
}

impl Check for PredictArgs {
    fn check(&self) -> Result<(), Failure> {
        on_a_disk(&[("--out", Some(&self.out))])?;
        self.products.check()?;
        if self.variance && self.products.product_tolerance.is_some() {
            return usage(
                "--variance needs every kernel entry, and --product-tolerance leaves some out: give one of them",
            );
        }
        self.resources.check()
    }
}

impl Check for EvaluateArgs {
    fn check(&self) -> Result<(), Failure> {
        on_a_disk(&[("--report", self.report.as_deref())])?;
        self.resources.check()
    }
}

impl Check for InputArgs {
    fn check(&self) -> Result<(), Failure> {
        for (index, target) in self.target.iter().enumerate() {
            if self.target[..index].contains(target) {
                return usage(format!("--target {target} is given twice"));
            }
            let used = [
                (self.drop.contains(target), "--drop"),
                (self.weight.as_ref() == Some(target), "--weight"),
                (self.id_column.as_ref() == Some(target), "--id-column"),
                (self.cyclic.contains(target), "--cyclic"),
            ];
            if let Some((_, flag)) = used.iter().find(|(clash, _)| *clash) {
                return usage(format!("column `{target}` is both --target and {flag}"));
            }
        }
        if self.class_weight.is_some() && self.task == Task::Regression {
            return usage("--class-weight needs classes, but --task is regression");
        }
        if matches!(&self.class_weight, Some(ClassWeight::Labels(_))) && self.target.len() > 1 {
            return usage("--class-weight LABEL=WEIGHT takes a single --target");
        }
        Ok(())
    }
}

impl Check for HoldoutArgs {
    fn check(&self) -> Result<(), Failure> {
        if self.split.is_some() && !self.validation.is_empty() {
            return usage("--split and --validation both say what is held out: give one of them");
        }
        Ok(())
    }
}

impl Check for ResourceArgs {
    fn check(&self) -> Result<(), Failure> {
        if let AutoOr::Given(workers) = self.workers
            && workers.0 > 4096
        {
            return usage(format!("--workers {workers} is more than 4096 threads"));
        }
        // Hours later, when rows first do not fit in memory, would be too late.
        if let Some(folder) = self.temp_dir.as_ref().filter(|folder| !folder.is_dir()) {
            let what = if folder.exists() { "is no folder" } else { "does not exist" };
            return usage(format!("--temp-dir {} {what}: make it, or name another folder", folder.display()));
        }
        // A day is more than anybody waits, and heartbeats need some time to come.
        let join = &self.join;
        for (flag, time, least) in [("join-timeout", join.join_timeout, 0.0), ("peer-timeout", join.peer_timeout, 1.0)]
        {
            if time.0 > 86_400.0 || time.0 < least {
                return usage(format!("--{flag} {time} is out of range: {least}s to 24h"));
            }
        }
        match (&self.hosts, self.process) {
            (Some(_), None) => usage("--hosts needs --process INDEX: which line of the file this process is, from 0"),
            (None, Some(_)) => usage("--process needs --hosts FILE"),
            _ => Ok(()),
        }
    }
}

/// Refuses outputs in object stores, where nothing can appear at once that is written over hours.
fn on_a_disk(outputs: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    for (option, path) in outputs {
        if let Some(path) = path.filter(|path| path.to_string_lossy().contains("://")) {
            let shown = path.display();
            return usage(format!(
                "{option} {shown}: object stores are read, not written: write to a disk and copy the file"
            ));
        }
    }
    Ok(())
}

fn need_target(input: &InputArgs) -> Result<(), Failure> {
    if input.target.is_empty() {
        return usage("--target COLUMN is missing: name the column to predict");
    }
    Ok(())
}

fn check_solve(
    solve: &SolveArgs,
    kernel: &KernelArgs,
    dictionary: &DictionaryArgs,
    input: &InputArgs,
) -> Result<(), Failure> {
    let solver = solve.solver;
    if solve.loss == Loss::Logistic {
        if input.task == Task::Regression {
            return usage("--loss logistic needs classes, but --task is regression");
        }
        if !matches!(solver, Solver::Auto | Solver::Pcg) {
            return usage(format!("--loss logistic is solved by pcg, not {solver}: use --solver pcg or auto"));
        }
        if input.target.len() > 1 {
            return usage("--loss logistic takes a single --target");
        }
    }
    if solve.preconditioner != Preconditioner::Auto
        && (!matches!(solver, Solver::Auto | Solver::Pcg) || solve.loss == Loss::Logistic)
    {
        return usage(format!(
            "--preconditioner {} is for squared loss by --solver pcg: leave it out, or give --solver pcg",
            solve.preconditioner
        ));
    }
    if kernel.ridge == AutoOr::Given(Ridge(0.0)) && solver != Solver::EigenPro {
        return usage(format!(
            "--ridge 0 has no unique solution with --solver {solver}: give a positive ridge, auto, or --solver eigenpro \
             (which stops early instead)"
        ));
    }
    if solver == Solver::BlockCd {
        if let AutoOr::Given(centers) = dictionary.centers {
            return usage(format!("--solver blockcd makes every row a center: drop --centers {centers}"));
        }
        if dictionary.select != Select::Auto {
            return usage(format!("--solver blockcd makes every row a center: drop --select {}", dictionary.select));
        }
    }
    Ok(())
}

/// Predictive variances are those of one Gram of numbers.
fn check_variance(solve: &SolveArgs, input: &InputArgs) -> Result<(), Failure> {
    if !matches!(solve.solver, Solver::Auto | Solver::Gram) {
        return usage(format!(
            "--variance comes from the gram solver, not {}: use --solver gram or auto",
            solve.solver
        ));
    }
    if solve.loss == Loss::Logistic || input.task == Task::Classification {
        return usage("--variance: classes have no predictive variance, only numbers do: leave it out");
    }
    Ok(())
}

/// Only conjugate gradients of squared loss have products that may leave entries out.
fn check_products(args: &FitArgs) -> Result<(), Failure> {
    args.products.check()?;
    if args.products.product_tolerance.is_none() {
        return Ok(());
    }
    let solver = args.solve.solver;
    if !matches!(solver, Solver::Auto | Solver::Pcg) {
        return usage(format!(
            "--product-tolerance is for --solver pcg: {solver} forms every kernel entry. Give --solver pcg, or leave it out"
        ));
    }
    if args.solve.loss == Loss::Logistic {
        return usage(
            "--product-tolerance is for squared loss by --solver pcg: --loss logistic forms every kernel entry",
        );
    }
    if args.variance {
        return usage(
            "--variance comes from the gram solver, which forms every kernel entry, and --product-tolerance is for --solver pcg: give one of them",
        );
    }
    if args.kernel.kernel.given().is_some_and(|kernel| !kernel.0.is_radial()) {
        return usage(format!(
            "--product-tolerance leaves out centers that are far from a row, and --kernel {} is no function of the distance",
            args.kernel.kernel
        ));
    }
    Ok(())
}

fn usage(message: impl Into<String>) -> Result<(), Failure> {
    Err(Failure::usage(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::exit::ExitCode;
    use clap::Parser;

    fn check(line: &str) -> Result<(), Failure> {
        match Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|e| panic!("{line}: {e}")).command {
            Command::Fit(args) => args.check(),
            Command::Tune(args) => args.check(),
            Command::Dictionary(args) => args.check(),
            Command::Predict(args) => args.check(),
            Command::Evaluate(args) => args.check(),
            other => panic!("{other:?}"),
        }
    }

    /// Where nothing can stand for it, the usage has it.
    #[test]
    fn usage_says_that_a_target_is_needed() {
        for line in ["nystream tune --data d", "nystream dictionary --data d --out c"] {
            let refused = Cli::try_parse_from(line.split_whitespace()).unwrap_err().to_string();
            assert!(
                refused.lines().any(|line| line.starts_with("Usage:") && line.contains("--target <COLUMN>")),
                "{refused}"
            );
        }
    }

    #[test]
    fn contradictions_are_usage_errors_that_name_the_flags() {
        let fit = "nystream fit --data d --target y --out m";
        let cases = [
            ("nystream fit --data d --target y", "--out"),
            ("nystream fit --data d --out m", "--target"),
            (&format!("{fit} --target y"), "twice"),
            (&format!("{fit} --drop y"), "--drop"),
            (&format!("{fit} --weight y"), "--weight"),
            (&format!("{fit} --id-column y"), "--id-column"),
            (&format!("{fit} --task regression --class-weight balanced"), "--class-weight"),
            (&format!("{fit} --split hash:0.1 --validation v"), "--validation"),
            (&format!("{fit} --hosts h"), "--process"),
            (&format!("{fit} --process 0"), "--hosts"),
            (&format!("{fit} --hosts h --process 0 --peer-timeout 0.5s"), "--peer-timeout"),
            (&format!("{fit} --hosts h --process 0 --join-timeout 25h"), "--join-timeout"),
            (&format!("{fit} --workers 100000"), "4096"),
            (&format!("{fit} --loss logistic --task regression"), "logistic"),
            (&format!("{fit} --loss logistic --solver gram"), "pcg"),
            (&format!("{fit} --ridge 0 --solver gram"), "--ridge 0"),
            (&format!("{fit} --ridge 0"), "--ridge 0"),
            (&format!("{fit} --solver blockcd --centers 10"), "--centers 10"),
            (&format!("{fit} --solver blockcd --select uniform"), "--select uniform"),
            (&format!("{fit} --variance --solver pcg"), "--variance"),
            (&format!("{fit} --variance --solver blockcd"), "not blockcd"),
            (&format!("{fit} --variance --loss logistic"), "--variance"),
            (&format!("{fit} --variance --task classification"), "--variance"),
            (&format!("{fit} --temp-dir absent/folder"), "--temp-dir absent/folder does not exist"),
            (&format!("{fit} --temp-dir Cargo.toml"), "is no folder"),
            (&format!("{fit} --preconditioner centers --solver gram"), "--solver pcg"),
            (&format!("{fit} --preconditioner mixed --loss logistic"), "squared loss"),
            (&format!("{fit} --product-tolerance 1e-3 --solver gram"), "--solver pcg"),
            (&format!("{fit} --product-tolerance 1e-3 --solver eigenpro"), "--solver pcg"),
            (&format!("{fit} --product-tolerance 1e-3 --solver blockcd"), "--solver pcg"),
            (&format!("{fit} --product-tolerance 1e-3 --loss logistic"), "--solver pcg"),
            (&format!("{fit} --product-tolerance 1e-3 --variance"), "--variance"),
            (&format!("{fit} --product-tolerance 1e-3 --kernel ntk"), "--kernel ntk"),
            ("nystream predict --model m --data d --out o --variance --product-tolerance 1e-3", "--product-tolerance"),
            ("nystream dictionary --data d --target y --out o --select file:x", "file:PATH"),
        ];
        for (line, word) in cases {
            let failure = check(line).expect_err(line);
            assert_eq!(failure.code, ExitCode::Usage, "{line}");
            assert!(failure.to_string().contains(word), "{line}: {failure}");
        }
    }

    #[test]
    fn sensible_lines_pass() {
        for line in [
            "nystream fit --data d --target y --out m",
            "nystream fit --data d --target y --dry-run",
            "nystream fit --data d --config-from old --out m",
            "nystream fit --data d --target y --out m --variance --solver gram",
            "nystream fit --data d --target y --out m --ridge 0 --solver eigenpro",
            "nystream fit --data d --target y --target z --out m --hosts h --process 1",
            "nystream dictionary --data d --target y --out o --centers 100",
            "nystream fit --data d --target y --out m --product-tolerance 1e-3",
            "nystream fit --data d --target y --out m --product-tolerance 1e-3 --solver pcg --kernel wendland2",
            "nystream evaluate --data d --model m",
            "nystream evaluate --data d --model m --product-tolerance 1e-3",
            "nystream predict --model m --data d --out o --product-tolerance 1e-3",
        ] {
            check(line).unwrap_or_else(|failure| panic!("{line}: {failure}"));
        }
    }
}
