//! Prints the Python side of the contract: `python/nexus/guest/abi.py`.

use nexus_abi::{arena, device, operation};

/// A number as ruff leaves it: hexadecimal in upper case.
fn hex(name: &str, value: u64) {
    println!("{name} = 0x{value:X}");
}

fn decimal(name: &str, value: i64) {
    println!("{name} = {value}");
}

fn text(name: &str, value: &str) {
    println!("{name} = \"{value}\"");
}

fn main() {
    println!(
        "\"\"\"Generated from crates/nexus-abi by `cargo run -q -p nexus-abi --example python`. Do not edit.\"\"\"\n"
    );
    layout();
    println!();
    entries();
    println!();
    operations();
    println!();
    device();
}

fn layout() {
    hex("MAGIC", arena::MAGIC);
    decimal("VERSION", arena::VERSION.into());
    for (name, offset) in [
        ("MAGIC", arena::control::MAGIC),
        ("VERSION", arena::control::VERSION),
        ("ARENA_SIZE", arena::control::ARENA_SIZE),
        ("SUBMIT_TAIL", arena::control::SUBMIT_TAIL),
        ("SUBMIT_HEAD", arena::control::SUBMIT_HEAD),
        ("COMPLETE_TAIL", arena::control::COMPLETE_TAIL),
        ("COMPLETE_HEAD", arena::control::COMPLETE_HEAD),
    ] {
        hex(&format!("CONTROL_{name}"), offset as u64);
    }
    hex("SUBMIT_RING", arena::SUBMIT_RING as u64);
    hex("COMPLETE_RING", arena::COMPLETE_RING as u64);
    decimal("RING_ENTRIES", arena::RING_ENTRIES.into());
    println!("ENTRY_SIZE = {}", arena::ENTRY_SIZE);
    hex("HEAP", arena::HEAP as u64);
    hex("DEFAULT_SIZE", arena::DEFAULT_SIZE as u64);
    hex("MIN_SIZE", arena::MIN_SIZE as u64);
    hex("MAX_SIZE", arena::MAX_SIZE as u64);
    hex("UNKNOWN_LENGTH", arena::UNKNOWN_LENGTH);
    println!("BODY_ALIGNMENT = {}", arena::BODY_ALIGNMENT);
}

fn entries() {
    use arena::{completion, submission};
    for (name, offset) in [
        ("ID", submission::ID),
        ("OPERATION", submission::OPERATION),
        ("FLAGS", submission::FLAGS),
        ("HEAD_OFFSET", submission::HEAD_OFFSET),
        ("HEAD_LENGTH", submission::HEAD_LENGTH),
        ("BODY_OFFSET", submission::BODY_OFFSET),
        ("BODY_LENGTH", submission::BODY_LENGTH),
        ("ROOM_OFFSET", submission::ROOM_OFFSET),
        ("ROOM_LENGTH", submission::ROOM_LENGTH),
        ("TIMEOUT_MS", submission::TIMEOUT_MS),
        ("STREAM", submission::STREAM),
        ("RESERVED", submission::RESERVED),
    ] {
        println!("SUBMISSION_{name} = {offset}");
    }
    println!();
    for (name, offset) in [
        ("ID", completion::ID),
        ("STATUS", completion::STATUS),
        ("FLAGS", completion::FLAGS),
        ("HEAD_OFFSET", completion::HEAD_OFFSET),
        ("HEAD_LENGTH", completion::HEAD_LENGTH),
        ("BODY_OFFSET", completion::BODY_OFFSET),
        ("BODY_LENGTH", completion::BODY_LENGTH),
        ("STREAM", completion::STREAM),
        ("TOTAL_LENGTH", completion::TOTAL_LENGTH),
    ] {
        println!("COMPLETION_{name} = {offset}");
    }
}

fn operations() {
    for (name, value) in [
        ("NEXT", operation::NEXT),
        ("INIT_ERROR", operation::INIT_ERROR),
        ("BODY", operation::BODY),
        ("READ", operation::READ),
        ("CLOSE", operation::CLOSE),
        ("S3", operation::S3),
        ("HTTP", operation::HTTP),
        ("NEXT_RESULT", operation::NEXT_RESULT),
        ("NEXT_ERROR", operation::NEXT_ERROR),
        ("STREAM_BODY", operation::STREAM_BODY),
        ("MORE_BODY", operation::MORE_BODY),
    ] {
        decimal(name, value.into());
    }
    decimal("MORE", operation::MORE.into());
    text("PLACEHOLDER_KEY_ID", operation::PLACEHOLDER_KEY_ID);
    text("PLACEHOLDER_SECRET", operation::PLACEHOLDER_SECRET);
    println!();
    for (name, value) in [
        ("INVALID", operation::status::INVALID),
        ("TRANSPORT", operation::status::TRANSPORT),
        ("DENIED", operation::status::DENIED),
        ("TIMEOUT", operation::status::TIMEOUT),
        ("NO_STREAM", operation::status::NO_STREAM),
        ("NO_ROOM", operation::status::NO_ROOM),
        ("BUSY", operation::status::BUSY),
    ] {
        decimal(&format!("STATUS_{name}"), value.into());
    }
}

fn device() {
    text("DEVICE_PATH", device::PATH);
    hex("DOORBELL_OFFSET", device::DOORBELL_OFFSET);
    hex("WAIT", device::WAIT.into());
    hex("SNAPSHOT", device::SNAPSHOT.into());
    hex("SIZE", device::SIZE.into());
    hex("GENERATION", device::GENERATION.into());
    text("PROCESS_ENV", device::PROCESS_ENV);
}
