//! Rotary positions (Su et al. 2021): pairs of a head's values are turned by angles that grow with the token's place. As Hugging Face's Llama does, value `i` of
//! the first half of a head is paired with value `i` of the second.

/// Sines and cosines of all places.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    /// Pairs of a head.
    half: usize,
    /// (places, pairs).
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// The angles of heads of `size` values at so many places: pair `i` turns by `base^(-2 i / size)` from a place to the next.
    pub(super) fn new(base: f64, size: usize, places: usize) -> Self {
        let half = size / 2;
        #[expect(clippy::cast_precision_loss, reason = "pairs are few")]
        let turns: Vec<f64> = (0..half).map(|pair| base.powf(-2.0 * pair as f64 / size as f64)).collect();
        let of = |f: fn(f64) -> f64| {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                reason = "places are few; rounding to f32 is the point"
            )]
            let row = |place: usize| turns.iter().map(move |turn| f(place as f64 * turn) as f32);
            (0..places).flat_map(row).collect()
        };
        Self { half, cos: of(f64::cos), sin: of(f64::sin) }
    }

    /// Turns the heads of consecutive places, (places, size), forward; or back, which is what gradients need.
    pub(super) fn turn(&self, heads: &mut [f32], back: bool) {
        let half = self.half;
        let angles = self.cos.chunks_exact(half).zip(self.sin.chunks_exact(half));
        for (head, (cos, sin)) in heads.chunks_exact_mut(2 * half).zip(angles) {
            let (first, second) = head.split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let sin = if back { -sin } else { *sin };
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// Cosines and sines of the first places, row by row.
    pub(super) fn tables(&self, places: usize) -> (&[f32], &[f32]) {
        (&self.cos[..places * self.half], &self.sin[..places * self.half])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_back_undoes_turning_and_the_first_place_stays() {
        let rope = Rope::new(10_000.0, 6, 5);
        let values: Vec<f32> = (0..30_u8).map(|i| f32::from(i) / 7.0 - 2.0).collect();
        let mut turned = values.clone();
        rope.turn(&mut turned, false);
        assert_eq!(turned[..6], values[..6]);
        // Pair 0 of place 1 turns by an angle of 1.
        let (a, b, (sin, cos)) = (values[6], values[9], 1_f32.sin_cos());
        assert!((turned[6] - (a * cos - b * sin)).abs() < 1e-6 && (turned[9] - (b * cos + a * sin)).abs() < 1e-6);
        rope.turn(&mut turned, true);
        assert!(turned.iter().zip(&values).all(|(turned, value)| (turned - value).abs() < 1e-6));
    }
}
