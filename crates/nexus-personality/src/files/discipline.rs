//! A terminal's line discipline (termios(3)): what becomes of what is typed and of what is printed.

use std::collections::VecDeque;

const IGNCR: u32 = 0o200;
const ICRNL: u32 = 0o400;
const INLCR: u32 = 0o100;
const IXON: u32 = 0o2000;
const OPOST: u32 = 1;
const ONLCR: u32 = 4;
const ISIG: u32 = 1;
const ICANON: u32 = 2;
const ECHO: u32 = 8;
const ECHOE: u32 = 0o20;
const ECHOK: u32 = 0o40;
const ECHONL: u32 = 0o100;
const NOFLSH: u32 = 0o200;
const ECHOCTL: u32 = 0o1000;
const ECHOKE: u32 = 0o4000;

const VINTR: usize = 0;
const VQUIT: usize = 1;
const VERASE: usize = 2;
const VKILL: usize = 3;
const VEOF: usize = 4;
const VTIME: usize = 5;
const VMIN: usize = 6;
const VSTART: usize = 8;
const VSTOP: usize = 9;
const VSUSP: usize = 10;
const VEOL: usize = 11;

/// Bytes of a line that is being typed, at most.
const LINE: usize = 4095;
/// Reads that what has been typed takes, at most: beyond it a terminal takes no more.
const MOST_ENDS: usize = 4096;

/// `struct termios` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    pub input: u32,
    pub output: u32,
    pub control: u32,
    pub local: u32,
    pub line: u8,
    pub characters: [u8; 19],
}

/// Its size.
pub const TERMIOS: usize = 36;

impl Default for Termios {
    /// As Linux has a new terminal.
    fn default() -> Self {
        Self {
            input: 0o2400,
            output: 5,
            control: 0o277,
            local: 0o105_073,
            line: 0,
            characters: [
                3, 28, 127, 21, 4, 0, 1, 0, 17, 19, 26, 0, 18, 15, 23, 22, 0, 0, 0,
            ],
        }
    }
}

impl Termios {
    #[must_use]
    pub fn bytes(&self) -> [u8; TERMIOS] {
        let mut bytes = [0; TERMIOS];
        let words = [self.input, self.output, self.control, self.local];
        let values = words.iter().flat_map(|w| w.to_le_bytes());
        let values = values.chain([self.line]).chain(self.characters);
        for (to, from) in bytes.iter_mut().zip(values) {
            *to = from;
        }
        bytes
    }

    #[must_use]
    pub fn parse(bytes: &[u8; TERMIOS]) -> Self {
        let word = |n: usize| {
            let at = bytes.get(n * 4..n * 4 + 4).unwrap_or_default();
            at.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b))
        };
        let mut characters = [0; 19];
        for (to, from) in characters.iter_mut().zip(bytes.iter().skip(17)) {
            *to = *from;
        }
        Self {
            input: word(0),
            output: word(1),
            control: word(2),
            local: word(3),
            line: bytes.get(16).copied().unwrap_or(0),
            characters,
        }
    }

    fn character(&self, index: usize) -> u8 {
        self.characters.get(index).copied().unwrap_or(0)
    }

    fn is(&self, byte: u8, index: usize) -> bool {
        byte != 0 && byte == self.character(index)
    }
}

/// What typed bytes lead to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// Goes to the slave's reader.
    pub to_slave: Vec<u8>,
    /// Goes back to the master's reader.
    pub echo: Vec<u8>,
    /// For the group in the foreground.
    pub signals: Vec<i32>,
}

/// The state of a line.
#[derive(Debug, Default)]
pub struct Discipline {
    pub termios: Termios,
    /// Typed, and not yet ended.
    line: Vec<u8>,
    /// What the slave can read, read by read: bytes, and whether a byte follows that stands for the end of a file.
    ends: VecDeque<(usize, bool)>,
}

impl Discipline {
    fn canonical(&self) -> bool {
        self.termios.local & ICANON != 0
    }

    /// Whether a reader without anything to read waits: the least number of bytes and the time in tenths of a second.
    #[must_use]
    pub fn patience(&self) -> Option<(u8, u8)> {
        (!self.canonical()).then(|| {
            let termios = &self.termios;
            (termios.character(VMIN), termios.character(VTIME))
        })
    }

    /// Change the settings. What has been typed of a line can be read at once where there are no lines any more.
    pub fn set(&mut self, termios: Termios) -> Vec<u8> {
        self.termios = termios;
        if self.canonical() || self.line.is_empty() {
            return Vec::new();
        }
        self.ends.push_back((self.line.len(), false));
        std::mem::take(&mut self.line)
    }

    /// Forget what has been typed and not read. Bytes that the host's queue holds of it.
    pub fn flush(&mut self) -> usize {
        self.line.clear();
        let queued = self.ends.iter().map(|(n, end)| n + usize::from(*end)).sum();
        self.ends.clear();
        queued
    }

    /// What is printed, as it goes out.
    #[must_use]
    pub fn print(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 8);
        for byte in bytes {
            if *byte == b'\n' && self.termios.output & (OPOST | ONLCR) == OPOST | ONLCR {
                out.push(b'\r');
            }
            out.push(*byte);
        }
        out
    }

    /// Whether a byte is shown as two: a control character, after a circumflex.
    fn is_shown(&self, byte: u8) -> bool {
        let control = byte < 32 && byte != b'\n' && byte != b'\t' || byte == 127;
        control && self.termios.local & ECHOCTL != 0
    }

    fn echo(&self, byte: u8, typed: &mut Typed) {
        let local = self.termios.local;
        if local & ECHO == 0 && !(byte == b'\n' && local & ECHONL != 0 && self.canonical()) {
            return;
        }
        if self.is_shown(byte) {
            typed.echo.extend([b'^', byte ^ 64]);
        } else {
            typed.echo.extend(self.print(&[byte]));
        }
    }

    /// Take what is typed.
    pub fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut typed = Typed::default();
        let raw_before = typed.to_slave.len();
        for byte in bytes {
            self.one(*byte, &mut typed);
        }
        if !self.canonical() && typed.to_slave.len() > raw_before {
            self.ends
                .push_back((typed.to_slave.len() - raw_before, false));
        }
        typed
    }

    fn one(&mut self, byte: u8, typed: &mut Typed) {
        let termios = self.termios;
        let byte = match byte {
            b'\r' if termios.input & IGNCR != 0 => return,
            b'\r' if termios.input & ICRNL != 0 => b'\n',
            b'\n' if termios.input & INLCR != 0 => b'\r',
            byte => byte,
        };
        if termios.local & ISIG != 0 {
            let signals = [
                (VINTR, libc::SIGINT),
                (VQUIT, libc::SIGQUIT),
                (VSUSP, libc::SIGTSTP),
            ];
            if let Some((_, signal)) = signals.iter().find(|(index, _)| termios.is(byte, *index)) {
                if termios.local & NOFLSH == 0 {
                    self.line.clear();
                }
                self.echo(byte, typed);
                typed.signals.push(*signal);
                return;
            }
        }
        if termios.input & IXON != 0 && (termios.is(byte, VSTART) || termios.is(byte, VSTOP)) {
            return;
        }
        if !self.canonical() {
            self.echo(byte, typed);
            typed.to_slave.push(byte);
        } else if termios.is(byte, VERASE) {
            if let Some(gone) = self.line.pop()
                && termios.local & (ECHO | ECHOE) == ECHO | ECHOE
            {
                let columns = if self.is_shown(gone) { 2 } else { 1 };
                typed.echo.extend(b"\x08 \x08".repeat(columns));
            }
        } else if termios.is(byte, VKILL) {
            let killed = std::mem::take(&mut self.line);
            if termios.local & (ECHO | ECHOKE) == ECHO | ECHOKE {
                for byte in &killed {
                    let columns = if self.is_shown(*byte) { 2 } else { 1 };
                    typed.echo.extend(b"\x08 \x08".repeat(columns));
                }
            } else if termios.local & (ECHO | ECHOK) == ECHO | ECHOK {
                typed.echo.extend(self.print(b"\n"));
            }
        } else if termios.is(byte, VEOF) {
            self.end(true, typed);
        } else {
            self.echo(byte, typed);
            let ends = byte == b'\n' || termios.is(byte, VEOL);
            if self.line.len() < LINE || ends {
                self.line.push(byte);
            }
            if ends {
                self.end(false, typed);
            }
        }
    }

    fn end(&mut self, of_file: bool, typed: &mut Typed) {
        self.ends.push_back((self.line.len(), of_file));
        typed.to_slave.append(&mut self.line);
        if of_file {
            typed.to_slave.push(0);
        }
    }

    /// Whether more can be typed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.ends.len() < MOST_ENDS
    }

    /// How many bytes a read of at most `count` gets, and whether one follows them that is to be thrown away.
    pub fn next(&mut self, count: usize) -> Option<(usize, bool)> {
        let mut got = 0;
        loop {
            let Some((length, of_file)) = self.ends.front_mut() else {
                return (got > 0).then_some((got, false));
            };
            let part = (*length).min(count - got);
            *length -= part;
            got += part;
            if *length > 0 {
                return Some((got, false));
            }
            let of_file = *of_file;
            self.ends.pop_front();
            if of_file || self.canonical() || got == count {
                return Some((got, of_file));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_edited_echoed_and_read_one_by_one() {
        let mut d = Discipline::default();
        let typed = d.typed(b"ax\x7fb\rcd\n\x04e");
        assert_eq!(typed.to_slave, b"ab\ncd\n\0");
        assert_eq!(typed.echo, b"ax\x08 \x08b\r\ncd\r\ne");
        assert_eq!(d.next(100), Some((3, false)));
        assert_eq!(d.next(2), Some((2, false)));
        assert_eq!(d.next(2), Some((1, false)));
        assert_eq!(d.next(2), Some((0, true)), "the end of a file");
        assert_eq!(d.next(2), None);
    }

    #[test]
    fn without_lines_everything_is_passed_on() {
        let mut d = Discipline::default();
        d.typed(b"half");
        let mut raw = d.termios;
        (raw.input, raw.output, raw.local) = (0, 0, 0);
        assert_eq!(d.set(raw), b"half");
        assert_eq!(d.typed(b"\x03\x04\r").to_slave, b"\x03\x04\r");
        assert_eq!(d.next(100), Some((7, false)));
        assert_eq!(d.print(b"\n"), b"\n");
        assert_eq!(d.patience(), Some((1, 0)));
    }

    #[test]
    fn control_characters_are_signals() {
        let typed = Discipline::default().typed(b"lost\x03");
        assert_eq!(typed.signals, [libc::SIGINT]);
        assert_eq!((typed.to_slave, typed.echo), (vec![], b"lost^C".to_vec()));
    }

    #[test]
    fn settings_survive_their_bytes() {
        let termios = Termios::default();
        assert_eq!(Termios::parse(&termios.bytes()), termios);
    }
}
