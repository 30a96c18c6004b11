//! Guides, done as they stand there: every file of them is saved, every command run, every line that they show looked for.
//!
//! In such a guide a block behind "Save this as `FILE`" is a file; a block `console` holds commands behind `$ `, and lines of
//! what they answer. `console background` goes on running, `console fails` has to fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use portcullis_e2e::parts::{Parts, binary, root};

/// What one block of the guide asks for.
#[derive(Debug)]
enum Step {
    Save { file: String, text: String },
    Run { command: String, shows: Vec<String>, fails: bool },
    Background(String),
}

fn steps(guide: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut file: Option<String> = None;
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("Save this as `").and_then(|rest| rest.split('`').next()) {
            file = Some(name.to_owned());
        }
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.is_empty()) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if let Some(file) = file.take() {
            steps.push(Step::Save { file, text: block.join("\n") + "\n" });
        } else if let Some(how) = kind.strip_prefix("console") {
            for line in block {
                match (line.strip_prefix("$ "), steps.last_mut()) {
                    (Some(command), _) if how == " background" => steps.push(Step::Background(command.to_owned())),
                    (Some(command), _) => {
                        steps.push(Step::Run {
                            command: command.to_owned(),
                            shows: Vec::new(),
                            fails: how == " fails",
                        });
                    }
                    (None, Some(Step::Run { shows, .. })) => shows.push(line.to_owned()),
                    (None, _) => panic!("the guide shows \"{line}\" before any command"),
                }
            }
        }
    }
    steps
}

/// Ends what runs in the background, with all that it started.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        for pid in portcullis_e2e::process::descendants(self.0.id()) {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::TERM,
            );
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A reader with a folder of their own.
struct Reader {
    home: tempfile::TempDir,
    folder: PathBuf,
    /// What was exported in the reader's terminal.
    exported: Vec<(String, String)>,
    /// Where projects are built: their dependencies are compiled once, however often this test runs.
    target: PathBuf,
    running: Vec<Running>,
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap().join("authored");
        fs::create_dir_all(&target).unwrap();
        Self { folder: home.path().to_owned(), home, target, exported: Vec::new(), running: Vec::new() }
    }

    fn shell(&self, command: &str) -> Command {
        let mut shell = Command::new("sh");
        let python = PathBuf::from(Parts::get().python("python3"));
        let path = [binary().parent().unwrap(), python.parent().unwrap()]
            .iter()
            .map(|folder| folder.display().to_string())
            .chain(std::env::var("PATH"))
            .collect::<Vec<_>>()
            .join(":");
        shell.arg("-c").arg(command).current_dir(&self.folder).stdin(Stdio::null());
        shell.env("PATH", path).env("PORTCULLIS_HOME", self.home.path().join("gateway"));
        shell.envs(self.exported.iter().map(|(name, value)| (name, value)));
        // What the project's lock file names is there since this workspace was built.
        shell.env("CARGO_NET_OFFLINE", "true");
        for name in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
            shell.env_remove(name);
        }
        shell
    }

    fn enter(&mut self, folder: &str) {
        self.folder = self.folder.join(folder);
        let target = self.folder.join("target");
        if self.folder.join("Cargo.toml").is_file() && !target.exists() {
            std::os::unix::fs::symlink(&self.target, target).unwrap();
        }
    }

    fn run(&self, command: &str, shows: &[String], fails: bool) {
        // What needs the gateway or the service may come before those are up.
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let output = self.shell(command).output().unwrap();
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let missing: Vec<_> = shows.iter().filter(|line| !said.contains(line.as_str())).collect();
            if output.status.success() != fails && missing.is_empty() {
                return;
            }
            let unreachable = output.status.code() == Some(5)
                || said.contains("gives no answer")
                || (command.contains(" call ") && !output.status.success());
            assert!(
                unreachable && Instant::now() < until,
                "`{command}` ended with {:?} and does not show {missing:?}:\n{said}",
                output.status.code()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn follow(&mut self, guide: &str) {
        for step in steps(guide) {
            match step {
                Step::Save { file, text } => fs::write(self.folder.join(file), text).unwrap(),
                Step::Background(command) => {
                    let log = fs::File::create(self.home.path().join(format!("log{}", self.running.len()))).unwrap();
                    let mut shell = self.shell(&command);
                    shell.stdout(log.try_clone().unwrap()).stderr(log);
                    self.running.push(Running(shell.spawn().unwrap()));
                }
                Step::Run { command, shows, fails } => {
                    if let Some(folder) = command.strip_prefix("cd ") {
                        self.enter(folder);
                    } else if let Some((name, value)) = command.strip_prefix("export ").and_then(|e| e.split_once('='))
                    {
                        self.exported.push((name.to_owned(), value.to_owned()));
                    } else {
                        self.run(&command, &shows, fails);
                    }
                }
            }
        }
    }
}

fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

fn guide(file: &str) -> String {
    let text = fs::read_to_string(Path::new(&root()).join("docs").join(file)).unwrap();
    // Others may use these ports on this machine; nothing else is changed.
    let text = ["18765", "17777", "15000"].iter().fold(text, |text, port| text.replace(port, &free_port()));
    text.replace("portcullis quickstart", "portcullis quickstart --listen 127.0.0.1:0")
}

#[test]
fn a_newcomer_gets_from_nothing_to_a_plugin_that_serves() {
    Reader::new().follow(&guide("plugins/guide.md"));
}

#[test]
fn a_newcomer_gets_from_nothing_to_a_plugin_in_python() {
    let text = guide("plugins/python.md");
    // What the guide shows is what is tried as a plugin that serves.
    let example = root().join("plugins/examples/python");
    let mut shown = 0;
    for step in steps(&text) {
        if let Step::Save { file, text } = step {
            assert_eq!(text, fs::read_to_string(example.join(&file)).unwrap(), "{file}");
            shown += 1;
        }
    }
    assert_eq!(shown, 5);
    let mut reader = Reader::new();
    let wheels = Parts::get().python_plugin.as_ref().expect("cargo xtask setup says where it is");
    let wheels = wheels.with_file_name("wheels").display().to_string();
    reader
        .exported
        .extend([("PIP_NO_INDEX", "1".to_owned()), ("PIP_FIND_LINKS", wheels)].map(|(n, v)| (n.to_owned(), v)));
    reader.follow(&text);
}

#[test]
fn a_newcomer_gets_from_nothing_to_tools_without_a_server() {
    Reader::new().follow(&guide("guides/wasm-tools.md"));
}

/// The other templates build, conform and say what is recorded, without an edit.
#[test]
fn every_template_is_sound_as_it_comes() {
    for template in ["provider", "policy"] {
        let mut reader = Reader::new();
        reader.run(&format!("portcullis plugin new sample-{template} --template {template}"), &[], false);
        reader.enter(&format!("sample-{template}"));
        let shows =
            ["ok      component: asks for the grants that it needs".to_owned(), " of 3 recorded cases".to_owned()];
        reader.run("portcullis plugin test", &shows, false);
        reader.run("portcullis plugin bench --calls 90", &["FRESH US".to_owned()], false);
        // What its resources say is what a gateway takes.
        reader.run(
            &format!("portcullis plugin inspect target/wasm32-wasip2/release/sample_{template}.wasm -o json"),
            &["configSchema".to_owned()],
            false,
        );
    }
}
