//! The few fields of a certificate that verdicts need beyond what rustls says (RFC 5280, 4.1). Hostile input.

/// Issuer and subject as they are encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Names<'a> {
    pub issuer: &'a [u8],
    pub subject: &'a [u8],
    /// UTCTime or GeneralizedTime digits, as YYYYMMDDHHMMSS.
    pub not_before: String,
    pub not_after: String,
}

/// `None` where the bytes are no certificate.
pub fn names(certificate: &[u8]) -> Option<Names<'_>> {
    let (_, body, _) = element(certificate)?;
    let (_, mut rest, _) = element(body)?;
    if rest.first() == Some(&0xa0) {
        rest = element(rest)?.2; // version
    }
    rest = element(rest)?.2; // serial number
    rest = element(rest)?.2; // signature algorithm
    let (_, issuer, rest) = element(rest)?;
    let (_, validity, rest) = element(rest)?;
    let (_, subject, _) = element(rest)?;
    let (kind, not_before, others) = element(validity)?;
    let not_before = time(kind, not_before)?;
    let (kind, not_after, _) = element(others)?;
    Some(Names {
        issuer,
        subject,
        not_before,
        not_after: time(kind, not_after)?,
    })
}

/// Split concatenated DER documents.
pub fn documents(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (_, _, rest) = element(bytes)?;
        found.push(bytes.get(..bytes.len() - rest.len())?);
        bytes = rest;
    }
    Some(found)
}

/// Tag, content, and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = match bytes {
        [tag, length, rest @ ..] => (*tag, usize::from(*length), rest),
        _ => return None,
    };
    let (length, rest) = match length {
        0..=127 => (length, rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(length - 0x80)?;
            let length = digits.iter().fold(0, |sum, d| sum << 8 | usize::from(*d));
            (length, rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(kind: u8, digits: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(digits).ok()?.strip_suffix('Z')?;
    match (kind, text.len()) {
        (0x17, 12) => {
            let century = if text < "50" { "20" } else { "19" };
            Some(format!("{century}{text}"))
        }
        (0x18, 14) => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate() {
        for bytes in [
            &b""[..],
            &[0x30],
            &[0x30, 0x82, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 2, 0x30, 0],
        ] {
            assert!(names(bytes).is_none());
        }
        assert_eq!(documents(&[0x30, 1, 7, 0x30, 0]).map(|d| d.len()), Some(2));
        assert!(documents(&[0x30, 9, 7]).is_none());
    }

    #[test]
    fn times() {
        assert_eq!(
            time(0x17, b"491231235959Z").as_deref(),
            Some("20491231235959")
        );
        assert_eq!(
            time(0x17, b"500101000000Z").as_deref(),
            Some("19500101000000")
        );
        assert_eq!(
            time(0x18, b"20500101000000Z").as_deref(),
            Some("20500101000000")
        );
        assert!(time(0x17, b"5001010000Z").is_none());
    }
}
