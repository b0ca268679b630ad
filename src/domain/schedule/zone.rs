//! The time zone a schedule is read in, by its IANA name. The database of zones comes in as an argument: on a real system it follows updates of tzdata.

use jiff::tz::{TimeZone, TimeZoneDatabase};

/// The longest name looked up, in bytes; the longest there is has 30.
const MAX_NAME_BYTES: usize = 100;

/// A name that is no zone's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ZoneError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// The zone of that name. Large and small letters do not matter; [`TimeZone::iana_name`] has the proper ones.
///
/// # Errors
/// When there is none.
pub fn zone(database: &TimeZoneDatabase, name: &str) -> Result<TimeZone, ZoneError> {
    let short = name.len() <= MAX_NAME_BYTES;
    if let Some(zone) = short.then(|| database.get(name).ok()).flatten().filter(|zone| !zone.is_unknown()) {
        return Ok(zone);
    }
    let hint = if database.is_definitively_empty() || database.available().next().is_none() {
        "this system has no time zones: install the package tzdata".into()
    } else if name.starts_with(['+', '-']) {
        "a zone has a name, such as Europe/Berlin; UTC and Etc/GMT-2 are those without summer time".into()
    } else {
        let meant = short.then(|| nearest(database, name)).flatten();
        meant.map_or_else(
            || "name a zone of the IANA database, such as Europe/Berlin or UTC".into(),
            |meant| format!("did you mean `{meant}`?"),
        )
    };
    let shown: String = name.chars().take(MAX_NAME_BYTES).collect();
    Err(ZoneError { message: format!("{shown:?} is no time zone"), hint })
}

/// The zone whose name, or its last part, is a slip of the fingers away.
fn nearest(database: &TimeZoneDatabase, name: &str) -> Option<String> {
    let name = name.to_lowercase().replace(' ', "_");
    let distance = |zone: &str| {
        let zone = zone.to_lowercase();
        let city = zone.rsplit('/').next().unwrap_or_default();
        strsim::damerau_levenshtein(&name, &zone).min(strsim::damerau_levenshtein(&name, city))
    };
    let zones = database.available().map(|zone| (distance(zone.as_str()), zone.as_str().to_owned()));
    let (distance, zone) = zones.min()?;
    (distance <= name.chars().count() / 4).then_some(zone)
}
