//! Options that are one of a few names.

use std::fmt;

/// Gives a fieldless option enum its names: clap's value enum, `as_str` and `Display` agree.
macro_rules! named_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name {
            $($(#[$variant_doc])* #[value(name = $text)] $variant),+
        }

        impl $name {
            /// The name on the command line, in reports and in model files.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named_values! {
    /// Which sampling of the dictionary.
    DictionaryMode {
        /// Hashed Bernoulli thresholds, oversampling 8.
        Bernoulli = "bernoulli",
        /// Binomial copies with the constants of the published theorem.
        Theorem = "theorem",
    }
}
named_values! {
    /// How the processes of a job are started.
    Launcher {
        /// By ssh, each on its host.
        Ssh = "ssh",
        /// All on this machine.
        Local = "local",
    }
}
named_values! {
    /// How a tolerance of products is kept.
    ProductMode {
        /// For certain, by one cutoff.
        Certified = "certified",
        /// By budgets of rows, which may draw.
        Sampled = "sampled",
    }
}
named_values! {
    /// Which solver.
    Solver {
        /// By the cost model.
        Auto = "auto",
        /// One pass, exact Gram matrix.
        Gram = "gram",
        /// Preconditioned conjugate gradients.
        Pcg = "pcg",
        /// Projected preconditioned stochastic gradient.
        EigenPro = "eigenpro",
        /// Block coordinate descent with every row a center.
        BlockCd = "blockcd",
    }
}
named_values! {
    /// Whether processes share the centers.
    ShareCenters {
        /// In fits where K_mm is not factored, in predictions where the model does not fit a process.
        Auto = "auto",
        /// Wherever there is more than one block of 4,096.
        Always = "always",
        /// Every process has all.
        Never = "never",
    }
}
named_values! {
    /// What stands for the rows in the preconditioner of conjugate gradients.
    Preconditioner {
        /// By the numbers of rows and centers.
        Auto = "auto",
        /// The centers, each for the rows around it: a quarter of the algebra, about twice the iterations; no degrees of freedom of its own.
        Centers = "centers",
        /// The centers and sampled rows.
        Mixed = "mixed",
    }
}
named_values! {
    /// Where the files of several processes are.
    DataLayout {
        /// Every process sees all files.
        Shared = "shared",
        /// Each process sees files of its own.
        Local = "local",
    }
}
named_values! {
    /// How what processes send each other is protected.
    Transport {
        /// Encrypted and authenticated.
        Noise = "noise",
        /// Authenticated, and readable on the network.
        Plain = "plain",
    }
}
named_values! {
    /// Precision of kernel entries; sums are always f64.
    Precision {
        /// Single precision entries.
        F32 = "f32",
        /// Double precision entries.
        F64 = "f64",
    }
}
named_values! {
    /// What is predicted.
    Task {
        /// Text, booleans and a target of two integers are classes.
        Auto = "auto",
        /// Numbers.
        Regression = "regression",
        /// Classes.
        Classification = "classification",
    }
}
named_values! {
    /// What is minimised.
    Loss {
        /// Squared error; one-hot targets for classes.
        Squared = "squared",
        /// Logistic loss; classification only.
        Logistic = "logistic",
    }
}
named_values! {
    /// How numeric columns are scaled.
    Scale {
        /// Mean and standard deviation.
        Standard = "standard",
        /// Median and interquartile range.
        Robust = "robust",
        /// Quantiles mapped to a standard normal.
        Quantile = "quantile",
    }
}
named_values! {
    /// Format of results on stdout.
    Format {
        /// For people.
        Text = "text",
        /// One JSON document.
        Json = "json",
    }
}
named_values! {
    /// Format of log lines on stderr.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
named_values! {
    /// Instruction set of the kernel tiles.
    Simd {
        /// The best this host has.
        Auto = "auto",
        /// No special instructions: the same bits on every machine.
        Portable = "portable",
        /// x86-64-v3.
        Avx2 = "avx2",
        /// x86-64-v4.
        Avx512 = "avx512",
        /// aarch64.
        Neon = "neon",
    }
}
