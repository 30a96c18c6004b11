//! A real browser, used by keyboard: Debian's Chromium, driven by `tests/fixtures/node/browse.mjs`.

use std::{path::Path, process::Stdio};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::parts::{Parts, root};

/// How a browser is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taste {
    /// Prefers dark pages.
    pub dark: bool,
    /// Runs the scripts of pages.
    pub scripts: bool,
    /// How wide its window is.
    pub width: Option<u32>,
}

/// The browser, running until dropped.
pub struct Chromium {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// What the page shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Where it is.
    pub url: String,
    /// Its title.
    pub title: String,
    /// What can be read.
    pub text: String,
    /// The id of what has the focus.
    pub focus: String,
    /// The page as it came.
    pub html: String,
    /// Whether it has to be moved sideways to be read.
    pub wide: bool,
}

impl Chromium {
    /// Starts it with a profile of its own.
    ///
    /// # Errors
    /// Where it does not start.
    pub async fn start(taste: Taste) -> anyhow::Result<Self> {
        let parts = Parts::get();
        let mut child = Command::new(&parts.node_bin)
            .arg(root().join("tests/fixtures/node/browse.mjs"))
            .env("PORTCULLIS_TEST_NODE", &parts.node)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut browser = Self { _child: child, input, output };
        let width = taste.width.unwrap_or(1000);
        browser.say(json!({"do": "start", "dark": taste.dark, "scripts": taste.scripts, "width": width})).await?;
        Ok(browser)
    }

    async fn say(&mut self, command: Value) -> anyhow::Result<Value> {
        self.input.write_all(format!("{command}\n").as_bytes()).await?;
        let line = self.output.next_line().await?.context("the browser ended")?;
        let mut answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{command}: {error}");
        }
        Ok(answer["ok"].take())
    }

    /// Goes somewhere. Answers the status.
    ///
    /// # Errors
    /// Where nobody answers.
    pub async fn go(&mut self, url: &str) -> anyhow::Result<u64> {
        Ok(self.say(json!({"do": "go", "url": url})).await?["status"].as_u64().unwrap_or_default())
    }

    /// Moves the focus by Tab to what is called so.
    ///
    /// # Errors
    /// Where it can't be reached, or something on the way did not show that it had the focus.
    pub async fn tab(&mut self, name: &str) -> anyhow::Result<()> {
        let moved = self.say(json!({"do": "tab", "name": name})).await?;
        if moved["unseen"].as_array().is_some_and(|u| !u.is_empty()) {
            bail!("the focus could not be seen on {}", moved["unseen"]);
        }
        Ok(())
    }

    /// Moves the focus to a field and writes into it.
    ///
    /// # Errors
    /// As [`Chromium::tab`].
    pub async fn write(&mut self, field: &str, text: &str) -> anyhow::Result<()> {
        self.tab(field).await?;
        self.say(json!({"do": "write", "text": text})).await?;
        Ok(())
    }

    /// Presses a key.
    ///
    /// # Errors
    /// Where the browser fails.
    pub async fn key(&mut self, key: &str) -> anyhow::Result<()> {
        self.say(json!({"do": "key", "key": key})).await?;
        Ok(())
    }

    /// Moves the focus to a link or button and presses it, and waits for the page that it leads to.
    ///
    /// # Errors
    /// As [`Chromium::tab`], or where no page comes.
    pub async fn press(&mut self, name: &str) -> anyhow::Result<()> {
        self.tab(name).await?;
        self.say(json!({"do": "follow"})).await?;
        Ok(())
    }

    /// Writes into a field of a page that is not ours, found by a CSS selector.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn fill(&mut self, selector: &str, text: &str) -> anyhow::Result<()> {
        self.say(json!({"do": "fill", "selector": selector, "text": text})).await.map(drop)
    }

    /// Presses a button of a page that is not ours, and waits for the page that it leads to.
    ///
    /// # Errors
    /// Where there is none, or no page comes.
    pub async fn click(&mut self, selector: &str) -> anyhow::Result<()> {
        self.say(json!({"do": "click", "selector": selector})).await.map(drop)
    }

    /// What is shown.
    ///
    /// # Errors
    /// Where the browser fails.
    pub async fn shown(&mut self) -> anyhow::Result<Shown> {
        let seen = self.say(json!({"do": "where"})).await?;
        let text = |name: &str| seen[name].as_str().unwrap_or_default().to_owned();
        let (url, title, focus) = (text("url"), text("title"), text("focus"));
        Ok(Shown { url, title, focus, text: text("text"), html: text("html"), wide: seen["wide"] == true })
    }

    /// Keeps a picture of the whole page, and checks it with axe-core.
    ///
    /// # Errors
    /// What axe finds wrong.
    pub async fn look(&mut self, picture: &Path) -> anyhow::Result<()> {
        self.say(json!({"do": "shot", "file": picture})).await?;
        let found = self.say(json!({"do": "axe"})).await?["found"].take();
        if found.as_array().is_some_and(|f| !f.is_empty()) {
            bail!("{}: {found:#}", picture.display());
        }
        Ok(())
    }
}
