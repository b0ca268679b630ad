//! Parameters with options of their own: PyTorch's parameter groups, by index. Which parameter is of which group is decided in `train`, by patterns over names.

/// What the parameters of a group have of their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Own {
    /// What the learning rate is multiplied by.
    pub rate_factor: f64,
    /// The weight decay in place of the optimizer's.
    pub weight_decay: Option<f64>,
}

/// The group of each parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// The options of each group; the first is of the parameters that nothing is said of.
    options: Vec<Own>,
    /// The group of each parameter, in their order; those beyond are of the first.
    members: Vec<usize>,
}

impl Default for Groups {
    fn default() -> Self {
        Self { options: vec![Own { rate_factor: 1.0, weight_decay: None }], members: Vec::new() }
    }
}

impl Groups {
    /// Groups with options, and for each parameter the number of its group, from 0, if it is of one.
    #[must_use]
    pub fn new(options: impl IntoIterator<Item = Own>, members: impl IntoIterator<Item = Option<usize>>) -> Self {
        let mut groups = Self::default();
        groups.options.extend(options);
        groups.members = members.into_iter().map(|number| number.map_or(0, |number| number + 1)).collect();
        groups
    }

    /// What `make` makes of each group's options.
    pub(super) fn map<T>(&self, make: impl FnMut(&Own) -> T) -> Vec<T> {
        self.options.iter().map(make).collect()
    }

    /// Of what [`Self::map`] has made, that of the parameter at a place.
    pub(super) fn of<'a, T>(&self, made: &'a [T], place: usize) -> Option<&'a T> {
        made.get(self.members.get(place).copied().unwrap_or(0))
    }
}
