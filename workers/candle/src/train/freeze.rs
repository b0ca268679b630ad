//! Which tensors of a model stay as they are while the others are trained: those whose names one of the patterns fits.

use super::patterns::fitting;
use crate::{fault::Fault, nn::Tensors};

/// Divides tensors into those that are trained and those that are frozen.
///
/// # Errors
/// `spec` when a pattern is none or fits no tensor, and when nothing is left to train.
pub fn divide(patterns: &[String], tensors: Tensors) -> Result<(Tensors, Tensors), Fault> {
    let names: Vec<_> = tensors.keys().map(String::as_str).collect();
    let said = ("no tensor of the model", "the model has the tensors");
    let mut frozen = fitting(("train.freeze", patterns), &names, said)?.into_iter();
    let (frozen, trained): (Tensors, Tensors) = tensors.into_iter().partition(|_| frozen.next().unwrap_or(false));
    if trained.is_empty() {
        return Err(Fault::spec(
            "train.freeze leaves no tensor to train".to_owned(),
            "leave out a pattern, or predict with the model as it is",
        ));
    }
    Ok((trained, frozen))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn tensors() -> Tensors {
        let tensor = |name: &str| (name.to_owned(), Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu).unwrap());
        Tensors::from(["layer1.bias", "layer1.weight", "layer2.bias", "layer2.weight"].map(tensor))
    }

    #[test]
    fn tensors_are_frozen_by_their_names() {
        for (patterns, frozen) in [
            (&[][..], &[][..]),
            (&["layer1.*"], &["layer1.bias", "layer1.weight"]),
            (&["*.bias", "layer1.weight"], &["layer1.bias", "layer1.weight", "layer2.bias"]),
        ] {
            let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            let (trained, found) = divide(&patterns, tensors()).unwrap();
            assert_eq!(found.keys().collect::<Vec<_>>(), frozen);
            assert_eq!(trained.len() + found.len(), 4);
        }
    }

    #[test]
    fn what_freezes_nothing_or_everything_is_refused() {
        for (pattern, why) in [("layer3.*", "fits no tensor"), ("a[b", "is no pattern"), ("*", "no tensor to train")] {
            let fault = divide(&[pattern.to_owned()], tensors()).unwrap_err();
            assert!(fault.message.contains(why), "{pattern}: {fault}");
        }
    }
}
