//! The Python side of the contract is what the generator prints.

use std::path::Path;
use std::process::Command;

#[test]
fn the_python_side_is_up_to_date() -> std::io::Result<()> {
    let output = Command::new(env!("CARGO"))
        .args(["run", "-q", "-p", "nexus-abi", "--example", "python"])
        .output()?;
    let generated = String::from_utf8_lossy(&output.stdout).into_owned();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python/nexus/guest/abi.py");
    assert_eq!(
        generated,
        std::fs::read_to_string(file)?,
        "run the command that the file's first line names"
    );
    Ok(())
}
