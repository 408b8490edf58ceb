// SPDX-License-Identifier: MIT OR Apache-2.0
//! Damaged input for tests: the same in every run.

/// Numbers without an order (xorshift64*).
pub(crate) fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Calls `each` with `whole` cut off at every length, and then with some bytes changed, and cut off anywhere, `rounds`
/// times.
pub(crate) fn damage(whole: &[u8], rounds: usize, mut each: impl FnMut(&[u8])) {
    (0..=whole.len()).for_each(|len| each(&whole[..len]));
    let mut number = numbers(whole.len() as u64);
    for _ in 0..rounds {
        let mut bytes = whole.to_vec();
        for _ in 0..number() % 8 {
            let at = number() as usize % bytes.len();
            bytes[at] = number() as u8;
        }
        bytes.truncate(number() as usize % (bytes.len() + 1));
        each(&bytes);
    }
}
