//! What is a line and what is none, and what it means at UTC.

use super::{
    super::{Crontab, MAX_EXPRESSION_BYTES},
    moment, timetable,
};

/// Monday, 23 November 2026, at noon.
const NOON: &str = "2026-11-23T12:00:00Z";

fn next(line: &str, count: usize) -> Vec<String> {
    timetable(line, "UTC").after(moment(NOON)).take(count).map(|tick| tick.at.to_string()).collect()
}

#[test]
fn lines_mean_what_crontab_says() {
    let cases: &[(&str, &[&str])] = &[
        ("0 2 * * *", &["2026-11-24T02:00:00Z", "2026-11-25T02:00:00Z"]),
        ("0 12 * * *", &["2026-11-24T12:00:00Z"]),
        ("0 0 * * 0", &["2026-11-29T00:00:00Z", "2026-12-06T00:00:00Z"]),
        ("0 0 * * 1", &["2026-11-30T00:00:00Z"]),
        ("0 0 * * 7", &["2026-11-29T00:00:00Z"]),
        ("0 0 * * sun", &["2026-11-29T00:00:00Z"]),
        (
            "0 0 * * fri-sun",
            &["2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z", "2026-12-04T00:00:00Z"],
        ),
        (
            "0 0 * * 5-7",
            &["2026-11-27T00:00:00Z", "2026-11-28T00:00:00Z", "2026-11-29T00:00:00Z", "2026-12-04T00:00:00Z"],
        ),
        (
            "0 0 * * 1-5",
            &[
                "2026-11-24T00:00:00Z",
                "2026-11-25T00:00:00Z",
                "2026-11-26T00:00:00Z",
                "2026-11-27T00:00:00Z",
                "2026-11-30T00:00:00Z",
            ],
        ),
        (
            "0 0 13 * 5",
            &["2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z", "2026-12-11T00:00:00Z", "2026-12-13T00:00:00Z"],
        ),
        ("0 0 */2 * 1", &["2026-12-07T00:00:00Z", "2026-12-21T00:00:00Z"]),
        ("0 0 1,15 * */2", &["2026-12-01T00:00:00Z", "2026-12-15T00:00:00Z", "2027-04-01T00:00:00Z"]),
        ("*/90 * * * *", &["2026-11-23T13:00:00Z", "2026-11-23T14:00:00Z"]),
        (
            "5/15 * * * *",
            &[
                "2026-11-23T12:05:00Z",
                "2026-11-23T12:20:00Z",
                "2026-11-23T12:35:00Z",
                "2026-11-23T12:50:00Z",
                "2026-11-23T13:05:00Z",
            ],
        ),
        (
            "10-30/10,7 12 * * *",
            &[
                "2026-11-23T12:07:00Z",
                "2026-11-23T12:10:00Z",
                "2026-11-23T12:20:00Z",
                "2026-11-23T12:30:00Z",
                "2026-11-24T12:07:00Z",
            ],
        ),
        ("7-7/5 * * * *", &["2026-11-23T12:07:00Z", "2026-11-23T13:07:00Z"]),
        ("0 0 29 2 *", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]),
        ("0 0 29 feb *", &["2028-02-29T00:00:00Z"]),
        ("0 0 31 * *", &["2026-12-31T00:00:00Z", "2027-01-31T00:00:00Z", "2027-03-31T00:00:00Z"]),
        ("0 0 30 2 1", &["2027-02-01T00:00:00Z", "2027-02-08T00:00:00Z"]),
        ("0 0 1 JAN-mar/2 *", &["2027-01-01T00:00:00Z", "2027-03-01T00:00:00Z", "2028-01-01T00:00:00Z"]),
        ("  00\t02  * * * ", &["2026-11-24T02:00:00Z"]),
        ("@hourly", &["2026-11-23T13:00:00Z"]),
        ("@daily", &["2026-11-24T00:00:00Z"]),
        ("@midnight", &["2026-11-24T00:00:00Z"]),
        ("@Weekly", &["2026-11-29T00:00:00Z"]),
        ("@monthly", &["2026-12-01T00:00:00Z"]),
        ("@yearly", &["2027-01-01T00:00:00Z"]),
        ("@annually", &["2027-01-01T00:00:00Z"]),
    ];
    for (line, expected) in cases {
        assert_eq!(next(line, expected.len()), *expected, "{line}");
    }
}

#[test]
fn what_is_no_line_is_refused_where_it_is_wrong() {
    let cases = [
        ("", 1, "nothing is given", "five fields"),
        ("   ", 1, "nothing is given", "five fields"),
        ("0 2 * *", 8, "only 4 of five fields", "day of week"),
        ("0 0 2 * * *", 11, "6 fields are given", "leave out the seconds"),
        ("0 0 2 * * * 2026", 11, "7 fields are given", "the seconds and the year"),
        ("0 2 * * * /usr/bin/train --now x", 11, "8 fields", "only the time belongs here"),
        ("CRON_TZ=UTC 0 2 * * *", 1, "is no field", "--zone"),
        ("@reboot", 1, "`@reboot`", "submit a job instead"),
        (" @reboot", 2, "`@reboot`", "submit a job instead"),
        ("@every 5m", 1, "`@every 5m`", "*/15"),
        ("@dayly", 1, "`@dayly`", "@daily"),
        ("60 * * * *", 1, "minute 60 is out of range", "from 0 to 59"),
        ("0 24 * * *", 3, "hour 24 is out of range", "from 0 to 23"),
        ("0 0 0 * *", 5, "day of month 0 is out of range", "from 1 to 31"),
        ("0 0 32 * *", 5, "day of month 32 is out of range", "from 1 to 31"),
        ("0 0 * 13 *", 7, "month 13 is out of range", "jan to dec"),
        ("0 0 * * 8", 9, "day of week 8 is out of range", "0 and 7 are Sunday"),
        ("0 0 * * 1,99999999999", 11, "day of week 99999999999", "0 and 7 are Sunday"),
        ("*5 * * * *", 1, "a number follows `*`", "`*/5`"),
        ("0 2* * * *", 4, "`*` is not expected in the hour", "`/` comes before a step"),
        ("0 *-5 * * *", 4, "`-` is not expected", "from 0 to 23"),
        ("*/0 * * * *", 3, "a step of the minute is 0", "1 or more"),
        ("*/ * * * *", 3, "missing its number", "`*/15`"),
        ("*/x * * * *", 3, "missing its number", "`*/15`"),
        ("*/5/5 * * * *", 4, "`/` is not expected", "from 0 to 59"),
        ("0 22-2 * * *", 3, "goes backwards, from 22 to 2", "22-23,0-2"),
        ("0 0 * * fri-mon", 9, "goes backwards, from 5 to 1", "5-6,0-1"),
        ("0 1,,2 * * *", 5, "a value of the hour is missing", "from 0 to 23"),
        ("0 1, * * *", 5, "a value of the hour is missing", "from 0 to 23"),
        ("0 1- * * *", 5, "a value of the hour is missing", "from 0 to 23"),
        ("0 -1 * * *", 3, "a value of the hour is missing", "from 0 to 23"),
        ("0 0 L * *", 5, "`l` is no day of month", "28-31"),
        ("0 0 * * 5L", 10, "`L` is not expected", "parted by spaces"),
        ("0 0 * * 5#2", 10, "`#` is not expected", "no nth weekday"),
        ("0 0 ? * *", 5, "`?` is not expected", "write `*`"),
        ("H 2 * * *", 1, "`h` is no minute", "name a minute"),
        ("0 0 * foo *", 7, "`foo` is no month", "jan to dec"),
        ("0 0 * january *", 7, "`january` is no month", "three letters: jan"),
        ("0 0 * * mon,tuesday", 13, "`tuesday` is no day of week", "three letters: tue"),
        ("0 0 mon * *", 5, "`mon` is no day of month", "from 1 to 31"),
        ("0 0 30 2 *", 5, "30 February does not exist: this would never run", "up to 29"),
        ("0 0 30,31 feb */2", 5, "30 February does not exist", "up to 29"),
        ("0 0 31 2,4,6 *", 5, "31 February or April or June does not exist", "up to 30"),
        ("0 2\n * * *", 4, "'\\n' has no meaning", "parted by spaces"),
        ("0 2 * * ٣", 9, "has no meaning", "digits"),
        ("ü", 1, "has no meaning", "digits"),
    ];
    for (line, column, message, hint) in cases {
        let error = Crontab::parse(line).expect_err(line);
        assert_eq!(error.column, column, "{line}: {error}");
        assert!(error.message.contains(message), "{line}: {error}");
        assert!(error.hint.contains(hint), "{line}: {}", error.hint);
    }
}

#[test]
fn a_line_is_bounded() {
    let every: Vec<_> = (0..60).map(|minute| minute.to_string()).collect();
    assert!(Crontab::parse(&format!("{} * * * *", every.join(","))).is_ok());
    let long = format!("{} * * * *", "1,".repeat(MAX_EXPRESSION_BYTES));
    assert!(Crontab::parse(&long).unwrap_err().message.contains("at most 1000 bytes"));
}

#[test]
fn a_line_says_what_may_not_be_meant() {
    let cases = [
        ("0 0 13 * 5", Some("either fits")),
        ("0 0 */2 * 1", Some("both fit")),
        ("0 0 1,15 * */2", Some("both fit")),
        ("*/90 * * * *", Some("a step of 90 leaves only minute 0")),
        ("0 0 1-31 * 5", None),
        ("0 0 13 * 0-7", None),
        ("*/15 2 * * 1-5", None),
        ("7-7/5 * * * *", None),
    ];
    for (line, remark) in cases {
        let line = Crontab::parse(line).unwrap();
        assert_eq!(line.remarks().len(), usize::from(remark.is_some()), "{line:?}");
        if let Some(remark) = remark {
            assert!(line.remarks()[0].contains(remark), "{line:?}");
        }
    }
}

#[test]
fn only_a_star_at_the_beginning_follows_the_clock() {
    for (line, follows) in [
        ("* 2 * * *", true),
        ("*/10 2 * * *", true),
        ("0 * * * *", true),
        ("0 */2 * * *", true),
        ("@hourly", true),
        ("0-59 2 * * *", false),
        ("0 0-23 * * *", false),
        ("0 0,*/6 * * *", false),
        ("0 2 * * *", false),
        ("@daily", false),
    ] {
        assert_eq!(Crontab::parse(line).unwrap().follows_the_clock(), follows, "{line}");
    }
}

#[test]
fn ticks_end_with_the_engine_and_not_in_a_loop() {
    let last = timetable("0 0 1 1 *", "Europe/Berlin").after(moment(NOON)).last().unwrap();
    assert_eq!(last.at, moment("2099-12-31T23:00:00Z"));
    assert_eq!(timetable("0 0 1 1 *", "UTC").after(moment("2101-01-01T00:00:00Z")).next(), None);
    assert_eq!(timetable("* * * * *", "UTC").after(jiff::Timestamp::MAX).next(), None);
    assert!(timetable("* * * * *", "UTC").after(jiff::Timestamp::MIN).next().is_some());
}
