//! From a file to lines: which format it is, told by its content, and how its
//! bytes are reached.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use memmap2::Mmap;

use super::{
    block::{self, BlockLog, Form},
    damage::{Reason, TraceError},
    line::{self, Line},
    parse::{Log, lines_of},
    zstd::Frames,
};

/// Bytes looked at to tell the format: `blkparse` names each of its input files
/// first.
const HEAD: u64 = 16 << 10;
/// Bytes looked at to tell text from binary data.
const BINARY_HEAD: usize = 4096;
/// From here on a plain file is mapped instead of read.
const MAP_FROM: u64 = 1 << 20;
/// Bytes read or unpacked at a time.
const PIECE: usize = 4 << 20;

/// How a trace was stored; for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// What is read, by the form of the lines.
pub(super) enum Reading {
    Ftrace(Log),
    Block(Box<BlockLog>),
}

impl Reading {
    /// Tells the form by the first lines. What has none is read as an ftrace,
    /// and found to be none.
    fn of_head(head: &[u8], path: &Path) -> Result<Self, TraceError> {
        let block = |form| Ok(Reading::Block(Box::new(BlockLog::new(form))));
        match block::iolog_form(head) {
            Some(Ok(form)) => return block(form),
            Some(Err(())) => return Err(TraceError::IologVersion(path.to_owned())),
            None => {}
        }
        for line in lines_of(head) {
            if block::is_blkparse(line) {
                return block(Form::Blkparse);
            }
            if matches!(line::classify(line), Line::Event(_)) {
                break;
            }
        }
        Ok(Reading::Ftrace(Log::default()))
    }

    fn read_lines(&mut self, bytes: &[u8]) {
        match self {
            Reading::Ftrace(log) => log.read_lines(bytes),
            Reading::Block(log) => log.read_lines(bytes),
        }
    }

    fn damaged_end(&mut self, reason: Reason) {
        match self {
            Reading::Ftrace(log) => log.counts.damaged_end(reason),
            Reading::Block(log) => log.counts.damaged_end(reason),
        }
    }

    /// Lines of the form.
    fn framed(&self) -> u64 {
        match self {
            Reading::Ftrace(log) => log.counts.framed,
            Reading::Block(log) => log.counts.framed,
        }
    }
}

/// Reads every line of the file at `path`, which may be a pipe.
pub(super) fn read_file(path: &Path) -> Result<(Reading, Packing), TraceError> {
    let io = |error| TraceError::Io {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(TraceError::Directory(path.to_owned()));
    }
    // Files of tracefs and procfs report a size of 0 and have content.
    if metadata.is_file() && metadata.len() >= MAP_FROM {
        // SAFETY: the map is private and read-only. A file that another process
        // shortens meanwhile would end this process with SIGBUS, as it would
        // any program that maps its input; a file that changes gives other
        // bytes, for which the parser is total.
        let map = unsafe { Mmap::map(&file) };
        // What cannot be mapped can still be read.
        if let Ok(map) = map {
            return read_bytes(&map, path);
        }
    }
    let mut file = file;
    let mut head = Vec::new();
    file.by_ref()
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(io)?;
    let packing = check_head(&head, path)?;
    let reading = match packing {
        Packing::Plain => {
            let mut reading = Reading::of_head(&head, path)?;
            stream(head.chain(file), &mut reading).map_err(io)?;
            reading
        }
        packed => unpack(head.chain(file), packed, path)?,
    };
    Ok((reading, packing))
}

/// Reads every line of a file's content; `path` is for messages.
pub(super) fn read_bytes(bytes: &[u8], path: &Path) -> Result<(Reading, Packing), TraceError> {
    let head = &bytes[..bytes.len().min(HEAD as usize)];
    let packing = check_head(head, path)?;
    let reading = match packing {
        Packing::Plain => {
            let mut reading = Reading::of_head(head, path)?;
            reading.read_lines(bytes);
            reading
        }
        packed => unpack(bytes, packed, path)?,
    };
    Ok((reading, packing))
}

/// Tells the format by the first bytes of a file.
fn check_head(head: &[u8], path: &Path) -> Result<Packing, TraceError> {
    let path = || path.to_owned();
    let compressed = |unpack| TraceError::Compressed {
        path: path(),
        unpack,
    };
    match head {
        [] => return Err(TraceError::Empty(path())),
        [0x1f, 0x8b, ..] => return Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Ok(Packing::Zstd),
        // A frame to be skipped: `pzstd` begins with one.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => return Ok(Packing::Zstd),
        // The magic number of a little-endian and of a big-endian machine, and a
        // version.
        [0x01..=0x0f, b't', b'a', b'e', ..] | [b'e', b'a', b't', 0x01..=0x0f, ..] => {
            return Err(TraceError::Blktrace(path()));
        }
        [
            0x17,
            0x08,
            0x44,
            b't',
            b'r',
            b'a',
            b'c',
            b'i',
            b'n',
            b'g',
            ..,
        ] => {
            return Err(TraceError::TraceDat(path()));
        }
        [b'P', b'E', b'R', b'F', b'I', b'L', b'E', b'2', ..] => {
            return Err(TraceError::PerfData(path()));
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(compressed("xz -dk")),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err(compressed("bzip2 -dk")),
        _ => {}
    }
    // A task may have any name, so single odd bytes are no proof; NUL never
    // gets into a line the kernel prints.
    if head[..head.len().min(BINARY_HEAD)].contains(&0) {
        return Err(TraceError::Binary(path()));
    }
    Ok(Packing::Plain)
}

/// Unpacks and reads. What ends early keeps the lines before the damage.
fn unpack(packed: impl Read, packing: Packing, path: &Path) -> Result<Reading, TraceError> {
    let packed = BufReader::with_capacity(1 << 16, packed);
    match packing {
        Packing::Zstd => unpacked(Frames::new(packed), path, |path, error| TraceError::Zstd {
            path,
            error,
        }),
        Packing::Gzip | Packing::Plain => {
            unpacked(MultiGzDecoder::new(packed), path, |path, error| {
                TraceError::Gzip { path, error }
            })
        }
    }
}

fn unpacked(
    mut decoder: impl Read,
    path: &Path,
    nothing: fn(PathBuf, io::Error) -> TraceError,
) -> Result<Reading, TraceError> {
    let mut head = Vec::new();
    let begun = decoder.by_ref().take(HEAD).read_to_end(&mut head);
    if begun.is_ok() || !head.is_empty() {
        let unpack = match check_head(&head, path)? {
            Packing::Plain => None,
            Packing::Gzip => Some("gunzip -k"),
            Packing::Zstd => Some("zstd -d"),
        };
        if let Some(unpack) = unpack {
            return Err(TraceError::Compressed {
                path: path.to_owned(),
                unpack,
            });
        }
    }
    let mut reading = Reading::of_head(&head, path)?;
    let ended = match begun {
        Ok(_) => stream(head.chain(decoder), &mut reading),
        Err(error) => {
            reading.read_lines(whole_lines(&head));
            Err(error)
        }
    };
    match ended {
        Ok(()) => Ok(reading),
        Err(error) if reading.framed() == 0 => Err(nothing(path.to_owned(), error)),
        Err(_) => {
            reading.damaged_end(Reason::Compression);
            Ok(reading)
        }
    }
}

/// Reads lines a piece at a time, so that only events stay in memory. On an
/// error the whole lines before it are read.
fn stream(mut reader: impl Read, reading: &mut Reading) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        // A line that is not whole yet stays in the buffer for the next turn;
        // one longer than a piece goes as it is, and counts as damaged.
        let wanted = PIECE.saturating_sub(buffer.len()).max(1) as u64;
        let read = reader.by_ref().take(wanted).read_to_end(&mut buffer);
        let end = match read {
            Ok(0) => {
                reading.read_lines(&buffer);
                return Ok(());
            }
            Ok(_) if buffer.len() < PIECE => continue,
            Ok(_) => match whole_lines(&buffer).len() {
                0 => buffer.len(),
                end => end,
            },
            Err(error) => {
                reading.read_lines(whole_lines(&buffer));
                return Err(error);
            }
        };
        reading.read_lines(&buffer[..end]);
        buffer.drain(..end);
    }
}

/// Up to and with the last newline.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = (bytes.iter().rposition(|&b| b == b'\n')).map_or(0, |newline| newline + 1);
    &bytes[..end]
}
