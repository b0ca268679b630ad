//! Chance for tests, from a seed: a random test prints the seed of a failed case and takes it back. `MLCTL_TEST_SEED=n` begins with that seed,
//! `MLCTL_TEST_CASES=n` runs that many cases; a failure is repeated with its seed and one case.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

/// A case that takes longer says its seed: whoever ends it then knows which it was.
const LONG: Duration = Duration::from_secs(45);

/// Runs `case` with a seed of its own, as often as asked for.
pub fn cases(count: u64, mut case: impl FnMut(Chance)) {
    let first = number("MLCTL_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 16);
    let (begun, seeds) = channel::<u64>();
    let watch = std::thread::spawn(move || {
        let mut current = None;
        loop {
            match seeds.recv_timeout(LONG) {
                Ok(seed) => current = Some(seed),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(seed) = current.take() {
                        println!("still at it: {}", again(seed));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    for seed in (first..).take(usize::try_from(number("MLCTL_TEST_CASES").unwrap_or(count)).unwrap()) {
        let _told = Told(seed);
        begun.send(seed).unwrap();
        case(Chance(seed));
    }
    drop(begun);
    watch.join().unwrap();
}

fn again(seed: u64) -> String {
    format!("repeat with MLCTL_TEST_SEED={seed} MLCTL_TEST_CASES=1")
}

pub fn number(name: &str) -> Option<u64> {
    let text = variable(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

#[expect(clippy::disallowed_methods, reason = "a test is told its seed, and a test's child its work, in variables")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Says the seed when the case fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", again(self.0));
        }
    }
}

/// A stream of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Chance(pub u64);

impl Chance {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Whether something happens that happens once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}
