//! The suites on real components: every built-in holds, its recorded cases say what they said, and what misbehaves is found.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../plugin/tests/it/built.rs"]
mod built;

use std::{path::Path, sync::Arc};

use built::{built_in, guest};
use portcullis_model::spec::Isolation;
use portcullis_plugin::{Component, Host};
use portcullis_testing::{
    Case, Trial,
    conformance::{self, Outcome, Report},
    cost, host,
    recorded::{self, Recorded, Verdict},
};

fn cases(name: &str) -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins").join(name).join("tests");
    let found = recorded::read(&folder).unwrap();
    assert!(!found.is_empty(), "plugins/{name}/tests holds no case: each built-in brings what it is tried with");
    found
}

async fn compiled(host: &Arc<Host>, wasm: Arc<[u8]>) -> Arc<Component> {
    host.compile(wasm).await.unwrap()
}

#[tokio::test]
async fn every_built_in_conforms_and_says_what_is_recorded() {
    let host = host().unwrap();
    let mut wrong = Vec::new();
    for one in portcullis_plugins::built_ins() {
        let component = compiled(&host, built_in(one.name)).await;
        let recorded = cases(one.name);
        let own: Vec<Case> = recorded.iter().map(|r| r.case.clone()).collect();
        let report = conformance::run(&host, &component, &own).await.unwrap();
        wrong.extend(report.failures().map(|f| format!("{}: {} {}: {:?}", one.name, f.of, f.check, f.outcome)));
        for case in &recorded {
            match case.replay(&host, &component).await.unwrap() {
                // One that expects nothing is only what the suite tries it with.
                (Verdict::Same | Verdict::Unrecorded, _) => {}
                (verdict, told) => wrong.push(format!("{}: {verdict:?}, it says {told:?}", case.path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn unruly(act: &str) -> Report {
    let host = host().unwrap();
    let component = compiled(&host, guest("unruly")).await;
    let case = Case::read(&format!("config: {{act: {act}}}")).unwrap();
    conformance::run(&host, &component, &[case]).await.unwrap()
}

#[tokio::test]
async fn what_misbehaves_is_found_in_each_hook() {
    let calm = unruly("nothing").await;
    assert_eq!(calm.failures().map(|f| format!("{f:?}")).collect::<Vec<_>>(), Vec::<String>::new());
    for act in ["panic", "exit", "grow", "loop"] {
        let report = unruly(act).await;
        for of in [
            "policy/tool-call",
            "policy/tool-result",
            "policy/resource-read",
            "policy/prompt-get",
            "policy/server-request",
            "policy/list-filter",
            "credential/resolver",
            "auth/provider",
        ] {
            assert!(report.failures().any(|f| f.of == of), "{act} in {of}: {report:?}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_lets_a_stranger_in_is_found() {
    let host = host().unwrap();
    let component = compiled(&host, built_in("bearer-token")).await;
    // The suite's own stranger, known here: as if the plugin took anything for a token.
    let case = Case::read("tokens: {x: {subject: \"user:root\"}}\nask: {authenticate: {bearer: x}}").unwrap();
    let report = conformance::run(&host, &component, &[case]).await.unwrap();
    let found: Vec<_> = report.failures().map(|f| f.check).collect();
    assert_eq!(found, ["takes no stranger's token"]);
}

#[tokio::test]
async fn time_stands_still_and_chance_repeats_itself() {
    let host = host().unwrap();
    let component = compiled(&host, guest("ready")).await;
    let case = Case::read("config: {act: nothing}\nask: {toolCall: {tool: x}}").unwrap();
    let told = |seed: u64| {
        let case = Case { seed, ..case.clone() };
        let (host, component) = (&host, &component);
        async move {
            let trial = Trial::load(host, component, &case, Isolation::Call).await.unwrap();
            trial.ask(case.ask.as_ref().unwrap()).await.unwrap()
        }
    };
    // It tells what it drew when it got ready, and what a call draws.
    assert_eq!(told(1).await, told(1).await);
    assert_ne!(told(1).await, told(2).await);
}

#[tokio::test]
async fn a_case_that_says_something_else_differs_by_field() {
    let host = host().unwrap();
    let component = compiled(&host, built_in("tool-access")).await;
    let dir = std::env::temp_dir().join(format!("portcullis-cases-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("one.yaml");
    let head = "# Nobody may.\nask:\n  toolCall: {tool: x}\n";
    std::fs::write(&path, format!("{head}expect:\n  allow: true\n")).unwrap();
    let case = recorded::read_one(&path).unwrap();
    let (verdict, told) = case.replay(&host, &component).await.unwrap();
    assert!(matches!(&verdict, Verdict::Differs { fields } if fields[0].field == "allow"), "{verdict:?}");
    case.accept(&told).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(head) && text.contains("deny:"), "{text}");
    let again = recorded::read_one(&path).unwrap();
    assert_eq!(again.replay(&host, &component).await.unwrap().0, Verdict::Same);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn a_call_costs_something_and_less_when_warm() {
    let host = host().unwrap();
    let component = compiled(&host, built_in("tool-access")).await;
    let case = &cases("tool-access")[0].case;
    let cost = cost::measure(&host, &component, case, 90).await.unwrap();
    assert!(cost.fresh_us > cost.warm_us && cost.warm_us > 0.0, "{cost:?}");
}

#[test]
fn outcomes_tell_faults_from_advice() {
    let text = serde_json::to_string(&Outcome::Fails("x".into())).unwrap();
    assert_eq!(text, r#"{"outcome":"fails","why":"x"}"#);
}
