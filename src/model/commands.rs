//! What the commands `profiles`, `fit` and `check-model` print.

use std::{fs, path::PathBuf};

use clap::Args;

use super::{
    BoardError, DEFAULT_PROFILE, FitError, FitInput, HardwareProfile, Residuals, built_in, check,
};

/// Which profile to show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ProfilesArgs {
    /// Print this one as a board file, to be changed and given to --profile
    #[arg(value_name = "NAME|FILE")]
    pub name: Option<String>,
}

/// What to fit.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FitArgs {
    /// Rows (.csv or .toml) of strict unmaps with their sizes: columns size_bytes, size_kib or
    /// size_pages, and unmap_ns or unmap_us
    #[arg(value_name = "ROWS")]
    pub rows: PathBuf,

    /// The IOMMU has range invalidation: one command for each range, not for each page
    #[arg(long)]
    pub range_invalidation: bool,
}

/// Why one of the commands stops. Displays as one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No such profile, or a board file that cannot be used.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// Rows that no profile can be made of.
    #[error("{path}: {error}")]
    Fit {
        /// Their file.
        path: PathBuf,
        /// Why.
        error: FitError,
    },
    /// Rows that cannot be read.
    #[error("{path} cannot be read: {error}; name a file of rows (.csv or .toml)")]
    Unreadable {
        /// Their file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The built-in profiles with every figure and its source, or one as a file.
///
/// # Errors
///
/// [`ModelError::Board`].
pub fn profiles(args: &ProfilesArgs) -> Result<String, ModelError> {
    if let Some(name) = &args.name {
        let profile = HardwareProfile::find(name).map_err(ModelError::Board)?;
        return Ok(profile.to_toml());
    }
    let mut out = String::new();
    for profile in built_in() {
        let default = if profile.name == DEFAULT_PROFILE {
            " (default)"
        } else {
            ""
        };
        out += &format!("{}{default}\n  {}\n", profile.name, profile.description);
        out += &format!("  source: {}\n", profile.source);
        for (name, value, unit, meaning) in profile.figures() {
            let own = profile.source_of(name);
            let source = if own == profile.source {
                String::new()
            } else {
                format!(" [{own}]")
            };
            out += &format!("  {name:<19} {value:>6} {unit:<6} {meaning}{source}\n");
        }
        out.push('\n');
    }
    out += "Give one to --profile, or a board file of your own: `dmabench profiles NAME` prints one \
            to begin with, `dmabench fit ROWS` makes one from measured rows.\n";
    Ok(out)
}

/// The board file that the rows make, with each row beside its fit.
///
/// # Errors
///
/// [`ModelError`].
pub fn fit(args: &FitArgs) -> Result<String, ModelError> {
    let path = || args.rows.clone();
    let text = fs::read_to_string(&args.rows).map_err(|error| ModelError::Unreadable {
        path: path(),
        error,
    })?;
    let refused = |error| ModelError::Fit {
        path: path(),
        error,
    };
    let input = FitInput::parse(&args.rows, &text, args.range_invalidation).map_err(refused)?;
    let (profile, fitted) = input.profile().map_err(refused)?;
    Ok(format!(
        "{}\n{}",
        profile.to_toml(),
        Residuals(&input, &fitted)
    ))
}

/// The model beside every published table.
pub fn check_model() -> String {
    check::report()
}
