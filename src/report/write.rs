//! Writing a report so that nothing half-written is ever seen.
//!
//! Every file is written whole under a temporary name in the folder it belongs to, forced to the
//! disk, and then renamed. A failure removes the temporary files again; files of an earlier run
//! stay as they were until the rename.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Report;

/// The files of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// `report.json`, described in `docs/report-format.md`.
    pub json: PathBuf,
    /// `report.html`, which needs nothing but itself.
    pub html: PathBuf,
}

/// Why a report could not be written or read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The output folder cannot be made or written to.
    #[error("cannot write to the output folder {path}: {source}; name another one with --out")]
    OutDir {
        /// The folder asked for.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file in the folder cannot be written.
    #[error("cannot write {path}: {source}; free some space or name another folder with --out")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A report cannot be read.
    #[error("cannot read {path}: {source}; name a report.json")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file is not a report of this version.
    #[error(
        "{path} is not a report of this version of dmabench: {reason}; run the benchmark again"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The report holds something that JSON cannot carry.
    #[error("the report cannot be written as JSON: {0}; please report this as a bug")]
    Encode(#[source] serde_json::Error),
    /// A plot could not be drawn.
    #[error("a plot cannot be drawn: {0}; please report this as a bug")]
    Plot(String),
}

/// Makes the output folder if need be and checks that files can be made in it. For the start of
/// a run: better a refusal now than after a minute of work.
///
/// # Errors
/// [`ReportError::OutDir`] when the folder cannot be made or a file cannot be made in it.
pub fn check_out_dir(out_dir: &Path) -> Result<(), ReportError> {
    let refused = |source| ReportError::OutDir {
        path: out_dir.to_owned(),
        source,
    };
    fs::create_dir_all(out_dir).map_err(refused)?;
    Temporary::create(out_dir, "check")
        .map(drop)
        .map_err(refused)
}

/// JSON as every file and every `--json` has it: indented, ended by a line break.
///
/// # Errors
/// [`ReportError::Encode`].
pub fn to_json(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, ReportError> {
    let mut json = serde_json::to_vec_pretty(value).map_err(ReportError::Encode)?;
    json.push(b'\n');
    Ok(json)
}

/// Writes `report.json` and `report.html` into `out_dir`, which is made if need be. Both are
/// complete before either gets its name.
///
/// # Errors
/// See [`ReportError`]. After an error no temporary file is left behind, and reports of earlier
/// runs are untouched unless the failure was the rename of the second file.
pub fn write(report: &Report, out_dir: &Path) -> Result<Written, ReportError> {
    let json = to_json(report)?;
    // JSON has no infinity and no NaN; serde_json writes null for them, which nobody could read.
    serde_json::from_slice::<Report>(&json).map_err(ReportError::Encode)?;
    let html = super::html::page(report)?;

    fs::create_dir_all(out_dir).map_err(|source| ReportError::OutDir {
        path: out_dir.to_owned(),
        source,
    })?;
    let json = Temporary::write(out_dir, "report.json", &json)?;
    let html = Temporary::write(out_dir, "report.html", html.as_bytes())?;
    Ok(Written {
        json: json.rename()?,
        html: html.rename()?,
    })
}

/// Writes comparisons of runs as `comparison.json` into `out_dir`, which is made if need be.
///
/// # Errors
/// As [`write()`].
pub fn write_comparisons(
    comparisons: &[super::Comparison],
    out_dir: &Path,
) -> Result<PathBuf, ReportError> {
    let json = to_json(comparisons)?;
    serde_json::from_slice::<Vec<super::Comparison>>(&json).map_err(ReportError::Encode)?;
    fs::create_dir_all(out_dir).map_err(|source| ReportError::OutDir {
        path: out_dir.to_owned(),
        source,
    })?;
    Temporary::write(out_dir, "comparison.json", &json)?.rename()
}

/// Checks that [`write_file`] can write there. For the start of a run.
///
/// # Errors
/// [`ReportError::Write`].
pub fn check_file(path: &Path) -> Result<(), ReportError> {
    let (dir, name) = dir_and_name(path)?;
    Temporary::create(dir, name)
        .map(drop)
        .map_err(|source| ReportError::Write {
            path: path.to_owned(),
            source,
        })
}

fn dir_and_name(path: &Path) -> Result<(&Path, &str), ReportError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if !path.is_dir() => Ok((dir, name)),
        _ => Err(ReportError::Write {
            path: path.to_owned(),
            source: io::Error::from(io::ErrorKind::InvalidFilename),
        }),
    }
}

/// Writes one file, whole or not at all; its folder must be there.
///
/// # Errors
/// [`ReportError::Write`]. After an error an earlier file is untouched.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let (dir, name) = dir_and_name(path)?;
    Temporary::write(dir, name, bytes)?.rename()?;
    Ok(())
}

/// Reads a `report.json` back.
///
/// # Errors
/// [`ReportError::Read`] when the file cannot be read, [`ReportError::Format`] when it is not a
/// report or has another schema version.
pub fn read(path: &Path) -> Result<Report, ReportError> {
    let text = fs::read(path).map_err(|source| ReportError::Read {
        path: path.to_owned(),
        source,
    })?;
    let refused = |reason: String| ReportError::Format {
        path: path.to_owned(),
        reason,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    // The version first: a field that was renamed later is not the reader's fault.
    match value
        .get("schema_version")
        .and_then(serde_json::Value::as_u64)
    {
        Some(version) if version == u64::from(super::SCHEMA_VERSION) => {}
        Some(version) => {
            return Err(refused(format!(
                "its schema_version is {version}, this program reads {}",
                super::SCHEMA_VERSION
            )));
        }
        None => return Err(refused("it has no schema_version".to_owned())),
    }
    serde_json::from_value(value).map_err(|error| refused(error.to_string()))
}

/// A file under a temporary name; removed when dropped before it was renamed.
struct Temporary {
    now: PathBuf,
    then: PathBuf,
    file: File,
    renamed: bool,
}

impl Temporary {
    fn create(dir: &Path, name: &str) -> io::Result<Self> {
        let now = dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&now)?;
        Ok(Self {
            now,
            then: dir.join(name),
            file,
            renamed: false,
        })
    }

    fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<Self, ReportError> {
        let failed = |source| ReportError::Write {
            path: dir.join(name),
            source,
        };
        let mut temporary = Self::create(dir, name).map_err(failed)?;
        temporary.file.write_all(bytes).map_err(failed)?;
        temporary.file.sync_all().map_err(failed)?;
        Ok(temporary)
    }

    fn rename(mut self) -> Result<PathBuf, ReportError> {
        fs::rename(&self.now, &self.then).map_err(|source| ReportError::Write {
            path: self.then.clone(),
            source,
        })?;
        self.renamed = true;
        Ok(self.then.clone())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing more can be done about a file that cannot be removed either.
            let _ = fs::remove_file(&self.now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let report = sample::report();
        let out = dir.path().join("new/deeper");
        check_out_dir(&out).unwrap();
        let written = write(&report, &out).unwrap();
        assert_eq!(names(&out), ["report.html", "report.json"]);
        assert_eq!(read(&written.json).unwrap(), report);
        assert_eq!(
            fs::read_to_string(written.html).unwrap(),
            super::super::html::page(&report).unwrap()
        );
    }

    #[test]
    fn whole_counts_are_whole_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let written = write(&sample::report(), dir.path()).unwrap();
        let value: serde_json::Value =
            serde_json::from_slice(&fs::read(written.json).unwrap()).unwrap();
        let strict = &value["results"][1];
        assert_eq!(strict["mode"], "strict");
        assert_eq!(strict["sync_commands"].as_u64(), Some(132));
        let lazy = &value["results"][2];
        assert_eq!(lazy["tlb_flush_all_commands"].as_f64(), Some(132.0 / 256.0));
        assert!(value["results"][0]["stale_device_accesses"].is_null());
        assert_eq!(value["kind"]["results[].sync_commands"], "counted");
    }

    #[test]
    fn a_figure_json_cannot_carry_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = sample::report();
        report.results[0].cpu_ns_per_request = f64::NAN;
        let error = write(&report, dir.path()).unwrap_err();
        assert!(matches!(error, ReportError::Encode(_)), "{error}");
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for error in [
            check_out_dir(&file).unwrap_err(),
            write(&sample::report(), &file).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, ReportError::OutDir { .. }), "{text}");
            assert!(text.contains("file") && text.contains("--out"), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }

    #[test]
    fn a_failed_write_leaves_the_earlier_report_and_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let report = sample::report();
        write(&report, dir.path()).unwrap();
        // A folder in the way of the page: the page can be written but not renamed.
        fs::remove_file(dir.path().join("report.html")).unwrap();
        fs::create_dir(dir.path().join("report.html")).unwrap();
        let error = write(&report, dir.path()).unwrap_err();
        assert!(matches!(error, ReportError::Write { .. }), "{error}");
        assert_eq!(names(dir.path()), ["report.html", "report.json"]);
        assert_eq!(read(&dir.path().join("report.json")).unwrap(), report);
    }

    #[test]
    fn files_that_are_no_report_are_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.json");
        for (text, reason) in [
            ("", "EOF"),
            ("{}", "no schema_version"),
            ("{\"schema_version\": 99}", "schema_version is 99"),
            ("{\"schema_version\": 1}", "missing field"),
        ] {
            fs::write(&file, text).unwrap();
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(matches!(
            read(&dir.path().join("none")),
            Err(ReportError::Read { .. })
        ));
    }
}
