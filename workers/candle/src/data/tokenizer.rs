//! How text becomes tokens. A tokenizer is kept with the model that was trained with it, so that whoever goes on with the model reads text as it did.

use std::collections::BTreeSet;

use mlctl_protocol::spec::TextTokens;
use serde::{Deserialize, Serialize};

/// The most characters of a vocabulary.
const MAX_CHARACTERS: usize = 65_536;

/// Marks a character that is none of a vocabulary.
const UNKNOWN: u32 = u32::MAX;

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Tokenizer {
    /// A byte is a token: its value.
    Bytes,
    /// A character is a token: its place in the vocabulary.
    Characters {
        /// Every character once, in the order of their numbers.
        vocabulary: String,
    },
}

/// A character that is none of a vocabulary, and the byte at which it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// The character.
    pub character: char,
    /// The number of the byte, from 0.
    pub at: usize,
}

impl Tokenizer {
    /// The one of a text whose tokens are what the spec says.
    ///
    /// # Errors
    /// The number of its characters, when they are too many for a vocabulary.
    pub fn of(kind: TextTokens, text: &str) -> Result<Self, usize> {
        match kind {
            TextTokens::Bytes => Ok(Self::Bytes),
            TextTokens::Characters => {
                let characters: BTreeSet<char> = text.chars().collect();
                if characters.len() > MAX_CHARACTERS {
                    return Err(characters.len());
                }
                Ok(Self::Characters { vocabulary: characters.into_iter().collect() })
            }
        }
    }

    /// What a spec calls it.
    #[must_use]
    pub const fn kind(&self) -> TextTokens {
        match self {
            Self::Bytes => TextTokens::Bytes,
            Self::Characters { .. } => TextTokens::Characters,
        }
    }

    /// Tokens that it tells apart.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Characters { vocabulary } => vocabulary.chars().count(),
        }
    }

    /// Whether it is one that [`Self::of`] could have made.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Bytes => true,
            Self::Characters { vocabulary } => {
                vocabulary.chars().is_sorted_by(|one, next| one < next) && self.size() <= MAX_CHARACTERS
            }
        }
    }

    /// The tokens of bytes, which are UTF-8 where tokens are characters.
    ///
    /// # Errors
    /// When a character is none of the vocabulary.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, Unknown> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::Characters { vocabulary } => {
                let numbers = numbers(vocabulary);
                let number = |(at, character): (usize, char)| match numbers[character as usize] {
                    UNKNOWN => Err(Unknown { character, at }),
                    number => Ok(number),
                };
                text.char_indices().map(number).collect()
            }
        }
    }
}

/// The token of each character there is.
fn numbers(vocabulary: &str) -> Vec<u32> {
    let mut numbers = vec![UNKNOWN; char::MAX as usize + 1];
    for (number, character) in (0..).zip(vocabulary.chars()) {
        numbers[character as usize] = number;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_numbered_in_their_order() {
        let tokenizer = Tokenizer::of(TextTokens::Characters, "hällo\n").unwrap();
        assert_eq!(tokenizer, Tokenizer::Characters { vocabulary: "\nhloä".into() });
        assert!(tokenizer.is_sound() && tokenizer.size() == 5 && tokenizer.kind() == TextTokens::Characters);
        assert_eq!(tokenizer.tokens("ohä").unwrap(), [3, 1, 4]);
        assert_eq!(tokenizer.tokens("häx"), Err(Unknown { character: 'x', at: 3 }));
        let back: Tokenizer = serde_json::from_str(&serde_json::to_string(&tokenizer).unwrap()).unwrap();
        assert_eq!(back, tokenizer);
        assert!(!Tokenizer::Characters { vocabulary: "ba".into() }.is_sound());
        assert!(!Tokenizer::Characters { vocabulary: "aa".into() }.is_sound());
    }

    #[test]
    fn more_characters_than_a_vocabulary_has_are_counted() {
        let many: String = ('\u{0}'..'\u{20000}').collect();
        assert_eq!(Tokenizer::of(TextTokens::Characters, &many), Err(0x20000 - 0x800));
    }
}
