//! What a process has used: CPU time and memory, from `/proc`.

use std::{fs, process::Child, time::Duration};

use anyhow::Context;

/// A child that is killed when it is dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time that a process and its living children have used so far, all threads together (`proc(5)`, fields 14 and 15).
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for pid in family(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
        // The second field is the program's name in parentheses and may hold blanks.
        let fields: Vec<&str> = stat.rsplit_once(')').context("/proc/PID/stat")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        total += Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64);
    }
    Ok(total)
}

/// Resident memory of a process and its living children, in megabytes (10^6 bytes).
pub fn rss_mb(pid: u32) -> anyhow::Result<f64> {
    let mut kilobytes = 0_u64;
    for pid in family(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap_or("VmRSS: 0 kB");
        kilobytes += line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(kilobytes as f64 * 1024.0 / 1e6)
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    // A child is listed under the thread that made it.
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
            all.extend(family(child));
        }
    }
    all
}
