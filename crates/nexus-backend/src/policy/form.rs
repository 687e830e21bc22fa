//! What a form for S3's POST may upload, and where: its conditions say it, and they are signed.

use super::aws::Place;
use super::document::Access;
use super::{Denied, Policy, aws_labels};
use crate::http::url::Url;
use serde_json::Value;

/// One condition on a field.
#[derive(Debug, PartialEq, Eq)]
struct Condition<'a> {
    /// It must be the value; else it must begin with it.
    exact: bool,
    field: &'a str,
    value: &'a str,
}

impl Policy<'_> {
    /// Whether a form with these conditions, for the bucket at `url`, may be signed. S3 takes a form to whatever bucket its
    /// conditions allow, so they have to name this one.
    ///
    /// # Errors
    /// The function's policy does not allow it, or the conditions allow more than can be told.
    pub fn form(&self, url: &Url, conditions: &[Value]) -> Result<(), Denied> {
        let denied = |what: &str| Err(Denied(format!("this form is not signed: {what}")));
        let place = Place::of(url);
        let (Some(bucket), None) = (&place.bucket, &place.key) else {
            return denied("its URL is not that of a bucket");
        };
        let mut fields = Vec::new();
        for condition in conditions {
            match parse(condition) {
                Ok(field) => fields.extend(field),
                Err(()) => return denied("one of its conditions is none that S3 has"),
            }
        }
        let of = |name: &'static str| fields.iter().filter(move |one| one.field == name);
        let mut buckets = of("bucket");
        match (buckets.next(), buckets.next()) {
            (Some(one), None) if one.exact && one.value == bucket => {}
            _ => {
                return denied(
                    "exactly one condition must be for the bucket, and name that of its URL",
                );
            }
        }
        self.rules.service("s3", &["PutObject"])?;
        if self.rules.has_buckets() && aws_labels(&url.authority.host).is_some() && !place.certain {
            return denied("its host does not tell which bucket it is for");
        }
        let mut keys: Vec<&str> = of("key").map(|one| one.value).collect();
        if keys.is_empty() {
            keys.push("");
        }
        // All of them hold for the upload; each of them is judged.
        keys.iter()
            .try_for_each(|key| self.rules.bucket(bucket, Some(key), Access::Write))
    }
}

/// What a condition says of a field; nothing where it is about the content's length.
fn parse(condition: &Value) -> Result<Option<Condition<'_>>, ()> {
    let (exact, name, value) = match condition {
        Value::Object(pairs) => {
            let mut pairs = pairs.iter();
            match (pairs.next(), pairs.next()) {
                (Some((name, value)), None) => (true, name.as_str(), value),
                _ => return Err(()),
            }
        }
        Value::Array(parts) => {
            let [Value::String(how), name, value] = parts.as_slice() else {
                return Err(());
            };
            let exact = match how.to_ascii_lowercase().as_str() {
                "content-length-range" => return Ok(None),
                "eq" => true,
                "starts-with" => false,
                _ => return Err(()),
            };
            let name = name.as_str().and_then(|name| name.strip_prefix('$'));
            (exact, name.ok_or(())?, value)
        }
        _ => return Err(()),
    };
    // In another case some would take it for the field, and some would not.
    let is_odd = ["bucket", "key"]
        .iter()
        .any(|field| name.eq_ignore_ascii_case(field) && name != *field);
    if is_odd {
        return Err(());
    }
    Ok(Some(Condition {
        exact,
        field: name,
        value: value.as_str().ok_or(())?,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Endpoints, Rules};
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    const STORE: &str = "http://127.0.0.1:9101/allowed";

    fn may(document: &str, url: &str, conditions: &Value) -> bool {
        let endpoints = [("s3".to_owned(), "http://127.0.0.1:9101".to_owned())].into();
        let endpoints = Arc::new(Endpoints::new(&endpoints).unwrap());
        let rules = Arc::new(Rules::new("f", &serde_json::from_str(document).unwrap()).unwrap());
        let policy = Policy::new(&endpoints, &rules);
        policy
            .form(&Url::parse(url).unwrap(), conditions.as_array().unwrap())
            .is_ok()
    }

    #[test]
    fn a_form_is_for_one_bucket() {
        let bucket = json!({"bucket": "allowed"});
        for good in [
            json!([bucket, {"key": "k"}]),
            json!([["eq", "$bucket", "allowed"], ["starts-with", "$key", ""]]),
            json!([["content-length-range", 1, 10], {"acl": "private"}, bucket]),
        ] {
            assert!(may("{}", STORE, &good), "{good}");
        }
        for bad in [
            json!([]),
            json!([{"key": "k"}]),
            json!([{"bucket": "denied"}]),
            json!([{"Bucket": "denied"}]),
            json!([bucket, {"bucket": "denied"}]),
            json!([bucket, {"Bucket": "allowed"}]),
            json!([["starts-with", "$bucket", "allowed"]]),
            json!([["starts-with", "$bucket", ""], bucket]),
            json!([{"bucket": "allowed", "key": "k"}]),
            json!([bucket, ["ends-with", "$key", "k"]]),
            json!([bucket, ["eq", "$key", "k", "l"]]),
            json!([bucket, ["eq", "key", "k"]]),
            json!([bucket, {"key": 7}]),
            json!([bucket, "key"]),
        ] {
            assert!(!may("{}", STORE, &bad), "{bad}");
        }
        for url in [
            "http://127.0.0.1:9101/",
            "http://127.0.0.1:9101/allowed/key",
            "http://127.0.0.1:9101/allowed/../denied",
        ] {
            assert!(!may("{}", url, &json!([bucket])), "{url}");
        }
        let amazon = "https://allowed.s3.us-east-1.amazonaws.com/";
        assert!(may(
            r#"{"buckets": [{"name": "allowed"}]}"#,
            amazon,
            &json!([bucket])
        ));
    }

    #[test]
    fn and_for_keys_that_the_policy_allows() {
        let document =
            r#"{"buckets": [{"name": "allowed", "prefix": "pub/"}], "services": ["s3:PutObject"]}"#;
        let with = |keys: &[Value]| {
            let mut conditions = vec![json!({"bucket": "allowed"})];
            conditions.extend_from_slice(keys);
            may(document, STORE, &Value::Array(conditions))
        };
        assert!(with(&[json!({"key": "pub/k"})]));
        assert!(with(&[json!(["starts-with", "$key", "pub/a"])]));
        assert!(with(&[
            json!(["starts-with", "$key", "pub/"]),
            json!({"key": "pub/k"})
        ]));
        for keys in [
            vec![],
            vec![json!({"key": "k"})],
            vec![json!(["starts-with", "$key", "pub"])],
            vec![json!(["starts-with", "$key", "pub/"]), json!({"Key": "k"})],
            vec![json!({"key": "pub/../k"})],
        ] {
            assert!(!with(&keys), "{keys:?}");
        }
        let reads = r#"{"services": ["s3:GetObject", "s3:CreateBucket"]}"#;
        assert!(!may(reads, STORE, &json!([{"bucket": "allowed"}])));
    }
}
