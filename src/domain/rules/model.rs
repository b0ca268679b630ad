//! The rules of a network by itself: the same wherever a spec describes one.

use mlctl_protocol::spec::ModelSpec;

use super::Problem;

/// The most features that a network takes, as of a perceptron's first layer.
const MAX_FEATURES: u64 = 1_000_000;

/// What is wrong with a network. `path` is its own.
pub(super) fn problem(path: &str, network: &ModelSpec) -> Option<Problem> {
    let ModelSpec::Cnn { image, convolutions, .. } = network else { return None };
    if image.values() > MAX_FEATURES {
        let message = format!("the image has {} values, more than 1,000,000", image.values());
        return Some(Problem::new(format!("{path}.image"), message, "scale the images down before"));
    }
    let mut image = *image;
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
