//! Which of the tensors that are trained belong to which group of the spec: the first whose patterns fit.

use mlctl_protocol::spec::GroupSpec;

use super::patterns::fitting;
use crate::{
    fault::Fault,
    optim::groups::{Groups, Own},
};

/// The groups of parameters with these names.
///
/// # Errors
/// `spec` when a pattern is none, or fits no tensor that is trained and of no group before.
pub(super) fn of(specs: &[GroupSpec], names: &[&str]) -> Result<Groups, Fault> {
    let mut members = vec![None; names.len()];
    for (number, group) in specs.iter().enumerate() {
        let left: Vec<_> = (0..names.len()).filter(|place| members[*place].is_none()).collect();
        let left_names: Vec<_> = left.iter().map(|place| names[*place]).collect();
        let said = ("no tensor that is trained and of no group before", "those are");
        let fits = fitting((&format!("train.groups[{number}].tensors"), &group.tensors), &left_names, said)?;
        for (place, _) in left.into_iter().zip(fits).filter(|(_, fits)| *fits) {
            members[place] = Some(number);
        }
    }
    let own = |group: &GroupSpec| Own { rate_factor: group.learning_rate_factor, weight_decay: group.weight_decay };
    Ok(Groups::new(specs.iter().map(own), members))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["layer1.bias", "layer1.weight", "layer2.bias", "layer2.weight"];

    fn group(tensors: &[&str], learning_rate_factor: f64) -> GroupSpec {
        let tensors = tensors.iter().map(|pattern| (*pattern).to_owned()).collect();
        GroupSpec { tensors, learning_rate_factor, weight_decay: Some(0.0) }
    }

    #[test]
    fn a_tensor_is_of_the_first_group_that_fits() {
        let groups = of(&[group(&["*.bias"], 2.0), group(&["layer2.*"], 3.0)], &NAMES).unwrap();
        let own = |rate_factor| Own { rate_factor, weight_decay: Some(0.0) };
        assert_eq!(groups, Groups::new([own(2.0), own(3.0)], [Some(0), None, Some(0), Some(1)]));
        assert_eq!(of(&[], &NAMES).unwrap(), Groups::new([], [None; 4]));
    }

    #[test]
    fn a_pattern_that_decides_nothing_is_refused() {
        for (specs, part) in [
            (vec![group(&["norm*"], 1.0)], "train.groups[0].tensors[0], \"norm*\", fits no tensor that is trained"),
            (vec![group(&["*.bias", "a[b"], 1.0)], "train.groups[0].tensors[1], \"a[b\", is no pattern"),
            (
                vec![group(&["*"], 1.0), group(&["*.bias"], 1.0)],
                "train.groups[1].tensors[0], \"*.bias\", fits no tensor",
            ),
        ] {
            let fault = of(&specs, &NAMES).unwrap_err();
            assert!(fault.message.contains(part), "{fault}");
        }
    }
}
