//! The rules of a network by itself: the same wherever a spec describes one.

use mlctl_protocol::spec::{ConvolutionSpec, GptSpec, ImageShape, ModelSpec, Positions};

use super::Problem;

/// The most features that a network takes, as of a perceptron's first layer.
const MAX_FEATURES: u64 = 1_000_000;

/// The most values that the weights of a transformer have: 256 GiB of them.
const MAX_WEIGHTS: u64 = 1 << 36;

/// What is wrong with a network. `path` is its own.
pub(super) fn problem(path: &str, network: &ModelSpec) -> Option<Problem> {
    match network {
        ModelSpec::Mlp { .. } => None,
        ModelSpec::Cnn { image, convolutions, .. } => of_images(path, *image, convolutions),
        ModelSpec::Gpt(gpt) => of_text(path, gpt),
    }
}

/// What is wrong with a transformer.
fn of_text(path: &str, gpt: &GptSpec) -> Option<Problem> {
    let (width, heads, kv_heads) = (gpt.width, gpt.heads, gpt.kv_heads());
    if !width.is_multiple_of(heads) {
        let message = format!("{heads} heads do not share a width of {width} evenly");
        let hint = "make the width a multiple of the heads; 64 values a head are usual";
        return Some(Problem::new(format!("{path}.heads"), message, hint));
    }
    if !heads.is_multiple_of(kv_heads) {
        let message = format!("{kv_heads} heads of keys and values do not serve {heads} heads evenly");
        return Some(Problem::new(format!("{path}.kv_heads"), message, "write a number that divides the heads"));
    }
    if gpt.positions == Positions::Rope && !gpt.head_size().is_multiple_of(2) {
        let message = format!("rope turns pairs of values, and a head has {}", gpt.head_size());
        return Some(Problem::new(format!("{path}.positions"), message, "make width / heads an even number"));
    }
    let [width, hidden, depth] = [width, gpt.hidden(), gpt.depth].map(u64::from);
    let layer = width.saturating_mul(4 * width + 3 * hidden);
    let outside = width.saturating_mul(u64::from(gpt.context) + 2 * u64::from(gpt.vocab.unwrap_or(0)));
    (layer.saturating_mul(depth).saturating_add(outside) > MAX_WEIGHTS).then(|| {
        let message = "its weights are more than 2^36 numbers";
        Problem::new(format!("{path}.depth"), message, "take fewer layers, or narrower ones")
    })
}

/// What is wrong with a convolutional network.
fn of_images(path: &str, image: ImageShape, convolutions: &[ConvolutionSpec]) -> Option<Problem> {
    if image.values() > MAX_FEATURES {
        let message = format!("the image has {} values, more than 1,000,000", image.values());
        return Some(Problem::new(format!("{path}.image"), message, "scale the images down before"));
    }
    let mut image = image;
    for (index, convolution) in convolutions.iter().enumerate() {
        let (height, width, pool) = (image.height, image.width, convolution.pool);
        image = image.behind(convolution);
        if image.values() == 0 {
            let message = format!("the image is {height} x {width} there, too small to be pooled by {pool}");
            let hint = "write pool = 1 here, or leave the convolution out";
            return Some(Problem::new(format!("{path}.convolutions[{index}].pool"), message, hint));
        }
    }
    None
}
