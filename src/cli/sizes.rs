//! Sizes of memory as people write them on a command line. Text in, value out. Called by clap, for the flags that take one.

use mlctl_protocol::spec::MAX_MIB;

/// A size in MiB, begun ones counted: `512MiB`, `6GiB`, `1.5GiB`, `24GB` (of 1000³ bytes); a bare number is MiB.
///
/// # Errors
/// What was expected.
pub fn mib(text: &str) -> Result<u32, String> {
    let expected = || "expected a size such as 512MiB, 6GiB or 1.5GiB".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| expected())?;
    let bytes = match unit.trim() {
        "" | "MiB" | "M" | "Mi" => 1024.0_f64.powi(2),
        "GiB" | "G" | "Gi" => 1024.0_f64.powi(3),
        "TiB" | "T" | "Ti" => 1024.0_f64.powi(4),
        "KiB" | "K" | "Ki" => 1024.0,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        _ => return Err(expected()),
    };
    let mib = (number * bytes / 1024.0_f64.powi(2)).ceil();
    if mib > f64::from(MAX_MIB) {
        return Err("expected no more than 1024 TiB".into());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole, not negative and small")]
    Ok(mib as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, expected) in [
            ("512", 512),
            ("512MiB", 512),
            ("6GiB", 6144),
            ("6 GiB", 6144),
            ("6G", 6144),
            ("1.5GiB", 1536),
            ("24GB", 22_889),
            ("1KiB", 1),
            ("0", 0),
            ("1024TiB", MAX_MIB),
        ] {
            assert_eq!(mib(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "6 gigs", "-1", "6GiBx", "1e9", "1025TiB", "1..5GiB", "NaN"] {
            assert!(mib(text).is_err(), "{text}");
        }
    }
}
