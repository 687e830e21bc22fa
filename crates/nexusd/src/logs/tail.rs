//! The last 4 KiB of one invocation's log.

/// As much as Lambda returns in X-Amz-Log-Result.
const LIMIT: usize = 4096;

#[derive(Debug, Default)]
pub struct Tail(Vec<u8>);

impl Tail {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = bytes
            .get(bytes.len().saturating_sub(LIMIT)..)
            .unwrap_or_default();
        let keep = LIMIT.saturating_sub(bytes.len());
        let drop = self.0.len().saturating_sub(keep);
        self.0.drain(..drop);
        self.0.extend_from_slice(bytes);
    }

    /// A line of the node's own, at the start of a line.
    pub fn push_line(&mut self, text: &str) {
        if self.0.last().is_some_and(|b| *b != b'\n') {
            self.push(b"\n");
        }
        self.push(text.as_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_the_end() {
        let mut tail = Tail::default();
        for n in 0..10_000_u32 {
            tail.push(format!("{n}\n").as_bytes());
        }
        assert!(tail.bytes().len() == LIMIT && tail.bytes().ends_with(b"9998\n9999\n"));
        tail.push(&[b'x'; 10_000]);
        assert_eq!(tail.bytes(), [b'x'; LIMIT]);
        tail.push_line("END\n");
        assert!(tail.bytes().ends_with(b"x\nEND\n") && tail.bytes().len() == LIMIT);
    }
}
