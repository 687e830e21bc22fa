//! AWS Signature Version 4, for requests whose every header is known here.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use crate::credentials::Credentials;
use crate::http::url::encode;
use crate::raw::RawSlice;
use ring::{digest, hmac};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// SHA-256 of nothing, in hexadecimal.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
pub const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Headers that proxies and SDKs change, which are left out of signatures.
const UNSIGNED_HEADERS: [&str; 6] = [
    "user-agent",
    "x-amzn-trace-id",
    "authorization",
    "accept-encoding",
    "amz-sdk-invocation-id",
    "amz-sdk-request",
];
/// Signing keys kept of one secret: one for each region and service in use.
const MAX_KEYS: usize = 64;

/// What a signature covers besides the headers.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub region: &'a str,
    pub service: &'a str,
    /// As in X-Amz-Date: `20150830T123600Z`.
    pub time: &'a str,
}

impl Scope<'_> {
    fn day(&self) -> &str {
        self.time.get(..8).unwrap_or_default()
    }

    fn range(&self) -> String {
        [
            self.day(),
            "/",
            self.region,
            "/",
            self.service,
            "/aws4_request",
        ]
        .concat()
    }

    /// Key id and scope, as signatures name them.
    pub fn credential(&self, credentials: &Credentials) -> String {
        [&credentials.access_key_id, "/", &self.range()].concat()
    }
}

/// The parts of a request that are signed.
#[derive(Clone, Copy, Debug)]
pub struct Signable<'a> {
    pub method: &'a str,
    /// Encoded once.
    pub path: &'a str,
    /// Encoded, without the question mark.
    pub query: &'a str,
    /// Host among them.
    pub headers: &'a [(String, String)],
    pub payload_hash: &'a str,
}

/// The signing keys that were derived from one secret. They live with it.
#[derive(Default)]
pub struct Keys(Mutex<Vec<DayKey>>);

struct DayKey {
    day: String,
    region: String,
    service: String,
    key: hmac::Key,
}

impl Keys {
    fn get(&self, secret: &str, scope: Scope<'_>) -> hmac::Key {
        let day = scope.day();
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.iter().find(|known| {
            known.day == day && known.region == scope.region && known.service == scope.service
        });
        if let Some(known) = known {
            return known.key.clone();
        }
        let first = Zeroizing::new(format!("AWS4{secret}"));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [day, scope.region, scope.service, "aws4_request"] {
            key = hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&key, part.as_bytes()).as_ref(),
            );
        }
        keys.retain(|known| known.day == day);
        if keys.len() >= MAX_KEYS {
            keys.clear();
        }
        keys.push(DayKey {
            day: day.to_owned(),
            region: scope.region.to_owned(),
            service: scope.service.to_owned(),
            key: key.clone(),
        });
        key
    }
}

/// Value of the Authorization header.
pub fn sign(credentials: &Credentials, scope: Scope<'_>, what: &Signable<'_>) -> String {
    let (canonical, signed) = canonical_request(scope.service, what);
    let signature = of_request(credentials, scope, &canonical);
    let credential = scope.credential(credentials);
    [
        ALGORITHM,
        " Credential=",
        &credential,
        ", SignedHeaders=",
        &signed,
        ", Signature=",
        &signature,
    ]
    .concat()
}

/// The query of a URL that is signed itself, for `expires_s` seconds: the given one, then the signature's.
pub fn presign(
    credentials: &Credentials,
    scope: Scope<'_>,
    what: &Signable<'_>,
    expires_s: u64,
) -> String {
    let (_, signed) = canonical_request(scope.service, what);
    let mut query = what.query.to_owned();
    let mut add = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        let _ = write!(query, "{name}=");
        encode(value, false, &mut query);
    };
    add("X-Amz-Algorithm", ALGORITHM);
    add("X-Amz-Credential", &scope.credential(credentials));
    add("X-Amz-Date", scope.time);
    add("X-Amz-Expires", &expires_s.to_string());
    add("X-Amz-SignedHeaders", &signed);
    if let Some(token) = credentials.session_token() {
        add("X-Amz-Security-Token", token);
    }
    let whole = Signable {
        query: &query,
        ..*what
    };
    let (canonical, _) = canonical_request(scope.service, &whole);
    let signature = of_request(credentials, scope, &canonical);
    format!("{query}&X-Amz-Signature={signature}")
}

/// Signature of a text as it is, such as a POST policy.
pub fn of_text(credentials: &Credentials, scope: Scope<'_>, text: &str) -> String {
    let key = credentials.keys().get(credentials.secret(), scope);
    hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

fn of_request(credentials: &Credentials, scope: Scope<'_>, canonical: &str) -> String {
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = [
        ALGORITHM,
        "\n",
        scope.time,
        "\n",
        &scope.range(),
        "\n",
        &hash,
    ]
    .concat();
    of_text(credentials, scope, &text)
}

/// The canonical request, and the names of the signed headers.
fn canonical_request(service: &str, what: &Signable<'_>) -> (String, String) {
    let mut out = String::with_capacity(512);
    out.push_str(what.method);
    out.push('\n');
    if service.starts_with("s3") {
        out.push_str(what.path);
    } else {
        // Other services normalise the path, and encode it once more.
        encode(&normalised(what.path), true, &mut out);
    }
    out.push('\n');
    let mut query: Vec<(&str, &str)> = what
        .query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .collect();
    query.sort_unstable();
    for (index, (name, value)) in query.iter().enumerate() {
        let comma = if index == 0 { "" } else { "&" };
        let _ = write!(out, "{comma}{name}={value}");
    }
    out.push('\n');
    // Names in the case that they came in.
    let mut headers: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(what.headers.len());
    for (name, value) in what.headers {
        if UNSIGNED_HEADERS
            .iter()
            .any(|n| n.eq_ignore_ascii_case(name))
        {
            continue;
        }
        let value = trimmed(value);
        let known = |(known, _): &&mut (&str, Cow<'_, str>)| known.eq_ignore_ascii_case(name);
        match headers.iter_mut().find(known) {
            Some((_, values)) => {
                let values = values.to_mut();
                values.push(',');
                values.push_str(&value);
            }
            None => headers.push((name, value)),
        }
    }
    fn lower(name: &str) -> impl Iterator<Item = u8> {
        name.bytes().map(|byte| byte.to_ascii_lowercase())
    }
    headers.sort_unstable_by(|(a, _), (b, _)| lower(a).cmp(lower(b)));
    let mut names = String::with_capacity(128);
    for (name, value) in &headers {
        if !names.is_empty() {
            names.push(';');
        }
        let start = names.len();
        names.push_str(name);
        let lowered = names.get_mut(start..).unwrap_or_default();
        lowered.make_ascii_lowercase();
        for part in [lowered, ":", value, "\n"] {
            out.push_str(part);
        }
    }
    for part in ["\n", &names, "\n", what.payload_hash] {
        out.push_str(part);
    }
    (out, names)
}

/// A header's value without white space at its ends, and with one space for each stretch of it within.
fn trimmed(value: &str) -> Cow<'_, str> {
    let value = value.trim_ascii();
    let mut before = b'-';
    let is_single = value.bytes().all(|byte| {
        let single = !byte.is_ascii_whitespace() || (byte == b' ' && before != b' ');
        before = byte;
        single
    });
    if is_single {
        return Cow::Borrowed(value);
    }
    Cow::Owned(value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// RFC 3986, section 5.2.4, and without empty segments.
fn normalised(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let slash = path.ends_with('/') && !segments.is_empty();
    format!("/{}{}", segments.join("/"), if slash { "/" } else { "" })
}

pub fn hex(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(2 * bytes.len());
    for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        out.push(HEX.get(usize::from(nibble)).map_or('0', |b| char::from(*b)));
    }
    out
}

/// SHA-256 of a payload, in hexadecimal.
pub fn payload_hash(bytes: &RawSlice) -> String {
    if bytes.is_empty() {
        return EMPTY_SHA256.to_owned();
    }
    let mut hash = PayloadHash::default();
    bytes.for_each_copy(|piece| hash.update(piece));
    hash.finish()
}

/// The same in the making.
pub struct PayloadHash(digest::Context);

impl Default for PayloadHash {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl PayloadHash {
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// Unix seconds as in X-Amz-Date.
pub fn amz_date(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Unix seconds as in a POST policy (ISO 8601).
pub fn iso_date(seconds: u64) -> String {
    let [year, month, day, hour, minute, second] = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month, day, hour, minute and second in UTC.
fn civil(seconds: u64) -> [u64; 6] {
    // Days since 1970-03-01 shifted to eras of 400 years (Howard Hinnant, "chrono-compatible low-level date
    // algorithms").
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, rest / 3600, rest / 60 % 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// AWS's published test suite: key id AKIDEXAMPLE, service "service", us-east-1.
    fn suite(method: &str, path: &str, query: &str, list: &[(&str, &str)], hash: &str) -> String {
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIDEXAMPLE", secret, None);
        let scope = Scope {
            region: "us-east-1",
            service: "service",
            time: "20150830T123600Z",
        };
        let mut list = list.to_vec();
        list.push(("Host", "example.amazonaws.com"));
        list.push(("X-Amz-Date", "20150830T123600Z"));
        let what = Signable {
            method,
            path,
            query,
            headers: &headers(&list),
            payload_hash: hash,
        };
        sign(&credentials, scope, &what)
    }

    #[test]
    fn aws_test_suite() {
        type Case = (
            &'static str,
            &'static str,
            &'static str,
            &'static [(&'static str, &'static str)],
            &'static str,
        );
        let cases: &[Case] = &[
            (
                "GET",
                "/",
                "",
                &[],
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "GET",
                "/",
                "Param2=value2&Param1=value1",
                &[],
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "POST",
                "/",
                "",
                &[],
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "POST",
                "/",
                "",
                &[("My-Header1", "value1")],
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
            (
                "GET",
                "/./example/..",
                "",
                &[],
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
        ];
        for (method, path, query, list, signature) in cases {
            let got = suite(method, path, query, list, EMPTY_SHA256);
            assert!(
                got.ends_with(&format!("Signature={signature}")),
                "{method} {path}: {got}"
            );
            assert!(got.contains("Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"));
        }
    }

    #[test]
    fn keys_are_one_secret_s_and_one_day_s() {
        let list = headers(&[("Host", "h")]);
        let what = Signable {
            method: "GET",
            path: "/",
            query: "",
            headers: &list,
            payload_hash: EMPTY_SHA256,
        };
        let scope = |time, region, service| Scope {
            region,
            service,
            time,
        };
        let first = scope("20150830T123600Z", "us-east-1", "s3");
        let scopes = [
            first,
            scope("20150831T123600Z", "us-east-1", "s3"),
            scope("20150830T123600Z", "eu-west-1", "s3"),
            scope("20150830T123600Z", "us-east-1", "sqs"),
            first,
        ];
        let kept = Credentials::new("K", "one", None);
        for scope in scopes {
            let fresh = Credentials::new("K", "one", None);
            let other = Credentials::new("K", "another", None);
            let got = sign(&kept, scope, &what);
            assert_eq!(got, sign(&fresh, scope, &what));
            assert_ne!(got, sign(&other, scope, &what));
        }
    }

    #[test]
    fn white_space_of_values_is_trimmed() {
        for (value, wanted) in [
            ("", ""),
            ("a b", "a b"),
            (" a ", "a"),
            ("a  b", "a b"),
            ("a\tb", "a b"),
            (" \t ", ""),
            ("\u{e9}  b", "\u{e9} b"),
        ] {
            assert_eq!(trimmed(value), wanted);
        }
        assert!(matches!(trimmed(" a b"), Cow::Borrowed("a b")));
    }

    /// The examples of "Signature calculations for the Authorization header" in S3's API reference.
    #[test]
    fn s3_examples() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None);
        let scope = Scope {
            region: "us-east-1",
            service: "s3",
            time: "20130524T000000Z",
        };
        let sign = |method, path, query, hash: &str, list: &[(&str, &str)]| {
            let mut list = list.to_vec();
            list.extend([
                ("Host", "examplebucket.s3.amazonaws.com"),
                ("x-amz-content-sha256", hash),
                ("x-amz-date", "20130524T000000Z"),
            ]);
            let what = Signable {
                method,
                path,
                query,
                headers: &headers(&list),
                payload_hash: hash,
            };
            super::sign(&credentials, scope, &what)
        };
        let got = sign(
            "GET",
            "/test.txt",
            "",
            EMPTY_SHA256,
            &[("Range", "bytes=0-9")],
        );
        assert!(got.ends_with("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"));
        let hash = payload_hash(&RawSlice::from_vec(b"Welcome to Amazon S3.".to_vec()));
        let put = [
            ("Date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let got = sign("PUT", "/test%24file.text", "", &hash, &put);
        assert!(got.ends_with("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
        let got = sign("GET", "/", "lifecycle", EMPTY_SHA256, &[]);
        assert!(got.ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
        let got = sign("GET", "/", "max-keys=2&prefix=J", EMPTY_SHA256, &[]);
        assert!(got.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
    }

    /// The example of "Authenticating requests: using query parameters" in S3's API reference.
    #[test]
    fn a_presigned_url() {
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None);
        let scope = Scope {
            region: "us-east-1",
            service: "s3",
            time: "20130524T000000Z",
        };
        let what = Signable {
            method: "GET",
            path: "/test.txt",
            query: "",
            headers: &headers(&[("host", "examplebucket.s3.amazonaws.com")]),
            payload_hash: UNSIGNED,
        };
        let query = presign(&credentials, scope, &what, 86_400);
        assert_eq!(
            query,
            "X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(amz_date(seconds), text);
        }
    }
}
