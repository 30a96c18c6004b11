//! Credential resolvers: callers and servers that nobody thought of, nothing to choose from, services that are down.

use portcullis_plugin::Hooks;
use serde_json::{Map, Value};

use super::{Asked, Report, Suite, failed, odd, policy::Of};
use crate::{
    case::{Ask, Case, FollowUp, Target},
    trial::NOW_MS,
};

const OF: &str = "credential/resolver";

pub(super) async fn run(suite: &Suite<'_>, hooks: &Hooks, of: Of<'_>, report: &mut Report) -> Asked<()> {
    let case = of(|ask| matches!(ask, Ask::Resolve(_)));
    let own = match &case.ask {
        Some(Ask::Resolve(target)) => target.clone(),
        _ => Target { server: "files".to_owned(), ..Target::default() },
    };
    let usual = Ask::Resolve(own.clone());
    let with = |change: &dyn Fn(&mut Target)| {
        let mut target = own.clone();
        change(&mut target);
        Ask::Resolve(target)
    };
    let mut odd = vec![
        with(&|target| target.url = Some(String::new())),
        with(&|target| target.url = Some("http://127.0.0.1:1/".to_owned())),
        with(&|target| target.server = "another-server".to_owned()),
        with(&|target| target.connection = Some("gone".to_owned())),
        with(&|target| target.settings = Map::new()),
    ];
    odd.extend(
        odd::objects().into_iter().take(4).map(|settings| with(&|target| target.settings.clone_from(&settings))),
    );
    suite.survives(OF, case, &usual, &odd, report).await?;
    choices(suite, case, &usual, report).await?;
    down(suite, case, &usual, report).await?;
    ends(suite, case, &usual, report).await?;
    for (serves, name, ask) in [
        (hooks.refresher, "credential/refresher", follow(of(|ask| matches!(ask, Ask::Refresh(_))), &own, Ask::Refresh)),
        (
            hooks.on_rejected,
            "credential/on-rejected",
            follow(of(|ask| matches!(ask, Ask::Rejected(_))), &own, Ask::Rejected),
        ),
    ] {
        if serves {
            let (case, usual, bare) = ask;
            suite.survives(name, case, &usual, &[bare], report).await?;
            let down = suite.while_down(case, &usual).await?;
            if !down.is_empty() {
                let stumbled = down.iter().find_map(|(how, told)| Some(format!("{how}: {}", failed(told)?)));
                report.note(name, "answers while other services do not", stumbled);
            }
        }
    }
    Ok(())
}

/// What a hook that follows an answer up is asked, and the same where nothing was kept.
fn follow<'a>(case: &'a Case, target: &Target, ask: fn(FollowUp) -> Ask) -> (&'a Case, Ask, Ask) {
    let own = match &case.ask {
        Some(Ask::Refresh(follow) | Ask::Rejected(follow)) => follow.clone(),
        _ => FollowUp { target: target.clone(), expires_ms: Some(NOW_MS + 60_000), ..FollowUp::default() },
    };
    let bare = FollowUp { target: own.target.clone(), ..FollowUp::default() };
    (case, ask(own), ask(bare))
}

/// Only what is offered may be chosen.
async fn choices(suite: &Suite<'_>, case: &Case, usual: &Ask, report: &mut Report) -> Asked<()> {
    let empty = Case { connections: Vec::new(), ..case.clone() };
    let told = suite.ask_all(&empty, std::slice::from_ref(usual)).await?.unwrap_or_default();
    let chose = told.iter().find_map(|told| told.get("use")).map(|id| format!("it names {id}, and there is none"));
    report.note(OF, "chooses no connection where there is none", chose);
    Ok(())
}

/// A service that is down must not be what lets somebody in.
async fn down(suite: &Suite<'_>, case: &Case, usual: &Ask, report: &mut Report) -> Asked<()> {
    let down = suite.while_down(case, usual).await?;
    if down.is_empty() {
        return Ok(());
    }
    let stumbled = down.iter().find_map(|(how, told)| Some(format!("{how}: {}", failed(told)?)));
    report.note(OF, "answers while other services do not", stumbled);
    let gives = |told: &crate::Told| ["headers", "use", "none"].iter().any(|field| told.contains_key(*field));
    let given = down
        .iter()
        .find(|(_, told)| gives(told))
        .map(|(how, told)| format!("it gives {} while there is {how}", Value::Object(told.clone())));
    report.advise(OF, "gives no credential because a service is down", given);
    Ok(())
}

/// An answer whose end has passed is asked for again at each call.
async fn ends(suite: &Suite<'_>, case: &Case, usual: &Ask, report: &mut Report) -> Asked<()> {
    let now = case.now_ms.unwrap_or(NOW_MS);
    let told = suite.ask_all(case, std::slice::from_ref(usual)).await?.unwrap_or_default();
    let ended = told.iter().filter_map(|told| told.get("expiresMs")?.as_u64()).find(|at| *at <= now);
    let advice =
        ended.map(|at| format!("it ends at {at}, and it is {now}: milliseconds since 1970, not seconds from now"));
    report.advise(OF, "its answers end in the future", advice);
    Ok(())
}
