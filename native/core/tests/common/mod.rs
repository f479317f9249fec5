//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use hubwire_core::simd::{self, Level};

/// A small generator of numbers, so that a failing case can be run again from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end
    }

    pub fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A number between -4 and 4.
    pub fn value(&mut self) -> f32 {
        f32::from(u16::try_from(self.next() >> 48).unwrap()) / 8192.0 - 4.0
    }

    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Runs `test` under every instruction set of this machine.
pub fn for_each_level(mut test: impl FnMut(Level)) {
    for level in Level::ALL.into_iter().filter(|level| level.is_available()) {
        simd::set_level(Some(level)).unwrap();
        test(level);
    }
    simd::set_level(None).unwrap();
}
