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
