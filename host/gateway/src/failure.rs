//! What a plugin's failure means to a caller.

use portcullis_model::{Fault, Side};
use portcullis_plugin::{PluginError, PluginFailure};

/// The refusal that a plugin meant, where it spoke in words meant for the caller; none where it failed.
pub fn meaning(failure: &PluginFailure) -> Option<Fault> {
    match failure {
        PluginFailure::Error(PluginError::Denied { message, .. }) => {
            Some(Fault::new(Side::Policy, "denied", message.clone()).next("Ask your operator if you need this"))
        }
        PluginFailure::Error(PluginError::NotFound) => {
            Some(Fault::new(Side::Policy, "denied", "the policy knows nothing that this is about"))
        }
        PluginFailure::Error(PluginError::NeedsConsent { url, message }) => {
            Some(Fault::new(Side::Policy, "consent-needed", message.clone()).next(format!("Open {url}, then retry")))
        }
        _ => None,
    }
}

/// A plugin that failed refuses the call. What it printed or said stays in the log.
pub fn fault(what: &str, name: &str, failure: &PluginFailure) -> Fault {
    let code = match failure {
        PluginFailure::PoolFull => "plugin-busy",
        PluginFailure::Quarantined => "plugin-quarantined",
        PluginFailure::Timeout | PluginFailure::Cpu => "plugin-timeout",
        _ => "plugin-failed",
    };
    let fault = Fault::new(
        Side::Gateway,
        code,
        format!("the {what} \"{name}\" failed ({}), so this is refused", failure.word()),
    )
    .next("Ask your operator: the gateway's log says more under this request id");
    match code {
        "plugin-busy" => fault.retry_after_ms(100),
        "plugin-quarantined" => fault.retry_after_ms(1000),
        _ => fault,
    }
}
