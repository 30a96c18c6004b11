//! What a plugin gets: what its manifest asks for and an operator grants, both. Who does not say what it wants gets what is granted.

use portcullis_manifest::{Manifest, Want};
use portcullis_model::spec::Grants;

use crate::secrets::OriginPattern;

/// The most characters of a manifest's own words that are shown.
const SHOWN: usize = 200;

/// What was left out on either side, in words for operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Apart {
    /// Granted and not handed out, since the manifest does not ask for it: `reveal`, `secrets key`, `http https://a.example`.
    pub(crate) withheld: Vec<String>,
    /// Asked for and not granted, with what for.
    pub(crate) ungranted: Vec<String>,
}

/// What both sides say, and what only one of them does.
pub(crate) fn both(manifest: Option<&Manifest>, granted: &Grants) -> (Grants, Apart) {
    let Some((manifest, wants)) = manifest.and_then(|m| Some((m, m.wants.as_deref()?))) else {
        return (granted.clone(), Apart::default());
    };
    let mut kept = granted.clone();
    let mut withheld = Vec::new();
    for (grant, given) in flags(&mut kept) {
        if *given && !manifest.asks_for(grant) {
            *given = false;
            withheld.push(grant.to_owned());
        }
    }
    if kept.state.is_some() && !manifest.asks_for("state") {
        kept.state = None;
        withheld.push("state".to_owned());
    }
    let mut too = |grant: &'static str, what: &str| {
        let asked = asks_for(manifest, grant, what);
        if !asked {
            withheld.push(format!("{grant} {what}"));
        }
        asked
    };
    kept.secrets.retain(|name, _| too("secrets", name));
    kept.issuers.retain(|issuer| too("issuers", issuer));
    kept.roles.retain(|role| too("roles", role.as_str()));
    let origins = manifest.asks_for("http").then(|| manifest.named("http"));
    kept.http.clear();
    for origin in &granted.http {
        let within = match &origins {
            None => Vec::new(),
            Some(None) => vec![origin.clone()],
            Some(Some(named)) => within(origin, named),
        };
        if !within.contains(origin) {
            withheld.push(match within.as_slice() {
                [] => format!("http {origin}"),
                some => format!("http {origin} (but for {})", some.join(", ")),
            });
        }
        kept.http.extend(within);
    }
    kept.http_private &= !kept.http.is_empty();
    let ungranted =
        wants.iter().filter(|want| !is_granted(granted, &want.grant, want.what.as_deref())).map(words).collect();
    (kept, Apart { withheld, ungranted })
}

/// Whether a manifest asks for this one of a grant, or does not say what it wants.
pub(crate) fn asks_for(manifest: &Manifest, grant: &str, what: &str) -> bool {
    manifest.asks_for(grant) && manifest.named(grant).is_none_or(|named| named.contains(&what))
}

/// The grants that are given or not.
fn flags(grants: &mut Grants) -> [(&'static str, &mut bool); 6] {
    [
        ("reveal", &mut grants.reveal),
        ("tokens", &mut grants.tokens),
        ("connections", &mut grants.connections),
        ("callerToken", &mut grants.caller_token),
        ("passthrough", &mut grants.passthrough),
        ("sign", &mut grants.sign),
    ]
}

/// What of a granted origin is among those that are named: itself, or those below it.
fn within(granted: &str, named: &[&str]) -> Vec<String> {
    let Some(pattern) = OriginPattern::parse(granted) else { return Vec::new() };
    let named = || named.iter().filter_map(|text| Some((*text, OriginPattern::parse(text)?)));
    if named().any(|(_, one)| one.holds(&pattern)) {
        return vec![granted.to_owned()];
    }
    named().filter(|(_, one)| pattern.holds(one)).map(|(text, _)| text.to_owned()).collect()
}

/// Whether something that a manifest asks for is granted, as a whole or in part.
pub fn is_granted(granted: &Grants, grant: &str, what: Option<&str>) -> bool {
    match grant {
        "http" => granted.http.iter().any(|origin| what.is_none_or(|what| !within(origin, &[what]).is_empty())),
        "secrets" => granted.secrets.keys().any(|name| what.is_none_or(|what| name == what)),
        "issuers" => granted.issuers.iter().any(|issuer| what.is_none_or(|what| issuer == what)),
        "roles" => granted.roles.iter().any(|role| what.is_none_or(|what| role.as_str() == what)),
        "state" => granted.state.is_some(),
        grant => flags(&mut granted.clone()).iter().any(|(name, given)| *name == grant && **given),
    }
}

/// The words of whoever wrote the component, made fit to be shown.
fn words(want: &Want) -> String {
    let what = want.what.as_ref().map(|what| format!(" {what}")).unwrap_or_default();
    let text = format!("{}{what} ({})", want.grant, want.reason);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(wants: serde_json::Value) -> Manifest {
        serde_json::from_value(json!({"manifest": 1, "name": "p", "version": "1", "wit": "0.1.0", "wants": wants}))
            .unwrap()
    }

    fn grants(spec: serde_json::Value) -> Grants {
        serde_json::from_value(spec).unwrap()
    }

    fn everything() -> Grants {
        grants(json!({
            "http": ["https://*.example.com", "https://idp.example.org"], "httpPrivate": true,
            "secrets": {"key": {"from": {"env": "KEY"}}, "other": {"from": {"env": "OTHER"}}},
            "reveal": true, "tokens": true, "issuers": ["https://idp.example.org"], "roles": ["ops", "dev"],
            "connections": true, "callerToken": true, "passthrough": true, "state": "64KiB", "sign": true
        }))
    }

    #[test]
    fn who_asks_for_nothing_gets_nothing() {
        let (kept, apart) = both(Some(&manifest(json!([]))), &everything());
        assert_eq!(kept, Grants::default());
        let all = [
            "reveal",
            "tokens",
            "connections",
            "callerToken",
            "passthrough",
            "sign",
            "state",
            "secrets key",
            "secrets other",
            "issuers https://idp.example.org",
            "roles ops",
            "roles dev",
            "http https://*.example.com",
            "http https://idp.example.org",
        ];
        assert_eq!((apart.withheld, apart.ungranted), (all.map(str::to_owned).to_vec(), vec![]));
    }

    #[test]
    fn who_does_not_say_gets_what_is_granted() {
        let mut silent = manifest(json!([]));
        silent.wants = None;
        for manifest in [None, Some(&silent)] {
            assert_eq!(both(manifest, &everything()), (everything(), Apart::default()));
        }
    }

    #[test]
    fn each_grant_is_asked_for_by_its_own_name() {
        for grant in portcullis_manifest::GRANTS {
            let (kept, apart) = both(Some(&manifest(json!([{"grant": grant, "reason": "r"}]))), &everything());
            let text = serde_json::to_value(&kept).unwrap();
            let mut got: Vec<&String> = text.as_object().unwrap().keys().collect();
            got.retain(|name| *name != "httpPrivate");
            assert_eq!((got, apart.ungranted), (vec![&grant.to_owned()], vec![]), "nothing but {grant}");
        }
    }

    #[test]
    fn what_is_named_is_all_there_is() {
        let asks = manifest(json!([
            {"grant": "secrets", "what": "key", "reason": "r"}, {"grant": "roles", "what": "dev", "reason": "r"},
            {"grant": "issuers", "what": "https://other.example", "reason": "who\nelse"},
            {"grant": "http", "what": "https://a.example.com", "reason": "r"},
            {"grant": "http", "what": "https://*.example.org", "reason": "r"},
            {"grant": "later", "reason": "nobody knows yet"},
        ]));
        let (kept, apart) = both(Some(&asks), &everything());
        assert_eq!(kept.secrets.keys().collect::<Vec<_>>(), ["key"]);
        assert_eq!(kept.roles.iter().map(|role| role.as_str()).collect::<Vec<_>>(), ["dev"]);
        assert!(kept.issuers.is_empty());
        assert_eq!(kept.http, ["https://a.example.com", "https://idp.example.org"], "the narrower of the two");
        assert!(kept.http_private);
        assert!(apart.withheld.contains(&"http https://*.example.com (but for https://a.example.com)".to_owned()));
        assert_eq!(apart.ungranted, ["issuers https://other.example (who else)", "later (nobody knows yet)"]);
    }
}
