//! Prints `python/nexus/guest/abi.py`: every number that the guest's side shares with this crate.

use nexus_abi::arena::{self, completion, control, submission};
use nexus_abi::device;
use nexus_abi::operation::{self, status};
use std::fmt::Display;

fn main() {
    println!(
        "\"\"\"Generated from crates/nexus-abi by `cargo run -q -p nexus-abi --example python`. Do not edit.\"\"\""
    );
    println!();
    layout();
    println!();
    entries();
    println!();
    operations();
    println!();
    devices();
}

fn line(name: &str, value: impl Display) {
    println!("{name} = {value}");
}

fn hex(name: &str, value: impl Into<u64>) {
    println!("{name} = 0x{:X}", value.into());
}

/// An offset or size in bytes: all of them fit.
fn bytes(name: &str, value: usize) {
    hex(name, value as u64);
}

fn layout() {
    hex("MAGIC", arena::MAGIC);
    line("VERSION", arena::VERSION);
    bytes("CONTROL_MAGIC", control::MAGIC);
    bytes("CONTROL_VERSION", control::VERSION);
    bytes("CONTROL_ARENA_SIZE", control::ARENA_SIZE);
    bytes("CONTROL_SUBMIT_TAIL", control::SUBMIT_TAIL);
    bytes("CONTROL_SUBMIT_HEAD", control::SUBMIT_HEAD);
    bytes("CONTROL_COMPLETE_TAIL", control::COMPLETE_TAIL);
    bytes("CONTROL_COMPLETE_HEAD", control::COMPLETE_HEAD);
    bytes("CONTROL_EXITS", control::EXITS);
    bytes("CONTROL_SIGNALS", control::SIGNALS);
    bytes("CONTROL_HELD_UNTIL", control::HELD_UNTIL);
    bytes("SUBMIT_RING", arena::SUBMIT_RING);
    bytes("COMPLETE_RING", arena::COMPLETE_RING);
    bytes("LAST_WORDS", arena::LAST_WORDS);
    bytes("LAST_WORDS_SIZE", arena::LAST_WORDS_SIZE);
    line("RING_ENTRIES", arena::RING_ENTRIES);
    line("ENTRY_SIZE", arena::ENTRY_SIZE);
    bytes("HEAP", arena::HEAP);
    bytes("DEFAULT_SIZE", arena::DEFAULT_SIZE);
    bytes("MIN_SIZE", arena::MIN_SIZE);
    bytes("MAX_SIZE", arena::MAX_SIZE);
    hex("UNKNOWN_LENGTH", arena::UNKNOWN_LENGTH);
    line("BODY_ALIGNMENT", arena::BODY_ALIGNMENT);
}

fn entries() {
    line("SUBMISSION_ID", submission::ID);
    line("SUBMISSION_OPERATION", submission::OPERATION);
    line("SUBMISSION_FLAGS", submission::FLAGS);
    line("SUBMISSION_HEAD_OFFSET", submission::HEAD_OFFSET);
    line("SUBMISSION_HEAD_LENGTH", submission::HEAD_LENGTH);
    line("SUBMISSION_BODY_OFFSET", submission::BODY_OFFSET);
    line("SUBMISSION_BODY_LENGTH", submission::BODY_LENGTH);
    line("SUBMISSION_ROOM_OFFSET", submission::ROOM_OFFSET);
    line("SUBMISSION_ROOM_LENGTH", submission::ROOM_LENGTH);
    line("SUBMISSION_TIMEOUT_MS", submission::TIMEOUT_MS);
    line("SUBMISSION_STREAM", submission::STREAM);
    line("SUBMISSION_RESERVED", submission::RESERVED);
    println!();
    line("COMPLETION_ID", completion::ID);
    line("COMPLETION_STATUS", completion::STATUS);
    line("COMPLETION_FLAGS", completion::FLAGS);
    line("COMPLETION_HEAD_OFFSET", completion::HEAD_OFFSET);
    line("COMPLETION_HEAD_LENGTH", completion::HEAD_LENGTH);
    line("COMPLETION_BODY_OFFSET", completion::BODY_OFFSET);
    line("COMPLETION_BODY_LENGTH", completion::BODY_LENGTH);
    line("COMPLETION_STREAM", completion::STREAM);
    line("COMPLETION_TOTAL_LENGTH", completion::TOTAL_LENGTH);
}

fn operations() {
    line("NEXT", operation::NEXT);
    line("INIT_ERROR", operation::INIT_ERROR);
    line("BODY", operation::BODY);
    line("READ", operation::READ);
    line("CLOSE", operation::CLOSE);
    line("S3", operation::S3);
    line("HTTP", operation::HTTP);
    line("PRESIGN", operation::PRESIGN);
    line("WEB_CONNECT", operation::WEB_CONNECT);
    line("WEB_TLS", operation::WEB_TLS);
    line("WEB_TUNE", operation::WEB_TUNE);
    line("RPC", operation::RPC);
    line("NEXT_RESULT", operation::NEXT_RESULT);
    line("NEXT_ERROR", operation::NEXT_ERROR);
    line("STREAM_BODY", operation::STREAM_BODY);
    line("MORE_BODY", operation::MORE_BODY);
    line("MORE", operation::MORE);
    line("OWN", operation::OWN);
    line(
        "S3_ENDPOINT_ENV",
        format_args!("{:?}", operation::S3_ENDPOINT_ENV),
    );
    line(
        "PLACEHOLDER_KEY_ID",
        format_args!("{:?}", operation::PLACEHOLDER_KEY_ID),
    );
    line(
        "PLACEHOLDER_SECRET",
        format_args!("{:?}", operation::PLACEHOLDER_SECRET),
    );
    line(
        "UNSUITABLE_BASE",
        format_args!("{:?}", operation::UNSUITABLE_BASE),
    );
    println!();
    line("STATUS_INVALID", status::INVALID);
    line("STATUS_TRANSPORT", status::TRANSPORT);
    line("STATUS_DENIED", status::DENIED);
    line("STATUS_TIMEOUT", status::TIMEOUT);
    line("STATUS_NO_STREAM", status::NO_STREAM);
    line("STATUS_NO_ROOM", status::NO_ROOM);
    line("STATUS_BUSY", status::BUSY);
}

fn devices() {
    line("DEVICE_PATH", format_args!("{:?}", device::PATH));
    hex("DOORBELL_OFFSET", device::DOORBELL_OFFSET);
    hex("WAIT", device::WAIT);
    hex("RING_AND_WAIT", device::RING_AND_WAIT);
    hex("SNAPSHOT", device::SNAPSHOT);
    hex("SNAPSHOT_AND_HOLD", device::SNAPSHOT_AND_HOLD);
    line("HOLD_LIMIT_MS", device::HOLD_LIMIT_MS);
    hex("SIZE", device::SIZE);
    hex("GENERATION", device::GENERATION);
    hex("RENEWED", device::RENEWED);
    line("PROCESS_ENV", format_args!("{:?}", device::PROCESS_ENV));
}
