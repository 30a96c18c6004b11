//! Processes: who descends from whom, and who is left.

use std::{collections::BTreeSet, fs};

/// Everything that descends from a process, itself left out. Zombies don't count: their parent has still to look.
pub fn descendants(pid: u32) -> BTreeSet<u32> {
    let mut all = BTreeSet::new();
    let mut of = vec![pid];
    while let Some(parent) = of.pop() {
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(child) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            if parent_of(child) == Some(parent) && all.insert(child) {
                of.push(child);
            }
        }
    }
    all.retain(|p| alive(*p));
    all
}

/// Whether a process runs, and is no zombie.
pub fn alive(pid: u32) -> bool {
    field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// The command line of a process, for messages.
pub fn command(pid: u32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ")
}

fn parent_of(pid: u32) -> Option<u32> {
    field(pid, 1)?.parse().ok()
}

/// A field of `/proc/PID/stat` behind the program's name, from 0.
fn field(pid: u32, at: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(at).map(str::to_owned)
}
