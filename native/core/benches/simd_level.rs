//! Prints what the core sees of the machine: under valgrind that is what valgrind emulates, which decides what is counted.
#![allow(clippy::print_stdout, reason = "this is what it is for")]

fn main() {
    println!("{}, {}", std::env::consts::ARCH, hubwire_core::simd::level().name());
}
