//! What `--help` says.

use crate::support::run;

#[test]
fn the_first_page_names_every_verb_and_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]);
    assert_eq!(help.code, 0);
    insta::assert_snapshot!(help.out, @r#"
    One endpoint in front of many MCP servers.

    Portcullis says who is calling, which tools they may use, and whose credential each call carries; it
    runs the servers that somebody has to run.

    Usage: portcullis [OPTIONS] <COMMAND>

    Commands:
      quickstart   Serve a gateway with a small server in it, ready to use
      serve        Serve gateways
      apply        Create or change resources
      get          Show resources
      describe     Show a resource and how it is doing
      delete       Delete a resource
      connect      Connect a server: give it an owner, values and secrets
      token        Create, list and revoke tokens
      signin       Make a one-time code by which a person signs in to the pages
      call         Call a tool through a gateway, or list the tools
      logs         Show what a server wrote: a process to standard error, a pod to its log
      plugin       Write, try out and look at plugins; see how those of a gateway stand, and go back
      crds         Print the kinds as Kubernetes custom resource definitions
      restart      Restart a server that Portcullis runs
      stop         Stop a server that Portcullis runs, until `portcullis start`
      start        Allow a stopped server again
      scale        Say how many pods a server in the cluster has
      render       Show the Kubernetes objects that a server becomes
      doctor       Look for what is not as it should be
      explain      Say what a call would meet: policies, account, server; the call is not made
      store        Look after the store
      demo-server  Be a small MCP server on standard input and output
      bridge       Be a server's standard input and output, and speak streamable HTTP for it

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Gateway:
          --socket <PATH>
              The admin socket of the gateway [default: admin.sock in the data directory]
              
              [env: PORTCULLIS_SOCKET=]

          --admin-url <URL>
              The admin listener of a gateway elsewhere, in place of the socket
              
              [env: PORTCULLIS_ADMIN_URL=]

          --admin-token-file <PATH>
              A file with the token for it; without one, PORTCULLIS_ADMIN_TOKEN holds the token
              
              [env: PORTCULLIS_ADMIN_TOKEN_FILE=]

          --tenant <NAME>
              The tenant
              
              [env: PORTCULLIS_TENANT=]
              [default: default]

      -o, --output <OUTPUT>
              How answers are printed

              Possible values:
              - table: For people
              - json:  JSON, one document
              - yaml:  YAML, one document or, of a list of resources, several
              
              [default: table]

    Exit codes:
      0  done
      1  failed
      2  the command line makes no sense
      3  what was named does not exist
      4  refused or denied
      5  the gateway can't be reached

    With -o json errors are JSON on standard error as well: {"error": {"side", "code", "message",
    "next"}}.
    "#);
}

#[test]
fn every_verb_shows_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let verbs = [
        "quickstart",
        "serve",
        "apply",
        "get",
        "describe",
        "delete",
        "connect",
        "call",
        "logs",
        "restart",
        "stop",
        "start",
        "scale",
        "render",
        "doctor",
        "demo-server",
        "plugin",
        "plugin new",
        "plugin build",
        "plugin test",
        "plugin bench",
        "plugin inspect",
        "plugin vendor",
        "token create",
        "token revoke",
    ];
    for verb in verbs {
        let mut args: Vec<&str> = verb.split(' ').collect();
        args.push("--help");
        let help = run(dir.path(), &args);
        assert_eq!(help.code, 0, "{verb}");
        assert!(help.out.contains("Example"), "{verb}: {}", help.out);
        assert!(!help.out.contains("[env: PORTCULLIS_TOKEN="), "{verb}");
    }
}

#[test]
fn the_reference_has_every_verb_and_option() {
    let reference = include_str!("../../../../docs/cli.md");
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("\n\n").next().unwrap();
    for verb in commands.lines().filter_map(|l| l.split_whitespace().next()) {
        assert!(reference.contains(&format!("## {verb}\n")), "docs/cli.md has no section on {verb}");
        let page = run(dir.path(), &[verb, "--help"]).out;
        for option in page.split_whitespace().filter(|w| w.starts_with("--") && w.len() > 2) {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let known = ["--help", "--version", "--transport", "--header"].contains(&option);
            assert!(known || reference.contains(option), "docs/cli.md does not tell of {verb} {option}");
        }
    }
}
