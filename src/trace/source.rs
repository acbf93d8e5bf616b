//! From a file to lines: which format it is, and how its bytes are reached.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use memmap2::Mmap;

use super::{
    damage::{Reason, TraceError},
    parse::Log,
};

/// Bytes looked at to tell the format.
const HEAD: u64 = 4096;
/// From here on a plain file is mapped instead of read.
const MAP_FROM: u64 = 1 << 20;
/// Bytes read or unpacked at a time.
const PIECE: usize = 4 << 20;

/// How a trace was stored; for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Gzip,
}

/// Reads every line of the file at `path`, which may be a pipe.
pub(super) fn read_file(path: &Path) -> Result<(Log, Format), TraceError> {
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
    let format = check_head(&head, path)?;
    let mut log = Log::default();
    let whole = head.chain(file);
    match format {
        Format::Gzip => unpack(whole, path, &mut log)?,
        Format::Text => stream(whole, &mut log).map_err(io)?,
    }
    Ok((log, format))
}

/// Reads every line of a file's content; `path` is for messages.
pub(super) fn read_bytes(bytes: &[u8], path: &Path) -> Result<(Log, Format), TraceError> {
    let head = &bytes[..bytes.len().min(HEAD as usize)];
    let format = check_head(head, path)?;
    let mut log = Log::default();
    match format {
        Format::Gzip => unpack(bytes, path, &mut log)?,
        Format::Text => log.read_lines(bytes),
    }
    Ok((log, format))
}

/// Tells the format by the first bytes of a file.
fn check_head(head: &[u8], path: &Path) -> Result<Format, TraceError> {
    let path = || path.to_owned();
    let compressed = |unpack| TraceError::Compressed {
        path: path(),
        unpack,
    };
    match head {
        [] => return Err(TraceError::Empty(path())),
        [0x1f, 0x8b, ..] => return Ok(Format::Gzip),
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
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(compressed("zstd -d")),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => return Err(compressed("xz -dk")),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => return Err(compressed("bzip2 -dk")),
        _ => {}
    }
    // A task may have any name, so single odd bytes are no proof; NUL never
    // gets into a line the kernel prints.
    if head.contains(&0) {
        return Err(TraceError::Binary(path()));
    }
    Ok(Format::Text)
}

/// Unpacks and reads. What ends early keeps the lines before the damage.
fn unpack(packed: impl Read, path: &Path, log: &mut Log) -> Result<(), TraceError> {
    let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(1 << 16, packed));
    let mut head = Vec::new();
    let begun = decoder.by_ref().take(HEAD).read_to_end(&mut head);
    if begun.is_ok() || !head.is_empty() {
        match check_head(&head, path)? {
            Format::Text => {}
            Format::Gzip => {
                return Err(TraceError::Compressed {
                    path: path.to_owned(),
                    unpack: "gunzip -k",
                });
            }
        }
    }
    let ended = match begun {
        Ok(_) => stream(head.chain(decoder), log),
        Err(error) => {
            log.read_lines(whole_lines(&head));
            Err(error)
        }
    };
    match ended {
        Ok(()) => Ok(()),
        Err(error) if log.counts.framed == 0 => Err(TraceError::Gzip {
            path: path.to_owned(),
            error,
        }),
        Err(_) => {
            log.damaged_end(Reason::Compression);
            Ok(())
        }
    }
}

/// Reads lines a piece at a time, so that only events stay in memory. On an
/// error the whole lines before it are read.
fn stream(mut reader: impl Read, log: &mut Log) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        // A line that is not whole yet stays in the buffer for the next turn;
        // one longer than a piece goes as it is, and counts as damaged.
        let wanted = PIECE.saturating_sub(buffer.len()).max(1) as u64;
        let read = reader.by_ref().take(wanted).read_to_end(&mut buffer);
        let end = match read {
            Ok(0) => {
                log.read_lines(&buffer);
                return Ok(());
            }
            Ok(_) if buffer.len() < PIECE => continue,
            Ok(_) => match whole_lines(&buffer).len() {
                0 => buffer.len(),
                end => end,
            },
            Err(error) => {
                log.read_lines(whole_lines(&buffer));
                return Err(error);
            }
        };
        log.read_lines(&buffer[..end]);
        buffer.drain(..end);
    }
}

/// Up to and with the last newline.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let end = (bytes.iter().rposition(|&b| b == b'\n')).map_or(0, |newline| newline + 1);
    &bytes[..end]
}
