//! The invariants that no compiler checks, checked: `cargo xtask tidy`, and a test, so that nobody can forget.

mod arrows;
mod contract;
mod files;
mod links;
mod lists;
mod metrics;

use anyhow::bail;

/// What was found.
#[derive(Default)]
pub struct Findings {
    /// Each fails the check.
    pub faults: Vec<String>,
    /// Worth a look; fails nothing.
    pub questions: Vec<String>,
}

impl Findings {
    /// A finding that fails the check.
    fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    /// A finding that somebody should look at.
    fn question(&mut self, text: impl Into<String>) {
        self.questions.push(text.into());
    }
}

/// Checks everything.
pub fn check() -> anyhow::Result<Findings> {
    let mut found = Findings::default();
    arrows::check(&mut found)?;
    files::check(&mut found)?;
    lists::check(&mut found)?;
    contract::check(&mut found)?;
    links::check(&mut found)?;
    metrics::check(&mut found)?;
    Ok(found)
}

/// `cargo xtask tidy`.
pub fn run() -> anyhow::Result<()> {
    let found = check()?;
    for question in &found.questions {
        println!("question: {question}");
    }
    for fault in &found.faults {
        println!("fault: {fault}");
    }
    if found.faults.is_empty() {
        println!("tidy");
        return Ok(());
    }
    bail!("{} faults", found.faults.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn the_repository_is_tidy() {
        let found = super::check().unwrap();
        assert!(found.faults.is_empty(), "\n{}", found.faults.join("\n"));
    }
}
