//! Auth providers: nobody is somebody without a reason.

use serde_json::Value;

use super::{Asked, Report, Suite, failed};
use crate::case::{Ask, Case, Certificate, Request};

const OF: &str = "auth/provider";

pub(super) async fn run(suite: &Suite<'_>, case: &Case, report: &mut Report) -> Asked<()> {
    let own = match &case.ask {
        Some(Ask::Authenticate(request)) => request.clone(),
        _ => Request::default(),
    };
    let usual = Ask::Authenticate(own.clone());
    let bearer = |text: String| Ask::Authenticate(Request { bearer: Some(text), ..Request::default() });
    let strangers: Vec<Ask> = [
        "x".to_owned(),
        "a.b.c".to_owned(),
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.".to_owned(),
        "pcl_0000000000000000000000000000000000000000".to_owned(),
        "\u{202e}é \"quoted\"".to_owned(),
        "t".repeat(16 << 10),
    ]
    .into_iter()
    .map(bearer)
    .collect();
    let mut odd = strangers.clone();
    odd.push(Ask::Authenticate(Request::default()));
    odd.push(Ask::Authenticate(Request { certificate: Some(Certificate::default()), ..Request::default() }));
    suite.survives(OF, case, &usual, &odd, report).await?;

    let nothing = Ask::Authenticate(Request::default());
    report.note(OF, "takes nobody without a credential for somebody", accepted(suite, case, &[nothing]).await?);
    report.note(OF, "takes no stranger's token", accepted(suite, case, &strangers).await?);

    let mut fails = None;
    for how in ["signature", "expired", "unknown-key", "malformed", "the keys are unavailable"] {
        let mut broken = case.clone();
        broken.jwts.values_mut().for_each(|token| token.broken = Some(how.to_owned()));
        let refused = if how.contains(' ') { "unavailable" } else { "revoked" };
        broken.tokens.values_mut().for_each(|token| token.refused = Some(refused.to_owned()));
        if broken != *case && own.certificate.is_none() {
            let why = accepted(suite, &broken, std::slice::from_ref(&usual)).await?;
            fails = fails.or(why.map(|who| format!("{how}: {who}")));
        }
    }
    report.note(OF, "takes no token that is broken or taken back", fails);

    let down = suite.while_down(case, &usual).await?;
    if !down.is_empty() {
        let stumbled = down.iter().find_map(|(how, told)| Some(format!("{how}: {}", failed(told)?)));
        report.note(OF, "answers while other services do not", stumbled);
        let let_in = down.iter().find(|(_, told)| told.contains_key("accepted"));
        let advice = let_in.map(|(how, told)| format!("{} while there is {how}", Value::Object(told.clone())));
        report.advise(OF, "accepts nobody because a service is down", advice);
    }
    Ok(())
}

/// Whom it accepts of those that nobody should.
async fn accepted(suite: &Suite<'_>, case: &Case, asks: &[Ask]) -> Asked<Option<String>> {
    let told = suite.ask_all(case, asks).await?.unwrap_or_default();
    Ok(told.iter().find_map(|told| told.get("accepted")).map(|who| format!("it accepts {who}")))
}
