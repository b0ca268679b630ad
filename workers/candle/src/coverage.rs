//! The proof that training can work, before its first step: the backward pass reaches every trainable tensor with a finite
//! gradient. Candle cuts gradients in several of its operations without an error, and a model then trains only in part. It looks at
//! gradients and changes nothing, so a run is the same to the bit with and without it.

use candle_core::{Tensor, backprop::GradStore};

use crate::{fault::Fault, optim::Parameter};

/// Names listed in a message before the rest is counted.
const NAMED: usize = 8;

/// Checks the gradients of the first batch. Answers with a warning when some are exactly 0 throughout.
///
/// # Errors
/// `spec`, naming the tensors that no gradient reaches, and those whose gradient is not finite.
pub fn check(parameters: &[Parameter], gradients: &GradStore) -> Result<Option<String>, Fault> {
    let (mut missing, mut broken, mut zero) = (Vec::new(), Vec::new(), Vec::new());
    for (name, var) in parameters {
        match gradients.get(var) {
            None => missing.push(name.as_str()),
            Some(gradient) => match largest(gradient)? {
                size if !size.is_finite() => broken.push(name.as_str()),
                0.0 => zero.push(name.as_str()),
                _ => {}
            },
        }
    }
    if !missing.is_empty() {
        return Err(Fault::spec(
            format!("no gradient reaches {} in the backward pass of the first batch", list(&missing)),
            "the model would train only in part: an operation on the way from these tensors to the loss has no backward pass",
        ));
    }
    if !broken.is_empty() {
        return Err(Fault::spec(
            format!("the gradient of {} is not finite on the first batch", list(&broken)),
            "look for very large values in the features or targets; scaling = \"standard\" brings features to a sane range",
        ));
    }
    let dead = (!zero.is_empty()).then(|| {
        format!(
            "the gradient of {} is exactly 0 on the first batch; it may not learn (dead units, or constant features)",
            list(&zero)
        )
    });
    Ok(dead)
}

/// The largest absolute value, or not-a-number where there is one.
fn largest(gradient: &Tensor) -> Result<f32, Fault> {
    let values = gradient.flatten_all()?.to_vec1::<f32>()?;
    Ok(values.into_iter().map(f32::abs).fold(0.0, |a, b| if b.is_nan() || b > a { b } else { a }))
}

/// Names for a message: the first ones, and how many more there are.
pub(crate) fn list(names: &[&str]) -> String {
    let shown = names.iter().take(NAMED).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use candle_nn::ops::softmax_last_dim;
    use mlctl_protocol::ExitClass;

    use super::*;
    use crate::nn::ops::linear;

    struct TwoLayers {
        parameters: Vec<Parameter>,
        x: Tensor,
    }

    impl TwoLayers {
        fn new(scale: f32) -> Self {
            let var = |name: &str, values: &[f32], shape: &[usize]| {
                (name.to_owned(), Var::from_slice(values, shape, &Device::Cpu).unwrap())
            };
            let parameters = vec![
                var("layer1.weight", &[0.5, -0.25, 1.0, 0.75], &[2, 2]),
                var("layer1.bias", &[0.1, 0.2], &[2]),
                var("layer2.weight", &[1.0, -1.0, 0.5, 0.25], &[2, 2]),
                var("layer2.bias", &[0.0, 0.0], &[2]),
            ];
            Self { parameters, x: Tensor::new(&[[scale, 2.0 * scale]], &Device::Cpu).unwrap() }
        }

        /// Runs the model with something between its layers.
        fn check(&self, between: impl Fn(Tensor) -> Tensor) -> Result<Option<String>, Fault> {
            let [w1, b1, w2, b2] = [0, 1, 2, 3].map(|i| self.parameters[i].1.as_tensor());
            let hidden = between(linear(&self.x, w1, b1, true).unwrap());
            let y = linear(&hidden, w2, b2, false).unwrap();
            check(&self.parameters, &y.sqr().unwrap().sum_all().unwrap().backward().unwrap())
        }
    }

    #[test]
    fn a_whole_graph_passes() {
        assert_eq!(TwoLayers::new(1.0).check(|x| x), Ok(None));
    }

    #[test]
    fn a_cut_graph_is_refused_and_the_tensors_behind_the_cut_are_named() {
        // The second cut is candle's own: its fused softmax has no backward pass and no error.
        for cut in [|x: Tensor| x.detach(), |x: Tensor| softmax_last_dim(&x).unwrap()] {
            let fault = TwoLayers::new(1.0).check(cut).unwrap_err();
            assert_eq!(fault.class, ExitClass::Spec);
            assert!(fault.message.contains("\"layer1.weight\", \"layer1.bias\""), "{}", fault.message);
            assert!(!fault.message.contains("layer2"), "{}", fault.message);
        }
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_refused() {
        let fault = TwoLayers::new(1e38).check(|x| x).unwrap_err();
        assert_eq!(fault.class, ExitClass::Spec);
        assert!(fault.message.contains("not finite") && fault.message.contains("layer1.weight"), "{}", fault.message);
    }

    #[test]
    fn a_gradient_of_exactly_0_is_a_warning() {
        let warning = TwoLayers::new(1.0).check(|x| (x * 0.5).unwrap().clamp(0f32, 1e-9f32).unwrap()).unwrap().unwrap();
        assert!(warning.contains("layer1.weight") && !warning.contains("layer2.bias"), "{warning}");
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..20).map(|i| format!("layer{i}.weight")).collect();
        assert!(list(&names.iter().map(String::as_str).collect::<Vec<_>>()).ends_with("and 12 more"));
    }
}
