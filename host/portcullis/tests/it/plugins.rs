//! A plugin's file that is replaced while the gateway serves, though no resource changed.

use std::fs;

use crate::support::{Gateway, eventually, run_with};

#[test]
fn a_replaced_component_is_noticed_though_nothing_else_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("serve.yaml"), "listen: 127.0.0.1:0\ndataDir: .\n").unwrap();
    let config = dir.path().join("serve.yaml");
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "is in this file");
    let component = dir.path().join("policy.wasm");
    fs::write(&component, "no component at all").unwrap();
    let set = format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: policy}}\nspec: {{source: {{file: {{path: '{}'}}}}}}\n",
        component.display()
    );
    assert_eq!(run_with(dir.path(), &["apply", "-f", "-"], &set).code, 0);
    let said = || gateway.run(&["describe", "plugin", "policy"]).out;
    assert!(said().contains("NotLoaded"), "{}", said());
    let built_in = portcullis_plugins::built_ins().iter().find(|b| b.name == "tool-access").unwrap();
    fs::write(&component, built_in.wasm).unwrap();
    eventually("the component is loaded", || said().contains("AsWritten"));
    // Another one that does not load leaves the one before.
    fs::write(&component, "broken again, and longer").unwrap();
    eventually("the breakage is told", || said().contains("PreviousServes"));
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_by_its_path_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("serve.yaml"), "listen: 127.0.0.1:0\ndataDir: .\n").unwrap();
    let config = dir.path().join("serve.yaml");
    let gateway = Gateway::start(dir.path(), &["serve", "--config", config.to_str().unwrap()], "is in this file");
    let component = dir.path().join("own.wasm");
    let built_in = portcullis_plugins::built_ins().iter().find(|b| b.name == "client-certificate").unwrap();
    fs::write(&component, built_in.wasm).unwrap();
    let head = "apiVersion: portcullis.dev/v1alpha1\n";
    let own = |config: &str| {
        let path = component.display();
        format!(
            "{head}kind: Plugin\nmetadata: {{name: own}}\nspec: {{source: {{file: {{path: '{path}'}}}}, config: {config}}}\n"
        )
    };
    let place = |name: &str, config: &str| {
        format!(
            "{head}kind: Gateway\nmetadata: {{name: {name}}}\nspec: {{auth: [{{plugin: bearer-token}}, {{plugin: {name}{config}}}]}}\n"
        )
    };
    for (set, problem) in [
        (own("{issuer: 7}"), "spec.config.issuer: must be a text, not a number"),
        (
            place("client-certificate", ", config: {issuer: a, grups: []}"),
            "spec.auth[1].config.grups: is unknown; there is",
        ),
        (place("client-certificate", ""), "spec.auth[1].config.issuer: is missing"),
        // The plugin is not there yet: what it says is not known, unless it comes along.
        (
            format!("{}---\n{}", own("{issuer: a}"), place("own", ", config: []")),
            "spec.auth[1].config: must be an object",
        ),
    ] {
        let refused = run_with(dir.path(), &["apply", "-f", "-"], &set);
        assert_eq!(refused.code, 4, "{set}: {}", refused.out);
        assert!(refused.err.contains(problem), "{problem} in {}", refused.err);
    }
    assert_eq!(gateway.run(&["get", "plugins"]).out, "nothing there yet\n");
    let taken =
        run_with(dir.path(), &["apply", "-f", "-"], &format!("{}---\n{}", own("{issuer: a}"), place("own", "")));
    assert_eq!(taken.code, 0, "{}", taken.err);
}
