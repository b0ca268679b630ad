//! Files made to harm (`fixtures/pth/hostile.py`), each read in a process of its own that may have 512 MB of addresses and two seconds of a
//! processor, and no more: what takes more is killed by the kernel and fails the test.

use std::{path::Path, process::Command};

use mlctl_protocol::ExitClass;
use mlworker::pth;
use rustix::process::{Resource, Rlimit, setrlimit};

const FILE: &str = "MLCTL_TEST_PTH";
const MEMORY_BYTES: u64 = 512 * 1024 * 1024;
const SECONDS: u64 = 2;
/// Begins the line by which the child tells what became of the file.
const SAYS: &str = "pth: ";

/// What each file is refused with: a part of the message.
const FILES: [(&str, &str); 49] = [
    ("bare_pickle", "bare pickle"),
    ("big_endian", "big-endian"),
    ("bool_instead_of_float", "is bool of shape"),
    ("builtins_eval", "\"builtins.eval\""),
    ("call_of_a_number", "calls something"),
    ("cut_off", "cut off"),
    ("data_missing", "the data of tensor \"layer1.weight\" is missing"),
    ("deep_lists", "too deeply"),
    ("deep_marks", "too deeply"),
    ("deep_tuples", "no dict"),
    ("deflated", "compressed"),
    ("directory_missing", "cut off"),
    ("directory_past_the_end", "directory"),
    ("doubling_lists", "no dict"),
    ("doubling_tuples", "no dict"),
    ("empty", "empty"),
    ("empty_program", "cut off"),
    ("entries_without_end", "directory"),
    ("entry_of_4_gib", "cut off"),
    ("entry_past_the_end", "does not begin"),
    ("expanded_to_8_gib", "of shape [2147483648]"),
    ("flipped_bit_in_data", "checksum"),
    ("flipped_bit_in_program", "checksum"),
    ("instance_opcode", "unknown step"),
    ("legacy", "before version 1.6"),
    ("list_in_itself", "no dict"),
    ("many_kept", "steps"),
    ("many_lists", "unknown step"),
    ("memo_at_the_last_number", "no tensors"),
    ("more_strides_than_sizes", "no possible view"),
    ("negative_offset", "no possible view"),
    ("nested_without_its_key", "several things"),
    ("no_program", "no data.pkl"),
    ("nothing_on_the_stack", "not there"),
    ("pop_below_a_mark", "not there"),
    ("shape_that_overflows", "no possible view"),
    ("storage_larger_than_its_data", "another size"),
    ("storage_of_8_gib", "of shape [2147483648]"),
    ("system", "\"os.system\""),
    ("text", "not a zip archive"),
    ("text_of_2_to_the_63", "a text of more than"),
    ("text_of_461_mb", "a text of more than"),
    ("torchscript", "TorchScript"),
    ("two_of_a_name", "two entries"),
    ("two_programs", "more than one data.pkl"),
    ("unknown_type", "\"torch.QInt8Storage\""),
    ("view_past_the_end", "no possible view"),
    ("whole_module", "whole pickled module"),
    ("good", "loaded"),
];

#[test]
fn files_made_to_harm_end_in_words_within_two_seconds_and_512_mb() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pth/hostile.py");
    let made = Command::new("python3").arg(script).arg(folder.path()).status().expect("python3 is installed");
    assert!(made.success());
    let mut names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort_unstable();
    let mut known = FILES.map(|(name, _)| name);
    known.sort_unstable();
    assert_eq!(names, known);
    for (name, why) in FILES {
        let said = read_apart(&folder.path().join(format!("{name}.pth")));
        assert!(said.contains(why), "{name}: {said}");
    }
}

/// Reads a file in a process of its own, and says what became of it.
fn read_apart(file: &Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find_map(|line| line.split_once(SAYS)).map(|(_, said)| said.to_owned());
    said.unwrap_or_else(|| format!("{}: {text} {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "how the parent names the file")]
    let file = std::env::var_os(FILE).expect("a file to read");
    let limit = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, limit(MEMORY_BYTES)).unwrap();
    setrlimit(Resource::Cpu, limit(SECONDS)).unwrap();
    let bytes = std::fs::read(file).unwrap();
    let layout = [("layer1.weight".to_owned(), vec![2, 2]), ("layer1.bias".to_owned(), vec![2])];
    let said = match pth::load(&bytes, &layout, None) {
        Ok(tensors) => format!("loaded {} tensors", tensors.len()),
        Err(fault) => {
            assert_eq!(fault.class, ExitClass::Spec);
            assert!(fault.hint.is_some());
            fault.message
        }
    };
    println!("\n{SAYS}{said}");
}
