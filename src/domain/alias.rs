//! Aliases of a model's versions: what may be one, what a text that names a version means, and which aliases a change moves. Called by the store, the API and the CLI; it keeps nothing.

use std::{collections::BTreeMap, fmt};

use super::rules::{self, Problem};

/// The version that is in use.
pub const CHAMPION: &str = "champion";

/// The one that was the champion before.
pub const PREVIOUS: &str = "previous";

/// What stands in front of a version of a model where a spec says what weights come from.
pub const MODEL_SCHEME: &str = "model:";

/// Aliases that a model has at most.
const MAX_ALIASES: usize = 100;

/// The longest reason for a move, in characters.
pub const MAX_REASON: usize = 500;

/// The aliases of a model, each with the version that it means.
pub type Aliases = BTreeMap<String, u32>;

/// Which version of a model is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The newest that was not removed.
    Newest,
    /// The one of this number.
    Number(u32),
    /// The one that this alias means.
    Alias(String),
}

/// A version of a model by name, as in `digits`, `digits/3`, `digits@3` and `digits@champion`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The model.
    pub model: String,
    /// Which of its versions.
    pub pick: Pick,
}

impl Reference {
    /// The version that a text means.
    ///
    /// # Errors
    /// What is wrong with it, with an example.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (model, pick) = match text.split_once(['/', '@']) {
            None => (text, Pick::Newest),
            Some((model, which)) if text.as_bytes().get(model.len()) == Some(&b'@') => (model, Pick::parse(which)?),
            Some((model, which)) => {
                let number = number(which).ok_or("a version is a number from 1 on, as in digits/3, and an alias follows a `@`, as in digits@champion")?;
                (model, Pick::Number(number))
            }
        };
        match rules::model_name(model) {
            Some(problem) => Err(told(problem)),
            None => Ok(Self { model: model.to_owned(), pick }),
        }
    }
}

impl Pick {
    /// The version that `3` or `champion` means.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(number) = number(text) {
            return Ok(Self::Number(number));
        }
        match problem(text) {
            Some(problem) => Err(told(problem)),
            None => Ok(Self::Alias(text.to_owned())),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        match &self.pick {
            Pick::Newest => f.write_str(model),
            Pick::Number(number) => write!(f, "{model}/{number}"),
            Pick::Alias(alias) => write!(f, "{model}@{alias}"),
        }
    }
}

/// A version's number as it is written: from 1 on, without zeros in front.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == text)
}

fn told(Problem { message, hint, .. }: Problem) -> String {
    match hint {
        Some(hint) => format!("{message}; {hint}"),
        None => message,
    }
}

/// The version of a model that weights come from, where they are named so.
#[must_use]
pub fn reference(from: &str) -> Option<Reference> {
    from.strip_prefix(MODEL_SCHEME).and_then(|text| Reference::parse(text).ok())
}

/// What is wrong with the name of an alias: it stands where numbers of versions do, and must be taken for none.
#[must_use]
pub fn problem(name: &str) -> Option<Problem> {
    let digits = name.strip_prefix(['v', 'V']).unwrap_or(name);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Problem {
            path: "alias".into(),
            message: format!("the alias {name:?} would be taken for the number of a version"),
            hint: Some("versions are numbered from 1 on; choose a word for an alias, such as champion".into()),
        });
    }
    rules::model_name(name).map(|problem| Problem { path: "alias".into(), ..problem })
}

/// What is wrong with a reason for a move.
#[must_use]
pub fn reason_problem(reason: &str) -> Option<Problem> {
    let is_fine = !reason.is_empty() && reason.chars().count() <= MAX_REASON && !reason.chars().any(char::is_control);
    (!is_fine).then(|| Problem {
        path: "reason".into(),
        message: format!("a reason is a line of 1 to {MAX_REASON} characters"),
        hint: Some("say it in fewer words, or leave it out".into()),
    })
}

/// What is to become of a model's aliases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An alias means this version from now on. Where it is the champion, the one that was it becomes the previous.
    Set {
        /// The alias.
        alias: String,
        /// The version.
        version: u32,
    },
    /// An alias is taken away.
    Clear {
        /// The alias.
        alias: String,
    },
    /// The previous version is the champion again, and there is no previous one any more: a second time it would lead back to what was given up.
    RollBack,
}

/// What an alias meant and means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The alias.
    pub alias: String,
    /// What it meant.
    pub before: Option<u32>,
    /// What it means.
    pub version: Option<u32>,
}

/// Why aliases stay as they are. Each continues what begins with the model's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// There is no such alias.
    #[error("has no alias {0}")]
    Unknown(String),
    /// It means another version than was expected.
    #[error("has {} as {alias}, and {} was expected", shown(*.found), shown(*.expected))]
    Moved {
        /// The alias.
        alias: String,
        /// What it means.
        found: Option<u32>,
        /// What it was expected to mean.
        expected: Option<u32>,
    },
    /// No version was the champion before.
    #[error("has no previous version to go back to")]
    NoPrevious,
    /// It has as many aliases as may be.
    #[error("has {MAX_ALIASES} aliases, and no more may be")]
    TooMany,
}

fn shown(version: Option<u32>) -> String {
    version.map_or_else(|| "no version".to_owned(), |version| format!("version {version}"))
}

impl Change {
    /// The alias that it is about.
    #[must_use]
    pub fn alias(&self) -> &str {
        match self {
            Self::Set { alias, .. } | Self::Clear { alias } => alias,
            Self::RollBack => CHAMPION,
        }
    }

    /// The aliases that it moves; none where all is as it should be. `expect`: what the alias must mean for that, 0 for nothing. An alias that means what it should is not asked, so that who repeats a request
    /// of which the answer was lost is not refused.
    ///
    /// # Errors
    /// [`AliasError`].
    pub fn steps(&self, aliases: &Aliases, expect: Option<u32>) -> Result<Vec<Step>, AliasError> {
        let get = |alias: &str| aliases.get(alias).copied();
        let (alias, found) = (self.alias().to_owned(), get(self.alias()));
        if matches!(self, Self::Set { version, .. } if found == Some(*version)) {
            return Ok(Vec::new());
        }
        if let Some(expected) = expect.filter(|expected| *expected != found.unwrap_or(0)) {
            return Err(AliasError::Moved { alias, found, expected: Some(expected).filter(|expected| *expected > 0) });
        }
        let previous = |version| Step { alias: PREVIOUS.into(), before: get(PREVIOUS), version };
        match self {
            Self::Set { version, .. } => {
                if found.is_none() && aliases.len() >= MAX_ALIASES {
                    return Err(AliasError::TooMany);
                }
                let was = found.filter(|was| alias == CHAMPION && get(PREVIOUS) != Some(*was));
                let moved = Step { alias, before: found, version: Some(*version) };
                Ok([moved].into_iter().chain(was.map(|was| previous(Some(was)))).collect())
            }
            Self::Clear { .. } if found.is_none() => Err(AliasError::Unknown(alias)),
            Self::Clear { .. } => Ok(vec![Step { alias, before: found, version: None }]),
            Self::RollBack => {
                let back = get(PREVIOUS).filter(|back| found != Some(*back)).ok_or(AliasError::NoPrevious)?;
                Ok(vec![Step { alias, before: found, version: Some(back) }, previous(None)])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, u32)];

    fn aliases(pairs: Pairs<'_>) -> Aliases {
        pairs.iter().map(|(alias, version)| ((*alias).to_owned(), *version)).collect()
    }

    fn after(before: Pairs<'_>, change: &Change, expect: Option<u32>) -> Result<Aliases, AliasError> {
        let mut aliases = aliases(before);
        for Step { alias, before, version } in change.steps(&aliases, expect)? {
            assert_eq!(aliases.get(&alias).copied(), before, "{alias}");
            assert_ne!(before, version, "{alias} does not move");
            match version {
                Some(version) => drop(aliases.insert(alias, version)),
                None => drop(aliases.remove(&alias)),
            }
        }
        Ok(aliases)
    }

    fn set(alias: &str, version: u32) -> Change {
        Change::Set { alias: alias.into(), version }
    }

    #[test]
    fn the_champion_moves_with_the_previous() {
        let first = after(&[], &set(CHAMPION, 1), Some(0)).unwrap();
        assert_eq!(first, aliases(&[(CHAMPION, 1)]));
        let cases: [(Pairs<'_>, Change, Pairs<'_>); 6] = [
            (&[(CHAMPION, 1)], set(CHAMPION, 2), &[(CHAMPION, 2), (PREVIOUS, 1)]),
            (&[(CHAMPION, 2), (PREVIOUS, 1)], set(CHAMPION, 3), &[(CHAMPION, 3), (PREVIOUS, 2)]),
            (&[(CHAMPION, 2), (PREVIOUS, 1)], set(CHAMPION, 1), &[(CHAMPION, 1), (PREVIOUS, 2)]),
            (&[(CHAMPION, 2), (PREVIOUS, 1)], set("challenger", 3), &[(CHAMPION, 2), (PREVIOUS, 1), ("challenger", 3)]),
            (&[(CHAMPION, 2), (PREVIOUS, 1)], Change::RollBack, &[(CHAMPION, 1)]),
            (&[(PREVIOUS, 1)], Change::RollBack, &[(CHAMPION, 1)]),
        ];
        for (before, change, expected) in cases {
            assert_eq!(after(before, &change, None), Ok(aliases(expected)), "{before:?} {change:?}");
        }
    }

    #[test]
    fn what_is_not_as_expected_stays() {
        let both = [(CHAMPION, 2), (PREVIOUS, 1)];
        let moved = |found, expected| AliasError::Moved { alias: CHAMPION.into(), found, expected };
        assert_eq!(after(&both, &set(CHAMPION, 3), Some(1)), Err(moved(Some(2), Some(1))));
        assert_eq!(after(&both, &set(CHAMPION, 3), Some(0)), Err(moved(Some(2), None)));
        assert_eq!(after(&[], &set(CHAMPION, 3), Some(1)), Err(moved(None, Some(1))));
        assert_eq!(after(&both, &Change::RollBack, Some(3)), Err(moved(Some(2), Some(3))));
        assert_eq!(after(&both, &set(CHAMPION, 2), Some(1)), Ok(aliases(&both)), "a request that is repeated");
        assert_eq!(after(&[(CHAMPION, 2)], &Change::RollBack, None), Err(AliasError::NoPrevious));
        assert_eq!(after(&[(CHAMPION, 2), (PREVIOUS, 2)], &Change::RollBack, None), Err(AliasError::NoPrevious));
        let clear = Change::Clear { alias: "x".into() };
        assert_eq!(after(&both, &clear, None), Err(AliasError::Unknown("x".into())));
        assert_eq!(after(&[("x", 1)], &clear, Some(1)), Ok(aliases(&[])));
        let many: Aliases = (0..MAX_ALIASES).map(|number| (format!("a{number}x"), 1)).collect();
        assert_eq!(set("one", 1).steps(&many, None), Err(AliasError::TooMany));
        assert!(set("a1x", 2).steps(&many, None).is_ok());
    }

    #[test]
    fn a_version_is_named_by_its_number_or_by_an_alias() {
        let read = |text: &str| Reference::parse(text).map(|reference| (reference.to_string(), reference.pick));
        assert_eq!(read("digits"), Ok(("digits".into(), Pick::Newest)));
        assert_eq!(read("digits/3"), Ok(("digits/3".into(), Pick::Number(3))));
        assert_eq!(read("digits@3"), Ok(("digits/3".into(), Pick::Number(3))));
        assert_eq!(read("digits@champion"), Ok(("digits@champion".into(), Pick::Alias("champion".into()))));
        for wrong in [
            "",
            "17",
            "@champion",
            "digits/",
            "digits@",
            "digits/0",
            "digits@0",
            "digits/champion",
            "digits@v3",
            "a@b@c",
            "a/b/3",
            "digits@03",
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_alias_is_a_word() {
        for fine in ["champion", "eu-west", "v", "v3b", "a.1", "night_2"] {
            assert_eq!(problem(fine), None, "{fine}");
        }
        for wrong in ["", "3", "v3", "V03", "007", "a b", "a/b", "@x", "-x", "ä", &"x".repeat(101)] {
            assert!(problem(wrong).is_some(), "{wrong}");
        }
        assert!(reason_problem("better on night 7").is_none());
        for wrong in ["", "a\nb", &"x".repeat(501)] {
            assert!(reason_problem(wrong).is_some(), "{wrong}");
        }
    }
}
