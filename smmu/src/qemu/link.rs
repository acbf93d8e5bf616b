//! The qtest connection: registers of the emulated machine, from outside.

use alloc::{borrow::ToOwned, collections::VecDeque, string::String, sync::Arc, vec::Vec};
use core::{fmt::Write as _, time::Duration};
use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

use dmabench_platform::sync::Mutex;

use super::{QemuError, process::Process};

/// Commands that are under way at once. Their answers must fit into the socket's
/// buffer: else both sides would wait for the other to read.
const WINDOW: usize = 256;

/// Register accesses to be made in one go, in order.
///
/// Offsets are physical addresses of the emulated machine. QEMU refuses nothing:
/// a read of an address that nothing answers is 0.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    lines: Vec<String>,
}

impl Batch {
    /// No access.
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, command: &str, address: u64, value: Option<u64>) -> &mut Self {
        let mut line = String::with_capacity(48);
        // Writing to a string does not fail.
        let _ok = match value {
            None => writeln!(line, "{command} {address:#x}"),
            Some(value) => writeln!(line, "{command} {address:#x} {value:#x}"),
        };
        self.lines.push(line);
        self
    }

    /// Reads 32 bits.
    pub fn read32(&mut self, address: u64) -> &mut Self {
        self.add("readl", address, None)
    }

    /// Writes 8 bits.
    pub fn write8(&mut self, address: u64, value: u8) -> &mut Self {
        self.add("writeb", address, Some(value.into()))
    }

    /// Writes 16 bits.
    pub fn write16(&mut self, address: u64, value: u16) -> &mut Self {
        self.add("writew", address, Some(value.into()))
    }

    /// Writes 32 bits.
    pub fn write32(&mut self, address: u64, value: u32) -> &mut Self {
        self.add("writel", address, Some(value.into()))
    }

    /// Writes 64 bits.
    pub fn write64(&mut self, address: u64, value: u64) -> &mut Self {
        self.add("writeq", address, Some(value))
    }
}

/// The machine's registers. Cheap to clone; clones take turns on one connection,
/// each [`run`](Self::run) undivided.
///
/// # Errors
///
/// Of every method: the [`QemuError`] that ended the connection, then and ever
/// after. QEMU is dead when it is returned, so nothing emulated reaches the
/// machine's RAM any more.
#[derive(Clone, Debug)]
pub struct Qtest {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    state: Mutex<State>,
    process: Arc<Process>,
    timeout: Duration,
}

#[derive(Debug)]
struct State {
    stream: UnixStream,
    /// Bytes that were received and belong to no line yet.
    input: VecDeque<u8>,
    broken: Option<QemuError>,
    /// For one answer, whatever else comes before it.
    timeout: Duration,
}

impl Qtest {
    pub(super) fn new(
        stream: UnixStream,
        process: Arc<Process>,
        timeout: Duration,
    ) -> Result<Self, QemuError> {
        let failed = |error: io::Error| QemuError::host("a time limit", &error);
        stream.set_read_timeout(Some(timeout)).map_err(failed)?;
        stream.set_write_timeout(Some(timeout)).map_err(failed)?;
        Ok(Qtest {
            link: Arc::new(Link {
                state: Mutex::new(State {
                    stream,
                    input: VecDeque::new(),
                    broken: None,
                    timeout,
                }),
                process,
                timeout,
            }),
        })
    }

    /// Makes the accesses of `batch`, one after the other. The answer has an
    /// element for each: what was read, 0 for a write.
    pub fn run(&self, batch: &Batch) -> Result<Vec<u64>, QemuError> {
        let mut answers = Vec::with_capacity(batch.lines.len());
        let state = &mut *self.link.state.lock();
        if let Some(error) = &state.broken {
            return Err(error.clone());
        }
        for lines in batch.lines.chunks(WINDOW) {
            if let Err(failed) = state.exchange(lines, &mut answers) {
                return Err(self.link.break_off(state, failed));
            }
        }
        Ok(answers)
    }

    /// Reads 32 bits.
    pub fn read32(&self, address: u64) -> Result<u32, QemuError> {
        let answers = self.run(Batch::new().read32(address))?;
        Ok(answers.last().map_or(0, |value| *value as u32))
    }

    /// Writes 32 bits.
    pub fn write32(&self, address: u64, value: u32) -> Result<(), QemuError> {
        self.run(Batch::new().write32(address, value)).map(|_| ())
    }

    /// Writes 64 bits.
    pub fn write64(&self, address: u64, value: u64) -> Result<(), QemuError> {
        self.run(Batch::new().write64(address, value)).map(|_| ())
    }

    /// What ended the connection, if anything has.
    pub fn broken(&self) -> Option<QemuError> {
        self.link.state.lock().broken.clone()
    }
}

/// What ends a connection.
enum Failed {
    Closed,
    Late,
    Nonsense(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failed::Late,
            _ => Failed::Closed,
        }
    }
}

impl Link {
    fn break_off(&self, state: &mut State, failed: Failed) -> QemuError {
        let error = match failed {
            Failed::Closed => self.process.died(),
            Failed::Late => QemuError::Hung {
                after: self.timeout,
            },
            Failed::Nonsense(line) => QemuError::Protocol { line },
        };
        self.process.kill();
        state.broken = Some(error.clone());
        error
    }
}

impl State {
    fn exchange(&mut self, lines: &[String], answers: &mut Vec<u64>) -> Result<(), Failed> {
        self.stream.write_all(lines.concat().as_bytes())?;
        for _ in lines {
            answers.push(self.answer()?);
        }
        Ok(())
    }

    fn answer(&mut self) -> Result<u64, Failed> {
        let begun = Instant::now();
        loop {
            let line = self.line(begun)?;
            // Interrupt lines that change announce themselves between answers.
            if line.starts_with("IRQ ") {
                continue;
            }
            return parse(&line).ok_or(Failed::Nonsense(line));
        }
    }

    /// The next line without its end, for an answer that is waited for since
    /// `begun`.
    fn line(&mut self, begun: Instant) -> Result<String, Failed> {
        let mut searched = 0;
        loop {
            // The stream's own limit is for each read, and begins anew with each
            // byte that comes.
            if begun.elapsed() > self.timeout {
                return Err(Failed::Late);
            }
            if let Some(at) = self.input.iter().skip(searched).position(|b| *b == b'\n') {
                let bytes: Vec<u8> = self.input.drain(..=searched + at).collect();
                let text = String::from_utf8_lossy(&bytes[..bytes.len() - 1]);
                return Ok(text.trim_end().to_owned());
            }
            searched = self.input.len();
            // No line is nearly as long.
            if searched > 1 << 16 {
                return Err(Failed::Nonsense("a line without an end".to_owned()));
            }
            let mut more = [0; 8192];
            match self.stream.read(&mut more) {
                Ok(0) => return Err(Failed::Closed),
                Ok(n) => self.input.extend(&more[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// "OK", or "OK 0x" and a number.
fn parse(line: &str) -> Option<u64> {
    match line.strip_prefix("OK")? {
        "" => Some(0),
        rest => u64::from_str_radix(rest.strip_prefix(" 0x")?, 16).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (State, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let wait = Some(Duration::from_millis(50));
        ours.set_read_timeout(wait).unwrap();
        let state = State {
            stream: ours,
            input: VecDeque::new(),
            broken: None,
            timeout: Duration::from_millis(200),
        };
        (state, theirs)
    }

    #[test]
    fn answers_are_matched_in_order_across_reads_and_interrupt_lines() {
        let (mut state, mut peer) = state();
        peer.write_all(b"OK 0x00000010\nIRQ raise 74\nOK\nOK 0x7fff")
            .unwrap();
        let batch = Batch::new().read32(8).write8(9, 1).read32(10).clone();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            peer.write_all(b"ffff\r\n").unwrap();
            peer
        });
        let mut answers = Vec::new();
        assert!(state.exchange(&batch.lines, &mut answers).is_ok());
        assert_eq!(answers, [16, 0, 0x7fff_ffff]);
        let mut sent = [0; 64];
        let n = late.join().unwrap().read(&mut sent).unwrap();
        assert_eq!(&sent[..n], b"readl 0x8\nwriteb 0x9 0x1\nreadl 0xa\n");
    }

    /// A peer that always has something to say, and never the answer.
    #[test]
    fn a_wait_for_an_answer_ends_among_interrupt_lines() {
        let (mut state, mut peer) = state();
        let talker = std::thread::spawn(move || {
            // Ends when the reader is gone, or late enough to show.
            for _ in 0..600 {
                if peer.write_all(b"IRQ raise 1\nIRQ lower 1\n").is_err() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        });
        assert!(matches!(state.answer(), Err(Failed::Late)));
        drop(state);
        assert!(talker.join().unwrap(), "it went on for seconds");
    }

    #[test]
    fn silence_an_end_and_nonsense_are_told_apart() {
        let (mut waiting, peer) = state();
        assert!(matches!(waiting.answer(), Err(Failed::Late)));
        drop(peer);
        assert!(matches!(waiting.answer(), Err(Failed::Closed)));
        for wrong in [
            "FAIL Unknown command 'x'\n",
            "OK 12\n",
            "OKAY\n",
            "\n",
            "OK 0xg\n",
        ] {
            let (mut state, mut peer) = state();
            peer.write_all(wrong.as_bytes()).unwrap();
            assert!(
                matches!(state.answer(), Err(Failed::Nonsense(_))),
                "{wrong:?}"
            );
        }
        let (mut endless, mut peer) = state();
        let writer = std::thread::spawn(move || peer.write_all(&[b'x'; 100_000]));
        assert!(matches!(endless.answer(), Err(Failed::Nonsense(_))));
        drop(endless);
        let _either = writer.join().unwrap();
    }
}
