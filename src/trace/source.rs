//! From a file to lines: which format it is, and how its bytes are reached.

use std::{
    fs::File,
    io::{Read, Seek},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use memmap2::Mmap;

use super::{
    damage::{Reason, TraceError},
    parse::Log,
};

/// Bytes looked at to tell the format.
const HEAD: usize = 4096;
/// From here on a file is mapped instead of read.
const MAP_FROM: u64 = 1 << 20;
/// Bytes unpacked at a time.
const UNPACK: usize = 4 << 20;

/// How a trace was stored; for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Gzip,
}

/// Reads every line of the file at `path`.
pub(super) fn read_file(path: &Path) -> Result<(Log, Format), TraceError> {
    let io = |error| TraceError::Io {
        path: path.to_owned(),
        error,
    };
    let mut file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(TraceError::Directory(path.to_owned()));
    }
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
        file.rewind().map_err(io)?;
    }
    // Files of tracefs and procfs report a size of 0 and have content.
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    read_bytes(&bytes, path)
}

/// Reads every line of a file's content; `path` is for messages.
pub(super) fn read_bytes(bytes: &[u8], path: &Path) -> Result<(Log, Format), TraceError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok((unpack(bytes, path)?, Format::Gzip));
    }
    check_head(bytes, path)?;
    let mut log = Log::default();
    log.read_lines(bytes);
    Ok((log, Format::Text))
}

fn check_head(bytes: &[u8], path: &Path) -> Result<(), TraceError> {
    let path = || path.to_owned();
    let compressed = |unpack| TraceError::Compressed {
        path: path(),
        unpack,
    };
    match bytes {
        [] => return Err(TraceError::Empty(path())),
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
    if bytes[..bytes.len().min(HEAD)].contains(&0) {
        return Err(TraceError::Binary(path()));
    }
    Ok(())
}

fn unpack(bytes: &[u8], path: &Path) -> Result<Log, TraceError> {
    let mut decoder = MultiGzDecoder::new(bytes);
    let mut log = Log::default();
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        let before = buffer.len();
        let wanted = (UNPACK - before.min(UNPACK / 2)) as u64;
        let read = decoder.by_ref().take(wanted).read_to_end(&mut buffer);
        if first && !buffer.is_empty() {
            check_head(&buffer, path)?;
            first = false;
        }
        match read {
            Ok(0) => break,
            Ok(_) => {
                // Keep the line that is not whole yet for the next turn; one
                // longer than the buffer goes as it is, and counts as damaged.
                let end = match buffer.iter().rposition(|&b| b == b'\n') {
                    Some(newline) => newline + 1,
                    None if buffer.len() >= UNPACK => buffer.len(),
                    None => continue,
                };
                log.read_lines(&buffer[..end]);
                buffer.drain(..end);
            }
            Err(error) => {
                // The last piece is most likely half a line: leave it out.
                let end = buffer
                    .iter()
                    .rposition(|&b| b == b'\n')
                    .map_or(0, |n| n + 1);
                log.read_lines(&buffer[..end]);
                if log.counts.framed == 0 {
                    return Err(TraceError::Gzip {
                        path: path.to_owned(),
                        error,
                    });
                }
                log.damaged_end(Reason::Compression);
                return Ok(log);
            }
        }
    }
    if first {
        return Err(TraceError::Empty(path.to_owned()));
    }
    log.read_lines(&buffer);
    Ok(log)
}
