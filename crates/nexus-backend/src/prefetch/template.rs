//! `s3://{bucket}/in/{detail.key}`: an object named by parts of an event.

use crate::writes::ledger::ObjectName;
use serde_json::Value;

/// Longest template, and most placeholders in one.
const LONGEST: usize = 1024;
const MAX_PARTS: usize = 16;

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    bucket: Vec<Part>,
    key: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A path into the event.
    Path(Vec<Step>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

impl Template {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("{text:.200} is not a template: {what}");
        if text.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let rest = text.strip_prefix("s3://").ok_or_else(|| {
            bad("it must be s3://BUCKET/KEY, with {path.into.event} where the event decides")
        })?;
        // Braces may hold no slash, so the first slash ends the bucket.
        let (bucket, key) = rest.split_once('/').ok_or_else(|| bad("there is no key"))?;
        let (bucket, key) = (parts(bucket), parts(key));
        match (bucket, key) {
            (Ok(bucket), Ok(key)) if !bucket.is_empty() && !key.is_empty() => {
                Ok(Self { bucket, key })
            }
            (Ok(_), Ok(_)) => Err(bad("bucket or key is empty")),
            (Err(what), _) | (_, Err(what)) => Err(bad(&what)),
        }
    }

    /// The object for an event; `None`: the event does not have the parts.
    pub fn expand(&self, event: &Value) -> Option<ObjectName> {
        let bucket = fill(&self.bucket, event)?;
        let key = fill(&self.key, event)?;
        checked(bucket, key)
    }

    /// Whether some event could make this object of it.
    pub fn admits(&self, object: &ObjectName) -> bool {
        matches(&self.bucket, &object.bucket) && matches(&self.key, &object.key)
    }
}

/// The object of an `s3://BUCKET/KEY` URL.
pub fn object(url: &str) -> Option<ObjectName> {
    let (bucket, key) = url.strip_prefix("s3://")?.split_once('/')?;
    checked(bucket.to_owned(), key.to_owned())
}

/// Names that every region accepts; anything else is left to the function's own call.
pub fn checked(bucket: String, key: String) -> Option<ObjectName> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(plain)
        && !key.is_empty()
        && key.len() <= 1024
        && !key.split('/').any(|segment| matches!(segment, "." | ".."));
    good.then_some(ObjectName { bucket, key })
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if parts.len() >= MAX_PARTS {
            return Err("it has too many parts".to_owned());
        }
        match rest.split_once('{') {
            None => {
                if rest.contains('}') {
                    return Err("a brace is closed that was not opened".to_owned());
                }
                parts.push(Part::Text(rest.to_owned()));
                break;
            }
            Some((before, after)) => {
                if !before.is_empty() {
                    parts.push(Part::Text(before.to_owned()));
                }
                let (path, after) = after
                    .split_once('}')
                    .ok_or("a brace is not closed in the part before or after the slash")?;
                parts.push(Part::Path(steps(path)?));
                rest = after;
            }
        }
    }
    Ok(parts)
}

/// `a.b[0].c`, or `a.b.0.c`.
fn steps(path: &str) -> Result<Vec<Step>, String> {
    let path = path.strip_prefix("$.").unwrap_or(path);
    let path = path.replace('[', ".").replace(']', "");
    let steps: Vec<Step> = path
        .split('.')
        .map(|step| match step.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Name(step.to_owned()),
        })
        .collect();
    if steps.contains(&Step::Name(String::new())) {
        return Err(format!(
            "{{{path}}} is not a path such as {{detail.object.key}}"
        ));
    }
    Ok(steps)
}

fn fill(parts: &[Part], event: &Value) -> Option<String> {
    let mut out = String::new();
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Path(path) => {
                let found = path.iter().try_fold(event, |value, step| match step {
                    Step::Name(name) => value.get(name),
                    Step::Index(index) => {
                        value.get(*index).or_else(|| value.get(index.to_string()))
                    }
                });
                match found? {
                    Value::String(text) => out.push_str(text),
                    Value::Number(number) => out.push_str(&number.to_string()),
                    _ => return None,
                }
            }
        }
    }
    Some(out)
}

/// Every placeholder stands for at least one character.
fn matches(parts: &[Part], text: &str) -> bool {
    match parts {
        [] => text.is_empty(),
        [Part::Text(literal), rest @ ..] => text
            .strip_prefix(literal.as_str())
            .is_some_and(|text| matches(rest, text)),
        [Part::Path(_)] => !text.is_empty(),
        [Part::Path(_), rest @ ..] => text
            .char_indices()
            .skip(1)
            .take(LONGEST)
            .any(|(at, _)| matches(rest, text.get(at..).unwrap_or_default())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_are_filled_from_events() {
        let event = json!({"bucket": "photos", "n": 7, "detail": {"keys": ["x", "in/a b.png"]}});
        let fill = |text: &str| {
            let object = Template::parse(text).unwrap().expand(&event)?;
            Some(format!("{}/{}", object.bucket, object.key))
        };
        assert_eq!(
            fill("s3://{bucket}/{detail.keys[1]}").unwrap(),
            "photos/in/a b.png"
        );
        assert_eq!(
            fill("s3://{bucket}/p-{n}/{$.detail.keys.0}.json").unwrap(),
            "photos/p-7/x.json"
        );
        assert_eq!(fill("s3://models/latest.bin").unwrap(), "models/latest.bin");
        assert_eq!(fill("s3://{missing}/k"), None);
        assert_eq!(fill("s3://{bucket}/{detail}"), None);
        assert_eq!(fill("s3://{detail.keys[1]}/k"), None);
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "http://b/k",
            "s3://b",
            "s3://b/",
            "s3:///k",
            "s3://b/{a",
            "s3://b/a}",
            "s3://b/{}",
            "s3://b/{a..b}",
        ] {
            assert!(
                Template::parse(text)
                    .unwrap_err()
                    .contains("is not a template"),
                "{text}"
            );
        }
        assert!(Template::parse(&format!("s3://b/{}", "{a}".repeat(17))).is_err());
    }

    #[test]
    fn a_url_counts_only_within_a_template() {
        let template = Template::parse("s3://{bucket}/in/{key}.png").unwrap();
        let admits = |url: &str| object(url).is_some_and(|object| template.admits(&object));
        assert!(admits("s3://photos/in/cat.png"));
        assert!(!admits("s3://photos/out/cat.png"));
        assert!(!admits("s3://photos/in/.png"));
        assert!(!admits("s3://photos/in/cat.jpg"));
        assert!(!admits("s3://photos/in/../secret.png"));
        let fixed = Template::parse("s3://models/{name}").unwrap();
        assert!(!fixed.admits(&object("s3://photos/name").unwrap()));
    }
}
