//! Compiles anew when a migration was added: they are built into the binary.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
