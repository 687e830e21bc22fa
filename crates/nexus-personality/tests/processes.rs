//! Children between vfork and exec, which borrow their parent's thread.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::Guest;

const LIMIT_OF_DESCRIPTORS: u64 = 7;

#[test]
fn limits_and_priority_of_a_child_in_the_making_are_its_own() {
    let mut g = Guest::plain();
    let at = g.memory(4096);
    assert_eq!(g.call("getrlimit", &[LIMIT_OF_DESCRIPTORS, at]), 0);
    let before = g.peek(at, 16);
    let hard: [u8; 8] = before[8..].try_into().unwrap();
    assert_eq!(g.call("vfork", &[]), 0);
    g.poke(
        at,
        &[50, u64::from_le_bytes(hard)]
            .map(u64::to_le_bytes)
            .concat(),
    );
    assert_eq!(g.call("setrlimit", &[LIMIT_OF_DESCRIPTORS, at]), 0);
    assert_eq!(g.call("setpriority", &[0, 0, 5]), 0);
    assert_eq!(g.call("getpriority", &[0, 0]), 15);
    assert_eq!(g.call("getrlimit", &[LIMIT_OF_DESCRIPTORS, at]), 0);
    assert_eq!(g.peek(at, 8), 50u64.to_le_bytes());
    let child = g.call("exit", &[0]);
    assert!(child > 0, "the parent goes on");
    assert_eq!(g.call("getrlimit", &[LIMIT_OF_DESCRIPTORS, at]), 0);
    assert_eq!(g.peek(at, 16), before);
    assert_eq!(g.call("getpriority", &[0, 0]), 20);
}
