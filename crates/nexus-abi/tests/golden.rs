//! Pins the layout of version 1: whoever changes a number here makes a new version.

use nexus_abi::arena::{self, completion, control, submission};
use nexus_abi::{device, operation};

#[test]
fn layout_of_version_1() {
    assert_eq!(arena::VERSION, 1);
    assert_eq!(&arena::MAGIC.to_le_bytes(), b"NEXUSARN");
    let control = [
        control::MAGIC,
        control::VERSION,
        control::ARENA_SIZE,
        control::SUBMIT_TAIL,
        control::SUBMIT_HEAD,
        control::COMPLETE_TAIL,
        control::COMPLETE_HEAD,
        control::EXITS,
        control::SIGNALS,
        control::HELD_UNTIL,
    ];
    assert_eq!(
        control,
        [0, 8, 12, 0x40, 0x80, 0xc0, 0x100, 0x140, 0x180, 0x1c0]
    );
    assert_eq!(
        [arena::SUBMIT_RING, arena::COMPLETE_RING, arena::HEAP],
        [0x1000, 0x2000, 0x4000]
    );
    assert_eq!((arena::LAST_WORDS, arena::LAST_WORDS_SIZE), (0x3000, 0x800));
    assert_eq!((arena::RING_ENTRIES, arena::ENTRY_SIZE), (64, 64));
    assert_eq!(
        (arena::BODY_ALIGNMENT, arena::UNKNOWN_LENGTH),
        (64, u64::MAX)
    );
}

#[test]
fn entries_of_version_1() {
    let submission = [
        submission::ID,
        submission::OPERATION,
        submission::FLAGS,
        submission::HEAD_OFFSET,
        submission::HEAD_LENGTH,
        submission::BODY_OFFSET,
        submission::BODY_LENGTH,
        submission::ROOM_OFFSET,
        submission::ROOM_LENGTH,
        submission::TIMEOUT_MS,
        submission::STREAM,
        submission::RESERVED,
    ];
    assert_eq!(submission, [0, 8, 10, 12, 16, 20, 24, 28, 32, 36, 40, 48]);
    let completion = [
        completion::ID,
        completion::STATUS,
        completion::FLAGS,
        completion::HEAD_OFFSET,
        completion::HEAD_LENGTH,
        completion::BODY_OFFSET,
        completion::BODY_LENGTH,
        completion::STREAM,
        completion::TOTAL_LENGTH,
    ];
    assert_eq!(completion, [0, 8, 12, 16, 20, 24, 28, 32, 40]);
}

#[test]
fn numbers_of_version_1() {
    use operation::status;
    let operations = [
        operation::NEXT,
        operation::INIT_ERROR,
        operation::BODY,
        operation::READ,
        operation::CLOSE,
        operation::S3,
        operation::HTTP,
        operation::PRESIGN,
    ];
    assert_eq!(operations, [1, 2, 3, 4, 5, 16, 17, 18]);
    let flags = [
        operation::NEXT_RESULT,
        operation::NEXT_ERROR,
        operation::STREAM_BODY,
        operation::MORE_BODY,
    ];
    assert_eq!((flags, operation::MORE), ([1, 2, 4, 8], 1));
    let statuses = [
        status::INVALID,
        status::TRANSPORT,
        status::DENIED,
        status::TIMEOUT,
        status::NO_STREAM,
        status::NO_ROOM,
        status::BUSY,
    ];
    assert_eq!(statuses, [-1, -2, -3, -4, -5, -6, -7]);
    let calls = [
        device::WAIT,
        device::SNAPSHOT,
        device::SIZE,
        device::GENERATION,
        device::RENEWED,
        device::SNAPSHOT_AND_HOLD,
        device::RING_AND_WAIT,
    ];
    let numbers = [0x4e01, 0x4e02, 0x4e03, 0x4e04, 0x4e05, 0x4e06, 0x4e07];
    assert_eq!(calls, numbers);
    assert_eq!(device::DOORBELL_OFFSET, 1 << 32);
}
