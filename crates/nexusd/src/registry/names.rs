//! Names of functions as Lambda writes them: a name, name:qualifier, a partial or a full ARN.

use crate::ingress::errors::ApiError;

/// Account that this node's ARNs carry.
pub const ACCOUNT: &str = "000000000000";
/// The only version a function has here.
pub const LATEST: &str = "$LATEST";
const MAX_NAME: usize = 64;

/// Whether `name` may name a function: letters, digits, `-` and `_`, 1 to 64 of them.
pub fn is_valid(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The function's ARN in a region.
pub fn arn(region: &str, name: &str) -> String {
    format!("arn:aws:lambda:{region}:{ACCOUNT}:function:{name}")
}

/// The plain name in what a client gave as FunctionName, and as Qualifier if it did.
///
/// # Errors
/// ValidationException for what is not a function's name, ResourceNotFoundException for a qualifier
/// other than `$LATEST`.
pub fn resolve(text: &str, qualifier: Option<&str>, region: &str) -> Result<String, ApiError> {
    let rest = match text.split_once("function:") {
        Some((prefix, rest)) if is_arn_prefix(prefix) => rest,
        _ => text,
    };
    let (name, inner) = match rest.split_once(':') {
        Some((name, inner)) => (name, Some(inner)),
        None => (rest, None),
    };
    let is_qualifier = |text: &str| text == LATEST || is_valid(text);
    if !is_valid(name) || !inner.is_none_or(is_qualifier) {
        return Err(ApiError::validation(format!(
            "1 validation error detected: Value '{}' at 'functionName' failed to satisfy constraint: Member must satisfy \
             regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{{2}}(-gov)?-[a-z]+-\\d{{1}}:)?(\\d{{12}}:)?\
             (function:)?([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?",
            text.chars().take(200).collect::<String>()
        )));
    }
    if let (Some(a), Some(b)) = (inner, qualifier)
        && a != b
    {
        return Err(ApiError::invalid_parameter(format!(
            "The derived qualifier from the function name does not match the specified qualifier: {a} and {b}."
        )));
    }
    match inner.or(qualifier) {
        None | Some(LATEST) => Ok(name.to_owned()),
        Some(other) => Err(ApiError::not_found(&format!(
            "{}:{}",
            arn(region, name),
            other.chars().take(128).collect::<String>()
        ))),
    }
}

/// What may precede `function:`: nothing, `ACCOUNT:`, or `arn:PARTITION:lambda:REGION:ACCOUNT:`.
fn is_arn_prefix(prefix: &str) -> bool {
    let parts: Vec<&str> = prefix.split(':').collect();
    match parts.as_slice() {
        [""] => true,
        [account, ""] => is_account(account),
        ["arn", partition, "lambda", region, account, ""] => {
            partition.starts_with("aws") && !region.is_empty() && is_account(account)
        }
        _ => false,
    }
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name_resolves() {
        for text in [
            "thumb_nail-1",
            "thumb_nail-1:$LATEST",
            "function:thumb_nail-1",
            "123456789012:function:thumb_nail-1",
            "arn:aws:lambda:us-east-1:123456789012:function:thumb_nail-1",
            "arn:aws:lambda:us-east-1:123456789012:function:thumb_nail-1:$LATEST",
        ] {
            assert_eq!(resolve(text, None, "r").unwrap(), "thumb_nail-1", "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "x".repeat(65);
        for text in [
            "",
            "a b",
            "../x",
            "a/b",
            "ümlaut",
            &long,
            "arn:aws:s3:::function:x y",
            "x\0",
        ] {
            let error = resolve(text, None, "r").unwrap_err();
            assert_eq!(error.kind, "ValidationException", "{text}");
        }
    }

    #[test]
    fn qualifiers_other_than_latest_do_not_exist() {
        assert_eq!(resolve("f", Some("$LATEST"), "r").unwrap(), "f");
        assert_eq!(
            resolve("f", Some("7"), "r").unwrap_err().kind,
            "ResourceNotFoundException"
        );
        assert_eq!(
            resolve("f:$LATEST", Some("7"), "r").unwrap_err().kind,
            "InvalidParameterValueException"
        );
    }
}
