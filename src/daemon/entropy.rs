//! Chance from the kernel: the only place that asks for it. Handed down as a function, so that whoever uses chance can be tested without.

/// Fills `bytes` at random.
///
/// # Panics
/// When the kernel has no random bytes to give. Secrets and identities must not be guessed at, so there is no way to go on.
pub fn fill(bytes: &mut [u8]) {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks for chance")]
    let filled = getrandom::fill(bytes);
    filled.expect(
        "getrandom(2) cannot fail for a valid buffer on the kernels that pidfds, which the daemon needs, exist on",
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_draws_differ() {
        let (mut one, mut two) = ([0; 32], [0; 32]);
        super::fill(&mut one);
        super::fill(&mut two);
        assert_ne!(one, two);
    }
}
