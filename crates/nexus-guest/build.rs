//! The module is mapped into every guest: no symbols that only a debugger reads.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--strip-all");
}
