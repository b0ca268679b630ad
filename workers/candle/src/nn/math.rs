//! Functions of single values that the compiler turns into vector instructions of any x86-64, and sums in an order that does not depend on the machine: no
//! call, no table, no fused multiplication. Used by the transformer's blocks.

/// Sums that are kept apart, so that they can be added side by side.
const LANES: usize = 16;

/// e^x, within 2 units in the last place (the polynomial of Cephes' `expf`). Below -87 it is that of -87, 1.6e-38; above 88 that of 88. What is no number stays none.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lower bits.
    const SHIFT: f32 = 12_582_912.0;
    const BIAS: u32 = 127;
    // ln 2 in two parts, so that their products with small integers are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Written so that a NaN passes.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let whole = shifted - SHIFT;
    let rest = x - whole * LN2_HIGH - whole * LN2_LOW;
    let mut sum = 1.987_569_2e-4;
    for factor in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = sum * rest + factor;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(BIAS) << 23);
    (sum * rest * rest + rest + 1.0) * power
}

/// 1 / (1 + e^-x).
#[inline]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x` times the share of the standard normal distribution below `x`, and the derivative; the share within 1e-7 (Abramowitz and Stegun, 7.1.26).
#[inline]
pub(super) fn gelu(x: f32) -> (f32, f32) {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    let bell = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut sum = 1.061_405_4;
    for factor in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = sum * t + factor;
    }
    let beyond = 0.5 * sum * t * bell;
    let below = if x < 0.0 { beyond } else { 1.0 - beyond };
    (x * below, below + x * DENSITY_AT_0 * bell)
}

/// GELU's approximation by tanh, and its derivative.
#[inline]
pub(super) fn gelu_tanh(x: f32) -> (f32, f32) {
    // (1 + tanh(z)) / 2 is the sigmoid of 2 z.
    const SCALE: f32 = 1.595_769_2;
    const CUBIC: f32 = 0.044_715;
    let share = sigmoid(SCALE * (x + CUBIC * x * x * x));
    let slope = SCALE * (1.0 + 3.0 * CUBIC * x * x);
    (x * share, share + x * share * (1.0 - share) * slope)
}

/// SiLU, `x` times its sigmoid, and the derivative.
#[inline]
pub(super) fn silu(x: f32) -> (f32, f32) {
    let share = sigmoid(x);
    (x * share, share * (1.0 + x * (1.0 - share)))
}

/// The sum of what a function makes of pairs of values, in sixteen sums that are added at the end.
#[inline]
pub(super) fn sum_of(a: &[f32], b: &[f32], of: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += of(*a, *b);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(rest_a).zip(rest_b) {
        *sum += of(*a, *b);
    }
    sums.iter().sum()
}

/// The sum of values.
#[inline]
pub(super) fn sum(values: &[f32]) -> f32 {
    sum_of(values, values, |value, _| value)
}

/// The sum of products.
#[inline]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of(a, b, |a, b| a * b)
}

/// The largest value; not a number where there is one.
#[inline]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    let larger = |most: &mut f32, value: f32| *most = if value > *most || value.is_nan() { value } else { *most };
    for chunk in whole {
        most.iter_mut().zip(chunk).for_each(|(most, value)| larger(most, *value));
    }
    most.iter_mut().zip(rest).for_each(|(most, value)| larger(most, *value));
    let mut all = f32::NEG_INFINITY;
    most.iter().for_each(|value| larger(&mut all, *value));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points() -> impl Iterator<Item = f32> {
        (-8_000_i16..=8_000).map(|i| f32::from(i) / 1000.0)
    }

    #[test]
    fn exponentials_are_within_two_units_of_the_last_place() {
        for x in points().map(|x| x * 10.87) {
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) > 0.0 && exp(-1e30) < 2e-38 && exp(f32::NEG_INFINITY) < 2e-38 && exp(1e30) > 1e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn slopes_are_the_differences_of_values() {
        for (name, function) in [("gelu", gelu as fn(f32) -> (f32, f32)), ("tanh", gelu_tanh), ("silu", silu)] {
            for x in points() {
                let difference = (function(x + 0.01).0 - function(x - 0.01).0) / 0.02;
                assert!((difference - function(x).1).abs() < 2e-4, "{name} at {x}");
            }
            assert_eq!(function(0.0).0, 0.0);
            assert!(function(f32::NAN).0.is_nan() && function(60.0).0 == 60.0 && function(-60.0).0.abs() < 1e-6);
        }
    }

    #[test]
    fn values_agree_with_the_standard_librarys() {
        for x in points() {
            let wide = f64::from(x);
            let near =
                |ours: f32, theirs: f64| assert!((f64::from(ours) - theirs).abs() < 1e-6, "{x}: {ours}, {theirs}");
            near(silu(x).0, wide / (1.0 + (-wide).exp()));
            let z = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
            near(gelu_tanh(x).0, 0.5 * wide * (1.0 + z.tanh()));
            near(
                gelu(x).0,
                wide * 0.5 * (1.0 + f64::from(candle_core::cpu::erf::erf_f32(x * std::f32::consts::FRAC_1_SQRT_2))),
            );
        }
    }

    #[test]
    fn sums_and_the_largest_of_any_length() {
        for n in [0_u8, 1, 15, 16, 17, 33] {
            let values: Vec<f32> = (0..n).map(f32::from).collect();
            assert_eq!(sum(&values), values.iter().sum::<f32>());
            assert_eq!(dot(&values, &values), values.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(largest(&values), values.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
        assert!(largest(&[1.0, f32::NAN, 2.0]).is_nan());
        let mut nan_first = vec![0.0; 40];
        nan_first[3] = f32::NAN;
        assert!(largest(&nan_first).is_nan());
    }
}
